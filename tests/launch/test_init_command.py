"""`tuneyard init`: a project that is valid, complete and trains as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuneyard.launch.init_command import make_project, schema
from tuneyard.trainers.config.checks import check_experiment
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment
from tuneyard.trainers.errors import ConfigError

TUNEYARD = str(Path(sys.executable).parent / "tuneyard")


def test_a_project_is_its_experiment_its_schema_and_its_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_project(tmp_path / "new" / "project")
    made = sorted(path.name for path in (tmp_path / "new" / "project").iterdir())
    assert made == ["experiment.schema.json", "experiment.yaml", "task.py"]
    assert "tuneyard train experiment.yaml" in capsys.readouterr().out


def test_the_experiment_names_its_schema_for_editors(tmp_path: Path) -> None:
    make_project(tmp_path)
    first = (tmp_path / "experiment.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=./experiment.schema.json"


def test_the_experiment_passes_all_checks_of_a_sweep(tmp_path: Path) -> None:
    make_project(tmp_path)
    check_experiment(load_experiment(tmp_path / "experiment.yaml"), sweep=True)


@pytest.mark.parametrize("there", ["experiment.yaml", "task.py", "experiment.schema.json"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(ConfigError, match=f"already holds {there}; nothing was written"):
        make_project(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "project").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be written"):
        make_project(tmp_path / "project")


def test_the_schema_takes_the_starter_and_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    make_project(tmp_path)
    rules: dict[str, Any] = json.loads((tmp_path / "experiment.schema.json").read_text())
    checker = jsonschema.Draft202012Validator
    checker.check_schema(rules)
    starter = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    assert list(checker(rules).iter_errors(starter)) == []
    for section, key, value in (("train", "epocs", 3), ("train", "epochs", 0), ("optimizer", "name", "adam")):
        wrong = starter | {section: starter[section] | {key: value}}
        assert list(checker(rules).iter_errors(wrong)), (section, key)


def test_the_schema_describes_every_section(tmp_path: Path) -> None:
    rules = json.loads(schema())
    assert set(rules["properties"]) == set(Experiment.model_fields)


@pytest.mark.parametrize("own_parts", [False, True], ids=["as it is", "with the parts of task.py"])
def test_the_starter_trains(tmp_path: Path, own_parts: bool) -> None:
    make_project(tmp_path)
    words = ["train.epochs=1", "schedule.warmup_epochs=0", "tracking.comet.mode='off'"]
    if own_parts:
        words += ["data.source=task.py:my_dataset", "model.name=task.py:build_model"]
    done = subprocess.run(
        [TUNEYARD, "train", "experiment.yaml", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=150, env=os.environ | {"PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "best val/accuracy" in done.stdout
