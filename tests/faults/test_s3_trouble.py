"""S3 in trouble while a run trains: it ends with the weights of an undisturbed run, or says what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import (
    Final,
    HoldingProxy,
    assert_undisturbed,
    blob_key,
    committed,
    final,
    place_of,
    spec_in_s3,
    stop_in_epoch_2,
    train_with,
)
from tests.trainers.runs import STEPS_PER_EPOCH
from tuneyard.trainers.errors import CheckpointError, StoreError
from tuneyard.trainers.session import Session
from tuneyard.trainers.stores.store import open_store

pytestmark = pytest.mark.s3
ALWAYS = 10**6


def _unavailable(proxy: HoldingProxy) -> None:
    proxy.fail("status", seconds=0.4)
    proxy.fail("status", seconds=0.8, status=500, code="InternalError")


def _refused_manifests(proxy: HoldingProxy) -> None:
    manifests = {"method": "PUT", "key": "/manifest-"}
    proxy.fail("status", **manifests, times=2, status=409, code="ConditionalRequestConflict")  # type: ignore[arg-type]
    proxy.fail("status", **manifests, times=2, status=412, code="PreconditionFailed")  # type: ignore[arg-type]


TROUBLE: dict[str, Callable[[HoldingProxy], None]] = {
    "503, then 500, for a while": _unavailable,
    "connections reset": lambda proxy: proxy.fail("reset", times=6),
    "uploads broken off": lambda proxy: proxy.fail("reset-upload", method="PUT", times=8),
    "answers lost": lambda proxy: proxy.fail("drop-answer", times=6),
    "a lost answer to the manifest": lambda proxy: proxy.fail("drop-answer", method="PUT", key="/manifest-"),
    "bodies altered on the way up": lambda proxy: proxy.fail("alter-upload", method="PUT", times=8),
    "409, then 412, on the manifest": _refused_manifests,
}


@pytest.mark.parametrize("name", TROUBLE)
def test_what_passes_is_waited_out(name: str, folder: Path, proxy: HoldingProxy, undisturbed: Final) -> None:
    spec = spec_in_s3(folder, proxy)
    train_with(spec, {4: lambda: TROUBLE[name](proxy)})
    assert any(request.fault for request in proxy.requests)
    assert_undisturbed(spec, proxy, undisturbed)


def test_who_may_not_delete_trains_all_the_same(
    folder: Path, proxy: HoldingProxy, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.fail("status", method="DELETE", times=ALWAYS, status=403, code="AccessDenied")
    spec = spec_in_s3(folder, proxy, {"checkpoint.keep_last": 1})
    open_store(spec.store_uri, spec.experiment.checkpoint.s3_options).check()
    train_with(spec, {})
    assert len(proxy.seen("DELETE")) > 2
    assert sum("would drop stay" in record.message for record in caplog.records) == 1
    assert final(place_of(spec, proxy)).same(undisturbed)


def test_a_server_that_falls_silent_is_asked_again(folder: Path, proxy: HoldingProxy, undisturbed: Final) -> None:
    # The shorter the deadline, the shorter the time for an answer.
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 3.9})
    train_with(spec, {4: lambda: proxy.fail("hang", method="PUT", key="/blobs/", times=2)})
    assert_undisturbed(spec, proxy, undisturbed)


def test_training_goes_on_while_the_store_is_away_for_longer_than_the_deadline(
    folder: Path, proxy: HoldingProxy, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    """As for minutes, with the deadline of a fraction of a second."""
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 0.2, "model.args": {"dropout": 0.3, "wait_s": 0.06}})
    train_with(spec, {4: lambda: proxy.fail("status", times=ALWAYS), STEPS_PER_EPOCH * 2 + 6: proxy.heal})
    assert f"The checkpoint of step {STEPS_PER_EPOCH} was not saved" in caplog.text
    assert_undisturbed(spec, proxy, undisturbed)


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ({"kind": "status"}, r"gave up after .*checkpoint\.deadline_s: 0\.3.*503"),
        ({"kind": "status", "status": 400, "code": "ExpiredToken"}, r"have expired.*Log in again"),
        ({"kind": "status", "status": 403, "code": "AccessDenied"}, r"access is denied\..*s3:PutObject"),
    ],
    ids=["503", "credentials that expired", "a permission that was taken away"],
)
def test_what_does_not_pass_ends_the_run_with_what_to_do_and_it_goes_on_later(
    fault: dict[str, object], advice: str, folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 0.3})
    spec = stop_in_epoch_2(spec)
    before = committed(place_of(spec, proxy))
    with pytest.raises(StoreError, match=advice):
        train_with(spec, {3: lambda: proxy.fail(**fault, times=ALWAYS)})  # type: ignore[arg-type]
    proxy.heal()
    assert committed(place_of(spec, proxy)) == before, "no committed checkpoint is lost"
    train_with(spec)
    assert_undisturbed(spec, proxy, undisturbed)


def test_a_store_that_cannot_be_reached_is_no_reason_to_begin_anew(
    folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    spec = stop_in_epoch_2(spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 0.3}))
    proxy.fail("status", method="GET", key="/(checkpoints|blobs)", times=ALWAYS)
    with pytest.raises(StoreError, match="gave up after"):
        train_with(spec)
    proxy.heal()
    train_with(spec)
    assert_undisturbed(spec, proxy, undisturbed)


def test_wrong_credentials_are_told_before_anything_is_trained(
    folder: Path, proxy: HoldingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_in_s3(folder, proxy)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done: list[int] = []
    with pytest.raises(StoreError, match=r"the credentials are wrong \(SignatureDoesNotMatch\)"):
        train_with(spec, {1: lambda: done.append(1)}, Session(threads=1, cpu=True))
    assert done == []


@pytest.mark.parametrize("where", ["/blobs/.*/", "/manifest-"])
def test_bytes_altered_on_the_way_down_are_read_again(
    where: str, folder: Path, proxy: HoldingProxy, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    spec = stop_in_epoch_2(spec_in_s3(folder, proxy))
    proxy.fail("alter-download", method="GET", key=where)
    train_with(spec)
    assert "alter-download" in [request.fault for request in proxy.seen("GET", where)]
    assert "is damaged" not in caplog.text
    assert_undisturbed(spec, proxy, undisturbed)


def test_bytes_altered_on_the_way_down_again_and_again_are_not_trained_on(
    folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    spec = stop_in_epoch_2(spec_in_s3(folder, proxy))
    proxy.fail("alter-download", method="GET", key="/blobs/", times=ALWAYS)
    with pytest.raises(CheckpointError, match=r"is whole \(step .* does not have the digest"):
        train_with(spec)
    proxy.heal()
    train_with(spec)
    assert_undisturbed(spec, proxy, undisturbed)


# Damage in the store itself


HARM: dict[str, Callable[[bytes], bytes | None]] = {
    "a flipped bit": lambda data: data[:-3] + bytes([data[-3] ^ 8]) + data[-2:],
    "cut off": lambda data: data[: len(data) // 2],
    "gone": lambda data: None,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    harm: str, folder: Path, proxy: HoldingProxy, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    spec = stop_in_epoch_2(spec_in_s3(folder, proxy, {"checkpoint.keep_last": 2}))
    place = place_of(spec, proxy)
    newest = committed(place)[-1]
    key = blob_key(place, newest, "model")
    left = HARM[harm](place.store.get(key))
    if left is None:
        place.store.delete(key)
    else:
        place.store.put(key, left)
    train_with(spec)
    assert f"The checkpoint of step {newest} is damaged and passed over" in caplog.text
    assert_undisturbed(spec, proxy, undisturbed)
