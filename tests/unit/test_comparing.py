"""Two models side by side: each fact that differs is found, and what is not here is UNKNOWN."""

import shutil

import pytest

from pedigree.comparing import compare
from pedigree.digests import hex_of
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.rendering_changes import render_comparison
from pedigree.training.record import TrainingRecord, read_record


def _open(project: Project) -> tuple[EvidenceStore, TrainingRecord]:
    store = open_store(project, project.policy(), write=True)
    promoted = find_promoted(store, "production")
    assert promoted
    return store, read_record(find_training(store, promoted.model))


def _attest_another(store: EvidenceStore, record: TrainingRecord) -> TrainingRecord:
    """Sign a record of a model with another seed, commit, package, thread count and file."""
    inputs = record.inputs
    distributions = {**inputs.environment.distributions, "torch": "0.0.1"}
    files = (record.model_files[0].model_copy(update={"sha256": "0" * 64}), *record.model_files[1:])
    changed = record.model_copy(
        update={
            "model_files": files,
            "adapter_digest": "sha256:" + "1" * 64,
            "hardware": {**record.hardware, "threads": 99},
            "inputs": inputs.model_copy(
                update={
                    "params": inputs.params.model_copy(update={"seed": 5}),
                    "code": inputs.code.model_copy(update={"commit": "f" * 40, "dirty": True}),
                    "environment": inputs.environment.model_copy(
                        update={"distributions": distributions}
                    ),
                }
            ),
        }
    )
    verdicts = [one for one in store.about(inputs.training.digest, "verdict")[0]]
    store.write("training", changed.subjects(), changed.to_predicate(verdicts[:2]))
    return changed


def test_a_model_is_the_same_as_itself(trained: Project) -> None:
    store = open_store(trained, trained.policy())
    found = compare(trained, store, "production", "reviews@production")
    assert found.identical
    assert render_comparison(found) == f"Both are the same model: {found.before}."


def test_each_fact_that_differs_is_found_and_no_other(trained_copy: Project) -> None:
    store, record = _open(trained_copy)
    other = _attest_another(store, record)
    found = compare(trained_copy, store, "production", other.model_digest[7:23])
    assert (found.before, found.after) == (record.model_digest, other.model_digest)
    changed = {
        section: {one.what: (one.before, one.after) for one in changes}
        for section, changes in found.changes.items()
    }
    assert changed["parameters"] == {"train.seed": (0, 5)}
    assert changed["code"] == {
        "commit": (record.inputs.code.commit, "f" * 40), "dirty": (False, True),
    }  # fmt: skip
    torch = record.inputs.environment.distributions["torch"]
    assert changed["environment"] == {
        "threads": (1, 99), "package torch": (torch, "0.0.1"),
    }  # fmt: skip
    assert changed["base"] == {}
    assert changed["adapters"] == {"adapter": (record.adapter_digest, other.adapter_digest)}
    for rows in found.rows.values():
        assert rows
        for one in rows:
            assert one.before == one.after > 0
            assert (one.added, one.removed, one.relabelled, one.edited) == (0, 0, 0, 0)
    checks = {one.what: (one.before, one.after) for one in found.checks}
    gone = {name for name, (_, after) in checks.items() if after is None}
    assert gone == {
        f"{name} on model"
        for name in ("environment_matches_lock", "evaluation_accuracy", "weights_are_finite")
    }
    assert all(before == after for name, (before, after) in checks.items() if name not in gone)
    policy = trained_copy.policy().digest()
    assert all(before["policy"] == policy for before, _ in checks.values() if before)
    # Nobody evaluated the other one, and that is said, not passed over.
    assert found.missing == (f"the evaluation of model {other.model_digest}",)
    text = render_comparison(found)
    assert "train.seed: 0 -> 5" in text
    assert f"UNKNOWN  the evaluation of model {other.model_digest}" in text


def test_rows_of_a_snapshot_that_is_not_here_are_unknown(trained_copy: Project) -> None:
    store, record = _open(trained_copy)
    other = _attest_another(store, record)
    digest = record.inputs.training.digest
    shutil.rmtree(trained_copy.snapshots("training") / hex_of(digest))
    found = compare(trained_copy, store, record.model_digest, other.model_digest)
    assert found.rows["training"] is None
    assert found.rows["evaluation"]
    assert any(digest in one for one in found.missing)
    assert "UNKNOWN: a snapshot is not here" in render_comparison(found)


def test_a_deleted_statement_about_the_data_is_unknown(trained_copy: Project) -> None:
    store, record = _open(trained_copy)
    other = _attest_another(store, record)
    for path in trained_copy.evidence.glob("*/curation-*.dsse.json"):
        path.unlink()
    found = compare(trained_copy, store, record.model_digest, other.model_digest)
    assert any("was curated and split" in one for one in found.missing)


def test_two_snapshots_are_compared_by_row(trained: Project) -> None:
    store = open_store(trained, trained.policy())
    record = read_record(next(iter(store.all("training"))))
    training, evaluation = record.inputs.training, record.evaluation_snapshot
    found = compare(trained, store, training.digest, evaluation.digest[7:30])
    rows = found.rows["rows"]
    assert rows
    assert sum(one.removed for one in rows) == training.rows
    assert sum(one.added for one in rows) == evaluation.rows
    assert [one.what for one in found.changes["parameters"]] == ["zone"]
    assert {one.what for one in found.checks} >= {"schema_holds", "hidden_text"}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("0123456789ab", EvidenceMissing, "and no snapshot"),
        ("staging", PedigreeError, "neither an environment of policy.yaml"),
    ],
)
def test_what_is_not_known_is_refused(
    trained: Project, name: str, error: type[PedigreeError], words: str
) -> None:
    store = open_store(trained, trained.policy())
    with pytest.raises(error, match=words):
        compare(trained, store, "production", name)


def test_a_model_and_a_snapshot_do_not_compare(trained: Project) -> None:
    store = open_store(trained, trained.policy())
    record = read_record(next(iter(store.all("training"))))
    with pytest.raises(PedigreeError, match="name two models or two snapshots"):
        compare(trained, store, "production", record.inputs.training.digest)
