import math

import pytest

from tests.tune.desks import EPOCHS, experiment, make_desk, play
from tuneyard.tune.desk import How
from tuneyard.tune.trials import Trial


def quality(run_id: str, epoch: int) -> float:
    """The higher a trial's number, the better; all grow with the epochs."""
    return int(run_id.split("-")[0]) / 100 + epoch / 1000


def states(trials: dict[str, Trial]) -> dict[str, str]:
    return {run.run_id: run.state for trial in trials.values() for run in trial.runs}


def test_without_a_scheduler_each_trial_is_one_leg_to_its_end() -> None:
    played = play(make_desk(experiment(tune={"scheduler": "none"})), quality)
    assert [(leg.run_id, leg.until) for leg in played.legs] == [(f"000{n}", None) for n in (1, 2, 3, 4)]
    assert set(states(played.desk.trials).values()) == {"completed"}


def test_asha_pauses_every_trial_and_takes_the_best_up_again() -> None:
    played = play(make_desk(experiment(tune={"scheduler": "asha", "trials": 9})), quality)
    assert all(played.of(f"000{n}")[0].until == 1 for n in range(1, 10))
    assert played.last_epoch("0009") == EPOCHS
    assert [leg.resume for leg in played.of("0009")] == [False, True, True]
    assert played.last_epoch("0001") == 1


def test_a_lost_run_is_taken_up_again_as_often_as_may_be() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 1, "max_failures": 2})
    accidents = {("0001", 1): "lost", ("0001", 3): "lost"}
    played = play(make_desk(setup), quality, accidents=accidents)  # type: ignore[arg-type]
    assert [leg.resume for leg in played.legs] == [False, True, True]
    assert states(played.desk.trials) == {"0001": "completed"}


def test_a_run_that_fails_too_often_has_failed() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 1, "max_failures": 1})
    accidents = {("0001", 1): "lost", ("0001", 2): "lost"}
    played = play(make_desk(setup), quality, accidents=accidents)  # type: ignore[arg-type]
    assert states(played.desk.trials) == {"0001": "failed"}


def test_preemptions_are_not_counted_as_failures() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 1, "max_failures": 0})
    accidents = {("0001", epoch): "preempted" for epoch in range(1, EPOCHS)}
    played = play(make_desk(setup), quality, accidents=accidents)  # type: ignore[arg-type]
    assert states(played.desk.trials) == {"0001": "completed"}


@pytest.mark.parametrize(("how", "clones_again"), [("lost", True), ("preempted", True), ("left", False)])
def test_a_clone_that_was_lost_begins_as_a_clone_again_and_one_that_had_saved_does_not(
    how: How, clones_again: bool
) -> None:
    setup = experiment(tune={"scheduler": "pbt", "trials": 4, "perturb_epochs": 3, "max_failures": 1})

    def value(run_id: str, epoch: int) -> float:
        return -quality(run_id, epoch)

    clone = next(leg for leg in play(make_desk(setup), value, workers=4).legs if leg.clone_of is not None)
    played = play(make_desk(setup), value, workers=4, accidents={(clone.run_id, 5): how})
    legs = [leg for leg in played.of(clone.run_id) if leg.until == clone.until]
    assert [(leg.clone_of, leg.resume) for leg in legs] == [
        (clone.clone_of, False), (clone.clone_of, False) if clones_again else (None, True),
    ]  # fmt: skip
    assert [leg.new_values for leg in legs] == [True, clones_again]
    assert states(played.desk.trials)[clone.run_id] == "completed"


def test_a_refused_run_is_not_tried_again() -> None:
    played = play(
        make_desk(experiment(tune={"scheduler": "none", "trials": 2})), quality, accidents={("0001", 2): "refused"}
    )
    assert states(played.desk.trials) == {"0001": "failed", "0002": "completed"}


