"""Tiny runs that keep their checkpoints in S3 behind a proxy, in this process or in one that can be killed."""

import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from tests.s3_proxy import Request, S3Proxy
from tests.trainers.runs import Changes, make_spec, same_bits
from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker
from tuneyard.trainers.checkpoints.files import CheckpointFiles
from tuneyard.trainers.checkpoints.upkeep import Upkeep
from tuneyard.trainers.errors import TuneyardError
from tuneyard.trainers.parallel.leaving import store_of
from tuneyard.trainers.parallel.worker import train_here
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import RunRecord, read_metrics, read_run
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store

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
    """A run of 24 steps, in a place of its own in S3."""
    every = {**BASIC, "checkpoint.endpoint_url": proxy.endpoint_url, "checkpoint.deadline_s": 60.0, **(changes or {})}
    return make_spec(folder, every, **{"store_uri": f"s3://{BUCKET}/{uuid4().hex}", **fields})


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


def train_with(spec: TrialSpec, due: Mapping[int, Callable[[], object]] | None = None) -> RunRecord:
    """Train in this process; raises what the run raises."""
    record = train(spec, Session(threads=1, cpu=True), Silent(), At(due or {}))
    assert record is not None
    return record


class Training:
    """A process that trains a run. It is forked from one that has everything imported, and so begins at once."""

    def __init__(self, spec: TrialSpec, clock_s: float = 0.0) -> None:
        """`clock_s`: how far its machine's clock is ahead."""
        self._outcome = Path(spec.project_dir) / f"outcome-{uuid4().hex}"
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        arguments = (spec.model_dump_json(), str(self._outcome), environment, clock_s)
        self._process = _PROCESSES.Process(target=_train, args=arguments, daemon=True)
        self._process.start()

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


def _train(text: str, outcome: str, environment: dict[str, str], clock_s: float) -> None:
    os.environ.update(environment)
    sys.stderr = Path(f"{outcome}.log").open("w")  # noqa: SIM115 - as long as the process
    if clock_s:
        _set_clock(clock_s)
    told = "completed"
    try:
        train_here(TrialSpec.model_validate_json(text), Session(threads=1, cpu=True))
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


def wait_until(true: Callable[[], object], within_s: float = DEADLINE_S) -> None:
    """Look again and again; an AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@dataclass(frozen=True)
class Final:
    """What a run came to: the weights of its newest checkpoint, and its epochs without what a clock has measured."""

    weights: dict[str, torch.Tensor]
    rows: list[dict[str, float]]
    status: str

    def same(self, other: "Final") -> bool:
        """The same, to the last bit?"""
        return self.rows == other.rows and self.status == other.status and same_bits(self.weights, other.weights)


def final(spec: TrialSpec) -> Final:
    """How a run stands, as somebody sees it who only reads."""
    store = store_of(spec)
    rows = [{k: v for k, v in row.items() if not k.endswith("_s")} for row in read_metrics(store, spec.prefix)]
    return Final(checkpoints_of(spec).load_parts(["model"])["model"], rows, read_run(store, spec.prefix).status)


def checkpoints_of(spec: TrialSpec) -> Checkpoints:
    """A run's checkpoints, for a reader."""
    store = store_of(spec)
    return Checkpoints(store, spec.prefix, spec.blob_prefix, fence=Onlooker(store, spec.prefix))


def committed(spec: TrialSpec) -> list[int]:
    """The steps of a run's checkpoints."""
    return [info.step for info in checkpoints_of(spec).infos()]


def problems(spec: TrialSpec) -> list[str]:
    """What is wrong with any checkpoint of a run; each byte is compared."""
    store = store_of(spec)
    verdicts = Upkeep(store, spec.prefix, spec.blob_prefix, Onlooker(store, spec.prefix)).verify()
    return [f"step {verdict.step}: {problem}" for verdict in verdicts for problem in verdict.problems]


def leftovers(spec: TrialSpec) -> list[str]:
    """What nobody needs any more in the place of a run of its own: announcements, and blobs that nothing names."""
    store = store_of(spec)
    files = CheckpointFiles(store, spec.prefix)
    named = {name for place in files.places() for name in files.read(place).blob_names}
    unnamed = Blobs(store, spec.blob_prefix).names() - named
    return [*store.keys(f"{spec.blob_prefix}pending/"), *sorted(unnamed)]


def keys_of(store: Store, spec: TrialSpec) -> list[str]:
    """Every key of a run."""
    return store.keys(spec.prefix)


def blob_keys(spec: TrialSpec, step: int, part: str) -> list[str]:
    """The keys of a part's blobs, in the newest checkpoint of a step."""
    files = CheckpointFiles(store_of(spec), spec.prefix)
    blobs = Blobs(store_of(spec), spec.blob_prefix)
    return [blobs.key(blob.name) for blob in files.read(files.places(step)[-1]).parts[part].blobs]


def story(spec: TrialSpec) -> str:
    """A run's manifests and its record's status, for a message."""
    store = store_of(spec)
    manifests = [place.key for place in CheckpointFiles(store, spec.prefix).all_places()]
    return json.dumps({"manifests": manifests, "status": read_run(store, spec.prefix).status})
