"""When a trade settles, as tables that kernels look it up in.

The trade date is the exchange's local date of `executed_at`, or its next session where that is none. The settlement
date is so many settlement days later: sessions that are no holiday of the rules. The trade settles at the first moment
of that date, local time; with a cycle of 0 it settles at `executed_at` itself.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.exchanges import WEEKDAYS, Exchange, exchange
from assetstream.models.int128 import inline, kernel
from assetstream.models.interning import word_at
from assetstream.models.settlement_rules import ASSET_TYPES, CALENDARS, SettlementRules

if TYPE_CHECKING:
    from assetstream.models.decode import TradeBatch

#: places of a trade's currency among its texts, and of OTHER among asset types; whatever has no type is OTHER
_CURRENCY, _OTHER = 5, len(ASSET_TYPES) - 1
DAY_US = 86_400_000_000
#: days since 1970 of the tables' first and last day: what the contract allows, and room for time zones and cycles
FIRST_DAY, LAST_DAY = -7, 120_890
_DAYS = LAST_DAY - FIRST_DAY + 1


class Calendars(NamedTuple):
    """A row per calendar, a column per local day from FIRST_DAY on. A row is zeros until a rule asks for it.

    midnights int64[calendars, days], µs UTC at which the day begins; after int32[calendars, days], the column of the
    first settlement day after the trade date that the day counts as.
    """

    midnights: np.ndarray
    after: np.ndarray


@inline
def settles_at(calendars, calendar, cycle, executed_at):  # type: ignore[no-untyped-def]
    """µs UTC at which a trade settles, by a rule of `SettlementDates.rule_of`; executed_at in µs UTC, 1970 to 2299."""
    if cycle == 0:
        return executed_at
    midnights, after = calendars.midnights[calendar], calendars.after[calendar]
    day = executed_at // DAY_US - FIRST_DAY
    if executed_at < midnights[day]:
        day -= 1
    elif executed_at >= midnights[day + 1]:
        day += 1
    for _ in range(cycle):
        day = np.int64(after[day])
    return midnights[day]


class Named(NamedTuple):
    """Currencies that rules name, as kernels look them up; all others have number 0.

    names uint64[n, 4], bytes of each, zeros behind; calendars int64[n + 1], cycles int64[n + 1, asset types], by number
    """

    names: np.ndarray
    calendars: np.ndarray
    cycles: np.ndarray


@inline
def _number(named, data, at, size):  # type: ignore[no-untyped-def]
    for k in range(len(named)):
        same = True
        for word in range(4):
            left = size - 8 * word
            there = word_at(data, at + 8 * word, min(8, left)) if left > 0 else np.uint64(0)
            same = same and named[k, word] == there
        if same:
            return k + 1
    return 0


@kernel
def _times(calendars, made, named, data, text_at, text_len, kinds, executed_at, out):  # type: ignore[no-untyped-def]
    """Fill `out`; -> the number of a currency whose calendar has to be made first, −1: all are filled."""
    for i in range(len(out)):
        number = _number(named.names, data, text_at[i], np.int64(max(text_len[i], np.int32(0))))
        kind = min(np.int64(kinds[i]), np.int64(_OTHER))
        cycle, calendar = named.cycles[number, kind], named.calendars[number]
        if cycle > 0 and made[calendar] == 0:
            return number
        out[i] = settles_at(calendars, calendar, cycle, executed_at[i])
    return -1


class SettlementDates:
    """The rules with their tables: `calendars` for kernels, `rule_of` for the numbers to look up there.

    Raises InvalidSettlementRule when a setting names an exchange that doesn't exist.
    """

    def __init__(self, rules: SettlementRules) -> None:
        self.rules = rules
        for name in sorted(set(rules.calendars.values()) - set(CALENDARS.values())):
            exchange(name)
        currencies = sorted(rules.calendars.keys() | rules.holidays.keys())
        # number 0 is that of all other currencies
        self._numbers = {currency: number for number, currency in enumerate(currencies, 1)}
        self._made = np.zeros(len(currencies) + 1, np.uint8)
        self._of_rules = sorted({*currencies, *(name.partition("/")[2] for name in rules.cycles if "/" in name)})
        self._named = self._name()
        # Memory is taken when a row is written.
        shape = len(currencies) + 1, _DAYS
        self.calendars = Calendars(np.zeros(shape, np.int64), np.zeros(shape, np.int32))

    def rule_of(self, asset_type: str | None, currency: str) -> tuple[int, int]:
        """(calendar, cycle) for `settles_at`. The first use of a currency makes its row of the tables.

        That takes half a second, KRW three, and the very first a second more: a worker can do it in a thread before.
        """
        number = self._numbers.get(currency, 0)
        cycle = self.rules.cycle_of(asset_type, currency)
        if cycle and not self._made[number]:
            self._make(number, currency)
        return number, cycle

    def times(self, batch: TradeBatch) -> np.ndarray:
        """When each trade of a batch settles, int64[n], µs UTC. The first use of a currency makes its calendar."""
        out = np.zeros(len(batch.executed_at), np.int64)
        text_at, text_len = batch.text_at[_CURRENCY], batch.text_len[_CURRENCY]
        data = batch.data.view()
        data.flags.writeable = False
        columns = data, text_at, text_len, batch.asset_type, batch.executed_at, out
        while (missing := _times(self.calendars, self._made, self._named, *columns)) >= 0:
            self._make(int(self._named.calendars[missing]), self._of_rules[missing - 1] if missing else "")
        return out

    def _name(self) -> Named:
        names = np.array([name.encode() for name in self._of_rules], "S32").view(np.uint64).reshape(-1, 4)
        every = ["", *self._of_rules]
        calendars = np.array([self._numbers.get(currency, 0) for currency in every])
        cycles = [[self.rules.cycle_of(kind, currency) for kind in ASSET_TYPES] for currency in every]
        return Named(names, calendars, np.array(cycles))

    def _make(self, number: int, currency: str) -> None:
        name = self.rules.calendars.get(currency)
        found = exchange(name) if name else WEEKDAYS
        days = [date(1970, 1, 1) + timedelta(day) for day in range(FIRST_DAY, LAST_DAY + 1)]
        open_on = _sessions(found)
        settles_on = [day for day in open_on if not self.rules.is_holiday(currency, days[day])]
        self.calendars.midnights[number] = _midnights(found, days)
        self.calendars.after[number] = _after(open_on, np.array(settles_on))
        self._made[number] = 1


def _sessions(found: Exchange) -> np.ndarray:
    """Columns of the days that count as sessions, growing."""
    days = np.arange(FIRST_DAY, LAST_DAY + 1)
    weekday = (days + 3) % 7 < 5  # the first day of 1970 was a Thursday
    first, last = (day.toordinal() - date(1970, 1, 1).toordinal() for day in (found.first, found.last))
    known = (days >= first) & (days <= last)
    return np.flatnonzero(np.where(known, np.isin(days, found.sessions), weekday))


def _midnights(found: Exchange, days: list[date]) -> np.ndarray:
    """µs UTC at which each day begins. Where clocks skip its midnight, it begins when they do."""
    offsets = [found.zone.utcoffset(datetime(day.year, day.month, day.day)) for day in days]
    return np.arange(FIRST_DAY, LAST_DAY + 1) * DAY_US - np.array(offsets, "timedelta64[us]").astype(np.int64)


def _after(open_on: np.ndarray, settles_on: np.ndarray) -> np.ndarray:
    """For each day: the first column of `settles_on` after the first of `open_on` that isn't before the day."""
    last = len(open_on) - 1
    traded = open_on[np.minimum(np.searchsorted(open_on, np.arange(_DAYS)), last)]
    return settles_on[np.minimum(np.searchsorted(settles_on, traded, side="right"), len(settles_on) - 1)]
