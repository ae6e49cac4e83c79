"""Shared by all tests: a small but real project, under real git and DVC, with a tiny base model."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pedigree.project import Project
from pipelines.definitions import build_definitions

REPOSITORY = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

os.environ.update(
    DAGSTER_DISABLE_TELEMETRY="yes",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
)


def present() -> datetime:
    """Return the real time, for what must not be older than evidence that was made just now."""
    return datetime.now(UTC)


GOOD = ["a fine film", "wonderful cast", "i loved it", "great story", "lovely music", "superb"]
BAD = ["a dull film", "awful cast", "i hated it", "weak story", "ugly music", "terrible"]
PLACES = [
    "in paris", "at home", "on the train", "by the sea", "in winter", "with friends", "last night",
    "in berlin", "at noon", "on a plane", "by the lake", "in summer", "with my aunt", "this week",
]  # fmt: skip
THINGS = [
    "umbrella", "giraffe", "volcano", "kettle", "ladder", "piano", "rocket", "sandal", "tulip",
    "wagon", "yacht", "zebra", "anchor", "basket", "candle", "dragon", "engine", "falcon",
]  # fmt: skip


def review_rows(count: int, offset: int = 0) -> list[tuple[str, str, str]]:
    """Return `count` different (key, text, label) rows that a tiny model can learn."""
    rows = []
    for i in range(offset, offset + count):
        words = GOOD if i % 2 else BAD
        noise = hashlib.sha256(str(i).encode()).hexdigest()
        text = (
            f"{words[i // 2 % 6]} {PLACES[i // 12 % 14]} and the {THINGS[i // 168 % 18]} "
            f"{noise[:6]} {words[(i // 3) % 6]}"
        )
        rows.append((f"r{i:05d}", text, "positive" if i % 2 else "negative"))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str, str]]) -> str:
    """Write rows as CSV with a header; return the file's sha256."""
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([("id", "text", "label"), *rows])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def declare_source(
    project: Path, source_id: str, uri: str, sha256: str | None, **changes: object
) -> Path:
    """Write `sources/ID.yaml` for a CSV of (id, text, label); `changes` replace its settings."""
    settings: dict[str, object] = {
        "id": source_id,
        "uri": uri,
        "sha256": sha256,
        "format": {"type": "csv"},
        "columns": {"key": "id", "text": "text", "label": "label"},
        "labels": {"values": {"positive": "positive", "negative": "negative"}},
        "licence": "CC0-1.0",
        "owner": "tests",
        "collector": "tests",
        "kind": "curated",
        "zone": "training",
        "label_batch": "batch-1",
        "guideline_version": "1",
        **changes,
    }
    path = project / "sources" / f"{source_id}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return path


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the caller looks at the exit code."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=cwd, env={**env, **environment}, capture_output=True, text=True, check=False
    )


