"""Does a kept process grow? Its resident memory after 20, 100 and 200 short trials, for trials of one and two workers.

One epoch of reference/small-cnn on scikit-learn's digits a trial, in the Trainable's own processes, on a Ray of our
own. Nothing is compared with anybody: the target is that a process which has trained 200 trials is no larger than one
that has trained 20, but for what allocators scatter.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from measuring import Series, Target, report, require

MOST_GROWTH_MB = 15.0


def trial_config(folder: Path, number: int, workers: int) -> dict[str, Any]:
    """Ray's config of one trial."""
    from tuneyard.trainers.config.loading import validate
    from tuneyard.trainers.spec import TrialSpec

    experiment = validate(
        {
            "name": "warm",
            "data": {"source": "digits", "image_size": 8, "validation": {"split": 0.2}},
            "model": {"args": {"width": 16}},
            "optimizer": {"lr": 1e-3 * (1 + number % 7)},
            "train": {"epochs": 1, "batch_size": 64},
            "tracking": {"comet": {"mode": "off"}},
        },
        where="the benchmark",
    )
    spec = TrialSpec(
        run_id=f"{number:04d}", sweep_id="s1", experiment=experiment, project_dir=str(folder), evaluate_test=False,
        store_uri=folder.as_uri(), tracking_dir=str(folder / "tracking"),
    )  # fmt: skip
    return {
        "run_id": spec.run_id, "spec": spec.model_dump_json(), "workers": workers, "cpus": 1, "gpus": 0.0,
        "cpu_only": True, "memory_gb": None, "sweep_id": "s1",
    }  # fmt: skip


def measure(workers: int, trials: int, marks: list[int]) -> dict[int, list[float]]:
    """Trial -> the resident megabytes of each worker's process after it, worker 0 first."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from tuneyard.tune.trial import Trial

    group = ray.util.placement_group([{"CPU": 1}] * workers)
    ray.get(group.ready())
    place = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    found: dict[int, list[float]] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="warm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        first = trial_config(folder, 1, workers)
        actor: Any = ray.remote(Trial).options(num_cpus=1, scheduling_strategy=place).remote(config=first)
        for number in range(1, trials + 1):
            if number > 1:
                ray.get(actor.reset.remote(trial_config(folder, number, workers)))
            result = ray.get(actor.train.remote())
            if not result.get("finished"):
                sys.exit(f"trial {number} did not finish: {result}")
            if number in marks:
                found[number] = [process.memory_info().rss / 1e6 for process in processes(result["pid"])]
                print(f"{workers} worker(s), trial {number}: {found[number]} MB", file=sys.stderr, flush=True)
        print(f"{trials} trials took {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        ray.get(actor.stop.remote())
    ray.kill(actor)
    ray.util.remove_placement_group(group)
    return found


def processes(pid: int) -> list[psutil.Process]:
    """Worker 0's process and, of the same node, those of the other workers."""
    own = psutil.Process(pid)
    raylet = own.parent()
    others = raylet.children() if raylet else []
    return [own] + [other for other in others if "WorkerActor" in " ".join(other.cmdline())]


def main() -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    require("ray", "sklearn", "torch")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    trials: int = arguments.trials
    marks = sorted({max(trials // 10, 1), max(trials // 2, 1), trials})
    ray.init(
        num_cpus=max(arguments.workers), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )  # fmt: skip
    try:
        found = {workers: measure(workers, trials, marks) for workers in arguments.workers}
    finally:
        ray.shutdown()
    figures: dict[str, Series] = {}
    targets = []
    for workers, of_trials in found.items():
        for rank in range(workers):
            name = f"{workers} worker(s), worker {rank}"
            for mark in marks:
                figures[f"{name}, trial {mark}"] = Series((of_trials[mark][rank],), "MB")
            growth = f"{name}, growth"
            figures[growth] = Series((of_trials[marks[-1]][rank] - of_trials[marks[0]][rank],), "MB")
            targets.append(Target(growth, "at most", MOST_GROWTH_MB))
    return report("warm_memory", figures, {}, targets)


if __name__ == "__main__":
    sys.exit(main())
