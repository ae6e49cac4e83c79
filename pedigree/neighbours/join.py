"""Near-duplicates as one relational job over Daft, for one machine or a cluster.

The same code runs on Daft's native runner and on its Ray runner, and the pairs are those of the
engine in memory: `digest_pairs` tells. It is meant for what does not fit one machine. Each stage
is written as Parquet before the next reads it, so that memory holds one stage, and a stage whose
worker was lost is run again::

    texts -> rows -> distinct documents -> band keys -> candidates, some bands at a time
          -> verified pairs -> components, disputed labels

Only this module imports daft. A result is whole when its `result.json` is there: it is written
last, and names every file that belongs to the result::

    >>> request = JoinRequest(("/data/texts.parquet",), "/data/near", Fraction(4, 5))
    >>> join_neighbours(request)["pairs"]
    17
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, reduce
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.neighbours import kernel, stages
from pedigree.neighbours.kernel import NO_KEY
from pedigree.neighbours.pairs import PairDigest
from pedigree.neighbours.storage import (
    RESULT,
    ROW,
    Space,
    list_parquet,
    number_rows,
    open_filesystem,
    open_space,
    read_schemas,
)

if TYPE_CHECKING:
    from daft import DataFrame, Expression, Series

Runner: TypeAlias = Literal["native", "ray"]
Files: TypeAlias = list[str]

# Daft's choice of a runner holds for the whole process, and it refuses to make it twice.
_RUNNING: dict[str, Runner] = {}

# Times that a stage is tried on a cluster; machines come and go there.
ATTEMPTS = 3
# A key and its document are 24 bytes, and a shuffle holds them about three times.
KEYS_AT_ONCE = 1 << 24
# Edges that one worker connects in memory (32 bytes each, about five times while it does).
EDGES_AT_ONCE = 1 << 22
# Keys that are sorted together: what one call of `pair_keys` holds, when no bucket is hot.
KEYS_A_SHARD = 1 << 19
# Rounds of stars grow with the logarithm of the longest chain, at most its square.
MAX_ROUNDS = 100
# Integers common * denominator stay below 2^63 for texts of 2^42 characters.
MAX_DENOMINATOR = 1 << 20
# Rows in memory with both texts: 4096 pairs of 5 kB texts are 40 MB.
PAIRS_A_BATCH = 4096


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


def start_runner(runner: Runner, address: str | None = None) -> None:
    """Let Daft run here or on a Ray cluster; once chosen, a process keeps its runner.

    Raises:
        PedigreeError: daft is not installed, or this process has the other runner already.
    """
    try:
        import daft
    except ModuleNotFoundError:
        raise PedigreeError(
            "daft is not installed: near-duplicates on a cluster need it. Install "
            "`pedigree-ml[cluster]` and run again, or set neighbours.engine to local."
        ) from None
    if _RUNNING.get("runner") == runner:
        return
    try:
        if runner == "ray":
            daft.set_runner_ray(address)
        else:
            daft.set_runner_native()
    except Exception as error:
        raise PedigreeError(
            f"Daft's {runner} runner did not start ({error}): a process keeps the runner that it "
            "started with, and Ray needs a cluster that it can reach. Run "
            "`python -m pedigree.neighbours.job` for a process of its own."
        ) from error
    _RUNNING["runner"] = runner


def join_neighbours(request: JoinRequest, runner: Runner = "native") -> dict[str, JSON]:
    """Find the near-duplicates among the texts of Parquet files; return what `result.json` says.

    The tables at `request.output` are `documents` (row, document, component, and label and source
    where named), `pairs` (document_a < document_b, common, union) and `conflicts` (verified pairs
    whose labels differ: document_a, document_b, common, union, label_a, label_b). How the rows
    are ordered, and cut into files and partitions, changes nothing in them.

    Raises:
        PedigreeError: a column is missing or no text, a row has no text or its id is not its own,
            the disk is full, or a stage failed on each attempt. Nothing is kept then.
    """
    if not 0 < request.similarity <= 1 or request.similarity.denominator > MAX_DENOMINATOR:
        raise PedigreeError(
            f"The similarity is {request.similarity}: expected a fraction above 0 and up to 1, "
            f"with a denominator up to {MAX_DENOMINATOR}, such as 4/5. Correct it and run again."
        )
    files = list_parquet(request.inputs)
    schema = _require_columns(request, files)
    start_runner(runner)
    with open_space(request.output) as space:
        return _Job(request, space, runner).run(files, schema)


def _require_columns(request: JoinRequest, files: Sequence[str]) -> pa.Schema:
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
    return schema


_EDGE = tuple(stages.EDGE)
_CONFLICTS = pa.schema(
    [
        ("document_a", stages.DOCUMENT),
        ("document_b", stages.DOCUMENT),
        ("common", pa.int64()),
        ("union", pa.int64()),
        ("label_a", pa.large_string()),
        ("label_b", pa.large_string()),
    ]
)


class _Job:
    """One run; each method is a stage, from files to files."""

    def __init__(self, request: JoinRequest, space: Space, runner: Runner) -> None:
        self.request, self.space, self.runner = request, space, runner
        self.retried: list[str] = []

    def run(self, files: Sequence[str], schema: pa.Schema) -> dict[str, JSON]:
        rows = self.identify(files)
        self.refuse_bad_rows(rows)
        documents = self.collapse(rows)
        candidates, cut = self.find_candidates(documents)
        pairs = self.verify(candidates, documents)
        stars = self.connect(pairs)
        tables = {
            "documents": self.place_documents(rows, stars),
            "pairs": pairs,
            "conflicts": self.dispute(rows, documents, pairs),
        }
        digest = self.digest(pairs)
        counts = {
            "rows": self.count(rows),
            "documents": self.count(documents),
            "candidates": self.count(candidates),
            "pairs": digest.pairs,
            "conflicts": self.count(tables["conflicts"]),
            "components": self.read(stars).select("root").distinct().count_rows(),
            "cut_buckets": cut,
        }
        return self.finish(counts, digest.finish(), tables)

    # -- stages ------------------------------------------------------------------------------

    def identify(self, files: Sequence[str]) -> Files:
        """Name each row's document."""
        from daft import col

        request = self.request
        carried = {"label": request.label, "source": request.source}
        columns = [name for name in (request.text, *carried.values()) if name is not None]
        row = request.row
        if row is None:
            numbered = self.space.join("work/numbered/0.parquet")
            files, row = [number_rows(files, list(dict.fromkeys(columns)), numbered)], ROW
        rows = self.read(files)
        if request.partitions and self.runner == "ray":
            rows = rows.into_partitions(request.partitions)
        identify = _wrap(stages.identify_texts, stages.IDENTITY)
        extra = [col(name).alias(as_name) for as_name, name in carried.items() if name is not None]
        return self.save(
            "work/rows", rows.select(col(row).alias(ROW), *extra, identify(col(request.text)))
        )

    def refuse_bad_rows(self, rows: Files) -> None:
        """Stop when a row has no text, or its id is not its own."""
        from daft import col, lit

        found = self.read(rows)
        self._refuse(
            found.where(col("normal") == lit("")),
            "have no text (it is null or empty): expected a "
            "text in each. Drop these rows at their source",
        )
        if self.request.row is not None:
            self._refuse(found.where(col(ROW).is_null()), "have no id: expected one in each")
            ids = found.groupby(ROW).agg(col("document").count().alias("times"))
            self._refuse(
                ids.where(col("times") > lit(1)),
                f"share their id: expected {self.request.row!r} to differ in each. Name another "
                "column, or none",
            )

    def _refuse(self, bad: "DataFrame", sentence: str) -> None:
        from daft import col

        found = bad.agg(col(ROW).count("all").alias("count"), col(ROW).min().alias("first"))
        [one] = found.to_pylist()
        if one["count"]:
            raise PedigreeError(
                f"{one['count']} rows {sentence}, and run again. The first is row {one['first']!r}."
            )

    def collapse(self, rows: Files) -> Files:
        """Keep one text of those that are equal."""
        from daft import col

        texts = self.read(rows).groupby("document").agg(col("normal").any_value())
        return self.save("work/texts", texts)

    def find_candidates(self, documents: Files) -> tuple[Files, int]:
        """Return the distinct pairs that share a band, and how many buckets were cut."""
        from daft import col

        make_keys = _wrap(stages.key_texts, stages.KEYS)
        keys = self.save(
            "work/keys", self.read(documents).select("document", make_keys(col("normal")))
        )
        count = max(1, self.count(documents))
        bands = max(1, self.request.keys_at_once // count)
        keys_names = list(stages.KEYS)
        found: Files = []
        for start in range(0, len(keys_names), bands):
            names = keys_names[start : start + bands]
            found += self.pair_bands(keys, names, 1 + count * len(names) // KEYS_A_SHARD)
        every = self.read(found)
        cut = every.where(col("left") == col("right")).count_rows()
        distinct = every.where(col("left") != col("right")).distinct()
        return self.save("work/candidates", distinct), cut

    def pair_bands(self, keys: Files, names: Sequence[str], shards: int) -> Files:
        """Pair the documents that share a key of these bands."""
        from daft import col, lit

        parts = [self.read(keys).select("document", col(name).alias("key")) for name in names]
        known = reduce(lambda one, other: one.concat(other), parts).where(col("key") != lit(NO_KEY))
        sharded = known.with_column("shard", (col("key") % lit(shards)).cast("uint32"))
        pair = _wrap(stages.pair_keys, stages.CANDIDATE, unnest=False)
        pairs = sharded.groupby("shard").map_groups(pair(col("key"), col("document")).alias("pair"))
        return self.save(
            f"work/shared-{names[0]}",
            pairs.select(col("pair")["left"].alias("left"), col("pair")["right"].alias("right")),
        )

    def verify(self, candidates: Files, documents: Files) -> Files:
        """Keep the candidates that are alike enough, with exact counts."""
        from daft import col

        texts = self.read(documents)
        sides = [
            texts.select(col("document").alias(name), col("normal").alias(f"{name}_text"))
            for name in ("left", "right")
        ]
        both = self.read(candidates).join(sides[0], on="left").join(sides[1], on="right")
        counted = both.select(
            col("left").alias("document_a"),
            col("right").alias("document_b"),
            self.counter()(col("left"), col("right"), col("left_text"), col("right_text")),
        )
        return self.save("pairs", counted.where(col("common").not_null()))

    def counter(self) -> Callable[..., "Expression"]:
        """Return the function that counts the shingles of pairs, null below the similarity."""
        count = partial(stages.count_shingles, at_least=self.request.similarity)
        return _wrap(count, stages.COUNTS, batch_size=PAIRS_A_BATCH)

    def connect(self, pairs: Files) -> Files:
        """Return for each document that has a near-duplicate the smallest of its component."""
        from daft import col, lit

        count = self.count(pairs)
        if count == 0:
            return self.write_empty("work/stars", pa.schema(list(stages.EDGE.items())))
        edges = self.read(pairs).select(
            col("document_b").alias("node"), col("document_a").alias("root")
        )
        if count <= self.request.edges_at_once:
            connect = _wrap(stages.connect, stages.EDGE, unnest=False)
            whole = edges.with_column("all", lit(0)).groupby("all")
            stars = whole.map_groups(connect(col("node"), col("root")).alias("edge"))
            ends = [col("edge")[end].alias(end) for end in _EDGE]
            return self.save("work/stars", stars.select(*ends))
        for turn in range(MAX_ROUNDS):
            files = self.draw_stars(edges, f"work/round-{turn}")
            edges = self.read(files)
            if self.are_stars(edges):
                return files
        raise PedigreeError(
            f"The components of the pairs did not settle in {MAX_ROUNDS} rounds: expected a number "
            "that grows with the logarithm of the longest chain. Raise --similarity, or report it."
        )

    def draw_stars(self, edges: "DataFrame", name: str) -> Files:
        """Link each document closer to the smallest of its component.

        Kiveris et al., Connected Components in MapReduce and Beyond, SoCC 2014: a large star
        links a document's larger neighbours to the smallest one, a small star the smaller ones.
        Edges go from the larger document (`node`) to the smaller one (`root`).
        """
        from daft import col

        back = edges.select(col("root").alias("node"), col("node").alias("root"))
        selves = [edges.select(col(end).alias("node"), col(end).alias("root")) for end in _EDGE]
        near = reduce(lambda one, other: one.concat(other), [edges, back, *selves])
        linked = back.join(_least(near), on="node")
        large = self.save(
            f"{name}-large",
            linked.select(col("root").alias("node"), col("least").alias("root")).distinct(),
        )
        linked = self.read(large).join(_least(self.read(large)), on="node")
        moved = linked.where(col("root") != col("least")).select(
            col("root").alias("node"), col("least").alias("root")
        )
        kept = linked.select("node", col("least").alias("root"))
        return self.save(f"{name}-small", moved.concat(kept).distinct())

    def are_stars(self, edges: "DataFrame") -> bool:
        """Tell whether each document points at one root, which points at none."""
        nodes = edges.select("node").distinct()
        if nodes.count_rows() != edges.count_rows():
            return False
        roots = edges.select("root").distinct()
        return roots.join(nodes, left_on="root", right_on="node", how="semi").count_rows() == 0

    def place_documents(self, rows: Files, stars: Files) -> Files:
        """Write each row's document and component."""
        from daft import col

        found = self.read(rows).exclude("normal")
        component = self.read(stars).select(
            col("node").alias("document"), col("root").alias("component")
        )
        joined = found.join(component, on="document", how="left")
        whole = joined.with_column("component", col("component").fill_null(col("document")))
        names = [name for name in found.column_names if name not in (ROW, "document")]
        return self.save("documents", whole.select(ROW, "document", "component", *names))

    def dispute(self, rows: Files, documents: Files, pairs: Files) -> Files:
        """Write the verified pairs whose labels differ, and equal texts whose labels do."""
        from daft import col, lit

        if self.request.label is None:
            return self.write_empty("conflicts", _CONFLICTS)
        known = self.read(rows).where(col("label").not_null())
        labels = self.read(
            self.save(
                "work/labels",
                known.select("document", col("label").cast("string")).distinct(),
            )
        )
        several = labels.groupby("document").agg(col("label").count().alias("times"))
        equal = self.read(documents).join(several.where(col("times") > lit(1)), on="document")
        itself = equal.select(
            col("document").alias("document_a"),
            col("document").alias("document_b"),
            self.counter()(*(col(one) for one in ("document", "document", "normal", "normal"))),
        )
        first, second = (
            labels.select(
                col("document").alias(f"document_{side}"), col("label").alias(f"label_{side}")
            )
            for side in "ab"
        )
        every = self.read(pairs).concat(self.read(self.save("work/equal", itself)))
        both = every.join(first, on="document_a").join(second, on="document_b")
        differ = (col("label_a") != col("label_b")) & (
            (col("document_a") != col("document_b")) | (col("label_a") < col("label_b"))
        )
        return self.save("conflicts", both.where(differ).select(*_CONFLICTS.names))

    def digest(self, pairs: Files) -> PairDigest:
        """Digest the pairs in order, a batch at a time; the driver never holds them all."""
        from daft import col

        name = _wrap(stages.name_pairs, stages.NAMES)
        named = self.read(pairs).select(
            name(col("document_a"), col("document_b")), "common", "union"
        )
        digest = PairDigest()
        for batch in named.sort(["a", "b"]).to_arrow_iter():
            digest.update(*batch.select(["a", "b", "common", "union"]).columns)
        return digest

    # -- files -------------------------------------------------------------------------------

    def read(self, files: Sequence[str]) -> "DataFrame":
        """Read files of Parquet, exactly those."""
        import daft

        return daft.read_parquet(list(files))

    def count(self, files: Sequence[str]) -> int:
        """Return how many rows files have."""
        return self.read(files).count_rows()

    def save(self, name: str, frame: "DataFrame") -> Files:
        """Run a stage and return the files that hold it.

        Each attempt has a folder of its own, and only files that a finished attempt named are
        read: what a lost worker left cannot count twice.
        """
        for attempt in range(ATTEMPTS):
            try:
                written = frame.write_parquet(self.space.join(f"{name}/{attempt}"))
                files = cast(Files, written.to_pydict()["path"])
                return sorted(files) or self.write_empty(name, frame.schema().to_pyarrow_schema())
            except Exception as error:
                self.explain(name, error, last=attempt == ATTEMPTS - 1)
                self.retried.append(name)
        raise AssertionError

    def explain(self, name: str, error: Exception, *, last: bool) -> None:
        """Raise what a person can act on, or return where the stage is worth another attempt."""
        text = " ".join(str(error).split())
        if "No space left" in text or "os error 28" in text or "Disk quota" in text:
            raise PedigreeError(
                f"The disk is full while writing {name} of {self.request.output}: nothing was "
                "kept; free some space and run the same command again."
            ) from error
        if self.runner == "native" or last:
            raise PedigreeError(
                f"The stage {name} of the near-duplicate job failed ({text[:500]}): nothing was "
                "kept; look at the job's log, and run the same command again."
            ) from error
        print(f"The stage {name} failed and is tried again: {text[:500]}", file=sys.stderr)

    def write_empty(self, name: str, schema: pa.Schema) -> Files:
        """Write a table without rows."""
        path = self.space.join(f"{name}/empty.parquet")
        filesystem, bare = open_filesystem(path)
        filesystem.create_dir(bare.rpartition("/")[0])
        pq.write_table(schema.empty_table(), bare, filesystem=filesystem)
        return [path]

    def finish(
        self, counts: dict[str, int], digest: str, tables: dict[str, Files]
    ) -> dict[str, JSON]:
        """Delete what is not part of the result, and say last what is."""
        self.space.delete("work")
        named = {name: [self.space.relative(one) for one in tables[name]] for name in tables}
        result: dict[str, JSON] = {
            "similarity": str(self.request.similarity),
            "runner": self.runner,
            "kernel": {
                "shingle": kernel.SHINGLE,
                "bands": kernel.BANDS,
                "max_bucket": kernel.MAX_BUCKET,
                "window": kernel.WINDOW,
            },
            **counts,
            "digest_pairs": digest,
            "tables": cast(JSON, named),
            "retried_stages": cast(JSON, self.retried),
        }
        self.space.write(RESULT, (json.dumps(result, indent=2) + "\n").encode())
        return result


def _least(edges: "DataFrame") -> "DataFrame":
    from daft import col

    return edges.groupby("node").agg(col("root").min().alias("least"))


def _wrap(
    function: Callable[..., pa.StructArray],
    fields: Mapping[str, pa.DataType],
    *,
    unnest: bool = True,
    batch_size: int | None = None,
) -> Callable[..., "Expression"]:
    """Return a function of Arrow columns as one of Daft's, which returns several columns."""
    import daft
    from daft import DataType

    kind = DataType.from_arrow_type(pa.struct(list(fields.items())))

    def call(*columns: "Series") -> pa.StructArray:
        return function(*[column.to_arrow() for column in columns])

    made = daft.func.batch(return_dtype=kind, unnest=unnest, batch_size=batch_size)(call)
    return cast(Callable[..., "Expression"], made)
