"""Batches: every row once, a pure function of seed, epoch and row ids, on any machine."""

import doctest
import hashlib
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.training import order
from pedigree.training.order import BATCHES_A_POOL, plan_batches
from tests.conftest import REPOSITORY

IDS = [f"{i:02x}" for i in range(10)]
LENGTHS = [5, 3, 8, 1, 9, 2, 7, 4, 6, 5]
# Computed once, on 2026-11-24; a change here changes the order of every past training.
PLAN = [[2, 4], [3, 5, 1, 7], [0, 9, 8, 6]]


def draw(seed: int, epoch: int, row: str) -> str:
    return hashlib.sha256(f"pedigree/order/v1\n{seed}\n{epoch}\n{row}".encode()).hexdigest()


def test_a_plan_is_what_it_was_when_this_was_written() -> None:
    assert plan_batches(IDS, LENGTHS, seed=3, epoch=1, batch_size=4) == PLAN


def test_a_plan_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from pedigree.training.order import plan_batches\n"
        f"print(plan_batches({IDS}, {LENGTHS}, seed=3, epoch=1, batch_size=4))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, env={"PYTHONHASHSEED": "99"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(PLAN)


rows = st.lists(st.tuples(st.text("0123456789abcdef", min_size=4), st.integers(1, 20)),
                max_size=200, unique_by=lambda row: row[0])  # fmt: skip


@given(rows, st.integers(0, 5), st.integers(0, 5), st.integers(1, 5))
def test_every_row_is_in_exactly_one_batch(
    table: list[tuple[str, int]], seed: int, epoch: int, batch_size: int
) -> None:
    ids, lengths = [row for row, _ in table], [length for _, length in table]
    batches = plan_batches(ids, lengths, seed=seed, epoch=epoch, batch_size=batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(ids)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    pool = batch_size * BATCHES_A_POOL
    full, rest = divmod(len(ids), pool)
    assert len(batches) == full * BATCHES_A_POOL + -(-rest // batch_size)


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_no_batch(
    table: list[tuple[str, int]], shuffle: random.Random
) -> None:
    def named(rows: list[tuple[str, int]]) -> list[list[str]]:
        ids = [row for row, _ in rows]
        plan = plan_batches(ids, [n for _, n in rows], seed=1, epoch=2, batch_size=3)
        return [[ids[row] for row in batch] for batch in plan]

    expected = named(table)
    shuffle.shuffle(table)
    assert named(table) == expected


@pytest.mark.parametrize("batch_size", [1, 4])
def test_pools_follow_the_draw_and_batches_hold_rows_of_similar_length(batch_size: int) -> None:
    count = 3 * batch_size * BATCHES_A_POOL
    ids = [f"{i:04x}" for i in range(count)]
    lengths = random.Random(0).choices(range(1, 90), k=count)
    plan = plan_batches(ids, lengths, seed=0, epoch=0, batch_size=batch_size)
    drawn = sorted(range(count), key=lambda row: draw(0, 0, ids[row]))
    size = batch_size * BATCHES_A_POOL
    for number in range(3):
        batches = plan[number * BATCHES_A_POOL : (number + 1) * BATCHES_A_POOL]
        rows_of_pool = drawn[number * size : (number + 1) * size]
        assert {row for batch in batches for row in batch} == set(rows_of_pool)
        assert sorted(sorted(lengths[row] for row in batch) for batch in batches) == sorted(
            sorted(lengths[row] for row in rows_of_pool)[i : i + batch_size]
            for i in range(0, size, batch_size)
        )


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    ids = [f"{i:04x}" for i in range(100)]
    plans = {
        str(plan_batches(ids, [7] * 100, seed=seed, epoch=epoch, batch_size=8))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(plans) == 16


def test_no_rows_make_no_batch() -> None:
    assert plan_batches([], [], seed=0, epoch=0, batch_size=4) == []


def test_the_example_of_the_module_is_right() -> None:
    assert doctest.testmod(order).failed == 0
