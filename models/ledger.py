"""Wallets: what events do to balances, by postings that sum to zero (interface, section 5; docs/readings.md).

A *transaction* is all events of one (user_id, transaction_id). It is open while it is PENDING or PROCESSING, and final
after that. Its row in `events` has what later statuses, and a reversal, are held against. The last ID_MEMORY final ones
are remembered, and every open one.

What a TRANSFER to another user, and its reversal, do on the other side is in `transfers.py`; how a HOLD expires is in
`clock.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.agenda import cross_out, put_down
from assetstream.models.conversion import AT_MARKS, current_terms, no_quote, quote_of, tell_rate
from assetstream.models.decode import NO_TIME
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
from assetstream.models.interning import became_final, find_id, new_event
from assetstream.models.messages import MAX_ALLOCATION, WALLET_EVENTS, Step, TransactionStatus, TransactionType
from assetstream.models.outputs import Account, Code
from assetstream.models.rows import CLAIMED, HOLD_EXPIRES, LOCKED, REVERSED, WAITING, touch
from assetstream.models.state import reserve
from assetstream.models.verdicts import Verdict
from assetstream.models.wallet_events import (
    book_wallet_event,
    grants_fit,
    is_wallet_event,
    most_moves,
    wallet_objection,
)
from assetstream.models.wallets import (
    LedgerResult,
    against_virtual,
    find_balance,
    find_wallet,
    holds,
    intern_text,
    is_closed,
    is_open,
    is_virtual,
    keep_text,
    ledger_of,
    open_balance,
    open_wallet,
    post,
    result_of,
    room_for,
    send,
    set_balance,
    tell_change,
    tell_outcome,
    wallet_of,
    with_more_room,
)

if TYPE_CHECKING:
    from assetstream.models.conversion import QuoteTerms
    from assetstream.models.decode import Grants, TransactionBatch
    from assetstream.models.state import AccountState

#: places of an event's texts in the batch
_ID, _WALLET, _ASSET, _METHOD, _TO_ASSET, _OTHER_USER, _OTHER_WALLET = 0, 2, 3, 5, 8, 10, 11
_DEPOSIT, _WITHDRAWAL, _TRANSFER, _CONVERSION, _FEE, _DIVIDEND, _INTEREST, _ADJUSTMENT, _REVERSAL, _HOLD = (
    np.uint8(kind.code) for kind in TransactionType if kind not in WALLET_EVENTS
)
_RESET = TransactionType.RESET.code
_PROCESSING, _COMPLETED, _FAILED = (np.uint8(TransactionStatus[s].code) for s in ("PROCESSING", "COMPLETED", "FAILED"))
_CREDIT, _CLAIM = np.uint8(Step.CREDIT.code), np.uint8(Step.CLAIM.code)
_OF_WALLET, _EXTERNAL, _FEES, _EXCHANGE, _INCOME, _ADJUSTMENTS, _TRANSIT = (
    np.uint8(account) for account in Account if account not in (Account.VIRTUAL, Account.SETTLEMENT)
)
_NO_CODE, _INSUFFICIENT = np.uint8(Code.NONE), np.uint8(Code.INSUFFICIENT_FUNDS)
_UNKNOWN, _ALREADY = np.uint8(Code.UNKNOWN_REFERENCE), np.uint8(Code.ALREADY_REVERSED)
_NOT_ALLOWED, _WALLET_CLOSED = np.uint8(Code.NOT_ALLOWED), np.uint8(Code.WALLET_CLOSED)
_NO_RATE = np.uint8(Code.NO_RATE)
_EXPIRES = np.uint8(HOLD_EXPIRES)
#: legs of one outcome at most, but of a wallet event
_LEGS = 5

_APPLIED, _DUPLICATE = np.uint8(Verdict.APPLIED), np.uint8(Verdict.DUPLICATE)
_MALFORMED, _OUT_OF_RANGE = np.uint8(Verdict.MALFORMED), np.uint8(Verdict.OUT_OF_RANGE)
_KEY_MISMATCH, _CONFLICT = np.uint8(Verdict.KEY_MISMATCH), np.uint8(Verdict.CONFLICT)
_ILLEGAL = np.uint8(Verdict.ILLEGAL_TRANSITION)


class _Events(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    timestamp: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    rate: np.ndarray
    has_rate: np.ndarray
    crosses: np.ndarray
    expires_at: np.ndarray
    type: np.ndarray
    status: np.ndarray
    wallet_type: np.ndarray
    grants: Grants
    id: np.ndarray
    terms: np.ndarray
    method: np.ndarray
    reference: np.ndarray
    body: np.ndarray


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
    if original.status != _COMPLETED or original.type == _REVERSAL or is_wallet_event(original.type):
        return _UNKNOWN
    if original.flags & (REVERSED | CLAIMED):
        return _ALREADY
    if original.balance != own or magnitude(get(original, "amount")) != amount:
        return _NOT_ALLOWED
    return _NO_CODE


# ------------------------------------------------------------------------------------------------------------ postings


@kernel
def _post_all(written, message, kind, own, other, method, amount, fee, cost, arrived, undo):  # type: ignore[no-untyped-def]
    """The legs of a COMPLETED event of type `kind`; their opposites to undo it."""
    if undo:
        amount, fee, cost, arrived = -amount, -fee, -cost, -arrived
    entry = np.int64(0)
    if kind == _DEPOSIT:
        entry = post(written, message, entry, _OF_WALLET, own, -1, amount - fee)
        entry = post(written, message, entry, _FEES, own, -1, fee)
        entry = post(written, message, entry, _EXTERNAL, own, method, -amount)
    elif _costs(kind):
        entry = post(written, message, entry, _OF_WALLET, own, -1, -cost)
        entry = post(written, message, entry, _FEES, own, -1, fee)
        if kind == _WITHDRAWAL:
            entry = post(written, message, entry, _EXTERNAL, own, method, amount)
        elif kind == _TRANSFER and other < 0:
            entry = post(written, message, entry, _TRANSIT, own, -1, amount)
        elif kind == _TRANSFER:
            entry = post(written, message, entry, _OF_WALLET, other, -1, amount)
        else:
            entry = post(written, message, entry, _EXCHANGE, own, -1, amount)
            entry = post(written, message, entry, _OF_WALLET, other, -1, arrived)
            entry = post(written, message, entry, _EXCHANGE, other, -1, -arrived)
    elif kind == _FEE:
        entry = post(written, message, entry, _OF_WALLET, own, -1, -amount)
        entry = post(written, message, entry, _FEES, own, -1, amount)
    elif kind in (_DIVIDEND, _INTEREST, _ADJUSTMENT):
        entry = post(written, message, entry, _OF_WALLET, own, -1, amount)
        against = _ADJUSTMENTS if kind == _ADJUSTMENT else _INCOME
        entry = post(written, message, entry, against, own, -1, -amount)


# ----------------------------------------------------------------------------------------------------------- the batch


@kernel
def _barred(ledger, batch, m, own):  # type: ignore[no-untyped-def]
    """A Code: why the wallets of message m take no part in what it would do, whatever they hold."""
    if not is_open(batch.status[m]) and batch.status[m] != _COMPLETED:
        return _NO_CODE
    wallet = wallet_of(ledger, own) if own >= 0 else find_wallet(ledger, batch, m, _WALLET)
    if is_closed(ledger, wallet):
        return _WALLET_CLOSED
    if batch.type[m] == _TRANSFER:
        other = np.int64(-1) if batch.crosses[m] else find_wallet(ledger, batch, m, _OTHER_WALLET)
        if is_closed(ledger, other):
            return _WALLET_CLOSED
        if is_virtual(ledger, wallet) != is_virtual(ledger, other):
            return _NOT_ALLOWED
    return _NO_CODE


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
        not is_open(event.status) or status <= event.status or event.flags & WAITING != 0,
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
    asks: bool  # another user first


@inline
def _no_plan(code):  # type: ignore[no-untyped-def]
    """That of one that is refused with a `code`, whatever its balances are."""
    none = np.int64(-1)
    return _Plan(code, zero(), zero(), zero(), none, zero(), zero(), zero(), zero(), none, False)


@kernel
def _plan_move(ledger, batch, m, own, held, cost, arrives):  # type: ignore[no-untyped-def]
    """That of a COMPLETED one: first its own balance, then the other one, which may be the same."""
    kind, amount, code = batch.type[m], at(batch.amount, m), _NO_CODE
    out, into = _movement(kind, amount, at(batch.fee, m), cost)
    other, leaves, original, asks = np.int64(-1), zero(), np.int64(-1), False
    if kind == _TRANSFER and batch.crosses[m] == 0:
        other = find_balance(ledger, batch, m, _OTHER_WALLET, _ASSET)
    elif kind == _CONVERSION:
        other = find_balance(ledger, batch, m, _WALLET, _TO_ASSET)
    elif kind == _REVERSAL:
        events, code = ledger.events, _UNKNOWN
        original = find_id(events.table.rows, events.index, batch.reference[m, 0], batch.reference[m, 1])
        if original >= 0:
            event = events.table.rows[original]
            code = _objection(event, own, amount)
            asks = event.to_user >= 0
            if not asks:
                into, out = _movement(event.type, get(event, "amount"), get(event, "fee"), _cost(event))
            other, leaves = np.int64(event.other), get(event, "arrived")
            if code == _NO_CODE and other >= 0 and is_closed(ledger, wallet_of(ledger, other)):
                code = _WALLET_CLOSED
    available, locked = holds(ledger, own)
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
        there, there_locked = holds(ledger, other)
    if code == _NO_CODE and leaves > zero() and there < leaves:
        code = _INSUFFICIENT
    return _Plan(
        code, available, locked, into, other, there + arrives - leaves, there_locked, arrives, leaves, original, asks
    )


@kernel
def _plan_lock(ledger, batch, m, own, held, cost):  # type: ignore[no-untyped-def]
    """That of one that isn't COMPLETED: it locks, unlocks, or does nothing."""
    code, (available, locked) = _NO_CODE, holds(ledger, own)
    if is_open(batch.status[m]):
        if _locks(batch.type[m]) and not held:
            if available < cost:
                code = _INSUFFICIENT
            available, locked = available - cost, locked + cost
    elif held:
        available, locked = available + cost, locked - cost
    none = np.int64(-1)
    return _Plan(code, available, locked, zero(), none, zero(), zero(), zero(), zero(), none, False)


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
    """Write what a COMPLETED message moved. -> (the other balance, the method)."""
    kind, other, method = batch.type[m], plan.other, np.int64(-1)
    if other < 0 and plan.arrives > zero():
        if kind == _TRANSFER:
            other = open_balance(ledger, batch, m, _OTHER_WALLET, _ASSET)
        else:
            other = open_balance(ledger, batch, m, _WALLET, _TO_ASSET)
    set_balance(ledger, own, plan.other_available if other == own else plan.available, plan.locked)
    if other >= 0 and other != own and plan.arrives + plan.leaves > zero():
        open_wallet(ledger, wallet_of(ledger, other))
        set_balance(ledger, other, plan.other_available, plan.other_locked)
        tell_change(ledger, written, m, other)
    first = written.counts[1]
    if kind in (_DEPOSIT, _WITHDRAWAL):
        method = keep_text(ledger, batch, _METHOD, m)
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
    if is_virtual(ledger, wallet_of(ledger, own)):
        against_virtual(written, first)
    return other, method


