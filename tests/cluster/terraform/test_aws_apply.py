"""`terraform apply` and `destroy` of `terraform/aws`, on moto: what is made, what is seen of it, and what stays."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cluster.terraform.aws_root import CONSTRAINTS, WHEEL, AwsRoot
from tests.cluster.terraform.moto_server import HOLD, REGION, moto_server
from tests.waiting import wait_until
from tuneyard.cluster.inventory import parse_inventory
from tuneyard.cluster.provision.leftovers import aws_leftovers
from tuneyard.cluster.provision.terraform_events import Events

pytestmark = [pytest.mark.slow, pytest.mark.terraform, pytest.mark.timeout(900)]

IMAGE = "ami-12c6146b"
"""One of moto's own; it has no Deep Learning AMI, and no parameter that leads to one."""

COMMON: dict[str, Any] = {
    "package": str(WHEEL), "constraints": str(CONSTRAINTS), "ami": IMAGE, "head_ami": IMAGE, "zones": 2,
    "replace_running": False,  # moto has no instance refresh
}  # fmt: skip


@dataclass
class Aws:
    """A moto of one test, and the module on it."""

    root: AwsRoot

    def client(self, service: str) -> Any:
        return boto3.client(service)  # type: ignore[call-overload]

    def tagged(self, name: str) -> list[str]:
        """The ARNs of what carries the cluster's tag."""
        answer = self.client("resourcegroupstaggingapi").get_resources(
            TagFilters=[{"Key": "tuneyard-cluster", "Values": [name]}]
        )
        return [one["ResourceARN"] for one in answer["ResourceTagMappingList"]]

    def running(self) -> list[dict[str, Any]]:
        """The machines that are not ended."""
        pages = self.client("ec2").describe_instances()["Reservations"]
        return [one for page in pages for one in page["Instances"] if one["State"]["Name"] != "terminated"]


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with moto_server(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield Aws(AwsRoot.make(tmp_path / "root", environment))


def test_the_smallest_cluster_comes_and_goes(aws: Aws) -> None:
    aws.root.write(COMMON)
    aws.root.apply()

    inventory = parse_inventory(json.dumps(aws.root.output("inventory")), "the test")
    assert (inventory.kind, inventory.name, inventory.version, inventory.region) == ("aws", "tuneyard", "0.1.0", REGION)
    assert [group.model_dump() for group in inventory.groups] == [
        {
            "name": "gpu", "machines": ["g6.xlarge", "g5.xlarge"], "count": 1, "gpus": 1, "on_demand_percent": 100,
            "autoscaling_group": "tuneyard-tuneyard-gpu",
        }
    ]  # fmt: skip
    assert len(aws.running()) == 2
    _token_is_nowhere_but_in_its_parameter(aws)
    _nothing_is_public(aws)
    assert aws.root.changes() == {}

    # The workers were idle, and have left: the next apply brings them back.
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName="tuneyard-tuneyard-gpu", DesiredCapacity=0)
    aws.root.apply()
    assert len(aws.running()) == 2

    aws.root.destroy()
    assert aws.running() == []
    assert json.loads(aws.root.state)["resources"] == []
    # As AWS does, moto lists machines and gateways for a while after their end.
    gateways = aws.client("ec2").describe_nat_gateways()["NatGateways"]
    assert {one["State"] for one in gateways} == {"deleted"}
    assert [arn for arn in aws.tagged("tuneyard") if not re.search(":(instance|natgateway)/", arn)] == []


def test_a_mix_of_spot_and_two_groups(aws: Aws) -> None:
    groups = {
        "small": {"machines": ["g6.xlarge", "g5.xlarge", "g4dn.xlarge"], "on_demand_percent": 25},
        "big": {"machines": ["g5.12xlarge"], "efa": False},  # EFA brings a placement group, which moto has not
    }
    # No budget: moto cannot tell whom it would write to.
    more = {"internet": "none", "index_url": "https://packages.example.org/simple"}
    aws.root.write({**COMMON, **more, "name": "lab", "groups": groups, "workers": {"small": 4, "big": 1}})
    aws.root.apply()

    inventory = parse_inventory(json.dumps(aws.root.output("inventory")), "the test")
    assert {group.name: (group.count, group.gpus, group.on_demand_percent) for group in inventory.groups} == {
        "small": (4, 1, 25), "big": (1, 4, 100),
    }  # fmt: skip
    made = {
        one["AutoScalingGroupName"]: one
        for one in aws.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    }
    spread = made["tuneyard-lab-small"]["MixedInstancesPolicy"]["InstancesDistribution"]
    assert spread["OnDemandPercentageAboveBaseCapacity"] == 25
    assert _hooks(aws, "tuneyard-lab-small") == ["autoscaling:EC2_INSTANCE_TERMINATING"]
    assert aws.client("ec2").describe_nat_gateways()["NatGateways"] == []
    assert aws.root.changes() == {}

    # The one owner of the count: another number changes that group alone.
    aws.root.write({**COMMON, **more, "name": "lab", "groups": groups, "workers": {"small": 2, "big": 1}})
    assert set(aws.root.changes()) == {'module.workers["small"].aws_autoscaling_group.workers'}
    aws.root.destroy()
    assert aws.running() == []


