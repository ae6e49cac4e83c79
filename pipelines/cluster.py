"""Submits the near-duplicate job to a Ray cluster, in a Dagster Pipes session.

The cluster runs this checkout's code, which travels with the job, on data that lies on storage
that every machine sees. Log lines of the job become log lines of the Dagster run, and a run that
is terminated stops its job::

    found = find_on_cluster(context, params.neighbours, texts, 0.8)   # as `find_near_duplicates`
"""

import json
import shlex
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dagster as dg
from dagster_pipes import PipesMessage, PipesParams

from assets.resources import NeighbourResource
from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.neighbours.engines import read_near_duplicates, request_texts
from pedigree.neighbours.local import NearDuplicates
from pedigree.neighbours.normalisation import Texts
from pedigree.neighbours.storage import Space
from pedigree.params import NeighbourParams

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent
# Nothing on the cluster may phone home, and a progress bar would be thousands of log lines.
ENVIRONMENT = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
POLL_SECONDS = 1.0
AGENT_SECONDS = 60.0


class PipesRayClient(dg.PipesClient):
    """Runs `pipelines.cluster_job` on a Ray cluster and reports what it says to Dagster.

    Args:
        address: where the cluster takes jobs, such as http://head:8265.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        arguments: Sequence[str],
        extras: Mapping[str, JSON] | None = None,
    ) -> dg.PipesClientCompletedInvocation:
        """Submit the job and wait for its end.

        Raises:
            PedigreeError: the cluster cannot be reached, or the job failed; with the job's words.
        """
        reader = _LogReader()
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=reader,
            extras=dict(extras or {}),
        ) as session:
            cluster = _connect(self.address)
            job = self._submit(cluster, arguments, session.get_bootstrap_env_vars())
            context.log.info(f"Submitted the Ray job {job} to {self.address}.")
            try:
                status = self._follow(cluster, job, reader, context)
            except BaseException:  # also Dagster's interrupt: the run was terminated
                cluster.stop_job(job)
                raise
        done = dg.PipesClientCompletedInvocation(session, metadata={"ray_job": job})
        if status != "SUCCEEDED":
            raise PedigreeError(_explain(done, job, cluster.get_job_info(job).message))
        return done

    def _submit(
        self, cluster: "JobSubmissionClient", arguments: Sequence[str], variables: Mapping[str, str]
    ) -> str:
        """Hand the job in, and wait for a node that takes it.

        A cluster answers before the agents that start jobs have reported to it.
        """
        entrypoint = shlex.join(["python", "-m", "pipelines.cluster_job", *arguments])
        environment = {
            "py_modules": [str(ROOT / name) for name in ("pedigree", "pipelines")],
            "env_vars": {**ENVIRONMENT, **variables},
        }
        limit = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                return cluster.submit_job(entrypoint=entrypoint, runtime_env=environment)
            except RuntimeError as error:
                if "No available agent" in str(error) and time.monotonic() < limit:
                    time.sleep(POLL_SECONDS)
                    continue
                reason = " ".join(str(error).split())[:300]
                raise PedigreeError(
                    f"The Ray cluster at {self.address} did not take the job ({reason}): expected "
                    "a node with a running agent. Look at `ray status` and the dashboard's log."
                ) from error

    def _follow(
        self,
        cluster: "JobSubmissionClient",
        job: str,
        reader: "_LogReader",
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
    ) -> str:
        """Pass on the job's log until its end; return its last status."""
        while True:
            status = cluster.get_job_status(job)
            reader.read(cluster.get_job_logs(job), context.log, whole=status.is_terminal())
            if status.is_terminal():
                return status.value
            time.sleep(POLL_SECONDS)


class _LogReader(dg.PipesMessageReader):
    """Finds Pipes messages among the lines of a job's log."""

    def __init__(self) -> None:
        self._handler: dg.PipesMessageHandler | None = None
        self._read = 0

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Generator[PipesParams]:
        self._handler = handler
        yield {"stdio": "stderr"}

    def read(self, log: str, logger: dg.DagsterLogManager, *, whole: bool) -> None:
        """Take up what is new in a log; a line that is being written waits, unless it is whole."""
        end = len(log) if whole else log.rfind("\n") + 1
        for line in log[self._read : end].splitlines():
            message = _parse(line)
            if message is not None and self._handler is not None:
                self._handler.handle_message(message)
            elif line.strip():
                logger.info(line)
        self._read = max(self._read, end)

    def no_messages_debug_text(self) -> str:
        return "Expected messages in the log of the Ray job, from `pipelines.cluster_job`."


def _parse(line: str) -> PipesMessage | None:
    try:
        found = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
    ours = isinstance(found, dict) and "__dagster_pipes_version" in found
    return cast(PipesMessage, found) if ours else None


class ClusterNeighbourResource(NeighbourResource):
    """Finds near-duplicates on a Ray cluster too."""

    def find_on_cluster(
        self,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        params: NeighbourParams,
        texts: Texts,
        similarity: float,
    ) -> NearDuplicates:
        """Submit the job and return what it found."""
        return find_on_cluster(context, params, texts, similarity)


def find_on_cluster(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    params: NeighbourParams,
    texts: Texts,
    similarity: float,
) -> NearDuplicates:
    """Find near-duplicates on the cluster that `params` name; texts and result go by its storage.

    Raises:
        PedigreeError: the cluster cannot be reached, or the job failed.
    """
    address, storage = params.require_cluster()
    space = Space(storage.rstrip("/"))
    name = f"near-duplicates-{uuid.uuid4().hex}"
    try:
        request = request_texts(texts, similarity, space.join(name))
        words = request.as_arguments(params.partitions)
        done = PipesRayClient(address).run(context=context, arguments=[*words, "--runner", "ray"])
        context.log.info(f"Pairs on the cluster: {read_result(done)['digest_pairs']}.")
        return read_near_duplicates(request.output)
    finally:
        space.delete(name)


def read_result(done: dg.PipesClientCompletedInvocation) -> dict[str, JSON]:
    """Return the result that the job reported."""
    for message in done.get_custom_messages():
        if "result" in message:
            return cast(dict[str, JSON], message["result"])
    raise PedigreeError(
        "The Ray job ended without a result: expected it to report one. Look at its log, and check "
        "that the cluster runs the Python and packages of this project."
    )


def _connect(address: str) -> "JobSubmissionClient":
    try:
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError:
        raise PedigreeError(
            "ray is not installed: the engine `ray` needs it. Install `pedigree-ml[cluster]`, or "
            "set neighbours.engine in params.yaml to local."
        ) from None
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # refused, unauthorised, another version: Ray has a type for each
        reason = " ".join(str(error).split())[:300]
        raise PedigreeError(
            f"No Ray cluster takes jobs at {address} ({reason}): start one, correct "
            "neighbours.ray_address in params.yaml, or set RAY_AUTH_TOKEN_PATH."
        ) from error


def _explain(done: dg.PipesClientCompletedInvocation, job: str, message: str | None) -> str:
    for reported in done.get_custom_messages():
        if "error" in reported:
            return str(reported["error"])
    return (
        f"The Ray job {job} failed ({message or 'no reason given'}): expected it to end. Its log "
        "is in this run's log; mend what it names and run again."
    )
