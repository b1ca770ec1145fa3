"""A checkpoint's manifest: the small file whose being there makes the checkpoint exist."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tuneyard.trainers.checkpoints.state_tree import Json, encode_float, unpack
from tuneyard.trainers.errors import CheckpointError

FORMAT_VERSION = 1


class DamagedManifestError(CheckpointError):
    """The file is there but is not a manifest; its text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Part:
    """One top-level part of the state: where its tensors lie, and the skeleton of the rest."""

    key: str
    size_bytes: int
    sha256: str
    skeleton: Json


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one checkpoint holds. `saved_at` is for people: steps order checkpoints, clocks do not."""

    step: int
    epoch: int
    metric: float | None
    saved_at: str
    parts: Mapping[str, Part]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors, without the manifest."""
        return sum(part.size_bytes for part in self.parts.values())

    @property
    def score(self) -> float | None:
        """The metric, where it is a number that can be compared."""
        return self.metric if self.metric is not None and math.isfinite(self.metric) else None

    @property
    def blobs(self) -> set[str]:
        """The keys of the blobs that this checkpoint needs."""
        return {part.key for part in self.parts.values()}

    def same_content(self, other: "Manifest") -> bool:
        """Do both hold the same state? The time of saving does not count."""
        return replace(self, saved_at="").to_bytes() == replace(other, saved_at="").to_bytes()

    def to_bytes(self) -> bytes:
        """The manifest's file: its body, and the body's own digest, so that no flipped bit goes unseen."""
        body = _body(self)
        return json.dumps({"sha256": _digest(body), "body": body}, allow_nan=False, separators=(",", ":")).encode()


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data`; raises `DamagedManifestError`, or `CheckpointError` where a newer Tuneyard wrote it."""
    try:
        document = json.loads(data)
        body = document["body"]
        if document["sha256"] != _digest(body):
            raise DamagedManifestError("its digest does not match")
        if body["format"] > FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint: it is of format {body['format']}; this Tuneyard reads up to {FORMAT_VERSION}. Upgrade it."
            )
        return Manifest(
            step=body["step"],
            epoch=body["epoch"],
            metric=unpack({}, body["metric"]),
            saved_at=body["saved_at"],
            parts={name: Part(**part) for name, part in body["parts"].items()},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedManifestError(f"it cannot be read ({error!r})") from error


def _body(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "metric": None if manifest.metric is None else encode_float(manifest.metric),
        "saved_at": manifest.saved_at,
        "parts": {name: asdict(part) for name, part in manifest.parts.items()},
    }


def _canonical(body: dict[str, Any]) -> bytes:
    # JSON keeps the order of keys and the exact value of floats, so that a parsed body gives the same bytes again.
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()
