"""torch against the driver: does it compute on the GPUs of this machine, and if not, why?"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tuneyard.cluster.amounts import counted
from tuneyard.cluster.doctor.driver import Driver, DriverError, gpus_on_the_bus, read_driver
from tuneyard.cluster.doctor.findings import Finding, failure, not_applicable, ok, warning

NAME = "torch on GPUs"
PROBE_LIMIT_S = 120.0
"""Importing torch takes a minute where its files come over a network for the first time."""


class ProbeError(Exception):
    """torch cannot even be asked; the text says why."""


def check_cuda() -> Iterator[Finding]:
    """Ask torch in a process of its own, and compare with the driver."""
    try:
        driver = read_driver()
    except DriverError:
        driver = None  # told by the check of the driver
    try:
        probe = ask_torch()
    except ProbeError as error:
        yield failure(NAME, str(error), "Install torch again, in the versions of constraints.txt.")
        return
    yield judge_cuda(driver, max(gpus_on_the_bus(), len(driver.gpus) if driver else 0), probe)


def ask_torch(limit_s: float = PROBE_LIMIT_S) -> dict[str, Any]:
    """What `torch_probe` finds. Raises `ProbeError` where it crashes or does not answer."""
    line = [sys.executable, "-m", "tuneyard.cluster.doctor.torch_probe"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"torch does not answer within {limit_s:g} s") from error
    if done.returncode < 0:
        raise ProbeError(f"torch crashed: {signal.Signals(-done.returncode).name}")
    if done.returncode != 0:
        raise ProbeError(f"torch cannot be used: {(done.stderr.strip().splitlines() or ['no text'])[-1][:300]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def judge_cuda(driver: Driver | None, gpus: int, probe: Mapping[str, Any]) -> Finding:
    """The finding about this torch on a machine with so many NVIDIA GPUs."""
    version, data = f"torch {probe['torch']}", dict(probe)
    if probe["hip"] is not None and probe["devices"]:
        return ok(NAME, f"{version} (ROCm {probe['hip']}) computes on {counted(len(probe['devices']), 'GPU')}", data)
    if not gpus and not probe["devices"]:
        return not_applicable(NAME, f"no GPU here; {version} computes on the CPU", data)
    if probe["cuda"] is None:
        return failure(
            NAME,
            f"{version} is built without CUDA, and there is {counted(gpus, 'GPU')}",
            "Install a build with CUDA: https://pytorch.org/get-started/locally names the address for pip.",
            data,
        )
    if probe["errors"]:
        return _does_not_compute(driver, version, probe, data)
    visible, known = len(probe["devices"]), len(driver.gpus) if driver else gpus
    if visible < known:
        return _hidden(version, visible, known, data)
    names = ", ".join(dict.fromkeys(device["name"] for device in probe["devices"]))
    return ok(NAME, f"{version} (CUDA {probe['cuda']}) computes on {counted(visible, 'GPU')}: {names}", data)


def _hidden(version: str, visible: int, known: int, data: Mapping[str, Any]) -> Finding:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = f"{version} sees {visible} of {counted(known, 'GPU')}"
    if chosen is not None:
        told += f"; CUDA_VISIBLE_DEVICES is {chosen!r}"
    advice = "Unset CUDA_VISIBLE_DEVICES, or set it to the numbers of all. With MIG, a process sees one slice."
    return (failure if visible == 0 else warning)(NAME, told, advice, data)


def _does_not_compute(
    driver: Driver | None, version: str, probe: Mapping[str, Any], data: Mapping[str, Any]
) -> Finding:
    which, text = next(iter(probe["errors"].items()))
    where = "on any GPU" if which == "all" else f"on GPU {which}"
    told = f"{version} (CUDA {probe['cuda']}) does not compute {where}: {text}"
    needs = int(str(probe["cuda"]).partition(".")[0])
    if driver is None:
        advice = "There is no driver: see above."
    elif driver.cuda[0] < needs:
        # Within one major version any driver serves any torch: CUDA's minor version compatibility.
        advice = (
            f"The driver {driver.version} knows CUDA up to {driver.cuda[0]}.{driver.cuda[1]}. Update it, or install a "
            f"torch that is built for CUDA {driver.cuda[0]}."
        )
    elif "no kernel image" in text:
        built = ", ".join(probe["architectures"])
        advice = f"This torch is built for {built}, and not for this GPU: install a build that has it."
    else:
        advice = "Look at dmesg for 'Xid'; see that no other process holds the GPU's memory (nvidia-smi); restart."
    return failure(NAME, told, advice, data)
