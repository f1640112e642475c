"""What positions and portfolios are worth: rates, marks, values in base currency, totals, the turn of day and week.

Interface, section 3. Everything here but baselines, levels and sequences is derived: it follows from positions and
marks, so that a restored partition computes the same. Sums are of 192 bits: they never wrap, so whether a portfolio's
totals stay below 10^20 doesn't depend on the order in which they were added.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assetstream.models.int128 import (
    divide,
    extend,
    get,
    inline,
    kernel,
    magnitude,
    multiply,
    narrow,
    one,
    put,
    sum_in_range,
    zero,
)
from assetstream.models.interning import find_pair, find_string, pair, put_pair
from assetstream.models.outputs import decimal
from assetstream.models.rows import NO_VERSION, Table, append, touch

DAY_US = 86_400_000_000

#: string numbers that every partition begins with (the same one when the base currency is USD)
BASE_CURRENCY = 0

#: a portfolio's totals, and what else about it is derived. Sums over its priced positions, 192 bits each
LIVE = np.dtype(
    [
        ("market_value", "<u8", (3,)),
        ("cost_basis", "<u8", (3,)),
        ("realized_pnl", "<u8", (3,)),
        ("fees", "<u8", (3,)),
        ("gross_exposure", "<u8", (3,)),
        ("open_positions", "<i4"),
        ("unpriced", "<i4"),  # traded positions left out
        ("as_of", "<i8"),
        ("cause_offset", "<i8"),
        ("published_ms", "<i8"),  # when its last update was collected, 0: not since the restore
        ("cause_partition", "<i4"),
        ("first_position", "<i4"),  # + 1, 0: none; the next ones by `links`
        ("cause_topic", "u1"),
        ("pending", "u1"),
        ("visited", "u1"),  # while a mark is being taken
        ("pad", "u1", (5,)),
    ]
)
#: bits of `pending`: changed by a mark; by a fill or limits; is in the queue of those that wait
BY_MARK, AT_ONCE, QUEUED = 1, 2, 4

#: a position's amounts in base currency, zero while it is unpriced
BASE = np.dtype([*decimal("market_value"), *decimal("cost_basis"), *decimal("realized_pnl"), *decimal("fees")])

#: a position's neighbours (row + 1, 0: none) and the rates it needs; state: is it counted in the totals, and how
LINKS = np.dtype(
    [
        ("next_of_symbol", "<i4"),
        ("next_of_portfolio", "<i4"),
        ("base_route", "<i4"),
        ("mark_route", "<i4"),
        ("state", "<i4"),
    ]
)
NOT_COUNTED, UNPRICED, PRICED = 0, 1, 2

#: per string, as a symbol: its positions in the order of their rows, and its mark (row + 1, 0: none)
BY_SYMBOL = np.dtype([("first", "<i4"), ("last", "<i4"), ("mark", "<i4")])

#: the rate from one currency to another. sources: the marks it can come from (row + 1, 0: none), see `find_sources`
ROUTE = np.dtype(
    [
        *decimal("rate"),
        ("as_of", "<i8"),  # the latest of the marks it came from
        ("oldest", "<i8"),  # the oldest of them
        ("have", "<u4"),
        ("want", "<u4"),
        ("sources", "<i4", (6,)),
        ("latest", "<i4"),  # that of them (row + 1) which was taken last
        ("known", "u1"),
        ("changed", "u1"),
        ("pad", "u1", (2,)),
    ]
)
#: the route of a currency to itself
IDENTITY = 0

#: places in `counters`
ROUTES, TAKEN, URGENT, WAITING, EARLIEST, USD = 0, 1, 2, 3, 4, 5
COUNTERS = 6


class Book(NamedTuple):
    """Portfolios, positions and marks of a partition with what is derived from them; what kernels value and judge."""

    portfolios: Table
    positions: Table
    marks: Table
    live: np.ndarray  # LIVE per portfolio
    base: np.ndarray  # BASE per position
    links: np.ndarray  # LINKS per position
    by_symbol: np.ndarray  # BY_SYMBOL per string
    routes: np.ndarray  # ROUTE
    queues: np.ndarray  # uint32[2, portfolios]: to publish at once; changed by marks
    counters: np.ndarray  # int64[COUNTERS]
    portfolio_index: np.ndarray
    position_index: np.ndarray
    route_index: np.ndarray


# ------------------------------------------------------------------------------------------------------------- rates


@inline
def _quote(strings, have, want):  # type: ignore[no-untyped-def]
    """The string number of the symbol have/want, −1 when nothing has that name; a name with a slash has no rate."""
    rows, lengths, buffer = strings.table.rows, strings.lengths, strings.buffer
    n, m = lengths[have], lengths[want]
    if n + 1 + m > 64:
        return np.int64(-1)
    for k in range(n):
        buffer[k] = np.uint8((rows[have].text[k >> 3] >> np.uint64(8 * (k & 7))) & np.uint64(255))
        if buffer[k] == 47:
            return np.int64(-1)
    buffer[n] = np.uint8(47)
    for k in range(m):
        buffer[n + 1 + k] = np.uint8((rows[want].text[k >> 3] >> np.uint64(8 * (k & 7))) & np.uint64(255))
        if buffer[n + 1 + k] == 47:
            return np.int64(-1)
    number, _ = find_string(rows, lengths, strings.index, buffer, np.int64(0), np.int64(n + 1 + m))
    return number


@kernel
def _source(strings, book, have, want):  # type: ignore[no-untyped-def]
    """The mark (row + 1) of have/want in the currency `want`, 0: there is none."""
    symbol = _quote(strings, have, want)
    if symbol < 0:
        return np.int32(0)
    mark = book.by_symbol[symbol].mark
    if mark > 0 and book.marks.rows[mark - 1].currency != want:
        return np.int32(0)
    return mark


@kernel
def find_sources(strings, book, route):  # type: ignore[no-untyped-def]
    """Look up the marks a rate can come from: X/Y, Y/X; X/USD, USD/X; USD/Y, Y/USD."""
    usd = book.counters[USD]
    have, want = np.int64(route.have), np.int64(route.want)
    route.sources[0] = _source(strings, book, have, want)
    route.sources[1] = _source(strings, book, want, have)
    route.sources[2] = _source(strings, book, have, usd)
    route.sources[3] = _source(strings, book, usd, have)
    route.sources[4] = _source(strings, book, usd, want)
    route.sources[5] = _source(strings, book, want, usd)


@inline
def later(marks, a, b):  # type: ignore[no-untyped-def]
    """That of two marks (row + 1, 0: none) which was taken later."""
    if a == 0 or b == 0:
        return a + b
    return a if marks[a - 1].taken > marks[b - 1].taken else b


@kernel
def _direct(marks, straight, inverse):  # type: ignore[no-untyped-def]
    """(rate, known): the price of X/Y, else round(1 / price of Y/X)."""
    if straight > 0:
        return get(marks[straight - 1], "price"), True
    if inverse > 0:
        return divide(one(), one(), get(marks[inverse - 1], "price"))
    return zero(), False


@kernel
def update_rate(marks, route):  # type: ignore[no-untyped-def]
    """Compute a route's rate: direct, else round(rate X→USD · rate USD→Y). A rate of 10^20 or more is not known."""
    sources = route.sources
    rate, known = _direct(marks, sources[0], sources[1])
    first, second = sources[0] if sources[0] > 0 else sources[1], np.int32(0)
    if first == 0:
        rate_in, known_in = _direct(marks, sources[2], sources[3])
        rate_out, known_out = _direct(marks, sources[4], sources[5])
        rate, known = multiply(rate_in, rate_out)
        known = known and known_in and known_out
        first = sources[2] if sources[2] > 0 else sources[3]
        second = sources[4] if sources[4] > 0 else sources[5]
    put(route, "rate", rate)
    route.known = np.uint8(known)
    route.latest = later(marks, first, second)
    route.as_of = route.oldest = np.int64(0)
    if first > 0:
        route.as_of = route.oldest = marks[first - 1].as_of
    if second > 0:
        route.as_of = max(route.as_of, marks[second - 1].as_of)
        route.oldest = min(route.oldest, marks[second - 1].as_of)


