"""The program that measures torch.distributed between nodes."""

import socket
import subprocess
import sys
from itertools import combinations

import pytest

from tuneyard.cluster.doctor.bandwidth import BandwidthReply, BandwidthRequest, schedule


@pytest.mark.parametrize("nodes", [2, 3, 4, 7, 8])
def test_each_pair_meets_once(nodes: int) -> None:
    met = []
    for partners in schedule(nodes):
        assert all(partners[other] == one for one, other in partners.items())
        met += [(one, other) for one, other in partners.items() if one < other]
    assert sorted(met) == list(combinations(range(nodes), 2))


def start(request: BandwidthRequest) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tuneyard.cluster.doctor.bandwidth"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(request.model_dump_json())
    process.stdin.close()
    process.stdin = None
    return process


def request(rank: int, port: int, *, nodes: int = 2, timeout_s: float = 40.0) -> BandwidthRequest:
    return BandwidthRequest(
        rank=rank, nodes=nodes, own_address="127.0.0.1", meet_at="127.0.0.1", port=port, backend="gloo",
        most_bytes=2**20, aim_s=0.5, timeout_s=timeout_s,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_partner_that_does_not_come_is_an_error() -> None:
    process = start(request(0, free_port(), timeout_s=1.0))
    said, _ = process.communicate(timeout=100)
    assert BandwidthReply.model_validate_json(said.splitlines()[-1]).error
