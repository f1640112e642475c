"""Wallets: what events do to balances, by postings that sum to zero (interface, section 5; docs/readings.md).

A *transaction* is all events of one (user_id, transaction_id). It is open while it is PENDING or PROCESSING, and final
after that. Its row in `events` has what later statuses, and a reversal, are held against. The last ID_MEMORY final ones
are remembered, and every open one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import (
    add,
    at,
    get,
    in_range,
    inline,
    is_negative,
    kernel,
    magnitude,
    multiply,
    put,
    zero,
)
from assetstream.models.interning import (
    Events,
    became_final,
    find_id,
    find_pair,
    find_string,
    intern,
    new_event,
    pair,
    put_id,
    put_pair,
    word_at,
)
from assetstream.models.messages import TransactionStatus, TransactionType
from assetstream.models.outputs import CHANGE, OUTCOME, POSTING, Account, Code
from assetstream.models.rows import LOCKED, REVERSED, Table, append, touch
from assetstream.models.state import events_of, reserve, strings_of
from assetstream.models.verdicts import Verdict

if TYPE_CHECKING:
    from assetstream.models.decode import TransactionBatch
    from assetstream.models.interning import Strings
    from assetstream.models.state import AccountState

#: places of an event's texts in the batch
_USER, _WALLET, _ASSET, _METHOD, _TO_ASSET, _OTHER_WALLET = 1, 2, 3, 5, 8, 11
_DEPOSIT, _WITHDRAWAL, _TRANSFER, _CONVERSION, _FEE, _DIVIDEND, _INTEREST, _ADJUSTMENT, _REVERSAL, _HOLD = (
    np.uint8(kind.code) for kind in TransactionType
)
_PENDING, _PROCESSING, _COMPLETED, _FAILED, _CANCELLED = (np.uint8(status.code) for status in TransactionStatus)
_OF_WALLET, _EXTERNAL, _FEES, _EXCHANGE, _INCOME, _ADJUSTMENTS = (np.uint8(account) for account in Account)
_NO_CODE, _INSUFFICIENT = np.uint8(Code.NONE), np.uint8(Code.INSUFFICIENT_FUNDS)
_UNKNOWN, _ALREADY = np.uint8(Code.UNKNOWN_REFERENCE), np.uint8(Code.ALREADY_REVERSED)
_NOT_ALLOWED = np.uint8(Code.NOT_ALLOWED)
#: legs of one outcome at most
_LEGS = 5

_APPLIED, _DUPLICATE = np.uint8(Verdict.APPLIED), np.uint8(Verdict.DUPLICATE)
_MALFORMED, _OUT_OF_RANGE = np.uint8(Verdict.MALFORMED), np.uint8(Verdict.OUT_OF_RANGE)
_KEY_MISMATCH, _CONFLICT = np.uint8(Verdict.KEY_MISMATCH), np.uint8(Verdict.CONFLICT)
_ILLEGAL = np.uint8(Verdict.ILLEGAL_TRANSITION)


class LedgerResult(NamedTuple):
    """What became of a batch of wallet events.

    verdict   uint8[n], Verdict of each message; a refusal for want of funds is APPLIED
    outcomes  OUTCOME rows of the applied ones, in order
    postings  POSTING rows, those of an outcome together, in order
    changes   CHANGE rows: the other balance of those that moved one beside their own
    """

    state: AccountState
    verdict: np.ndarray
    outcomes: np.ndarray
    postings: np.ndarray
    changes: np.ndarray


class Ledger(NamedTuple):
    """Wallets, balances and transactions with their indexes, as kernels take them."""

    strings: Strings
    wallets: Table
    balances: Table
    methods: Table
    words: Table
    wallet_index: np.ndarray
    balance_index: np.ndarray
    method_index: np.ndarray
    events: Events


class _Events(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    rate: np.ndarray
    type: np.ndarray
    status: np.ndarray
    id: np.ndarray
    terms: np.ndarray
    method: np.ndarray
    reference: np.ndarray
    body: np.ndarray


class _Written(NamedTuple):
    """Where the kernel writes; counts = (outcomes, postings, changes)."""

    outcomes: np.ndarray
    postings: np.ndarray
    changes: np.ndarray
    counts: np.ndarray


# ------------------------------------------------------------------------------------------- what an event is to move


@inline
def _costs(kind):  # type: ignore[no-untyped-def]
    """Whether amount + fee leave the wallet."""
    return kind in (_WITHDRAWAL, _TRANSFER, _CONVERSION)


@inline
def _locks(kind):  # type: ignore[no-untyped-def]
    """Whether its amount is locked while it is open."""
    return _costs(kind) or kind == _HOLD


@inline
def _cost(event):  # type: ignore[no-untyped-def]
    """What an EVENT row took out of its wallet, if anything."""
    amount = get(event, "amount")
    return amount + get(event, "fee") if _costs(event.type) else amount


@inline
def _amounts(kind, amount, fee, rate):  # type: ignore[no-untyped-def]
    """(what is locked meanwhile, what arrives on the other balance, whether both are in range)."""
    cost, arrives, good = amount, zero(), True
    if _costs(kind):
        cost, good = add(amount, fee)
    if kind == _TRANSFER:
        arrives = amount
    if kind == _CONVERSION:
        arrives, also_good = multiply(amount, rate)
        good = good and also_good
    return cost, arrives, good


@inline
def _movement(kind, amount, fee, cost):  # type: ignore[no-untyped-def]
    """(out of, into) the event's own balance when it is COMPLETED; both are ≥ 0."""
    if _costs(kind) or kind == _FEE:
        return cost, zero()
    if kind in (_HOLD, _REVERSAL):
        return zero(), zero()
    if is_negative(amount):
        return -amount, zero()
    return zero(), amount - fee if kind == _DEPOSIT else amount


