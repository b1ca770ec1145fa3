"""The network between the nodes: who reaches whom, whose clock is off, and how fast torch.distributed is."""

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from tuneyard.cluster.amounts import counted, listed, rate_text, size_text
from tuneyard.cluster.doctor.bandwidth import BandwidthReply, BandwidthRequest
from tuneyard.cluster.doctor.clock import BETWEEN, Offset, judge_nodes
from tuneyard.cluster.doctor.findings import Finding, failure, not_applicable, ok, warning
from tuneyard.cluster.doctor.links import LinksReply, LinksRequest, pairs
from tuneyard.cluster.doctor.nodes import Run, ask_all
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Node

LINKS = "links"
BANDWIDTH = "bandwidth"

_PORTS = range(20000, 32000)
"""Beside those that Ray gives its workers (10002 to 19999) and those that the kernel gives away (from 32768 on)."""

_ATTEMPTS = 3
_LINKS_LIMIT_S = 60.0
_BANDWIDTH_LIMIT_S = 180.0
_SLOW_SHARE = 0.5
_SLOW_BYTES_PER_S = 100e6
_OPEN = (
    "Open all TCP ports between the nodes' private addresses: Ray and training take ports as they come. See that the "
    "addresses in the inventory are those by which the nodes reach each other."
)

Backend = Literal["gloo", "nccl"]
Broken = dict[tuple[str, str], str]
"""(from, to) -> why there is no connection."""


def check_network(nodes: Sequence[Node], python: str, folder: Path, backend: Backend, run: Run) -> Iterator[Finding]:
    """All that can be said of the way between these nodes, by programs that run on them."""
    if len(nodes) < 2:
        for name in (LINKS, BETWEEN, BANDWIDTH):
            yield not_applicable(name, "takes two nodes or more that can be asked")
        return
    links, silent = ask_links(nodes, python, run)
    broken = {(here, there): link.error for here, there, link in pairs(links) if link.error is not None}
    yield judge_links([node.name for node in nodes], broken, silent)
    offsets = {
        (here, there): Offset(link.offset_s, link.bound_s) for here, there, link in pairs(links) if not link.error
    }
    if offsets:
        yield judge_nodes(offsets)
    else:
        yield not_applicable(BETWEEN, "no node reaches another")
    together = [node for node in nodes if node.name in reaching_each_other(list(links), broken)]
    if len(together) < 2:
        yield not_applicable(BANDWIDTH, "no two nodes reach each other")
        return
    yield _bandwidth(together, python, folder, backend, run)


def ask_links(nodes: Sequence[Node], python: str, run: Run) -> tuple[dict[str, LinksReply], dict[str, str]]:
    """What the nodes say about their ways to each other; and of those that say nothing, why."""
    replies: dict[str, LinksReply | ClusterError] = {}
    for _ in range(_ATTEMPTS):
        port = random.choice(_PORTS)
        requests = {
            node.name: LinksRequest(
                address=node.address, others={other.name: other.address for other in nodes if other is not node},
                port=port,
            )
            for node in nodes
        }  # fmt: skip
        command = [python, "-m", "tuneyard.cluster.doctor.links"]
        replies = ask_all(requests, nodes, command, LinksReply, run, _LINKS_LIMIT_S)
        if not any(isinstance(reply, LinksReply) and reply.port_taken for reply in replies.values()):
            break
    found = {name: one for name, one in replies.items() if isinstance(one, LinksReply) and not one.port_taken}
    taken = "other programs listen on every port that was tried"
    return found, {
        name: taken if isinstance(one, LinksReply) else str(one) for name, one in replies.items() if name not in found
    }


def judge_links(names: Sequence[str], broken: Broken, silent: Mapping[str, str]) -> Finding:
    """The finding about who reaches whom."""
    data = {"broken": [{"from": here, "to": there, "error": why} for (here, there), why in broken.items()]}
    for name, why in silent.items():
        return failure(LINKS, f"{name} does not take part: {why}", "Mend that first, and run the doctor again.", data)
    if not broken:
        every = len(names) * (len(names) - 1)
        return ok(LINKS, f"{counted(len(names), 'node')}, all {every} ways between them are open", data)
    alone = [name for name in names if _cut_off(name, names, broken)]
    if alone and len(names) > 2:
        why = next(why for (here, there), why in broken.items() if alone[0] in (here, there))
        return failure(LINKS, f"{listed(alone)}: no way to or from any other node: {why}", _OPEN, data)
    told = [f"{here} → {there}: {why}" for (here, there), why in broken.items()]
    return failure(LINKS, listed(told, most=4), _OPEN, data)


