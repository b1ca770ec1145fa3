"""What we ask of AWS: the only place in the cluster's room that imports boto3, and only when a question is asked.

Credentials, profile and endpoint are boto3's own: a user's configuration here, the machine's role on a node.
"""

import datetime
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tuneyard.cluster.errors import ClusterError

TAG = "tuneyard-cluster"
"""Every resource of a cluster carries this tag, with the cluster's name."""
ENDED = ("shutting-down", "terminated")
"""The states of a machine that costs nothing any more, and that EC2 still tells of for about an hour."""
COMMAND_S = 150.0
COMMAND_POLL_S = 1.0
_MESSAGE = re.compile(r"(Launching a new|Terminating) EC2 instance: (i-[0-9a-f]+)")
_REASON_TIME = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine that runs, or ran within about the last hour. `state` is EC2's word; times are in UTC.

    `ended`: when it was stopped or ended, where EC2 tells.
    """

    id: str
    machine: str
    state: str
    launched: datetime.datetime
    ended: datetime.datetime | None
    spot: bool
    group: str | None
    address: str | None


@dataclass(frozen=True, slots=True)
class Activity:
    """An autoscaling group started a machine (`launched`), or ended it. AWS keeps six weeks of them."""

    group: str
    instance: str
    launched: bool
    time: datetime.datetime


@dataclass(frozen=True, slots=True)
class BucketContents:
    """What lies in a bucket: the current objects; `complete` is False where there were too many to count."""

    objects: int
    size_bytes: int
    complete: bool


def read_parameter(name: str, region: str | None) -> str:
    """The value of a parameter in SSM's store, decrypted.

    Raises:
        ClusterError: it is not there, or may not be read.
    """
    with _told(f"read SSM parameter {name}"):
        answer = _client("ssm", region).get_parameter(Name=name, WithDecryption=True)
    return str(answer["Parameter"]["Value"])


@dataclass(frozen=True, slots=True)
class PortSession:
    """A session of AWS's Session Manager, for its plugin. `response` holds a secret."""

    id: str
    region: str
    endpoint: str
    request: dict[str, Any]
    response: dict[str, Any] = field(repr=False)


def start_port_session(instance_id: str, port: int, local_port: int, region: str | None) -> PortSession:
    """Ask for a way from a port here to one on the machine's loopback; the plugin then opens it.

    Raises:
        ClusterError: the machine is not reachable so, or the right to is missing.
    """
    request = {
        "Target": instance_id,
        "DocumentName": "AWS-StartPortForwardingSession",
        "Parameters": {"portNumber": [str(port)], "localPortNumber": [str(local_port)]},
    }
    with _told(f"start a session with {instance_id}"):
        client = _client("ssm", region)
        answer = client.start_session(**request)
    response = {key: answer[key] for key in ("SessionId", "TokenValue", "StreamUrl")}
    return PortSession(answer["SessionId"], client.meta.region_name, client.meta.endpoint_url, request, response)


def end_session(session_id: str, region: str | None) -> None:
    """End a session; raises ClusterError where AWS does not let us."""
    with _told(f"end session {session_id}"):
        _client("ssm", region).terminate_session(SessionId=session_id)


def instances(cluster: str, region: str | None) -> list[Instance]:
    """The machines of this cluster.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    wanted = [{"Name": f"tag:{TAG}", "Values": [cluster]}]
    with _told("list the machines"):
        pages = _client("ec2", region).get_paginator("describe_instances").paginate(Filters=wanted)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    return [_instance(one) for one in found]


def activities(groups: Sequence[str], region: str | None) -> list[Activity]:
    """What these autoscaling groups did that succeeded, oldest first.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    found = []
    with _told("list what the autoscaling groups did"):
        for group in groups:
            pages = _client("autoscaling", region).get_paginator("describe_scaling_activities")
            for page in pages.paginate(AutoScalingGroupName=group, IncludeDeletedGroups=True):
                found += [(group, one) for one in page["Activities"] if one["StatusCode"] == "Successful"]
    told = ((group, _MESSAGE.match(one["Description"]), one["StartTime"]) for group, one in found)
    made = [Activity(group, match[2], match[1] != "Terminating", time) for group, match, time in told if match]
    return sorted(made, key=lambda one: one.time)


def tagged(cluster: str, region: str | None) -> list[str]:
    """The ARNs of all that carries the cluster's tag; what ended shortly before may be among them for an hour.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    wanted = [{"Key": TAG, "Values": [cluster]}]
    with _told("look for what carries the cluster's tag"):
        pages = _client("resourcegroupstaggingapi", region).get_paginator("get_resources")
        return [
            one["ResourceARN"] for page in pages.paginate(TagFilters=wanted) for one in page["ResourceTagMappingList"]
        ]


def autoscaling_groups(cluster: str, region: str | None) -> list[str]:
    """The ARNs of the cluster's autoscaling groups, which `tagged` does not tell of: AWS's index has no such groups.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    wanted = [{"Name": f"tag:{TAG}", "Values": [cluster]}]
    with _told("list the autoscaling groups"):
        pages = _client("autoscaling", region).get_paginator("describe_auto_scaling_groups").paginate(Filters=wanted)
        return [one["AutoScalingGroupARN"] for page in pages for one in page["AutoScalingGroups"]]


