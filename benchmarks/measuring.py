"""What the benchmarks share: sides measured in turns, medians with their spread, and the verdict in a line of JSON.

The machine is never as quiet as one would like. So the sides take turns within each round, in an order that rotates
from round to round, and ratios are taken within a round, where both sides met the same machine.
"""

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity's values, one for each round, all in `unit`."""

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def as_json(self) -> dict[str, float | str | int]:
        """Median and spread."""
        return {
            "median": rounded(self.median), "min": rounded(min(self.values)), "max": rounded(max(self.values)),
            "rounds": len(self.values), "unit": self.unit,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that one figure's or ratio's median must keep."""

    of: str
    bound: Literal["at least", "at most"]
    value: float

    def met(self, median: float) -> bool:
        """Is it kept? Never by NaN."""
        return median >= self.value if self.bound == "at least" else median <= self.value


def ratios(of: Series, to: Series) -> Series:
    """`of / to`, round by round; both must have been measured in the same rounds."""
    return Series(tuple(a / b for a, b in zip(of.values, to.values, strict=True)), "ratio")


def in_turns(sides: Mapping[str, Callable[[int], float]], rounds: int, unit: str) -> dict[str, Series]:
    """Measure every side once in each round, whose number is its argument; who begins rotates."""
    names = list(sides)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            values[name].append(sides[name](number))
    return {name: Series(tuple(found), unit) for name, found in values.items()}


def report(
    name: str, figures: Mapping[str, Series], ratios: Mapping[str, Series], targets: Sequence[Target],
    notes: Sequence[str] = (),
) -> int:  # fmt: skip
    """Print the table, the notes and the line of JSON; returns the exit status, 1 where a target was missed."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("what", "median", "min", "max", "unit", title=name, title_justify="left")
    for what, series in {**figures, **ratios}.items():
        spread = (f"{value:,.4g}" for value in (series.median, min(series.values), max(series.values)))
        table.add_row(what, *spread, series.unit)
    console.print(table)
    for note in notes:
        console.print(note)
    medians = {what: series.median for what, series in {**figures, **ratios}.items()}
    verdicts = [target.met(medians[target.of]) for target in targets]
    for target, met in zip(targets, verdicts, strict=True):
        found = f"{medians[target.of]:.4g}"
        console.print(f"{'met   ' if met else 'MISSED'} {target.of}: {found}, {target.bound} {target.value:g}")
    line = {
        "name": name,
        "figures": {what: series.as_json() for what, series in figures.items()},
        "ratios": {what: series.as_json() for what, series in ratios.items()},
        "targets": [{"of": target.of, target.bound: target.value} for target in targets],
        "pass": all(verdicts),
    }
    print(json.dumps(line), flush=True)
    return 0 if all(verdicts) else 1


def require(*modules: str) -> None:
    """Leave with a message where a package that a peer needs is missing: benchmarks install nothing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} cannot be imported; install what the peers need: pip install 'tuneyard[bench]'")


def rounded(value: float) -> float:
    """To five significant digits: more would be noise."""
    return float(f"{value:.5g}")
