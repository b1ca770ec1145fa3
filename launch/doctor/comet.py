"""The doctor's look at Comet: is there an API key, and does Comet know it? The key itself is never shown."""

import base64
import binascii
import configparser
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tuneyard.cluster.doctor.findings import Finding, failure, not_applicable, ok, warning

NAME = "Comet"
_COMET = "https://www.comet.com"
_ACCOUNT = "/api/rest/v2/account-details"
"""The address that `comet check` asks: it answers with the account that the key belongs to."""

_ANSWER_S = 10.0
_SET = "Set COMET_API_KEY (the key is on your Comet account's page), or run `comet login`."
_OFFLINE = "Runs are kept as archives, which `comet upload` sends later."


def check_comet(mode: str) -> Iterator[Finding]:
    """The finding for `tracking.comet.mode`: auto, online, offline or off."""
    if mode == "off":
        yield not_applicable(NAME, "tracking.comet.mode is off")
        return
    key, where = api_key()
    if not key:
        if mode == "online":
            yield failure(NAME, "tracking.comet.mode is online, but there is no API key", _SET)
        else:
            yield not_applicable(NAME, f"no API key: runs are kept as archives. {_SET}")
        return
    server = server_of(key)
    status = _ask(server, key)
    if isinstance(status, str):
        advice = f"{_OFFLINE} To use it online, see that this machine reaches {server}: a firewall, or a proxy?"
        yield (failure if mode == "online" else warning)(
            NAME, f"a key from {where}; {server} cannot be reached: {status}", advice
        )
    elif status in (401, 403):
        yield failure(NAME, f"{server} refuses the key from {where} ({status})", f"It was revoked, or mistyped. {_SET}")
    elif status != 200:
        yield warning(NAME, f"a key from {where}; {server} answered {status}", f"Try later. {_OFFLINE}")
    else:
        yield ok(NAME, f"{server} knows the key from {where}")


def api_key() -> tuple[str | None, str]:
    """The key, and where it was found: the environment, or a configuration file, in Comet's own order."""
    key = os.environ.get("COMET_API_KEY")
    if key:
        return key.strip(), "COMET_API_KEY"
    for path in _files():
        key = _value(path, "api_key")
        if key:
            return key, str(path)
    return None, ""


def server_of(key: str) -> str:
    """Comet's address for this key: as configured, or as the key names it itself (`KEY*base64 of JSON`)."""
    override = os.environ.get("COMET_URL_OVERRIDE") or next(
        (value for path in _files() if (value := _value(path, "url_override"))), None
    )
    if override is None:
        try:
            override = json.loads(base64.b64decode(key.partition("*")[2] + "==")).get("baseUrl")
        except (ValueError, binascii.Error, AttributeError):
            override = None
    parts = urlsplit(override or _COMET)
    return f"{parts.scheme}://{parts.netloc}"


def _files() -> list[Path]:
    given = os.environ.get("COMET_CONFIG")
    places = [Path(".comet.config"), Path("~/.comet.config").expanduser()]
    if given:
        path = Path(given).expanduser()
        places.insert(0, path / ".comet.config" if path.is_dir() else path)
    return [path for path in places if path.is_file()]


def _value(path: Path, name: str) -> str | None:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path)
    except (configparser.Error, OSError, UnicodeDecodeError):
        return None
    return parser.get("comet", name, fallback=None)


def _ask(server: str, key: str) -> int | str:
    """The status with which Comet answers to the key; a text where it does not answer."""
    request = urllib.request.Request(f"{server}{_ACCOUNT}", headers={"Authorization": key})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310  (the address is the user's own)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
