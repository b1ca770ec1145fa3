"""The rooms and who may import whom (the design, section 3), read from the source and not from a run."""

import ast
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "trainers": set[str](),
    "cluster": set[str](),
    "tune": {"trainers"},
    "launch": {"tune", "cluster", "trainers"},
}
"""Each room, and the rooms of ours that it may import."""

ONLY_THERE = {
    "accelerate": {"trainers/engine.py", "trainers/tracking/sinks.py"},
    "deepspeed": {"trainers/parallel/zero.py"},
    "boto3": {"trainers/stores/", "cluster/aws.py"},
    "botocore": {"trainers/stores/", "cluster/aws.py"},
    "albumentations": {"trainers/data/augment.py"},
    "comet_ml": {"trainers/tracking/comet.py"},
    "ray": {"tune/", "cluster/node/gcs.py", "launch/jobs/client.py"},
    "optuna": {"tune/"},
    "typer": {"launch/"},
    "rich": {"launch/", "trainers/progress.py"},
    "timm": {"trainers/models.py", "trainers/checkpoints/export.py"},
    "torchvision": set[str](),
}
"""A package that costs time or ties us to somebody else, and the only places that import it."""

SLOW = {"torch", "timm", "sklearn", "comet_ml", "boto3", "albumentations", "accelerate", "ray", "optuna", "pandas"}
"""Not to be imported where the command line starts: a mistake in the file is told before the seconds they take."""

SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imported(path: Path, *, at_the_top_only: bool = False) -> frozenset[str]:
    """The full names of the modules that a file imports; relative ones begin with a dot."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_the_top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}"}
            if node.module == "tuneyard":
                found |= {f"tuneyard.{alias.name}" for alias in node.names}
    return frozenset(found)


def ours(names: frozenset[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("tuneyard.")}


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_a_room_imports_only_the_rooms_it_may(path: Path) -> None:
    room = place(path).split("/")[0]
    assert ours(imported(path)) <= ROOMS[room] | {room}
    assert not any(name.startswith(".") for name in imported(path)), "imports are absolute"


@pytest.mark.parametrize("package", sorted(ONLY_THERE))
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    users = {place(path) for path in SOURCES if package in {name.split(".")[0] for name in imported(path)}}
    allowed = ONLY_THERE[package]
    assert {
        user for user in users if not any(user == one or user.startswith(f"{one.rstrip('/')}/") for one in allowed)
    } == set()


def test_the_command_line_starts_without_what_is_slow() -> None:
    seen, to_read = set[Path](), [ROOT / "launch/main.py", ROOT / "launch/train_command.py"]
    slow: list[str] = []
    while to_read:
        path = to_read.pop()
        seen.add(path)
        names = imported(path, at_the_top_only=True)
        slow += [f"{place(path)} imports {name}" for name in names if name.split(".")[0] in SLOW]
        files = [ROOT / Path(*name.split(".")[1:]).with_suffix(".py") for name in names if name.startswith("tuneyard.")]
        to_read += [file for file in files if file.exists() and file not in seen]
    assert len(seen) > 5
    assert slow == []


def test_the_packages_are_the_folders_on_the_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"}
    assert rooms == set(ROOMS)
    folders = {place(path.parent) for path in SOURCES}
    names = {f"tuneyard.{folder.replace('/', '.')}": folder for folder in folders}
    # The modules are data, which travels with the code.
    assert settings["package-dir"] == names | {"tuneyard.terraform": "terraform"}
    assert set(settings["packages"]) == set(settings["package-dir"])


def test_a_room_has_parts_but_no_deeper_folders() -> None:
    assert [place(path) for path in SOURCES if len(path.relative_to(ROOT).parts) > 3] == []


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in SOURCES}
    assert [place(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_what_lies_beside_the_code_is_packaged(room: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / settings["package-dir"][package]).glob(pattern)
    }
    others = {path for path in (ROOT / room).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others - packaged == set()


def test_no_file_is_called_utils() -> None:
    names = {path.stem for path in SOURCES} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert names & {"utils", "helpers", "misc", "common"} == set()


def test_the_terraform_modules_are_packaged_without_their_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["tuneyard.terraform"]
    packaged = {place(path) for pattern in patterns for path in (ROOT / "terraform").glob(pattern)}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "terraform"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    needed = {
        name for name in files if "/tests/" not in name and Path(name).name[0] != "." and Path(name).suffix != ".md"
    }
    assert needed <= packaged
    assert [name for name in packaged if "/tests/" in name] == []
