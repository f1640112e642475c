"""The laws: what must hold at any time, whatever the inputs were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from assetstream.cli.audit.partitions import Partitions
from assetstream.cli.audit.report import Report, bounds
from assetstream.cli.audit.states import Account, Prices
from assetstream.cli.audit.tables import IDENTITIES, Tables
from assetstream.models.reference import Book, plain, timestamp
from assetstream.streams.settings import Settings

Key = tuple[str, ...]
Row = dict[str, str | int | None]

#: columns of the views that are compared
POSITION = ("currency", "quantity", "cost_basis", "average_price", "realized_pnl", "fees", "last_trade_at")
BALANCE = ("total", "available", "locked")
WALLET = ("wallet_type", "currency", "status", "resets")

#: no fraction of a cent is ever lost
_NOTIONALS = """
SELECT user_id, portfolio_id, symbol, toString(net), toString(cost_basis - realized_pnl)
FROM
(
    SELECT user_id, portfolio_id, symbol, sum(if(side = 'BUY', notional, -notional)) AS net
    FROM fills
    GROUP BY user_id, portfolio_id, symbol
) AS traded
INNER JOIN positions USING (user_id, portfolio_id, symbol)
"""
_POSTINGS = """
SELECT source_topic, source_partition, source_offset, transaction_id, asset, toString(sum(amount))
FROM ledger_entries
GROUP BY source_topic, source_partition, source_offset, transaction_id, asset
HAVING sum(amount) != 0
"""
_TRANSIT = """
SELECT asset, toString(sum(amount)) FROM ledger_entries WHERE account = 'transit' GROUP BY asset HAVING sum(amount) != 0
"""
_POSTED = """
SELECT account, asset, toString(sum(total)), toString(sum(posted))
FROM
(
    SELECT concat('wallet:', user_id, '/', wallet_id) AS account, asset, total, toDecimal128(0, 18) AS posted
    FROM balances
    UNION ALL
    SELECT account, asset, toDecimal128(0, 18), amount FROM ledger_entries WHERE startsWith(account, 'wallet:')
)
GROUP BY account, asset
HAVING sum(total) != sum(posted)
"""
# Paper money moves among VIRTUAL wallets and `virtual`, and nothing else does: all legs of an event are of one kind.
_MIXED = """
SELECT source_topic, source_partition, source_offset, arrayStringConcat(groupUniqArray(account), ', ')
FROM ledger_entries
LEFT JOIN
(
    SELECT concat('wallet:', user_id, '/', wallet_id) AS account, wallet_type = 'VIRTUAL' AS of_virtual FROM wallets
) AS kinds USING (account)
GROUP BY source_topic, source_partition, source_offset
HAVING uniqExact(account = 'virtual' OR of_virtual) > 1
"""
_CLOSED = """
SELECT user_id, wallet_id, asset, toString(total) FROM balances
WHERE total != 0 AND (user_id, wallet_id) IN (SELECT user_id, wallet_id FROM wallets WHERE status = 'CLOSED')
"""
_BALANCES = """
SELECT source_topic, source_partition, source_offset, toString(total), toString(available + locked)
FROM balance_history
WHERE total != available + locked
"""
_BOTH = """
SELECT source_topic, source_partition, source_offset, table
FROM
(
    SELECT source_topic, source_partition, source_offset, 'fills' AS table FROM fills
    UNION ALL SELECT source_topic, source_partition, source_offset, 'prices' FROM prices
    UNION ALL SELECT source_topic, source_partition, source_offset, 'transactions' FROM transactions
) AS applied
INNER JOIN (SELECT source_topic, source_partition, source_offset FROM dead_letters) AS rejected
USING (source_topic, source_partition, source_offset)
"""
_USERS = """
SELECT DISTINCT user_id, source_topic, source_partition FROM fills
UNION DISTINCT SELECT DISTINCT user_id, source_topic, source_partition FROM transactions
"""


def judge_tables(partitions: Partitions, tables: Tables, report: Report) -> None:
    """The laws of ClickHouse's rows. Raises ClickHouseAway, ClickHouseRefused."""
    for table in IDENTITIES:
        report.checked["rows once"] += tables.count(table)
        for *identity, n in tables.doubles(table):
            report.add("rows once", f"{table} {'/'.join(map(str, identity))}", "1 row", f"{n} rows")
    if tables.kept_since:
        report.notes.append("CLICKHOUSE_TTL_DAYS drops old fills: what they add up to can't be judged")
    else:
        for user, portfolio, symbol, net, kept in tables.ask(_NOTIONALS):
            report.same("Σ notional = cost basis − realized P&L", f"{user}/{portfolio}/{symbol}", kept, net)
    report.checked["Σ postings = 0"] += tables.count("ledger_entries")
    for topic, partition, offset, transaction, asset, total in tables.ask(_POSTINGS):
        report.add("Σ postings = 0", f"{topic}-{partition}@{offset} {transaction} {asset}", "0", total)
    report.checked["total = available + locked"] += tables.count("balance_history")
    for topic, partition, offset, total, parts in tables.ask(_BALANCES):
        report.add("total = available + locked", f"{topic}-{partition}@{offset}", parts, total)
    for topic, partition, offset, table in tables.ask(_BOTH):
        report.add("applied or rejected", f"{topic}-{partition}@{offset}", "one of both", f"{table} and dead_letters")
    for user, topic, partition in tables.ask(_USERS):
        expected = partition if partition in partitions.homes(user) else partitions.home(user)
        report.same("users' partitions", f"{user} in {topic}", f"{topic}-{expected}", f"{topic}-{partition}")


