"""Following a job's log over broken links: every line once, in order, until the job is over."""

import time
from collections.abc import Callable

from tuneyard.cluster.access.connection import Connection
from tuneyard.cluster.access.tunnel import LinkError
from tuneyard.launch.jobs.jobs import Job, read_job, read_log

GIVE_UP_S = 1800.0
"""Of trying, awake: a machine that sleeps does not count it."""
LONGEST_WAIT_S = 30.0
PAUSE_S = 1.0


def follow_job(
    connection: Connection, job_id: str, write: Callable[[str], None], say: Callable[[str], None], *, after: int = 0
) -> Job:
    """Write the job's log, from its beginning to its end, and return the job as it ended.

    Args:
        write: takes the log, piece by piece, as it is.
        say: told when the link breaks and when it is back.
        after: leave out so many characters at its beginning.

    Raises:
        LinkError: the head could not be reached for GIVE_UP_S.
        ClusterError: it can be, and refuses, or does not know the job.
    """
    from tuneyard.launch.jobs.client import tail_log  # imports Ray

    shown = after
    while True:
        try:
            read_job(connection, job_id)  # a head that was replaced does not know it, and says so
            passed = 0
            for piece in tail_log(connection, job_id):
                # After a broken link the log comes from its beginning once more.
                new = piece[max(shown - passed, 0) :]
                passed += len(piece)
                write(new)
                shown += len(new)
            job = read_job(connection, job_id)
            if job.over:
                write(read_log(connection, job_id)[shown:])
                return job
        except LinkError:
            say("The link to the head is broken; the job goes on. Trying again ...")
            reconnect(connection)
            say("The link is back.")
        time.sleep(PAUSE_S)


def reconnect(connection: Connection) -> None:
    """Make the connection anew, for as long as that takes.

    Raises:
        LinkError: the head could not be reached for GIVE_UP_S.
        ClusterError: it can be, and refuses.
    """
    deadline = time.monotonic() + GIVE_UP_S
    wait_s = PAUSE_S
    while True:
        try:
            connection.renew()
            return
        except LinkError as error:
            if time.monotonic() > deadline:
                minutes = GIVE_UP_S / 60
                raise LinkError(
                    f"The head could not be reached for {minutes:g} minutes: {error} The job goes on as long as it "
                    "runs. Come back with: tuneyard logs --follow"
                ) from error
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def exit_status(job: Job) -> int:
    """The exit status of the job's command; of one that was stopped 130, as after Ctrl-C."""
    if job.status == "stopped":
        return 130
    if job.status == "succeeded":
        return 0
    return job.exit_code or 1


def outcome(job: Job) -> str:
    """How the job ended, in a line or some."""
    if job.status == "failed" and job.exit_code is None:
        return f"Job {job.id} failed: {job.message}"
    status = f" (exit status {job.exit_code})" if job.exit_code else ""
    return f"Job {job.id}: {job.status}{status}"
