"""The parameters of a run, defined once for the library, the CLI, the Launchpad and `params.yaml`.

`params.yaml` holds the values, and under `profiles` named sets of changes to them::

    >>> load_params(Path("params.yaml"), profile="demo").train.epochs
    1
"""

from pathlib import Path
from typing import Literal, cast

from pydantic import Field, model_validator

from pedigree.errors import PedigreeError
from pedigree.settings import Settings, parse_settings, read_yaml


class CurationParams(Settings):
    """Which documents are kept."""

    min_characters: int = Field(default=2, ge=1, description="shorter canonical texts are dropped")
    max_characters: int = Field(default=100_000, ge=1, description="longer ones are dropped")
    exclude_sources: list[str] = Field(
        default=[], description="sources whose rows go in nowhere, as if they were not there"
    )
    exclude_annotators: list[str] = Field(default=[], description="annotators whose rows go out")
    exclude_rows: str | None = Field(
        default=None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="digest of a list of row keys to leave out, which `pedigree retrain` makes",
    )


class SplitParams(Settings):
    """How documents are divided into training and evaluation rows."""

    evaluation_fraction: float = Field(default=0.2, gt=0, lt=1)
    max_rows: int | None = Field(
        default=None, ge=2, description="keep about this many rows, near-duplicates together"
    )
    similarity: float = Field(
        default=0.7, gt=0, le=1, description="texts at least this alike stay on one side"
    )
    seed: int = Field(default=0, ge=0)


class NeighbourParams(Settings):
    """Where near-duplicates are looked for; the pairs found are the same everywhere."""

    engine: Literal["local", "daft", "ray"] = Field(
        default="local",
        description="local: in memory; daft: in files, on this machine; ray: on a Ray cluster",
    )
    ray_address: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="where the cluster takes jobs, such as http://head:8265; for ray",
    )
    storage: str | None = Field(
        default=None,
        description="folder or URI that every machine of the cluster reads and writes; for ray",
    )
    partitions: int | None = Field(
        default=None, ge=1, description="parts of the texts on a cluster; about twice its cores"
    )

    @model_validator(mode="after")
    def _name_the_cluster(self) -> "NeighbourParams":
        if self.engine == "ray" and (self.ray_address is None or self.storage is None):
            raise ValueError("engine ray needs ray_address and storage: name both")
        return self

    def require_cluster(self) -> tuple[str, str]:
        """Return the address and the storage of the cluster.

        Raises:
            PedigreeError: no cluster is named.
        """
        if self.ray_address is None or self.storage is None:
            raise PedigreeError(
                "No cluster is named: set neighbours.ray_address and neighbours.storage in "
                "params.yaml."
            )
        return self.ray_address, self.storage


class TrainingParams(Settings):
    """Everything that decides the weights besides data, base model, code and machine."""

    method: Literal["lora", "scratch"] = Field(
        default="lora", description="adapt the base model, or train a small encoder from scratch"
    )
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulation_steps: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_fraction: float = Field(default=0.06, ge=0, lt=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=96, ge=4, le=512, description="longer texts are truncated")
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    lora_targets: list[str] = Field(default=["query", "value"], description="modules")
    hidden_size: int = Field(default=128, ge=8, description="of the encoder from scratch")
    layers: int = Field(default=2, ge=1, description="of the encoder from scratch")
    mode: Literal["strict", "fast"] = Field(
        default="strict", description="strict: same machine class, same bits; fast: no promise"
    )
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    threads: int = Field(default=2, ge=1)
    cpu_capability: Literal["default", "avx2", "avx512"] = Field(
        default="avx2", description="instruction set that strict mode pins"
    )


class Params(Settings):
    """All parameters of one run of the main job."""

    base_model: str = Field(description="id of a file in base_models/")
    model_name: str = Field(default="pedigree-model", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    curation: CurationParams = CurationParams()
    split: SplitParams = SplitParams()
    neighbours: NeighbourParams = NeighbourParams()
    train: TrainingParams = TrainingParams()


def load_params(path: Path, profile: str | None = None) -> Params:
    """Read `params.yaml` and apply one of its profiles (its own `profile` where none is given).

    Raises:
        PedigreeError: the file is not valid, or there is no such profile.
    """
    values = read_yaml(path)
    profiles = values.pop("profiles", None)
    default = values.pop("profile", None)
    chosen = profile or default
    if chosen is not None:
        values = _merge(values, _find_profile(profiles, str(chosen), path))
    return parse_settings(Params, values, str(path))


def _find_profile(profiles: object, name: str, path: Path) -> dict[str, object]:
    found = cast(dict[object, object], profiles) if isinstance(profiles, dict) else {}
    by_name = {str(key): changes for key, changes in found.items()}
    if name not in by_name:
        known = ", ".join(sorted(by_name)) or "none"
        raise PedigreeError(f"{path} has no profile {name!r}: it has {known}.")
    changes = by_name[name]
    if changes is not None and not isinstance(changes, dict):
        raise PedigreeError(
            f"{path} has {changes!r} as its profile {name!r}: expected a mapping of the settings "
            "that it changes, such as {train: {epochs: 1}}. Correct it and run again."
        )
    return cast(dict[str, object], changes or {})


def _merge(values: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    merged = dict(values)
    for key, change in changes.items():
        current = merged.get(key)
        if isinstance(change, dict) and isinstance(current, dict):
            merged[key] = _merge(cast(dict[str, object], current), cast(dict[str, object], change))
        else:
            merged[key] = change
    return merged
