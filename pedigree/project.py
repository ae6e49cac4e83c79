"""Where a project keeps its things.

A project is a folder with `params.yaml`, `policy.yaml`, `sources/` and `base_models/`, under git
and DVC. Training, evaluation and production data have separate storage roots::

    >>> Project(Path("/p")).snapshots("evaluation")
    PosixPath('/p/data/evaluation/snapshots')
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from pedigree.errors import PedigreeError
from pedigree.evidence.policy import Policy, load_policy
from pedigree.params import Params, load_params

Zone: TypeAlias = Literal["training", "evaluation", "production"]


@dataclass(frozen=True)
class Project:
    """The folder of a project and the places below it; `downloads` is shared between projects.

    `variables` is the process's environment, where references to private keys are looked up.
    """

    root: Path
    downloads: Path | None = None
    profile: str | None = None
    variables: Mapping[str, str] = field(
        default_factory=dict[str, str], repr=False, compare=False, hash=False
    )

    def params(self) -> Params:
        """Read `params.yaml` with the project's profile."""
        return load_params(self.root / "params.yaml", self.profile)

    def policy(self) -> Policy:
        """Read `policy.yaml`."""
        return load_policy(self.root / "policy.yaml")

    def zone(self, zone: Zone) -> Path:
        """Return the storage root of a zone."""
        return self.root / "data" / zone

    def snapshots(self, zone: Zone) -> Path:
        """Return where a zone's snapshots lie, each in a folder named by its digest."""
        return self.zone(zone) / "snapshots"

    def tables(self, zone: Zone) -> Path:
        """Return where a zone's intermediate tables lie, each in a folder named by its digest."""
        return self.zone(zone) / "tables"

    @property
    def curated(self) -> Path:
        """Where curated documents lie, which are not divided into zones yet."""
        return self.root / "data" / "curated"

    def fetched(self, zone: Zone) -> Path:
        """Return where the fetched files of a zone's sources lie, named by their sha256."""
        return self.zone(zone) / "fetched"

    @property
    def download_cache(self) -> Path:
        """Where files that a digest pins for good are cached; every use verifies them again."""
        return self.downloads or self.root / ".pedigree" / "downloads"

    @property
    def admitted(self) -> Path:
        """Where admitted artifacts lie, each in a folder named by its digest."""
        return self.root / ".pedigree" / "artifacts"

    @property
    def quarantined(self) -> Path:
        """Where quarantined artifacts lie, apart from what may be loaded."""
        return self.root / ".pedigree" / "quarantine"

    @property
    def outside(self) -> Path:
        """Where fetched packages of models and what is just coming in lie."""
        return self.root / ".pedigree" / "outside"

    @property
    def modelaudit(self) -> Path:
        """Where the virtual environment of modelaudit lies, if the policy asks it."""
        return self.root / ".pedigree" / "modelaudit"

    @property
    def evidence(self) -> Path:
        """Where signed statements lie."""
        return self.root / ".pedigree" / "evidence"

    @property
    def ledger(self) -> Path:
        """Where the chain of all statements lies."""
        return self.root / ".pedigree" / "ledger"

    @property
    def lineage(self) -> Path:
        """Where the lineage index lies, which can be built again from the statements."""
        return self.root / ".pedigree" / "lineage.sqlite"

    @property
    def keys(self) -> Path:
        """Where private keys that were made here lie, the development key among them."""
        return self.root / ".pedigree" / "keys"

    @property
    def trust(self) -> Path:
        """The file that says whose keys count for what; it belongs into git."""
        return self.root / "trust" / "keys.json"

    @property
    def findings(self) -> Path:
        """Where the full tables of findings lie, named by their digest."""
        return self.root / ".pedigree" / "findings"

    @property
    def work(self) -> Path:
        """Where training keeps what it is working on."""
        return self.root / ".pedigree" / "work"

    @property
    def indexes(self) -> Path:
        """Where the sketches of snapshots are kept, for comparing new batches with them."""
        return self.root / ".pedigree" / "indexes"

    @property
    def lock(self) -> Path:
        """What every job holds while it runs."""
        return self.root / ".pedigree" / "lock"

    @property
    def rebuilds(self) -> Path:
        """Where worktrees of rebuilds lie while they run."""
        return self.root / ".pedigree" / "rebuilds"

    @property
    def environments(self) -> Path:
        """Where environments for rebuilds are kept."""
        return self.root / ".pedigree" / "environments"

    @property
    def tracking_uri(self) -> str:
        """MLflow's embedded tracking store."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """MLflow's embedded artifact store."""
        return self.root / "mlartifacts"


def find_project(
    start: Path,
    downloads: Path | None = None,
    profile: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Project:
    """Return the project that `start` lies in: the nearest folder with a `params.yaml`.

    Raises:
        PedigreeError: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "params.yaml").is_file() and (folder / "policy.yaml").is_file():
            return Project(folder, downloads, profile, variables or {})
    raise PedigreeError(
        f"{start} is not in a Pedigree project: no folder above it has params.yaml and "
        "policy.yaml. Change into the project's folder."
    )
