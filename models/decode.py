"""From raw records to columns: each topic's batch of messages as arrays that the kernels take.

Fast path: one numba pass over flat JSON. What it doesn't understand, or would not accept, is decoded again by the
strict parser (`messages.parse`), which has the last word; both fill the same columns.

Columns: decimals `uint64[n, 2]` limbs at scale 18; times `int64` microseconds UTC; enums `uint8` codes, 255: null;
text as spans `(at, len)` into the batch's `data`, one row a field, len −1: null; ids and bodies SipHash-1-3-128,
`uint64[n, 2]`. Only rows with verdict 0 have meaningful columns, `key_ok` included; in all others they are zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from assetstream.models import messages
from assetstream.models.decimals import (
    OK,
    from_units,
    is_positive,
    is_zero,
    limbs,
    parse_decimal,
    to_units,
    units_of,
)
from assetstream.models.jsonscan import (
    ABSENT,
    AT,
    CHARS,
    FALSE,
    IDS,
    KIND,
    LENGTH,
    NUMBER,
    STRING,
    SYMBOLS,
    TEXTS,
    TRUE,
    fields,
    match,
    parse_instant,
    scan,
    scratch,
    value,
)
from assetstream.models.messages import Rejection, codes, from_micros, parse, time_text, to_micros
from assetstream.models.outputs import NO_TIME, Code
from assetstream.models.precision import MOST, Precision
from assetstream.models.records import Records, records_of
from assetstream.models.siphash import absorb, absorb_text, finish, hash_bytes, start
from assetstream.models.spans import inline, kernel, load8, window
from assetstream.models.verdicts import Verdict

#: an enum that is null
NO_CODE = 255

_MALFORMED = int(Verdict.MALFORMED)
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
#: the first is the id that outcomes are published under; two are places that `transactions` has and these have not
TRANSFER_TEXT = (
    "published_id",
    "user_id",
    "wallet_id",
    "asset",
    "",
    "",
    "transaction_id",
    "reverses",
    "other_user_id",
    "other_wallet_id",
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
    method: np.ndarray  # uint64[n, 2], of broker
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


class Grants(NamedTuple):
    """What OPEN and CONFIGURE events say that a wallet begins with: those of row i are start[i] … start[i + 1] − 1.

    First the capital, then the allocation in byte order of its assets; nothing that is 0.
    """

    start: np.ndarray  # int64[n + 1]
    text_at: np.ndarray  # int64[m], the asset
    text_len: np.ndarray  # int32[m], −1: the wallet's currency
    amount: np.ndarray  # uint64[m, 2]


class TransactionBatch(NamedTuple):
    """Decoded `transactions`; `text_*[f]` is TRANSACTION_TEXT[f], codes are those of messages.Transaction….

    Of a wallet event (messages.WALLET_EVENTS) amount and fee are 0, and the asset is the currency that an OPEN names.
    """

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
    crosses: np.ndarray  # uint8[n], 1: a TRANSFER to another user
    type: np.ndarray  # uint8[n]
    status: np.ndarray  # uint8[n]
    wallet_type: np.ndarray  # uint8[n], of an OPEN
    grants: Grants
    id: np.ndarray  # uint64[n, 2], of (user_id, transaction_id)
    terms: np.ndarray  # uint64[n, 2], of what is the same for every status
    method: np.ndarray  # uint64[n, 2], of payment_method
    reference: np.ndarray  # uint64[n, 2], the id of (user_id, reverses)
    body: np.ndarray  # uint64[n, 2], metadata in it


class TransferBatch(NamedTuple):
    """Decoded `transfers`; `text_*[f]` is TRANSFER_TEXT[f]. `type` and `fee` are what outcomes say."""

    records: Records
    data: np.ndarray  # uint8, read-only
    verdict: np.ndarray  # uint8[n]
    key_ok: np.ndarray  # uint8[n], 1: the record's key is its user_id
    details: dict[int, str]
    text_at: np.ndarray  # int64[10, n]
    text_len: np.ndarray  # int32[10, n]
    amount: np.ndarray  # uint64[n, 2]
    fee: np.ndarray  # uint64[n, 2], of the addressee's own transaction
    charge: np.ndarray  # uint64[n, 2], the message's fee
    refund: np.ndarray  # uint64[n, 2]
    occurred_at: np.ndarray  # int64[n]
    type: np.ndarray  # uint8[n]
    step: np.ndarray  # uint8[n]
    code: np.ndarray  # uint8[n], a Code
    id: np.ndarray  # uint64[n, 2], of (user_id, transaction_id)
    reference: np.ndarray  # uint64[n, 2], of (user_id, reverses)
    credit: np.ndarray  # uint64[n, 2], of the CREDIT that this is, or claims: (user_id, other_user_id, its transaction)


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


# ---------------------------------------------------------------------------------------------- common to all


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


def _bytes(n: int, count: int) -> list[np.ndarray]:
    return [np.zeros(n, np.uint8) for _ in range(count)]


def _decimals(n: int, count: int) -> list[np.ndarray]:
    return [np.zeros((n, 2), np.uint64) for _ in range(count)]


# the rules of text fields: what characters, how many, and whether it may be null
_ID = (IDS, 1, 64)
_SYMBOL = (SYMBOLS, 1, 32)
_TEXT = (TEXTS, 0, 1024)


def _rules(*rules: tuple[int, int, int, int]) -> np.ndarray:
    """int64[fields, 4]: character class, shortest, longest, 1: may be null. One row a text field."""
    return np.array(rules, np.int64)


@inline
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


@inline
def _amount(data, found, f, out, i):  # type: ignore[no-untyped-def]
    """Put the decimal of field f into out[i]; whether it is one, in range."""
    if value(found, f, KIND) != STRING and value(found, f, KIND) != NUMBER:
        return False
    lo, hi, status = parse_decimal(data, value(found, f, AT), value(found, f, LENGTH))
    out[i, 0] = lo
    out[i, 1] = hi
    return status == OK


@inline
def _above_0(data, found, f, out, i):  # type: ignore[no-untyped-def]
    return _amount(data, found, f, out, i) and is_positive(out[i, 0], out[i, 1])


@inline
def _instant(data, found, f):  # type: ignore[no-untyped-def]
    """The time of field f, −1 when it is none."""
    return parse_instant(data, value(found, f, AT), value(found, f, LENGTH)) if value(found, f, KIND) == STRING else -1


@inline
def _too_late(instant, timestamp_ms, max_skew_us):  # type: ignore[no-untyped-def]
    # instant − skew > 1000·timestamp, in a form that no timestamp can overflow
    return (instant - max_skew_us - 1) // 1000 >= timestamp_ms


@inline
def _integer(data, found, f):  # type: ignore[no-untyped-def]
    """The JSON integer of field f, and whether it is one, of at most 18 digits."""
    at = value(found, f, AT)
    n = value(found, f, LENGTH)
    good = value(found, f, KIND) == NUMBER and n <= 18
    number = 0
    if good:
        for p in range(at, at + n):
            c = np.int64(load8(data, p))
            if c >= 48 and c <= 57:
                number = number * 10 + c - 48
            elif c != 45:
                good = False
        if load8(data, at) == 45:
            number = -number
    return number, good


@inline
def _name(data, found, f, names):  # type: ignore[no-untyped-def]
    """The code of field f's name, −1 when it is none of them."""
    if value(found, f, KIND) != STRING:
        return -1
    return match(data, value(found, f, AT), value(found, f, AT) + value(found, f, LENGTH) + 1, names, 0)


