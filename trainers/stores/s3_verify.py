"""Is this file what lies in the bucket? By the strongest sum that the server has of an object sent in parts."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tuneyard.trainers.stores.s3_objects import Facts, S3Object, S3Objects

_BLOCK_BYTES = 2**20


def verify_file(objects: S3Objects, found: S3Object, path: Path) -> str | None:
    """The kind of sum that the file agreed with: sha256, md5, crc32, or size where the server has no sum to go by.

    None where the file is not the object. Raises `ReplacedError`, StoreError.
    """
    if path.stat().st_size != found.size_bytes:
        return None
    facts = objects.facts(found)
    if facts.sha256 is not None:
        return "sha256" if _sha256(path) == base64.b64decode(facts.sha256) else None
    if found.md5 and not facts.encrypted:
        return "md5" if _etag(path, None) == found.md5 else None
    if "-" in found.etag and not facts.encrypted:
        agrees = _parts_agree(objects, found, path)
        if agrees is not None:
            return "md5" if agrees else None
    if facts.crc32 is not None:
        return "crc32" if _crc32(path) == int.from_bytes(base64.b64decode(facts.crc32), "big") else None
    return "size"


def _parts_agree(objects: S3Objects, found: S3Object, path: Path) -> bool | None:
    """Does the ETag, the MD5 of the parts' MD5s, agree? None where the server does not tell where parts begin."""
    count = found.etag.rpartition("-")[2]
    first = objects.facts(found, part=1)
    if not count.isdecimal() or first.part_count != int(count):
        return None
    if _etag(path, _even(found.size_bytes, first.part_bytes)) == found.etag:
        return True
    # Nearly everybody cuts evenly; before bytes are blamed, each part is asked for its length.
    rest: list[Facts] = [objects.facts(found, part=number) for number in range(2, int(count) + 1)]
    return _etag(path, [first.part_bytes, *(one.part_bytes for one in rest)]) == found.etag


def _even(size: int, part: int) -> list[int]:
    return [min(part, size - start) for start in range(0, size, max(part, 1))]


def _etag(path: Path, parts: Sequence[int] | None) -> str:
    """The ETag that S3 gives a file sent in one piece (None), or in parts of these lengths."""
    if parts is None:
        whole = hashlib.md5(usedforsecurity=False)
        _feed(path, whole.update)
        return whole.hexdigest()
    digests = b""
    with path.open("rb", buffering=0) as file:
        for length in parts:
            part = hashlib.md5(usedforsecurity=False)
            while length and (block := file.read(min(length, _BLOCK_BYTES))):
                part.update(block)
                length -= len(block)
            digests += part.digest()
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    _feed(path, digest.update)
    return digest.digest()


def _crc32(path: Path) -> int:
    value = 0
    for block in _blocks(path):
        value = zlib.crc32(block, value)
    return value


def _feed(path: Path, update: Callable[[bytes], None]) -> None:
    for block in _blocks(path):
        update(block)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
