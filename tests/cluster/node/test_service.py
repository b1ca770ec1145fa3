"""The node's program as a service: what systemd is told, and what a crontab keeps."""

import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import hosts
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.service import Systemd, service_of

HEAD = NodeConfig(cluster="lab", role="head", address="10.0.0.1", kind="onprem")


def test_the_unit_ends_all_and_comes_back(tmp_path: Path) -> None:
    unit = Systemd(HEAD, NodeFolder(Path("/opt/tuneyard/lab"))).unit().splitlines()
    assert f"ExecStart={sys.executable} -m tuneyard.cluster.node serve --folder /opt/tuneyard/lab" in unit
    assert f"User={getpass.getuser()}" in unit
    for line in ("Restart=always", "KillMode=mixed", "OOMPolicy=continue", "WantedBy=multi-user.target"):
        assert line in unit


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "tuneyard-lab.service"
    path.write_text(Systemd(HEAD, NodeFolder(Path("/opt/tune yard/50%"))).unit())
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert "tuneyard-lab" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_machine_without_systemd_has_cron(tmp_path: Path) -> None:
    assert not Path("/run/systemd/system").exists(), "this test is for machines without systemd"
    assert service_of(HEAD, NodeFolder(tmp_path)).name == "cron"


@pytest.mark.hosts
def test_a_crontab_keeps_what_is_not_ours(tmp_path: Path) -> None:
    assert shutil.which("crontab"), "cron is not installed"
    script = """
from pathlib import Path
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.cluster.node.service import Cron
import tuneyard.cluster.node.service as service, subprocess, sys
folder = NodeFolder(Path("/opt/tuneyard/lab"))
folder.make()
cron = Cron(NodeConfig(cluster="lab", role="head", address="10.0.0.1", kind="onprem"), folder)
service.sys.executable = "/bin/true"
getattr(cron, sys.argv[1])()
"""
    with hosts(tmp_path, ["head"]) as made:
        head = made["head"]
        head.run(["sh", "-c", "echo '@daily /bin/true # tuneyard other' | crontab -"])
        for _ in range(2):
            head.run([sys.executable, "-c", script, "start"])
        lines = head.run(["crontab", "-l"]).stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["@daily", "@reboot"]
        assert lines[1].endswith("# tuneyard lab")
        head.run([sys.executable, "-c", script, "stop"])
        assert head.run(["crontab", "-l"]).stdout == "@daily /bin/true # tuneyard other\n"
