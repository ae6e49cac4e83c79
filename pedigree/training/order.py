"""The order of rows and the composition of batches: a pure function of seed, epoch and row ids.

No random generator is involved, so neither a resume nor another machine can change it::

    >>> plan_batches(["a1", "b2"], [5, 7], seed=0, epoch=0, batch_size=2)
    [[0, 1]]
"""

import hashlib
from collections.abc import Sequence

# Rows of similar length share a batch, so that little is padding: this many batches' worth of
# rows are sorted by length together.
BATCHES_A_POOL = 16


def plan_batches(
    row_ids: Sequence[str], lengths: Sequence[int], *, seed: int, epoch: int, batch_size: int
) -> list[list[int]]:
    """Return the batches of one epoch as lists of row positions.

    Args:
        row_ids: (rows,) hex digests; their order does not matter.
        lengths: (rows,) tokens in each row.
        seed: of the training run.
        epoch: 0-based.
        batch_size: rows in a batch; the last of a pool may have fewer.
    """
    draws = [_draw(seed, epoch, row) for row in row_ids]
    order = sorted(range(len(row_ids)), key=draws.__getitem__)
    pool = batch_size * BATCHES_A_POOL
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        rows = sorted(order[start : start + pool], key=lambda row: (lengths[row], draws[row]))
        cut = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        batches += sorted(cut, key=lambda batch: draws[batch[0]])
    return batches


def _draw(seed: int, epoch: int, row_id: str) -> bytes:
    return hashlib.sha256(f"pedigree/order/v1\n{seed}\n{epoch}\n{row_id}".encode()).digest()
