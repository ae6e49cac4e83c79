"""Two attacks on models: past MLflow's alias, and past Dagster's blocking check."""

import json
import random
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from demos.shown import Shown
from demos.small_project import (
    copy_project,
    declare_source,
    make_tiny_base,
    review_rows,
    run,
    write_csv,
    write_template,
)
from pedigree.errors import VerificationFailed
from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.training.record import read_record
from pedigree.verification import load_verified_model

TEXTS = ["a fine film and a wonderful cast", "a dull film and an awful cast"]
_CHECK_FAILED = "did not pass"
_TELLING = (_CHECK_FAILED, "trained a model", "RUN_FAILURE", "RUN_SUCCESS")
# In a process of its own: what it prints, warnings included, is MLflow's own output.
_LOAD_WITH_MLFLOW = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/reviews@production")
print(json.dumps(list(model.predict(json.loads(sys.argv[2])))))
"""


def make_project(folder: Path) -> Project:
    """Make a small project with a history of its own in `folder`."""
    base = folder / "base"
    base.mkdir()
    write_template(folder / "template", make_tiny_base(base))
    return copy_project(folder / "template", folder / "project", downloads=None)


def show_replaced_weights(folder: Path, plant: bool) -> Shown:
    """Replace the weights that an MLflow alias leads to by ones that say the opposite."""
    project = make_project(folder)
    _must_run(project)
    honest, usual_warnings = _predict_with_mlflow(project)
    if load_verified_model(project, "production").predict(TEXTS) != honest:
        raise RuntimeError("Before the attack, MLflow and Pedigree were to load one model.")
    if plant:
        _swap_answers(_weights(project))
    answers, warnings = _predict_with_mlflow(project)
    try:
        ours = repr(load_verified_model(project, "production").predict(TEXTS))
        refused = False
    except VerificationFailed as error:
        ours, refused = f"VerificationFailed: {error}", "model.safetensors changed" in str(error)
    return Shown(
        "Weights replaced under an MLflow alias",
        "In the artifact store, the two answers of the promoted model's last layer are swapped. "
        f"Before, it said {honest[0]!r} of {TEXTS[0]!r} and {honest[1]!r} of {TEXTS[1]!r}.",
        f"MLflow {version('mlflow')}",
        '>>> model = mlflow.pyfunc.load_model("models:/reviews@production")\n'
        f">>> model.predict(texts)\n{answers}\n{warnings}",
        # Silent: other answers, and not a word that it does not always say.
        answers == (honest[::-1] if plant else honest) and warnings == usual_warnings,
        f'>>> load_verified_model(project, "production")\n{ours}'.replace(f"{folder}/", ""),
        refused,
    )


def _must_run(project: Project) -> None:
    done = _pedigree(project, "run")
    if done[0] != 0:
        raise RuntimeError(f"The small project was to reach production: {done[1]}")


def _pedigree(project: Project, *arguments: str) -> tuple[int, str]:
    done = run(sys.executable, "-m", "pedigree", *arguments, cwd=project.root)
    return done.returncode, done.stdout + done.stderr


def _weights(project: Project) -> Path:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    if promoted is None:
        raise RuntimeError("The small project has no model in production.")
    record = read_record(find_training(store, promoted.model))
    return project.root / record.location / "model.safetensors"


def _swap_answers(path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, path, metadata)


def _predict_with_mlflow(project: Project) -> tuple[list[str], str]:
    """Return the answers of the model under the alias, and what MLflow wrote, without times."""
    arguments = (project.tracking_uri, json.dumps(TEXTS))
    done = run(sys.executable, "-c", _LOAD_WITH_MLFLOW, *arguments, cwd=project.root)
    log = re.sub(r"(?m)^\d{4}/\d\d/\d\d [\d:]{8} ", "", done.stderr)
    if done.returncode != 0:
        return [], log
    return json.loads(done.stdout.splitlines()[-1]), log


def show_second_run(folder: Path, plant: bool) -> Shown:
    """After a blocking check has failed, run only the model."""
    rows = review_rows(900)
    if plant:
        rows += _contradict(rows)
    stock = _run_stock_dagster(folder / "stock", rows)
    project = make_project(folder)
    file = project.root / "inbox" / "shop.csv"
    declare_source(project.root, "shop", str(file), write_csv(file, rows))
    first, said = _pedigree(project, "run", "--until", "checks")
    second, refusal = _pedigree(project, "run", "--job", "fine_tune")
    trained = list(open_store(project, project.policy()).all("training"))
    return Shown(
        "Training in a second run after a failed blocking check",
        "Copies of reviews get '!' and the other label. In both, a blocking check fails, and a "
        "second run selects nothing but the model.",
        f"Dagster {version('dagster')}",
        stock.says,
        stock.second_trained and (stock.first_was_stopped or not plant),
        f"$ pedigree run --until checks\n{_pick(said, 'near_duplicate_label_conflicts')}"
        f"(exit code {first})\n"
        f"$ pedigree run --job fine_tune\n{_pick(refusal, 'Training is refused')}"
        f"(exit code {second})",
        first == 1 and second == 1 and not trained and "Training is refused" in refusal,
    )


def _contradict(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    other = {"positive": "negative", "negative": "positive"}
    return [
        (f"copy-{key}", f"{text} !", other[label])
        for key, text, label in random.Random(3).sample(rows, 11)
    ]


@dataclass(frozen=True)
class _StockRuns:
    """Two runs of the stock project: of everything, and then of the model alone."""

    says: str
    first_was_stopped: bool
    second_trained: bool


def _run_stock_dagster(folder: Path, rows: list[tuple[str, str, str]]) -> _StockRuns:
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    write_csv(folder / "reviews.csv", rows)
    model = folder / "model.json"
    first = _materialize(folder, "*")
    stopped = _CHECK_FAILED in first and not model.exists()
    second = _materialize(folder, "reviews_model")
    return _StockRuns(first + second, stopped, model.exists() and "RUN_SUCCESS" in second)


def _materialize(folder: Path, selection: str) -> str:
    """Run a stock Dagster run; return its command and those lines of its log that matter."""
    done = run(
        "dagster", "asset", "materialize", "--select", selection,
        "-f", str(Path(__file__).with_name("stock_dagster.py")),
        cwd=folder, DAGSTER_HOME=str(folder / "home"), STOCK_PROJECT=str(folder),
    )  # fmt: skip
    log = _pick(done.stdout + done.stderr, *_TELLING)
    return (
        f"$ dagster asset materialize --select '{selection}' -f stock_dagster.py\n"
        + re.sub(r"(?m)^.* - dagster - (\w+) - \w+ - [0-9a-f-]{36} - (\d+ - )?", r"\1 - ", log)
        + f"(exit code {done.returncode})\n"
    )


def _pick(log: str, *words: str) -> str:
    """Return the lines of a log with one of the words, each ended by a newline."""
    return "".join(f"{line}\n" for line in log.splitlines() if any(word in line for word in words))
