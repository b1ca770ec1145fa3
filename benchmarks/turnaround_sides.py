"""The sides of `trial_turnaround.py`, each run in a process of its own: `python turnaround_sides.py SIDE ...`.

Every side trains reference/small-cnn on scikit-learn's digits, one epoch a trial, on the Ray that is there already:
two trials at a time with one core each, or one trial at a time with two workers of one core each (the class API's
trials have one process in any case). It prints one line of JSON: its wall-clock seconds, from handing over the sweep
to having its result, and the seconds that its trials spent in their pass over the training images. All else counts as
cost, validation too; only the imports of the process that drives the sweep were made before.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CORES = 2
BATCH_SIZE = 64
WIDTH = 16
HELD_OUT = 0.2


def train_digits(config: dict[str, Any], rank: int = 0, workers: int = 1) -> tuple[dict[str, float], Any]:
    """What a user of the peers writes: data, net, one epoch, validation. The metrics, and the model's state."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn import functional

    from tuneyard.trainers.small_cnn import SmallCnn

    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation = order[int(HELD_OUT * len(order)) :], order[: int(HELD_OUT * len(order))]
    mean, std = images[train].mean(), images[train].std()
    images = ((images - mean) / std).to(memory_format=torch.channels_last)
    model = SmallCnn(channels=1, classes=10, width=WIDTH).to(memory_format=torch.channels_last)
    network: nn.Module = nn.parallel.DistributedDataParallel(model) if workers > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=0.05, fused=True)
    steps = len(train) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    began = time.perf_counter()
    for step in range(steps):
        chosen = train[step * BATCH_SIZE + rank : (step + 1) * BATCH_SIZE : workers]
        loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    training_s = time.perf_counter() - began
    model.eval()
    with torch.inference_mode():
        accuracy = (model(images[validation]).argmax(dim=1) == labels[validation]).float().mean().item()
    metrics = {"accuracy": accuracy, "training_s": training_s}
    return metrics, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def function_trial(config: dict[str, Any]) -> None:
    """Ray Tune's function API: report with a checkpoint."""
    import torch
    from ray import tune

    metrics, state = train_digits(config)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "checkpoint.pt")
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def class_trial() -> type:
    """Ray Tune's class API, whose trainables can be kept: a step trains, a checkpoint is saved at the end."""
    import torch
    from ray import tune

    class Digits(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._config = config

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._config = new_config
            return True

        def step(self) -> dict[str, Any]:
            metrics, self._state = train_digits(self._config)
            return metrics | {"done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            torch.save(self._state, Path(checkpoint_dir) / "checkpoint.pt")

    return Digits


def train_worker(config: dict[str, Any]) -> None:
    """A worker of Ray Train: report with a checkpoint."""
    import torch
    from ray import train

    context = train.get_context()
    metrics, state = train_digits(config, context.get_world_rank(), context.get_world_size())
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "checkpoint.pt")
        train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder))


