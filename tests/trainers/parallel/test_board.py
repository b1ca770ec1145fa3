"""The progress board says where each worker stands."""

from pathlib import Path

import torch

from tuneyard.trainers.parallel.board import Beating, Board, Phase, Place
from tuneyard.trainers.progress import Silent

LOSS = torch.zeros(())


def test_a_reader_in_another_mapping_sees_each_workers_own_numbers(tmp_path: Path) -> None:
    written, read = Board(tmp_path / "board", 2), Board(tmp_path / "board", 2)
    place = Place(attempt=3, phase=Phase.BETWEEN, origin=8, step=2**40, first_step_ns=5, beats=6)
    written.write(1, place)
    assert read.read_all() == [Place(0, Phase.STARTING, 0, 0, 0, 0), place]
    written.close()
    read.close()


def test_the_phases_of_a_run_that_goes_on(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 1)
    watcher = Beating(Silent(), board, 0, attempt=2, epochs=2)
    assert (board.read(0).phase, board.read(0).origin) == (Phase.STARTING, -1)
    watcher.epoch_begins(1, 4, 2)
    assert (board.read(0).phase, board.read(0).origin) == (Phase.STARTING, 6)
    watcher.step_done(12, LOSS)
    first = board.read(0)
    assert (first.phase, first.step, first.attempt) == (Phase.STEPPING, 7, 2)
    assert first.first_step_ns > 0
    watcher.step_done(12, LOSS)
    last = board.read(0)
    assert (last.phase, last.step, last.first_step_ns) == (Phase.BETWEEN, 8, first.first_step_ns)
    assert last.beats > first.beats
    watcher.epoch_ended({"epoch": 2.0})
    assert board.read(0).phase == Phase.ENDING
    board.close()
