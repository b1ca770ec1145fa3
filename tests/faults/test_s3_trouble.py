"""S3 in trouble while a run trains: it ends with the weights of an undisturbed run, or says what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import (
    Final,
    HoldingProxy,
    blob_keys,
    committed,
    final,
    leftovers,
    problems,
    resumed,
    spec_in_s3,
    train_with,
)
from tests.trainers.runs import STEPS_PER_EPOCH, StopAfter, train_run
from tuneyard.trainers.errors import InterruptedRunError, StoreError
from tuneyard.trainers.spec import TrialSpec

pytestmark = pytest.mark.s3
ALWAYS = 10**6

TROUBLE: dict[str, Callable[[HoldingProxy], None]] = {
    "503 for a second": lambda proxy: proxy.fail("status", seconds=1.0),
    "500 for a second": lambda proxy: proxy.fail("status", seconds=1.0, status=500, code="InternalError"),
    "connections reset": lambda proxy: proxy.fail("reset", times=12),
    "uploads broken off": lambda proxy: proxy.fail("reset-upload", method="PUT", times=8),
    "answers lost": lambda proxy: proxy.fail("drop-answer", times=10),
    "a lost answer to the manifest": lambda proxy: proxy.fail("drop-answer", method="PUT", key="/manifest-"),
    "bodies altered on the way up": lambda proxy: proxy.fail("alter-upload", method="PUT", times=8),
    "409 on the manifest": lambda proxy: proxy.fail(
        "status", method="PUT", key="/manifest-", times=3, status=409, code="ConditionalRequestConflict"
    ),
    "412 on the manifest": lambda proxy: proxy.fail(
        "status", method="PUT", key="/manifest-", times=2, status=412, code="PreconditionFailed"
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_what_passes_is_waited_out(name: str, folder: Path, proxy: HoldingProxy, undisturbed: Final) -> None:
    spec = spec_in_s3(folder, proxy)
    train_with(spec, {4: lambda: TROUBLE[name](proxy)})
    assert any(request.fault for request in proxy.requests)
    assert final(spec).same(undisturbed)
    assert problems(spec) == leftovers(spec) == []


def test_a_server_that_falls_silent_is_asked_again(folder: Path, proxy: HoldingProxy, undisturbed: Final) -> None:
    # The shorter the deadline, the shorter the time for an answer.
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 3.9})
    train_with(spec, {4: lambda: proxy.fail("hang", method="PUT", key="/blobs/", times=2)})
    assert final(spec).same(undisturbed)
    assert problems(spec) == leftovers(spec) == []


def test_training_goes_on_while_the_store_is_away_for_longer_than_the_deadline(
    folder: Path, proxy: HoldingProxy, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    """As for minutes, with the deadline of a fraction of a second."""
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 0.2, "model.args": {"dropout": 0.3, "wait_s": 0.06}})
    train_with(spec, {4: lambda: proxy.fail("status", times=ALWAYS), STEPS_PER_EPOCH * 2 + 6: proxy.heal})
    assert f"The checkpoint of step {STEPS_PER_EPOCH} was not saved" in caplog.text
    assert final(spec).same(undisturbed)
    assert problems(spec) == leftovers(spec) == []


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ({"kind": "status"}, r"gave up after .*checkpoint\.deadline_s: 0\.3.*503"),
        ({"kind": "reset"}, r"gave up after .*cannot be reached"),
        ({"kind": "status", "status": 400, "code": "ExpiredToken"}, r"have expired.*Log in again"),
        ({"kind": "status", "status": 403, "code": "AccessDenied"}, r"access is denied\..*s3:PutObject"),
    ],
    ids=["503", "resets", "credentials that expired", "a permission that was taken away"],
)
def test_what_does_not_pass_ends_the_run_with_what_to_do_and_it_goes_on_later(
    fault: dict[str, object], advice: str, folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 0.3})
    with pytest.raises(InterruptedRunError):
        train_run(spec, stop_after=STEPS_PER_EPOCH + 2)
    before = committed(spec)
    with pytest.raises(StoreError, match=advice):
        train_with(resumed(spec), {3: lambda: proxy.fail(**fault, times=ALWAYS)})  # type: ignore[arg-type]
    proxy.heal()
    assert set(before) <= set(committed(spec)), "no committed checkpoint is lost"
    train_with(resumed(spec))
    assert final(spec).same(undisturbed)
    assert problems(spec) == leftovers(spec) == []


def test_a_store_that_cannot_be_reached_is_no_reason_to_begin_anew(
    folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    spec = _stopped(folder, proxy)
    proxy.fail("status", method="GET", key="/(checkpoints|blobs)", times=ALWAYS)
    with pytest.raises(StoreError, match="gave up after"):
        train_with(resumed(spec))
    proxy.heal()
    train_with(resumed(spec))
    assert final(spec).same(undisturbed)


def test_wrong_credentials_are_told_before_anything_is_trained(
    folder: Path, proxy: HoldingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_in_s3(folder, proxy)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done: list[int] = []
    with pytest.raises(StoreError, match=r"the credentials are wrong \(SignatureDoesNotMatch\)"):
        train_with(spec, {1: lambda: done.append(1)})
    assert done == []


@pytest.mark.parametrize("where", ["/blobs/", "/manifest-"])
def test_bytes_altered_on_the_way_down_are_not_trained_on(
    where: str, folder: Path, proxy: HoldingProxy, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    spec = _stopped(folder, proxy)
    proxy.fail("alter-download", method="GET", key=where)
    train_with(resumed(spec))
    assert "is damaged" in caplog.text
    assert final(spec).same(undisturbed)
    assert problems(spec) == leftovers(spec) == []


def _stopped(folder: Path, proxy: HoldingProxy) -> TrialSpec:
    """A run that was stopped in its second epoch."""
    spec = spec_in_s3(folder, proxy, {"checkpoint.deadline_s": 0.5, "checkpoint.keep_last": 2})
    with pytest.raises(InterruptedRunError):
        train_run(spec, stop_after=STEPS_PER_EPOCH + 2)
    return spec


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
    from tuneyard.trainers.parallel.leaving import store_of

    spec = _stopped(folder, proxy)
    store = store_of(spec)
    newest = committed(spec)[-1]
    (key,) = blob_keys(spec, newest, "model")
    left = HARM[harm](store.get(key))
    store.delete(key) if left is None else store.put(key, left)
    train_with(resumed(spec))
    assert f"The checkpoint of step {newest} is damaged and passed over" in caplog.text
    assert final(spec).same(undisturbed)
    assert leftovers(spec) == []


def test_the_stop_is_what_it_says() -> None:
    assert [StopAfter(2)() for _ in range(1)] == [False]
