"""`tuneyard up`: what will be made and what it costs, a question, and Terraform's apply."""

import datetime
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.money.cost import quote
from tuneyard.cluster.money.machines import Fleet, fleet_of_inventory, fleet_of_plan
from tuneyard.cluster.money.prices import PriceTable
from tuneyard.cluster.money.spending import mark
from tuneyard.cluster.nearest import allowed_instead
from tuneyard.cluster.private_files import write_private
from tuneyard.cluster.provision.clusters import INVENTORY, KINDS, Cluster
from tuneyard.cluster.provision.module_tree import copy_module
from tuneyard.cluster.provision.terraform import LOCAL_STATE, Terraform, TerraformError, TerraformInterruptedError
from tuneyard.cluster.provision.terraform_plan import Plan
from tuneyard.launch.clusters.changes_table import show_changes
from tuneyard.launch.clusters.cost_table import show_quote
from tuneyard.launch.clusters.values import cluster_of, read_request, variables_of, wanted_values

PLAN = "plan.tfplan"
WANTED = "wanted.json"
INTERRUPTED = 130


def up_command(
    words: Sequence[str], *, name: str | None, kind: str | None, yes: bool, dry_run: bool, gone: Sequence[str],
    table: PriceTable,
) -> int:  # fmt: skip
    """Plan, show, ask and apply; returns the exit status."""
    console = Console(highlight=False)
    asked = read_request(words, name, kind)
    cluster = cluster_of(asked)
    applied = False
    try:
        values = wanted_values(asked, cluster)
        terraform = Terraform(cluster.root, log=cluster.log_file, say=progress(console), gone=gone)
        plan = _plan(cluster, terraform, values, console)
        fleet = _fleet(plan, asked.kind, values)
        console.print(f"Cluster [bold]{cluster.name}[/] ({asked.kind}):")
        show_quote(quote(fleet, table), table, console)
        show_changes(plan, console)
        if dry_run:
            return 0
        if not plan.empty and not agreed("Make it so?", yes=yes):
            console.print("Nothing was changed.")
            return 1
        applied = True
        # From here on these are the cluster's values: what is made by half is ended, or finished, by them.
        write_private(cluster.variables_file, json.dumps(values, indent=1))
        if not plan.empty:
            mark(cluster.folder, fleet, datetime.datetime.now(datetime.UTC))
            terraform.apply(cluster.folder / PLAN)
    except TerraformError as error:
        raise ClusterError(f"{error}{_how_to_take_up(error.existing, cluster)}") from error
    except TerraformInterruptedError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line speaks
        return INTERRUPTED
    finally:
        for left in (PLAN, WANTED):
            (cluster.folder / left).unlink(missing_ok=True)
        if not applied and not _was_ever_applied(cluster):
            shutil.rmtree(cluster.folder)
    inventory = cluster.renew_inventory()
    _tell(cluster, inventory, console)
    return 0


def list_variables(kind: str | None) -> None:
    """Print the variables of this kind of cluster, as its module describes them.

    Raises:
        ClusterError: there is no such kind.
    """
    found = next((one for one in KINDS if one == kind), None)
    if found is None:
        raise ClusterError(f"Say of which kind of cluster. {allowed_instead(kind or '', KINDS)} Such as: --on aws")
    console = Console(highlight=False)
    for variable in variables_of(found).values():
        default = "must be given" if variable.default is None else f"without it {variable.default}"
        console.print(Text.assemble((variable.name, "bold"), (f"  {variable.type}, {default}", "dim")))
        # Lines that begin with spaces are items of a list; the others flow.
        text = re.sub(r"(?<=\S)\n(?=\S)", " ", variable.description)
        console.print(Padding(Text(text), (0, 0, 0, 4)))


def agreed(question: str, *, yes: bool) -> bool:
    """Ask in the terminal, unless the answer was given beforehand.

    Raises:
        ClusterError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ClusterError(
            "There is nobody to ask here (no terminal), so that nothing was changed. Add --yes to agree."
        )
    return typer.confirm(question)


def progress(console: Console) -> Callable[[str], None]:
    """Prints lines of progress; in a terminal cut at its width."""

    def say(line: str) -> None:
        console.print(
            line, style="dim", markup=False, soft_wrap=not console.is_terminal, no_wrap=console.is_terminal,
            overflow="ellipsis" if console.is_terminal else "ignore", crop=console.is_terminal,
        )  # fmt: skip

    return say


def _plan(cluster: Cluster, terraform: Terraform, values: dict[str, Any], console: Console) -> Plan:
    if terraform.was_cut_off():
        console.print("An earlier run was cut off; this one goes on from the state that it left.", style="yellow")
    copy_module(cluster.root.name, cluster.root)
    write_private(cluster.folder / WANTED, json.dumps(values, indent=1))
    with console.status("terraform: getting ready …"):
        terraform.init()
    with console.status("terraform: planning …"):
        return terraform.plan(cluster.folder / PLAN, variables=cluster.folder / WANTED)


def _fleet(plan: Plan, kind: str, values: dict[str, Any]) -> Fleet:
    if kind == "aws":
        return fleet_of_plan(plan, _region(plan, values))
    return fleet_of_inventory(Inventory.model_validate(plan.outputs[INVENTORY]))


def _region(plan: Plan, values: dict[str, Any]) -> str | None:
    after = plan.outputs.get(INVENTORY)
    return after.get("region") if isinstance(after, dict) else values.get("region")


def _how_to_take_up(existing: Sequence[tuple[str, str]], cluster: Cluster) -> str:
    """What to do about things that are there already: it is not for us to take what may be another cluster's."""
    if not existing:
        return ""
    command = ["terraform", f"-chdir={cluster.root}", "import", f"-var-file={cluster.variables_file}"]
    lines = [shlex.join([*command, address, name]) for address, name in existing]
    return (
        "\nWhat exists already may be from an earlier run that was cut off as it made it. If no other cluster has this "
        "name in this account, take it up, and run the same again:\n  " + "\n  ".join(lines)
    )


def _was_ever_applied(cluster: Cluster) -> bool:
    return cluster.variables_file.exists() or (cluster.root / LOCAL_STATE).exists()


def _tell(cluster: Cluster, inventory: Inventory, console: Console) -> None:
    workers = len(inventory.workers) + sum(group.count for group in inventory.groups)
    console.print(
        f"\nCluster [bold]{cluster.name}[/] is up: head {inventory.head.address}, {workers} "
        f"worker{'' if workers == 1 else 's'}."
    )
    if inventory.kind == "aws":
        console.print("New machines need some minutes until they have joined.")
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    for command, what in (
        ("status", "its nodes, jobs and cost"),
        ("doctor", "checks every node"),
        ("submit experiment.yaml", "runs a sweep"),
        ("down", "ends it"),
    ):
        shown.add_row(f"  tuneyard {command} --cluster {cluster.name}", Text(what, "dim"))
    console.print(shown)


def own_folder(cluster: Cluster) -> Path:
    """The folder of a cluster that `tuneyard up` made.

    Raises:
        ClusterError: it was applied plainly, and is to be ended so.
    """
    if not cluster.ours:
        raise ClusterError(
            f"{cluster.root} was applied with Terraform itself. End it the same way: "
            f"terraform -chdir={cluster.root} destroy"
        )
    return cluster.folder