@kernel
def find_route(strings, book, have, want):  # type: ignore[no-untyped-def]
    """The number of the route between two currencies, made when it is new."""
    if have == want:
        return np.int64(IDENTITY)
    key = pair(have, want)
    number, slot = find_pair(book.route_index, key)
    if number < 0:
        number = book.counters[ROUTES]
        book.counters[ROUTES] += 1
        put_pair(book.route_index, slot, key, number)
        route = book.routes[number]
        route.have, route.want = np.uint32(have), np.uint32(want)
        find_sources(strings, book, route)
        update_rate(book.marks.rows, route)
    return number


@kernel
def refresh_routes(strings, book, mark, new_source):  # type: ignore[no-untyped-def]
    """Recompute the rates that mark row `mark` can change, and set their `changed`. -> how many.

    new_source: the mark, or its currency, is new, so every route looks for its sources again.
    """
    n = 0
    for number in range(1, book.counters[ROUTES]):
        route = book.routes[number]
        uses = False
        for k in range(6):
            uses = uses or route.sources[k] == mark + 1
        if new_source:
            find_sources(strings, book, route)
            for k in range(6):
                uses = uses or route.sources[k] == mark + 1
        route.changed = np.uint8(uses)
        if uses:
            update_rate(book.marks.rows, route)
            n += 1
    return n


