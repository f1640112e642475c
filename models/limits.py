"""Limits of portfolios: the rules that are judged after every message, and limits messages (interface, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.int128 import at, extend, get, inline, kernel, magnitude, put, zero
from assetstream.models.interning import find_pair, find_string, intern, pair, sort_by_string
from assetstream.models.outputs import ALERT, INPUTS, AlertType, Level, Subject
from assetstream.models.rows import (
    HAS_ASSET_LIMIT,
    LIMITS,
    MAX_DAILY_LOSS,
    MAX_PORTFOLIO_VALUE,
    MAX_POSITION_SIZE,
    MAX_TOTAL_LOSS,
    MAX_WEEKLY_LOSS,
    NO_VERSION,
    TRADED,
    collect_rows,
    touch,
)
from assetstream.models.state import book_of, reserve, strings_of
from assetstream.models.valuation import (
    AT_ONCE,
    PRICED,
    Source,
    caused,
    open_portfolio,
    open_position,
    totals,
    touch_portfolio,
    turn,
)
from assetstream.models.verdicts import Verdict

if TYPE_CHECKING:
    from assetstream.models.decode import LimitBatch
    from assetstream.models.state import AccountState

_OK, _WARNING, _CRITICAL = int(Level.OK), int(Level.WARNING), int(Level.CRITICAL)
_POSITION, _EXPOSURE, _LOSS = (int(kind) for kind in AlertType)
_SYMBOL, _WHOLE, _TOTAL, _DAILY, _WEEKLY = (int(subject) for subject in Subject)
#: by rule of a portfolio: its type, subject and place of its limit
_TYPES = (_EXPOSURE, _LOSS, _LOSS, _LOSS)
_SUBJECTS = (_WHOLE, _TOTAL, _DAILY, _WEEKLY)
_PLACES = (MAX_PORTFOLIO_VALUE, MAX_TOTAL_LOSS, MAX_DAILY_LOSS, MAX_WEEKLY_LOSS)
_TOPIC = INPUTS.index("risk_limits")
_RULES = np.uint16(sum(1 << place for place in _PLACES))
#: alerts that a portfolio's own rules can raise at once
PORTFOLIO_RULES = len(_PLACES)

_APPLIED, _IGNORED = np.uint8(Verdict.APPLIED), np.uint8(Verdict.IGNORED)
_MALFORMED, _KEY_MISMATCH = np.uint8(Verdict.MALFORMED), np.uint8(Verdict.KEY_MISMATCH)


@inline
def level_of(value, limit):  # type: ignore[no-untyped-def]
    """OK below 0.9·limit, CRITICAL above the limit, else WARNING; exact, of an amount and a limit > 0 in range."""
    if value > limit:
        return _CRITICAL
    if value < zero():
        return _OK
    # 10·value ≥ 9·limit is 10·(limit − value) ≤ limit, whose left side is summed in 192 bits
    distance = extend(limit - value)
    double = distance + distance
    eightfold = double + double + double + double
    return _WARNING if eightfold + double <= extend(limit) else _OK


@inline
def moves(level, has_limit, value, limit, may_fall):  # type: ignore[no-untyped-def]
    """The level that follows `level`."""
    if not has_limit:
        return _OK
    new = level_of(value, limit)
    return new if new > level or may_fall else np.int64(level)


@kernel
def write_alert(alert, portfolio, symbol, kind, subject, old, new, has_limit, number, value, limit, source):
    # type: ignore[no-untyped-def]
    """Fill one ALERT row."""
    alert.portfolio, alert.symbol = np.int32(portfolio), np.int32(symbol)
    alert.type, alert.subject = np.uint8(kind), np.uint8(subject)
    alert.severity, alert.is_resolved = np.uint8(new), np.uint8(new == _OK)
    # the line next to the new level, on the side it came from
    crossed_upper = new == _CRITICAL or (new == _WARNING and old == _CRITICAL)
    alert.line = np.uint8(100 if crossed_upper else 90)
    alert.has_limit, alert.number = np.uint8(has_limit), np.int64(number)
    put(alert, "value", value)
    put(alert, "limit", limit if has_limit else zero())
    alert.created_at = source.time
    alert.cause_topic, alert.cause_partition, alert.cause_offset = source.topic, source.partition, source.offset


@inline
def position_level(book, i, whole):  # type: ignore[no-untyped-def]
    """(new level, value, has limit, limit) for position i; unpriced, only a missing limit moves it."""
    row, priced = book.positions.rows[i], whole and book.links[i].state == PRICED
    portfolio = book.portfolios.rows[row.portfolio]
    limit = at(portfolio.limits, MAX_POSITION_SIZE)
    has_limit = portfolio.has_limit & np.uint16(1 << MAX_POSITION_SIZE) != 0
    if row.flags & HAS_ASSET_LIMIT:
        limit, has_limit = get(row, "asset_limit"), True
    has_limit = has_limit and portfolio.active != 0
    value = magnitude(get(book.base[i], "market_value")) if priced else zero()
    level = np.int64(row.level)
    if priced or not has_limit:
        level = moves(level, has_limit, value, limit, True)
    return level, value, has_limit, limit


@inline
def judge_position(book, i, whole, source, alerts, n):  # type: ignore[no-untyped-def]
    """Judge POSITION_LIMIT of one position, with an alert at alerts[n] when its level changes. -> the next n."""
    level, value, has_limit, limit = position_level(book, i, whole)
    row = book.positions.rows[i]
    if level != row.level:
        row.changes += np.uint32(1)
        write_alert(
            alerts[n],
            row.portfolio,
            row.symbol,
            _POSITION,
            _SYMBOL,
            row.level,
            level,
            has_limit,
            row.changes,
            value,
            limit,
            source,
        )
        row.level = np.uint8(level)
        touch(book.positions, i)
        n += 1
    return n


@kernel
def _judge_rule(row, p, rule, value, may_fall, source, alert):  # type: ignore[no-untyped-def]
    """Judge one rule of a portfolio; -> whether its level changed, which `alert` tells."""
    place = _PLACES[rule]
    has_limit = row.active != 0 and (row.has_limit >> np.uint16(place)) & np.uint16(1) != 0
    limit, old = at(row.limits, place), np.int64(row.levels[rule])
    level = moves(old, has_limit, value, limit, may_fall)
    if level == old:
        return False
    row.changes[rule] += np.uint32(1)
    kind, subject = _TYPES[rule], _SUBJECTS[rule]
    write_alert(alert, p, -1, kind, subject, old, level, has_limit, row.changes[rule], value, limit, source)
    row.levels[rule] = np.uint8(level)
    return True


@inline
def judge_portfolio(book, p, figures, source, alerts, n):  # type: ignore[no-untyped-def]
    """Judge the four rules of portfolio p on its figures (`totals`). -> the next n."""
    row = book.portfolios.rows[p]
    levels = row.levels
    if (row.active == 0 or row.has_limit & _RULES == 0) and levels[0] | levels[1] | levels[2] | levels[3] == 0:
        return n
    first = n
    may_fall = figures.whole and book.live[p].unpriced == 0
    n += _judge_rule(row, p, 0, figures.gross_exposure, may_fall, source, alerts[n])
    n += _judge_rule(row, p, 1, -figures.total_pnl, may_fall, source, alerts[n])
    n += _judge_rule(row, p, 2, -figures.daily_pnl, may_fall, source, alerts[n])
    n += _judge_rule(row, p, 3, -figures.weekly_pnl, may_fall, source, alerts[n])
    if n > first:
        touch_portfolio(book, p)
    return n


# ---------------------------------------------------------------------------------------------------- limits messages


class LimitResult(NamedTuple):
    """What became of a batch of limits messages: the verdict of each, uint8[n], and ALERT rows in order."""

    state: AccountState
    verdict: np.ndarray
    alerts: np.ndarray


class _Limits(NamedTuple):
    """What the kernel reads of a batch."""

    data: np.ndarray
    text_at: np.ndarray
    text_len: np.ndarray
    key_ok: np.ndarray
    version: np.ndarray
    active: np.ndarray
    updated_at: np.ndarray
    limits: np.ndarray
    has_limit: np.ndarray
    asset_start: np.ndarray
    asset_at: np.ndarray
    asset_len: np.ndarray
    asset_limit: np.ndarray
    partition: int
    offset: np.ndarray


@inline
def _replace_limits(strings, book, p, batch, m):  # type: ignore[no-untyped-def]
    """Portfolio p has the limits of message m and no others."""
    row = book.portfolios.rows[p]
    row.version, row.active = batch.version[m], batch.active[m]
    row.has_limit = np.uint16(0)
    for place in range(LIMITS):
        row.limits[place, 0], row.limits[place, 1] = batch.limits[m, place, 0], batch.limits[m, place, 1]
        if batch.has_limit[m, place]:
            row.has_limit |= np.uint16(1 << place)
    i = book.live[p].first_position
    while i > 0:
        position = book.positions.rows[i - 1]
        if position.flags & HAS_ASSET_LIMIT:
            position.flags &= np.uint8(TRADED)
            put(position, "asset_limit", zero())
            touch(book.positions, i - 1)
        i = book.links[i - 1].next_of_portfolio
    for k in range(batch.asset_start[m], batch.asset_start[m + 1]):
        symbol = intern(strings, batch.data, batch.asset_at[k], np.int64(batch.asset_len[k]))
        number, _ = find_pair(book.position_index, pair(p, symbol))
        if number < 0:
            number = open_position(book, p, symbol)
        position = book.positions.rows[number]
        position.flags |= np.uint8(HAS_ASSET_LIMIT)
        put(position, "asset_limit", at(batch.asset_limit, k))
        touch(book.positions, number)


@inline
def _judge_all_positions(strings, book, p, whole, source, alerts, n, scratch):  # type: ignore[no-untyped-def]
    """Judge POSITION_LIMIT of every traded position of portfolio p, alerts by symbol. -> the next n."""
    moving = np.int64(0)
    i = book.live[p].first_position
    while i > 0:
        row = book.positions.rows[i - 1]
        if row.flags & TRADED and position_level(book, i - 1, whole)[0] != row.level:
            scratch[0, moving], scratch[1, moving] = row.symbol, np.uint32(i - 1)
            moving += 1
        i = book.links[i - 1].next_of_portfolio
    sort_by_string(strings.table.rows, scratch[0], scratch[1], moving)
    for k in range(moving):
        n = judge_position(book, np.int64(scratch[1, k]), whole, source, alerts, n)
    return n


@kernel
def _limits(strings, book, batch, first, verdict, alerts, scratch, counts):  # type: ignore[no-untyped-def]
    """Walk the batch from message `first` while a message's alerts surely fit; counts = (next message, alerts)."""
    n, m = np.int64(0), np.int64(first)
    at_most = book.positions.count[0] + PORTFOLIO_RULES
    while m < len(verdict) and n + at_most <= len(alerts):
        if verdict[m] < _MALFORMED:
            if batch.key_ok[m] == 0:
                verdict[m] = _KEY_MISMATCH
            else:
                verdict[m], n = _limit(strings, book, batch, m, alerts, n, scratch)
        m += 1
        at_most = book.positions.count[0] + PORTFOLIO_RULES
    counts[0], counts[1] = m, n


