"""A `data.source` in S3 becomes one on this machine's disk, and is read like any other from there."""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.data.archives import unpack
from tuneyard.trainers.data.decoded_cache import Teller
from tuneyard.trainers.data.file_sources import SUFFIXES
from tuneyard.trainers.data.image_files import cache_root
from tuneyard.trainers.data.s3_address import S3Address, parse_address
from tuneyard.trainers.errors import DataError

if TYPE_CHECKING:
    from tuneyard.trainers.data.s3_update import Stage, There
    from tuneyard.trainers.stores.s3_objects import S3Objects


@dataclass(frozen=True, slots=True)
class Local:
    """A config whose source lies on this machine. `folder` is the copy, if it is one of what lies at `uri`."""

    config: DataConfig
    folder: str = ""
    uri: str = ""

    def named(self, name: str) -> str:
        """What a file is called in reports: by its address, which is the same on every machine."""
        inside = bool(self.folder) and name.startswith(f"{self.folder}/")
        return f"{self.uri}{name.removeprefix(self.folder)}" if inside else name


@contextmanager
def at_hand(config: DataConfig) -> Iterator[Local]:
    """The config with a source that can be read here; the copy of one in S3 stays as it is until the block ends.

    Raises ConfigError for an address that cannot be, StoreError and DataError where it cannot be brought.
    """
    address = parse_address(config.source)
    if address is None:
        yield Local(config)
        return
    # boto3 takes half a second to import, which only a source in S3 should cost.
    from tuneyard.trainers.data.s3_copy import S3Copy
    from tuneyard.trainers.data.s3_update import Scope

    folder = address.uri if address.inner is None and address.kind == "folder" else address.uri.rpartition("/")[0]
    prefix = f"{folder}/".partition("://")[2].partition("/")[2]
    listed = address.key if address.inner is not None or address.kind == "npz" else prefix
    archive = partial(unpack, what=address.uri) if address.inner is not None else None
    place = cache_root(config) / "s3" / _name(config, address)
    copy = S3Copy(place, Scope(address.uri, prefix, listed), _stages(config, address), unpack=archive)
    with copy.held(_objects(config, address)) if config.download else copy.held_as_it_is() as brought:
        path = _inside(brought, address)
        uri = address.uri if address.inner is not None else folder
        local = config.model_copy(update={"source": f"{address.kind}:{path}"})
        try:
            yield Local(local, str(brought), uri)
        except DataError as error:
            raise DataError(f"{error} ({brought} is the copy of {uri}.)") from error


def _objects(config: DataConfig, address: S3Address) -> "S3Objects":
    from tuneyard.trainers.stores.s3_objects import S3Objects

    teller = Teller()

    def told(why: str) -> None:
        teller.say(f"{why} Tried again, for {config.s3_options.deadline_s:g} s (data.s3.deadline_s).")

    return S3Objects(address.bucket, config.s3_options, setting="data.source", told=told)


def _name(config: DataConfig, address: S3Address) -> str:
    """The folder of a copy: the same for all who mean the same objects."""
    kind = "archive" if address.inner is not None else address.kind
    column = config.columns.path if kind == "csv" else ""
    meant = "\0".join([config.s3_options.endpoint_url or "", kind, address.uri, column])
    return f"{address.bucket}-{hashlib.sha256(meant.encode()).hexdigest()[:16]}"


def _inside(brought: Path, address: S3Address) -> Path:
    """What the source names, in its copy."""
    if address.inner:
        return brought / address.inner
    if address.kind != "folder":
        return brought / address.key.rpartition("/")[2]
    # An archive is often of one folder that holds all. One class folder alone would be a mistake anyway.
    while address.inner == "" and len(found := list(brought.iterdir())) == 1 and found[0].is_dir():
        (brought,) = found
    return brought


def _stages(config: DataConfig, address: S3Address) -> "list[Stage]":
    """What of the objects is wanted; for a CSV file first itself, and then what it names."""
    if address.inner is None and address.kind == "folder":
        return [partial(_images, address.uri)]
    itself = partial(_one, address)
    if address.inner is not None or address.kind == "npz":
        return [itself]
    return [itself, partial(_named, config.columns.path, address)]


def _one(address: S3Address, there: "There", files: Path) -> Sequence[str]:
    name = address.key.rpartition("/")[2]
    if name not in there:
        begins = ", ".join(sorted(there)[:3])
        raise DataError(f"data.source: there is no object {address.uri}.{f' There are: {begins}.' if begins else ''}")
    return [name]


def _images(uri: str, there: "There", files: Path) -> Sequence[str]:
    found = [name for name in there if _is_image(name)]
    if not found:
        others = f"of {len(there):,} objects there, such as {min(there)}, none is one" if there else "nothing is there"
        raise DataError(
            f"data.source: there are no images ({', '.join(sorted(SUFFIXES))}) under {uri}/: {others}. Images are"
            " looked for as CLASS/IMAGE.png below it. Correct the address, or see `aws s3 ls`."
        )
    return found


def _is_image(name: str) -> bool:
    last = name.rpartition("/")[2]
    return os.path.splitext(last)[1].lower() in SUFFIXES and not last.startswith(".")  # noqa: PTH122 - no path here


def _named(column: str, address: S3Address, there: "There", files: Path) -> Sequence[str]:
    """The CSV file, and those objects that its rows name. What is not there is left to whoever decodes images."""
    own = address.key.rpartition("/")[2]
    names = [own]
    try:
        with (files / own).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for row in reader:
                text = row.get(column) or ""
                name = os.path.normpath(text)
                if text.startswith(("/", "~", "s3://")) or name.startswith("../"):
                    raise DataError(
                        f"{address.uri}, line {reader.line_num}: {text!r} does not lie in the CSV file's folder, or"
                        " below it. Name images from there, such as images/1.png."
                    )
                if name in there:
                    names.append(name)
    except (UnicodeDecodeError, csv.Error):
        pass  # told with the line, by who reads the rows
    return list(dict.fromkeys(names))
