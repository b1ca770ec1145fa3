"""Images in a bucket of the test server, for the tests of what is brought from there."""

from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np

from tests.s3_proxy import Request, S3Proxy
from tuneyard.trainers.config.data import DataConfig, S3Config
from tuneyard.trainers.data.dataset import ImageData, load_data
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store


def png(value: int, side: int = 8) -> bytes:
    """A grey image; of noise where it is to be large."""
    pixels = np.random.default_rng(value).integers(0, 256, (side, side), dtype=np.uint8) if side > 8 else value
    done, data = cv2.imencode(".png", np.broadcast_to(np.uint8(pixels), (side, side)).copy())
    assert done
    return data.tobytes()


@cache
def _store(endpoint_url: str) -> Store:
    return open_store("s3://tests", S3Options(endpoint_url=endpoint_url))


class Bucket:
    """A prefix of its own in the bucket `tests`, read through a proxy; `cache` is this machine's folder."""

    def __init__(self, proxy: S3Proxy, direct: str, cache: Path) -> None:
        self.proxy, self.cache = proxy, cache
        self.prefix = uuid4().hex
        self._store = _store(direct)

    def put(self, files: dict[str, bytes]) -> None:
        """Upload these, past the proxy."""
        for name, data in files.items():
            self._store.put(f"{self.prefix}/{name}", data)

    def remove(self, name: str) -> None:
        """Delete one object."""
        self._store.delete(f"{self.prefix}/{name}")

    def uri(self, name: str = "") -> str:
        """`s3://tests/…`"""
        return f"s3://tests/{self.prefix}/{name}".rstrip("/")

    def config(self, name: str = "", *, kind: str = "", deadline_s: float = 20.0, **changes: Any) -> DataConfig:
        """A config that reads what lies there."""
        reach = S3Config(endpoint_url=self.proxy.endpoint_url, deadline_s=deadline_s)
        return DataConfig(
            source=f"{kind}{self.uri(name)}", s3=reach, image_size=8, cache_dir=str(self.cache), **changes
        )

    def load(self, name: str = "", **changes: Any) -> ImageData:
        """The data that lie there, brought."""
        return load_data(self.config(name, **changes), self.cache)

    def reads(self) -> list[str]:
        """The names of the objects that were asked for, since the last time."""
        found = sorted(self._name(one) for one in self.proxy.seen("GET") if "list-type" not in one.target)
        self.proxy.requests.clear()
        return found

    def _name(self, request: Request) -> str:
        return request.target.partition("?")[0].partition(f"{self.prefix}/")[2]

    def copied(self) -> list[str]:
        """The names of the files that lie on this machine, in copies."""
        folders = [*self.cache.glob("s3/*/files"), *self.cache.glob("s3/*/tree")]
        return sorted(
            path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*") if path.is_file()
        )
