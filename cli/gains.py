"""`assetstream gains`: what a user realised, lot by lot."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import typer
from clickhouse_connect.driver.exceptions import Error
from rich.console import Console

from assetstream.cli import history
from assetstream.cli.balance import EVER
from assetstream.cli.history import Place, book_of
from assetstream.cli.sql import UNBOUNDED, table
from assetstream.models.decimals import from_units
from assetstream.models.lots import Fill, Gain, LotBook, take
from assetstream.models.messages import from_micros, time_text
from assetstream.sinks.clickhouse import connect, translate
from assetstream.streams.settings import Settings, load

Method = Literal["FIFO", "LIFO", "HIFO", "AVERAGE"]
#: the columns that are numbers
NUMBERS = ("entry", "quantity", "holding_days", "proceeds", "cost", "cost_basis", "gain", "realized_pnl", "net_cost")


@dataclass
class Gains:
    """What was realised by one method: lines as they are printed, and what doesn't tie out."""

    user_id: str
    method: str
    year: int | None
    gains: list[dict[str, Any]] = field(default_factory=list)
    totals: list[dict[str, Any]] = field(default_factory=list)
    lots: list[dict[str, Any]] = field(default_factory=list)
    positions: list[dict[str, Any]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """One object."""
        return {**vars(self), "ties_out": not self.differences}


class NotTiedOut(RuntimeError):
    """Lots don't add up to their position: a bug, and no figure of theirs is to be used."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        super().__init__("\n".join([*differences, "use none of these figures, and report this as a bug"]))


def compute(user_id: str, method: str, year: int | None, fills: dict[Place, list[Fill]]) -> Gains:
    """The gains of all positions by a method; those of a year (UTC, of the fill that closed), but lots and positions
    as they are.

    Verified for each position: quantity, and cost basis − realised P&L, are what its fills come to, to the last digit;
    by AVERAGE, both of them are also the stream's.
    """
    told = Gains(user_id, method, year)
    sums: dict[str, Counter[str]] = {}
    for place, booked in fills.items():
        book = take(booked, method)
        for entry, gain in enumerate(book.gains, 1):
            if year is None or from_micros(gain.closed_by.executed_at).year == year:
                told.gains.append(_line(place, entry, gain))
                amounts = {"proceeds": gain.proceeds, "cost": gain.cost, "gain": gain.gain}
                sums.setdefault(place.currency, Counter()).update(amounts)
        told.lots += [_open(place, lot.opened_by, lot.sign * lot.quantity, lot.sign * lot.cost) for lot in book.lots]
        told.positions.append(_position(place, book))
        told.differences += _differences(place, booked, book, method)
    told.totals = [
        {"currency": currency, **{name: from_units(amount) for name, amount in sums[currency].items()}}
        for currency in sorted(sums)
    ]
    return told


def _differences(place: Place, booked: list[Fill], book: LotBook, method: str) -> Iterable[str]:
    """What should be the same and isn't."""
    stream = book_of(booked, EVER + 1)
    paid = sum(fill.sign * fill.notional for fill in booked)
    laws = [
        ("quantity", book.quantity, stream.quantity),
        ("cost basis − realised P&L", book.cost_basis - book.realized_pnl, paid),
    ]
    if method == "AVERAGE":
        laws += [("realised P&L", book.realized_pnl, stream.realized_pnl)]
    for name, found, expected in laws:
        if found != expected:
            yield f"{place.portfolio_id}/{place.symbol} {name}: {from_units(found)}, not {from_units(expected)}"


def _line(place: Place, entry: int, gain: Gain) -> dict[str, Any]:
    opened = gain.opened_by
    return {
        **place._asdict(),
        "entry": entry,
        "side": "LONG" if gain.sign > 0 else "SHORT",
        "quantity": from_units(gain.quantity),
        **_opening(opened),
        "closed_by": gain.closed_by.trade_id,
        "closed_at": _text(gain.closed_by.executed_at),
        "holding_days": gain.holding_days,
        "proceeds": from_units(gain.proceeds),
        "cost": from_units(gain.cost),
        "gain": from_units(gain.gain),
    }


def _open(place: Place, opened: Fill | None, quantity: int, cost: int) -> dict[str, Any]:
    return {
        **place._asdict(),
        **_opening(opened),
        "quantity": from_units(quantity),
        "cost_basis": from_units(cost),
    }


def _opening(opened: Fill | None) -> dict[str, str | None]:
    if opened is None:
        return {"opened_by": None, "opened_at": None}
    return {"opened_by": opened.trade_id, "opened_at": _text(opened.executed_at)}


def _position(place: Place, book: LotBook) -> dict[str, Any]:
    amounts = {
        "quantity": book.quantity,
        "cost_basis": book.cost_basis,
        "realized_pnl": book.realized_pnl,
        "net_cost": book.cost_basis - book.realized_pnl,
    }
    return {**place._asdict(), **{name: from_units(amount) for name, amount in amounts.items()}}


def _text(micros: int) -> str:
    return time_text(from_micros(micros))


def gains(
    user: Annotated[str, typer.Argument(help="The user_id.", metavar="USER")],
    portfolio: Annotated[str, typer.Option(metavar="PORTFOLIO", help="Only this one.", show_default=False)] = "",
    symbol: Annotated[str, typer.Option(metavar="SYMBOL", help="Only this one.", show_default=False)] = "",
    method: Annotated[Method, typer.Option(case_sensitive=False, help="Which lots are closed first.")] = "FIFO",
    year: Annotated[
        int | None, typer.Option(min=1970, max=2299, metavar="YEAR", help="Only what was closed in it (UTC).")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the gains into lot_gains, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a user realised, lot by lot, before fees, and which lots are open.

    AVERAGE is what the stream computes: one lot of average cost. Lots are opened and closed in the order in which fills
    were booked. Asks ClickHouse, which has what its sinks have inserted. Adds all of it up: cost basis − realised P&L
    is the same by every method, to the last digit; else it exits with 1.
    """
    settings = load()
    told = compute(user, method, year, history.fills(settings, user, portfolio, symbol))
    if as_json:
        typer.echo(json.dumps(told.as_dict(), ensure_ascii=False))
    else:
        _show(told, Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False))
    if told.differences:
        raise NotTiedOut(told.differences)
    if write:
        _write(settings, told)


def _write(settings: Settings, told: Gains) -> None:
    """Insert them, in one block. Raises ClickHouseAway, ClickHouseRefused."""
    rows = ({"user_id": told.user_id, "method": told.method, **line} for line in told.gains)
    block = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    client = connect(settings)
    client.database = settings.clickhouse_database
    try:
        if block:
            reading = {"date_time_input_format": "best_effort"}
            client.raw_insert("lot_gains_written", insert_block=block, fmt="JSONEachRow", settings=reading)
    except Error as error:
        raise translate(error, settings.clickhouse_url) from error
    finally:
        client.close()
    typer.echo(f"{len(told.gains)} gains are in lot_gains", err=True)


def _show(told: Gains, console: Console) -> None:
    console.print(f"{told.user_id}, {told.method}" + ("" if told.year is None else f", closed in {told.year}"))
    for name, title in (("gains", "realised"), ("totals", "in all"), ("lots", "open lots"), ("positions", "positions")):
        lines = getattr(told, name)
        if lines:
            kinds = ["Decimal" if column in NUMBERS else "String" for column in lines[0]]
            shown = table(list(lines[0]), kinds, *(list(line.values()) for line in lines))
            shown.title, shown.title_justify = title, "left"
            console.print(shown)
    if not told.differences:
        console.print(
            f"nothing is lost: cost basis − realised P&L = net cost of {len(told.positions)} positions' fills"
        )
        if told.method == "AVERAGE":
            console.print("realised P&L is the stream's")
