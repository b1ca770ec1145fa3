"""Tells Comet and the other trackers what a run does, without making the run wait.

`Tracker` puts messages into a queue; a thread (`link.py`) writes them to a detached process
(`process.py`), which does the rest. A slow, failing or dead tracker never stops or slows training: `problems`
says what went wrong.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tuneyard.trainers.record import Recorded
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.tracking.link import Link
from tuneyard.trainers.tracking.process import Message

_BACKLOG_BYTES = 256 * 2**20  # of images that wait to be written; beyond this, pages are dropped
_DEAD_GRACE_S = 2.0


class TrackedRun(Recorded):
    """Where a run can be found in the trackers; part of the run record."""

    comet_key: str | None = Field(None, description="Comet experiment key: the same for every attempt of a run.")
    comet_mode: Literal["pending", "online", "offline", "off"] = Field(
        "off", description="pending: Comet was asked for, and has not answered yet."
    )
    url: str | None = Field(None, description="The experiment's page, when online.")
    archives: list[str] = Field(default_factory=list, description="Files for `comet upload`, one for each attempt.")
    also: list[str] = Field(default_factory=list, description="The other trackers that hold this run.")


def comet_key(spec: TrialSpec) -> str:
    """The run's Comet key: 40 hex digits that follow from where the run is kept, so that a resumed run has the same."""
    return hashlib.sha256(_where(spec).encode()).hexdigest()[:40]


class Tracker:
    """The training process's end. One object serves many runs, one after another; no call blocks but `close`."""

    def __init__(self) -> None:
        """Start nothing yet: the process comes with the first run that is tracked."""
        self._link: Link | None = None
        self._run: TrackedRun | None = None
        self._number = 0
        self._dropped = 0
        self._problems: list[str] = []

    def begin(self, spec: TrialSpec, previous: TrackedRun | None) -> TrackedRun:
        """Start tracking a run; `previous` is what its record holds from an earlier attempt. Returns at once.

        The resolved experiment and the uncommitted changes are logged with it as `experiment.yaml` and `git.diff`.
        """
        self._number += 1
        self._dropped = 0
        tracking = spec.experiment.tracking
        comet = tracking.comet.mode != "off"
        key = previous.comet_key if previous is not None and previous.comet_key else comet_key(spec)
        self._run = TrackedRun(
            comet_key=key if comet else None,
            comet_mode="pending" if comet else "off",
            url=previous.url if previous is not None else None,
            archives=previous.archives if previous is not None else [],
        )
        if comet or tracking.also:
            self._connect(spec)
            self._send(_begin_message(spec, key, self._number))
        return self._run

    def run(self) -> TrackedRun | None:
        """What is known by now about the run that was begun last."""
        self._collect()
        return self._run

    def process_id(self) -> int | None:
        """The other process, once it has said hello."""
        return (self._link.pid or None) if self._link is not None else None

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, epoch: int) -> None:
        """Log scalars under their own names, such as `train/loss`."""
        values = {name: float(value) for name, value in metrics.items()}
        self._send({"op": "metrics", "values": values, "step": step, "epoch": epoch})

    def log_images(
        self, title: str, images: npt.NDArray[np.uint8], captions: Sequence[str], *, step: int, epoch: int
    ) -> None:
        """Log uint8 images [n,H,W,C] as one page, a caption under each. Dropped when too much is waiting."""
        if images.ndim != 4 or images.dtype != np.uint8 or len(captions) != len(images):
            raise ValueError(f"{len(captions)} captions for {images.dtype} {images.shape}; need n for uint8 [n,H,W,C]")
        if self._link is None or len(images) == 0:
            return
        if self._link.backlog_bytes > _BACKLOG_BYTES:
            self._dropped += 1
            return
        message = {"op": "images", "title": title, "captions": [*captions], "shape": [*images.shape], "step": step}
        self._send(message | {"epoch": epoch}, images.tobytes())

    def log_confusion(self, matrix: npt.NDArray[np.int64], classes: Sequence[str], *, step: int, epoch: int) -> None:
        """Log a confusion matrix [C,C] of counts; rows are the true classes."""
        if matrix.shape != (len(classes), len(classes)):
            raise ValueError(f"a confusion matrix of {len(classes)} classes cannot have the shape {matrix.shape}")
        message = {"op": "confusion", "shape": [*matrix.shape], "classes": [*classes], "step": step, "epoch": epoch}
        self._send(message, matrix.astype("<i8").tobytes())

    def finish(self, status: str | None) -> None:
        """End the run with a word such as `completed`, or with none where another process goes on with it.

        Returns at once; the other process writes the rest.
        """
        if self._dropped:
            self._problems.append(f"{self._dropped} pages of images were dropped: the trackers were too slow for them")
            self._dropped = 0
        self._send({"op": "finish", "status": status})

    def problems(self) -> list[str]:
        """What went wrong since the last call; each problem is told once."""
        self._collect()
        told, self._problems = self._problems, []
        return told

    def close(self, timeout_s: float, progress: Callable[[str], None] | None = None) -> list[str]:
        """Wait until everything is written, for `timeout_s` at most; returns `problems()`.

        `progress` is told, about once a second, that there is something to wait for. When the time is over the other
        process goes on by itself. A later `begin` starts a new one.
        """
        link, self._link = self._link, None
        if link is not None:
            if not link.close(timeout_s, progress):
                self._problems.append(
                    f"the trackers had not taken everything after {timeout_s:.0f} s; "
                    f"process {link.pid} goes on with it in the background"
                )
            self._collect_from(link)
        return self.problems()

    def _connect(self, spec: TrialSpec) -> None:
        if self._link is not None and self._link.broken:
            self._link.close(_DEAD_GRACE_S, None)  # its process is dead: this only takes its last words
            self._collect_from(self._link)
            self._link = None
        if self._link is None:
            self._link = Link(spec.project_dir)

    def _send(self, message: Message, blob: bytes = b"") -> None:
        if self._link is not None:
            self._link.send(message, blob)

    def _collect(self) -> None:
        if self._link is not None:
            self._collect_from(self._link)

    def _collect_from(self, link: Link) -> None:
        for report in link.reports():
            if "problem" in report:
                self._problems.append(report["problem"])
            elif report.get("run") == self._number and self._run is not None:
                archives = sorted({*self._run.archives, *report.get("archives", [])})
                known = {name: report[name] for name in ("comet_mode", "url", "also") if report.get(name) is not None}
                self._run = self._run.model_copy(update=known | {"archives": archives})


