import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tuneyard.trainers.checkpoints.layout import TensorPlace, TensorSpec
from tuneyard.trainers.checkpoints.manifest import (
    Blob,
    DamagedManifestError,
    Manifest,
    Part,
    RunFacts,
    parse_manifest,
)
from tuneyard.trainers.errors import CheckpointError

PART = Part(
    (TensorPlace(TensorSpec("w", torch.float32, (2, 3)), 0), TensorPlace(TensorSpec("s", torch.int64, ()), 64)),
    (Blob("a" * 64, 64), Blob(f"{'b' * 64}-01234567", 28)),
    {"dict": {"w": {"tensor": "w"}, "s": {"tensor": "s"}}},
)
MANIFEST = Manifest(7, 1, float("inf"), "2026-01-01T00:00:00+00:00", 3, RunFacts(2, "c0ffee", True, "d1"), {"m": PART})


def forged(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A manifest that somebody changed, and gave the digest that fits."""
    body = json.loads(MANIFEST.to_bytes())["body"]
    change(body)
    digest = hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()
    return json.dumps({"sha256": digest, "body": body}).encode()


def test_what_is_written_is_read() -> None:
    assert parse_manifest(MANIFEST.to_bytes()) == MANIFEST


def test_a_time_of_saving_is_no_content() -> None:
    data = forged(lambda body: body.update(saved_at="2027-01-01T00:00:00+00:00"))
    assert parse_manifest(data).same_content(MANIFEST)
    assert not parse_manifest(forged(lambda body: body.update(epoch=2))).same_content(MANIFEST)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused_by_its_number(version: int) -> None:
    with pytest.raises(CheckpointError, match=f"of format {version}; this Tuneyard reads format 2"):
        parse_manifest(forged(lambda body: body.update(format=version)))


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["blobs"][0].__setitem__(0, "../../secrets"),
        lambda part: part["blobs"][0].__setitem__(1, 2**40),
        lambda part: part["blobs"][0].__setitem__(1, -1),
        lambda part: part["blobs"].pop(),
        lambda part: part["tensors"][0].__setitem__(4, 2**30),
        lambda part: part["tensors"][0].__setitem__(4, -64),
        lambda part: part["tensors"][1].__setitem__(4, 3),
        lambda part: part["tensors"][0].__setitem__(1, "object"),
        lambda part: part["tensors"][0].__setitem__(2, [-2, -3]),
        lambda part: part["tensors"][0].__setitem__(3, "channels_last"),
        lambda part: part.pop("skeleton"),
    ],
)
def test_a_forged_manifest_leads_nowhere(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(DamagedManifestError):
        parse_manifest(forged(lambda body: change(body["parts"]["m"])))
