"""Where a trial finds its project, on a machine that is not the driver's."""

import os
from pathlib import Path

import pytest

from tests.tune.sweeps import experiment_tree
from tuneyard.trainers.config.loading import validate
from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.project import project_here


def spec(project_dir: Path) -> TrialSpec:
    return TrialSpec(
        run_id="0001", experiment=validate(experiment_tree({}), "test"), project_dir=str(project_dir),
        store_uri="s3://lab/runs", tracking_dir="/tracking",
    )  # fmt: skip


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "elsewhere" / tmp_path.name
    other.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(other))
    assert project_here(spec(tmp_path)) == spec(tmp_path)


@pytest.mark.parametrize("below", ["", "experiments/first"])
def test_a_jobs_folder_is_found_where_this_node_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    here = tmp_path / "_ray_pkg_0a1b"
    (here / below).mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/usr/lib/ours", str(here)]))
    told = Path("/head/session_1/working_dir_files/_ray_pkg_0a1b") / below
    assert project_here(spec(told)).project_dir == str(here / below)


def test_another_jobs_folder_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_ray_pkg_ffff").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "_ray_pkg_ffff"))
    told = spec(Path("/head/working_dir_files/_ray_pkg_0a1b"))
    assert project_here(told) == told
