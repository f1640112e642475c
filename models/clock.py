"""Time, as messages: what is due by the Kafka timestamp of a tick of the clock happens when the tick is taken.

A tick is a record of the topic `clock`. The owner of a partition writes one when something on its agenda is due,
in its checkpoint's transaction, and takes it like any input. So whoever takes the log again judges the same, and what
happened has a cause. What a tick says is for people to read: only its timestamp, which is the broker's, counts.

A hold expires: the lock goes, the outcome is CANCELLED with EXPIRED. A trade settles: what it brought is unlocked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assetstream.models.agenda import count_due, cross_out, earliest, is_due
from assetstream.models.int128 import get, kernel, put
from assetstream.models.interning import MAX_BYTES, became_final
from assetstream.models.messages import TransactionStatus, from_micros, time_text
from assetstream.models.outputs import HAPPENED, TICK_SETTLED, Code, decimal_column
from assetstream.models.records import Records
from assetstream.models.rows import HOLD_EXPIRES, touch
from assetstream.models.settlement_events import SettlementBatch, settled_by_ticks
from assetstream.models.settlements import settle
from assetstream.models.state import AccountState, agenda_of
from assetstream.models.verdicts import Verdict
from assetstream.models.wallets import (
    LedgerResult,
    holds,
    ledger_of,
    next_entry,
    result_of,
    room_for,
    set_balance,
    tell_outcome,
)

#: what one tick makes happen at most, so that a checkpoint stays small; another tick follows at once
MOST_AT_ONCE = 10_000
_HOLD_EXPIRES = np.uint8(HOLD_EXPIRES)
_CANCELLED, _EXPIRED = np.uint8(TransactionStatus.CANCELLED.code), np.uint8(Code.EXPIRED)
_WORDS = MAX_BYTES // 8
#: texts of what happened: id, user, wallet, asset; and two that events have and it has not
_TEXTS, _ALL_TEXTS = 4, 6


class DueBatch(NamedTuple):
    """What ticks made happen, in order, in the columns of wallet events; texts are the first of TRANSACTION_TEXT."""

    records: Records  # of each the tick that made it happen
    data: np.ndarray  # uint8
    text_at: np.ndarray  # int64[6, n]
    text_len: np.ndarray  # int32[6, n]
    amount: np.ndarray  # uint64[n, 2]
    fee: np.ndarray  # uint64[n, 2]
    occurred_at: np.ndarray  # int64[n], when it was due
    type: np.ndarray  # uint8[n]


@kernel
def _expire(ledger, item, tick, happened, written):  # type: ignore[no-untyped-def]
    """The hold that row `item` of the agenda is about."""
    due, n = ledger.agenda.table.rows[item], written.counts[0]
    row = np.int64(due.about)
    hold, told = ledger.events.table.rows[row], happened[n]
    told.tick, told.type, told.at = np.int32(tick), hold.type, due.at
    for k in range(_WORDS):
        told.text[k] = due.text[k]
    amount = get(hold, "amount")
    put(told, "amount", amount)
    put(told, "fee", get(hold, "fee"))
    own = np.int64(hold.balance)
    available, locked = holds(ledger, own)
    set_balance(ledger, own, available + amount, locked - amount)
    # no status of its own was seen: one that comes now is an illegal transition
    hold.status, hold.flags, hold.due = _CANCELLED, np.uint8(0), np.int32(-1)
    touch(ledger.events.table, row)
    cross_out(ledger.agenda, item)
    became_final(ledger.events, row)
    tell_outcome(ledger, written, n, own, _CANCELLED, _EXPIRED)


@kernel
def _settle(ledger, item, tick, settled, written):  # type: ignore[no-untyped-def]
    """The trade that row `item` of the agenda is about."""
    n, row = written.counts[2], np.int64(ledger.agenda.table.rows[item].about)
    told = settled[n]
    told.tick, told.row, told.item, told.journal = np.int32(tick), np.int32(row), np.int32(item), next_entry(ledger)
    settle(ledger, row, n, written)
    cross_out(ledger.agenda, item)


@kernel
def _take_all(ledger, timestamps, happened, settled, written):  # type: ignore[no-untyped-def]
    """Walk the ticks in order; at each what is due by then, the earliest first."""
    for tick in range(len(timestamps)):
        for _ in range(MOST_AT_ONCE):
            if not is_due(ledger.agenda, 0, timestamps[tick]):
                break
            item = np.int64(ledger.agenda.heap[0])
            if ledger.agenda.table.rows[item].kind == _HOLD_EXPIRES:
                _expire(ledger, item, tick, happened, written)
            else:
                _settle(ledger, item, tick, settled, written)


def apply_ticks(state: AccountState, records: Records) -> tuple[DueBatch, LedgerResult, SettlementBatch]:
    """Let happen what is due by the timestamps of these ticks, one after the other, MOST_AT_ONCE at each.

    The verdict of a tick that finds nothing due is IGNORED. `message` of the outcomes counts in the DueBatch.
    """
    ledger, timestamps = ledger_of(state), np.array(records.timestamp, np.int64)
    n = min(int(count_due(ledger.agenda, timestamps.max())) if records.n else 0, MOST_AT_ONCE * records.n)
    happened, settled, written = np.zeros(n, HAPPENED), np.zeros(n, TICK_SETTLED), room_for(n, 0)
    _take_all(ledger, timestamps, happened, settled, written)
    happened, settled = happened[: written.counts[0]], settled[: written.counts[2]]
    verdict = np.full(records.n, Verdict.IGNORED, np.uint8)
    verdict[happened["tick"]] = verdict[settled["tick"]] = Verdict.APPLIED
    result = result_of(state, verdict, written)
    trades = settled_by_ticks(state, records, settled, result.changes)
    result = result._replace(changes=result.changes[:0])
    return _batch(state, records, happened, result.outcomes["balance"]), result, trades


def _batch(state: AccountState, records: Records, happened: np.ndarray, balances: np.ndarray) -> DueBatch:
    n, tick, balance = len(happened), happened["tick"], state.balances.rows[balances]
    wallet = state.wallets.rows[balance["wallet"]]
    names = np.stack([wallet["user"], wallet["wallet"], balance["asset"]], axis=1)
    texts = np.concatenate([happened["text"][:, None], state.strings.rows["text"][names]], axis=1)
    data = texts.reshape(-1).view(np.uint8)
    text_at, text_len = np.zeros((_ALL_TEXTS, n), np.int64), np.full((_ALL_TEXTS, n), -1, np.int32)
    text_at[:_TEXTS] = MAX_BYTES * np.arange(_TEXTS * n).reshape(n, _TEXTS).T
    text_len[0] = np.strings.str_len(data.view(f"S{MAX_BYTES}")[::_TEXTS])
    text_len[1:_TEXTS] = state.lengths[names].T
    return DueBatch(
        Records(records.topic, records.partition, records.data, *(column[tick] for column in records[3:])),
        data,
        text_at,
        text_len,
        decimal_column(happened, "amount"),
        decimal_column(happened, "fee"),
        happened["at"].copy(),
        happened["type"].copy(),
    )


def next_due(state: AccountState) -> int | None:
    """When the earliest of what is due is due, microseconds UTC; None: nothing is."""
    return earliest(agenda_of(state))


def encode_tick(at: int) -> bytes:
    """A message of `clock` (messages.Tick): the earliest of what is due is due at microsecond `at`."""
    return f'{{"due":"{time_text(from_micros(at))}"}}'.encode()
