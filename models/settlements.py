"""What a trade does to its wallet, and when it settles (interface, section 5; docs/readings.md, "Settlement").

At the trade the fee leaves, and what is given: the cash of a BUY, the asset of a SELL. What comes for it comes locked,
and is unlocked on the settlement date. A trade is a fact: it is never refused for want of funds, so that what is
available may become negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assetstream.models.agenda import put_down
from assetstream.models.int128 import at, get, in_range, inline, kernel, put
from assetstream.models.interning import find_pair, find_string, pair
from assetstream.models.messages import SettlementStatus, Side
from assetstream.models.rows import SETTLES, append, touch
from assetstream.models.state import JOURNAL_HEAD
from assetstream.models.wallets import (
    Ledger,
    Written,
    holds,
    is_virtual,
    keep_text,
    next_entry,
    open_wallet,
    reopen_wallet,
    set_balance,
    tell_change,
    wallet_of,
)

_PENDING, _SETTLED, _FAILED = (np.uint8(SettlementStatus[name].code) for name in ("PENDING", "SETTLED", "FAILED"))
_BUY = np.uint8(Side.BUY.code)
_SLASH = np.uint8(ord("/"))
#: places of a trade's texts in its batch
_TRADE_ID, _SYMBOL, _CURRENCY, _BROKER = 0, 4, 5, 7


class Settling(NamedTuple):
    """What the trades of a batch move, and where that is written.

    settles_at  int64[n], µs: when each settles; not after `executed_at`: at once
    told        SETTLEMENT_TOLD[n]; counts int64[1], how many are written
    """

    ledger: Ledger
    settles_at: np.ndarray
    written: Written
    told: np.ndarray
    counts: np.ndarray


class Exchange(NamedTuple):
    """The two balances of a trade as they are after it; `good`: all of it is in range."""

    cash: int
    cash_locked: int
    asset: int
    asset_locked: int
    good: bool


@inline
def asset_size(batch, m):  # type: ignore[no-untyped-def]
    """How many bytes of a trade's symbol name the asset that it is in: of a pair A/B traded in B those of A, else all.

    Reading: a pair has exactly one slash, with something on both sides.
    """
    start, size = batch.text_at[_SYMBOL, m], np.int64(batch.text_len[_SYMBOL, m])
    currency, length = batch.text_at[_CURRENCY, m], np.int64(batch.text_len[_CURRENCY, m])
    base = size - length - 1
    if base < 1 or batch.data[start + base] != _SLASH:
        return size
    for k in range(length):
        if batch.data[start + base + 1 + k] != batch.data[currency + k] or batch.data[currency + k] == _SLASH:
            return size
    for k in range(base):
        if batch.data[start + k] == _SLASH:
            return size
    return base


@inline
def is_same(batch, m, size):  # type: ignore[no-untyped-def]
    """Whether a trade's asset, the first `size` bytes of its symbol, is its currency."""
    if size != np.int64(batch.text_len[_CURRENCY, m]):
        return False
    for k in range(size):
        if batch.data[batch.text_at[_SYMBOL, m] + k] != batch.data[batch.text_at[_CURRENCY, m] + k]:
            return False
    return True


@inline
def find_asset(strings, batch, m, size, symbol):  # type: ignore[no-untyped-def]
    """The number of a trade's asset, the first `size` bytes of its symbol; −1: not known."""
    if size == np.int64(batch.text_len[_SYMBOL, m]):
        return symbol
    number, _ = find_string(
        strings.table.rows, strings.lengths, strings.index, batch.data, batch.text_at[_SYMBOL, m], size
    )
    return number


@inline
def find_holding(ledger, wallet, asset):  # type: ignore[no-untyped-def]
    """A wallet row's balance of an asset; −1: none, or one of them is not known."""
    balance = np.int64(-1)
    if wallet >= 0 and asset >= 0:
        balance, _ = find_pair(ledger.balance_index, pair(wallet, asset))
    return balance


@inline
def _fits(available, locked):  # type: ignore[no-untyped-def]
    # (a sum of two amounts in range wraps to one that isn't)
    return in_range(available) and in_range(locked) and in_range(available + locked)


