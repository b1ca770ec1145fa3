"""What a sweep came to: its winner, its Pareto front, and whether seeds confirm it."""

from tuneyard.trainers.record import SweepRecord
from tuneyard.tune.confirm import Confirmation, confirm
from tuneyard.tune.desk import Desk
from tuneyard.tune.pareto import pareto_front
from tuneyard.tune.trials import Trial


def outcome(record: SweepRecord, desk: Desk) -> SweepRecord:
    """The sweep's record with everything that the desk knows at the end."""
    ranked = desk.ranked()
    confirmation = _confirmation(desk)
    winner = ranked[0] if ranked else None
    if confirmation is not None and confirmation.verdict.winner is not None:
        winner = desk.trials[confirmation.verdict.winner]
    runs = [run.run_id for trial in desk.trials.values() for run in trial.runs + trial.confirming if run.begun]
    return record.model_copy(
        update={
            "trials": runs, "winner": winner.trial_id if winner else None,
            "winner_runs": _winner_runs(winner, desk) if winner else [], "winner_test": None,
            "pareto": [ranked[place].trial_id for place in _front(ranked, desk)],
            "confirmation": confirmation.model_dump(mode="json") if confirmation else None,
            "spent": desk.budget.spent().model_dump(), "ended_by": desk.ended_by,
        }
    )  # fmt: skip


def _winner_runs(winner: Trial, desk: Desk) -> list[str]:
    """The runs whose checkpoints stand for the winner: its own or, where they were stopped early, its best seed's."""
    done = [run for run in winner.confirming if run.state == "completed" and run.best_row]
    if winner.status == "completed" or not done:
        return [run.run_id for run in winner.runs]
    means: dict[int, float] = {}
    for run in done:
        assert run.best_row is not None, "asked above"
        share = float(run.best_row[desk.metric.name]) / len(winner.runs)
        means[run.part["seed"]] = means.get(run.part["seed"], 0.0) + share
    best = (max if desk.metric.mode == "max" else min)(means, key=lambda seed: means[seed])
    return [run.run_id for run in done if run.part["seed"] == best]


def _front(ranked: list[Trial], desk: Desk) -> list[int]:
    objectives = desk.config.objectives
    if not objectives:
        return []
    names = [desk.metric.name, *objectives]
    points = [trial.objectives(names) for trial in ranked]
    complete = [place for place, point in enumerate(points) if point]
    front = pareto_front([points[place] for place in complete], [desk.metric.mode, *objectives.values()])
    return [complete[place] for place in front]


def _confirmation(desk: Desk) -> Confirmation | None:
    """The confirmed trials' means over folds, by seed; None where no trial was confirmed to the end."""
    values: dict[str, dict[int, float | None]] = {}
    for trial in desk.trials.values():
        for run in trial.confirming:
            if not run.ended:
                return None
            seeds = values.setdefault(trial.trial_id, {})
            best = float(run.best_row[desk.metric.name]) if run.best_row and run.state == "completed" else None
            before = seeds.get(run.part["seed"], 0.0)
            folds = len(trial.runs)
            seeds[run.part["seed"]] = None if best is None or before is None else before + best / folds
    return confirm(desk.metric.name, desk.metric.mode, values) if values else None
