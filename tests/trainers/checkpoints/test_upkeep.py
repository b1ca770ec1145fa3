from pathlib import Path

import pytest

from tests.trainers.checkpoints.saves import PREFIX, blob_of, saved, value_of
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.upkeep import Upkeep
from tuneyard.trainers.errors import CheckpointError
from tuneyard.trainers.stores.store import Store, open_store


def test_whole_checkpoints_have_no_problems(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    verdicts = list(Upkeep(store, PREFIX).verify())
    assert [(verdict.step, verdict.problems) for verdict in verdicts] == [(20, ()), (10, ())]


def test_every_kind_of_damage_is_named(store: Store) -> None:
    saved(store, 1.0, 2.0, 3.0, keep_last=3).close()
    store.put(blob_of(store, 30, "model"), b"x" * 128)
    store.delete(blob_of(store, 20, "model"))
    (manifest,) = store.keys(f"{PREFIX}checkpoints/0000000010/")
    store.put(manifest, b"{}")
    problems = {verdict.step: verdict.problems for verdict in Upkeep(store, PREFIX).verify()}
    assert [len(found) for found in problems.values()] == [1, 1, 1]
    assert "does not have the digest" in problems[30][0]
    assert "a blob of part 'model' is missing" in problems[20][0]
    assert "its manifest" in problems[10][0]


def test_a_fetched_checkpoint_loads_by_itself(store: Store, tmp_path: Path) -> None:
    saved(store, 1.0, 2.0).close()
    goal = open_store(str(tmp_path / "copy"))
    assert Upkeep(store, PREFIX).fetch(10, goal, "run/") == 8000 + 128
    assert value_of(Checkpoints(goal, "run/").load()) == 1.0


def test_a_damaged_checkpoint_is_not_fetched(store: Store, tmp_path: Path) -> None:
    saved(store, 1.0).close()
    store.put(blob_of(store, 10, "model"), b"x" * 128)
    goal = open_store(str(tmp_path / "copy"))
    with pytest.raises(CheckpointError, match="does not have the digest"):
        Upkeep(store, PREFIX).fetch(10, goal)
    assert Checkpoints(goal, "").load() is None
    with pytest.raises(CheckpointError, match=r"step 11 is not there.*Saved steps: 10"):
        Upkeep(store, PREFIX).fetch(11, goal)