def torch_trainer_trial(config: dict[str, Any]) -> None:
    """A TorchTrainer inside a Tune function, as Ray's user guide on hyperparameter tuning shows it."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"lr": config["lr"]},
        scaling_config=train.ScalingConfig(num_workers=config["workers"], resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}", storage_path=config["folder"],
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # Ray's docs pass it so
        ),
    )  # fmt: skip
    trainer.fit()


def run_peer(arguments: argparse.Namespace) -> dict[str, Any]:
    """A sweep of one of the peers."""
    import ray
    from ray import tune

    inside = arguments.side == "torch-trainer"
    at_a_time = CORES // arguments.workers
    shared = {"folder": str(arguments.folder), "workers": arguments.workers} if inside else {}
    # The trial that only waits for its TorchTrainer needs no core, and Ray wants every trial to ask for something.
    if inside:
        trainable = tune.with_resources(torch_trainer_trial, {"waiting": 1})
    else:
        own = class_trial() if arguments.side.startswith("class") else function_trial
        trainable = tune.with_resources(own, {"CPU": 1})
    ray.init(address=arguments.address, log_to_driver=False)
    began = time.perf_counter()
    tuner = tune.Tuner(
        trainable,
        param_space={"lr": tune.loguniform(1e-3, 1e-2), **shared},
        tune_config=tune.TuneConfig(
            num_samples=arguments.trials, max_concurrent_trials=at_a_time, metric="accuracy", mode="max",
            reuse_actors=arguments.side.endswith("kept"),
        ),
        run_config=tune.RunConfig(
            name="peer", storage_path=str(arguments.folder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=arguments.side.startswith("class")),
        ),
    )  # fmt: skip
    results = tuner.fit()
    wall_s = time.perf_counter() - began
    if results.num_errors:
        sys.exit(f"{results.num_errors} trials of {arguments.side} failed: {results.errors[0]}")
    return {"wall_s": wall_s, "training_s": results.get_dataframe()["training_s"].tolist()}


def run_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Our sweep, as `tuneyard tune` runs it."""
    from tuneyard.tune.sweep import RAY_ENVIRONMENT, SweepRequest, new_sweep_id, run_sweep

    os.environ.update(RAY_ENVIRONMENT)
    import ray

    import tuneyard.tune.driver  # noqa: F401 - `run_sweep` imports it; before the clock starts, as the peers' imports
    from tuneyard.trainers.config.loading import validate
    from tuneyard.trainers.spec import TrialSpec
    from tuneyard.tune.history import read_earlier
    from tuneyard.tune.sweep import open_request_store

    experiment = validate(
        {
            "name": "turnaround",
            "data": {"source": "digits", "image_size": 8, "validation": {"split": HELD_OUT}},
            "model": {"args": {"width": WIDTH}},
            "train": {"epochs": 1, "batch_size": BATCH_SIZE},
            "tracking": {"comet": {"mode": "offline" if arguments.side == "tuneyard, comet offline" else "off"}},
            "resources": {"workers": arguments.workers, "cpus_per_worker": 1, "gpus_per_worker": 0},
            "tune": {
                "trials": arguments.trials, "search": "random", "scheduler": "none",
                "concurrent": CORES // arguments.workers, "space": {"optimizer.lr": {"loguniform": [1e-3, 1e-2]}},
            },
        },
        where="the benchmark",
    )  # fmt: skip
    base = TrialSpec(
        run_id="turnaround", experiment=experiment, project_dir=str(Path(__file__).parent),
        store_uri=arguments.folder.as_uri(), tracking_dir=str(arguments.folder / "tracking"),
    )  # fmt: skip
    request = SweepRequest(base, new_sweep_id(), False, arguments.address, lambda: False)
    ray.init(address=arguments.address, log_to_driver=False)
    began = time.perf_counter()
    record = run_sweep(request, _Quiet())
    wall_s = time.perf_counter() - began
    trials = read_earlier(open_request_store(request), request.prefix)
    bad = [trial.record for trial in trials if trial.record.status != "completed"]
    if bad or len(trials) != arguments.trials or record.winner is None:
        sys.exit(f"{len(trials)} trials, of which failed: {[(one.run_id, one.status, one.error) for one in bad]}")
    return {"wall_s": wall_s, "training_s": [trial.rows[0]["epoch_s"] for trial in trials]}


class _Quiet:
    """Watches a sweep and says nothing."""

    def trial_began(self, run_id: str, overrides: dict[str, Any]) -> None:
        """Nothing."""

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> None:
        """Nothing."""

    def trial_retried(self, run_id: str, error: str) -> None:
        """Nothing."""

    def trial_moved(self, run_id: str, why: str) -> None:
        """Nothing."""

    def trial_ended(self, run_id: str, status: str, error: str | None) -> None:
        """Nothing."""


def main() -> None:
    """Run the side that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "side",
        choices=[
            "tuneyard",
            "tuneyard, comet offline",
            "function API",
            "function API, kept",
            "class API, kept",
            "torch-trainer",
        ],
    )
    parser.add_argument("--address", required=True, help="the running Ray")
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1, help="of a trial")
    parser.add_argument("--folder", type=Path, required=True, help="where results and checkpoints go")
    arguments = parser.parse_args()
    measured = run_ours(arguments) if arguments.side.startswith("tuneyard") else run_peer(arguments)
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
