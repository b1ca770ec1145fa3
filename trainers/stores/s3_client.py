"""The clients of a store in S3: made from its options, and made anew when the credentials have expired."""

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.loaders import Loader, create_loader
from botocore.session import Session as BotocoreSession

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.stores.s3_options import S3Options

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_CONNECT_TIMEOUT_S = 5
"""Of urllib3's two limits this is also the one for sending a piece of a body."""

_READ_TIMEOUTS_S = (60, 30, 15, 8, 4, 2, 1)
"""How long a server may be silent. A client has one limit, so that a short rest of time needs a client of its own."""

_CONNECTIONS = 32


@cache
def _loader() -> Loader:
    """AWS's descriptions of its services, read from the disk once and not for each session: that takes 0.15 s."""
    return create_loader()


class S3Clients:
    """One session and its clients, safe for threads; credentials come from where AWS's own tools look for them."""

    def __init__(self, options: S3Options) -> None:
        if options.ca_bundle is not None and not Path(options.ca_bundle).is_file():
            raise ConfigError(
                f"{options.section}.ca_bundle: {options.ca_bundle!r} is no file on this machine. Give the path of a PEM"
                " file with the certificates of your authority."
            )
        self._options = options
        self._lock = threading.Lock()
        self._session: boto3.Session | None = None
        self._clients: dict[int, S3Client] = {}
        self._generation = 0

    def get(self, rest_s: float) -> tuple["S3Client", int]:
        """A client that waits for a silent server no longer than about `rest_s`, and the number of its session."""
        timeout_s = next((limit for limit in _READ_TIMEOUTS_S if limit <= rest_s), _READ_TIMEOUTS_S[-1])
        with self._lock:
            if timeout_s not in self._clients:
                self._clients[timeout_s] = self._make(timeout_s)
            return self._clients[timeout_s], self._generation

    def renew(self, generation: int) -> None:
        """Read the credentials anew, unless another thread has done so since `generation`."""
        with self._lock:
            if generation == self._generation:
                self._session, self._clients = None, {}
                self._generation += 1

    def _make(self, timeout_s: int) -> "S3Client":
        endpoint = self._options.endpoint_url
        if self._session is None:
            core = BotocoreSession()
            core.register_component("data_loader", _loader())
            self._session = boto3.Session(
                profile_name=self._options.profile, region_name=self._options.region, botocore_session=core
            )
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=timeout_s,
            # Tries are ours, so that one deadline holds for them all.
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
            signature_version=UNSIGNED if self._options.anonymous else None,
            # Who needs to know compares digests; a mismatch that boto3 finds would look like a network fault.
            response_checksum_validation="when_required",
            s3={
                # Other servers than AWS's are reached by one host name, without one for each bucket.
                "addressing_style": "path" if endpoint else "auto",
                # Each upload has a signed SHA-256 header: hashing it once more for the signature adds nothing.
                "payload_signing_enabled": False,
            },
        )
        return self._session.client(
            "s3",
            endpoint_url=endpoint,
            # A region must be named to sign requests; servers other than AWS's accept any.
            region_name=self._session.region_name or ("us-east-1" if endpoint else None),
            verify=self._options.ca_bundle,
            config=config,
        )
