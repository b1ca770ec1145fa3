"""Seconds from the command `tuneyard train examples/digits.yaml` to its first optimizer step, seen from outside.

The experiment is cut to one epoch of one step, and the clock stops when the line of that epoch comes out of the
command's pipe. So the figure is an upper bound: the validation after the step is inside.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Series, Target, report

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.yaml"
ONE_STEP = ("data.validation.split=0.9", "train.batch_size=128", "train.epochs=1", "schedule.warmup_epochs=0")
LIMIT_S = 6.0


def seconds_to_first_step() -> tuple[float, float]:
    """Run the command once; its seconds to the line of the first epoch, and to its end."""
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        command = [sys.executable, "-m", "tuneyard.launch.main"]
        installed = Path(sys.executable).with_name("tuneyard")
        command = [str(installed)] if installed.exists() else command
        command += ["train", str(EXAMPLE), *ONE_STEP]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        began = time.perf_counter()
        running = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert running.stdout is not None, "asked for above"
        first_s, lines = None, []
        for line in running.stdout:
            lines.append(line)
            if first_s is None and line.startswith("epoch 1/1"):
                first_s = time.perf_counter() - began
        status = running.wait()
        ended_s = time.perf_counter() - began
    if status != 0 or first_s is None:
        sys.exit(f"the command ended with status {status}:\n{''.join(lines)}")
    return first_s, ended_s


def main() -> int:
    """Measure and report; returns the exit status."""
    arguments = parse_arguments()
    seconds_to_first_step()  # unmeasured: the disk's cache, and Python's compiled files
    measured = [seconds_to_first_step() for _ in range(arguments.rounds)]
    figures = {
        "command to first step": Series(tuple(first for first, _ in measured), "s"),
        "command to its end": Series(tuple(ended for _, ended in measured), "s"),
    }
    notes = [f"{EXAMPLE.name} with {' '.join(ONE_STEP)}; {os.cpu_count()} cores"]
    return report("startup", figures, {}, [Target("command to first step", "at most", LIMIT_S)], notes)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    return arguments


if __name__ == "__main__":
    sys.exit(main())
