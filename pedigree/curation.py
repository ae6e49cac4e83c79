"""Raw documents become curated ones; every dropped row is accounted for.

    >>> curated = curate(raw, CurationParams())
    >>> curated.kept.num_rows + curated.dropped.num_rows == raw.num_rows
    True

The canonical text is what a model is trained on. The raw text stays beside it, because what
normalisation hides (a zero-width space, an odd script) is what a reviewer must be able to see.
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import pyarrow as pa

from pedigree.documents import RAW_SCHEMA
from pedigree.errors import PedigreeError
from pedigree.params import CurationParams

Reason: TypeAlias = Literal["no_label", "too_short", "too_long", "exact_duplicate"]

CURATED_SCHEMA = pa.schema(
    [
        *list(RAW_SCHEMA)[:3],
        pa.field("text", pa.string(), nullable=False),
        *list(RAW_SCHEMA)[3:],
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("row_key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),
    ]
)


@dataclass(frozen=True)
class Curated:
    """What was kept (`CURATED_SCHEMA`) and what was dropped and why (`DROPPED_SCHEMA`)."""

    kept: pa.Table
    dropped: pa.Table

    def funnel(self) -> list[tuple[str, int]]:
        """Return (step, rows left) from what was read to what was kept, in the order of steps."""
        left = self.kept.num_rows + self.dropped.num_rows
        counts = Counter(cast(list[str], self.dropped.column("reason").to_pylist()))
        steps = [("read", left)]
        for reason in ("no_label", "too_short", "too_long", "exact_duplicate"):
            left -= counts[reason]
            steps.append((f"after {reason}", left))
        return steps

    def by_source(self) -> list[dict[str, str | int]]:
        """Return one record a source: rows read, kept, and dropped by reason."""
        kept = Counter(cast(list[str], self.kept.column("source").to_pylist()))
        pairs = zip(
            cast(list[str], self.dropped.column("source").to_pylist()),
            cast(list[str], self.dropped.column("reason").to_pylist()),
            strict=True,
        )
        dropped = Counter(pairs)
        reasons = sorted({reason for _, reason in dropped})
        records: list[dict[str, str | int]] = []
        for source in sorted(set(kept) | {source for source, _ in dropped}):
            drops = {reason: dropped[source, reason] for reason in reasons}
            read = kept[source] + sum(drops.values())
            records.append({"source": source, "read": read, "kept": kept[source], **drops})
        return records


def canonical_text(raw: str) -> str:
    """Return the text in Unicode NFC with each run of white space as one space, ends trimmed."""
    return " ".join(unicodedata.normalize("NFC", raw).split())


def curate(raw: pa.Table, params: CurationParams) -> Curated:
    """Normalise, filter and collapse exact duplicates.

    Two rows are exact duplicates when canonical text *and* label agree; the one with the smallest
    row key stays. A copy with another label is no duplicate but a dispute, and stays to be judged.

    Raises:
        PedigreeError: nothing would be left.
    """
    raw = raw.sort_by("row_key")
    columns = cast(dict[str, list[Any]], raw.to_pydict())
    texts = [canonical_text(text) for text in columns["raw_text"]]
    first: dict[tuple[str, str | None], str] = {}
    keep: list[int] = []
    dropped: list[tuple[str, str, Reason, str | None]] = []
    for i, (key, source, label) in enumerate(
        zip(columns["row_key"], columns["source"], columns["label"], strict=True)
    ):
        reason: Reason | None = None
        if label is None:
            reason = "no_label"
        elif len(texts[i]) < params.min_characters:
            reason = "too_short"
        elif len(texts[i]) > params.max_characters:
            reason = "too_long"
        elif first.setdefault((texts[i], label), key) != key:
            reason = "exact_duplicate"
        if reason is None:
            keep.append(i)
        else:
            original = first[texts[i], label] if reason == "exact_duplicate" else None
            dropped.append((key, source, reason, original))
    lost = pa.Table.from_pylist(
        [dict(zip(DROPPED_SCHEMA.names, row, strict=True)) for row in dropped], DROPPED_SCHEMA
    )
    if not keep:
        counts = Counter(reason for *_, reason, _ in dropped)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        raise PedigreeError(
            f"Curation left none of {raw.num_rows} rows ({why}): check the sources' labels and "
            "'curation' in params.yaml."
        )
    taken = raw.append_column(CURATED_SCHEMA.field("text"), pa.array(texts, pa.string()))
    return Curated(taken.take(keep).select(CURATED_SCHEMA.names).cast(CURATED_SCHEMA), lost)
