"""What went wrong in S3: which faults pass by themselves, and what each means for the user."""

from dataclasses import dataclass
from enum import Enum

from botocore import exceptions as faults
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tuneyard.trainers.errors import DeleteRefusedError, MissingKeyError, StoreError
from tuneyard.trainers.stores.s3_options import S3Options

FAULTS = (faults.ClientError, faults.BotoCoreError, ResponseParserError, HTTPError)
"""All that boto3 raises for a fault outside this program. Half an answer comes as a parser's or as urllib3's error."""

_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
}
_WRONG_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"}
_WRONG_REGION = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_WRONG_KMS_KEY = {"KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException"}

_PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
"""A body that arrived altered is among them: it is sent again."""
_PASSING_STATUSES = {408, 409, 429, 500, 502, 503, 504}
"""409: another writer of this key was at work in the same moment, and nobody has won yet."""


class Kind(Enum):
    """What a fault asks for: to wait and try again, to read the credentials anew, or to give up."""

    PASSING = 1
    EXPIRED = 2
    FINAL = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Which store an error is about. `setting`: the experiment's key that names it. `writes`: is it written to?"""

    uri: str
    bucket: str
    options: S3Options
    setting: str = "checkpoint.store"
    writes: bool = True

    def attempt(self, verb: str, key: str) -> str:
        """The beginning of an error's text: where, and what was tried."""
        at = f" at {self.options.endpoint_url}" if self.options.endpoint_url else ""
        return f"{self.uri}{at}: could not {verb} {key!r}" if key else f"{self.uri}{at}: could not {verb}"


def status_of(error: faults.ClientError) -> int:
    """The HTTP status of a refusal."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def code_of(error: faults.ClientError) -> str:
    """S3's own name of a refusal, such as NoSuchKey; the status where the answer had no body."""
    return error.response.get("Error", {}).get("Code", "")


def kind_of(error: Exception, *, worked: bool = False) -> Kind:
    """Does `error`, one of `FAULTS`, pass by itself? Credentials that `worked` before were replaced by others."""
    if isinstance(error, faults.ClientError):
        if code_of(error) in _EXPIRED or (worked and code_of(error) in _WRONG_KEYS):
            return Kind.EXPIRED
        passing = status_of(error) in _PASSING_STATUSES or code_of(error) in _PASSING_CODES
        return Kind.PASSING if passing else Kind.FINAL
    if isinstance(error, faults.CredentialRetrievalError | faults.TokenRetrievalError):
        return Kind.EXPIRED
    if _distrusted(error):
        return Kind.FINAL
    if isinstance(error, faults.BotoCoreError):
        on_the_way = (
            faults.HTTPClientError | faults.ConnectionError | faults.IncompleteReadError | faults.FlexibleChecksumError
        )
        return Kind.PASSING if isinstance(error, on_the_way) else Kind.FINAL
    return Kind.PASSING


def explain(error: Exception, place: Place, verb: str, key: str) -> StoreError:
    """The error that tells the user what to do. It quotes the server, never a credential."""
    if isinstance(error, faults.ClientError) and code_of(error) in ("NoSuchKey", "404"):
        return MissingKeyError(f"{place.uri}/{key}: there is nothing under this key.")
    refused = isinstance(error, faults.ClientError) and code_of(error) in ("AccessDenied", "403") and verb == "delete"
    kind = DeleteRefusedError if refused else StoreError
    return kind(f"{place.attempt(verb, key)}: {_reason(error, place)}")


def gave_up(error: Exception, place: Place, verb: str, key: str, *, after_s: float, tries: int) -> StoreError:
    """The error for a fault that passes by itself, but did not in time."""
    seconds = f"{after_s:.0f}" if after_s >= 10 else f"{after_s:.1f}"
    return StoreError(
        f"{place.attempt(verb, key)}: gave up after {seconds} s ({place.options.section}.deadline_s:"
        f" {place.options.deadline_s:g}), {tries} tries; last: {_reason(error, place)}"
    )


def _reason(error: Exception, place: Place) -> str:
    return _refusal(error, place) if isinstance(error, faults.ClientError) else _fault_on_the_way(error, place)


