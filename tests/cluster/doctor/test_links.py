"""The program that looks at the ways between nodes, run for several addresses of this machine's own loopback."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

from tuneyard.cluster.doctor.links import LinksReply, LinksRequest, look

ADDRESSES = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def looked(running: str, *, wait_s: float) -> dict[str, LinksReply]:
    port = free_port()
    requests = {
        name: LinksRequest(
            address=ADDRESSES[name], others={other: ADDRESSES[other] for other in ADDRESSES if other != name},
            port=port, wait_s=wait_s,
        )
        for name in running
    }  # fmt: skip
    with ThreadPoolExecutor() as pool:
        return dict(zip(requests, pool.map(look, requests.values()), strict=True))


def test_all_reach_all_and_their_clock_is_one() -> None:
    begun = time.monotonic()
    found = looked("abc", wait_s=60.0)
    assert time.monotonic() - begun < 30.0, "they wait no longer than until all have asked"
    for name, reply in found.items():
        assert set(reply.links) == set(ADDRESSES) - {name}
        for link in reply.links.values():
            assert link.error is None
            assert abs(link.offset_s) <= link.bound_s + 1e-3
            assert link.bound_s < 5.0


def test_a_node_that_does_not_answer_is_named_by_the_others() -> None:
    found = looked("ab", wait_s=0.5)
    assert found["a"].links["b"].error is None
    for name in "ab":
        assert "refused" in str(found[name].links["c"].error)


def test_a_port_that_another_program_has_is_told() -> None:
    with socket.socket() as other:
        other.bind((ADDRESSES["a"], 0))
        other.listen()
        port = other.getsockname()[1]
        assert look(LinksRequest(address=ADDRESSES["a"], others={}, port=port)).port_taken


def test_an_address_that_this_machine_has_not() -> None:
    reply = look(LinksRequest(address="192.0.2.7", others={"b": ADDRESSES["b"]}, port=free_port()))
    assert "this machine has no address 192.0.2.7" in str(reply.links["b"].error)
