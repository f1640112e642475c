"""Columns and kernel rows to Arrow record batches, one builder a table; no Python object per value.

Decimals and times are handed over as they lie; text is gathered in numba. A batch travels on the `analytics` topic as
an Arrow IPC stream under its table's name, `serialize` and `deserialize`; row k of the message at (partition, offset)
is a row's identity there.

Lengths: n rows of a table; m messages of the input batch. Text comes as `Names`: data uint8, at int64, len int32
(−1: null), in UTF-8.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numba import njit

from assetstream.models.encode import Encoded, Names, names_of
from assetstream.models.messages import SettlementStatus, TransactionStatus, TransactionType, WalletType
from assetstream.models.outputs import NO_TIME, Code, decimal_column
from assetstream.models.records import Records
from assetstream.models.spans import copy
from assetstream.models.verdicts import Verdict
from assetstream.sinks.schema import TABLES

if TYPE_CHECKING:
    from assetstream.models.clock import DueBatch
    from assetstream.models.decode import PriceBatch, TradeBatch, TransactionBatch, TransferBatch
    from assetstream.models.outcomes import BalanceName, Leg
    from assetstream.models.settlement_events import SettlementBatch

SCHEMAS: dict[str, pa.Schema] = {name: table.arrow for name, table in TABLES.items()}

#: most bytes of one serialised message: below what `topics.py` lets into `analytics`, with room for the envelope
MESSAGE_BYTES = 3 << 20

_DECIMAL = pa.decimal128(38, 18)
_TIME = pa.timestamp("us", "UTC")


def _words(*words: str) -> Names:
    return names_of([word.encode() for word in words])


_SIDES = _words("BUY", "SELL")
_ASSET_TYPES = _words("CRYPTO", "FIAT", "STOCK", "ETF", "OTHER")
_ALERT_TYPES = _words("POSITION_LIMIT", "EXPOSURE_LIMIT", "LOSS_LIMIT")
_SEVERITIES = _words("INFO", "WARNING", "CRITICAL")
_STATUSES = _words(*TransactionStatus)
_SETTLEMENT_STATUSES = _words(*SettlementStatus)
_CODES = _words(*(code.name for code in Code))
_TRANSACTION_TYPES = _words(*TransactionType)
_WALLET_TYPES = _words(*WalletType)
_U64 = (1 << 64) - 1
#: 90 and 100 as limbs
_LINES = np.array([[n * 10**18 & _U64, n * 10**18 >> 64] for n in (90, 100)], np.uint64)


# ── columns ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@njit(cache=True, nogil=True)
def _gather(data, at, length, index):
    """Text `index[i]` of each of k columns (rows of `at`, `length`; a negative index is null), in Arrow's form.

    -> offsets int32[k, n + 1] into the bytes, the bytes of all columns, there uint8[k, n], nulls int64[k].
    """
    columns, n = len(at), len(index)
    offsets, there = np.empty((columns, n + 1), np.int32), np.empty((columns, n), np.uint8)
    nulls = np.zeros(columns, np.int64)
    total = np.int64(0)
    for c in range(columns):
        sizes = length[c]
        offsets[c, 0] = total
        for i in range(n):
            size = sizes[index[i]] if index[i] >= 0 else np.int32(-1)
            there[c, i] = size >= 0
            nulls[c] += size < 0
            total += max(size, np.int32(0))
            if total > 0x7FFFFFFF:
                raise OverflowError("more than 2 GiB of text in one batch")
            offsets[c, i + 1] = total
    out = np.empty(total, np.uint8)
    for c in range(columns):
        for i in range(n):
            to, stop = offsets[c, i], offsets[c, i + 1]
            if stop > to:
                copy(out, to, data, at[c, index[i]], stop - to)
    return offsets, out, there, nulls


def texts(data: np.ndarray, at: np.ndarray, length: np.ndarray, index: np.ndarray) -> list[pa.Array]:
    """Utf8 arrays of k text columns at once: `at` int64[k, m], `length` int32[k, m] (−1: null), `index` int[n]."""
    index = np.ascontiguousarray(index, np.int32)
    data = data.view()
    data.flags.writeable = False  # one type for numba, wherever the bytes come from
    offsets, values, there, nulls = _gather(data, at, length, index)
    bytes_ = pa.py_buffer(values)
    return [
        pa.Array.from_buffers(
            pa.utf8(), len(index), [_bits(there[c]) if nulls[c] else None, pa.py_buffer(offsets[c]), bytes_]
        )
        for c in range(len(at))
    ]


def text(names: Names, index: np.ndarray | None = None) -> pa.Array:
    """Utf8 array of text `index[i]` (any integer type), or of all texts in order; null where index or length is −1."""
    if index is None:
        index = np.arange(len(names.at))
    return texts(names.data, names.at[np.newaxis], names.len[np.newaxis], index)[0]


def strings(values: Sequence[str | None]) -> pa.Array:
    """Utf8 array of Python strings. (`pa.array` would import pandas, where there is one, in the middle of the work.)"""
    parts = [None if value is None else value.encode() for value in values]
    sizes = np.array([-1 if part is None else len(part) for part in parts], np.int32)
    ends = np.cumsum(np.maximum(sizes, 0), dtype=np.int64)
    data = np.frombuffer(b"".join(part for part in parts if part), np.uint8)
    return text(Names(data, ends - np.maximum(sizes, 0), sizes))


def constant(value: str, n: int) -> pa.Array:
    """Utf8 array of n times the same text."""
    size = len(raw := value.encode())
    offsets = np.arange(0, (n + 1) * size, size, dtype=np.int32) if size else np.zeros(n + 1, np.int32)
    return pa.Array.from_buffers(pa.utf8(), n, [None, pa.py_buffer(offsets), pa.py_buffer(raw * n)])


def words(codes: np.ndarray, names: Names) -> pa.Array:
    """Utf8 array of the words that uint8 codes stand for; 255 becomes null."""
    return text(names, np.where(codes == 255, -1, codes.astype(np.int32)))


def decimals(limbs: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """decimal128(38, 18) over uint64[n, 2] limbs, low first, without a copy; `null` is a bool mask."""
    limbs = np.ascontiguousarray(limbs)
    return pa.Array.from_buffers(_DECIMAL, len(limbs), [_valid(null), pa.py_buffer(limbs)])


def times(us: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """UTC timestamps over int64 microseconds; `null` is a bool mask."""
    return pa.Array.from_buffers(_TIME, len(us), [_valid(null), pa.py_buffer(np.ascontiguousarray(us))])


def integers(values: np.ndarray, dtype: type[np.integer], null: np.ndarray | None = None) -> pa.Array:
    """int32 or int64 array over numbers of any integer type; `null` is a bool mask."""
    values = np.ascontiguousarray(values, dtype)
    kind = pa.int32() if values.itemsize == 4 else pa.int64()
    return pa.Array.from_buffers(kind, len(values), [_valid(null), pa.py_buffer(values)])


def flags(values: np.ndarray) -> pa.Array:
    """Bool array of anything that is true or false."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def _bits(mask: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.ascontiguousarray(mask, np.bool_), bitorder="little"))


