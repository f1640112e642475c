"""`assetstream balance`: what a user's wallets hold, or held at some time."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console

from assetstream.cli.sql import UNBOUNDED, ask, table
from assetstream.models.messages import parse_time, to_micros
from assetstream.streams.settings import load

QUERY = """
SELECT wallet_id, asset, total, available, locked, last_transaction_at
FROM balances_at(at = fromUnixTimestamp64Micro({at:Int64}))
WHERE user_id = {user:String} AND ({wallet:String} = '' OR wallet_id = {wallet:String})
ORDER BY wallet_id, asset
SETTINGS date_time_output_format = 'iso'
"""
#: later than any event
EVER = to_micros(parse_time("2299-12-31T23:59:59.999999Z"))


def time_of(text: str) -> datetime:
    """The time that an option names. Raises BadParameter."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}: write it as 2026-03-02T09:00:00Z") from error


def balance(
    user: Annotated[str, typer.Argument(help="The user_id.", metavar="USER")],
    at: Annotated[
        datetime | None, typer.Option(parser=time_of, metavar="TIME", help="As of this time, with an offset.")
    ] = None,
    wallet: Annotated[str, typer.Option(metavar="WALLET", help="Only this wallet_id.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Say what a user's wallets hold, or held at some time.

    TIME is that of the events (occurred_at): whatever had occurred by then counts, also what came late. Asks
    ClickHouse, which has what its sinks have inserted. Decimals are strings with --json.
    """
    given = {"user": user, "wallet": wallet, "at": str(EVER if at is None else to_micros(at))}
    if as_json:
        sys.stdout.buffer.write(ask(load(), QUERY, "JSONEachRow", given))
        sys.stdout.flush()
        return
    answer = ask(load(), QUERY, "JSONCompactEachRowWithNamesAndTypes", given)
    lines = [json.loads(line) for line in answer.splitlines()]
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table(*lines))