@kernel
def exchange(ledger, cash, asset, same, sells, quantity, notional, fee, waits):  # type: ignore[no-untyped-def]
    """What balance rows `cash` and `asset` (−1: not opened yet) hold after a trade, an Exchange."""
    available, locked = holds(ledger, cash)
    good = in_range(notional - fee if sells else notional + fee)
    if sells and waits:
        available, locked = available - fee, locked + notional
    else:
        available = available + (notional - fee if sells else -(notional + fee))
    good = good and _fits(available, locked)
    if same:
        there, there_locked = available, locked
    else:
        there, there_locked = holds(ledger, asset)
    if sells:
        there = there - quantity
    elif waits:
        there_locked = there_locked + quantity
    else:
        there = there + quantity
    return Exchange(available, locked, there, there_locked, good and _fits(there, there_locked))


@kernel
def _open(settling, batch, m, cash, asset, portfolio, symbol, notional):  # type: ignore[no-untyped-def]
    """Put down what trade m brought, and that it is unlocked when it settles."""
    ledger = settling.ledger
    table, head = ledger.settlements, ledger.events.heads.rows[JOURNAL_HEAD]
    if head.free > 0:
        i = head.free - 1
        head.free = np.int64(table.rows[i].next)
        touch(ledger.events.heads, JOURNAL_HEAD)
        touch(table, i)
    else:
        i = append(table)
    row = table.rows[i]
    row.portfolio, row.symbol = np.uint32(portfolio), np.uint32(symbol)
    row.cash, row.asset = np.uint32(cash), np.uint32(asset)
    row.broker, row.side = np.int32(keep_text(ledger, batch, _BROKER, m)), batch.side[m]
    row.is_open, row.next = np.uint8(1), np.uint32(0)
    put(row, "quantity", at(batch.quantity, m))
    put(row, "amount", notional)
    put(row, "fee", at(batch.fee, m))
    where, size = batch.text_at[_TRADE_ID, m], np.int64(batch.text_len[_TRADE_ID, m])
    put_down(ledger.agenda, np.uint8(SETTLES), settling.settles_at[m], i, batch.data, where, size)


@kernel
def settle(ledger, i, event, written):  # type: ignore[no-untyped-def]
    """What settlement row i locked is available; the row is free. `event` is the message that the change is told of."""
    table, head = ledger.settlements, ledger.events.heads.rows[JOURNAL_HEAD]
    row = table.rows[i]
    balance, amount = np.int64(row.cash), get(row, "amount")
    if row.side == _BUY:
        balance, amount = np.int64(row.asset), get(row, "quantity")
    available, locked = holds(ledger, balance)
    set_balance(ledger, balance, available + amount, locked - amount)
    tell_change(ledger, written, event, balance)
    row.is_open, row.next = np.uint8(0), np.uint32(head.free)
    head.free = i + 1
    touch(table, i)
    touch(ledger.events.heads, JOURNAL_HEAD)


@kernel
def book_trade(settling, batch, m, cash, asset, after, portfolio, symbol, notional, size, waits):  # type: ignore[no-untyped-def]
    """Write what accepted trade m moved: both balances, what is told of them, and what settles later.

    What would bring a balance out of range moves nothing: the trade is a fact, its settlement has failed.
    """
    ledger, written = settling.ledger, settling.written
    told = settling.told[settling.counts[0]]
    settling.counts[0] += 1
    told.message, told.asset_size, told.journal = np.int32(m), np.int32(size), next_entry(ledger)
    told.status, told.settles_at = _SETTLED, batch.executed_at[m]
    if not after.good:
        told.status = _FAILED
        return
    if cash != asset:
        set_balance(ledger, cash, after.cash, after.cash_locked)
        tell_change(ledger, written, m, cash)
    set_balance(ledger, asset, after.asset, after.asset_locked)
    tell_change(ledger, written, m, asset)
    wallet = wallet_of(ledger, cash)
    open_wallet(ledger, wallet)
    reopen_wallet(ledger, wallet)  # a trade is a fact in a closed one, too
    told.is_virtual = np.uint8(is_virtual(ledger, wallet))
    if waits:
        _open(settling, batch, m, cash, asset, portfolio, symbol, notional)
        told.status, told.settles_at = _PENDING, settling.settles_at[m]
