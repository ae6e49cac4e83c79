"""Curated documents become training and evaluation rows; near-duplicates never straddle the line.

Rows connected by near-duplication form a group. A group's side is a pure function of the split's
seed and the group's smallest row key, so a relabelled row stays where it is and the order of rows
changes nothing.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa

from pedigree.errors import PedigreeError
from pedigree.neighbours.local import FindNeighbours, find_near_duplicates
from pedigree.params import SplitParams


@dataclass(frozen=True)
class Split:
    """Training and evaluation rows, and how many were left out by `max_rows`."""

    training: pa.Table
    evaluation: pa.Table
    sampled_out: int
    groups: int


def split_documents(
    curated: pa.Table,
    params: SplitParams,
    held_out: Collection[str] = (),
    find: FindNeighbours = find_near_duplicates,
) -> Split:
    """Divide rows by group; a group with a row of a `held_out` source is evaluated, never trained.

    Raises:
        PedigreeError: one side would be empty.
    """
    curated = curated.sort_by("row_key")
    keys = cast(list[str], curated.column("row_key").to_pylist())
    group = find(curated.column("text"), params.similarity).components()
    # Rows are sorted by key, so a component's smallest position has its smallest key.
    draws = np.array([_draw(params.seed, keys[i], "split") for i in range(len(keys))])[group]
    evaluation = draws < params.evaluation_fraction
    if held_out:
        sources = cast(list[str], curated.column("source").to_pylist())
        evaluation |= np.isin(group, group[np.isin(sources, list(held_out))])
    kept = np.ones(len(keys), bool)
    if params.max_rows is not None and len(keys) > params.max_rows:
        order = np.array([_draw(params.seed, key, "sample") for key in keys])[group]
        ranked = np.lexsort((group, order))
        last = order[ranked[params.max_rows - 1]]
        kept = order <= last  # whole groups: the last one may bring a few rows more
    sides = {
        "training": np.flatnonzero(kept & ~evaluation),
        "evaluation": np.flatnonzero(kept & evaluation),
    }
    for side, rows in sides.items():
        if not len(rows):
            raise PedigreeError(
                f"The split left no {side} row of {len(keys)}: add documents, or change 'split' in "
                "params.yaml."
            )
    return Split(
        curated.take(sides["training"]),
        curated.take(sides["evaluation"]),
        int((~kept).sum()),
        len(np.unique(group)),
    )


def _draw(seed: int, key: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on nothing but its arguments."""
    value = hashlib.sha256(f"pedigree/{purpose}/v1\n{seed}\n{key}".encode()).digest()
    return int.from_bytes(value[:7], "big") / 2**56
