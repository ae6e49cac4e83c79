"""The near-duplicate job on a real Ray cluster: a head and two workers, processes of this machine.

Everything of the cluster lies in one temporary folder and is gone afterwards.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.neighbours.join import join_neighbours
from pedigree.neighbours.pairs import digest_pairs
from pedigree.neighbours.request import JoinRequest
from pedigree.neighbours.storage import open_table
from tests.conftest import REPOSITORY
from tests.unit.neighbours.corpus import brute_force, make_texts

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

STORE_BYTES = 150 << 20
PATIENCE = 180.0


@dataclass
class Cluster:
    """A running cluster: how to reach it, and its nodes, the head first."""

    folder: Path
    gcs: int
    dashboard: int
    environment: dict[str, str]
    nodes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start(self, *arguments: str) -> None:
        """Start a node and wait until it says that it runs; nodes must not start at once."""
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block",
            "--disable-usage-stats", "--node-ip-address=127.0.0.1",
            # All nodes are on one machine: of those that share the default port, the first to start
            # has an agent that takes jobs, and that may not be the head.
            f"--dashboard-agent-listen-port={free_port()}",
            f"--object-store-memory={STORE_BYTES}", *arguments,
        ]  # fmt: skip
        node = subprocess.Popen(
            command, env=self.environment, cwd=self.folder, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.nodes.append(node)
        assert node.stdout is not None
        said = []
        for line in node.stdout:
            said.append(line)
            if "--block" in line:
                threading.Thread(target=node.stdout.read, daemon=True).start()
                return
        raise AssertionError("".join(said))

    def processes(self) -> list[psutil.Process]:
        """Return every process of the cluster, those that lost their parent too.

        They know the folder. Ray writes the titles of its workers over their environment, but
        these are children of others.
        """
        found: dict[int, psutil.Process] = {}
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                ours = one.environ().get("RAY_TMPDIR") == str(self.folder)
                if ours and one.pid != os.getpid():
                    found[one.pid] = one
                    found |= {child.pid: child for child in one.children(recursive=True)}
        return list(found.values())

    def stop(self) -> None:
        for _ in range(5):
            for one in self.processes():
                with suppress(psutil.NoSuchProcess):  # it ended with its parent, a moment ago
                    one.kill()
            for node in self.nodes:
                node.wait(10)
            if not self.processes():
                return
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # A Unix socket's path has at most 107 bytes: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "token").write_text("0123456789abcdef" * 4)
    before = {path for path in (Path("/tmp/ray"), Path.home() / ".ray") if path.exists()}
    settings = {
        "DAFT_PROGRESS_BAR": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    one = Cluster(folder, free_port(), free_port(), {**os.environ, **settings})
    try:
        one.start(
            "--head", f"--port={one.gcs}", f"--dashboard-port={one.dashboard}", "--num-cpus=0",
            f"--temp-dir={folder}",
        )  # fmt: skip
        for _ in range(2):
            one.start(f"--address=127.0.0.1:{one.gcs}", "--num-cpus=1")
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)
    assert not one.processes()
    assert not folder.exists()
    after = {path for path in (Path("/tmp/ray"), Path.home() / ".ray") if path.exists()}
    assert after == before


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Texts in three files, and the digest of their pairs by brute force."""
    texts = make_texts(4, 240)
    folder = tmp_path_factory.mktemp("corpus") / "in"
    write(folder, texts)
    return folder, digest_pairs(brute_force(texts, Fraction(4, 5)))


def write(folder: Path, texts: list[str]) -> None:
    folder.mkdir()
    labels = pa.array([("yes", "no")[i % 2] for i in range(len(texts))])
    table = pa.table({"text": pa.array(texts), "label": labels})
    third = len(texts) // 3
    for i in range(3):
        length = third if i < 2 else len(texts) - 2 * third
        pq.write_table(table.slice(i * third, length), folder / f"{i}.parquet")


def arguments(place: Path, output: Path) -> list[str]:
    return [
        "--input", str(place), "--output", str(output), "--similarity", "4/5", "--runner", "ray",
        "--label", "label", "--partitions", "3",
    ]  # fmt: skip