@kernel
def _send_credit(ledger, batch, m, written):  # type: ignore[no-untyped-def]
    """What message m transfers goes to another user, (user, wallet)."""
    user = intern_text(ledger.strings, batch, _OTHER_USER, m)
    wallet = intern_text(ledger.strings, batch, _OTHER_WALLET, m)
    send(written, m, _CREDIT, _NO_CODE, user, wallet, at(batch.amount, m), zero())
    return user, wallet


@kernel
def _claim(events, m, original, written):  # type: ignore[no-untyped-def]
    """Ask who got it for what event row `original` transferred."""
    event = events.table.rows[original]
    event.flags |= np.uint8(CLAIMED)
    touch(events.table, original)
    send(written, m, _CLAIM, _NO_CODE, event.to_user, event.to_wallet, get(event, "amount"), get(event, "fee"))


@kernel
def _remember(ledger, batch, m, row, result, own, flags):  # type: ignore[no-untyped-def]
    """Message m, accepted, in its transaction's row (−1: in a new one). -> the row."""
    events = ledger.events
    if row < 0:
        row = new_event(events, batch.id[m, 0], batch.id[m, 1])
    event, kind, status = events.table.rows[row], batch.type[m], batch.status[m]
    touch(events.table, row)
    event.seen |= np.uint8(1 << status)
    event.bodies[status] = batch.body[m, 0]
    event.terms, event.type, event.status, event.flags = batch.terms[m, 0], kind, result, flags
    event.balance, event.other, event.method = np.uint32(own), np.int32(-1), np.int32(-1)
    event.to_user, event.to_wallet = np.int32(-1), np.int32(-1)
    put(event, "amount", at(batch.amount, m))
    put(event, "fee", at(batch.fee, m))
    put(event, "arrived", zero())
    if not is_open(result):
        if event.due >= 0:
            cross_out(ledger.agenda, np.int64(event.due))
            event.due = np.int32(-1)
        became_final(events, row)
    return row