@inline
def _objection(original, own, amount):  # type: ignore[no-untyped-def]
    """Why `original` can't be reversed by an event of balance `own` and this amount."""
    if original.status != _COMPLETED or original.type == _REVERSAL:
        return _UNKNOWN
    if original.flags & REVERSED:
        return _ALREADY
    if original.balance != own or magnitude(get(original, "amount")) != amount:
        return _NOT_ALLOWED
    return _NO_CODE


# ------------------------------------------------------------------------------------------------------------ postings


@inline
def _post(written, message, entry, account, balance, method, amount):  # type: ignore[no-untyped-def]
    """One leg, unless it is zero. -> the number of the next one."""
    if amount == zero():
        return entry
    posting = written.postings[written.counts[1]]
    written.counts[1] += 1
    posting.message, posting.entry = np.int32(message), np.int32(entry)
    posting.account, posting.balance, posting.method = account, np.int32(balance), np.int32(method)
    put(posting, "amount", amount)
    return entry + 1


@kernel
def _post_all(written, message, kind, own, other, method, amount, fee, cost, arrived, undo):  # type: ignore[no-untyped-def]
    """The legs of a COMPLETED event of type `kind`; their opposites to undo it."""
    if undo:
        amount, fee, cost, arrived = -amount, -fee, -cost, -arrived
    entry = np.int64(0)
    if kind == _DEPOSIT:
        entry = _post(written, message, entry, _OF_WALLET, own, -1, amount - fee)
        entry = _post(written, message, entry, _FEES, own, -1, fee)
        entry = _post(written, message, entry, _EXTERNAL, own, method, -amount)
    elif _costs(kind):
        entry = _post(written, message, entry, _OF_WALLET, own, -1, -cost)
        entry = _post(written, message, entry, _FEES, own, -1, fee)
        if kind == _WITHDRAWAL:
            entry = _post(written, message, entry, _EXTERNAL, own, method, amount)
        elif kind == _TRANSFER:
            entry = _post(written, message, entry, _OF_WALLET, other, -1, amount)
        else:
            entry = _post(written, message, entry, _EXCHANGE, own, -1, amount)
            entry = _post(written, message, entry, _OF_WALLET, other, -1, arrived)
            entry = _post(written, message, entry, _EXCHANGE, other, -1, -arrived)
    elif kind == _FEE:
        entry = _post(written, message, entry, _OF_WALLET, own, -1, -amount)
        entry = _post(written, message, entry, _FEES, own, -1, amount)
    elif kind in (_DIVIDEND, _INTEREST, _ADJUSTMENT):
        entry = _post(written, message, entry, _OF_WALLET, own, -1, amount)
        against = _ADJUSTMENTS if kind == _ADJUSTMENT else _INCOME
        entry = _post(written, message, entry, against, own, -1, -amount)


# ------------------------------------------------------------------------------------------------- finding and opening


@inline
def _find_text(strings, batch, f, m):  # type: ignore[no-untyped-def]
    size = np.int64(batch.text_len[f, m])
    number, _ = find_string(
        strings.table.rows, strings.lengths, strings.index, batch.data, batch.text_at[f, m], max(size, np.int64(0))
    )
    return number


