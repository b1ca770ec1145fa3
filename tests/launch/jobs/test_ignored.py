"""Our reading of .gitignore against git's own, on the same files."""

import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tuneyard.launch.jobs.packing import choose_files

FILES = (
    "a.txt", "b.log", "data/x.png", "data/deep/y.png", "sub/data/z.png", "sub/b.log", "sub/keep.log", "out/a/b/c.bin",
    "weird [1].txt", "#hash", "!bang", "x1.npz", "x2.npz", "xa.npz", "doc/frotz/file", "a/doc/frotz/file", "spaced ",
    "foo/bar/baz.c", "foo/qux/bar/baz.c", "sub/deeper/b.log",
)  # fmt: skip
CASES = (
    "*.log", "*.log\n!keep.log", "data/", "/data", "data", "data/*\n!data/deep", "**/data", "out/**", "out/**/c.bin",
    "foo/**/baz.c", "doc/frotz", "/doc/frotz", "doc/frotz/", "x[0-9].npz", "x[!0-9].npz", "x?.npz", "\\#hash",
    "\\!bang",
    "# a comment\n\n*.txt", "weird \\[1\\].txt", "*", "*\n!*/\n!*.png", "spaced\\ ", "b.log ", "sub/*.log",
    "sub/**/*.log",
    "x[^a].npz", "[", "a/**", "deep*", "/*\n!/foo\n/foo/*\n!/foo/bar",
)  # fmt: skip


def make(folder: Path) -> None:
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def by_git(folder: Path) -> set[str]:
    """What git would add."""
    listed = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    ).stdout  # fmt: skip
    return {name for name in listed.split("\0") if name}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    make(folder)
    return folder


@pytest.mark.parametrize("rules", CASES)
def test_the_same_files_are_left_out_as_by_git(repository: Path, rules: str) -> None:
    (repository / ".gitignore").write_text(rules + "\n")
    ours = {name.as_posix() for name in choose_files(repository).sizes}
    assert ours == by_git(repository)


def test_a_folder_has_rules_of_its_own_below_those_above_it(repository: Path) -> None:
    (repository / ".gitignore").write_text("*.log\n")
    (repository / "sub/.gitignore").write_text("!/b.log\n/data/\n")
    try:
        expected = by_git(repository)
        assert "sub/b.log" in expected, "the folder's own rule wins"
        assert {name.as_posix() for name in choose_files(repository).sizes} == expected
        below = {PurePosixPath("sub") / name for name in choose_files(repository / "sub").sizes}
        assert {name.as_posix() for name in below} == {name for name in expected if name.startswith("sub/")}
    finally:
        (repository / "sub/.gitignore").unlink()


def test_rayignore_counts_without_a_repository_and_over_gitignore(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / ".gitignore").write_text("*.png\n")
    (tmp_path / ".rayignore").write_text("!data/x.png\n*.bin\n")
    names = {name.as_posix() for name in choose_files(tmp_path).sizes}
    assert "data/x.png" in names
    assert not names & {"sub/data/z.png", "out/a/b/c.bin"}
