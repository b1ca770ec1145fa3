"""NVIDIA's driver and the state of the GPUs, as nvidia-smi tells them; and the GPUs that the PCI bus has."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from tuneyard.cluster.amounts import counted, size_text
from tuneyard.cluster.doctor.findings import Finding, failure, not_applicable, ok, warning

NAME = "NVIDIA driver"
STATE = "GPU state"
SMI_LIMIT_S = 30.0
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI's class codes of VGA and of 3D controllers; a GPU's sound device has another."""

_SLOWDOWNS = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")
_INSTALL = (
    "Install NVIDIA's driver (Debian, Ubuntu: the package nvidia-driver) and restart. In a container: start it with "
    "--gpus all, with nvidia-container-toolkit on the host."
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as the driver sees it.

    Attributes:
        slices: MIG instances; None where MIG is off.
        uncorrectable: memory errors since the driver was loaded that could not be corrected.
        slowdowns: why its clocks are held down at this moment, where that is a fault.
    """

    name: str
    memory_bytes: int
    used_bytes: int
    temperature_c: int | None
    compute_mode: str
    slices: int | None
    uncorrectable: int
    repair_pending: bool
    slowdowns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver that answers. `cuda`: the newest CUDA that it knows, as (major, minor)."""

    version: str
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


class DriverError(Exception):
    """nvidia-smi is there but does not say what it should; the text is its own."""


def read_driver() -> Driver | None:
    """What nvidia-smi says; None where it is not installed. Raises `DriverError`."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-q", "-x"], capture_output=True, text=True, timeout=SMI_LIMIT_S, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        raise DriverError(f"nvidia-smi does not answer within {SMI_LIMIT_S:g} s") from error
    if done.returncode != 0:
        raise DriverError(" ".join((done.stdout + done.stderr).split())[:300] or f"nvidia-smi ended {done.returncode}")
    return parse_driver(done.stdout)


def parse_driver(text: str) -> Driver:
    """The driver that the output of `nvidia-smi -q -x` describes. Raises `DriverError` for anything else."""
    try:
        root = Xml.fromstring(text)  # noqa: S314  (it comes from the driver's own program)
    except Xml.ParseError as error:
        raise DriverError(f"nvidia-smi's output cannot be read: {error}") from error
    major, _, minor = root.findtext("cuda_version", "").partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise DriverError("nvidia-smi names no CUDA version")
    gpus = tuple(_gpu(node) for node in root.iter("gpu"))
    return Driver(root.findtext("driver_version", "?"), (int(major), int(minor)), gpus)


def gpus_on_the_bus(devices: Path = _PCI) -> int:
    """NVIDIA GPUs on the PCI bus, with or without a driver."""
    return sum(
        _line(device / "vendor") == _NVIDIA and _line(device / "class").startswith(_DISPLAY_CLASSES)
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def check_driver() -> Iterator[Finding]:
    """Is there a driver for the GPUs of this machine, and are they in order?"""
    on_the_bus = gpus_on_the_bus()
    try:
        driver = read_driver()
    except DriverError as error:
        yield _silent(str(error), on_the_bus)
        return
    yield from judge_driver(driver, on_the_bus)


def judge_driver(driver: Driver | None, on_the_bus: int) -> Iterator[Finding]:
    """The findings about this driver on a machine with so many NVIDIA GPUs on its PCI bus."""
    if driver is None:
        if on_the_bus:
            yield failure(NAME, f"{counted(on_the_bus, 'NVIDIA GPU')} on the PCI bus, but no driver", _INSTALL)
        else:
            yield not_applicable(NAME, "no NVIDIA GPU in this machine")
        return
    data = {"driver": driver.version, "cuda": list(driver.cuda), "gpus": [gpu.name for gpu in driver.gpus]}
    told = f"driver {driver.version}, CUDA up to {driver.cuda[0]}.{driver.cuda[1]}, {counted(len(driver.gpus), 'GPU')}"
    if len(driver.gpus) < on_the_bus:
        yield failure(
            NAME,
            f"{told}, but {on_the_bus} on the PCI bus",
            "A GPU has fallen off the bus, or is not given to this machine. Look for 'Xid' in dmesg; restart.",
            data,
        )
    else:
        yield ok(NAME, told, data)
    if driver.gpus:
        yield from _states(driver.gpus)


def _silent(text: str, on_the_bus: int) -> Finding:
    if "mismatch" in text:
        advice = "The driver was updated under the running one. Restart the machine, or reload the nvidia modules."
    elif on_the_bus or "communicate" in text:
        advice = "The driver is not loaded, or hangs. Look at dmesg; restart; else install it again."
    else:
        advice = _INSTALL
    return failure(NAME, text, advice)


def _states(gpus: tuple[Gpu, ...]) -> Iterator[Finding]:
    faults = [fault for number, gpu in enumerate(gpus) for fault in _faults(number, gpu)]
    yield from faults
    if not faults:
        yield ok(STATE, "; ".join(_summary(gpus)))


def _summary(gpus: tuple[Gpu, ...]) -> Iterator[str]:
    for name in dict.fromkeys(gpu.name for gpu in gpus):
        alike = [gpu for gpu in gpus if gpu.name == name]
        used = sum(gpu.used_bytes for gpu in alike)
        warmest = max((gpu.temperature_c for gpu in alike if gpu.temperature_c is not None), default=None)
        heat = "" if warmest is None else f", {warmest} °C at most"
        sliced = sum(gpu.slices or 0 for gpu in alike)
        mig = f", MIG: {counted(sliced, 'slice')}" if sliced else ""
        memory = f"{size_text(alike[0].memory_bytes)} each, {size_text(used)} in use"
        yield f"{len(alike)} x {name}, {memory}{heat}{mig}"


def _faults(number: int, gpu: Gpu) -> Iterator[Finding]:
    who = f"GPU {number} ({gpu.name})"
    if gpu.uncorrectable:
        yield failure(
            STATE,
            f"{who}: {counted(gpu.uncorrectable, 'memory error')} that could not be corrected",
            "Restart the machine. If they come back, take this GPU out of service: its results may be wrong.",
        )
    if gpu.repair_pending:
        yield warning(STATE, f"{who}: a repair of its memory is pending", "Restart the machine, which carries it out.")
    if gpu.slices == 0:
        yield failure(
            STATE,
            f"{who}: MIG is on, but has no instance: no program can use it",
            f"Turn MIG off (nvidia-smi -i {number} -mig 0), or make instances (nvidia-smi mig -cgi …, -C).",
        )
    if gpu.slowdowns:
        yield warning(
            STATE,
            f"{who}: its clocks are held down: {', '.join(gpu.slowdowns).replace('_', ' ')}",
            "Look at its cooling and its power supply; it computes slower until then.",
        )
    if gpu.compute_mode.startswith("Exclusive") or gpu.compute_mode == "Prohibited":
        yield warning(
            STATE,
            f"{who}: its compute mode is {gpu.compute_mode}",
            f"It takes one process at most, so trials cannot share it: nvidia-smi -i {number} -c DEFAULT.",
        )


def _gpu(node: Xml.Element) -> Gpu:
    on = node.findtext("mig_mode/current_mig") == "Enabled"
    reasons = [
        name
        for name in _SLOWDOWNS
        # Drivers up to 535 say "throttle" where newer ones say "event".
        for kind in ("event", "throttle")
        if node.findtext(f"clocks_{kind}_reasons/clocks_{kind}_reason_{name}") == "Active"
    ]
    return Gpu(
        name=node.findtext("product_name", "?"),
        memory_bytes=_number(node.findtext("fb_memory_usage/total")) * 2**20,
        used_bytes=_number(node.findtext("fb_memory_usage/used")) * 2**20,
        temperature_c=_number(node.findtext("temperature/gpu_temp")) or None,
        compute_mode=node.findtext("compute_mode", "Default"),
        slices=len(node.findall("mig_devices/mig_device")) if on else None,
        uncorrectable=_uncorrectable(node.find("ecc_errors/volatile")),
        repair_pending="Yes" in (
            node.findtext("remapped_rows/remapped_row_pending"), node.findtext("retired_pages/pending_retirement"),
        ),
        slowdowns=tuple(reasons),
    )  # fmt: skip


def _uncorrectable(counts: Xml.Element | None) -> int:
    """Newer GPUs count `dram_uncorrectable` and the like, older ones `double_bit/total`."""
    if counts is None:
        return 0
    new = sum(_number(count.text) for count in counts if "uncorrectable" in count.tag)
    return new + _number(counts.findtext("double_bit/total"))


def _number(text: str | None) -> int:
    """The number in texts such as `434 MiB`; 0 for `N/A`."""
    found = re.match(r"\d+", text or "")
    return int(found[0]) if found else 0


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # a device without this file, or that has just gone
        return ""
