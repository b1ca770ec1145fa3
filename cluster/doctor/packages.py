"""Which packages a machine has, whether they are what tuneyard needs, and whether all machines have the same."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator, Mapping

from tuneyard.cluster.amounts import listed
from tuneyard.cluster.doctor.findings import Finding, failure, ok, warning

NAME = "packages"
PARITY = "same packages"

MUST_AGREE = ("tuneyard", "python", "ray", "torch")
"""Ray refuses a client or worker with another Ray or Python; another torch or tuneyard computes something else."""

_COMPARED = (
    "accelerate", "albumentations", "boto3", "comet-ml", "deepspeed", "numpy", "optuna", "pillow", "pydantic",
    "safetensors", "timm", "torchvision",
)  # fmt: skip
_INSTALL = "Install what the release was tested with: pip install tuneyard -c constraints.txt"


def versions() -> dict[str, str]:
    """Name -> version, of Python and of the packages that matter; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in (*MUST_AGREE, *_COMPARED):
        version = _version(name)
        if version is not None:
            found[name] = version
    return found


def check_packages() -> Iterator[Finding]:
    """Is all there that tuneyard requires, in versions that it allows?"""
    found = versions()
    data = {"versions": found}
    problems = list(_unmet("tuneyard"))
    if problems:
        yield failure(NAME, listed(problems), _INSTALL, data)
    else:
        yield ok(NAME, ", ".join(f"{name} {found.get(name, 'none')}" for name in MUST_AGREE), data)


def compare_versions(nodes: Mapping[str, Mapping[str, str]], client: Mapping[str, str]) -> Iterator[Finding]:
    """The findings about the nodes' versions, by the nodes' names, and about this machine's against them."""
    names = sorted({name for found in nodes.values() for name in found})
    differing = [name for name in names if len({found.get(name) for found in nodes.values()}) > 1]
    among = listed([_difference(name, nodes) for name in differing])
    if any(name in MUST_AGREE for name in differing):
        yield failure(PARITY, f"between the nodes: {among}", _again())
    elif differing:
        yield warning(PARITY, f"between the nodes: {among}", _again())
    common = {name: next(iter(nodes.values())).get(name) for name in names if name not in differing} if nodes else {}
    other = [name for name in MUST_AGREE if name in common and client.get(name) != common[name]]
    if other:
        told = listed([f"{name} {client.get(name, 'none')} here, {common[name]} there" for name in other])
        yield warning(
            PARITY,
            f"between this machine and the nodes: {told}",
            "`tuneyard submit` runs with the nodes' packages. To have the same here, install those versions.",
        )
    elif not differing and nodes:
        yield ok(PARITY, f"{len(common)} packages alike here and on {listed(sorted(nodes))}")


def _again() -> str:
    return "Apply the cluster again (tuneyard up), which installs one set everywhere; or install the same by hand."


def _difference(name: str, nodes: Mapping[str, Mapping[str, str]]) -> str:
    """Such as `torch 2.15.0 (head, w1), 2.14.1 (w2)`, the most frequent version first."""
    by_node = {node: found.get(name, "none") for node, found in nodes.items()}
    kinds = [
        f"{version} ({listed([node for node, one in by_node.items() if one == version], most=4)})"
        for version, _ in Counter(by_node.values()).most_common()
    ]
    return f"{name} {', '.join(kinds)}"


def _unmet(distribution: str) -> Iterator[str]:
    """What a distribution requires and this machine has not, or not in a version that it allows."""
    from packaging.requirements import Requirement

    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        yield f"{distribution} itself is not installed"
        return
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            yield f"{requirement.name} is missing"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is not {requirement.specifier}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
