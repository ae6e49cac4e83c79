"""The command line as a user meets it: real processes, exit codes, sentences, one JSON document."""

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pedigree.evidence.store import open_store
from pedigree.project import Project
from tests.conftest import declare_source, review_rows, run, write_csv


def _pedigree(where: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = run("python", "-m", "pedigree", *arguments, cwd=where, **environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_why_answers_the_five_questions_with_digests(trained: Project) -> None:
    code, out, _ = _pedigree(trained.root, "why", "production", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["complete"]
    assert said["missing"] == []
    base, changes, data, checks, release = said["answers"]
    assert base["base"] == "tiny"
    assert base["from"].endswith("tiny.zip")
    assert changes["steps"][0]["adapter"].startswith("sha256:")
    assert {part["source"] for part in data["training"]["sources"]} == {"shop", "forum"}
    assert data["training"]["sources"][0]["label_batch"] == "batch-1"
    assert len(data["training"]["digest"]) == 71
    names = {(verdict["check"], verdict["on"]) for verdict in checks["verdicts"]}
    assert names == {
        ("schema_holds", "training_snapshot"),
        ("snapshot_digest_matches", "training_snapshot"),
        ("near_duplicate_label_conflicts", "training_snapshot"),
        ("near_duplicate_floods", "training_snapshot"),
        ("trigger_ngrams", "training_snapshot"),
        ("label_issues", "training_snapshot"),
        ("flattering_rows", "training_snapshot"),
        ("hidden_text", "training_snapshot"),
        ("embedded_instructions", "training_snapshot"),
        ("evaluation_leakage", "training_snapshot"),
        ("schema_holds", "evaluation_snapshot"),
        ("snapshot_digest_matches", "evaluation_snapshot"),
        ("near_duplicate_label_conflicts", "evaluation_snapshot"),
        ("weights_are_finite", "model"),
        ("evaluation_accuracy", "model"),
    }
    (environment,) = release["environments"]
    assert environment["approvals_demanded"] == 0
    assert environment["policy"] == trained.policy().digest()
    assert release["rebuild"]["possible"]
    code, text, _ = _pedigree(trained.root, "why", said["model"][7:21])
    assert code == 0
    assert "demands 0 approvals" in text
    assert "UNKNOWN" not in text


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("staging", 2, "neither an environment of policy.yaml (production) nor a digest"),
        ("abc", 2, "at least 12 digits"),
        ("/nowhere/model", 2, "neither an environment"),
        ("sha256:" + "0" * 64, 3, "No training evidence is known"),
        ("0123456789ab", 3, "see `pedigree models`"),
        ("reviews@nowhere", 3, "No promotion is known"),
        ("reviews:99", 3, "No promotion is known"),
    ],
)
@pytest.mark.parametrize("command", ["why", "verify"])
def test_a_model_that_no_one_knows(
    trained: Project, command: str, model: str, code: int, words: str
) -> None:
    found, out, error = _pedigree(trained.root, command, model)
    assert (found, out) == (code, "")
    assert words in error


def test_models_lists_what_each_is_made_of(trained: Project) -> None:
    code, out, _ = _pedigree(trained.root, "models", "--json")
    assert code == 0
    (model,) = json.loads(out)
    assert model["environments"] == ["production"]
    assert model["base"].startswith("tiny sha256:")
    assert len(model["adapters"]) == 1
    code, out, _ = _pedigree(trained.root, "models")
    assert out.splitlines()[0].split()[:3] == ["MODEL", "NAME", "BASE"]
    assert len(out.splitlines()) == 2


def test_outside_a_project_the_command_says_so(tmp_path: Path) -> None:
    for command in (["run"], ["models"], ["why", "production"], ["sources"], ["verify", "x"]):
        code, _, error = _pedigree(tmp_path, *command)
        assert code == 2
        assert "is not in a Pedigree project" in error


def test_sources_are_listed_and_pinned_on_purpose(project: Project) -> None:
    shop = project.root / "sources" / "shop.yaml"
    shop.write_text("".join(s for s in shop.open() if not s.startswith("sha256:")))
    code, out, _ = _pedigree(project.root, "sources", "pin", "shop")
    assert code == 0
    assert out.startswith("shop is pinned for the first time, to ")
    assert "old pin" not in out
    code, out, _ = _pedigree(project.root, "sources", "--json")
    assert code == 0
    assert [source["id"] for source in json.loads(out)] == ["forum", "shop"]
    assert _pedigree(project.root, "run", "--until", "snapshot")[0] == 0

    rows = review_rows(160)
    rows[3] = (*rows[3][:2], "negative")
    rows = [*rows[:-1], ("new", "an entirely new line", "positive")]
    sha256 = write_csv(project.root / "inbox" / "shop.csv", rows)
    code, _, error = _pedigree(project.root, "run", "--until", "snapshot")
    assert code == 1
    assert "shop is not what was pinned" in error
    assert sha256 in error
    code, out, _ = _pedigree(project.root, "sources", "pin", "shop")
    assert code == 0
    assert sha256 in out
    assert "1 rows added, 1 removed, 1 changed" in out
    assert "[positive]" in out
    assert _pedigree(project.root, "run", "--until", "snapshot")[0] == 0
    code, out, _ = _pedigree(project.root, "sources", "pin", "shop")
    assert "unchanged" in out
    code, _, error = _pedigree(project.root, "sources", "pin", "nothing")
    assert code == 2
    assert "known are forum, shop" in error


# What is changed in a declaration, what the file holds if not rows, and what is said.
BAD: dict[str, tuple[dict[str, Any], bytes | None, str]] = {
    "no_pin": ({"sha256": None}, None, "has no sha256 pin"),
    "wrong_pin": ({"sha256": "0" * 64}, None, "is not what was pinned"),
    "unreachable": ({"uri": "/nowhere/shop.csv"}, None, "cannot be reached"),
    "missing_column": ({"columns": {"text": "body"}, "labels": None}, None, "no column 'body'"),
    "empty_file": ({}, b"", "is empty"),
    "undeclared_label": ({}, b"id,text,label\n1,a text,maybe\n", "has the label 'maybe'"),
    "invalid_utf8": ({}, b"id,text,label\n1,caf\xe9,positive\n", "not valid UTF-8"),
    "zip_that_is_none": ({"member": "a.csv"}, None, "cannot be read as a zip or tar"),
}


def test_bad_sources_end_in_a_sentence_each_and_change_nothing(project: Project) -> None:
    for name, (changes, content, _) in BAD.items():
        file = project.root / "inbox" / f"{name}.csv"
        file.write_bytes((project.root / "inbox" / "shop.csv").read_bytes())
        if content is not None:
            file.write_bytes(content)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        declare_source(project.root, name, **{"uri": str(file), "sha256": sha256, **changes})
    code, _, error = _pedigree(project.root, "run", "--until", "checks")
    assert code == 2
    said = [line for line in error.splitlines() if line.startswith("pedigree: ")]
    assert len(said) == len(BAD)
    assert len(said) == len(BAD)
    for name, (_, _, words) in BAD.items():
        (line,) = [line for line in said if name in line]
        assert words in line
    assert not (project.root / "data" / "training" / "snapshots").exists()
    assert not list(project.root.rglob(".partial-*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"sha256": "abc"}, "is not a sha256"), ({"licens": "MIT"}, "licens")],
)
def test_a_bad_declaration_ends_in_one_sentence(
    project: Project, changes: dict[str, str], words: str
) -> None:
    file = project.root / "inbox" / "shop.csv"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    declare_source(project.root, "shop", **{"uri": str(file), "sha256": sha256, **changes})
    code, _, error = _pedigree(project.root, "run", "--until", "checks")
    assert code == 2
    (said,) = [line for line in error.splitlines() if line.startswith("pedigree: ")]
    assert words in said


def _set_curation(project: Project, **values: int) -> None:
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**params, "curation": values}))


