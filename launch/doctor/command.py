"""What `tuneyard doctor` does: this machine, or every node of a cluster and what lies between them."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tuneyard.cluster.access.token import read_token
from tuneyard.cluster.doctor import cuda, packages
from tuneyard.cluster.doctor.checkup import Check, run_checks
from tuneyard.cluster.doctor.findings import Finding, Report, failure, ok
from tuneyard.cluster.doctor.network import Backend, check_network
from tuneyard.cluster.doctor.nodes import Run, ask_all, nodes_of, runner
from tuneyard.cluster.doctor.packages import compare_versions
from tuneyard.cluster.doctor.ray_view import compare_with_ray
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node
from tuneyard.cluster.provision.clusters import find_cluster
from tuneyard.launch.doctor.here import Examination, examine, s3_fields
from tuneyard.launch.doctor.store import DELETE, remove_left
from tuneyard.launch.doctor.table import as_json, failed, render
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.stores.s3_options import S3Options

HERE = "this machine"
BETWEEN = "between the nodes"
REACHED = "reached"

_NODE_LIMIT_S = 600.0
"""For all checks of one node together, each of which has a limit of its own."""

_NETWORK_LIMIT_S = 900.0


def doctor_command(
    experiment: Path | None, overrides: Sequence[str], *, cluster: str | None, node: Path | None, show_json: bool
) -> int:
    """Print what was found; 1 where there is a failure, else 0. `node`: the cluster's folder on this machine."""
    if cluster is not None and node is not None:
        raise ConfigError("Give --cluster, to look at all its nodes from here, or --node on one of them, and not both.")
    wanted = _wanted(experiment, overrides)
    if cluster is not None:
        inventory = find_cluster(cluster).inventory()
        with Console(stderr=True).status(f"Looking at the nodes of {inventory.name} …"):
            reports = examine_cluster(inventory, wanted, runner(inventory))
    else:
        with Console(stderr=True).status("Looking at this machine …"):
            reports = [examine(wanted.model_copy(update={"folder": node}))]
    if show_json:
        print(as_json(reports))  # noqa: T201 - the command line speaks
    else:
        render(reports, Console(highlight=False))
    return 1 if failed(reports) else 0


def examine_cluster(inventory: Inventory, wanted: Examination, run: Run) -> list[Report]:
    """A report of this machine, of each node, and of what lies between them."""
    nodes = nodes_of(inventory)
    wanted = _on_nodes(wanted, inventory)
    command = [inventory.python, "-m", "tuneyard.launch.doctor.here"]
    answers = ask_all(dict.fromkeys([node.name for node in nodes], wanted), nodes, command, Report, run, _NODE_LIMIT_S)
    answered = {name: answer for name, answer in answers.items() if isinstance(answer, Report)}
    reports = [
        Report(machine=name, findings=[_unreached(answer)] if isinstance(answer, ClusterError) else answer.findings)
        for name, answer in answers.items()
    ]
    between = Report(machine=BETWEEN, findings=_between(inventory, nodes, answered, run))
    return [Report(machine=HERE, findings=_here(inventory, wanted, answered)), *reports, between]


def _between(inventory: Inventory, nodes: list[Node], answered: dict[str, Report], run: Run) -> list[Finding]:
    there = [node for node in nodes if node.name in answered]
    gpus = [answered[node.name].data_of(cuda.NAME).get("devices", []) for node in there]
    # As training chooses: nccl where every worker has a GPU of its own.
    backend: Backend = "nccl" if gpus and all(gpus) else "gloo"
    folder = Path(inventory.folder)
    return run_checks(
        [
            Check("Ray's nodes", lambda: [compare_with_ray(nodes, answered)]),
            Check(
                "network", lambda: check_network(there, inventory.python, folder, backend, run), _NETWORK_LIMIT_S
            ),
        ]
    )  # fmt: skip


def _here(inventory: Inventory, wanted: Examination, answered: dict[str, Report]) -> list[Finding]:
    """What concerns this machine as the cluster's client."""
    versions = {name: report.data_of(packages.NAME).get("versions", {}) for name, report in answered.items()}
    left = [key for report in answered.values() for key in report.data_of(DELETE).get("left", [])]
    checks = [
        Check("token", lambda: [_token(inventory)]),
        Check(packages.PARITY, lambda: compare_versions(versions, packages.versions())),
    ]
    if left:
        place = wanted.place(on_node=False, ours=False)
        assert place is not None, "something was left in a store"
        checks.append(Check("clean-up", lambda: [remove_left(place, left)]))
    return run_checks(checks)


def _token(inventory: Inventory) -> Finding:
    try:
        read_token(inventory)
    except ClusterError as error:
        return failure("token", str(error), "Without it no job can be sent from here.")
    return ok("token", "there, and its owner's alone")


def _unreached(error: ClusterError) -> Finding:
    return failure(
        REACHED,
        str(error),
        "See that it is up, that its address and key in the inventory are right, and that you may reach it.",
    )


def _wanted(experiment: Path | None, overrides: Sequence[str]) -> Examination:
    if experiment is None:
        return Examination()
    from tuneyard.launch.request import store_uri
    from tuneyard.trainers.config.loading import load_experiment

    loaded = load_experiment(experiment, overrides)
    return Examination(
        store=store_uri(loaded), s3=s3_fields(loaded.checkpoint.s3_options), cache_dir=loaded.data.cache_dir,
        comet_mode=loaded.tracking.comet.mode,
    )  # fmt: skip


def _on_nodes(wanted: Examination, inventory: Inventory) -> Examination:
    """With the cluster's folder, and its store where no experiment names one."""
    found: dict[str, object] = {"folder": Path(inventory.folder)}
    if wanted.store is None and inventory.store is not None:
        options = S3Options(endpoint_url=inventory.endpoint_url, region=inventory.region)
        found |= {"store": inventory.store, "s3": s3_fields(options)}
    return wanted.model_copy(update=found)
