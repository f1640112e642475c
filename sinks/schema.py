"""What lies in ClickHouse: every table's columns, once, in order, with their ClickHouse and Arrow types.

`migrations.py` holds the SQL that makes them (a test compares the two); `batches.py` fills the Arrow side. Columns are
the message's own first, under the message's own names; then what interface.md section 6 adds; then the cause of the
row: `source_topic, source_partition, source_offset`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

DECIMAL = "Decimal(38, 18)"
#: what decimals add up to
SUM = "Decimal(76, 18)"
TIME = "DateTime64(6, 'UTC')"
WORD = "LowCardinality(String)"

_ARROW: dict[str, pa.DataType] = {
    "String": pa.utf8(),
    WORD: pa.utf8(),
    DECIMAL: pa.decimal128(38, 18),
    SUM: pa.decimal256(76, 18),
    TIME: pa.timestamp("us", "UTC"),
    "Bool": pa.bool_(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Array(String)": pa.list_(pa.utf8()),
}

SOURCE = {"source_topic": WORD, "source_partition": "Int32", "source_offset": "Int64"}


def nullable(kind: str) -> str:
    """The ClickHouse type that also takes null; LowCardinality has to be outermost."""
    return "LowCardinality(Nullable(String))" if kind == WORD else f"Nullable({kind})"


_NULLABLE = {nullable(kind): arrow for kind, arrow in _ARROW.items()}


@dataclass(frozen=True)
class Table:
    """One table: ClickHouse type by column, in order; `time` is the column that a TTL counts from.

    stored   what lies in ClickHouse under another name: under this one a view adds what follows from other rows
    derived  columns that ClickHouse makes of the others
    """

    name: str
    columns: dict[str, str]
    time: str
    stored: str = ""
    derived: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """Where its rows are inserted."""
        return self.stored or self.name

    @property
    def arrow(self) -> pa.Schema:
        """The schema of its record batches."""
        types = {**_ARROW, **_NULLABLE}
        columns = ((name, kind) for name, kind in self.columns.items() if name not in self.derived)
        return pa.schema([pa.field(name, types[kind], kind in _NULLABLE) for name, kind in columns])


_TABLES = (
    Table(
        "fills",
        {
            "trade_id": "String",
            "user_id": "String",
            "portfolio_id": "String",
            "wallet_id": "String",
            "symbol": WORD,
            "currency": WORD,
            "side": WORD,
            "quantity": DECIMAL,
            "price": DECIMAL,
            "fee": DECIMAL,
            "executed_at": TIME,
            "order_id": nullable("String"),
            "broker": nullable(WORD),
            "asset_type": nullable(WORD),
            "notional": DECIMAL,
            "fill_realized_pnl": DECIMAL,
            "position_quantity": DECIMAL,
            "position_cost_basis": DECIMAL,
            "position_average_price": nullable(DECIMAL),
            "position_realized_pnl": DECIMAL,
            "position_fees": DECIMAL,
            **SOURCE,
        },
        time="executed_at",
    ),
    Table(
        "prices",
        {
            "symbol": WORD,
            "price": DECIMAL,
            "currency": WORD,
            "as_of": TIME,
            "bid": nullable(DECIMAL),
            "ask": nullable(DECIMAL),
            "source": nullable(WORD),
            **SOURCE,
        },
        time="as_of",
    ),
    Table(
        "portfolio_updates",
        {
            "user_id": "String",
            "portfolio_id": "String",
            "base_currency": WORD,
            "market_value": DECIMAL,
            "cost_basis": DECIMAL,
            "realized_pnl": DECIMAL,
            "unrealized_pnl": DECIMAL,
            "fees": DECIMAL,
            "total_pnl": DECIMAL,
            "daily_pnl": DECIMAL,
            "gross_exposure": DECIMAL,
            "open_positions": "Int32",
            "complete": "Bool",
            "unpriced": "Array(String)",
            "as_of": TIME,
            "sequence": "Int64",
            **SOURCE,
        },
        time="as_of",
    ),
    Table(
        "risk_alerts",
        {
            "alert_id": "String",
            "user_id": "String",
            "portfolio_id": "String",
            "type": WORD,
            "severity": WORD,
            "symbol": nullable(WORD),
            "message": "String",
            "current_value": DECIMAL,
            "limit_value": nullable(DECIMAL),
            "threshold_percent": DECIMAL,
            "is_resolved": "Bool",
            "action": WORD,
            "created_at": TIME,
            **SOURCE,
        },
        time="created_at",
    ),
    Table(
        "transactions",
        {
            "transaction_id": "String",
            "user_id": "String",
            "wallet_id": "String",
            "external_id": nullable("String"),
            "payment_method": nullable(WORD),
            "type": WORD,
            "asset": WORD,
            "amount": DECIMAL,
            "fee": DECIMAL,
            "status": WORD,
            "code": nullable(WORD),
            "balance_total": DECIMAL,
            "balance_available": DECIMAL,
            "balance_locked": DECIMAL,
            "balance_sequence": "Int64",
            "rate": nullable(DECIMAL),
            "rate_as_of": nullable(TIME),
            "spread_bps": nullable(DECIMAL),
            "occurred_at": TIME,
            "wallet_type": nullable(WORD),
            "resets": nullable("Int32"),
            **SOURCE,
        },
        time="occurred_at",
    ),
    Table(
        "ledger_entries",
        {
            "user_id": "String",
            "transaction_id": "String",
            "account": "String",
            "asset": WORD,
            "amount": DECIMAL,
            "entry": "Int32",
            "occurred_at": TIME,
            **SOURCE,
        },
        time="occurred_at",
        stored="wallet_entries",
    ),
    Table(
        "balance_changes",
        {
            "user_id": "String",
            "wallet_id": "String",
            "asset": WORD,
            "transaction_id": "String",
            "total": DECIMAL,
            "available": DECIMAL,
            "locked": DECIMAL,
            "sequence": "Int64",
            "occurred_at": TIME,
            **SOURCE,
        },
        time="occurred_at",
        stored="wallet_changes",
    ),
    Table(
        "settlements",
        {
            "settlement_id": "String",
            "user_id": "String",
            "portfolio_id": "String",
            "wallet_id": "String",
            "trade_id": "String",
            "status": WORD,
            "currency": WORD,
            "amount": DECIMAL,
            "broker": nullable(WORD),
            "symbol": WORD,
            "side": WORD,
            "asset": WORD,
            "quantity": DECIMAL,
            "fee": DECIMAL,
            "settles_at": TIME,
            "is_booked": "Bool",
            "is_virtual": "Bool",
            "cash_available": nullable(DECIMAL),
            "cash_locked": nullable(DECIMAL),
            "cash_sequence": nullable("Int64"),
            "asset_available": nullable(DECIMAL),
            "asset_locked": nullable(DECIMAL),
            "asset_sequence": nullable("Int64"),
            "occurred_at": TIME,
            **SOURCE,
        },
        time="occurred_at",
        derived=("settlement_id",),
    ),
    Table(
        "dead_letters",
        {
            "dead_letter_id": "String",
            "topic": WORD,
            "partition": "Int32",
            "offset": "Int64",
            "key": nullable("String"),
            "value": nullable("String"),
            "reason": WORD,
            "detail": "String",
            "rejected_at": TIME,
            **SOURCE,
        },
        time="rejected_at",
    ),
    Table(
        "broker_statements",
        {
            "statement_id": "String",
            "version": "Int64",
            "broker": "String",
            "user_id": "String",
            "portfolio_id": nullable("String"),
            "period_start": TIME,
            "period_end": TIME,
            "trades": nullable("Int32"),
            "positions": nullable("Int32"),
            "balances": nullable("Int32"),
            "breaks": "Int32",
            "digest": "String",
            "judged_at": TIME,
            **SOURCE,
        },
        time="judged_at",
    ),
    Table(
        "reconciliation_breaks",
        {
            "break_id": "String",
            "sequence": "Int64",
            "type": WORD,
            "status": WORD,
            "broker": nullable("String"),
            "user_id": "String",
            "portfolio_id": nullable("String"),
            "subject": "String",
            "statement_value": nullable(SUM),
            "our_value": nullable(SUM),
            "difference": SUM,
            "statement_trade": nullable("String"),
            "our_trade": nullable("String"),
            "about": TIME,
            "statement_id": nullable("String"),
            "statement_version": nullable("Int64"),
            "opened_at": TIME,
            "changed_at": TIME,
            "decided_by": "String",
            "reason": nullable("String"),
            **SOURCE,
        },
        time="changed_at",
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
VIEWS = (
    "positions",
    "portfolios",
    "balances",
    "balance_history",
    "wallets",
    "open_alerts",
    "breaks",
    "trial_balance",
    "balance_movements",
    "lot_gains",
)
#: views that are asked with a time: `balances_at(at = '2026-03-02 09:00:00')`
VIEWS_AT = ("balances_at", "positions_at")
