"""The split: near-copies on one side, the same side each time, whatever the order or the labels."""

import random
from typing import Any

import pyarrow as pa
import pytest

from pedigree.curation import CURATED_SCHEMA
from pedigree.errors import PedigreeError
from pedigree.params import SplitParams
from pedigree.splitting import Split, split_documents
from tests.unit.neighbours import oracle

WORDS = [
    f"{a}{b}{c}"
    for a in ("b", "dr", "f", "gl", "k", "m", "pr", "st", "tw", "v")
    for b in ("a", "e", "ie", "o", "uu")
    for c in ("ck", "ld", "m", "nt", "rg", "sh", "x")
]
PARAMS = SplitParams(evaluation_fraction=0.3, similarity=0.7, seed=1)


def make_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=22)) for _ in range(count)]


def edit(text: str, draw: random.Random) -> str:
    """Return a near-copy: one letter in some word replaced."""
    position = draw.choice([i for i, letter in enumerate(text) if letter != " "])
    return text[:position] + "q" + text[position + 1 :]


def table_of(texts: list[str], sources: list[str] | None = None) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "row_key": f"{(i * 7919) % 10007:05d}-{i}",
            "source": sources[i] if sources else "shop",
            "text": text,
            "raw_text": text,
            "label": "pos" if i % 2 else "neg",
        }
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, CURATED_SCHEMA)


def keys_of(table: pa.Table) -> set[str]:
    return set(table.column("row_key").to_pylist())


def similarity(one: str, other: str) -> float:
    common, union = oracle.overlap(oracle.views(one), oracle.views(other))
    return common / union


def closest(split: Split) -> float:
    """Return the greatest exact similarity between the two sides, by brute force."""
    border = split.training.num_rows
    sides = [
        oracle.normalise(text)
        for side in (split.training, split.evaluation)
        for text in side.column("text").to_pylist()
    ]
    near = oracle.similar_pairs(sides, 0.01)
    return max(common / union for (i, j), (common, union) in near.items() if i < border <= j)


def planted(copies: int = 60) -> list[str]:
    draw = random.Random(5)
    texts = make_texts(240)
    for i in range(copies):
        texts += [edit(texts[i], draw), edit(edit(texts[i], draw), draw)]
    return texts


def test_near_duplicates_never_straddle_the_line() -> None:
    texts = planted()
    split = split_documents(table_of(texts), PARAMS)
    assert closest(split) < 0.7
    assert split.training.num_rows + split.evaluation.num_rows == len(texts)
    assert not keys_of(split.training) & keys_of(split.evaluation)
    assert split.groups == 240
    assert split.sampled_out == 0


def test_without_the_rule_planted_copies_would_straddle() -> None:
    split = split_documents(table_of(planted()), PARAMS.model_copy(update={"similarity": 1.0}))
    assert closest(split) >= 0.7


def test_a_chain_of_copies_is_one_group_even_where_its_ends_differ() -> None:
    draw = random.Random(0)
    texts = make_texts(30)
    chain = [texts[0]]
    for _ in range(50):
        chain.append(edit(chain[-1], draw))
    assert similarity(chain[0], chain[-1]) < 0.5
    table = table_of([*texts, *chain[1:]])
    keys = set(table.column("row_key").to_pylist()[30:]) | {table.column("row_key")[0].as_py()}
    for seed in range(4):
        split = split_documents(table, PARAMS.model_copy(update={"seed": seed}))
        assert keys <= keys_of(split.training) or keys <= keys_of(split.evaluation)


def test_disguised_copies_stay_on_the_side_of_their_original() -> None:
    texts = make_texts(60)
    disguised = [
        *(text.replace(" ", "") for text in texts),
        *("\u200b".join(text).upper() for text in texts),
        *(text.replace("a", "\u0430").replace("o", "\u03bf") for text in texts),
    ]
    table = table_of([*texts, *disguised])
    keys = table.column("row_key").to_pylist()
    split = split_documents(table, PARAMS)
    assert split.groups == 60
    for i in range(60):
        group = {keys[i + 60 * copy] for copy in range(4)}
        assert group <= keys_of(split.training) or group <= keys_of(split.evaluation)


