"""What hardware costs where the user has not said: a dated table of list prices, which lies beside this file."""

import datetime
import fnmatch
import re
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuneyard.cluster.errors import ClusterError

TABLE = Path(__file__).with_name("prices.yaml")
HOURS_PER_MONTH = 730.0
HOURS_PER_YEAR = 8760.0
STALE_DAYS = 183
"""A table that is older than this is told to be old."""

Money = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Entry(_Plain):
    """A machine's prices for an hour: per GPU or, where it has none, per core."""

    name: list[str] = Field(default_factory=list)
    machine: str
    on_demand: Positive
    spot: Positive


class Machine(_Plain):
    """A machine for hire, and what an hour of it costs; `spot` is None where the table has only a rule of thumb."""

    name: str
    cores: int = Field(gt=0, description="Virtual ones.")
    memory_gib: Positive
    gpus: int = Field(0, ge=0)
    gpu: str = ""
    gpu_gib: float = Field(0.0, ge=0.0)
    on_demand: Positive
    spot: Positive | None = None


class Around(_Plain):
    """What a cloud asks for beside machines, in the table's currency."""

    disk_gb_month: Money = 0.0
    bucket_gb_month: Money = 0.0
    nat_hour: Money = 0.0
    nat_gb: Money = 0.0
    endpoint_hour: Money = 0.0
    address_hour: Money = 0.0


class Electricity(_Plain):
    """The price of a kWh, and how many are bought for each that a machine takes."""

    kwh: Money = 0.0
    cooling: float = Field(1.0, ge=1.0)

    def hour(self, watts: float) -> float:
        """What an hour at this power costs."""
        return watts / 1000.0 * self.cooling * self.kwh


class Purchase(_Plain):
    """A machine for sale, and the rented one that comes nearest to it (`like`)."""

    name: str
    gpus: int = Field(gt=0)
    gpu: str
    gpu_gib: Positive
    price: Positive
    watts: Positive
    like: str


class Own(_Plain):
    """What the user's own machines cost: those whose node's name fits `node`."""

    node: str
    watts: Money = 0.0
    price: Money = 0.0
    years: Positive = 4.0

    def hour(self, electricity: Electricity) -> float:
        """Electricity, and the purchase over the years."""
        return electricity.hour(self.watts) + self.price / (self.years * HOURS_PER_YEAR)


class PriceTable(_Plain):
    """A price file. What it does not have has no price, and is told so."""

    as_of: datetime.date
    source: str
    currency: str
    spot_share: float = Field(0.45, gt=0.0, le=1.0)
    cpu: _Entry | None = None
    gpus: list[_Entry] = Field(default_factory=list)
    machines: list[Machine] = Field(default_factory=list)
    around: Around = Around()
    electricity: Electricity = Electricity()
    purchases: list[Purchase] = Field(default_factory=list)
    own: list[Own] = Field(default_factory=list)

    def machine(self, name: str) -> Machine | None:
        """The machine of this name."""
        return next((one for one in self.machines if one.name == name), None)

    def hour(self, machine: Machine, *, spot: bool) -> float:
        """What an hour of the machine costs."""
        if not spot:
            return machine.on_demand
        return machine.spot if machine.spot is not None else machine.on_demand * self.spot_share

    def own_machine(self, node: str) -> Own | None:
        """What this node of the user's costs: the first entry that fits."""
        return next((one for one in self.own if fnmatch.fnmatch(node, one.node)), None)

    def age_warning(self, today: datetime.date) -> str | None:
        """What to say of a table that is old."""
        days = (today - self.as_of).days
        if days <= STALE_DAYS:
            return None
        return f"these prices are {days // 30} months old (of {self.as_of}): give newer ones with --prices FILE"


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
def price_table(path: Path = TABLE) -> PriceTable:
    """The table in this file, read once.

    Raises:
        ClusterError: the user's file is missing, or is not a price file; with every mistake in it.
    """
    try:
        return PriceTable.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ClusterError(f"The price file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ClusterError(f"The price file {path} is not YAML: {error}") from error
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg'].lower()}" for one in error.errors()
        )
        raise ClusterError(f"The price file {path} is not one: {said}. An example to copy is {TABLE}.") from error


def price_of(gpu_name: str | None, *, spot: bool = False) -> Price | None:
    """The price of this GPU, named as `torch.cuda.get_device_name` does, or of a core for None.

    None where the table does not have the GPU: those of a workstation are nowhere for hire, and a slice (MIG) of one is
    not the whole. `spot`: of a machine that may be taken away at any time.
    """
    table = price_table()
    assert table.cpu is not None, "our own table has the price of a core"
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
