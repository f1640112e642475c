"""Our side, from ClickHouse: trades, positions, balances, the statements that were judged and the breaks that stand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any

from assetstream.cli.audit.tables import Tables
from assetstream.cli.reconciliation.complete import Cut
from assetstream.models.messages import (
    BreakType,
    BrokerStatement,
    ReconciliationBreak,
    StatedTrade,
    to_micros,
)
from assetstream.models.reconciliation import Account, Difference, Ours, Tolerances, account_of
from assetstream.streams.settings import Settings

TRADE = ("trade_id", "symbol", "side", "quantity", "price", "executed_at", "fee", "currency")
BREAK = tuple(name for name in ReconciliationBreak.model_fields if name != "cause")

#: of one account
_OWN = """user_id = {user:String} AND broker = {broker:String}
    AND ({portfolio:String} = '' OR portfolio_id = {portfolio:String})"""
_SIGNED = "toDecimal256(if(side = 'BUY', quantity, -quantity), 18)"

_TRADES = f"""
SELECT {", ".join(TRADE)} FROM fills
WHERE {_OWN} AND CUT
    AND ((executed_at >= fromUnixTimestamp64Micro({{start:Int64}})
            AND executed_at < fromUnixTimestamp64Micro({{end:Int64}}))
        OR trade_id IN (IDS))
"""
_POSITIONS = f"""
SELECT symbol, sum({_SIGNED}) FROM fills
WHERE {_OWN} AND CUT AND executed_at < fromUnixTimestamp64Micro({{end:Int64}})
GROUP BY symbol
"""
_BALANCES = """
SELECT wallet_id, asset, sum(toDecimal256(total_change, 18)) FROM balance_movements
WHERE user_id = {user:String} AND CUT AND occurred_at < fromUnixTimestamp64Micro({end:Int64})
GROUP BY wallet_id, asset
"""
_VERSION = """
SELECT version, digest FROM broker_statements
WHERE user_id = {user:String} AND broker = {broker:String} AND ifNull(portfolio_id, '') = {portfolio:String}
    AND statement_id = {statement:String}
ORDER BY version DESC LIMIT 1
"""
#: as the view `breaks`, which reads those of all users first
_LATEST = f"SELECT {', '.join(BREAK)} FROM reconciliation_breaks WHERE OF ORDER BY sequence DESC LIMIT 1 BY break_id"
_STANDING = _LATEST.replace(
    "OF", "user_id = {user:String} AND broker = {broker:String} AND ifNull(portfolio_id, '') = {portfolio:String}"
)
_STANDING_INTERNAL = _LATEST.replace("OF", "broker IS NULL")
_ONE = _LATEST.replace("OF", "user_id = {user:String} AND break_id = {id:String}")

#: type, user, subject, what the entries add up to, what we say
_INTERNAL = (
    f"""
SELECT '{BreakType.INTERNAL_POSITION}', user_id, concat(portfolio_id, '/', symbol), sum({_SIGNED}) AS added,
    toDecimal256(argMax(position_quantity, (source_partition, source_offset)), 18) AS known
FROM fills WHERE CUT
GROUP BY user_id, portfolio_id, symbol
HAVING added != known
""",
    f"""
SELECT '{BreakType.INTERNAL_BALANCE}', user, substring(account, length(user) + 9),
    sum(posted) AS added, sum(total) AS known
FROM
(
    SELECT concat('wallet:', user_id, '/', wallet_id, '/', asset) AS account,
        toDecimal256(argMax(total, (sequence, source_partition, source_offset)), 18) AS total,
        toDecimal256(0, 18) AS posted
    FROM balance_history WHERE CUT
    GROUP BY user_id, wallet_id, asset
    UNION ALL
    SELECT concat(account, '/', asset), toDecimal256(0, 18), toDecimal256(amount, 18)
    FROM ledger_entries WHERE startsWith(account, 'wallet:') AND CUT
)
GROUP BY account, substring(splitByChar('/', account)[1], 8) AS user
HAVING added != known
""",
    f"""
SELECT '{BreakType.INTERNAL_POSTINGS}', user_id,
    concat(transaction_id, '/', source_topic, '-', toString(source_partition), '-', toString(source_offset), '/',
        asset),
    sum(toDecimal256(amount, 18)) AS added, toDecimal256(0, 18) AS known
FROM ledger_entries WHERE CUT
GROUP BY user_id, transaction_id, source_topic, source_partition, source_offset, asset
HAVING added != known
""",
)


class RowsExpire(RuntimeError):
    """Old fills are dropped, so what they add up to can't be judged."""

    def __init__(self) -> None:
        super().__init__(
            "reconciliation adds up all fills and balances ever, and CLICKHOUSE_TTL_DAYS drops old ones: unset it"
        )


