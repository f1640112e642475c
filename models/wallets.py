"""What kernels of the ledger share: balances found, opened and set, postings and outcomes written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import get, inline, kernel, put, zero
from assetstream.models.interning import (
    Events,
    find_id,
    find_pair,
    find_string,
    intern,
    pair,
    put_id,
    put_pair,
    word_at,
)
from assetstream.models.messages import TransactionStatus, WalletType
from assetstream.models.outputs import CHANGE, OUTCOME, POSTING, SENT, Account
from assetstream.models.rows import CLOSED, OPENED, TOLD_OF, Table, append, longer, touch
from assetstream.models.state import JOURNAL_HEAD, agenda_of, events_of, strings_of

if TYPE_CHECKING:
    from assetstream.models.agenda import Agenda
    from assetstream.models.interning import Strings
    from assetstream.models.state import AccountState

_PENDING, _PROCESSING = (np.uint8(TransactionStatus[name].code) for name in ("PENDING", "PROCESSING"))
#: the place of the user among the texts of a batch
_USER = 1
_VIRTUAL = np.uint8(WalletType.VIRTUAL.code)
_OF_WALLET, _AGAINST_VIRTUAL = np.uint8(Account.WALLET), np.uint8(Account.VIRTUAL)


class Ledger(NamedTuple):
    """Wallets, balances and transactions with their indexes, as kernels take them.

    A wallet's balances are a list: last_balance uint32[wallets] is the one that was opened last, + 1, balance_before
    uint32[balances] that which was opened before each, + 1; 0: none.
    """

    strings: Strings
    wallets: Table
    balances: Table
    grants: Table
    methods: Table
    words: Table
    settlements: Table
    wallet_index: np.ndarray
    last_balance: np.ndarray
    balance_index: np.ndarray
    balance_before: np.ndarray
    method_index: np.ndarray
    events: Events
    agenda: Agenda


class Written(NamedTuple):
    """Where kernels write; counts = (outcomes, postings, changes, sent)."""

    outcomes: np.ndarray
    postings: np.ndarray
    changes: np.ndarray
    sent: np.ndarray
    counts: np.ndarray


class LedgerResult(NamedTuple):
    """What became of a batch of wallet events, of transfers, or of what ticks of the clock made happen.

    verdict   uint8[n], Verdict of each message; a refusal for want of funds is APPLIED
    outcomes  OUTCOME rows of the applied ones, in order
    postings  POSTING rows, those of an outcome together, in order
    changes   CHANGE rows: the other balances of those that moved some beside their own
    sent      SENT rows: what is to be told to another user's partition
    """

    state: AccountState
    verdict: np.ndarray
    outcomes: np.ndarray
    postings: np.ndarray
    changes: np.ndarray
    sent: np.ndarray


def ledger_of(state: AccountState) -> Ledger:
    """The ledger of a partition."""
    tables = (getattr(state, name) for name in Ledger._fields[1:-2])
    return Ledger(strings_of(state), *tables, events_of(state), agenda_of(state))


def room_for(messages: int, legs: int) -> Written:
    """Room for what so many messages write, each with so many postings at most."""
    rows = [np.zeros(n, kind) for n, kind in ((messages, OUTCOME), (legs * messages, POSTING), (messages, CHANGE))]
    return Written(*rows, np.zeros(messages, SENT), np.zeros(4, np.int64))


def with_more_room(written: Written) -> Written:
    """The same with twice the room for postings and changes."""
    more = (longer(rows, 2 * len(rows)) for rows in (written.postings, written.changes))
    return Written(written.outcomes, *more, written.sent, written.counts)


def result_of(state: AccountState, verdict: np.ndarray, written: Written) -> LedgerResult:
    """What was written."""
    return LedgerResult(
        state, verdict, *(rows[:count] for rows, count in zip(written[:4], written.counts.tolist(), strict=True))
    )


@inline
def is_open(status):  # type: ignore[no-untyped-def]
    """Whether a transaction of this status may get another one."""
    return status in (_PENDING, _PROCESSING)


# ------------------------------------------------------------------------------------------------- finding and opening


@inline
def _find_text(strings, batch, f, m):  # type: ignore[no-untyped-def]
    size = np.int64(batch.text_len[f, m])
    number, _ = find_string(
        strings.table.rows, strings.lengths, strings.index, batch.data, batch.text_at[f, m], max(size, np.int64(0))
    )
    return number


@kernel
def find_wallet(ledger, batch, m, wallet_text):  # type: ignore[no-untyped-def]
    """The row of a wallet of message m's user, by its place in the texts; −1: not known yet."""
    user = _find_text(ledger.strings, batch, _USER, m)
    name = _find_text(ledger.strings, batch, wallet_text, m)
    wallet = np.int64(-1)
    if user >= 0 and name >= 0:
        wallet, _ = find_pair(ledger.wallet_index, pair(user, name))
    return wallet


