"""Wallets: deposits, withdrawals and fees move balances, by postings that sum to zero (interface, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import add, at, get, inline, is_negative, kernel, put, zero
from assetstream.models.interning import find_id, find_pair, find_string, intern, pair, put_pair, remember
from assetstream.models.messages import BOOKED_TYPES
from assetstream.models.outputs import OUTCOME, POSTING, Account, Code
from assetstream.models.rows import Table, append, touch
from assetstream.models.state import reserve, strings_of, transaction_ids_of
from assetstream.models.verdicts import Verdict

if TYPE_CHECKING:
    from assetstream.models.decode import TransactionBatch
    from assetstream.models.state import AccountState

#: places of an event's texts in the batch
_USER, _WALLET, _ASSET = 1, 2, 3
_DEPOSIT, _WITHDRAWAL, _FEE = (kind.code for kind in BOOKED_TYPES)
_OF_WALLET, _EXTERNAL, _FEES = (np.uint8(Account[name]) for name in ("WALLET", "EXTERNAL", "FEES"))
_INSUFFICIENT = np.uint8(Code.INSUFFICIENT_FUNDS)
#: legs of one outcome at most
_LEGS = 3

_APPLIED, _DUPLICATE = np.uint8(Verdict.APPLIED), np.uint8(Verdict.DUPLICATE)
_MALFORMED, _OUT_OF_RANGE = np.uint8(Verdict.MALFORMED), np.uint8(Verdict.OUT_OF_RANGE)
_KEY_MISMATCH, _CONFLICT = np.uint8(Verdict.KEY_MISMATCH), np.uint8(Verdict.CONFLICT)


class LedgerResult(NamedTuple):
    """What became of a batch of wallet events.

    verdict   uint8[n], Verdict of each message; a refusal for want of funds is APPLIED
    outcomes  OUTCOME rows of the applied ones, in order
    postings  POSTING rows, those of an outcome together, in order
    """

    state: AccountState
    verdict: np.ndarray
    outcomes: np.ndarray
    postings: np.ndarray


class Wallets(NamedTuple):
    """Wallets and balances with their indexes, as kernels take them."""

    wallets: Table
    balances: Table
    wallet_index: np.ndarray
    balance_index: np.ndarray


class _Events(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    type: np.ndarray
    id: np.ndarray
    body: np.ndarray


@inline
def _movement(kind, amount, fee):  # type: ignore[no-untyped-def]
    """(of the wallet, of `fees`, of the outside, whether all is in range): what an event moves; they sum to zero."""
    if kind == _DEPOSIT:
        return amount - fee, fee, -amount, True
    if kind == _WITHDRAWAL:
        taken, good = add(amount, fee)
        return -taken, fee, amount, good
    return -amount, amount, zero(), True


@inline
def _post(postings, n, message, entry, account, amount):  # type: ignore[no-untyped-def]
    """One leg, unless it is zero. -> the next (n, entry)."""
    if amount == zero():
        return n, entry
    posting = postings[n]
    posting.message, posting.entry, posting.account = np.int32(message), np.int32(entry), account
    put(posting, "amount", amount)
    return n + 1, entry + 1


@kernel
def _open(strings, ledger, batch, m):  # type: ignore[no-untyped-def]
    """The balance row of an accepted event; wallet and balance are opened when they are new."""
    text, starts, sizes = batch.data, batch.text_at, batch.text_len
    user = intern(strings, text, starts[_USER, m], np.int64(sizes[_USER, m]))
    name = intern(strings, text, starts[_WALLET, m], np.int64(sizes[_WALLET, m]))
    asset = intern(strings, text, starts[_ASSET, m], np.int64(sizes[_ASSET, m]))
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
def _find(strings, ledger, batch, m):  # type: ignore[no-untyped-def]
    """The balance row of an event, −1 when there is none yet."""
    text, starts, sizes = batch.data, batch.text_at, batch.text_len
    rows, lengths, index = strings.table.rows, strings.lengths, strings.index
    user, _ = find_string(rows, lengths, index, text, starts[_USER, m], np.int64(sizes[_USER, m]))
    name, _ = find_string(rows, lengths, index, text, starts[_WALLET, m], np.int64(sizes[_WALLET, m]))
    asset, _ = find_string(rows, lengths, index, text, starts[_ASSET, m], np.int64(sizes[_ASSET, m]))
    balance = np.int64(-1)
    if user >= 0 and name >= 0 and asset >= 0:
        wallet, _ = find_pair(ledger.wallet_index, pair(user, name))
        if wallet >= 0:
            balance, _ = find_pair(ledger.balance_index, pair(wallet, asset))
    return balance


@kernel
def _events(strings, ledger, ids, batch, verdict, outcomes, postings, counts):  # type: ignore[no-untyped-def]
    """Walk the batch in order; counts = (outcomes, postings) written."""
    n_outcomes, n_postings = np.int64(0), np.int64(0)
    for m in range(len(verdict)):
        if verdict[m] >= _MALFORMED:
            continue
        kind, amount = batch.type[m], at(batch.amount, m)
        moved, fees, outside, good = _movement(kind, amount, at(batch.fee, m))
        if not good:
            verdict[m] = _OUT_OF_RANGE
            continue
        if batch.key_ok[m] == 0:
            verdict[m] = _KEY_MISMATCH
            continue
        id_lo, id_hi, body = batch.id[m, 0], batch.id[m, 1], batch.body[m, 0]
        seen = find_id(ids.table.rows, ids.index, id_lo, id_hi)
        if seen >= 0 and ids.table.rows[seen].body == body:
            verdict[m] = _DUPLICATE
            continue
        balance = _find(strings, ledger, batch, m)
        available = zero()
        if balance >= 0:
            available = get(ledger.balances.rows[balance], "available")
        after, good = add(available, moved)
        refused = is_negative(moved) and is_negative(after)
        if not refused and not good:
            verdict[m] = _OUT_OF_RANGE
            continue
        if seen >= 0:
            verdict[m] = _CONFLICT
            continue

        # accepted
        remember(ids, id_lo, id_hi, body)
        if balance < 0:
            balance = _open(strings, ledger, batch, m)
        row = ledger.balances.rows[balance]
        if not refused:
            put(row, "available", after)
            touch(ledger.balances, balance)
            entry = np.int64(0)
            n_postings, entry = _post(postings, n_postings, m, entry, _OF_WALLET, moved)
            n_postings, entry = _post(postings, n_postings, m, entry, _FEES, fees)
            n_postings, entry = _post(postings, n_postings, m, entry, _EXTERNAL, outside)
        out = outcomes[n_outcomes]
        n_outcomes += 1
        out.message, out.wallet, out.balance = np.int32(m), np.int32(row.wallet), np.int32(balance)
        out.failed, out.code = np.uint8(refused), _INSUFFICIENT if refused else np.uint8(0)
        available, locked = get(row, "available"), get(row, "locked")
        put(out, "total", available + locked)
        put(out, "available", available)
        put(out, "locked", locked)
    counts[0], counts[1] = n_outcomes, n_postings


def apply_transactions(state: AccountState, batch: TransactionBatch) -> LedgerResult:
    """Apply decoded wallet events in order: COMPLETED deposits, withdrawals and fees, all that `decode` lets through.

    Rejections of `batch.verdict` stay; a rejected or repeated message changes nothing. `batch` is not changed.
    """
    n = batch.records.n
    state = reserve(state, strings=3 * n, wallets=n, balances=n, transaction_ids=n)
    verdict = batch.verdict.copy()
    outcomes, postings, counts = np.empty(n, OUTCOME), np.empty(_LEGS * n, POSTING), np.zeros(2, np.int64)
    columns = _Events(
        batch.data,
        batch.text_at,
        batch.text_len,
        batch.key_ok,
        batch.amount,
        batch.fee,
        batch.type,
        batch.id,
        batch.body,
    )
    ledger = Wallets(state.wallets, state.balances, state.wallet_index, state.balance_index)
    _events(strings_of(state), ledger, transaction_ids_of(state), columns, verdict, outcomes, postings, counts)
    return LedgerResult(state, verdict, outcomes[: counts[0]], postings[: counts[1]])
