"""`python -m tuneyard.launch.doctor.here`: the doctor on one machine; what to look at comes in on standard input.

The doctor runs it on a cluster's nodes; on the user's own machine it calls `examine`. What it answers is one line.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuneyard.cluster.doctor.checkup import Check, run_checks
from tuneyard.cluster.doctor.cuda import NAME as TORCH
from tuneyard.cluster.doctor.cuda import PROBE_LIMIT_S, check_cuda
from tuneyard.cluster.doctor.disk import Place, check_disks
from tuneyard.cluster.doctor.driver import NAME as DRIVER
from tuneyard.cluster.doctor.driver import SMI_LIMIT_S, check_driver
from tuneyard.cluster.doctor.findings import Finding, Report, failure, not_applicable
from tuneyard.cluster.doctor.memory import MAIN, check_memory
from tuneyard.cluster.doctor.packages import NAME as PACKAGES
from tuneyard.cluster.doctor.packages import check_packages
from tuneyard.cluster.doctor.ray_node import RUNNING, check_ray
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig, read_config
from tuneyard.cluster.node.environment import ray_environment, read_environment_file
from tuneyard.cluster.node.folder import NodeFolder
from tuneyard.launch.doctor.comet import NAME as COMET
from tuneyard.launch.doctor.comet import check_comet
from tuneyard.launch.doctor.store import NAME as S3
from tuneyard.launch.doctor.store import StorePlace, check_store
from tuneyard.trainers.stores.s3_options import S3Options

SETTINGS = "node's settings"
_GRACE_S = 10.0
"""Beyond what the checks' own programs may take, so that their own words are heard."""

_STORE_LIMIT_S = 180.0
_DEFAULT_CACHE = "~/.cache/tuneyard"


class Examination(BaseModel):
    """What to look at on a machine.

    `folder`: the cluster's, on a node of one. `store` None: no store is known. `s3`: the fields of `S3Options`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = None
    store: str | None = None
    s3: dict[str, Any] = Field(default_factory=dict)
    cache_dir: str | None = None
    comet_mode: str = "auto"

    def place(self, *, on_node: bool, ours: bool) -> StorePlace | None:
        """The store, as it is looked at from a machine."""
        if self.store is None:
            return None
        return StorePlace(self.store, S3Options(**self.s3), on_node=on_node, ours=ours)


def s3_fields(options: S3Options) -> dict[str, Any]:
    """For `Examination.s3`."""
    return asdict(options)


def examine(wanted: Examination) -> Report:
    """Look at this machine. On a node, with the environment that Ray and its jobs have there."""
    findings: list[Finding] = []
    config, folder = None, None
    if wanted.folder is not None:
        folder = NodeFolder(wanted.folder)
        try:
            config = read_config(wanted.folder)
            _take_environment(config, folder)
        except ClusterError as error:
            findings.append(failure(SETTINGS, str(error), "Ray here does not start with that; see the text."))
    findings += run_checks(list(_checks(wanted, config, folder)))
    return Report(machine=config.node_name if config is not None else socket.gethostname(), findings=findings)


def _take_environment(config: NodeConfig, folder: NodeFolder) -> None:
    """As Ray and its jobs have it here. Raises `ClusterError`; the user's own file is taken even then, if it can be."""
    if config.environment_file is not None:
        os.environ.update(read_environment_file(config.environment_file))
    os.environ.update(ray_environment(config, folder))


def _checks(wanted: Examination, config: NodeConfig | None, folder: NodeFolder | None) -> Iterator[Check]:
    yield Check(PACKAGES, check_packages)
    yield Check(DRIVER, check_driver, SMI_LIMIT_S + _GRACE_S)
    yield Check(TORCH, check_cuda, SMI_LIMIT_S + PROBE_LIMIT_S + _GRACE_S)
    yield Check(MAIN, check_memory)
    yield Check("disk", lambda: check_disks(_places(wanted, config, folder)))
    yield Check(S3, lambda: _store(wanted, config), _STORE_LIMIT_S)
    yield Check(COMET, lambda: check_comet(wanted.comet_mode))
    if config is not None and folder is not None:
        yield Check(RUNNING, lambda: check_ray(config, folder))


def _store(wanted: Examination, config: NodeConfig | None) -> Iterator[Finding]:
    place = wanted.place(on_node=wanted.folder is not None, ours=config is not None and config.kind == "aws")
    if place is None:
        yield not_applicable(S3, "no store is known: name an experiment file, or a cluster that has one")
    else:
        yield from check_store(place)


def _places(wanted: Examination, config: NodeConfig | None, folder: NodeFolder | None) -> list[Place]:
    """The folders that a run writes to on this machine."""
    places = [Place("image cache", Path(wanted.cache_dir or _DEFAULT_CACHE))]
    if config is not None and folder is not None:
        places.append(Place("Ray", folder.ray_temp(config), ray=True))
    else:
        places.append(Place("Ray", Path("/tmp/ray"), ray=True))  # noqa: S108  (Ray's own default)
    if wanted.store is not None and wanted.store.startswith("file://"):
        places.append(Place("store", Path(wanted.store.removeprefix("file://"))))
    return places


if __name__ == "__main__":
    report = examine(Examination.model_validate(json.load(sys.stdin)))
    sys.stdout.write(f"{report.model_dump_json()}\n")
