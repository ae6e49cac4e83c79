"""Training again without a source, an annotator or rows, in real Dagster runs."""

import json
from pathlib import Path

import pytest

from pedigree.cli import main
from pedigree.errors import PedigreeError
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.exclusions import Exclusions, read_row_names
from pedigree.lineage import explain_model
from pedigree.project import Project
from pedigree.registry import find_promoted, find_training
from pedigree.retraining import plan_retraining
from pedigree.snapshots import open_snapshot
from pedigree.training.record import TrainingRecord, read_record
from tests.conftest import run


def open_both(project: Project) -> tuple[EvidenceStore, TrainingRecord]:
    store = open_store(project, project.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return store, read_record(find_training(store, promoted.model))


def plan(project: Project, **more: object):
    store, record = open_both(project)
    return plan_retraining(project, store, record.model_digest, **more)  # type: ignore[arg-type]


def test_the_plan_has_what_was_recorded_and_what_is_left_out(trained: Project) -> None:
    _, record = open_both(trained)
    found = plan(trained, sources=["shop"]).run_config["ops"]
    curation = found["curated_documents"]["config"]
    assert curation["exclude_sources"] == ["shop"]
    assert list(curation["documents"]) == ["forum"]
    assert curation["documents"]["forum"].startswith("sha256:")
    assert found["fine_tuned_model"]["config"]["seed"] == record.inputs.params.seed
    assert found["snapshots"]["config"]["similarity"] == 0.7


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "Nothing is left out"),
        ({"sources": ["nowhere"]}, "no source 'nowhere': it was made from forum, shop"),
        ({"sources": ["shop", "forum"]}, "Every source would be left out"),
        ({"annotators": ["ada"]}, "nobody recorded who labelled it"),
    ],
)
def test_what_cannot_be_left_out_is_a_sentence(
    trained: Project, request_: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(PedigreeError, match=message):
        plan(trained, **request_)


def test_rows_are_named_by_key_or_id_in_any_file(trained: Project, tmp_path: Path) -> None:
    _, record = open_both(trained)
    table = open_snapshot(record.inputs.training.digest, trained.snapshots("training")).read()
    keys, ids = (table[name].to_pylist() for name in ("row_key", "row_id"))
    (tmp_path / "rows.txt").write_text(f"{keys[0]}\n{ids[1]}\n\n")
    found = plan(trained, rows=tmp_path / "rows.txt")
    assert found.exclusions.row_keys == {keys[0], keys[1]}
    assert found.exclusions.count_in(table) == 2
    assert found.exclusions.drop_from(table).num_rows == table.num_rows - 2
    (tmp_path / "rows.csv").write_text(f"row_id,why\n{ids[5]},bad\n")
    assert plan(trained, rows=tmp_path / "rows.csv").exclusions.row_keys == {keys[5]}
    (tmp_path / "rows.txt").write_text("0" * 64)
    with pytest.raises(PedigreeError, match="1 of 1 rows are none that the model's sources had"):
        plan(trained, rows=tmp_path / "rows.txt")


@pytest.mark.parametrize("text", ["", "not a key", "row_key\n" + "g" * 64])
def test_a_file_that_names_no_rows_is_refused(tmp_path: Path, text: str) -> None:
    for name in ("rows.txt", "rows.csv"):
        (tmp_path / name).write_text(text or "other\n1\n")
        with pytest.raises(PedigreeError, match=r"names no rows|has neither|cannot be read"):
            read_row_names(tmp_path / name)
    with pytest.raises(PedigreeError, match=r"cannot be read|no file"):
        read_row_names(tmp_path / "none.txt")


def test_nobody_is_no_annotator(trained: Project) -> None:
    _, record = open_both(trained)
    table = open_snapshot(record.inputs.training.digest, trained.snapshots("training")).read()
    assert Exclusions(annotators=("ada",)).count_in(table) == 0
    assert Exclusions(sources=("shop",)).count_in(table) > 0
    assert not Exclusions()


@pytest.mark.slow
def test_a_source_is_taken_out_and_everything_that_had_it_is_named(
    trained_copy: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    store, before = open_both(trained_copy)
    old = before.model_digest
    table = open_snapshot(before.inputs.training.digest, trained_copy.snapshots("training")).read()
    source = table["source"].to_pylist()
    row = table["row_id"].to_pylist()[source.index("shop")]
    shown = run("python", "-m", "pedigree", "trace", "source:shop", cwd=trained_copy.root)
    assert f"model:{old[7:19]}" in shown.stdout
    done = run(
        "python", "-m", "pedigree", "retrain", "production", "--exclude-source", "shop",
        "--revoke", "the shop's reviews were bought", "--json", cwd=trained_copy.root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout[done.stdout.index("\n{") + 1 :])
    new = outcome["after"]
    assert new != old
    removed = {one["source"]: one["removed"] for one in outcome["comparison"]["rows"]["training"]}
    assert removed["shop"] == source.count("shop")
    assert [one["model"] for one in outcome["unclean"]] == [old]
    assert outcome["unclean"][0]["environments"] == ["production"]
    assert outcome["unclean"][0]["adapter"] == before.adapter_digest
    assert outcome["unclean"][0]["revoked"] is True
    assert outcome["trigger_scan"] == "not run"
    after = read_record(find_training(store, new))
    for snapshot, zone in (
        (after.inputs.training, "training"),
        (after.evaluation_snapshot, "evaluation"),
    ):
        rows = open_snapshot(snapshot.digest, trained_copy.snapshots(zone)).read()  # type: ignore[arg-type]
        assert "shop" not in rows["source"].to_pylist()
        assert rows.num_rows
    assert after.inputs.params == before.inputs.params
    said = explain_model(store, new).answers[2]["training"]
    assert said["excluded"] == {"sources": ["shop"], "annotators": [], "rows": None}  # type: ignore[index, call-overload]
    where = ["-C", str(trained_copy.root)]
    assert main([*where, "prove", row, "--in", after.inputs.training.digest]) == 0
    assert "absent" in capsys.readouterr().out
    assert main([*where, "diff", old, new]) == 0
    assert "REMOVED" in capsys.readouterr().out
    assert main([*where, "verify", old]) == 1
    assert "the shop's reviews were bought" in capsys.readouterr().err
    assert main([*where, "promote", new, "--env", "production"]) == 0
    assert main([*where, "verify", "production"]) == 0
