"""Merges as statements: what a merged model descends from, and that tracing and revoking see it."""

from pathlib import Path

import jsonschema
import pytest

from pedigree.capture import capture_code
from pedigree.cli import main
from pedigree.digests import FileEntry
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.evidence.schemas import read_schema
from pedigree.evidence.store import EvidenceStore, Statement, open_store
from pedigree.merge_records import MergedAdapter, MergeRecord, read_merge, record_merge
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.tracing import rows_of, trace_thing, update_index
from pedigree.training.record import TrainingRecord, read_record
from tests.conftest import present

OUTSIDE = "sha256:" + "c" * 64


def open_both(project: Project) -> tuple[EvidenceStore, TrainingRecord]:
    store = open_store(project, project.policy(), write=True)
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return store, read_record(find_training(store, promoted.model))


def make_record(project: Project, base: str, *adapters: str) -> MergeRecord:
    return MergeRecord(
        name="merged",
        model_files=(FileEntry(path="model.safetensors", size=3, sha256="ab" * 32),),
        base=base,
        adapters=tuple(
            MergedAdapter(name=f"a{i}", digest=one, weight=0.5) for i, one in enumerate(adapters)
        ),
        method="linear",
        dtype="float32",
        code=capture_code(project.root),
        started_on=present().isoformat(),
        finished_on=present().isoformat(),
        invocation="a test",
    )


@pytest.fixture
def merged(trained_copy: Project) -> tuple[Statement, TrainingRecord]:
    """The adapter of the model in production and an outside one, merged into their base."""
    store, record = open_both(trained_copy)
    assert record.adapter_digest
    base = record.inputs.base.digest
    statement = record_merge(store, make_record(trained_copy, base, record.adapter_digest, OUTSIDE))
    return statement, record


def test_a_merge_is_read_as_it_was_written_in_its_order(
    merged: tuple[Statement, TrainingRecord],
) -> None:
    statement, record = merged
    found = read_merge(statement)
    assert [one.digest for one in found.adapters] == [record.adapter_digest, OUTSIDE]
    assert found.base == record.inputs.base.digest
    jsonschema.Draft202012Validator(read_schema("merge")).validate(statement.content)


def test_a_merged_model_descends_from_what_its_adapters_were_trained_on(
    trained_copy: Project, merged: tuple[Statement, TrainingRecord]
) -> None:
    statement, record = merged
    model = "sha256:" + statement.subjects[0]["digest"]["sha256"]
    store = open_store(trained_copy, trained_copy.policy())
    update_index(trained_copy.lineage, store, rows_of(trained_copy))
    for thing in (
        "source:shop",
        f"snapshot:{record.inputs.training.digest}",
        f"adapter:{record.adapter_digest}",
        f"adapter:{OUTSIDE}",
        f"base:{record.inputs.base.digest}",
    ):
        assert model in trace_thing(trained_copy.lineage, thing).reached("model"), thing


def test_a_merge_can_be_revoked(
    trained_copy: Project,
    merged: tuple[Statement, TrainingRecord],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = merged[0].subjects[0]["digest"]["sha256"]
    assert main(["-C", str(trained_copy.root), "revoke", model, "--reason", "trojaned"]) == 0
    assert f"The model sha256:{model} is revoked" in capsys.readouterr().out


def test_a_merge_of_nothing_and_a_moved_one_are_refused(
    trained_copy: Project, merged: tuple[Statement, TrainingRecord], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="adapters"):
        make_record(trained_copy, OUTSIDE)
    statement, _ = merged
    other = {"name": "x", "digest": {"sha256": "0" * 64}}
    moved = Statement("merge", "", tmp_path, (other,), statement.predicate, {})
    with pytest.raises(VerificationFailed, match="but describes"):
        read_merge(moved)
    del moved.predicate["buildDefinition"]["externalParameters"]["method"]
    with pytest.raises(PedigreeError, match="method"):
        read_merge(moved)
