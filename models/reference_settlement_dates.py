"""The plain model of `settlement_dates`: one day after the other, on calendar dates. What it is held against."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from assetstream.models.exchanges import WEEKDAYS, exchange
from assetstream.models.settlement_rules import SettlementRules

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND, DAY = timedelta(microseconds=1), timedelta(days=1)


class ReferenceDates:
    """When trades settle by the rules."""

    def __init__(self, rules: SettlementRules) -> None:
        self.rules = rules
        self._sessions: dict[str, frozenset[int]] = {}

    def settles_at(self, asset_type: str | None, currency: str, executed_at: int) -> int:
        """µs UTC at which a trade settles; executed_at likewise."""
        cycle = self.rules.cycle_of(asset_type, currency)
        if cycle == 0:
            return executed_at
        name = self.rules.calendars.get(currency)
        zone = exchange(name).zone if name else UTC
        day = (EPOCH + executed_at * MICROSECOND).astimezone(zone).date()
        while not self.is_session(currency, day):
            day += DAY
        for _ in range(cycle):
            day += DAY
            while not self.is_session(currency, day) or self.rules.is_holiday(currency, day):
                day += DAY
        return (datetime.combine(day, time(), zone) - EPOCH) // MICROSECOND

    def is_session(self, currency: str, day: date) -> bool:
        """Whether a trade of this day is a trade of this day, and not of a later one."""
        name = self.rules.calendars.get(currency)
        found = exchange(name) if name else WEEKDAYS
        if not found.first <= day <= found.last:
            return day.weekday() < 5
        if currency not in self._sessions:
            self._sessions[currency] = frozenset(found.sessions.tolist())
        return (day - EPOCH.date()).days in self._sessions[currency]
