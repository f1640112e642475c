"""The other side of a TRANSFER to another user, and of its reversal: steps that account partitions tell one another.

The amount is in `transit` between two steps. A step is a record of the topic `transfers`, written in the transaction
that booked what it tells of, and taken like any input: so each is booked exactly once, whatever dies in between.

  sender     TRANSFER: −amount −fee, transit +amount    CREDIT →
  receiver   transit −amount, +amount                   (it would overflow, its wallet is closed or VIRTUAL: → RETURN)
  sender     REVERSAL: it is PROCESSING                 CLAIM →
  receiver   −amount, transit +amount                   → GRANT (there isn't as much: → DENY)
  sender     transit −amount, +amount +fee: COMPLETED   (DENY: FAILED)

What comes back to a wallet that was closed meanwhile opens it again: money is never where nobody can get at it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.decimals import texts_of
from assetstream.models.decode import TransferBatch
from assetstream.models.int128 import at, in_range, inline, kernel, zero
from assetstream.models.interning import became_final, find_id, new_event
from assetstream.models.messages import Step, TransactionStatus, TransactionType, codes, from_micros, time_text
from assetstream.models.outputs import Account, Code, decimal_column
from assetstream.models.rows import CLAIMED, REVERSED, touch
from assetstream.models.state import reserve, text
from assetstream.models.verdicts import Verdict
from assetstream.models.wallets import (
    LedgerResult,
    find_balance,
    holds,
    intern_text,
    is_closed,
    is_open,
    is_virtual,
    ledger_of,
    open_balance,
    open_wallet,
    post,
    reopen_wallet,
    result_of,
    room_for,
    send,
    set_balance,
    tell_outcome,
    tell_wallet,
    wallet_of,
)

if TYPE_CHECKING:
    from assetstream.models.decode import TransactionBatch
    from assetstream.models.state import AccountState

#: places of a transfer's texts in its batch
_WALLET, _ASSET, _OTHER_USER, _OTHER_WALLET = 2, 3, 8, 9
#: places of the transaction id and of what it reverses among the texts of `transactions` and of `transfers`
_OF_EVENT, _OF_TRANSFER = (0, 9), (6, 7)
_CREDIT, _RETURN, _CLAIM, _GRANT, _DENY = (np.uint8(step.code) for step in Step)
_COMPLETED, _FAILED = np.uint8(TransactionStatus.COMPLETED.code), np.uint8(TransactionStatus.FAILED.code)
_TRANSFER = np.uint8(TransactionType.TRANSFER.code)
_OF_WALLET, _FEES, _TRANSIT = (np.uint8(Account[name]) for name in ("WALLET", "FEES", "TRANSIT"))
_NO_CODE, _INSUFFICIENT = np.uint8(Code.NONE), np.uint8(Code.INSUFFICIENT_FUNDS)
_NOT_ALLOWED, _WALLET_CLOSED = np.uint8(Code.NOT_ALLOWED), np.uint8(Code.WALLET_CLOSED)
_APPLIED, _MALFORMED = np.uint8(Verdict.APPLIED), np.uint8(Verdict.MALFORMED)
_KEY_MISMATCH = np.uint8(Verdict.KEY_MISMATCH)
_NOT_CLAIMED = np.uint8(255 - CLAIMED)
#: legs of one step at most
_LEGS = 3
_STEPS = codes(Step)


class _Transfers(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    amount: np.ndarray
    refund: np.ndarray
    step: np.ndarray
    code: np.ndarray
    id: np.ndarray
    reference: np.ndarray
    credit: np.ndarray


@kernel
def _answer(ledger, batch, m, step, code, written):  # type: ignore[no-untyped-def]
    user = intern_text(ledger.strings, batch, _OTHER_USER, m)
    wallet = intern_text(ledger.strings, batch, _OTHER_WALLET, m)
    send(written, m, step, code, user, wallet, at(batch.amount, m), at(batch.refund, m))


@inline
def _credit(ledger, batch, m, balance, refund, written):  # type: ignore[no-untyped-def]
    """The amount, and a fee that comes back, arrive from transit; whether there is room for them."""
    amount = at(batch.amount, m)
    available, locked = holds(ledger, balance)
    total = amount + refund
    available = available + total
    if not (in_range(total) and in_range(available) and in_range(available + locked)):
        return False
    set_balance(ledger, balance, available, locked)
    entry = post(written, m, np.int64(0), _OF_WALLET, balance, -1, total)
    entry = post(written, m, entry, _FEES, balance, -1, -refund)
    post(written, m, entry, _TRANSIT, balance, -1, -amount)
    return True


@inline
def _debit(ledger, batch, m, balance, written):  # type: ignore[no-untyped-def]
    """The amount leaves for transit; whether there is as much."""
    amount = at(batch.amount, m)
    available, locked = holds(ledger, balance)
    if available < amount:
        return False
    set_balance(ledger, balance, available - amount, locked)
    entry = post(written, m, np.int64(0), _OF_WALLET, balance, -1, -amount)
    post(written, m, entry, _TRANSIT, balance, -1, amount)
    return True


@kernel
def _conclude(events, batch, m, result):  # type: ignore[no-untyped-def]
    """The reversal that waited for this answer is over. What it reverses may be reversed again after a DENY only."""
    row = find_id(events.table.rows, events.index, batch.id[m, 0], batch.id[m, 1])
    if row >= 0 and is_open(events.table.rows[row].status):
        event = events.table.rows[row]
        event.status, event.flags = result, np.uint8(0)
        touch(events.table, row)
        original = find_id(events.table.rows, events.index, batch.reference[m, 0], batch.reference[m, 1])
        if original >= 0:
            undone = events.table.rows[original]
            undone.flags = (undone.flags & _NOT_CLAIMED) | np.uint8(REVERSED if batch.step[m] == _GRANT else 0)
            touch(events.table, original)
        became_final(events, row)


@kernel
def _refuse(events, batch, m, balance):  # type: ignore[no-untyped-def]
    """Remember that the credit of message m was refused: what never arrived can't be claimed."""
    row = new_event(events, batch.credit[m, 0], batch.credit[m, 1])
    event = events.table.rows[row]
    event.seen, event.status, event.type = np.uint8(1 << _FAILED), _FAILED, _TRANSFER
    event.terms, event.flags, event.balance = np.uint64(0), np.uint8(0), np.uint32(balance)
    event.other, event.method = np.int32(-1), np.int32(-1)
    event.to_user, event.to_wallet = np.int32(-1), np.int32(-1)
    touch(events.table, row)
    became_final(events, row)


