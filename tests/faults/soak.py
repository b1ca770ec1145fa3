"""Runs that are disturbed at random, round after round: `make soak SECONDS=300 SEED=1`.

Every round trains a run on a real S3 server behind a proxy, while faults of `plans.py` befall it, and then looks:
is every checkpoint whole, are the weights those of an undisturbed run to the last bit, is nothing left that nobody
needs, no process, no upload? Prints each fault with its time. Exits 1 with the seed and the story where a look fails,
or where a round does not come to its end in time.
"""

import argparse
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import boto3

from tests.faults.harness import (
    BASIC,
    BUCKET,
    Final,
    HoldingProxy,
    Place,
    Training,
    final,
    leftovers,
    place_of,
    problems,
    resumed,
    spec_in_s3,
)
from tests.faults.plans import Fault, Plan, draw_plan
from tests.trainers.runs import make_spec
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.checkpoints.collector import Collector
from tuneyard.trainers.checkpoints.fencing import replaced_in
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store
from tuneyard.tune.driver_lock import driving

ROUND_S = {1: 120.0, 2: 400.0}
"""By the number of workers. A round takes seconds, and with two workers some tens; one that takes this long hangs."""
CHANGES = {
    "model.args": {"dropout": 0.3, "wait_s": 0.03}, "checkpoint.deadline_s": 8.0, "checkpoint.keep_last": 2,
    "resources.hang_timeout_s": 20.0,
}  # fmt: skip
_ATTEMPTS = 12
_GAVE_UP = (
    r"(?s)(StoreError|WorkerError): .*gave up after",
    # Two losses alike at the same step are one too many.
    r"WorkerError: (Worker \d of 2|The workers) (was ended by SIGKILL|hung)",
)
"""With these ends of an attempt a user resumes the run."""
_REPLACED = (r"(FencedError|StoreError): ", r"WorkerError: attempt \d+ at run \S+ was replaced", *_GAVE_UP)
"""These are ends of one that another has replaced; it may also have come to its own before that."""


class BrokenError(Exception):
    """Something that must always hold does not."""


