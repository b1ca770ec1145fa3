"""Builds the records of trials with several runs: folds, and repeats over seeds, for the tests of what reads them."""

import math
from collections.abc import Mapping, Sequence

from tests.tune.records import ACCURACY, experiment, write_run, write_sweep
from tuneyard.trainers.record import RunStatus, read_run, read_sweep, write_record
from tuneyard.trainers.stores.store import Store
from tuneyard.tune.confirm import confirm

FOLDS = 5


def write_part(
    store: Store, prefix: str, trial_id: str, part: Mapping[str, int], accuracies: list[float], *,
    overrides: Mapping[str, object] | None = None, status: RunStatus = "completed", checkpoints: Sequence[int] = (),
    cloned_from: Sequence[str] = (),
) -> None:  # fmt: skip
    """One run of a trial, under `{prefix}{trial_id}-fold2/` for the part {"fold": 2}."""
    folder = prefix + "-".join([trial_id, *(f"{name}{number}" for name, number in part.items())]) + "/"
    settings: dict[str, object] = {}
    if "fold" in part:
        settings |= {"data.validation.folds": FOLDS, "data.validation.fold": part["fold"]}
    if "seed" in part:
        settings["train.seed"] = part["seed"]
    write_run(
        store, folder, accuracies, overrides=dict(overrides or {}), settings=settings, status=status,
        checkpoints=list(checkpoints), error="ValueError: bad" if status == "failed" else None,
    )  # fmt: skip
    record = read_run(store, folder)
    told = {"trial_id": trial_id, "part": dict(part), "cloned_from": list(cloned_from)}
    write_record(store, folder, record.model_copy(update=told))


def write_rich_sweep(store: Store, count: int, *, folds: int = FOLDS, length: int = 6) -> None:
    """`sweep/`: `count` cross-validated trials, every third dropped after two folds, the best three confirmed.

    With the objective images_per_s, a Pareto front, and a budget that ended it. Without randomness.
    """
    runs: list[str] = []
    for number in range(count):
        trial_id = f"{number:04d}"
        top = 0.93 - 0.002 * ((number * 7) % count)
        dropped = number % 3 == 2
        for fold in range(min(2, folds) if dropped else folds):
            shift = 0.004 * math.sin(3.0 * fold + number)
            curve = [(top + shift) * (1 - 0.6 * math.exp(-(epoch + 1) / 2)) for epoch in range(length)]
            values = {"optimizer.lr": 10 ** (-4 + 3 * ((number * 0.618) % 1.0))}
            write_part(store, "sweep/", trial_id, {"fold": fold} if folds > 1 else {}, curve, overrides=values)
            runs.append(f"{trial_id}-fold{fold}")
    best = sorted(range(count), key=lambda number: (number * 7) % count)[:3]
    by_seed = {
        f"{n:04d}": {seed: 0.93 - 0.001 * place + 0.002 * math.sin(5.0 * seed + n) for seed in range(1, 6)}
        for place, n in enumerate(best)
    }
    confirmation = confirm("val/accuracy", "max", by_seed)
    for trial, seeds in by_seed.items():
        for seed, value in seeds.items():
            write_part(store, "sweep/", trial, {"seed": seed}, [value - 0.1, value])
    write_sweep(store, "sweep/", runs)
    sweep = read_sweep(store, "sweep/")
    tree = experiment()
    tree["tune"] |= {"objectives": {"images_per_s": "max"}}
    told = {
        "experiment": tree,
        "pareto": [f"{n:04d}" for n in best[:2]],
        "confirmation": confirmation.model_dump(mode="json"),
        "spent": {"hours": 1.25, "gpu_hours": 2.5, "money": 3.0},
        "winner": confirmation.verdict.winner,
        "ended_by": "The budget is used up: 2.5 of 2.5 GPU-hours (tune.budget.gpu_hours) are spent.",
    }
    write_record(store, "sweep/", sweep.model_copy(update=told))
    assert sweep.metric == ACCURACY
