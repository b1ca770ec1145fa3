"""torch against the driver: each way to fail has its own reason and advice."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tuneyard.cluster.doctor.cuda import ProbeError, ask_torch, judge_cuda
from tuneyard.cluster.doctor.driver import Driver, Gpu
from tuneyard.cluster.doctor.findings import Result

L4 = Gpu("NVIDIA L4", 24 * 2**30, 0, 45, "Default", None, 0, False, ())
DEVICE = {"name": "NVIDIA L4", "memory_bytes": 24 * 2**30, "capability": "8.9", "bf16": True}


def driver(cuda: tuple[int, int], gpus: int = 1) -> Driver:
    return Driver("555.42", cuda, (L4,) * gpus)


def probe(
    *, cuda: str | None = "13.0", devices: int = 1, error: str | None = None, which: str = "all"
) -> dict[str, Any]:
    return {
        "torch": "2.15.0", "cuda": cuda, "hip": None, "available": error is None, "devices": [DEVICE] * devices,
        "architectures": ["sm_80", "sm_90"], "errors": {} if error is None else {which: error},
    }  # fmt: skip


def test_it_computes() -> None:
    found = judge_cuda(driver((13, 0)), 1, probe())
    assert found.result is Result.OK
    assert found.found == "torch 2.15.0 (CUDA 13.0) computes on 1 GPU: NVIDIA L4"


def test_an_older_driver_of_the_same_major_version_serves() -> None:
    assert judge_cuda(driver((13, 0)), 1, probe(cuda="13.2")).result is Result.OK


def test_a_driver_that_is_too_old() -> None:
    found = judge_cuda(driver((12, 4)), 1, probe(devices=0, error="The NVIDIA driver on your system is too old"))
    assert found.result is Result.FAILURE
    assert "knows CUDA up to 12.4" in found.advice
    assert "built for CUDA 12" in found.advice


def test_a_build_without_cuda() -> None:
    found = judge_cuda(driver((13, 0)), 1, probe(cuda=None, devices=0))
    assert found.result is Result.FAILURE
    assert "built without CUDA" in found.found


def test_a_gpu_that_the_build_has_no_code_for() -> None:
    text = "CUDA error: no kernel image is available for execution on the device"
    found = judge_cuda(driver((13, 0)), 1, probe(devices=0, error=text, which="0"))
    assert found.result is Result.FAILURE
    assert "on GPU 0" in found.found
    assert "built for sm_80, sm_90" in found.advice


def test_gpus_that_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = judge_cuda(driver((13, 0), gpus=2), 2, probe())
    assert found.result is Result.WARNING
    assert "sees 1 of 2 GPUs; CUDA_VISIBLE_DEVICES is '0'" in found.found


def test_no_gpu() -> None:
    assert judge_cuda(None, 0, probe(devices=0, error="no driver")).result is Result.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -SEGV $$", "torch crashed: SIGSEGV"),
        ("echo 'ImportError: libcudart.so.13' >&2; exit 1", "cannot be used: ImportError: libcudart.so.13"),
        ("exec sleep 60", "does not answer within 0.2 s"),
    ],
)
def test_a_torch_that_takes_its_process_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ProbeError, match=told):
        ask_torch(limit_s=0.2 if "sleep" in script else 20.0)
