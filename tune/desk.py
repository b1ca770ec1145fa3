"""The sweep's desk: says which run trains next and how far, and hears how it went. Nothing here knows of Ray."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.record import Metric
from tuneyard.tune.budget import Budget
from tuneyard.tune.folds import cannot_win
from tuneyard.tune.schedule.scheduler import NextLeg, Scheduler
from tuneyard.tune.search.searcher import Searcher, Tried
from tuneyard.tune.trials import Trial, TrialRun, make_run, make_trial

How = Literal["finished", "paused", "stopped", "interrupted", "refused", "out_of_memory", "lost", "preempted", "left"]
"""How a leg ended. preempted: its machine was taken away. left: it had saved by then."""


@dataclass(frozen=True, slots=True)
class Leg:
    """Train this run from where it stands.

    Attributes:
        settings: values beside the trial's own `overrides`, such as the fold that is held out.
        until: pause after this epoch; None: train to the end.
        resume: go on from its newest checkpoint, if it has one. `clone_of`: from that other run's.
        new_values: the overrides differ from those that the checkpoint was trained with, and hold from now on.
    """

    run_id: str
    trial_id: str
    part: dict[str, int]
    overrides: dict[str, Any]
    settings: dict[str, Any]
    until: int | None
    resume: bool
    clone_of: str | None = None
    new_values: bool = False


class Desk:
    """Hands out legs until the sweep is over.

    Args:
        trials: how many the sweep has in all, with those of before.
        foreign: trials of other sweeps that the searcher learns from.
    """

    def __init__(
        self, experiment: Experiment, config: TuneConfig, *, searcher: Searcher, scheduler: Scheduler, budget: Budget,
        trials: int, foreign: Sequence[Tried] = (), clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._experiment, self.config, self._clock = experiment, config, clock
        self.metric = Metric(name=config.metric, mode=config.mode)
        self._searcher, self._scheduler, self.budget = searcher, scheduler, budget
        self._wanted = trials
        self.trials: dict[str, Trial] = {}
        self._runs: dict[str, TrialRun] = {}
        self._running: dict[str, float] = {}  # run id -> when its last epoch, or its leg, began
        # Runs that go on whatever the scheduler says: those taken up again, folds, seeds.
        self._queue: deque[TrialRun] = deque()
        self._held: list[NextLeg] = []  # promoted, but the budget did not allow it
        self._tried = list(foreign)
        self._place: dict[str, int] = {}  # trial id -> its position in `_tried`
        self._verdicts: dict[str, tuple[int, bool]] = {}  # run id -> its newest epoch, and what was said to it
        self._cut: set[str] = set()  # runs that only the budget, or a wish to stop, holds back
        self._nothing_left = self._confirming = self._stopping = False
        self.ended_by: str | None = None

    # What comes next

    def next_leg(self) -> Leg | None:
        """What to start now; None where nothing should start, for the moment or (see `over`) for good."""
        while not self._closed():
            self.ended_by = None
            leg = self._from_queue() or self._promoted(exhausted=False) or self._new_trial()
            if leg is None and not self._running:
                leg = self._promoted(exhausted=True)
            if leg is not None or self._running or self._confirming or not self._confirm():
                return leg
        return None

    @property
    def live(self) -> int:
        """How many legs are running."""
        return len(self._running)

    @property
    def over(self) -> bool:
        """Is nothing running? After a `next_leg` that was None the sweep is over then."""
        return not self._running

    def stop(self) -> None:
        """Start nothing more; what runs is asked to leave by others."""
        self._stopping = True

    def run(self, run_id: str) -> TrialRun:
        """The run of this id."""
        return self._runs[run_id]

    # What happened

    def epoch_ended(self, run_id: str, row: dict[str, Any]) -> bool:
        """Hear of an epoch; may the run go on? Told twice about one epoch it answers the same."""
        run, epoch = self._runs[run_id], int(row["epoch"])
        told = self._verdicts.get(run_id)
        if told is not None and told[0] == epoch:
            return told[1]
        now = self._clock()
        self.budget.epoch_ended(run_id, now - self._running.get(run_id, now))
        if run_id in self._running:
            self._running[run_id] = now
        value = run.add(row, self.metric)
        goes_on = self._scheduler.goes_on(run_id, epoch, value) if self._is_led(run) else value == value
        goes_on = goes_on and not self.trials[run.trial_id].dropped
        if goes_on and self._closed() and epoch < run.last_epoch:
            self._cut.add(run_id)
            goes_on = False
        self._verdicts[run_id] = (epoch, goes_on)
        self._changed(run)
        return goes_on

    def leg_ended(self, run_id: str, how: How) -> bool:
        """Hear how a leg ended. Will the run be taken up again without anybody's doing (after a failure)?"""
        run = self._runs[run_id]
        self._running.pop(run_id, None)
        self.budget.leg_ended(run_id)
        if how not in ("lost", "preempted", "out_of_memory"):
            # Until then it is not sure that it has a checkpoint of its own since it became a clone.
            run.clone_of, run.new_values = None, False
        again = self._again(run, how)
        if again:
            run.state = "waiting"
            self._queue.append(run)
        elif how == "paused":
            run.state = "paused"
            self._scheduler.paused(run_id, run.epoch)
        elif how == "interrupted" or (how == "stopped" and run_id in self._cut):
            run.state = "waiting"
        else:
            run.state = {"finished": "completed", "stopped": "stopped"}.get(how, "failed")  # type: ignore[assignment]
            if self._is_led(run):
                self._scheduler.gone(run_id)
            self._settle_parts(self.trials[run.trial_id])
        self._changed(run)
        return again

    # What was before

    def take_up(self, trial: Trial) -> None:
        """Count a trial of before; what of it was cut short goes on. Call in the trials' order, before any leg."""
        self._add(trial)
        leader = trial.leader
        self._scheduler.began(leader.run_id, trial.overrides)
        for epoch in sorted(leader.values):
            self._scheduler.goes_on(leader.run_id, epoch, leader.values[epoch])
        # A finished sweep calls stopped what was paused and never went on: with more trials it may.
        end = self._scheduler.leg_end(leader.run_id, leader.epoch - 1) if leader.epoch else None
        waits = leader.state == "paused" or (leader.state == "stopped" and end == leader.epoch)
        if waits and leader.epoch < leader.last_epoch and self._pauses(leader):
            leader.state = "paused"
            self._scheduler.paused(leader.run_id, leader.epoch)
        elif leader.ended or leader.state == "paused":
            leader.state = "stopped" if leader.state == "paused" else leader.state
            self._scheduler.gone(leader.run_id)
        waiting = [run for run in trial.runs[:1] + trial.confirming if run.state in ("waiting", "running")]
        parts = [run for run in trial.runs[1:] if run.state in ("waiting", "running")]
        for run in waiting + [run for run in parts if run.begun]:
            run.state = "waiting"
            self._queue.append(run)
        self._settle_parts(trial)
        self._changed(leader)

    def _pauses(self, run: TrialRun) -> bool:
        """Does the scheduler, which may be another than the sweep began with, take up runs that were paused?"""
        return self._scheduler.leg_end(run.run_id, 0) is not None

    # Choosing

    def _closed(self) -> bool:
        if not self._stopping and self.budget.exhausted():
            self._stopping, self.ended_by = True, self.budget.why()
        return self._stopping

    def _allows(self, epochs: int) -> bool:
        if self.budget.allows(epochs):
            return True
        self.ended_by = self.budget.why()
        return False

    def _from_queue(self) -> Leg | None:
        for run in list(self._queue):
            if self.trials[run.trial_id].dropped:
                self._queue.remove(run)
                run.state = "stopped"
                self._changed(run)
            elif self._allows(self._until(run) - run.epoch):
                self._queue.remove(run)
                return self._start(run)
        return None

    def _promoted(self, *, exhausted: bool) -> Leg | None:
        for held in self._held:
            if self._allows(self._until(self._runs[held.run_id]) - self._runs[held.run_id].epoch):
                self._held.remove(held)
                return self._promote(held)
        while (promotion := self._scheduler.next_leg(exhausted=exhausted)) is not None:
            run = self._runs[promotion.run_id]
            if self._allows(self._until(run) - run.epoch):
                return self._promote(promotion)
            self._held.append(promotion)
        return None

    def _promote(self, promotion: NextLeg) -> Leg:
        run = self._runs[promotion.run_id]
        trial = self.trials[run.trial_id]
        if promotion.changes:
            # They hold every key that counts beside the others; one that does no more must not linger.
            kept = {key: value for key, value in trial.overrides.items() if key not in self.config.space}
            trial.overrides = kept | promotion.changes
            run.new_values = True
        if promotion.clone_of is not None:
            source = self._runs[promotion.clone_of]
            run.clone_of, run.values, run.best_row = source.run_id, dict(source.values), source.best_row
        return self._start(run)

    def _new_trial(self) -> Leg | None:
        if self._nothing_left or len(self.trials) >= self._wanted:
            return None
        if not self._allows(self._first_leg()):
            return None
        overrides = self._searcher.ask(self._tried)
        if overrides is None:
            self._nothing_left = True
            return None
        number = 1 + max((int(trial_id) for trial_id in self.trials), default=0)
        trial = make_trial(f"{number:04d}", overrides, self._experiment)
        self._add(trial)
        self._scheduler.began(trial.leader.run_id, overrides)
        self._settle_parts(trial)
        if not self._allows(self._until(trial.leader)):  # dealt to a bracket with a late first rung
            self._queue.append(trial.leader)
            return None
        return self._start(trial.leader)

    def _first_leg(self) -> int:
        """Epochs of the shortest leg that a new trial may begin with."""
        config, epochs = self.config, self._experiment.train.epochs
        first = {"asha": config.grace_epochs, "hyperband": config.grace_epochs}
        first |= {"pbt": config.perturb_epochs, "pb2": config.perturb_epochs}
        return min(first.get(config.scheduler, epochs), epochs)

    def _start(self, run: TrialRun) -> Leg:
        run.state = "running"
        until = self._until(run)
        self._running[run.run_id] = self._clock()
        self.budget.leg_began(run.run_id, until - run.epoch)
        self._changed(run)
        leg = Leg(
            run.run_id, run.trial_id, dict(run.part), dict(self.trials[run.trial_id].overrides), dict(run.settings),
            until if until < run.last_epoch else None, resume=run.begun and run.clone_of is None,
            clone_of=run.clone_of, new_values=run.new_values,
        )  # fmt: skip
        run.begun = True  # it may save before its first epoch ends
        return leg

    def _until(self, run: TrialRun) -> int:
        """The epoch that the run's next leg ends at."""
        end = self._scheduler.leg_end(run.run_id, run.epoch) if self._is_led(run) else None
        return run.last_epoch if end is None else min(end, run.last_epoch)

    # Keeping account

    def _add(self, trial: Trial) -> None:
        self.trials[trial.trial_id] = trial
        for run in trial.runs + trial.confirming:
            self._runs[run.run_id] = run
        self._place[trial.trial_id] = len(self._tried)
        self._tried.append(trial.tried(self.config))

    def _changed(self, run: TrialRun) -> None:
        self._tried[self._place[run.trial_id]] = self.trials[run.trial_id].tried(self.config)

    def _is_led(self, run: TrialRun) -> bool:
        """Is it the scheduler that rules over this run?"""
        return self.trials[run.trial_id].leader is run

    def _again(self, run: TrialRun, how: How) -> bool:
        if how in ("preempted", "left"):
            return True
        if how == "lost":
            run.failures += 1
            return run.failures <= self.config.max_failures
        if how == "out_of_memory" and self._experiment.train.on_out_of_memory == "accumulate":
            overrides = self.trials[run.trial_id].overrides | run.settings
            accumulate = 2 * int(overrides.get("train.accumulate", self._experiment.train.accumulate))
            batch = int(overrides.get("train.batch_size", self._experiment.train.batch_size))
            workers = self._experiment.resources.workers
            if batch >= accumulate * (1 if workers == "auto" else workers):
                run.settings["train.accumulate"] = accumulate
                return True
        return False

    # Several runs of a trial

    def _settle_parts(self, trial: Trial) -> None:
        """Let the other folds begin once the first has shown itself, and drop the trial once they cannot win."""
        leader, others = trial.leader, trial.runs[1:]
        if not others:
            return
        if leader.state in ("stopped", "failed") or any(run.state == "failed" for run in others):
            trial.dropped = True
        elif not trial.dropped:
            trial.dropped = self._falls_behind(trial)
        if trial.dropped:
            for run in others:
                if run.state == "waiting":
                    run.state = "stopped"
            self._changed(leader)
            return
        if leader.state == "completed" or self.config.scheduler == "none":
            self._queue.extend(run for run in others if run.state == "waiting" and run not in self._queue)

    def _falls_behind(self, trial: Trial) -> bool:
        """Do the folds so far show that this trial cannot be the best?"""
        best: Trial | None = None
        for other in self.trials.values():
            complete = other is not trial and all(run.state == "completed" for run in other.runs)
            if complete and (best is None or self.metric.better(other.value(self.metric), best.value(self.metric))):
                best = other
        if best is None:
            return False
        return cannot_win(
            trial.fold_values(self.metric), best.fold_values(self.metric), mode=self.metric.mode,
            p_value=self.config.fold_p_value,
        )  # fmt: skip

    def ranked(self) -> list[Trial]:
        """The trials that have a result, the best first. One that was stopped early may win, one that failed never."""
        sign = -1.0 if self.metric.mode == "max" else 1.0
        scored = [(trial, trial.value(self.metric)) for trial in self.trials.values()]
        found = [(trial, value) for trial, value in scored if value is not None and trial.status != "failed"]
        found.sort(key=lambda pair: sign * pair[1])
        return [trial for trial, _ in found]

    def _confirm(self) -> bool:
        """Queue the runs that repeat the best trials with other seeds; False where there are none to queue."""
        confirm, self._confirming = self.config.confirm, True
        if confirm is None:
            return False
        top = self.ranked()[: confirm.top]
        for trial in top if len(top) > 1 else ():
            known = {tuple(run.part.items()) for run in trial.confirming}
            for seed in range(1, confirm.seeds + 1):
                for part in [{"seed": seed} | run.part for run in trial.runs]:
                    if tuple(part.items()) not in known:
                        run = make_run(trial.trial_id, trial.overrides, part, self._experiment)
                        trial.confirming.append(run)
                        self._runs[run.run_id] = run
                        self._queue.append(run)
        return bool(self._queue)
