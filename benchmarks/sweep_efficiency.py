"""How much of the machine a sweep turns into training steps: ours, a loop over Optuna, and Ray Tune's function API.

Efficiency = seconds of compute that the trials' training steps need alone / (cores * wall-clock seconds). What a step
needs alone is measured before and after, for every width of the net, by the same loop on one core with nothing beside
it. The wall clock counts everything: imports, Ray's start and end, data, validation, checkpoints, records, and cores
that stand idle at the end. All sides search the same space on the same images with one core a trial, two at a time (the
Optuna loop: one trial at a time with two threads), until as many trials have been tried.

Beside them: what steps reach where every core does steps and nothing else. Cores share caches and memory, and no sweep
can go beyond that.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from measuring import Series, Target, in_turns, ratios, report, require

SIDES = Path(__file__).parent / "efficiency_sides.py"
CORES = 2
OURS, OPTUNA, FUNCTION, BARE = "tuneyard", "optuna, one process", "function API", "bare steps on every core"
NAMES = {OURS: "ours", OPTUNA: "optuna", FUNCTION: "function", BARE: "alone"}


def call(*words: str) -> dict[str, Any]:
    """Run one of the sides; its last line is JSON."""
    with tempfile.TemporaryDirectory(prefix="efficiency-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(SIDES), *words, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def efficiency(side: str, trials: int) -> float:
    """One sweep of this side, between two measurements of its steps alone: a shared machine's pace drifts."""
    loop = "ours" if side == OURS else "plain"
    before = call("alone", "--loop", loop)["seconds_per_step"]
    swept = call(NAMES[side], "--trials", str(trials))
    after = call("alone", "--loop", loop)["seconds_per_step"]
    compute = sum((before[width] + after[width]) / 2 * steps for width, steps in swept["steps"].items())
    share = compute / (CORES * swept["wall_s"])
    print(
        f"{side}: {sum(swept['steps'].values())} steps, {compute:.0f} s of compute in {swept['wall_s']:.0f} s "
        f"-> {share:.3f}; best {swept['best']:.4f}", file=sys.stderr, flush=True,
    )  # fmt: skip
    return float(share)


def bare_steps() -> float:
    """Seconds of a step alone / seconds of a step with the same going on on every other core; mean of the widths."""
    before = call("alone")["seconds_per_step"]
    with ThreadPoolExecutor(CORES) as pool:
        together = list(pool.map(lambda core: call("alone", "--core", str(core))["seconds_per_step"], range(CORES)))
    after = call("alone")["seconds_per_step"]
    shares = [(before[width] + after[width]) / 2 / mean(one[width] for one in together) for width in before]
    return float(mean(shares))


def main() -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--sides", nargs="+", choices=list(NAMES), default=list(NAMES), help="only these")
    parser.add_argument("--quick", action="store_true", help="nine trials")
    arguments = parser.parse_args()
    require("ray", "optuna", "torch")
    trials = 9 if arguments.quick else arguments.trials
    sides = {
        side: lambda _, side=side: bare_steps() if side == BARE else efficiency(side, trials)
        for side in arguments.sides
    }
    figures = in_turns(sides, arguments.rounds, "of 1")
    against: dict[str, Series] = {
        f"{OURS} / {peer}": ratios(figures[OURS], figures[peer])
        for peer in (OPTUNA, FUNCTION) if OURS in figures and peer in figures
    }  # fmt: skip
    wanted = [Target(OURS, "at least", 0.85)] if OURS in figures else []
    return report("sweep_efficiency", figures, against, wanted, [f"{trials} trials a sweep"])


if __name__ == "__main__":
    sys.exit(main())
