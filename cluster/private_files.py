"""Files and folders that only their owner may read."""

import os
import tempfile
from io import TextIOWrapper
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 0700, and its parents of ours; an existing one keeps its contents and loses its readers."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700)
    folder.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, all of it or nothing."""
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp's files are 0600
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(made).replace(path)


def append_private(path: Path) -> TextIOWrapper:
    """A file of mode 0600, open for more lines; made where it is not there."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a")
