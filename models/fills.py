"""Trades become positions and P&L: weighted-average cost, exact (interface, section 3), each judged at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import (
    add,
    at,
    divide,
    get,
    inline,
    is_negative,
    kernel,
    magnitude,
    multiply,
    one,
    prefetch,
    put,
    zero,
)
from assetstream.models.interning import (
    expect_pair,
    find_id,
    find_pair,
    find_string,
    intern,
    pair,
    remember,
)
from assetstream.models.limits import PORTFOLIO_RULES, judge_portfolio, judge_position
from assetstream.models.outputs import ALERT, FILL, INPUTS, SETTLEMENT_TOLD
from assetstream.models.rows import TRADED, touch
from assetstream.models.settlements import (
    Settling,
    asset_size,
    book_trade,
    exchange,
    find_asset,
    find_holding,
    is_same,
)
from assetstream.models.state import book_of, reserve, strings_of, trade_ids_of
from assetstream.models.valuation import (
    AT_ONCE,
    Source,
    caused,
    open_portfolio,
    open_position,
    revalue,
    route_position,
    totals,
    touch_portfolio,
    turn,
)
from assetstream.models.verdicts import Verdict
from assetstream.models.wallets import enter_balance, ledger_of, room_for, wallet_of_user

if TYPE_CHECKING:
    from assetstream.models.decode import TradeBatch
    from assetstream.models.state import AccountState

_TOPIC = INPUTS.index("trades")
#: places of a trade's texts in the batch
_USER, _PORTFOLIO, _SYMBOL, _CURRENCY, _WALLET = _TEXTS = 1, 2, 4, 5, 3
_BROKER = 7
#: how many messages ahead each step of looking ahead is of the next
_STRIDE = 4

_APPLIED, _DUPLICATE = np.uint8(Verdict.APPLIED), np.uint8(Verdict.DUPLICATE)
_MALFORMED, _OUT_OF_RANGE = np.uint8(Verdict.MALFORMED), np.uint8(Verdict.OUT_OF_RANGE)
_KEY_MISMATCH, _CONFLICT = np.uint8(Verdict.KEY_MISMATCH), np.uint8(Verdict.CONFLICT)
_CURRENCY_MISMATCH = np.uint8(Verdict.CURRENCY_MISMATCH)


class Held(NamedTuple):
    """What the fills of a position add up to (int128, units)."""

    quantity: int
    cost_basis: int
    realized_pnl: int
    fees: int


class TradeResult(NamedTuple):
    """What became of a batch of trades.

    verdict      uint8[n], Verdict of each message
    fills        FILL rows of the applied ones, in order
    alerts       ALERT rows, in order
    settlements  SETTLEMENT_TOLD rows, one an applied message, in order
    changes      CHANGE rows: the balances that each moved, cash before asset, in order
    """

    state: AccountState
    verdict: np.ndarray
    fills: np.ndarray
    alerts: np.ndarray
    settlements: np.ndarray
    changes: np.ndarray


@inline
def fill(held, sells, quantity, price, notional, fee):  # type: ignore[no-untyped-def]
    """(position after a fill, average price, whether all of it is in range); section 3, verbatim.

    quantity, price > 0 and notional = round(quantity·price), which is in range; the average price is 0 when flat.
    """
    q = -quantity if sells else quantity
    before, cost, realized = held.quantity, held.cost_basis, held.realized_pnl
    good = True
    if before == zero() or is_negative(before) == sells:
        after, good = add(before, q)
        cost, fits = add(cost, -notional if sells else notional)
        good = good and fits
    else:
        open_quantity = magnitude(before)
        closed = quantity if quantity < open_quantity else open_quantity
        released = cost
        if closed != open_quantity:
            released, _ = divide(magnitude(cost), closed, open_quantity)
            if is_negative(cost):
                released = -released
        proceeds = notional
        if closed != quantity:
            proceeds, _ = multiply(closed, price)
        realized, good = add(realized, (-proceeds if is_negative(before) else proceeds) - released)
        cost = cost - released
        after = before + q
        if quantity > open_quantity:
            cost = proceeds - notional if sells else notional - proceeds
    fees, fits = add(held.fees, fee)
    good = good and fits
    average = zero()
    if after != zero() and good:
        average, good = divide(magnitude(cost), one(), magnitude(after))
    return Held(after, cost, realized, fees), average, good


@inline
def _find(strings, batch, f, m):  # type: ignore[no-untyped-def]
    """The number of text f of message m, −1 when it is not known."""
    at_text, size = batch.text_at[f, m], np.int64(batch.text_len[f, m])
    number, _ = find_string(strings.table.rows, strings.lengths, strings.index, batch.data, at_text, size)
    return number


@inline
def _look_ahead(strings, book, ledger, ids, batch, m, n, found):  # type: ignore[no-untyped-def]
    """Find what is known of the next messages, a step of each, so that memory has it ready when their turn comes.

    found int64[11, n]: user, portfolio id, symbol, currency, wallet id and asset (strings), portfolio, wallet,
    position, and the balances of cash and asset; −1: not known, so far.
    """
    k = m + 3 * _STRIDE
    if k < n:
        for f in range(5):
            found[f, k] = _find(strings, batch, _TEXTS[f], k)
        found[5, k] = find_asset(strings, batch, k, asset_size(batch, k), found[2, k])
        prefetch(ids.index, np.int64(batch.id[k, 0] & np.uint64(len(ids.index) - 1)))
        if found[0, k] >= 0 and found[1, k] >= 0:
            expect_pair(book.portfolio_index, pair(found[0, k], found[1, k]))
        if found[0, k] >= 0 and found[4, k] >= 0:
            expect_pair(ledger.wallet_index, pair(found[0, k], found[4, k]))
    k = m + 2 * _STRIDE
    if 0 <= k < n:
        found[6, k] = found[7, k] = -1
        if found[0, k] >= 0 and found[1, k] >= 0:
            found[6, k], _ = find_pair(book.portfolio_index, pair(found[0, k], found[1, k]))
        if found[6, k] >= 0:
            prefetch(book.portfolios.rows, found[6, k])
            prefetch(book.live, found[6, k])
            if found[2, k] >= 0:
                expect_pair(book.position_index, pair(found[6, k], found[2, k]))
        if found[0, k] >= 0 and found[4, k] >= 0:
            found[7, k], _ = find_pair(ledger.wallet_index, pair(found[0, k], found[4, k]))
        if found[7, k] >= 0:
            expect_pair(ledger.balance_index, pair(found[7, k], max(found[3, k], np.int64(0))))
            expect_pair(ledger.balance_index, pair(found[7, k], max(found[5, k], np.int64(0))))
    k = m + _STRIDE
    if 0 <= k < n:
        found[8, k] = -1
        if found[6, k] >= 0 and found[2, k] >= 0:
            found[8, k], _ = find_pair(book.position_index, pair(found[6, k], found[2, k]))
        if found[8, k] >= 0:
            prefetch(book.positions.rows, found[8, k])
            prefetch(book.base, found[8, k])
            prefetch(book.links, found[8, k])
        for f in range(2):
            found[9 + f, k] = find_holding(ledger, found[7, k], found[3 + 2 * f, k])
            if found[9 + f, k] >= 0:
                prefetch(ledger.balances.rows, found[9 + f, k])


@kernel
def _find_again(strings, book, ledger, batch, m, found):  # type: ignore[no-untyped-def]
    """What was not known when it was looked for ahead may be there by now."""
    for f in range(5):
        found[f, m] = _find(strings, batch, _TEXTS[f], m)
    found[5, m] = find_asset(strings, batch, m, asset_size(batch, m), found[2, m])
    if found[0, m] >= 0 and found[1, m] >= 0:
        found[6, m], _ = find_pair(book.portfolio_index, pair(found[0, m], found[1, m]))
    if found[0, m] >= 0 and found[4, m] >= 0:
        found[7, m], _ = find_pair(ledger.wallet_index, pair(found[0, m], found[4, m]))
    if found[6, m] >= 0 and found[2, m] >= 0:
        found[8, m], _ = find_pair(book.position_index, pair(found[6, m], found[2, m]))
    for f in range(2):
        found[9 + f, m] = find_holding(ledger, found[7, m], found[3 + 2 * f, m])


@kernel
def _trades(strings, book, ids, settling, batch, verdict, fills, alerts, found, counts):  # type: ignore[no-untyped-def]
    """Walk the batch in order; counts = (fills, alerts) written."""
    ledger = settling.ledger
    n_fills, n_alerts = np.int64(0), np.int64(0)
    text, starts, sizes = batch.data, batch.text_at, batch.text_len
    for m in range(-3 * _STRIDE, len(verdict)):
        _look_ahead(strings, book, ledger, ids, batch, m, len(verdict), found)
        if m < 0 or verdict[m] >= _MALFORMED:
            continue
        quantity, price, fee = at(batch.quantity, m), at(batch.price, m), at(batch.fee, m)
        sells = batch.side[m] != 0
        notional, good = multiply(quantity, price)
        if not good:
            verdict[m] = _OUT_OF_RANGE
            continue
        if batch.key_ok[m] == 0:
            verdict[m] = _KEY_MISMATCH
            continue
        id_lo, id_hi, body = batch.id[m, 0], batch.id[m, 1], batch.body[m, 0]
        seen = find_id(ids.table.rows, ids.index, id_lo, id_hi)
        if seen >= 0 and ids.table.rows[seen].body == body:
            verdict[m] = _DUPLICATE
            continue

        # Find what is known of it; nothing is added before it is accepted. What was found ahead stays right, rows are
        # never removed; what was not found then may be there by now: a row, or only the name of a currency.
        if found[8, m] < 0 or found[3, m] < 0 or found[9, m] < 0 or found[10, m] < 0:
            _find_again(strings, book, ledger, batch, m, found)
        symbol, currency, p, i = found[2, m], found[3, m], found[6, m], found[8, m]
        cash, asset = found[9, m], found[10, m]
        held = Held(zero(), zero(), zero(), zero())
        traded = i >= 0 and book.positions.rows[i].flags & TRADED != 0
        if traded:
            row = book.positions.rows[i]
            held = Held(get(row, "quantity"), get(row, "cost_basis"), get(row, "realized_pnl"), get(row, "fees"))
        time = batch.executed_at[m]
        after, average, good = fill(held, sells, quantity, price, notional, fee)
        size = asset_size(batch, m)
        same, waits = is_same(batch, m, size), settling.settles_at[m] > time
        moved = exchange(ledger, cash, asset, same, sells, quantity, notional, fee, waits)
        if not good:
            verdict[m] = _OUT_OF_RANGE
            continue
        if seen >= 0:
            verdict[m] = _CONFLICT
            continue
        if traded and book.positions.rows[i].currency != currency:
            verdict[m] = _CURRENCY_MISMATCH
            continue

        # accepted
        remember(ids, id_lo, id_hi, body)
        source = Source(time, np.uint8(_TOPIC), batch.partition, batch.offset[m])
        if i < 0 or currency < 0 or (moved.good and (cash < 0 or asset < 0)):
            user = intern(strings, text, starts[_USER, m], sizes[_USER, m])
            currency = intern(strings, text, starts[_CURRENCY, m], sizes[_CURRENCY, m])
        if moved.good and (cash < 0 or asset < 0):
            name = intern(strings, text, starts[_WALLET, m], sizes[_WALLET, m])
            wallet = wallet_of_user(ledger, user, name)
            cash = enter_balance(ledger, wallet, currency)
            asset = enter_balance(ledger, wallet, intern(strings, text, starts[_SYMBOL, m], np.int32(size)))
        if i < 0:
            name = intern(strings, text, starts[_PORTFOLIO, m], sizes[_PORTFOLIO, m])
            symbol = intern(strings, text, starts[_SYMBOL, m], sizes[_SYMBOL, m])
            if p < 0:
                p = open_portfolio(book, user, name, time)
            i = open_position(book, p, symbol)
        turn(book, p, time)
        row = book.positions.rows[i]
        if not traded:
            row.currency = np.int32(currency)
            row.flags |= np.uint8(TRADED)
            route_position(strings, book, i)
        book.live[p].open_positions += np.int32(after.quantity != zero()) - np.int32(held.quantity != zero())
        put(row, "quantity", after.quantity)
        put(row, "cost_basis", after.cost_basis)
        put(row, "realized_pnl", after.realized_pnl)
        put(row, "fees", after.fees)
        put(row, "last_price", price)
        row.last_trade_at = max(row.last_trade_at, time)
        touch(book.positions, i)
        revalue(book, i)
        caused(book, p, source, AT_ONCE)
        figures = totals(book, p)
        n_alerts = judge_position(book, i, figures.whole, source, alerts, n_alerts)
        n_alerts = judge_portfolio(book, p, figures, source, alerts, n_alerts)
        touch_portfolio(book, p)
        book_trade(settling, batch, m, cash, asset, moved, p, symbol, notional, size, waits)

        out = fills[n_fills]
        n_fills += 1
        out.message, out.portfolio, out.position = np.int32(m), np.int32(p), np.int32(i)
        out.has_average_price = np.uint8(after.quantity != zero())
        put(out, "notional", notional)
        put(out, "fill_realized_pnl", after.realized_pnl - held.realized_pnl)
        put(out, "position_quantity", after.quantity)
        put(out, "position_cost_basis", after.cost_basis)
        put(out, "position_average_price", average)
        put(out, "position_realized_pnl", after.realized_pnl)
        put(out, "position_fees", after.fees)
    counts[0], counts[1] = n_fills, n_alerts


class _Trades(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    quantity: np.ndarray
    price: np.ndarray
    fee: np.ndarray
    executed_at: np.ndarray
    side: np.ndarray
    id: np.ndarray
    method: np.ndarray
    body: np.ndarray
    partition: int
    offset: np.ndarray


def apply_trades(state: AccountState, batch: TradeBatch, settles_at: np.ndarray) -> TradeResult:
    """Apply decoded trades in order: positions, P&L, wallets, and the limits judged after each.

    settles_at: int64[n], µs, when each settles. Rejections of `batch.verdict` stay; a rejected or repeated message
    changes nothing. `batch` is not changed.
    """
    n = batch.records.n
    words = int(np.maximum(batch.text_len[_BROKER] + 7, 0).sum()) // 8
    state = reserve(state, strings=6 * n, portfolios=n, positions=n, routes=2 * n, trade_ids=n)
    state = reserve(state, wallets=n, balances=2 * n, methods=n, words=words, settlements=n, agenda=n)
    verdict, written = batch.verdict.copy(), room_for(2 * n, 0)
    fills, alerts = np.empty(n, FILL), np.empty(n * (1 + PORTFOLIO_RULES), ALERT)
    told, count = np.zeros(n, SETTLEMENT_TOLD), np.zeros(1, np.int64)
    settling = Settling(ledger_of(state), settles_at, written, told, count)
    found, counts = np.full((11, n), -1, np.int64), np.zeros(2, np.int64)
    columns = _Trades(
        batch.data,
        batch.text_at,
        batch.text_len,
        batch.key_ok,
        batch.quantity,
        batch.price,
        batch.fee,
        batch.executed_at,
        batch.side,
        batch.id,
        batch.method,
        batch.body,
        batch.records.partition,
        batch.records.offset,
    )
    strings, book, ids = strings_of(state), book_of(state), trade_ids_of(state)
    _trades(strings, book, ids, settling, columns, verdict, fills, alerts, found, counts)
    changes = written.changes[: written.counts[2]]
    return TradeResult(state, verdict, fills[: counts[0]], alerts[: counts[1]], told[: count[0]], changes)