@inline
def _same(data, at, n, other_at, other_n):  # type: ignore[no-untyped-def]
    """Whether two spans hold the same bytes; 1 or 0."""
    if n != other_n:
        return np.uint8(0)
    for i in range(n):
        if load8(data, at + i) != load8(data, other_at + i):
            return np.uint8(0)
    return np.uint8(1)


@inline
def _absorb_decimal(state, column, i):  # type: ignore[no-untyped-def]
    return absorb(absorb(state, column[i, 0]), column[i, 1])


@inline
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
    records: Records,
    out: Any,
    details: dict[int, str],
    tail: _Tail,
    max_skew_us: int,
    fill: Callable[[int, Any], Iterable[str | None]],
    precision: Precision | None = None,
) -> np.ndarray:
    """Decode the rows marked _SLOW by the strict parser; gives the accepted ones, int64.

    `out` are the columns, verdict, key_ok, text_at and text_len first. `fill(i, message)` puts a message into row i,
    except for the text, which it returns.
    """
    accepted = []
    for i in np.flatnonzero(out.verdict == _SLOW).tolist():
        _clear(out, i)
        message = parse(kind, records.value(i), int(records.timestamp[i]), max_skew_us, precision)
        if isinstance(message, Rejection):
            out.verdict[i] = message.verdict
            details[i] = message.detail
            continue
        for f, text in enumerate(fill(i, message)):
            if text is not None:
                out.text_at[f, i], out.text_len[f, i] = tail.add(text)
        out.key_ok[i] = records.key(i) == message.key.encode()
        accepted.append(i)
    return np.array(accepted, np.int64)


def _clear(out: Any, i: int) -> None:
    """Wipe what the fast path left in row i before it gave up."""
    out.verdict[i] = out.key_ok[i] = 0
    out.text_at[:, i] = 0
    out.text_len[:, i] = -1
    for column in out[4:]:
        column[i] = 0


def _limbs(value: Decimal) -> tuple[int, int]:
    return limbs(to_units(value))


# ----------------------------------------------------------------------------------------------------- trades

_SIDES = fields(codes(messages.Side))
_ASSET_TYPES = fields(codes(messages.AssetType))
_TRADE = fields((*TRADE_TEXT, "quantity", "price", "fee", "executed_at", "side", "asset_type"))
_BROKER = TRADE_TEXT.index("broker")
_QUANTITY, _PRICE, _FEE, _EXECUTED_AT, _SIDE, _ASSET_TYPE = range(8, 14)
_TRADE_RULES = _rules((*_ID, 0), (*_ID, 0), (*_ID, 0), (*_ID, 0), (*_SYMBOL, 0), (*_SYMBOL, 0), (*_ID, 1), (*_TEXT, 1))


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
    method: np.ndarray
    body: np.ndarray


