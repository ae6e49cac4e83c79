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

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.neighbours import stages
from pedigree.neighbours.kernel import NO_KEY
from pedigree.neighbours.pairs import CONFLICTS, PairDigest
from pedigree.neighbours.request import JoinRequest
from pedigree.neighbours.stage_files import Files, Runner, StageFiles
from pedigree.neighbours.storage import ROW, number_rows, open_space

if TYPE_CHECKING:
    from daft import DataFrame, Expression, Series

# Daft's choice of a runner holds for the whole process, and it refuses to make it twice.
_RUNNING: dict[str, Runner] = {}

# Keys that are sorted together: what one call of `pair_keys` holds, when no bucket is hot.
KEYS_A_SHARD = 1 << 19
# Rounds of stars grow with the logarithm of the longest chain, at most its square.
MAX_ROUNDS = 100
# Text that one batch of pairs holds, by the mean length; a batch looks at each of its texts once,
# so more pairs cost less (9 against 11 CPU-seconds a million for 32768 against 4096).
PAIR_CHARACTERS = 1 << 27
LEAST_PAIRS, MOST_PAIRS = 64, 1 << 15


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
    files = request.find_files()
    start_runner(runner)
    with open_space(request.output) as space:
        try:
            return _Job(request, StageFiles(space, runner)).run(files)
        except PedigreeError:
            raise
        except Exception as error:  # Daft and Ray have no type in common for what they raise
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a full disk: the space knows a sentence for it
            text = " ".join(str(error).split())[:500]
            raise PedigreeError(
                f"The near-duplicate job failed ({text}): nothing was kept; look at its log, and "
                "run the same command again."
            ) from error


_EDGE = tuple(stages.EDGE)


