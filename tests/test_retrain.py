"""A source turned bad: traced, taken out, and shown to be gone, with real Dagster and training."""

import json
from pathlib import Path

import pytest
import yaml

from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.proofs import read_proof, verify_proof
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.training.record import TrainingRecord, read_record
from tests.conftest import copy_project, declare_source, must, review_rows, run, write_csv

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("retrain")]


def _pedigree(where: Path, *arguments: str) -> tuple[int, str, str]:
    done = run("python", "-m", "pedigree", *arguments, cwd=where)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def three_sources(
    template: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path
) -> Project:
    """A project with a model in production of three sources, of which two hold the same text."""
    project = copy_project(template, tmp_path_factory.mktemp("three") / "project", downloads)
    root = project.root
    shared = review_rows(160)[7]
    rows = [*review_rows(160, 2000), ("copy", shared[1], shared[2])]
    declare_source(
        root, "wiki", str(root / "inbox/wiki.csv"), write_csv(root / "inbox/wiki.csv", rows)
    )
    # A tiny model on fewer rows may be worse than the one before: that gate is tried elsewhere.
    policy = yaml.safe_load((root / "policy.yaml").read_text())
    policy["checks"]["evaluation_accuracy"].update(
        floor=0.0, source_floor=0.0, max_drop=1.0, max_source_drop=1.0
    )
    (root / "policy.yaml").write_text(yaml.safe_dump(policy))
    must("git", "add", "sources", "inbox", "policy.yaml", cwd=root)
    must("git", "commit", "-qm", "A third source", cwd=root)
    code, _, error = _pedigree(root, "run")
    assert code == 0, error
    return project


def _record(project: Project, digest: str) -> TrainingRecord:
    return read_record(find_training(open_store(project, project.policy()), digest))


def _rows(project: Project, record: TrainingRecord) -> list[dict[str, str]]:
    return [
        row
        for zone, snapshot in (("training", record.inputs.training),
                               ("evaluation", record.evaluation_snapshot))
        for row in open_snapshot(snapshot.digest, project.snapshots(zone)).read().to_pylist()
    ]  # fmt: skip


def test_a_source_is_traced_taken_out_and_proven_absent(three_sources: Project) -> None:
    root = three_sources.root
    store = open_store(three_sources, three_sources.policy())
    promoted = find_promoted(store, "production")
    assert promoted
    old = promoted.model
    code, out, _ = _pedigree(root, "trace", "source:shop", "--json")
    assert code == 0
    reached = {link["target"] for link in json.loads(out)["forwards"]}
    before = _record(three_sources, old)
    assert {f"model:{old}", f"adapter:{before.adapter_digest}", "environment:production"} <= reached

    # The file has turned into something else since; the recorded documents are what is used.
    forum = root / "inbox" / "forum.csv"
    forum.write_text(forum.read_text().replace("film", "FILM"))
    (root / "params.yaml").write_text(
        (root / "params.yaml").read_text().replace("epochs: 8", "epochs: 1")
    )
    must("git", "commit", "-qam", "The forum's file has changed", cwd=root)
    code, out, error = _pedigree(
        root, "retrain", "production", "--exclude-source", "shop", "--revoke", "--json"
    )
    assert code == 0, error
    said = json.loads(out)
    new = said["after"]
    after = _record(three_sources, new)
    assert after.inputs.params == before.inputs.params
    assert after.inputs.params.epochs == 8
    assert said["trigger_scan"] == "not run"
    assert {(one["kind"], one["name"]) for one in said["not_clean"]} == {
        ("model", old), ("adapter", before.adapter_digest), ("environment", "production"),
    }  # fmt: skip
    assert all(one["because"] == "source shop" for one in said["not_clean"])
    assert "is revoked by" in said["revocation"]

    # Not a row of it is left, and the copy that it had kept out is in.
    old_rows, new_rows = _rows(three_sources, before), _rows(three_sources, after)
    assert {row["source"] for row in new_rows} == {"forum", "wiki"}
    assert "shop" in {row["source"] for row in old_rows}
    shared = review_rows(160)[7][1]
    assert [row["source"] for row in new_rows if row["text"] == shared] == ["wiki"]

    code, out, _ = _pedigree(root, "diff", old, new, "--json")
    assert code == 0
    found = json.loads(out)
    gone = {
        zone: next(one for one in rows if one["source"] == "shop")
        for zone, rows in found["rows"].items()
    }
    assert sum(one["removed"] for one in gone.values()) == sum(
        r["source"] == "shop" for r in old_rows
    )
    assert all(one["after"] == 0 for one in gone.values())
    changed = {one["what"]: one["after"] for one in found["changes"]["parameters"]}
    assert changed == {"curation.exclude_sources": ["shop"]}

    row = next(row for row in old_rows if row["source"] == "shop")
    code, out, _ = _pedigree(root, "prove", row["row_id"], "--in", after.inputs.training.digest)
    assert code == 0
    proof = read_proof(out.encode())
    (statement,) = store.about(after.inputs.training.digest, "snapshot")[0]
    assert proof.claim == "absent"
    assert verify_proof(proof, statement.predicate["merkleRoot"], statement.predicate["rows"])
    assert list(statement.predicate["excluded"]["sources"]) == ["shop"]
    code, out, _ = _pedigree(root, "why", new)
    assert code == 0
    assert "made without source shop" in out

    code, _, error = _pedigree(root, "promote", new, "--env", "production")
    assert code == 0, error
    code, out, _ = _pedigree(root, "diff", new, "production")
    assert (code, out) == (0, f"Both are the same model: {new}.\n")


def test_checks_can_refuse_what_is_left(three_sources: Project) -> None:
    root = three_sources.root
    code, out, _ = _pedigree(root, "models", "--json")
    models = [one["model"] for one in json.loads(out)]
    code, out, error = _pedigree(
        root, "retrain", models[0], "--exclude-source", "shop", "--exclude-source", "forum",
        "--revoke", "--json",
    )  # fmt: skip
    assert code == 1
    assert "trigger_ngrams" in error  # too few rows to judge
    said = json.loads(out)
    assert said["after"] is None
    assert said["revocation"].startswith("not done: ")
    assert said["made"]["training_snapshot"].startswith("sha256:")
    assert models[0] in {one["name"] for one in said["not_clean"]}
    code, out, _ = _pedigree(root, "models", "--json")
    assert [one["model"] for one in json.loads(out)] == models
