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

#: by asset its accounts, then its total, whose account is null; `virtual`: what of it is no real money. As Decimal256,
#: and of wallets that were opened as VIRTUAL: see sinks/analysts.py
QUERY = """
WITH account IN
(
    SELECT concat('wallet:', user_id, '/', wallet_id) FROM transactions
    WHERE type = 'OPEN' AND status = 'COMPLETED' AND wallet_type = 'VIRTUAL'
) AS of_virtual
SELECT asset, name AS account, count() AS postings, sum(units) AS total, sumIf(units, is_virtual) AS virtual
FROM
(
    SELECT
        asset,
        multiIf(
            {by_account:Bool} OR NOT startsWith(account, 'wallet:'), account, of_virtual, 'virtual wallets', 'wallets'
        ) AS name,
        account = 'virtual' OR of_virtual AS is_virtual,
        CAST(amount AS Decimal256(18)) AS units
    FROM ledger_entries
    WHERE occurred_at <= fromUnixTimestamp64Micro({at:Int64})
)
GROUP BY GROUPING SETS ((asset, name), (asset))
ORDER BY asset, account NULLS LAST
SETTINGS group_by_use_nulls = 1
"""


class NotBalanced(RuntimeError):
    """Postings of an asset, or those of them that are virtual money, don't sum to zero. `totals`: to what, by asset."""

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
    """Add up all postings by asset and account; each asset's total must be zero, and of virtual money alone, too.

    TIME is that of the events (occurred_at): whatever had occurred by then counts, also what came late. Asks
    ClickHouse, which has what its sinks have inserted. Exits with 1 when a total isn't zero, and names the asset.
    """
    given = {"at": str(EVER if at is None else to_micros(at)), "by_account": str(by_account).lower()}
    rows = [json.loads(line) for line in ask(load(), QUERY, "JSONEachRow", given).splitlines()]
    totals = [row for row in rows if row["account"] is None]
    off = {row["asset"]: total for row in totals if (total := _off(row))}
    if as_json:
        typer.echo(json.dumps(_as_object(rows, at, not off), ensure_ascii=False))
    else:
        _show(rows)
    if off:
        raise NotBalanced(off)


def _off(total: dict[str, Any]) -> str | None:
    """What an asset's postings come to, if that isn't zero, or else those of virtual money alone."""
    if total["total"] != "0":
        return str(total["total"])
    return None if total["virtual"] == "0" else f"{total['virtual']} of virtual money"


def _as_object(rows: list[dict[str, Any]], at: datetime | None, balanced: bool) -> dict[str, Any]:
    def named(row: dict[str, Any], *names: str) -> dict[str, Any]:
        return {name: row[name] for name in names}

    return {
        "at": None if at is None else time_text(at),
        "accounts": [named(row, "asset", "account", "postings", "total") for row in rows if row["account"] is not None],
        "totals": [named(row, "asset", "postings", "total", "virtual") for row in rows if row["account"] is None],
        "balanced": balanced,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    shown = table(["asset", "account", "postings", "total"], ["String", "String", "UInt64", "Decimal"])
    for row in rows:
        is_total = row["account"] is None
        style = "" if not is_total else "bold red" if _off(row) else "bold"
        cells = (row["asset"], "total" if is_total else row["account"], row["postings"], row["total"])
        shown.add_row(*(Text(cell) for cell in cells), style=style, end_section=is_total)
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(shown)
