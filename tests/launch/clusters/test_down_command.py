import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.cluster.provision.small_module import small_module  # noqa: F401 - a fixture
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.money.machines import Fleet
from tuneyard.cluster.money.spending import read_marks
from tuneyard.cluster.provision.clusters import find_cluster, list_clusters, make_cluster
from tuneyard.cluster.provision.leftovers import Leftovers
from tuneyard.cluster.provision.terraform import Terraform
from tuneyard.cluster.provision.terraform_plan import Change, Plan, Resource
from tuneyard.launch.clusters import down_command
from tuneyard.launch.clusters.app import app


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], catch_exceptions=False, env={"COLUMNS": "120"})


def up(*words: str) -> None:
    values = ["--cluster", "lab", "--on", "onprem", "python=/usr/bin/python3"]
    assert run("up", *values, *words, "--yes").exit_code == 0


@pytest.mark.terraform
@pytest.mark.usefixtures("small_module")
def test_no_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    up()
    monkeypatch.setattr(down_command, "agreed", lambda question, yes: False)
    refused = run("down")
    assert refused.exit_code == 1
    assert "Terraform destroys 2." in refused.output
    assert "Nothing was destroyed." in refused.output
    assert len(find_cluster("lab").inventory().workers) == 1


@pytest.mark.slow
@pytest.mark.terraform
def test_a_machine_that_cannot_clean_up_is_named_and_may_be_given_up(small_module: Path) -> None:  # noqa: F811
    main = small_module / "main.tf"
    main.write_text(
        main.read_text()
        + """
resource "terraform_data" "host" {
  provisioner "local-exec" {
    when    = destroy
    command = "[ \\"$TUNEYARD_GONE\\" = w0 ] || { echo w0: no answer; exit 1; }"
    quiet   = true
  }
}
"""
    )
    up()
    with pytest.raises(ClusterError, match=r"(?s)terraform apply failed: terraform_data\.host.*w0: no answer"):
        run("down", "--yes")
    assert find_cluster("lab").folder.exists()
    with pytest.raises(ClusterError, match=r"--gone w9: there is no such node. .*Allowed: head, w0"):
        run("down", "--gone", "w9", "--yes")
    done = run("down", "--gone", "w0", "--yes")
    assert done.exit_code == 0
    assert "Not cleaned, since it is gone, you say: w0 (10.0.0.10): /opt/tuneyard/lab may still be there" in done.output
    assert list_clusters() == []


@pytest.mark.terraform
def test_a_folder_that_was_applied_plainly_is_ended_so(small_module: Path) -> None:  # noqa: F811
    values = ["-var=name=mine", "-var=token_file=/none"]
    subprocess.run(["terraform", "init", "-input=false"], cwd=small_module, check=True, capture_output=True)
    subprocess.run(["terraform", "apply", "-auto-approve", *values], cwd=small_module, check=True, capture_output=True)
    assert find_cluster(str(small_module)).inventory().name == "mine"
    with pytest.raises(ClusterError, match=r"terraform -chdir=\S+ destroy"):
        run("down", "--cluster", str(small_module), "--yes")


class Cloud:
    """Terraform and AWS as `down` sees them, with a bucket in the state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: list[str]) -> None:
        self.done: list[str] = []
        arn = "arn:aws:ec2:eu-central-1:1:instance/i-1"
        self.state = [
            Resource("module.head.aws_instance.head", "aws_instance", {"arn": arn}),
            Resource("module.bucket[0].aws_s3_bucket.this", "aws_s3_bucket", {"bucket": "tuneyard-lab"}),
            Resource("module.bucket[0].aws_s3_bucket_policy.tls_only", "aws_s3_bucket_policy", {}),
        ]
        monkeypatch.setattr(Terraform, "init", lambda this: None)
        monkeypatch.setattr(Terraform, "resources", lambda this: list(self.state))
        monkeypatch.setattr(Terraform, "plan", lambda this, file, *, variables, destroy: self.plan(destroy))
        monkeypatch.setattr(Terraform, "forget", lambda this, addresses: self.forget(addresses))
        monkeypatch.setattr(Terraform, "apply", lambda this, file: self.apply())
        monkeypatch.setattr(down_command, "_contents", lambda bucket, region: f"3 objects in {region}")
        monkeypatch.setattr(down_command, "LOOK_AGAIN_S", (0, 0))
        monkeypatch.setattr(down_command, "aws_leftovers", lambda *asked: Leftovers(tuple(left)))

    def plan(self, destroy: bool) -> Plan:
        assert destroy
        return Plan(tuple(Change(one.address, one.type, "delete") for one in self.state), (), {}, outputs_change=True)

    def forget(self, addresses: tuple[str, ...]) -> None:
        self.state = [one for one in self.state if one.address not in addresses]
        self.done.append("forget")

    def apply(self) -> None:
        self.state = []
        self.done.append("apply")


def aws_cluster(**values: Any) -> Path:
    cluster = make_cluster("lab", "aws")
    cluster.variables_file.write_text(json.dumps({"name": "lab", **values}))
    return cluster.folder


def test_the_bucket_stays_and_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = aws_cluster()
    cloud = Cloud(monkeypatch, [])
    ended = run("down", "--yes")
    assert ended.exit_code == 0
    assert "Terraform destroys 1." in ended.output, "the bucket is not among what ends"
    assert "Stays: bucket tuneyard-lab, with 3 objects in eu-central-1." in ended.output
    assert "Nothing is left of cluster lab but bucket tuneyard-lab." in ended.output
    assert cloud.done == ["forget", "apply"]
    assert json.loads((folder / "variables.json").read_text())["bucket"] == "tuneyard-lab"
    (last,) = read_marks(folder)
    assert last.fleet() == Fleet(()), "from now on nothing costs"


def test_what_aws_still_lists_is_told_and_the_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = aws_cluster(bucket="mine")
    Cloud(monkeypatch, ["arn:aws:ec2:eu-central-1:1:volume/vol-1"])
    ended = run("down", "--yes")
    assert ended.exit_code == 1
    assert "AWS still lists what carries the tag of cluster lab" in ended.output
    assert "volume/vol-1" in ended.output
    assert folder.exists()
