"""What goes into a job's package, and what never does."""

import os
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tuneyard.launch.jobs import packing
from tuneyard.launch.jobs.packing import choose_files, write_package
from tuneyard.trainers.errors import ConfigError


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(folder: Path) -> set[str]:
    return {name.as_posix() for name in choose_files(folder).sizes}


def test_code_goes_and_what_tools_make_stays(tmp_path: Path) -> None:
    make(
        tmp_path, "experiment.yaml", "task.py", "lib/model.py", ".git/config", "__pycache__/task.pyc",
        ".venv/bin/python",
        "lib/__pycache__/model.pyc", "my-env/pyvenv.cfg", "my-env/lib/x.py", ".ipynb_checkpoints/a.ipynb",
    )  # fmt: skip
    assert names(tmp_path) == {"experiment.yaml", "task.py", "lib/model.py"}


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "prod.env", "server.pem", "id_rsa", "id_ed25519", "deploy.key", ".comet.config", ".netrc",
     "credentials", "sub/.aws/credentials", "terraform.tfstate", "Server.PEM"],
)  # fmt: skip
def test_what_looks_like_credentials_stays_and_is_told(tmp_path: Path, name: str) -> None:
    make(tmp_path, "task.py", name)
    package = choose_files(tmp_path)
    assert set(package.sizes) == {PurePosixPath("task.py")}
    assert len(package.secrets) == 1


@pytest.mark.parametrize("name", ["environment.yaml", "id_mapping.csv", "keys.py", "pem.txt", "env.py"])
def test_what_only_resembles_credentials_goes(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    assert names(tmp_path) == {name}


def test_results_of_earlier_runs_stay(tmp_path: Path) -> None:
    make(tmp_path, "task.py", "results/a.bin", "lib/results/b.py")
    package = choose_files(tmp_path, [tmp_path / "results"])
    assert {name.as_posix() for name in package.sizes} == {"task.py", "lib/results/b.py"}


def test_a_link_to_a_file_goes_as_the_file_and_one_to_a_folder_stays_and_is_told(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/a.py", "elsewhere/images/b.png", "project/task.py")
    project = tmp_path / "project"
    (project / "a.py").symlink_to("../elsewhere/a.py")
    (project / "images").symlink_to("../elsewhere/images")
    (project / "dangling").symlink_to("nowhere")
    package = choose_files(project)
    assert {name.as_posix() for name in package.sizes} == {"a.py", "task.py"}
    assert package.links == [PurePosixPath("images")]


def test_too_much_is_refused_with_the_largest_files_and_where_data_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "task.py")
    (tmp_path / "images.npz").write_bytes(b"0" * 5000)
    monkeypatch.setattr(packing, "LIMIT_BYTES", 4000)
    with pytest.raises(
        ConfigError, match=r"4 kB. The largest:\n +5 kB  images.npz\n(.|\n)*s3://bucket(.|\n)*.rayignore"
    ):
        choose_files(tmp_path)


def test_the_same_project_is_the_same_package_byte_for_byte(tmp_path: Path) -> None:
    make(tmp_path / "project", "experiment.yaml", "lib/model.py")
    (tmp_path / "project/run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "project/run.sh").chmod(0o755)
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    write_package(choose_files(tmp_path / "project"), first, {"added": b"text"})
    os.utime(tmp_path / "project/experiment.yaml", (10**9, 10**9))
    size = write_package(choose_files(tmp_path / "project"), second, {"added": b"text"})
    assert first.read_bytes() == second.read_bytes()
    assert size == second.stat().st_size
    with zipfile.ZipFile(second) as archive:
        assert archive.namelist() == ["experiment.yaml", "lib/model.py", "run.sh", "added"]
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755
        assert archive.read("added") == b"text"


def test_a_package_knows_what_it_holds(tmp_path: Path) -> None:
    make(tmp_path / "project", "task.py", "images/a.png", ".git/x")
    (tmp_path / "outside.py").touch()
    package = choose_files(tmp_path / "project")
    assert package.holds(Path("task.py"))
    assert package.holds(Path("images"))
    assert package.holds(Path("./images/../task.py"))
    assert package.holds(package.root / "images/a.png")
    assert not package.holds(Path(".git"))
    assert not package.holds(Path("../outside.py"))
    assert not package.holds(Path("ima"))