@kernel
def _was_returned(events, batch, m):  # type: ignore[no-untyped-def]
    """The transfer came back, so that nothing is left to reverse."""
    row = find_id(events.table.rows, events.index, batch.id[m, 0], batch.id[m, 1])
    if row >= 0:
        events.table.rows[row].flags |= np.uint8(REVERSED)
        touch(events.table, row)


@kernel
def _claimed(ledger, batch, m, balance, written):  # type: ignore[no-untyped-def]
    """A Code: why the amount can't be given back; it is when there is none."""
    events = ledger.events
    if is_closed(ledger, wallet_of(ledger, balance)):
        return _WALLET_CLOSED
    if find_id(events.table.rows, events.index, batch.credit[m, 0], batch.credit[m, 1]) >= 0:
        return _NOT_ALLOWED
    return _NO_CODE if _debit(ledger, batch, m, balance, written) else _INSUFFICIENT


@kernel
def _credited(ledger, batch, m, balance, written):  # type: ignore[no-untyped-def]
    """A Code: why what another user sent can't arrive; it has when there is none."""
    wallet = wallet_of(ledger, balance)
    if is_closed(ledger, wallet):
        return _WALLET_CLOSED
    if is_virtual(ledger, wallet) or not _credit(ledger, batch, m, balance, zero(), written):
        return _NOT_ALLOWED
    return _NO_CODE


