"""Tracing on a real project: forwards to where a thing went, backwards to where it came from."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.store import adopt_statements, open_store
from pedigree.project import Project
from pedigree.registry import find_promoted
from pedigree.snapshots import list_snapshots, open_snapshot
from pedigree.tracing import rows_of, trace_thing, update_index

THINGS = ("source:{source}", "row:{row}", "snapshot:{snapshot}", "base:{base}", "model:{model}")


@pytest.fixture
def names(trained: Project) -> dict[str, str]:
    """The real names of one thing of each kind."""
    digest = next(list_snapshots(trained.snapshots("training")))
    row = open_snapshot(digest, trained.snapshots("training")).read().slice(7, 1).to_pylist()[0]
    promoted = find_promoted(open_store(trained, trained.policy()), "production")
    assert promoted
    (base,) = [path.parent.name for path in trained.evidence.glob("*/base-model-*.json")]
    return {
        "snapshot": digest,
        "row": row["row_key"],
        "source": row["source"],
        "model": promoted.model,
        "base": f"sha256:{base}",
    }


@pytest.fixture
def index(trained: Project, tmp_path: Path) -> Path:
    store = open_store(trained, trained.policy())
    assert update_index(tmp_path / "lineage.sqlite", store, rows_of(trained)) == []
    return tmp_path / "lineage.sqlite"


@pytest.mark.parametrize("thing", ["source", "row", "snapshot", "base"])
def test_everything_that_went_in_leads_to_the_model_in_production(
    index: Path, names: dict[str, str], thing: str
) -> None:
    trace = trace_thing(index, f"{thing}:{names[thing]}")
    assert trace.thing == f"{thing}:{names[thing]}"
    assert trace.reached("model") == [names["model"]]
    assert trace.reached("environment") == ["production"]
    assert trace.unindexed == ()


def test_a_row_is_where_its_place_says_and_came_from_its_source(
    trained: Project, index: Path, names: dict[str, str]
) -> None:
    trace = trace_thing(index, f"row:{names['row'][:12]}")
    (place,) = trace.places
    table = open_snapshot(place.snapshot, trained.snapshots("training")).read()
    row = table.slice(place.position, 1).to_pylist()[0]
    assert (row["row_key"], row["source"]) == (names["row"], names["source"]) == (
        place.row_key, place.source,
    )  # fmt: skip
    sources = {one.source for one in trace.backwards if one.source.startswith("source:")}
    assert sources == {f"source:{names['source']}"}
    (documents,) = [one for one in trace.backwards if one.what == "fetched as"]
    assert (trained.evidence / documents.target.rpartition(":")[2]).is_dir()


def test_a_model_leads_back_to_all_that_went_in_and_cites_statements(
    trained: Project, index: Path, names: dict[str, str]
) -> None:
    trace = trace_thing(index, f"model:{names['model']}")
    store = open_store(trained, trained.policy())
    known = {one.digest for kind in ("source", "curation", "snapshot", "training", "promotion")
             for one in store.all(kind)}  # fmt: skip
    # Batches and annotators are named by the rows alone, which the snapshot's digest binds.
    by_rows = {one for one in trace.backwards if one.what == "labelled rows of"}
    assert {one.statement for one in set(trace.backwards) - by_rows} <= known
    assert all(one.target == f"snapshot:{one.statement}" for one in by_rows)
    kinds = {one.source.partition(":")[0] for one in trace.backwards}
    assert kinds >= {"source", "documents", "curated", "snapshot", "base"}
    held_out = next(one for one in trace.backwards if one.what == "was held out from")
    assert trace_thing(index, held_out.source).reached("model") == []
    counts = {one.source: one.rows for one in trace.backwards if one.what == "has rows in"
              and one.target == f"snapshot:{names['snapshot']}"}  # fmt: skip
    table = open_snapshot(names["snapshot"], trained.snapshots("training")).read()
    sources: list[str] = table.column("source").to_pylist()
    assert counts == {f"source:{one}": sources.count(one) for one in set(sources)}


def test_building_it_again_or_in_two_parts_gives_the_same_answers(
    trained: Project, index: Path, names: dict[str, str], tmp_path: Path
) -> None:
    store = open_store(trained, trained.policy())
    blind = update_index(tmp_path / "parts", store, lambda *_: None)
    assert len(blind) == 2
    assert update_index(tmp_path / "parts", store, rows_of(trained)) == []
    assert update_index(tmp_path / "parts", store, rows_of(trained)) == []
    for thing in THINGS:
        said = [trace_thing(path, thing.format(**names)) for path in (index, tmp_path / "parts")]
        assert said[0] == said[1]


def test_a_row_is_not_called_unknown_where_nobody_could_look(
    trained_copy: Project, names: dict[str, str]
) -> None:
    shutil.rmtree(trained_copy.snapshots("training"))
    store = open_store(trained_copy, trained_copy.policy())
    assert update_index(trained_copy.lineage, store, rows_of(trained_copy)) == [names["snapshot"]]
    with pytest.raises(EvidenceMissing, match="1 snapshots could not be looked at"):
        trace_thing(trained_copy.lineage, f"row:{names['row']}")
    assert trace_thing(trained_copy.lineage, f"source:{names['source']}").reached("model")


def test_an_index_that_knows_what_is_gone_is_built_anew(
    trained_copy: Project, names: dict[str, str]
) -> None:
    store = open_store(trained_copy, trained_copy.policy())
    update_index(trained_copy.lineage, store, rows_of(trained_copy))
    for path in trained_copy.evidence.glob("*/promotion-*.json"):
        path.unlink()
    with pytest.raises(VerificationFailed, match="listed in the ledger and was deleted"):
        update_index(trained_copy.lineage, store, rows_of(trained_copy))
    # Somebody decides to go on without it.
    shutil.rmtree(trained_copy.ledger)
    adopt_statements(open_store(trained_copy, trained_copy.policy(), write=True))
    update_index(trained_copy.lineage, store, rows_of(trained_copy))
    trace = trace_thing(trained_copy.lineage, f"base:{names['base']}")
    assert trace.reached("model") == [names["model"]]
    assert trace.reached("environment") == []


@pytest.mark.parametrize(
    ("thing", "error", "message"),
    [
        ("tweets", PedigreeError, "expected a kind and a name"),
        ("colour:red", PedigreeError, "expected a kind and a name"),
        ("source:", PedigreeError, "expected a kind and a name"),
        ("source:nobody", EvidenceMissing, "no statement and no row"),
        ("snapshot:abc", PedigreeError, "at least the first 12"),
        ("snapshot:%%%%%%%%%%%%", PedigreeError, "at least the first 12"),
        ("model:" + "0" * 64, EvidenceMissing, "Nothing is known"),
        ("row:" + "0" * 64, EvidenceMissing, "Nothing is known"),
        ("annotator:nobody", EvidenceMissing, "Nothing is known"),
    ],
)
def test_what_cannot_be_traced_is_a_sentence(
    index: Path, thing: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        trace_thing(index, thing)
    assert type(raised.value) is error


def test_no_more_than_the_core_is_needed_to_trace(index: Path, names: dict[str, Any]) -> None:
    import subprocess
    import sys

    from tests.conftest import REPOSITORY

    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numpy", "pyarrow", "pandas", "fsspec"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from pathlib import Path
import pedigree.evidence.ledger_verification
from pedigree.tracing import trace_thing
print(*trace_thing(Path(sys.argv[1]), sys.argv[2]).reached("environment"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(index), f"source:{names['source']}"],
        cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "production"), done.stderr
