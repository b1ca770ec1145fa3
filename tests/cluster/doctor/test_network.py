"""What lies between nodes: judged here by replies that are given, and measured between hosts in doctor's own test."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tuneyard.cluster.doctor.bandwidth import BandwidthReply, BandwidthRequest
from tuneyard.cluster.doctor.findings import Finding, Result
from tuneyard.cluster.doctor.links import Link, LinksReply, LinksRequest
from tuneyard.cluster.doctor.network import (
    Broken,
    check_network,
    judge_bandwidth,
    judge_links,
    reaching_each_other,
)
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Node

NAMES = ["head", "w1", "w2"]
NODES = [Node(name=name, address=f"10.0.0.{number}") for number, name in enumerate(NAMES, start=1)]
LOST = "no answer"
W2_ALONE: Broken = dict.fromkeys([("head", "w2"), ("w1", "w2"), ("w2", "head"), ("w2", "w1")], LOST)


def replies(pairs: dict[tuple[int, int], float]) -> dict[str, BandwidthReply]:
    """What three nodes say, where the ways between ranks have these bytes per second, here and back."""
    return {
        name: BandwidthReply(
            sent_bytes=2**26, all_reduce_bytes_per_s=1e9,
            pairs_bytes_per_s={b if a == rank else a: rate for (a, b), rate in pairs.items() if rank in (a, b)},
        )
        for rank, name in enumerate(NAMES)
    }  # fmt: skip


def test_all_ways_open() -> None:
    found = judge_links(NAMES, {}, {})
    assert (found.result, found.found) == (Result.OK, "3 nodes, all 6 ways between them are open")


def test_a_node_that_is_cut_off_is_named() -> None:
    found = judge_links(NAMES, W2_ALONE, {})
    assert found.result is Result.FAILURE
    assert found.found == "w2: no way to or from any other node: no answer"


def test_one_broken_way_is_told_by_both_its_ends() -> None:
    found = judge_links(NAMES, {("w1", "w2"): "refused"}, {})
    assert found.found == "w1 → w2: refused"
    assert "Open all TCP ports" in found.advice


def test_those_who_reach_each_other_are_measured() -> None:
    assert reaching_each_other(NAMES, W2_ALONE) == ["head", "w1"]
    assert reaching_each_other(NAMES, {}) == NAMES
    assert len(reaching_each_other(NAMES, {("w1", "w2"): LOST})) == 2


def test_a_slow_link_is_named() -> None:
    found = judge_bandwidth(NAMES, "gloo", replies({(0, 1): 1e9, (0, 2): 12e6, (1, 2): 1.1e9}))
    assert found.result is Result.WARNING
    assert "all-reduce of 67.1 MB at 1 GB/s" in found.found
    assert "slow: head → w2 12 MB/s, w2 → head 12 MB/s" in found.found


def test_links_alike_and_fast() -> None:
    found = judge_bandwidth(NAMES, "nccl", replies({(0, 1): 1e9, (0, 2): 1.2e9, (1, 2): 1.1e9}))
    assert found.result is Result.OK
    assert "one to one 1 GB/s to 1.2 GB/s" in found.found


def test_links_that_are_all_slow() -> None:
    found = judge_bandwidth(NAMES, "gloo", replies({(0, 1): 1e7, (0, 2): 1e7, (1, 2): 1e7}))
    assert found.result is Result.WARNING
    assert "Below 1 Gbit/s" in found.advice


class Cluster:
    """Answers as nodes would; `broken` ways, and an `error` of torch's on the head, so many times."""

    def __init__(self, broken: Broken, *, error: str | None = None, errors: int = 99, taken: int = 0) -> None:
        self._broken, self._error, self._errors, self._taken = broken, error, errors, taken
        self.asked: list[tuple[str, str]] = []

    def run(self, node: Node, command: Sequence[str], stdin: str, timeout_s: float) -> str:
        program = command[-1].rpartition(".")[2]
        self.asked.append((program, node.name))
        if program == "links":
            return self._links(node, LinksRequest.model_validate_json(stdin))
        wanted = BandwidthRequest.model_validate_json(stdin)
        rates = {other: 1e9 for other in range(wanted.nodes) if other != wanted.rank}
        error = self._error if wanted.rank == 0 and self._errors > 0 else None
        self._errors -= wanted.rank == 0
        reply = BandwidthReply(sent_bytes=64, all_reduce_bytes_per_s=1e9, pairs_bytes_per_s=rates, error=error)
        return f"[Gloo] says something first\n{reply.model_dump_json()}\n"

    def _links(self, node: Node, wanted: LinksRequest) -> str:
        if self._taken and node.name == "head":
            self._taken -= 1
            return LinksReply(port_taken=True).model_dump_json()
        links = {name: Link(error=self._broken.get((node.name, name)), bound_s=0.001) for name in wanted.others}
        return LinksReply(links=links).model_dump_json()


def findings(cluster: Cluster, nodes: Sequence[Node] = NODES) -> dict[str, Finding]:
    found = check_network(nodes, "python", Path("/opt/tuneyard/lab"), "gloo", cluster.run)
    return {finding.name: finding for finding in found}


def test_a_whole_network() -> None:
    found = findings(Cluster({}))
    assert {name: finding.result for name, finding in found.items()} == {
        "links": Result.OK, "clocks": Result.OK, "bandwidth": Result.OK,
    }  # fmt: skip


def test_the_others_are_measured_without_the_node_that_is_cut_off() -> None:
    cluster = Cluster(W2_ALONE)
    found = findings(cluster)
    assert found["links"].result is Result.FAILURE
    assert "gloo, 2 nodes" in found["bandwidth"].found
    assert ("bandwidth", "w2") not in cluster.asked


def test_a_taken_port_is_tried_elsewhere() -> None:
    cluster = Cluster({}, taken=1)
    assert findings(cluster)["links"].result is Result.OK
    assert cluster.asked.count(("links", "w1")) == 2


def test_a_node_where_every_port_is_taken_is_told() -> None:
    found = findings(Cluster({}, taken=99))["links"]
    assert found.result is Result.FAILURE
    assert "head does not take part: other programs listen" in found.found


def test_a_port_that_torch_finds_taken_is_tried_elsewhere() -> None:
    cluster = Cluster({}, error="The server socket has failed to listen: EADDRINUSE", errors=1)
    assert findings(cluster)["bandwidth"].result is Result.OK
    assert cluster.asked.count(("bandwidth", "w1")) == 2


def test_a_firewall_that_lets_only_one_port_through() -> None:
    found = findings(Cluster({}, error="Connect timeout [10.0.0.2]:41234"))["bandwidth"]
    assert found.result is Result.FAILURE
    assert found.found == "gloo does not work: head: Connect timeout [10.0.0.2]:41234"
    assert "only some ports" in found.advice


def test_a_node_that_cannot_be_asked_is_told() -> None:
    cluster = Cluster({})

    def run(node: Node, command: Sequence[str], stdin: str, timeout_s: float) -> str:
        if node.name == "w1":
            raise ClusterError("w1 cannot be reached over SSH")
        return cluster.run(node, command, stdin, timeout_s)

    found = {one.name: one for one in check_network(NODES, "python", Path("/x"), "gloo", run)}
    assert "w1 does not take part: w1 cannot be reached over SSH" in found["links"].found


@pytest.mark.parametrize("count", [0, 1])
def test_one_node_alone(count: int) -> None:
    found = findings(Cluster({}), NODES[:count])
    assert {finding.result for finding in found.values()} == {Result.NOT_APPLICABLE}
