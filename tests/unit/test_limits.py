"""Levels and alerts, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from assetstream.models.outputs import AlertType, Level, Subject
from tests.property.test_kernels import NOW_MS, Machine, records_of, units
from tests.unit.test_fills import dec, trade

UNIT = 10**18


class Desk:
    """A partition fed with messages as Python objects."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.offset = 0

    def feed(self, topic: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        """The alerts of one message."""
        import json

        self.offset += 1
        known = len(self.machine.alerts)
        key = message["symbol" if topic == "prices" else "user_id"].encode()
        records = records_of(topic, 0, [(key, json.dumps(message).encode())], self.offset, NOW_MS)
        self.results = self.machine.feed(records)
        return self.machine.alerts[known:]

    def limits(self, version: int, **fields: Any) -> list[dict[str, Any]]:
        at = {"updated_at": "2026-03-02T10:00:00Z"}
        return self.feed("risk_limits", {"user_id": "ann", "portfolio_id": "main", "version": version, **at, **fields})

    def price(self, symbol: str, price: str, at: str = "2026-03-02T11:00:00Z", currency: str = "USD"):  # type: ignore[no-untyped-def]
        return self.feed("prices", {"symbol": symbol, "price": price, "currency": currency, "as_of": at})


def brief(alerts: list[dict[str, Any]]) -> list[tuple[str, str, str, str | None, str]]:
    return [
        (
            a["alert_id"].split("/", 2)[2],
            a["severity"],
            a["current_value"],
            a["limit_value"],
            a["threshold_percent"],
        )
        for a in alerts
    ]


def test_a_level_changes_exactly_at_ninety_and_above_a_hundred_percent() -> None:
    desk = Desk()
    desk.limits(1, max_position_size="100")
    desk.feed("trades", trade(1, "BUY", "1", "1"))
    rule = "POSITION_LIMIT/ACME"
    assert desk.price("ACME", "89.999999999999999999") == []
    assert brief(desk.price("ACME", "90")) == [(f"{rule}/1", "WARNING", "90", "100", "90")]
    assert desk.price("ACME", "100") == []
    assert brief(desk.price("ACME", "100.000000000000000001")) == [
        (f"{rule}/2", "CRITICAL", "100.000000000000000001", "100", "100")
    ]
    assert desk.price("ACME", "200") == []
    (fall,) = desk.price("ACME", "100")
    assert brief([fall]) == [(f"{rule}/3", "WARNING", "100", "100", "100")]
    assert not fall["is_resolved"]
    (resolved,) = desk.price("ACME", "10")
    assert brief([resolved]) == [(f"{rule}/4", "INFO", "10", "100", "90")]
    assert resolved["is_resolved"]
    assert resolved["created_at"] == "2026-03-02T11:00:00.000000Z"
    assert resolved["cause"] == {"topic": "prices", "partition": 0, "offset": desk.offset}
    assert brief(desk.price("ACME", "101")) == [(f"{rule}/5", "CRITICAL", "101", "100", "100")]
    assert brief(desk.price("ACME", "1")) == [(f"{rule}/6", "INFO", "1", "100", "90")]


def test_the_largest_limit_is_compared_without_wrapping() -> None:
    desk = Desk()
    most = "99999999999999999999.999999999999999999"
    desk.limits(1, max_position_size=most, max_total_loss=most)
    (alert,) = desk.feed("trades", trade(1, "SELL", "9", "1e19"))
    assert (alert["type"], alert["severity"], alert["current_value"]) == (
        "POSITION_LIMIT",
        "WARNING",
        "90000000000000000000",
    )


def test_alerts_of_one_message_come_in_the_tables_order_then_by_symbol() -> None:
    desk = Desk()
    for number, symbol in enumerate(("B", "A", "AB", "Z")):
        desk.feed("trades", trade(number, "BUY", "1", "10", symbol=symbol, fee="1"))
    alerts = desk.limits(
        1,
        max_position_size="5",
        asset_limits={"Z": "100", "NEW": "1"},
        max_portfolio_value="30",
        max_total_loss="1",
        max_daily_loss="1",
        max_weekly_loss="4",
    )
    assert brief(alerts) == [
        ("POSITION_LIMIT/A/1", "CRITICAL", "10", "5", "100"),
        ("POSITION_LIMIT/AB/1", "CRITICAL", "10", "5", "100"),
        ("POSITION_LIMIT/B/1", "CRITICAL", "10", "5", "100"),
        ("EXPOSURE_LIMIT/-/1", "CRITICAL", "40", "30", "100"),
        ("LOSS_LIMIT/total/1", "CRITICAL", "4", "1", "100"),
        ("LOSS_LIMIT/daily/1", "CRITICAL", "4", "1", "100"),
        ("LOSS_LIMIT/weekly/1", "WARNING", "4", "4", "90"),
    ]
    # the limit of a symbol that was not traded yet is kept
    assert brief(desk.feed("trades", trade(9, "BUY", "1", "2", symbol="NEW"))) == [
        ("POSITION_LIMIT/NEW/1", "CRITICAL", "2", "1", "100")
    ]


@pytest.mark.parametrize("removed", [{"max_position_size": None}, {"active": False, "max_position_size": "5"}])
def test_a_limit_that_is_gone_resolves_what_was_above_it(removed: dict[str, Any]) -> None:
    desk = Desk()
    desk.limits(1, max_position_size="5")
    desk.feed("trades", trade(1, "BUY", "1", "10"))
    (alert,) = desk.limits(2, **removed)
    assert brief([alert]) == [("POSITION_LIMIT/ACME/2", "INFO", "10", None, "90")]
    assert alert["is_resolved"]
    assert desk.price("ACME", "100") == []


def test_only_a_higher_version_counts() -> None:
    desk = Desk()
    desk.limits(-5, max_position_size="5")
    assert desk.results == ["applied"]
    for version in (-5, -6):
        assert desk.limits(version) == []
        assert desk.results == ["ignored"]
    desk.limits(-4)
    assert desk.results == ["applied"]


def test_an_incomplete_portfolio_may_only_rise() -> None:
    desk = Desk()
    desk.limits(1, max_portfolio_value="100", max_position_size="100")
    desk.feed("trades", trade(1, "BUY", "1", "100"))
    desk.feed("trades", trade(2, "BUY", "1", "100", symbol="EU", currency="EUR"))  # no rate: not priced
    assert desk.price("ACME", "1") == desk.machine.alerts[-1:]  # its own rule falls, the exposure doesn't
    assert desk.machine.alerts[-1]["type"] == "POSITION_LIMIT"
    alerts = desk.price("ACME", "200")
    assert [(a["type"], a["severity"]) for a in alerts] == [
        ("POSITION_LIMIT", "CRITICAL"),
        ("EXPOSURE_LIMIT", "CRITICAL"),
    ]
    # the rate arrives: an FX mark judges the portfolio, and no position but those in its own symbol
    assert desk.price("EUR/USD", "0.5", currency="USD") == []
    assert [a["type"] for a in desk.price("EU", "1", currency="EUR")] == []
    (resolved,) = (a for a in desk.price("ACME", "2") if a["type"] == "EXPOSURE_LIMIT")
    assert resolved["current_value"] == "2.5"


def test_the_day_and_the_week_turn_at_the_next_message_and_never_back() -> None:
    desk = Desk()
    desk.feed("trades", trade(1, "BUY", "1", "100", executed_at="2026-03-06T12:00:00Z"))  # a Friday
    desk.price("ACME", "90", "2026-03-06T13:00:00Z")
    desk.limits(1, max_daily_loss="5", max_weekly_loss="5", updated_at="2026-03-07T00:00:00Z")
    row = desk.machine.state.portfolios.rows[0]
    assert (units(row, "day_baseline"), units(row, "week_baseline")) == (dec("-10"), 0)
    alerts = desk.price("ACME", "80", "2026-03-09T00:00:00Z")  # a Monday: both turn
    assert (units(row, "day_baseline"), units(row, "week_baseline")) == (dec("-10"), dec("-10"))
    assert [(a["alert_id"].split("/")[3], a["severity"], a["current_value"]) for a in alerts] == [
        ("daily", "CRITICAL", "10")
    ]
    desk.feed("trades", trade(2, "BUY", "1", "80", executed_at="2026-03-01T00:00:00Z"))  # late
    assert (units(row, "day_baseline"), units(row, "week_baseline")) == (dec("-10"), dec("-10"))


def test_names_of_levels_and_subjects_are_those_of_the_rows() -> None:
    assert [AlertType.POSITION_LIMIT, AlertType.EXPOSURE_LIMIT, AlertType.LOSS_LIMIT] == [0, 1, 2]
    assert (Level.OK, Level.WARNING, Level.CRITICAL) == (0, 1, 2)
    assert Subject.WEEKLY == 4
