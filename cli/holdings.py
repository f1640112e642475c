"""`assetstream holdings`: a user's positions, as they are or were at some time."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console

from assetstream.cli.balance import EVER, time_of
from assetstream.cli.history import book_of, fills
from assetstream.cli.sql import UNBOUNDED, table
from assetstream.models.decimals import from_units
from assetstream.models.messages import from_micros, time_text, to_micros
from assetstream.streams.settings import load

TYPES = {
    "portfolio_id": "String",
    "symbol": "String",
    "currency": "String",
    "quantity": "Decimal",
    "cost_basis": "Decimal",
    "average_price": "Decimal",
    "realized_pnl": "Decimal",
    "fees": "Decimal",
    "last_trade_at": "DateTime",
}


def holdings(
    user: Annotated[str, typer.Argument(help="The user_id.", metavar="USER")],
    at: Annotated[
        datetime | None, typer.Option(parser=time_of, metavar="TIME", help="As of this time, with an offset.")
    ] = None,
    portfolio: Annotated[str, typer.Option(metavar="PORTFOLIO", help="Only this one.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Say what positions a user has, or had at some time.

    TIME is that of the fills (executed_at): the position is the one that the fills executed by then make, in the order
    in which they were booked. Asks ClickHouse, which has what its sinks have inserted. Decimals are strings with
    --json.
    """
    end = (EVER if at is None else to_micros(at)) + 1
    lines = []
    for place, booked in fills(load(), user, portfolio).items():
        times = [each.executed_at for each in booked if each.executed_at < end]
        if not times:
            continue
        book = book_of(booked, end)
        average = None if book.average_price is None else from_units(book.average_price)
        amounts = [from_units(amount) for amount in book]
        lines.append([*place, *amounts[:2], average, *amounts[2:], time_text(from_micros(max(times)))])
    if as_json:
        for line in lines:
            typer.echo(json.dumps(dict(zip(TYPES, line, strict=True)), ensure_ascii=False))
    else:
        shown = table(list(TYPES), list(TYPES.values()), *lines)
        Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(shown)
