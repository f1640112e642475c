"""When trades settle: known cases by hand, and everything else against the plain reference and the library itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from exchange_calendars import get_calendar
from hypothesis import given, settings
from hypothesis import strategies as st

from assetstream.models.exchanges import exchange
from assetstream.models.messages import AssetType
from assetstream.models.reference_settlement_dates import ReferenceDates
from assetstream.models.settlement_dates import DAY_US, SettlementDates, settles_at
from assetstream.models.settlement_rules import (
    ASSET_TYPES,
    CALENDARS,
    LONGEST_CYCLE,
    InvalidSettlementRule,
    settlement_rules,
    us_bank_holiday,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RUN = settings(max_examples=300, deadline=None)

#: one set of tables for all tests: they are made once per currency
RULES = settlement_rules()
DATES, REFERENCE = SettlementDates(RULES), ReferenceDates(RULES)


def us(time: str) -> int:
    """Microseconds of an instant in UTC."""
    return (datetime.fromisoformat(time).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def settled(asset_type: str | None, currency: str, executed_at: int, dates: SettlementDates = DATES) -> int:
    return int(settles_at(dates.calendars, *dates.rule_of(asset_type, currency), executed_at))


# ---------------------------------------------------------------------------------------------------------- known cases

# Midnight is 05:00 UTC in New York (04:00 from 2026-03-08 to 2026-11-01), 23:00 the day before in Frankfurt (22:00 from
# 2026-03-29 to 2026-10-25), 15:00 the day before in Tokyo.
KNOWN = {
    # NYSE: closed on Thanksgiving, Thursday 2026-11-26; closes at 13:00 on the Friday (nyse.com, holidays and hours)
    "over Thanksgiving, to its half day": ("STOCK", "USD", "2026-11-25T15:00", "2026-11-27T05:00"),
    "on the half day": ("ETF", "USD", "2026-11-27T15:00", "2026-11-30T05:00"),
    "after the half day's close": ("STOCK", "USD", "2026-11-27T20:00", "2026-11-30T05:00"),
    "on Thanksgiving, as if on Friday": ("STOCK", "USD", "2026-11-26T15:00", "2026-11-30T05:00"),
    # Good Friday 2026-04-03: all closed. Easter Monday 2026-04-06: Xetra and TARGET closed, NYSE open
    "US over Good Friday": ("STOCK", "USD", "2026-04-02T15:00", "2026-04-06T04:00"),
    "US on Good Friday": ("STOCK", "USD", "2026-04-03T15:00", "2026-04-07T04:00"),
    "EUR into Easter": ("STOCK", "EUR", "2026-04-01T09:00", "2026-04-06T22:00"),
    "EUR over Easter": ("STOCK", "EUR", "2026-04-02T09:00", "2026-04-07T22:00"),
    "EUR on Easter Monday": ("STOCK", "EUR", "2026-04-06T09:00", "2026-04-08T22:00"),
    # federal holidays in 2026 (federalreserve.gov, holidays): Juneteenth on a Friday, 4 July on a Saturday
    "over Juneteenth": ("STOCK", "USD", "2026-06-18T15:00", "2026-06-22T04:00"),
    "over 3 July, when NYSE observes the 4th": ("STOCK", "USD", "2026-07-02T15:00", "2026-07-06T04:00"),
    # NYSE trades on Columbus Day and Veterans Day, and nothing settles (FINRA notices 99-83 and 92-54)
    "over Columbus Day": ("STOCK", "USD", "2026-10-09T15:00", "2026-10-13T04:00"),
    "on Columbus Day": ("STOCK", "USD", "2026-10-12T15:00", "2026-10-13T04:00"),
    "over Veterans Day": ("STOCK", "USD", "2026-11-10T15:00", "2026-11-12T05:00"),
    "on Veterans Day": ("STOCK", "USD", "2026-11-11T15:00", "2026-11-12T05:00"),
    "T+2 over Veterans Day": (None, "USD", "2026-11-10T15:00", "2026-11-13T05:00"),
    # the end of 2026, when 1 January is a Friday: Xetra is closed on 24 and 31 December, Tokyo from 31 to 3
    "US over New Year": ("STOCK", "USD", "2026-12-31T15:00", "2027-01-04T05:00"),
    "EUR over Christmas": ("STOCK", "EUR", "2026-12-23T09:00", "2026-12-28T23:00"),
    "EUR over New Year": ("STOCK", "EUR", "2026-12-30T09:00", "2027-01-04T23:00"),
    "JPY over New Year": ("STOCK", "JPY", "2026-12-30T02:00", "2027-01-04T15:00"),
    # Golden Week 2026: closed on 29 April and from 4 to 6 May (jpx.co.jp, market holidays)
    "JPY over Showa Day": ("STOCK", "JPY", "2026-04-28T02:00", "2026-04-30T15:00"),
    "JPY over Golden Week": ("STOCK", "JPY", "2026-05-01T02:00", "2026-05-07T15:00"),
    "JPY in Golden Week": ("STOCK", "JPY", "2026-05-05T02:00", "2026-05-10T15:00"),
    # 23:30 UTC on Friday 2026-11-20 is Friday in New York, Saturday in Tokyo; Monday is a holiday there
    "Friday night in New York": ("STOCK", "USD", "2026-11-20T23:30", "2026-11-23T05:00"),
    "which is Saturday in Tokyo": ("STOCK", "JPY", "2026-11-20T23:30", "2026-11-25T15:00"),
    "and Saturday in Frankfurt": ("STOCK", "EUR", "2026-11-20T23:30", "2026-11-24T23:00"),
    # clocks: US 2026-03-08 and 2026-11-01, EU 2026-03-29 and 2026-10-25, all Sundays
    "US before its spring": ("STOCK", "USD", "2026-03-05T15:00", "2026-03-06T05:00"),
    "US over its spring": ("STOCK", "USD", "2026-03-06T15:00", "2026-03-09T04:00"),
    "EUR over the US's spring": ("STOCK", "EUR", "2026-03-05T15:00", "2026-03-08T23:00"),
    "EUR over its spring": ("STOCK", "EUR", "2026-03-26T15:00", "2026-03-29T22:00"),
    "EUR over its autumn": ("STOCK", "EUR", "2026-10-22T15:00", "2026-10-25T23:00"),
    "US over the EU's autumn": ("STOCK", "USD", "2026-10-23T15:00", "2026-10-26T04:00"),
    "US over its autumn": ("STOCK", "USD", "2026-10-30T15:00", "2026-11-02T05:00"),
    "US, the last of Friday in summer": ("STOCK", "USD", "2026-03-14T03:59:59.999999", "2026-03-16T04:00"),
    "US, the first of Saturday in summer": ("STOCK", "USD", "2026-03-14T04:00", "2026-03-17T04:00"),
    "US, the last of Friday in winter": ("STOCK", "USD", "2026-11-07T04:59:59.999999", "2026-11-09T05:00"),
    "US, the first of Saturday in winter": ("STOCK", "USD", "2026-11-07T05:00", "2026-11-10T05:00"),
    # weekends count as Monday
    "on Saturday": ("STOCK", "USD", "2026-11-14T15:00", "2026-11-17T05:00"),
    "on Sunday": ("STOCK", "USD", "2026-11-15T15:00", "2026-11-17T05:00"),
    "EUR on Saturday": ("ETF", "EUR", "2026-11-14T15:00", "2026-11-17T23:00"),
    # T+0 settles with the trade, whenever
    "crypto on a Sunday": ("CRYPTO", "USD", "2026-11-15T15:00:00.000001", "2026-11-15T15:00:00.000001"),
    "FX on Christmas": ("FIAT", "EUR", "2026-12-25T12:00", "2026-12-25T12:00"),
    # T+2: no type, OTHER, other currencies
    "no type": (None, "USD", "2026-11-16T15:00", "2026-11-18T05:00"),
    "OTHER": ("OTHER", "USD", "2026-11-16T15:00", "2026-11-18T05:00"),
    "a currency without an exchange: Monday to Friday, UTC": ("STOCK", "XYZ", "2026-12-24T23:59", "2026-12-28T00:00"),
}


@pytest.mark.parametrize(("asset_type", "currency", "executed", "expected"), KNOWN.values(), ids=list(KNOWN))
def test_known_cases(asset_type: str | None, currency: str, executed: str, expected: str) -> None:
    assert settled(asset_type, currency, us(executed)) == us(expected)
    assert REFERENCE.settles_at(asset_type, currency, us(executed)) == us(expected)


def test_us_settlement_holidays_are_those_of_the_reserve_banks_that_exchanges_trade_on() -> None:
    days = [date(2026, 1, 1) + timedelta(day) for day in range(3 * 365)]
    # of 2028-11-11 (a Saturday) no other day is closed (federalreserve.gov)
    assert [str(day) for day in days if us_bank_holiday(day) and day.weekday() < 5] == [
        *("2026-10-12", "2026-11-11", "2027-10-11", "2027-11-11", "2028-10-09"),
    ]
    assert us_bank_holiday(date(2029, 11, 12)), "the 11th is a Sunday"
    assert not us_bank_holiday(date(2029, 11, 13))


# ------------------------------------------------------------------------------------------------------- for all others

#: instants of the contract, many of them at the edge of an hour, where local days begin
INSTANTS = st.one_of(
    st.integers(0, us("2299-12-31T23:59:59.999999")),
    st.builds(
        lambda hour, edge: hour * 3_600_000_000 + edge,
        st.integers(us("1995-01-01") // 3_600_000_000, us("2060-01-01") // 3_600_000_000),
        st.sampled_from((-1, 0, 1)),
    ),
)
CURRENCIES = st.sampled_from(("USD", "EUR", "JPY", "CNY", "BRL", "XYZ"))


@RUN
@given(st.sampled_from((None, *ASSET_TYPES)), CURRENCIES, INSTANTS)
def test_tables_say_what_the_reference_says(asset_type: str | None, currency: str, executed_at: int) -> None:
    assert settled(asset_type, currency, executed_at) == REFERENCE.settles_at(asset_type, currency, executed_at)


@RUN
@given(st.sampled_from(("EUR", "JPY", "BRL")), INSTANTS, st.integers(1, 10))
def test_within_its_bounds_it_is_what_the_library_says(currency: str, executed_at: int, cycle: int) -> None:
    library = get_calendar(CALENDARS[currency], start="1997-01-06", end="2200-12-30")
    number, _ = DATES.rule_of("STOCK", currency)
    day = pd.Timestamp(executed_at, unit="us", tz="UTC").tz_convert(library.tz).tz_localize(None).normalize()
    if not library.first_session <= day <= library.last_session - timedelta(60):
        return
    settles = library.session_offset(library.date_to_session(day, "next"), cycle)
    expected = settles.tz_localize(library.tz).tz_convert("UTC").tz_localize(None)
    assert settles_at(DATES.calendars, number, cycle, executed_at) == us(expected.isoformat())


@RUN
@given(st.integers(us("1970-01-01") // DAY_US, us("1996-11-01") // DAY_US), st.integers(1, LONGEST_CYCLE))
def test_before_the_library_monday_to_friday(day: int, cycle: int) -> None:
    number, _ = DATES.rule_of("STOCK", "JPY")
    traded = np.busday_offset(np.datetime64(day, "D"), 0, roll="forward")
    expected = np.busday_offset(traded, cycle).astype(int)
    nine_hours = 9 * 3_600_000_000
    assert settles_at(DATES.calendars, number, cycle, day * DAY_US) == expected * DAY_US - nine_hours


@RUN
@given(st.integers(us("2201-01-01") // DAY_US, us("2299-12-31") // DAY_US), st.integers(1, LONGEST_CYCLE))
def test_after_the_library_monday_to_friday(day: int, cycle: int) -> None:
    number, _ = DATES.rule_of("STOCK", "CNY")
    traded = np.busday_offset(np.datetime64(day, "D"), 0, roll="forward")
    expected = np.busday_offset(traded, cycle).astype(int)
    eight_hours = 8 * 3_600_000_000
    assert settles_at(DATES.calendars, number, cycle, day * DAY_US) == expected * DAY_US - eight_hours


@RUN
@given(CURRENCIES, INSTANTS, INSTANTS, st.integers(0, LONGEST_CYCLE))
def test_a_later_trade_never_settles_earlier_and_none_before_it_is_made(
    currency: str, one: int, other: int, cycle: int
) -> None:
    number, _ = DATES.rule_of(None, currency)
    first, second = (settles_at(DATES.calendars, number, cycle, time) for time in sorted((one, other)))
    assert first <= second
    assert first >= min(one, other)
    assert settles_at(DATES.calendars, number, cycle + 1, one) > settles_at(DATES.calendars, number, cycle, one)


@pytest.mark.parametrize("currency", ["USD", "JPY"])
@pytest.mark.parametrize("time", ["1970-01-01", "2299-12-31T23:59:59.999999"])
def test_the_ends_of_what_the_contract_allows(currency: str, time: str) -> None:
    dates = SettlementDates(settlement_rules(f"OTHER={LONGEST_CYCLE}"))
    reference = ReferenceDates(dates.rules)
    assert settled("OTHER", currency, us(time), dates) == reference.settles_at("OTHER", currency, us(time))


@pytest.mark.parametrize(("currency", "name"), CALENDARS.items())
def test_the_library_can_make_every_exchange(currency: str, name: str) -> None:
    found = exchange(name)
    assert found.first <= date(2000, 1, 1)
    assert found.last >= date(2026, 12, 31)
    new_year = (date(2026, 1, 1) - EPOCH.date()).days
    assert (new_year in found.sessions) == (currency == "INR"), "a holiday everywhere but at Bombay"


# ---------------------------------------------------------------------------------------------------------------- rules


def test_types_of_assets_are_those_of_the_messages() -> None:
    assert list(ASSET_TYPES) == list(AssetType)


def test_settings_go_before_the_defaults() -> None:
    rules = settlement_rules(
        "STOCK/CAD=1, CRYPTO=3,OTHER/EUR=5, OTHER=4", "USDC=XNYS", "USDC=2026-11-25, USDC=2026-11-30, XYZ=2026-12-24"
    )
    cycles = {
        ("STOCK", "CAD"): 1,
        ("ETF", "CAD"): 2,
        ("STOCK", "USD"): 1,
        ("CRYPTO", "USD"): 3,
        ("FIAT", "USD"): 0,
        ("OTHER", "EUR"): 5,
        (None, "EUR"): 5,
        (None, "USD"): 4,
    }
    assert {key: rules.cycle_of(*key) for key in cycles} == cycles
    dates = SettlementDates(rules)
    for currency, executed, expected in (
        # a trade of Tuesday: not on the 25th (a holiday here), nor on Thanksgiving, but Friday; and Tuesday the 1st
        ("USDC", "2026-11-24T15:00", "2026-12-01T05:00"),
        ("XYZ", "2026-12-23T15:00", "2026-12-28T00:00"),
    ):
        assert settled("STOCK", currency, us(executed), dates) == us(expected)
        assert ReferenceDates(rules).settles_at("STOCK", currency, us(executed)) == us(expected)


def test_an_exchange_with_another_week_and_narrow_bounds() -> None:
    dates = SettlementDates(settlement_rules(calendars="SAR=XSAU"))
    # Sunday to Thursday in Riyadh (UTC+3): a trade of Wednesday 2026-11-18 settles on Sunday 22
    assert settled("STOCK", "SAR", us("2026-11-18T09:00"), dates) == us("2026-11-21T21:00")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"cycles": "STOCK/USD"}, "STOCK/USD is not NAME=VALUE"),
        ({"cycles": "BOND=1"}, "BOND is no type of asset (CRYPTO, FIAT, STOCK, ETF, OTHER) or TYPE/CURRENCY"),
        ({"cycles": "STOCK/=1"}, "STOCK/ is no type of asset (CRYPTO, FIAT, STOCK, ETF, OTHER) or TYPE/CURRENCY"),
        ({"cycles": "STOCK=-1"}, "STOCK=-1: a number of business days is 0 to 30"),
        ({"cycles": "STOCK=31"}, "STOCK=31: a number of business days is 0 to 30"),
        ({"cycles": "STOCK=²"}, "STOCK=²: a number of business days is 0 to 30"),
        ({"cycles": "STOCK=1,STOCK=2"}, "STOCK is there twice"),
        ({"calendars": "=XNYS"}, "=XNYS is not NAME=VALUE"),
        ({"calendars": "USD=XNYS,USD=XNAS"}, "USD is there twice"),
        ({"holidays": "USD=2026-02-29"}, "USD=2026-02-29: a date is YYYY-MM-DD"),
    ],
)
def test_what_cannot_be_followed_is_told(texts: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSettlementRule) as refused:
        settlement_rules(**texts)
    assert str(refused.value) == said


@pytest.mark.parametrize("name", ["NASDAQQ", "XTAE"])
def test_an_exchange_that_does_not_exist_or_cannot_be_made_is_told_at_the_start(name: str) -> None:
    with pytest.raises(InvalidSettlementRule) as refused:
        SettlementDates(settlement_rules(calendars=f"ILS={name}"))
    said = f"SETTLEMENT_CALENDARS: {name} is no exchange that exchange-calendars can make a calendar of"
    assert str(refused.value) == said
