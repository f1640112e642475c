"""Settlement events as columns, whatever caused them: a trade that was booked, or time that came.

The shell publishes them on `settlement_events` (`encode.encode_settlements`) and in ClickHouse, and with a trade's the
legs of its double entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.encode import Names, texts
from assetstream.models.int128 import at, inline, kernel
from assetstream.models.interning import MAX_BYTES
from assetstream.models.messages import SettlementStatus, Side
from assetstream.models.outcomes import method_of
from assetstream.models.outputs import Account, decimal_column
from assetstream.models.records import Records
from assetstream.models.wallets import post, room_for

if TYPE_CHECKING:
    from assetstream.models.decode import TradeBatch
    from assetstream.models.state import AccountState

#: texts of an event; the asset is what the symbol is in (docs/readings.md)
TEXT = ("trade_id", "user_id", "portfolio_id", "wallet_id", "symbol", "currency", "asset", "broker")
_USER, _WALLET, _CURRENCY, _ASSET, _BROKER = (
    TEXT.index(name) for name in ("user_id", "wallet_id", "currency", "asset", "broker")
)
#: where these are in a trade's texts, which have the order id between them
_OF_TRADE = (0, 1, 2, 3, 4, 5, 4, 7)
_SELL, _FAILED = Side.SELL.code, SettlementStatus.FAILED.code
_SLASH = np.uint8(ord("/"))
_OF_WALLET, _FEES, _SETTLEMENT = (np.uint8(Account[name]) for name in ("WALLET", "FEES", "SETTLEMENT"))
_NAMES = texts("wallet:", "fees", "settlement:", "unspecified", "virtual")
#: legs of a trade at most
LEGS = 5


class SettlementBatch(NamedTuple):
    """Settlement events; `text_*[f]` is TEXT[f], into `data`.

    `records` has each event's cause. Amounts: `quantity` of the asset for `amount` of currency, and the trade's `fee`.
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
    is_virtual: np.ndarray  # uint8[n], of a trade: whether its wallet is


class Settled(NamedTuple):
    """Settlement events and the balances that moved with them.

    changes  CHANGE rows, `message` counts in `batch`; place int64[n]: that of the balance's asset in TEXT
    """

    batch: SettlementBatch
    changes: np.ndarray
    place: np.ndarray


def settled_by_ticks(state: AccountState, records: Records, settled: np.ndarray, changes: np.ndarray) -> Settled:
    """Of ticks: the TICK_SETTLED rows of what they settled, and its CHANGE rows, one each, in order."""
    rows, due = state.settlements.rows[settled["row"]], state.agenda.rows[settled["item"]]
    cash, asset = state.balances.rows[rows["cash"]], state.balances.rows[rows["asset"]]
    wallet, portfolio = state.wallets.rows[cash["wallet"]], state.portfolios.rows[rows["portfolio"]]
    names = np.stack(
        [portfolio["user"], portfolio["portfolio"], wallet["wallet"], rows["symbol"], cash["asset"], asset["asset"]], 1
    )
    n = len(rows)
    texts = np.concatenate([due["text"][:, None], state.strings.rows["text"][names]], axis=1).reshape(-1).view(np.uint8)
    brokers = [b"" if number < 0 else method_of(state, number).encode() for number in rows["broker"].tolist()]
    text_at, text_len = np.zeros((len(TEXT), n), np.int64), np.zeros((len(TEXT), n), np.int32)
    text_at[:_BROKER] = MAX_BYTES * np.arange(_BROKER * n).reshape(n, _BROKER).T
    text_len[0] = np.strings.str_len(texts.view(f"S{MAX_BYTES}")[::_BROKER])
    text_len[1:_BROKER] = state.lengths[names].T
    sizes = np.array([len(broker) for broker in brokers], np.int32)
    text_at[_BROKER] = len(texts) + np.cumsum(sizes) - sizes
    text_len[_BROKER] = np.where(rows["broker"] < 0, -1, sizes)
    batch = SettlementBatch(
        Records(records.topic, records.partition, records.data, *(column[settled["tick"]] for column in records[3:])),
        np.concatenate([texts, np.frombuffer(b"".join(brokers), np.uint8)]),
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
        np.zeros(n, np.uint8),  # nothing is posted
    )
    return Settled(batch, changes, np.where(rows["side"] == _SELL, _CURRENCY, _ASSET))


def settled_trades(batch: TradeBatch, fills: np.ndarray, told: np.ndarray, changes: np.ndarray) -> Settled:
    """Of a batch of trades: its FILL rows, the SETTLEMENT_TOLD rows beside them, and its CHANGE rows."""
    of = changes["message"]
    # cash goes before the asset; of money for itself there is one balance
    is_cash = np.append(of[1:] == of[:-1], False)[: len(of)]
    rows = changes.copy()
    rows["message"] = np.searchsorted(told["message"], of)
    return Settled(settlements_of(batch, fills, told), rows, np.where(is_cash, _CURRENCY, _ASSET))


