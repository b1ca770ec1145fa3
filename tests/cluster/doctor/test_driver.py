"""What nvidia-smi and the PCI bus say, judged. The XML has the elements of `nvidia-smi -q -x` that are read."""

from pathlib import Path

import pytest

from tuneyard.cluster.doctor.driver import (
    NAME,
    STATE,
    Driver,
    DriverError,
    check_driver,
    gpus_on_the_bus,
    judge_driver,
    parse_driver,
    read_driver,
)
from tuneyard.cluster.doctor.findings import Finding, Result

GPU = """<gpu id="00000000:01:00.0"><product_name>NVIDIA L4</product_name>
<mig_mode><current_mig>{mig}</current_mig></mig_mode><mig_devices>{slices}</mig_devices>
<clocks_{word}_reasons><clocks_{word}_reason_gpu_idle>Active</clocks_{word}_reason_gpu_idle>
<clocks_{word}_reason_hw_thermal_slowdown>{hot}</clocks_{word}_reason_hw_thermal_slowdown></clocks_{word}_reasons>
<fb_memory_usage><total>23034 MiB</total><used>1 MiB</used></fb_memory_usage>
<compute_mode>{mode}</compute_mode>
<ecc_errors><volatile>{ecc}</volatile><aggregate><dram_uncorrectable>7</dram_uncorrectable></aggregate></ecc_errors>
<remapped_rows><remapped_row_pending>{pending}</remapped_row_pending></remapped_rows>
<temperature><gpu_temp>45 C</gpu_temp></temperature></gpu>"""
NEW_ECC = "<sram_correctable>3</sram_correctable><dram_uncorrectable>{}</dram_uncorrectable>"


def smi(
    *, mig: str = "N/A", slices: str = "None", hot: str = "Not Active", mode: str = "Default",
    ecc: str = NEW_ECC.format(0), pending: str = "No", word: str = "event", gpus: int = 1,
) -> Driver:  # fmt: skip
    one = GPU.format(mig=mig, slices=slices, hot=hot, mode=mode, ecc=ecc, pending=pending, word=word)
    return parse_driver(
        '<?xml version="1.0" ?><!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd"><nvidia_smi_log>'
        f"<driver_version>555.42.06</driver_version><cuda_version>12.5</cuda_version>{one * gpus}</nvidia_smi_log>"
    )


def states(driver: Driver) -> list[Finding]:
    return [finding for finding in judge_driver(driver, len(driver.gpus)) if finding.name == STATE]


def test_two_gpus_in_order() -> None:
    driver, state = judge_driver(smi(gpus=2), 2)
    assert (driver.result, state.result) == (Result.OK, Result.OK)
    assert driver.found == "driver 555.42.06, CUDA up to 12.5, 2 GPUs"
    assert state.found == "2 x NVIDIA L4, 24.2 GB each, 2.1 MB in use, 45 °C at most"


@pytest.mark.parametrize(
    ("driver", "result", "told"),
    [
        (smi(ecc=NEW_ECC.format(2)), Result.FAILURE, "2 memory errors that could not be corrected"),
        (smi(ecc="<double_bit><total>1</total></double_bit>"), Result.FAILURE, "1 memory error that"),
        (smi(pending="Yes"), Result.WARNING, "a repair of its memory is pending"),
        (smi(hot="Active"), Result.WARNING, "held down: hw thermal slowdown"),
        (smi(hot="Active", word="throttle"), Result.WARNING, "held down: hw thermal slowdown"),
        (smi(mode="Exclusive_Process"), Result.WARNING, "compute mode is Exclusive_Process"),
        (smi(mig="Enabled"), Result.FAILURE, "MIG is on, but has no instance"),
        (smi(mig="Enabled", slices="<mig_device/><mig_device/>"), Result.OK, "MIG: 2 slices"),
    ],
)
def test_what_is_not_in_order_is_told(driver: Driver, result: Result, told: str) -> None:
    (found,) = states(driver)
    assert found.result is result
    assert told in found.found
    assert bool(found.advice) is (result is not Result.OK)


def test_a_gpu_without_a_driver() -> None:
    (found,) = judge_driver(None, 2)
    assert found.result is Result.FAILURE
    assert "2 NVIDIA GPUs on the PCI bus, but no driver" in found.found
    assert "--gpus all" in found.advice


def test_no_gpu_at_all() -> None:
    (found,) = judge_driver(None, 0)
    assert found.result is Result.NOT_APPLICABLE


def test_a_gpu_that_fell_off_the_bus() -> None:
    found = next(iter(judge_driver(smi(gpus=3), 4)))
    assert found.result is Result.FAILURE
    assert "3 GPUs, but 4 on the PCI bus" in found.found


def test_gpus_are_counted_on_the_bus(tmp_path: Path) -> None:
    for name, vendor, kind in [
        ("gpu", "0x10de", "0x030200"),
        ("screen", "0x10de", "0x030000"),
        ("sound", "0x10de", "0x040300"),
        ("other", "0x8086", "0x030000"),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert gpus_on_the_bus(tmp_path) == 2
    assert gpus_on_the_bus(tmp_path / "none") == 0


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an nvidia-smi of the test's own goes, found before any other."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "nvidia-smi"


def write(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_an_installed_driver_that_does_not_answer(program: Path) -> None:
    write(program, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    (found,) = check_driver()
    assert (found.name, found.result) == (NAME, Result.FAILURE)
    assert "Driver/library version mismatch" in found.found
    assert "Restart the machine" in found.advice


def test_output_that_is_no_xml(program: Path) -> None:
    write(program, "echo hello")
    with pytest.raises(DriverError, match="cannot be read"):
        read_driver()
