"""From raw records to columns: each topic's batch of messages as arrays that the kernels take.

Fast path: one numba pass over flat JSON. What it doesn't understand, or would not accept, is decoded again by the
strict parser (`messages.parse`), which has the last word; both fill the same columns.

Columns: decimals `uint64[n, 2]` limbs at scale 18; times `int64` microseconds UTC; enums `uint8` codes, 255: null;
text as spans `(at, len)` into the batch's `data`, one row a field, len −1: null; ids and bodies SipHash-1-3-128,
`uint64[n, 2]`. Only rows with verdict 0 have meaningful columns, `key_ok` included; in all others they are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from assetstream.models import messages
from assetstream.models.decimals import OK, from_units, is_positive, limbs, parse_decimal, to_units, units
from assetstream.models.jsonscan import (
    ABSENT,
    AT,
    CHARS,
    KIND,
    LENGTH,
    IDS,
    NUMBER,
    STRING,
    SYMBOLS,
    TEXTS,
    fields,
    match,
    parse_instant,
    scan,
    scratch,
    value,
)
from assetstream.models.messages import Input, Rejection, codes, from_micros, parse, time_text, to_micros
from assetstream.models.records import Records
from assetstream.models.siphash import absorb, absorb_text, finish, hash_span, start
from assetstream.models.spans import load8, window
from assetstream.models.verdicts import Verdict

_inline = njit(cache=True, nogil=True, inline="always")

#: a time that is null
NO_TIME = np.iinfo(np.int64).min
#: an enum that is null
NO_CODE = 255

_MALFORMED, _INVALID = int(Verdict.MALFORMED), int(Verdict.INVALID)
# in `verdict` while a batch is being decoded: to be decoded by the strict parser
_SLOW = 255

TRADE_TEXT = (
    "trade_id",
    "user_id",
    "portfolio_id",
    "wallet_id",
    "symbol",
    "currency",
    "order_id",
    "broker",
)
PRICE_TEXT = ("symbol", "currency", "source")
TRANSACTION_TEXT = (
    "transaction_id",
    "user_id",
    "wallet_id",
    "asset",
    "external_id",
    "payment_method",
    "description",
    "authorized_by",
    "to_asset",
    "reverses",
    "counterparty_user_id",
    "counterparty_wallet_id",
)
LIMIT_TEXT = ("user_id", "portfolio_id")
MARK_TEXT = ("symbol", "currency")
LIMIT_FIELDS = messages.LIMIT_FIELDS


class TradeBatch(NamedTuple):
    """Decoded `trades`; `text_*[f]` is TRADE_TEXT[f]. side: 0 BUY, 1 SELL."""

    records: Records
    data: np.ndarray  # uint8, read-only: the records' buffer, and after it text of the slow path
    verdict: np.ndarray  # uint8[n], Verdict
    key_ok: np.ndarray  # uint8[n], 1: the record's key is its user_id
    details: dict[int, str]  # row → what was wrong, of every rejected row
    text_at: np.ndarray  # int64[8, n]
    text_len: np.ndarray  # int32[8, n]
    quantity: np.ndarray  # uint64[n, 2]
    price: np.ndarray  # uint64[n, 2]
    fee: np.ndarray  # uint64[n, 2]
    executed_at: np.ndarray  # int64[n]
    side: np.ndarray  # uint8[n]
    asset_type: np.ndarray  # uint8[n], 255: null
    id: np.ndarray  # uint64[n, 2], of (user_id, trade_id)
    body: np.ndarray  # uint64[n, 2]


class PriceBatch(NamedTuple):
    """Decoded `prices`; `text_*[f]` is PRICE_TEXT[f]."""

    records: Records
    data: np.ndarray  # uint8, read-only
    verdict: np.ndarray  # uint8[n]
    key_ok: np.ndarray  # uint8[n], 1: the record's key is its symbol
    details: dict[int, str]
    text_at: np.ndarray  # int64[3, n]
    text_len: np.ndarray  # int32[3, n]
    price: np.ndarray  # uint64[n, 2]
    bid: np.ndarray  # uint64[n, 2], 0 when null
    ask: np.ndarray  # uint64[n, 2], 0 when null
    has_bid: np.ndarray  # uint8[n]
    has_ask: np.ndarray  # uint8[n]
    as_of: np.ndarray  # int64[n]
    body: np.ndarray  # uint64[n, 2]


class TransactionBatch(NamedTuple):
    """Decoded `transactions`; `text_*[f]` is TRANSACTION_TEXT[f]. Codes are those of messages.TransactionType, …Status."""

    records: Records
    data: np.ndarray  # uint8, read-only
    verdict: np.ndarray  # uint8[n]
    key_ok: np.ndarray  # uint8[n], 1: the record's key is its user_id
    details: dict[int, str]
    text_at: np.ndarray  # int64[12, n]
    text_len: np.ndarray  # int32[12, n]
    amount: np.ndarray  # uint64[n, 2]
    fee: np.ndarray  # uint64[n, 2]
    rate: np.ndarray  # uint64[n, 2], 0 when null
    has_rate: np.ndarray  # uint8[n]
    occurred_at: np.ndarray  # int64[n]
    expires_at: np.ndarray  # int64[n], NO_TIME: null
    type: np.ndarray  # uint8[n]
    status: np.ndarray  # uint8[n]
    id: np.ndarray  # uint64[n, 2], of (user_id, transaction_id, status)
    body: np.ndarray  # uint64[n, 2], metadata in it


class LimitBatch(NamedTuple):
    """Decoded `risk_limits`; `text_*[f]` is LIMIT_TEXT[f], `limits[:, f]` LIMIT_FIELDS[f].

    The asset limits of row i are asset_start[i] … asset_start[i + 1] − 1, in byte order of their symbols.
    """

    records: Records
    data: np.ndarray  # uint8, read-only
    verdict: np.ndarray  # uint8[n]
    key_ok: np.ndarray  # uint8[n], 1: the record's key is its user_id
    details: dict[int, str]
    text_at: np.ndarray  # int64[2, n]
    text_len: np.ndarray  # int32[2, n]
    version: np.ndarray  # int64[n]
    active: np.ndarray  # uint8[n]
    updated_at: np.ndarray  # int64[n]
    limits: np.ndarray  # uint64[n, 10, 2], 0 when null
    has_limit: np.ndarray  # uint8[n, 10]
    asset_start: np.ndarray  # int64[n + 1]
    asset_at: np.ndarray  # int64[m], the symbol
    asset_len: np.ndarray  # int32[m]
    asset_limit: np.ndarray  # uint64[m, 2]


class MarkBatch(NamedTuple):
    """Decoded `marks`, as `encode_mark` writes them; `text_*[f]` is MARK_TEXT[f]. Anything else is MALFORMED."""

    records: Records
    data: np.ndarray  # uint8, read-only
    verdict: np.ndarray  # uint8[n]
    text_at: np.ndarray  # int64[2, n]
    text_len: np.ndarray  # int32[2, n]
    price: np.ndarray  # uint64[n, 2]
    as_of: np.ndarray  # int64[n]
    cause_partition: np.ndarray  # int32[n]
    cause_offset: np.ndarray  # int64[n]


# ------------------------------------------------------------------------------------------------------ common to all


class _Spans(NamedTuple):
    """The record columns that kernels take, always of the same types, so that they compile once."""

    data: np.ndarray  # uint8, read-only
    timestamp: np.ndarray  # int64[n]
    key_at: np.ndarray  # int64[n]
    key_len: np.ndarray  # int64[n]
    value_at: np.ndarray  # int64[n]
    value_len: np.ndarray  # int64[n]


def _spans(records: Records) -> _Spans:
    columns = (np.array(column, np.int64) for column in records[4:])
    return _Spans(_read_only(records.data), *columns)


def _read_only(data: np.ndarray) -> np.ndarray:
    view = data.view()
    view.flags.writeable = False
    return view


def _text(n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, n), np.int64), np.full((count, n), -1, np.int32)


def _decimal(n: int) -> np.ndarray:
    return np.zeros((n, 2), np.uint64)


# the rules of text fields: what characters, how many, and whether it may be null
_ID = (IDS, 1, 64)
_SYMBOL = (SYMBOLS, 1, 32)
_TEXT = (TEXTS, 0, 1024)


def _rules(*rules: tuple[int, int, int, int]) -> np.ndarray:
    """int64[fields, 4]: character class, shortest, longest, 1: may be null. One row a text field."""
    return np.array(rules, np.int64)


@_inline
def _texts(found, rules, i, text_at, text_len):  # type: ignore[no-untyped-def]
    """Put the spans of the first len(rules) fields into column i; whether all keep their rules."""
    for f in range(len(rules)):
        if value(found, f, KIND) == ABSENT:
            if rules[f, 3] == 0:
                return False
            text_len[f, i] = -1
            continue
        n = value(found, f, LENGTH)
        if value(found, f, KIND) != STRING or n < rules[f, 1] or n > rules[f, 2]:
            return False
        if value(found, f, CHARS) & rules[f, 0] == 0:
            return False
        text_at[f, i] = value(found, f, AT)
        text_len[f, i] = n
    return True


@_inline
def _amount(data, found, f, out, i):  # type: ignore[no-untyped-def]
    """Put the decimal of field f into out[i]; whether it is one, in range."""
    if value(found, f, KIND) != STRING and value(found, f, KIND) != NUMBER:
        return False
    lo, hi, status = parse_decimal(data, value(found, f, AT), value(found, f, LENGTH))
    out[i, 0] = lo
    out[i, 1] = hi
    return status == OK


@_inline
def _above_0(data, found, f, out, i):  # type: ignore[no-untyped-def]
    return _amount(data, found, f, out, i) and is_positive(out[i, 0], out[i, 1])


@_inline
def _instant(data, found, f):  # type: ignore[no-untyped-def]
    """The time of field f, −1 when it is none."""
    return parse_instant(data, value(found, f, AT), value(found, f, LENGTH)) if value(found, f, KIND) == STRING else -1


@_inline
def _too_late(instant, timestamp_ms, max_skew_us):  # type: ignore[no-untyped-def]
    # instant − skew > 1000·timestamp, in a form that no timestamp can overflow
    return (instant - max_skew_us - 1) // 1000 >= timestamp_ms


@_inline
def _name(data, found, f, names):  # type: ignore[no-untyped-def]
    """The code of field f's name, −1 when it is none of them."""
    if value(found, f, KIND) != STRING:
        return -1
    return match(data, value(found, f, AT), value(found, f, AT) + value(found, f, LENGTH) + 1, names, 0)


