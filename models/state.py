"""The state of a partition: what it starts as, how it grows, and how what is derived is made again after a restore.

A state is a NamedTuple of tables and arrays; kernels change them in place, growing makes a new tuple over longer
arrays. What `PERSISTED` names goes to the changelog; all else is derived. Nothing is allocated while a partition is
idle: tables start empty and at least double.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from assetstream.models.agenda import Agenda, sort_heap
from assetstream.models.encode import Names
from assetstream.models.int128 import inline, kernel
from assetstream.models.interning import (
    MAX_BYTES,
    Events,
    Ring,
    Strings,
    index_events,
    index_ids,
    index_pairs,
    index_strings,
    intern,
    slots_for,
)
from assetstream.models.messages import TransactionStatus
from assetstream.models.outputs import ACCOUNT_INPUTS, INPUTS
from assetstream.models.rows import (
    APPLIED,
    BALANCE,
    DUE,
    EVENT,
    GRANT,
    HEAD,
    MARK,
    METHOD,
    PORTFOLIO,
    POSITION,
    PRICE,
    SEEN,
    SETTLEMENT,
    STRING,
    TRADED,
    WALLET,
    WORD,
    Table,
    clear,
    enlarged,
    grow,
    longer,
    new_table,
    resize,
)
from assetstream.models.valuation import (
    BASE,
    BY_MARK,
    BY_SYMBOL,
    COUNTERS,
    LINKS,
    LIVE,
    PRICED,
    ROUTE,
    ROUTES,
    TAKEN,
    USD,
    Book,
    Source,
    caused,
    later,
    link_position,
    revalue,
    route_position,
)

__all__ = ["PERSISTED", "PRICE_PERSISTED", "AccountState", "PriceState", "Table", "clear", "grow", "rebuild"]

#: tables of an account partition in the order of its changelog, and their rows
PERSISTED: dict[str, np.dtype] = {
    "strings": STRING,
    "portfolios": PORTFOLIO,
    "positions": POSITION,
    "marks": MARK,
    "wallets": WALLET,
    "balances": BALANCE,
    "grants": GRANT,
    "trade_ids": SEEN,
    "events": EVENT,
    "methods": METHOD,
    "words": WORD,
    "settlements": SETTLEMENT,
    "agenda": DUE,
    "heads": HEAD,
    "applied": APPLIED,
}
#: tables of a price partition
PRICE_PERSISTED: dict[str, np.dtype] = {"strings": STRING, "prices": PRICE, "applied": APPLIED}

#: statuses of a wallet event that is not final
OPEN = (TransactionStatus.PENDING.code, TransactionStatus.PROCESSING.code)

#: rows of `heads`
_TRADE_HEAD, EVENT_HEAD, _AGENDA_HEAD, JOURNAL_HEAD = 0, 1, 2, 3
_PRICES = INPUTS.index("prices")


class AccountState(NamedTuple):
    """Everything of an account partition: users, their portfolios, positions and wallets, the marks it took."""

    base_currency: bytes
    id_memory: int
    strings: Table
    portfolios: Table
    positions: Table
    marks: Table
    wallets: Table
    balances: Table
    grants: Table
    trade_ids: Table
    events: Table
    methods: Table
    words: Table
    settlements: Table
    agenda: Table
    heads: Table
    applied: Table
    # derived
    lengths: np.ndarray
    string_index: np.ndarray
    buffer: np.ndarray
    by_symbol: np.ndarray
    live: np.ndarray
    queues: np.ndarray
    portfolio_index: np.ndarray
    base: np.ndarray
    links: np.ndarray
    position_index: np.ndarray
    routes: np.ndarray
    route_index: np.ndarray
    wallet_index: np.ndarray
    last_balance: np.ndarray
    balance_index: np.ndarray
    balance_before: np.ndarray
    trade_index: np.ndarray
    event_index: np.ndarray
    finals: np.ndarray
    finals_at: np.ndarray
    method_index: np.ndarray
    agenda_heap: np.ndarray
    agenda_places: np.ndarray
    agenda_size: np.ndarray
    counters: np.ndarray


class PriceState(NamedTuple):
    """Everything of a price partition: each symbol's latest accepted price. by_symbol: price row + 1 per string."""

    strings: Table
    prices: Table
    applied: Table
    # derived
    lengths: np.ndarray
    string_index: np.ndarray
    buffer: np.ndarray
    by_symbol: np.ndarray


def strings_of(state: AccountState | PriceState) -> Strings:
    """The interned strings, as kernels take them."""
    return Strings(state.strings, state.lengths, state.string_index, state.buffer)