def settlements_of(batch: TradeBatch, fills: np.ndarray, told: np.ndarray) -> SettlementBatch:
    """The events of a batch of trades: of its FILL rows, and the SETTLEMENT_TOLD rows beside them."""
    message = np.ascontiguousarray(told["message"])
    text_at, text_len = batch.text_at[:, message][_OF_TRADE, :], batch.text_len[:, message][_OF_TRADE, :]
    text_len[_ASSET] = told["asset_size"]
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
        told["is_virtual"],
    )


# ------------------------------------------------------------------------------------------------------ double entry


@kernel
def _post(quantity, amount, fee, side, status, written):  # type: ignore[no-untyped-def]
    """The legs of each trade, none of one that failed; what leaves the wallet comes first.

    `balance` of a leg is the place of its asset in TEXT. written: a Written, of which postings are filled.
    """
    for i in range(len(side)):
        if status[i] == _FAILED:
            continue
        entry, gives, fees = np.int64(0), at(amount, i), at(fee, i)
        if side[i] == _SELL:
            entry = post(written, i, entry, _OF_WALLET, _ASSET, -1, -at(quantity, i))
            entry = post(written, i, entry, _SETTLEMENT, _ASSET, -1, at(quantity, i))
            entry = post(written, i, entry, _OF_WALLET, _CURRENCY, -1, gives - fees)
            entry = post(written, i, entry, _FEES, _CURRENCY, -1, fees)
            post(written, i, entry, _SETTLEMENT, _CURRENCY, -1, -gives)
        else:
            entry = post(written, i, entry, _OF_WALLET, _CURRENCY, -1, -(gives + fees))
            entry = post(written, i, entry, _FEES, _CURRENCY, -1, fees)
            entry = post(written, i, entry, _SETTLEMENT, _CURRENCY, -1, gives)
            entry = post(written, i, entry, _OF_WALLET, _ASSET, -1, at(quantity, i))
            post(written, i, entry, _SETTLEMENT, _ASSET, -1, -at(quantity, i))


def postings_of(batch: SettlementBatch) -> np.ndarray:
    """POSTING rows of trades; `message` counts in `batch`, `balance` is the place of the leg's asset in TEXT."""
    written = room_for(len(batch.side), LEGS)
    _post(batch.quantity, batch.amount, batch.fee, batch.side, batch.status, written)
    return written.postings[: written.counts[1]]


@inline
def _write(out, pos, data, start, size):  # type: ignore[no-untyped-def]
    for k in range(size):
        out[pos + k] = data[start + k]
    return pos + size


@kernel
def _accounts(data, text_at, text_len, is_virtual, postings, out, at, size):  # type: ignore[no-untyped-def]
    """Write the name of each leg's account to `out`, and where it lies there."""
    pos = np.int64(0)
    for j in range(len(postings)):
        i, start = postings[j].message, pos
        if postings[j].account == _OF_WALLET:
            pos = _write(out, pos, _NAMES[0], 0, len(_NAMES[0]))
            pos = _write(out, pos, data, text_at[_USER, i], text_len[_USER, i])
            out[pos] = _SLASH
            pos = _write(out, pos + 1, data, text_at[_WALLET, i], text_len[_WALLET, i])
        elif is_virtual[i] != 0:
            pos = _write(out, pos, _NAMES[4], 0, len(_NAMES[4]))
        elif postings[j].account == _FEES:
            pos = _write(out, pos, _NAMES[1], 0, len(_NAMES[1]))
        else:
            pos = _write(out, pos, _NAMES[2], 0, len(_NAMES[2]))
            if text_len[_BROKER, i] >= 0:
                pos = _write(out, pos, data, text_at[_BROKER, i], text_len[_BROKER, i])
            else:
                pos = _write(out, pos, _NAMES[3], 0, len(_NAMES[3]))
        at[j], size[j] = start, np.int32(pos - start)


def accounts_of(batch: SettlementBatch, postings: np.ndarray) -> Names:
    """The name of each leg's account."""
    n, of = len(postings), postings["message"]
    at, size = np.empty(n, np.int64), np.empty(n, np.int32)
    longest = 32 + np.maximum(batch.text_len[[_USER, _WALLET, _BROKER]][:, of], 0).sum()
    out = np.empty(32 * n + int(longest), np.uint8)
    data = batch.data.view()
    data.flags.writeable = False
    _accounts(data, batch.text_at, batch.text_len, batch.is_virtual, postings, out, at, size)
    return Names(out, at, size)
