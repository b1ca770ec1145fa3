"""DeepSpeed's ZeRO stages train like one worker alone, in every precision, one after the other in kept processes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.runs import checkpoints_of, make_project, make_spec, stored_rows, stored_weights, train_run
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.spec import TrialSpec

pytestmark = pytest.mark.timeout(600)  # of which the two processes take half a minute where they have a core each
ROOT = Path(__file__).parents[2]
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
STAGES = STRATEGIES[1:]
SPLIT_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}}
"""zero3 would keep parameters as small as these whole on every worker."""
STEPS = 10  # in an epoch of 96 images in batches of 9, of which one worker has 5 and the other 4
MODELS = '''

def odd(channels: int, classes: int) -> nn.Module:
    """Without batch norm, and with sizes that two workers cannot share evenly."""
    return nn.Sequential(
        nn.Conv2d(channels, 7, 3, padding=1), nn.GroupNorm(1, 7), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(7 * 16, classes),
    )


def normed(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        # Several input channels: in the memory layout of images DeepSpeed would refuse these weights.
        nn.Conv2d(6, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(96, classes),
    )
'''
ADAMW = {"name": "adamw", "lr": 0.01}
SGD = {"name": "sgd", "lr": 0.05}


class Jobs:
    """Runs for two kept workers: how they are to be trained, and where their results lie."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs, self.specs = folder, list[dict[str, Any]](), dict[str, TrialSpec]()
        make_project(folder)
        (folder / "task.py").write_text((folder / "task.py").read_text() + MODELS)
        (folder / "deepspeed.json").write_text(json.dumps(SPLIT_ALL))

    def spec(self, run_id: str, strategy: str, **changes: Any) -> TrialSpec:
        """20 steps of the model `odd`; the changes' dots are written as two underscores."""
        tree = {"model.name": "task.py:odd", "train.epochs": 2, "train.batch_size": 9, "train.strategy": strategy}
        if strategy != "ddp":
            tree["train.deepspeed.config"] = "deepspeed.json"
        tree |= {name.replace("__", "."): value for name, value in changes.items()}
        return make_spec(self.folder, tree, run_id=run_id)

    def add(
        self, run_id: str, strategy: str, *, stop_after: int | None = None, alone: bool = False, **changes: Any
    ) -> None:  # fmt: skip
        """Train this run, or go on with it where it was added before."""
        spec = self.spec(run_id, strategy, **changes).model_copy(update={"resume": run_id in self.specs})
        self.specs[run_id] = spec
        self.jobs.append({"spec": spec.model_dump(mode="json"), "stop_after": stop_after, "alone": alone})

    def train(self) -> list[list[dict[str, float]]]:
        """Do all jobs; what each took, for each worker."""
        path = self.folder / "jobs.json"
        path.write_text(json.dumps(sorted(self.jobs, key=lambda job: not job["alone"])))
        port = process_group.free_port()
        command = [sys.executable, "-m", "tests.trainers.kept_worker", str(path)]
        told = [self.folder / f"told-{rank}.txt" for rank in range(2)]
        workers = []
        for rank in range(2):
            with told[rank].open("wb") as out:
                arguments = [*command, str(rank), "2", str(port)]
                workers.append(subprocess.Popen(arguments, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT))
        try:
            while any(worker.poll() is None for worker in workers) and not any(worker.poll() for worker in workers):
                time.sleep(0.05)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        self.said = [path.read_text() for path in told]
        assert [worker.returncode for worker in workers] == [0, 0], "\n".join(self.said)
        return [json.loads((self.folder / f"out-{rank}.json").read_text()) for rank in range(2)]

    def weights(self, run_id: str) -> dict[str, torch.Tensor]:
        return stored_weights(self.specs[run_id])

    def rows(self, run_id: str) -> list[dict[str, float]]:
        return stored_rows(self.specs[run_id])


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


def test_nothing_is_said_on_the_terminal(trained: Jobs) -> None:
    assert [line for said in trained.said for line in said.splitlines() if "fp16 is slow on a CPU" not in line] == []
