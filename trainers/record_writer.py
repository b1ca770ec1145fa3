"""Writes a run's record behind the training: the newest version of each file wins."""

import logging
import threading

from tuneyard.trainers.checkpoints.fence_port import Fence
from tuneyard.trainers.errors import FencedError, StoreError
from tuneyard.trainers.record import RunRecord, write_metrics, write_record
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)


class RecordWriter:
    """One thread that keeps `run.json` and `metrics.jsonl` of one run up to date in the store.

    With a `fence`, nothing is written once a newer attempt has begun: these files are the newer one's.
    """

    def __init__(self, store: Store, prefix: str, fence: Fence | None = None) -> None:
        self._store, self._prefix, self._fence = store, prefix, fence
        self._record: RunRecord | None = None
        self._rows: list[dict[str, float]] | None = None
        self._changed = threading.Condition()
        self._busy = self._ending = False
        self._failure: StoreError | FencedError | None = None
        self._thread = threading.Thread(target=self._work, name="record-writer", daemon=True)
        self._thread.start()

    def write(self, record: RunRecord, rows: list[dict[str, float]] | None = None) -> None:
        """Ask for this record, and these metrics, to be written; returns at once.

        Raises FencedError where the last write has found that this attempt was replaced.
        """
        with self._changed:
            if isinstance(self._failure, FencedError):
                raise self._failure
            self._record = record
            self._rows = list(rows) if rows is not None else self._rows
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
                self._changed.wait_for(lambda: self._ending or self._record is not None)
                record, rows = self._record, self._rows
                self._record = self._rows = None
            if record is None:
                return
            try:
                if self._fence is not None:
                    self._fence.check()
                if rows is not None:
                    write_metrics(self._store, self._prefix, rows)
                write_record(self._store, self._prefix, record)
                self._failure = None
            except FencedError as error:
                self._failure = error
                return
            except StoreError as error:
                # Training goes on: the next epoch's write, or the last one, carries everything again.
                if self._failure is None:
                    log.warning(
                        "the run record could not be written, and is tried again after the next epoch: %s", error
                    )
                self._failure = error
