"""Events of wallets themselves: OPEN, CLOSE, RESET and CONFIGURE, and what a VIRTUAL wallet begins with.

A VIRTUAL wallet begins with grants: its capital in its currency, and the amounts of its allocation. They are posted
against `virtual`, as all that moves in it, and a RESET brings it back to them. Nobody else's money is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assetstream.models.int128 import at, get, in_range, inline, kernel, put, zero
from assetstream.models.interning import find_string, intern
from assetstream.models.messages import TransactionStatus, TransactionType, WalletType
from assetstream.models.outputs import Account, Code
from assetstream.models.rows import CLOSED, OPENED, TOLD_OF, append, touch
from assetstream.models.state import text
from assetstream.models.wallets import (
    announce_change,
    enter_balance,
    enter_wallet,
    find_wallet,
    holds,
    intern_text,
    is_closed,
    is_open,
    is_virtual,
    open_wallet,
    post,
    set_balance,
    tell_changes,
    tell_outcome,
    tell_wallet,
)

if TYPE_CHECKING:
    from assetstream.models.decode import TransactionBatch
    from assetstream.models.wallets import LedgerResult

#: places of an event's texts in the batch; in that of the asset an OPEN has its currency
_WALLET, _ASSET = 2, 3
_OPEN, _CLOSE, _RESET, _CONFIGURE = (
    np.uint8(TransactionType[kind].code) for kind in ("OPEN", "CLOSE", "RESET", "CONFIGURE")
)
_COMPLETED, _FAILED = (np.uint8(TransactionStatus[s].code) for s in ("COMPLETED", "FAILED"))
_VIRTUAL = np.uint8(WalletType.VIRTUAL.code)
_OF_WALLET, _AGAINST_VIRTUAL = np.uint8(Account.WALLET), np.uint8(Account.VIRTUAL)
_NO_CODE, _NOT_ALLOWED = np.uint8(Code.NONE), np.uint8(Code.NOT_ALLOWED)
_WALLET_CLOSED = np.uint8(Code.WALLET_CLOSED)
#: balances that one RESET empties at most: its outcome, two postings for each, has to be a message that Kafka takes
MAX_EMPTIED = 1000
#: the base currency is the first string of every partition
_BASE = 0


@inline
def is_wallet_event(kind):  # type: ignore[no-untyped-def]
    """Whether events of this type are about a wallet itself."""
    return kind >= _OPEN


@kernel
def most_moves(ledger, batch, m):  # type: ignore[no-untyped-def]
    """How many movements of a balance wallet event m can come to at most."""
    wallet = find_wallet(ledger, batch, m, _WALLET)
    moves = batch.grants.start[m + 1] - batch.grants.start[m]
    if wallet >= 0:
        moves += np.int64(ledger.wallets.rows[wallet].grants)
        balance = ledger.last_balance[wallet]
        while balance > 0:
            moves += 1
            balance = ledger.balance_before[balance - 1]
    return moves


# ------------------------------------------------------------------------------------------------------------- judging


@kernel
def _held(ledger, wallet):  # type: ignore[no-untyped-def]
    """(how many balances of a wallet, −1: one that isn't known, aren't 0; whether anything is locked in one)."""
    n, locks = 0, False
    balance = np.int64(ledger.last_balance[wallet]) if wallet >= 0 else np.int64(0)
    while balance > 0:
        available, locked = holds(ledger, balance - 1)
        n += available != zero() or locked != zero()
        locks = locks or locked != zero()
        balance = np.int64(ledger.balance_before[balance - 1])
    return n, locks


@kernel
def wallet_objection(ledger, batch, m):  # type: ignore[no-untyped-def]
    """A Code: why wallet event m can't be done."""
    kind, wallet = batch.type[m], find_wallet(ledger, batch, m, _WALLET)
    completes = batch.status[m] == _COMPLETED
    has_grants = batch.grants.start[m + 1] > batch.grants.start[m]
    objected = False
    if kind == _OPEN:
        is_there = wallet >= 0 and ledger.wallets.rows[wallet].status != TOLD_OF
        objected = is_there or (has_grants and batch.wallet_type[m] != _VIRTUAL)
    elif is_closed(ledger, wallet) and (completes or is_open(batch.status[m])):
        return _WALLET_CLOSED
    elif kind == _CLOSE:
        n, _ = _held(ledger, wallet)
        objected = n > 0
    elif kind == _RESET:
        n, locks = _held(ledger, wallet)
        objected = not is_virtual(ledger, wallet) or locks or n > MAX_EMPTIED
    else:
        objected = has_grants and not is_virtual(ledger, wallet)
    return _NOT_ALLOWED if objected and completes else _NO_CODE


