"""`tuneyard up`, `status` and `down` of a cluster in AWS, with moto in its place."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.cluster.terraform.aws_root import CONSTRAINTS, FOR_MOTO, SOURCE, WHEEL
from tests.cluster.terraform.moto_server import REGION, moto_server
from tuneyard.cluster.provision import module_tree
from tuneyard.cluster.provision.clusters import find_cluster
from tuneyard.launch.clusters import down_command
from tuneyard.launch.clusters.app import app

pytestmark = [pytest.mark.slow, pytest.mark.terraform, pytest.mark.timeout(900)]

IMAGE = "ami-12c6146b"
VALUES = {
    "name": "lab", "kind": "aws", "package": str(WHEEL), "constraints": str(CONSTRAINTS), "zones": 1, "workers": 2,
    "ami": IMAGE, "head_ami": IMAGE,
    "groups": {"gpu": {"machines": ["g6.xlarge", "g5.xlarge"], "on_demand_percent": 50}},
}  # fmt: skip


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module as moto needs it, and a user's home; the file of the cluster's values."""
    modules = tmp_path / "modules"
    shutil.copytree(SOURCE, modules / "aws", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    for name, text in FOR_MOTO.items():
        (modules / "aws" / name).write_text(text)
    monkeypatch.setattr(module_tree, "MODULES", modules)
    monkeypatch.setattr(down_command, "LOOK_AGAIN_S", (0, 1))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    values = tmp_path / "lab.yaml"
    values.write_text(json.dumps(VALUES))
    with moto_server(tmp_path) as environment:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        yield values


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], catch_exceptions=False, env={"COLUMNS": "120"})


def test_a_cluster_in_aws_is_priced_made_paid_for_and_ended(cloud: Path) -> None:
    shown = run("up", str(cloud), "--dry-run").output
    assert "aws_s3_bucket," in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    # 1 m7i.xlarge; 2 machines, half of them on spot; the disks of head, data and workers; the way out.
    assert "head 1 m7i.xlarge 0.202 0.202 0.202" in lines
    assert "workers gpu 2 g6.xlarge, 50% spot 1.22 1.61 0.820" in lines
    assert any(line.startswith("disks ") for line in lines)
    assert any(line.startswith("NAT gateway 1 and 0.045 for each GB") for line in lines)
    assert f"! the prices are of AWS list prices, us-east-1; in {REGION} they differ" in shown

    made = run("up", str(cloud), "--yes")
    assert made.exit_code == 0
    assert "Cluster lab is up" in made.output
    inventory = find_cluster("lab").inventory()
    assert (inventory.region, inventory.groups[0].count) == (REGION, 2)

    told = json.loads(run("status", "--json").output)
    (trouble,) = told["troubles"]
    assert trouble.startswith("the head does not tell:"), "moto runs no machines"
    assert told["hour"] > 0.2016
    assert told["spent"]["machine_hours"] > 0

    ended = " ".join(run("down", "--yes").output.split())
    (bucket,) = set(re.findall(r"Stays: bucket (\S+), with \d objects", ended))
    assert "AWS still lists" not in ended, ended[ended.index("AWS still lists") :]
    assert f"Nothing is left of cluster lab but bucket {bucket}." in ended

    again = run("up", "--dry-run").output
    assert "aws_autoscaling_group" in again
    assert "aws_s3_bucket," not in again, "the bucket that stayed is used again"
