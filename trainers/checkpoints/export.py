"""A checkpoint's weights as other libraries read them: `model.safetensors`, and a `config.json` beside it.

The tensors have the names of the model's own state dict, so that `safetensors.torch.load_model` fills it. A model from
timm gets the config that timm writes itself: `timm.create_model("local-dir:FOLDER", pretrained=True)` builds and fills
it, and so does transformers' `AutoModelForImageClassification.from_pretrained`. A model of the user's own that is one
of transformers', or holds one, gets that one's config and names. In every case the key `tuneyard` says what the weights
are of.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.errors import CheckpointError
from tuneyard.trainers.models import build_model
from tuneyard.trainers.record import RunRecord
from tuneyard.trainers.tasks import task_class

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

Weights = Mapping[str, torch.Tensor]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: the run's record, the checkpoint's step and epoch, and the part of its state."""

    record: RunRecord
    step: int
    epoch: int
    part: str
    project_dir: Path


def export(source: Source, weights: Weights, folder: Path) -> list[Path]:
    """Write both files into `folder`, which is made; returns their paths.

    Raises `CheckpointError` where the weights are not those of the model that the record names, and what building that
    model raises.
    """
    experiment, normalization = _experiment(source.record), _normalization(source.record)
    classes = source.record.data.classes if source.record.data else []
    task = task_class(experiment.task, source.project_dir)(classes, experiment.train)
    model = build_model(
        experiment.model.model_copy(update={"pretrained": False}), channels=len(normalization[0]),
        classes=task.outputs, image_size=experiment.data.image_size, project_dir=source.project_dir,
    )  # fmt: skip
    _fill(model, weights, source)
    about = _about(source, experiment, classes, normalization)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / WEIGHTS_FILE, folder / CONFIG_FILE]
    paths[1].unlink(missing_ok=True)  # an older export's config beside these weights would be wrong
    prefix, config = _config(model, experiment, classes, normalization, paths[1])
    tensors = {name.removeprefix(prefix): tensor.contiguous() for name, tensor in model.state_dict().items()}
    # transformers asks for this note of what framework the tensors are of.
    safetensors.torch.save_file(tensors, paths[0], metadata={"format": "pt"})
    paths[1].write_text(json.dumps({**config, "tuneyard": about}, indent=1) + "\n")
    return paths


def _experiment(record: RunRecord) -> Experiment:
    return Experiment.model_validate(record.experiment)


def _normalization(record: RunRecord) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if record.data is None or record.data.normalization is None:
        raise CheckpointError(
            f"export: the record of run {record.run_id} does not say how its images were normalized, so that nobody"
            " could use its weights. Resume it for an epoch with this Tuneyard, which records it."
        )
    return record.data.normalization


def _fill(model: nn.Module, weights: Weights, source: Source) -> None:
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"export: the checkpoint of step {source.step} is not of the model that run {source.record.run_id} names"
            f" ({error}). Has {source.project_dir}/task.py changed since? Export with the one that the run was made"
            " with."
        ) from error


def _about(source: Source, experiment: Experiment, classes: list[str], normalization: Any) -> Json:
    return {
        "run": source.record.run_id,
        "step": source.step,
        "epoch": source.epoch,
        "averaged": source.part == "average",
        "model": {"name": experiment.model.name, "args": experiment.model.args},
        "task": experiment.task,
        "classes": classes,
        "image_size": experiment.data.image_size,
        "normalization": {"mean": normalization[0], "std": normalization[1]},
    }


def _config(
    model: nn.Module, experiment: Experiment, classes: list[str], normalization: Any, path: Path
) -> tuple[str, Json]:
    """What the names begin with that the other library leaves out, and its config; empty where it knows the model not.

    `path` is where timm may write.
    """
    if experiment.model.name.startswith("timm/"):
        return "", _timm_config(model, experiment, classes, normalization, path)
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        config = getattr(module, "config", None)
        if callable(getattr(config, "to_dict", None)) and all(key.startswith(prefix) for key in model.state_dict()):
            return prefix, _transformers_config(module, config, classes)
    return "", {}


def _timm_config(
    model: nn.Module, experiment: Experiment, classes: list[str], normalization: Any, path: Path
) -> Json:  # fmt: skip
    from timm.models._hub import save_config_for_hf  # timm's public save_for_hf writes the weights, too

    mean, std = normalization
    size = experiment.data.image_size
    save_config_for_hf(
        model, str(path), model_config={"label_names": classes},
        data_config={
            "input_size": (len(mean), size, size), "mean": mean, "std": std, "crop_pct": 1.0, "crop_mode": "squash",
        },
    )  # fmt: skip
    found: Json = json.loads(path.read_text())
    # It stands above them, too, and transformers would hand it over twice.
    found.get("model_args", {}).pop("num_classes", None)
    return found


def _transformers_config(module: nn.Module, config: Any, classes: list[str]) -> Json:
    found: Json = config.to_dict()
    names = [kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("transformers.")]
    return found | {
        # The user's own subclass is nothing that transformers could look up.
        "architectures": names[:1] or [type(module).__name__],
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }
