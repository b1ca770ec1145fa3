import logging
from typing import Any

import pytest

from tests.trainers.checkpoints.saves import PREFIX, NumberedFence, WrappedStore, blob_of, saved, state, steps, value_of
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.errors import CheckpointError, StoreError
from tuneyard.trainers.stores.store import Store


def flip_a_bit(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 4]) + data[-4:]


@pytest.mark.parametrize("harm", [flip_a_bit, lambda data: data[:-1], lambda _: b""])
def test_a_damaged_blob_leads_to_the_checkpoint_before(
    store: Store, caplog: pytest.LogCaptureFixture, harm: Any
) -> None:
    saved(store, 1.0, 2.0).close()
    blob = blob_of(store, 20, "model")
    store.put(blob, harm(store.get(blob)))
    assert value_of(Checkpoints(store, PREFIX).load()) == 1.0
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "step 20" in record.message
    assert "'model'" in record.message


def test_a_missing_blob_leads_to_the_checkpoint_before(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    saved(store, 1.0, 2.0).close()
    store.delete(blob_of(store, 20, "model"))
    assert value_of(Checkpoints(store, PREFIX).load()) == 1.0
    assert "a blob of part 'model' is missing" in caplog.text


@pytest.mark.parametrize("harm", [flip_a_bit, lambda data: data[:100], lambda _: b"", lambda _: b"[]", lambda _: b"{}"])
def test_a_damaged_manifest_leads_to_the_checkpoint_before(store: Store, harm: Any) -> None:
    saved(store, 1.0, 2.0).close()
    (key,) = store.keys(f"{PREFIX}checkpoints/0000000020/")
    store.put(key, harm(store.get(key)))
    checkpoints = Checkpoints(store, PREFIX)
    assert value_of(checkpoints.load()) == 1.0
    assert steps(checkpoints) == [10]


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    (key,) = store.keys(f"{PREFIX}checkpoints/")
    whole = store.get(key)
    for at in range(0, len(whole), 5):
        store.put(key, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            checkpoints.load(10)


def test_all_damaged_is_an_error(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    store.delete(blob_of(store, 10, "frozen"))
    with pytest.raises(CheckpointError, match=r"none of the 2 .* is whole"):
        Checkpoints(store, PREFIX).load()


def test_a_step_asked_for_is_not_replaced_by_another(store: Store) -> None:
    checkpoints = saved(store, 1.0, 2.0)
    with pytest.raises(CheckpointError, match=r"step 15 is not there.*Saved steps: 10, 20"):
        checkpoints.load(15)
    store.delete(blob_of(store, 20, "model"))
    with pytest.raises(CheckpointError, match="step 20 is damaged"):
        checkpoints.load(20)


@pytest.mark.parametrize("call", ["get", "read_into", "keys"])
def test_a_store_that_fails_is_no_reason_for_an_older_checkpoint(store: Store, call: str) -> None:
    def fail(made: str, _: str) -> None:
        if made == call:
            raise StoreError("no network")

    saved(store, 1.0, 2.0).close()
    with pytest.raises(StoreError, match="no network"):
        Checkpoints(WrappedStore(store, fail), PREFIX).load()


def test_a_damaged_blob_is_uploaded_anew(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    blob = blob_of(store, 20, "model")
    store.put(blob, b"rubbish")
    checkpoints = Checkpoints(store, PREFIX)
    assert value_of(checkpoints.load()) == 1.0
    checkpoints.save(state(2.0), step=20, epoch=2, metric=2.0)
    checkpoints.close()
    assert value_of(Checkpoints(store, PREFIX).load()) == 2.0


def test_what_another_attempt_found_damaged_is_uploaded_anew_without_another_look(store: Store) -> None:
    """The second attempt went on from step 10, since 20 was damaged, and was lost before it could save."""
    saved(store, 1.0, 2.0, fence=NumberedFence(1)).close()
    blob = blob_of(store, 20, "model")
    store.put(blob, flip_a_bit(store.get(blob)))
    third = Checkpoints(store, PREFIX, fence=NumberedFence(3, {2: 10}))
    assert value_of(third.load()) == 1.0
    third.save(state(2.0), step=20, epoch=2, metric=2.0)
    third.close()
    assert value_of(Checkpoints(store, PREFIX).load()) == 2.0


def test_a_damaged_checkpoint_does_not_push_a_whole_one_out(store: Store) -> None:
    saved(store, 1.0, 2.0, 3.0, keep_last=3, keep_best=0).close()
    store.put(blob_of(store, 30, "model"), b"rubbish")
    checkpoints = Checkpoints(store, PREFIX, keep_last=2, keep_best=0)
    assert value_of(checkpoints.load()) == 2.0
    checkpoints.save(state(2.5), step=25, epoch=3, metric=None)
    checkpoints.close()
    assert steps(checkpoints) == [20, 25, 30]


def test_a_checkpoint_of_the_first_format_is_refused_by_its_number(store: Store) -> None:
    store.put(f"{PREFIX}checkpoints/0000000010/manifest-0001.json", b"{}")
    with pytest.raises(CheckpointError, match="format 1, which this Tuneyard does not read"):
        Checkpoints(store, PREFIX).load()
