"""Ray's own job client: sends packages and jobs, and follows logs. What needs no Ray is in `jobs.py` beside it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import ray.exceptions
from ray.job_submission import JobSubmissionClient

from tuneyard.cluster.access.connection import Connection
from tuneyard.cluster.access.tunnel import LOOPBACK, LinkError
from tuneyard.cluster.errors import ClusterError

# They say what they upload, which we do ourselves.
for _name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_BROKEN = (OSError, aiohttp.ClientError)  # the first is that of requests too


def submit_job(
    connection: Connection, job_id: str, entrypoint: str, *, folder: Path, modules: list[Path],
    environment: Mapping[str, str], metadata: Mapping[str, str],
) -> None:  # fmt: skip
    """Send a job to the head: it is queued there when this returns.

    Args:
        folder: a zip file or a folder, which every process of the job finds as its working directory.
        modules: folders of packages that every process of the job imports before those of its node.
        environment: variables of every process of the job. No secrets: the dashboard shows them.

    Raises:
        LinkError: the head does not answer.
        ClusterError: it refuses; with its reason.
    """
    runtime = {"working_dir": str(folder), "env_vars": dict(environment)}
    # An empty list is an error of Ray's.
    sent = {"py_modules": [str(module) for module in modules]} if modules else {}
    with _answering(connection):
        _client(connection).submit_job(
            entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime | sent, metadata=dict(metadata)
        )


def tail_log(connection: Connection, job_id: str) -> Iterator[str]:
    """The job's log from its beginning, in pieces as they come, until the job is over.

    Raises:
        LinkError: the link broke on the way; the log can be had again, from its beginning.
        ClusterError: the head refuses.
    """
    with _answering(connection), asyncio.Runner() as runner:
        pieces = _client(connection).tail_job_logs(job_id).__aiter__()
        while (piece := runner.run(_next(pieces))) is not None:
            yield piece


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


def _client(connection: Connection) -> JobSubmissionClient:
    with _no_address_of_its_own():
        return JobSubmissionClient(connection.url, headers=dict(connection.headers))


@contextmanager
def _no_address_of_its_own() -> Iterator[None]:
    """Ray's client lets these variables override the address that it is given, and a proxy would see the token."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    for name in ("no_proxy", "NO_PROXY"):
        if LOOPBACK not in os.environ.get(name, "").split(","):
            os.environ[name] = ",".join(filter(None, [os.environ.get(name, ""), LOOPBACK]))
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def _answering(connection: Connection) -> Iterator[None]:
    """Ray's exceptions as ours."""
    name = connection.inventory.name
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"Cluster {name} refuses the token. Apply the cluster again: tuneyard up --cluster {name}"
        ) from error
    except _BROKEN as error:
        raise LinkError(f"The head of cluster {name} does not answer: {error}") from error
    except RuntimeError as error:  # Ray's client raises it for a refusal and for a broken link alike
        if not connection.alive or "WebSocket" in str(error) or "Failed to connect" in str(error):
            raise LinkError(f"The link to the head of cluster {name} broke: {error}") from error
        raise ClusterError(f"Cluster {name} refuses: {error}") from error
