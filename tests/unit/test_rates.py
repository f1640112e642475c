"""The auditor's proof of rates that conversions took of marks, without servers."""

from __future__ import annotations

from typing import Any

from assetstream.cli.audit.published import Found, Published
from assetstream.cli.audit.rates import Rates
from assetstream.cli.audit.report import Report
from assetstream.models.reference import BOUND, Quote, Source, plain, times, timestamp
from assetstream.streams.settings import Settings

NOW_MS = 1_800_000_000_000


def conversion(offset: int, rates: Rates) -> Quote | None:
    event = {"asset": "JPY", "to_asset": "EUR"} if offset > 10 else {"asset": "EUR", "to_asset": "USD"}
    if offset == 9:
        event = {"asset": "EUR", "to_asset": "EUR"}
    return rates.quote(event, Source("transactions", 0, offset), NOW_MS)


def test_rates_of_conversions_follow_from_accepted_prices() -> None:
    now, old = (timestamp(NOW_MS * 1000 - age) for age in (2_000_000, 60_000_001))

    def told(rate: str | None, as_of: str | None = now, spread: str = "0", code: str | None = None) -> dict[str, Any]:
        return {"code": code, "rate": rate, "rate_as_of": as_of, "spread_bps": spread}

    published = Published()
    outcomes = {
        1: told("1.25"),
        2: told("1.2484375", spread="12.5"),
        3: told("1.26"),
        4: told("1.3", old),
        5: told(None, None, code="NO_RATE"),
        6: told(None, None, code="INSUFFICIENT_FUNDS"),
        9: told("1", None),
        10: told("1.25", None),
        # 1/150 of the one price, and 1/1.25 of the other: the one of JPY is the older
        11: told("0.005333333333333334", "2026-03-02T09:00:00.000000Z"),
        12: told("0.005333333333333333", now),
    }
    published.conversions.update({("transactions", 0, offset): each for offset, each in outcomes.items()})
    published.letters["transactions", 0] = {
        7: [Found(b"", "", "out_of_range")],
        8: [Found(b"", "", "conflict")],
    }
    report = Report()
    rates = Rates(Settings(conversion_max_age_s=60, _env_file=None), published, report)
    for symbol, price, as_of in (
        ("EUR/USD", "1.25", now),
        ("EUR/USD", "1.3", old),
        ("USD/JPY", "150", "2026-03-02T09:00:00.000000Z"),
        ("SAP", "1.26", now),
    ):
        rates.accepted({"symbol": symbol, "price": price, "as_of": as_of})
    found = {offset: conversion(offset, rates) for offset in range(1, 13)}
    assert [found[offset] is None for offset in range(1, 13)] == [offset == 5 for offset in range(1, 13)]
    quotes = {offset: plain(quote.rate) for offset, quote in found.items() if quote and offset not in (7,)}
    brought = {offset: each["rate"] for offset, each in outcomes.items() if each["rate"]}
    assert quotes == {**brought, 6: "0", 8: "0"}
    too_much = found[7]
    assert too_much
    assert times(1, too_much.rate) >= BOUND
    assert [(each.where, each.expected, each.found) for each in report.differences] == [
        ("transactions-0@3", f"accepted prices, the oldest of {now}", "none that give 1.26 EUR/USD"),
        ("transactions-0@4", "marks of the last 60 s before its Kafka timestamp", old),
        ("transactions-0@10", "the time of the prices that 1.25 EUR/USD came from", "null"),
        ("transactions-0@11", "marks of the last 60 s before its Kafka timestamp", "2026-03-02T09:00:00.000000Z"),
        ("transactions-0@12", f"accepted prices, the oldest of {now}", "none that give 0.005333333333333333 JPY/EUR"),
    ]
    assert report.checked["rates of conversions"] == 8