def reaching_each_other(names: list[str], broken: Broken) -> list[str]:
    """Nodes among which no way is broken: those with the most broken ways are left out, one after the other."""
    left = list(names)
    while bad := [pair for pair in broken if set(pair) <= set(left)]:
        counts = {name: sum(name in pair for pair in bad) for name in left}
        left.remove(max(left, key=lambda name: counts[name]))
    return left


def judge_bandwidth(names: Sequence[str], backend: Backend, replies: Mapping[str, BandwidthReply]) -> Finding:
    """The finding about the replies of these nodes, which have their places in `names` as ranks."""
    first = replies[names[0]]
    rates = {
        (names[rank], names[other]): rate
        for rank in range(len(names))
        for other, rate in replies[names[rank]].pairs_bytes_per_s.items()
    }
    data = {
        "backend": backend, "all_reduce_bytes": first.sent_bytes,
        "all_reduce_bytes_per_s": round(first.all_reduce_bytes_per_s),
        "links": [{"from": here, "to": there, "bytes_per_s": round(rate)} for (here, there), rate in rates.items()],
    }  # fmt: skip
    slowest, fastest = min(rates.values()), max(rates.values())
    told = (
        f"{backend}, {len(names)} nodes: all-reduce of {size_text(first.sent_bytes)} at "
        f"{rate_text(first.all_reduce_bytes_per_s)}; one to one {rate_text(slowest)} to {rate_text(fastest)}"
    )
    usual = statistics.median(rates.values())
    slow = [
        f"{here} → {there} {rate_text(rate)}" for (here, there), rate in rates.items() if rate < _SLOW_SHARE * usual
    ]
    if slow:
        return warning(
            BANDWIDTH, f"{told}; slow: {listed(slow)}", "Look at that node's cable, its port's speed, its switch.", data
        )
    if usual < _SLOW_BYTES_PER_S:
        return warning(
            BANDWIDTH,
            told,
            "Below 1 Gbit/s: give each trial workers of one machine only, or put the nodes onto a faster network.",
            data,
        )
    return ok(BANDWIDTH, told, data)


def _bandwidth(nodes: Sequence[Node], python: str, folder: Path, backend: Backend, run: Run) -> Finding:
    replies: dict[str, BandwidthReply | ClusterError] = {}
    for _ in range(_ATTEMPTS):
        port = random.choice(_PORTS)
        requests = {
            node.name: BandwidthRequest(
                rank=rank, nodes=len(nodes), own_address=node.address, meet_at=nodes[0].address, port=port,
                backend=backend, folder=folder,
            )
            for rank, node in enumerate(nodes)
        }  # fmt: skip
        command = [python, "-m", "tuneyard.cluster.doctor.bandwidth"]
        replies = ask_all(requests, nodes, command, BandwidthReply, run, _BANDWIDTH_LIMIT_S)
        if not any("EADDRINUSE" in _error(reply) for reply in replies.values()):
            break
    errors = {name: _error(reply) for name, reply in replies.items() if _error(reply)}
    for name, error in errors.items():
        return failure(
            BANDWIDTH,
            f"{backend} does not work: {name}: {error}",
            "The nodes reach each other at one port. See that no firewall between them lets only some ports through; "
            "with nccl, run it with NCCL_DEBUG=INFO in the nodes' environment file to see more.",
            {"errors": errors},
        )
    done = {name: reply for name, reply in replies.items() if isinstance(reply, BandwidthReply)}
    return judge_bandwidth([node.name for node in nodes], backend, done)


def _error(reply: BandwidthReply | ClusterError) -> str:
    return str(reply) if isinstance(reply, ClusterError) else reply.error or ""


def _cut_off(name: str, names: Sequence[str], broken: Broken) -> bool:
    others = [other for other in names if other != name]
    return all((name, other) in broken and (other, name) in broken for other in others)