class _Job:
    """One run; each method is a stage, from files to files."""

    def __init__(self, request: JoinRequest, files: StageFiles) -> None:
        self.request, self.files = request, files

    def run(self, files: Sequence[str]) -> dict[str, JSON]:
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
        facts: dict[str, JSON] = {
            "similarity": str(self.request.similarity),
            "rows": self.count(rows),
            "documents": self.count(documents),
            "candidates": self.count(candidates),
            "pairs": digest.pairs,
            "conflicts": self.count(tables["conflicts"]),
            "components": self.read(stars).select("root").distinct().count_rows(),
            "cut_buckets": cut,
            "digest_pairs": digest.finish(),
        }
        return self.files.finish(facts, tables)

    # -- stages ------------------------------------------------------------------------------

    def identify(self, files: Sequence[str]) -> Files:
        """Name each row's document."""
        from daft import col

        request = self.request
        carried = {"label": request.label, "source": request.source}
        columns = [name for name in (request.text, *carried.values()) if name is not None]
        row = request.row
        if row is None:
            numbered = self.files.space.join("work/numbered/0.parquet")
            files, row = [number_rows(files, list(dict.fromkeys(columns)), numbered)], ROW
        rows = self.read(files)
        if request.partitions and self.files.runner == "ray":
            rows = rows.into_partitions(request.partitions)
        identify = _wrap(stages.identify_texts, stages.IDENTITY)
        extra = [col(name).alias(as_name) for as_name, name in carried.items() if name is not None]
        return self.files.save(
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
        return self.files.save("work/texts", texts)

    def find_candidates(self, documents: Files) -> tuple[Files, int]:
        """Return the distinct pairs that share a band, and how many buckets were cut."""
        from daft import col

        make_keys = _wrap(stages.key_texts, stages.KEYS)
        keys = self.files.save(
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
        return self.files.save("work/candidates", distinct), cut

    def pair_bands(self, keys: Files, names: Sequence[str], shards: int) -> Files:
        """Pair the documents that share a key of these bands."""
        from daft import col, lit

        parts = [self.read(keys).select("document", col(name).alias("key")) for name in names]
        known = reduce(lambda one, other: one.concat(other), parts).where(col("key") != lit(NO_KEY))
        sharded = known.with_column("shard", (col("key") % lit(shards)).cast("uint32"))
        pair = _wrap(stages.pair_keys, stages.CANDIDATE, unnest=False)
        pairs = sharded.groupby("shard").map_groups(pair(col("key"), col("document")).alias("pair"))
        return self.files.save(
            f"work/shared-{names[0]}",
            pairs.select(col("pair")["left"].alias("left"), col("pair")["right"].alias("right")),
        )

    def verify(self, candidates: Files, documents: Files) -> Files:
        """Keep the candidates that are alike enough, with exact counts."""
        import daft
        from daft import col

        texts = self.read(documents)
        sides = [
            texts.select(col("document").alias(name), col("normal").alias(f"{name}_text"))
            for name in ("left", "right")
        ]
        both = self.read(candidates).join(sides[0], on="left").join(sides[1], on="right")
        rows = self.pairs_a_batch(documents)
        counted = both.select(
            col("left").alias("document_a"),
            col("right").alias("document_b"),
            self.counter(rows)(col("left"), col("right"), col("left_text"), col("right_text")),
        )
        # What a join puts out at a time is as long as what goes into it.
        with daft.execution_config_ctx(default_morsel_size=rows):
            return self.files.save("pairs", counted.where(col("common").not_null()))

    def pairs_a_batch(self, documents: Files) -> int:
        """Return how many pairs are held with both texts."""
        from daft import col

        length = col("normal").length().mean().alias("length")
        [found] = self.read(documents).agg(length).to_pylist()
        fitting = PAIR_CHARACTERS // (2 * int(found["length"] or 1))
        return min(max(fitting, LEAST_PAIRS), MOST_PAIRS)

    def counter(self, rows: int) -> Callable[..., "Expression"]:
        """Return the function that counts the shingles of pairs, null below the similarity."""
        count = partial(stages.count_shingles, at_least=self.request.similarity)
        return _wrap(count, stages.COUNTS, batch_size=rows)

    def connect(self, pairs: Files) -> Files:
        """Return for each document that has a near-duplicate the smallest of its component."""
        from daft import col, lit

        count = self.count(pairs)
        if count == 0:
            return self.files.write_empty("work/stars", pa.schema(list(stages.EDGE.items())))
        edges = self.read(pairs).select(
            col("document_b").alias("node"), col("document_a").alias("root")
        )
        if count <= self.request.edges_at_once:
            connect = _wrap(stages.connect, stages.EDGE, unnest=False)
            whole = edges.with_column("all", lit(0)).groupby("all")
            stars = whole.map_groups(connect(col("node"), col("root")).alias("edge"))
            ends = [col("edge")[end].alias(end) for end in _EDGE]
            return self.files.save("work/stars", stars.select(*ends))
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
        large = self.files.save(
            f"{name}-large",
            linked.select(col("root").alias("node"), col("least").alias("root")).distinct(),
        )
        linked = self.read(large).join(_least(self.read(large)), on="node")
        moved = linked.where(col("root") != col("least")).select(
            col("root").alias("node"), col("least").alias("root")
        )
        kept = linked.select("node", col("least").alias("root"))
        return self.files.save(f"{name}-small", moved.concat(kept).distinct())

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
        return self.files.save("documents", whole.select(ROW, "document", "component", *names))

    def dispute(self, rows: Files, documents: Files, pairs: Files) -> Files:
        """Write the verified pairs whose labels differ, and equal texts whose labels do."""
        from daft import col, lit

        if self.request.label is None:
            return self.files.write_empty("conflicts", CONFLICTS)
        known = self.read(rows).where(col("label").not_null())
        labels = self.read(
            self.files.save(
                "work/labels",
                known.select("document", col("label").cast("string")).distinct(),
            )
        )
        several = labels.groupby("document").agg(col("label").count().alias("times"))
        equal = self.read(documents).join(several.where(col("times") > lit(1)), on="document")
        itself = equal.select(
            col("document").alias("document_a"),
            col("document").alias("document_b"),
            self.counter(LEAST_PAIRS)(
                *(col(one) for one in ("document", "document", "normal", "normal"))
            ),
        )
        first, second = (
            labels.select(
                col("document").alias(f"document_{side}"), col("label").alias(f"label_{side}")
            )
            for side in "ab"
        )
        every = self.read(pairs).concat(self.read(self.files.save("work/equal", itself)))
        both = every.join(first, on="document_a").join(second, on="document_b")
        differ = (col("label_a") != col("label_b")) & (
            (col("document_a") != col("document_b")) | (col("label_a") < col("label_b"))
        )
        return self.files.save("conflicts", both.where(differ).select(*CONFLICTS.names))

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

    def read(self, files: Sequence[str]) -> "DataFrame":
        """Read files of Parquet, exactly those."""
        import daft

        return daft.read_parquet(list(files))

    def count(self, files: Sequence[str]) -> int:
        """Return how many rows files have."""
        return self.read(files).count_rows()


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