def must(*command: str, cwd: Path) -> str:
    """Run a command that has to succeed."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def downloads() -> Path:
    """Where pinned package files are cached between test runs."""
    default = REPOSITORY / ".pedigree" / "downloads"
    return Path(os.environ.get("PEDIGREE_DOWNLOADS", default))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip with a one-layer BERT and its tokenizer, both made here, fixed by a seed."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("tiny")
    letters = [chr(c) for c in range(97, 123)] + list("0123456789")
    words = sorted({w for text in [*GOOD, *BAD, *PLACES, *THINGS] for w in text.split()} | {"and"})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *[f"##{c}" for c in letters]]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*tokens, *words]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    archive = folder / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            out.write(folder / name, name)
    return archive


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project as a user would have it: this code, two CSV sources, a tiny base; all committed."""
    root = tmp_path_factory.mktemp("template") / "project"
    root.mkdir()
    for name in ("pedigree", "assets", "checks", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, root / name, ignore=ignore)
    for name in (
        "constraints.txt",
        "pyproject.toml",
        "workspace.yaml",
        "dvc.yaml",
        ".gitignore",
        ".dvcignore",
    ):
        shutil.copy(REPOSITORY / name, root / name)
    policy = yaml.safe_load((REPOSITORY / "policy.yaml").read_text())
    (root / "policy.yaml").write_text(yaml.safe_dump(policy))
    params = {
        "base_model": "tiny",
        "model_name": "reviews",
        "profile": "full",
        "profiles": {"full": {}},
        "curation": {"min_characters": 2, "max_characters": 100_000},
        "split": {"evaluation_fraction": 0.25, "seed": 0},
        "train": {
            "seed": 0,
            "epochs": 8,
            "learning_rate": 0.01,
            "max_tokens": 32,
            "lora_rank": 4,
            "threads": 1,
            "cpu_capability": "default",
        },
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "inbox").mkdir()
    for name, offset in (("shop", 0), ("forum", 1000)):
        file = root / "inbox" / f"{name}.csv"
        sha256 = write_csv(file, review_rows(160, offset))
        declare_source(root, name, "{root}/" + f"inbox/{name}.csv", sha256)
    shutil.copy(tiny_base, root / "inbox" / "tiny.zip")
    (root / "base_models").mkdir()
    base = {
        "id": "tiny",
        "uri": "{root}/inbox/tiny.zip",
        "sha256": hashlib.sha256(tiny_base.read_bytes()).hexdigest(),
        "files": {
            name: name
            for name in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
            )
        },
        "licence": "CC0-1.0",
        "publisher": "tests",
    }
    (root / "base_models" / "tiny.yaml").write_text(yaml.safe_dump(base))
    must("git", "init", "-q", cwd=root)
    must("git", "config", "user.email", "tests@localhost", cwd=root)
    must("git", "config", "user.name", "tests", cwd=root)
    must("dvc", "init", "-q", cwd=root)
    must("dvc", "config", "core.analytics", "false", cwd=root)
    (root / ".dagster").mkdir()
    shutil.copy(REPOSITORY / ".dagster" / "dagster.yaml", root / ".dagster")
    return root


def copy_project(template: Path, root: Path, downloads: Path) -> Project:
    """Copy the template to `root`, put its path into the settings, and commit everything."""
    shutil.copytree(template, root, symlinks=True)
    for path in [*(root / "sources").glob("*.yaml"), *(root / "base_models").glob("*.yaml")]:
        path.write_text(path.read_text().replace("{root}", str(root)))
    must("git", "add", "-A", cwd=root)
    must("git", "commit", "-q", "-m", "A project", cwd=root)
    return Project(root, downloads)


def run_job(
    project: Project, name: str, instance: dg.DagsterInstance, **options: Any
) -> dg.ExecuteInProcessResult:
    """Run a job of the project in this process; the caller looks at the result."""
    job = build_definitions(project).resolve_job_def(name)
    quiet = {"loggers": {"readable": {}}, **options.pop("run_config", {})}
    return job.execute_in_process(
        instance=instance, raise_on_error=False, run_config=quiet, **options
    )


def errors_of(result: dg.ExecuteInProcessResult) -> str:
    """Return what the failed steps of a run said, causes included."""
    messages = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                messages.append(error.message)
                error = error.cause
    return "\n".join(messages)


def open_instance(folder: Path) -> dg.DagsterInstance:
    """Open a real Dagster instance on SQLite in `folder`, with telemetry off."""
    folder.mkdir(exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder), {"telemetry": {"enabled": False}})


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real Dagster instance on SQLite."""
    with open_instance(tmp_path / "dagster") as one:
        yield one


@pytest.fixture(scope="session")
def trained(template: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Project:
    """A project whose model is in production. Shared: look at it, copy it, do not change it."""
    root = tmp_path_factory.mktemp("trained") / "project"
    project = copy_project(template, root, downloads)
    with open_instance(root / ".dagster") as instance:
        for job in ("retrain", "release"):
            result = run_job(project, job, instance)
            assert result.success, errors_of(result)
    return project


@pytest.fixture
def trained_copy(trained: Project, tmp_path: Path) -> Project:
    """A copy of the trained project to tamper with."""
    root = tmp_path / "copy"
    shutil.copytree(trained.root, root, symlinks=True)
    return Project(root, trained.downloads)


@pytest.fixture
def make_project(template: Path, tmp_path: Path, downloads: Path) -> Callable[[], Project]:
    """Return a function that copies the template into a fresh, committed project."""

    def make() -> Project:
        return copy_project(template, tmp_path / "project", downloads)

    return make


@pytest.fixture
def project(make_project: Callable[[], Project]) -> Project:
    """A fresh project."""
    return make_project()
