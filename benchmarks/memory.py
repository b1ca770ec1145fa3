"""Peak memory of training digits and Fashion-MNIST for an epoch, as the run record tells it, and seen from outside.

The record's figures are of the training process: its peak, and how much of that is beyond what the imports took. From
outside, the whole family of processes is watched, those that make batches and talk to Comet too: their memory that no
file backs, imports included, with what they share counted once. (Mapped libraries are left out: how much of those is
whose depends on who else on the machine uses them.)
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
from measuring import Series, Target, report

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = {"digits": "digits.yaml", "fashion-mnist": "fashion_mnist.yaml"}
LIMIT_MB = 1500.0
LOOK_S = 0.2


def train_one_epoch(example: str) -> tuple[float, float, float]:
    """Peak MB of the training process, the share of it beyond the imports, and the peak of all its processes."""
    with tempfile.TemporaryDirectory(prefix="memory-", ignore_cleanup_errors=True) as folder:
        installed = Path(sys.executable).with_name("tuneyard")
        command = [str(installed), "train", str(EXAMPLES / FILES[example]), "train.epochs=1", "checkpoint.store=store"]
        command += ["schedule.warmup_epochs=0"]  # a single epoch is too short for the examples' warm-up
        log = Path(folder) / "log.txt"
        with log.open("w") as output:
            running = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
            family_mb = _watch(running)
        if running.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with status {running.returncode}:\n{log.read_text()[-3000:]}")
        found = json.loads(next(Path(folder, "store").rglob("run.json")).read_text())["memory"]
    return found["peak_bytes"] / 1e6, (found["peak_bytes"] - found["imports_bytes"]) / 1e6, family_mb


def _watch(running: subprocess.Popen[bytes]) -> float:
    peak = 0.0
    while running.poll() is None:
        peak = max(peak, _family_mb(running.pid))
        try:
            running.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            continue
    return peak


def _family_mb(pid: int) -> float:
    total_kb = 0
    with suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            # One may end while we look.
            with suppress(OSError):
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                total_kb += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total_kb * 1024 / 1e6


def main() -> int:
    """Measure and report; returns the exit status."""
    arguments = parse_arguments()
    figures: dict[str, Series] = {}
    for example in arguments.examples:
        rounds = [train_one_epoch(example) for _ in range(arguments.rounds)]
        for place, what in enumerate(("peak", "beyond the imports", "all processes, libraries aside")):
            figures[f"{example}: {what}"] = Series(tuple(found[place] for found in rounds), "MB")
    wanted = Target("fashion-mnist: beyond the imports", "at most", LIMIT_MB)
    return report("memory", figures, {}, [wanted] if wanted.of in figures else [])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--examples", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--quick", action="store_true", help="digits only, which has no target")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.examples = ["digits"]
    return arguments


if __name__ == "__main__":
    sys.exit(main())
