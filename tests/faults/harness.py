"""Tiny runs that keep their checkpoints in S3 behind a proxy, in this process or in one that can be killed."""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import torch

from tests.s3_proxy import Request, S3Proxy
from tests.trainers.runs import STEPS_PER_EPOCH, Changes, StopAfter, make_spec, same_bits
from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker
from tuneyard.trainers.checkpoints.files import CheckpointFiles
from tuneyard.trainers.checkpoints.upkeep import Upkeep
from tuneyard.trainers.errors import InterruptedRunError, TuneyardError
from tuneyard.trainers.parallel.processes import train_in_processes
from tuneyard.trainers.parallel.worker import train_here
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import RunRecord, read_metrics, read_run
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store

DEADLINE_S = 120.0
"""For anything here that takes a second on a quiet machine."""

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__, "tuneyard.trainers.stores.s3", "accelerate", "albumentations"])

BUCKET = "tests"
BASIC: Changes = {"model.args": {"dropout": 0.3}, "checkpoint.keep_last": 1}


class HoldingProxy(S3Proxy):
    """A proxy that can also hold one request up for good: the client has sent it, and the server never gets it."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._seen = 0
        self._wanted: tuple[str, str, int, str] | None = None
        self.held: Request | None = None

    def hold(self, method: str, key: str, number: int, *, after: str) -> None:
        """Hold up the `number`th request that fits, counted from the first one on whose key fits `after`."""
        self._seen, self.held, self._wanted = 0, None, (method, key, number, after)

    def let_go(self) -> None:
        """Nothing is held up, and nothing goes wrong any more."""
        self._wanted = None
        self.heal()

    def begin(self, request: Request) -> Any:
        """As it is, but for the one that is to be held up."""
        if self._wanted is not None and self.held is None and self._is_it(*self._wanted, request):
            self.held = request
            self.fail("hang", method=request.method, key=re.escape(request.target))
        return super().begin(request)

    def _is_it(self, method: str, key: str, number: int, after: str, request: Request) -> bool:
        begun = any(re.search(after, one.target) and one.method == "PUT" for one in list(self.requests))
        self._seen += begun and request.method == method and re.search(key, request.target) is not None
        return self._seen == number


def spec_in_s3(folder: Path, proxy: S3Proxy, changes: Changes | None = None, **fields: Any) -> TrialSpec:
    """A run of 24 steps, with a name of its own: all others lie beside it."""
    every = {**BASIC, "checkpoint.endpoint_url": proxy.endpoint_url, "checkpoint.deadline_s": 60.0, **(changes or {})}
    return make_spec(folder, every, **{"store_uri": f"s3://{BUCKET}/faults", "run_id": uuid4().hex[:12], **fields})


def resumed(spec: TrialSpec) -> TrialSpec:
    """The same run, to go on."""
    return spec.model_copy(update={"resume": True})


class At:
    """Does what is due after a step, counted from where the run begins or goes on."""

    def __init__(self, due: Mapping[int, Callable[[], object]]) -> None:
        self._due, self._steps = dict(due), 0

    def __call__(self) -> bool:
        self._steps += 1
        if self._steps in self._due:
            self._due[self._steps]()
        return False


def train_with(
    spec: TrialSpec, due: Mapping[int, Callable[[], object]] | None = None, session: Session | None = None
) -> RunRecord:  # fmt: skip
    """Train in this process; raises what the run raises. Without a `session` of its own it has that of all others."""
    record = train(spec, session or _session(), Silent(), At(due or {}))
    assert record is not None
    return record


def stop_in_epoch_2(spec: TrialSpec) -> TrialSpec:
    """Train until two steps after the first epoch, where the run is asked to stop; the spec to go on with."""
    with pytest.raises(InterruptedRunError):
        train(spec, _session(), Silent(), StopAfter(STEPS_PER_EPOCH + 2))
    return resumed(spec)


@cache
def _session() -> Session:
    # One for all: a client of S3 takes a tenth of a second to make.
    return Session(threads=1, cpu=True)


class Training:
    """A process that trains a run. It is forked from one that has everything imported, and so begins at once.

    With several workers it supervises them, each a process that begins with its imports.
    """

    def __init__(self, spec: TrialSpec, clock_s: float = 0.0, workers: int = 1) -> None:
        """`clock_s`: how far its machine's clock is ahead; of one worker only."""
        self._outcome = Path(spec.project_dir) / f"outcome-{uuid4().hex}"
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        arguments = (spec.model_dump_json(), str(self._outcome), environment, clock_s, workers)
        self._process = _PROCESSES.Process(target=_train, args=arguments, daemon=True)
        self._process.start()

    @property
    def workers(self) -> list[int]:
        """The ids of the processes that it supervises: workers first, then spares."""
        assert self._process.pid is not None, "it was started"
        with suppress(psutil.NoSuchProcess):
            return sorted(child.pid for child in psutil.Process(self._process.pid).children())
        return []

    @property
    def running(self) -> bool:
        """Has it not ended?"""
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None, "it was started"
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.join()

    def end(self, within_s: float = DEADLINE_S) -> str:
        """Wait; "completed", or how it failed: the error's class and text."""
        self._process.join(within_s)
        assert not self.running, "it hangs"
        return self._outcome.read_text() if self._outcome.exists() else f"status {self._process.exitcode}"


