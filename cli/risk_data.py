"""What ClickHouse has of a portfolio, its prices and their past, for `assetstream risk`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any, NamedTuple

from assetstream.cli.history import rows, units
from assetstream.models.reference import Book
from assetstream.models.risk.account import Account, Holding, Mark, Trade
from assetstream.models.risk.returns import Closing
from assetstream.streams.settings import Settings

#: as the view `positions` finds them, and the price of the last fill
HOLDINGS = """
SELECT symbol, last.1 AS currency, last.2 AS quantity, last.3 AS cost_basis, last.4 AS realized_pnl, last.5 AS fees,
    last.6 AS last_price
FROM
(
    SELECT symbol, argMax(
        (currency, position_quantity, position_cost_basis, position_realized_pnl, position_fees, price),
        (source_partition, source_offset)) AS last
    FROM fills
    WHERE user_id = {user:String} AND portfolio_id = {portfolio:String}
    GROUP BY symbol
)
ORDER BY symbol
"""
_AMONG = "symbol IN (SELECT arrayJoin(splitByChar(',', {symbols:String})))"
#: what the latest trade that says one says, whoever's it was
TYPES = f"""
SELECT symbol, argMax(asset_type, (executed_at, source_partition, source_offset)) AS kind
FROM fills
WHERE asset_type IS NOT NULL AND {_AMONG}
GROUP BY symbol
"""
MARKS = f"""
SELECT symbol, last.1 AS price, last.2 AS currency, last.3 AS bid, last.4 AS ask,
    toUnixTimestamp64Micro(last.5) AS as_of
FROM
(
    SELECT symbol, argMax((price, currency, bid, ask, as_of), (as_of, source_partition, source_offset)) AS last
    FROM prices
    WHERE {_AMONG}
    GROUP BY symbol
)
"""
BASELINE = """
SELECT total_pnl - daily_pnl AS baseline
FROM portfolios
WHERE user_id = {user:String} AND portfolio_id = {portfolio:String}
"""
#: what the latest alert of each rule says of its limit: null, there is none (any more)
LIMITS = """
SELECT told.1 AS alert_id, type, told.2 AS most
FROM
(
    SELECT type, argMax((alert_id, limit_value), toUInt64(extract(alert_id, '[0-9]+$'))) AS told
    FROM risk_alerts
    WHERE user_id = {user:String} AND portfolio_id = {portfolio:String} AND type IN ('EXPOSURE_LIMIT', 'LOSS_LIMIT')
    GROUP BY type, replaceRegexpOne(alert_id, '[0-9]+$', '')
)
WHERE most IS NOT NULL
"""
#: by type and subject of an alert, the limit that it is about
NAMES = {
    ("LOSS_LIMIT", "total"): "max_total_loss",
    ("LOSS_LIMIT", "daily"): "max_daily_loss",
    ("EXPOSURE_LIMIT", "-"): "max_portfolio_value",
}
CLOSINGS = f"""
SELECT symbol, period, toFloat64(last.1) AS price,
    if(last.2 >= 0 AND last.3 >= last.2 AND last.3 > 0,
        toFloat64(last.3 - last.2) / (toFloat64(last.3 + last.2) / 2), NULL) AS spread
FROM
(
    SELECT symbol, intDiv(toUnixTimestamp64Micro(as_of), {{width:Int64}}) AS period,
        argMax((price, bid, ask), (as_of, source_partition, source_offset)) AS last
    FROM prices
    WHERE {_AMONG} AND as_of >= fromUnixTimestamp64Micro({{since:Int64}})
    GROUP BY symbol, period
)
"""
#: periods that are looked through for each return: exchanges are open 6.5 hours of 24, five days of seven
SPARE = 6


class Limit(NamedTuple):
    """A limit in units, and the alert that told it; None: it was given."""

    most: int
    alert_id: str | None = None


class NoPortfolio(RuntimeError):
    """ClickHouse has no fill of a portfolio."""

    def __init__(self, user: str, portfolio: str) -> None:
        self.user, self.portfolio = user, portfolio
        super().__init__(
            f"{user}/{portfolio} has no fills in ClickHouse: is it written as in `assetstream holdings {user}`? "
            "What was just traded is there when `assetstream lag` says 0"
        )


def load_account(settings: Settings, user: str, portfolio: str, trades: Iterable[Trade] = ()) -> Account:
    """A portfolio with the marks of its symbols and of those of `trades`, and of all pairs of their currencies.

    Raises NoPortfolio, ClickHouseAway, ClickHouseRefused.
    """
    found = rows(settings, HOLDINGS, user=user, portfolio=portfolio)
    if not found:
        raise NoPortfolio(user, portfolio)
    symbols = {*(row["symbol"] for row in found), *(each.symbol for each in trades)}
    types, marks = load_types(settings, symbols), load_marks(settings, symbols)
    currencies = {settings.base_currency, "USD", *(row["currency"] for row in found)}
    currencies |= {mark.currency for mark in marks.values()} | {each.currency for each in trades if each.currency}
    marks |= load_marks(settings, {f"{have}/{want}" for have, want in permutations(sorted(currencies), 2)})
    baseline = rows(settings, BASELINE, user=user, portfolio=portfolio)
    return Account(
        user,
        portfolio,
        settings.base_currency,
        tuple(_holding(row, types.get(row["symbol"], "OTHER")) for row in found),
        marks,
        units(baseline[0]["baseline"]) if baseline else None,
    )


def _holding(row: dict[str, Any], asset_type: str) -> Holding:
    book = Book(*(units(row[name]) for name in Book._fields))
    return Holding(row["symbol"], row["currency"], asset_type, book, units(row["last_price"]))


def load_types(settings: Settings, symbols: Iterable[str]) -> dict[str, str]:
    """Asset type by symbol, of those of which a trade said it."""
    return {row["symbol"]: row["kind"] for row in rows(settings, TYPES, symbols=",".join(symbols))}


def load_marks(settings: Settings, symbols: Iterable[str]) -> dict[str, Mark]:
    """The latest accepted price by symbol, of those that have one."""
    found = {}
    for row in rows(settings, MARKS, symbols=",".join(symbols)):
        bid, ask = (None if row[side] is None else units(row[side]) for side in ("bid", "ask"))
        found[row["symbol"]] = Mark(units(row["price"]), row["currency"], bid, ask, int(row["as_of"]))
    return found


def load_limits(settings: Settings, user: str, portfolio: str) -> dict[str, Limit]:
    """The limits that the latest alerts of a portfolio told. One that no alert was about isn't in ClickHouse."""
    found = {}
    for row in rows(settings, LIMITS, user=user, portfolio=portfolio):
        name = NAMES.get((row["type"], row["alert_id"].split("/")[-2]))
        if name is not None:
            found[name] = Limit(units(row["most"]), row["alert_id"])
    return {name: found[name] for name in NAMES.values() if name in found}


def load_closings(settings: Settings, account: Account, width: int, window: int) -> dict[str, dict[int, Closing]]:
    """The last prices in periods of `width` microseconds, of all symbols that an account has marks of; as many periods
    before its latest mark as are likely to have `window` returns.
    """
    found: dict[str, dict[int, Closing]] = {}
    latest = max((mark.as_of for mark in account.marks.values()), default=0)
    since = max(latest - SPARE * (window + 1) * width, 0)
    given = {"symbols": ",".join(account.marks), "width": str(width), "since": str(since)}
    for row in rows(settings, CLOSINGS, **given):
        spread = float("nan") if row["spread"] is None else float(row["spread"])
        found.setdefault(row["symbol"], {})[int(row["period"])] = Closing(float(row["price"]), spread)
    return found