@kernel
def _take(ledger, batch, m, written):  # type: ignore[no-untyped-def]
    step, code, reopened = batch.step[m], _NO_CODE, False
    balance = find_balance(ledger, batch, m, _WALLET, _ASSET)
    if balance < 0:
        balance = open_balance(ledger, batch, m, _WALLET, _ASSET)
    wallet = wallet_of(ledger, balance)
    open_wallet(ledger, wallet)
    if step == _CREDIT:
        code = _credited(ledger, batch, m, balance, written)
        if code != _NO_CODE:
            _refuse(ledger.events, batch, m, balance)
            _answer(ledger, batch, m, _RETURN, code, written)
    elif step == _CLAIM:
        code = _claimed(ledger, batch, m, balance, written)
        _answer(ledger, batch, m, _GRANT if code == _NO_CODE else _DENY, code, written)
    elif step == _DENY:
        code = batch.code[m]
    elif _credit(ledger, batch, m, balance, at(batch.refund, m) if step == _GRANT else zero(), written):
        reopened = reopen_wallet(ledger, wallet)
    else:
        code = _NOT_ALLOWED
    if step == _RETURN:
        _was_returned(ledger.events, batch, m)
    result = _COMPLETED if code == _NO_CODE else _FAILED
    if step in (_GRANT, _DENY):
        _conclude(ledger.events, batch, m, result)
    tell_outcome(ledger, written, m, balance, result, code)
    if reopened:
        tell_wallet(ledger, written, wallet, ledger.wallets.rows[wallet].type)


@kernel
def _take_all(ledger, batch, verdict, written):  # type: ignore[no-untyped-def]
    for m in range(len(verdict)):
        if verdict[m] >= _MALFORMED:
            continue
        if batch.key_ok[m] == 0:
            verdict[m] = _KEY_MISMATCH
        else:
            _take(ledger, batch, m, written)


def apply_transfers(state: AccountState, batch: TransferBatch) -> LedgerResult:
    """Book decoded steps in order. One that cannot be booked is answered, or refused with a code; none is rejected."""
    n = batch.records.n
    state = reserve(state, strings=5 * n, wallets=n, balances=n, events=n)
    verdict, written = batch.verdict.copy(), room_for(n, _LEGS)
    columns = _Transfers(*(getattr(batch, name) for name in _Transfers._fields))
    _take_all(ledger_of(state), columns, verdict, written)
    return result_of(state, verdict, written)


def messages_of(
    state: AccountState, batch: TransactionBatch | TransferBatch, sent: np.ndarray
) -> list[tuple[bytes, bytes]]:
    """The records, (key, value), of SENT rows that a batch of `transactions` or of `transfers` caused."""
    id_place, reverses_place = _OF_TRANSFER if isinstance(batch, TransferBatch) else _OF_EVENT
    charges = batch.charge if isinstance(batch, TransferBatch) else batch.fee
    amounts, refunds = texts_of(decimal_column(sent, "amount")), texts_of(decimal_column(sent, "refund"))
    fees = texts_of(charges[sent["message"]])
    made = []
    for row, amount, refund, fee in zip(sent, amounts, refunds, fees, strict=True):
        m, step = int(row["message"]), _STEPS[row["step"]]
        to = text(state, int(row["user"]))
        is_reversal = step in ("CLAIM", "GRANT", "DENY")
        message = {
            "step": step,
            "transaction_id": _text(batch, id_place, m),
            "user_id": to,
            "wallet_id": text(state, int(row["wallet"])),
            "other_user_id": _text(batch, 1, m),
            "other_wallet_id": _text(batch, _WALLET, m),
            "asset": _text(batch, _ASSET, m),
            "amount": amount,
            "fee": fee if is_reversal else "0",
            "refund": refund,
            "reverses": _text(batch, reverses_place, m) if is_reversal else None,
            "code": Code(row["code"]).name if row["code"] else None,
            "occurred_at": time_text(from_micros(int(batch.occurred_at[m]))),
        }
        made.append((to.encode(), json.dumps(message, separators=(",", ":")).encode()))
    return made


def _text(batch: TransactionBatch | TransferBatch, field: int, m: int) -> str:
    at, size = int(batch.text_at[field, m]), int(batch.text_len[field, m])
    return batch.data[at : at + size].tobytes().decode()
