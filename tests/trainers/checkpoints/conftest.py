"""Fixtures of the tests of checkpoints."""

from pathlib import Path

import pytest

from tuneyard.trainers.stores.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return open_store(str(tmp_path / "store"))