def _valid(null: np.ndarray | None) -> pa.Buffer | None:
    return None if null is None or not null.any() else _bits(~null.astype(np.bool_))


def _batch(table: str, *columns: pa.Array) -> pa.RecordBatch:
    """Columns in the schema's order."""
    return pa.RecordBatch.from_arrays(list(columns), schema=SCHEMAS[table])


def _record_source(
    records: Records, message: np.ndarray, partition: np.ndarray | None = None
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The source columns of rows that records `message` of the batch caused; `partition` of each record, if joined."""
    n = len(message)
    numbers = np.full(n, records.partition) if partition is None else partition[message]
    return constant(records.topic, n), integers(numbers, np.int32), integers(records.offset[message], np.int64)


def _cause(rows: np.ndarray, topics: Names) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The source columns of rows with a CAUSE; `topics` is `encode.cause_topics()`."""
    return (
        text(topics, rows["cause_topic"]),
        integers(rows["cause_partition"], np.int32),
        integers(rows["cause_offset"], np.int64),
    )


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def joined(batches: Sequence[Any]) -> tuple[Any, np.ndarray, np.ndarray]:
    """Decoded batches of several partitions as one.

    -> it, the number in it of each batch's first message, and the partition of each message.

    Small batches are many at a steady load, and building twenty Arrow columns for each would cost more than this.
    """
    records, sizes = batches[0].records, [batch.records.n for batch in batches]
    first = np.cumsum([0, *sizes[:-1]])
    bytes_before = np.cumsum([0, *(len(batch.data) for batch in batches[:-1])])
    special = ("records", "details", "text_at", "text_len", "grants")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in batches[0]._fields
        if name not in special
    }
    columns["text_at"] = np.concatenate([b.text_at + n for b, n in zip(batches, bytes_before, strict=True)], axis=1)
    columns["text_len"] = np.concatenate([batch.text_len for batch in batches], axis=1)
    columns["records"] = records._replace(offset=np.concatenate([batch.records.offset for batch in batches]))
    partition = np.repeat([batch.records.partition for batch in batches], sizes)
    return batches[0]._replace(**columns), first, partition


