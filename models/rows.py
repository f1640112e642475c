"""Rows of the partition state, and the tables they live in.

Everything in these rows is persisted, so every byte of them is determined: there is no padding that numpy could leave
as it was. A decimal `x` is two fields, `x_lo` and `x_hi`. Fields that name a row of another table hold its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from assetstream.models.int128 import inline
from assetstream.models.outputs import decimal

#: flags of a position
TRADED, HAS_ASSET_LIMIT = 1, 2
#: places of the limits that rules look at, among those of a limits message
MAX_POSITION_SIZE, MAX_PORTFOLIO_VALUE, MAX_DAILY_LOSS, MAX_WEEKLY_LOSS, MAX_TOTAL_LOSS = 0, 2, 3, 4, 5
LIMITS = 10
#: a portfolio's rules, as its `levels` and `changes` have them
EXPOSURE, TOTAL_LOSS, DAILY_LOSS, WEEKLY_LOSS = 0, 1, 2, 3
#: the version of a portfolio that has no limits yet
NO_VERSION = -(2**63)


def _row(*fields: Any) -> np.dtype:
    """A row without gaps; its size is a multiple of 8 so that decimals stay aligned."""
    flat = [f for field in fields for f in (field if isinstance(field, list) else [field])]
    dtype = np.dtype(flat)
    if dtype.itemsize % 8:
        dtype = np.dtype([*flat, ("_", "u1", (-dtype.itemsize % 8,))])
    return dtype


#: an id, symbol or asset: its bytes in eight words, zero behind them
STRING = _row(("text", "<u8", (8,)))

PORTFOLIO = _row(
    decimal("day_baseline"),
    decimal("week_baseline"),
    ("version", "<i8"),  # of its limits
    ("as_of", "<i8"),  # the latest fill, limit change or mark in it, when the row was last written
    ("sequence", "<i8"),  # of the last published update
    ("seen", "<i8"),  # how many marks the partition had taken when the row was last written
    ("cause_offset", "<i8"),
    ("cause_partition", "<i4"),
    ("user", "<u4"),
    ("portfolio", "<u4"),
    ("day", "<i4"),  # since 1970-01-01
    ("week", "<i4"),  # since that of 1969-12-29
    ("changes", "<u4", (4,)),  # of level, per rule
    ("levels", "u1", (4,)),
    ("has_limit", "<u2"),  # bit k: limit k
    ("active", "u1"),
    ("due", "u1"),  # a mark's change was not published yet when the row was last written
    ("cause_topic", "u1"),
    ("pad", "u1", (3,)),
    ("limits", "<u8", (LIMITS, 2)),
)

POSITION = _row(
    decimal("quantity"),
    decimal("cost_basis"),
    decimal("realized_pnl"),
    decimal("fees"),
    decimal("last_price"),
    decimal("asset_limit"),
    ("last_trade_at", "<i8"),
    ("portfolio", "<u4"),
    ("symbol", "<u4"),
    ("currency", "<i4"),  # -1: not traded yet
    ("changes", "<u4"),  # of the level
    ("level", "u1"),
    ("flags", "u1"),
    ("pad", "u1", (6,)),
)

#: the mark of a symbol, as this partition took it
MARK = _row(
    decimal("price"),
    ("as_of", "<i8"),
    ("taken", "<i8"),  # its number among the marks this partition took
    ("cause_offset", "<i8"),
    ("cause_partition", "<i4"),
    ("symbol", "<u4"),
    ("currency", "<u4"),
    ("pad", "u1", (4,)),
)

#: a wallet; what it begins with are `grants` rows of the table of this name from `first_grant` on, which has `room` for
#: more of them there
WALLET = _row(
    ("user", "<u4"),
    ("wallet", "<u4"),
    ("currency", "<u4"),
    ("resets", "<u4"),
    ("first_grant", "<u4"),
    ("grants", "<u2"),
    ("room", "<u2"),
    ("type", "u1"),
    ("status", "u1"),
)
#: statuses of a wallet: told of, by an OPEN that isn't COMPLETED, but not opened yet; opened; closed
TOLD_OF, OPENED, CLOSED = 0, 1, 2

#: what a VIRTUAL wallet begins with, and again after a RESET: its capital, then its allocation by asset in byte order
GRANT = _row(decimal("amount"), ("wallet", "<u4"), ("asset", "<u4"))

#: what a wallet holds of an asset; total = available + locked
BALANCE = _row(
    decimal("available"),
    decimal("locked"),
    ("sequence", "<i8"),  # of what was told of it
    ("wallet", "<u4"),
    ("asset", "<u4"),
)

#: where a payment is from or goes to: rows of `words` from `first` on, `size` bytes in all
METHOD = _row(("id_lo", "<u8"), ("id_hi", "<u8"), ("first", "<u4"), ("size", "<u4"))

#: what a trade brought and is still locked: `quantity` of `asset` when it was a BUY, `amount` of `cash` when a SELL
SETTLEMENT = _row(
    decimal("quantity"),
    decimal("amount"),
    decimal("fee"),
    ("portfolio", "<u4"),
    ("symbol", "<u4"),
    ("cash", "<u4"),  # balances
    ("asset", "<u4"),
    ("broker", "<i4"),  # a row of methods, −1: none
    ("next", "<u4"),  # of a free row: the next free one, + 1
    ("side", "u1"),
    ("is_open", "u1"),  # else the row is free
)

#: eight bytes of a text, zero behind its end
WORD = _row(("word", "<u8"))

#: a wallet event, whatever its statuses: all that later ones, and its reversal, are held against
EVENT = _row(
    decimal("amount"),
    decimal("fee"),
    decimal("arrived"),  # of a COMPLETED one, on its other balance
    ("id_lo", "<u8"),  # of (user, transaction id)
    ("id_hi", "<u8"),
    ("terms", "<u8"),
    ("bodies", "<u8", (5,)),  # by status, of those seen
    ("final", "<i8"),  # its number among those that became final
    ("balance", "<u4"),  # of a free row: the next free one, + 1
    ("other", "<i4"),  # the balance that it went to, −1: none
    ("method", "<i4"),  # −1: unspecified
    ("to_user", "<i4"),  # another user that it was transferred to, −1: none
    ("to_wallet", "<i4"),
    ("due", "<i4"),  # its row of `agenda`, −1: none
    ("type", "u1"),
    ("status", "u1"),
    ("seen", "u1"),  # bit k: status k; none: the row is free
    ("flags", "u1"),
)
#: flags of an event: its amount (and fee) is locked; a reversal has undone it; one asks another user whether it may; it
#: is that one, and waits for the answer
LOCKED, REVERSED, CLAIMED, WAITING = 1, 2, 4, 8

#: what happens at a time: a kind of below, about a row of another table
DUE = _row(
    ("text", "<u8", (8,)),  # the id that it is told under: its bytes, zero behind them
    ("at", "<i8"),
    ("number", "<i8"),  # of two that are due at the same time the lower comes first
    ("about", "<u4"),  # a row of `events` (a hold's) or of `settlements`; of a free row the next free one, + 1
    ("kind", "u1"),  # 0: the row is free
    ("pad", "u1", (3,)),
)
#: kinds of what is due: a hold expires; what a trade brought is unlocked
HOLD_EXPIRES, SETTLES = 1, 2

#: a remembered id and 64 bits of the hash of its body
SEEN = _row(("id_lo", "<u8"), ("id_hi", "<u8"), ("body", "<u8"))

#: of trade ids: where the ring is written next; of events: how many became final, and the first free row, + 1; of the
#: agenda: how many were put down, and the first free row, + 1; of the journal: how many entries
#: it has, and the first free row of settlements, + 1
HEAD = _row(("next", "<i8"), ("free", "<i8"))

#: the last offset of an input partition that was applied, -1: none
APPLIED = _row(("offset", "<i8"))

#: the latest accepted price of a symbol
PRICE = _row(
    decimal("price"),
    ("as_of", "<i8"),
    ("body_lo", "<u8"),
    ("body_hi", "<u8"),
    ("offset", "<i8"),
    ("symbol", "<u4"),
    ("currency", "<u4"),
)


class Table(NamedTuple):
    """Rows of one kind with spare capacity, and which of them changed since the last checkpoint.

    rows     structured [capacity]; rows are appended and changed, never moved
    dirty    uint8[capacity], 1: the row is in `touched`
    touched  uint32[capacity], the dirty rows in the order they became so
    count    int64[2], rows in use and dirty rows
    """

    rows: np.ndarray
    dirty: np.ndarray
    touched: np.ndarray
    count: np.ndarray


def new_table(dtype: np.dtype, capacity: int = 0) -> Table:
    """An empty table."""
    count = np.zeros(2, np.int64)
    return Table(np.zeros(capacity, dtype), np.zeros(capacity, np.uint8), np.zeros(capacity, np.uint32), count)


def grow(table: Table, capacity: int) -> Table:
    """The table with room for at least `capacity` rows, at least doubled when it has to grow; `count` is shared."""
    return resize(table, enlarged(len(table.rows), capacity))


def resize(table: Table, capacity: int) -> Table:
    """The table with room for `capacity` rows, or what it has; `count` is shared."""
    return Table(*(longer(column, capacity) for column in table[:3]), table.count)


def enlarged(capacity: int, needed: int) -> int:
    """The capacity that follows `capacity` when `needed` no longer fit."""
    return capacity if needed <= capacity else max(needed, 2 * capacity)


def longer(column: np.ndarray, capacity: int) -> np.ndarray:
    """A copy with zeros up to `capacity`; the column itself when it is long enough."""
    if len(column) >= capacity:
        return column
    out = np.zeros((capacity, *column.shape[1:]), column.dtype)
    out[: len(column)] = column
    return out


def collect_rows(
    dtype: np.dtype, capacity: int, messages: int, walk: Callable[[int, np.ndarray, np.ndarray], None]
) -> np.ndarray:
    """The rows that a kernel writes for a batch of so many `messages`, however many they are.

    `walk(first, rows, counts)` handles messages from `first` while what one message can write surely fits into `rows`
    and sets counts = (next message, rows written). `capacity` has room for at least one message.
    """
    parts, first, counts = [], 0, np.zeros(2, np.int64)
    while first < messages:
        # most of the room is never used: the memory behind it isn't touched
        rows = np.empty(capacity, dtype)
        walk(first, rows, counts)
        first = int(counts[0])
        parts.append(rows[: counts[1]].copy())
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def clear(table: Table) -> None:
    """Forget which rows are dirty."""
    table.dirty[table.touched[: table.count[1]]] = 0
    table.count[1] = 0


@inline
def touch(table, i):  # type: ignore[no-untyped-def]
    """Row i changed."""
    if table.dirty[i] == 0:
        table.dirty[i] = 1
        table.touched[table.count[1]] = np.uint32(i)
        table.count[1] += 1


@inline
def append(table):  # type: ignore[no-untyped-def]
    """The number of a new row, zero and dirty; the capacity is the caller's care."""
    i = table.count[0]
    table.count[0] += 1
    touch(table, i)
    return i
