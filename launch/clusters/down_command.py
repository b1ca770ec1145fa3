"""`tuneyard down`: what will be destroyed and what stays, a question, Terraform's destroy, and what is left then."""

import datetime
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.money.machines import Fleet
from tuneyard.cluster.money.spending import mark
from tuneyard.cluster.nearest import allowed_instead
from tuneyard.cluster.private_files import write_private
from tuneyard.cluster.provision.clusters import Cluster, find_cluster
from tuneyard.cluster.provision.leftovers import Leftovers, aws_leftovers
from tuneyard.cluster.provision.terraform import Terraform, TerraformInterruptedError
from tuneyard.cluster.provision.terraform_plan import Plan, Resource
from tuneyard.launch.clusters.changes_table import show_changes
from tuneyard.launch.clusters.up_command import INTERRUPTED, PLAN, agreed, own_folder, progress

BUCKET = "aws_s3_bucket"
LOOK_AGAIN_S = (0, 5, 10, 20, 30)
"""AWS lists what was destroyed for some more seconds: it is asked again after so long, until nothing is listed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The bucket of the runs, which stays: its name, and the resources that make it one."""

    name: str
    addresses: tuple[str, ...]


def down_command(name: str | None, *, yes: bool, gone: Sequence[str]) -> int:
    """Show, ask, destroy and look; returns the exit status: 1 where something is left that should not be."""
    console = Console(highlight=False)
    cluster = find_cluster(name)
    own_folder(cluster)
    not_cleaned = _gone_nodes(cluster, gone)
    terraform = Terraform(cluster.root, log=cluster.log_file, say=progress(console), gone=gone)
    try:
        with console.status("terraform: reading the state …"):
            terraform.init()
            there = terraform.resources()
        kept = _kept(there)
        region = _region(there, cluster)
        if there:
            plan = _plan(cluster, terraform, console)
            if not _confirmed(cluster, plan, kept, region, console, yes=yes):
                return 1
            _destroy(cluster, terraform, kept, console)
        for node in not_cleaned:
            console.print(f"Not cleaned, since it is gone, you say: {node}", style="yellow", markup=False)
        return _look(cluster, terraform, region, console)
    except TerraformInterruptedError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line speaks
        return INTERRUPTED
    finally:
        (cluster.folder / PLAN).unlink(missing_ok=True)


def _gone_nodes(cluster: Cluster, gone: Sequence[str]) -> list[str]:
    """What may still be on the machines that are said to be gone.

    Raises:
        ClusterError: the cluster has no such node.
    """
    if not gone:
        return []
    inventory = cluster.last_inventory()
    nodes = {node.name: node for node in inventory.nodes}
    for name in gone:
        if name not in nodes:
            raise ClusterError(f"--gone {name}: there is no such node. {allowed_instead(name, nodes)}")
    return [f"{name} ({nodes[name].address}): {inventory.folder} may still be there, and run" for name in gone]


def _plan(cluster: Cluster, terraform: Terraform, console: Console) -> Plan:
    with console.status("terraform: planning the end …"):
        return terraform.plan(cluster.folder / PLAN, variables=cluster.variables_file, destroy=True)


def _confirmed(
    cluster: Cluster, plan: Plan, kept: Kept | None, region: str | None, console: Console, *, yes: bool
) -> bool:  # fmt: skip
    stays = set(kept.addresses) if kept else set()
    ends = Plan(tuple(one for one in plan.changes if one.address not in stays), (), {}, outputs_change=True)
    console.print(f"Cluster [bold]{cluster.name}[/] ends:")
    show_changes(ends, console)
    if kept is not None:
        console.print(f"Stays: bucket {kept.name}, with {_contents(kept.name, region)}.")
    if cluster.kind == "onprem":
        console.print("What lies in the cluster's own folders on the machines goes too, and the runs in them.")
    if agreed("Destroy it?", yes=yes):
        return True
    console.print("Nothing was destroyed.")
    return False


def _contents(bucket: str, region: str | None) -> str:
    from tuneyard.cluster.aws import bucket_contents

    try:
        found = bucket_contents(bucket, region)
    except ClusterError as error:
        return f"contents that could not be listed ({error})"
    more = "" if found.complete else " or more"
    return f"{found.objects:,} objects, {found.size_bytes / 1e9:,.2f} GB{more}, and their older versions"


def _destroy(cluster: Cluster, terraform: Terraform, kept: Kept | None, console: Console) -> None:
    if kept is not None:
        # First the name, so that a later `up` uses the bucket, whatever happens next; then it is no more Terraform's.
        values = json.loads(cluster.variables_file.read_text()) | {"bucket": kept.name}
        write_private(cluster.variables_file, json.dumps(values, indent=1))
        terraform.forget(kept.addresses)
        _plan(cluster, terraform, console)
    terraform.apply(cluster.folder / PLAN)
    mark(cluster.folder, Fleet(()), datetime.datetime.now(datetime.UTC))


def _look(cluster: Cluster, terraform: Terraform, region: str | None, console: Console) -> int:
    """See whether anything is left, and remove the cluster's folder where nothing is."""
    rest = [one.address for one in terraform.resources()]
    if rest:
        console.print(
            f"Still in Terraform's state: {', '.join(rest)}. Run the same again.", style="yellow", markup=False
        )
        return 1
    bucket = json.loads(cluster.variables_file.read_text()).get("bucket") if cluster.variables_file.exists() else None
    left = _ask_aws(cluster.name, region, bucket, console) if cluster.kind == "aws" else Leftovers(())
    if left.arns:
        console.print(f"AWS still lists what carries the tag of cluster {cluster.name}:", style="yellow")
        for arn in left.arns:
            console.print(f"  {arn}", style="yellow", markup=False)
        console.print(
            "What was just destroyed may be listed for some minutes: run the same again. What stays listed was made by "
            "a run that was cut off, or by you: remove it in the console."
        )
        return 1
    cluster.inventory_file.unlink(missing_ok=True)
    if bucket is not None:
        console.print(f"Nothing is left of cluster {cluster.name} but bucket {bucket}.")
        console.print(f"  tuneyard up --cluster {cluster.name}  [dim]uses it again[/]")
        console.print(f"  {cluster.folder}  [dim]knows its name; remove both when you need neither[/]")
        return 0
    shutil.rmtree(cluster.folder)
    console.print(f"Nothing is left of cluster {cluster.name}.")
    return 0


def _ask_aws(name: str, region: str | None, bucket: str | None, console: Console) -> Leftovers:
    left = Leftovers(())
    with console.status("looking for what is left in AWS …"):
        for pause in LOOK_AGAIN_S:
            time.sleep(pause)
            left = aws_leftovers(name, region, bucket)
            if not left.arns:
                break
    return left


def _kept(there: Sequence[Resource]) -> Kept | None:
    """A bucket of ours always has something in it, old versions at least, and may have all that the user trained."""
    names = [one.values["bucket"] for one in there if one.type == BUCKET]
    addresses = tuple(one.address for one in there if one.type.startswith(BUCKET))
    return Kept(names[0], addresses) if names else None


def _region(there: Sequence[Resource], cluster: Cluster) -> str | None:
    """Of the ARNs in the state, or of the last inventory: what the profile says today may be another one."""
    for one in there:
        parts = str(one.values.get("arn", "")).split(":")
        if len(parts) > 4 and parts[3]:
            return parts[3]
    return cluster.last_inventory().region if cluster.inventory_file.exists() else None
