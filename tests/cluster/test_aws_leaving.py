"""What a machine on AWS asks for itself: to be ended, to be stopped, to be let go by its group."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tuneyard.cluster.aws import end_instance, let_group_end_instance, run_on_instance, stop_instance
from tuneyard.cluster.errors import ClusterError

REGION = "eu-central-1"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)  # type: ignore[call-overload]


def group_of_two() -> list[str]:
    """An autoscaling group of two machines with a hook at their end; their ids."""
    subnet = client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    scaling = client("autoscaling")
    scaling.create_launch_configuration(LaunchConfigurationName="l", ImageId="ami-12c6146b", InstanceType="t3.micro")
    scaling.create_auto_scaling_group(
        AutoScalingGroupName="workers", LaunchConfigurationName="l", MinSize=0, MaxSize=4, DesiredCapacity=2,
        VPCZoneIdentifier=subnet,
    )  # fmt: skip
    scaling.put_lifecycle_hook(
        AutoScalingGroupName="workers", LifecycleHookName="leave",
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
    )  # fmt: skip
    return [one["InstanceId"] for one in group()["Instances"]]


def group() -> Any:
    return client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]


def state(instance_id: str) -> str:
    found = client("ec2").describe_instances(InstanceIds=[instance_id])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


@pytest.mark.slow
def test_a_worker_that_ends_is_not_replaced() -> None:
    gone, stays = group_of_two()
    end_instance(gone, REGION, in_group=True)
    assert group()["DesiredCapacity"] == 1
    assert [one["InstanceId"] for one in group()["Instances"] if one["LifecycleState"] == "InService"] == [stays]
    assert state(gone) == "terminated"


@pytest.mark.slow
def test_a_machine_of_no_group_is_ended_by_itself_and_the_head_only_stopped() -> None:
    image = {"ImageId": "ami-12c6146b", "MinCount": 1, "MaxCount": 1}
    worker, head = (client("ec2").run_instances(**image)["Instances"][0]["InstanceId"] for _ in range(2))
    end_instance(worker, REGION, in_group=False)
    stop_instance(head, REGION)
    assert (state(worker), state(head)) == ("terminated", "stopped")


@pytest.mark.slow
def test_a_refusal_is_told() -> None:
    with pytest.raises(ClusterError, match=r"AWS did not let us stop i-0123456789abcdef0"):
        stop_instance("i-0123456789abcdef0", REGION)


@pytest.mark.slow
def test_the_group_hears_through_each_of_its_ending_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    group_of_two()
    client("autoscaling").put_lifecycle_hook(
        AutoScalingGroupName="workers", LifecycleHookName="begin",
        LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING",
    )  # fmt: skip
    told: list[dict[str, str]] = []

    class Scaling:
        """moto does not know the answer to a hook."""

        def describe_lifecycle_hooks(self, **asked: str) -> Any:
            return client("autoscaling").describe_lifecycle_hooks(**asked)

        def complete_lifecycle_action(self, **asked: str) -> None:
            told.append(asked)

    monkeypatch.setattr("tuneyard.cluster.aws._client", lambda service, region: Scaling())
    let_group_end_instance("workers", "i-1", REGION)
    assert told == [
        {
            "LifecycleHookName": "leave", "AutoScalingGroupName": "workers", "InstanceId": "i-1",
            "LifecycleActionResult": "CONTINUE",
        }
    ]  # fmt: skip


class Systems:
    """Systems Manager with one answer, which is not there at once."""

    def __init__(self, status: str, out: str = "", err: str = "") -> None:
        self._answers = [{"Status": "InProgress"}]
        self._answers.append({"Status": status, "StandardOutputContent": out, "StandardErrorContent": err})
        self.lines: list[str] = []

    def send_command(self, **asked: Any) -> Any:
        self.lines += asked["Parameters"]["commands"]
        return {"Command": {"CommandId": "c-1"}}

    def get_command_invocation(self, **asked: str) -> Any:
        return self._answers.pop(0)


@pytest.mark.parametrize("status", ["Success", "Failed"])
def test_a_command_is_waited_for_and_its_failure_told(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = Systems(status, out="up", err="no such node")
    monkeypatch.setattr("tuneyard.cluster.aws._client", lambda service, region: systems)
    monkeypatch.setattr("tuneyard.cluster.aws.COMMAND_POLL_S", 0.0)
    if status == "Success":
        assert run_on_instance("i-1", "tell me", REGION) == "up"
    else:
        with pytest.raises(ClusterError, match=r"i-1: tell me: Failed: no such node"):
            run_on_instance("i-1", "tell me", REGION)
    assert systems.lines == ["tell me"]
