"""Which code, packages and machine made a run: what its record keeps, so that it can be made again."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from tuneyard.trainers.spec import Provenance

PACKED = ".tuneyard-provenance.json"
"""In a project that was sent somewhere without its repository: what the repository said."""
_PACKAGES = ("tuneyard", "torch", "torchvision", "accelerate", "ray", "albumentations", "timm", "numpy", "comet-ml")
_DIFF_BYTES = 2**20
_GIT_TIMEOUT_S = 10.0  # a repository on a slow network disk must not hold up training for longer


def capture_provenance(project_dir: Path) -> Provenance:
    """The commit of the repository around `project_dir` and what differs from it; empty where there is none.

    Of a project that was sent to a cluster, what was found before it was sent.

    The diff is `git diff HEAD`, cut at 1 MB, and the names of untracked files that git does not ignore: their content
    may be data. Without git, or where it takes more than ten seconds, the answer is empty too.
    """
    packed = project_dir / PACKED
    if packed.is_file():
        return Provenance.model_validate_json(packed.read_text())
    head = _git(project_dir, "rev-parse", "HEAD")
    if head is None:
        return Provenance()
    diff = _git(project_dir, "diff", "--no-ext-diff", "--no-color", "--no-relative", "HEAD") or b""
    if len(diff) > _DIFF_BYTES:
        diff = diff[:_DIFF_BYTES] + b"\n# cut: the diff goes on\n"
    untracked = (_git(project_dir, "ls-files", "-z", "--others", "--exclude-standard", ":/") or b"").split(b"\0")
    names = b"".join(b"# untracked: %s\n" % name for name in untracked if name)[:_DIFF_BYTES]
    text = (diff + names).decode(errors="replace")
    return Provenance(commit=head.decode().strip(), dirty=bool(text), diff=text)


def environment() -> dict[str, Any]:
    """Python, platform, packages, processor and memory; GPUs where torch is imported already.

    Asks the installed packages' metadata and imports none of them.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
    }


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            # Only looking: no lock is taken, so that a commit going on beside us does not fail.
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # a system that does not say
        return 0


def _gpus() -> list[dict[str, Any]]:
    # Importing torch takes seconds; whoever has trained has imported it.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": one.name, "memory_bytes": one.total_memory} for one in properties]
