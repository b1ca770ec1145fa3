"""A training state of 307 MB saved to S3 and loaded again: our checkpoints against what a user could take instead.

The peers: torch.save and boto3's upload_file; torch.distributed.checkpoint's async_save, through s3torchconnector's
storage writer; torch.save to s3torchconnector's own writer. Told of each: how long the training loop waits for a save,
at the first one of a process and later; how long until all is durable while nothing else goes on, and while the loop
goes on; what that leaves of the loop's pace; the memory that saving takes beyond the state; how long a fresh process
takes to load; and the bytes that are sent, also where a tenth of the state has changed.

Every side saves and loads in processes of its own (`checkpoint_sides.py`), in turns, against one SeaweedFS on this
machine, anew in each round. What was loaded is compared with what was saved, bit for bit. Bytes are counted in a pass
of its own behind a relay (`counting_proxy.py`), which warms the machine up, too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from checkpoint_peers import BUCKET, SIDES
from counting_proxy import CountingProxy
from measuring import Series, Target, ratios, report, require

from tuneyard.cluster.seaweedfs import SeaweedServer

SCRIPT = Path(__file__).parent / "checkpoint_sides.py"
OURS, UPLOAD, DCP, _ = SIDES
MEMORY_FOLDER = Path("/dev/shm")
MEMORY_FOLDER_BYTES = 8 * 10**9
LIMIT_S = 600

Answer = dict[str, Any]
SERVER_MIB = 4096
"""Otherwise the benchmark would measure how the server collects its garbage: with 256 it takes twice the processor."""


def save_and_load(side: str, server: SeaweedServer, *, count: bool) -> Answer:
    """One side's saves and its load; `sent` holds the bytes of each save where `count` says so."""
    prefix = str(list(SIDES).index(side))
    with CountingProxy(server.endpoint_url) if count else nullcontext() as proxy:
        where = ["--endpoint-url", proxy.url if proxy else server.endpoint_url, "--prefix", prefix]
        sent: dict[str, int] = {}
        saved = _call(["save", side, *where], server, lambda mark: sent.update({mark: proxy.sent if proxy else 0}))
        loaded = _call(["load", side, *where], server, lambda _: None)
    if loaded["digest"] != saved["digest"]:
        sys.exit(f"{side}: what was loaded is not what was saved")
    return saved | loaded | {"sent": {mark: sent[mark] - sent[before] for before, mark in pairwise(sent)}}


def _call(words: list[str], server: SeaweedServer, mark: Callable[[str], None]) -> Answer:
    """Run a side; `mark` is called with each of its lines but the last, before it may go on."""
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "GOMP_SPINCOUNT": "10000",  # as our command line has it: for all, so that no side suffers from spinning threads
    }  # fmt: skip
    with tempfile.TemporaryFile("w+") as complaints:
        running = subprocess.Popen(
            [sys.executable, str(SCRIPT), *words],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints,
        )  # fmt: skip
        assert running.stdin is not None
        assert running.stdout is not None
        last = ""
        for line in running.stdout:
            last = line.strip()
            if not last.startswith("{"):
                mark(last)
                running.stdin.write("\n")
                running.stdin.flush()
        if running.wait(LIMIT_S) != 0:
            complaints.seek(0)
            sys.exit(f"{' '.join(words)} ended with status {running.returncode}:\n{complaints.read()[-4000:]}")
    answer: Answer = json.loads(last)
    return answer


def measure(sides: list[str], rounds: int, folder: Path) -> tuple[dict[str, Answer], dict[str, list[Answer]]]:
    """The counted pass, and each side's timed rounds; who begins rotates."""
    counted: dict[str, Answer] = {}
    timed: dict[str, list[Answer]] = {side: [] for side in sides}
    for number in range(-1, rounds):
        start = number % len(sides)
        with (
            tempfile.TemporaryDirectory(prefix="checkpoint-", dir=folder) as data,
            SeaweedServer(Path(data), memory_mib=SERVER_MIB) as server,
        ):
            server.create_bucket(BUCKET)
            for side in sides[start:] + sides[:start]:
                answer = save_and_load(side, server, count=number < 0)
                if number < 0:
                    counted[side] = answer
                else:
                    timed[side].append(answer)
                _tell(side, number, answer)
    return counted, timed


def _tell(side: str, number: int, answer: Answer) -> None:
    of = {what: answer[what] for what in ("first", "quiet", "busy")}
    times = ", ".join(f"{what} {one['stall_s']:.3f} {one['durable_s']:.2f}" for what, one in of.items())
    print(f"round {number}, {side}: {times}, load {answer['load_s']:.2f}", file=sys.stderr, flush=True)