@inline
def _hash_trade(data, out, i):  # type: ignore[no-untyped-def]
    state = absorb_text(start(), data, out.text_at[1, i], out.text_len[1, i])
    out.id[i] = finish(absorb_text(state, data, out.text_at[0, i], out.text_len[0, i]))
    out.method[i] = finish(absorb_text(start(), data, out.text_at[_BROKER, i], out.text_len[_BROKER, i]))
    state = _absorb_texts(start(), data, out.text_at, out.text_len, i)
    state = _absorb_decimal(state, out.quantity, i)
    state = _absorb_decimal(state, out.price, i)
    state = _absorb_decimal(state, out.fee, i)
    state = absorb(state, np.uint64(out.executed_at[i]))
    state = absorb(state, np.uint64(out.side[i]) | np.uint64(out.asset_type[i]) << np.uint64(8))
    out.body[i] = finish(state)


@kernel
def _hash_trades(data, rows, out):  # type: ignore[no-untyped-def]
    data = window(data)
    for i in rows:
        _hash_trade(data, out, i)


@inline
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


@kernel
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
            out.key_ok[i] = _same(data, spans.key_at[i], spans.key_len[i], out.text_at[1, i], out.text_len[1, i])
        else:
            out.verdict[i] = _SLOW
            slow += 1
    return slow


