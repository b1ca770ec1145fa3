"""What a short trial costs beyond its training: our sweep, Ray Tune's function API, and TorchTrainer inside Tune.

Seconds per trial = (wall-clock seconds * trials at a time - seconds of training in all trials) / trials. The first
trials' cost, new processes with their imports, is inside. All sides share one Ray, whose own start is not counted;
TorchTrainer gets fewer trials, since each of its takes so long (and all of its trials start new processes).

With `--workers 2` a trial of ours and of TorchTrainer's has two workers of one core, and one trial runs at a time. The
class API with kept actors, whose trials have one process, then says how much of the price is Ray Tune's own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Target, in_turns, ratios, report, require

SIDES = Path(__file__).parent / "turnaround_sides.py"
CORES = 2
OURS, OFFLINE, FUNCTION, TRAINER = "tuneyard", "tuneyard, comet offline", "function API", "torch-trainer"
KEPT = "function API, kept"  # with reuse_actors=True, which is not the default: shown, without a target
CLASS = "class API, kept"


def seconds_beyond_training(side: str, trials: int, workers: int, address: str) -> float:
    """Run one side's sweep on the Ray at `address`."""
    with tempfile.TemporaryDirectory(prefix="turnaround-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(SIDES), side, "--address", address, "--trials", str(trials), "--folder", folder]
        command += ["--workers", str(workers)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode != 0:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    beyond = (measured["wall_s"] * (CORES // workers) - sum(measured["training_s"])) / trials
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

    ray.init(num_cpus=CORES, resources={"waiting": 8}, include_dashboard=False, log_to_driver=False)
    try:
        address = ray.get_runtime_context().gcs_address
        trials = dict.fromkeys((OURS, OFFLINE, FUNCTION, KEPT, CLASS), arguments.trials)
        trials[TRAINER] = arguments.trainer_trials
        usual = [OURS, OFFLINE, FUNCTION, KEPT, TRAINER] if arguments.workers == 1 else [OURS, CLASS, TRAINER]
        chosen = arguments.sides or usual
        sides = {
            side: lambda _, side=side: seconds_beyond_training(side, trials[side], arguments.workers, address)
            for side in chosen
        }
        figures = in_turns(sides, arguments.rounds, "s/trial")
    finally:
        ray.shutdown()
    against = {
        f"{ours} / {peer}": ratios(figures[ours], figures[peer])
        for ours in (OURS, OFFLINE) if ours in figures
        for peer in (FUNCTION, KEPT, CLASS, TRAINER) if peer in figures
    }  # fmt: skip
    wanted = [Target(f"{OURS} / {FUNCTION}", "at most", 1 / 5), Target(f"{OURS} / {TRAINER}", "at most", 1 / 20)]
    if arguments.workers == 2:
        wanted = [Target(f"{OURS} / {TRAINER}", "at most", 1 / 15), Target(f"{OURS} / {CLASS}", "at most", 2.0)]
    notes = [f"{side}: {trials[side]} trials a round" for side in chosen]
    return report("trial_turnaround", figures, against, [one for one in wanted if one.of in against], notes)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, choices=[1, 2], help="of a trial, each with a core")
    parser.add_argument("--trials", type=int, help="32 of one worker, 24 of two, unless given")
    parser.add_argument("--trainer-trials", type=int, help="of TorchTrainer inside Tune; 4 or 3 unless given")
    parser.add_argument(
        "--sides", nargs="+", choices=[OURS, OFFLINE, FUNCTION, KEPT, CLASS, TRAINER], help="only these"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 8 trials, 2 for TorchTrainer")
    arguments = parser.parse_args()
    arguments.trials = arguments.trials or (32 if arguments.workers == 1 else 24)
    arguments.trainer_trials = arguments.trainer_trials or (4 if arguments.workers == 1 else 3)
    if arguments.quick:
        arguments.rounds, arguments.trials, arguments.trainer_trials = 1, 8, 2
    return arguments


if __name__ == "__main__":
    sys.exit(main())
