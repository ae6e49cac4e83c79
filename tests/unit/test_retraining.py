"""Planning a retraining: what is to go must be known, and all else must be what was recorded."""

import csv
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pedigree.comparing import Change, Comparison
from pedigree.descendants import find_unclean
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.evidence.store import open_store
from pedigree.exclusions import Exclusions
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.rendering_changes import render_retraining
from pedigree.retraining import Plan, Retraining, Wish, plan_retraining
from pedigree.row_files import read_row_file, resolve_rows
from pedigree.snapshots import list_snapshots, open_snapshot
from pedigree.training.record import read_record
from tests.conftest import NOW


def _model(project: Project) -> str:
    promoted = find_promoted(open_store(project, project.policy()), "production")
    assert promoted
    return promoted.model


def _plan(project: Project, **wish: object) -> Plan:
    return plan_retraining(project, _model(project), Wish(**wish), NOW)  # type: ignore[arg-type]


def _some_rows(project: Project) -> list[dict[str, str]]:
    digest = next(list_snapshots(project.snapshots("training")))
    return open_snapshot(digest, project.snapshots("training")).read().slice(5, 3).to_pylist()


def test_a_plan_has_the_recorded_parameters_whatever_the_settings_say_now(
    trained_copy: Project,
) -> None:
    path = trained_copy.root / "params.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["train"]["epochs"] = 1
    settings["split"]["seed"] = 9
    path.write_text(yaml.safe_dump(settings))
    plan = _plan(trained_copy, sources=("shop",))
    assert plan.record.inputs.params.epochs == 8
    assert plan.recipe.split.seed == 0
    assert plan.curation.exclude_sources == ["shop"]
    assert set(plan.documents) == {"shop", "forum"}


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, "Nothing is to be excluded"),
        ({"sources": ("shoop",)}, "No source is called 'shoop': known are forum, shop"),
        ({"sources": ("shop", "forum")}, "nothing would be left to train on"),
        ({"annotators": ("ann",)}, "No annotator is called 'ann': known are none"),
        ({"row_file": Path("/nowhere/rows.txt")}, "is missing: name a file"),
    ],
)
def test_what_cannot_be_excluded_is_said_before_anything_runs(
    trained: Project, wish: dict[str, object], words: str
) -> None:
    with pytest.raises(PedigreeError, match=words):
        _plan(trained, **wish)


