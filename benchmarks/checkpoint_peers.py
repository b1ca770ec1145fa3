"""The ways to save a training state to S3 that `checkpoint.py` compares: ours, and three that a user could take.

Each is written as its own documentation has it, with the server's address and the keys as the only additions.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

State = dict[str, Any]

BUCKET = "checkpoints"
REGION = "us-east-1"
KEEP_ALL = 100


class Side(Protocol):
    """One way to save and load. `name` tells the saves of one process apart."""

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Returns when the training loop may go on."""
        ...

    def settle(self) -> None:
        """Returns when weights and the optimizer's state may change."""
        ...

    def wait(self) -> None:
        """Returns when the last save is durable."""
        ...

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Fills both with what was saved as `name`."""
        ...


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> State:
    """What every side saves."""
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": {"step": step}}


class Ours:
    """Our checkpoints, as a run makes them."""

    def __init__(self, endpoint_url: str, prefix: str) -> None:
        from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
        from tuneyard.trainers.stores.s3_options import S3Options
        from tuneyard.trainers.stores.store import open_store

        store = open_store(f"s3://{BUCKET}", S3Options(endpoint_url=endpoint_url))
        self._checkpoints = Checkpoints(store, f"{prefix}/", keep_last=KEEP_ALL)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Copies what a forward pass changes; threads do the rest."""
        tensors = [*model.parameters(), *(value for entry in optimizer.state.values() for value in entry.values())]
        steady = {tensor.data_ptr() for tensor in tensors}
        self._checkpoints.save(state_of(model, optimizer, name), step=name, epoch=name, metric=None, steady=steady)

    def settle(self) -> None:
        """Until the rest is copied, too."""
        self._checkpoints.settle()

    def wait(self) -> None:
        """Until the manifest is committed."""
        self._checkpoints.wait()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Every byte is verified."""
        found = self._checkpoints.load(name)
        assert found is not None
        model.load_state_dict(found[1]["model"])
        optimizer.load_state_dict(found[1]["optimizer"])


class UploadFile:
    """torch.save to a file, and boto3's upload_file; download_file and torch.load."""

    def __init__(self, endpoint_url: str, prefix: str) -> None:
        import boto3

        self._client = boto3.client("s3", endpoint_url=endpoint_url, region_name=REGION)
        self._prefix = prefix

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """The loop waits for all of it."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            path = Path(folder) / "checkpoint.pt"
            torch.save(state_of(model, optimizer, name), path)
            self._client.upload_file(str(path), BUCKET, self._key(name))

    def settle(self) -> None:
        """`save` has copied everything."""

    def wait(self) -> None:
        """`save` has waited."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """By way of a file, too."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            path = Path(folder) / "checkpoint.pt"
            self._client.download_file(BUCKET, self._key(name), str(path))
            state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def _key(self, name: int) -> str:
        return f"{self._prefix}/{name}/checkpoint.pt"


class Connector:
    """s3torchconnector's S3Checkpoint: torch.save to its writer, torch.load from its reader."""

    def __init__(self, endpoint_url: str, prefix: str) -> None:
        from s3torchconnector import S3Checkpoint, S3ClientConfig

        config = S3ClientConfig(force_path_style=True)
        self._checkpoint = S3Checkpoint(REGION, endpoint=endpoint_url, s3client_config=config)
        self._prefix = prefix

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """The loop waits for all of it."""
        with self._checkpoint.writer(self._uri(name)) as writer:
            torch.save(state_of(model, optimizer, name), writer)

    def settle(self) -> None:
        """`save` has copied everything."""

    def wait(self) -> None:
        """`save` has waited."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Straight from the reader."""
        with self._checkpoint.reader(self._uri(name)) as reader:
            state = torch.load(reader, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def _uri(self, name: int) -> str:
        return f"s3://{BUCKET}/{self._prefix}/{name}/checkpoint.pt"


class Distributed:
    """torch.distributed.checkpoint: async_save through s3torchconnector's storage writer, and load."""

    def __init__(self, endpoint_url: str, prefix: str) -> None:
        from s3torchconnector import S3ClientConfig
        from s3torchconnector._s3client import S3Client

        # The writer and the reader take no endpoint, and so get their client from here.
        self._client = S3Client(REGION, endpoint=endpoint_url, s3client_config=S3ClientConfig(force_path_style=True))
        self._prefix = prefix
        self._saved: Future[Any] | None = None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Copies the state; a thread does the rest."""
        from s3torchconnector.dcp import S3StorageWriter
        from s3torchconnector.dcp.s3_file_system import S3FileSystem
        from torch.distributed.checkpoint.state_dict import get_state_dict
        from torch.distributed.checkpoint.state_dict_saver import async_save

        of_model, of_optimizer = get_state_dict(model, optimizer)
        writer = S3StorageWriter(REGION, self._uri(name))
        writer.fs = S3FileSystem(REGION, s3_client=self._client)
        state = {"model": of_model, "optimizer": of_optimizer, "progress": {"step": name}}
        saved = async_save(state, storage_writer=writer, no_dist=True)
        assert isinstance(saved, Future)
        self._saved = saved

    def settle(self) -> None:
        """`save` has copied everything."""

    def wait(self) -> None:
        """Until its metadata are written."""
        assert self._saved is not None
        self._saved.result()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, name: int) -> None:
        """Into the tensors that are there."""
        from s3torchconnector.dcp import S3StorageReader
        from s3torchconnector.dcp.s3_file_system import S3FileSystem
        from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        of_model, of_optimizer = get_state_dict(model, optimizer)
        state = {"model": of_model, "optimizer": of_optimizer, "progress": {"step": 0}}
        reader = S3StorageReader(REGION, self._uri(name))
        reader.fs = S3FileSystem(REGION, s3_client=self._client, reader_constructor=reader._reader_constructor)
        load(state, storage_reader=reader, no_dist=True)
        set_state_dict(model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)

    def _uri(self, name: int) -> str:
        return f"s3://{BUCKET}/{self._prefix}/{name}/"


SIDES: dict[str, Callable[[str, str], Side]] = {
    "tuneyard": Ours,
    "torch.save + upload_file": UploadFile,
    "DCP async_save": Distributed,
    "s3torchconnector": Connector,
}
