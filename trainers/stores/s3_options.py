"""How a store in S3 is reached: plain data, from the experiment file to the client."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from tuneyard.trainers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class S3Options:
    """The S3 keys of an experiment's `checkpoint` section, or of `data.s3`. There is never a credential among them.

    `deadline_s` is for all tries of one request together. `anonymous`: requests are not signed, for what is public.
    `section` is where these keys stand, for the texts of errors. Raises `ConfigError` for an address that cannot be.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    kms_key: str | None = None
    ca_bundle: str | None = None
    deadline_s: float = 300.0
    anonymous: bool = False
    section: str = "checkpoint"

    def __post_init__(self) -> None:
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(
                f"endpoint_url: {without_login(self.endpoint_url)!r} is not the address of an S3 server. Allowed:"
                " https://HOST or http://HOST:PORT, without a user name or password."
            )


def without_login(uri: str) -> str:
    """`uri` with what stands before an @ left out: it may be a secret."""
    head, at, tail = uri.rpartition("@")
    return f"{head.split('//')[0]}//***@{tail}" if at and "//" in head else uri