def decode_trades(records: Records, max_skew_us: int) -> TradeBatch:
    """Decode records of `trades`. A time more than `max_skew_us` after its record's timestamp is invalid."""
    n = records.n
    spans = _spans(records)
    out = _TradeColumns(
        *_bytes(n, 2),
        *_text(n, len(TRADE_TEXT)),
        *_decimals(n, 3),
        np.zeros(n, np.int64),
        *_bytes(n, 2),
        *_decimals(n, 3),
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
    rows = _decode_slowly("trades", records, out, batch.details, tail, max_skew_us, fill)
    batch = batch._replace(data=tail.data)
    _hash_trades(batch.data, rows, out)
    return batch


# ----------------------------------------------------------------------------------------------------- prices

_PRICES = fields((*PRICE_TEXT, "price", "bid", "ask", "as_of"))
_QUOTE, _BID, _ASK, _AS_OF = range(3, 7)
_PRICE_RULES = _rules((*_SYMBOL, 0), (*_SYMBOL, 0), (*_TEXT, 1))


class _PriceColumns(NamedTuple):
    """The columns of a PriceBatch that kernels fill."""

    verdict: np.ndarray
    key_ok: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    price: np.ndarray
    bid: np.ndarray
    ask: np.ndarray
    has_bid: np.ndarray
    has_ask: np.ndarray
    as_of: np.ndarray
    body: np.ndarray


@inline
def _hash_price(data, out, i):  # type: ignore[no-untyped-def]
    state = _absorb_texts(start(), data, out.text_at, out.text_len, i)
    state = _absorb_decimal(state, out.price, i)
    state = _absorb_decimal(state, out.bid, i)
    state = _absorb_decimal(state, out.ask, i)
    state = absorb(state, np.uint64(out.has_bid[i]) | np.uint64(out.has_ask[i]) << np.uint64(1))
    out.body[i] = finish(absorb(state, np.uint64(out.as_of[i])))


@kernel
def _hash_prices(data, rows, out):  # type: ignore[no-untyped-def]
    data = window(data)
    for i in rows:
        _hash_price(data, out, i)


@inline
def _price(data, found, rules, timestamp_ms, max_skew_us, i, out):  # type: ignore[no-untyped-def]
    """Put what `scan` found into row i; False when the strict parser has to judge it."""
    if not _texts(found, rules, i, out.text_at, out.text_len):
        return False
    if not _above_0(data, found, _QUOTE, out.price, i):
        return False
    if value(found, _BID, KIND) != ABSENT:
        if not _amount(data, found, _BID, out.bid, i):
            return False
        out.has_bid[i] = 1
    if value(found, _ASK, KIND) != ABSENT:
        if not _amount(data, found, _ASK, out.ask, i):
            return False
        out.has_ask[i] = 1
    instant = _instant(data, found, _AS_OF)
    if instant < 0 or _too_late(instant, timestamp_ms, max_skew_us):
        return False
    out.as_of[i] = instant
    return True


@kernel
def _prices(spans, known, found, rules, max_skew_us, out):  # type: ignore[no-untyped-def]
    """Decode all that can be decoded fast; gives how many rows are left, marked _SLOW."""
    data, known, found = window(spans.data), window(known), window(found)
    slow = 0
    for i in range(len(spans.value_at)):
        good = scan(data, spans.value_at[i], spans.value_len[i], known, found)
        if good and _price(data, found, rules, spans.timestamp[i], max_skew_us, i, out):
            _hash_price(data, out, i)
            out.key_ok[i] = _same(data, spans.key_at[i], spans.key_len[i], out.text_at[0, i], out.text_len[0, i])
        else:
            out.verdict[i] = _SLOW
            slow += 1
    return slow


def decode_prices(records: Records, max_skew_us: int) -> PriceBatch:
    """Decode records of `prices`. A time more than `max_skew_us` after its record's timestamp is invalid."""
    n = records.n
    spans = _spans(records)
    out = _PriceColumns(
        *_bytes(n, 2),
        *_text(n, len(PRICE_TEXT)),
        *_decimals(n, 3),
        *_bytes(n, 2),
        np.zeros(n, np.int64),
        *_decimals(n, 1),
    )
    slow = _prices(spans, _PRICES, scratch(_PRICES), _PRICE_RULES, max_skew_us, out)
    batch = PriceBatch(records, spans.data, out.verdict, out.key_ok, {}, *out[2:])
    if not slow:
        return batch

    def fill(i: int, price: messages.Price) -> Iterable[str | None]:
        batch.price[i] = _limbs(price.price)
        if price.bid is not None:
            batch.bid[i] = _limbs(price.bid)
            batch.has_bid[i] = 1
        if price.ask is not None:
            batch.ask[i] = _limbs(price.ask)
            batch.has_ask[i] = 1
        batch.as_of[i] = to_micros(price.as_of)
        return (getattr(price, name) for name in PRICE_TEXT)

    tail = _Tail(spans.data)
    rows = _decode_slowly("prices", records, out, batch.details, tail, max_skew_us, fill)
    batch = batch._replace(data=tail.data)
    _hash_prices(batch.data, rows, out)
    return batch


# ----------------------------------------------------------------------------------------------- transactions

_TYPES = fields(codes(messages.TransactionType))
_STATUSES = fields(codes(messages.TransactionStatus))
# the last two texts are in the nested `counterparty`
_OWN_TEXT = TRANSACTION_TEXT[:10]
_TRANSACTION = fields(
    (
        *_OWN_TEXT,
        "amount",
        "fee",
        "rate",
        "occurred_at",
        "expires_at",
        "type",
        "status",
        "counterparty",
        "metadata",
    )
)
_AMOUNT, _EVENT_FEE, _RATE, _OCCURRED_AT, _EXPIRES_AT, _TYPE, _STATUS, _COUNTERPARTY, _METADATA = range(10, 19)
_TRANSACTION_RULES = _rules(
    (*_ID, 0),
    (*_ID, 0),
    (*_ID, 0),
    (*_SYMBOL, 0),
    (*_ID, 1),
    (*_TEXT, 1),
    (*_TEXT, 1),
    (*_TEXT, 1),
    (*_SYMBOL, 1),
    (*_ID, 1),
)
#: places of texts
_USER, _WALLET, _ASSET, _METHOD, _TO_ASSET, _REVERSES, _OTHER_USER, _OTHER_WALLET = (
    TRANSACTION_TEXT.index(name)
    for name in (
        "user_id",
        "wallet_id",
        "asset",
        "payment_method",
        "to_asset",
        "reverses",
        "counterparty_user_id",
        "counterparty_wallet_id",
    )
)
_DEPOSIT = messages.TransactionType.DEPOSIT.code
_TRANSFER = messages.TransactionType.TRANSFER.code
_CONVERSION = messages.TransactionType.CONVERSION.code
_ADJUSTMENT = messages.TransactionType.ADJUSTMENT.code
_REVERSAL = messages.TransactionType.REVERSAL.code
#: the first of those about a wallet itself
_OPEN = messages.WALLET_EVENTS[0].code


class _TransactionColumns(NamedTuple):
    """The columns of a TransactionBatch that are filled, and the hashes of each row's metadata and of what only OPEN
    and CONFIGURE have, 0 when it has none."""

    verdict: np.ndarray
    key_ok: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    rate: np.ndarray
    has_rate: np.ndarray
    occurred_at: np.ndarray
    expires_at: np.ndarray
    crosses: np.ndarray
    type: np.ndarray
    status: np.ndarray
    wallet_type: np.ndarray
    id: np.ndarray
    terms: np.ndarray
    method: np.ndarray
    reference: np.ndarray
    body: np.ndarray
    metadata: np.ndarray
    wallet: np.ndarray


@inline
def _absorb_field(state, data, out, f, i):  # type: ignore[no-untyped-def]
    return absorb_text(state, data, out.text_at[f, i], out.text_len[f, i])


@inline
def _hash_terms(data, out, i):  # type: ignore[no-untyped-def]
    state = _absorb_field(start(), data, out, _WALLET, i)
    state = _absorb_field(state, data, out, _ASSET, i)
    state = _absorb_field(state, data, out, _TO_ASSET, i)
    state = _absorb_field(state, data, out, _REVERSES, i)
    state = _absorb_field(state, data, out, _OTHER_USER, i)
    state = _absorb_field(state, data, out, _OTHER_WALLET, i)
    state = _absorb_decimal(state, out.amount, i)
    state = _absorb_decimal(state, out.fee, i)
    # a rate is above 0, so that 0 already says null
    state = _absorb_decimal(state, out.rate, i)
    if out.type[i] >= _OPEN:
        state = _absorb_decimal(state, out.wallet, i)
    out.terms[i] = finish(absorb(state, np.uint64(out.type[i])))


@inline
def _hash_transaction(data, out, i):  # type: ignore[no-untyped-def]
    user = _absorb_field(start(), data, out, _USER, i)
    out.id[i] = finish(_absorb_field(user, data, out, 0, i))
    out.reference[i] = finish(_absorb_field(user, data, out, _REVERSES, i))
    out.method[i] = finish(_absorb_field(start(), data, out, _METHOD, i))
    _hash_terms(data, out, i)
    state = _absorb_texts(start(), data, out.text_at, out.text_len, i)
    state = _absorb_decimal(state, out.amount, i)
    state = _absorb_decimal(state, out.fee, i)
    state = _absorb_decimal(state, out.rate, i)
    state = absorb(state, np.uint64(out.occurred_at[i]))
    state = absorb(state, np.uint64(out.expires_at[i]))
    state = absorb(state, np.uint64(out.type[i]) | np.uint64(out.status[i]) << np.uint64(8))
    if out.type[i] >= _OPEN:
        state = _absorb_decimal(state, out.wallet, i)
    out.body[i] = finish(_absorb_decimal(state, out.metadata, i))


@kernel
def _hash_transactions(data, rows, out):  # type: ignore[no-untyped-def]
    data = window(data)
    for i in rows:
        _hash_transaction(data, out, i)


@inline
def _transaction(data, found, rules, types, statuses, timestamp_ms, max_skew_us, i, out):  # type: ignore[no-untyped-def]
    """Put what `scan` found into row i; False when the strict parser has to judge it."""
    if not _texts(found, rules, i, out.text_at, out.text_len):
        return False
    code = _name(data, found, _TYPE, types)
    status = _name(data, found, _STATUS, statuses)
    if code < 0 or status < 0 or code in (_TRANSFER, _ADJUSTMENT) or code >= _OPEN:
        return False
    if code == _REVERSAL and value(found, _REVERSES, KIND) == ABSENT:
        return False
    if code == _CONVERSION and value(found, _TO_ASSET, KIND) == ABSENT:
        return False
    if not _above_0(data, found, _AMOUNT, out.amount, i):
        return False
    if value(found, _EVENT_FEE, KIND) != ABSENT:
        if not _amount(data, found, _EVENT_FEE, out.fee, i):
            return False
        if not is_zero(out.fee[i, 0], out.fee[i, 1]) and not is_positive(out.fee[i, 0], out.fee[i, 1]):
            return False
        # both are at least 0, so that their limbs compare as they are
        if code == _DEPOSIT and (
            out.fee[i, 1] > out.amount[i, 1] or (out.fee[i, 1] == out.amount[i, 1] and out.fee[i, 0] > out.amount[i, 0])
        ):
            return False
    if value(found, _RATE, KIND) != ABSENT:
        if not _above_0(data, found, _RATE, out.rate, i):
            return False
        out.has_rate[i] = 1
    instant = _instant(data, found, _OCCURRED_AT)
    if instant < 0 or _too_late(instant, timestamp_ms, max_skew_us):
        return False
    expires_at = NO_TIME
    if value(found, _EXPIRES_AT, KIND) != ABSENT:
        expires_at = _instant(data, found, _EXPIRES_AT)
        if expires_at < 0:
            return False
    if value(found, _COUNTERPARTY, KIND) != ABSENT or value(found, _METADATA, KIND) != ABSENT:
        return False
    out.type[i] = code
    out.status[i] = status
    out.occurred_at[i] = instant
    out.expires_at[i] = expires_at
    return True


@kernel
def _transactions(spans, known, found, rules, types, statuses, max_skew_us, out):  # type: ignore[no-untyped-def]
    """Decode all that can be decoded fast; gives how many rows are left, marked _SLOW."""
    data, known, found = window(spans.data), window(known), window(found)
    types, statuses = window(types), window(statuses)
    slow = 0
    for i in range(len(spans.value_at)):
        good = scan(data, spans.value_at[i], spans.value_len[i], known, found)
        if good and _transaction(data, found, rules, types, statuses, spans.timestamp[i], max_skew_us, i, out):
            _hash_transaction(data, out, i)
            out.key_ok[i] = _same(data, spans.key_at[i], spans.key_len[i], out.text_at[1, i], out.text_len[1, i])
        else:
            out.verdict[i] = _SLOW
            slow += 1
    return slow


def decode_transactions(records: Records, max_skew_us: int, precision: Precision | None = None) -> TransactionBatch:
    """Decode records of `transactions`. `occurred_at` more than `max_skew_us` after its record's timestamp is invalid.

    With a `precision` every amount is held against its asset, and those that are too fine are invalid: 3 µs each.

    Of adjustments, events of wallets, and messages with a counterparty or metadata the strict parser takes care: they
    cost some 30 µs each.
    """
    n = records.n
    spans = _spans(records)
    out = _TransactionColumns(
        *_bytes(n, 2),
        *_text(n, len(TRANSACTION_TEXT)),
        *_decimals(n, 3),
        *_bytes(n, 1),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        *_bytes(n, 4),
        *_decimals(n, 7),
    )
    slow = _transactions(
        spans, _TRANSACTION, scratch(_TRANSACTION), _TRANSACTION_RULES, _TYPES, _STATUSES, max_skew_us, out
    )
    first = np.zeros(n + 1, np.int64)
    none = Grants(first, np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 2), np.uint64))
    columns = {name: column for name, column in out._asdict().items() if name not in ("metadata", "wallet")}
    batch = TransactionBatch(records=records, data=spans.data, details={}, grants=none, **columns)
    if precision is not None:
        slow += _doubt_fine_amounts(batch, precision)
    if not slow:
        return batch
    assets: list[tuple[int, int]] = []
    granted: list[tuple[int, int]] = []
    currencies: dict[int, tuple[int, int]] = {}
    tail = _Tail(spans.data)

    def fill(i: int, event: messages.Transaction) -> Iterable[str | None]:
        if event.amount is not None:
            batch.amount[i] = _limbs(event.amount)
        batch.fee[i] = _limbs(event.fee)
        if event.rate is not None:
            batch.rate[i] = _limbs(event.rate)
            batch.has_rate[i] = 1
        batch.occurred_at[i] = to_micros(event.occurred_at)
        batch.expires_at[i] = NO_TIME if event.expires_at is None else to_micros(event.expires_at)
        batch.type[i] = event.type.code
        batch.status[i] = event.status.code
        out.metadata[i] = _metadata_hash(event.metadata)
        if event.type in messages.WALLET_EVENTS:
            out.wallet[i] = _wallet_hash(event)
            batch.wallet_type[i] = event.wallet_type.code
            currencies[i] = tail.add(event.currency) if event.currency else (0, -1)
            for asset, amount in _grants(event):
                assets.append(tail.add(asset) if asset else (0, -1))
                granted.append(_limbs(amount))
            first[i + 1] = len(assets)
        other = event.counterparty
        is_transfer = event.type is messages.TransactionType.TRANSFER
        batch.crosses[i] = is_transfer and other is not None and other.user_id != event.user_id
        own = (getattr(event, name) for name in _OWN_TEXT)
        return (*own, other and other.user_id, other and other.wallet_id)

    rows = _decode_slowly("transactions", records, out, batch.details, tail, max_skew_us, fill, precision)
    batch = batch._replace(data=tail.data)
    _hash_transactions(batch.data, rows, out)
    # what was said of the asset is in the hashes; from here on it is the wallet's currency, of no amount
    for i, currency in currencies.items():
        batch.text_at[_ASSET, i], batch.text_len[_ASSET, i] = currency
        batch.amount[i] = batch.fee[i] = 0
    spans_of_assets = np.array(assets, np.int64).reshape(-1, 2)
    return batch._replace(
        grants=Grants(
            np.maximum.accumulate(first),
            spans_of_assets[:, 0].copy(),
            spans_of_assets[:, 1].astype(np.int32),
            np.array(granted, np.uint64).reshape(-1, 2),
        )
    )


