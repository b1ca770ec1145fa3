"""What hardware costs where the user has not said: a dated table of list prices, which lies beside this file."""

import datetime
import re
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

TABLE = Path(__file__).with_name("prices.yaml")


class _Entry(BaseModel):
    """A machine's prices for an hour: per GPU or, where it has none, per core."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: list[str] = Field(default_factory=list)
    machine: str
    on_demand: float = Field(gt=0.0)
    spot: float = Field(gt=0.0)


class PriceTable(BaseModel):
    """`prices.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: datetime.date
    source: str
    currency: str
    cpu: _Entry
    gpus: list[_Entry]


class Price(BaseModel):
    """What one GPU, and one core where there is no GPU, costs for an hour.

    `as_of` is the day of the table, `source` where its prices are from, and the machine that the price is taken from.
    """

    model_config = ConfigDict(frozen=True)

    gpu_hour: float
    cpu_hour: float
    currency: str
    as_of: datetime.date
    source: str


@cache
def price_table() -> PriceTable:
    """The table, read once."""
    return PriceTable.model_validate(yaml.safe_load(TABLE.read_text()))


def price_of(gpu_name: str | None, *, spot: bool = False) -> Price | None:
    """The price of this GPU, named as `torch.cuda.get_device_name` does, or of a core for None.

    None where the table does not have the GPU: those of a workstation are nowhere for hire, and a slice (MIG) of one is
    not the whole. `spot`: of a machine that may be taken away at any time.
    """
    table = price_table()
    found = table.cpu if gpu_name is None else _entry(table, gpu_name)
    if found is None:
        return None

    def hour(entry: _Entry) -> float:
        return entry.spot if spot else entry.on_demand

    return Price(
        gpu_hour=0.0 if gpu_name is None else hour(found),
        cpu_hour=hour(table.cpu),
        currency=table.currency,
        as_of=table.as_of,
        source=f"{table.source}, {found.machine}{' on spot' if spot else ''}",
    )


def priced_gpus() -> list[str]:
    """The GPUs that the table has."""
    return [" ".join(entry.name) for entry in price_table().gpus]


def _entry(table: PriceTable, gpu_name: str) -> _Entry | None:
    words = set(re.findall(r"[A-Z0-9]+", gpu_name.upper()))
    if "MIG" in words:
        return None
    fitting = [entry for entry in table.gpus if words.issuperset(entry.name)]
    return max(fitting, key=lambda entry: len(entry.name), default=None)