@kernel
def find_balance(ledger, batch, m, wallet_text, asset_text):  # type: ignore[no-untyped-def]
    """The row of a balance of message m's user, by the places of wallet and asset in its texts; −1: not opened yet."""
    wallet = find_wallet(ledger, batch, m, wallet_text)
    asset = _find_text(ledger.strings, batch, asset_text, m)
    balance = np.int64(-1)
    if wallet >= 0 and asset >= 0:
        balance, _ = find_pair(ledger.balance_index, pair(wallet, asset))
    return balance


@inline
def intern_text(strings, batch, f, m):  # type: ignore[no-untyped-def]
    """The number of text f of message m."""
    return intern(strings, batch.data, batch.text_at[f, m], np.int64(batch.text_len[f, m]))


@kernel
def enter_wallet(ledger, batch, m, wallet_text):  # type: ignore[no-untyped-def]
    """As `find_wallet`; a new one is told of, not opened yet."""
    user = intern_text(ledger.strings, batch, _USER, m)
    name = intern_text(ledger.strings, batch, wallet_text, m)
    return wallet_of_user(ledger, user, name)


@kernel
def wallet_of_user(ledger, user, name):  # type: ignore[no-untyped-def]
    """The row of a user's wallet by the numbers of two strings; a new one is told of, not opened yet."""
    key = pair(user, name)
    wallet, slot = find_pair(ledger.wallet_index, key)
    if wallet < 0:
        wallet = append(ledger.wallets)
        row = ledger.wallets.rows[wallet]
        row.user, row.wallet = np.uint32(user), np.uint32(name)
        put_pair(ledger.wallet_index, slot, key, wallet)
    return wallet


@kernel
def enter_balance(ledger, wallet, asset):  # type: ignore[no-untyped-def]
    """The row of a wallet's balance of an asset, the number of a string; a new one is 0."""
    key = pair(wallet, asset)
    balance, slot = find_pair(ledger.balance_index, key)
    if balance < 0:
        balance = append(ledger.balances)
        held = ledger.balances.rows[balance]
        held.wallet, held.asset = np.uint32(wallet), np.uint32(asset)
        put_pair(ledger.balance_index, slot, key, balance)
        ledger.balance_before[balance] = ledger.last_balance[wallet]
        ledger.last_balance[wallet] = np.uint32(balance + 1)
    return balance


@kernel
def keep_text(ledger, batch, field, m):  # type: ignore[no-untyped-def]
    """The number of a free text of message m, whose hash is its `method`: kept when it is new; −1: it has none."""
    size = np.int64(batch.text_len[field, m])
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
            ledger.words.rows[word].word = word_at(batch.data, batch.text_at[field, m] + k, min(8, size - k))
        put_id(ledger.method_index, lo, found)
    return found


@inline
def open_wallet(ledger, wallet):  # type: ignore[no-untyped-def]
    """One that isn't opened yet is, by an event that just names it: REAL, in base currency."""
    if ledger.wallets.rows[wallet].status == TOLD_OF:
        ledger.wallets.rows[wallet].status = np.uint8(OPENED)
        touch(ledger.wallets, wallet)


@kernel
def open_balance(ledger, batch, m, wallet_text, asset_text):  # type: ignore[no-untyped-def]
    """As `find_balance`; wallet and balance are opened when they are new."""
    wallet = enter_wallet(ledger, batch, m, wallet_text)
    open_wallet(ledger, wallet)
    return enter_balance(ledger, wallet, intern_text(ledger.strings, batch, asset_text, m))


# ---------------------------------------------------------------------------------------------------- kinds of wallets


@inline
def wallet_of(ledger, balance):  # type: ignore[no-untyped-def]
    """The wallet of a balance."""
    return np.int64(ledger.balances.rows[balance].wallet)


@inline
def is_closed(ledger, wallet):  # type: ignore[no-untyped-def]
    """Whether a wallet (−1: one that isn't known) is closed."""
    return wallet >= 0 and ledger.wallets.rows[wallet].status == CLOSED


@inline
def is_virtual(ledger, wallet):  # type: ignore[no-untyped-def]
    """Whether what is in a wallet (−1: one that isn't known) is no real money."""
    return wallet >= 0 and ledger.wallets.rows[wallet].type == _VIRTUAL