@kernel
def _put_down_expiry(ledger, batch, m, row):  # type: ignore[no-untyped-def]
    """The hold in row `row` of the events, which message m locked, expires if that says when."""
    at, text_len = batch.expires_at[m], np.int64(batch.text_len[_ID, m])
    if batch.type[m] == _HOLD and at != NO_TIME:
        due = put_down(ledger.agenda, _EXPIRES, at, row, batch.data, batch.text_at[_ID, m], text_len)
        ledger.events.table.rows[row].due = np.int32(due)


@kernel
def _settle(ledger, batch, m, own, plan, row, written):  # type: ignore[no-untyped-def]
    """Book message m, which is COMPLETED, and keep what its reversal will need. `row` is that of its transaction."""
    other, method = _book(ledger, batch, m, own, plan, written)
    to_user, to_wallet = np.int64(-1), np.int64(-1)
    if batch.crosses[m]:
        to_user, to_wallet = _send_credit(ledger, batch, m, written)
    row = _remember(ledger, batch, m, row, _COMPLETED, own, np.uint8(0))
    event = ledger.events.table.rows[row]
    event.other, event.method = np.int32(other), np.int32(method)
    event.to_user, event.to_wallet = np.int32(to_user), np.int32(to_wallet)
    put(event, "arrived", plan.arrives)


