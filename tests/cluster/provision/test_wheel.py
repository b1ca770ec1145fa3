import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tuneyard.cluster.provision.wheel import ROOT, build_wheel

AGAIN = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tuneyard.cluster.provision import wheel

print(wheel.ROOT)
print(wheel.build_wheel(Path(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_pip_installs_it_and_it_runs(wheel: Path, tmp_path: Path) -> None:
    into = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        str(into),
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    # -S: without this environment's own tuneyard, which is a checkout.
    done = subprocess.run(
        [sys.executable, "-S", "-c", AGAIN, str(into), str(tmp_path / "again")],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    root, again = done.stdout.splitlines()
    assert root == str(into / "tuneyard")
    assert Path(again).read_bytes() == wheel.read_bytes(), "an installed tuneyard packs the same wheel again"
    script = into / "bin/tuneyard"
    assert "tuneyard.launch.main" in script.read_text()


def test_it_has_what_nodes_and_users_need_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "tuneyard/trainers/loop.py", "tuneyard/cluster/node/__main__.py", "tuneyard/cluster/constraints.txt",
        "tuneyard/cluster/money/prices.yaml", "tuneyard/terraform/onprem/main.tf",
        "tuneyard/terraform/aws/variables.tf",
    } <= names  # fmt: skip
    assert [name for name in names if name.startswith(("tuneyard/tests", "tuneyard/runs"))] == []
    assert [name for name in names if "__pycache__" in name or ".terraform" in name or "tfstate" in name] == []


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (build_wheel(tmp_path / name).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.slow
def test_setuptools_would_pack_the_same_files(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run([*pip, str(copy)], check=True)
    (theirs,) = tmp_path.glob("*.whl")
    assert code(theirs) == code(wheel)
    assert requirements(theirs) == requirements(wheel)


def code(wheel: Path) -> dict[str, bytes]:
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist() if name.startswith("tuneyard/")}


def requirements(wheel: Path) -> set[str]:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    # Those of extras, which no node needs, are as old as this environment.
    return {line for line in lines if line.startswith("Requires") and "extra ==" not in line}
