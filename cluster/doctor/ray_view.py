"""What Ray counts on each node against what is there."""

from collections.abc import Mapping, Sequence
from typing import Any

from tuneyard.cluster.amounts import counted, listed
from tuneyard.cluster.doctor import cuda, ray_node
from tuneyard.cluster.doctor.findings import Finding, Report, Result, failure, not_applicable, ok, warning
from tuneyard.cluster.inventory import Node

NAME = "Ray's nodes"


def compare_with_ray(nodes: Sequence[Node], reports: Mapping[str, Report]) -> Finding:
    """Is each node in Ray, with the GPUs that torch computes on? `reports`: by the nodes' names, the head's first."""
    head = reports.get(nodes[0].name)
    rows = head.data_of(ray_node.DASHBOARD).get("nodes") if head is not None else None
    if rows is None:
        return not_applicable(NAME, "the head's dashboard did not tell them")
    in_ray = {row["address"]: row for row in rows}
    missing = [node.name for node in nodes if node.address not in in_ray and not _drained(reports.get(node.name))]
    if missing:
        return failure(
            NAME,
            f"not in Ray: {listed(missing)}",
            "On it: python -m tuneyard.cluster.node start --folder FOLDER. See also the links and the packages.",
        )
    return _gpus(nodes, reports, in_ray)


def _gpus(nodes: Sequence[Node], reports: Mapping[str, Report], in_ray: Mapping[str, Mapping[str, Any]]) -> Finding:
    too_many: list[str] = []
    unused: list[str] = []
    for node in nodes:
        if node.name not in reports or node.address not in in_ray:
            continue
        there = len(reports[node.name].data_of(cuda.NAME).get("devices", []))
        counts = int(in_ray[node.address]["gpus"])
        if counts != there:
            (too_many if counts > there else unused).append(
                f"{node.name}: {counted(counts, 'GPU')} in Ray, {there} there"
            )
    if too_many:
        return failure(
            NAME,
            listed(too_many),
            "Trials would fail there. Mend the driver (above), or correct the node's num_gpus and apply again.",
        )
    if unused:
        return warning(
            NAME,
            listed(unused),
            "Start Ray on it again: it counts the GPUs only then. Or take num_gpus out of the cluster's variables.",
        )
    cpus, gpus = (int(sum(row[key] for row in in_ray.values())) for key in ("cpus", "gpus"))
    told = f"{counted(len(in_ray), 'node')}, {counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}"
    return ok(NAME, told, {"nodes": list(in_ray.values())})


def _drained(report: Report | None) -> bool:
    return report is not None and any(
        finding.name == ray_node.RUNNING and finding.result is Result.NOT_APPLICABLE for finding in report.findings
    )
