"""Rows of `outputs.py` to the JSON of the output topics, in numba: a buffer per batch, no object per message.

Every function returns `(data, ends)`: message i is `data[ends[i − 1]:ends[i]]` (from 0 for the first), a JSON
object without spaces, its fields in the order of interface.md. Ids, symbols and assets hold nothing that JSON
escapes; a payment method is free text and is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from assetstream.models.decimals import write_decimal
from assetstream.models.outputs import INPUTS
from assetstream.models.spans import copy

if TYPE_CHECKING:
    from assetstream.models.settlement_events import SettlementBatch

Encoded = tuple[np.ndarray, np.ndarray]

#: most bytes of a written decimal, integer (int64, never negative) and time
DECIMAL_SIZE = 41
INT_SIZE = 19
TIME_SIZE = 27


class Names(NamedTuple):
    """Texts by number, such as a partition's interned strings: text k is `data[at[k] : at[k] + len[k]]`.

    data uint8, UTF-8; at int64[m]; len int32[m].
    """

    data: np.ndarray
    at: np.ndarray
    len: np.ndarray


def texts(*texts: str) -> tuple[np.ndarray, ...]:
    """Constants that kernels copy from."""
    return tuple(np.frombuffer(text.encode(), np.uint8) for text in texts)


_TRUE_FALSE = texts("false", "true")

_UPDATE = texts(
    '{"user_id":"',
    '","portfolio_id":"',
    '","base_currency":"',
    '","market_value":"',
    '","cost_basis":"',
    '","realized_pnl":"',
    '","unrealized_pnl":"',
    '","fees":"',
    '","total_pnl":"',
    '","daily_pnl":"',
    '","gross_exposure":"',
    '","open_positions":',
    ',"complete":',
    ',"unpriced":[',
    '],"as_of":"',
    '","sequence":',
)
_UPDATE_SIZE = sum(map(len, _UPDATE)) + 8 * DECIMAL_SIZE + 2 * INT_SIZE + TIME_SIZE + 8

_ALERT = texts(
    '{"alert_id":"',
    '","user_id":"',
    '","portfolio_id":"',
    '","type":"',
    '","severity":"',
    '","symbol":',
    ',"message":"',
    '","current_value":"',
    '","limit_value":',
    ',"threshold_percent":"',
    '","is_resolved":',
    ',"action":"NONE","created_at":"',
    '","cause":',
)
_TYPES = texts("POSITION_LIMIT", "EXPOSURE_LIMIT", "LOSS_LIMIT")
#: by Subject; that of SYMBOL is the symbol itself
_SUBJECTS = texts("", "-", "total", "daily", "weekly")
_OF_SUBJECT = texts(" of ", "", " total", " daily", " weekly")
_SEVERITIES = texts("INFO", "WARNING", "CRITICAL")
#: by severity, and last a WARNING that came down from CRITICAL
_MOVES = texts(" is resolved: ", " rose to WARNING: ", " rose to CRITICAL: ", " fell to WARNING: ")
_AGAINST = texts(" against limit ", " with no limit any more")
(_NULL,) = texts("null")
(_QUOTED,) = texts('"')
_LINES = texts("90", "100")
_SLASH = np.uint8(ord("/"))
_QUOTE = np.uint8(ord('"'))
_BRACE = np.uint8(ord("}"))
_BACKSLASH = np.uint8(ord("\\"))

_SETTLEMENT = texts(
    '{"settlement_id":"',
    '","trade_id":"',
    '","user_id":"',
    '","portfolio_id":"',
    '","wallet_id":"',
    '","broker":',
    ',"symbol":"',
    '","side":"',
    '","asset":"',
    '","quantity":"',
    '","currency":"',
    '","amount":"',
    '","fee":"',
    '","status":"',
    '","settles_at":"',
    '","occurred_at":"',
    '","journal":',
    ',"cause":',
)
_SIDES = texts("BUY", "SELL")
_SETTLEMENT_STATUSES = texts("PENDING", "SETTLED", "FAILED", "CANCELLED")
(_ESCAPE,) = texts("\\u00")
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)

_CAUSE = texts('{"topic":"', '","partition":', ',"offset":')
_CAUSE_SIZE = sum(map(len, _CAUSE)) + 2 * INT_SIZE + 2
_SETTLEMENT_SIZE = sum(map(len, _SETTLEMENT)) + 3 * DECIMAL_SIZE + 2 * TIME_SIZE + INT_SIZE + _CAUSE_SIZE + 32
_ALERT_SIZE = sum(map(len, _ALERT)) + 5 * DECIMAL_SIZE + INT_SIZE + TIME_SIZE + _CAUSE_SIZE + 256

_ZERO = np.uint8(ord("0"))
_TEN = np.uint64(10)


@njit(cache=True, nogil=True)
def _put(buf, pos, text):
    """`text` (uint8[n]) at `pos`; like all writers here returns the position after it."""
    copy(buf, pos, text, 0, len(text))
    return pos + len(text)


@njit(cache=True, nogil=True)
def _name(buf, pos, names, k):
    """Text `k` of `names` as it is."""
    n = names.len[k]
    copy(buf, pos, names.data, names.at[k], n)
    return pos + n


@njit(cache=True, nogil=True)
def _byte(buf, pos, byte):
    buf[pos] = byte
    return pos + 1


@njit(cache=True, nogil=True)
def _amount(buf, pos, text, lo, hi):
    """`text` and then the decimal of limbs `lo`, `hi`."""
    return write_decimal(buf, _put(buf, pos, text), lo, np.uint64(hi))


@njit(cache=True, nogil=True)
def _digits(buf, pos, value, n):
    """The last `n` decimal digits of `value` ≥ 0."""
    rest = np.uint64(value)
    for i in range(n - 1, -1, -1):
        tenth = rest // _TEN
        buf[pos + i] = _ZERO + np.uint8(rest - tenth * _TEN)
        rest = tenth
    return pos + n


@njit(cache=True, nogil=True)
def _int(buf, pos, value):
    """An integer ≥ 0."""
    n, rest = 1, np.uint64(value) // _TEN
    while rest > 0:
        n += 1
        rest //= _TEN
    return _digits(buf, pos, value, n)


@njit(cache=True, nogil=True)
def write_time(buf, pos, us):
    """Microseconds UTC since 1970 (0 ≤ us, year ≤ 9999) as `2026-03-02T09:00:00.000000Z`, 27 bytes at `pos`.

    The civil date from the day number is Howard Hinnant's `civil_from_days`: years that start in March.
    """
    second, micro = us // 1_000_000, us % 1_000_000
    day, second = second // 86_400, second % 86_400
    day += 719_468
    era, day = day // 146_097, day % 146_097
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    year += 400 * era
    if month < 10:
        month += 3
    else:
        month -= 9
        year += 1
    pos = _byte(buf, _digits(buf, pos, year, 4), np.uint8(45))
    pos = _byte(buf, _digits(buf, pos, month, 2), np.uint8(45))
    pos = _byte(buf, _digits(buf, pos, day, 2), np.uint8(84))
    pos = _byte(buf, _digits(buf, pos, second // 3600, 2), np.uint8(58))
    pos = _byte(buf, _digits(buf, pos, second // 60 % 60, 2), np.uint8(58))
    pos = _byte(buf, _digits(buf, pos, second % 60, 2), np.uint8(46))
    return _byte(buf, _digits(buf, pos, micro, 6), np.uint8(90))


@njit(cache=True, nogil=True)
def _cause(buf, pos, topics, topic, partition, offset):
    pos = _name(buf, _put(buf, pos, _CAUSE[0]), topics, topic)
    pos = _int(buf, _put(buf, pos, _CAUSE[1]), np.int64(partition))
    pos = _int(buf, _put(buf, pos, _CAUSE[2]), offset)
    return _byte(buf, pos, _BRACE)


@njit(cache=True, nogil=True)
def _updates(rows, unpriced, names, user, portfolio, base):
    n = len(rows)
    size = n * (_UPDATE_SIZE + len(base))
    for i in range(n):
        size += names.len[user[i]] + names.len[portfolio[i]]
    for k in range(len(unpriced)):
        size += names.len[unpriced[k]] + 3
    buf, ends, pos = np.empty(size, np.uint8), np.empty(n, np.int64), 0
    for i in range(n):
        r = rows[i]
        pos = _name(buf, _put(buf, pos, _UPDATE[0]), names, user[i])
        pos = _name(buf, _put(buf, pos, _UPDATE[1]), names, portfolio[i])
        pos = _put(buf, _put(buf, pos, _UPDATE[2]), base)
        pos = _amount(buf, pos, _UPDATE[3], r.market_value_lo, r.market_value_hi)
        pos = _amount(buf, pos, _UPDATE[4], r.cost_basis_lo, r.cost_basis_hi)
        pos = _amount(buf, pos, _UPDATE[5], r.realized_pnl_lo, r.realized_pnl_hi)
        pos = _amount(buf, pos, _UPDATE[6], r.unrealized_pnl_lo, r.unrealized_pnl_hi)
        pos = _amount(buf, pos, _UPDATE[7], r.fees_lo, r.fees_hi)
        pos = _amount(buf, pos, _UPDATE[8], r.total_pnl_lo, r.total_pnl_hi)
        pos = _amount(buf, pos, _UPDATE[9], r.daily_pnl_lo, r.daily_pnl_hi)
        pos = _amount(buf, pos, _UPDATE[10], r.gross_exposure_lo, r.gross_exposure_hi)
        pos = _int(buf, _put(buf, pos, _UPDATE[11]), np.int64(r.open_positions))
        pos = _put(buf, _put(buf, pos, _UPDATE[12]), _TRUE_FALSE[1 if r.unpriced_n == 0 else 0])
        pos = _put(buf, pos, _UPDATE[13])
        for k in range(r.unpriced_at, r.unpriced_at + r.unpriced_n):
            if k > r.unpriced_at:
                pos = _byte(buf, pos, np.uint8(44))
            pos = _byte(buf, _name(buf, _byte(buf, pos, _QUOTE), names, unpriced[k]), _QUOTE)
        pos = write_time(buf, _put(buf, pos, _UPDATE[14]), r.as_of)
        pos = _int(buf, _put(buf, pos, _UPDATE[15]), r.sequence)
        pos = _byte(buf, pos, _BRACE)
        ends[i] = pos
    return buf[:pos], ends


@njit(cache=True, nogil=True)
def _alerts(rows, names, user, portfolio, topics, base):
    n = len(rows)
    size = n * (_ALERT_SIZE + len(base) + topics.len.max())
    for i in range(n):
        symbol = rows[i].symbol
        size += 2 * (names.len[user[i]] + names.len[portfolio[i]]) + (3 * names.len[symbol] if symbol >= 0 else 0)
    buf, ends, pos = np.empty(size, np.uint8), np.empty(n, np.int64), 0
    for i in range(n):
        r = rows[i]
        is_symbol = r.subject == 0
        pos = _name(buf, _put(buf, pos, _ALERT[0]), names, user[i])
        pos = _name(buf, _byte(buf, pos, _SLASH), names, portfolio[i])
        pos = _put(buf, _byte(buf, pos, _SLASH), _TYPES[r.type])
        pos = _put(buf, _byte(buf, pos, _SLASH), _SUBJECTS[r.subject])
        if is_symbol:
            pos = _name(buf, pos, names, r.symbol)
        pos = _int(buf, _byte(buf, pos, _SLASH), r.number)
        pos = _name(buf, _put(buf, pos, _ALERT[1]), names, user[i])
        pos = _name(buf, _put(buf, pos, _ALERT[2]), names, portfolio[i])
        pos = _put(buf, _put(buf, pos, _ALERT[3]), _TYPES[r.type])
        pos = _put(buf, _put(buf, pos, _ALERT[4]), _SEVERITIES[r.severity])
        pos = _put(buf, pos, _ALERT[5])
        if is_symbol:
            pos = _byte(buf, _name(buf, _byte(buf, pos, _QUOTE), names, r.symbol), _QUOTE)
        else:
            pos = _put(buf, pos, _NULL)
        pos = _put(buf, pos, _ALERT[6])
        pos = _put(buf, _put(buf, pos, _TYPES[r.type]), _OF_SUBJECT[r.subject])
        if is_symbol:
            pos = _name(buf, pos, names, r.symbol)
        # a WARNING across the line of 100 can only have come from above it
        pos = _put(buf, pos, _MOVES[3 if r.severity == 1 and r.line == 100 else np.int64(r.severity)])
        pos = write_decimal(buf, pos, r.value_lo, np.uint64(r.value_hi))
        if r.has_limit:
            pos = _amount(buf, pos, _AGAINST[0], r.limit_lo, r.limit_hi)
            pos = _put(buf, _byte(buf, pos, np.uint8(32)), base)
        else:
            pos = _put(buf, _put(buf, _byte(buf, pos, np.uint8(32)), base), _AGAINST[1])
        pos = _amount(buf, pos, _ALERT[7], r.value_lo, r.value_hi)
        pos = _put(buf, pos, _ALERT[8])
        if r.has_limit:
            pos = _byte(buf, _amount(buf, pos, _QUOTED, r.limit_lo, r.limit_hi), _QUOTE)
        else:
            pos = _put(buf, pos, _NULL)
        pos = _put(buf, _put(buf, pos, _ALERT[9]), _LINES[1 if r.line == 100 else 0])
        pos = _put(buf, _put(buf, pos, _ALERT[10]), _TRUE_FALSE[1 if r.is_resolved else 0])
        pos = write_time(buf, _put(buf, pos, _ALERT[11]), r.created_at)
        pos = _put(buf, pos, _ALERT[12])
        pos = _cause(buf, pos, topics, r.cause_topic, r.cause_partition, r.cause_offset)
        pos = _byte(buf, pos, _BRACE)
        ends[i] = pos
    return buf[:pos], ends


@njit(cache=True, nogil=True)
def _escaped(buf, pos, data, start, size):
    """Free text as a JSON string; without a size (−1): null. Takes six bytes for each of it at most, and two more."""
    if size < 0:
        return _put(buf, pos, _NULL)
    pos = _byte(buf, pos, _QUOTE)
    for k in range(start, start + size):
        c = data[k]
        if c < 32:
            pos = _put(buf, pos, _ESCAPE)
            pos = _byte(buf, _byte(buf, pos, _HEX[c >> 4]), _HEX[c & 15])
            continue
        if c in (_QUOTE, _BACKSLASH):
            pos = _byte(buf, pos, _BACKSLASH)
        pos = _byte(buf, pos, c)
    return _byte(buf, pos, _QUOTE)


@njit(cache=True, nogil=True)
def _span(buf, pos, batch, f, i):
    """Text f of event i."""
    n = batch.text_len[f, i]
    copy(buf, pos, batch.data, batch.text_at[f, i], n)
    return pos + n


@njit(cache=True, nogil=True)
def _settlements(batch, offset, topic, number):
    """The places of texts are those of settlement_events.TEXT; `number` int32[n] is each cause's partition."""
    n = len(offset)
    size = n * (_SETTLEMENT_SIZE + len(topic))
    for i in range(n):
        for f in range(7):
            size += 2 * batch.text_len[f, i]
        size += 6 * max(batch.text_len[7, i], 0)
    buf, ends, pos = np.empty(size, np.uint8), np.empty(n, np.int64), 0
    for i in range(n):
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[0]), batch, 1, i)
        pos = _span(buf, _byte(buf, pos, _SLASH), batch, 0, i)
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[1]), batch, 0, i)
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[2]), batch, 1, i)
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[3]), batch, 2, i)
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[4]), batch, 3, i)
        pos = _escaped(buf, _put(buf, pos, _SETTLEMENT[5]), batch.data, batch.text_at[7, i], batch.text_len[7, i])
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[6]), batch, 4, i)
        pos = _put(buf, _put(buf, pos, _SETTLEMENT[7]), _SIDES[batch.side[i]])
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[8]), batch, 6, i)
        pos = _amount(buf, pos, _SETTLEMENT[9], batch.quantity[i, 0], batch.quantity[i, 1])
        pos = _span(buf, _put(buf, pos, _SETTLEMENT[10]), batch, 5, i)
        pos = _amount(buf, pos, _SETTLEMENT[11], batch.amount[i, 0], batch.amount[i, 1])
        pos = _amount(buf, pos, _SETTLEMENT[12], batch.fee[i, 0], batch.fee[i, 1])
        pos = _put(buf, _put(buf, pos, _SETTLEMENT[13]), _SETTLEMENT_STATUSES[batch.status[i]])
        pos = write_time(buf, _put(buf, pos, _SETTLEMENT[14]), batch.settles_at[i])
        pos = write_time(buf, _put(buf, pos, _SETTLEMENT[15]), batch.occurred_at[i])
        pos = _int(buf, _put(buf, pos, _SETTLEMENT[16]), batch.journal[i])
        pos = _put(buf, _put(buf, _put(buf, pos, _SETTLEMENT[17]), _CAUSE[0]), topic)
        pos = _int(buf, _put(buf, pos, _CAUSE[1]), np.int64(number[i]))
        pos = _int(buf, _put(buf, pos, _CAUSE[2]), offset[i])
        pos = _byte(buf, _byte(buf, pos, _BRACE), _BRACE)
        ends[i] = pos
    return buf[:pos], ends


