"""OUTCOME rows to the JSON of `asset_transactions`, in numba, as `encode.py` does it for the other topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from assetstream.models.encode import (
    _BRACE,
    _CAUSE,
    _CAUSE_SIZE,
    _NULL,
    _QUOTE,
    DECIMAL_SIZE,
    INT_SIZE,
    TIME_SIZE,
    Encoded,
    Names,
    _amount,
    _byte,
    _escaped,
    _int,
    _name,
    _put,
    _span,
    texts,
    write_time,
)
from assetstream.models.messages import TransactionStatus, TransactionType, WalletType, codes
from assetstream.models.outputs import NO_TIME, Code

if TYPE_CHECKING:
    from assetstream.models.clock import DueBatch
    from assetstream.models.decode import TransactionBatch, TransferBatch

_OUTCOME = texts(
    '{"transaction_id":"',
    '","user_id":"',
    '","wallet_id":"',
    '","type":"',
    '","asset":"',
    '","amount":"',
    '","fee":"',
    '","status":"',
    '","code":',
    ',"balance":{"total":"',
    '","available":"',
    '","locked":"',
    '"},"postings":[',
    "]",
    ',"occurred_at":"',
    '","cause":',
)
_LEG = texts('{"account":', ',"asset":"', '","amount":"', '"}')
_OF_WALLET = texts(',"wallet_type":"', '","resets":')
_RATE = texts(',"rate":"', '","rate_as_of":', ',"spread_bps":"', ',"rate":null,"rate_as_of":null,"spread_bps":null')
_TYPES, _STATUSES = texts(*codes(TransactionType)), texts(*codes(TransactionStatus))
_CODES, _WALLET_TYPES = texts(*(code.name for code in Code)), texts(*codes(WalletType))
_CONVERSION = np.uint8(TransactionType.CONVERSION.code)
_COMMA = np.uint8(ord(","))
#: places of the texts that are written: transaction id, user, wallet, asset
_TEXTS = 4
_LEG_SIZE = sum(map(len, _LEG)) + DECIMAL_SIZE + 1
_OUTCOME_SIZE = sum(map(len, (*_OUTCOME, *_OF_WALLET, *_RATE))) + 7 * DECIMAL_SIZE + 2 * TIME_SIZE + 2 * INT_SIZE
_OUTCOME_SIZE += _CAUSE_SIZE + 128  # and a type, a status, a code and a wallet's type


class _Columns(NamedTuple):
    """What is written of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    type: np.ndarray
    amount: np.ndarray
    fee: np.ndarray
    occurred_at: np.ndarray
    offset: np.ndarray


@njit(cache=True, nogil=True)
def _legs(buf, pos, postings, j, accounts, assets):
    """The postings of the event that posting j is of, from that one on. -> (position, the one after them)."""
    message, first = postings[j].message, j
    while j < len(postings) and postings[j].message == message:
        if j > first:
            pos = _byte(buf, pos, _COMMA)
        pos = _put(buf, pos, _LEG[0])
        pos = _escaped(buf, pos, accounts.data, accounts.at[j], accounts.len[j])
        pos = _name(buf, _put(buf, pos, _LEG[1]), assets, j)
        pos = _amount(buf, pos, _LEG[2], postings[j].amount_lo, postings[j].amount_hi)
        pos = _put(buf, pos, _LEG[3])
        j += 1
    return pos, j


@njit(cache=True, nogil=True)
def _rate(buf, pos, r):
    """At what a conversion was done; nulls when it wasn't."""
    if r.rate_lo == 0 and r.rate_hi == 0:
        return _put(buf, pos, _RATE[3])
    pos = _amount(buf, pos, _RATE[0], r.rate_lo, r.rate_hi)
    pos = _put(buf, pos, _RATE[1])
    if r.rate_as_of == NO_TIME:
        pos = _put(buf, pos, _NULL)
    else:
        pos = _byte(buf, write_time(buf, _byte(buf, pos, _QUOTE), r.rate_as_of), _QUOTE)
    return _byte(buf, _amount(buf, pos, _RATE[2], r.spread_bps_lo, r.spread_bps_hi), _QUOTE)