def fills(batch: TradeBatch, rows: np.ndarray, partition: np.ndarray | None = None) -> pa.RecordBatch:
    """`fills` of FILL rows; their `message` counts in `batch`. `partition` of each message, if `joined`."""
    message = np.ascontiguousarray(rows["message"])
    ids = texts(batch.data, batch.text_at, batch.text_len, message)

    def after(name: str, null: np.ndarray | None = None) -> pa.Array:
        return decimals(decimal_column(rows, name), null)

    return _batch(
        "fills",
        *ids[:6],
        words(batch.side[message], _SIDES),
        decimals(batch.quantity[message]),
        decimals(batch.price[message]),
        decimals(batch.fee[message]),
        times(batch.executed_at[message]),
        *ids[6:],
        words(batch.asset_type[message], _ASSET_TYPES),
        after("notional"),
        after("fill_realized_pnl"),
        after("position_quantity"),
        after("position_cost_basis"),
        after("position_average_price", rows["has_average_price"] == 0),
        after("position_realized_pnl"),
        after("position_fees"),
        *_record_source(batch.records, message, partition),
    )


def portfolio_updates(
    rows: np.ndarray,
    unpriced: np.ndarray,
    names: Names,
    user: np.ndarray,
    portfolio: np.ndarray,
    topics: Names,
    base_currency: str,
) -> pa.RecordBatch:
    """`portfolio_updates` of UPDATE rows; arguments as for `encode.encode_updates`, `topics` is `cause_topics()`."""
    counts = rows["unpriced_n"]
    ends = np.cumsum(counts, dtype=np.int32)
    starts = ends - counts
    # where each row's symbols lie in `unpriced`, one after another
    which = np.arange(int(counts.sum())) + np.repeat(rows["unpriced_at"] - starts, counts)
    lists = pa.ListArray.from_arrays(integers(np.append(0, ends), np.int32), text(names, unpriced[which]))
    amounts = (
        "market_value",
        "cost_basis",
        "realized_pnl",
        "unrealized_pnl",
        "fees",
        "total_pnl",
        "daily_pnl",
        "gross_exposure",
    )
    return _batch(
        "portfolio_updates",
        text(names, user),
        text(names, portfolio),
        constant(base_currency, len(rows)),
        *(decimals(decimal_column(rows, name)) for name in amounts),
        integers(rows["open_positions"], np.int32),
        flags(counts == 0),
        lists,
        times(rows["as_of"]),
        integers(rows["sequence"], np.int64),
        *_cause(rows, topics),
    )


@njit(cache=True, nogil=True)
def _fields(data, ends, marker):
    """Where in each JSON message the string after the first `marker` (its opening quote included) lies."""
    n, size = len(ends), len(marker)
    at, length = np.full(n, -1, np.int64), np.full(n, -1, np.int32)
    start = np.int64(0)
    for i in range(n):
        for pos in range(start, ends[i] - size):
            k = 0
            while k < size and data[pos + k] == marker[k]:
                k += 1
            if k == size:
                stop = pos + size
                while data[stop] != np.uint8(34):
                    stop += 1
                at[i], length[i] = pos + size, stop - pos - size
                break
        start = ends[i]
    return at, length


def _field(encoded: Encoded, name: str) -> pa.Array:
    """A string field of published messages that holds no character JSON escapes: the very text that was sent."""
    data, ends = encoded
    marker = np.frombuffer(f'"{name}":"'.encode(), np.uint8)
    return text(Names(data, *_fields(data, ends, marker)))


def risk_alerts(
    rows: np.ndarray, encoded: Encoded, names: Names, user: np.ndarray, portfolio: np.ndarray, topics: Names
) -> pa.RecordBatch:
    """`risk_alerts` of ALERT rows; `encoded` is what `encode.encode_alerts` made of them: id and message are its."""
    n = len(rows)
    return _batch(
        "risk_alerts",
        _field(encoded, "alert_id"),
        text(names, user),
        text(names, portfolio),
        words(rows["type"], _ALERT_TYPES),
        words(rows["severity"], _SEVERITIES),
        text(names, rows["symbol"]),
        _field(encoded, "message"),
        decimals(decimal_column(rows, "value")),
        decimals(decimal_column(rows, "limit"), rows["has_limit"] == 0),
        decimals(_LINES[(rows["line"] == 100).astype(np.int64)]),
        flags(rows["is_resolved"]),
        constant("NONE", n),
        times(rows["created_at"]),
        *_cause(rows, topics),
    )


