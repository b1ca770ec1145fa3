"""The sides of `sweep_efficiency.py`, each run in a process of its own: `python efficiency_sides.py SIDE ...`.

Fashion-MNIST, reference/small-cnn, AdamW with a cosine, batches of 128; searched are the learning rate, the weight
decay and the width. Each side prints one line of JSON: `alone` the seconds of a step by width, the others their
wall-clock seconds from before the imports, the steps that they trained by width, and the best validation accuracy.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
WIDTHS = (4, 6, 8)
EPOCHS = 9
BATCH_SIZE = 128
HELD_OUT = 0.1
FACTOR = 3
STEPS_ALONE = 150


def experiment(trials: int) -> dict[str, Any]:
    """The experiment of our side."""
    return {
        "name": "efficiency",
        "data": {"source": "fashion-mnist", "validation": {"split": HELD_OUT}},
        "train": {"epochs": EPOCHS, "batch_size": BATCH_SIZE},
        "checkpoint": {"store": "runs"},
        "tracking": {"comet": {"mode": "off"}},
        "resources": {"cpus_per_worker": 1, "gpus_per_worker": 0},
        "tune": {
            "trials": trials,
            "space": {
                "optimizer.lr": {"loguniform": [1e-4, 1e-1]}, "optimizer.weight_decay": {"loguniform": [1e-4, 1.0]},
                "model.args.width": {"choice": list(WIDTHS)},
            },
        },
    }  # fmt: skip


def alone(loop: str, core: int, folder: Path) -> dict[str, Any]:
    """Seconds of one training step by width, on one core, the `core`-th of those that this process may use."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    measure = _ours_alone if loop == "ours" else _plain_alone
    return {"seconds_per_step": {str(width): measure(width, folder) for width in WIDTHS}}


def _ours_alone(width: int, folder: Path) -> float:
    from tuneyard.trainers.build import build_trainer
    from tuneyard.trainers.config.loading import validate
    from tuneyard.trainers.engine import Engine
    from tuneyard.trainers.session import Session
    from tuneyard.trainers.spec import TrialSpec

    tree = experiment(1) | {"model": {"args": {"width": width}}}
    setup = validate({key: value for key, value in tree.items() if key != "tune"}, where="the benchmark")
    session = Session(threads=1, cpu=True)
    spec = TrialSpec(
        run_id="alone", experiment=setup, project_dir=str(folder), store_uri=folder.as_uri(), tracking_dir=str(folder)
    )
    data = session.data(setup.data, folder)
    engine = Engine(setup.train, cpu=True)
    trainer = build_trainer(spec, session, data, engine, Stopwatch(), lambda: False)
    watch = trainer.watcher
    assert isinstance(watch, Stopwatch)
    from contextlib import suppress

    with suppress(Enough):
        next(trainer.epochs())
    trainer.train.close()
    engine.close()
    return watch.seconds_per_step


class Enough(Exception):  # noqa: N818 - not an error
    """The stopwatch has seen enough steps."""


class Stopwatch:
    """Times steps; the first ones, which warm up, are not counted."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self.seconds_per_step = 0.0

    def epoch_begins(self, epoch: int, steps: int, start: int) -> None:
        """Nothing."""

    def step_done(self, images: int, loss: Any) -> None:
        """Note the time."""
        self._times.append(time.perf_counter())
        if len(self._times) > 2 * STEPS_ALONE:
            half = self._times[STEPS_ALONE:]
            self.seconds_per_step = (half[-1] - half[0]) / (len(half) - 1)
            raise Enough

    def epoch_ended(self, metrics: Any) -> None:
        """Nothing."""


class Plain:
    """What a user writes by hand: everything in memory as tensors, a net, a loop."""

    def __init__(self, threads: int) -> None:
        import torch

        from tuneyard.trainers.config.data import DataConfig
        from tuneyard.trainers.data.fashion_mnist import load_fashion_mnist

        torch.set_num_threads(threads)
        source = load_fashion_mnist(DataConfig(source="fashion-mnist"), Path.cwd(), "")
        images = torch.from_numpy(source.pool.images.copy()).reshape(-1, 1, 28, 28)  # type: ignore[union-attr]
        labels = torch.from_numpy(source.pool.labels)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        held_out = int(HELD_OUT * len(labels))
        self.validation, self.train = order[:held_out], order[held_out:]
        self.images, self.labels = images, labels
        sample = images[self.train[:10_000]].float()
        self.mean, self.std = sample.mean(), sample.std()

    def inputs(self, chosen: Any) -> Any:
        """Normalised floats, channels last."""
        import torch

        return ((self.images[chosen].float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def begin(self, lr: float, weight_decay: float, width: int) -> None:
        """A new trial."""
        import torch

        from tuneyard.trainers.small_cnn import SmallCnn

        self.model = SmallCnn(channels=1, classes=10, width=width).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        self.steps_per_epoch = len(self.train) // BATCH_SIZE
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS * self.steps_per_epoch)

    def epoch(self, steps: int | None = None) -> int:
        """Train one epoch (or so many steps of it); returns the steps."""
        import torch
        from torch.nn import functional

        self.model.train()
        order = self.train[torch.randperm(len(self.train))]
        steps = steps or self.steps_per_epoch
        for step in range(steps):
            chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            loss = functional.cross_entropy(self.model(self.inputs(chosen)), self.labels[chosen])
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        return steps

    def accuracy(self) -> float:
        """On the validation set."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            parts = [
                (self.model(self.inputs(chosen)).argmax(dim=1) == self.labels[chosen]).float().sum()
                for chosen in self.validation.split(1000)
            ]
        return float(sum(parts)) / len(self.validation)


