"""`python -m tuneyard.cluster.doctor.bandwidth`: how fast torch.distributed is between the nodes.

It runs on all nodes at the same time, one process each. First all reduce together, as training does with its
gradients; then each pair sends back and forth, so that one slow link can be named.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import read_config
from tuneyard.cluster.node.environment import ray_environment
from tuneyard.cluster.node.folder import NodeFolder

if TYPE_CHECKING:
    import torch

_FIRST_BYTES = 2**20
_LEAST_BYTES = 2**16
_PAIR_SHARE = 4


class BandwidthRequest(BaseModel):
    """What one node is asked: to be `rank` of `nodes`, who meet at the address of rank 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    nodes: int
    own_address: str
    meet_at: str
    port: int
    backend: Literal["gloo", "nccl"]
    most_bytes: int = 64 * 2**20
    rounds: int = 5
    aim_s: float = Field(3.0, description="On slow links less is sent, so that the rounds take about so long.")
    timeout_s: float = 40.0
    folder: Path | None = Field(None, description="The cluster's folder on the node: the environment is its Ray's.")


class BandwidthReply(BaseModel):
    """What one node measured: all nodes together, and what it sends to each other one, by rank; or the `error`.

    `all_reduce_bytes_per_s` is what NCCL's tests call bus bandwidth: what each link carries, however many nodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sent_bytes: int = 0
    all_reduce_bytes_per_s: float = 0.0
    pairs_bytes_per_s: dict[int, float] = Field(default_factory=dict)
    error: str | None = None


def measure(request: BandwidthRequest) -> BandwidthReply:
    """Join the others, measure, and leave. Raises RuntimeError (also torch's) where they do not come, or are lost."""
    import torch
    import torch.distributed as dist

    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[name] = _interface(request.own_address)
    device = torch.device("cuda", 0) if request.backend == "nccl" else torch.device("cpu")
    if request.backend == "nccl":
        torch.cuda.set_device(0)
    dist.init_process_group(
        request.backend, init_method=f"tcp://{request.meet_at}:{request.port}", rank=request.rank,
        world_size=request.nodes, timeout=timedelta(seconds=request.timeout_s),
    )  # fmt: skip
    try:
        size, rate = _together(request, device)
        return BandwidthReply(
            sent_bytes=size, all_reduce_bytes_per_s=rate, pairs_bytes_per_s=_in_pairs(request, size, device)
        )
    finally:
        dist.destroy_process_group()


def _together(request: BandwidthRequest, device: "torch.device") -> tuple[int, float]:
    """The bytes that were reduced at a time, and the bus bandwidth, by the median round."""
    slow_s = _slowest(_reduce(_FIRST_BYTES, device) for _ in range(2))
    fitting = int(_FIRST_BYTES * request.aim_s / request.rounds / max(slow_s[-1], 1e-6))
    size = max(_LEAST_BYTES, min(request.most_bytes, fitting)) // 4 * 4
    times = sorted(_slowest(_reduce(size, device) for _ in range(request.rounds)))
    share = 2 * (request.nodes - 1) / request.nodes
    return size, share * size / times[len(times) // 2]


def _slowest(times: Iterator[float]) -> list[float]:
    """Of each round the time of the node that took longest, which all nodes learn."""
    import torch
    import torch.distributed as dist

    found = list(times)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor(found, dtype=torch.float64, device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return [float(value) for value in told.tolist()]


def _reduce(size: int, device: "torch.device") -> float:
    """The seconds that one all-reduce of so many bytes takes here."""
    import torch
    import torch.distributed as dist

    data = torch.ones(size // 4, device=device)
    dist.barrier()
    _finish(device)
    begun = time.perf_counter()
    dist.all_reduce(data)
    _finish(device)
    return time.perf_counter() - begun


def _in_pairs(request: BandwidthRequest, size: int, device: "torch.device") -> dict[int, float]:
    """Bytes per second from this node to each other one, while the other pairs send too."""
    import torch
    import torch.distributed as dist

    size = max(_LEAST_BYTES, size // _PAIR_SHARE) // 4 * 4
    data, thanks = torch.ones(size // 4, device=device), torch.ones(1, device=device)
    found: dict[int, float] = {}
    for partners in schedule(request.nodes):
        dist.barrier()
        partner = partners.get(request.rank)
        if partner is None:
            continue
        for sender in sorted((request.rank, partner)):
            _send(thanks, thanks, sender == request.rank, partner)  # opens the connection
            took_s = _send(data, thanks, sender == request.rank, partner)
            if sender == request.rank:
                found[partner] = size / took_s
    dist.barrier()
    return found


def _send(data: "torch.Tensor", thanks: "torch.Tensor", sends: bool, partner: int) -> float:
    """Send `data` to the partner, or take it, until all of it has been thanked for; the seconds that it took."""
    import torch.distributed as dist

    _finish(data.device)
    begun = time.perf_counter()
    if sends:
        dist.send(data, partner)
        dist.recv(thanks, partner)
    else:
        dist.recv(data, partner)
        dist.send(thanks, partner)
    _finish(data.device)
    return time.perf_counter() - begun


def schedule(nodes: int) -> list[dict[int, int]]:
    """Rounds in which each node has one partner, or none, until each pair has met once: the circle method."""
    places: list[int | None] = [*range(nodes), *([None] if nodes % 2 else [])]
    rounds = []
    for _ in range(len(places) - 1):
        met: dict[int, int] = {}
        for one, other in zip(places[: len(places) // 2], reversed(places), strict=False):
            if one is not None and other is not None:
                met |= {one: other, other: one}
        rounds.append(met)
        places = [places[0], places[-1], *places[1:-1]]
    return rounds


def _finish(device: "torch.device") -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def _interface(address: str) -> str:
    """The network interface with this address; RuntimeError where there is none."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == address for entry in entries):
            return name
    raise RuntimeError(f"no network interface here has the address {address}")


def answer(request: BandwidthRequest) -> BandwidthReply:
    """What was measured, in the environment that jobs on this node have; or why nothing was."""
    if request.folder is not None:
        with contextlib.suppress(ClusterError):  # told by the check of this node; the network can be measured without
            os.environ.update(ray_environment(read_config(request.folder), NodeFolder(request.folder)))
    try:
        return measure(request)
    except RuntimeError as error:
        return BandwidthReply(error=" ".join(str(error).split())[:400])


if __name__ == "__main__":
    reply = answer(BandwidthRequest.model_validate(json.load(sys.stdin)))
    sys.stdout.write(f"\n{reply.model_dump_json()}\n")  # in a line of its own: gloo prints too
