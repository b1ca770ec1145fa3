"""The jobs of a cluster, through the HTTP interface of Ray's head. Imports no Ray, so that answers come at once."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneyard.cluster.access.connection import Connection
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.nearest import allowed_instead

Status = Literal["pending", "running", "succeeded", "failed", "stopped"]
CHECK = "tuneyard-check"
"""Begins the id of a job that only looks at the nodes: it is nobody's, and not listed."""
COMMAND = "command"
RESUME = "resume"
"""Keys of the metadata of a job from `tuneyard submit`: what the user would have typed on the head, and what to type
here so that the sweep goes on after a stop. Without what `submit` itself has added."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Times are seconds since 1970.

    Attributes:
        exit_code: its command's, where it ended by itself.
        message: Ray's words on it.
    """

    id: str
    status: Status
    entrypoint: str
    metadata: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    message: str = ""

    @property
    def over(self) -> bool:
        """Has it ended, one way or another?"""
        return self.status in ("succeeded", "failed", "stopped")

    @property
    def what(self) -> str:
        """What it does, for a list."""
        return self.metadata.get(COMMAND, self.entrypoint)

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has been running."""
        return None if self.started is None else (self.ended or time.time()) - self.started


def list_jobs(connection: Connection) -> list[Job]:
    """All jobs that were submitted since the head started, the newest first.

    Raises:
        ClusterError: the head does not answer, or refuses.
    """
    found = [_job(plain) for plain in connection.get("/api/jobs/") if plain["type"] == "SUBMISSION"]
    jobs = [job for job in found if not job.id.startswith(CHECK)]
    return sorted(jobs, key=lambda job: job.started or 0.0, reverse=True)


def read_job(connection: Connection, job_id: str) -> Job:
    """One job as it is now.

    Raises:
        ClusterError: the head does not know it, does not answer, or refuses.
    """
    return _job(connection.get(f"/api/jobs/{job_id}"))


def choose_job(connection: Connection, job_id: str | None, *, to_stop: bool = False) -> Job:
    """The job that is meant: the one of this id; for None the newest, or the only one that runs where it is `to_stop`.

    Raises:
        ClusterError: there is none, or it is not clear which; with those that there are.
    """
    jobs = list_jobs(connection)
    name = connection.inventory.name
    if job_id is not None:
        for job in jobs:
            if job.id == job_id:
                return job
        known = allowed_instead(job_id, [job.id for job in jobs]) if jobs else "It has none."
        raise ClusterError(
            f"Cluster {name} has no job {job_id!r}. {known} Jobs are forgotten when the head is replaced; a sweep goes "
            "on from its store: tuneyard submit EXP --resume"
        )
    if to_stop:
        jobs = [job for job in jobs if not job.over]
        if len(jobs) > 1:
            raise ClusterError(f"Several jobs run. Say which: {', '.join(job.id for job in jobs)}")
    if not jobs:
        raise ClusterError(
            f"Cluster {name} has no job{' that runs' if to_stop else ''}. tuneyard submit EXP makes one."
        )
    return jobs[0]


def read_log(connection: Connection, job_id: str) -> str:
    """All that the job has printed.

    Raises:
        ClusterError: the head does not know it, does not answer, or refuses.
    """
    return str(connection.get(f"/api/jobs/{job_id}/logs", timeout_s=60.0)["logs"])


def stop_job(connection: Connection, job_id: str) -> bool:
    """Ask the job to stop; False where it had ended. Its command gets SIGTERM, and time to save.

    Raises:
        ClusterError: the head does not know it, does not answer, or refuses.
    """
    return bool(connection.send("POST", f"/api/jobs/{job_id}/stop")["stopped"])


def forget_job(connection: Connection, job_id: str) -> None:
    """Take an ended job off the list.

    Raises:
        ClusterError: the head does not know it, does not answer, or refuses.
    """
    connection.send("DELETE", f"/api/jobs/{job_id}")


def _job(plain: dict[str, Any]) -> Job:
    statuses: dict[str, Status] = {
        "PENDING": "pending", "RUNNING": "running", "SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "stopped",
    }  # fmt: skip
    return Job(
        id=plain["submission_id"],
        status=statuses[plain["status"]],
        entrypoint=plain["entrypoint"],
        metadata=plain.get("metadata") or {},
        started=_seconds(plain.get("start_time")),
        ended=_seconds(plain.get("end_time")),
        exit_code=plain.get("driver_exit_code"),
        message=plain.get("message") or "",
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