def judge_states(
    settings: Settings,
    partitions: Partitions,
    accounts: Mapping[int, Account],
    prices: Mapping[int, Prices],
    report: Report,
) -> None:
    """The laws of the state itself."""
    for number, account in accounts.items():
        where = f"account_changelog-{number}"
        if account.base_currency != settings.base_currency:
            report.add("base currency", where, settings.base_currency, account.base_currency)
        _in_their_partition(partitions, account.users(), where, number, report)
    for number, each in prices.items():
        _in_their_partition(partitions, each.latest(), f"price_changelog-{number}", number, report)


def _in_their_partition(partitions: Partitions, names: Iterable[str], where: str, number: int, report: Report) -> None:
    for name in names:
        expected = f"partition {partitions.home(name)}"
        report.same("users' partitions", f"{name} in {where}", expected, f"partition {number}")


def judge_offsets(
    committed: Mapping[tuple[str, int], int],
    before: Mapping[tuple[str, int], int],
    after: Mapping[tuple[str, int], int],
    report: Report,
) -> None:
    """What the agents' group has committed is what the state has applied: both are of one transaction.

    By input partition; `before` and `after` are applied offsets of states that were read around `committed`.
    """
    for place, offset in committed.items():
        if offset < 0:
            continue  # nothing yet, or forgotten by Kafka since
        report.checked["group offsets"] += 1
        first, last = before[place] + 1, after[place] + 1
        if not first <= offset <= last:
            expected = f"{bounds(first, last)}, as the state"
            report.add("group offsets", f"{place[0]}-{place[1]}", expected, f"{offset} committed")


def judge_ledger(tables: Tables, report: Report) -> None:
    """What the ledger's rows add up to while nothing is on its way. Raises ClickHouseAway, ClickHouseRefused."""
    if tables.kept_since:
        return  # rows were dropped
    report.checked["transit is empty"] += tables.count("(SELECT DISTINCT asset FROM ledger_entries)")
    for asset, total in tables.ask(_TRANSIT):
        report.add("transit is empty", asset, "0", total)
    report.checked["balance = Σ postings"] += tables.count("balances")
    for account, asset, total, posted in tables.ask(_POSTED):
        report.add("balance = Σ postings", f"{account} {asset}", posted, total)
    report.checked["virtual money apart"] += tables.count("ledger_entries")
    for topic, partition, offset, accounts in tables.ask(_MIXED):
        report.add("virtual money apart", f"{topic}-{partition}@{offset}", "accounts of one kind", accounts)
    report.checked["closed wallets are empty"] += tables.count("wallets")
    for user, wallet, asset, total in tables.ask(_CLOSED):
        report.add("closed wallets are empty", f"{user}/{wallet} {asset}", "0", total)