def test_an_existing_network_stays_as_it_is_and_so_does_a_bucket_with_runs(aws: Aws) -> None:
    network = _make_network(aws)
    before = _network(aws)
    aws.root.write({**COMMON, "network": network})
    aws.root.apply()
    assert _network(aws) == before
    assert len(aws.running()) == 2
    assert {one["SubnetId"] for one in aws.running()} <= set(network["subnet_ids"])
    assert aws.root.changes() == {}

    bucket = aws.root.output("store").removeprefix("s3://").partition("/")[0]
    aws.client("s3").put_object(Bucket=bucket, Key="runs/one/run.json", Body=b"{}")
    said = aws.root.run("destroy", "-auto-approve", "-input=false", allowed=(1,))
    assert "BucketNotEmpty" in said
    assert aws.running() == []
    assert _network(aws) == before
    assert {one["type"] for one in json.loads(aws.root.state)["resources"] if one["mode"] == "managed"} == {
        "aws_s3_bucket"
    }
    listed = aws.client("s3").list_objects_v2(Bucket=bucket)
    assert [one["Key"] for one in listed["Contents"]] == ["runs/one/run.json"]


def test_an_apply_that_was_killed_goes_on(aws: Aws) -> None:
    aws.root.write({**COMMON, "network": _make_network(aws)})
    _kill_apply(aws.root, lambda said: "module.access.aws_iam_role.node" in said)
    aws.root.apply()
    assert aws.root.changes() == {}
    assert len(aws.running()) == 2
    aws.root.destroy()
    assert aws.running() == []


def test_a_group_that_was_in_the_making_when_its_apply_was_killed_is_taken_up(aws: Aws, tmp_path: Path) -> None:
    aws.root.write({**COMMON, "network": _make_network(aws)})
    # AWS has made it, and Terraform does not know yet.
    hold = tmp_path / HOLD
    hold.touch()
    groups = aws.client("autoscaling").describe_auto_scaling_groups
    _kill_apply(aws.root, lambda said: bool(groups()["AutoScalingGroups"]))
    hold.unlink()
    wait_until(aws.running)
    [left] = [arn for arn in aws_leftovers("tuneyard", REGION, None).arns if ":autoScalingGroup:" in arn]
    assert left.endswith("/tuneyard-tuneyard-gpu")

    said = aws.root.run("apply", "-auto-approve", "-input=false", "-json", allowed=(1,))
    events = Events(lambda line: None)
    events.read(said.encode())
    [(address, name)] = events.existing()
    aws.root.run("import", "-input=false", address, name)
    aws.root.apply()
    assert aws.root.changes() == {}
    assert len(aws.running()) == 2
    aws.root.destroy()
    assert aws.running() == []


def _make_network(aws: Aws) -> dict[str, Any]:
    """A VPC with two subnets, as its owner made it."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    places = {"10.1.0.0/24": f"{REGION}a", "10.1.1.0/24": f"{REGION}b"}
    made = [ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone) for cidr, zone in places.items()]
    return {"vpc_id": vpc, "subnet_ids": [one["Subnet"]["SubnetId"] for one in made]}


def _token_is_nowhere_but_in_its_parameter(aws: Aws) -> None:
    answer = aws.client("ssm").get_parameter(Name="/tuneyard/tuneyard/token", WithDecryption=True)["Parameter"]
    token = answer["Value"]
    assert (len(token), token.isalnum(), answer["Type"]) == (64, True, "SecureString")
    aws.root.run("plan", "-input=false", "-out=kept.plan")
    shown = aws.root.run("show", "-json", "kept.plan")
    assert token not in shown
    for path in aws.root.folder.iterdir():
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path
    assert token not in json.dumps(aws.root.output("inventory"))


def _nothing_is_public(aws: Aws) -> None:
    for machine in aws.running():
        assert "PublicIpAddress" not in machine or machine["PublicIpAddress"] is None
    ours = [{"Name": "tag:tuneyard-cluster", "Values": ["tuneyard"]}]
    groups = aws.client("ec2").describe_security_groups(Filters=ours)["SecurityGroups"]
    assert groups
    for group in groups:
        for rule in group["IpPermissions"]:
            assert rule["IpRanges"] == []
            assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def _hooks(aws: Aws, group: str) -> list[str]:
    hooks = aws.client("autoscaling").describe_lifecycle_hooks(AutoScalingGroupName=group)["LifecycleHooks"]
    return [hook["LifecycleTransition"] for hook in hooks]


def _network(aws: Aws) -> dict[str, int]:
    ec2 = aws.client("ec2")
    return {
        "vpcs": len(ec2.describe_vpcs()["Vpcs"]), "subnets": len(ec2.describe_subnets()["Subnets"]),
        "routes": sum(len(table["Routes"]) for table in ec2.describe_route_tables()["RouteTables"]),
        "endpoints": len(ec2.describe_vpc_endpoints()["VpcEndpoints"]),
        "gateways": len(ec2.describe_nat_gateways()["NatGateways"]),
    }  # fmt: skip


def _kill_apply(root: AwsRoot, when: Callable[[str], bool]) -> None:
    """SIGKILL to Terraform and its provider, as soon as this holds of what it has said."""
    log = root.folder / "killed.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            root.command("apply", "-auto-approve", "-input=false"), cwd=root.folder, env=root.env,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 300
    while not when(log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
