"""The relational job on Daft's native runner equals brute force, however its input is cut."""

import hashlib
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.neighbours import kernel
from pedigree.neighbours.engines import find_with_daft
from pedigree.neighbours.join import join_neighbours
from pedigree.neighbours.local import find_near_duplicates
from pedigree.neighbours.pairs import PAIRS, digest_pairs
from pedigree.neighbours.request import JoinRequest
from pedigree.neighbours.stage_files import ATTEMPTS, StageFiles
from pedigree.neighbours.stages import connect, pair_keys
from pedigree.neighbours.storage import Space, open_table, read_result
from tests.conftest import REPOSITORY
from tests.unit.neighbours.corpus import brute_force, compare, components, document_of, make_texts

pytest.importorskip("daft")

SIMILARITY = Fraction(4, 5)
TEXTS = make_texts(1, 240)


def write(folder: Path, texts: Sequence[str | None], files: int = 1, **columns: Sequence) -> Path:
    """Write texts as Parquet, cut into `files` files of different sizes."""
    folder.mkdir()
    table = pa.table({"text": pa.array(texts, pa.string()), **columns})
    borders = [len(texts) * i * i // files**2 for i in range(files + 1)]
    for i, (start, stop) in enumerate(pairwise(borders)):
        pq.write_table(table.slice(start, stop - start), folder / f"part-{i}.parquet")
    return folder


def join(place: Path, output: Path, **changes: object) -> dict:
    options = {"inputs": (str(place),), "output": str(output), "similarity": SIMILARITY, **changes}
    return join_neighbours(JoinRequest(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def expected() -> pa.Table:
    return brute_force(TEXTS, SIMILARITY)


def test_the_pairs_are_those_of_brute_force_and_of_the_engine_in_memory(
    tmp_path: Path, expected: pa.Table
) -> None:
    result = join(write(tmp_path / "in", TEXTS), tmp_path / "out")
    assert expected.num_rows > 40
    assert result["digest_pairs"] == digest_pairs(expected)
    assert digest_pairs(open_table(str(tmp_path / "out"), "pairs")) == result["digest_pairs"]
    assert result["pairs"] == expected.num_rows
    assert result["rows"] == len(TEXTS)
    assert result["documents"] == len({document_of(text) for text in TEXTS}) < len(TEXTS)
    assert result == read_result(str(tmp_path / "out"))


def test_what_daft_finds_is_what_the_engine_in_memory_finds(
    tmp_path: Path, expected: pa.Table
) -> None:
    local = find_near_duplicates(TEXTS, 0.8)
    a, b = (local.digests.take(pa.array(side)) for side in local.pairs.T)
    assert digest_pairs(pa.table([a, b, local.common, local.union], names=PAIRS.names)) == (
        digest_pairs(expected)
    )
    found = find_with_daft(TEXTS, 0.8, tmp_path / "work")
    assert found.digests.equals(local.digests)
    for name in ("document", "pairs", "common", "union"):
        assert getattr(found, name).tolist() == getattr(local, name).tolist()
    assert found.cut_buckets == local.cut_buckets
    assert found.components().tolist() == local.components().tolist()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("edges_at_once", [1 << 22, 0])
def test_rows_know_their_document_and_component(
    tmp_path: Path, expected: pa.Table, edges_at_once: int
) -> None:
    labels = [f"s{i % 7}" for i in range(len(TEXTS))]
    place = write(tmp_path / "in", TEXTS, source=labels)
    result = join(place, tmp_path / "out", source="source", edges_at_once=edges_at_once)
    rows = open_table(str(tmp_path / "out"), "documents").sort_by("row").to_pylist()
    assert [row["row"] for row in rows] == list(range(len(TEXTS)))
    assert [row["source"] for row in rows] == labels
    assert [row["document"] for row in rows] == [document_of(text) for text in TEXTS]
    owner = components(TEXTS, expected)
    assert [row["component"] for row in rows] == owner
    several = {c for c, text in zip(owner, TEXTS, strict=True) if c != document_of(text)}
    assert result["components"] == len(several)


def test_order_files_and_passes_change_nothing(tmp_path: Path, expected: pa.Table) -> None:
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(TEXTS))]
    order = random.Random(3).sample(range(len(TEXTS)), len(TEXTS))
    for turn, (files, keys_at_once) in enumerate([(1, 1), (3, 5000), (7, 1 << 24)]):
        rows = order if turn else range(len(TEXTS))
        place = write(
            tmp_path / f"in-{turn}", [TEXTS[i] for i in rows], files, id=[keys[i] for i in rows]
        )
        output = tmp_path / f"out-{turn}"
        result = join(place, output, row="id", keys_at_once=keys_at_once)
        assert result["digest_pairs"] == digest_pairs(expected)
        documents = open_table(str(output), "documents").sort_by("row")
        assert dict(
            zip(*(documents.column(n).to_pylist() for n in ("row", "document")), strict=True)
        ) == {key: document_of(text) for key, text in zip(keys, TEXTS, strict=True)}


def test_rows_are_counted_through_the_files_by_name(tmp_path: Path) -> None:
    place = write(tmp_path / "in", TEXTS[:50], files=4)
    (place / "_notes.parquet").write_bytes(b"not read")
    join(place, tmp_path / "out")
    rows = open_table(str(tmp_path / "out"), "documents").sort_by("row")
    assert rows.column("document").to_pylist() == [document_of(text) for text in TEXTS[:50]]


def test_copies_that_dispute_a_label_are_verified_pairs(tmp_path: Path) -> None:
    base, other, plain = make_texts(5, 3)
    near = base.replace(base.split()[3], "elsewhere")
    texts = [base, base.upper(), base, near, other, plain, plain]
    labels = ["yes", "no", "yes", "no", "no", "yes", None]
    place = write(tmp_path / "in", texts, label=labels)
    result = join(place, tmp_path / "out", label="label")
    found = open_table(str(tmp_path / "out"), "conflicts").to_pylist()
    a, b = sorted([document_of(base), document_of(near)])
    common, union = compare(base, near)
    size = compare(base, base)[0]
    label = {document_of(base): "yes", document_of(near): "no"}
    assert sorted(tuple(one.values()) for one in found) == sorted(
        [
            (a, b, common, union, label[a], label[b]),
            (document_of(base), document_of(base), size, size, "no", "yes"),
        ]
    )
    assert result["conflicts"] == 2


def test_numbers_may_be_labels_and_no_label_disputes_nothing(tmp_path: Path) -> None:
    place = write(tmp_path / "in", ["one text of words", "One text of words!"], label=[0, 1])
    assert join(place, tmp_path / "numbers", label="label")["conflicts"] == 1
    assert join(place, tmp_path / "none")["conflicts"] == 0
    assert open_table(str(tmp_path / "none"), "conflicts").num_rows == 0


@pytest.mark.parametrize("edges_at_once", [1 << 22, 0])
def test_a_chain_is_one_component_and_keeps_its_pairs(tmp_path: Path, edges_at_once: int) -> None:
    words = make_texts(9, 40)
    chain = [
        " ".join(f"{w}" for w in " ".join(words).split()[2 * i : 2 * i + 24]) for i in range(40)
    ]
    result = join(write(tmp_path / "in", chain), tmp_path / "out", edges_at_once=edges_at_once)
    truth = brute_force(chain, SIMILARITY)
    assert result["digest_pairs"] == digest_pairs(truth)
    assert result["components"] == len(set(components(chain, truth))) == 1
    rows = open_table(str(tmp_path / "out"), "documents").sort_by("row")
    assert rows.column("component").to_pylist() == components(chain, truth)


def test_a_flooded_bucket_is_cut_counted_and_still_one_component(tmp_path: Path) -> None:
    base = make_texts(11, 1)[0]
    flood = [f"{base} number{i}" for i in range(3 * kernel.MAX_BUCKET)]
    result = join(write(tmp_path / "in", [*flood, *TEXTS[:50]]), tmp_path / "out")
    assert result["cut_buckets"] > 0
    local = find_near_duplicates([*flood, *TEXTS[:50]], 0.8)
    assert result["cut_buckets"] == local.cut_buckets
    assert result["pairs"] == len(local.pairs)
    count = len(flood)
    linear = kernel.BANDS * count * (kernel.WINDOW + 1)
    assert count - 1 <= result["pairs"] <= min(linear, count * (count - 1) // 2 + 50)
    rows = open_table(str(tmp_path / "out"), "documents").sort_by("row")
    owners = rows.column("component").to_pylist()
    assert set(owners[:count]) == {min(document_of(text) for text in flood)}


def test_a_hundred_thousand_members_of_a_bucket_cost_linear_memory() -> None:
    count = 100_000
    names = [hashlib.sha256(str(i).encode()).digest()[:16] for i in range(count)]
    pairs = pair_keys(pa.array(np.ones(count, np.uint64)), pa.array(names, pa.binary(16)))
    left, right = (pairs.field(side).to_pylist() for side in ("left", "right"))
    ranked = sorted(names)
    assert left.count(ranked[0]) >= count - 1
    assert sum(a == b for a, b in zip(left, right, strict=True)) == 1
    assert len(left) <= count * (kernel.WINDOW + 1) + 1


def test_pairs_of_small_buckets_are_all_pairs() -> None:
    draw = random.Random(2)
    names = [draw.randbytes(16) for _ in range(300)]
    keys = [draw.randrange(60) for _ in names]
    found = pair_keys(pa.array(keys, pa.uint64()), pa.array(names, pa.binary(16)))
    got = sorted(zip(*(found.field(s).to_pylist() for s in ("left", "right")), strict=True))
    assert got == sorted(
        (a, b)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if keys[i] == keys[j] and a < b
    )


def test_a_graph_of_no_edges_has_no_stars() -> None:
    empty = pa.array([], pa.binary(16))
    assert len(connect(empty, empty)) == 0


@pytest.mark.parametrize(("texts", "count"), [([], 0), (["alone"], 1), (["same"] * 50, 50)])
def test_tables_without_a_pair_have_a_whole_result(
    tmp_path: Path, texts: list[str], count: int
) -> None:
    result = join(write(tmp_path / "in", texts), tmp_path / "out")
    assert result["pairs"] == result["conflicts"] == result["components"] == 0
    assert result["documents"] == len(set(texts))
    assert result["digest_pairs"] == digest_pairs(PAIRS.empty_table())
    assert open_table(str(tmp_path / "out"), "documents").num_rows == count


def test_rows_without_text_are_refused_and_counted(tmp_path: Path) -> None:
    texts = [*TEXTS[:20], None, "", *TEXTS[20:40], "  "]
    place = write(tmp_path / "in", texts, files=3, id=[f"id{i:02}" for i in range(len(texts))])
    with pytest.raises(PedigreeError, match=r"^3 rows have no text.*first is row 20\.$"):
        join(place, tmp_path / "out")
    with pytest.raises(PedigreeError, match=r"^3 rows have no text.*first is row 'id20'\.$"):
        join(place, tmp_path / "out", row="id")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_row_ids_that_are_shared_or_null_are_refused(tmp_path: Path) -> None:
    place = write(tmp_path / "shared", TEXTS[:4], id=[1, 2, 2, 3])
    with pytest.raises(PedigreeError, match=r"1 rows share their id.*first is row 2\."):
        join(place, tmp_path / "out", row="id")
    place = write(tmp_path / "null", TEXTS[:4], id=[1, 2, None, 3])
    with pytest.raises(PedigreeError, match="1 rows have no id"):
        join(place, tmp_path / "out", row="id")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": "body"}, "has no column 'body': it has text, data, at"),
        ({"label": "mark"}, "has no column 'mark'"),
        ({"text": "data"}, "The column 'data' is binary: expected strings"),
        ({"row": "at"}, "The column 'at' is double: expected integers or strings"),
        ({"similarity": Fraction(0)}, "expected a fraction above 0"),
        ({"similarity": Fraction(3, 2)}, "expected a fraction above 0"),
    ],
)
def test_a_malformed_request_is_a_sentence(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    place = write(tmp_path / "in", ["a text"], data=[b"\xff"], at=[0.5])
    with pytest.raises(PedigreeError, match=sentence):
        join(place, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_input_that_is_not_there_or_no_parquet_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match="does not exist"):
        join(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PedigreeError, match=r"holds no Parquet file"):
        join(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "x.parquet").write_bytes(b"not Parquet at all")
    with pytest.raises(PedigreeError, match=r"x\.parquet cannot be read as Parquet"):
        join(tmp_path / "empty", tmp_path / "out")
    place = write(tmp_path / "mixed", ["a"])
    pq.write_table(pa.table({"text": [1]}), place / "z.parquet")
    with pytest.raises(PedigreeError, match=r"z\.parquet has the types"):
        join(place, tmp_path / "out")


def test_a_result_is_not_overwritten_and_a_half_one_is_not_read(tmp_path: Path) -> None:
    place = write(tmp_path / "in", TEXTS[:10])
    join(place, tmp_path / "out")
    with pytest.raises(PedigreeError, match="is there already"):
        join(place, tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(EvidenceMissing, match="holds no whole result"):
        open_table(str(tmp_path / "out"), "pairs")


def test_files_that_a_lost_worker_left_do_not_count(tmp_path: Path) -> None:
    place = write(tmp_path / "in", TEXTS[:100])
    join(place, tmp_path / "out")
    output = tmp_path / "out"
    before = open_table(str(output), "pairs")
    [file] = json.loads((output / "result.json").read_text())["tables"]["pairs"]
    (output / file).with_name("left-over.parquet").write_bytes((output / file).read_bytes())
    assert open_table(str(output), "pairs").equals(before)


def test_a_pair_that_comes_twice_has_no_digest() -> None:
    pair = {"document_a": b"a" * 16, "document_b": b"b" * 16, "common": 1, "union": 2}
    lines = b"61616161616161616161616161616161 62626262626262626262626262626262 1 2\n"
    once = pa.Table.from_pylist([pair], PAIRS)
    assert digest_pairs(once) == f"sha256:{hashlib.sha256(lines).hexdigest()}"
    with pytest.raises(PedigreeError, match="one comes twice"):
        digest_pairs(pa.Table.from_pylist([pair, pair], PAIRS))


class Flaky:
    """A frame whose first attempts leave half of a stage behind and fail."""

    def __init__(self, failures: int, message: str = "Actor died") -> None:
        self.failures, self.message = failures, message

    def write_parquet(self, root_dir: str) -> "Flaky":
        self.path = Path(root_dir) / "part.parquet"
        self.path.parent.mkdir(parents=True)
        self.path.write_bytes(b"half")
        if self.failures:
            self.failures -= 1
            raise ValueError(self.message)
        return self

    def to_pydict(self) -> dict[str, list[object]]:
        return {"path": [str(self.path)]}


def test_a_stage_is_tried_again_on_a_cluster_and_each_attempt_is_apart(tmp_path: Path) -> None:
    files = StageFiles(Space(str(tmp_path)), "ray")
    assert files.save("pairs", Flaky(ATTEMPTS - 1)) == [str(tmp_path / "pairs/2/part.parquet")]
    assert files.retried == ["pairs"] * (ATTEMPTS - 1)
    with pytest.raises(PedigreeError, match=r"The stage keys .* failed \(Actor died\)"):
        files.save("keys", Flaky(ATTEMPTS))


def test_one_machine_does_not_try_again_and_a_full_disk_never(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match="The stage keys"):
        StageFiles(Space(str(tmp_path)), "native").save("keys", Flaky(1))
    full = "Io error: No space left on device (os error 28)"
    with pytest.raises(PedigreeError, match="The disk is full while writing rows"):
        StageFiles(Space(str(tmp_path)), "ray").save("rows", Flaky(1, full))


def run_as_process(
    place: Path, output: Path, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    command = ["--input", str(place), "--output", str(output), "--similarity", "4/5"]
    return subprocess.run(
        [sys.executable, "-m", "pedigree.neighbours.job", *command],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, preexec_fn=before,
    )  # fmt: skip


def test_the_module_runs_as_a_process_and_says_what_is_wrong(
    tmp_path: Path, expected: pa.Table
) -> None:
    done = run_as_process(write(tmp_path / "in", TEXTS), tmp_path / "out")
    assert json.loads(done.stdout) == read_result(str(tmp_path / "out"))
    assert json.loads(done.stdout)["digest_pairs"] == digest_pairs(expected)
    done = run_as_process(tmp_path / "nowhere", tmp_path / "other")
    assert done.returncode == 2
    assert done.stderr.startswith("pedigree: ")
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def allow_small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    place = write(tmp_path / "in", TEXTS * 4, id=[i for i in range(4 * len(TEXTS))])
    done = run_as_process(place, tmp_path / "out", allow_small_files)
    assert done.returncode == 2, done.stderr
    assert "The disk is full while writing" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_job_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    texts = make_texts(13, 30_000)
    command = ["--input", str(write(tmp_path / "in", texts)), "--output", str(tmp_path / "out")]
    job = subprocess.Popen(
        [sys.executable, "-m", "pedigree.neighbours.job", *command, "--similarity", "4/5"],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(tmp_path.glob(".partial-*/work/texts")):
        assert job.poll() is None
        time.sleep(0.005)
    job.terminate()
    assert job.wait(30) != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.slow
@pytest.mark.parametrize("row", [None, "id"])
def test_an_object_store_holds_the_same_result(
    tmp_path: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch, row: str | None
) -> None:
    """A real S3 interface: nothing can be renamed there."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        store = boto3.client("s3")
        store.create_bucket(Bucket="texts")
        place = write(tmp_path / "in", TEXTS, files=2, id=list(range(len(TEXTS))))
        for file in sorted(place.iterdir()):
            store.upload_file(str(file), "texts", f"in/{file.name}")
        output = f"s3://texts/out-{row}"  # the store outlives its server
        command = ["--input", "s3://texts/in", "--similarity", "4/5", "--output", output]
        done = subprocess.run(
            [sys.executable, "-m", "pedigree.neighbours.job", *command]
            + (["--row", row] if row else []),
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert read_result(output)["digest_pairs"] == digest_pairs(expected)
        assert digest_pairs(open_table(output, "pairs")) == digest_pairs(expected)
        keys = [one["Key"] for one in store.list_objects_v2(Bucket="texts")["Contents"]]
        assert not [key for key in keys if "/work" in key]
    finally:
        server.stop()
