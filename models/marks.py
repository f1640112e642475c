"""Marks: each is taken in turn and revalues what depends on it, judged before the next (interface, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import at, inline, kernel, prefetch, put
from assetstream.models.interning import find_pair, intern, pair
from assetstream.models.limits import PORTFOLIO_RULES, judge_portfolio, judge_position
from assetstream.models.outputs import ALERT, INPUTS
from assetstream.models.rows import TRADED, append, collect_rows, touch
from assetstream.models.state import book_of, reserve, strings_of
from assetstream.models.valuation import (
    BY_MARK,
    ROUTES,
    TAKEN,
    Source,
    caused,
    refresh_routes,
    revalue,
    route_position,
    totals,
    touch_portfolio,
    turn,
)
from assetstream.models.verdicts import Verdict

if TYPE_CHECKING:
    from assetstream.models.decode import MarkBatch
    from assetstream.models.state import AccountState

_TOPIC = INPUTS.index("prices")
#: how many positions ahead memory is asked for a portfolio; for a position it is twice that
_STRIDE = 4
#: bits of `visited`
_VISITED, _WRITTEN = 1, 2
_SLASH = np.uint8(ord("/"))
_APPLIED, _IGNORED, _MALFORMED = (np.uint8(v) for v in (Verdict.APPLIED, Verdict.IGNORED, Verdict.MALFORMED))


class MarkResult(NamedTuple):
    """What became of a batch of marks: verdicts (uint8[n], IGNORED when not newer), and ALERT rows in order."""

    state: AccountState
    verdict: np.ndarray
    alerts: np.ndarray


class _Marks(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    price: np.ndarray
    as_of: np.ndarray
    partition: np.ndarray
    offset: np.ndarray


@inline
def _take(strings, book, batch, m):  # type: ignore[no-untyped-def]
    """Write mark m into its row. -> (row, −1 when it is not newer; symbol; whether it is new or has a new currency)."""
    symbol = intern(strings, batch.data, batch.text_at[0, m], np.int64(batch.text_len[0, m]))
    currency = intern(strings, batch.data, batch.text_at[1, m], np.int64(batch.text_len[1, m]))
    k = np.int64(book.by_symbol[symbol].mark) - 1
    if k >= 0 and batch.offset[m] <= book.marks.rows[k].cause_offset:
        return np.int64(-1), symbol, False
    new = k < 0
    if new:
        k = append(book.marks)
        book.by_symbol[symbol].mark = np.int32(k + 1)
        book.marks.rows[k].symbol = np.uint32(symbol)
    row = book.marks.rows[k]
    new = new or row.currency != currency
    row.currency = np.uint32(currency)
    put(row, "price", at(batch.price, m))
    row.as_of, row.cause_partition, row.cause_offset = batch.as_of[m], batch.partition[m], batch.offset[m]
    book.counters[TAKEN] += 1
    row.taken = book.counters[TAKEN]
    touch(book.marks, k)
    return k, symbol, new


@inline
def _judge(book, p, i, written, source, alerts, n):  # type: ignore[no-untyped-def]
    """Judge portfolio p after a mark changed it, and its position i (−1: none) in the mark's symbol. -> the next n.

    written: something of its row that cannot be derived has changed.
    """
    caused(book, p, source, BY_MARK)
    figures = totals(book, p)
    if i >= 0:
        n = judge_position(book, i, figures.whole, source, alerts, n)
    n = judge_portfolio(book, p, figures, source, alerts, n)
    if written:
        touch_portfolio(book, p)
    return n


@inline
def _is_held(row):  # type: ignore[no-untyped-def]
    return row.quantity_lo != 0 or row.quantity_hi != 0


@inline
def _next(book, i):  # type: ignore[no-untyped-def]
    """The position after i in the list of its symbol, −1: there is none."""
    return np.int64(book.links[i].next_of_symbol) - 1 if i >= 0 else i


@inline
def _expect_position(book, i):  # type: ignore[no-untyped-def]
    if i >= 0:
        prefetch(book.positions.rows, i)
        prefetch(book.base, i)
    return _next(book, i)


@inline
def _expect_portfolio(book, i):  # type: ignore[no-untyped-def]
    if i >= 0:
        p = np.int64(book.positions.rows[i].portfolio)
        prefetch(book.portfolios.rows, p)
        prefetch(book.live, p)
    return _next(book, i)


@kernel
def _revalue_symbol(strings, book, symbol, new, source, alerts, n):  # type: ignore[no-untyped-def]
    """Revalue and judge the positions of one symbol, each of another portfolio. -> the next n."""
    i = np.int64(book.by_symbol[symbol].first) - 1
    near, far = i, i  # run ahead, so that memory has ready what is valued next
    for _ in range(_STRIDE):
        near, far = _next(book, near), _next(book, _next(book, far))
    while i >= 0:
        far, near = _expect_position(book, far), _expect_portfolio(book, near)
        row = book.positions.rows[i]
        if row.flags & TRADED:
            if new:
                route_position(strings, book, i)
            p = np.int64(row.portfolio)
            turned = _is_held(row) and turn(book, p, source.time)
            repriced = revalue(book, i)
            n = _judge(book, p, i, new or turned or repriced, source, alerts, n)
        i = _next(book, i)
    return n


@kernel
def _revalue_dependents(strings, book, symbol, new, source, alerts, n, scratch):  # type: ignore[no-untyped-def]
    """Revalue all positions in the symbol or in need of a changed rate, then judge their portfolios. -> the next n.

    scratch: uint32[2, positions], for these positions and their portfolios.
    """
    dependents, portfolios = np.int64(0), np.int64(0)
    for i in range(book.positions.count[0]):
        row, link = book.positions.rows[i], book.links[i]
        if row.flags & TRADED == 0:
            continue
        of_symbol = row.symbol == symbol
        if of_symbol and new:
            route_position(strings, book, i)
        if not of_symbol and not book.routes[link.base_route].changed and not book.routes[link.mark_route].changed:
            continue
        live = book.live[row.portfolio]
        if live.visited == 0:
            live.visited = np.uint8(_VISITED | _WRITTEN if new else _VISITED)
            scratch[1, portfolios] = row.portfolio
            portfolios += 1
        if of_symbol and _is_held(row) and turn(book, np.int64(row.portfolio), source.time):
            live.visited |= np.uint8(_WRITTEN)
        scratch[0, dependents] = np.uint32(i)
        dependents += 1
    for k in range(dependents):
        i = np.int64(scratch[0, k])
        if revalue(book, i):
            book.live[book.positions.rows[i].portfolio].visited |= np.uint8(_WRITTEN)
    for k in range(portfolios):
        p = np.int64(scratch[1, k])
        own, _ = find_pair(book.position_index, pair(p, symbol))
        if own >= 0 and book.positions.rows[own].flags & TRADED == 0:
            own = np.int64(-1)
        n = _judge(book, p, own, book.live[p].visited & _WRITTEN != 0, source, alerts, n)
        book.live[p].visited = np.uint8(0)
    return n


@inline
def _is_rate(data, at, n):  # type: ignore[no-untyped-def]
    for k in range(n):  # noqa: SIM110
        if data[at + k] == _SLASH:
            return True
    return False


@kernel
def _marks(strings, book, batch, first, verdict, alerts, scratch, counts):  # type: ignore[no-untyped-def]
    """Walk the batch from message `first`, while the alerts of a mark surely fit; counts = (next message, alerts)."""
    n, m = np.int64(0), np.int64(first)
    at_most = book.positions.count[0] + PORTFOLIO_RULES * book.portfolios.count[0]
    while m < len(verdict) and n + at_most <= len(alerts):
        if verdict[m] < _MALFORMED:
            k, symbol, new = _take(strings, book, batch, m)
            if k < 0:
                verdict[m] = _IGNORED
            else:
                source = Source(batch.as_of[m], np.uint8(_TOPIC), np.int64(batch.partition[m]), batch.offset[m])
                rates = np.int64(0)
                if _is_rate(batch.data, batch.text_at[0, m], np.int64(batch.text_len[0, m])):
                    rates = refresh_routes(strings, book, k, new)
                if rates > 0:
                    n = _revalue_dependents(strings, book, symbol, new, source, alerts, n, scratch)
                else:
                    n = _revalue_symbol(strings, book, symbol, new, source, alerts, n)
        m += 1
    counts[0], counts[1] = m, n


def apply_marks(state: AccountState, batch: MarkBatch) -> MarkResult:
    """Take decoded marks in order: revaluation of what depends on each, and the limits judged after each.

    A mark whose `prices` offset is not above that of its symbol's mark is IGNORED. Rows change only where a level, a
    baseline or what is priced does, besides the mark's own. `batch` is not changed.
    """
    n = batch.records.n
    positions = int(state.positions.count[0])
    routes = min(positions, n * int(state.counters[ROUTES]))
    state = reserve(state, strings=2 * n, marks=n, routes=routes)
    verdict = batch.verdict.copy()
    columns = _Marks(
        batch.data,
        batch.text_at,
        batch.text_len,
        batch.price,
        batch.as_of,
        batch.cause_partition,
        batch.cause_offset,
    )
    strings, book, scratch = strings_of(state), book_of(state), np.empty((2, positions), np.uint32)
    at_most = positions + PORTFOLIO_RULES * int(state.portfolios.count[0])
    alerts = collect_rows(
        ALERT,
        at_most + n,
        n,
        lambda first, rows, counts: _marks(strings, book, columns, first, verdict, rows, scratch, counts),
    )
    return MarkResult(state, verdict, alerts)
