"""`assetstream statement`: what a user had, what moved in a period, and what there was after it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from assetstream.cli import history
from assetstream.cli.balance import time_of
from assetstream.cli.history import Place, book_of, units
from assetstream.cli.sql import UNBOUNDED, table
from assetstream.models.decimals import from_units
from assetstream.models.lots import Fill
from assetstream.models.messages import from_micros, parse_time, time_text, to_micros
from assetstream.models.reference import times
from assetstream.streams.settings import Settings, load

_SUMS = ",\n    ".join(
    f"sumIf(CAST({name}_change AS Decimal256(18)), occurred_at < start) AS opening_{name},\n"
    f"    sum(CAST({name}_change AS Decimal256(18))) AS closing_{name}"
    for name in ("total", "available", "locked")
)
BALANCES = f"""
WITH fromUnixTimestamp64Micro({{start:Int64}}) AS start
SELECT wallet_id, asset, {_SUMS}
FROM balance_movements
WHERE user_id = {{user:String}} AND occurred_at < fromUnixTimestamp64Micro({{end:Int64}})
GROUP BY wallet_id, asset
ORDER BY wallet_id, asset
"""
#: what the ledger says of the same balances: nothing of this comes from what balances say of themselves
POSTED = """
SELECT substring(account, length({user:String}) + 9) AS wallet_id, asset,
    sumIf(CAST(amount AS Decimal256(18)), occurred_at < fromUnixTimestamp64Micro({start:Int64})) AS opening,
    sum(CAST(amount AS Decimal256(18))) AS closing
FROM ledger_entries
WHERE user_id = {user:String} AND startsWith(account, concat('wallet:', {user:String}, '/'))
    AND occurred_at < fromUnixTimestamp64Micro({end:Int64})
GROUP BY wallet_id, asset
"""
_PERIOD = """user_id = {user:String} AND occurred_at >= fromUnixTimestamp64Micro({start:Int64})
        AND occurred_at < fromUnixTimestamp64Micro({end:Int64})"""
#: what an event says of its own balance, and what it posted, beside each balance that it touched
MOVEMENTS = f"""
SELECT toUnixTimestamp64Micro(moved.occurred_at) AS occurred_at, moved.transaction_id AS transaction_id,
    moved.wallet_id AS wallet_id, moved.asset AS asset, event.type AS type, event.status AS status, event.code AS code,
    if((event.wallet_id, event.asset) = (moved.wallet_id, moved.asset), event.amount, NULL) AS amount,
    if((event.wallet_id, event.asset) = (moved.wallet_id, moved.asset), event.fee, NULL) AS fee,
    total_change AS total, available_change AS available, locked_change AS locked, posted
FROM
(
    SELECT * FROM balance_movements
    WHERE {_PERIOD}
) AS moved
LEFT JOIN
(
    SELECT * FROM transactions
    WHERE {_PERIOD}
) AS event USING (transaction_id, source_topic, source_partition, source_offset)
LEFT JOIN
(
    SELECT account, asset, source_topic, source_partition, source_offset, sum(amount) AS posted
    FROM ledger_entries
    WHERE {_PERIOD}
    GROUP BY account, asset, source_topic, source_partition, source_offset
) AS legs
    ON legs.account = concat('wallet:', {{user:String}}, '/', moved.wallet_id) AND legs.asset = moved.asset
    AND legs.source_topic = moved.source_topic AND legs.source_partition = moved.source_partition
    AND legs.source_offset = moved.source_offset
