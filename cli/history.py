"""What a user's history in ClickHouse says, in exact integers: units of 10^-18, microseconds UTC."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact
from typing import Any, NamedTuple

from assetstream.cli.sql import ask
from assetstream.models.decimals import SCALE
from assetstream.models.lots import Fill
from assetstream.models.reference import Book, fill
from assetstream.streams.settings import Settings

#: as they were booked: see the view `positions`
FILLS = """
SELECT portfolio_id, symbol, currency, trade_id, toUnixTimestamp64Micro(executed_at) AS executed_at, side, quantity,
    price, fee, position_quantity, position_cost_basis, position_realized_pnl, position_fees
FROM fills
WHERE user_id = {user:String}
    AND ({portfolio:String} = '' OR portfolio_id = {portfolio:String})
    AND ({symbol:String} = '' OR symbol = {symbol:String})
ORDER BY portfolio_id, symbol, source_partition, source_offset
"""
_EXACT = Context(prec=100, traps=[Inexact])
_BOOK = ("position_quantity", "position_cost_basis", "position_realized_pnl", "position_fees")


class Place(NamedTuple):
    """A position of a user."""

    portfolio_id: str
    symbol: str
    currency: str


class FillsMissing(RuntimeError):
    """What ClickHouse has of a position's fills doesn't make the position that they say."""

    def __init__(self, place: Place, trade_id: str) -> None:
        self.place, self.trade_id = place, trade_id
        super().__init__(
            f"fills of {place.portfolio_id}/{place.symbol} before {trade_id} are not in ClickHouse: ask again when "
            "`assetstream lag` says 0; what CLICKHOUSE_TTL_DAYS dropped is gone"
        )


def rows(settings: Settings, query: str, **given: str) -> list[dict[str, Any]]:
    """The answer to a query with parameters; decimals and 64-bit integers are strings.

    Raises ClickHouseAway, ClickHouseRefused.
    """
    return [json.loads(line) for line in ask(settings, query, "JSONEachRow", given).splitlines()]


def units(text: str) -> int:
    """A decimal of ClickHouse in units, however large."""
    return int(Decimal(text).scaleb(SCALE, _EXACT))


def fills(settings: Settings, user: str, portfolio: str = "", symbol: str = "") -> dict[Place, list[Fill]]:
    """All fills of each of a user's positions, in the order in which they were booked; of one portfolio or symbol.

    They are added up, and make the position that the stream booked after each of them, to the last digit.
    Raises FillsMissing, ClickHouseAway, ClickHouseRefused.
    """
    found: dict[Place, list[Fill]] = {}
    book = Book()
    for row in rows(settings, FILLS, user=user, portfolio=portfolio, symbol=symbol):
        place = Place(row["portfolio_id"], row["symbol"], row["currency"])
        if place not in found:
            found[place], book = [], Book()
        each = Fill(
            row["trade_id"],
            int(row["executed_at"]),
            1 if row["side"] == "BUY" else -1,
            *(units(row[name]) for name in ("quantity", "price", "fee")),
        )
        book = fill(book, *each[2:])
        if book != Book(*(units(row[name]) for name in _BOOK)):
            raise FillsMissing(place, each.trade_id)
        found[place].append(each)
    return found


def book_of(fills: Iterable[Fill], end: int) -> Book:
    """The position that the fills executed before `end` make, in the order in which they were booked."""
    book = Book()
    for each in fills:
        if each.executed_at < end:
            book = fill(book, *each[2:])
    return book