# -------------------------------------------------------------------------------------------------------- positions


@inline
def revalue(book, i):  # type: ignore[no-untyped-def]
    """Value position i anew and bring its portfolio's totals up to it. -> whether it became or ceased to be priced."""
    row, link, base = book.positions.rows[i], book.links[i], book.base[i]
    live = book.live[row.portfolio]
    as_of = np.int64(0)
    price, good = get(row, "last_price"), True
    mark = book.by_symbol[row.symbol].mark
    if mark > 0:
        mark_row = book.marks.rows[mark - 1]
        price, as_of = get(mark_row, "price"), mark_row.as_of
        if link.mark_route != IDENTITY:
            route = book.routes[link.mark_route]
            price, good = multiply(price, get(route, "rate"))
            good = good and route.known != 0
            as_of = max(as_of, route.as_of)
    cost, realized, fees = get(row, "cost_basis"), get(row, "realized_pnl"), get(row, "fees")
    value, fits = multiply(get(row, "quantity"), price)
    good = good and fits and sum_in_range(extend(value) - extend(cost))
    if link.base_route != IDENTITY:
        route = book.routes[link.base_route]
        rate = get(route, "rate")
        value, good0 = multiply(value, rate)
        cost, good1 = multiply(cost, rate)
        realized, good2 = multiply(realized, rate)
        fees, good3 = multiply(fees, rate)
        good = good and route.known != 0 and good0 and good1 and good2 and good3
        good = good and sum_in_range(extend(value) - extend(cost))
        as_of = max(as_of, route.as_of)
    if good:
        live.as_of = max(live.as_of, as_of)
    else:
        value, cost, realized, fees = zero(), zero(), zero(), zero()
    _move(live, "market_value", get(base, "market_value"), value)
    _move(live, "cost_basis", get(base, "cost_basis"), cost)
    _move(live, "realized_pnl", get(base, "realized_pnl"), realized)
    _move(live, "fees", get(base, "fees"), fees)
    _move(live, "gross_exposure", magnitude(get(base, "market_value")), magnitude(value))
    put(base, "market_value", value)
    put(base, "cost_basis", cost)
    put(base, "realized_pnl", realized)
    put(base, "fees", fees)
    before = link.state
    link.state = np.int32(PRICED if good else UNPRICED)
    live.unpriced += np.int32(link.state == UNPRICED) - np.int32(before == UNPRICED)
    return before != link.state


@inline
def _move(live, name, before, after):  # type: ignore[no-untyped-def]
    put(live, name, get(live, name) + extend(after) - extend(before))


@inline
def link_position(book, i):  # type: ignore[no-untyped-def]
    """Enter position row i into the lists of its symbol and its portfolio."""
    row, link = book.positions.rows[i], book.links[i]
    live, symbol = book.live[row.portfolio], book.by_symbol[row.symbol]
    link.next_of_portfolio = live.first_position
    live.first_position = np.int32(i + 1)
    if symbol.last > 0:
        book.links[symbol.last - 1].next_of_symbol = np.int32(i + 1)
    else:
        symbol.first = np.int32(i + 1)
    symbol.last = np.int32(i + 1)


@kernel
def open_position(book, p, symbol):  # type: ignore[no-untyped-def]
    """A new position row, not traded yet. -> its number."""
    i = append(book.positions)
    row = book.positions.rows[i]
    row.portfolio, row.symbol, row.currency = np.uint32(p), np.uint32(symbol), np.int32(-1)
    key = pair(p, symbol)
    _, slot = find_pair(book.position_index, key)
    put_pair(book.position_index, slot, key, i)
    link_position(book, i)
    return i


@kernel
def route_position(strings, book, i):  # type: ignore[no-untyped-def]
    """Find the routes of a traded position: of its currency to base, and of its mark's currency to its own."""
    row, link = book.positions.rows[i], book.links[i]
    link.base_route = np.int32(find_route(strings, book, np.int64(row.currency), np.int64(BASE_CURRENCY)))
    mark = book.by_symbol[row.symbol].mark
    if mark > 0:
        currency = np.int64(book.marks.rows[mark - 1].currency)
        link.mark_route = np.int32(find_route(strings, book, currency, np.int64(row.currency)))


