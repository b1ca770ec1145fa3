"""Builds the network that the experiment names: ours, timm's, or the user's own."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuneyard.trainers.config.training import ModelConfig
from tuneyard.trainers.errors import ConfigError, ModelError, choose_from, nearest
from tuneyard.trainers.names import is_user_reference, load_object, load_user_object
from tuneyard.trainers.small_cnn import MIN_IMAGE_SIZE

REFERENCE = {"reference/small-cnn": "tuneyard.trainers.small_cnn:SmallCnn"}


def build_model(config: ModelConfig, *, channels: int, classes: int, image_size: int, project_dir: Path) -> nn.Module:
    """The model for images [B, channels, image_size, image_size] and `classes` outputs.

    A user's `task.py:build_model` is called as `build_model(channels=…, classes=…, **model.args)`.

    Raises ConfigError for an unknown name or argument, ModelError where the weights cannot be had or the images are
    too small for the network.
    """
    if config.name.startswith("timm/"):
        model = _build_timm(config, channels, classes, image_size)
    elif is_user_reference(config.name):
        model = _build(load_user_object(project_dir, config.name), config, channels, classes)
    elif config.name in REFERENCE:
        if image_size < MIN_IMAGE_SIZE:
            raise ModelError(
                f"data.image_size: {image_size} is too small for {config.name}, which halves images twice; "
                f"give at least {MIN_IMAGE_SIZE}."
            )
        model = _build(load_object(REFERENCE[config.name]), config, channels, classes)
    else:
        allowed = [*REFERENCE, "timm/NAME", "task.py:build_model"]
        raise ConfigError(choose_from("model.name", config.name, allowed))
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {config.name} gave a {type(model).__name__}, and must give a torch.nn.Module.")
    _try_forward(model, config.name, channels, classes, image_size)
    return model


def _build(builder: Any, config: ModelConfig, channels: int, classes: int) -> Any:
    if config.pretrained and "pretrained" not in inspect.signature(builder).parameters:
        raise ConfigError(f"model.pretrained: {config.name} has no pretrained weights; set it to false.")
    known = set(inspect.signature(builder).parameters)
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(builder).parameters.values()):
        for name in config.args:
            if name not in known - {"channels", "classes"}:
                raise ConfigError(choose_from("model.args", name, known - {"channels", "classes"}))
    extra = {"pretrained": True} if config.pretrained else {}
    try:
        return builder(channels=channels, classes=classes, **extra, **config.args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.args: {config.name} cannot be built with {config.args}: {error}") from error


def _build_timm(config: ModelConfig, channels: int, classes: int, image_size: int) -> nn.Module:
    import timm  # costs seconds, and only some experiments need it

    name = config.name.removeprefix("timm/")
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        guess = f" Did you mean 'timm/{near}'?" if near else ""
        raise ConfigError(f"model.name: timm has no model {name!r}.{guess} timm.list_models('*part*') lists them.")
    if config.pretrained and not timm.models.is_model_pretrained(name):
        raise ConfigError(f"model.pretrained: timm has no pretrained weights for {name!r}; set it to false.")
    arguments = dict(config.args)
    # Transformers build their position table for one size; convnets do not know the argument.
    if "img_size" not in arguments and _has_position_table(name):
        arguments["img_size"] = image_size
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=config.pretrained, in_chans=channels, num_classes=classes, **arguments
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"model: timm/{name} cannot be built with {arguments}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not config.pretrained:
            raise
        raise ModelError(
            f"model.pretrained: the weights of timm/{name} cannot be fetched ({type(error).__name__}: "
            f"{_first_line(error)}). Without a network, put them into the Hugging Face cache (HF_HOME) on a machine "
            "that has one, pass model.args.pretrained_cfg_overlay={file: PATH}, or set model.pretrained to false."
        ) from error
    return model


def _has_position_table(name: str) -> bool:
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.fixed_input_size)


def _try_forward(model: nn.Module, name: str, channels: int, classes: int, image_size: int) -> None:
    """Run two blank images through the model, so that a network that does not fit the images is told at once."""
    images = torch.zeros(2, channels, image_size, image_size)
    state = {key: value.clone() for key, value in model.state_dict().items() if "running_" in key or "batches" in key}
    model.train()
    try:
        with torch.no_grad():
            logits = model(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"data.image_size: images of {image_size}x{image_size} pixels with {channels} channel(s) do not go through "
            f"{name} ({_first_line(error)}). Give a larger data.image_size, or another model.name."
        ) from error
    finally:
        model.load_state_dict(state, strict=False)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(
            f"model.name: {name} gives {shape} for 2 images, and must give logits of shape (2, {classes})."
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
