import datetime
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from tuneyard.cluster import aws
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.provision.leftovers import aws_leftovers

REGION = "us-east-1"


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        yield


def run_instance(name: str) -> str:
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    tags = [{"Key": aws.TAG, "Value": name}]
    made = ec2.run_instances(
        ImageId=image, InstanceType="g5.xlarge", MinCount=1, MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )  # fmt: skip
    return str(made["Instances"][0]["InstanceId"])


@pytest.mark.slow
def test_the_machines_of_a_cluster_are_found_by_their_tag() -> None:
    ours, _ = run_instance("lab"), run_instance("other")
    (found,) = aws.instances("lab", REGION)
    assert (found.id, found.machine, found.state, found.spot, found.ended) == (
        ours,
        "g5.xlarge",
        "running",
        False,
        None,
    )
    boto3.client("ec2", region_name=REGION).terminate_instances(InstanceIds=[ours])
    (found,) = aws.instances("lab", REGION)
    assert found.state == "terminated"
    assert found.ended is not None
    assert abs((found.ended - datetime.datetime.now(datetime.UTC)).total_seconds()) < 60


@pytest.mark.slow
def test_what_is_left_is_found_by_its_tag_but_for_the_bucket_and_ended_machines() -> None:
    machine = run_instance("lab")
    s3 = boto3.client("s3", region_name=REGION)
    for bucket in ("tuneyard-lab", "another"):
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": aws.TAG, "Value": "lab"}]})
    left = aws_leftovers("lab", REGION, "tuneyard-lab").arns
    assert {arn.rpartition(":")[2] for arn in left} == {"another", f"instance/{machine}"}
    boto3.client("ec2", region_name=REGION).terminate_instances(InstanceIds=[machine])
    assert [arn.rpartition(":")[2] for arn in aws_leftovers("lab", REGION, "tuneyard-lab").arns] == ["another"]
    assert aws_leftovers("nobody", REGION, None).arns == ()


@pytest.mark.slow
def test_a_group_is_left_too_since_it_brings_back_machines_that_are_removed() -> None:
    groups = boto3.client("autoscaling", region_name=REGION)
    image = boto3.client("ec2", region_name=REGION).describe_images()["Images"][0]["ImageId"]
    groups.create_launch_configuration(LaunchConfigurationName="one", ImageId=image, InstanceType="g5.xlarge")
    for name, cluster in (("ours", "lab"), ("theirs", "other")):
        groups.create_auto_scaling_group(
            AutoScalingGroupName=name, LaunchConfigurationName="one", MinSize=0, MaxSize=0,
            AvailabilityZones=[f"{REGION}a"], Tags=[{"Key": aws.TAG, "Value": cluster, "PropagateAtLaunch": True}],
        )  # fmt: skip
    [left] = aws_leftovers("lab", REGION, None).arns
    assert left.endswith(":autoScalingGroupName/ours")


def test_a_buckets_contents_are_counted_as_far_as_asked() -> None:
    s3 = boto3.client("s3", region_name=REGION)
    s3.create_bucket(Bucket="runs")
    assert aws.bucket_contents("runs", REGION) == aws.BucketContents(0, 0, complete=True)
    for index in range(3):
        s3.put_object(Bucket="runs", Key=f"k{index}", Body=b"12345")
    assert aws.bucket_contents("runs", REGION) == aws.BucketContents(3, 15, complete=True)
    assert not aws.bucket_contents("runs", REGION, most_pages=0).complete


def test_a_refusal_says_what_we_wanted() -> None:
    with pytest.raises(
        ClusterError, match=r"AWS did not let us list bucket nowhere: .*NoSuchBucket.*get-caller-identity"
    ):
        aws.bucket_contents("nowhere", REGION)
    with pytest.raises(ClusterError, match="AWS did not let us read SSM parameter /x"):
        aws.read_parameter("/x", REGION)


def test_groups_tell_when_machines_came_and_went(monkeypatch: pytest.MonkeyPatch) -> None:
    time = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def activity(text: str, hours: int, status: str = "Successful") -> dict[str, object]:
        return {"Description": text, "StartTime": time + datetime.timedelta(hours=hours), "StatusCode": status}

    # moto keeps no activities; this is what AWS's reference shows of them.
    pages = [
        {
            "Activities": [
                activity("Terminating EC2 instance: i-0abc", 2),
                activity("Launching a new EC2 instance: i-0abc", 1),
            ]
        },
        {"Activities": [activity("Launching a new EC2 instance.  Status Reason: no capacity", 0, "Failed")]},
    ]

    class Groups:
        def get_paginator(self, name: str) -> "Groups":
            assert name == "describe_scaling_activities"
            return self

        def paginate(self, **words: object) -> list[dict[str, list[dict[str, object]]]]:
            assert words == {"AutoScalingGroupName": "asg", "IncludeDeletedGroups": True}
            return pages

    monkeypatch.setattr(aws, "_client", lambda service, region: Groups())
    assert aws.activities(["asg"], REGION) == [
        aws.Activity("asg", "i-0abc", True, time + datetime.timedelta(hours=1)),
        aws.Activity("asg", "i-0abc", False, time + datetime.timedelta(hours=2)),
    ]


@pytest.mark.slow
def test_a_nat_gateway_that_was_deleted_is_nothing_that_is_left() -> None:
    ec2 = boto3.client("ec2", region_name=REGION)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    made = ec2.create_nat_gateway(
        SubnetId=subnet, ConnectivityType="private",
        TagSpecifications=[{"ResourceType": "natgateway", "Tags": [{"Key": aws.TAG, "Value": "lab"}]}],
    )  # fmt: skip
    gateway = made["NatGateway"]["NatGatewayId"]
    (left,) = aws_leftovers("lab", REGION, None).arns
    assert left.endswith(f":natgateway/{gateway}")
    ec2.delete_nat_gateway(NatGatewayId=gateway)
    assert aws_leftovers("lab", REGION, None).arns == ()
