"""Places, files and keys of an experiment that is to run on other machines."""

from pathlib import Path
from typing import Any

import pytest

from tests.tune.sweeps import experiment_tree
from tuneyard.cluster.inventory import Inventory, Node, Token
from tuneyard.launch.jobs.checks import check_files, key_warnings, place_notes, places_on_cluster
from tuneyard.launch.jobs.packing import choose_files
from tuneyard.launch.jobs.parity import Found
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.errors import ConfigError


def experiment(**changes: Any) -> Experiment:
    return validate(experiment_tree({key.replace("__", "."): value for key, value in changes.items()}), "test")


def inventory(store: str | None = None, endpoint_url: str | None = None, region: str | None = None) -> Inventory:
    return Inventory(
        name="lab", kind="onprem", version="0", head=Node(name="head", address="10.0.0.1"),
        workers=[Node(name="w1", address="10.0.0.2")], token=Token(file=Path("token")), python="/env/bin/python",
        folder="/opt/tuneyard/lab", store=store, endpoint_url=endpoint_url, region=region,
    )  # fmt: skip


def test_a_folder_here_becomes_the_clusters_store() -> None:
    changes = places_on_cluster(
        experiment(checkpoint__store="runs"), inventory("s3://lab/runs", "http://10.0.0.9:8333", "eu-west-1")
    )
    assert [change.override for change in changes] == [
        "checkpoint.store=s3://lab/runs", "checkpoint.endpoint_url=http://10.0.0.9:8333", "checkpoint.region=eu-west-1",
        "tracking.directory=/opt/tuneyard/lab/tracking",
    ]  # fmt: skip


def test_a_folder_here_is_refused_where_the_cluster_has_no_store() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.store: runs is a folder of one machine.*s3://bucket/prefix"):
        places_on_cluster(experiment(checkpoint__store="runs"), inventory())


def test_places_that_every_node_may_reach_stay_as_they_are() -> None:
    chosen = experiment(checkpoint__store="s3://mine/here", tracking__directory="/mnt/tracking")
    assert places_on_cluster(chosen, inventory("s3://lab/runs")) == []
    shared = experiment(checkpoint__store="/mnt/runs", tracking__directory="/mnt/tracking")
    assert places_on_cluster(shared, inventory("s3://lab/runs")) == []
    assert place_notes(shared, inventory()) == ["checkpoint.store: /mnt/runs must be one folder that all nodes share"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("task.py", "images/a.png", "held/b.png", "prod.env", "runs/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / ".gitignore").write_text("held/\n")
    (folder / "far").symlink_to("/usr")
    (tmp_path / "outside.py").touch()
    return folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "tsk.py:Mine"}, r"^task: tsk.py is not in .*project. Is its name right\?"),
        ({"model.name": "../outside.py:build"}, r"^model.name: ../outside.py lies outside .*project, the folder"),
        ({"data.source": "folder:held"}, r"^data.source: held is left out by .gitignore(.|\n)*!held is enough"),
        ({"data.source": "csv:prod.env"}, r"^data.source: prod.env looks like credentials"),
        ({"data.source": "folder:far/share"}, r"^data.source: far/share is a link, which is not followed"),
        ({"tune.search": "search.py:Mine"}, r"^tune.search: search.py is not in"),
    ],
)  # fmt: skip
def test_a_file_that_would_be_missing_on_the_nodes_is_told_before(
    project: Path, changes: dict[str, Any], told: str
) -> None:
    given = validate(experiment_tree({"model.name": "reference/small-cnn", "data.source": "digits"} | changes), "test")
    with pytest.raises(ConfigError, match=told):
        check_files(given, choose_files(project))


def test_files_of_the_package_are_fine_and_absolute_ones_are_noted(project: Path) -> None:
    package = choose_files(project)
    fine = experiment(task="task.py:Mine", data__source="folder:images", model__name="reference/small-cnn")
    assert check_files(fine, package) == []
    for away in ("s3://bucket/images", "csv:s3://bucket/labels.csv"):
        assert check_files(experiment(data__source=away, model__name="reference/small-cnn"), package) == []
    far = experiment(data__source="folder:/data/images", model__name="reference/small-cnn")
    assert check_files(far, package) == ["data.source: /data/images must lie on the head and on every worker"]


def test_a_comet_key_that_only_the_user_has_is_told_and_its_value_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", "very-secret")
    nodes = [Found("head", "3.11.9", {}, keys=("COMET_API_KEY",)), Found("w1", "3.11.9", {})]
    told = key_warnings(experiment(tracking__comet__mode="auto"), nodes)
    assert len(told) == 1
    assert "not set on w1, and yours is not sent" in told[0]
    assert "very-secret" not in told[0]
    assert key_warnings(experiment(tracking__comet__mode="offline"), nodes) == []
    assert key_warnings(experiment(tracking__comet__mode="online"), nodes[:1]) == []
