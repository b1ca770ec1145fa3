"""What the nodes of a cluster have installed against what is installed here, told before a job is sent."""

import json
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tuneyard.cluster.access.connection import Connection
from tuneyard.cluster.errors import ClusterError
from tuneyard.launch.jobs.jobs import CHECK, Job, forget_job, read_job, read_log
from tuneyard.tune.versions import MARK, PATIENCE_S, installed

BREAKING = {"Python": 2, "ray": 2}
"""Parts of the version that must be the same: the head, its workers and we talk to each other."""
TOLD = ("torch", "torchvision", "accelerate", "deepspeed", "albumentations", "timm", "numpy")
"""Packages that a result may depend on."""
START_S = 120.0
_POLL_S = 0.5
_SCRIPT = "tuneyard_versions.py"


@dataclass(frozen=True, slots=True)
class Found:
    """One node, or this machine. `keys`: environment variables that are set there, of those asked for."""

    name: str
    python: str
    packages: dict[str, str]
    code: str | None = None
    keys: tuple[str, ...] = ()
    head: bool = False
    cpus: float = 0.0
    gpus: float = 0.0

    def version(self, what: str) -> str | None:
        """Of Python or a package, without its local part (`+cu128`)."""
        found = self.python if what == "Python" else self.packages.get(what)
        return None if found is None else found.partition("+")[0]


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison. With `refusals` no job should run; `send_code`: the nodes have another tuneyard, or none."""

    refusals: list[str]
    warnings: list[str]
    send_code: bool


def this_machine() -> Found:
    """What is installed here."""
    return _found("here", installed())


def ask_nodes(connection: Connection) -> list[Found]:
    """What every node has, by a job that asks each of them; takes some seconds. The head comes first.

    Raises:
        ClusterError: the head cannot run it, or its answer makes no sense; with what it printed.
    """
    from tuneyard.launch.jobs.client import submit_job  # imports Ray

    job_id = f"{CHECK}-{time.time_ns():x}"
    entrypoint = shlex.join([connection.inventory.python, _SCRIPT])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _SCRIPT).write_text(files("tuneyard.tune").joinpath("versions.py").read_text())
        submit_job(connection, job_id, entrypoint, folder=Path(folder), modules=[], environment={}, metadata={})
    job = _wait(connection, job_id)
    log = read_log(connection, job_id)
    forget_job(connection, job_id)
    lines = [line for line in log.splitlines() if line.startswith(MARK)]
    if job.status != "succeeded" or not lines:
        said = log.strip() or job.message
        raise ClusterError(f"The head of cluster {connection.inventory.name} cannot look at its nodes:\n{said}")
    nodes = [_node(plain) for plain in json.loads(lines[-1].removeprefix(MARK))]
    return sorted(nodes, key=lambda node: (not node.head, node.name))


def compare(here: Found, nodes: Sequence[Found]) -> Parity:
    """What differs between this machine, the head (the first of `nodes`) and the workers."""
    refusals = [text for what, parts in BREAKING.items() if (text := _breaks(what, parts, here, nodes))]
    warnings = [text for what in (*BREAKING, *TOLD) if (text := _differs(what, here, nodes)) and not refusals]
    warnings += [
        f"{node.name} did not answer within {PATIENCE_S:g} s: is it busy, or gone?" for node in nodes if not node.python
    ]
    send = any(node.code != here.code for node in nodes if node.python)
    return Parity(refusals, warnings, send)


def _breaks(what: str, parts: int, here: Found, nodes: Sequence[Found]) -> str | None:
    def cut(found: Found) -> str | None:
        version = found.version(what)
        return None if version is None else ".".join(version.split(".")[:parts])

    others = [node for node in nodes if node.python and cut(node) != cut(here)]
    if not others:
        return None
    theirs = _listed(what, others)
    name = "Ray" if what == "ray" else what
    if len({cut(node) for node in nodes if node.python}) > 1:
        advice = "The nodes differ among themselves: apply the cluster again (tuneyard up), so that all are alike."
    elif what == "ray":
        advice = f"Run: pip install 'ray=={others[0].version(what)}', or apply the cluster again with what is here."
    else:
        advice = f"Use a Python {cut(others[0])} here, or give the nodes one like this (tuneyard up)."
    return f"{name}: {here.version(what) or 'missing'} here, {theirs}. {advice}"


def _differs(what: str, here: Found, nodes: Sequence[Found]) -> str | None:
    others = [node for node in nodes if node.python and node.version(what) != here.version(what)]
    return f"{what}: {here.version(what) or 'missing'} here, {_listed(what, others)}" if others else None


def _listed(what: str, nodes: Sequence[Found]) -> str:
    """Such as `2.9.0 on head, w1 and 3 more`."""
    by_version: dict[str, list[str]] = {}
    for node in nodes:
        by_version.setdefault(node.version(what) or "missing", []).append(node.name)
    return ", ".join(f"{version} on {_some(names)}" for version, names in by_version.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _wait(connection: Connection, job_id: str) -> Job:
    deadline = time.monotonic() + START_S + PATIENCE_S
    while not (job := read_job(connection, job_id)).over:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"Cluster {connection.inventory.name} did not start a first job within {START_S + PATIENCE_S:g} s. Its "
                f"head may be overloaded: tuneyard status --cluster {connection.inventory.name}"
            )
        time.sleep(_POLL_S)
    return job


def _node(plain: dict[str, Any]) -> Found:
    answer = plain["installed"] or {"python": "", "packages": {}, "code": None, "keys": []}
    return _found(plain["name"], answer, head=plain["head"], resources=plain["resources"])


def _found(
    name: str, answer: dict[str, Any], *, head: bool = False, resources: dict[str, float] | None = None
) -> Found:
    there = resources or {}
    return Found(
        name, answer["python"], answer["packages"], answer["code"], tuple(answer["keys"]), head, there.get("CPU", 0.0),
        there.get("GPU", 0.0),
    )  # fmt: skip
