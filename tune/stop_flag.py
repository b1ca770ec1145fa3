"""The sweep's wish to stop, as every trial on every node sees it: a key in Ray's own key-value store."""

import time

from ray.experimental import internal_kv

SECONDS_BETWEEN_LOOKS = 0.5


def ask_to_stop(sweep_id: str) -> None:
    """Ask all trials of the sweep to save and leave after their current step."""
    internal_kv._internal_kv_put(_key(sweep_id), b"stop")


def forget_stop(sweep_id: str) -> None:
    """Take back what was asked: the sweep is to go on."""
    internal_kv._internal_kv_del(_key(sweep_id))


class StopFlag:
    """A trial's view of the wish; looks at most twice a second, so that asking after every step costs nothing."""

    def __init__(self, sweep_id: str) -> None:
        self._sweep_id = sweep_id
        self._looked = 0.0
        self._asked = False

    def asked(self) -> bool:
        """Has the sweep been asked to stop?"""
        if not self._asked and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self._asked = internal_kv._internal_kv_get(_key(self._sweep_id)) is not None
        return self._asked


def _key(sweep_id: str) -> bytes:
    return f"tuneyard:stop:{sweep_id}".encode()