class Books:
    """ClickHouse up to a cut, and on top of it what was `told` since: breaks and statements that are on their way.

    Raises RowsExpire, ClickHouseAway, ClickHouseRefused, SchemaError.
    """

    def __init__(self, settings: Settings, cut: Cut) -> None:
        if settings.clickhouse_ttl_days is not None:
            raise RowsExpire
        self._tables = Tables(settings)
        self._cut = _below(cut)
        self._told: dict[str, ReconciliationBreak] = {}
        self._versions: dict[tuple[Account, str], tuple[int, str]] = {}

    def close(self) -> None:
        """Let the connection go."""
        self._tables.close()

    def ours(self, statement: BrokerStatement) -> Ours:
        """Our side of a statement."""
        account = _parameters(account_of(statement))
        start, end = to_micros(statement.period_start), to_micros(statement.period_end)
        trades: list[StatedTrade] = []
        if statement.trades is not None:
            ids = ", ".join(f"'{trade.trade_id}'" for trade in statement.trades) or "''"
            rows = self._ask(_TRADES.replace("IDS", ids), **account, start=start, end=end)
            trades = [StatedTrade.model_validate(dict(zip(TRADE, row, strict=True))) for row in rows]
        positions: dict[str, Decimal] = {}
        if statement.positions is not None:
            positions = {symbol: Decimal(held) for symbol, held in self._ask(_POSITIONS, **account, end=end)}
        balances: dict[tuple[str, str], Decimal] = {}
        if statement.balances:
            rows = self._ask(_BALANCES, user=statement.user_id, end=end)
            balances = {(wallet, asset): Decimal(total) for wallet, asset, total in rows}
        return Ours(trades, positions, balances)

    def standing(self, account: Account) -> list[ReconciliationBreak]:
        """The latest of every break of an account."""
        return self._latest(
            self._breaks(_STANDING, **_parameters(account)),
            lambda each: (each.broker, each.user_id, each.portfolio_id) == account,
        )

    def break_of(self, user: str, break_id: str) -> ReconciliationBreak | None:
        """The latest of one break of a user, None when there is none."""
        found = self._breaks(_ONE, user=user, id=break_id)
        return next(iter(self._latest(found, lambda each: (each.user_id, each.break_id) == (user, break_id))), None)

    def judged(self, statement: BrokerStatement) -> tuple[int, str] | None:
        """Version and digest of the highest version of a statement that was judged, None when none was."""
        account = account_of(statement)
        if told := self._versions.get((account, statement.statement_id)):
            return told
        rows = self._tables.ask(_VERSION, **_parameters(account), statement=statement.statement_id)
        return (int(rows[0][0]), rows[0][1]) if rows else None

    def internal(self, is_ours: Callable[[str], bool], at: datetime) -> dict[str, list[Difference]]:
        """What differs between accounts of our own, by user; of those users that are `ours`."""
        found: dict[str, list[Difference]] = defaultdict(list)
        for query in _INTERNAL:
            for type_, user, subject, added, known in self._ask(query):
                if is_ours(user):
                    told = BreakType(type_), subject, at, Decimal(added), Decimal(known)
                    found[user].append(Difference(*told))
        return found

    def standing_internal(self, is_ours: Callable[[str], bool]) -> list[ReconciliationBreak]:
        """The latest of every break between accounts of our own; of those users that are `ours`."""
        return [
            each
            for each in self._latest(self._breaks(_STANDING_INTERNAL), lambda each: each.broker is None)
            if is_ours(each.user_id)
        ]

    def tell(self, breaks: Iterable[ReconciliationBreak]) -> None:
        """These are on their way to ClickHouse."""
        self._told |= {each.break_id: each for each in breaks}

    def tell_judged(self, statement: BrokerStatement) -> None:
        """So is this statement."""
        self._versions[account_of(statement), statement.statement_id] = statement.version, digest(statement)

    def _latest(
        self, found: list[ReconciliationBreak], is_meant: Callable[[ReconciliationBreak], bool]
    ) -> list[ReconciliationBreak]:
        told = {break_id: each for break_id, each in self._told.items() if is_meant(each)}
        return [*({each.break_id: each for each in found} | told).values()]

    def _breaks(self, query: str, **parameters: Any) -> list[ReconciliationBreak]:
        return [_break(row) for row in self._tables.ask(query, **parameters)]

    def _ask(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._tables.ask(query.replace("CUT", self._cut), **parameters)


def _below(cut: Cut) -> str:
    """The condition that a row is of an input below the cut. (Topics have no quotes in their names.)"""
    places = ", ".join(f"'{topic}/{partition}'" for topic, partition in cut)
    offsets = ", ".join(f"toInt64({max(offset, 0)})" for offset in cut.values())
    place = "concat(source_topic, '/', toString(source_partition))"
    return f"source_offset < transform({place}, [{places}], [{offsets}], toInt64(0))"


def _parameters(account: Account) -> dict[str, str]:
    return {"user": account.user_id, "broker": account.broker or "", "portfolio": account.portfolio_id or ""}


def _break(row: tuple[Any, ...]) -> ReconciliationBreak:
    told = dict(zip(BREAK, row, strict=True))
    for side in ("statement_trade", "our_trade"):
        told[side] = None if told[side] is None else json.loads(told[side])
    return ReconciliationBreak.model_validate({**told, "cause": None})


def digest(statement: BrokerStatement) -> str:
    """A hash of what a statement says, in whatever order and form it says it."""
    body = statement.model_dump(mode="json")
    for name in ("trades", "positions", "balances"):
        body[name] = body[name] and sorted(body[name], key=lambda each: json.dumps(each, sort_keys=True))
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def tolerances(settings: Settings) -> Tolerances:
    """As the settings have them."""
    seconds = timedelta(seconds=settings.reconcile_time_tolerance_s)
    return Tolerances(settings.reconcile_quantity_tolerance, settings.reconcile_price_tolerance, seconds)
