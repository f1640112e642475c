"""Rows that kernels write for the shell to publish: fills, alerts, portfolio updates, outcomes, postings.

Structured arrays, one row an output. A decimal `x` is two fields, `x_lo` (uint64) and `x_hi` (int64): int128 at
scale 18, the low limb first, so `decimal_column` hands it to Arrow as it lies. `portfolio`, `position`, `wallet`,
`balance` are row numbers in the partition's state; `symbol`, `asset` are ids of its `strings`.
`cause_*` name the input record: an index into INPUTS, its partition and offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np

#: input topics in the order of `cause_topic`
INPUTS = ("trades", "transactions", "risk_limits", "prices")
#: how many inputs an account partition has, `transfers` and `clock` among them
ACCOUNT_INPUTS = 5


def decimal(name: str) -> list[tuple[str, str]]:
    """The two fields of a decimal."""
    return [(f"{name}_lo", "<u8"), (f"{name}_hi", "<i8")]


#: a time that is null
NO_TIME = np.iinfo(np.int64).min

CAUSE = [("cause_topic", "u1"), ("cause_partition", "<i4"), ("cause_offset", "<i8")]


def _dtype(*fields: Any) -> np.dtype:
    flat = [f for field in fields for f in (field if isinstance(field, list) else [field])]
    return np.dtype(flat, align=True)


class AlertType(IntEnum):
    """`type` of an alert; also the order in which alerts of one message come."""

    POSITION_LIMIT = 0
    EXPOSURE_LIMIT = 1
    LOSS_LIMIT = 2


class Subject(IntEnum):
    """What an alert is about; SYMBOL means the row's `symbol`."""

    SYMBOL = 0
    PORTFOLIO = 1  # written "-"
    TOTAL = 2
    DAILY = 3
    WEEKLY = 4


class Level(IntEnum):
    """Level of one rule on one subject; as `severity` of an alert OK is written INFO."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


#: a fill as it was applied; `message` is its index in the batch, the rest is the position after it
FILL = _dtype(
    ("message", "<i4"),
    ("portfolio", "<i4"),
    ("position", "<i4"),
    ("has_average_price", "u1"),
    decimal("notional"),
    decimal("fill_realized_pnl"),
    decimal("position_quantity"),
    decimal("position_cost_basis"),
    decimal("position_average_price"),
    decimal("position_realized_pnl"),
    decimal("position_fees"),
)

#: one change of level; `number` counts the changes of its subject from 1; `line` is 90 or 100
ALERT = _dtype(
    ("portfolio", "<i4"),
    ("symbol", "<i4"),  # -1 when the subject is no symbol
    ("type", "u1"),
    ("subject", "u1"),
    ("severity", "u1"),
    ("is_resolved", "u1"),
    ("line", "u1"),
    ("has_limit", "u1"),
    ("number", "<i8"),
    decimal("value"),
    decimal("limit"),
    ("created_at", "<i8"),
    CAUSE,
)

#: a portfolio's valuation; its unpriced symbols are `unpriced_n` ids from `unpriced_at` in a separate int32 array
UPDATE = _dtype(
    ("portfolio", "<i4"),
    ("sequence", "<i8"),
    decimal("market_value"),
    decimal("cost_basis"),
    decimal("realized_pnl"),
    decimal("unrealized_pnl"),
    decimal("fees"),
    decimal("total_pnl"),
    decimal("daily_pnl"),
    decimal("gross_exposure"),
    ("open_positions", "<i4"),
    ("unpriced_at", "<i4"),
    ("unpriced_n", "<i4"),
    ("as_of", "<i8"),
    CAUSE,
)


class Code(IntEnum):
    """Why an outcome is FAILED, of EXPIRED CANCELLED; NONE is written null."""

    NONE = 0
    INSUFFICIENT_FUNDS = 1
    WALLET_CLOSED = 2
    UNKNOWN_REFERENCE = 3
    ALREADY_REVERSED = 4
    EXPIRED = 5
    NOT_ALLOWED = 6
    NO_RATE = 7


class Account(IntEnum):
    """The kind of account a posting goes to: WALLET is that of the row's `balance`, EXTERNAL that of its `method`."""

    WALLET = 0
    EXTERNAL = 1
    FEES = 2
    EXCHANGE = 3
    INCOME = 4
    ADJUSTMENTS = 5
    TRANSIT = 6
    VIRTUAL = 7  # the other side of all that moves in VIRTUAL wallets
    SETTLEMENT = 8  # of trades, with the broker's name


