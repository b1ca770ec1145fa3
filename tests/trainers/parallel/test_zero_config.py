"""What DeepSpeed is told, and which files of the user's own are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneyard.trainers.config.training import DeepSpeedConfig, TrainConfig
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.parallel.zero_config import zero_config


def config(folder: Path, given: Any = None, *, cpu: bool = True, workers: int = 2, **train: Any) -> dict[str, Any]:
    name = None
    if given is not None:
        name = "deepspeed.json"
        (folder / name).write_text(given if isinstance(given, str) else json.dumps(given))
    offload = train.pop("offload", "none")
    settings: dict[str, Any] = {"strategy": "zero2", "batch_size": 64, "accumulate": 4} | train
    return zero_config(
        TrainConfig(deepspeed=DeepSpeedConfig(offload=offload, config=name), **settings), workers, folder, cpu=cpu
    )


def test_the_experiment_decides_stage_sizes_and_clipping(tmp_path: Path) -> None:
    told = config(tmp_path, clip_norm=0.5)
    assert told["zero_optimization"]["stage"] == 2
    sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
    assert [told[name] for name in sizes] == [8, 4, 64]
    assert told["gradient_clipping"] == 0.5


def test_without_clip_norm_nothing_is_clipped(tmp_path: Path) -> None:
    assert config(tmp_path)["gradient_clipping"] == 0.0
    assert config(tmp_path, {"gradient_clipping": "auto"})["gradient_clipping"] == 0.0


def test_a_file_adds_what_the_experiment_does_not_decide(tmp_path: Path) -> None:
    told = config(
        tmp_path, {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    )
    assert told["zero_optimization"]["reduce_bucket_size"] == 1000
    assert told["zero_optimization"]["stage"] == 2
    assert told["wall_clock_breakdown"] is True


def test_auto_leaves_a_value_to_the_experiment_or_to_deepspeed(tmp_path: Path) -> None:
    auto = {"train_batch_size": "auto", "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}}
    assert config(tmp_path, auto) == config(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, r"zero_optimization\.stage: 3, but train\.strategy is zero2; make it 2"),
        ({"train_batch_size": 32}, r"train_batch_size: 32, but train\.batch_size is 64, over 2 worker"),
        ({"gradient_clipping": 1.0}, r"gradient_clipping: 1\.0, but train\.clip_norm is not set"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, r"train\.deepspeed\.offload is none"),
        ({"bf16": {"enabled": True}}, r"bf16: .*; train\.precision, by autocast decides that"),
        ({"optimizer": {"type": "Adam"}}, r"optimizer: .*the experiment's section `optimizer`"),
        ({"zero_optimization": {"compute_grad_norm": False}}, r"compute_grad_norm: false"),
    ],
)
def test_a_file_that_says_otherwise_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, given)


def test_a_precision_that_the_file_switches_off_is_no_contradiction(tmp_path: Path) -> None:
    assert config(tmp_path, {"fp16": {"enabled": False}}) == config(tmp_path)


@pytest.mark.parametrize(("given", "message"), [("{", "is not JSON"), ("[1]", "must hold one JSON object")])
def test_a_file_that_is_no_json_object_is_refused(given: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"deepspeed\.json {message}"):
        config(tmp_path, given)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    train = TrainConfig(strategy="zero1", deepspeed=DeepSpeedConfig(config="nowhere.json"))
    with pytest.raises(ConfigError, match=r"nowhere\.json cannot be read \(No such file"):
        zero_config(train, 1, tmp_path, cpu=True)


@pytest.mark.parametrize(("offload", "devices"), [("none", ["none", "none"]), ("optimizer", ["cpu", "none"])])
def test_offload_puts_the_state_into_main_memory(offload: str, devices: list[str], tmp_path: Path) -> None:
    zero = config(tmp_path, offload=offload)["zero_optimization"]
    assert [zero[name]["device"] for name in ("offload_optimizer", "offload_param")] == devices
    assert config(tmp_path, offload="all", strategy="zero3")["zero_optimization"]["offload_param"]["device"] == "cpu"