# -------------------------------------------------------------------------------------------------------- portfolios


class Totals(NamedTuple):
    """A portfolio's figures (int128), all zero unless `whole`: one of them, else, would reach 10^20."""

    whole: bool
    market_value: int
    cost_basis: int
    realized_pnl: int
    unrealized_pnl: int
    fees: int
    total_pnl: int
    daily_pnl: int
    weekly_pnl: int
    gross_exposure: int


@inline
def totals(book, p):  # type: ignore[no-untyped-def]
    """The figures of portfolio p, from its sums and baselines."""
    live, row = book.live[p], book.portfolios.rows[p]
    value, cost = get(live, "market_value"), get(live, "cost_basis")
    realized, fees, gross = get(live, "realized_pnl"), get(live, "fees"), get(live, "gross_exposure")
    unrealized = value - cost
    total = realized + unrealized - fees
    daily = total - extend(get(row, "day_baseline"))
    weekly = total - extend(get(row, "week_baseline"))
    whole = sum_in_range(value) and sum_in_range(cost) and sum_in_range(realized) and sum_in_range(fees)
    whole = whole and sum_in_range(unrealized) and sum_in_range(total) and sum_in_range(gross)
    whole = whole and sum_in_range(daily) and sum_in_range(weekly)
    if not whole:
        z, d, w = zero(), -get(row, "day_baseline"), -get(row, "week_baseline")
        return Totals(False, z, z, z, z, z, z, d, w, z)
    return Totals(
        True,
        narrow(value),
        narrow(cost),
        narrow(realized),
        narrow(unrealized),
        narrow(fees),
        narrow(total),
        narrow(daily),
        narrow(weekly),
        narrow(gross),
    )


@inline
def turn(book, p, time):  # type: ignore[no-untyped-def]
    """Turn the day and the week of portfolio p, when `time` (µs UTC) is in a later one. -> whether one turned.

    The baseline is total_pnl as last computed: call before anything that the message changes.
    """
    row = book.portfolios.rows[p]
    day = time // DAY_US
    week = (day + 3) // 7
    if day <= row.day and week <= row.week:
        return False
    total = totals(book, p).total_pnl
    if day > row.day:
        row.day = np.int32(day)
        put(row, "day_baseline", total)
    if week > row.week:
        row.week = np.int32(week)
        put(row, "week_baseline", total)
    return True


@kernel
def open_portfolio(book, user, name, time):  # type: ignore[no-untyped-def]
    """A new portfolio row; its first day and week are those of `time`. -> its number."""
    p = append(book.portfolios)
    row = book.portfolios.rows[p]
    row.user, row.portfolio = np.uint32(user), np.uint32(name)
    row.version = np.int64(NO_VERSION)
    day = time // DAY_US
    row.day, row.week = np.int32(day), np.int32((day + 3) // 7)
    key = pair(user, name)
    _, slot = find_pair(book.portfolio_index, key)
    put_pair(book.portfolio_index, slot, key, p)
    return p


@inline
def caused(book, p, source, pending):  # type: ignore[no-untyped-def]
    """`source` changed the figures of portfolio p: an update of it is due, at once or (BY_MARK) in time."""
    live, counters = book.live[p], book.counters
    live.cause_topic, live.cause_partition, live.cause_offset = source.topic, source.partition, source.offset
    if pending == AT_ONCE:
        live.as_of = max(live.as_of, source.time)
        if live.pending & AT_ONCE == 0:
            book.queues[0, counters[URGENT]] = np.uint32(p)
            counters[URGENT] += 1
    elif live.pending & QUEUED == 0:
        if counters[WAITING] == 0 or live.published_ms < counters[EARLIEST]:
            counters[EARLIEST] = live.published_ms
        book.queues[1, counters[WAITING]] = np.uint32(p)
        counters[WAITING] += 1
        live.pending |= np.uint8(QUEUED)
    live.pending |= np.uint8(pending)


@inline
def touch_portfolio(book, p):  # type: ignore[no-untyped-def]
    """Row p is written: with what is derived but cannot be derived again."""
    row, live = book.portfolios.rows[p], book.live[p]
    row.as_of, row.seen = live.as_of, book.counters[TAKEN]
    row.due = np.uint8(live.pending & (BY_MARK | AT_ONCE) != 0)
    row.cause_topic, row.cause_partition, row.cause_offset = live.cause_topic, live.cause_partition, live.cause_offset
    touch(book.portfolios, p)


class Source(NamedTuple):
    """The message that is being handled: its own time (µs UTC) and where it came from."""

    time: int
    topic: int
    partition: int
    offset: int