def ended_instances(ids: Sequence[str], region: str | None) -> set[str]:
    """Those of these machines that are ended, or about to be, and cost nothing any more.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    if not ids:
        return set()
    wanted = [{"Name": "instance-id", "Values": list(ids)}]
    with _told("look at the machines"):
        pages = _client("ec2", region).get_paginator("describe_instances").paginate(Filters=wanted)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    there = {one["InstanceId"] for one in found if one["State"]["Name"] not in ENDED}
    return set(ids) - there


def ended_nat_gateways(ids: Sequence[str], region: str | None) -> set[str]:
    """Those of these NAT gateways that are no more; AWS tells of them for about an hour, and asks nothing for them.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    if not ids:
        return set()
    with _told("look at the NAT gateways"):
        pages = _client("ec2", region).get_paginator("describe_nat_gateways").paginate()
        there = {one["NatGatewayId"] for page in pages for one in page["NatGateways"] if one["State"] != "deleted"}
    return set(ids) - there


def bucket_contents(bucket: str, region: str | None, *, most_pages: int = 50) -> BucketContents:
    """How much lies in a bucket; of very many objects only the first 1000 x `most_pages` are counted.

    Raises:
        ClusterError: it is not there, or may not be listed.
    """
    objects = size = 0
    with _told(f"list bucket {bucket}"):
        pages = _client("s3", region).get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for number, page in enumerate(pages):
            if number == most_pages:
                return BucketContents(objects, size, complete=False)
            found = page.get("Contents", [])
            objects, size = objects + len(found), size + sum(one["Size"] for one in found)
    return BucketContents(objects, size, complete=True)


def run_on_instance(instance_id: str, line: str, region: str | None) -> str:
    """Run a shell command on a machine as root, through Systems Manager; returns what it printed.

    Raises:
        ClusterError: the machine is not reachable so, the right to is missing, or the command failed; with its words.
    """
    with _told(f"run a command on {instance_id}"):
        client = _client("ssm", region)
        sent = client.send_command(
            InstanceIds=[instance_id], DocumentName="AWS-RunShellScript", Parameters={"commands": [line]}
        )["Command"]["CommandId"]
        deadline = time.monotonic() + COMMAND_S
        while True:
            time.sleep(COMMAND_POLL_S)  # before the first look as well: the invocation is not there at once
            answer = client.get_command_invocation(CommandId=sent, InstanceId=instance_id)
            if answer["Status"] not in ("Pending", "InProgress", "Delayed") or time.monotonic() > deadline:
                break
    if answer["Status"] != "Success":
        said = (answer.get("StandardErrorContent") or answer.get("StandardOutputContent") or "").strip()
        raise ClusterError(f"{instance_id}: {line}: {answer['Status']}: {said}")
    return str(answer["StandardOutputContent"])


def end_instance(instance_id: str, region: str | None, *, in_group: bool) -> None:
    """End a worker's machine for good; its autoscaling group, where it has one, is to have one less from now on.

    Raises:
        ClusterError: AWS cannot be asked, or the right to is missing.
    """
    with _told(f"end {instance_id}"):
        if in_group:
            _client("autoscaling", region).terminate_instance_in_auto_scaling_group(
                InstanceId=instance_id, ShouldDecrementDesiredCapacity=True
            )
        else:
            _client("ec2", region).terminate_instances(InstanceIds=[instance_id])


def stop_instance(instance_id: str, region: str | None) -> None:
    """Stop a machine, which can be started again; its disks cost on.

    Raises:
        ClusterError: AWS cannot be asked, or the right to is missing.
    """
    with _told(f"stop {instance_id}"):
        _client("ec2", region).stop_instances(InstanceIds=[instance_id])


def let_group_end_instance(group: str, instance_id: str, region: str | None) -> None:
    """Tell an autoscaling group, for each hook by which it waits, that it may end a machine now.

    Raises:
        ClusterError: AWS cannot be asked, or the right to is missing.
    """
    with _told(f"release {instance_id}"):
        client = _client("autoscaling", region)
        for hook in client.describe_lifecycle_hooks(AutoScalingGroupName=group)["LifecycleHooks"]:
            if hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING":
                client.complete_lifecycle_action(
                    LifecycleHookName=hook["LifecycleHookName"], AutoScalingGroupName=group, InstanceId=instance_id,
                    LifecycleActionResult="CONTINUE",
                )  # fmt: skip


def _instance(one: dict[str, Any]) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
    state, said = one["State"]["Name"], _REASON_TIME.search(one.get("StateTransitionReason", ""))
    ended = (
        datetime.datetime.fromisoformat(f"{said[1]}+00:00") if said and state not in ("pending", "running") else None
    )
    return Instance(
        id=one["InstanceId"], machine=one["InstanceType"], state=state, launched=one["LaunchTime"], ended=ended,
        spot=one.get("InstanceLifecycle") == "spot", group=tags.get("aws:autoscaling:groupName"),
        address=one.get("PrivateIpAddress"),
    )  # fmt: skip


def _client(service: str, region: str | None) -> Any:
    import boto3

    return boto3.client(service, region_name=region)  # type: ignore[call-overload]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """AWS's refusals as a user's error; boto3's words name the right that is missing, and never a secret."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ClusterError(
            f"AWS did not let us {what}: {error}. Check the credentials, the region and the rights: "
            "aws sts get-caller-identity"
        ) from error
