"""`dg dev` as the README says, asked over GraphQL and looked at with a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pedigree.project import Project
from tests.conftest import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("webserver")]

NAMES = {
    "raw_documents/shop",
    "curated_documents",
    "training_snapshot",
    "evaluation_snapshot",
    "base_model",
    "fine_tuned_model",
    "model_evaluation",
    "model_attestation",
    "production_model",
}
LINEAGE = "assets/production_model?view=lineage&lineageScope=upstream&lineageDepth=20"


def _ask(url: str, query: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"{url}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]


@pytest.fixture
def webserver(trained_copy: Project) -> Iterator[str]:
    """The address of `dg dev` in a project whose model is in production."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = trained_copy.root / ".dagster"
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "dg"), "dev", "--port", str(port)],
        cwd=trained_copy.root,
        env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(trained_copy.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}/server_info", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def test_the_graph_lists_assets_checks_and_jobs_by_name(webserver: str) -> None:
    said = _ask(
        webserver,
        """{ assetNodes { assetKey { path } groupName
               assetChecksOrError { ... on AssetChecks { checks { name blocking } } } }
             repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }""",
    )
    nodes = said["assetNodes"]
    assert {"/".join(node["assetKey"]["path"]) for node in nodes} >= NAMES
    checks = {
        check["name"]
        for node in nodes
        for check in (node["assetChecksOrError"].get("checks") or [])
        if check["blocking"]
    }
    assert checks == {
        "schema_holds",
        "snapshot_digest_matches",
        "near_duplicate_label_conflicts",
        "near_duplicate_floods",
        "trigger_ngrams",
        "label_issues",
        "anomalous_clusters",
        "influential_rows",
        "flattering_rows",
        "annotator_manipulation",
        "quarantine_window",
        "snapshot_changes",
        "source_drift",
        "hidden_text",
        "embedded_instructions",
        "secrets",
        "evaluation_leakage",
        "pin",
        "signature",
        "file_tree",
        "contents",
        "weights_are_finite",
        "evaluation_accuracy",
    }
    jobs = {j["name"] for r in said["repositoriesOrError"]["nodes"] for j in r["jobs"]}
    assert {"ingest_and_check", "fine_tune", "retrain", "release", "promote"} <= jobs


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_the_graph(webserver: str, tmp_path: Path) -> None:
    done = run(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=3600,1800",
        "--virtual-time-budget=25000", "--dump-dom", f"{webserver}/{LINEAGE}",
        cwd=tmp_path, HOME=str(tmp_path),
    )  # fmt: skip
    shown = done.stdout
    assert all(name.rpartition("/")[2] in shown for name in NAMES), shown[:2000]
