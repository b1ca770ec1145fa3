"""Waiting for many things at once, in threads."""

import threading
from collections.abc import Callable, Iterator, Sequence

_TICK_S = 0.2


def work_through(
    jobs: Iterator[Callable[[], None]], threads: int, stop: threading.Event, tick: Callable[[], None]
) -> None:
    """Run all jobs, several at a time, and call `tick` meanwhile. The first error sets `stop`, and is raised.

    The jobs are taken one by one, as there are threads for them: there may be millions.
    """
    lock = threading.Lock()
    errors: list[BaseException] = []

    def next_job() -> Callable[[], None] | None:
        with lock:
            return None if stop.is_set() else next(jobs, None)

    def work() -> None:
        try:
            while (job := next_job()) is not None:
                job()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)
            stop.set()

    workers = [threading.Thread(target=work, name=f"bring-{number}", daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        _wait(workers, tick)
    except BaseException:
        stop.set()
        _wait(workers, lambda: None)
        raise
    if errors:
        raise errors[0]


def _wait(workers: Sequence[threading.Thread], tick: Callable[[], None]) -> None:
    for worker in workers:
        while worker.is_alive():
            worker.join(_TICK_S)
            tick()
