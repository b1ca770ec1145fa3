"""The process group of a run's workers: one process joins it, keeps it over several runs, and leaves it.

torch is imported where it is needed: the process that starts the workers asks for a port alone.
"""

import logging
import os
import socket
import sys
from datetime import timedelta
from typing import Literal

import psutil

Backend = Literal["gloo", "nccl"]

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""torchrun's variables. Accelerate and DeepSpeed read them, besides torch."""

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

log = logging.getLogger(__name__)


def join(
    *, rank: int, world_size: int, local_rank: int, local_world_size: int, address: str, port: int, backend: Backend,
    interface_address: str | None = None, timeout_s: float = 600.0,
) -> None:  # fmt: skip
    """Join the group that worker 0 opens at `address`:`port`; returns once all `world_size` workers are there.

    `local_rank` counts the workers of this machine, `local_world_size` of them. With `interface_address`, an address
    of this machine, workers talk over that network interface alone. Two workers on one GPU need the backend gloo.
    `timeout_s` also bounds the wait for a worker that is late with its part of an exchange. Raises RuntimeError (also
    torch's) where this process is in a group already, or the others do not come.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        raise RuntimeError("this process is in a process group already; leave it first")
    _announce(rank, world_size, local_rank, local_world_size, address, port)
    if interface_address is not None:
        for name in INTERFACES:
            os.environ[name] = interface_with(interface_address)
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        backend, init_method="env://", rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )
    log.info("worker %d of %d joined by %s at %s:%d", rank, world_size, backend, address, port)


def join_alone(backend: Backend) -> None:
    """A group of this process alone, for what cannot do without one; nobody else can join."""
    import torch.distributed as dist

    _announce(0, 1, 0, 1, "127.0.0.1", 0)
    dist.init_process_group(
        backend,
        store=dist.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
    )


def leave() -> None:
    """Leave the group, if any. The other workers are not waited for."""
    import torch.distributed as dist

    deepspeed = sys.modules.get("deepspeed.comm")
    if deepspeed is not None and deepspeed.is_initialized() and dist.is_initialized():
        # DeepSpeed, if anything has imported it, forgets the groups that it derived from this one.
        deepspeed.destroy_process_group()
    elif dist.is_initialized():
        dist.destroy_process_group()
    for name in (*VARIABLES, *INTERFACES):
        os.environ.pop(name, None)


def joined() -> bool:
    """Is this process in a group?"""
    import torch.distributed as dist

    return bool(dist.is_initialized())


def is_broken_link(error: BaseException) -> bool:
    """Did another worker not do its part? gloo says so with a plain RuntimeError that names its own source."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def backend_here(local_world_size: int, *, cpu: bool) -> Backend:
    """How the `local_world_size` workers of this machine can talk: by nccl, where each has a GPU of its own."""
    import torch

    return "nccl" if not cpu and torch.cuda.device_count() >= local_world_size else "gloo"


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at this machine's `address` at this moment."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def interface_with(address: str) -> str:
    """The name of this machine's network interface that has `address`; raises ValueError where none has."""
    interfaces = psutil.net_if_addrs()
    for name, addresses in interfaces.items():
        if any(found.address.split("%")[0] == address for found in addresses):
            return name
    known = sorted(found.address for addresses in interfaces.values() for found in addresses if "." in found.address)
    raise ValueError(f"no network interface here has the address {address}; there are {', '.join(known)}")


def _announce(rank: int, world_size: int, local_rank: int, local_world_size: int, address: str, port: int) -> None:
    import torch

    # Accelerate and DeepSpeed take LOCAL_RANK for the device's number, and a process may be shown its own device alone.
    local_rank %= torch.cuda.device_count() or local_world_size
    values = (rank, local_rank, world_size, local_world_size, address, port)
    os.environ.update({name: str(value) for name, value in zip(VARIABLES, values, strict=True)})
