"""A small but real project: this code, two CSV sources and a tiny base model, under git and DVC.

The demonstrations attack it and the tests share it. It trains in seconds and fetches nothing::

    >>> write_template(Path("/tmp/template"), make_tiny_base(Path("/tmp/tiny")))
    >>> copy_project(Path("/tmp/template"), Path("/tmp/project"), downloads=None)
"""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

from pedigree.project import Project

REPOSITORY = Path(__file__).resolve().parent.parent
_BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

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


_PARAMS = {
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
    """Run a command that has to succeed; return what it printed.

    Raises:
        RuntimeError: it ended with another exit code than 0.
    """
    done = run(*command, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(
            f"`{' '.join(command)}` was to succeed in {cwd} and ended with {done.returncode}: "
            f"{done.stdout}\n{done.stderr}"
        )
    return done.stdout


def make_tiny_base(folder: Path) -> Path:
    """Make a zip with a one-layer BERT and its tokenizer, fixed by a seed; return its path."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

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
    transformers.utils.logging.disable_progress_bar()
    transformers.BertModel(config).save_pretrained(folder)
    archive = folder / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for name in _BASE_FILES:
            out.write(folder / name, name)
    return archive


def write_template(root: Path, base: Path) -> None:
    """Write a project as a user would have it to `root`, which must not be there.

    Its settings say `{root}` where its own path belongs: `copy_project` puts it in.

    Args:
        root: the folder to make.
        base: the zip of `make_tiny_base`.
    """
    root.mkdir()
    for name in ("pedigree", "assets", "checks", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, root / name, ignore=ignore)
    for name in (
        "constraints.txt",
        "policy.yaml",
        "pyproject.toml",
        "workspace.yaml",
        "dvc.yaml",
        ".gitignore",
        ".dvcignore",
    ):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "params.yaml").write_text(yaml.safe_dump(_PARAMS))
    (root / "inbox").mkdir()
    for name, offset in (("shop", 0), ("forum", 1000)):
        sha256 = write_csv(root / "inbox" / f"{name}.csv", review_rows(160, offset))
        declare_source(root, name, "{root}/" + f"inbox/{name}.csv", sha256)
    _declare_base(root, base)
    start_history(root)
    (root / ".dagster").mkdir()
    shutil.copy(REPOSITORY / ".dagster" / "dagster.yaml", root / ".dagster")


def _declare_base(root: Path, base: Path) -> None:
    shutil.copy(base, root / "inbox" / "tiny.zip")
    (root / "base_models").mkdir()
    settings = {
        "id": "tiny",
        "uri": "{root}/inbox/tiny.zip",
        "sha256": hashlib.sha256(base.read_bytes()).hexdigest(),
        "files": {name: name for name in _BASE_FILES},
        "licence": "CC0-1.0",
        "publisher": "tests",
    }
    (root / "base_models" / "tiny.yaml").write_text(yaml.safe_dump(settings))


def start_history(root: Path) -> None:
    """Put a folder under git and DVC, with an author and without signatures."""
    must("git", "init", "-q", cwd=root)
    must("git", "config", "user.email", "tests@localhost", cwd=root)
    must("git", "config", "user.name", "tests", cwd=root)
    must("git", "config", "commit.gpgsign", "false", cwd=root)
    must("dvc", "init", "-q", cwd=root)
    must("dvc", "config", "core.analytics", "false", cwd=root)


def copy_project(template: Path, root: Path, downloads: Path | None) -> Project:
    """Copy the template to `root`, put its path into the settings, and commit everything."""
    shutil.copytree(template, root, symlinks=True)
    for path in [*(root / "sources").glob("*.yaml"), *(root / "base_models").glob("*.yaml")]:
        path.write_text(path.read_text().replace("{root}", str(root)))
    must("git", "add", "-A", cwd=root)
    must("git", "commit", "-q", "-m", "A project", cwd=root)
    return Project(root, downloads)