def compare_views(
    tables: Tables,
    accounts: Mapping[int, Account],
    applied: Mapping[tuple[str, int], int],
    report: Report,
) -> None:
    """The views `positions`, `balances` and `wallets` against the state, but what changed since it was read."""
    if tables.kept_since:
        report.notes.append("CLICKHOUSE_TTL_DAYS drops old rows: the views can't be held against the state")
        return
    view = _by_key(tables, "positions", ("user_id", "portfolio_id", "symbol"), POSITION)
    newer = _newer(tables, "fills", ("user_id", "portfolio_id", "symbol"), applied)
    positions: dict[Key, Row] = {}
    for account in accounts.values():
        positions.update((key, _position(row)) for key, row in account.positions().items())
    _compare("view positions", positions, view, newer, report)
    view = _by_key(tables, "balances", ("user_id", "wallet_id", "asset"), BALANCE)
    newer = _newer(tables, "balance_history", ("user_id", "wallet_id", "asset"), applied)
    balances: dict[Key, Row] = {}
    for account in accounts.values():
        balances.update((key, balance(*amounts)) for key, amounts in account.balances().items())
    _compare("view balances", balances, view, newer, report)
    view = _by_key(tables, "wallets", ("user_id", "wallet_id"), WALLET)
    touched = {key[:2] for key in newer}
    wallets = {key: row for account in accounts.values() for key, row in _wallets(account)}
    _compare("view wallets", wallets, view, touched, report)


def _compare(
    check: str, expected: Mapping[Key, Row], found: Mapping[Key, Row], newer: set[Key], report: Report
) -> None:
    ours, theirs = ({key: row for key, row in each.items() if key not in newer} for each in (expected, found))
    report.all_same(check, ours, theirs)


def _by_key(tables: Tables, view: str, key: tuple[str, ...], names: tuple[str, ...]) -> dict[Key, Row]:
    rows = tables.ask(f"SELECT {', '.join((*key, *names))} FROM {view}")
    return {row[: len(key)]: dict(zip(names, row[len(key) :], strict=True)) for row in rows}


def _newer(tables: Tables, table: str, key: tuple[str, ...], applied: Mapping[tuple[str, int], int]) -> set[Key]:
    """The keys that have rows of later inputs than these."""
    places = [
        f"(source_topic = '{t}' AND source_partition = {p} AND source_offset > {o})" for (t, p), o in applied.items()
    ]
    return {
        tuple(row) for row in tables.ask(f"SELECT DISTINCT {', '.join(key)} FROM {table} WHERE {' OR '.join(places)}")
    }


def _position(row: Mapping[str, int | str]) -> Row:
    book = Book(*(int(row[name]) for name in Book._fields))
    average = book.average_price
    return {
        "currency": str(row["currency"]),
        "quantity": plain(book.quantity),
        "cost_basis": plain(book.cost_basis),
        "average_price": None if average is None else plain(average),
        "realized_pnl": plain(book.realized_pnl),
        "fees": plain(book.fees),
        "last_trade_at": timestamp(int(row["last_trade_at"])),
    }


def _wallets(account: Account) -> Iterator[tuple[Key, Row]]:
    """Those that are opened, as the view has them."""
    for key, wallet in account.wallets().items():
        if wallet["status"]:
            values = wallet["type"], wallet["currency"], wallet["status"], wallet["resets"]
            yield key, dict(zip(WALLET, values, strict=True))


def balance(available: int, locked: int) -> Row:
    """A balance as the interface writes it."""
    return {"total": plain(available + locked), "available": plain(available), "locked": plain(locked)}
