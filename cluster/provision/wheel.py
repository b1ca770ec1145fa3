"""A wheel of the tuneyard that runs here, for nodes that are to run the same.

Packed from the files that this very process imports, whether they are an installed distribution or a checkout, so that
neither network nor build tools are needed, and the same files give the same wheel, byte for byte.
Source of the format: packaging.python.org/specifications/binary-distribution-format.
"""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from tuneyard.cluster.errors import ClusterError

NAME = "tuneyard"
ROOT = Path(__file__).parents[2]
"""Holds the rooms: a checkout, or the folder `tuneyard` of an installed distribution."""
FOLDERS = ("trainers", "tune", "launch", "cluster", "terraform")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
"""The versions that this tuneyard is tested with, for pip on the nodes."""
_TIME = (1980, 1, 1, 0, 0, 0)
_METADATA = ("METADATA", "entry_points.txt")
_LEFT_OUT = re.compile(
    r"(^|/)(\.|__pycache__/|terraform/\w+/tests/)|\.(pyc|md|tftest\.hcl|tfstate|tfstate\..*|tfplan)$"
)
"""What is no part of the program: caches, tests of the modules, and what Terraform leaves in a folder it ran in."""
_WHEEL = "Wheel-Version: 1.0\nGenerator: tuneyard\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def version() -> str:
    """The version of the tuneyard that runs here.

    Raises:
        ClusterError: it is not installed, but run from its source.
    """
    return _distribution().version


def build_wheel(folder: Path) -> Path:
    """Write the wheel into the folder, which is made where it is missing, and return its path.

    Raises:
        ClusterError: tuneyard is not installed here, so that its requirements are not known.
    """
    found = _distribution()
    info = f"{NAME}-{found.version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{found.version}-py3-none-any.whl"
    made = path.with_suffix(".part")
    record: list[str] = []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _contents(found, info):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
            _add(archive, name, data)
        _add(archive, f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]).encode())
    made.replace(path)
    return path


def _contents(found: Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            place = path.relative_to(ROOT).as_posix()
            if path.is_file() and not _LEFT_OUT.search(place):
                yield f"{NAME}/{place}", path.read_bytes()
    for name in _METADATA:
        text = found.read_text(name)
        if text is not None:
            yield f"{info}/{name}", text.encode()
    yield f"{info}/WHEEL", _WHEEL.encode()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _distribution() -> Distribution:
    # In a checkout's own folder the leftovers of its build (egg-info) are found first; they have no METADATA.
    for found in distributions(name=NAME):
        if found.read_text("METADATA") is not None:
            return found
    raise ClusterError(
        "tuneyard is not installed in this environment, so that no wheel of it can be packed. "
        "Run: pip install -e . (in its checkout), or pip install tuneyard"
    )
