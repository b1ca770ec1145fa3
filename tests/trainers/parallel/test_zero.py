"""DeepSpeed's ZeRO stages train like one worker alone, in every precision, one after the other in kept processes."""

from typing import Any

import pytest
import torch

from tests.trainers.parallel.jobs import ADAMW, SGD, Jobs
from tests.trainers.runs import checkpoints_of, stored_weights, train_run
from tuneyard.trainers.spec import TrialSpec

pytestmark = pytest.mark.timeout(600)  # of which the two processes take half a minute where they have a core each
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
STAGES = STRATEGIES[1:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Every strategy, in turn, in one pair of processes that keep their group."""
    jobs = Jobs(tmp_path_factory.mktemp("zero"))
    jobs.add("alone", "zero2", alone=True, optimizer=ADAMW)
    for strategy in STRATEGIES:
        jobs.add(f"{strategy}-adamw", strategy, optimizer=ADAMW)
        jobs.add(f"{strategy}-sgd", strategy, optimizer=SGD)
        jobs.add(f"{strategy}-clipped", strategy, optimizer=SGD, train__accumulate=2, train__clip_norm=0.3)
        jobs.add(f"{strategy}-bf16", strategy, train__precision="bf16")
        jobs.add(f"{strategy}-fp16", strategy, train__precision="fp16")
    for strategy in STAGES:
        jobs.add(f"{strategy}-stopped", strategy, stop_after=8, optimizer=ADAMW)
        jobs.add(f"{strategy}-stopped", strategy, optimizer=ADAMW)
    for strategy, stop_after in (("ddp", 3), ("zero2", 8), ("zero3", 8), ("ddp", None)):
        jobs.add("moved", strategy, stop_after=stop_after, optimizer=SGD, train__epochs=3)
    jobs.add("zero2-offload", "zero2", optimizer=ADAMW, train__deepspeed__offload="optimizer")
    jobs.add("zero3-offload", "zero3", optimizer=ADAMW, train__deepspeed__offload="all", train__precision="fp16")
    for strategy in ("ddp", "zero3"):
        jobs.add(f"{strategy}-normed", strategy, model__name="task.py:normed")
    for strategy in ("ddp", "zero2"):
        jobs.add(f"{strategy}-averaged", strategy, optimizer=ADAMW, train__ema_epochs=0.3)
    jobs.train()
    return jobs


@pytest.fixture(scope="module")
def references(trained: Jobs) -> dict[str, TrialSpec]:
    """One worker, alone, without DeepSpeed."""
    wanted: dict[str, dict[str, Any]] = {
        "adamw": {"optimizer": ADAMW}, "sgd": {"optimizer": SGD},
        "clipped": {"optimizer": SGD, "train__clip_norm": 0.3}, "moved": {"optimizer": SGD, "train__epochs": 3},
    }  # fmt: skip
    specs = {name: trained.spec(f"reference-{name}", "ddp", **changes) for name, changes in wanted.items()}
    for spec in specs.values():
        train_run(spec)
    return specs


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "clipped"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_workers_reach_the_weights_of_one(
    strategy: str, optimizer: str, trained: Jobs, references: dict[str, TrialSpec]
) -> None:
    assert_same(trained.weights(f"{strategy}-{optimizer}"), stored_weights(references[optimizer]))


def test_clipping_made_a_difference(references: dict[str, TrialSpec]) -> None:
    with pytest.raises(AssertionError, match="not close"):
        assert_same(stored_weights(references["clipped"]), stored_weights(references["sgd"]), 1e-2)


def test_one_worker_alone_needs_no_group(trained: Jobs, references: dict[str, TrialSpec]) -> None:
    assert_same(trained.weights("alone"), stored_weights(references["adamw"]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_low_precision_learns_and_keeps_whole_weights(strategy: str, precision: str, trained: Jobs) -> None:
    rows = trained.rows(f"{strategy}-{precision}")
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    weights = trained.weights(f"{strategy}-{precision}")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # The same computations in another order: low precision rounds them to the same values, but for a few.
    assert_same(weights, trained.weights(f"ddp-{precision}"), 2e-2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loss_scale_is_saved_and_has_met_an_overflow(strategy: str, trained: Jobs) -> None:
    state = checkpoints_of(trained.specs[f"{strategy}-fp16"]).load_parts(["progress"])["progress"]
    expected = checkpoints_of(trained.specs["ddp-fp16"]).load_parts(["progress"])["progress"]
    assert state["scaler"] == expected["scaler"]


@pytest.mark.parametrize("strategy", STAGES)
def test_a_stopped_run_goes_on_to_the_same_bits(strategy: str, trained: Jobs) -> None:
    assert_same(trained.weights(f"{strategy}-stopped"), trained.weights(f"{strategy}-adamw"), 0.0)
    assert trained.rows(f"{strategy}-stopped") == trained.rows(f"{strategy}-adamw")


def test_a_checkpoint_goes_from_strategy_to_strategy(trained: Jobs, references: dict[str, TrialSpec]) -> None:
    assert len(trained.rows("moved")) == 3
    assert_same(trained.weights("moved"), stored_weights(references["moved"]))


@pytest.mark.parametrize("strategy", STAGES)
def test_the_saved_optimizer_is_torch_s_own(strategy: str, trained: Jobs) -> None:
    own, plain = (
        checkpoints_of(trained.specs[f"{name}-adamw"]).load_parts(["optimizer"])["optimizer"]
        for name in (strategy, "ddp")
    )
    assert own["param_groups"] == plain["param_groups"]
    assert own["state"].keys() == plain["state"].keys()
    for key in own["state"]:
        assert_same(own["state"][key], plain["state"][key])


def test_what_lies_in_main_memory_trains_the_same(trained: Jobs, references: dict[str, TrialSpec]) -> None:
    assert_same(trained.weights("zero2-offload"), stored_weights(references["adamw"]))
    assert_same(trained.weights("zero3-offload"), trained.weights("zero3-fp16"), 2e-2)


def test_batch_norm_is_evaluated_with_one_worker_s_statistics(trained: Jobs) -> None:
    assert_same(trained.weights("zero3-normed"), trained.weights("ddp-normed"))
    rows, expected = trained.rows("zero3-normed"), trained.rows("ddp-normed")
    assert [row["val/loss"] for row in rows] == pytest.approx([row["val/loss"] for row in expected], rel=1e-4)


def test_the_average_of_the_weights_is_the_same_under_deepspeed(trained: Jobs) -> None:
    averages = [
        checkpoints_of(trained.specs[f"{strategy}-averaged"]).load_parts(["average"])["average"]
        for strategy in ("zero2", "ddp")
    ]
    assert_same(*averages)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(averages[0], trained.weights("zero2-averaged"))


def test_nothing_is_said_on_the_terminal(trained: Jobs) -> None:
    assert [line for said in trained.said for line in said.splitlines() if "fp16 is slow on a CPU" not in line] == []
