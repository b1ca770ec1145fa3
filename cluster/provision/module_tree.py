"""The Terraform modules of this version, copied into a cluster's own folder, where its state lies."""

import fnmatch
import shutil
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.provision.wheel import ROOT

MODULES = ROOT / "terraform"
_TERRAFORMS_OWN = (
    ".terraform",
    "*.tfstate",
    "*.tfstate.*",
    ".terraform.tfstate.lock.info",
    ".terraform.lock.hcl",
    "*.token*",
)
_USERS_OWN = ("backend.tf", "*_override.tf")
_NO_USE_THERE = ("tests", "*.tftest.hcl", ".*")


def module_folder(kind: str) -> Path:
    """Where this version's root module for this kind of cluster lies."""
    return MODULES / kind


def copy_module(kind: str, into: Path) -> None:
    """Make the folder hold this version's module and nothing of an older one's.

    What Terraform keeps there stays, and so do a user's `backend.tf` (the state elsewhere) and `*_override.tf`.

    Raises:
        ClusterError: this installation came without the modules.
    """
    source = module_folder(kind)
    if not any(source.glob("*.tf")):
        raise ClusterError(f"This tuneyard came without its Terraform modules: {source} is missing. Install it again.")
    for path in into.iterdir():
        if not _fits(path.name, (*_TERRAFORMS_OWN, *_USERS_OWN)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(source, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_TERRAFORMS_OWN, *_NO_USE_THERE))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