def _train(text: str, outcome: str, environment: dict[str, str], clock_s: float, workers: int) -> None:
    os.environ.update(environment)
    sys.stderr = Path(f"{outcome}.log").open("w")  # noqa: SIM115 - as long as the process
    if clock_s:
        _set_clock(clock_s)
    told = "completed"
    spec = TrialSpec.model_validate_json(text)
    try:
        if workers == 1:
            train_here(spec, Session(threads=1, cpu=True))
        else:
            train_in_processes(spec, workers, threads=1)
    except TuneyardError as error:
        told = f"{type(error).__name__}: {error}"
    Path(outcome).write_text(told)


def _set_clock(ahead_s: float) -> None:
    """The calendar of this process, as all that is ours sees it; intervals are measured as ever."""
    import datetime

    class Ahead(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Ahead":
            found = datetime.datetime.now(tz) + datetime.timedelta(seconds=ahead_s)
            return cls.fromtimestamp(found.timestamp(), tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("tuneyard.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Ahead  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Final:
    """What a run came to: the weights of its newest checkpoint, and its epochs without what a clock has measured."""

    weights: dict[str, torch.Tensor]
    rows: list[dict[str, float]]
    status: str

    def same(self, other: "Final") -> bool:
        """The same, to the last bit?"""
        return self.rows == other.rows and self.status == other.status and same_bits(self.weights, other.weights)


@dataclass(frozen=True)
class Place:
    """Where a run's checkpoints lie, past all proxies."""

    store: Store
    prefix: str
    blob_prefix: str

    def key(self, key: str) -> str:
        """Of a key below the run's prefix."""
        return self.prefix + key

    @property
    def files(self) -> CheckpointFiles:
        """Every manifest that counts."""
        return CheckpointFiles(self.store, self.prefix, Onlooker(self.store, self.prefix))

    @property
    def blobs(self) -> Blobs:
        """Where blobs lie."""
        return Blobs(self.store, self.blob_prefix)


@cache
def _server(endpoint_url: str) -> Store:
    return open_store(f"s3://{BUCKET}", S3Options(endpoint_url=endpoint_url))


def place_of(spec: TrialSpec, proxy: S3Proxy) -> Place:
    """The place of a run."""
    above = spec.store_uri.removeprefix(f"s3://{BUCKET}/")
    store = _server(f"http://{proxy.upstream}")
    return Place(store, f"{above}/{spec.prefix}", f"{above}/{spec.blob_prefix}")


def final(place: Place) -> Final:
    """How a run stands, as somebody sees it who only reads."""
    rows = [{k: v for k, v in row.items() if not k.endswith("_s")} for row in read_metrics(place.store, place.prefix)]
    fence = Onlooker(place.store, place.prefix)
    weights = Checkpoints(place.store, place.prefix, place.blob_prefix, fence=fence).load_parts(["model"])["model"]
    return Final(weights, rows, read_run(place.store, place.prefix).status)


def committed(place: Place) -> list[int]:
    """The steps of a run's checkpoints."""
    return sorted({found.step for found in place.files.places()})


def problems(place: Place) -> list[str]:
    """What is wrong with any checkpoint of a run; each byte is compared."""
    fence = Onlooker(place.store, place.prefix)
    verdicts = Upkeep(place.store, place.prefix, place.blob_prefix, fence).verify()
    return [f"step {verdict.step}: {problem}" for verdict in verdicts for problem in verdict.problems]


def leftovers(place: Place) -> list[str]:
    """What nobody needs any more, of a run that shares no blobs: announced saves, and blobs that nothing names."""
    named = {name for found in place.files.all_places() for name in place.files.read(found).blob_names}
    return [*place.store.keys(f"{place.blob_prefix}pending/"), *sorted(place.blobs.names() - named)]


def blob_key(place: Place, step: int, part: str) -> str:
    """The key of the only blob of a part, in the newest checkpoint of a step."""
    (blob,) = place.files.read(place.files.places(step)[-1]).parts[part].blobs
    return place.blobs.key(blob.name)


def assert_undisturbed(spec: TrialSpec, proxy: S3Proxy, undisturbed: Final) -> None:
    """The run came to what it comes to without faults, all its checkpoints are whole, and nothing else is left."""
    place = place_of(spec, proxy)
    assert final(place).same(undisturbed)
    assert problems(place) == []
    assert leftovers(place) == []
