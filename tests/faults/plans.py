"""What goes wrong in a round of the soak: drawn from a random generator ahead, so that a seed tells all of it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.s3_proxy import S3Proxy

Act = Literal[
    "kill", "kill, clock apart", "stand still", "replace", "replace what stands still", "damage", "second driver", "s3",
    "kill a worker", "a worker hangs",
]  # fmt: skip
"""kill: SIGKILL, then it is resumed. replace: another process takes the run over, and the first one goes on.

Of a run with several workers: kill a worker: SIGKILL to one of them alone. a worker hangs: SIGSTOP, and no more.
"""

Harm = Literal["flip", "cut", "delete"]

_REQUESTS = 90
"""A round of three epochs makes about sixty requests; each new attempt makes some more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`act` comes after the round's `after`th request; `name` tells the rest of it. worker: which one it befalls."""

    after: int
    act: Act
    name: str
    worker: int = 0
    clock_s: float = 0.0
    harm: Harm = "flip"
    trouble: Callable[[S3Proxy], None] = lambda proxy: None


@dataclass(frozen=True, slots=True)
class Plan:
    """A round. `sweep`: the run is a sweep's, so that nothing but its fence keeps attempts apart."""

    sweep: bool
    workers: int
    faults: tuple[Fault, ...]


def draw_plan(draw: random.Random) -> Plan:
    """One to four faults."""
    sweep, workers = draw.random() < 0.6, 2 if draw.random() < 0.25 else 1
    moments = sorted(draw.randrange(2, _REQUESTS) for _ in range(draw.randint(1, 4)))
    acts: list[Act] = ["kill", "stand still", "damage", "s3", "s3", "s3"]
    acts += ["kill, clock apart"] if workers == 1 else ["kill a worker", "kill a worker", "a worker hangs"]
    # Outside a sweep a process that lives here is never replaced.
    acts += ["replace", "replace what stands still", "second driver"] if sweep else []
    return Plan(sweep, workers, tuple(_draw_fault(draw, moment, acts) for moment in moments))


def _draw_fault(draw: random.Random, after: int, acts: list[Act]) -> Fault:
    act = draw.choice(acts)
    if act == "s3":
        return _draw_trouble(draw, after)
    if act == "damage":
        harms: list[Harm] = ["flip", "cut", "delete"]
        harm = draw.choice(harms)
        return Fault(after, act, f"SIGKILL, and a blob of the newest checkpoint: {harm}", harm=harm)
    if act == "kill, clock apart":
        hours = draw.choice([-1, 1])
        return Fault(after, act, f"SIGKILL; then on a machine whose clock is {hours:+d} h", clock_s=3600.0 * hours)
    if act in ("kill a worker", "a worker hangs"):
        return Fault(after, act, act, worker=draw.randrange(2))
    return Fault(after, act, act)


def _draw_trouble(draw: random.Random, after: int) -> Fault:
    kind = draw.choice(["503", "500", "reset", "reset-upload", "reset-download", "drop-answer", "alter-upload",
                        "alter-download", "hang", "409", "412"])  # fmt: skip
    times, seconds = draw.randint(1, 12), draw.uniform(0.1, 1.5)

    def cause(proxy: S3Proxy) -> None:
        match kind:
            case "503" | "500":
                proxy.fail("status", seconds=seconds, status=int(kind))
            case "409":
                code = "ConditionalRequestConflict"
                proxy.fail("status", method="PUT", key="/(manifest-|claims/)", times=times, status=409, code=code)
            case "412":
                code = "PreconditionFailed"
                proxy.fail("status", method="PUT", key="/manifest-", times=min(times, 3), status=412, code=code)
            case "hang":
                proxy.fail("hang", times=1)
            case "alter-download":
                proxy.fail("alter-download", method="GET", key="/(blobs/.*/|manifest-)", times=1)
            case "alter-upload":
                proxy.fail("alter-upload", method="PUT", times=times)
            case "reset" | "reset-upload" | "reset-download" | "drop-answer":
                proxy.fail(kind, times=times)

    size = (
        f"{seconds:.1f} s"
        if kind in ("503", "500")
        else "once"
        if kind in ("hang", "alter-download")
        else f"{times} times"
    )
    return Fault(after, "s3", f"S3: {kind}, {size}", trouble=cause)