@kernel
def _find(ledger, batch, m, wallet_text, asset_text):  # type: ignore[no-untyped-def]
    """The row of a balance of message m's user, by the places of wallet and asset in its texts; −1: not opened yet."""
    user = _find_text(ledger.strings, batch, _USER, m)
    name = _find_text(ledger.strings, batch, wallet_text, m)
    asset = _find_text(ledger.strings, batch, asset_text, m)
    balance = np.int64(-1)
    if user >= 0 and name >= 0 and asset >= 0:
        wallet, _ = find_pair(ledger.wallet_index, pair(user, name))
        if wallet >= 0:
            balance, _ = find_pair(ledger.balance_index, pair(wallet, asset))
    return balance


@inline
def _intern_text(strings, batch, f, m):  # type: ignore[no-untyped-def]
    return intern(strings, batch.data, batch.text_at[f, m], np.int64(batch.text_len[f, m]))


@kernel
def _open(ledger, batch, m, wallet_text, asset_text):  # type: ignore[no-untyped-def]
    """As `_find`; wallet and balance are opened when they are new."""
    user = _intern_text(ledger.strings, batch, _USER, m)
    name = _intern_text(ledger.strings, batch, wallet_text, m)
    asset = _intern_text(ledger.strings, batch, asset_text, m)
    key = pair(user, name)
    wallet, slot = find_pair(ledger.wallet_index, key)
    if wallet < 0:
        wallet = append(ledger.wallets)
        row = ledger.wallets.rows[wallet]
        row.user, row.wallet = np.uint32(user), np.uint32(name)
        put_pair(ledger.wallet_index, slot, key, wallet)
    key = pair(wallet, asset)
    balance, slot = find_pair(ledger.balance_index, key)
    if balance < 0:
        balance = append(ledger.balances)
        held = ledger.balances.rows[balance]
        held.wallet, held.asset = np.uint32(wallet), np.uint32(asset)
        put_pair(ledger.balance_index, slot, key, balance)
    return balance


@kernel
def _method(ledger, batch, m):  # type: ignore[no-untyped-def]
    """The number of message m's payment method, which is kept when it is new; −1: it has none."""
    size = np.int64(batch.text_len[_METHOD, m])
    if size < 0:
        return np.int64(-1)
    lo, hi = batch.method[m, 0], batch.method[m, 1]
    found = find_id(ledger.methods.rows, ledger.method_index, lo, hi)
    if found < 0:
        found = append(ledger.methods)
        row = ledger.methods.rows[found]
        row.id_lo, row.id_hi, row.size = lo, hi, np.uint32(size)
        row.first = np.uint32(ledger.words.count[0])
        for k in range(0, size, 8):
            word = append(ledger.words)
            ledger.words.rows[word].word = word_at(batch.data, batch.text_at[_METHOD, m] + k, min(8, size - k))
        put_id(ledger.method_index, lo, found)
    return found


@inline
def _is_open(status):  # type: ignore[no-untyped-def]
    return status in (_PENDING, _PROCESSING)


# ----------------------------------------------------------------------------------------------------------- the batch


@inline
def _note(row, available, locked):  # type: ignore[no-untyped-def]
    put(row, "total", available + locked)
    put(row, "available", available)
    put(row, "locked", locked)


@inline
def _set(ledger, balance, available, locked):  # type: ignore[no-untyped-def]
    row = ledger.balances.rows[balance]
    put(row, "available", available)
    put(row, "locked", locked)
    touch(ledger.balances, balance)


@inline
def _note_change(written, message, balance, available, locked):  # type: ignore[no-untyped-def]
    change = written.changes[written.counts[2]]
    written.counts[2] += 1
    change.message, change.balance = np.int32(message), np.int32(balance)
    _note(change, available, locked)


@inline
def _holds(ledger, balance):  # type: ignore[no-untyped-def]
    """(available, locked) of a balance row; of none, 0."""
    available, locked = zero(), zero()
    if balance >= 0:
        row = ledger.balances.rows[balance]
        available, locked = get(row, "available"), get(row, "locked")
    return available, locked


class _Known(NamedTuple):
    """What is remembered of a message's transaction; row −1: nothing."""

    row: int
    repeated: bool
    conflict: bool
    illegal: bool
    held: bool


@kernel
def _known(events, batch, m):  # type: ignore[no-untyped-def]
    row = find_id(events.table.rows, events.index, batch.id[m, 0], batch.id[m, 1])
    if row < 0:
        return _Known(row, False, False, False, False)
    event, status = events.table.rows[row], batch.status[m]
    seen = (event.seen >> status) & 1 != 0
    return _Known(
        row,
        seen and event.bodies[status] == batch.body[m, 0],
        seen or event.terms != batch.terms[m, 0],
        not _is_open(event.status) or status <= event.status,
        event.flags & LOCKED != 0,
    )