@inline
def _limit(strings, book, batch, m, alerts, n, scratch):  # type: ignore[no-untyped-def]
    """Apply one limits message. -> (verdict, the next n)."""
    text, starts, sizes = batch.data, batch.text_at, batch.text_len
    rows, lengths, index = strings.table.rows, strings.lengths, strings.index
    user, _ = find_string(rows, lengths, index, text, starts[0, m], np.int64(sizes[0, m]))
    name, _ = find_string(rows, lengths, index, text, starts[1, m], np.int64(sizes[1, m]))
    p = np.int64(-1)
    if user >= 0 and name >= 0:
        p, _ = find_pair(book.portfolio_index, pair(user, name))
    if p >= 0:
        version = book.portfolios.rows[p].version
        if version != NO_VERSION and batch.version[m] <= version:
            return _IGNORED, n
    time = batch.updated_at[m]
    source = Source(time, np.uint8(_TOPIC), batch.partition, batch.offset[m])
    if p < 0:
        user = intern(strings, text, starts[0, m], np.int64(sizes[0, m]))
        name = intern(strings, text, starts[1, m], np.int64(sizes[1, m]))
        p = open_portfolio(book, user, name, time)
    turn(book, p, time)
    _replace_limits(strings, book, p, batch, m)
    caused(book, p, source, AT_ONCE)
    figures = totals(book, p)
    n = _judge_all_positions(strings, book, p, figures.whole, source, alerts, n, scratch)
    n = judge_portfolio(book, p, figures, source, alerts, n)
    touch_portfolio(book, p)
    return _APPLIED, n


def apply_limits(state: AccountState, batch: LimitBatch) -> LimitResult:
    """Apply decoded limits messages in order; each is judged at once on everything it governs.

    Rejections of `batch.verdict` stay; a version not above the current one is IGNORED. `batch` is not changed.
    """
    n, assets = batch.records.n, len(batch.asset_at)
    state = reserve(state, strings=2 * n + assets, portfolios=n, positions=assets)
    verdict = batch.verdict.copy()
    at_most = int(state.positions.count[0]) + assets + PORTFOLIO_RULES
    scratch = np.empty((2, at_most), np.uint32)
    columns = _Limits(
        batch.data,
        batch.text_at,
        batch.text_len,
        batch.key_ok,
        batch.version,
        batch.active,
        batch.updated_at,
        batch.limits,
        batch.has_limit,
        batch.asset_start,
        batch.asset_at,
        batch.asset_len,
        batch.asset_limit,
        batch.records.partition,
        batch.records.offset,
    )
    alerts = collect_rows(
        ALERT,
        at_most + n * PORTFOLIO_RULES,
        n,
        lambda first, rows, counts: _limits(
            strings_of(state), book_of(state), columns, first, verdict, rows, scratch, counts
        ),
    )
    return LimitResult(state, verdict, alerts)
