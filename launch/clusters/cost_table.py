"""Prices in the terminal: a quote by the hour, machines for hire side by side, and machines for sale."""

import datetime
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.cluster.money.cost import Offer, Payback, Quote
from tuneyard.cluster.money.prices import HOURS_PER_MONTH, PriceTable

HOURS_PER_DAY = 24.0


def show_quote(quote: Quote, table: PriceTable, console: Console) -> None:
    """Print what a fleet costs, line by line, for an hour, and what to know about it."""
    if all(line.hour is None for line in quote.lines):
        _show_unpriced(quote, console)
        return
    shown = _table(
        ("", False), ("", True), ("", False), (f"{quote.currency} an hour", True), ("on demand", True), ("spot", True)
    )
    for line in quote.lines:
        count = "" if line.count is None else str(line.count)
        shown.add_row(line.what, count, line.detail, *(_money(one) for one in (line.hour, line.on_demand, line.spot)))
    if len(quote.lines) > 1:
        shown.add_section()
        shown.add_row("in all", "", "", *(_money(one) for one in (quote.hour, quote.on_demand, quote.spot)))
    console.print(shown)
    if quote.hour:
        idle = f"; while no worker runs {_money(quote.idle)} an hour" if 0 < quote.idle < quote.hour else ""
        day, month = (_money(quote.hour * hours) for hours in (HOURS_PER_DAY, HOURS_PER_MONTH))
        console.print(f"{day} {quote.currency} a day, {month} a month{idle}")
    for note in quote.notes:
        console.print(f"! {note}", style="yellow", markup=False)
    show_source(table, console)


def _show_unpriced(quote: Quote, console: Console) -> None:
    for line in quote.lines:
        console.print(f"  {line.what}: {line.count} ({line.detail})", markup=False)
    for note in quote.notes:
        console.print(f"! {note}", style="yellow", markup=False)


def show_source(table: PriceTable, console: Console) -> None:
    """Print where the prices are from and how old they are."""
    console.print(f"prices: {table.source}, as of {table.as_of}; approximate, without traffic and tax", style="dim")
    warning = table.age_warning(datetime.datetime.now(datetime.UTC).date())
    if warning:
        console.print(f"! {warning}", style="yellow")


def show_offers(offers: Sequence[Offer], table: PriceTable, gpu_hours: float | None, console: Console) -> None:
    """Print machines for hire, cheapest GPU first; with GPU-hours what these cost on each."""
    columns = [("machine", False), ("GPUs", False), ("GPU-hour", True), ("spot", True)]
    totals = [] if gpu_hours is None else [(f"{gpu_hours:,.4g} GPU-hours", True), ("on spot", True)]
    shown = _table(*columns, *totals)
    for offer in offers:
        machine = offer.machine
        cells = [machine.name, f"{machine.gpus} x {machine.gpu}", _money(offer.gpu_hour), _money(offer.gpu_hour_spot)]
        shown.add_row(*cells, *([] if gpu_hours is None else [_money(offer.total), _money(offer.total_spot)]))
    which = "" if gpu_hours is None else "; a faster GPU takes fewer hours"
    console.print(Text.assemble(("to rent", "bold"), f", {table.currency}{which}"))
    console.print(shown)


def show_paybacks(paybacks: Sequence[Payback], table: PriceTable, gpu_hours: float | None, console: Console) -> None:
    """Print machines for sale: after how many busy hours each has paid."""
    columns = [
        ("machine", False),
        ("price", True),
        ("power an hour", True),
        ("instead of", False),
        ("pays after", True),
    ]
    shown = _table(*columns, ("against spot", True), *([] if gpu_hours is None else [("power", True)]))
    for one in paybacks:
        cells = [
            one.purchase.name, f"{one.purchase.price:,.0f}", _money(one.running_hour), one.purchase.like,
            _long(one.hours), _long(one.hours_spot),
        ]  # fmt: skip
        shown.add_row(*cells, *([] if gpu_hours is None else [_money(one.total)]))
    console.print(Text.assemble(("to buy", "bold"), f", {table.currency}; pays after so long, with all its GPUs busy"))
    console.print(shown)
    electricity = table.electricity
    console.print(
        f"electricity {electricity.kwh:g} a kWh, times {electricity.cooling:g} for cooling; without room, people, "
        "repairs and interest; the prices are estimates",
        style="dim",
    )


def _long(hours: float | None) -> str:
    if hours is None:
        return "never"
    return f"{hours:,.0f} h" if hours < HOURS_PER_MONTH else f"{hours / HOURS_PER_MONTH:,.0f} months"


def _money(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.3f}" if 0 < value < 1 else f"{value:,.2f}"


def _table(*columns: tuple[str, bool]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for title, right in columns:
        shown.add_column(title, justify="right" if right else "left", overflow="fold")
    return shown