class _Plan(NamedTuple):
    """What a message is to do, if nothing speaks against it: both balances after it, and what comes to them."""

    code: int
    available: int
    locked: int
    into: int
    other: int  # −1: none, or not opened yet
    other_available: int
    other_locked: int
    arrives: int
    leaves: int  # the other balance, by a reversal
    original: int  # the row of the event that it reverses


@kernel
def _plan_move(ledger, batch, m, own, held, cost, arrives):  # type: ignore[no-untyped-def]
    """That of a COMPLETED one: first its own balance, then the other one, which may be the same."""
    kind, amount, code = batch.type[m], at(batch.amount, m), _NO_CODE
    out, into = _movement(kind, amount, at(batch.fee, m), cost)
    other, leaves, original = np.int64(-1), zero(), np.int64(-1)
    if kind == _TRANSFER:
        other = _find(ledger, batch, m, _OTHER_WALLET, _ASSET)
    elif kind == _CONVERSION:
        other = _find(ledger, batch, m, _WALLET, _TO_ASSET)
    elif kind == _REVERSAL:
        events, code = ledger.events, _UNKNOWN
        original = find_id(events.table.rows, events.index, batch.reference[m, 0], batch.reference[m, 1])
        if original >= 0:
            event = events.table.rows[original]
            code = _objection(event, own, amount)
            into, out = _movement(event.type, get(event, "amount"), get(event, "fee"), _cost(event))
            other, leaves = np.int64(event.other), get(event, "arrived")
    available, locked = _holds(ledger, own)
    if held and _locks(kind):
        locked, available = locked - cost, available + (cost - out)
    else:
        if code == _NO_CODE and out > zero() and available < out:
            code = _INSUFFICIENT
        available = available - out
    available = available + into
    if other >= 0 and other == own:
        there, there_locked = available, locked
    else:
        there, there_locked = _holds(ledger, other)
    if code == _NO_CODE and leaves > zero() and there < leaves:
        code = _INSUFFICIENT
    return _Plan(
        code, available, locked, into, other, there + arrives - leaves, there_locked, arrives, leaves, original
    )


@kernel
def _plan_lock(ledger, batch, m, own, held, cost):  # type: ignore[no-untyped-def]
    """That of one that isn't COMPLETED: it locks, unlocks, or does nothing."""
    available, locked = _holds(ledger, own)
    code = _NO_CODE
    if _is_open(batch.status[m]):
        if _locks(batch.type[m]) and not held:
            if available < cost:
                code = _INSUFFICIENT
            available, locked = available - cost, locked + cost
    elif held:
        available, locked = available + cost, locked - cost
    none = np.int64(-1)
    return _Plan(code, available, locked, zero(), none, zero(), zero(), zero(), zero(), none)


@inline
def _overflows(plan):  # type: ignore[no-untyped-def]
    """Whether what comes in makes a balance too large. (A sum of two amounts in range wraps to one that isn't.)"""
    if plan.into > zero() and not (in_range(plan.available) and in_range(plan.available + plan.locked)):
        return True
    if plan.arrives > zero():
        return not (in_range(plan.other_available) and in_range(plan.other_available + plan.other_locked))
    return False


@kernel
def _book(ledger, batch, m, own, plan, written):  # type: ignore[no-untyped-def]
    """Write what a COMPLETED message moved. -> (its own balance, the other one, the method, available, locked)."""
    kind, other = batch.type[m], plan.other
    if other < 0 and plan.arrives > zero():
        if kind == _TRANSFER:
            other = _open(ledger, batch, m, _OTHER_WALLET, _ASSET)
        else:
            other = _open(ledger, batch, m, _WALLET, _TO_ASSET)
    available, locked = plan.available, plan.locked
    if other == own:
        available = plan.other_available
    _set(ledger, own, available, locked)
    if other >= 0 and other != own and plan.arrives + plan.leaves > zero():
        _set(ledger, other, plan.other_available, plan.other_locked)
        _note_change(written, m, other, plan.other_available, plan.other_locked)
    method = np.int64(-1)
    if kind in (_DEPOSIT, _WITHDRAWAL):
        method = _method(ledger, batch, m)
    if kind == _REVERSAL:
        event = ledger.events.table.rows[plan.original]
        amount, fee = get(event, "amount"), get(event, "fee")
        _post_all(written, m, event.type, own, other, event.method, amount, fee, _cost(event), plan.leaves, True)
        event.flags |= np.uint8(REVERSED)
        touch(ledger.events.table, plan.original)
    else:
        amount, fee = at(batch.amount, m), at(batch.fee, m)
        cost = amount + fee if _costs(kind) else amount
        _post_all(written, m, kind, own, other, method, amount, fee, cost, plan.arrives, False)
    return other, method, available, locked


