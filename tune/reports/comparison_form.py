"""A comparison as JSON: the stable form for programs, and what the report draws."""

import math
from statistics import fmean
from typing import Any

from tuneyard.tune.reports.comparison import Comparison, currency, unique_labels
from tuneyard.tune.reports.run_folders import Run
from tuneyard.tune.reports.trial_runs import TrialRuns


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as strict JSON (null for NaN and infinity), best run first. Keys are added, never changed:

    `metric` {name, mode}; `differing` keys; `log_keys`; `statuses` {status: count}; `cautions`; `unreadable`; `sweeps`
    (sweep_id, name, status, started, ended, trials, winner, winner_test, winner_runs, pareto, confirmation, spent,
    ended_by, currency); `objectives` [{name, mode}] beside the metric; `runs`: label, run_id, name, sweep_id, uri,
    status, error, cause, settings {differing key: value}, best {value, epoch, step}, last {metric: value}, test,
    epochs, train_s, images_per_s, checkpoint (URI of the best one kept), parameters, attempts, started, ended,
    git_commit, git_dirty, data_fingerprint, environment, trial (position in `trials`), trial_id, part {fold or seed:
    number}, confirming, out_of_memory, cloned_from; `trials`: label, uri, status, error, cause, value (the mean of its
    runs' best), std, runs (positions in `runs`), folds [number with a value, number wanted] or null, settings, last,
    epochs, test, train_s, images_per_s, checkpoint, objectives {name: value}, pareto. `statuses` counts trials.
    """
    copied = (
        "sweep_id", "name", "status", "started", "ended", "trials", "winner", "winner_test", "winner_runs", "pareto",
        "confirmation", "spent", "ended_by",
    )  # fmt: skip
    form = {
        "format": 1,
        "name": comparison.name,
        "metric": comparison.metric.model_dump(),
        "differing": list(comparison.differing),
        "log_keys": list(comparison.log_keys),
        "statuses": comparison.statuses,
        "cautions": list(comparison.cautions),
        "unreadable": list(comparison.unreadable),
        "sweeps": [
            {key: getattr(sweep, key) for key in copied} | {"currency": currency(sweep)} for sweep in comparison.sweeps
        ],
        "objectives": [objective.model_dump() for objective in comparison.objectives],
        "runs": _runs_json(comparison),
        "trials": _trials_json(comparison),
    }
    strict: dict[str, Any] = finite(form)
    return strict


def finite(value: Any) -> Any:
    """`value`, plain data, with None for every NaN and infinity in it: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _runs_json(comparison: Comparison) -> list[dict[str, Any]]:
    labels = iter(unique_labels([run.uri for run in comparison.runs]))
    return [
        {"label": next(labels), "trial": number, "confirming": confirming, **_run_json(run, comparison)}
        for number, trial in enumerate(comparison.trials)
        for confirming, runs in ((False, trial.runs), (True, trial.confirming))
        for run in runs
    ]


def _trials_json(comparison: Comparison) -> list[dict[str, Any]]:
    forms, first = [], 0
    for label, front, trial in zip(comparison.labels, comparison.on_front, comparison.trials, strict=True):
        places = list(range(first, first + len(trial.all_runs)))
        first += len(places)
        forms.append({"label": label, "pareto": front, "runs": places, **_trial_json(trial, comparison)})
    return forms


def _run_json(run: Run, comparison: Comparison) -> dict[str, Any]:
    copied = (
        "run_id", "name", "sweep_id", "status", "error", "test", "parameters", "attempts", "started", "ended",
        "trial_id", "part", "out_of_memory", "cloned_from",
    )  # fmt: skip
    best = run.best(comparison.metric)
    return {
        **{key: getattr(run.record, key) for key in (*copied, "git_commit", "git_dirty", "environment")},
        "data_fingerprint": run.record.data.fingerprint if run.record.data else None,
        "uri": run.uri,
        "cause": run.cause,
        "settings": {key: run.setting(key) for key in comparison.differing},
        "best": best.model_dump() if best else None,
        "last": run.last,
        "epochs": len(run.epochs),
        "train_s": run.train_s,
        "images_per_s": run.images_per_s,
        "checkpoint": run.checkpoint(comparison.metric),
    }


def _trial_json(trial: TrialRuns, comparison: Comparison) -> dict[str, Any]:
    metric, failed = comparison.metric, trial.failed
    tests = [run.record.test for run in trial.runs if run.record.test]
    return {
        "uri": trial.uri,
        "status": trial.status,
        "error": failed.record.error if failed else None,
        "cause": failed.cause if failed else None,
        "value": trial.value(metric),
        "std": trial.std(metric),
        "folds": [len(trial.bests(metric)), trial.wanted] if trial.wanted > 1 else None,
        "settings": {key: trial.first.setting(key) for key in comparison.differing},
        "last": trial.last,
        "epochs": max(len(run.epochs) for run in trial.runs),
        "test": {name: fmean(test[name] for test in tests if name in test) for name in tests[0]} if tests else None,
        "train_s": trial.train_s,
        "images_per_s": trial.images_per_s,
        "checkpoint": trial.checkpoint(metric),
        "objectives": {objective.name: trial.objective(objective.name, metric) for objective in comparison.objectives},
    }