@pytest.mark.parametrize("name", ["row_key", "row_id"])
@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_rows_are_named_in_any_form(
    trained_copy: Project, tmp_path: Path, name: str, kind: str
) -> None:
    rows = _some_rows(trained_copy)
    path = tmp_path / f"rows.{kind}"
    values = [row[name] for row in rows]
    if kind == "txt":
        path.write_text("# bad ones\n\n" + "\n".join(value.upper() for value in values))
    elif kind == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([["why", name], *[["bad", value] for value in values]])
    else:
        pq.write_table(pa.table({name: values, "row": [1, 2, 3]}), path)
    plan = _plan(trained_copy, row_file=path)
    assert plan.without.keys.to_pylist() == sorted(row["row_key"] for row in rows)
    assert plan.without.names() == ["3 rows"]
    kept = open_snapshot(str(plan.curation.exclude_rows), trained_copy.curated).read()
    assert sorted(kept["row_key"].to_pylist()) == sorted(row["row_key"] for row in rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no row"),
        ("row 17", "expected row keys or row ids of 64 hex digits"),
        ("0" * 64, "1 of the 1 rows in .* are in no document or snapshot"),
    ],
)
def test_a_row_that_is_nowhere_is_refused(
    trained: Project, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "rows.txt"
    path.write_text(text)
    with pytest.raises(PedigreeError, match=words):
        _plan(trained, row_file=path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.txt"])
def test_a_file_of_something_else_is_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xff\x00\x01 not a table")
    with pytest.raises(PedigreeError, match=r"cannot be read|expected one of|expected row keys"):
        read_row_file(path)


def test_a_row_counts_once_however_it_is_named(trained: Project) -> None:
    row = _some_rows(trained)[0]
    digest = next(list_snapshots(trained.snapshots("training")))
    table = open_snapshot(digest, trained.snapshots("training")).read()
    assert resolve_rows([row["row_key"], row["row_id"]], [table], "it") == {row["row_key"]}


def test_documents_that_are_gone_are_read_again_while_the_pin_stands(
    trained_copy: Project,
) -> None:
    shutil.rmtree(trained_copy.tables("training"))
    # The copy still names the original's files by absolute path, and the same bytes are there.
    assert set(_plan(trained_copy, sources=("shop",)).documents) == {"shop", "forum"}


def test_a_pin_that_moved_is_named_where_the_recorded_documents_are_gone(
    trained_copy: Project,
) -> None:
    path = trained_copy.root / "sources" / "forum.yaml"
    pin = yaml.safe_load(path.read_text())["sha256"]
    path.write_text(path.read_text().replace(pin, "a" * 64))
    _plan(trained_copy, sources=("shop",))  # they are here, so the pin does not matter
    shutil.rmtree(trained_copy.tables("training"))
    with pytest.raises(PedigreeError, match=rf"pin has moved since: it is a+, and was {pin}"):
        _plan(trained_copy, sources=("shop",))


def test_a_source_that_is_not_declared_any_more_can_only_be_excluded(
    trained_copy: Project,
) -> None:
    (trained_copy.root / "sources" / "shop.yaml").unlink()
    assert _plan(trained_copy, sources=("shop",)).curation.exclude_sources == ["shop"]
    with pytest.raises(PedigreeError, match="shop, which went into the model, is not declared"):
        _plan(trained_copy, sources=("forum",))


def test_another_base_model_or_name_is_refused(trained_copy: Project) -> None:
    path = trained_copy.root / "params.yaml"
    path.write_text(path.read_text().replace("model_name: reviews", "model_name: others"))
    with pytest.raises(PedigreeError, match=r"'others', and model .* has 'reviews'"):
        _plan(trained_copy, sources=("shop",))
    path.write_text(path.read_text().replace("model_name: others", "model_name: reviews"))
    base = trained_copy.root / "base_models" / "tiny.yaml"
    pin = yaml.safe_load(base.read_text())["sha256"]
    base.write_text(base.read_text().replace(pin, "a" * 64))
    with pytest.raises(PedigreeError, match="set the pin back"):
        _plan(trained_copy, sources=("shop",))


def test_without_statements_about_the_data_nothing_is_guessed(trained_copy: Project) -> None:
    for path in trained_copy.evidence.glob("*/curation-*.dsse.json"):
        path.unlink()
    with pytest.raises(EvidenceMissing, match=r"how snapshot .* was made"):
        _plan(trained_copy, sources=("shop",))


def test_model_adapter_and_environment_descend_from_a_source_and_a_row(
    trained_copy: Project,
) -> None:
    store = open_store(trained_copy, trained_copy.policy())
    record = read_record(find_training(store, _model(trained_copy)))
    expected = [
        ("model", record.model_digest),
        ("adapter", record.adapter_digest),
        ("environment", "production"),
    ]
    row = _some_rows(trained_copy)[0]["row_key"]
    for exclusions in (
        Exclusions(sources=("shop",)),
        Exclusions(row_lists=("list",), keys=pa.array([row])),
    ):
        found, unknown = find_unclean(trained_copy, store, exclusions)
        assert [(one.kind, one.name) for one in found] == expected
        assert unknown == ()
    assert find_unclean(trained_copy, store, Exclusions(sources=("nothing",))) == ((), ())


def test_what_was_made_from_uncommitted_files_is_not_proposed_for_promotion() -> None:
    def say(*changes: Change) -> str:
        comparison = Comparison("model", "sha256:a", "sha256:b", changes={"code": changes})
        found = Retraining("sha256:a", "sha256:b", ("source x",), {}, comparison, (), (), 0)
        return render_retraining(found, None).partition("\nnext\n")[2]

    assert "pedigree promote sha256:b --env production" in say()
    dirty = say(Change("dirty", False, True))
    assert "pedigree promote" not in dirty
    assert "commit them, and retrain again" in dirty


def test_an_annotator_is_not_called_absent_where_rows_could_not_be_read(
    trained_copy: Project,
) -> None:
    digest = next(list_snapshots(trained_copy.snapshots("training")))
    shutil.rmtree(trained_copy.snapshots("training") / digest[7:])
    trained_copy.lineage.unlink(missing_ok=True)
    store = open_store(trained_copy, trained_copy.policy())
    _, unknown = find_unclean(trained_copy, store, Exclusions(annotators=("ann",)))
    assert unknown == (digest,)
