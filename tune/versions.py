"""What the nodes of a Ray cluster have installed. `main` runs as a script on the head.

It is sent as text to nodes that may have another tuneyard, or none: so it imports nothing of ours, and Ray only there.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

MARK = "TUNEYARD-NODES "
"""Begins the line that `main` prints."""
PACKAGES = (
    "tuneyard", "ray", "torch", "torchvision", "accelerate", "deepspeed", "albumentations", "timm", "numpy", "boto3",
)  # fmt: skip
ROOMS = ("cluster", "launch", "trainers", "tune")
KEYS = ("COMET_API_KEY",)
"""Variables of which a node says whether it has them."""
PATIENCE_S = 60.0


def installed() -> dict[str, Any]:
    """What this process finds: `python`, `packages` (name -> version), `code` (a digest of ours), `keys` (names)."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "code": code_digest(),
        "keys": [name for name in KEYS if os.environ.get(name)],
    }


def code_digest() -> str | None:
    """A digest of tuneyard's code as it is imported here: versions alone do not tell two working copies apart."""
    digest = hashlib.sha256()
    for room in ROOMS:
        try:
            spec = importlib.util.find_spec(f"tuneyard.{room}")
        except ModuleNotFoundError:
            return None
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{room}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def main() -> None:
    """Ask every node, and print one line: MARK, and for each node its name, whether it is the head, and its answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    here = ray.get_runtime_context().get_node_id()
    ask = ray.remote(num_cpus=0)(installed)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        node["NodeID"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    }
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PATIENCE_S)
    found = []
    for node in nodes:
        answer: dict[str, Any] | None = None
        if asked[node["NodeID"]] in ready:
            try:
                answer = ray.get(asked[node["NodeID"]])
            except Exception as error:  # noqa: BLE001  (whatever Ray says, the node has not answered)
                sys.stderr.write(f"{node['NodeName']}: {error}\n")
        found.append(
            {"name": node["NodeName"], "address": node["NodeManagerAddress"], "head": node["NodeID"] == here}
            | {"resources": node["Resources"], "installed": answer}
        )
    sys.stdout.write(f"{MARK}{json.dumps(found)}\n")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