@inline
def reopen_wallet(ledger, wallet):  # type: ignore[no-untyped-def]
    """Whether it was closed; it is open now."""
    if not is_closed(ledger, wallet):
        return False
    ledger.wallets.rows[wallet].status = np.uint8(OPENED)
    touch(ledger.wallets, wallet)
    return True


@inline
def against_virtual(written, first):  # type: ignore[no-untyped-def]
    """Of postings from `first` on: what isn't in a wallet goes to `virtual`, and so into no total of real money."""
    for k in range(first, written.counts[1]):
        posting = written.postings[k]
        if posting.account != _OF_WALLET:
            posting.account, posting.method = _AGAINST_VIRTUAL, np.int32(-1)


# ------------------------------------------------------------------------------------------------ balances and outputs


@inline
def holds(ledger, balance):  # type: ignore[no-untyped-def]
    """(available, locked) of a balance row; of none, 0."""
    available, locked = zero(), zero()
    if balance >= 0:
        row = ledger.balances.rows[balance]
        available, locked = get(row, "available"), get(row, "locked")
    return available, locked


@inline
def set_balance(ledger, balance, available, locked):  # type: ignore[no-untyped-def]
    """Write a balance."""
    row = ledger.balances.rows[balance]
    put(row, "available", available)
    put(row, "locked", locked)
    touch(ledger.balances, balance)


@inline
def _tell_balance(ledger, balance, row):  # type: ignore[no-untyped-def]
    held = ledger.balances.rows[balance]
    held.sequence += 1
    touch(ledger.balances, balance)
    available, locked = get(held, "available"), get(held, "locked")
    put(row, "total", available + locked)
    put(row, "available", available)
    put(row, "locked", locked)
    row.sequence = held.sequence


@inline
def next_entry(ledger):  # type: ignore[no-untyped-def]
    """The number of the partition's next entry in its journal: outcomes and settlement events, as they are booked."""
    head = ledger.events.heads.rows[JOURNAL_HEAD]
    head.next += 1
    touch(ledger.events.heads, JOURNAL_HEAD)
    return head.next


@inline
def tell_outcome(ledger, written, message, balance, status, code):  # type: ignore[no-untyped-def]
    """What became of an event, with its balance as it is now."""
    outcome = written.outcomes[written.counts[0]]
    written.counts[0] += 1
    outcome.message, outcome.balance, outcome.status, outcome.code = np.int32(message), np.int32(balance), status, code
    outcome.journal = next_entry(ledger)
    _tell_balance(ledger, balance, outcome)


@inline
def tell_wallet(ledger, written, wallet, kind):  # type: ignore[no-untyped-def]
    """With the last outcome: of which type its wallet is, and how often it was reset."""
    outcome = written.outcomes[written.counts[0] - 1]
    outcome.tells, outcome.resets = np.uint8(kind + 1), np.int32(ledger.wallets.rows[wallet].resets)


@inline
def announce_change(written, message, balance):  # type: ignore[no-untyped-def]
    """That a balance beside an event's own changes; how it is then is told by `tell_changes`."""
    change = written.changes[written.counts[2]]
    written.counts[2] += 1
    change.message, change.balance = np.int32(message), np.int32(balance)


@inline
def tell_changes(ledger, written, first):  # type: ignore[no-untyped-def]
    """How the balances that were announced from `first` on are now."""
    for k in range(first, written.counts[2]):
        _tell_balance(ledger, written.changes[k].balance, written.changes[k])


@inline
def tell_change(ledger, written, message, balance):  # type: ignore[no-untyped-def]
    """That a balance beside an event's own changed, and how it is now."""
    announce_change(written, message, balance)
    tell_changes(ledger, written, written.counts[2] - 1)


@inline
def post(written, message, entry, account, balance, method, amount):  # type: ignore[no-untyped-def]
    """One leg, unless it is zero. -> the number of the next one."""
    if amount == zero():
        return entry
    posting = written.postings[written.counts[1]]
    written.counts[1] += 1
    posting.message, posting.entry = np.int32(message), np.int32(entry)
    posting.account, posting.balance, posting.method = account, np.int32(balance), np.int32(method)
    put(posting, "amount", amount)
    return entry + 1


@inline
def send(written, message, step, code, user, wallet, amount, refund):  # type: ignore[no-untyped-def]
    """Tell another user's partition; `user` and `wallet` are numbers of strings."""
    sent = written.sent[written.counts[3]]
    written.counts[3] += 1
    sent.message, sent.step, sent.code = np.int32(message), step, code
    sent.user, sent.wallet = np.int32(user), np.int32(wallet)
    put(sent, "amount", amount)
    put(sent, "refund", refund)
