"""What is written down about the code and the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuneyard.trainers import provenance
from tuneyard.trainers.provenance import capture_provenance, environment
from tuneyard.trainers.spec import Provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "task.py").write_text("lr = 1\n")
    (tmp_path / ".gitignore").write_text("runs/\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_repository_has_a_commit_and_no_diff(repository: Path) -> None:
    found = capture_provenance(repository)
    assert (found.commit, found.dirty, found.diff) == (git(repository, "rev-parse", "HEAD"), False, "")


def test_a_change_can_be_applied_again_from_the_diff(repository: Path) -> None:
    (repository / "task.py").write_text("lr = 2\n")
    found = capture_provenance(repository)
    git(repository, "checkout", "-q", "task.py")
    subprocess.run(["git", "-C", repository, "apply"], input=found.diff, text=True, check=True)
    assert found.dirty
    assert (repository / "task.py").read_text() == "lr = 2\n"


def test_an_untracked_file_is_named_and_an_ignored_one_is_not(repository: Path) -> None:
    (repository / "new.py").write_text("secret = 1\n")
    (repository / "runs").mkdir()
    (repository / "runs" / "log.txt").write_text("x")
    found = capture_provenance(repository)
    assert (found.dirty, found.diff) == (True, "# untracked: new.py\n")


def test_a_folder_inside_the_repository_sees_the_whole_of_it(repository: Path) -> None:
    (repository / "experiments").mkdir()
    (repository / "task.py").write_text("lr = 3\n")
    (repository / "new.py").write_text("")
    found = capture_provenance(repository / "experiments")
    assert "+lr = 3" in found.diff
    assert "# untracked: " in found.diff


def test_a_huge_diff_is_cut(repository: Path) -> None:
    (repository / "task.py").write_text("x" * 3_000_000)
    found = capture_provenance(repository)
    assert 1_000_000 < len(found.diff) < 1_100_000
    assert found.diff.endswith("# cut: the diff goes on\n")


def test_outside_a_repository_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert capture_provenance(tmp_path) == Provenance()


def test_without_git_it_is_empty(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert capture_provenance(repository) == Provenance()


def test_a_git_that_hangs_is_given_up(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = repository / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(provenance, "_GIT_TIMEOUT_S", 0.2)
    monkeypatch.setenv("PATH", str(slow.parent), prepend=":")
    assert capture_provenance(repository) == Provenance()


def test_the_environment_names_the_packages_and_the_machine() -> None:
    found = environment()
    assert {"torch", "accelerate", "ray", "albumentations", "tuneyard"} <= set(found["packages"])
    assert found["cpus_usable"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["cpu_model"]


def test_asking_for_the_environment_imports_no_heavy_package() -> None:
    code = (
        "import sys; from tuneyard.trainers.provenance import environment; environment(); "
        "print([name for name in ('torch', 'ray', 'comet_ml', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_project_that_was_sent_without_its_repository_says_what_that_said(repository: Path, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.mkdir()
    found = capture_provenance(repository)
    (sent / provenance.PACKED).write_text(found.model_dump_json())
    assert found.commit
    assert capture_provenance(sent) == found
