"""terraform/onprem without Ray: how hosts are reached, what is installed on them, and how they are left.

The hosts' Python is a small stand-in for tuneyard there, which notes what it is asked to do.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Hosts, hosts
from tuneyard.cluster.inventory import parse_inventory

ROOT = Path(__file__).parents[3] / "terraform/onprem"
METADATA = "Metadata-Version: 2.1\nName: tuneyard\nVersion: {}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
PROGRAM = """
import sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--folder") + 1])
with open("/root/.tuneyard/calls", "a") as file:
    file.write(f"{sys.argv[1]} {oct((folder / 'token').stat().st_mode & 0o777)}\\n")
"""

pytestmark = pytest.mark.terraform


@dataclass
class Root:
    """A copy of the root module with variables of its own."""

    folder: Path

    def terraform(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["terraform", f"-chdir={self.folder}", *words], capture_output=True, text=True, timeout=900, check=False,
            env={**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", **env}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def apply(self, check: bool = True, **env: str) -> str:
        done = self.terraform("apply", "-auto-approve", "-input=false", "-no-color", check=check, **env)
        return done.stdout + done.stderr

    def destroy(self, check: bool = True, **env: str) -> str:
        done = self.terraform("destroy", "-auto-approve", "-input=false", "-no-color", check=check, **env)
        return done.stdout + done.stderr

    def variables(self, **values: Any) -> None:
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(values))

    def planned(self) -> set[str]:
        """The addresses of what a plan would change."""
        self.terraform("plan", "-input=false", "-out=plan")
        shown = json.loads(self.terraform("show", "-json", "plan").stdout)
        return {one["address"] for one in shown.get("resource_changes", []) if one["change"]["actions"] != ["no-op"]}


def root(folder: Path) -> Root:
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", "*.token*"))
    made = Root(folder)
    made.terraform("init", "-input=false")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts"), ["head", "w1", "gate"]) as made:
        yield made


@pytest.fixture
def onprem(made: Hosts, tmp_path: Path) -> Iterator[Root]:
    """The root module for two hosts whose Python is the stand-in; destroyed afterwards where the test did not."""
    one = root(tmp_path / "root")
    one.variables(**variables(made, tmp_path))
    yield one
    one.destroy(check=False)
    for host in made.by_name.values():
        (host.folder / "root/.tuneyard/calls").unlink(missing_ok=True)


def variables(made: Hosts, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "lab",
        "head": {"host": made["head"].address},
        "workers": {"w1": {"host": made["w1"].address}},
        "ssh": {"key_file": str(made.keys.client), "known_hosts": str(made.keys.known_hosts)},
        "python": str(stand_in(tmp_path)),
    }


def stand_in(folder: Path) -> Path:
    """A Python that has no tuneyard but the stand-in."""
    package = folder / "site"
    shutil.rmtree(package, ignore_errors=True)
    (package / "tuneyard/cluster/node").mkdir(parents=True)
    (package / "tuneyard/cluster/node/__main__.py").write_text(PROGRAM)
    (package / "tuneyard-0.1.0.dist-info").mkdir()
    (package / "tuneyard-0.1.0.dist-info/METADATA").write_text(METADATA.format("0.1.0"))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package} exec {sys.base_prefix}/bin/python3 "$@"\n')
    python.chmod(0o755)
    return python


def wheel(folder: Path) -> Path:
    """The stand-in as a wheel, small enough to be installed in a test."""
    path = folder / "tuneyard-0.2.0-py3-none-any.whl"
    info = "tuneyard-0.2.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tuneyard/cluster/node/__main__.py", PROGRAM)
        archive.writestr(f"{info}/METADATA", METADATA.format("0.2.0"))
        archive.writestr(f"{info}/WHEEL", WHEEL)
        archive.writestr(f"{info}/RECORD", "")
    return path


def calls(made: Hosts, name: str) -> list[str]:
    path = made[name].folder / "root/.tuneyard/calls"
    return path.read_text().splitlines() if path.exists() else []


def folder_on(made: Hosts, name: str) -> Path:
    return made[name].folder / "opt/tuneyard/lab"


@pytest.mark.slow
@pytest.mark.hosts
def test_up_unchanged_and_down(made: Hosts, onprem: Root) -> None:
    onprem.apply()
    assert calls(made, "w1") == ["check 0o600", "start 0o600"]
    assert folder_on(made, "w1").stat().st_mode & 0o777 == 0o700
    assert json.loads((folder_on(made, "w1") / "node.json").read_text())["head"] == made["head"].address

    assert onprem.planned() == set()
    token = (onprem.folder / "lab.token").read_text()
    assert len(token) == 64
    assert token not in "".join(path.read_text() for path in onprem.folder.glob("*.tfstate*"))
    inventory = parse_inventory(onprem.terraform("output", "-json", "inventory").stdout, "the output")
    assert [node.name for node in inventory.nodes] == ["head", "w1"]
    assert inventory.token.file == onprem.folder / "lab.token"
    assert inventory.head.ssh is not None
    assert inventory.head.ssh.key_file == made.keys.client

    onprem.destroy()
    assert calls(made, "w1")[-1] == "stop 0o600"
    assert not folder_on(made, "w1").exists()
    assert not folder_on(made, "head").exists()
    assert not (onprem.folder / "lab.token").exists()


@pytest.mark.hosts
@pytest.mark.slow
def test_a_change_of_one_worker_touches_it_alone(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    onprem.apply()
    values = variables(made, tmp_path)
    values["workers"]["w1"]["num_cpus"] = 1
    onprem.variables(**values)
    assert onprem.planned() == {'module.workers["w1"].terraform_data.service'}
    values["workers"]["w2"] = {"host": made["gate"].address}
    del values["workers"]["w1"]["num_cpus"]
    onprem.variables(**values)
    assert onprem.planned() == {
        f'module.workers["w2"].terraform_data.{name}' for name in ("presence", "program", "service")
    }


@pytest.mark.hosts
@pytest.mark.slow
def test_a_host_whose_key_is_not_known_is_refused(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    values = variables(made, tmp_path)
    lines = made.keys.known_hosts.read_text().splitlines()
    strangers = tmp_path / "known_hosts"
    strangers.write_text("\n".join(line for line in lines if not line.startswith(made["w1"].address + " ")) + "\n")
    values["ssh"]["known_hosts"] = str(strangers)
    onprem.variables(**values)
    said = onprem.apply(check=False)
    assert "Host key verification failed" in said
    assert "w1: root@" in said
    assert calls(made, "head") == ["check 0o600", "start 0o600"]
    assert calls(made, "w1") == []


@pytest.mark.hosts
@pytest.mark.slow
def test_through_a_jump_host_with_hashed_known_hosts(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    values = variables(made, tmp_path)
    hashed = tmp_path / "known_hosts"
    shutil.copy(made.keys.known_hosts, hashed)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hashed)], check=True, capture_output=True)
    values["ssh"] |= {"known_hosts": str(hashed), "jump": f"root@{made['gate'].address}:22"}
    values["workers"] = {}
    onprem.variables(**values)
    onprem.apply()
    assert calls(made, "head") == ["check 0o600", "start 0o600"]
    assert f"Accepted publickey for root from {made['gate'].address}" in (made["head"].folder / "sshd.log").read_text()


@pytest.mark.hosts
def test_a_jump_host_whose_key_is_not_known_is_refused(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    values = variables(made, tmp_path)
    lines = made.keys.known_hosts.read_text().splitlines()
    strangers = tmp_path / "known_hosts"
    strangers.write_text("\n".join(line for line in lines if not line.startswith(made["gate"].address + " ")) + "\n")
    values["ssh"] |= {"known_hosts": str(strangers), "jump": f"root@{made['gate'].address}:22"}
    values["workers"] = {}
    onprem.variables(**values)
    assert "Host key verification failed" in onprem.apply(check=False)
    assert calls(made, "head") == []


@pytest.mark.hosts
@pytest.mark.slow
def test_a_step_that_failed_is_cleaned_up_by_destroy(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    (tmp_path / "site/tuneyard/cluster/node/__main__.py").write_text(
        PROGRAM + "\nif sys.argv[1] == 'start': sys.exit('no such GPU')\n"
    )
    said = onprem.apply(check=False)
    assert "no such GPU" in said
    assert "Ray did not start on" in said
    assert folder_on(made, "head").exists()
    onprem.destroy()
    assert not folder_on(made, "head").exists()
    assert calls(made, "head")[-1] == "stop 0o600"


@pytest.mark.hosts
@pytest.mark.slow
def test_a_host_that_does_not_answer_is_not_forgotten_unless_told(made: Hosts, onprem: Root) -> None:
    onprem.apply()
    made["w1"].cut()
    try:
        said = onprem.destroy(check=False)
        assert "cannot be reached over SSH" in said
        assert 'TUNEYARD_GONE="w1"' in said
        assert folder_on(made, "w1").exists()
        said = onprem.destroy(TUNEYARD_GONE="w1")
        assert "is gone for good, you say" in said
        assert not folder_on(made, "head").exists()
    finally:
        made["w1"].mend()
        shutil.rmtree(folder_on(made, "w1"), ignore_errors=True)


@pytest.mark.hosts
def test_a_folder_that_is_not_ours_is_left_alone(made: Hosts, onprem: Root) -> None:
    folder_on(made, "head").mkdir()
    (folder_on(made, "head") / "thesis.tex").touch()
    said = onprem.apply(check=False)
    assert "is there already and is not a cluster's" in said
    onprem.destroy()
    assert (folder_on(made, "head") / "thesis.tex").exists()
    shutil.rmtree(folder_on(made, "head"))


@pytest.mark.hosts
def test_a_token_that_others_may_read_is_refused(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    onprem.variables(**variables(made, tmp_path), token_file=str(token))
    assert f"Do: chmod 600 {token}" in onprem.apply(check=False)
    assert calls(made, "head") == []


@pytest.mark.hosts
@pytest.mark.slow
def test_a_token_of_the_users_own_stays(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("secret")
    onprem.variables(**variables(made, tmp_path), token_file=str(token))
    onprem.apply()
    assert (folder_on(made, "w1") / "token").read_text() == "secret"
    onprem.destroy()
    assert token.read_text() == "secret"


@pytest.mark.hosts
@pytest.mark.slow
def test_a_wheel_is_installed_into_an_environment_of_its_own(made: Hosts, onprem: Root, tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("numpy==2.0.0\n")
    values = variables(made, tmp_path) | {
        "workers": {},
        "package": str(wheel(tmp_path)),
        "constraints": str(constraints),
    }
    del values["python"]
    onprem.variables(**values, base_python=f"{sys.base_prefix}/bin/python3")
    onprem.apply()
    assert calls(made, "head") == ["check 0o600", "start 0o600"]
    python = "/opt/tuneyard/lab/env/bin/python"
    version = made["head"].run([python, "-c", "from importlib.metadata import version as v; print(v('tuneyard'))"])
    assert version.stdout == "0.2.0\n"
    inventory = parse_inventory(onprem.terraform("output", "-json", "inventory").stdout, "the output")
    assert (inventory.version, inventory.python) == ("0.2.0", python)
    onprem.destroy()
    assert not folder_on(made, "head").exists()


def test_the_plan_alone(tmp_path: Path) -> None:
    done = root(tmp_path / "root").terraform("test", "-no-color")
    assert re.search(r"Success! [1-9]\d* passed, 0 failed", done.stdout), done.stdout


def test_every_part_is_valid_and_formatted(tmp_path: Path) -> None:
    one = root(tmp_path / "root")
    assert one.terraform("fmt", "-check", "-recursive").stdout == ""
    assert "Success" in one.terraform("validate", "-no-color").stdout


@pytest.mark.shellcheck
def test_the_scripts_are_clean() -> None:
    scripts = [str(path) for path in ROOT.rglob("*.sh")]
    assert len(scripts) >= 12
    done = subprocess.run(
        ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