def _grants(event: messages.Transaction) -> Iterable[tuple[str | None, Decimal]]:
    """What a wallet is to begin with, (asset, amount): None is its own currency."""
    configuration = event.configuration
    if configuration.initial_capital:
        yield None, configuration.initial_capital
    for asset, amount in sorted(configuration.allocation.items()):
        yield None if asset == event.currency else asset, amount


def _wallet_hash(event: messages.Transaction) -> tuple[int, int]:
    """The hash of what only OPEN and CONFIGURE have, by value."""
    configuration = event.configuration
    allocation = [[asset, to_units(amount)] for asset, amount in sorted(configuration.allocation.items())]
    said = [event.wallet_type, event.currency, to_units(configuration.initial_capital), allocation]
    return hash_bytes(_read_only(np.frombuffer(json.dumps(said).encode(), np.uint8)))


def _doubt_fine_amounts(batch: TransactionBatch, precision: Precision) -> int:
    """Mark rows _SLOW that were decoded fast and have more decimals than their asset. -> how many."""
    rows = np.flatnonzero(batch.verdict == 0)
    starts = batch.text_at[_ASSET, rows]
    spans = zip(starts.tolist(), (starts + batch.text_len[_ASSET, rows]).tolist(), strict=True)
    amounts, fees = units_of(batch.amount[rows]), units_of(batch.fee[rows])
    doubtful = []
    for row, (at, end), amount, fee in zip(rows.tolist(), spans, amounts, fees, strict=True):
        smallest = 10 ** (MOST - precision.get(batch.data[at:end].tobytes().decode(), MOST))
        if amount % smallest or fee % smallest:
            doubtful.append(row)
    batch.verdict[doubtful] = _SLOW
    return len(doubtful)


