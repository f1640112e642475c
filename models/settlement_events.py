"""Settlement events as columns, whatever caused them: a trade that was booked, or time that came.

Each says all that its cause did to the wallet, in one row: the shell publishes it on `settlement_events`
(`encode.encode_settlements`) and in ClickHouse, where the double entry of trades and what they changed of balances are
views of these rows (`sinks/migrations.py`). Writing them beside each other made a trade ten rows, and a worker five
times slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from assetstream.models.encode import names_of
from assetstream.models.interning import MAX_BYTES
from assetstream.models.messages import SettlementStatus, Side
from assetstream.models.outcomes import method_of
from assetstream.models.outputs import decimal_column
from assetstream.models.records import Records
from assetstream.models.rows import DUE
from assetstream.models.spans import copy

if TYPE_CHECKING:
    from assetstream.models.decode import TradeBatch
    from assetstream.models.state import AccountState

#: texts of an event; the asset is what the symbol is in (docs/readings.md)
TEXT = ("trade_id", "user_id", "portfolio_id", "wallet_id", "symbol", "currency", "asset", "broker")
_ASSET, _BROKER = TEXT.index("asset"), TEXT.index("broker")
#: where these are in a trade's texts, which have the order id between them
_OF_TRADE = (0, 1, 2, 3, 4, 5, 4, 7)
_SELL, _FAILED = Side.SELL.code, SettlementStatus.FAILED.code


class Holding(NamedTuple):
    """One balance of each event's wallet as it is after it, where the event changed it; else `sequence` is 0."""

    available: np.ndarray  # uint64[n, 2]
    locked: np.ndarray  # uint64[n, 2]
    sequence: np.ndarray  # int64[n], counts what is told of the balance, from 1


def _holding(n: int, events: np.ndarray, changes: np.ndarray) -> Holding:
    """What CHANGE rows say, each of event `events[k]` of n."""
    columns = [np.zeros((n, 2), np.uint64), np.zeros((n, 2), np.uint64), np.zeros(n, np.int64)]
    found = decimal_column(changes, "available"), decimal_column(changes, "locked"), changes["sequence"]
    for column, values in zip(columns, found, strict=True):
        column[events] = values
    return Holding(*columns)


class SettlementBatch(NamedTuple):
    """Settlement events; `text_*[f]` is TEXT[f], into `data`.

    `records` has each event's cause. Amounts: `quantity` of the asset for `amount` of currency, and the trade's `fee`.
    `cash` is the balance of the currency, `asset` that of the asset; money for itself has one, told once.
    """

    records: Records
    data: np.ndarray  # uint8
    details: dict[int, str]  # none
    text_at: np.ndarray  # int64[8, n]
    text_len: np.ndarray  # int32[8, n], −1: null
    quantity: np.ndarray  # uint64[n, 2]
    amount: np.ndarray  # uint64[n, 2]
    fee: np.ndarray  # uint64[n, 2]
    side: np.ndarray  # uint8[n]
    status: np.ndarray  # uint8[n], SettlementStatus
    settles_at: np.ndarray  # int64[n], µs
    occurred_at: np.ndarray  # int64[n], µs
    journal: np.ndarray  # int64[n], each one's number in its partition's journal
    is_booked: np.ndarray  # uint8[n], whether the trade was booked with it: its postings are this event's
    is_virtual: np.ndarray  # uint8[n], whether then its wallet was
    cash_available: np.ndarray  # uint64[n, 2], of a Holding, and so on
    cash_locked: np.ndarray
    cash_sequence: np.ndarray
    asset_available: np.ndarray
    asset_locked: np.ndarray
    asset_sequence: np.ndarray


@njit(cache=True, nogil=True)
def _gather(due, width, strings, names, text_len, out, text_at):  # type: ignore[no-untyped-def]
    """Write the texts of each event one after the other, and where they lie: the id that due row i (`width` bytes)
    begins with, and strings `names[i]`."""
    pos = 0
    for i in range(len(names)):
        for f in range(names.shape[1] + 1):
            size = text_len[f, i]
            text_at[f, i] = pos
            if f == 0:
                copy(out, pos, due, i * width, size)
            else:
                copy(out, pos, strings, np.int64(names[i, f - 1]) * MAX_BYTES, size)
            pos += size


