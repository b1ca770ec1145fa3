"""Processes that are killed in the middle of an upload, cut off, or have another idea of the time."""

import signal
from pathlib import Path

import pytest

from tests.faults.harness import (
    Final,
    HoldingProxy,
    Training,
    assert_undisturbed,
    committed,
    final,
    place_of,
    problems,
    resumed,
    spec_in_s3,
    train_with,
)
from tests.waiting import wait_until
from tuneyard.trainers.record import read_run

pytestmark = [pytest.mark.s3, pytest.mark.slow]
FIRST_SAVE = "/manifest-0001-0001"
SLOW = {"model.args": {"dropout": 0.3, "wait_s": 0.03}}

STAGES: dict[str, tuple[str, str, int]] = {
    "before it is announced": ("PUT", "/pending/", 1),
    "before any blob": ("PUT", "/blobs/", 1),
    "between blobs": ("PUT", "/blobs/", 2),
    "after all blobs, before the manifest": ("PUT", "/manifest-", 1),
    "after the manifest": ("DELETE", "/pending/", 2),
    "before an older one is pruned": ("DELETE", "/manifest-", 1),
    "between the blobs that are deleted": ("DELETE", "/blobs/", 2),
    "before the list of the condemned goes": ("DELETE", "/condemned/", 1),
}
"""Method, key, and which one of those that come after the first save's manifest."""


@pytest.mark.parametrize("stage", STAGES)
def test_an_upload_that_is_killed_loses_nothing(
    stage: str, folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    spec = spec_in_s3(folder, proxy, SLOW)
    place = place_of(spec, proxy)
    proxy.hold(*STAGES[stage], after=FIRST_SAVE)
    training = Training(spec)
    wait_until(lambda: proxy.held or not training.running)
    # What else is on its way comes to its end, or not.
    training.kill()
    proxy.let_go()
    assert proxy.held, "it ended without"
    assert committed(place), "what was committed is still there"
    assert problems(place) == []
    train_with(resumed(spec))
    assert_undisturbed(spec, proxy, undisturbed)


def test_the_writer_that_was_cut_off_stops_once_it_can_know(
    folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    """A partition: nobody hears of the first worker any more and a second one is sent; both reach S3 all the time."""
    spec = spec_in_s3(folder, proxy, SLOW, sweep_id="s1")
    place = place_of(spec, proxy)
    cut_off = Training(spec)
    wait_until(lambda: committed(place))
    assert train_with(resumed(spec)).attempt == 2
    assert cut_off.end().startswith(f"FencedError: attempt 1 at run {spec.run_id} was replaced by attempt 2")
    assert final(place).same(undisturbed)
    assert problems(place) == []
    assert read_run(place.store, place.prefix).attempt == 2


def test_one_that_stood_still_and_comes_back_changes_nothing(
    folder: Path, proxy: HoldingProxy, undisturbed: Final
) -> None:
    """Its manifest is on the way when it is cut off, and arrives when its replacement is done."""
    spec = spec_in_s3(folder, proxy, SLOW, sweep_id="s1")
    place = place_of(spec, proxy)
    proxy.hold("PUT", "/manifest-", 1, after=FIRST_SAVE)
    cut_off = Training(spec)
    wait_until(lambda: proxy.held)
    cut_off.send(signal.SIGSTOP)
    proxy.let_go()
    train_with(resumed(spec))
    files = {key: place.store.get(key) for key in place.store.keys(place.key("")) if key.endswith((".json", ".jsonl"))}
    cut_off.send(signal.SIGCONT)
    assert cut_off.end().startswith("FencedError")
    assert final(place).same(undisturbed)
    assert problems(place) == []
    assert {key: place.store.get(key) for key in files} == files


def test_a_clock_that_is_an_hour_ahead_changes_nothing(folder: Path, proxy: HoldingProxy, undisturbed: Final) -> None:
    spec = spec_in_s3(folder, proxy, SLOW)
    place = place_of(spec, proxy)
    training = Training(spec, clock_s=3600.0)
    wait_until(lambda: committed(place))
    training.kill()
    ahead = max(place.files.read(found).saved_at for found in place.files.places())
    train_with(resumed(spec))
    newest = place.files.places()[-1]
    assert place.files.read(newest).saved_at < ahead, "they are apart"
    assert_undisturbed(spec, proxy, undisturbed)