@_inline
def _same(data, at, n, other_at, other_n):  # type: ignore[no-untyped-def]
    """Whether two spans hold the same bytes; 1 or 0."""
    if n != other_n:
        return np.uint8(0)
    for i in range(n):
        if load8(data, at + i) != load8(data, other_at + i):
            return np.uint8(0)
    return np.uint8(1)


@_inline
def _absorb_decimal(state, column, i):  # type: ignore[no-untyped-def]
    return absorb(absorb(state, column[i, 0]), column[i, 1])


@_inline
def _absorb_texts(state, data, text_at, text_len, i):  # type: ignore[no-untyped-def]
    for f in range(len(text_at)):
        state = absorb_text(state, data, text_at[f, i], text_len[f, i])
    return state


class _Tail:
    """Text that lies in no record: appended to the buffer, once a batch."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self._parts: list[bytes] = []
        self._size = len(data)

    def add(self, text: str | bytes) -> tuple[int, int]:
        """The span (at, len) of the text in `data`."""
        part = text.encode() if isinstance(text, str) else text
        span = self._size, len(part)
        self._parts.append(part)
        self._size += len(part)
        return span

    @property
    def data(self) -> np.ndarray:
        """The buffer with all that was added."""
        if not self._parts:
            return self._data
        return _read_only(np.concatenate((self._data, np.frombuffer(b"".join(self._parts), np.uint8))))


def _decode_slowly(
    kind: str,
    batch: Any,
    tail: _Tail,
    max_skew_us: int,
    key_field: str,
    fill: Callable[[int, Any], Iterable[str | None]],
) -> np.ndarray:
    """Decode the rows marked _SLOW by the strict parser; gives the accepted ones, int64.

    `fill(i, message)` puts a message into row i of the batch's columns, except for the text, which it returns.
    """
    accepted = []
    records: Records = batch.records
    for i in np.flatnonzero(batch.verdict == _SLOW).tolist():
        message = parse(kind, records.value(i), int(records.timestamp[i]), max_skew_us)
        if isinstance(message, Rejection):
            batch.verdict[i] = message.verdict
            batch.details[i] = message.detail
            _clear(batch, i)
            continue
        _clear(batch, i)
        for f, text in enumerate(fill(i, message)):
            if text is not None:
                batch.text_at[f, i], batch.text_len[f, i] = tail.add(text)
        batch.verdict[i] = 0
        batch.key_ok[i] = records.key(i) == getattr(message, key_field).encode()
        accepted.append(i)
    return np.array(accepted, np.int64)


def _clear(batch: Any, i: int) -> None:
    """Wipe what the fast path left in row i before it gave up."""
    for column in batch[7:]:
        column[i] = 0
    batch.key_ok[i] = 0
    batch.text_at[:, i] = 0
    batch.text_len[:, i] = -1


def _limbs(value: Decimal) -> tuple[int, int]:
    return limbs(to_units(value))


# -------------------------------------------------------------------------------------------------------------- trades

_SIDES = fields(codes(messages.Side))
_ASSET_TYPES = fields(codes(messages.AssetType))
_TRADE = fields((*TRADE_TEXT, "quantity", "price", "fee", "executed_at", "side", "asset_type"))
_QUANTITY, _PRICE, _FEE, _EXECUTED_AT, _SIDE, _ASSET_TYPE = range(8, 14)
_TRADE_RULES = _rules(
    (*_ID, 0), (*_ID, 0), (*_ID, 0), (*_ID, 0), (*_SYMBOL, 0), (*_SYMBOL, 0), (*_ID, 1), (*_TEXT, 1)
)


class _TradeColumns(NamedTuple):
    """The columns of a TradeBatch that kernels fill."""

    verdict: np.ndarray
    key_ok: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    quantity: np.ndarray
    price: np.ndarray
    fee: np.ndarray
    executed_at: np.ndarray
    side: np.ndarray
    asset_type: np.ndarray
    id: np.ndarray
    body: np.ndarray


@_inline
def _hash_trade(data, out, i):  # type: ignore[no-untyped-def]
    state = absorb_text(start(), data, out.text_at[1, i], out.text_len[1, i])
    out.id[i] = finish(absorb_text(state, data, out.text_at[0, i], out.text_len[0, i]))
    state = _absorb_texts(start(), data, out.text_at, out.text_len, i)
    state = _absorb_decimal(state, out.quantity, i)
    state = _absorb_decimal(state, out.price, i)
    state = _absorb_decimal(state, out.fee, i)
    state = absorb(state, np.uint64(out.executed_at[i]))
    state = absorb(state, np.uint64(out.side[i]) | np.uint64(out.asset_type[i]) << np.uint64(8))
    out.body[i] = finish(state)


@njit(cache=True, nogil=True)
def _hash_trades(data, rows, out):  # type: ignore[no-untyped-def]
    data = window(data)
    for i in rows:
        _hash_trade(data, out, i)


@_inline
def _trade(data, found, rules, sides, asset_types, timestamp_ms, max_skew_us, i, out):  # type: ignore[no-untyped-def]
    """Put what `scan` found into row i; False when the strict parser has to judge it."""
    if not _texts(found, rules, i, out.text_at, out.text_len):
        return False
    if not _above_0(data, found, _QUANTITY, out.quantity, i):
        return False
    if not _above_0(data, found, _PRICE, out.price, i):
        return False
    if value(found, _FEE, KIND) != ABSENT and not _amount(data, found, _FEE, out.fee, i):
        return False
    instant = _instant(data, found, _EXECUTED_AT)
    if instant < 0 or _too_late(instant, timestamp_ms, max_skew_us):
        return False
    side = _name(data, found, _SIDE, sides)
    if side < 0:
        return False
    asset_type = NO_CODE
    if value(found, _ASSET_TYPE, KIND) != ABSENT:
        asset_type = _name(data, found, _ASSET_TYPE, asset_types)
        if asset_type < 0:
            return False
    out.executed_at[i] = instant
    out.side[i] = side
    out.asset_type[i] = asset_type
    return True


@njit(cache=True, nogil=True)
def _trades(spans, known, found, rules, sides, asset_types, max_skew_us, out):  # type: ignore[no-untyped-def]
    """Decode all that can be decoded fast; gives how many rows are left, marked _SLOW."""
    data = window(spans.data)
    known, found = window(known), window(found)
    sides, asset_types = window(sides), window(asset_types)
    slow = 0
    for i in range(len(spans.value_at)):
        good = scan(data, spans.value_at[i], spans.value_len[i], known, found)
        if good and _trade(data, found, rules, sides, asset_types, spans.timestamp[i], max_skew_us, i, out):
            _hash_trade(data, out, i)
            out.key_ok[i] = _same(
                data, spans.key_at[i], spans.key_len[i], out.text_at[1, i], out.text_len[1, i]
            )
        else:
            out.verdict[i] = _SLOW
            slow += 1
    return slow


def decode_trades(records: Records, max_skew_us: int) -> TradeBatch:
    """Decode records of `trades`. A time more than `max_skew_us` after its record's timestamp is invalid."""
    n = records.n
    spans = _spans(records)
    out = _TradeColumns(
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
        *_text(n, len(TRADE_TEXT)),
        _decimal(n),
        _decimal(n),
        _decimal(n),
        np.zeros(n, np.int64),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
        _decimal(n),
        _decimal(n),
    )
    slow = _trades(spans, _TRADE, scratch(_TRADE), _TRADE_RULES, _SIDES, _ASSET_TYPES, max_skew_us, out)
    batch = TradeBatch(records, spans.data, out.verdict, out.key_ok, {}, *out[2:])
    if not slow:
        return batch

    def fill(i: int, trade: messages.Trade) -> Iterable[str | None]:
        batch.quantity[i] = _limbs(trade.quantity)
        batch.price[i] = _limbs(trade.price)
        batch.fee[i] = _limbs(trade.fee)
        batch.executed_at[i] = to_micros(trade.executed_at)
        batch.side[i] = trade.side.code
        batch.asset_type[i] = NO_CODE if trade.asset_type is None else trade.asset_type.code
        return (getattr(trade, name) for name in TRADE_TEXT)

    tail = _Tail(spans.data)
    rows = _decode_slowly("trades", batch, tail, max_skew_us, "user_id", fill)
    batch = batch._replace(data=tail.data)
    _hash_trades(batch.data, rows, out)
    return batch