@njit(cache=True, nogil=True)
def _put(out, pos, data, at, n):
    for k in range(n):
        out[pos + k] = data[at + k]
    return pos + n


def transactions(
    batch: TransactionBatch | TransferBatch | DueBatch, rows: np.ndarray, partition: np.ndarray | None = None
) -> pa.RecordBatch:
    """`transactions` of OUTCOME rows; their `message` counts in `batch`. `partition` of each message, if `joined`."""
    message = np.ascontiguousarray(rows["message"])
    transaction, user, wallet, asset, external, method = texts(
        batch.data, batch.text_at[:6], batch.text_len[:6], message
    )
    code = np.where(rows["code"] == Code.NONE, 255, rows["code"])
    rate = decimal_column(rows, "rate")
    no_rate = (rate[:, 0] | rate[:, 1]) == 0
    no_time = no_rate | (rows["rate_as_of"] == NO_TIME)
    return _batch(
        "transactions",
        transaction,
        user,
        wallet,
        external,
        method,
        words(batch.type[message], _TRANSACTION_TYPES),
        asset,
        decimals(batch.amount[message]),
        decimals(batch.fee[message]),
        words(rows["status"], _STATUSES),
        words(code, _CODES),
        decimals(decimal_column(rows, "total")),
        decimals(decimal_column(rows, "available")),
        decimals(decimal_column(rows, "locked")),
        integers(rows["sequence"], np.int64),
        decimals(rate, no_rate),
        times(np.where(no_time, 0, rows["rate_as_of"]), no_time),
        decimals(decimal_column(rows, "spread_bps"), no_rate),
        times(batch.occurred_at[message]),
        words(rows["tells"] - np.uint8(1), _WALLET_TYPES),  # 0, nothing, becomes 255
        integers(rows["resets"], np.int32, rows["tells"] == 0),
        *_record_source(batch.records, message, partition),
    )


def ledger_entries(
    batch: TransactionBatch | TransferBatch | DueBatch,
    rows: np.ndarray,
    legs: Sequence[Leg],
    partition: np.ndarray | None = None,
) -> pa.RecordBatch:
    """`ledger_entries` of POSTING rows, whose `message` counts in `batch`; `partition` of each message, if `joined`."""
    message = np.ascontiguousarray(rows["message"])
    transaction, user = texts(batch.data, batch.text_at[:2], batch.text_len[:2], message)
    return _batch(
        "ledger_entries",
        user,
        transaction,
        strings([leg.account for leg in legs]),
        strings([leg.asset for leg in legs]),
        decimals(decimal_column(rows, "amount")),
        integers(rows["entry"], np.int32),
        times(batch.occurred_at[message]),
        *_record_source(batch.records, message, partition),
    )


def settlements(batch: SettlementBatch, partition: np.ndarray) -> pa.RecordBatch:
    """`settlements` of settlement events; `partition` of each one's cause."""
    every = np.arange(len(batch.side))
    trade, user, portfolio, wallet, symbol, currency, asset, broker = texts(
        batch.data, batch.text_at, batch.text_len, every
    )
    return _batch(
        "settlements",
        user,
        portfolio,
        wallet,
        trade,
        words(batch.status, _SETTLEMENT_STATUSES),
        currency,
        decimals(batch.amount),
        broker,
        symbol,
        words(batch.side, _SIDES),
        asset,
        decimals(batch.quantity),
        decimals(batch.fee),
        times(batch.settles_at),
        flags(batch.is_booked),
        flags(batch.is_virtual),
        *_holding(batch.cash_available, batch.cash_locked, batch.cash_sequence),
        *_holding(batch.asset_available, batch.asset_locked, batch.asset_sequence),
        times(batch.occurred_at),
        *_record_source(batch.records, every, partition),
    )


def _holding(available: np.ndarray, locked: np.ndarray, sequence: np.ndarray) -> tuple[pa.Array, pa.Array, pa.Array]:
    """What a balance is after each event; null where the event didn't change it."""
    null = sequence == 0
    return decimals(available, null), decimals(locked, null), integers(sequence, np.int64, null)