def settled_by_ticks(
    state: AccountState, records: Records, settled: np.ndarray, changes: np.ndarray
) -> SettlementBatch:
    """Of ticks: the TICK_SETTLED rows of what they settled, and its CHANGE rows, one each, in order."""
    rows, due = state.settlements.rows[settled["row"]], state.agenda.rows[settled["item"]]
    balances, portfolios, portfolio = state.balances.rows, state.portfolios.rows, rows["portfolio"]
    wallet = state.wallets.rows["wallet"][balances["wallet"][rows["cash"]]]
    assets = balances["asset"][rows["cash"]], balances["asset"][rows["asset"]]
    names = np.stack(
        [portfolios["user"][portfolio], portfolios["portfolio"][portfolio], wallet, rows["symbol"], *assets], 1
    )
    n = len(rows)
    numbers, which = np.unique(rows["broker"], return_inverse=True)
    brokers = names_of([b"" if number < 0 else method_of(state, number).encode() for number in numbers.tolist()])
    text_at, text_len = np.zeros((len(TEXT), n), np.int64), np.zeros((len(TEXT), n), np.int32)
    text_len[0] = np.strings.str_len(np.ascontiguousarray(due["text"]).view(f"S{MAX_BYTES}")[:, 0])
    text_len[1:_BROKER] = state.lengths[names].T
    texts = np.empty(int(text_len.sum()), np.uint8)
    _gather(due.view(np.uint8), DUE.itemsize, state.strings.rows.view(np.uint8), names, text_len, texts, text_at)
    text_at[_BROKER] = len(texts) + brokers.at[which]
    text_len[_BROKER] = np.where(rows["broker"] < 0, -1, brokers.len[which])
    sells, event = rows["side"] == _SELL, np.arange(n)
    cash_after, asset_after = (_holding(n, event[of], changes[of]) for of in (sells, ~sells))
    return SettlementBatch(
        Records(records.topic, records.partition, records.data, *(column[settled["tick"]] for column in records[3:])),
        np.concatenate([texts, brokers.data]),
        {},
        text_at,
        text_len,
        decimal_column(rows, "quantity"),
        decimal_column(rows, "amount"),
        decimal_column(rows, "fee"),
        rows["side"].copy(),
        np.full(n, SettlementStatus.SETTLED.code, np.uint8),
        due["at"].copy(),
        due["at"].copy(),
        settled["journal"].copy(),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
        *cash_after,
        *asset_after,
    )


def settlements_of(batch: TradeBatch, fills: np.ndarray, told: np.ndarray, changes: np.ndarray) -> SettlementBatch:
    """Of a batch of trades: its FILL rows, the SETTLEMENT_TOLD rows beside them, and its CHANGE rows."""
    message, n = np.ascontiguousarray(told["message"]), len(told)
    text_at, text_len = batch.text_at[:, message][_OF_TRADE, :], batch.text_len[:, message][_OF_TRADE, :]
    text_len[_ASSET] = told["asset_size"]
    of = changes["message"]
    # cash goes before the asset
    is_cash = np.append(of[1:] == of[:-1], False)[: len(of)]
    event = np.searchsorted(message, of)
    return SettlementBatch(
        batch.records._replace(offset=batch.records.offset[message]),
        batch.data,
        {},
        text_at,
        text_len,
        batch.quantity[message],
        decimal_column(fills, "notional"),
        batch.fee[message],
        batch.side[message],
        told["status"],
        told["settles_at"],
        batch.executed_at[message],
        told["journal"],
        (told["status"] != _FAILED).astype(np.uint8),
        told["is_virtual"],
        *_holding(n, event[is_cash], changes[is_cash]),
        *_holding(n, event[~is_cash], changes[~is_cash]),
    )