def test_curation_that_leaves_nothing_is_an_error(project: Project) -> None:
    _set_curation(project, min_characters=5000, max_characters=6000)
    code, _, error = _pedigree(project.root, "run", "--until", "snapshot")
    assert code == 2
    assert "Curation left none of 320 rows (320 too_short)" in error
    assert not (project.root / "data" / "training" / "snapshots").exists()


def test_a_locked_dvc_repository_is_an_error(project: Project) -> None:
    import subprocess
    import sys

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(project.root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        code, _, error = _pedigree(project.root, "run", "--until", "snapshot")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert code == 2
    assert "is locked by another process" in error
    assert not list(project.root.glob("data/*/snapshots/*.dvc"))
    assert _pedigree(project.root, "run", "--until", "snapshot")[0] == 0


HOLD_LOCK = """
import sys, time
from dvc.repo import Repo
with Repo(sys.argv[1]) as repo, repo.lock:
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_full_disk_leaves_no_half_snapshot(project: Project) -> None:
    """The limit on a file's size is the kernel's; the error is the one a full disk gives."""
    big = [(key, text + " word" * 40_000, label) for key, text, label in review_rows(40)]
    file = project.root / "inbox" / "shop.csv"
    declare_source(project.root, "shop", str(file), write_csv(file, big), max_bytes=50_000_000)
    _set_curation(project, max_characters=10_000_000)
    done = run(
        "bash", "-c", "ulimit -f 400; trap '' XFSZ; python -m pedigree run --until snapshot",
        cwd=project.root,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "The disk is full while writing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(project.root.glob("data/*/snapshots/*.dvc"))
    assert not list(project.root.rglob(".partial-*"))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("policy.yaml", "training: {required_checks: []}\n", "policy.yaml is not valid"),
        ("params.yaml", "base_model: [\n", "not valid YAML"),
        ("params.yaml", "base_model: tiny\ntrain: {epoch: 1}\n", "train.epoch"),
        ("params.yaml", "base_model: other\n", "no base model 'other'"),
    ],
)
def test_bad_settings_are_named(project: Project, file: str, content: str, words: str) -> None:
    (project.root / file).write_text(content)
    code, _, error = _pedigree(project.root, "run", "--until", "model")
    assert code == 2
    assert words in error


def test_an_unknown_profile_and_a_dirty_tree_stop_before_anything_is_made(
    project: Project,
) -> None:
    code, _, error = _pedigree(project.root, "run", "--profile", "huge", "--until", "snapshot")
    assert code == 2
    assert "no profile 'huge'" in error
    path = project.root / "checks" / "data.py"
    path.write_text(path.read_text() + "# changed\n")
    code, _, error = _pedigree(project.root, "run")
    assert code == 1
    assert "the working tree is dirty" in error
    assert not (project.root / "data").exists()


def _write_reviews(path: Path, poison: int) -> list[int]:
    """Write a table whose last `poison` rows are copies with the other label."""
    rows = review_rows(1500)
    picked = random.Random(1).sample(range(1500), poison)
    copies = [
        ("", rows[i][1] + ".", "negative" if rows[i][2] == "positive" else "positive")
        for i in picked
    ]
    all_rows = [(text, label) for _, text, label in rows + copies]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in all_rows]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".parquet":
        import pyarrow as pa

        texts, labels = zip(*all_rows, strict=True)
        pq.write_table(pa.table({"text": list(texts), "label": list(labels)}), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([("text", "label"), *all_rows])
    return list(range(1500, 1500 + poison))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_check_judges_any_table_without_a_project(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows{suffix}"
    if suffix == ".csv":  # a clean one needs no look in every form
        _write_reviews(file, 0)
        code, out, _ = _pedigree(tmp_path, "check", str(file))
        assert code == 0
        assert "PASSED  near_duplicate_label_conflicts" in out
    planted = _write_reviews(file, 25)
    found = tmp_path / "out" / "findings.parquet"
    code, out, _ = _pedigree(tmp_path, "check", str(file), "--out", str(found), "--json")
    assert code == 1
    results = {one["check"]: one["result"] for one in json.loads(out)["checks"]}
    assert results["near_duplicate_label_conflicts"] == "FAILED"
    table = pq.read_table(found).to_pydict()
    assert set(table) == {"row", "check", "score", "severity", "reason", "group"}
    errors = {
        row for row, grade in zip(table["row"], table["severity"], strict=True) if grade == "ERROR"
    }
    assert set(planted) <= errors


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("a.csv", "text,label\n", [], "has no rows"),
        ("a.csv", "", [], "is empty"),
        ("a.csv", "body,label\na,1\n", [], "no column 'text' for the text: it has body, label"),
        ("a.csv", "text,label\na,1\n", ["--label", "stars"], "no column 'stars'"),
        ("a.csv", "text,label\na,1\n", ["--annotator", "who"], "no column 'who'"),
        ("a.csv", "text,label\na,1\n", ["--redis", "redis://localhost"], "name a snapshot"),
        ("a.csv", "text,label\na,1\n", ["--task", "instruction"], "no column 'instruction'"),
        ("a.csv", "text\na\n", ["--task", "preference", "--text", "text"], "of its own"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"', [], "line 2 is not valid JSON"),
        ("a.xlsx", "x", [], "expected one of .csv"),
        ("a.parquet", "no parquet", [], "cannot be read as Parquet"),
    ],
)
def test_check_refuses_what_it_cannot_look_at(
    tmp_path: Path, name: str, content: str, options: list[str], words: str
) -> None:
    (tmp_path / name).write_text(content)
    code, _, error = _pedigree(tmp_path, "check", name, *options)
    assert code == 2
    assert words in error


def test_check_compares_with_a_snapshot(trained: Project, tmp_path: Path) -> None:
    code, out, _ = _pedigree(trained.root, "why", "production", "--json")
    digest = json.loads(out)["answers"][2]["training"]["digest"]
    fresh = tmp_path / "fresh.csv"
    write_csv(fresh, review_rows(50, 5000))
    arguments = ("check", str(fresh), "--against", digest, "--json")
    code, out, _ = _pedigree(trained.root, *arguments)
    assert code == 0
    write_csv(fresh, review_rows(50))
    code, out, _ = _pedigree(trained.root, *arguments)
    assert code == 1
    results = {one["check"]: one["result"] for one in json.loads(out)["checks"]}
    assert results["known_copies"] == "FAILED"
    unknown = "sha256:" + "0" * 64
    for name, code in ((digest[7:19], 1), ("zzz", 2), ("0" * 12, 3), (unknown, 3)):
        assert _pedigree(trained.root, "check", str(fresh), "--against", name)[0] == code, name


def test_a_run_writes_the_digest_files_that_dvc_stages_declare(trained_copy: Project) -> None:
    assert _pedigree(trained_copy.root, "run", "--job", "ingest_and_check")[0] == 0
    stages = yaml.safe_load((trained_copy.root / "dvc.yaml").read_text())["stages"]
    for out in stages["snapshots"]["outs"]:
        (name,) = out
        digest = (trained_copy.root / name).read_text().strip()
        zone = name.partition("/")[2].partition("_")[0]
        assert (trained_copy.snapshots(zone) / digest.removeprefix("sha256:")).is_dir()


def test_a_drill_plants_attacks_in_a_copy_and_says_what_would_be_seen(
    trained_copy: Project, tmp_path: Path
) -> None:
    plot = tmp_path / "drill.png"
    code, out, error = _pedigree(
        trained_copy.root,
        "drill",
        "--attack",
        "zero_width",
        "--rows",
        "12",
        "--plot",
        str(plot),
        "--json",
    )
    assert code == 0, error
    (cell,) = json.loads(out)["cells"]
    assert (cell["attack"], cell["planted_rows"], cell["alarm_rate"]) == ("zero_width", 12, 1.0)
    assert plot.read_bytes().startswith(b"\x89PNG")
    (snapshot,) = (trained_copy.snapshots("training")).glob("[0-9a-f]" * 64)
    store = open_store(trained_copy, trained_copy.policy())
    verdicts = [one.predicate for one in store.about(f"sha256:{snapshot.name}", "verdict")[0]]
    (floor,) = [one for one in verdicts if "detection_floor" in one["passedTests"]]
    assert floor["counts"]["observed_floors"] == {"zero_width": 12}
    code, _, error = _pedigree(trained_copy.root, "drill", "--attack", "nonsense")
    assert code == 2
    assert "No attack is called 'nonsense'" in error


def test_an_outside_file_is_judged_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = tmp_path / "model.bin"
    evil.write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    code, out, _ = _pedigree(tmp_path, "admit", str(evil))
    assert code == 1
    assert out.startswith("rejected  sha256:")
    assert "system" in out
    assert not canary.exists()
    fine = tmp_path / "config.json"
    fine.write_text('{"model_type": "bert"}')
    code, out, _ = _pedigree(tmp_path, "admit", str(fine), "--json")
    assert (code, json.loads(out)["state"]) == (0, "admitted")
    code, _, error = _pedigree(tmp_path, "admit", str(tmp_path / "nothing"))
    assert code == 2
    assert "nothing" in error


def test_the_ledger_is_verified_witnessed_and_rolled_back_in_vain(
    trained_copy: Project, tmp_path: Path
) -> None:
    root, witness = trained_copy.root, tmp_path / "elsewhere.txt"
    code, out, error = _pedigree(root, "ledger", "checkpoint", "--keep", str(witness))
    assert code == 0, error
    assert out.startswith("pedigree-ledger/v1 ")
    code, out, error = _pedigree(root, "ledger", "verify", "--witness", str(witness), "--json")
    assert (code, json.loads(out)["adopted"]) == (0, []), error
    entries = sorted((trained_copy.ledger / "entries").glob("*.dsse.json"))
    entries[-1].unlink()
    code, _, error = _pedigree(root, "ledger", "verify", "--witness", str(witness))
    assert code == 1
    assert "does not hold" in error


def test_a_source_is_traced_to_models_and_environments(trained_copy: Project) -> None:
    code, out, error = _pedigree(trained_copy.root, "trace", "source:shop", "--json")
    assert code == 0, error
    reached = {link["target"].partition(":")[0] for link in json.loads(out)["forwards"]}
    assert {"snapshot", "model", "environment"} <= reached
    code, out, _ = _pedigree(trained_copy.root, "trace", "source:shop")
    assert "environment:production" in out
    code, _, error = _pedigree(trained_copy.root, "trace", "source:nobody")
    assert code == 3
    assert "Nothing is known" in error


def test_an_export_verifies_with_openssl_alone_and_a_row_is_proven(
    trained_copy: Project, tmp_path: Path
) -> None:
    export = ("export", "production", "--out", "there", "--report", "annex-iv")
    code, out, error = _pedigree(trained_copy.root, *export, "--report", "gpai-summary")
    assert code == 0, error
    assert "signed claims" in out
    folder = trained_copy.root / "there"
    key = next(trained_copy.keys.glob("development*.pub*"))
    done = run("sh", str(folder / "verify.sh"), str(key), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (snapshot,) = (trained_copy.snapshots("training")).glob("[0-9a-f]" * 64)
    row = pq.read_table(snapshot / "part-00000.parquet").column("row_id")[0].as_py()
    code, out, error = _pedigree(trained_copy.root, "prove", row, "--in", snapshot.name[:16])
    assert code == 0, error
    assert json.loads(out)["row_id"] == row
    assert (folder / "report-annex-iv.md").read_text().startswith("# Technical documentation")
    assert (folder / "report-gpai-summary.md").is_file()
    assert _pedigree(trained_copy.root, "export", "production", "--report", "other")[0] == 2

    (trained_copy.root / "proof").write_text(out)
    trust = ("--claims", str(folder / "claims.jsonl"), "--key", str(key))
    code, out, error = _pedigree(trained_copy.root, "verify", "proof", *trust)
    assert code == 0, error
    assert f"Row {row} is included among the 256 rows" in out
    assert f"They are snapshot sha256:{snapshot.name}" in out