def balance_changes(
    batch: TransactionBatch | TransferBatch | DueBatch,
    rows: np.ndarray,
    names: Sequence[BalanceName],
    partition: np.ndarray | None = None,
) -> pa.RecordBatch:
    """`balance_changes` of CHANGE rows, whose `message` counts in `batch`; `partition` of each message, if `joined`."""
    message = np.ascontiguousarray(rows["message"])
    (transaction,) = texts(batch.data, batch.text_at[:1], batch.text_len[:1], message)
    return _batch(
        "balance_changes",
        strings([name.user_id for name in names]),
        strings([name.wallet_id for name in names]),
        strings([name.asset for name in names]),
        transaction,
        *(decimals(decimal_column(rows, column)) for column in ("total", "available", "locked")),
        integers(rows["sequence"], np.int64),
        times(batch.occurred_at[message]),
        *_record_source(batch.records, message, partition),
    )


def prices(batch: PriceBatch, message: np.ndarray, partition: np.ndarray | None = None) -> pa.RecordBatch:
    """`prices` of the accepted ones, messages `message` (int[n]); `partition` of each message, if `joined`."""
    symbol, currency, source = texts(batch.data, batch.text_at, batch.text_len, message)
    return _batch(
        "prices",
        symbol,
        decimals(batch.price[message]),
        currency,
        times(batch.as_of[message]),
        decimals(batch.bid[message], batch.has_bid[message] == 0),
        decimals(batch.ask[message], batch.has_ask[message] == 0),
        source,
        *_record_source(batch.records, message, partition),
    )


def dead_letters(
    records: Records, message: Sequence[int], verdict: Sequence[int], detail: Sequence[str], rejected_at: np.ndarray
) -> pa.RecordBatch:
    """`dead_letters` of the rejected records `message` of the batch, with `verdict`, `detail` and time (us) of each.

    Rejections are few and long, so this one walks them in Python.
    """

    def encoded(part: bytes | None) -> str | None:
        return None if part is None else base64.b64encode(part).decode()

    source = _record_source(records, np.asarray(message, np.int64))
    return _batch(
        "dead_letters",
        strings([f"{records.topic}-{records.partition}-{records.offset[i]}" for i in message]),
        *source,
        strings([encoded(records.key(i)) for i in message]),
        strings([encoded(records.value(i)) for i in message]),
        strings([Verdict(int(v)).reason for v in verdict]),
        strings(detail),
        times(rejected_at),
        *source,
    )


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stream_ends(schema: pa.Schema) -> tuple[bytes, bytes]:
    """What an Arrow IPC stream of this schema begins and ends with: the same for every batch."""
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, schema):
        pass
    whole = out.getvalue().to_pybytes()
    return whole[:-8], whole[-8:]


_ENDS = {name: _stream_ends(schema) for name, schema in SCHEMAS.items()}


def serialize(table: str, batch: pa.RecordBatch, limit: int = MESSAGE_BYTES) -> list[bytes]:
    """Arrow IPC streams of a table's batch, in row order, each about `limit` bytes at most; none when it has no rows.

    Raises ValueError when the batch has another schema than the table.
    """
    if not batch.schema.equals(SCHEMAS[table]):
        raise ValueError(f"not a batch of {table}: {batch.schema}")
    if batch.num_rows == 0:
        return []
    head, tail = _ENDS[table]
    if batch.num_rows == 1 or len(head) + pa.ipc.get_record_batch_size(batch) + len(tail) <= limit:
        return [b"".join((head, batch.serialize(), tail))]
    half = batch.num_rows // 2
    return [*serialize(table, batch.slice(0, half), limit), *serialize(table, batch.slice(half), limit)]


def deserialize(data: bytes) -> pa.RecordBatch:
    """The one batch of a serialised message; raises pa.ArrowInvalid for anything else."""
    with pa.ipc.open_stream(data) as reader:
        batches = list(reader)
    if len(batches) != 1:
        raise pa.ArrowInvalid(f"{len(batches)} record batches in one message")
    return batches[0]


def combine(messages: Sequence[bytes]) -> tuple[bytes, int]:
    """One stream of one batch with the rows of all serialised messages of a table, in order; and how many they are.

    Messages of a newer or older worker may have other columns: what one lacks is null in its rows.
    """
    batches = [deserialize(message) for message in messages]
    schema = batches[0].schema
    if all(batch.schema.equals(schema) for batch in batches):
        whole = pa.concat_batches(batches)
    else:
        tables = pa.concat_tables([pa.Table.from_batches([b]) for b in batches], promote_options="default")
        (whole,) = tables.combine_chunks().to_batches()
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, whole.schema) as writer:
        writer.write_batch(whole)
    return out.getvalue().to_pybytes(), whole.num_rows
