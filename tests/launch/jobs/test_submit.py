"""`tuneyard submit` up to the moment when the cluster is asked: mistakes are told before, and in this order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.jobs.test_job_checks import inventory
from tests.tune.sweeps import EXPERIMENT
from tuneyard.cluster.access.tunnel import LinkError
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Node, Ssh, Token
from tuneyard.launch.jobs.submit_command import Submission, submit_command
from tuneyard.trainers.config.loading import set_path
from tuneyard.trainers.errors import ConfigError

PLAIN = Submission(cluster=None, name=None, resume=False, grow=None, sweep=None, follow=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with one cluster, whose head nobody answers for."""
    folder = tmp_path / "home/.tuneyard/clusters/lab"
    (folder / "onprem").mkdir(parents=True)
    (folder / "token").touch(0o600)
    (folder / "token").write_text("abc")
    away = Node(name="head", address="127.0.0.1", ssh=Ssh(host="127.0.0.1", port=1))
    made = inventory("s3://lab/runs").model_copy(update={"head": away, "token": Token(file=folder / "token")})
    (folder / "inventory.json").write_text(made.model_dump_json())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "task.py").write_text("from torch import nn\ndef build(channels, classes):\n    return nn.Flatten()\n")
    return folder


def submit(project: Path, changes: dict[str, Any], wanted: Submission = PLAIN) -> None:
    tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(EXPERIMENT))
    for key, value in ({"data.source": "digits", "model.name": "reference/small-cnn"} | changes).items():
        set_path(tree, key, value)
    (project / "experiment.yaml").write_text(yaml.safe_dump(tree))
    submit_command(project / "experiment.yaml", [], wanted)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train.epoch": 3}, "Did you mean 'epochs'"),
        ({"tune": None}, "tune: missing; a sweep needs at least tune.space"),
        ({"model.name": "task.py:bild"}, "Did you mean 'build'"),
        ({"model.name": "reference/smal-cnn"}, "Did you mean 'reference/small-cnn'"),
        ({"tune.metric": "val/acuracy"}, "Did you mean 'val/accuracy'"),
        ({"data.augment": [{"HorizontalFlp": {"p": 0.5}}]}, "Did you mean 'HorizontalFlip'"),
        ({"data.source": "folder:images"}, "data.source: images is not in "),
    ],
)
def test_a_mistake_is_told_before_the_cluster_is_asked(project: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        submit(project, changes)
    assert told in str(raised.value)


@pytest.mark.usefixtures("home")
def test_a_head_that_does_not_answer_is_told(project: Path) -> None:
    with pytest.raises(LinkError, match=r"No tunnel to head: ssh: connect to host 127.0.0.1 port 1: Connection ref"):
        submit(project, {})


@pytest.mark.usefixtures("home")
def test_a_name_that_no_job_can_have_is_told(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"--name: 'a/b' cannot begin the id of a job. Allowed: letters"):
        submit(project, {}, replace(PLAIN, name="a/b"))


def test_a_token_that_others_may_read_is_told(home: Path, project: Path) -> None:
    (home / "token").chmod(0o644)
    with pytest.raises(ClusterError, match="chmod 600"):
        submit(project, {})


def test_without_a_cluster_it_is_told_how_to_make_one(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterError, match=r"There is no cluster in .*tuneyard up"):
        submit(project, {})