def book_of(state: AccountState) -> Book:
    """Portfolios, positions and marks, as kernels take them."""
    return Book(*(getattr(state, name) for name in Book._fields))


def trade_ids_of(state: AccountState) -> Ring:
    """The remembered trade ids, as kernels take them."""
    return Ring(state.trade_ids, state.heads, state.trade_index, _TRADE_HEAD, state.id_memory)


def events_of(state: AccountState) -> Events:
    """The remembered wallet events, as kernels take them."""
    return Events(
        state.events, state.heads, state.event_index, state.finals, state.finals_at, EVENT_HEAD, state.id_memory
    )


def agenda_of(state: AccountState) -> Agenda:
    """What is due, as kernels take it."""
    heap, places, size = state.agenda_heap, state.agenda_places, state.agenda_size
    return Agenda(state.agenda, state.heads, heap, places, size, _AGENDA_HEAD)


def names(state: AccountState | PriceState) -> Names:
    """The interned strings as text: string k is at 64·k. Valid until the state changes."""
    n = int(state.strings.count[0])
    data = state.strings.rows[:n].view(np.uint8)
    return Names(data, np.arange(0, MAX_BYTES * n, MAX_BYTES, dtype=np.int64), state.lengths[:n])


def text(state: AccountState | PriceState, number: int) -> str:
    """One interned string."""
    return state.strings.rows[number : number + 1].tobytes().rstrip(b"\0").decode()


def set_applied(state: AccountState | PriceState, topic: int, offset: int) -> None:
    """The last offset of input `topic` (its place among the partition's inputs) that is in this state."""
    state.applied.rows["offset"][topic] = offset
    _touch(state.applied, topic)


def applied(state: AccountState | PriceState, topic: int) -> int:
    """The last offset of input `topic` that is in this state, −1: none."""
    return int(state.applied.rows["offset"][topic])


# ------------------------------------------------------------------------------------------------------------ starting


def _starting(dtype: np.dtype, values: list[int]) -> Table:
    """A table of so many rows, all dirty."""
    table = new_table(dtype, len(values))
    table.rows[dtype.names[0]] = values  # type: ignore[index]
    for row in range(len(values)):
        table.count[0] += 1
        _touch(table, row)
    return table


def _touch(table: Table, row: int) -> None:
    """As `touch` in kernels; one row is not worth a compiled call."""
    if not table.dirty[row]:
        table.dirty[row] = 1
        table.touched[table.count[1]] = row
        table.count[1] += 1


def _index(slots: int = 16) -> np.ndarray:
    return np.zeros(slots, np.uint32)


def _pair_index(slots: int = 16) -> np.ndarray:
    return np.zeros((slots, 2), np.uint64)


def new_account_state(base_currency: bytes, id_memory: int) -> AccountState:
    """The state of an account partition before its first message.

    base_currency  what portfolios are valued in
    id_memory      how many trade ids, and how many transaction ids, are remembered; their rings grow up to this
    """
    state = AccountState(
        base_currency,
        id_memory,
        **{name: new_table(dtype) for name, dtype in PERSISTED.items() if name not in ("heads", "applied")},
        heads=_starting(HEAD, [0, 0, 0, 0]),
        applied=_starting(APPLIED, [-1] * ACCOUNT_INPUTS),
        lengths=np.zeros(0, np.int32),
        string_index=_index(),
        buffer=np.zeros(MAX_BYTES, np.uint8),
        by_symbol=np.zeros(0, BY_SYMBOL),
        live=np.zeros(0, LIVE),
        queues=np.zeros((2, 0), np.uint32),
        portfolio_index=_pair_index(),
        base=np.zeros(0, BASE),
        links=np.zeros(0, LINKS),
        position_index=_pair_index(),
        routes=np.zeros(1, ROUTE),
        route_index=_pair_index(),
        wallet_index=_pair_index(),
        last_balance=_index(0),
        balance_index=_pair_index(),
        balance_before=_index(0),
        trade_index=_index(),
        event_index=_index(),
        finals=np.zeros(0, np.uint32),
        finals_at=np.zeros(2, np.int64),
        method_index=_index(),
        agenda_heap=np.zeros(0, np.uint32),
        agenda_places=np.zeros(0, np.uint32),
        agenda_size=np.zeros(1, np.int64),
        counters=np.zeros(COUNTERS, np.int64),
    )
    state = reserve(state, strings=2)
    _, usd = (_intern(state, text) for text in (base_currency, b"USD"))
    state.counters[ROUTES], state.counters[USD] = 1, usd  # route 0 is that of a currency to itself
    return state


