"""Prices: which of them are accepted, and which of a batch are the latest of their symbols (interface, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import at, inline, kernel, put
from assetstream.models.interning import find_string, intern
from assetstream.models.rows import append, touch
from assetstream.models.state import reserve, strings_of
from assetstream.models.verdicts import Verdict

if TYPE_CHECKING:
    from assetstream.models.decode import PriceBatch
    from assetstream.models.state import PriceState

_SYMBOL, _CURRENCY = 0, 1
_SLASH = np.uint8(ord("/"))

_APPLIED, _DUPLICATE, _IGNORED = (np.uint8(v) for v in (Verdict.APPLIED, Verdict.DUPLICATE, Verdict.IGNORED))
_MALFORMED, _KEY_MISMATCH = np.uint8(Verdict.MALFORMED), np.uint8(Verdict.KEY_MISMATCH)
_CURRENCY_MISMATCH = np.uint8(Verdict.CURRENCY_MISMATCH)


class PriceResult(NamedTuple):
    """What became of a batch of prices.

    verdict   uint8[n], Verdict of each message
    accepted  int64, indexes of the applied messages, in order
    latest    int64, those of them that are the last of their symbol: what `marks` gets
    """

    state: PriceState
    verdict: np.ndarray
    accepted: np.ndarray
    latest: np.ndarray


class _Prices(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    price: np.ndarray
    as_of: np.ndarray
    body: np.ndarray
    offset: np.ndarray


@inline
def _is_other_quote(data, at, n, currency_at, currency_n):  # type: ignore[no-untyped-def]
    """Whether a symbol is a pair A/B (one slash, something on both sides) and not quoted in `currency`."""
    start, slashes = np.int64(0), 0
    for k in range(n):
        if data[at + k] == _SLASH:
            start = k + 1
            slashes += 1
    if slashes != 1 or start == 1 or start == n:
        return False
    if n - start != currency_n:
        return True
    for k in range(currency_n):  # noqa: SIM110
        if data[at + start + k] != data[currency_at + k]:
            return True
    return False


@kernel
def _prices(strings, prices, by_symbol, batch, verdict):  # type: ignore[no-untyped-def]
    """Walk the batch in order."""
    data, starts, sizes = batch.data, batch.text_at, batch.text_len
    for m in range(len(verdict)):
        if verdict[m] >= _MALFORMED:
            continue
        if batch.key_ok[m] == 0:
            verdict[m] = _KEY_MISMATCH
            continue
        symbol_at, symbol_n = starts[_SYMBOL, m], np.int64(sizes[_SYMBOL, m])
        currency_at, currency_n = starts[_CURRENCY, m], np.int64(sizes[_CURRENCY, m])
        rows, lengths, index = strings.table.rows, strings.lengths, strings.index
        symbol, _ = find_string(rows, lengths, index, data, symbol_at, symbol_n)
        currency, _ = find_string(rows, lengths, index, data, currency_at, currency_n)
        k = np.int64(by_symbol[symbol]) - 1 if symbol >= 0 else np.int64(-1)
        mismatch = _is_other_quote(data, symbol_at, symbol_n, currency_at, currency_n)
        if mismatch or (k >= 0 and prices.rows[k].currency != currency):
            verdict[m] = _CURRENCY_MISMATCH
            continue
        body_lo, body_hi = batch.body[m, 0], batch.body[m, 1]
        if k >= 0:
            latest = prices.rows[k]
            if batch.as_of[m] < latest.as_of:
                verdict[m] = _IGNORED
                continue
            if batch.as_of[m] == latest.as_of and body_lo == latest.body_lo and body_hi == latest.body_hi:
                verdict[m] = _DUPLICATE
                continue
        else:
            symbol = intern(strings, data, symbol_at, symbol_n)
            currency = intern(strings, data, currency_at, currency_n)
            k = append(prices)
            by_symbol[symbol] = np.int32(k + 1)
            prices.rows[k].symbol, prices.rows[k].currency = np.uint32(symbol), np.uint32(currency)
        row = prices.rows[k]
        put(row, "price", at(batch.price, m))
        row.as_of, row.body_lo, row.body_hi, row.offset = batch.as_of[m], body_lo, body_hi, batch.offset[m]
        touch(prices, k)


@kernel
def _latest(strings, prices, by_symbol, batch, accepted, latest):  # type: ignore[no-untyped-def]
    """Write those of the accepted messages that are the latest of their symbols. -> how many."""
    n = np.int64(0)
    rows, lengths, index = strings.table.rows, strings.lengths, strings.index
    for m in accepted:
        size = np.int64(batch.text_len[_SYMBOL, m])
        symbol, _ = find_string(rows, lengths, index, batch.data, batch.text_at[_SYMBOL, m], size)
        if prices.rows[by_symbol[symbol] - 1].offset == batch.offset[m]:
            latest[n] = m
            n += 1
    return n


def apply_prices(state: PriceState, batch: PriceBatch) -> PriceResult:
    """Accept decoded prices in order; an older one than its symbol's latest is IGNORED. `batch` is not changed."""
    n = batch.records.n
    state = reserve(state, strings=2 * n, prices=n)
    verdict = batch.verdict.copy()
    columns = _Prices(
        batch.data,
        batch.text_at,
        batch.text_len,
        batch.key_ok,
        batch.price,
        batch.as_of,
        batch.body,
        batch.records.offset,
    )
    _prices(strings_of(state), state.prices, state.by_symbol, columns, verdict)
    accepted = np.flatnonzero(verdict == _APPLIED)
    latest = np.empty(len(accepted), np.int64)
    kept = _latest(strings_of(state), state.prices, state.by_symbol, columns, accepted, latest)
    return PriceResult(state, verdict, accepted, latest[:kept])
