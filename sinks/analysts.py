"""What analysts are given beside the stream tables of `migrations.py`, which lists it: views, and gains lot by lot.

A sum of `Decimal(38, 18)` is one too in ClickHouse, and wraps silently from 1.7·10^20 on: what adds up over users, or
over some of a user's events, is added as Decimal256.
"""

#: Those of wallets are many: one line for all, and one for those that are VIRTUAL, which have been so from the first.
TRIAL_BALANCE = """
CREATE OR REPLACE VIEW {db}.trial_balance AS
SELECT asset, account, count() AS postings, sum(CAST(amount AS Decimal256(18))) AS total
FROM
(
    SELECT
        asset,
        multiIf(
            NOT startsWith(account, 'wallet:'), account,
            account IN
            (
                SELECT concat('wallet:', user_id, '/', wallet_id) FROM {db}.transactions
                WHERE type = 'OPEN' AND status = 'COMPLETED' AND wallet_type = 'VIRTUAL'
            ), 'virtual wallets',
            'wallets'
        ) AS account,
        amount
    FROM {db}.ledger_entries
)
GROUP BY asset, account
"""

#: In the order in which they were booked, each row of a balance says what there was after it; so what it changed is the
#: difference to the one before. A filter by user reaches the tables: it is part of what the windows are divided by.
BALANCE_MOVEMENTS = """
CREATE OR REPLACE VIEW {db}.balance_movements AS
SELECT
    user_id, wallet_id, asset, transaction_id,
    total - lagInFrame(total) OVER booked AS total_change,
    available - lagInFrame(available) OVER booked AS available_change,
    locked - lagInFrame(locked) OVER booked AS locked_change,
    sequence, occurred_at, source_topic, source_partition, source_offset
FROM {db}.balance_history
WINDOW booked AS (
    PARTITION BY user_id, wallet_id, asset ORDER BY sequence, source_partition, source_offset
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
"""

#: One row alone can't tell a time's balance, since events may come late: it is the sum of what had occurred by then.
BALANCES_AT = """
CREATE OR REPLACE VIEW {db}.balances_at AS
SELECT
    user_id, wallet_id, asset,
    sum(CAST(total_change AS Decimal256(18))) AS total,
    sum(CAST(available_change AS Decimal256(18))) AS available,
    sum(CAST(locked_change AS Decimal256(18))) AS locked,
    max(occurred_at) AS last_transaction_at
FROM {db}.balance_movements
WHERE occurred_at <= {{at:DateTime64(6, 'UTC')}}
GROUP BY user_id, wallet_id, asset
"""

#: What doesn't depend on the order of the fills: how net_cost divides into cost basis and realised P&L does.
POSITIONS_AT = """
CREATE OR REPLACE VIEW {db}.positions_at AS
SELECT
    user_id, portfolio_id, symbol, currency, sum(bought) AS quantity, sum(paid) AS net_cost, sum(charged) AS fees,
    max(executed_at) AS last_trade_at
FROM
(
    SELECT
        user_id, portfolio_id, symbol, currency, executed_at,
        CAST(if(side = 'BUY', quantity, -quantity) AS Decimal256(18)) AS bought,
        CAST(if(side = 'BUY', notional, -notional) AS Decimal256(18)) AS paid,
        CAST(fee AS Decimal256(18)) AS charged
    FROM {db}.fills
    WHERE executed_at <= {{at:DateTime64(6, 'UTC')}}
)
GROUP BY user_id, portfolio_id, symbol, currency
"""

#: What `assetstream gains --write` puts here. The n-th gain of a position by a method never changes, since fills are
#: only ever added: written again, a row replaces its equal. No stream fills it, so it isn't a table of `schema.py`.
LOT_GAINS_WRITTEN = """
CREATE TABLE IF NOT EXISTS {db}.lot_gains_written
(
    user_id String,
    method LowCardinality(String),
    portfolio_id String,
    symbol LowCardinality(String),
    currency LowCardinality(String),
    entry UInt64,
    side LowCardinality(String),
    quantity Decimal(38, 18),
    opened_by Nullable(String),
    opened_at Nullable(DateTime64(6, 'UTC')),
    closed_by String,
    closed_at DateTime64(6, 'UTC'),
    holding_days Nullable(Int32),
    proceeds Decimal(38, 18),
    cost Decimal(38, 18),
    gain Decimal(38, 18)
)
ENGINE = ReplacingMergeTree ORDER BY (user_id, method, portfolio_id, symbol, entry)
"""

LOT_GAINS = """
CREATE OR REPLACE VIEW {db}.lot_gains AS
SELECT
    user_id, method, portfolio_id, symbol, currency, entry, side, quantity, opened_by, opened_at, closed_by, closed_at,
    holding_days, proceeds, cost, gain
FROM {db}.lot_gains_written FINAL
"""

ALL = (TRIAL_BALANCE, BALANCE_MOVEMENTS, BALANCES_AT, POSITIONS_AT, LOT_GAINS_WRITTEN, LOT_GAINS)