def new_price_state() -> PriceState:
    """The state of a price partition before its first message."""
    return PriceState(
        new_table(STRING),
        new_table(PRICE),
        _starting(APPLIED, [-1]),
        np.zeros(0, np.int32),
        _index(),
        np.zeros(MAX_BYTES, np.uint8),
        np.zeros(0, np.int32),
    )


def _intern(state: AccountState, text: bytes) -> int:
    data = np.frombuffer(text, np.uint8)
    return int(intern(strings_of(state), data, 0, len(data)))


# ------------------------------------------------------------------------------------------------------------- growing

#: indexes and other arrays that grow with a table
_INDEX_OF = {
    "strings": "string_index",
    "portfolios": "portfolio_index",
    "positions": "position_index",
    "wallets": "wallet_index",
    "balances": "balance_index",
    "trade_ids": "trade_index",
    "events": "event_index",
    "methods": "method_index",
}
_ALONGSIDE = {
    "strings": ("lengths", "by_symbol"),
    "portfolios": ("live",),
    "positions": ("base", "links"),
    "wallets": ("last_balance",),
    "balances": ("balance_before",),
    "agenda": ("agenda_heap", "agenda_places"),
}
_KEYS = {
    "portfolios": ("user", "portfolio"),
    "positions": ("portfolio", "symbol"),
    "wallets": ("user", "wallet"),
    "balances": ("wallet", "asset"),
}


def reserve(state: Any, **more: int) -> Any:
    """The state with room for so many more rows of each named table (`routes` included), before a kernel runs.

    Returns the same object when there is room already. Rings of ids grow up to `id_memory`.
    """
    for name, extra in more.items():
        if name == "routes":
            state = _reserve_routes(state, extra)
            continue
        table = getattr(state, name)
        needed = int(table.count[0]) + extra
        if name == "trade_ids":
            needed = min(needed, max(state.id_memory, int(table.count[0])))
        if needed > len(table.rows):
            capacity = enlarged(len(table.rows), needed)
            if name == "trade_ids":
                capacity = max(needed, min(capacity, state.id_memory))
            state = fit(state._replace(**{name: resize(table, capacity)}), name)
    return state


def _reserve_routes(state: AccountState, extra: int) -> AccountState:
    n = int(state.counters[ROUTES])
    if n + extra <= len(state.routes):
        return state
    routes = longer(state.routes, enlarged(len(state.routes), n + extra))
    index = _pair_index(slots_for(len(routes)))
    index_pairs(routes["have"], routes["want"], 1, n, index)
    return state._replace(routes=routes, route_index=index)


def fit(state: Any, name: str) -> Any:
    """Make what is derived as long as table `name` has become, and index the table's rows anew when it outgrew that."""
    table = getattr(state, name)
    capacity, n = len(table.rows), int(table.count[0])
    derived = {array: longer(getattr(state, array), capacity) for array in _ALONGSIDE.get(name, ())}
    if name == "portfolios" and state.queues.shape[1] < capacity:
        queues = np.zeros((2, capacity), np.uint32)
        queues[:, : state.queues.shape[1]] = state.queues
        derived["queues"] = queues
    state = state._replace(**derived)
    if name not in _INDEX_OF:
        return state
    if name == "events":
        state = _line_up(state)
    index = np.zeros_like(getattr(state, _INDEX_OF[name]), shape=_slots(state, name, capacity))
    if name == "strings":
        index_strings(table.rows, n, state.lengths, index)
    elif name in _KEYS:
        a, b = _KEYS[name]
        index_pairs(table.rows[a], table.rows[b], 0, n, index)
    elif name == "events":
        index_events(table.rows, n, index)
    else:
        index_ids(table.rows, n, index)
    return state._replace(**{_INDEX_OF[name]: index})


def _line_up(state: AccountState) -> AccountState:
    """The rows of final events from the one that became so first, in as much room as there are rows."""
    rows = state.events.rows[: state.events.count[0]]
    final = np.flatnonzero((rows["seen"] != 0) & ~np.isin(rows["status"], OPEN))
    finals = np.zeros(len(state.events.rows), np.uint32)
    finals[: len(final)] = final[np.argsort(rows["final"][final])]
    return state._replace(finals=finals, finals_at=np.array([0, len(final)]))


def _slots(state: Any, name: str, capacity: int) -> tuple[int, ...]:
    return (slots_for(capacity), *getattr(state, _INDEX_OF[name]).shape[1:])


