"""The disk of the store is full for a while, or for good."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import BASIC, Final, Place, final, leftovers, problems, resumed, train_with
from tests.trainers.runs import STEPS_PER_EPOCH, make_spec
from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import open_store


class SmallDisk:
    """A disk of a megabyte, which can be filled up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave no room at all."""
        descriptor = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            for size in (2**16, 2**12, 1):
                while True:
                    os.write(descriptor, bytes(size))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """The room is there again."""
        (self.folder / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system in memory. To mount one takes the rights that .ci/run has."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tuneyard-tests", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield SmallDisk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def on_disk(folder: Path, disk: SmallDisk) -> tuple[TrialSpec, Place]:
    spec = make_spec(folder, BASIC, store_uri=(disk.folder / "runs").as_uri())
    return spec, Place(open_store(spec.store_uri), spec.prefix, spec.blob_prefix)


def test_a_disk_that_is_full_for_a_while_costs_only_the_saves_meanwhile(
    folder: Path, disk: SmallDisk, undisturbed: Final, caplog: pytest.LogCaptureFixture
) -> None:
    spec, place = on_disk(folder, disk)
    train_with(spec, {4: disk.fill, 2 * STEPS_PER_EPOCH + 4: disk.free})
    assert "was not saved" in caplog.text
    assert "the disk is full: free some space" in caplog.text
    assert final(place).same(undisturbed)
    assert problems(place) == leftovers(place) == []


def test_a_disk_that_stays_full_ends_the_run_and_what_was_saved_is_gone_on_from(
    folder: Path, disk: SmallDisk, undisturbed: Final
) -> None:
    spec, place = on_disk(folder, disk)
    with pytest.raises(StoreError, match=r"the disk is full: free some space, or keep fewer checkpoints"):
        train_with(spec, {2 * STEPS_PER_EPOCH: disk.fill})
    assert problems(place) == []
    disk.free()
    train_with(resumed(spec))
    assert final(place).same(undisturbed)
    assert problems(place) == leftovers(place) == []
    assert not list(disk.folder.rglob(".tmp-*"))