def names_of(parts: list[bytes]) -> Names:
    """Texts as Names, in this order."""
    sizes = np.array([len(part) for part in parts], np.int32)
    return Names(np.frombuffer(b"".join(parts), np.uint8), np.cumsum(sizes, dtype=np.int64) - sizes, sizes)


def cause_topics(prefix: str) -> Names:
    """The input topics' full names in the order of INPUTS, for `topics` below."""
    return names_of([f"{prefix}{name}".encode() for name in INPUTS])


def encode_updates(
    rows: np.ndarray,
    unpriced: np.ndarray,
    names: Names,
    user: np.ndarray,
    portfolio: np.ndarray,
    base_currency: str,
) -> Encoded:
    """`portfolio_updates` of UPDATE rows.

    unpriced int32[m]: the symbols that the rows' `unpriced_at`, `unpriced_n` count in; user, portfolio
    int32[n]: of each row; all three are numbers in `names`.
    """
    return _updates(rows, unpriced, names, user, portfolio, np.frombuffer(base_currency.encode(), np.uint8))


def encode_alerts(
    rows: np.ndarray,
    names: Names,
    user: np.ndarray,
    portfolio: np.ndarray,
    topics: Names,
    base_currency: str,
) -> Encoded:
    """`risk_alerts` of ALERT rows; user, portfolio int32[n] number `names`, `topics` is `cause_topics()`."""
    return _alerts(rows, names, user, portfolio, topics, np.frombuffer(base_currency.encode(), np.uint8))


class _SettlementColumns(NamedTuple):
    """What is written of a SettlementBatch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    quantity: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    side: np.ndarray
    status: np.ndarray
    settles_at: np.ndarray
    occurred_at: np.ndarray
    journal: np.ndarray


def encode_settlements(batch: SettlementBatch, partition: np.ndarray) -> Encoded:
    """`settlement_events` of a SettlementBatch; partition int[n]: of each event's cause."""
    columns = _SettlementColumns(*(np.ascontiguousarray(getattr(batch, f)) for f in _SettlementColumns._fields))
    topic = np.frombuffer(batch.records.topic.encode(), np.uint8)
    return _settlements(columns, np.ascontiguousarray(batch.records.offset), topic, partition.astype(np.int32))
