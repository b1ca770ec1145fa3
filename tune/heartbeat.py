"""Finds a trial whose process stands still, and ends it, so that its run goes on elsewhere.

A worker that hangs is found by worker 0, which waits for it (`workers.py`). For worker 0 itself the driver alone waits,
and Ray waits for ever: a process that was stopped (SIGSTOP, a debugger, a frozen machine) is neither dead nor done. So
a thread in worker 0 beats: it writes to a key in Ray's own key-value store, and the driver looks whether that goes on.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import ray
from ray.experimental import internal_kv
from ray.tune import Callback

BEATS = 8
"""So many in the time after which a process counts as standing still."""

log = logging.getLogger(__name__)


class Heart(threading.Thread):
    """Beats for the actor that this process is, as long as it lives."""

    def __init__(self, hang_timeout_s: float) -> None:
        super().__init__(name="heart", daemon=True)
        self._interval_s = hang_timeout_s / BEATS
        self._key = _key(ray.get_runtime_context().get_actor_id() or "")
        self._over = threading.Event()

    def run(self) -> None:
        """Until `stop`. The clock serves as a number that is never the same twice."""
        while True:
            try:
                internal_kv._internal_kv_put(self._key, str(time.monotonic_ns()).encode())
            except Exception as error:  # noqa: BLE001 - whatever Ray says: its head may be back for the next beat
                log.info("a heartbeat was lost: %s", error)
            if self._over.wait(self._interval_s):
                return

    def stop(self) -> None:
        """The process is let go."""
        self._over.set()
        self.join()
        with suppress(Exception):
            internal_kv._internal_kv_del(self._key)


class Pulses:
    """What the driver knows of the beats of several actors.

    beat_of: the last beat of the actor with this id; None before the first. clock: seconds. Time in which nobody
    looked, because the driver too was stopped, does not count.
    """

    def __init__(
        self, timeout_s: float, beat_of: Callable[[str], bytes | None], clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._timeout_s, self._beat_of, self._clock = timeout_s, beat_of, clock
        self._interval_s = timeout_s / BEATS
        self._looked = clock()
        self._seen: dict[str, bytes] = {}
        self._quiet_s: dict[str, float] = {}

    def due(self) -> bool:
        """Is it time to look again?"""
        return self._clock() - self._looked >= self._interval_s

    def look(self, actors: Iterable[str]) -> list[str]:
        """Those of these actors that stand still. Who has never beaten is still starting: Ray looks after that."""
        now = self._clock()
        passed_s, self._looked = min(now - self._looked, 2 * self._interval_s), now
        before, self._seen = self._seen, {}
        quiet_s, self._quiet_s = self._quiet_s, {}
        for actor in actors:
            beat = self._beat_of(actor)
            if beat is not None:
                self._seen[actor] = beat
                same = beat == before.get(actor)
                self._quiet_s[actor] = quiet_s.get(actor, 0.0) + passed_s if same else 0.0
        return [actor for actor, seconds in self._quiet_s.items() if seconds >= self._timeout_s]


class EndStill(Callback):
    """Ends the process of a running trial that stands still for `timeout_s`. To Ray it is a process that died."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._pulses = Pulses(timeout_s, _beat_of)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray's controller asks several times a second."""
        if not self._pulses.due():
            return
        running = [(trial, trial.temporary_state.ray_actor) for trial in trials if trial.status == "RUNNING"]
        found = {actor._actor_id.hex(): (trial, actor) for trial, actor in running if actor is not None}
        for name in self._pulses.look(found):
            trial, actor = found[name]
            run_id = trial.config["run_id"]
            log.warning("%s: its process has stood still for %g s, and is ended.", run_id, self._timeout_s)
            ray.kill(actor)

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()


def _beat_of(actor: str) -> bytes | None:
    beat: bytes | None = internal_kv._internal_kv_get(_key(actor))
    return beat


def _key(actor: str) -> bytes:
    return f"tuneyard:beat:{actor}".encode()
