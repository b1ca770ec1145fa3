"""A project's files as one package for a job: which belong to it, how large they are, and what is never sent."""

import fnmatch
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tuneyard.cluster.amounts import size_text
from tuneyard.launch.jobs.ignored import Ignored, ignored_in
from tuneyard.trainers.errors import ConfigError

LIMIT_BYTES = 100_000_000
"""What a package may hold before it is compressed. Ray's head takes 100 MiB at most, and keeps it in memory."""
LARGEST = 5

NOT_PACKED = (
    ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".ipynb_checkpoints", "node_modules", ".terraform",
)  # fmt: skip
"""Folders that no trial needs, at any depth."""

SECRETS = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "id_rsa*", "id_dsa*", "id_ecdsa*",
    "id_ed25519*", ".netrc", ".pypirc", ".git-credentials", ".comet.config", "credentials", "credentials.*",
    "kaggle.json", "*.tfstate", "*.tfstate.*", "*.tfvars", ".aws", ".ssh", ".gnupg", ".kube",
)  # fmt: skip
"""Names of files and folders that hold credentials more often than not: a package lies on every node."""

_EARLIEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a project that are sent, by their paths below `root`, with their sizes.

    Attributes:
        ignored: what the project's own .gitignore and .rayignore leave out.
        secrets: what was left out because it looks like credentials.
        links: links to folders, which are left out too: what they lead to may be anything.
    """

    root: Path
    sizes: Mapping[PurePosixPath, int]
    ignored: list[PurePosixPath] = field(default_factory=list)
    secrets: list[PurePosixPath] = field(default_factory=list)
    links: list[PurePosixPath] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Before compression."""
        return sum(self.sizes.values())

    def largest(self) -> list[tuple[PurePosixPath, int]]:
        """The few largest files, largest first."""
        return sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))[:LARGEST]

    def holds(self, path: Path) -> bool:
        """Is this file, or a file of this folder, in the package?"""
        place = self.place(path)
        return place is not None and any(file == place or place in file.parents for file in self.sizes)

    def place(self, path: Path) -> PurePosixPath | None:
        """Where the path lies below the root; None where it does not."""
        found = Path(os.path.normpath(self.root / path))
        return PurePosixPath(found.relative_to(self.root).as_posix()) if found.is_relative_to(self.root) else None


def choose_files(root: Path, without: Iterable[Path] = ()) -> Package:
    """The files below `root` that a job gets. `without`: folders of results, which lie beside the code.

    Raises:
        ConfigError: they are more than LIMIT_BYTES; with the largest, and where data belongs.
    """
    walk = _Walk(root.resolve(), {folder.resolve() for folder in without})
    package = walk.package()
    if package.bytes > LIMIT_BYTES:
        raise ConfigError(_too_large(package))
    return package


def write_package(package: Package, path: Path, added: Mapping[str, bytes]) -> int:
    """Write the package to `path` as a zip file, with `added` files; returns its size.

    The same files always give the same bytes: Ray keeps packages by their digest, and takes each one once.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(package.sizes):
            file = package.root / name
            _add(archive, name.as_posix(), file.read_bytes(), stat.S_IMODE(file.stat().st_mode))
        for text, data in sorted(added.items()):
            _add(archive, text, data, 0o644)
    return path.stat().st_size


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.external_attr = (stat.S_IFREG | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


class _Walk:
    """Sorts what lies below a folder."""

    def __init__(self, root: Path, without: set[Path]) -> None:
        self._root, self._without = root, without
        self._sizes: dict[PurePosixPath, int] = {}
        self._ignored: list[PurePosixPath] = []
        self._secrets: list[PurePosixPath] = []
        self._links: list[PurePosixPath] = []

    def package(self) -> Package:
        rules, place = ignored_in(self._root)
        self._enter(self._root, place, rules)
        return Package(self._root, self._sizes, self._ignored, self._secrets, self._links)

    def _enter(self, folder: Path, place: PurePosixPath, rules: Ignored) -> None:
        """`place`: the folder as the rules see it, from the top of the repository."""
        rules = rules.below(folder, place)
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if not self._never(entry):
                self._sort(entry, place / entry.name, rules)

    def _never(self, entry: os.DirEntry[str]) -> bool:
        path = Path(entry.path)
        result = entry.name in NOT_PACKED or (path / "pyvenv.cfg").exists() or path.resolve() in self._without
        return entry.is_dir() and result

    def _sort(self, entry: os.DirEntry[str], place: PurePosixPath, rules: Ignored) -> None:
        path, is_folder = Path(entry.path), entry.is_dir()
        below = PurePosixPath(path.relative_to(self._root).as_posix())
        if any(fnmatch.fnmatch(entry.name.lower(), pattern) for pattern in SECRETS):
            self._secrets.append(below)
        elif rules(place, is_folder=is_folder):
            self._ignored.append(below)
        elif is_folder and entry.is_symlink():
            self._links.append(below)
        elif is_folder:
            self._enter(path, place, rules)
        elif entry.is_file():
            self._sizes[below] = entry.stat().st_size


def _too_large(package: Package) -> str:
    lines = "\n".join(f"  {size_text(size):>7}  {name}" for name, size in package.largest())
    return (
        f"{package.root} holds {size_text(package.bytes)} in {len(package.sizes)} files, and a job's package may hold "
        f"{size_text(LIMIT_BYTES)}. The largest:\n{lines}\n"
        "Data does not travel with a job. Put it into S3 and give data.source: s3://bucket/prefix, which every machine "
        "fetches once; or put it on each node, and give its absolute path. Then name the folder in .rayignore."
    )
