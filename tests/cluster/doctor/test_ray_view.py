"""What Ray counts on each node against what is there."""

from typing import Any

import pytest

from tuneyard.cluster.doctor import cuda, ray_node
from tuneyard.cluster.doctor.findings import Report, Result, not_applicable, ok
from tuneyard.cluster.doctor.ray_view import compare_with_ray
from tuneyard.cluster.inventory import Node

NODES = [Node(name="head", address="10.0.0.1"), Node(name="w1", address="10.0.0.2")]


def row(node: Node, gpus: float) -> dict[str, Any]:
    return {"name": node.name, "address": node.address, "cpus": 8.0, "gpus": gpus}


def reports(rows: list[dict[str, Any]], gpus: int) -> dict[str, Report]:
    """The head's, with what Ray says, and that of a worker with so many GPUs."""
    head = Report(machine="head", findings=[ok(ray_node.DASHBOARD, "", {"nodes": rows})])
    devices = {"devices": [{"name": "NVIDIA L4"}] * gpus}
    return {"head": head, "w1": Report(machine="w1", findings=[ok(cuda.NAME, "", devices)])}


@pytest.mark.parametrize(
    ("in_ray", "there", "result", "told"),
    [
        (2, 2, Result.OK, "2 nodes, 16 CPUs, 2 GPUs"),
        (0, 2, Result.WARNING, "w1: 0 GPUs in Ray, 2 there"),
        (2, 1, Result.FAILURE, "w1: 2 GPUs in Ray, 1 there"),
    ],
)
def test_gpus(in_ray: int, there: int, result: Result, told: str) -> None:
    found = compare_with_ray(NODES, reports([row(NODES[0], 0), row(NODES[1], in_ray)], there))
    assert (found.result, found.found) == (result, told)


def test_a_node_that_is_not_in_ray() -> None:
    found = compare_with_ray(NODES, reports([row(NODES[0], 0)], 0))
    assert (found.result, found.found) == (Result.FAILURE, "not in Ray: w1")


def test_a_node_that_was_drained_need_not_be() -> None:
    found = reports([row(NODES[0], 0)], 0)
    found["w1"] = Report(machine="w1", findings=[not_applicable(ray_node.RUNNING, "drained")])
    assert compare_with_ray(NODES, found).result is Result.OK


def test_a_head_that_does_not_tell() -> None:
    assert compare_with_ray(NODES, {}).result is Result.NOT_APPLICABLE
