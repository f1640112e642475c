"""The database's versions: the SQL of each, applied once, in order, and remembered in `schema_migrations`.

A migration that was released is never edited: what changes comes as the next one. ClickHouse's DDL is not
transactional, so every statement can be repeated (IF NOT EXISTS, OR REPLACE) and the version is recorded last: a crash
half way is mended by running `assetstream init` again.

Tables are plain MergeTree without PARTITION BY, so that one insert is one part and therefore atomic, and remember many
insert tokens (`non_replicated_deduplication_window`, 0 by default), on which exactly once rests (`writer.py`). They
are ordered by whom analysts ask about, so that one user's rows lie together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from assetstream.sinks import analysts
from assetstream.sinks.schema import TABLES
from assetstream.streams.settings import Settings


class SchemaError(RuntimeError):
    """The database's schema is not the one this version works with."""


class SchemaTooNew(SchemaError):
    """A newer assetstream made the schema: this one may not touch it."""

    def __init__(self, database: str, found: int, known: int) -> None:
        self.database, self.found, self.known = database, found, known
        super().__init__(
            f"ClickHouse database {database} has schema version {found}, this assetstream knows {known}: upgrade it"
        )


class SchemaMissing(SchemaError):
    """Tables are missing, or older than this version needs."""

    def __init__(self, database: str, found: int, needed: int) -> None:
        self.database, self.found, self.needed = database, found, needed
        state = f"has schema version {found}" if found else "has no tables of ours"
        super().__init__(f"ClickHouse database {database} {state}, version {needed} is needed: run `assetstream init`")


class SchemaEdited(SchemaError):
    """A recorded migration's text differs from ours: someone edited what was already released."""

    def __init__(self, database: str, version: int) -> None:
        self.database, self.version = database, version
        super().__init__(
            f"migration {version} in ClickHouse database {database} differs from this assetstream's: "
            "the two come from different builds"
        )


class Rename(NamedTuple):
    """A statement that gives a table another name; done when there is one of that name."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"RENAME TABLE {{db}}.{self.old} TO {{db}}.{self.new}"


@dataclass(frozen=True)
class Migration:
    """One step; `{db}` in a statement stands for the database's name, `{base_currency}` for the setting."""

    version: int
    name: str
    statements: tuple[str | Rename, ...] = field(repr=False)

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements, hexadecimal."""
        return hashlib.sha256("\0".join(map(str, self.statements)).encode()).hexdigest()


_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS {db}.schema_migrations
(
    version UInt32,
    name String,
    checksum String,
    applied_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree ORDER BY version SETTINGS non_replicated_deduplication_window = 10000
"""

_SOURCE = "source_topic LowCardinality(String), source_partition Int32, source_offset Int64"
_SETTINGS = "SETTINGS non_replicated_deduplication_window = 10000"

_FILLS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.fills
(
    trade_id String,
    user_id String,
    portfolio_id String,
    wallet_id String,
    symbol LowCardinality(String),
    currency LowCardinality(String),
    side LowCardinality(String),
    quantity Decimal(38, 18),
    price Decimal(38, 18),
    fee Decimal(38, 18),
    executed_at DateTime64(6, 'UTC'),
    order_id Nullable(String),
    broker LowCardinality(Nullable(String)),
    asset_type LowCardinality(Nullable(String)),
    notional Decimal(38, 18),
    fill_realized_pnl Decimal(38, 18),
    position_quantity Decimal(38, 18),
    position_cost_basis Decimal(38, 18),
    position_average_price Nullable(Decimal(38, 18)),
    position_realized_pnl Decimal(38, 18),
    position_fees Decimal(38, 18),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, portfolio_id, symbol, source_offset) {_SETTINGS}
