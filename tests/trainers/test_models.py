"""How a name becomes a network, and what is told where it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tuneyard.trainers.config.training import ModelConfig
from tuneyard.trainers.errors import ConfigError, ModelError
from tuneyard.trainers.models import build_model
from tuneyard.trainers.small_cnn import SmallCnn

TASK_PY = """
import torch
from torch import nn

def build_model(channels, classes, width=4):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, classes))

def deep(channels, classes):
    return nn.Sequential(*[nn.MaxPool2d(2) for _ in range(4)], nn.Flatten(), nn.Linear(channels, classes))

def two_outputs(channels, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))

def no_module(channels, classes):
    return "resnet"

class Pair(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.layer = nn.LazyLinear(classes)

    def forward(self, images):
        return self.layer(images.flatten(1)), images

def own_weights(channels, classes, pretrained=False):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    model.pretrained = pretrained
    return model
"""


def build(folder: Path, name: str, *, image_size: int = 8, pretrained: bool = False, **args: Any) -> nn.Module:
    (folder / "task.py").write_text(TASK_PY)
    config = ModelConfig(name=name, pretrained=pretrained, args=args)
    return build_model(config, channels=3, classes=5, image_size=image_size, project_dir=folder)


def test_the_small_cnn_takes_the_smallest_images_it_is_meant_for(tmp_path: Path) -> None:
    model = build(tmp_path, "reference/small-cnn", width=4, dropout=0.5)
    assert isinstance(model, SmallCnn)
    assert model.dropout.p == 0.5
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_images_too_small_for_the_small_cnn(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"data\.image_size: 4 is too small for reference/small-cnn.*at least 8"):
        build(tmp_path, "reference/small-cnn", image_size=4)


def test_images_too_small_for_the_users_own_model(tmp_path: Path) -> None:
    assert build(tmp_path, "task.py:deep", image_size=16)
    with pytest.raises(
        ModelError, match=r"data\.image_size: images of 8x8 pixels with 3 channel\(s\) do not go through"
    ):
        build(tmp_path, "task.py:deep", image_size=8)


def test_the_trial_run_leaves_no_trace_in_the_running_statistics(tmp_path: Path) -> None:
    model = build(tmp_path, "reference/small-cnn", width=4)
    for name, value in model.state_dict().items():
        if "running_mean" in name or "num_batches" in name:
            assert not value.any(), name
        if "running_var" in name:
            assert (value == 1).all(), name


def test_a_users_model_gets_its_arguments(tmp_path: Path) -> None:
    model = build(tmp_path, "task.py:build_model", width=7)
    assert isinstance(model, nn.Sequential)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    assert model[1].out_features == 7


def test_a_users_model_may_have_weights_of_its_own(tmp_path: Path) -> None:
    given = [vars(build(tmp_path, "task.py:own_weights", pretrained=wanted))["pretrained"] for wanted in (True, False)]
    assert given == [True, False]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "reference/smal-cnn",
            {},
            "model.name: 'reference/smal-cnn' is not known. Did you mean 'reference/small-cnn'?",
        ),
        ("resnet18", {}, "Allowed: reference/small-cnn, task.py:build_model, timm/NAME."),
        ("reference/small-cnn", {"widht": 8}, "model.args: 'widht' is not known. Did you mean 'width'?"),
        ("reference/small-cnn", {"classes": 8}, "model.args: 'classes' is not known."),
        (
            "reference/small-cnn",
            {"width": "wide"},
            "model.args: reference/small-cnn cannot be built with {'width': 'wide'}",
        ),
        (
            "task.py:build_model",
            {"depth": 8},
            "model.args: 'depth' is not known. Did you mean 'width'? Allowed: width.",
        ),
        ("task.py:build_modle", {}, "'build_modle' is not known. Did you mean 'build_model'?"),
        ("timm/resnet81", {}, "model.name: timm has no model 'resnet81'. Did you mean 'timm/resnet"),
        ("timm/resnet18", {"depht": 8}, "model: timm/resnet18 cannot be built with {'depht': 8}"),
    ],
)
def test_a_name_or_argument_that_is_not_known(name: str, args: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, name, **args)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("task.py:two_outputs", r"gives \(2, 2\) for 2 images, and must give logits of shape \(2, 5\)"),
        ("task.py:no_module", r"gave a str, and must give a torch\.nn\.Module"),
        ("task.py:Pair", r"gives tuple for 2 images, and must give logits"),
    ],
)
def test_a_model_that_gives_something_else(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        build(tmp_path, name)


def test_pretrained_weights_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.pretrained: reference/small-cnn has no pretrained weights"):
        build(tmp_path, "reference/small-cnn", pretrained=True)


def test_a_timm_model_fits_the_data(tmp_path: Path) -> None:
    assert build(tmp_path, "timm/resnet18", image_size=32)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_a_transformer_gets_the_image_size(tmp_path: Path) -> None:
    name = "timm/deit_tiny_patch16_224"
    model = build(tmp_path, name, image_size=32, depth=1)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(
        ModelError, match=r"weights of timm/resnet18 cannot be fetched \(ConnectionError: Name or service"
    ):
        build(tmp_path, "timm/resnet18", image_size=32, pretrained=True)
