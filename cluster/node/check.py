"""What must be right on a machine before it can be a node; each problem is told with what mends it."""

import importlib.metadata
import importlib.util
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.environment import check_private, read_environment_file
from tuneyard.cluster.node.folder import NodeFolder

NEEDED = ("ray", "torch", "tuneyard")
FREE_BYTES = 2_000_000_000
"""For Ray's logs and the spilled objects of a small job."""
NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI classes of a GPU, with and without a screen."""
PCI = Path("/sys/bus/pci/devices")


def problems(config: NodeConfig, folder: NodeFolder) -> list[str]:
    """All that keeps this machine from being the node that it is to be; empty where nothing does."""
    return [*_python(), *_disk(config, folder), *_driver(config), *_address(config), *_secrets(config, folder)]


def _python() -> list[str]:
    missing = [name for name in NEEDED if not _installed(name)]
    if missing:
        return [f"{sys.executable} has no {', '.join(missing)}: install tuneyard there, or give another `python`"]
    return []


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _disk(config: NodeConfig, folder: NodeFolder) -> list[str]:
    try:
        temp = folder.ray_temp(config)
    except ClusterError as error:
        return [str(error)]
    place = next(path for path in (temp, *temp.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES:
        return [f"{place} has {free / 1e9:.1f} GB free, and Ray's temporary files need {FREE_BYTES / 1e9:.0f} GB"]
    return []


def _driver(config: NodeConfig) -> list[str]:
    """A GPU that the machine has and its driver does not serve."""
    gpus = _nvidia_gpus()
    if config.num_gpus == 0 or not (gpus or config.num_gpus):
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{gpus} NVIDIA GPUs are in the machine, and nvidia-smi does not run ({error}): install the driver"]
    served = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    if served < (config.num_gpus or 1):
        said = (done.stderr or done.stdout).strip() or f"it lists {served} GPUs"
        return [f"nvidia-smi does not serve {config.num_gpus or gpus} GPUs: {said}; install or reload the driver"]
    return []


def _nvidia_gpus() -> int:
    found = 0
    for device in PCI.glob("*"):
        if (device / "vendor").read_text().strip() == NVIDIA:
            found += (device / "class").read_text().startswith(DISPLAY_CLASSES)
    return found


def _address(config: NodeConfig) -> list[str]:
    if not config.address:
        return []
    with socket.socket() as probe:
        try:
            probe.bind((config.address, 0))
        except OSError as error:
            return [f"the address {config.address} is not this machine's ({error.strerror}): give the right one"]
    return []


def _secrets(config: NodeConfig, folder: NodeFolder) -> list[str]:
    found: list[str] = []
    try:
        if config.token_parameter is None:
            check_private(folder.token)
        if config.environment_file is not None:
            read_environment_file(config.environment_file)
        if config.tls:
            check_private(folder.tls / "node.key")
    except ClusterError as error:
        found.append(str(error))
    return found
