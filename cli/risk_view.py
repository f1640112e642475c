"""How `assetstream risk` shows what it found: tables and plots, in a terminal or as a page."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from assetstream.cli.sql import UNBOUNDED
from assetstream.models.risk.report import Lines

#: characters of the longest bar
WIDTH = 30
#: of a page
PAGE = 160
_EIGHTHS = " ▏▎▍▌▋▊▉"


def console() -> Console:
    """Where it is printed."""
    return Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False, markup=False, emoji=False)


def page() -> Console:
    """What is written to a page: `save_html`."""
    return Console(record=True, width=PAGE, file=io.StringIO(), highlight=False, markup=False, emoji=False)


# ------------------------------------------------------------------------------------------------------- the commands


def report(told: Lines, out: Console) -> None:
    """The risk report."""
    for found in _each(told, out):
        _positions(found, told, out)
        _risks(found, told, out)
        _stress_summary(found, out)
        if "breaks" in found:
            _breaks(found, told, out)
    _compared(told, out)


def stress(told: Lines, out: Console) -> None:
    """Scenarios, one by one."""
    for found in _each(told, out):
        for line in found["stress"]:
            _scenario(line, out)
    _compared(told, out)


def reverse(told: Lines, out: Console) -> None:
    """What breaks limits."""
    for found in _each(told, out):
        _breaks(found, told, out)


def simulation(told: Lines, out: Console) -> None:
    """Simulated losses."""
    drawn = f"{told['paths']:,} paths, {told['distribution']}"
    if told["distribution"] == "t":
        drawn += f" with {told['freedom']} degrees of freedom"
    out.print(f"{drawn}, seed {told['seed']}")
    for found in _each(told, out):
        _risks(found, told, out)
        _histogram(found["histogram"], told, out)
    _compared(told, out)


def _each(told: Lines, out: Console) -> Iterable[Lines]:
    """The figures as they are, and with the hypothetical trades, with a headline each."""
    headline = f"{told['user_id']}/{told['portfolio_id']}, in {told['base_currency']}"
    out.print(headline + (f", prices as of {told['as_of']}" if told["as_of"] else ""), style="bold")
    yield _named(told["now"], out)
    if told["what_if"] is not None:
        out.print(f"with {', '.join(told['trades'])}", style="bold")
        yield _named(told["what_if"], out)


def _named(found: Lines, out: Console) -> Lines:
    if found["unpriced"]:
        out.print(f"unpriced, and in no figure: {', '.join(found['unpriced'])}", style="red")
    return found


# ------------------------------------------------------------------------------------------------------------ tables


def _positions(found: Lines, told: Lines, out: Console) -> None:
    names = ("symbol", "asset_type", "quantity", "mark", "mark_currency", "market_value", "unrealized_pnl")
    table = _table("positions", *names, "liquidation_cost", "weight", "")
    for line in found["positions"]:
        cells = [_shown(line[name]) for name in (*names, "liquidation_cost")]
        mark = cells[3] if line["mark_as_of"] else f"{cells[3]} (last fill)"
        table.add_row(*cells[:3], mark, *cells[4:], f"{line['weight']:.1%}", _bar(line["weight"], 1.0))
    _put(table, out)
    sums = ("market_value", "gross_exposure", "total_pnl", "daily_pnl", "cash", "equity", "leverage")
    out.print(", ".join(f"{name} {_shown(found[name])}" for name in sums if found[name] is not None))


def _risks(found: Lines, told: Lines, out: Console) -> None:
    risk = found["value_at_risk"]
    if risk["too_few"]:
        out.print(f"value at risk: {risk['too_few']}", style="yellow")
    if risk["not_priced"]:
        out.print(f"too few prices, and in no value at risk: {', '.join(risk['not_priced'])}", style="yellow")
    if not risk["risks"]:
        return
    if risk["not_quoted"]:
        out.print(f"never quoted, and in no liquidity cost: {', '.join(risk['not_quoted'])}", style="yellow")
    of = f"{told['horizon']} {told['every']}{'s' if told['horizon'] > 1 else ''}"
    title = f"value at risk over {of}, of {risk['returns']} returns"
    if risk["fewest"]:
        title += f" ({risk['fewest']} has the fewest prices)"
    table = _table(title, "method", "confidence", "var", "cvar", "liquidity_var")
    for line in risk["risks"]:
        amounts = (f"{line[name]:,.2f}" for name in ("var", "cvar", "liquidity_var"))
        table.add_row(line["method"], f"{line['confidence']}%", *amounts)
    _put(table, out)
    worst = risk["risks"][-1]
    _bars(
        f"what each contributes to CVaR {worst['confidence']}%, {worst['method']}",
        [(line["symbol"], line["cvar"]) for line in worst["contributions"]],
        out,
        are_losses=True,
    )


def _stress_summary(found: Lines, out: Console) -> None:
    _bars("scenarios", [(line["scenario"], Decimal(line["change"])) for line in found["stress"]], out)
    for line in found["stress"]:
        if line["not_moved"]:
            out.print(f"{line['scenario']} says nothing of {', '.join(line['not_moved'])}", style="yellow")


def _scenario(line: Lines, out: Console) -> None:
    out.print(f"{line['scenario']}: {_changes(line['shocks'])}", style="bold")
    out.print(line["source"], style="dim")
    table = _table("", "symbol", "price", "currency", "before", "after", "change", "")
    most = max((abs(Decimal(each["change"])) for each in line["impacts"]), default=Decimal(0))
    for each in line["impacts"]:
        change = Decimal(each["change"])
        cells = [_shown(each[name]) for name in ("symbol", "price", "currency", "before", "after", "change")]
        table.add_row(*cells, _signed_bar(change, most))
    _put(table, out)
    out.print(f"in all {line['change']}, {line['relative']:+.2%} of gross exposure")
    if line["not_moved"]:
        out.print(f"it says nothing of {', '.join(line['not_moved'])}", style="yellow")


def _breaks(found: Lines, told: Lines, out: Console) -> None:
    alerts = [f"{line['limit']} ({line['alert_id']})" for line in told["limits"] if line["alert_id"] is not None]
    if alerts:
        out.print(f"limits as alerts told them last: {', '.join(alerts)}", style="yellow")
    names = ("limit", "subject", "most", "now", "scenario")
    table = _table("what breaks a limit", *names, "factor", "moves", "value", "loss")
    for line in found["breaks"]:
        cells = [_shown(line[name]) for name in names]
        if line["factor"] is None:
            table.add_row(*cells, "not by 100 times", "", "", "", style="green")
        elif line["factor"] == "0":
            table.add_row(*cells, "is broken now", "", cells[3], "", style="red")
        else:
            last = (_shown(line[name]) for name in ("value", "loss"))
            table.add_row(*cells, line["factor"], _changes(line["shocks"]), *last)
    _put(table, out)


def _compared(told: Lines, out: Console) -> None:
    """What hypothetical trades change, side by side."""
    if told["what_if"] is None:
        return
    table = _table("what the trades change", "figure", "now", "with them", "change")
    now, then = dict(_figures(told["now"])), dict(_figures(told["what_if"]))
    for name, value in now.items():
        if name in then:
            table.add_row(name, *(f"{each:,.2f}" for each in (value, then[name], then[name] - value)))
    _put(table, out)


def _figures(found: Lines) -> Iterable[tuple[str, Decimal]]:
    for name in ("market_value", "gross_exposure", "total_pnl"):
        yield name, Decimal(found[name])
    for line in found.get("value_at_risk", {}).get("risks", ()):
        for name in ("var", "cvar"):
            yield f"{line['method']} {name} {line['confidence']}%", Decimal(line[name])
    for line in found.get("stress", ()):
        yield line["scenario"], Decimal(line["change"])


def _table(title: str, *columns: str) -> Table:
    shown = Table(title=title or None)
    words = ("symbol", "asset_type", "mark_currency", "method", "limit", "subject", "scenario", "moves", "figure", "")
    for name in columns:
        shown.add_column(name, justify="left" if name in words else "right", overflow="fold")
    return shown


def _put(table: Table, out: Console) -> None:
    """Its title in a line of its own, as wide as it is."""
    if table.title:
        out.print(table.title, style="italic")
    table.title = None
    out.print(table)


def _shown(value: Any) -> str:
    """A cell; what there isn't is a dash."""
    return "–" if value is None else str(value)