@kernel
def _refuse(ledger, own, held, cost):  # type: ignore[no-untyped-def]
    """What a transaction that is refused holds locked is unlocked: refused is final, so nothing would ever do it."""
    if held:
        available, locked = holds(ledger, own)
        set_balance(ledger, own, available + cost, locked - cost)


@kernel
def _apply_to_wallet(ledger, batch, m, known, written):  # type: ignore[no-untyped-def]
    """What becomes of wallet event m, as `_apply`."""
    code = wallet_objection(ledger, batch, m)
    if code == _NO_CODE and batch.status[m] == _COMPLETED and not grants_fit(ledger, batch, m):
        return _OUT_OF_RANGE
    if known.conflict:
        return _CONFLICT
    if known.illegal:
        return _ILLEGAL
    own, result = book_wallet_event(ledger, batch, m, code, written)
    _remember(ledger, batch, m, known.row, result, own, np.uint8(0))
    return _APPLIED


@kernel
def _apply(ledger, quotes, batch, m, written):  # type: ignore[no-untyped-def]
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
    if is_wallet_event(kind):
        return _apply_to_wallet(ledger, batch, m, known, written)
    own = find_balance(ledger, batch, m, _WALLET, _ASSET)
    quote, code = no_quote(), _barred(ledger, batch, m, own)
    if kind == _CONVERSION and status == _COMPLETED:
        quote = quote_of(ledger.strings, quotes, batch, m)
        arrives, good = multiply(at(batch.amount, m), quote.rate)
        if not good:
            return _OUT_OF_RANGE
        if code == _NO_CODE and quote.rate == zero():
            code = _NO_RATE
    if code != _NO_CODE:
        plan = _no_plan(code)
    elif status == _COMPLETED:
        plan = _plan_move(ledger, batch, m, own, known.held, cost, zero() if batch.crosses[m] else arrives)
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
        own = open_balance(ledger, batch, m, _WALLET, _ASSET)
    open_wallet(ledger, wallet_of(ledger, own))
    result = status
    if plan.code != _NO_CODE:
        result = _FAILED
        _refuse(ledger, own, known.held, cost)
        _remember(ledger, batch, m, known.row, result, own, np.uint8(0))
    elif plan.asks:
        result = _PROCESSING
        _claim(ledger.events, m, plan.original, written)
        _remember(ledger, batch, m, known.row, result, own, np.uint8(WAITING))
    elif status == _COMPLETED:
        _settle(ledger, batch, m, own, plan, known.row, written)
    else:
        set_balance(ledger, own, plan.available, plan.locked)
        flags = np.uint8(LOCKED) if _locks(kind) and is_open(status) else np.uint8(0)
        row = _remember(ledger, batch, m, known.row, result, own, flags)
        if flags and not known.held:
            _put_down_expiry(ledger, batch, m, row)
    tell_outcome(ledger, written, m, own, result, plan.code)
    if kind == _CONVERSION and result == _COMPLETED:
        tell_rate(written, quote)
    return _APPLIED