ORDER BY occurred_at, moved.sequence, moved.source_partition, moved.source_offset, wallet_id, asset
SETTINGS join_use_nulls = 1
"""
#: the columns that are amounts; of an object there is one for each part
AMOUNT = re.compile(
    "(opening|closing|change|balance|position|average)_|amount|fee|quantity|price|notional|cost_basis|realized_pnl"
)


class Amounts(NamedTuple):
    """What a balance holds, or what changed of it (units)."""

    total: int = 0
    available: int = 0
    locked: int = 0

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(*(a + b for a, b in zip(self, other, strict=True)))

    def plain(self) -> dict[str, str]:
        """As printed."""
        return {name: from_units(value) for name, value in self._asdict().items()}


NOTHING = Amounts()


@dataclass
class Statement:
    """A statement: its lines as they are printed, and what doesn't add up in it."""

    user_id: str
    start: int
    end: int
    balances: list[dict[str, Any]] = field(default_factory=list)
    movements: list[dict[str, Any]] = field(default_factory=list)
    trades: list[dict[str, Any]] = field(default_factory=list)
    positions: list[dict[str, Any]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def expect(self, where: str, found: int, expected: int, what: str) -> None:
        """What is found is what should be the same comes to; else it is a difference."""
        if found != expected:
            self.differences.append(f"{where}: {from_units(found)}, but {what} come to {from_units(expected)}")

    def as_dict(self) -> dict[str, Any]:
        """One object."""
        period = {"from": _text(self.start), "to": _text(self.end)}
        lines = {name: getattr(self, name) for name in ("balances", "movements", "trades", "positions", "differences")}
        return {"user_id": self.user_id, **period, **lines, "reconciled": not self.differences}


class NotReconciled(RuntimeError):
    """A statement doesn't add up; `differences` says where."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        super().__init__(
            "\n".join(
                [*differences, "ask again when `assetstream lag` says 0; then `assetstream check` says what is wrong"]
            )
        )


# ------------------------------------------------------------------------------------------------------- adding it up


def write(
    user_id: str,
    start: int,
    end: int,
    balances: Iterable[dict[str, Any]],
    posted: Iterable[dict[str, Any]],
    movements: Iterable[dict[str, Any]],
    fills: dict[Place, list[Fill]],
) -> Statement:
    """A user's statement from `start` up to, not with, `end`, of the rows of BALANCES, POSTED, MOVEMENTS and of fills.

    Verified, each to the last digit: a movement is what it posted to its wallet; opening + movements = closing; both
    are what all postings until then come to; and opening + trades is the closing quantity of each position.
    """
    told = Statement(user_id, start, end)
    opening, closing = {}, {}
    for row in balances:
        key = row["wallet_id"], row["asset"]
        opening[key], closing[key] = (_amounts(row, f"{when}_") for when in ("opening", "closing"))
    reached = dict(opening)
    for row in movements:
        key = row["wallet_id"], row["asset"]
        change = _amounts(row)
        reached[key] = reached.get(key, NOTHING).plus(change)
        told.movements.append(_movement(row, change, reached[key]))
        where = f"{'/'.join(key)} {row['transaction_id']} {row['status']}"
        told.expect(where, change.total, units(row["posted"] or "0"), "its postings")
        told.expect(where, change.total, change.available + change.locked, "available + locked")
    ledger = {(row["wallet_id"], row["asset"]): row for row in posted}
    for key in sorted({*reached, *ledger}):
        first, last = opening.get(key, NOTHING), closing.get(key, NOTHING)
        where = "/".join(key)
        told.balances.append({"wallet_id": key[0], "asset": key[1], "opening": first.plain(), "closing": last.plain()})
        for name, value, expected in zip(Amounts._fields, last, reached.get(key, NOTHING), strict=True):
            told.expect(f"{where} {name}", value, expected, "opening + movements")
        for when, held in (("opening", first), ("closing", last)):
            entries = units(ledger[key][when]) if key in ledger else 0
            told.expect(f"{where} {when}", held.total, entries, "all postings")
    for place, booked in fills.items():
        _position(told, place, booked)
    told.trades.sort(key=lambda line: line["executed_at"])
    return told


def _amounts(row: dict[str, Any], prefix: str = "") -> Amounts:
    return Amounts(*(units(row[prefix + name]) for name in Amounts._fields))


def _movement(row: dict[str, Any], change: Amounts, held: Amounts) -> dict[str, Any]:
    names = ("transaction_id", "wallet_id", "asset", "type", "status", "code", "amount", "fee")
    own = {name: row[name] for name in names}
    return {"occurred_at": _text(int(row["occurred_at"])), **own, "change": change.plain(), "balance": held.plain()}


def _position(told: Statement, place: Place, booked: list[Fill]) -> None:
    """The trades of a position in the period, in the order of their times, and what they made of it."""
    before, after = book_of(booked, told.start), book_of(booked, told.end)
    quantity = before.quantity
    for each in sorted(booked, key=lambda fill: fill.executed_at):
        if told.start <= each.executed_at < told.end:
            quantity += each.sign * each.quantity
            told.trades.append(_trade(each, place, quantity))
    if all(each.executed_at >= told.end for each in booked):
        return
    told.expect("/".join(place[:2]), after.quantity, quantity, "opening + trades")
    told.positions.append(
        {
            **place._asdict(),
            "opening_quantity": from_units(before.quantity),
            "quantity": from_units(after.quantity),
            "cost_basis": from_units(after.cost_basis),
            "average_price": None if after.average_price is None else from_units(after.average_price),
            "realized_pnl": from_units(after.realized_pnl - before.realized_pnl),
            "fees": from_units(after.fees - before.fees),
        }
    )


def _trade(each: Fill, place: Place, quantity: int) -> dict[str, Any]:
    amounts = (each.quantity, each.price, times(each.quantity, each.price), each.fee, quantity)
    names = ("quantity", "price", "notional", "fee", "position_quantity")
    return {
        "executed_at": _text(each.executed_at),
        "trade_id": each.trade_id,
        **place._asdict(),
        "side": "BUY" if each.sign > 0 else "SELL",
        **{name: from_units(amount) for name, amount in zip(names, amounts, strict=True)},
    }


def _text(micros: int) -> str:
    return time_text(from_micros(micros))


# --------------------------------------------------------------------------------------------------------- the command


def _midnight(text: str) -> datetime:
    """When a day begins, UTC. Raises BadParameter."""
    try:
        return parse_time(f"{text}T00:00:00Z")
    except ValueError as error:
        raise typer.BadParameter(f"{error}: write it as 2026-03-02") from error


def _moment(text: str) -> datetime:
    return time_of(text) if "T" in text else _midnight(text)


def period(day: datetime | None, start: datetime | None, end: datetime | None, now: datetime) -> tuple[int, int]:
    """The microseconds from and up to which a statement goes. Raises BadParameter."""
    if start is None and end is None:
        yesterday = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
        start = day or yesterday
        end = start + timedelta(days=1)
    elif day is not None or start is None or end is None:
        raise typer.BadParameter("say either --day, or both --from and --to")
    if start >= end:
        raise typer.BadParameter("--from has to be before --to")
    return to_micros(start), to_micros(end)


def statement(
    user: Annotated[str, typer.Argument(help="The user_id.", metavar="USER")],
    day: Annotated[
        datetime | None, typer.Option(parser=_midnight, metavar="DAY", help="A day, UTC; without: yesterday.")
    ] = None,
    start: Annotated[
        datetime | None, typer.Option("--from", parser=_moment, metavar="TIME", help="Or from this time or day,")
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", parser=_moment, metavar="TIME", help="up to, not with, this one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a user had, everything that moved in a period, in order, and what there was after it.

    By the events' own times: what came late is in the period in which it occurred. Asks ClickHouse, which has what its
    sinks have inserted. Adds all of it up, and exits with 1 when opening + movements isn't closing to the last digit.
    """
    told = _of(load(), user, *period(day, start, end, datetime.now(UTC)))
    if as_json:
        typer.echo(json.dumps(told.as_dict(), ensure_ascii=False))
    else:
        _show(told, Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False))
    if told.differences:
        raise NotReconciled(told.differences)


def _of(settings: Settings, user: str, start: int, end: int) -> Statement:
    given = {"user": user, "start": str(start), "end": str(end)}
    balances, posted, movements = (history.rows(settings, query, **given) for query in (BALANCES, POSTED, MOVEMENTS))
    return write(user, start, end, balances, posted, movements, history.fills(settings, user))


def _show(told: Statement, console: Console) -> None:
    console.print(f"{told.user_id}, from {_text(told.start)} up to {_text(told.end)}")
    for name in ("balances", "movements", "trades", "positions"):
        lines = [dict(_flat(line)) for line in getattr(told, name)]
        if lines:
            kinds = ["Decimal" if AMOUNT.match(column) else "String" for column in lines[0]]
            shown = table(list(lines[0]), kinds, *(list(line.values()) for line in lines))
            shown.title, shown.title_justify = name, "left"
            console.print(shown)
    if not told.differences:
        counts = (f"{len(getattr(told, name))} {name}" for name in ("balances", "movements", "trades", "positions"))
        console.print(f"opening + movements = closing, and all as it was posted: {', '.join(counts)}", style="green")


def _flat(line: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A line's cells: of an object in it one each."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{part}", amount) for part, amount in value.items())
        else:
            yield name, value