def _changes(shocks: Lines) -> str:
    return ", ".join(f"{name} {change}" for name, change in shocks.items())


# ------------------------------------------------------------------------------------------------------------- plots


def _bars(title: str, lines: list[tuple[str, Any]], out: Console, are_losses: bool = False) -> None:
    """A bar for each amount; what is lost is red."""
    most = max((abs(value) for _, value in lines), default=0)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, value in lines:
        table.add_row(Text(name), f"{value:,.2f}", _signed_bar(-value if are_losses else value, most))
    out.print(title, style="italic")
    out.print(table)


def _histogram(found: Lines, told: Lines, out: Console) -> None:
    """How often losses fell between two amounts."""
    most = max(found["counts"])
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    for start, count in zip(found["edges"], found["counts"], strict=False):
        table.add_row(
            f"{start:,.0f}", f"{count / told['paths']:.1%}", _bar(count, most, "red" if start >= 0 else "green")
        )
    out.print("losses from, share of the paths", style="italic")
    out.print(table)


def _signed_bar(value: Any, most: Any) -> Text:
    return _bar(abs(value), most, "red" if value < 0 else "green")


def _bar(value: Any, most: Any, style: str = "blue") -> Text:
    eighths = round(float(value) / float(most) * WIDTH * 8) if most else 0
    return Text("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip(), style=style)
