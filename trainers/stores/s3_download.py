"""One object of S3, or a part of it, on its way into memory: a connection that breaks off costs only what was lost."""

from typing import TYPE_CHECKING, Any, cast

from botocore import exceptions as faults

from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.stores.s3_faults import status_of
from tuneyard.trainers.stores.store import too_short

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_FIRST_PIECE_BYTES = 2**18
_LARGEST_PIECE_BYTES = 2**22
"""Pieces double: large ones cost least, but of a piece that breaks off nothing is kept."""


class Download:
    """Reads from byte `start` until `out` is full; without `out` all of the object, into `whole`.

    Each call is one try, and goes on from the byte that the try before reached; an object that was replaced meanwhile
    is begun again. Raises `StoreError` where the object ends too early.
    """

    def __init__(self, bucket: str, name: str, address: str, start: int = 0, out: memoryview | None = None) -> None:
        self._bucket, self._name, self._address = bucket, name, address
        self._start = start
        self._out = None if out is None else out.cast("B")
        self._reached = 0
        self._etag = ""
        self.whole = bytearray()

    def __call__(self, client: "S3Client") -> None:
        """One try; raises boto3's errors."""
        try:
            answer = client.get_object(**self._request())
        except faults.ClientError as error:
            if status_of(error) == 416:
                raise self._ends_early() from error
            if status_of(error) != 412:
                raise
            self._reached, self._etag = 0, ""
            answer = client.get_object(**self._request())
        body = answer["Body"]
        try:
            self._fill(self._place_for(answer), cast("Any", body))  # its stubs take only files in `readinto`
        except BaseException:
            body.close()  # else the connection would stay open, and half read
            raise

    def _request(self) -> dict[str, Any]:
        request = {"Bucket": self._bucket, "Key": self._name}
        if self._out is not None:
            first, stop = self._start + self._reached, self._start + len(self._out)
            request["Range"] = f"bytes={first}-{stop - 1}"
        if self._reached:
            request["IfMatch"] = self._etag
        return request

    def _place_for(self, answer: "GetObjectOutputTypeDef") -> memoryview:
        """Where the bytes of this answer go."""
        self._etag = answer["ETag"]
        first = self._start + self._reached
        if self._out is None:
            self.whole = bytearray(answer["ContentLength"])
            self._out = memoryview(self.whole)
        elif not answer.get("ContentRange", "bytes 0-").startswith(f"bytes {first}-"):
            raise StoreError(f"{self._address}: the server does not serve parts of objects; use another server.")
        rest = self._out[self._reached :]
        if answer["ContentLength"] < len(rest):
            raise self._ends_early()
        return rest

    def _fill(self, rest: memoryview, body: Any) -> None:
        piece_bytes = _FIRST_PIECE_BYTES
        while rest:
            count = body.readinto(rest[:piece_bytes])
            if not count:
                raise faults.IncompleteReadError(actual_bytes=self._reached, expected_bytes=self._reached + len(rest))
            self._reached += count
            rest = rest[count:]
            piece_bytes = min(2 * piece_bytes, _LARGEST_PIECE_BYTES)

    def _ends_early(self) -> StoreError:
        return too_short(self._address, self._start, memoryview(b"") if self._out is None else self._out)
