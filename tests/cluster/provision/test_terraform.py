import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.provision.small_module import write_module
from tests.waiting import wait_until
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.provision import terraform
from tuneyard.cluster.provision.terraform import Terraform, TerraformError, TerraformInterruptedError, find_terraform
from tuneyard.cluster.provision.terraform_events import Events

pytestmark = pytest.mark.terraform


class Made:
    """A folder with the small module, Terraform in it, and the lines of progress."""

    def __init__(self, folder: Path, **values: object) -> None:
        self.root = write_module(folder / "root")
        self.values = folder / "values.json"
        self.plan = folder / "plan"
        self.said: list[str] = []
        self.terraform = Terraform(self.root, log=folder / "terraform.log", say=self.said.append)
        self.give(**values)
        self.terraform.init()

    def give(self, **values: object) -> None:
        self.values.write_text(json.dumps({"name": "lab", "token_file": "/none", **values}))

    def apply(self) -> None:
        self.terraform.plan(self.plan, variables=self.values)
        self.terraform.apply(self.plan)


@contextmanager
def pressing_ctrl_c(times: int, ready: Callable[[], bool]) -> Iterator[None]:
    """As soon as it is time, press it so often, a tenth of a second apart."""

    def press() -> None:
        wait_until(ready)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    fingers = threading.Thread(target=press)
    fingers.start()
    yield
    fingers.join()


def fake_terraform(folder: Path, script: str, version: str = "1.11.4") -> None:
    """A program `terraform` in this folder that tells this version, and for all else runs the script."""
    path = folder / "terraform"
    path.write_text(
        f"""#!/bin/bash
if [ "$1" = version ]; then echo '{{"terraform_version": "{version}"}}'; exit; fi
{script}
"""
    )
    path.chmod(0o755)
    find_terraform.cache_clear()


@pytest.fixture(autouse=True)
def the_real_one_again() -> Iterator[None]:
    yield
    find_terraform.cache_clear()


def test_a_plan_says_what_will_be_made_and_an_apply_makes_it(tmp_path: Path) -> None:
    made = Made(tmp_path, workers=2)
    plan = made.terraform.plan(made.plan, variables=made.values)
    assert plan.counts("create") == {"terraform_data": 3}
    assert plan.outputs["inventory"]["workers"][1]["address"] == "10.0.0.11"
    assert {one.address for one in plan.resources} == {
        "terraform_data.head", "terraform_data.worker[0]", "terraform_data.worker[1]",
    }  # fmt: skip
    assert made.plan.stat().st_mode & 0o777 == 0o600
    assert made.terraform.output("inventory") is None

    made.terraform.apply(made.plan)
    assert made.terraform.output("inventory")["name"] == "lab"
    assert any("worker[0]: joined" in line for line in made.said)
    assert (tmp_path / "terraform.log").stat().st_mode & 0o777 == 0o600
    assert (made.root / "terraform.tfstate").stat().st_mode & 0o777 == 0o600
    assert made.terraform.plan(made.plan, variables=made.values).empty

    made.give(workers=1)
    assert made.terraform.plan(made.plan, variables=made.values).counts("delete") == {"terraform_data": 1}
    made.terraform.forget(["terraform_data.head"])
    made.terraform.plan(made.plan, variables=made.values, destroy=True)
    made.terraform.apply(made.plan)
    assert made.terraform.resources() == []


def test_a_mistake_is_told_in_terraforms_own_words(tmp_path: Path) -> None:
    made = Made(tmp_path, workers="many")
    with pytest.raises(TerraformError, match="a number is required"):
        made.terraform.plan(made.plan, variables=made.values)


def test_ctrl_c_lets_terraform_end_what_it_has_begun(tmp_path: Path) -> None:
    made = Made(tmp_path, workers=1, pause_s=2)
    made.terraform.plan(made.plan, variables=made.values)

    with (
        pressing_ctrl_c(1, lambda: any("joined" in line for line in made.said)),
        pytest.raises(TerraformInterruptedError, match="ended in order"),
    ):
        made.terraform.apply(made.plan)
    assert any("ends what it has begun" in line for line in made.said)
    assert not made.terraform.was_cut_off()
    made.give(workers=1)
    made.apply()
    assert len(made.terraform.resources()) == 2