def test_out_of_memory_is_tried_with_half_the_micro_batch_where_that_is_allowed() -> None:
    setup = experiment(
        tune={"scheduler": "none", "trials": 1}, train={"on_out_of_memory": "accumulate", "batch_size": 4}
    )
    accidents = {("0001", 1): "out_of_memory"}
    played = play(make_desk(setup), quality, accidents=accidents)  # type: ignore[arg-type]
    assert [leg.settings for leg in played.legs] == [{}, {"train.accumulate": 2}]
    assert states(played.desk.trials) == {"0001": "completed"}


def test_out_of_memory_fails_where_the_micro_batch_is_one_image() -> None:
    setup = experiment(
        tune={"scheduler": "none", "trials": 1}, train={"on_out_of_memory": "accumulate", "batch_size": 1}
    )
    played = play(make_desk(setup), quality, accidents={("0001", 1): "out_of_memory"})
    assert states(played.desk.trials) == {"0001": "failed"}


def test_nan_ends_a_run() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 1})
    played = play(make_desk(setup), lambda run_id, epoch: math.nan if epoch == 3 else 0.5)
    assert played.last_epoch("0001") == 3
    assert states(played.desk.trials) == {"0001": "stopped"}


def test_hearing_of_an_epoch_twice_changes_nothing() -> None:
    desk = make_desk(experiment(tune={"scheduler": "none"})).desk
    leg = desk.next_leg()
    assert leg is not None
    row = {"epoch": 1, "val/accuracy": math.nan}
    assert [desk.epoch_ended(leg.run_id, row), desk.epoch_ended(leg.run_id, row)] == [False, False]


def test_nothing_starts_after_a_wish_to_stop() -> None:
    played = play(make_desk(experiment(tune={"scheduler": "none"})), quality, steps=2)
    played.desk.stop()
    assert played.desk.next_leg() is None


def test_a_stopped_trial_may_win_and_a_failed_one_never() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 3})
    played = play(
        make_desk(setup), lambda run_id, epoch: math.nan if (run_id, epoch) == ("0002", 3) else int(run_id) / 10,
        accidents={("0003", 2): "refused"},
    )  # fmt: skip
    assert states(played.desk.trials) == {"0001": "completed", "0002": "stopped", "0003": "failed"}
    assert [trial.trial_id for trial in played.desk.ranked()] == ["0002", "0001"]


def test_nobody_wins_where_no_trial_has_a_value() -> None:
    assert make_desk(experiment()).desk.ranked() == []


# Folds


FOLDS = {"validation": {"folds": 4}}


def test_each_fold_is_a_run_with_its_own_fold_held_out() -> None:
    played = play(make_desk(experiment(tune={"scheduler": "none", "trials": 1}, **FOLDS)), quality, workers=4)
    assert [(leg.run_id, leg.settings) for leg in played.legs] == [
        (f"0001-fold{fold}", {"data.validation.fold": fold}) for fold in range(4)
    ]
    assert played.desk.trials["0001"].value(played.desk.metric) == pytest.approx(quality("0001", EPOCHS))


def test_folds_run_side_by_side() -> None:
    played = make_desk(experiment(tune={"scheduler": "none", "trials": 1}, **FOLDS))
    assert [leg.run_id for _ in range(4) if (leg := played.desk.next_leg())] == [
        f"0001-fold{fold}" for fold in range(4)
    ]


def test_a_scheduler_judges_a_trial_by_its_first_fold() -> None:
    played = play(make_desk(experiment(tune={"scheduler": "asha", "trials": 3}, **FOLDS)), quality)
    assert {leg.trial_id for leg in played.legs if leg.part["fold"] > 0} == {"0003"}


def test_a_trial_whose_folds_fall_behind_is_dropped() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 2, "fold_p_value": 0.3}, **FOLDS)
    played = play(
        make_desk(setup), lambda run_id, epoch: 0.9 if run_id.startswith("0001") else 0.5 + int(run_id[-1]) / 100
    )
    assert states(played.desk.trials)["0002-fold3"] == "stopped"
    assert not played.of("0002-fold3")
    assert [trial.trial_id for trial in played.desk.ranked()] == ["0001"]


