"""What keeps a machine from being a node is found before Ray is started there."""

from pathlib import Path

import pytest

from tuneyard.cluster.node import check
from tuneyard.cluster.node.check import problems
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.folder import NodeFolder

HEAD = NodeConfig(
    cluster="lab", role="head", address="127.0.0.1", kind="onprem", num_gpus=0, scratch=Path("/var/tmp")
)  # a folder of pytest's is too long a path for Ray's sockets


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    (tmp_path / "token").touch(mode=0o600)
    return NodeFolder(tmp_path)


def test_this_machine_has_no_problems(folder: NodeFolder) -> None:
    assert problems(HEAD, folder) == []


def test_a_path_too_long_for_sockets(folder: NodeFolder) -> None:
    [problem] = problems(HEAD.model_copy(update={"scratch": Path("/" + "a" * 60)}), folder)
    assert "too long a path for the sockets" in problem


def test_an_address_of_another_machine(folder: NodeFolder) -> None:
    [problem] = problems(HEAD.model_copy(update={"address": "192.0.2.7"}), folder)
    assert "192.0.2.7 is not this machine's" in problem


def test_a_token_that_others_may_read(folder: NodeFolder) -> None:
    folder.token.chmod(0o644)
    [problem] = problems(HEAD, folder)
    assert "chmod 600" in problem


def test_no_token(folder: NodeFolder) -> None:
    folder.token.unlink()
    [problem] = problems(HEAD, folder)
    assert "token cannot be read" in problem


def test_a_gpu_without_a_driver(folder: NodeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "pci/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    monkeypatch.setattr(check, "PCI", tmp_path / "pci")
    monkeypatch.setenv("PATH", str(tmp_path))
    [problem] = problems(HEAD.model_copy(update={"num_gpus": None}), folder)
    assert problem.startswith("1 NVIDIA GPUs are in the machine")
    assert problem.endswith("install the driver")


def test_fewer_gpus_than_are_to_be_handed_out(
    folder: NodeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A10G (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert problems(HEAD.model_copy(update={"num_gpus": 1}), folder) == []
    [problem] = problems(HEAD.model_copy(update={"num_gpus": 2}), folder)
    assert "does not serve 2 GPUs" in problem
