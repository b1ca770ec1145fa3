"""Package versions on one machine, and the same on all."""

import importlib.metadata

import pytest

from tuneyard.cluster.doctor.findings import Result
from tuneyard.cluster.doctor.packages import check_packages, compare_versions, versions

ALL = {"tuneyard": "0.1.0", "python": "3.11.9", "ray": "2.60.0", "torch": "2.15.0", "numpy": "2.4"}


def test_this_installation_has_what_it_needs() -> None:
    (found,) = check_packages()
    assert found.result is Result.OK, found.found
    assert found.data["versions"] == versions()


def test_what_is_missing_or_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["torch>=99", "nobody-made-this>=1", 'other-system>=1; sys_platform == "none"', "pytest>=1; extra == 'x'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    (found,) = check_packages()
    assert found.result is Result.FAILURE
    assert "is not >=99, nobody-made-this is missing" in found.found
    assert "other-system" not in found.found


def test_the_same_everywhere() -> None:
    (found,) = compare_versions({"head": ALL, "w1": ALL}, ALL)
    assert found.result is Result.OK
    assert found.found == "5 packages alike here and on head, w1"


@pytest.mark.parametrize(("name", "result"), [("torch", Result.FAILURE), ("numpy", Result.WARNING)])
def test_a_node_that_differs_is_named(name: str, result: Result) -> None:
    (found,) = compare_versions({"head": ALL, "w1": ALL | {name: "1.0"}, "w2": ALL}, ALL)
    assert found.result is result
    assert f"{name} {ALL[name]} (head, w2), 1.0 (w1)" in found.found


def test_a_package_that_one_node_lacks() -> None:
    without = {name: version for name, version in ALL.items() if name != "ray"}
    (found,) = compare_versions({"head": ALL, "w1": without}, ALL)
    assert found.result is Result.FAILURE
    assert "ray 2.60.0 (head), none (w1)" in found.found


def test_a_client_that_differs_is_only_warned() -> None:
    (found,) = compare_versions({"head": ALL, "w1": ALL}, ALL | {"ray": "2.59.0"})
    assert found.result is Result.WARNING
    assert "ray 2.59.0 here, 2.60.0 there" in found.found