def test_only_the_first_ctrl_c_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second one Terraform would leave at once, and lose its state."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    caught = tmp_path / "caught"
    fake_terraform(
        tmp_path,
        f"""trap 'echo caught >>{caught}' INT; touch {tmp_path}/up
        left=10; while [ $left -gt 0 ]; do sleep 0.1; [ ! -e {caught} ] || left=$((left - 1)); done; exit 1""",
    )
    with pressing_ctrl_c(3, (tmp_path / "up").exists), pytest.raises(TerraformInterruptedError):
        Terraform(tmp_path, log=tmp_path / "log").apply(tmp_path / "plan")
    assert caught.read_text() == "caught\n"


def test_a_killed_apply_is_explained_and_the_next_goes_on(tmp_path: Path) -> None:
    made = Made(tmp_path, workers=1, pause_s=30)
    made.terraform.plan(made.plan, variables=made.values)

    def kill() -> None:
        wait_until(lambda: any("joined" in line for line in made.said))
        info = json.loads((made.root / terraform.LOCK_INFO).read_text())
        assert info["Operation"] == "OperationTypeApply"
        children = Path(f"/proc/{os.getpid()}/task/{threading.main_thread().native_id}/children").read_text().split()
        for child in map(int, children):
            if b"terraform\0apply" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.killpg(child, signal.SIGKILL)

    knife = threading.Thread(target=kill)
    knife.start()
    with pytest.raises(TerraformError, match=r"killed by SIGKILL.*goes on from there"):
        made.terraform.apply(made.plan)
    knife.join()
    assert made.terraform.was_cut_off()
    made.give(workers=1)
    made.apply()
    assert not made.terraform.was_cut_off()
    assert len(made.terraform.resources()) == 2


@pytest.mark.slow
def test_a_lock_says_who_holds_it_and_an_apply_outlives_the_one_who_started_it(tmp_path: Path) -> None:
    made = Made(tmp_path, workers=1, pause_s=2)
    made.terraform.plan(made.plan, variables=made.values)
    code = (
        "import sys; from pathlib import Path; from tuneyard.cluster.provision.terraform import Terraform; "
        "root, log, plan = map(Path, sys.argv[1:]); Terraform(root, log=log).apply(plan)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, made.root, tmp_path / "other.log", made.plan])
    wait_until((made.root / terraform.LOCK_INFO).exists)
    with pytest.raises(TerraformError, match=r"(?s)locked: .*@.* runs apply on it since .*Wait for its end"):
        made.terraform.plan(made.plan.with_name("second"), variables=made.values)
    other.kill()
    other.wait()
    wait_until(lambda: (made.root / "done").exists())
    wait_until(lambda: not made.terraform.was_cut_off())
    assert len(made.terraform.resources()) == 2


def test_a_state_that_could_not_be_written_is_not_passed_over(tmp_path: Path) -> None:
    made = Made(tmp_path)
    (made.root / "errored.tfstate").touch()
    with pytest.raises(TerraformError, match=r"terraform state push errored\.tfstate"):
        made.terraform.init()


def test_a_missing_or_old_terraform_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_terraform.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"not installed here\. Get it from https://developer"):
        find_terraform()
    fake_terraform(tmp_path, "", version="1.9.8")
    with pytest.raises(ClusterError, match=r"is Terraform 1\.9, and the modules need 1\.11"):
        find_terraform()
    find_terraform.cache_clear()


def test_events_come_in_pieces_and_what_is_no_event_is_kept_for_the_error(tmp_path: Path) -> None:
    said: list[str] = []
    events = Events(said.append)
    line = {"type": "apply_complete", "hook": {"resource": {"addr": "a.b"}, "action": "delete", "elapsed_seconds": 2}}
    text = json.dumps(line).encode()
    events.read(text[:9])
    assert said == []
    events.read(text[9:] + b"\npanic: the provider fell over\n")
    assert said == ["a.b: destroyed after 2 s"]
    assert events.told(tmp_path) == "panic: the provider fell over"
