"""What DeepSpeed is told: the experiment's own settings, over those of the user's DeepSpeed file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneyard.trainers.config.training import TrainConfig
from tuneyard.trainers.errors import ConfigError

AUTO = "auto"
REFUSED = {
    "optimizer": "the experiment's section `optimizer`",
    "scheduler": "the experiment's section `schedule`",
    "bf16": "train.precision, by autocast",
    "fp16": "train.precision, by autocast",
    "torch_autocast": "train.precision, by autocast",
    "amp": "train.precision, by autocast",
}
"""Keys of a DeepSpeed file that may only say what the experiment says anyway, and what decides instead."""


def zero_config(train: TrainConfig, world_size: int, project_dir: Path, *, cpu: bool) -> dict[str, Any]:
    """DeepSpeed's configuration (https://www.deepspeed.ai/docs/config-json) for `world_size` workers.

    Ours lies over the user's file, `train.deepspeed.config`. Raises ConfigError where the file is not there or no
    JSON object, or says something else than the experiment; "auto" in it leaves a value to the experiment.
    """
    given = _without_auto(_read(train.deepspeed.config, project_dir)) if train.deepspeed.config else {}
    problems = [
        f"  {key}: {json.dumps(value)}; {REFUSED[key]} decides that: leave it out"
        for key, value in given.items()
        if key in REFUSED and not (isinstance(value, Mapping) and value.get("enabled") is False)
    ]
    ours = _ours(train, world_size, cpu=cpu)
    for path, value, why in _decided(train, world_size):
        said = _look_up(given, path)
        if said is not None and said != value:
            problems.append(f'  {path}: {json.dumps(said)}, but {why}; make it {json.dumps(value)} or "auto"')
    if problems:
        raise ConfigError(
            f"train.deepspeed.config: {train.deepspeed.config} and the experiment disagree:\n" + "\n".join(problems)
        )
    return _merged({key: value for key, value in given.items() if key not in REFUSED}, ours)


def _ours(train: TrainConfig, world_size: int, *, cpu: bool) -> dict[str, Any]:
    tree: dict[str, Any] = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    for path, value, _ in _decided(train, world_size):
        *sections, key = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    if not cpu:
        for name in ("offload_optimizer", "offload_param"):
            if name in tree["zero_optimization"]:
                tree["zero_optimization"][name]["pin_memory"] = True
    return tree


def _decided(train: TrainConfig, world_size: int) -> Iterator[tuple[str, Any, str]]:
    """The keys that the experiment decides: path, value, and the reason in words."""
    yield "zero_optimization.stage", int(train.strategy.removeprefix("zero")), f"train.strategy is {train.strategy}"
    # DeepSpeed wants its three sizes to fit together; a batch that cannot be shared evenly counts as the even part.
    micro = max(1, train.batch_size // (world_size * train.accumulate))
    sizes = f"train.batch_size is {train.batch_size}, over {world_size} worker(s) and train.accumulate"
    yield "train_micro_batch_size_per_gpu", micro, f"{sizes} {train.accumulate}"
    yield "gradient_accumulation_steps", train.accumulate, f"train.accumulate is {train.accumulate}"
    yield "train_batch_size", micro * train.accumulate * world_size, f"{sizes} {train.accumulate}"
    # Never "auto": Accelerate would make it 1.0, and clip where nobody asked for it.
    yield "gradient_clipping", train.clip_norm or 0.0, f"train.clip_norm is {train.clip_norm or 'not set'}"
    # An overflow of fp16 is seen in the norm.
    yield "zero_optimization.compute_grad_norm", True, "the norm tells whether the gradients overflowed"
    offload = train.deepspeed.offload
    optimizer, parameters = offload != "none", offload == "all"
    why = f"train.deepspeed.offload is {offload}"
    yield "zero_optimization.offload_optimizer.device", "cpu" if optimizer else "none", why
    yield "zero_optimization.offload_param.device", "cpu" if parameters else "none", why


def _read(name: str, project_dir: Path) -> dict[str, Any]:
    path = project_dir / name
    try:
        tree = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"train.deepspeed.config: {path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"train.deepspeed.config: {path} is not JSON ({error}).") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"train.deepspeed.config: {path} must hold one JSON object, with DeepSpeed's keys.")
    return tree


def _without_auto(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value != AUTO
    }


def _look_up(tree: Mapping[str, Any], path: str) -> Any:
    found: Any = tree
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both