#: `sequence` counts what is told of a balance, from 1
_BALANCE = [*decimal("total"), *decimal("available"), *decimal("locked"), ("sequence", "<i8")]

#: what became of wallet event `message` of the batch: a TransactionStatus, with a code if it is refused or expired;
#: its own balance after it; of a conversion that was done its rate (0: of anything else) with the spread that was taken
#: off, and the time of the oldest mark it came from (NO_TIME: of none)
OUTCOME = _dtype(
    ("message", "<i4"),
    ("balance", "<i4"),
    ("status", "u1"),
    ("code", "u1"),
    ("tells", "u1"),  # the WalletType, + 1, and `resets` of its wallet; 0: nothing of it
    ("resets", "<i4"),
    ("journal", "<i8"),  # its number in the partition's journal
    _BALANCE,
    decimal("rate"),
    decimal("spread_bps"),
    ("rate_as_of", "<i8"),
)

#: one leg of an outcome's double entry, `entry` counts from 0 within it; amounts per outcome and asset sum to zero
POSTING = _dtype(
    ("message", "<i4"),
    ("entry", "<i4"),
    ("balance", "<i4"),  # its asset is the leg's; of a WALLET it is the account
    ("method", "<i4"),  # of an EXTERNAL account, −1: unspecified
    ("account", "u1"),
    decimal("amount"),
)

#: a balance beside its own as wallet event `message` left it
CHANGE = _dtype(("message", "<i4"), ("balance", "<i4"), _BALANCE)


#: a settlement event that trade `message` caused: a SettlementStatus, when it settles, µs, and how many bytes of the
#: symbol name the asset that it is in
SETTLEMENT_TOLD = _dtype(
    ("message", "<i4"),
    ("asset_size", "<i4"),
    ("settles_at", "<i8"),
    ("journal", "<i8"),
    ("status", "u1"),
    ("is_virtual", "u1"),  # whether its wallet is
)

#: what message `message` has to be told to a user of another partition, or of this one: a Step; with a Code when it is
#: DENY; `user` and `wallet` are numbers of strings
SENT = _dtype(
    ("message", "<i4"),
    ("user", "<i4"),
    ("wallet", "<i4"),
    ("step", "u1"),
    ("code", "u1"),
    decimal("amount"),
    decimal("refund"),
)


#: what tick `tick` of a batch settled: a row of `settlements`, which is free by now, and of `agenda`
TICK_SETTLED = _dtype(("tick", "<i4"), ("row", "<i4"), ("item", "<i4"), ("journal", "<i8"))

#: what tick `tick` of a batch made happen, beside its OUTCOME: when it was due, the id (eight words, zero behind it), a
#: TransactionType, amount and fee of what it was about
HAPPENED = _dtype(
    ("tick", "<i4"),
    ("type", "u1"),
    ("at", "<i8"),
    decimal("amount"),
    decimal("fee"),
    ("text", "<u8", (8,)),
)


def decimal_column(rows: np.ndarray, name: str) -> np.ndarray:
    """The decimal `name` of `rows` as contiguous uint64[n, 2] limbs, low limb first: Arrow's decimal128 bytes."""
    out = np.empty((len(rows), 2), np.uint64)
    out[:, 0] = rows[f"{name}_lo"]
    out[:, 1] = rows[f"{name}_hi"].view(np.uint64)
    return out


def concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of one dtype after another; always a copy. (np.concatenate would compare their fields one by one.)"""
    dtype = parts[0].dtype
    return np.concatenate([part.view(f"V{dtype.itemsize}") for part in parts]).view(dtype)