@kernel
def _remember(events, batch, m, row, result, own, other, method, arrived):  # type: ignore[no-untyped-def]
    """Message m, accepted, in its transaction's row (−1: in a new one)."""
    if row < 0:
        row = new_event(events, batch.id[m, 0], batch.id[m, 1])
    event, kind, status = events.table.rows[row], batch.type[m], batch.status[m]
    touch(events.table, row)
    event.seen |= np.uint8(1 << status)
    event.bodies[status] = batch.body[m, 0]
    event.terms, event.type, event.status = batch.terms[m, 0], kind, result
    event.balance, event.other, event.method = np.uint32(own), np.int32(other), np.int32(method)
    event.flags = np.uint8(LOCKED if _locks(kind) and _is_open(result) else 0)
    put(event, "amount", at(batch.amount, m))
    put(event, "fee", at(batch.fee, m))
    put(event, "arrived", arrived)
    if not _is_open(result):
        became_final(events, row)


@kernel
def _apply(ledger, batch, m, written):  # type: ignore[no-untyped-def]
    """What becomes of message m, a Verdict; it is booked when that is APPLIED."""
    kind, status = batch.type[m], batch.status[m]
    cost, arrives, good = _amounts(kind, at(batch.amount, m), at(batch.fee, m), at(batch.rate, m))
    if not good:
        return _OUT_OF_RANGE
    if batch.key_ok[m] == 0:
        return _KEY_MISMATCH
    known = _known(ledger.events, batch, m)
    if known.repeated:
        return _DUPLICATE
    own = _find(ledger, batch, m, _WALLET, _ASSET)
    if status == _COMPLETED:
        plan = _plan_move(ledger, batch, m, own, known.held, cost, arrives)
    else:
        plan = _plan_lock(ledger, batch, m, own, known.held, cost)
    if plan.code == _NO_CODE and _overflows(plan):
        return _OUT_OF_RANGE
    if known.conflict:
        return _CONFLICT
    if known.illegal:
        return _ILLEGAL

    # accepted
    if own < 0:
        own = _open(ledger, batch, m, _WALLET, _ASSET)
    result = status if plan.code == _NO_CODE else _FAILED
    other, method, arrived = np.int64(-1), np.int64(-1), zero()
    if result == _COMPLETED:
        other, method, available, locked = _book(ledger, batch, m, own, plan, written)
        arrived = plan.arrives
    else:
        available, locked = plan.available, plan.locked
        if plan.code != _NO_CODE:
            available, locked = _holds(ledger, own)
        _set(ledger, own, available, locked)
    _remember(ledger.events, batch, m, known.row, result, own, other, method, arrived)
    outcome = written.outcomes[written.counts[0]]
    written.counts[0] += 1
    outcome.message, outcome.balance = np.int32(m), np.int32(own)
    outcome.status, outcome.code = result, plan.code
    _note(outcome, available, locked)
    return _APPLIED


@kernel
def _apply_all(ledger, batch, verdict, written):  # type: ignore[no-untyped-def]
    """Walk the batch in order."""
    for m in range(len(verdict)):
        if verdict[m] < _MALFORMED:
            verdict[m] = _apply(ledger, batch, m, written)


def apply_transactions(state: AccountState, batch: TransactionBatch) -> LedgerResult:
    """Apply decoded wallet events in order: all that `decode` lets through.

    Rejections of `batch.verdict` stay; a rejected or repeated message changes nothing. `batch` is not changed.
    """
    n = batch.records.n
    words = int(np.maximum(batch.text_len[_METHOD] + 7, 0).sum()) // 8
    state = reserve(state, strings=5 * n, wallets=2 * n, balances=2 * n, methods=n, words=words, events=n)
    verdict = batch.verdict.copy()
    counts = np.zeros(3, np.int64)
    written = _Written(np.zeros(n, OUTCOME), np.zeros(_LEGS * n, POSTING), np.zeros(n, CHANGE), counts)
    columns = _Events(*(getattr(batch, name) for name in _Events._fields))
    ledger = Ledger(strings_of(state), *(getattr(state, name) for name in Ledger._fields[1:-1]), events_of(state))
    _apply_all(ledger, columns, verdict, written)
    outcomes, postings, changes = (rows[:count] for rows, count in zip(written[:3], counts.tolist(), strict=True))
    return LedgerResult(state, verdict, outcomes, postings, changes)
