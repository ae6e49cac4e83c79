"""What is excluded goes, nothing else does, and a frozen table that still holds it is refused."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.curation import CURATED_SCHEMA
from pedigree.dataset import curate_sources, freeze_split
from pedigree.errors import EvidenceMissing, PedigreeError, VerificationFailed
from pedigree.evidence.store import open_store
from pedigree.excluded import find_excluded, name_excluded
from pedigree.exclusions import Exclusions, freeze_row_list
from pedigree.params import CurationParams
from pedigree.project import Project
from pedigree.recipes import DataRecipe, find_recipe
from pedigree.registry import find_promoted, find_training
from pedigree.snapshots import open_snapshot
from pedigree.training.record import read_record

KEYS = [f"{i:064x}" for i in range(8)]
NAMES = ["ann", "bob", "", "Ann"]

tables = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(NAMES), st.sampled_from([*NAMES, None])),
    max_size=12,
)
exclusions = st.builds(
    lambda sources, annotators, keys: (sources, annotators, keys),
    st.lists(st.sampled_from(NAMES), max_size=2),
    st.lists(st.sampled_from(NAMES), max_size=2),
    st.lists(st.sampled_from(KEYS), max_size=3),
)


@given(tables, exclusions)
def test_what_is_excluded_goes_and_all_else_stays(
    rows: list[tuple[str, str, str | None]], wanted: tuple[list[str], list[str], list[str]]
) -> None:
    names = ("row_key", "source", "annotator")
    schema = pa.schema([(name, pa.string()) for name in names])
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)
    sources, annotators, keys = wanted
    tried = Exclusions(tuple(sources), tuple(annotators), (), pa.array(keys, pa.string()))
    left, taken = tried.take_out(table)
    stays = [r for r in rows if r[1] not in sources and r[2] not in annotators and r[0] not in keys]
    assert [tuple(row.values()) for row in left.to_pylist()] == stays
    assert sum(taken.values()) == len(rows) - len(stays)
    tried.require_absent(left, "it")
    if len(stays) < len(rows):
        with pytest.raises(VerificationFailed, match="were to be excluded"):
            tried.require_absent(table, "it")


@pytest.fixture
def recipe(trained_copy: Project) -> DataRecipe:
    store = open_store(trained_copy, trained_copy.policy())
    promoted = find_promoted(store, "production")
    assert promoted
    record = read_record(find_training(store, promoted.model))
    return find_recipe(store, record.inputs.training.digest, record.evaluation_snapshot.digest)


def _without(recipe: DataRecipe, **changes: object) -> CurationParams:
    return recipe.curation.model_copy(update=changes)


def test_a_recipe_makes_the_recorded_documents_again(
    trained_copy: Project, recipe: DataRecipe
) -> None:
    made = curate_sources(trained_copy, recipe.curation, recipe.documents)
    assert made.documents.digest == recipe.curated
    assert set(recipe.documents) == {"shop", "forum"}
    assert recipe.excluded is None


def test_an_excluded_row_is_in_neither_snapshot_and_statements_say_so(
    trained_copy: Project, recipe: DataRecipe
) -> None:
    table = open_snapshot(recipe.curated, trained_copy.curated).read()
    gone = table["row_key"].to_pylist()[3:20]
    rows = freeze_row_list(trained_copy, gone)
    curated = curate_sources(trained_copy, _without(recipe, exclude_rows=rows), recipe.documents)
    sides = freeze_split(trained_copy, recipe.split, curated.documents.digest)
    kept = [key for side in sides for key in side.snapshot.read()["row_key"].to_pylist()]
    assert sorted(kept) == sorted(set(table["row_key"].to_pylist()) - set(gone))
    store = open_store(trained_copy, trained_copy.policy())
    for side in sides:
        (statement,) = store.about(side.snapshot.digest, "snapshot")[0]
        assert name_excluded(statement.predicate["excluded"]) == ["17 rows"]
        assert sum(statement.predicate["excluded"]["takenOut"].values()) == 17
    # Without the list nobody can say what is excluded, so nothing is made.
    (trained_copy.curated / rows[7:] / "manifest.json").unlink()
    with pytest.raises(VerificationFailed):
        freeze_split(trained_copy, recipe.split, curated.documents.digest)


def test_a_frozen_side_with_an_excluded_row_gets_no_statement(
    trained_copy: Project, recipe: DataRecipe
) -> None:
    store = open_store(trained_copy, trained_copy.policy(), write=True)
    (curation,) = store.about(recipe.curated, "curation")[0]
    claim = {"sources": {"shop": None}, "annotators": [], "rowLists": [], "takenOut": {}}
    store.write("curation", list(curation.subjects), {**curation.predicate, "excluded": claim})
    before = sorted(path.name for path in trained_copy.evidence.glob("*/snapshot-*.json"))
    with pytest.raises(VerificationFailed, match="were to be excluded"):
        freeze_split(trained_copy, recipe.split, recipe.curated)
    after = sorted(path.name for path in trained_copy.evidence.glob("*/snapshot-*.json"))
    assert after == before


def test_what_two_curations_of_the_same_documents_exclude_counts_together(
    trained_copy: Project, recipe: DataRecipe
) -> None:
    store = open_store(trained_copy, trained_copy.policy(), write=True)
    (curation,) = store.about(recipe.curated, "curation")[0]
    for name in ("one", "two"):
        claim = {"sources": {name: None}, "annotators": [name], "rowLists": [], "takenOut": {}}
        store.write("curation", list(curation.subjects), {**curation.predicate, "excluded": claim})
    said = find_excluded(store, recipe.curated)
    assert name_excluded(said) == ["source one", "source two", "annotator one", "annotator two"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"exclude_sources": ["shoop"]}, PedigreeError, "known are forum, shop"),
        ({"exclude_sources": ["shop", "forum"]}, PedigreeError, "without source forum"),
        ({"exclude_annotators": ["ann"]}, PedigreeError, "No annotator is called 'ann'"),
        ({"exclude_rows": "sha256:" + "0" * 64}, EvidenceMissing, "There is no snapshot"),
    ],
)
def test_what_is_not_known_cannot_be_excluded(
    trained_copy: Project,
    recipe: DataRecipe,
    changes: dict[str, object],
    error: type[PedigreeError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        curate_sources(trained_copy, _without(recipe, **changes), recipe.documents)


def test_the_votes_of_an_excluded_annotator_are_not_counted(
    trained_copy: Project, recipe: DataRecipe, tmp_path: Path
) -> None:
    from pedigree.votes import load_votes

    one_row = open_snapshot(recipe.curated, trained_copy.curated).read()["row_key"].to_pylist()[:1]
    params = _without(
        recipe, exclude_sources=["shop"], exclude_rows=freeze_row_list(trained_copy, one_row)
    )
    curated = curate_sources(trained_copy, params, recipe.documents)
    training, _ = freeze_split(trained_copy, recipe.split, curated.documents.digest)
    store = open_store(trained_copy, trained_copy.policy())
    votes = load_votes(trained_copy, store, training.snapshot.digest)
    assert set(votes.documents) == {"forum"}
    assert len(votes.rows) == training.snapshot.rows
    assert set(training.snapshot.read()["source"].to_pylist()) == {"forum"}
    assert CURATED_SCHEMA.names[0] == "row_key"
