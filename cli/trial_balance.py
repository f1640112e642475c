"""`assetstream trial-balance`: what all postings add up to, by asset and account."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from assetstream.cli.balance import EVER, time_of
from assetstream.cli.sql import UNBOUNDED, ask, table
from assetstream.models.messages import time_text, to_micros
from assetstream.streams.settings import load

#: by asset its accounts, then its total, whose account is null. As Decimal256: see sinks/analysts.py
QUERY = """
SELECT asset, account, count() AS postings, sum(CAST(amount AS Decimal256(18))) AS total
FROM
(
    SELECT asset, if(startsWith(account, 'wallet:') AND NOT {by_account:Bool}, 'wallets', account) AS account, amount
    FROM ledger_entries
    WHERE occurred_at <= fromUnixTimestamp64Micro({at:Int64})
)
GROUP BY GROUPING SETS ((asset, account), (asset))
ORDER BY asset, account NULLS LAST
SETTINGS group_by_use_nulls = 1
"""


class NotBalanced(RuntimeError):
    """Postings of an asset don't sum to zero. `totals`: what they come to, by asset."""

    def __init__(self, totals: Mapping[str, str]) -> None:
        self.totals = dict(totals)
        named = ", ".join(f"{asset} ({total})" for asset, total in self.totals.items())
        super().__init__(f"the postings of {named} don't sum to zero: `assetstream check` says which")


def trial_balance(
    at: Annotated[
        datetime | None, typer.Option(parser=time_of, metavar="TIME", help="As of this time, with an offset.")
    ] = None,
    by_account: Annotated[
        bool, typer.Option("--by-account", help="Each wallet's account, instead of one line for all wallets.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Add up all postings by asset and account; each asset's total must be zero.

    TIME is that of the events (occurred_at): whatever had occurred by then counts, also what came late. Asks
    ClickHouse, which has what its sinks have inserted. Exits with 1 when a total isn't zero, and names the asset.
    """
    given = {"at": str(EVER if at is None else to_micros(at)), "by_account": str(by_account).lower()}
    rows = [json.loads(line) for line in ask(load(), QUERY, "JSONEachRow", given).splitlines()]
    off = {row["asset"]: row["total"] for row in rows if row["account"] is None and row["total"] != "0"}
    if as_json:
        typer.echo(json.dumps(_as_object(rows, at, not off), ensure_ascii=False))
    else:
        _show(rows)
    if off:
        raise NotBalanced(off)


def _as_object(rows: list[dict[str, Any]], at: datetime | None, balanced: bool) -> dict[str, Any]:
    totals = [{name: row[name] for name in ("asset", "postings", "total")} for row in rows if row["account"] is None]
    return {
        "at": None if at is None else time_text(at),
        "accounts": [row for row in rows if row["account"] is not None],
        "totals": totals,
        "balanced": balanced,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    shown = table(["asset", "account", "postings", "total"], ["String", "String", "UInt64", "Decimal"])
    for row in rows:
        is_total = row["account"] is None
        style = "" if not is_total else "bold" if row["total"] == "0" else "bold red"
        cells = (row["asset"], "total" if is_total else row["account"], row["postings"], row["total"])
        shown.add_row(*(Text(cell) for cell in cells), style=style, end_section=is_total)
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(shown)