def test_a_trial_that_fails_in_one_fold_trains_no_other() -> None:
    setup = experiment(tune={"scheduler": "asha", "trials": 1}, **FOLDS)
    played = play(make_desk(setup), quality, accidents={("0001-fold0", 1): "refused"})
    assert [leg.run_id for leg in played.legs] == ["0001-fold0"]


# Confirmation


def test_the_best_are_repeated_with_other_seeds() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 4, "confirm": {"top": 2, "seeds": 3}}, train={"seed": 10})
    played = play(make_desk(setup), quality, workers=2)
    confirming = [(leg.run_id, leg.settings) for leg in played.legs if "seed" in leg.part]
    assert sorted(confirming, key=str) == [
        (f"{trial}-seed{seed}", {"train.seed": 10 + seed}) for trial in ("0003", "0004") for seed in (1, 2, 3)
    ]


def test_confirmation_waits_for_the_search_to_end() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 2, "confirm": {"top": 2, "seeds": 2}})
    desk = make_desk(setup).desk
    legs = [desk.next_leg(), desk.next_leg()]
    assert all(leg is not None and not leg.part for leg in legs)
    assert desk.next_leg() is None


# Budget


def test_a_trial_that_the_budget_does_not_cover_is_not_begun() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 9, "budget": {"hours": 20 / 3600}})
    played = play(make_desk(setup), quality)
    assert [leg.run_id for leg in played.legs] == ["0001", "0002"]
    assert set(states(played.desk.trials).values()) == {"completed"}
    assert played.desk.ended_by is not None
    assert "tune.budget.hours" in played.desk.ended_by


def test_when_the_budget_is_used_up_a_run_stops_after_its_epoch_and_may_go_on_later() -> None:
    setup = experiment(tune={"scheduler": "none", "trials": 9, "budget": {"hours": 5 / 3600}})
    played = play(make_desk(setup), quality)
    assert played.epochs[-1] == ("0001", 5)
    assert states(played.desk.trials) == {"0001": "waiting"}


def test_a_sweep_that_the_budget_covers_is_not_said_to_be_ended_by_it() -> None:
    setup = experiment(tune={"scheduler": "asha", "trials": 9, "budget": {"hours": 1.0}})
    assert play(make_desk(setup), quality).desk.ended_by is None


# Going on


def test_a_sweep_cut_short_goes_on_as_if_nothing_had_happened() -> None:
    setup = experiment(tune={"scheduler": "asha", "trials": 12})
    whole = play(make_desk(setup), quality)
    for steps in range(1, len(whole.epochs)):
        before = play(make_desk(setup), quality, steps=steps)
        resumed = play(make_desk(setup, earlier=list(before.desk.trials.values())), quality)
        assert sorted(before.epochs + resumed.epochs) == sorted(whole.epochs)
        assert states(resumed.desk.trials) == states(whole.desk.trials)


def test_a_grown_sweep_takes_up_what_was_stopped_and_now_counts_among_the_best() -> None:
    setup = experiment(tune={"scheduler": "asha", "trials": 3})
    values = [0.1, 0.5, 0.9, 0.2, 0.2, 0.2]
    small = play(make_desk(setup), lambda run_id, epoch: values[int(run_id) - 1])
    earlier = list(small.desk.trials.values())
    assert earlier[1].leader.state == "paused"
    earlier[1].leader.state = "stopped"  # which is what a finished sweep calls it
    grown = play(make_desk(setup, earlier=earlier, trials=6), lambda run_id, epoch: values[int(run_id) - 1])
    assert [leg.run_id for leg in grown.legs if int(leg.run_id) <= 3] == ["0002"]
    assert grown.of("0002")[0].resume