# -------------------------------------------------------------------------------------------------- transfers


class _TransferColumns(NamedTuple):
    """The columns of a TransferBatch that are filled."""

    verdict: np.ndarray
    key_ok: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    charge: np.ndarray
    refund: np.ndarray
    occurred_at: np.ndarray
    type: np.ndarray
    step: np.ndarray
    code: np.ndarray
    id: np.ndarray
    reference: np.ndarray
    credit: np.ndarray


@kernel
def _hash_transfers(data, rows, out):  # type: ignore[no-untyped-def]
    data = window(data)
    for i in rows:
        user = _absorb_field(start(), data, out, 1, i)
        out.id[i] = finish(_absorb_field(user, data, out, 6, i))
        out.reference[i] = finish(_absorb_field(user, data, out, 7, i))
        of = 7 if out.type[i] == _REVERSAL else 6
        out.credit[i] = finish(_absorb_field(_absorb_field(user, data, out, 8, i), data, out, of, i))


def decode_transfers(records: Records, max_skew_us: int) -> TransferBatch:
    """Decode records of our own `transfers`, by the strict parser: some 30 µs each."""
    n = records.n
    out = _TransferColumns(
        *_bytes(n, 2),
        *_text(n, len(TRANSFER_TEXT)),
        *_decimals(n, 4),
        np.zeros(n, np.int64),
        *_bytes(n, 3),
        *_decimals(n, 3),
    )
    out.verdict[:] = _SLOW
    batch = TransferBatch(records, _read_only(records.data), out.verdict, out.key_ok, {}, *out[2:])

    def fill(i: int, transfer: messages.Transfer) -> Iterable[str | None]:
        step, owner = transfer.step, transfer.user_id
        batch.amount[i], batch.charge[i], batch.refund[i] = map(
            _limbs, (transfer.amount, transfer.fee, transfer.refund)
        )
        batch.occurred_at[i] = to_micros(transfer.occurred_at)
        batch.step[i] = step.code
        batch.code[i] = Code[transfer.code] if transfer.code else Code.NONE
        of_transfer = step in (messages.Step.CREDIT, messages.Step.RETURN)
        batch.type[i] = _TRANSFER if of_transfer else _REVERSAL
        published = transfer.transaction_id
        if step in (messages.Step.CREDIT, messages.Step.CLAIM):
            published = f"{transfer.other_user_id}/{published}"
        elif step is messages.Step.RETURN:
            published = f"{owner}/{published}/returned"
        else:
            batch.fee[i] = batch.charge[i]
        return (published, *(getattr(transfer, name, None) for name in TRANSFER_TEXT[1:]))

    tail = _Tail(batch.data)
    rows = _decode_slowly("transfers", records, out, batch.details, tail, max_skew_us, fill)
    batch = batch._replace(data=tail.data)
    _hash_transfers(batch.data, rows, out)
    return batch