"""

_PRICES = f"""
CREATE TABLE IF NOT EXISTS {{db}}.prices
(
    symbol LowCardinality(String),
    price Decimal(38, 18),
    currency LowCardinality(String),
    as_of DateTime64(6, 'UTC'),
    bid Nullable(Decimal(38, 18)),
    ask Nullable(Decimal(38, 18)),
    source LowCardinality(Nullable(String)),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (symbol, as_of, source_offset) {_SETTINGS}
"""

_PORTFOLIO_UPDATES = f"""
CREATE TABLE IF NOT EXISTS {{db}}.portfolio_updates
(
    user_id String,
    portfolio_id String,
    base_currency LowCardinality(String),
    market_value Decimal(38, 18),
    cost_basis Decimal(38, 18),
    realized_pnl Decimal(38, 18),
    unrealized_pnl Decimal(38, 18),
    fees Decimal(38, 18),
    total_pnl Decimal(38, 18),
    daily_pnl Decimal(38, 18),
    gross_exposure Decimal(38, 18),
    open_positions Int32,
    complete Bool,
    unpriced Array(String),
    as_of DateTime64(6, 'UTC'),
    sequence Int64,
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, portfolio_id, sequence) {_SETTINGS}
"""

_RISK_ALERTS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.risk_alerts
(
    alert_id String,
    user_id String,
    portfolio_id String,
    type LowCardinality(String),
    severity LowCardinality(String),
    symbol LowCardinality(Nullable(String)),
    message String,
    current_value Decimal(38, 18),
    limit_value Nullable(Decimal(38, 18)),
    threshold_percent Decimal(38, 18),
    is_resolved Bool,
    action LowCardinality(String),
    created_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, portfolio_id, type, created_at) {_SETTINGS}
"""

_TRANSACTIONS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.transactions
(
    transaction_id String,
    user_id String,
    wallet_id String,
    external_id Nullable(String),
    payment_method LowCardinality(Nullable(String)),
    type LowCardinality(String),
    asset LowCardinality(String),
    amount Decimal(38, 18),
    fee Decimal(38, 18),
    status LowCardinality(String),
    code LowCardinality(Nullable(String)),
    balance_total Decimal(38, 18),
    balance_available Decimal(38, 18),
    balance_locked Decimal(38, 18),
    occurred_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, wallet_id, asset, source_offset) {_SETTINGS}
"""

_LEDGER_ENTRIES = f"""
CREATE TABLE IF NOT EXISTS {{db}}.ledger_entries
(
    user_id String,
    transaction_id String,
    account String,
    asset LowCardinality(String),
    amount Decimal(38, 18),
    entry Int32,
    occurred_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, transaction_id, source_offset, entry) {_SETTINGS}
"""

_SETTLEMENTS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.settlements
(
    settlement_id String,
    user_id String,
    portfolio_id String,
    wallet_id String,
    trade_id String,
    status LowCardinality(String),
    currency LowCardinality(String),
    amount Decimal(38, 18),
    occurred_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, trade_id, source_offset) {_SETTINGS}
"""

_DEAD_LETTERS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.dead_letters
(
    dead_letter_id String,
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    key Nullable(String),
    value Nullable(String),
    reason LowCardinality(String),
    detail String,
    rejected_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (topic, partition, offset) {_SETTINGS}
"""

# All fills of a user come from one partition of `trades`, so the highest offset is the last one applied.
# The tuple matters: argMax of a bare Nullable column would skip the nulls of flat positions.
_POSITIONS = """
CREATE OR REPLACE VIEW {db}.positions AS
SELECT
    user_id,
    portfolio_id,
    symbol,
    last.1 AS currency,
    last.2 AS quantity,
    last.3 AS cost_basis,
    last.4 AS average_price,
    last.5 AS realized_pnl,
    last.6 AS fees,
    last_trade_at
FROM
(
    SELECT
        user_id,
        portfolio_id,
        symbol,
        argMax(
            (currency, position_quantity, position_cost_basis, position_average_price, position_realized_pnl,
             position_fees),
            source_offset
        ) AS last,
        max(executed_at) AS last_trade_at
    FROM {db}.fills
    GROUP BY user_id, portfolio_id, symbol
)
"""

_PORTFOLIOS = """
CREATE OR REPLACE VIEW {db}.portfolios AS
SELECT
    user_id,
    portfolio_id,
    last.1 AS base_currency,
    last.2 AS market_value,
    last.3 AS cost_basis,
    last.4 AS realized_pnl,
    last.5 AS unrealized_pnl,
    last.6 AS fees,
    last.7 AS total_pnl,
    last.8 AS daily_pnl,
    last.9 AS gross_exposure,
    last.10 AS open_positions,
    last.11 AS complete,
    last.12 AS unpriced,
    last.13 AS as_of,
    last.14 AS sequence
FROM
(
    SELECT
        user_id,
        portfolio_id,
        argMax(
            (base_currency, market_value, cost_basis, realized_pnl, unrealized_pnl, fees, total_pnl, daily_pnl,
             gross_exposure, open_positions, complete, unpriced, as_of, sequence),
            sequence
        ) AS last
    FROM {db}.portfolio_updates
    GROUP BY user_id, portfolio_id
)
"""

_BALANCES = """
CREATE OR REPLACE VIEW {db}.balances AS
SELECT
    user_id,
    wallet_id,
    asset,
    last.1 AS total,
    last.2 AS available,
    last.3 AS locked,
    last.4 AS last_transaction_at
FROM
(
    SELECT
        user_id,
        wallet_id,
        asset,
        argMax((balance_total, balance_available, balance_locked, occurred_at), source_offset) AS last
    FROM {db}.transactions
    GROUP BY user_id, wallet_id, asset
)
"""

# An alert's subject and number are in its id, user/portfolio/type/subject/n; the subject may hold slashes itself.
_OPEN_ALERTS = r"""
CREATE OR REPLACE VIEW {db}.open_alerts AS
SELECT
    last.1 AS alert_id,
    user_id,
    portfolio_id,
    type,
    last.2 AS severity,
    last.3 AS symbol,
    last.4 AS message,
    last.5 AS current_value,
    last.6 AS limit_value,
    last.7 AS threshold_percent,
    last.9 AS action,
    last.10 AS created_at
FROM
(
    SELECT
        user_id,
        portfolio_id,
        type,
        argMax(
            (alert_id, severity, symbol, message, current_value, limit_value, threshold_percent, is_resolved, action,
             created_at),
            toUInt64(extract(alert_id, '[0-9]+$'))
        ) AS last
    FROM {db}.risk_alerts
    GROUP BY user_id, portfolio_id, type, replaceRegexpOne(alert_id, '[0-9]+$', '')
)
WHERE NOT last.8
"""

# After a repartition a user's messages go on in another partition, with a higher number and offsets from 0.
_BY_PLACE = tuple(
    view.replace("source_offset", "(source_partition, source_offset)") for view in (_POSITIONS, _BALANCES)
)

# Beside its own balance, which is in `transactions`, an event may move another one: of another wallet or asset.
_BALANCE_CHANGES = f"""
CREATE TABLE IF NOT EXISTS {{db}}.balance_changes
(
    user_id String,
    wallet_id String,
    asset LowCardinality(String),
    transaction_id String,
    total Decimal(38, 18),
    available Decimal(38, 18),
    locked Decimal(38, 18),
    occurred_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, wallet_id, asset, source_offset) {_SETTINGS}
"""

_BALANCE_HISTORY = """
CREATE OR REPLACE VIEW {db}.balance_history AS
SELECT
    user_id, wallet_id, asset, transaction_id, balance_total AS total, balance_available AS available,
    balance_locked AS locked, occurred_at, source_topic, source_partition, source_offset
FROM {db}.transactions
UNION ALL
SELECT
    user_id, wallet_id, asset, transaction_id, total, available,
    locked, occurred_at, source_topic, source_partition, source_offset
FROM {db}.balance_changes
"""

_BALANCES_OF_ALL = """
CREATE OR REPLACE VIEW {db}.balances AS
SELECT
    user_id,
    wallet_id,
    asset,
    last.1 AS total,
    last.2 AS available,
    last.3 AS locked,
    last.4 AS last_transaction_at
FROM
(
    SELECT
        user_id,
        wallet_id,
        asset,
        argMax((total, available, locked, occurred_at), (source_partition, source_offset)) AS last
    FROM {db}.balance_history
    GROUP BY user_id, wallet_id, asset
)
"""

# Balances move by messages of several topics: what is told of one is numbered. Rows of before have 0, and their order.
_BALANCE_SEQUENCE = """
ALTER TABLE {db}.balance_changes ADD COLUMN IF NOT EXISTS sequence Int64 DEFAULT 0 AFTER locked
"""
_OUTCOME_SEQUENCE = """
ALTER TABLE {db}.transactions ADD COLUMN IF NOT EXISTS balance_sequence Int64 DEFAULT 0 AFTER balance_locked
"""

_NUMBERED_HISTORY = """
CREATE OR REPLACE VIEW {db}.balance_history AS
SELECT
    user_id, wallet_id, asset, transaction_id, balance_total AS total, balance_available AS available,
    balance_locked AS locked, balance_sequence AS sequence, occurred_at, source_topic, source_partition, source_offset
FROM {db}.transactions
UNION ALL
SELECT
    user_id, wallet_id, asset, transaction_id, total, available,
    locked, sequence, occurred_at, source_topic, source_partition, source_offset
FROM {db}.balance_changes
"""

_NUMBERED_BALANCES = """
CREATE OR REPLACE VIEW {db}.balances AS
SELECT
    user_id,
    wallet_id,
    asset,
    last.1 AS total,
    last.2 AS available,
    last.3 AS locked,
    last_transaction_at
FROM
(
    SELECT
        user_id,
        wallet_id,
        asset,
        argMax((total, available, locked), (sequence, source_partition, source_offset)) AS last,
        max(occurred_at) AS last_transaction_at
    FROM {db}.balance_history
    GROUP BY user_id, wallet_id, asset
)
"""

# The table of the first version had no more of a trade than its id.
_SETTLED_TRADES = """
ALTER TABLE {db}.settlements
    MODIFY COLUMN settlement_id String DEFAULT concat(user_id, '/', trade_id),
    ADD COLUMN IF NOT EXISTS broker LowCardinality(Nullable(String)) AFTER amount,
    ADD COLUMN IF NOT EXISTS symbol LowCardinality(String) AFTER broker,
    ADD COLUMN IF NOT EXISTS side LowCardinality(String) AFTER symbol,
    ADD COLUMN IF NOT EXISTS asset LowCardinality(String) AFTER side,
    ADD COLUMN IF NOT EXISTS quantity Decimal(38, 18) AFTER asset,
    ADD COLUMN IF NOT EXISTS fee Decimal(38, 18) AFTER quantity,
    ADD COLUMN IF NOT EXISTS settles_at DateTime64(6, 'UTC') AFTER fee,
    ADD COLUMN IF NOT EXISTS is_booked Bool AFTER settles_at,
    ADD COLUMN IF NOT EXISTS is_virtual Bool AFTER is_booked,
    ADD COLUMN IF NOT EXISTS cash_available Nullable(Decimal(38, 18)) AFTER is_virtual,
    ADD COLUMN IF NOT EXISTS cash_locked Nullable(Decimal(38, 18)) AFTER cash_available,
    ADD COLUMN IF NOT EXISTS cash_sequence Nullable(Int64) AFTER cash_locked,
    ADD COLUMN IF NOT EXISTS asset_available Nullable(Decimal(38, 18)) AFTER cash_sequence,
    ADD COLUMN IF NOT EXISTS asset_locked Nullable(Decimal(38, 18)) AFTER asset_available,
    ADD COLUMN IF NOT EXISTS asset_sequence Nullable(Int64) AFTER asset_locked
"""

# The legs of a trade follow from it; what leaves the wallet comes first, and none is zero. One that wasn't booked has
# none, and amounts whose sum may be too large for a decimal.
_LEDGER_ENTRIES_OF_ALL = """
CREATE OR REPLACE VIEW {db}.ledger_entries AS
SELECT
    user_id, transaction_id, account, asset, amount, entry, occurred_at, source_topic, source_partition, source_offset
FROM {db}.wallet_entries
UNION ALL
SELECT
    user_id, transaction_id, leg.1 AS account, toLowCardinality(leg.2) AS asset, leg.3 AS amount,
    toInt32(number - 1) AS entry, occurred_at, source_topic, source_partition, source_offset
FROM
(
    SELECT
        user_id,
        settlement_id AS transaction_id,
        concat('wallet:', user_id, '/', wallet_id) AS wallet,
        if(is_virtual, 'virtual', 'fees') AS fees,
        if(is_virtual, 'virtual', concat('settlement:', ifNull(broker, 'unspecified'))) AS settlement,
        toString(currency) AS cash,
        toString(asset) AS what,
        if(is_booked, amount, 0) AS given,
        if(is_booked, fee, 0) AS charged,
        [(wallet, what, -quantity), (settlement, what, quantity),
         (wallet, cash, given - charged), (fees, cash, charged), (settlement, cash, -given)] AS of_sell,
        [(wallet, cash, -given - charged), (fees, cash, charged), (settlement, cash, given),
         (wallet, what, quantity), (settlement, what, -quantity)] AS of_buy,
        arrayFilter(leg -> leg.3 != 0, if(side = 'SELL', of_sell, of_buy)) AS legs,
        occurred_at, source_topic, source_partition, source_offset
    FROM {db}.settlements
    WHERE is_booked
)
ARRAY JOIN legs AS leg, arrayEnumerate(legs) AS number
"""

_BALANCE_CHANGES_OF_ALL = """
CREATE OR REPLACE VIEW {db}.balance_changes AS
SELECT
    user_id, wallet_id, asset, transaction_id, total, available, locked, sequence, occurred_at,
    source_topic, source_partition, source_offset
FROM {db}.wallet_changes
UNION ALL
SELECT
    user_id, wallet_id, currency AS asset, settlement_id AS transaction_id,
    assumeNotNull(cash_available) + assumeNotNull(cash_locked) AS total,
    assumeNotNull(cash_available) AS available, assumeNotNull(cash_locked) AS locked,
    assumeNotNull(cash_sequence) AS sequence, occurred_at, source_topic, source_partition, source_offset
FROM {db}.settlements
WHERE cash_sequence IS NOT NULL
UNION ALL
SELECT
    user_id, wallet_id, asset, settlement_id AS transaction_id,
    assumeNotNull(asset_available) + assumeNotNull(asset_locked) AS total,
    assumeNotNull(asset_available) AS available, assumeNotNull(asset_locked) AS locked,
    assumeNotNull(asset_sequence) AS sequence, occurred_at, source_topic, source_partition, source_offset
FROM {db}.settlements
WHERE asset_sequence IS NOT NULL
"""

_BROKER_STATEMENTS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.broker_statements
(
    statement_id String,
    version Int64,
    broker String,
    user_id String,
    portfolio_id Nullable(String),
    period_start DateTime64(6, 'UTC'),
    period_end DateTime64(6, 'UTC'),
    trades Nullable(Int32),
    positions Nullable(Int32),
    balances Nullable(Int32),
    breaks Int32,
    digest String,
    judged_at DateTime64(6, 'UTC'),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, broker, period_end, source_offset) {_SETTINGS}
"""

# The two sides and their difference may be sums, so they are wider than what is summed.
_RECONCILIATION_BREAKS = f"""
CREATE TABLE IF NOT EXISTS {{db}}.reconciliation_breaks
(
    break_id String,
    sequence Int64,
    type LowCardinality(String),
    status LowCardinality(String),
    broker Nullable(String),
    user_id String,
    portfolio_id Nullable(String),
    subject String,
    statement_value Nullable(Decimal(76, 18)),
    our_value Nullable(Decimal(76, 18)),
    difference Decimal(76, 18),
    statement_trade Nullable(String),
    our_trade Nullable(String),
    about DateTime64(6, 'UTC'),
    statement_id Nullable(String),
    statement_version Nullable(Int64),
    opened_at DateTime64(6, 'UTC'),
    changed_at DateTime64(6, 'UTC'),
    decided_by String,
    reason Nullable(String),
    {_SOURCE}
)
ENGINE = MergeTree ORDER BY (user_id, break_id, sequence) {_SETTINGS}
"""

_BREAKS = """
CREATE OR REPLACE VIEW {db}.breaks AS
SELECT
    break_id, sequence, type, status, broker, user_id, portfolio_id, subject, statement_value, our_value, difference,
    statement_trade, our_trade, about, statement_id, statement_version, opened_at, changed_at, decided_by, reason
FROM {db}.reconciliation_breaks
ORDER BY sequence DESC
LIMIT 1 BY user_id, break_id
"""

# What a CONVERSION was done at. Rows of before have none, and those whose message gave the rate have no time of it.
_CONVERSION_RATES = """
ALTER TABLE {db}.transactions
    ADD COLUMN IF NOT EXISTS rate Nullable(Decimal(38, 18)) AFTER balance_sequence,
    ADD COLUMN IF NOT EXISTS rate_as_of Nullable(DateTime64(6, 'UTC')) AFTER rate,
    ADD COLUMN IF NOT EXISTS spread_bps Nullable(Decimal(38, 18)) AFTER rate_as_of
"""

# Of a wallet itself only its own events tell, and what opened one again that was closed: a transfer that came back.
_WALLET_COLUMNS = """
ALTER TABLE {db}.transactions
    ADD COLUMN IF NOT EXISTS wallet_type LowCardinality(Nullable(String)) AFTER occurred_at,
    ADD COLUMN IF NOT EXISTS resets Nullable(Int32) AFTER wallet_type
"""

# One that nobody opened by an OPEN is REAL, in the base currency. An OPEN that wasn't done opens none. A hold may
# expire at a time before it was made: that isn't when its wallet was opened.
_WALLETS = """
CREATE OR REPLACE VIEW {db}.wallets AS
SELECT
    user_id,
    wallet_id,
    wallet_type,
    currency,
    status,
    resets,
    opened_at,
    closed_at
FROM
(
    SELECT
        user_id,
        wallet_id,
        countIf(kind = 'OPEN' AND done) > 0 AS opened,
        anyIf((assumeNotNull(told_type), asset, at), kind = 'OPEN' AND done) AS opened_as,
        countIf(kind IN ('TRANSFER', 'REVERSAL') AND told_type IS NOT NULL) AS reopened,
        countIf(kind = 'CLOSE' AND done) > reopened AS closed,
        if(opened, opened_as.1, 'REAL') AS wallet_type,
        if(opened, opened_as.2, '{base_currency}') AS currency,
        if(closed, 'CLOSED', 'OPEN') AS status,
        toInt32(countIf(kind = 'RESET' AND done)) AS resets,
        if(opened, opened_as.3, min(at)) AS opened_at,
        if(closed, maxIf(at, kind = 'CLOSE' AND done), NULL) AS closed_at
    FROM
    (
        SELECT
            user_id, wallet_id, type AS kind, status = 'COMPLETED' AS done, toString(asset) AS asset,
            wallet_type AS told_type, occurred_at AS at
        FROM {db}.transactions
        WHERE ifNull(code, '') != 'EXPIRED'
        UNION ALL
        SELECT user_id, wallet_id, '', true, toString(asset), NULL, occurred_at FROM {db}.balance_changes
    )
    GROUP BY user_id, wallet_id
    HAVING countIf(kind != 'OPEN' OR done) > 0
)
"""

MIGRATIONS = (
    Migration(
        1,
        "stream tables and the views of the latest of each",
        (
            _FILLS,
            _PRICES,
            _PORTFOLIO_UPDATES,
            _RISK_ALERTS,
            _TRANSACTIONS,
            _LEDGER_ENTRIES,
            _SETTLEMENTS,
            _DEAD_LETTERS,
            _POSITIONS,
            _PORTFOLIOS,
            _BALANCES,
            _OPEN_ALERTS,
        ),
    ),
    Migration(2, "the latest of each when partitions have been added", _BY_PLACE),
    Migration(3, "balances that an event moves beside its own", (_BALANCE_CHANGES, _BALANCE_HISTORY, _BALANCES_OF_ALL)),
    Migration(
        4,
        "balances that messages of several topics move",
        (_BALANCE_SEQUENCE, _OUTCOME_SEQUENCE, _NUMBERED_HISTORY, _NUMBERED_BALANCES),
    ),
    Migration(5, "the rates of conversions", (_CONVERSION_RATES,)),
    Migration(
        6,
        "what brokers state, and where they and we differ",
        (_BROKER_STATEMENTS, _RECONCILIATION_BREAKS, _BREAKS),
    ),
    Migration(7, "wallets", (_WALLET_COLUMNS, _WALLETS)),
    Migration(8, "views for analysts, and gains lot by lot", analysts.ALL),
    Migration(
        9,
        "what settles, and when, and what trades do to wallets",
        (
            _SETTLED_TRADES,
            Rename("ledger_entries", "wallet_entries"),
            Rename("balance_changes", "wallet_changes"),
            _LEDGER_ENTRIES_OF_ALL,
            _BALANCE_CHANGES_OF_ALL,
        ),
    ),
)
VERSION = MIGRATIONS[-1].version


def migrate(client: Client, settings: Settings) -> list[Migration]:
    """Bring the database to our version and give the tables the TTL of the settings; what was applied, in order.

    Nothing to do: an empty list. Two at once do no harm. Raises SchemaTooNew, SchemaEdited.
    """
    db = settings.clickhouse_database
    client.command(f"CREATE DATABASE IF NOT EXISTS {db}")
    client.command(_CREATE_MIGRATIONS.format(db=db))
    done = _recorded(client, db)
    fresh = [migration for migration in MIGRATIONS if migration.version not in done]
    for migration in fresh:
        for statement in migration.statements:
            try:
                _apply(client, statement, settings)
            except DatabaseError:
                if migration.version not in _recorded(client, db):
                    raise
                # another one has gone on to versions in which a table of this one is a view
        _record(client, db, migration)
    _set_ttl(client, settings)
    return fresh


def _apply(client: Client, statement: str | Rename, settings: Settings) -> None:
    db = settings.clickhouse_database
    if isinstance(statement, Rename) and client.command(f"EXISTS TABLE {db}.{statement.new}"):
        return
    client.command(str(statement).format(db=db, base_currency=settings.base_currency))


def check(client: Client, settings: Settings) -> None:
    """That the database is exactly what this version works with: raises SchemaMissing, SchemaTooNew, SchemaEdited."""
    db = settings.clickhouse_database
    table = client.query(
        "SELECT name FROM system.tables WHERE database = {db:String} AND name = 'schema_migrations'",
        parameters={"db": db},
    )
    done = _recorded(client, db) if table.result_rows else {}
    if any(migration.version not in done for migration in MIGRATIONS):
        raise SchemaMissing(db, max(done, default=0), VERSION)


def _recorded(client: Client, db: str) -> dict[int, str]:
    """Checksum by version of what was applied, after making sure that all of it is ours."""
    rows = client.query(f"SELECT version, checksum FROM {db}.schema_migrations ORDER BY version").result_rows
    done = {int(version): str(checksum) for version, checksum in rows}
    if max(done, default=0) > VERSION:
        raise SchemaTooNew(db, max(done), VERSION)
    for migration in MIGRATIONS:
        if done.get(migration.version, migration.checksum) != migration.checksum:
            raise SchemaEdited(db, migration.version)
    return done


def _record(client: Client, db: str, migration: Migration) -> None:
    client.command(
        f"INSERT INTO {db}.schema_migrations "
        "SELECT {version:UInt32}, {name:String}, {checksum:String}, now64(6, 'UTC')",
        parameters={"version": migration.version, "name": migration.name, "checksum": migration.checksum},
    )


def _set_ttl(client: Client, settings: Settings) -> None:
    """Give every stream table the TTL of the settings, or none; only what differs is altered.

    The views read the same rows: with a TTL, a position that was not traded for so long is no longer in `positions`.
    """
    db, days = settings.clickhouse_database, settings.clickhouse_ttl_days
    rows = client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = {db:String}", parameters={"db": db}
    ).result_rows
    engines = {str(name): str(engine) for name, engine in rows}
    for table in TABLES.values():
        name = table.target
        has_ttl = " TTL " in engines[name]
        if days is not None and f"toIntervalDay({days})" not in engines[name]:
            client.command(f"ALTER TABLE {db}.{name} MODIFY TTL toDateTime({table.time}) + toIntervalDay({days})")
        elif days is None and has_ttl:
            client.command(f"ALTER TABLE {db}.{name} REMOVE TTL")