@kernel
def grants_fit(ledger, batch, m):  # type: ignore[no-untyped-def]
    """Whether all that wallet event m grants of the wallet's own currency is in range together."""
    grants, own = batch.grants, np.int64(-1)
    if batch.type[m] == _CONFIGURE:
        wallet = find_wallet(ledger, batch, m, _WALLET)
        own = np.int64(ledger.wallets.rows[wallet].currency) if wallet >= 0 else np.int64(-1)
    elif batch.text_len[_ASSET, m] < 0:
        own = np.int64(_BASE)
    total = zero()
    for g in range(grants.start[m], grants.start[m + 1]):
        size = np.int64(grants.text_len[g])
        is_own = size < 0
        if size > 0 and own >= 0:
            strings = ledger.strings
            asset, _ = find_string(
                strings.table.rows, strings.lengths, strings.index, batch.data, grants.text_at[g], size
            )
            is_own = asset == own
        if is_own:
            total = total + at(grants.amount, g)
    return in_range(total)


# --------------------------------------------------------------------------------------------------------------- doing


@kernel
def _keep_grants(ledger, batch, m, wallet):  # type: ignore[no-untyped-def]
    """The grants of message m are those of the wallet from now on; rows that have become too few are given up."""
    grants, row = batch.grants, ledger.wallets.rows[wallet]
    start = grants.start[m]
    n = grants.start[m + 1] - start
    if n > np.int64(row.room):
        row.first_grant, row.room = np.uint32(ledger.grants.count[0]), np.uint16(n)
        for _ in range(n):
            append(ledger.grants)
    row.grants = np.uint16(n)
    touch(ledger.wallets, wallet)
    for k in range(n):
        place, size = np.int64(row.first_grant) + k, np.int64(grants.text_len[start + k])
        kept = ledger.grants.rows[place]
        kept.wallet, kept.asset = np.uint32(wallet), row.currency
        if size > 0:
            kept.asset = np.uint32(intern(ledger.strings, batch.data, grants.text_at[start + k], size))
        put(kept, "amount", at(grants.amount, start + k))
        touch(ledger.grants, place)


@inline
def _move(written, m, entry, balance, amount):  # type: ignore[no-untyped-def]
    entry = post(written, m, entry, _OF_WALLET, balance, -1, amount)
    return post(written, m, entry, _AGAINST_VIRTUAL, balance, -1, -amount)


@kernel
def _empty(ledger, m, wallet, own, entry, written):  # type: ignore[no-untyped-def]
    """All that is in the wallet leaves it. -> the number of the next posting."""
    balance = np.int64(ledger.last_balance[wallet])
    while balance > 0:
        available, _ = holds(ledger, balance - 1)
        if available != zero():
            entry = _move(written, m, entry, balance - 1, -available)
            set_balance(ledger, balance - 1, zero(), zero())
            if balance - 1 != own:
                announce_change(written, m, balance - 1)
        balance = np.int64(ledger.balance_before[balance - 1])
    return entry