def test_the_fraction_is_that_of_groups_give_or_take_chance() -> None:
    split = split_documents(table_of(make_texts(1000)), PARAMS)
    assert 250 < split.evaluation.num_rows < 350


def test_a_relabelled_row_stays_on_its_side() -> None:
    table = table_of(planted(20))
    before = split_documents(table, PARAMS)
    labels = ["neg"] * table.num_rows
    relabelled = table.set_column(
        table.schema.get_field_index("label"), CURATED_SCHEMA.field("label"), pa.array(labels)
    )
    after = split_documents(relabelled, PARAMS)
    assert keys_of(after.training) == keys_of(before.training)
    assert keys_of(after.evaluation) == keys_of(before.evaluation)


def test_the_order_of_rows_changes_nothing() -> None:
    table = table_of(planted(20))
    order = list(range(table.num_rows))
    random.Random(1).shuffle(order)
    params = PARAMS.model_copy(update={"max_rows": 150})
    first, again = (split_documents(one, params) for one in (table, table.take(order)))
    assert first.training.equals(again.training)
    assert first.evaluation.equals(again.evaluation)


def test_another_seed_gives_another_split() -> None:
    table = table_of(make_texts(100))
    sides = {
        frozenset(keys_of(split_documents(table, PARAMS.model_copy(update={"seed": s})).evaluation))
        for s in range(5)
    }
    assert len(sides) == 5


def test_unrelated_rows_that_are_added_move_no_row_to_the_other_side() -> None:
    texts = make_texts(300)
    small = split_documents(table_of(texts[:200]), PARAMS)
    large = split_documents(table_of(texts), PARAMS)
    assert keys_of(small.training) <= keys_of(large.training)
    assert keys_of(small.evaluation) <= keys_of(large.evaluation)


@pytest.mark.parametrize("max_rows", [2, 50, 51, 52, 53, 200])
def test_sampling_keeps_about_that_many_rows_and_whole_groups(max_rows: int) -> None:
    texts = planted()
    table = table_of(texts)
    keys = table.column("row_key").to_pylist()
    for seed in range(6):
        params = PARAMS.model_copy(update={"max_rows": max_rows, "seed": seed})
        try:
            split = split_documents(table, params)
        except PedigreeError:
            assert max_rows == 2  # one side can well be empty
            continue
        left = keys_of(split.training) | keys_of(split.evaluation)
        assert max_rows <= len(left) <= max_rows + 2  # a group has at most three rows
        assert split.sampled_out == len(texts) - len(left)
        for i in range(60):
            group = {keys[i], keys[240 + 2 * i], keys[241 + 2 * i]}
            assert group <= left or not group & left


def test_no_more_rows_than_asked_for_are_all_kept() -> None:
    table = table_of(make_texts(50))
    split = split_documents(table, PARAMS.model_copy(update={"max_rows": 50}))
    assert split.sampled_out == 0


def test_held_out_sources_and_their_near_copies_are_evaluated_and_never_trained() -> None:
    draw = random.Random(2)
    texts = make_texts(100)
    held = texts[:10] + [edit(text, draw) for text in texts[10:20]]
    table = table_of([*texts, *held], ["shop"] * 100 + ["exam"] * 20)
    split = split_documents(table, PARAMS, {"exam"})
    assert "exam" not in split.training.column("source").to_pylist()
    assert split.evaluation.column("source").to_pylist().count("exam") == 20
    trained = set(split.training.column("text").to_pylist())
    assert not trained & set(texts[:20])
    assert closest(split) < 0.7


def test_an_empty_side_is_an_error_that_names_it() -> None:
    table = table_of(make_texts(20), ["exam"] * 20)
    with pytest.raises(PedigreeError, match="no training row of 20"):
        split_documents(table, PARAMS, {"exam"})
    copies = table_of(["one and the same text"] * 5)
    with pytest.raises(PedigreeError, match=r"no (training|evaluation) row of 5"):
        split_documents(copies, PARAMS)
    with pytest.raises(PedigreeError, match="no training row of 0"):
        split_documents(table.slice(0, 0), PARAMS)
