"""A checkpoint's manifest: the small file whose being there makes the checkpoint exist."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from tuneyard.trainers.checkpoints.layout import (
    ALIGNMENT_BYTES,
    DTYPE_NAMES,
    DTYPES,
    PIECE_BYTES,
    TensorPlace,
    TensorSpec,
)
from tuneyard.trainers.checkpoints.state_tree import Json, encode_float, unpack
from tuneyard.trainers.errors import CheckpointError

FORMAT_VERSION = 2

BLOB_NAME = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{8})?")

_MEMORY_DIMS = {"": None, "channels_last": 4, "channels_last_3d": 5}


class DamagedManifestError(CheckpointError):
    """The file is there but is not a manifest; its text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Some consecutive bytes of a part. `name` is their SHA-256 in hexadecimal, perhaps with a suffix."""

    name: str
    size_bytes: int

    @property
    def sha256(self) -> str:
        """The digest that its bytes must have."""
        return self.name[:64]


@dataclass(frozen=True)
class Part:
    """One top-level part of the state: its tensors, the blobs that make up its bytes, and the skeleton of the rest."""

    tensors: tuple[TensorPlace, ...]
    blobs: tuple[Blob, ...]
    skeleton: Json

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all its blobs."""
        return sum(blob.size_bytes for blob in self.blobs)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What made a checkpoint: the number of workers, the project's git commit, and the fingerprint of the data."""

    world_size: int = 1
    git_commit: str | None = None
    git_dirty: bool = False
    data_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one checkpoint holds. `saved_at` (UTC, ISO 8601) is for people: steps order checkpoints, clocks do not."""

    step: int
    epoch: int
    metric: float | None
    saved_at: str
    attempt: int
    facts: RunFacts
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
    def blob_names(self) -> set[str]:
        """The names of the blobs that this checkpoint needs."""
        return {blob.name for part in self.parts.values() for blob in part.blobs}

    def same_content(self, other: "Manifest") -> bool:
        """Do both hold the same state? The time of saving does not count."""
        return replace(self, saved_at="").to_bytes() == replace(other, saved_at="").to_bytes()

    def to_bytes(self) -> bytes:
        """The manifest's file: its body, and the body's own digest, so that no flipped bit goes unseen."""
        body = _canonical(_body(self))
        return b'{"sha256":"%s","body":%s}' % (hashlib.sha256(body).hexdigest().encode(), body)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data`.

    Raises `DamagedManifestError`, or `CheckpointError` where it is of a format that this Tuneyard does not read.
    """
    try:
        document = json.loads(data)
        body = document["body"]
        if document["sha256"] != hashlib.sha256(_canonical(body)).hexdigest():
            raise DamagedManifestError("its digest does not match")
        if body["format"] != FORMAT_VERSION:
            advice = "Upgrade it" if body["format"] > FORMAT_VERSION else "Load it with the Tuneyard that saved it"
            raise CheckpointError(
                f"checkpoint: it is of format {body['format']}; this Tuneyard reads format {FORMAT_VERSION}. {advice}."
            )
        return Manifest(
            step=_whole(body["step"]),
            epoch=_whole(body["epoch"]),
            metric=unpack({}, body["metric"]),
            saved_at=str(body["saved_at"]),
            attempt=_whole(body["attempt"]),
            facts=RunFacts(**body["facts"]),
            parts={name: _parse_part(part) for name, part in body["parts"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedManifestError(f"it cannot be read ({error!r})") from error


def _body(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "metric": None if manifest.metric is None else encode_float(manifest.metric),
        "saved_at": manifest.saved_at,
        "attempt": manifest.attempt,
        "facts": asdict(manifest.facts),
        "parts": {name: _part_body(part) for name, part in manifest.parts.items()},
    }


def _part_body(part: Part) -> dict[str, Any]:
    return {
        "tensors": [
            [place.spec.name, DTYPE_NAMES[place.spec.dtype], place.spec.shape, place.spec.memory, place.offset]
            for place in part.tensors
        ],
        "blobs": [[blob.name, blob.size_bytes] for blob in part.blobs],
        "skeleton": part.skeleton,
    }


def _parse_part(body: Mapping[str, Any]) -> Part:
    # Whoever may write to the bucket may write a digest that fits: nothing here may lead outside of the part's bytes.
    blobs = tuple(Blob(name, _whole(size)) for name, size in body["blobs"])
    tensors = tuple(_parse_tensor(*entry) for entry in body["tensors"])
    part = Part(tensors, blobs, body["skeleton"])
    for blob in blobs:
        if not BLOB_NAME.fullmatch(blob.name) or not 0 < blob.size_bytes <= 2 * PIECE_BYTES:
            raise ValueError(f"{blob.name!r} of {blob.size_bytes} bytes is no blob")
    for place in tensors:
        if place.end > part.size_bytes or place.offset % ALIGNMENT_BYTES:
            raise ValueError(f"tensor {place.spec.name!r} does not lie in its part")
    return part


def _parse_tensor(name: str, dtype: str, shape: list[int], memory: str, offset: int) -> TensorPlace:
    dims = _MEMORY_DIMS[memory]
    if dims is not None and len(shape) != dims:
        raise ValueError(f"tensor {name!r} cannot be {memory}")
    spec = TensorSpec(str(name), DTYPES[dtype], tuple(map(_whole, shape)), memory)
    return TensorPlace(spec, _whole(offset))


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _canonical(body: dict[str, Any]) -> bytes:
    # JSON keeps the order of keys and the exact value of floats, so that a parsed body gives the same bytes again.
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
