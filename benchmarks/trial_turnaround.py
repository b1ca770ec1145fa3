"""What a short trial costs beyond its training: our sweep, Ray Tune's function API, and TorchTrainer inside Tune.

Seconds per trial = (wall-clock seconds * trials at a time - seconds of training in all trials) / trials. The first
trials' cost, new processes with their imports, is inside. All sides share one Ray, whose own start is not counted;
TorchTrainer gets fewer trials, since each of its takes so long (and all of its trials start new processes).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Target, in_turns, ratios, report, require

SIDES = Path(__file__).parent / "turnaround_sides.py"
CONCURRENT = 2
OURS, OFFLINE, FUNCTION, TRAINER = "tuneyard", "tuneyard, comet offline", "function API", "torch-trainer"
KEPT = "function API, kept"  # with reuse_actors=True, which is not the default: shown, without a target


def seconds_beyond_training(side: str, trials: int, address: str) -> float:
    """Run one side's sweep on the Ray at `address`."""
    with tempfile.TemporaryDirectory(prefix="turnaround-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(SIDES), side, "--address", address, "--trials", str(trials), "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode != 0:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    beyond = (measured["wall_s"] * CONCURRENT - sum(measured["training_s"])) / trials
    print(
        f"{side}: {trials} trials in {measured['wall_s']:.1f} s, training {sum(measured['training_s']):.1f} s "
        f"-> {beyond:.3f} s a trial", file=sys.stderr, flush=True,
    )  # fmt: skip
    return float(beyond)


def main() -> int:
    """Measure and report; returns the exit status."""
    arguments = parse_arguments()
    require("ray", "sklearn", "torch")
    import ray

    ray.init(num_cpus=CONCURRENT, resources={"waiting": 8}, include_dashboard=False, log_to_driver=False)
    try:
        address = ray.get_runtime_context().gcs_address
        trials = dict.fromkeys((OURS, OFFLINE, FUNCTION, KEPT), arguments.trials) | {TRAINER: arguments.trainer_trials}
        chosen = arguments.sides or list(trials)
        sides = {side: lambda _, side=side: seconds_beyond_training(side, trials[side], address) for side in chosen}
        figures = in_turns(sides, arguments.rounds, "s/trial")
    finally:
        ray.shutdown()
    against = {
        f"{ours} / {peer}": ratios(figures[ours], figures[peer])
        for ours in (OURS, OFFLINE) if ours in figures
        for peer in (FUNCTION, KEPT, TRAINER) if peer in figures
    }  # fmt: skip
    wanted = [Target(f"{OURS} / {FUNCTION}", "at most", 1 / 5), Target(f"{OURS} / {TRAINER}", "at most", 1 / 20)]
    notes = [f"{side}: {trials[side]} trials a round" for side in chosen]
    return report("trial_turnaround", figures, against, [one for one in wanted if one.of in against], notes)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--trainer-trials", type=int, default=4, help="of TorchTrainer inside Tune")
    parser.add_argument("--sides", nargs="+", choices=[OURS, OFFLINE, FUNCTION, KEPT, TRAINER], help="only these")
    parser.add_argument("--quick", action="store_true", help="one round of 8 trials, 2 for TorchTrainer")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.trials, arguments.trainer_trials = 1, 8, 2
    return arguments


if __name__ == "__main__":
    sys.exit(main())
