"""What is still there of a cluster in AWS after its end, by the tag that all of it carries."""

from dataclasses import dataclass

from tuneyard.cluster.aws import autoscaling_groups, ended_instances, ended_nat_gateways, tagged


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The ARNs of what is left, or seems to be: AWS lists what is destroyed for some minutes."""

    arns: tuple[str, ...]


def aws_leftovers(name: str, region: str | None, bucket: str | None) -> Leftovers:
    """All with the cluster's tag but its bucket, and machines and NAT gateways that have ended.

    Raises:
        ClusterError: AWS cannot be asked.
    """
    # A machine that is removed while its group is still there comes back.
    found = [*autoscaling_groups(name, region), *tagged(name, region)]
    found = [arn for arn in found if bucket is None or not arn.endswith(f":::{bucket}")]
    machines = {arn.rpartition("/")[2]: arn for arn in found if ":instance/" in arn}
    gateways = {arn.rpartition("/")[2]: arn for arn in found if ":natgateway/" in arn}
    over = {machines[one] for one in ended_instances(list(machines), region)}
    over |= {gateways[one] for one in ended_nat_gateways(list(gateways), region)}
    return Leftovers(tuple(sorted(set(found) - over)))
