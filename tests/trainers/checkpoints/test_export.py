"""What is exported loads where it should: into the model itself, by timm, and as safetensors in general."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

from tests.trainers.runs import make_project
from tuneyard.trainers.checkpoints.export import Source, export
from tuneyard.trainers.config.training import ModelConfig
from tuneyard.trainers.errors import CheckpointError
from tuneyard.trainers.models import build_model
from tuneyard.trainers.record import DataSummary, Metric, RunRecord, now

TASK_PY = '''
from torch import nn


class Config:
    def to_dict(self):
        return {"model_type": "tiny", "hidden_size": 3}


class Inner(nn.Module):
    """As transformers has them: a module with a config."""

    def __init__(self, outputs):
        super().__init__()
        self.config = Config()
        self.classifier = nn.Linear(3, outputs)

    def forward(self, images):
        return self.classifier(images.mean(dim=(2, 3)))


class Held(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.net = Inner(classes)

    def forward(self, images):
        return self.net(images)
'''
VIT_PY = """
from transformers import ViTConfig, ViTForImageClassification


class Logits(ViTForImageClassification):
    def forward(self, images):
        return super().forward(images).logits


def build(channels, classes):
    return Logits(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
            patch_size=8, num_channels=channels, num_labels=classes,
        )
    )
"""
CLASSES = ["a", "b", "c"]
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def source(folder: Path, name: str, size: int = 32, part: str = "model", **args: Any) -> Source:
    """A run with this model."""
    data = DataSummary(fingerprint="f", classes=CLASSES, train=9, validation=3, normalization=(MEAN, STD))
    record = RunRecord(
        run_id="r1", name="x", metric=Metric(name="val/accuracy", mode="max"), data=data, started=now(),
        experiment={
            "name": "x", "data": {"source": "digits", "image_size": size}, "model": {"name": name, "args": args},
        },
    )  # fmt: skip
    return Source(record, step=12, epoch=2, part=part, project_dir=folder)


def model_of(what: Source) -> nn.Module:
    """A model of the run, with its own random weights."""
    config = ModelConfig.model_validate(what.record.experiment["model"])
    size = what.record.experiment["data"]["image_size"]
    return build_model(config, channels=3, classes=3, image_size=size, project_dir=what.project_dir).eval()


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit"])
def test_timm_builds_and_fills_it_by_itself(tmp_path: Path, name: str) -> None:
    what = source(tmp_path, name, size=48)
    model = model_of(what)
    export(what, model.state_dict(), tmp_path / "out")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.rand(2, 3, 48, 48)
    assert torch.equal(loaded(images), model(images))
    assert tuple(loaded.pretrained_cfg["mean"]) == MEAN
    assert tuple(loaded.pretrained_cfg["input_size"]) == (3, 48, 48)
    assert list(loaded.pretrained_cfg["label_names"]) == CLASSES


def test_the_weights_have_the_model_s_own_names_and_safetensors_note(tmp_path: Path) -> None:
    what = source(tmp_path, "reference/small-cnn", width=8)
    model = model_of(what)
    path, _ = export(what, model.state_dict(), tmp_path / "out")
    other = model_of(what)
    safetensors.torch.load_model(other, path)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_the_config_says_what_the_weights_are_of(tmp_path: Path) -> None:
    what = source(tmp_path, "reference/small-cnn", part="average", width=8)
    _, path = export(what, model_of(what).state_dict(), tmp_path / "out")
    about = json.loads(path.read_text())["tuneyard"]
    assert about["normalization"] == {"mean": list(MEAN), "std": list(STD)}
    assert (about["step"], about["averaged"], about["image_size"], about["classes"]) == (12, True, 32, CLASSES)
    assert about["model"] == {"name": "reference/small-cnn", "args": {"width": 8}}


def test_a_module_with_a_config_inside_one_s_own_gets_its_own_names(tmp_path: Path) -> None:
    make_project(tmp_path)
    (tmp_path / "task.py").write_text(TASK_PY)
    what = source(tmp_path, "task.py:Held")
    weights, config = export(what, model_of(what).state_dict(), tmp_path / "out")
    assert set(safetensors.torch.load_file(weights)) == {"classifier.weight", "classifier.bias"}
    found = json.loads(config.read_text())
    assert (found["model_type"], found["architectures"], found["id2label"]["1"]) == ("tiny", ["Inner"], "b")


@pytest.mark.parametrize(("name", "size"), [("timm/test_resnet", 48), ("timm/test_vit", 48), ("task.py:build", 32)])
def test_transformers_builds_and_fills_it_by_itself(tmp_path: Path, name: str, size: int) -> None:
    import transformers

    (tmp_path / "task.py").write_text(VIT_PY)
    what = source(tmp_path, name, size=size)
    model = model_of(what)
    export(what, model.state_dict(), tmp_path / "out")
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    images = torch.rand(2, 3, size, size)
    assert torch.equal(loaded(pixel_values=images).logits, model(images))
    assert loaded.config.id2label == dict(enumerate(CLASSES))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = model_of(source(tmp_path, "reference/small-cnn", width=16))
    with pytest.raises(CheckpointError, match="not of the model that run r1 names"):
        export(source(tmp_path, "reference/small-cnn", width=8), other.state_dict(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_without_the_normalization_is_told(tmp_path: Path) -> None:
    what = source(tmp_path, "reference/small-cnn")
    assert what.record.data is not None
    bare = what.record.model_copy(update={"data": what.record.data.model_copy(update={"normalization": None})})
    with pytest.raises(CheckpointError, match="how its images were normalized"):
        export(Source(bare, 1, 1, "model", tmp_path), {}, tmp_path / "out")