def _refusal(error: faults.ClientError, place: Place) -> str:
    code = code_of(error)
    if code == "NoSuchBucket":
        endpoint = place.options.endpoint_url
        option = f" --endpoint-url {endpoint}" if endpoint else ""
        return (
            f"there is no bucket {place.bucket!r}. Make it with `aws s3 mb s3://{place.bucket}{option}`, or correct"
            f" {place.setting}."
        )
    if code == "RequestTimeTooSkewed":
        return "this machine's clock and the server's are too far apart (RequestTimeTooSkewed). Set the clock (NTP)."
    if code in _EXPIRED:
        return f"the credentials have expired, and read anew they still have ({code}). Log in again. {_advice(place)}"
    if code in _WRONG_KEYS:
        return f"the credentials are wrong ({code}). {_advice(place)}"
    if code in _WRONG_REGION:
        region = _right_region(error)
        key = f"{place.options.section}.region"
        which = f"another region, {region} ({code}). Set {key}: {region}" if region else None
        return f"the bucket lies in {which or f'another region ({code}). Set {key} to its own'}."
    if code in _WRONG_KMS_KEY:
        return f"the KMS key cannot be used ({code}: {_message(error)}). Correct checkpoint.kms_key, or enable the key."
    if code in ("AccessDenied", "403"):
        return f"access is denied. {_rights(place)}"
    if code == "InvalidObjectState":
        return "the object is archived (S3 Glacier) and cannot be read. Restore it first: `aws s3api restore-object`."
    if code == "BadDigest":
        return f"what arrived was not what was sent (BadDigest: {_message(error)}). A network or a disk alters bytes."
    return f"the server answered {status_of(error)} {code} ({_message(error)})."


def _rights(place: Place) -> str:
    """What these credentials must be allowed to do."""
    if not place.writes:
        kms = "where the bucket is encrypted with a KMS key, kms:Decrypt on that"
        public = "" if place.options.anonymous else f" A public bucket is read with {place.options.section}.anonymous."
        return f"Reading takes s3:ListBucket on the bucket, s3:GetObject on its objects and, {kms}.{public}"
    kms = ", and kms:GenerateDataKey and kms:Decrypt on checkpoint.kms_key" if place.options.kms_key else ""
    return (
        "These credentials need s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and"
        f" s3:AbortMultipartUpload on its objects{kms}."
    )


def _advice(place: Place) -> str:
    """Where credentials come from."""
    return (
        f"Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in {place.options.section}.profile or"
        " AWS_PROFILE, or give the machine a role."
    )


def _message(error: faults.ClientError) -> str:
    return error.response.get("Error", {}).get("Message", "") or "no text"


def _right_region(error: faults.ClientError) -> str | None:
    """The region that a redirect names: in a header, or in the text of the answer."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    told = error.response.get("Error", {})
    return headers.get("x-amz-bucket-region") or dict[str, str](**told).get("Region")


def _distrusted(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _fault_on_the_way(error: Exception, place: Place) -> str:
    section = place.options.section
    if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError):
        return f"there are no complete credentials. {_advice(place)}"
    if isinstance(error, faults.CredentialRetrievalError | faults.TokenRetrievalError | faults.SSOError):
        return f"the credentials cannot be had ({error}). Log in again. {_advice(place)}"
    if isinstance(error, faults.NoRegionError):
        return f"no region is set. Set {section}.region, or AWS_DEFAULT_REGION."
    if isinstance(error, faults.FlexibleChecksumError):
        return f"what arrived is not what lies in the bucket ({error}). A network, a proxy or a disk alters bytes."
    if _distrusted(error):
        return (
            f"the server's certificate is not trusted ({error}). Set {section}.ca_bundle to the PEM file of the"
            " authority that signed it."
        )
    if kind_of(error) is Kind.PASSING:
        return (
            f"the server cannot be reached, or does not answer as S3 ({error}). See that it is up, that"
            f" {section}.endpoint_url is right, and that no firewall or proxy is in between."
        )
    return f"{error}."
