"""Of several attempts at one run exactly one line of checkpoints counts, whatever the cut-off ones still commit."""

import json
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.checkpoints.saves import PREFIX, saved, state, steps, value_of
from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker, RunFence, claim_run, replaced_in
from tuneyard.trainers.claims import Claims
from tuneyard.trainers.errors import CheckpointError, ConfigError, FencedError
from tuneyard.trainers.stores.file_store import FileStore
from tuneyard.trainers.stores.store import Bytes, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FileStore(tmp_path)


class Attempt:
    """A process that trains the run: its fence and its checkpoints."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.fence = claim_run(store, PREFIX, "r1", alone=False)
        self.checkpoints = Checkpoints(store, PREFIX, fence=self.fence, **({"keep_last": 9} | options))

    def go_on(self) -> float | None:
        """Load the newest checkpoint, and begin."""
        found = self.checkpoints.load()
        self.fence.begin((found[0].attempt, found[0].step) if found else None)
        return value_of(found) if found else None

    def save(self, step: int, value: float) -> None:
        self.checkpoints.save(state(value), step=step, epoch=step, metric=value)
        self.checkpoints.wait()


class LateStore(FileStore):
    """Runs `before` once, right before the next manifest is created: after its writer has looked for others."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before: Any = None

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        if "/manifest-" in key and self.before is not None:
            before, self.before = self.before, None
            before()
        return super().create(key, data, sha256=sha256)


def seen(store: Store) -> dict[int, float]:
    """Step -> value, as somebody sees the run who only reads."""
    reader = Checkpoints(store, PREFIX, fence=Onlooker(store, PREFIX))
    return {step: value_of(reader.load(step)) for step in steps(reader)}


