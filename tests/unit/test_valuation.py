"""Rates, totals, updates and their times, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from assetstream.models.state import new_account_state, rebuild
from assetstream.models.updates import collect_updates, next_update_ms
from tests.unit.test_fills import trade
from tests.unit.test_limits import Desk


def figures(desk: Desk, *names: str) -> list[Any]:
    (update,) = desk.machine.updates()
    return [update[name] for name in names]


@pytest.mark.parametrize(
    ("prices", "value"),
    [
        ([], None),
        ([("CHF/USD", "1.1", "USD")], "110"),
        ([("USD/CHF", "3", "CHF")], "33.3333333333333333"),  # 100 · 0.333333333333333333
        ([("USD/CHF", "3", "CHF"), ("CHF/USD", "1.1", "USD")], "110"),  # the straight one goes first
        ([("EUR/USD", "1.1", "USD")], None),
    ],
)
def test_a_foreign_position_needs_a_rate(prices: list[tuple[str, str, str]], value: str | None) -> None:
    desk = Desk()
    desk.feed("trades", trade(1, "BUY", "1", "100", currency="CHF"))
    for symbol, price, currency in prices:
        desk.price(symbol, price, currency=currency)
    got = figures(desk, "market_value", "complete", "unpriced", "open_positions")
    assert got == ([value, True, [], 1] if value else ["0", False, ["ACME"], 1])


def test_a_rate_by_way_of_the_dollar_is_rounded_once() -> None:
    from tests.property.test_kernels import Machine

    desk = Desk()
    desk.machine = Machine("EUR")
    desk.feed("trades", trade(1, "BUY", "3", "1", currency="CHF", fee="1"))
    desk.price("USD/CHF", "3", currency="CHF")
    desk.price("EUR/USD", "7", currency="USD")
    # round(0.333333333333333333 · 0.142857142857142857) = 0.047619047619047619
    names = ("market_value", "cost_basis", "fees", "total_pnl", "complete")
    assert figures(desk, *names) == [
        "0.142857142857142857",
        "0.142857142857142857",
        "0.047619047619047619",
        "-0.047619047619047619",
        True,
    ]


def test_a_mark_in_another_currency_is_converted_first() -> None:
    desk = Desk()
    desk.feed("trades", trade(1, "BUY", "2", "100"))
    desk.price("ACME", "50", currency="EUR")
    assert figures(desk, "complete", "unpriced") == [False, ["ACME"]]
    desk.price("EUR/USD", "1.5", "2026-03-02T12:00:00Z", currency="USD")
    assert figures(desk, "market_value", "unrealized_pnl", "complete", "as_of") == [
        "150",
        "-50",
        True,
        "2026-03-02T12:00:00.000000Z",
    ]


def test_a_total_that_reaches_the_limit_leaves_everything_out() -> None:
    desk = Desk()
    for number, symbol in enumerate(("A", "B", "C")):
        desk.feed("trades", trade(number, "BUY", "6e19", "1", symbol=symbol))
    names = ("market_value", "gross_exposure", "complete", "unpriced", "open_positions")
    assert figures(desk, *names) == ["0", "0", False, ["A", "B", "C"], 3]
    for number, symbol in enumerate(("A", "B")):
        desk.feed("trades", trade(10 + number, "SELL", "6e19", "1", symbol=symbol))
    assert figures(desk, *names) == ["60000000000000000000", "60000000000000000000", True, [], 1]


def test_after_marks_alone_one_update_per_interval() -> None:
    desk = Desk()
    desk.feed("trades", trade(1, "BUY", "1", "100"))
    machine = desk.machine
    assert [u["sequence"] for u in machine.updates(5000, 1000)] == [1]
    assert next_update_ms(machine.state, 1000) is None
    desk.price("ACME", "101")
    desk.price("ACME", "102")
    assert machine.updates(5999, 1000) == []
    assert next_update_ms(machine.state, 1000) == 6000
    (update,) = machine.updates(6000, 1000)
    assert (update["sequence"], update["market_value"]) == (2, "102")
    assert update["cause"] == {"topic": "prices", "partition": 0, "offset": desk.offset}
    desk.price("ACME", "103")
    assert machine.updates(6001, 1000) == []
    desk.feed("trades", trade(2, "BUY", "1", "103"))  # a fill is published at once, and the mark with it
    (update,) = machine.updates(6002, 1000)
    assert (update["sequence"], update["market_value"]) == (3, "206")
    assert machine.updates(60_000, 1000) == []


def test_an_update_that_a_mark_made_due_survives_a_restore() -> None:
    desk = Desk()
    desk.feed("trades", trade(1, "BUY", "1", "100"))
    desk.machine.updates(5000, 1000)
    desk.price("ACME", "101", "2026-03-02T12:00:00Z")
    expected = desk.machine.restored().updates(0, 0)
    assert expected == desk.machine.updates(10_000, 1000)
    assert expected[0]["as_of"] == "2026-03-02T12:00:00.000000Z"
    assert desk.machine.restored().updates(0, 0) == []


def test_another_base_currency_is_refused_after_a_restore() -> None:
    state = new_account_state(b"USD", 10)
    with pytest.raises(ValueError, match="valued in USD, the setting says EUR"):
        rebuild(state._replace(base_currency=b"EUR"))


def test_an_idle_partition_has_no_updates() -> None:
    result = collect_updates(new_account_state(b"USD", 10), 0, 0)
    assert (len(result.updates), len(result.unpriced)) == (0, 0)