def figures_of(side: str, counted: Answer, rounds: list[Answer]) -> dict[str, Series]:
    """All that is told of one side, but for ratios."""

    def series(unit: str, of: Callable[[Answer], float]) -> Series:
        return Series(tuple(map(of, rounds)), unit)

    found = {
        "stall": series("s", lambda one: one["busy"]["stall_s"]),
        "stall, all copied at once": series("s", lambda one: one["quiet"]["stall_s"]),
        "stall, first save": series("s", lambda one: one["first"]["stall_s"]),
        "durable": series("s", lambda one: one["quiet"]["durable_s"]),
        "durable, first save": series("s", lambda one: one["first"]["durable_s"]),
        "durable beside training": series("s", lambda one: one["busy"]["durable_s"]),
        "pace beside saving": series("of 1", lambda one: one["busy"]["steps_per_s"] / one["steps_per_s"]),
        "load": series("s", lambda one: one["load_s"]),
        "memory beyond the state": series("of 1", lambda one: one["beyond_bytes"] / one["state_bytes"]),
        "sent, all changed": Series((counted["sent"]["quiet"] / 1e6,), "MB"),
        "sent, a tenth changed": Series((counted["sent"]["frozen"] / 1e6,), "MB"),
    }
    if side not in (OURS, DCP):
        del found["pace beside saving"]  # the loop had to wait
    return {f"{side}: {what}": values for what, values in found.items()}


def compared(figures: dict[str, Series], counted: Answer, peers: list[str]) -> dict[str, Series]:
    """Ours against the peers; the fastest of them is the one with the best median."""

    def fastest(what: str) -> Series:
        return min((figures[f"{peer}: {what}"] for peer in peers), key=lambda series: series.median)

    found = {
        "durable / the fastest peer's": ratios(figures[f"{OURS}: durable"], fastest("durable")),
        "load / the fastest peer's": ratios(figures[f"{OURS}: load"], fastest("load")),
        "memory beyond the state / the state": figures[f"{OURS}: memory beyond the state"],
        "sent, a tenth changed / the state": Series((counted["sent"]["frozen"] / counted["state_bytes"],), "ratio"),
    }
    if UPLOAD in peers:
        found["stall / upload_file's total"] = ratios(figures[f"{OURS}: stall"], figures[f"{UPLOAD}: durable"])
    if DCP in peers:
        found["stall / DCP's stall"] = ratios(figures[f"{OURS}: stall"], figures[f"{DCP}: stall"])
    return found


TARGETS = (
    Target("stall / upload_file's total", "at most", 1 / 25),
    Target("stall / DCP's stall", "at most", 1 / 5),
    Target("durable / the fastest peer's", "at most", 1.1),
    Target("load / the fastest peer's", "at most", 1.0),
    Target("memory beyond the state / the state", "at most", 1.1),
    Target("sent, a tenth changed / the state", "at most", 0.15),
)


def main() -> int:
    """Measure and report; returns the exit status."""
    arguments = parse_arguments()
    require("boto3", "s3torchconnector", "tenacity", "timm", "torch")
    sides = [OURS, *(side for side in SIDES if side in arguments.peers)]
    folder = arguments.folder or _memory_folder() or Path(tempfile.gettempdir())
    counted, timed = measure(sides, arguments.rounds, folder)
    figures: dict[str, Series] = {}
    for side in sides:
        figures |= figures_of(side, counted[side], timed[side])
    against = compared(figures, counted[OURS], sides[1:])
    state = f"{counted[OURS]['state_bytes'] / 1e6:.0f} MB of state, of which {counted[OURS]['changed']:.1%} changed"
    notes = [
        f"{state} before the last save; SeaweedFS's files in {folder}; {os.cpu_count()} cores for server and client",
        "stall: of the third save of a process, while it trains: in the call and before the next optimizer step",
        "durable: of the second, with nothing else going on; everything loaded was compared bit for bit",
    ]
    return report("checkpoint", figures, against, [target for target in TARGETS if target.of in against], notes)


def _memory_folder() -> Path | None:
    """A file system in memory, where there is room for what all sides save in a round: no disk in between."""
    if not MEMORY_FOLDER.is_dir():
        return None
    found = os.statvfs(MEMORY_FOLDER)
    return MEMORY_FOLDER if found.f_bavail * found.f_frsize >= MEMORY_FOLDER_BYTES else None


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=list(SIDES)[1:], default=list(SIDES)[1:], help="only these")
    parser.add_argument("--folder", type=Path, help="for SeaweedFS's files; a file system in memory if there is room")
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    return arguments


if __name__ == "__main__":
    sys.exit(main())