@inline
def _has_room(written, rest, moves):  # type: ignore[no-untyped-def]
    """Whether there is room for a wallet event of so many moves, and for the `rest` of the batch."""
    postings = written.counts[1] + 2 * moves + _LEGS * rest
    return postings <= len(written.postings) and written.counts[2] + moves + rest <= len(written.changes)


@kernel
def _apply_all(ledger, quotes, batch, verdict, first, written):  # type: ignore[no-untyped-def]
    """Walk the batch in order from message `first` on. -> the one that there is no room for; as many as there are."""
    n = len(verdict)
    for m in range(first, n):
        if verdict[m] < _MALFORMED:
            if is_wallet_event(batch.type[m]) and not _has_room(written, n - m, most_moves(ledger, batch, m)):
                return m
            verdict[m] = _apply(ledger, quotes, batch, m, written)
    return n


def apply_transactions(state: AccountState, batch: TransactionBatch, terms: QuoteTerms = AT_MARKS) -> LedgerResult:
    """Apply decoded wallet events in order: all that `decode` lets through.

    Rejections of `batch.verdict` stay; a rejected or repeated message changes nothing. `batch` is not changed.
    Conversions that give no rate are done at the partition's marks, on these terms.
    """
    n = batch.records.n
    words = int(np.maximum(batch.text_len[_METHOD] + 7, 0).sum()) // 8
    grants = len(batch.grants.amount)
    opened = 2 * n + grants + int(np.count_nonzero(batch.type == _RESET)) * (MAX_ALLOCATION + 1)
    expiring = int(np.count_nonzero((batch.type == _HOLD) & (batch.expires_at != NO_TIME)))
    state = reserve(state, strings=5 * n + grants, wallets=2 * n, balances=opened, grants=grants)
    state = reserve(state, methods=n, words=words, events=n, agenda=expiring)
    verdict = batch.verdict.copy()
    written = room_for(n, _LEGS)
    own = (name for name in _Events._fields if name != "timestamp")
    timestamp = np.array(batch.records.timestamp, np.int64)
    columns = _Events(timestamp=timestamp, **{name: getattr(batch, name) for name in own})
    ledger, quotes, done = ledger_of(state), current_terms(state, terms), 0
    while (done := _apply_all(ledger, quotes, columns, verdict, done, written)) < n:
        written = with_more_room(written)
    return result_of(state, verdict, written)
