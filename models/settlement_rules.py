"""What decides when a trade settles: its cycle, the exchange whose sessions count, and days on which nothing settles.

Defaults and what settings say instead, as plain values; `settlement_dates` makes tables for kernels of them. Settings
are texts of `NAME=VALUE`, by commas.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

#: as in `messages.AssetType`, which takes numba to import: too slow for those who only want a setting
ASSET_TYPES = ("CRYPTO", "FIAT", "STOCK", "ETF", "OTHER")
#: business days from trade to settlement, by type of asset, or type and currency (which goes before)
CYCLES = {"CRYPTO": 0, "FIAT": 0, "STOCK/USD": 1, "ETF/USD": 1}
#: of everything else
OTHER_CYCLE = 2
LONGEST_CYCLE = 30

#: the exchange (as exchange-calendars names it) whose sessions are the business days of a currency
CALENDARS = {
    "AUD": "XASX",
    "BRL": "BVMF",
    "CAD": "XTSE",
    "CHF": "XSWX",
    "CNY": "XSHG",
    "CZK": "XPRA",
    "DKK": "XCSE",
    "EUR": "XETR",
    "GBP": "XLON",
    "HKD": "XHKG",
    "HUF": "XBUD",
    "IDR": "XIDX",
    "INR": "XBOM",
    "ISK": "XICE",
    "JPY": "XTKS",
    "KRW": "XKRX",
    "MXN": "XMEX",
    "MYR": "XKLS",
    "NOK": "XOSL",
    "NZD": "XNZE",
    "PHP": "XPHS",
    "PLN": "XWAR",
    "SEK": "XSTO",
    "SGD": "XSES",
    "THB": "XBKK",
    "TRY": "XIST",
    "TWD": "XTAI",
    "USD": "XNYS",
    "ZAR": "XJSE",
}


class InvalidSettlementRule(ValueError):
    """A setting of settlement that can't be followed; the text says which part, and what is right."""


class SettlementRules(NamedTuple):
    """What holds after the settings: `cycles` as in CYCLES, `calendars` as in CALENDARS, `holidays` by currency."""

    cycles: dict[str, int]
    calendars: dict[str, str]
    holidays: dict[str, frozenset[date]]

    def cycle_of(self, asset_type: str | None, currency: str) -> int:
        """Business days from trade to settlement. No type: OTHER."""
        kind = asset_type or "OTHER"
        return self.cycles.get(f"{kind}/{currency}", self.cycles.get(kind, OTHER_CYCLE))

    def is_holiday(self, currency: str, day: date) -> bool:
        """Whether nothing settles on `day`, though the exchange may be open."""
        return day in self.holidays.get(currency, ()) or (currency == "USD" and us_bank_holiday(day))


def settlement_rules(cycles: str = "", calendars: str = "", holidays: str = "") -> SettlementRules:
    """The rules by the texts of three settings. Raises InvalidSettlementRule."""
    return SettlementRules(CYCLES | cycles_of(cycles), CALENDARS | calendars_of(calendars), holidays_of(holidays))


def cycles_of(text: str) -> dict[str, int]:
    """`STOCK/CAD=1, OTHER=3`: business days by type of asset, or type and currency. Raises InvalidSettlementRule."""
    cycles: dict[str, int] = {}
    for name, value in _pairs(text):
        kind, slash, currency = name.partition("/")
        if kind not in ASSET_TYPES or bool(slash) != bool(currency):
            raise InvalidSettlementRule(f"{name} is no type of asset ({', '.join(ASSET_TYPES)}) or TYPE/CURRENCY")
        if not (value.isascii() and value.isdigit() and int(value) <= LONGEST_CYCLE):
            raise InvalidSettlementRule(f"{name}={value}: a number of business days is 0 to {LONGEST_CYCLE}")
        _once(name, cycles)
        cycles[name] = int(value)
    return cycles


def calendars_of(text: str) -> dict[str, str]:
    """`AED=XSAU, USDC=XNYS`: exchanges by currency. Raises InvalidSettlementRule; doesn't know what exchanges exist."""
    calendars: dict[str, str] = {}
    for currency, exchange in _pairs(text):
        _once(currency, calendars)
        calendars[currency] = exchange
    return calendars


def holidays_of(text: str) -> dict[str, frozenset[date]]:
    """`CAD=2026-09-30, CAD=2026-11-11`: dates by currency. Raises InvalidSettlementRule."""
    holidays: dict[str, frozenset[date]] = {}
    for currency, value in _pairs(text):
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise InvalidSettlementRule(f"{currency}={value}: a date is YYYY-MM-DD") from None
        holidays[currency] = holidays.get(currency, frozenset()) | {day}
    return holidays


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """(NAME, VALUE) of each part."""
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, value = (each.strip() for each in part.partition("="))
        if not name or not value:
            raise InvalidSettlementRule(f"{part} is not NAME=VALUE")
        yield name, value


def _once(name: str, found: dict[str, int] | dict[str, str]) -> None:
    if name in found:
        raise InvalidSettlementRule(f"{name} is there twice")


def us_bank_holiday(day: date) -> bool:
    """Columbus Day and Veterans Day (on a Sunday: the Monday after): the exchanges trade, but banks are closed, and so
    nothing settles. On all other holidays of the banks the exchanges are closed too."""
    if day.month == 10:
        return day.weekday() == 0 and 8 <= day.day <= 14
    return day.month == 11 and (day.day == 11 or (day.day == 12 and day.weekday() == 0))