def _metadata_hash(metadata: dict[str, str]) -> tuple[int, int]:
    """The hash of name and value after name and value, in byte order of the names; each after its length, two bytes."""
    if not metadata:
        return 0, 0
    texts = [text.encode() for pair in sorted(metadata.items()) for text in pair]
    joined = b"".join(len(text).to_bytes(2, "little") + text for text in texts)
    return hash_bytes(_read_only(np.frombuffer(joined, np.uint8)))


# ------------------------------------------------------------------------------------------------ risk limits

_LIMIT = fields((*LIMIT_TEXT, *LIMIT_FIELDS, "version", "active", "updated_at", "asset_limits"))
_VERSION, _ACTIVE, _UPDATED_AT, _ASSET_LIMITS = range(12, 16)
_LIMIT_RULES = _rules((*_ID, 0), (*_ID, 0))


class _LimitColumns(NamedTuple):
    """The columns of a LimitBatch that kernels fill."""

    verdict: np.ndarray
    key_ok: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    version: np.ndarray
    active: np.ndarray
    updated_at: np.ndarray
    limits: np.ndarray
    has_limit: np.ndarray


@inline
def _limit(data, found, rules, timestamp_ms, max_skew_us, i, out):  # type: ignore[no-untyped-def]
    """Put what `scan` found into row i; False when the strict parser has to judge it."""
    if not _texts(found, rules, i, out.text_at, out.text_len):
        return False
    version, good = _integer(data, found, _VERSION)
    if not good:
        return False
    kind = value(found, _ACTIVE, KIND)
    if kind != ABSENT and kind != TRUE and kind != FALSE:
        return False
    instant = _instant(data, found, _UPDATED_AT)
    if instant < 0 or _too_late(instant, timestamp_ms, max_skew_us):
        return False
    if value(found, _ASSET_LIMITS, KIND) != ABSENT:
        return False
    for f in range(out.limits.shape[1]):
        if value(found, 2 + f, KIND) != ABSENT:
            if not _above_0(data, found, 2 + f, out.limits[i], f):
                return False
            out.has_limit[i, f] = 1
    out.version[i] = version
    out.active[i] = kind != FALSE
    out.updated_at[i] = instant
    return True


@kernel
def _limits(spans, known, found, rules, max_skew_us, out):  # type: ignore[no-untyped-def]
    """Decode all that can be decoded fast; gives how many rows are left, marked _SLOW."""
    data, known, found = window(spans.data), window(known), window(found)
    slow = 0
    for i in range(len(spans.value_at)):
        good = scan(data, spans.value_at[i], spans.value_len[i], known, found)
        if good and _limit(data, found, rules, spans.timestamp[i], max_skew_us, i, out):
            out.key_ok[i] = _same(data, spans.key_at[i], spans.key_len[i], out.text_at[0, i], out.text_len[0, i])
        else:
            out.verdict[i] = _SLOW
            slow += 1
    return slow


def decode_limits(records: Records, max_skew_us: int) -> LimitBatch:
    """Decode records of `risk_limits`. `updated_at` more than `max_skew_us` after the record's timestamp is invalid.

    Of messages with asset limits the strict parser takes care.
    """
    n = records.n
    spans = _spans(records)
    out = _LimitColumns(
        *_bytes(n, 2),
        *_text(n, len(LIMIT_TEXT)),
        np.zeros(n, np.int64),
        *_bytes(n, 1),
        np.zeros(n, np.int64),
        np.zeros((n, len(LIMIT_FIELDS), 2), np.uint64),
        np.zeros((n, len(LIMIT_FIELDS)), np.uint8),
    )
    tail = _Tail(spans.data)
    counts = np.zeros(n + 1, np.int64)
    details: dict[int, str] = {}
    assets: list[tuple[int, int]] = []
    asset_limits: list[tuple[int, int]] = []
    if _limits(spans, _LIMIT, scratch(_LIMIT), _LIMIT_RULES, max_skew_us, out):

        def fill(i: int, limits: messages.RiskLimits) -> Iterable[str | None]:
            out.version[i] = limits.version
            out.active[i] = limits.active
            out.updated_at[i] = to_micros(limits.updated_at)
            for f, name in enumerate(LIMIT_FIELDS):
                limit = getattr(limits, name)
                if limit is not None:
                    out.limits[i, f] = _limbs(limit)
                    out.has_limit[i, f] = 1
            counts[i + 1] = len(limits.asset_limits)
            for symbol, limit in sorted(limits.asset_limits.items()):
                assets.append(tail.add(symbol))
                asset_limits.append(_limbs(limit))
            return limits.user_id, limits.portfolio_id

        _decode_slowly("risk_limits", records, out, details, tail, max_skew_us, fill)
    spans_of_assets = np.array(assets, np.int64).reshape(-1, 2)
    return LimitBatch(
        records,
        tail.data,
        out.verdict,
        out.key_ok,
        details,
        *out[2:],
        np.cumsum(counts),
        spans_of_assets[:, 0].copy(),
        spans_of_assets[:, 1].astype(np.int32),
        np.array(asset_limits, np.uint64).reshape(-1, 2),
    )


