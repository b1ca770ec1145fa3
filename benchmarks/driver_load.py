"""What a sweep's driver can bear: a thousand trials that report and end, as fast as Ray hands them on.

Everything on the driver's side is real: the searcher and the scheduler with their defaults, the desk, the index in the
store, Ray Tune. Only the trials do not train: their class writes a run's record, reports the last epoch of its leg and
ends. The results are counted that come in while the sweep runs, and the driver's memory is read at its end.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Series, Target, report, require

CORES = 8  # of Ray's account; the trials use none


def main() -> int:
    """Measure and report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--search", default="tpe")
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--quick", action="store_true", help="a hundred trials")
    arguments = parser.parse_args()
    require("ray", "optuna", "psutil")
    with tempfile.TemporaryDirectory(prefix="driver-") as folder:
        results, seconds, peak = run(100 if arguments.quick else arguments.trials, arguments, Path(folder))
    figures = {
        "results a second": Series((results / seconds,), "1/s"),
        "driver's peak memory": Series((peak / 1e6,), "MB"),
    }
    wanted = [Target("results a second", "at least", 20.0), Target("driver's peak memory", "at most", 1000.0)]
    notes = [f"{results} results in {seconds:.1f} s, {arguments.search} and {arguments.scheduler}"]
    return report("driver_load", figures, {}, wanted, notes)


def run(trials: int, arguments: argparse.Namespace, folder: Path) -> tuple[int, float, int]:
    """Results, the seconds that they took, and the driver's peak memory in bytes."""
    from tuneyard.trainers.config.loading import validate
    from tuneyard.trainers.memory import memory_peak, reset_peak
    from tuneyard.trainers.spec import TrialSpec
    from tuneyard.tune.sweep import RAY_ENVIRONMENT, SweepRequest, run_sweep

    os.environ.update(RAY_ENVIRONMENT)
    import ray
    from ray import tune

    import tuneyard.tune.driver as driver

    class Reporting(tune.Trainable):
        """Says what a trial says, without training."""

        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            from tuneyard.trainers.spec import TrialSpec

            self._spec = TrialSpec.model_validate_json(new_config["spec"])
            self._epoch = self._spec.until_epoch or self._spec.experiment.train.epochs
            return True

        def step(self) -> dict[str, Any]:
            lr = self._spec.experiment.optimizer.lr
            row = {"epoch": self._epoch, "step": 10 * self._epoch, "val/accuracy": 1.0 - abs(lr - 0.01), "lr": lr}
            row |= {f"val/other{number}": 0.5 for number in range(6)} | {"images_per_s": 1000.0, "epoch_s": 1.0}
            finished = self._epoch >= self._spec.experiment.train.epochs
            write_run(self._spec, row, "completed" if finished else "paused")
            return row | {"finished": finished, "paused": not finished, "done": True}

    vars(driver)["Trial"] = Reporting
    experiment = validate(
        {
            "name": "load", "data": {"source": "digits", "image_size": 8}, "train": {"epochs": 9},
            "resources": {"gpus_per_worker": 0}, "tracking": {"comet": {"mode": "off"}},
            "tune": {
                "trials": trials, "search": arguments.search, "scheduler": arguments.scheduler,
                "space": {
                    "optimizer.lr": {"loguniform": [1e-4, 1e-1]}, "optimizer.weight_decay": {"uniform": [0.0, 1.0]},
                    "train.label_smoothing": {"uniform": [0.0, 0.5]}, "train.batch_size": {"choice": [32, 64, 128]},
                },
            },
        },
        where="the benchmark",
    )  # fmt: skip
    base = TrialSpec(
        run_id="load", experiment=experiment, project_dir=str(folder), store_uri=(folder / "runs").as_uri(),
        tracking_dir=str(folder / "tracking"),
    )  # fmt: skip
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    counting = Counting()
    reset_peak()
    try:
        run_sweep(SweepRequest(base, "load", False, None, lambda: False), counting)
        peak = memory_peak(0).peak_bytes
    finally:
        ray.shutdown()
    return counting.results, counting.last - counting.first, peak


def write_run(spec: Any, row: dict[str, Any], status: Any) -> None:
    """Write the record that a real trial leaves."""
    from tuneyard.trainers.record import Metric, RunRecord, now, write_metrics, write_record
    from tuneyard.trainers.stores.store import open_store

    store = open_store(spec.store_uri)
    record = RunRecord(
        run_id=spec.run_id, trial_id=spec.trial_id, name=spec.experiment.name, sweep_id=spec.sweep_id, status=status,
        metric=Metric(name="val/accuracy", mode="max"), overrides=spec.overrides, started=now(),
        experiment=spec.experiment.model_dump(mode="json"),
    )  # fmt: skip
    write_record(store, spec.prefix, record)
    write_metrics(store, spec.prefix, [row])


class Counting:
    """Counts results, from the first to the last."""

    def __init__(self) -> None:
        self.results = 0
        self.first = self.last = 0.0

    def trial_began(self, run_id: str, overrides: dict[str, Any]) -> None:
        """Nothing."""

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> None:
        """One more."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.results += 1
        if self.results % 100 == 0:
            print(f"{self.results} results after {self.last - self.first:.1f} s", file=sys.stderr, flush=True)

    def trial_retried(self, run_id: str, error: str) -> None:
        """A fault of the benchmark."""
        sys.exit(f"{run_id} failed: {error}")

    def trial_moved(self, run_id: str, why: str) -> None:
        """Nothing: no machine is taken away here."""

    def trial_ended(self, run_id: str, status: str, error: str | None) -> None:
        """Nothing, if all is well."""
        if status == "failed":
            sys.exit(f"{run_id} failed: {error}")


if __name__ == "__main__":
    sys.exit(main())
