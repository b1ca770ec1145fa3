"""Whether seeds tell the best trials apart, and in which words."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tuneyard.trainers.errors import ConfigError
from tuneyard.tune.confirm import Confirmation, confirm, holm, judge, welch_p_value

CLOSE = {"0007": [0.931, 0.929, 0.934, 0.930, 0.932], "0012": [0.930, 0.935, 0.927, 0.931, 0.931]}
APART = {"0007": [0.931, 0.929, 0.934, 0.930, 0.932], "0012": [0.911, 0.913, 0.909, 0.910, 0.912]}


@pytest.mark.parametrize("sizes", [(2, 2), (5, 5), (3, 7)])
def test_the_p_value_is_that_of_welchs_test(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    one, other = random.normal(0.0, 1.0, sizes[0]).tolist(), random.normal(0.7, 3.0, sizes[1]).tolist()
    expected = ttest_ind(one, other, equal_var=False).pvalue
    assert welch_p_value(one, other) == pytest.approx(expected, rel=1e-9)


def test_samples_without_any_spread_differ_or_do_not() -> None:
    assert welch_p_value([0.5, 0.5], [0.6, 0.6]) == 0.0
    assert welch_p_value([0.5, 0.5], [0.5, 0.5]) == 1.0


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_trials_that_overlap_cannot_be_told_apart() -> None:
    verdict = judge(CLOSE, "max")
    assert (verdict.winner, verdict.ranking, verdict.separable) == ("0007", ["0007", "0012"], False)
    assert verdict.sentence == (
        "0007 and 0012 cannot be told apart by 5 seeds (0.9312 ± 0.0019 and 0.9308 ± 0.0029, p = 0.80)."
    )
    assert verdict.p_value == pytest.approx(0.8, abs=0.01)


def test_a_lead_beyond_the_noise_is_told_as_one() -> None:
    verdict = judge(APART, "max")
    assert verdict.separable
    told = "0007 (0.9312 ± 0.0019) is ahead by more than the noise of 5 seeds: "
    told += "0012 (0.9110 ± 0.0016, p < 0.001) is behind."
    assert verdict.sentence == told


def test_for_a_loss_the_lowest_mean_wins() -> None:
    assert judge(APART, "min").winner == "0012"


def test_one_close_rival_among_several_is_enough_not_to_be_separable() -> None:
    verdict = judge({**CLOSE, "0003": APART["0012"]}, "max")
    assert (verdict.separable, verdict.ranking) == (False, ["0007", "0012", "0003"])
    assert "0007 and 0012 cannot be told apart" in verdict.sentence
    assert verdict.sentence.endswith("; 0003 (0.9110 ± 0.0016, p < 0.001) is behind.")


def test_many_comparisons_need_a_larger_lead() -> None:
    best, other = [1.0, 1.1, 1.2, 1.1], [0.9, 1.0, 1.0, 0.95]
    assert judge({"a": best, "b": other}, "max").separable
    assert not judge({"a": best, **{f"b{n}": other for n in range(5)}}, "max").separable


def test_a_failed_seed_leaves_the_others_to_count() -> None:
    verdict = judge({"0007": [*CLOSE["0007"][:4], math.nan], "0012": APART["0012"]}, "max")
    assert (verdict.winner, verdict.separable) == ("0007", True)
    assert "0007 has no value for 1 of 5 seeds" in verdict.sentence


def test_a_trial_that_failed_under_every_seed_has_lost() -> None:
    verdict = judge({"a": [math.nan] * 5, **APART}, "max")
    assert (verdict.ranking[-1], verdict.separable) == ("a", True)
    assert "a has no value for 5 of 5 seeds" in verdict.sentence


def test_one_lucky_seed_does_not_win_and_is_not_compared() -> None:
    verdict = judge({"lucky": [0.99, math.nan, math.nan, math.nan, math.nan], "0007": CLOSE["0007"]}, "max")
    assert (verdict.winner, verdict.separable, verdict.p_value) == ("0007", False, None)
    assert "too few runs with a finite value to compare 0007 with lucky" in verdict.sentence


def test_without_any_finite_value_there_is_no_winner() -> None:
    verdict = judge({"a": [math.nan, math.inf], "b": [math.nan, math.nan]}, "max")
    assert (verdict.winner, verdict.separable) == (None, False)
    assert verdict.sentence == "No run of a and b has a finite value: there is nothing to confirm."


def test_a_single_trial_has_nothing_to_be_told_from() -> None:
    verdict = judge({"0007": [1.0, 3.0]}, "max")
    assert (verdict.separable, verdict.p_value) == (False, None)
    assert verdict.sentence == "0007 came to 2.0000 ± 1.4142 over 2 seeds."


def test_nothing_to_judge_and_an_unknown_mode_are_mistakes() -> None:
    with pytest.raises(ConfigError, match="no trial to confirm"):
        judge({}, "max")
    with pytest.raises(ConfigError, match=r"'highest' is not known\. Allowed: min, max"):
        judge(CLOSE, "highest")  # type: ignore[arg-type]


def test_a_confirmation_goes_through_the_record_unchanged() -> None:
    made = confirm("val/accuracy", "max", {"a": {1: 0.5, 2: 0.6}, "b": {1: 0.7, 2: math.nan, 3: 0.9}})
    assert Confirmation.model_validate(made.model_dump(mode="json")) == made
    assert Confirmation.model_validate_json(made.model_dump_json()) == made
    assert (made.seeds, [trial.trial_id for trial in made.trials]) == ([1, 2, 3], ["b", "a"])
    assert made.trials[0].values == {1: 0.7, 2: None, 3: 0.9}
    assert made.trials[1].values == {1: 0.5, 2: 0.6, 3: None}
    assert made.trials[0].mean == pytest.approx(0.8)
