"""The same step again, by the same writer or by another."""

from tests.trainers.checkpoints.saves import PREFIX, NumberedFence, WrappedStore, saved, state, steps, value_of
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.stores.store import Bytes, Store


def test_the_same_step_with_the_same_state_is_saved_once(store: Store) -> None:
    checkpoints = saved(store, 1.0)
    before = store.keys(PREFIX)
    checkpoints.save(state(1.0), step=10, epoch=1, metric=1.0)
    checkpoints.close()
    assert store.keys(PREFIX) == before


def test_the_same_step_with_another_state_counts_anew(store: Store) -> None:
    saved(store, 1.0, 2.0).close()
    checkpoints = Checkpoints(store, PREFIX)
    checkpoints.save(state(5.0), step=20, epoch=2, metric=0.5)
    checkpoints.close()
    assert value_of(checkpoints.load(20)) == 5.0
    assert [info.metric for info in checkpoints.infos()] == [1.0, 0.5]
    assert len(store.keys(f"{PREFIX}checkpoints/")) == 2, "the one before is pruned"


def test_a_newer_attempt_counts_more_than_a_higher_number(store: Store) -> None:
    first = saved(store, 1.0, 2.0, fence=NumberedFence(1))
    first.save(state(3.0), step=20, epoch=2, metric=3.0)
    first.close()
    second = Checkpoints(store, PREFIX, fence=NumberedFence(2))
    second.save(state(4.0), step=20, epoch=2, metric=4.0)
    second.close()
    assert value_of(second.load(20)) == 4.0
    assert second.infos()[-1].attempt == 2


def test_a_run_that_went_back_keeps_what_it_saves(store: Store) -> None:
    saved(store, 1.0, 2.0, 3.0, keep_last=1, keep_best=0).close()
    checkpoints = Checkpoints(store, PREFIX, keep_last=1, keep_best=0)
    checkpoints.save(state(1.5), step=15, epoch=1, metric=None)
    checkpoints.close()
    assert value_of(checkpoints.load(15)) == 1.5


def test_two_writers_of_one_step_both_end_with_a_whole_checkpoint(store: Store) -> None:
    writers = [Checkpoints(store, PREFIX) for _ in range(2)]
    for number, writer in enumerate(writers):
        writer.save(state(float(number)), step=1, epoch=0, metric=None)
    for writer in writers:
        writer.close()
    assert value_of(writers[0].load()) in (0.0, 1.0)


def test_a_commit_whose_answer_was_lost_is_found_again(store: Store) -> None:
    class Forgetful(WrappedStore):
        def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
            super().create(key, data, sha256=sha256)
            return False  # as a retry sees it

    checkpoints = saved(Forgetful(store, lambda *_: None), 1.0)
    checkpoints.close()
    assert steps(checkpoints) == [10]
    assert len(store.keys(f"{PREFIX}checkpoints/")) == 1


def test_a_checkpoint_that_is_pruned_while_it_is_read_leads_to_the_newer_one(store: Store) -> None:
    writer = saved(store, 1.0, keep_last=1, keep_best=0)
    done: list[str] = []

    def prune_meanwhile(call: str, key: str) -> None:
        if call == "get" and not done:
            done.append(key)
            writer.save(state(2.0), step=20, epoch=2, metric=None)
            writer.wait()

    assert value_of(Checkpoints(WrappedStore(store, prune_meanwhile), PREFIX).load()) == 2.0
