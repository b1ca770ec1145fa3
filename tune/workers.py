"""A trial's workers as worker 0 sees them: started, joined, called together, and ended when one of them fails.

Workers wait for each other in their exchanges of gradients. So a worker that fails, dies or hangs leaves the others
waiting, and nothing that they could do themselves would end that. A thread watches every call: it gives the others a
moment to come out by themselves, then ends them, which breaks the exchange that worker 0 waits in. Where even that does
not wake worker 0, its process ends.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tuneyard.trainers.parallel import process_group
from tuneyard.tune.worker import Answer, Failure, Resources, Worker
from tuneyard.tune.worker_actor import WorkerActor

log = logging.getLogger(__name__)

START_S = 300.0
"""For a worker's process to start, with its imports, on a machine that may be busy."""
ALIKE_S = 5.0
"""After a mistake that is understood: all workers may be about to tell the same one, and can be kept then."""
LOSS_S = 20.0
"""After a broken link: until Ray knows which process, or which machine, is gone."""
KNOWN_S = 1.0
"""After any other failure, or the loss of a worker."""
BEHIND_S = 60.0
"""After worker 0 is done: for another to be done too."""
LEAVE_S = 15.0
"""After all others were ended: for worker 0 to come out of its exchange."""
_POLL_S = 0.2


class Workers:
    """All workers of a trial. With one worker there is worker 0 alone, and no thread.

    Args:
        own: worker 0, in this process.
        stuck: told the cause, from another thread, where worker 0 hangs for good; the process ends afterwards.
    """

    def __init__(
        self, own: Worker, resources: Resources, count: int, stuck: Callable[[Failure], None]
    ) -> None:  # fmt: skip
        self._own, self._resources, self._count, self._stuck = own, resources, count, stuck
        self._others: list[Any] = []
        self._places: list[str] = []
        self._starting: list[Any] = []
        self._joined = False
        self.start()

    def start(self) -> None:
        """Start the others, where there are none; returns at once."""
        if self._others or self._count == 1:
            return
        group = ray.util.get_current_placement_group()
        for rank in range(1, self._count):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank) if group else None
            options: dict[str, Any] = {"num_cpus": self._resources.cpus, "num_gpus": self._resources.gpus}
            if strategy is not None:
                options["scheduling_strategy"] = strategy
            self._others.append(ray.remote(WorkerActor).options(**options).remote(self._resources, rank))
        self._starting = [other.where.remote() for other in self._others]

    def train_epoch(self, spec: Any, leg: int, should_stop: Callable[[], bool]) -> tuple[Answer, bool]:
        """One epoch on all workers, and whether they can be kept for the next trial.

        After a Failure worker 0's run is still open; the other workers, where they cannot be kept, are gone.
        """
        if self._count > 1 and not self._joined:
            unjoined = self._join(spec.experiment.resources.hang_timeout_s, should_stop)
            if unjoined is not None:
                return unjoined, False

        def own() -> Answer:
            return self._own.train_epoch(spec, leg, should_stop)

        if self._count == 1:
            alone = own()
            return alone, not isinstance(alone, Failure) or alone.understood
        answer, kept = self._together(own, "train_epoch", spec.model_dump_json(), leg)
        assert answer is not None, "an epoch has a result"
        return answer, kept

    def dismiss(self) -> None:
        """End the other workers, and leave the group; returns when their processes are gone, or seconds later."""
        others, self._others, self._places, self._starting = self._others, [], [], []
        for other in others:
            ray.kill(other)
        # A call to an actor that is gone fails at once.
        ray.wait([other.where.remote() for other in others], num_returns=len(others), timeout=5.0) if others else None
        if self._joined:
            self._joined = False
            self._own.leave()

    def _join(self, exchange_s: float, should_stop: Callable[[], bool]) -> Failure | None:
        """`exchange_s`: for a worker to do its part of an exchange; how long one that hangs can hold up the others."""
        self.start()
        deadline = time.monotonic() + START_S
        for rank, place in enumerate(self._starting, start=1):
            # A machine that is being taken away starts no worker any more.
            while not ray.wait([place], timeout=_POLL_S)[0] and time.monotonic() < deadline:
                if should_stop():
                    self.dismiss()
                    text = "InterruptedRunError: stopped before its workers had started"
                    return Failure("InterruptedRunError", text, understood=True, interrupted=True)
            try:
                self._places.append(ray.get(place, timeout=0.0))
            except Exception as error:  # noqa: BLE001 - whatever Ray says, the worker is not there
                preempted = bool(getattr(error, "preempted", False))
                self.dismiss()
                text = f"WorkerLostError: worker {rank} of {self._count} could not start: {error}"
                return Failure("WorkerLostError", text, lost=True, preempted=preempted)
        here = ray.util.get_node_ip_address()
        # On one machine nothing needs to be heard from outside.
        alone = set(self._places) == {here}
        address = "127.0.0.1" if alone else here
        port = process_group.free_port(address)
        self._joined = True

        def own() -> Failure | None:
            return self._own.join(self._count, address, port, address, exchange_s)

        theirs = (self._count, address, port, address if alone else None, exchange_s)
        failure, _ = self._together(own, "join", *theirs)
        assert failure is None or isinstance(failure, Failure), "joining trains nothing"
        return failure

    def _together(self, own: Callable[[], Answer | None], method: str, *args: Any) -> tuple[Answer | None, bool]:
        """Call the method on the others and `own` here; what it came to, and whether the workers can be kept."""
        names = [f"worker {rank} of {self._count}, on {place}" for rank, place in enumerate(self._places, start=1)]
        refs = [getattr(other, method).remote(*args) for other in self._others]
        watch = _Watch(dict(zip(refs, names, strict=True)), self._end_others, self._stuck)
        watch.start()
        watch.own_answered(own())
        watch.join()
        cause = watch.verdict.cause
        if cause is not None and not watch.verdict.alike:
            self.dismiss()
        return (cause, watch.verdict.alike) if cause is not None else (watch.verdict.own, True)

    def _end_others(self) -> None:
        for other in self._others:
            ray.kill(other)


