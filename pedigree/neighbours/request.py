"""What the relational job is asked to do, and whether it can be done; no daft."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from pedigree.errors import PedigreeError
from pedigree.neighbours.storage import list_parquet, read_schemas

# A key and its document are 24 bytes, and a shuffle holds them about three times.
KEYS_AT_ONCE = 1 << 24
# Edges that one worker connects in memory (32 bytes each, about five times while it does).
EDGES_AT_ONCE = 1 << 22
# Integers common * denominator stay below 2^63 for texts of 2^42 characters.
MAX_DENOMINATOR = 1 << 20


@dataclass(frozen=True)
class JoinRequest:
    """What to join, and where to.

    Attributes:
        inputs: Parquet files or folders of them, as paths or URIs that every machine can read.
        output: the place of the result; there must be nothing yet.
        similarity: pairs with common / union of this or more are kept, compared in integers.
        text: the column with the texts.
        label: a column whose values copies may dispute.
        source: a column that is carried into the table of documents.
        row: a column that identifies the rows; without it, a row's position among all rows does.
        partitions: parts that texts are cut into on a cluster; as many as files without it.
        keys_at_once: band keys in one pass, at least those of one band.
        edges_at_once: pairs up to this many are connected by one worker, more by rounds of stars.
    """

    inputs: tuple[str, ...]
    output: str
    similarity: Fraction
    text: str = "text"
    label: str | None = None
    source: str | None = None
    row: str | None = None
    partitions: int | None = None
    keys_at_once: int = KEYS_AT_ONCE
    edges_at_once: int = EDGES_AT_ONCE

    def as_arguments(self, partitions: int | None = None) -> list[str]:
        """Return the words that give this request to `pedigree.neighbours.job`."""
        words = [word for place in self.inputs for word in ("--input", place)]
        words += ["--output", self.output, "--similarity", str(self.similarity)]
        words += ["--text", self.text]
        chosen = {
            "--label": self.label,
            "--source": self.source,
            "--row": self.row,
            "--partitions": partitions or self.partitions,
        }
        for name, value in chosen.items():
            words += [name, str(value)] if value is not None else []
        return words

    def find_files(self) -> list[str]:
        """Return the input's files, each with the columns that are named.

        Raises:
            PedigreeError: the similarity, a place or a column is not what it has to be.
        """
        if not 0 < self.similarity <= 1 or self.similarity.denominator > MAX_DENOMINATOR:
            raise PedigreeError(
                f"The similarity is {self.similarity}: expected a fraction above 0 and up to 1, "
                f"with a denominator up to {MAX_DENOMINATOR}, such as 4/5. Correct it and run "
                "again."
            )
        files = list_parquet(self.inputs)
        _require_columns(self, files)
        return files


def _require_columns(request: JoinRequest, files: Sequence[str]) -> None:
    named = (request.row, request.text, request.label, request.source)
    schema = read_schemas(files, list(dict.fromkeys(name for name in named if name is not None)))
    text = schema.field(request.text).type
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        raise PedigreeError(
            f"The column {request.text!r} is {text}: expected strings. Decode bytes as UTF-8 and "
            "write them as strings, so that no machine has to guess the encoding."
        )
    row = schema.field(request.row).type if request.row else pa.int64()
    if not (pa.types.is_integer(row) or pa.types.is_string(row) or pa.types.is_large_string(row)):
        raise PedigreeError(
            f"The column {request.row!r} is {row}: expected integers or strings that identify the "
            "rows. Name another column, or none."
        )
