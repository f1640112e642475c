"""Updates of portfolios: the latest figures of those that changed, at most one per portfolio and collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import inline, kernel, put
from assetstream.models.interning import sort_by_string
from assetstream.models.outputs import UPDATE
from assetstream.models.rows import TRADED
from assetstream.models.state import book_of, strings_of
from assetstream.models.valuation import (
    BY_MARK,
    EARLIEST,
    PRICED,
    QUEUED,
    URGENT,
    WAITING,
    totals,
    touch_portfolio,
)

if TYPE_CHECKING:
    from assetstream.models.state import AccountState


class UpdateResult(NamedTuple):
    """What is to be published.

    updates     UPDATE rows
    unpriced    int32, the string ids of unpriced symbols that the rows name by `unpriced_at` and `unpriced_n`
    """

    updates: np.ndarray
    unpriced: np.ndarray


@inline
def _unpriced_symbols(strings, book, p, whole, unpriced, keys, at):  # type: ignore[no-untyped-def]
    """Write the symbols of portfolio p's unpriced positions, in byte order, from unpriced[at]. -> how many."""
    n = np.int64(0)
    i = book.live[p].first_position
    while i > 0:
        row, link = book.positions.rows[i - 1], book.links[i - 1]
        if row.flags & TRADED and not (whole and link.state == PRICED):
            unpriced[at + n], keys[n] = np.int32(row.symbol), row.symbol
            n += 1
        i = link.next_of_portfolio
    sort_by_string(strings.table.rows, keys, unpriced[at : at + n], n)
    return n


@inline
def _update(strings, book, p, now_ms, update, unpriced, keys, at):  # type: ignore[no-untyped-def]
    """Fill the update of portfolio p and count its sequence. -> the next free place in `unpriced`."""
    row, live, figures = book.portfolios.rows[p], book.live[p], totals(book, p)
    row.sequence += 1
    live.pending &= np.uint8(QUEUED)
    live.published_ms = now_ms
    touch_portfolio(book, p)
    n = np.int64(0)
    if not figures.whole or live.unpriced > 0:
        n = _unpriced_symbols(strings, book, p, figures.whole, unpriced, keys, at)
    update.portfolio, update.sequence = np.int32(p), row.sequence
    put(update, "market_value", figures.market_value)
    put(update, "cost_basis", figures.cost_basis)
    put(update, "realized_pnl", figures.realized_pnl)
    put(update, "unrealized_pnl", figures.unrealized_pnl)
    put(update, "fees", figures.fees)
    put(update, "total_pnl", figures.total_pnl)
    put(update, "daily_pnl", figures.daily_pnl)
    put(update, "gross_exposure", figures.gross_exposure)
    update.open_positions = live.open_positions
    update.unpriced_at, update.unpriced_n = np.int32(at), np.int32(n)
    update.as_of = live.as_of
    update.cause_topic, update.cause_partition = live.cause_topic, live.cause_partition
    update.cause_offset = live.cause_offset
    return at + n


@kernel
def _collect(strings, book, now_ms, mark_update_ms, updates, unpriced, keys):  # type: ignore[no-untyped-def]
    """Fill `updates`. -> (how many, unpriced symbols written)."""
    counters, queues = book.counters, book.queues
    n, at = np.int64(0), np.int64(0)
    for k in range(counters[URGENT]):
        at = _update(strings, book, np.int64(queues[0, k]), now_ms, updates[n], unpriced, keys, at)
        n += 1
    counters[URGENT] = 0
    if counters[WAITING] == 0 or now_ms < counters[EARLIEST] + mark_update_ms:
        return n, at
    kept, earliest = np.int64(0), np.int64(0)
    for k in range(counters[WAITING]):
        p = np.int64(queues[1, k])
        live = book.live[p]
        if live.pending & BY_MARK == 0:
            live.pending = np.uint8(0)
        elif now_ms >= live.published_ms + mark_update_ms:
            live.pending = np.uint8(0)
            at = _update(strings, book, p, now_ms, updates[n], unpriced, keys, at)
            n += 1
        else:
            queues[1, kept] = np.uint32(p)
            earliest = live.published_ms if kept == 0 else min(earliest, live.published_ms)
            kept += 1
    counters[WAITING], counters[EARLIEST] = kept, earliest
    return n, at


def collect_updates(state: AccountState, now_ms: int, mark_update_ms: int) -> UpdateResult:
    """The updates that are due, in the order in which portfolios changed; counts their sequences.

    After a fill or a limit change an update is due at once, after marks alone `mark_update_ms` after the portfolio's
    last one. `now_ms` is any clock that doesn't run backwards; times are forgotten at a restore.
    """
    waiting, earliest = int(state.counters[WAITING]), int(state.counters[EARLIEST])
    due = waiting if waiting and now_ms >= earliest + mark_update_ms else 0
    positions = int(state.positions.count[0])
    updates = np.empty(int(state.counters[URGENT]) + due, UPDATE)
    unpriced, keys = np.empty(positions, np.int32), np.empty(positions, np.uint32)
    n = at = 0
    if len(updates):
        n, at = _collect(strings_of(state), book_of(state), now_ms, mark_update_ms, updates, unpriced, keys)
    return UpdateResult(updates[:n].copy(), unpriced[:at].copy())


def next_update_ms(state: AccountState, mark_update_ms: int) -> int | None:
    """When the next update that a mark made due can be collected; None: none is waiting."""
    return int(state.counters[EARLIEST]) + mark_update_ms if state.counters[WAITING] else None