@kernel
def _fill(ledger, m, wallet, own, entry, first, written):  # type: ignore[no-untyped-def]
    """Its grants arrive in the wallet; changes from `first` on are announced already."""
    row = ledger.wallets.rows[wallet]
    for g in range(np.int64(row.first_grant), np.int64(row.first_grant) + np.int64(row.grants)):
        amount = get(ledger.grants.rows[g], "amount")
        balance = enter_balance(ledger, wallet, ledger.grants.rows[g].asset)
        available, locked = holds(ledger, balance)
        entry = _move(written, m, entry, balance, amount)
        set_balance(ledger, balance, available + amount, locked)
        known = balance == own
        for k in range(first, written.counts[2]):
            known = known or written.changes[k].balance == balance
        if not known:
            announce_change(written, m, balance)


@kernel
def _currency(ledger, batch, m):  # type: ignore[no-untyped-def]
    """The number of that which an OPEN names, or doesn't."""
    return np.int64(_BASE) if batch.text_len[_ASSET, m] < 0 else intern_text(ledger.strings, batch, _ASSET, m)


@kernel
def _do(ledger, batch, m, wallet, written):  # type: ignore[no-untyped-def]
    """What wallet event m, which is COMPLETED and not refused, does. -> the balance of the wallet's currency."""
    kind, row = batch.type[m], ledger.wallets.rows[wallet]
    touch(ledger.wallets, wallet)
    if kind == _OPEN:
        row.status, row.type = np.uint8(OPENED), batch.wallet_type[m]
        row.currency = np.uint32(_currency(ledger, batch, m))
    if kind in (_OPEN, _CONFIGURE):
        _keep_grants(ledger, batch, m, wallet)
    own = enter_balance(ledger, wallet, row.currency)
    first, entry = written.counts[2], np.int64(0)
    if kind == _CLOSE:
        row.status = np.uint8(CLOSED)
    if kind == _RESET:
        row.resets += np.uint32(1)
        entry = _empty(ledger, m, wallet, own, entry, written)
    if kind in (_OPEN, _RESET):
        _fill(ledger, m, wallet, own, entry, first, written)
        tell_changes(ledger, written, first)
    return own


@kernel
def book_wallet_event(ledger, batch, m, code, written):  # type: ignore[no-untyped-def]
    """Do what wallet event m says, unless it is refused with a `code`, and tell of it. -> (its balance, its status)."""
    kind, status = batch.type[m], batch.status[m]
    wallet = enter_wallet(ledger, batch, m, _WALLET)
    if kind != _OPEN:
        open_wallet(ledger, wallet)
    if status == _COMPLETED and code == _NO_CODE:
        own = _do(ledger, batch, m, wallet, written)
    elif kind == _OPEN and ledger.wallets.rows[wallet].status == TOLD_OF:
        own = enter_balance(ledger, wallet, _currency(ledger, batch, m))
    else:
        own = enter_balance(ledger, wallet, ledger.wallets.rows[wallet].currency)
    result = status if code == _NO_CODE else _FAILED
    tell_outcome(ledger, written, m, own, result, code)
    row = ledger.wallets.rows[wallet]
    tell_wallet(ledger, written, wallet, batch.wallet_type[m] if row.status == TOLD_OF else row.type)
    return own, result


# ------------------------------------------------------------------------------------------------------------- telling


def with_currencies(batch: TransactionBatch, result: LedgerResult) -> TransactionBatch:
    """The batch, each wallet event that was booked with its wallet's currency as its asset: that of its balance."""
    message = result.outcomes["message"]
    told = result.outcomes[batch.type[message] >= _OPEN]
    if not len(told):
        return batch
    assets = result.state.balances.rows["asset"][told["balance"]].tolist()
    names = [text(result.state, number).encode() for number in assets]
    text_at, text_len = batch.text_at.copy(), batch.text_len.copy()
    sizes = [len(name) for name in names]
    text_at[_ASSET, told["message"]] = len(batch.data) + np.cumsum([0, *sizes[:-1]])
    text_len[_ASSET, told["message"]] = sizes
    data = np.concatenate((batch.data, np.frombuffer(b"".join(names), np.uint8)))
    return batch._replace(data=data, text_at=text_at, text_len=text_len)
