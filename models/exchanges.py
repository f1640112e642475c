"""On which days exchanges are open, by the library exchange-calendars."""

from __future__ import annotations

from datetime import UTC, date, tzinfo
from functools import cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from assetstream.models.settlement_rules import InvalidSettlementRule

#: the contract has no times before the first; pandas, which the library counts with, no holidays after the last
FIRST, LAST = date(1970, 1, 1), date(2200, 12, 31)


class Exchange(NamedTuple):
    """Days since 1970 on which an exchange is open, half days too: int64, growing, all from `first` to `last`.

    Of days before and after nothing is known: Monday to Friday count as sessions.
    """

    zone: tzinfo
    sessions: np.ndarray
    first: date
    last: date


#: for currencies without an exchange
WEEKDAYS = Exchange(UTC, np.zeros(0, np.int64), date.max, date.min)


@cache
def exchange(name: str) -> Exchange:
    """All that the library knows of an exchange. The first use takes a second: it brings pandas.

    Raises InvalidSettlementRule where the library knows no such name, or can't make the whole of it.
    """
    from exchange_calendars import get_calendar
    from exchange_calendars.errors import CalendarError

    try:
        # Of one year, because it is quickly made: its class knows how far the library goes. With both ends given no
        # clock is read.
        kind = type(get_calendar(name, start="2025-01-01", end="2025-12-31"))
        least, most = kind.bound_min(), kind.bound_max()
        first = FIRST if least is None else max(FIRST, least.date())
        last = LAST if most is None else min(LAST, most.date())
        calendar = kind(start=first.isoformat(), end=last.isoformat())
    except (CalendarError, NotImplementedError, ValueError):
        said = f"SETTLEMENT_CALENDARS: {name} is no exchange that exchange-calendars can make a calendar of"
        raise InvalidSettlementRule(said) from None
    sessions = calendar.sessions.to_numpy().astype("datetime64[D]").astype(np.int64)
    return Exchange(_time_zone(calendar.tz.key), sessions, first, last)


def _time_zone(name: str) -> ZoneInfo:
    """A time zone as the locked package tzdata has it: what machines have differs, and all workers must agree."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