@njit(cache=True, nogil=True)
def _outcomes(batch, rows, postings, accounts, assets, topic, partition):
    n, legs = len(rows), len(postings)
    size = n * (_OUTCOME_SIZE + len(topic)) + legs * _LEG_SIZE
    for k in range(n):
        for f in range(_TEXTS):
            size += batch.text_len[f, rows[k].message]
    for j in range(legs):
        size += 6 * accounts.len[j] + 2 + assets.len[j]
    buf, ends, pos, j = np.empty(size, np.uint8), np.empty(n, np.int64), 0, 0
    for k in range(n):
        r = rows[k]
        i, kind = r.message, batch.type[r.message]
        pos = _span(buf, _put(buf, pos, _OUTCOME[0]), batch, 0, i)
        pos = _span(buf, _put(buf, pos, _OUTCOME[1]), batch, 1, i)
        pos = _span(buf, _put(buf, pos, _OUTCOME[2]), batch, 2, i)
        pos = _put(buf, _put(buf, pos, _OUTCOME[3]), _TYPES[kind])
        pos = _span(buf, _put(buf, pos, _OUTCOME[4]), batch, 3, i)
        pos = _amount(buf, pos, _OUTCOME[5], batch.amount[i, 0], batch.amount[i, 1])
        pos = _amount(buf, pos, _OUTCOME[6], batch.fee[i, 0], batch.fee[i, 1])
        pos = _put(buf, _put(buf, pos, _OUTCOME[7]), _STATUSES[r.status])
        pos = _put(buf, pos, _OUTCOME[8])
        if r.code == 0:
            pos = _put(buf, pos, _NULL)
        else:
            pos = _byte(buf, _put(buf, _byte(buf, pos, _QUOTE), _CODES[r.code]), _QUOTE)
        pos = _amount(buf, pos, _OUTCOME[9], r.total_lo, r.total_hi)
        pos = _amount(buf, pos, _OUTCOME[10], r.available_lo, r.available_hi)
        pos = _amount(buf, pos, _OUTCOME[11], r.locked_lo, r.locked_hi)
        pos = _put(buf, pos, _OUTCOME[12])
        if j < legs and postings[j].message == i:
            pos, j = _legs(buf, pos, postings, j, accounts, assets)
        pos = _put(buf, pos, _OUTCOME[13])
        if r.tells != 0:
            pos = _put(buf, _put(buf, pos, _OF_WALLET[0]), _WALLET_TYPES[r.tells - 1])
            pos = _int(buf, _put(buf, pos, _OF_WALLET[1]), np.int64(r.resets))
        pos = write_time(buf, _put(buf, pos, _OUTCOME[14]), batch.occurred_at[i])
        pos = _put(buf, _put(buf, _put(buf, pos, _OUTCOME[15]), _CAUSE[0]), topic)
        pos = _int(buf, _put(buf, pos, _CAUSE[1]), np.int64(partition))
        pos = _int(buf, _put(buf, pos, _CAUSE[2]), batch.offset[i])
        pos = _byte(buf, pos, _BRACE)
        if kind == _CONVERSION:
            pos = _rate(buf, pos, r)
        pos = _byte(buf, pos, _BRACE)
        ends[k] = pos
    return buf[:pos], ends


def encode_outcomes(
    batch: TransactionBatch | TransferBatch | DueBatch,
    outcomes: np.ndarray,
    postings: np.ndarray,
    accounts: Names,
    assets: Names,
    partition: int,
) -> Encoded:
    """`asset_transactions` of a partition's OUTCOME rows; `accounts` and `assets` are those of its POSTING rows."""
    data = batch.data.view()
    data.flags.writeable = False  # one type for numba, wherever the bytes come from
    named = {name: np.ascontiguousarray(getattr(batch, name)) for name in ("type", "amount", "fee", "occurred_at")}
    text_at, text_len = (np.ascontiguousarray(each[:_TEXTS]) for each in (batch.text_at, batch.text_len))
    columns = _Columns(data, text_at, text_len, **named, offset=np.array(batch.records.offset, np.int64))
    topic = np.frombuffer(batch.records.topic.encode(), np.uint8)
    rows, legs = np.ascontiguousarray(outcomes), np.ascontiguousarray(postings)
    return _outcomes(columns, rows, legs, accounts, assets, topic, partition)