class _Watch(threading.Thread):
    """Follows one call: collects the others' answers and sees to it that nobody waits for a worker that has failed."""

    def __init__(
        self, calls: dict[Any, str], end_others: Callable[[], None], stuck: Callable[[Failure], None]
    ) -> None:  # fmt: skip
        super().__init__(name="workers-watch", daemon=True)
        self._pending, self._end_others, self._stuck = calls, end_others, stuck
        self._own_done = threading.Event()
        self._own: Answer | None = None
        self.verdict = Verdict()

    def own_answered(self, answer: Answer | None) -> None:
        """Worker 0 came out of the call, with this."""
        self._own = answer
        self._own_done.set()

    def run(self) -> None:
        """Until every worker has answered, or the patience with those that have not is over."""
        while self._pending or not self._own_done.is_set():
            self._collect()
            if self._own_done.is_set():
                self.verdict.add_own(self._own)
            if self.verdict.patience_over():
                break
        self.verdict.behind = list(self._pending.values())
        if not self._own_done.is_set():
            self.verdict.behind.append("worker 0")
            self._break_out()
        self.verdict.add_own(self._own)

    def _collect(self) -> None:
        if not self._pending:
            self._own_done.wait(_POLL_S)
            return
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=_POLL_S)
        for call in ready:
            name = self._pending.pop(call)
            try:
                self.verdict.add(ray.get(call), name)
            except ray.exceptions.RayActorError as error:
                log.info("%s is gone: %s", name, error)
                text = f"WorkerLostError: {name} was lost; was it killed, or out of memory?"
                self.verdict.add(Failure("WorkerLostError", text, lost=True, preempted=error.preempted), "")
            except Exception as error:  # noqa: BLE001 - our own mistake, in that worker
                self.verdict.add(Failure(type(error).__name__, f"{type(error).__name__}: {error}"), name)

    def _break_out(self) -> None:
        """Worker 0 waits in an exchange that will never end."""
        self._end_others()
        if self._own_done.wait(LEAVE_S):
            return
        cause = self.verdict.cause
        assert cause is not None, "patience ends after a failure only"
        log.error("worker 0 does not come out of its exchange and ends: %s", cause.text)
        self._stuck(cause)
        os._exit(1)


class Verdict:
    """What the workers' answers, as they come in, amount to.

    Attributes:
        own: worker 0's answer.
        behind: the workers that have not answered, when the patience with them was over.
    """

    def __init__(self) -> None:
        self.own: Answer | None = None
        self.behind: list[str] = []
        self._failures: list[Failure] = []
        self._answers = 0
        self._own_known = False
        self._since: float | None = None

    def add(self, answer: Answer | None, name: str) -> None:
        """Another worker's answer."""
        self._answers += 1
        if isinstance(answer, Failure):
            self._since = self._since or time.monotonic()
            self._failures.append(answer.on(name) if name else answer)

    def add_own(self, answer: Answer | None) -> None:
        """Worker 0's answer; told again it changes nothing."""
        if self._own_known:
            return
        self._own_known, self.own = True, answer
        self._answers += 1
        self._since = self._since or time.monotonic()
        if isinstance(answer, Failure):
            self._failures.append(answer)

    def patience_over(self) -> bool:
        """Has it been long enough since the first failure, or since worker 0 was done?"""
        if self._since is None:
            return False
        causes = [failure for failure in self._failures if not failure.link]
        if causes:
            patience = ALIKE_S if all(failure.understood for failure in causes) else KNOWN_S
        else:
            patience = LOSS_S if self._failures else BEHIND_S
        return time.monotonic() - self._since > patience

    @property
    def alike(self) -> bool:
        """Have all workers failed in the same way, and understood it, so that they are as good as before?"""
        one_kind = len({failure.kind for failure in self._failures}) == 1
        everyone = not self.behind and len(self._failures) == self._answers
        return everyone and one_kind and all(failure.understood for failure in self._failures)

    @property
    def cause(self) -> Failure | None:
        """What it all came from: a lost worker, else the first failure that is not the echo of another's."""
        if self.alike and isinstance(self.own, Failure):
            return self.own
        lost = [failure for failure in self._failures if failure.lost]
        first = [failure for failure in self._failures if not failure.link]
        if lost or first:
            return (lost or first)[0]
        if self.behind:
            text = f"WorkerLostError: {' and '.join(self.behind)} did not come along, and did not say why"
            echo = f": {self._failures[0].text}" if self._failures else ""
            return Failure("WorkerLostError", text + echo, lost=True)
        return self._failures[0] if self._failures else None
