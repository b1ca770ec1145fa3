import math
from itertools import pairwise

import pytest
import torch

from tests.trainers.checkpoints.memory_store import MemoryStore
from tests.trainers.checkpoints.saves import PREFIX
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.layout import (
    ALIGNMENT_BYTES,
    LARGE_BYTES,
    PIECE_BYTES,
    Layout,
    TensorSpec,
    lay_out,
    specs_of,
)
from tuneyard.trainers.errors import CheckpointError
from tuneyard.trainers.stores.store import Bytes


def floats(*counts: int) -> Layout:
    return lay_out([TensorSpec(str(number), torch.float32, (count,)) for number, count in enumerate(counts)])


def sizes(layout: Layout) -> list[int]:
    return [end - start for start, end in zip((0, *layout.ends), layout.ends, strict=False)]


def test_no_two_tensors_overlap() -> None:
    layout = floats(1, 0, 500_000, 3, 7_000_000, 17, 262_144)
    ordered = sorted(layout.places, key=lambda place: (place.offset, place.end))
    assert all(before.end <= after.offset for before, after in pairwise(ordered))
    assert all(place.offset % ALIGNMENT_BYTES == 0 for place in ordered)
    assert layout.size_bytes >= ordered[-1].end


def test_large_tensors_have_blobs_of_their_own_and_small_ones_share() -> None:
    layout = floats(10, LARGE_BYTES // 4, 10, LARGE_BYTES // 2)
    assert sizes(layout) == [128, LARGE_BYTES, 2 * LARGE_BYTES]


def test_tensors_share_with_those_of_their_size() -> None:
    small, middle = 2**15, 2**18
    layout = floats(*[count for _ in range(10) for count in (small, middle // 2, middle)])
    assert sizes(layout) == [2**20, 2**18, *[2**20] * 5, *[2**20] * 10]


def test_small_tensors_that_fill_no_blob_go_with_the_next() -> None:
    layout = floats(16, 2**16, 16, 2**16, 16)
    assert sizes(layout) == [2 * 2**18 + 3 * 64]


@pytest.mark.parametrize(("size_mb", "blobs"), [(40, 40), (96, 48), (960, 240)])
def test_in_a_large_state_more_of_them_share_a_blob(size_mb: int, blobs: int) -> None:
    assert len(sizes(floats(*[2**18] * size_mb))) == blobs


@pytest.mark.parametrize("size_mb", [15, 16, 17, 24, 100, 1000])
def test_very_large_tensors_are_cut_into_8_to_16_mib(size_mb: int) -> None:
    cut = sizes(floats(size_mb * 2**18 + 3))
    assert sum(cut) == math.ceil((size_mb * 2**20 + 12) / ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    assert all(PIECE_BYTES * 0.99 <= size <= 2 * PIECE_BYTES for size in cut)


def test_a_state_without_tensors_has_no_blobs() -> None:
    assert lay_out([]).ends == ()
    assert floats(0).ends == ()


def test_a_dtype_that_no_checkpoint_holds_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"tensor w is of torch\.complex128\. Allowed: bfloat16, "):
        specs_of({"w": torch.zeros(1, dtype=torch.complex128)})


def test_of_a_state_that_is_nine_tenths_unchanged_little_is_sent_again() -> None:
    sent: list[int] = []

    class Counting(MemoryStore):
        def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
            sent.append(len(data))
            super().put(key, data, sha256=sha256)

    # Large and small ones, as the layers of a network have them, with an optimizer's state of twice the size.
    shapes = [shape for _ in range(10) for shape in ((512, 512), (512,), (512, 128), (128,))]
    weights = [torch.randn(shape) for shape in shapes]
    slots = {i: {"step": torch.tensor(1.0), "exp_avg": w * 2, "exp_avg_sq": w * 3} for i, w in enumerate(weights)}
    checkpoints = Checkpoints(Counting({}), PREFIX)
    for step in range(2):
        sent.clear()
        checkpoints.save({"model": weights, "optimizer": {"state": slots}}, step=step, epoch=0, metric=None)
        checkpoints.wait()
        for number in range(36, 40):
            for tensor in (weights[number], *slots[number].values()):
                tensor.add_(1.0)
    assert sum(sent) <= 0.15 * checkpoints.infos()[0].size_bytes
