"""What differs between this machine and a cluster's nodes, and what is done about it."""

import pytest

from tuneyard.launch.jobs.parity import Found, compare, this_machine

PACKAGES = {"tuneyard": "0.5.0", "ray": "2.60.0", "torch": "2.15.0+cu128"}


def found(name: str, python: str = "3.11.9", code: str | None = "abc", **versions: str) -> Found:
    return Found(name, python, PACKAGES | versions, code, head=name == "head")


HERE = found("here")


def test_equal_is_equal_whatever_it_was_built_for() -> None:
    parity = compare(HERE, [found("head", torch="2.15.0+cpu"), found("w1", torch="2.15.0")])
    assert (parity.refusals, parity.warnings, parity.send_code) == ([], [], False)


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([found("head", ray="2.58.1")], r"Ray: 2.60.0 here, 2.58.1 on head. Run: pip install 'ray==2.58.1'"),
        ([found("head", "3.12.1")], r"Python: 3.11.9 here, 3.12.1 on head. Use a Python 3.12 here"),
        ([found("head"), found("w1", ray="2.61.0")], r"Ray: 2.60.0 here, 2.61.0 on w1. The nodes differ among"),
    ],
)
def test_what_breaks_a_job_is_refused_with_what_to_do(nodes: list[Found], told: str) -> None:
    refusals = compare(HERE, nodes).refusals
    assert len(refusals) == 1
    assert told in refusals[0]


def test_what_a_result_may_depend_on_is_told_with_the_nodes_that_have_it() -> None:
    workers = [found(f"w{number}", torch="2.14.1") for number in range(5)]
    parity = compare(HERE, [found("head", "3.11.2"), *workers])
    assert parity.refusals == []
    assert parity.warnings == [
        "Python: 3.11.9 here, 3.11.2 on head",
        "torch: 2.15.0+cu128 here, 2.14.1 on w0, w1, w2 and 2 more".replace("+cu128", ""),
    ]


def test_a_missing_package_is_told() -> None:
    head = Found("head", "3.11.9", {"tuneyard": "0.5.0", "ray": "2.60.0"}, "abc", head=True)
    assert compare(HERE, [head]).warnings == ["torch: 2.15.0 here, missing on head"]


@pytest.mark.parametrize("code", ["other", None])
def test_our_code_is_sent_where_a_node_has_another(code: str | None) -> None:
    assert compare(HERE, [found("head"), found("w1", code=code)]).send_code


def test_a_node_that_does_not_answer_is_told_and_judged_by_nothing_else() -> None:
    parity = compare(HERE, [found("head"), Found("w1", "", {})])
    assert parity.refusals == []
    assert parity.warnings == ["w1 did not answer within 60 s: is it busy, or gone?"]
    assert not parity.send_code


def test_this_machine_has_a_digest_of_its_code_and_its_packages() -> None:
    here = this_machine()
    assert here.version("ray")
    assert here.code