def _plain_alone(width: int, folder: Path) -> float:
    plain = Plain(threads=1)
    plain.begin(1e-3, 0.01, width)
    plain.epoch(STEPS_ALONE)
    began = time.perf_counter()
    plain.epoch(STEPS_ALONE)
    return (time.perf_counter() - began) / STEPS_ALONE


def optuna_loop(trials: int, folder: Path) -> dict[str, Any]:
    """One process with both cores, TPE and successive halving, as Optuna's tutorial has it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain = Plain(threads=2)
    steps: Counter[str] = Counter()

    def objective(trial: optuna.Trial) -> float:
        width = trial.suggest_categorical("width", WIDTHS)
        plain.begin(
            trial.suggest_float("lr", 1e-4, 1e-1, log=True), trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
            width,
        )  # fmt: skip
        best = 0.0
        for epoch in range(1, EPOCHS + 1):
            steps[str(width)] += plain.epoch()
            best = max(best, plain.accuracy())
            trial.report(best, epoch)
            if epoch < EPOCHS and trial.should_prune():
                raise optuna.TrialPruned
        return best

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=trials)
    return {"steps": dict(steps), "best": study.best_value}


def function_trial(config: dict[str, Any]) -> None:
    """A trial of Ray Tune's function API: the data are loaded in each, and a checkpoint goes with each report."""
    import tempfile

    import torch
    from ray import tune

    plain = Plain(threads=1)
    plain.begin(config["lr"], config["weight_decay"], config["width"])
    steps = 0
    for _ in range(EPOCHS):
        steps += plain.epoch()
        with tempfile.TemporaryDirectory() as folder:
            torch.save(
                {"model": plain.model.state_dict(), "optimizer": plain.optimizer.state_dict()},
                Path(folder) / "state.pt",
            )
            metrics = {"accuracy": plain.accuracy(), "steps": steps}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def function_sweep(trials: int, folder: Path) -> dict[str, Any]:
    """Ray Tune with its Optuna search and ASHA."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    space = {
        "lr": tune.loguniform(1e-4, 1e-1), "weight_decay": tune.loguniform(1e-4, 1.0), "width": tune.choice(WIDTHS)
    }  # fmt: skip
    scheduler = tune.schedulers.ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=FACTOR)
    tuner = tune.Tuner(
        tune.with_resources(function_trial, {"CPU": 1}), param_space=space,
        tune_config=tune.TuneConfig(
            metric="accuracy", mode="max", num_samples=trials, search_alg=OptunaSearch(seed=0), scheduler=scheduler
        ),
        run_config=tune.RunConfig(name="function", storage_path=str(folder), verbose=0),
    )  # fmt: skip
    results = tuner.fit()
    finished = [results[place] for place in range(len(results))]
    steps: Counter[str] = Counter()
    for result in finished:
        if result.error or result.config is None or result.metrics is None:
            sys.exit(f"a trial failed: {result.error}")
        steps[str(result.config["width"])] += result.metrics["steps"]
    frames = [result.metrics_dataframe for result in finished]
    best = max(frame["accuracy"].max() for frame in frames if frame is not None)
    ray.shutdown()
    return {"steps": dict(steps), "best": float(best)}


def our_sweep(trials: int, folder: Path) -> dict[str, Any]:
    """`tuneyard tune`, the command itself."""
    import subprocess

    import yaml

    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment(trials)))
    command = [sys.executable, "-m", "tuneyard.launch", "tune", "experiment.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    wall_s = time.perf_counter() - BEGAN
    if done.returncode != 0:
        sys.exit(f"tuneyard tune failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    steps: Counter[str] = Counter()
    best = 0.0
    for path in folder.glob("runs/efficiency/*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        record = json.loads((path.parent / "run.json").read_text())
        steps[str(record["overrides"]["model.args.width"])] += rows[-1]["step"]
        best = max(best, *(row["val/accuracy"] for row in rows))
    return {"steps": dict(steps), "best": best, "wall_s": wall_s}


def main() -> None:
    """Run the side that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["alone", "ours", "optuna", "function"])
    parser.add_argument("--loop", choices=["ours", "plain"], default="ours", help="of `alone`")
    parser.add_argument("--core", type=int, default=0, help="of `alone`")
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.side == "alone":
        print(json.dumps(alone(arguments.loop, arguments.core, arguments.folder)), flush=True)
        return
    sides = {"ours": our_sweep, "optuna": optuna_loop, "function": function_sweep}
    swept = sides[arguments.side](arguments.trials, arguments.folder)
    print(json.dumps({"wall_s": time.perf_counter() - BEGAN} | swept), flush=True)


if __name__ == "__main__":
    main()