@contextmanager
def job(cluster: Cluster, place: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**cluster.environment, "RAY_ADDRESS": f"127.0.0.1:{cluster.gcs}"}
    command = [sys.executable, "-m", "pedigree.neighbours.job", *arguments(place, output)]
    with (output.parent / f"{output.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, text=True, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, "the job ended before"
        assert time.monotonic() < limit
        time.sleep(0.02)


def workers(cluster: Cluster) -> list[psutil.Process]:
    """Return the processes that run Daft's part of a job: one a node, named by Ray."""
    found = []
    for one in cluster.processes():
        with suppress(psutil.Error):
            if "RaySwordfishActor" in f"{one.name()} {' '.join(one.cmdline())}":
                found.append(one)
    return found


def test_a_killed_worker_costs_time_and_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    texts = make_texts(7, 12_000)
    write(tmp_path / "in", texts)
    native = join_neighbours(
        JoinRequest(
            (str(tmp_path / "in"),), str(tmp_path / "native"), Fraction(4, 5), label="label"
        )
    )
    with job(cluster, tmp_path / "in", tmp_path / "out") as process:
        wait_for(lambda: list(tmp_path.glob(".partial-*/work/texts/*/*.parquet")), process)
        found: list[psutil.Process] = []
        wait_for(lambda: found.extend(workers(cluster)) or found, process)
        found[0].send_signal(signal.SIGKILL)
        code = process.wait(PATIENCE)
    log = (tmp_path / "out.log").read_text()
    assert code == 0, log
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    for name in ("digest_pairs", "documents", "pairs", "conflicts", "components", "cut_buckets"):
        assert result[name] == native[name]
    pairs = open_table(str(tmp_path / "out"), "pairs")
    assert digest_pairs(pairs) == native["digest_pairs"]


def dagster(cluster: Cluster, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ray_asset", *words],
        env={**cluster.environment, "DAGSTER_DISABLE_TELEMETRY": "yes"}, cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def materialize(cluster: Cluster, *words: str) -> tuple[dict[str, Any], str]:
    """Return what came of a run in Dagster, and its log."""
    said, log = dagster(cluster, *words).communicate(timeout=PATIENCE)
    return json.loads(said.splitlines()[-1]), log


def test_dagster_submits_the_job_and_reports_what_it_says(
    cluster: Cluster, corpus: tuple[Path, str], tmp_path: Path
) -> None:
    place, digest = corpus
    said, log = materialize(cluster, cluster.address, *arguments(place, tmp_path / "out"))
    assert said["success"], (said, log)
    pairs = open_table(str(tmp_path / "out"), "pairs")
    assert digest_pairs(pairs) == digest
    assert said["tags"][0]["dagster/data_version"] == digest
    assert said["metadata"][0]["pairs"] == pairs.num_rows
    assert said["metadata"][0]["ray_job"].startswith("raysubmit_")
    assert said["checks"] == [{"passed": True, "pairs": pairs.num_rows}]
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert digest in log  # the job prints its result, and Dagster logs it


def test_what_is_wrong_with_the_data_arrives_as_a_sentence(
    cluster: Cluster, tmp_path: Path
) -> None:
    write(tmp_path / "in", ["one text", "", "another"])
    said, log = materialize(cluster, cluster.address, *arguments(tmp_path / "in", tmp_path / "out"))
    assert not said["success"]
    assert any("1 rows have no text" in one and "is row 1." in one for one in said["messages"]), log
    assert not (tmp_path / "out").exists()


def test_a_terminated_run_stops_its_job(cluster: Cluster, tmp_path: Path) -> None:
    write(tmp_path / "in", make_texts(8, 12_000))
    run = dagster(cluster, cluster.address, *arguments(tmp_path / "in", tmp_path / "out"))
    try:
        wait_for(lambda: list(tmp_path.glob(".partial-*/work/rows/*/*.parquet")), run)
        assert jobs(cluster, "pipelines.cluster_job")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=PATIENCE)
        limit = time.monotonic() + PATIENCE
        while jobs(cluster, "pipelines.cluster_job"):
            assert time.monotonic() < limit
            time.sleep(0.1)
    finally:
        run.kill()
        run.wait()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in"]


def jobs(cluster: Cluster, word: str) -> list[psutil.Process]:
    """Return the drivers of jobs that run on the cluster."""
    found = []
    for one in cluster.processes():
        with suppress(psutil.Error):
            if word in one.cmdline():
                found.append(one)
    return found


def test_a_cluster_that_is_not_there_is_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    words = arguments(tmp_path, tmp_path / "out")
    said, _ = materialize(cluster, f"http://127.0.0.1:{free_port()}", *words)
    assert any("No Ray cluster takes jobs at" in one for one in said["messages"])