class Round:
    """One run, its plan, and the processes that train it."""

    def __init__(self, number: int, plan: Plan, folder: Path, proxy: HoldingProxy, began: float) -> None:
        self._number, self._plan, self._proxy, self._began = number, plan, proxy, began
        fields = {"sweep_id": f"s{number}"} if plan.sweep else {}
        self._spec: TrialSpec = spec_in_s3(folder, proxy, CHANGES, run_id=f"r{number}", **fields)
        self.place: Place = place_of(self._spec, proxy)
        self._deadline = time.monotonic() + ROUND_S[plan.workers]
        self._harmed: set[str] = set()
        self._attempts = 0
        self._old: list[Training] = []  # replaced, and not ended yet
        self._still: list[Training] = []  # those of them that stand still

    def run(self, undisturbed: Final) -> None:
        """Train it to its end, whatever happens; raises BrokenError."""
        self._proxy.requests.clear()
        with ExitStack() as held:
            held.callback(self._end_all)
            if self._plan.sweep:
                held.enter_context(driving(self.place.store, self.place.blob_prefix, f"sweep s{self._number}"))
            self._training = self._start(self._spec)
            for fault in self._plan.faults:
                self._wait_for_request(fault.after)
                self.say(fault.name)
                self._disturb(fault)
            self._finish()
        self._look(undisturbed)

    def say(self, text: str) -> None:
        """A line of the story."""
        print(f"[{time.monotonic() - self._began:6.1f} s] round {self._number}: {text}", flush=True)  # noqa: T201

    def _start(self, spec: TrialSpec, clock_s: float = 0.0) -> Training:
        self._attempts += 1
        if self._attempts > _ATTEMPTS:
            raise BrokenError(f"it does not come to its end in {_ATTEMPTS} attempts")
        return Training(spec, clock_s, self._plan.workers)

    def _wait_for_request(self, number: int) -> None:
        while len(self._proxy.requests) < number and self._training.running:
            self._refuse_late()
            time.sleep(0.002)

    def _refuse_late(self) -> None:
        if time.monotonic() > self._deadline:
            raise BrokenError(f"it hangs: no end after {ROUND_S[self._plan.workers]:.0f} s")

    def _disturb(self, fault: Fault) -> None:
        match fault.act:
            case "s3":
                fault.trouble(self._proxy)
            case "kill" | "kill, clock apart":
                self._training.kill()
                self._check_whole()
                self._training = self._start(resumed(self._spec), fault.clock_s)
            case "damage":
                self._training.kill()
                self._damage(fault.harm)
                self._training = self._start(resumed(self._spec))
            case "stand still":
                self._send(signal.SIGSTOP)
                time.sleep(0.3)
                self._send(signal.SIGCONT)
            case "replace" | "replace what stands still":
                if fault.act != "replace":
                    self._send(signal.SIGSTOP)
                    self._still.append(self._training)
                self._old.append(self._training)
                self._training = self._start(resumed(self._spec))
            case "second driver":
                self._drive_twice()
            case "kill a worker" | "a worker hangs":
                here = self._training.workers[: self._plan.workers]
                if fault.worker < len(here):
                    with suppress(ProcessLookupError):  # it has ended
                        os.kill(here[fault.worker], signal.SIGKILL if fault.act == "kill a worker" else signal.SIGSTOP)

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            self._training.send(number)

    def _damage(self, harm: str) -> None:
        """Of the newest checkpoint, and only where there is an older one to go on from."""
        places = self.place.files.places()
        if len({found.step for found in places}) < 2:
            return
        older = {name for found in places[:-1] for name in self.place.files.read(found).blob_names}
        mine = sorted(self.place.files.read(places[-1]).blob_names - older)
        if not mine:
            return
        key = self.place.blobs.key(mine[0])
        data = self.place.store.get(key)
        self._harmed.add(key)
        if harm == "delete":
            self.place.store.delete(key)
        else:
            self.place.store.put(key, data[:-7] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 16]))

    def _drive_twice(self) -> None:
        try:
            with driving(self.place.store, self.place.blob_prefix, f"sweep s{self._number}"):
                pass
        except ConfigError:
            return
        raise BrokenError("a second driver was not refused")

    def _finish(self) -> None:
        while (told := self._end_of(self._training)) != "completed":
            self.say(f"it ended: {told}; it is resumed")
            if not any(re.match(pattern, told) for pattern in _GAVE_UP):
                raise BrokenError(f"it ended with {told}")
            self._training = self._start(resumed(self._spec))
        for old in self._still:
            with suppress(ProcessLookupError):
                old.send(signal.SIGCONT)
        for old in self._old:
            told = self._end_of(old)
            if told != "completed" and not any(re.match(pattern, told) for pattern in _REPLACED):
                raise BrokenError(f"one that was replaced ended with {told}")
        self._proxy.let_go()

    def _end_of(self, training: Training) -> str:
        while training.running:
            self._refuse_late()
            time.sleep(0.01)
        return training.end()

    def _check_whole(self) -> None:
        wrong = [problem for problem in problems(self.place) if not any(key in problem for key in self._harmed)]
        if wrong:
            raise BrokenError(f"a committed checkpoint is not whole: {wrong}")

    def _look(self, undisturbed: Final) -> None:
        self._check_whole()
        found = final(self.place)
        if not found.same(undisturbed):
            raise BrokenError(f"it is {found.status}, and its weights or metrics are not those of an undisturbed run")
        over = replaced_in(self.place.store, self.place.blob_prefix)
        Collector(self.place.store, self.place.blob_prefix, over).collect()
        left = leftovers(self.place)
        if left:
            raise BrokenError(f"what nobody needs is left: {left}")

    def _end_all(self) -> None:
        for training in (self._training, *self._old):
            training.kill()
        self._proxy.let_go()


def soak(seconds: float, seed: int, folder: Path) -> int:
    """Rounds until the time is over; how many there were. Raises BrokenError."""
    draw, began, number = random.Random(seed), time.monotonic(), 0
    undisturbed = {workers: _undisturbed(folder / "project", workers) for workers in ROUND_S}
    with SeaweedServer(folder / "s3") as server, HoldingProxy(server.endpoint_url) as proxy:
        server.create_bucket(BUCKET)
        os.environ |= {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        while time.monotonic() - began < seconds:
            number += 1
            plan = draw_plan(draw)
            Round(number, plan, folder / "project", proxy, began).run(undisturbed[plan.workers])
        client = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1")
        unfinished = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        if unfinished:
            raise BrokenError(f"uploads are left unfinished: {unfinished}")
    return number


def _undisturbed(folder: Path, workers: int) -> Final:
    spec = make_spec(folder, {**BASIC, **CHANGES}, run_id=f"undisturbed-{workers}")
    told = Training(spec, workers=workers).end()
    if told != "completed":
        raise BrokenError(f"without any fault it ended with {told}")
    return final(Place(open_store(spec.store_uri), spec.prefix, spec.blob_prefix))


def main() -> int:
    """As the module's text says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=None, help="drawn, and told, where none is given")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    logging.getLogger("tuneyard").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-soak-"))
    sys.stdout.write(f"soak: {arguments.seconds:g} s, seed {seed}, in {folder}\n")
    try:
        rounds = soak(arguments.seconds, seed, folder)
    except BrokenError as error:
        sys.stdout.write(f"BROKEN: {error}.\nAgain: make soak SEED={seed}. What was left is in {folder}\n")
        return 1
    shutil.rmtree(folder)
    sys.stdout.write(f"soak: {rounds} rounds, seed {seed}: all ended as if undisturbed.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