# ----------------------------------------------------------------------------------------------------------- restoring


def rebuild(state: Any) -> Any:
    """The state after its persisted rows were restored, with all that is derived made anew from them.

    Silent: nothing is judged and no update is made due, except those that marks had made due and nobody published.
    Raises ValueError when the rows are of another base currency.
    """
    for name in PERSISTED if isinstance(state, AccountState) else PRICE_PERSISTED:
        for array in _ALONGSIDE.get(name, ()):
            getattr(state, array)[:] = 0
        state = fit(state, name)
    if isinstance(state, PriceState):
        n = int(state.prices.count[0])
        state.by_symbol[state.prices.rows["symbol"][:n]] = np.arange(1, n + 1)
        return state
    if text(state, 0) != state.base_currency.decode():
        raise ValueError(
            f"the state is valued in {text(state, 0)}, the setting says {state.base_currency.decode()}: "
            "rebuild it from the inputs to change the base currency"
        )
    state.counters[:] = 0
    state.counters[ROUTES], state.counters[USD] = 1, _intern(state, b"USD")
    state.route_index[:] = 0
    positions = state.positions.rows[: state.positions.count[0]]
    pairs = len(np.unique(positions["currency"])) + len(_mark_pairs(state))
    state = reserve(state, routes=pairs)
    _rebuild(strings_of(state), book_of(state))
    _line_up_balances(state.balances, state.last_balance, state.balance_before)
    sort_heap(agenda_of(state))
    return state


def _mark_pairs(state: AccountState) -> np.ndarray:
    """The distinct pairs (currency of the mark, currency) of all positions."""
    positions = state.positions.rows[: state.positions.count[0]]
    marks = state.marks.rows[: state.marks.count[0]]
    currency = np.zeros(int(state.strings.count[0]), np.int64)
    currency[marks["symbol"]] = marks["currency"]
    return np.unique(currency[positions["symbol"]] << 32 | (positions["currency"].astype(np.int64) & 0xFFFFFFFF))


@kernel
def _line_up_balances(balances, last, before):  # type: ignore[no-untyped-def]
    """The list of each wallet's balances, the one that was opened last first."""
    for i in range(balances.count[0]):
        wallet = balances.rows[i].wallet
        before[i], last[wallet] = last[wallet], np.uint32(i + 1)


@kernel
def _rebuild(strings, book):  # type: ignore[no-untyped-def]
    """Lists, routes, values, totals, and the updates that are still due."""
    for k in range(book.marks.count[0]):
        mark = book.marks.rows[k]
        book.by_symbol[mark.symbol].mark = np.int32(k + 1)
        book.counters[TAKEN] = max(book.counters[TAKEN], mark.taken)
    for p in range(book.portfolios.count[0]):
        row, live = book.portfolios.rows[p], book.live[p]
        live.as_of = row.as_of
        live.cause_topic, live.cause_partition = row.cause_topic, row.cause_partition
        live.cause_offset = row.cause_offset
    for i in range(book.positions.count[0]):
        link_position(book, i)
        row = book.positions.rows[i]
        if row.flags & TRADED:
            route_position(strings, book, i)
            revalue(book, i)
            book.live[row.portfolio].open_positions += np.int32(row.quantity_lo != 0 or row.quantity_hi != 0)
    for p in range(book.portfolios.count[0]):
        row = book.portfolios.rows[p]
        latest = _latest_mark(book, p)
        if latest > 0 and book.marks.rows[latest - 1].taken > row.seen:
            mark = book.marks.rows[latest - 1]
            caused(book, p, Source(mark.as_of, _PRICES, mark.cause_partition, mark.cause_offset), BY_MARK)
        elif row.due:
            cause = Source(row.as_of, row.cause_topic, row.cause_partition, row.cause_offset)
            caused(book, p, cause, BY_MARK)


@inline
def _latest_mark(book, p):  # type: ignore[no-untyped-def]
    """The mark (row + 1) taken last of those that value portfolio p, 0: none."""
    latest = np.int32(0)
    i = book.live[p].first_position
    while i > 0:
        row, link = book.positions.rows[i - 1], book.links[i - 1]
        if link.state == PRICED:
            latest = later(book.marks.rows, latest, book.by_symbol[row.symbol].mark)
            latest = later(book.marks.rows, latest, book.routes[link.mark_route].latest)
            latest = later(book.marks.rows, latest, book.routes[link.base_route].latest)
        i = link.next_of_portfolio
    return latest
