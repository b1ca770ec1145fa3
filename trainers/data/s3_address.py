"""What a `data.source` in S3 names: a folder, a CSV file, an npz file, and perhaps an archive that holds it."""

from dataclasses import dataclass
from typing import Literal

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.names import is_user_reference

Kind = Literal["folder", "csv", "npz"]

SCHEME = "s3://"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_KINDS: dict[str, Kind] = {"folder": "folder", "csv": "csv", "npz": "npz"}
_BY_ENDING: dict[str, Kind] = {".csv": "csv", ".npz": "npz"}


@dataclass(frozen=True, slots=True)
class S3Address:
    """`key` is that of the folder (without a slash at its end), of the file, or of the archive.

    `inner`: the folder or file inside of the archive, "" for all of it; None where there is no archive.
    """

    kind: Kind
    bucket: str
    key: str
    inner: str | None = None

    @property
    def uri(self) -> str:
        """The address of what is brought: `s3://bucket/key`."""
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")


def parse_address(source: str) -> S3Address | None:
    """The address in S3 that `data.source` names: `s3://…`, or `folder:`, `csv:` or `npz:` before it; else None.

    Without a kind before it the ending tells: .csv, .npz, an archive of class folders, or else a folder. What follows
    an archive's name, as in `csv:s3://bucket/data.zip/labels.csv`, lies inside of it. Raises ConfigError.
    """
    if is_user_reference(source):
        return None
    given, colon, rest = source.partition(":")
    if not source.startswith(SCHEME) and not (colon and rest.startswith(SCHEME) and given in _KINDS):
        return None
    bucket, _, path = source.partition(SCHEME)[2].partition("/")
    if "@" in bucket:
        # The text before the @ may be a secret: it is not repeated.
        raise ConfigError(
            "data.source: an s3:// address may not hold credentials. Give them through AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, an AWS profile (data.s3.profile), or the machine's role."
        )
    if not bucket:
        raise ConfigError(f"data.source: {source!r} names no bucket. Write s3://BUCKET/PATH.")
    key, inner = _at_archive(path)
    target = inner or key
    kind = _KINDS[given] if given in _KINDS else _by_ending(target)
    if kind != "folder":
        _check_file(source, kind, key, inner)
    if inner is not None and any(part in (".", "..") for part in inner.split("/")):
        raise ConfigError(f"data.source: {source!r} leaves its archive. Give a path inside of it, without '..'.")
    return S3Address(kind, bucket, key if kind != "folder" else key.rstrip("/"), inner)


def _by_ending(target: str) -> Kind:
    for end, kind in _BY_ENDING.items():
        if target.endswith(end):
            return kind
    return "folder"


def _at_archive(path: str) -> tuple[str, str | None]:
    """The key of the first part that is named like an archive and what follows it; or all of the path, and None."""
    parts = path.split("/")
    for count, part in enumerate(parts, start=1):
        if part.lower().endswith(ARCHIVES):
            return "/".join(parts[:count]), "/".join(parts[count:]).strip("/")
    return path, None


def _check_file(source: str, kind: Kind, key: str, inner: str | None) -> None:
    if inner == "":
        raise ConfigError(
            f"data.source: {source!r} is an archive. Say which file inside of it: {kind}:{SCHEME}…/NAME.{kind}."
        )
    if not key or key.endswith("/"):
        raise ConfigError(f"data.source: {source!r} names no file. Write {kind}:{SCHEME}BUCKET/PATH/NAME.{kind}.")