# ------------------------------------------------------------------------------------------------------ marks

_MARK = fields((*MARK_TEXT, "price", "as_of", "cause_partition", "cause_offset"))
_MARK_PRICE, _MARK_AS_OF, _MARK_PARTITION, _MARK_OFFSET = range(2, 6)
_MARK_RULES = _rules((*_SYMBOL, 0), (*_SYMBOL, 0))


class _MarkColumns(NamedTuple):
    """The columns of a MarkBatch, all filled by kernels."""

    verdict: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    price: np.ndarray
    as_of: np.ndarray
    cause_partition: np.ndarray
    cause_offset: np.ndarray


@inline
def _mark(data, found, rules, i, out):  # type: ignore[no-untyped-def]
    """Put what `scan` found into row i; False when it is no mark."""
    if not _texts(found, rules, i, out.text_at, out.text_len):
        return False
    if not _above_0(data, found, _MARK_PRICE, out.price, i):
        return False
    out.as_of[i] = _instant(data, found, _MARK_AS_OF)
    partition, good = _integer(data, found, _MARK_PARTITION)
    offset, also_good = _integer(data, found, _MARK_OFFSET)
    out.cause_partition[i] = partition
    out.cause_offset[i] = offset
    return good and also_good and out.as_of[i] >= 0


@kernel
def _marks(spans, known, found, rules, out):  # type: ignore[no-untyped-def]
    data, known, found = window(spans.data), window(known), window(found)
    for i in range(len(spans.value_at)):
        good = scan(data, spans.value_at[i], spans.value_len[i], known, found)
        if not good or not _mark(data, found, rules, i, out):
            out.verdict[i] = _MALFORMED


def decode_marks(records: Records) -> MarkBatch:
    """Decode records of our own `marks`."""
    n = records.n
    spans = _spans(records)
    out = _MarkColumns(
        *_bytes(n, 1),
        *_text(n, len(MARK_TEXT)),
        *_decimals(n, 1),
        np.zeros(n, np.int64),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
    )
    _marks(spans, _MARK, scratch(_MARK), _MARK_RULES, out)
    return MarkBatch(records, spans.data, *out)


def encode_mark(symbol: str, price: int, currency: str, as_of: int, cause_partition: int, cause_offset: int) -> bytes:
    """A message of `marks` (messages.Mark): price in units, `as_of` in microseconds, the record of `prices` behind it.

    `symbol` and `currency` are those of a decoded price, so nothing in them needs escaping.
    """
    return (
        f'{{"symbol":"{symbol}","price":"{from_units(price)}","currency":"{currency}",'
        f'"as_of":"{time_text(from_micros(as_of))}",'
        f'"cause_partition":{cause_partition},"cause_offset":{cause_offset}}}'
    ).encode()


# ------------------------------------------------------------------------------------------------------------ warm-up


_SAMPLES: dict[str, tuple[Callable[[Records, int], Any], str]] = {
    "trades": (
        decode_trades,
        '"trade_id":"a","user_id":"a","portfolio_id":"a","wallet_id":"a","symbol":"a","currency":"a","side":"BUY",'
        '"quantity":1,"price":1,"executed_at":"1970-01-01T00:00:00Z"',
    ),
    "prices": (decode_prices, '"symbol":"a","price":1,"currency":"a","as_of":"1970-01-01T00:00:00Z"'),
    "transactions": (
        decode_transactions,
        '"transaction_id":"a","user_id":"a","wallet_id":"a","type":"FEE","status":"COMPLETED","asset":"a","amount":1,'
        '"occurred_at":"1970-01-01T00:00:00Z","metadata":{"a":"b"}',
    ),
    "transfers": (
        decode_transfers,
        '"step":"GRANT","transaction_id":"a","user_id":"a","wallet_id":"a","other_user_id":"b","other_wallet_id":"b",'
        '"asset":"a","amount":1,"reverses":"b","occurred_at":"1970-01-01T00:00:00Z"',
    ),
    "risk_limits": (decode_limits, '"user_id":"a","portfolio_id":"a","version":1,"updated_at":"1970-01-01T00:00:00Z"'),
}


def compile_kernels() -> None:
    """Have numba compile (or load from its cache) all that decoding needs: no first batch should wait for it."""
    for kind, (decoder, message) in _SAMPLES.items():
        # the second, with a nested value in it, goes by way of the strict parser
        values = [(b"a", text.encode()) for text in (f"{{{message}}}", f'{{{message},"x":[]}}')]
        decoder(records_of(kind, 0, values), 0)
    decode_marks(records_of("marks", 0, [(b"a", encode_mark("a", 1, "b", 0, 0, 0))]))
