"""A plan in the terminal: what was measured, what the sweep would do, what it would cost, and how sure that is."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.amounts import duration_text
from tuneyard.launch.compare_table import short_names, show
from tuneyard.launch.plan.basis import Basis, Machine, Measured
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.training import Prices
from tuneyard.tune.budget import SECONDS_PER_HOUR, price_per_hour
from tuneyard.tune.plan import Costs, Plan, Range, WithinBudget


def render_plan(
    experiment: Experiment, plan: Plan, measured: Sequence[Measured], machine: Machine, basis: Basis, console: Console
) -> None:
    """Print the plan."""
    assert experiment.tune is not None, "a plan is of a sweep"
    tune = experiment.tune
    folds = f", {plan.folds} folds each" if plan.folds > 1 else ""
    trials = f"{plan.trials} trial{'' if plan.trials == 1 else 's'}{folds}"
    console.print(Text.assemble((experiment.name, "bold"), f" · {trials}, {plan.parallel} at a time"))
    _line(console, f"search {tune.search}, scheduler {tune.scheduler}, {experiment.train.epochs} epochs at most")
    _measured(measured, machine, plan, console)
    _costs(plan, basis, machine, console)
    _explain(plan, basis, machine, console)
    if plan.budget is not None:
        _budget(plan.budget, plan, basis, console)


def _measured(measured: Sequence[Measured], machine: Machine, plan: Plan, console: Console) -> None:
    console.print()
    alone = " Side by side on one GPU they are slower than that." if 0 < machine.gpus < machine.workers else ""
    several = f" One of {machine.workers} workers; what they wait for each other is not in it." * (machine.workers > 1)
    _line(console, f"measured on this machine: {machine.name}.{alone}{several}")
    keys = list(dict.fromkeys(key for one in measured for key in one.overrides))
    table = _table(*short_names(keys), "epoch", "images/s")
    for one in measured:
        cells = [show(one.overrides.get(key)) for key in keys]
        if one.pace is not None:
            epoch_s = sum(one.pace.epoch_s) / len(one.pace.epoch_s)
            table.add_row(*map(Text, (*cells, duration_text(epoch_s), f"{one.pace.images_per_s:,.0f}")))
    console.print(table)
    for one in measured:
        if one.error is not None:
            values = ", ".join(f"{key}={show(value)}" for key, value in one.overrides.items())
            _line(console, f"! left out, since it cannot be trained: {values}: {one.error}", "yellow")
    if plan.failed:
        _line(console, f"! so {plan.failed:.0%} of the trials are taken to fail at once", "yellow")


def _costs(plan: Plan, basis: Basis, machine: Machine, console: Console) -> None:
    console.print()
    table = _table("", "low", "expected", "high", "none stopped")
    for rung in plan.rungs:
        # Of the last rung: those that go all the way.
        table.add_row(*_row(f"trials to epoch {rung.epoch}", rung.trials, _whole, float(plan.trials)))
    if plan.confirming.high:
        table.add_row(*_row("runs that confirm the best", plan.confirming, _whole, None))
    for title, values, ceiling, told in _lines(plan.costs, plan.ceiling, basis, machine):
        table.add_row(*_row(title, values, told, ceiling.expected))
    console.print(table)


def _lines(
    costs: Costs, ceiling: Costs, basis: Basis, machine: Machine
) -> list[tuple[str, Range, Range, Callable[[float], str]]]:
    lines = [
        ("epochs in all", costs.epochs, ceiling.epochs, _whole),
        ("time", costs.hours, ceiling.hours, _time),
    ]
    if machine.gpus:
        lines.append(("GPU-hours", costs.gpu_hours, ceiling.gpu_hours, _amount))
    if _rate(basis.prices, machine):
        lines.append((f"money ({basis.prices.currency})", costs.money, ceiling.money, _amount))
    return lines


def _explain(plan: Plan, basis: Basis, machine: Machine, console: Console) -> None:
    _line(
        console,
        f"Nine in ten of {plan.rehearsals} sweeps played through with these paces lie between low and high. "
        "None stopped: every run to its end, at the slowest pace measured.",
        "dim",
    )
    rate = _rate(basis.prices, machine)
    told = f": {_amount(rate)} {basis.prices.currency} an hour for each run" if rate else ""
    _line(console, f"prices: {basis.source}{told}", "dim")
    if basis.spot is not None and rate:
        spot = plan.costs.money.expected * _rate(basis.spot, machine) / rate
        _line(console, f"on spot machines about {_amount(spot)} {basis.spot.currency}", "dim")


def _budget(budget: WithinBudget, plan: Plan, basis: Basis, console: Console) -> None:
    console.print()
    if budget.ended_by is None:
        _line(console, "budget: the sweep fits in.", "green")
        return
    if budget.fits > 0:
        _line(console, f"budget: the sweep fits in with a chance of about {budget.fits:.0%}.", "yellow")
    else:
        _line(console, "budget: the sweep does not fit in.", "yellow")
    _line(
        console,
        f"With it: {_span(budget.trials, _whole)} of {plan.trials} trials begin, {_span(budget.completed, _whole)} "
        f"train to their end, in {_span(budget.costs.epochs, _whole)} epochs, {_span(budget.costs.hours, _time)}, "
        f"{_span(budget.costs.gpu_hours, _amount)} GPU-hours, {_span(budget.costs.money, _amount)} "
        f"{basis.prices.currency}. For example: {budget.ended_by}",
    )


def _rate(prices: Prices, machine: Machine) -> float:
    return price_per_hour(prices, cpus=machine.cpus, gpus=machine.gpus)


def _row(title: str, values: Range, told: Callable[[float], str], ceiling: float | None) -> list[Text]:
    cells = (values.low, values.expected, values.high)
    return [Text(title), *(Text(told(value)) for value in cells), Text("" if ceiling is None else told(ceiling))]


def _span(values: Range, told: Callable[[float], str]) -> str:
    low, high = told(values.low), told(values.high)
    return low if low == high else f"{low} to {high}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _time(hours: float) -> str:
    return duration_text(hours * SECONDS_PER_HOUR)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(Text(title), justify="left" if place == 0 else "right")
    return table


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style))
