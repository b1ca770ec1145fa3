"""Joining and leaving a group of workers."""

import os
import socket

import psutil
import pytest
import torch
import torch.distributed as dist

from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.parallel.process_group import VARIABLES


def test_a_process_joins_works_and_leaves_without_a_trace() -> None:
    before = dict(os.environ)
    for _ in range(2):
        process_group.join(
            rank=0, world_size=1, local_rank=0, local_world_size=1, address="127.0.0.1",
            port=process_group.free_port(), backend="gloo", interface_address="127.0.0.1", timeout_s=20.0,
        )  # fmt: skip
        assert process_group.joined()
        assert set(VARIABLES) <= os.environ.keys()
        assert "127.0.0.1" in {found.address for found in psutil.net_if_addrs()[os.environ["GLOO_SOCKET_IFNAME"]]}
        total = torch.ones(3)
        dist.all_reduce(total)
        assert total.tolist() == [1.0, 1.0, 1.0]
        with pytest.raises(RuntimeError, match="leave it first"):
            process_group.join(
                rank=0, world_size=1, local_rank=0, local_world_size=1, address="127.0.0.1", port=1, backend="gloo",
            )  # fmt: skip
        process_group.leave()
        assert not process_group.joined()
        assert dict(os.environ) == before


def test_a_group_of_one_needs_no_meeting_place() -> None:
    process_group.join_alone("gloo")
    total = torch.ones(3)
    dist.all_reduce(total)
    assert (dist.get_world_size(), total.tolist()) == (1, [1.0, 1.0, 1.0])
    process_group.leave()
    assert not process_group.joined()


def test_a_free_port_can_be_listened_on() -> None:
    port = process_group.free_port("127.0.0.1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no network interface here has the address 203\.0\.113\.9; .*127\.0\.0\.1"):
        process_group.interface_with("203.0.113.9")


def test_without_a_gpu_for_each_worker_they_talk_by_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [process_group.backend_here(workers, cpu=False) for workers in (1, 2, 3)] == ["nccl", "nccl", "gloo"]
    assert process_group.backend_here(1, cpu=True) == "gloo"