def _where(spec: TrialSpec) -> str:
    return f"{spec.store_uri.rstrip('/')}/{spec.prefix}"


def _begin_message(spec: TrialSpec, key: str, number: int) -> Message:
    tracking = spec.experiment.tracking
    resolved = spec.experiment.model_dump(mode="json")
    others: Message = {
        "run_id": spec.run_id,
        "sweep_id": spec.sweep_id,
        "store": f"{spec.store_uri.rstrip('/')}/{spec.prefix}",
    }
    others |= {"git_commit": spec.provenance.commit, "git_dirty": spec.provenance.dirty}
    comet = {
        "mode": tracking.comet.mode,
        "workspace": tracking.comet.workspace,
        "project": tracking.comet.project or spec.experiment.name,
        "directory": f"{spec.tracking_dir}/comet",
    }
    return {
        "op": "begin",
        "run": number,
        "key": key,
        "name": spec.run_id,
        "project": spec.experiment.name,
        "directory": spec.tracking_dir,
        "comet": comet if tracking.comet.mode != "off" else None,
        "also": tracking.also,
        # The search space is the sweep's; this run's parameters are what was drawn from it.
        "parameters": dict(_flatten({name: value for name, value in resolved.items() if name != "tune"})),
        "others": {name: value for name, value in others.items() if value is not None},
        "tags": [tag for tag in (spec.experiment.name, spec.sweep_id) if tag],
        "experiment": resolved,
        "diff": spec.provenance.diff,
        "command": sys.argv,
    }


def _flatten(value: Mapping[str, Any], path: str = "") -> list[tuple[str, bool | int | float | str]]:
    """Nested keys joined by dots; lists as JSON, and None as the word, since trackers know only plain values."""
    flat: list[tuple[str, bool | int | float | str]] = []
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat += _flatten(inner, f"{path}{name}.")
        elif isinstance(inner, bool | int | float | str):
            flat.append((path + name, inner))
        else:
            flat.append((path + name, "none" if inner is None else json.dumps(inner)))
    return flat
