"""The sweep's index in its store: every trial that was handed out, with its values, its runs and how they stand.

It lies beside `sweep.json` as `trials.json`. The runs' own records tell what was trained; the index tells what was
meant to be, so that a trial whose process never came to write a record is not lost with the driver.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from tuneyard.trainers.errors import FencedError, MissingKeyError, StoreError
from tuneyard.trainers.record import Metric, Recorded
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.trials import RunState, Trial

log = logging.getLogger(__name__)

NAME = "trials.json"
SECONDS_BETWEEN_WRITES = 0.5


class IndexedRun(Recorded):
    """A run as the index has it; `epoch`: how far it had come."""

    run_id: str
    part: dict[str, int]
    settings: dict[str, Any]
    state: RunState
    epoch: int
    failures: int


class IndexedTrial(Recorded):
    """A trial as the index has it; `value`: its metric, once all its runs have one."""

    trial_id: str
    overrides: dict[str, Any]
    status: str
    value: float | None
    runs: list[IndexedRun]
    confirming: list[IndexedRun]


class Index(Recorded):
    """`trials.json`."""

    format: int = 1
    trials: list[IndexedTrial]


def read_index(store: Store, prefix: str) -> list[IndexedTrial]:
    """The sweep's trials, oldest first; none where there is no index. StoreError where it is damaged."""
    try:
        content = store.get(prefix + NAME)
    except MissingKeyError:
        return []
    try:
        return Index.model_validate_json(content).trials
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise StoreError(
            f"{store.uri}/{prefix}{NAME} is damaged ({where}: {problem['msg']}), and the sweep is not continued from "
            "it. Restore it from a copy (buckets keep versions), or delete it: the trials that have a record of their "
            "own go on, and one that had not come to its first record is drawn anew."
        ) from error


class IndexWriter:
    """Keeps the index up to date behind the sweep; what is written last carries everything.

    `check` raises FencedError where the sweep is another driver's by now; nothing more is written then.
    """

    def __init__(self, store: Store, prefix: str, metric: Metric, check: Callable[[], None]) -> None:
        self._store, self._key, self._metric, self._check = store, prefix + NAME, metric, check
        self._entries: dict[str, str] = {}
        self._changed = threading.Condition()
        self._dirty = self._ending = False
        self._failure: StoreError | FencedError | None = None
        self._thread = threading.Thread(target=self._work, name="index-writer", daemon=True)
        self._thread.start()

    def put(self, trial: Trial) -> None:
        """Note how the trial stands; returns at once."""
        entry = _entry(trial, self._metric).model_dump_json()
        with self._changed:
            self._entries[trial.trial_id] = entry
            self._dirty = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until all is written; raises StoreError or FencedError where the last write failed."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._dirty)
                if not self._dirty:
                    return
                self._dirty = False
                content = '{"format": 1, "trials": [\n' + ",\n".join(self._entries.values()) + "\n]}\n"
            try:
                self._check()
                self._store.put(self._key, content.encode())
                self._failure = None
            except FencedError as error:
                self._failure = error
                return
            except StoreError as error:
                if self._failure is None:
                    log.warning("the sweep's index could not be written, and is tried again: %s", error)
                self._failure = error
            with self._changed:
                # A sweep of seconds-long trials changes it many times a second.
                self._changed.wait_for(lambda: self._ending, SECONDS_BETWEEN_WRITES)


def _entry(trial: Trial, metric: Metric) -> IndexedTrial:
    def runs(of: list[Any]) -> list[IndexedRun]:
        return [
            IndexedRun(
                run_id=run.run_id, part=run.part, settings=run.settings, state=run.state, epoch=run.epoch,
                failures=run.failures,
            )
            for run in of
        ]  # fmt: skip

    return IndexedTrial(
        trial_id=trial.trial_id, overrides=trial.overrides, status=trial.status, value=trial.value(metric),
        runs=runs(trial.runs), confirming=runs(trial.confirming),
    )  # fmt: skip