def test_an_attempt_that_was_replaced_cannot_save(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    first.save(10, 1.0)
    second = Attempt(store)
    with pytest.raises(FencedError, match=r"attempt 1 at run r1 was replaced by attempt 2, process \d+ on"):
        first.save(20, 2.0)
    assert second.go_on() == 1.0
    second.save(20, 3.0)
    assert seen(store) == {10: 1.0, 20: 3.0}


def test_what_was_committed_before_the_replacement_looked_is_found(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    second = Attempt(store)
    # It had looked for others before the second one came.
    first.fence.check = lambda: None  # type: ignore[method-assign]
    first.save(10, 1.0)
    assert second.go_on() == 1.0
    second.save(20, 2.0)
    assert seen(store) == {10: 1.0, 20: 2.0}


@pytest.mark.parametrize("late_step", [15, 20, 30])
def test_what_is_committed_after_the_replacement_has_begun_does_not_count(tmp_path: Path, late_step: int) -> None:
    late = LateStore(tmp_path)
    first, store = Attempt(late), FileStore(tmp_path)
    first.go_on()
    first.save(10, 1.0)
    others: list[Attempt] = []

    def replace() -> None:
        others.append(Attempt(store))
        assert others[0].go_on() == 1.0

    late.before = replace
    first.save(late_step, 2.0)
    assert seen(store) == {10: 1.0}
    others[0].save(20, 3.0)
    assert seen(store) == {10: 1.0, 20: 3.0}
    third = Attempt(store)
    assert third.go_on() == 3.0


def test_a_late_commit_of_a_step_that_is_built_on_no_more_does_not_count(tmp_path: Path) -> None:
    """The second attempt went on from step 10, and so did the third while the second was saving step 15."""
    late, store = LateStore(tmp_path), FileStore(tmp_path)
    first = Attempt(store)
    first.go_on()
    for step in (10, 20):
        first.save(step, float(step))
    store.delete(next(key for key in store.keys(PREFIX) if "0000000020/manifest" in key))
    second = Attempt(late)
    assert second.go_on() == 10.0

    def replace() -> None:
        third = Attempt(store)
        assert third.go_on() == 10.0
        third.save(30, 3.0)

    late.before = replace
    second.save(15, 2.0)
    assert seen(store) == {10: 10.0, 30: 3.0}


def test_what_does_not_count_is_deleted_by_the_replacement(tmp_path: Path) -> None:
    late = LateStore(tmp_path)
    first, store = Attempt(late), FileStore(tmp_path)
    first.go_on()
    others: list[Attempt] = []

    def replace() -> None:
        others.append(Attempt(store))
        others[0].go_on()

    late.before = replace
    first.save(10, 1.0)
    others[0].save(5, 2.0)
    assert [key for key in store.keys(f"{PREFIX}checkpoints/") if "0000000010" in key] == []


def test_an_attempt_that_never_began_hides_nothing(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    first.save(10, 1.0)
    Attempt(store)
    assert seen(store) == {10: 1.0}
    third = Attempt(store)
    assert third.go_on() == 1.0


def test_a_copy_of_another_run_counts_from_its_first_checkpoint_on(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    first.save(40, 1.0)
    clone = Attempt(store)
    clone.fence.begin(None)
    assert seen(store) == {40: 1.0}, "if it were lost now, this would be what the run goes on from"
    reader = Onlooker(store, PREFIX)
    assert reader.counts(1, 40)
    clone.save(20, 2.0)
    assert seen(store) == {20: 2.0}
    assert Attempt(store).go_on() == 2.0


def test_a_copy_that_was_lost_before_it_saved_is_passed_over(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    first.save(40, 1.0)
    Attempt(store).fence.begin(None)
    third = Attempt(store)
    assert third.go_on() == 1.0
    third.save(50, 3.0)
    assert seen(store) == {40: 1.0, 50: 3.0}


def test_a_reader_sees_the_attempts_that_begin_while_it_reads(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    first.save(10, 1.0)
    reader = Checkpoints(store, PREFIX, fence=Onlooker(store, PREFIX))
    assert steps(reader) == [10]
    second = Attempt(store)
    second.go_on()
    second.save(20, 2.0)
    assert steps(reader) == [10, 20]


def test_old_claims_go_and_the_line_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.trainers.checkpoints.fencing._KEPT_CLAIMS", 2)
    for number in range(1, 7):
        attempt = Attempt(store)
        assert attempt.go_on() == (None if number == 1 else float(number - 1))
        assert attempt.fence.attempt == number
        attempt.save(number, float(number))
    assert list(Claims(store, f"{PREFIX}claims/").look()) == [4, 5, 6]
    assert list(seen(store)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("hours", [1, -1])
def test_clocks_an_hour_apart_change_nothing(store: Store, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """That of the second attempt's machine."""

        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.now(zone) + timedelta(hours=hours)

    first = Attempt(store, keep_last=2, keep_best=0)
    first.go_on()
    for step in (10, 20):
        first.save(step, float(step))
    monkeypatch.setattr("tuneyard.trainers.checkpoints.committing.datetime", Clock)
    second = Attempt(store, keep_last=2, keep_best=0)
    assert second.go_on() == 20.0
    second.save(30, 30.0)
    assert seen(store) == {20: 20.0, 30: 30.0}
    monkeypatch.undo()
    third = Attempt(store, keep_last=2, keep_best=0)
    assert third.go_on() == 30.0
    third.save(40, 40.0)
    assert seen(store) == {30: 30.0, 40: 40.0}
    times = [info.saved_at for info in third.checkpoints.infos()]
    assert (times[0] > times[1]) == (hours > 0), "they are apart"


def test_checkpoints_without_claims_all_count(store: Store) -> None:
    saved(store, 1.0)
    assert Onlooker(store, PREFIX).counts(0, 10)
    attempt = Attempt(store)
    assert attempt.go_on() == 1.0
    assert seen(store) == {10: 1.0}


def test_an_attempt_looks_once_and_writes_twice(tmp_path: Path) -> None:
    calls: list[str] = []

    class Counted(FileStore):
        def keys(self, prefix: str) -> list[str]:
            calls.append("keys")
            return super().keys(prefix)

        def put(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> None:
            calls.append("put")
            super().put(key, data, sha256=sha256)

        def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
            calls.append("create")
            return super().create(key, data, sha256=sha256)

    store = FileStore(tmp_path)
    for _ in range(2):
        attempt = Attempt(store)
        attempt.go_on()
        attempt.save(10 * attempt.fence.attempt, 1.0)
    fence = claim_run(Counted(tmp_path), PREFIX, "r1", alone=False)
    fence.begin((2, 20))
    assert calls == ["keys", "create", "put"]


def test_a_line_that_cannot_be_read_is_told_with_what_to_do(store: Store) -> None:
    for _ in range(2):
        Attempt(store).go_on()
    store.put(f"{PREFIX}claims/000002-from.json", b"{")
    with pytest.raises(CheckpointError, match=r"claims/000002-from\.json is damaged .* delete\s+everything under"):
        Onlooker(store, PREFIX).counts(1, 10)


def someone_else(store: Store, **changes: Any) -> None:
    """Let the newest claim be that of another process."""
    claims = Claims(store, f"{PREFIX}claims/")
    key = claims.key(max(claims.look()))
    store.put(key, json.dumps(json.loads(store.get(key)) | changes).encode())


def test_a_process_that_lives_on_this_machine_is_not_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.trainers.checkpoints.fencing._LEAVES_S", 0.2)
    fence = claim_run(store, PREFIX, "r1", alone=True)
    claim_run(store, PREFIX, "r1", alone=True)  # by the same process, which knows what it does
    began = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    someone_else(store, pid=1, began=began)
    with pytest.raises(ConfigError, match=r"run r1 is being trained by process 1 on .*kill 1"):
        claim_run(store, PREFIX, "r1", alone=True)
    assert claim_run(store, PREFIX, "r1", alone=False).attempt == 3
    assert fence.attempt == 1


@pytest.mark.parametrize("changes", [{"pid": 1, "began": -7}, {"machine": "another"}])
def test_one_that_is_gone_or_elsewhere_is_replaced(store: Store, changes: dict[str, Any]) -> None:
    claim_run(store, PREFIX, "r1", alone=True)
    someone_else(store, **changes)
    assert claim_run(store, PREFIX, "r1", alone=True).attempt == 2


def test_one_that_has_ended_is_replaced_though_its_process_lives(store: Store) -> None:
    fence: RunFence = claim_run(store, PREFIX, "r1", alone=True)
    began = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    someone_else(store, pid=1, began=began)
    fence.end()
    assert claim_run(store, PREFIX, "r1", alone=True).attempt == 2


def test_a_save_announced_by_a_replaced_attempt_is_over_once_the_next_has_begun(store: Store) -> None:
    first = Attempt(store)
    first.go_on()
    pending = Blobs(store, "exp/").announce("run/", 1, 10, [])
    over = replaced_in(store, "exp/")
    assert not over(pending)
    second = Attempt(store)
    assert not over(pending)
    first.fence.check = lambda: None  # type: ignore[method-assign]
    first.save(10, 1.0)
    second.go_on()
    assert over(pending)
