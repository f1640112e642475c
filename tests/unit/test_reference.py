"""The reference model against cases worked by hand; everything else is held against the model."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from assetstream.models.reference import BOUND, ONE, Reference, divide, plain, quote_of, times

NOON = "2026-03-02T12:00:00Z"  # a Monday
NOON_MS = 1_772_452_800_000
MONTH_MS = 31 * 86_400_000

TRADE = {
    "trade_id": "t",
    "user_id": "u",
    "portfolio_id": "p",
    "wallet_id": "w",
    "symbol": "AAPL",
    "currency": "USD",
    "side": "BUY",
    "quantity": "1",
    "price": "1",
    "executed_at": NOON,
}
LIMITS = {"user_id": "u", "portfolio_id": "p", "version": 1, "updated_at": NOON}
TRANSACTION = {
    "transaction_id": "x",
    "user_id": "u",
    "wallet_id": "w",
    "type": "DEPOSIT",
    "status": "COMPLETED",
    "asset": "USD",
    "amount": "100",
    "occurred_at": NOON,
}
PRICE = {"symbol": "AAPL", "price": "1", "currency": "USD", "as_of": NOON}
GOOD = {"trades": TRADE, "risk_limits": LIMITS, "transactions": TRANSACTION, "prices": PRICE}
AAPL = ("u", "p", "AAPL")


class Desk:
    """A model, fed with messages that differ from a good one in a few fields."""

    def __init__(self, **settings: Any) -> None:
        self.model = Reference(**settings)
        self.told = 0
        self.offset = -1

    def send(self, topic: str, key: bytes | None = b"", value: bytes | None = None, **options: Any) -> str:
        self.offset += 1
        return self.model.feed(topic, 3, self.offset, NOON_MS + MONTH_MS, key, value, **options)

    def put(self, topic: str, take_mark: bool = True, **fields: Any) -> str:
        message = {**GOOD[topic], **fields}
        key = message["symbol" if topic == "prices" else "user_id"].encode()
        return self.send(topic, key, json.dumps(message).encode(), take_mark=take_mark)

    def fill(self, side: str, quantity: object, price: object, fee: object = "0", **fields: Any) -> str:
        fields = {"trade_id": f"t{self.offset + 1}", **fields}
        return self.put("trades", side=side, quantity=quantity, price=price, fee=fee, **fields)

    def mark(self, symbol: str, price: object, currency: str = "USD", as_of: str = NOON) -> str:
        return self.put("prices", symbol=symbol, price=price, currency=currency, as_of=as_of)

    def alerts(self) -> list[tuple[Any, ...]]:
        """(subject and number, severity, current value, limit, line) of the alerts since the last call."""
        fields = ("severity", "current_value", "limit_value", "threshold_percent")
        found = [(a["alert_id"].removeprefix("u/p/"), *(a[name] for name in fields)) for a in self.model.alerts]
        self.model.alerts.clear()
        return found

    def event(
        self, identity: str, kind: str, amount: object, status: str = "COMPLETED", **fields: Any
    ) -> str | tuple[Any, ...]:
        """What became of a wallet event; of an applied one (status, code, available, locked) of its outcome."""
        result = self.put("transactions", transaction_id=identity, type=kind, amount=amount, status=status, **fields)
        if result != "applied":
            return result
        outcome = self.model.outcomes[-1]
        balance = outcome["balance"]
        return outcome["status"], outcome["code"], balance["available"], balance["locked"]

    def postings(self) -> list[tuple[str, str, str]]:
        """Those of the last outcome."""
        return [tuple(posting.values()) for posting in self.model.outcomes[-1]["postings"]]  # type: ignore[misc]

    def changes(self) -> list[tuple[str, ...]]:
        """(wallet, asset, available, locked) since the last call: of each outcome, and of what changed beside it."""
        names = ("wallet_id", "asset", "available", "locked")
        found = []
        for outcome in self.model.outcomes[self.told :]:
            beside = [each for each in self.model.balance_changes if each["cause"] == outcome["cause"]]
            found += [tuple(each[name] for name in names) for each in ({**outcome, **outcome["balance"]}, *beside)]
        self.told = len(self.model.outcomes)
        return found

    def wallets(self) -> dict[tuple[str, str], tuple[str, str]]:
        """(available, locked) of all balances of u."""
        return {(w, a): (b["available"], b["locked"]) for (_, w, a), b in self.model.balances.items()}

    def position(self, symbol: str = "AAPL") -> tuple[str | None, ...]:
        names = ("quantity", "cost_basis", "average_price", "realized_pnl", "fees")
        return tuple(self.model.positions["u", "p", symbol][name] for name in names)

    def update(self) -> dict[str, Any]:
        return self.model.update("u", "p")


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [(1, 2, 0), (3, 2, 2), (5, 2, 2), (-1, 2, 0), (-3, 2, -2), (-5, 2, -2), (2, 3, 1), (-2, 3, -1), (7, 7, 1)],
)
def test_halves_go_to_the_even_side(numerator: int, denominator: int, expected: int) -> None:
    assert divide(numerator, denominator) == expected


def test_plain_form() -> None:
    assert [plain(n) for n in (0, ONE * 3 // 2, -ONE // 4, 10 * ONE, 1)] == [
        "0",
        "1.5",
        "-0.25",
        "10",
        "0.000000000000000001",
    ]


def test_pairs() -> None:
    assert [quote_of(s) for s in ("EUR/USD", "AAPL", "A/B/C", "/USD", "EUR/")] == ["USD", None, None, None, None]


# ------------------------------------------------------------------------------------------ fills


def test_the_known_case(desk: Desk) -> None:
    for side, quantity, price in (
        ("BUY", 12, 100),
        ("BUY", 17, 99),
        ("SELL", 9, 101),
        ("SELL", 4, 105),
        ("BUY", 3, 103),
    ):
        assert desk.fill(side, quantity, price, f"{quantity * price}e-4") == "applied"
    # cost 2883 of 29; 9/29 of it released for 909, then 4/20 of what is left for 420; 309 added
    released_1 = 2883 * 9 * ONE // 29 + 1  # 894.7241379310344827586206…: up
    released_2 = divide((2883 * ONE - released_1) * 4, 20)
    cost = 2883 * ONE - released_1 - released_2 + 309 * ONE
    realized = (909 + 420) * ONE - released_1 - released_2
    assert desk.position() == ("19", plain(cost), plain(divide(cost, 19)), plain(realized), "0.4521")
    assert desk.position() == (
        "19",
        "1899.620689655172413793",
        "99.980036297640653358",
        "36.620689655172413793",
        "0.4521",
    )
    # no fraction of a cent is lost: what went in is what is there, less what was realised
    assert cost - realized == (1200 + 1683 - 909 - 420 + 309) * ONE


def test_a_fill_row(desk: Desk) -> None:
    desk.fill("BUY", "2.50", "10", "0.1", order_id="o1", executed_at="2026-03-02T13:00:00.1234567+01:00")
    assert desk.model.fills == [
        {
            **TRADE,
            "trade_id": "t0",
            "quantity": "2.5",
            "price": "10",
            "fee": "0.1",
            "executed_at": "2026-03-02T12:00:00.123456Z",
            "order_id": "o1",
            "broker": None,
            "asset_type": None,
            "notional": "25",
            "fill_realized_pnl": "0",
            "position_quantity": "2.5",
            "position_cost_basis": "25",
            "position_average_price": "10",
            "position_realized_pnl": "0",
            "position_fees": "0.1",
            "source_topic": "trades",
            "source_partition": 3,
            "source_offset": 0,
        }
    ]


def test_a_flip_opens_the_rest_at_the_fill_price(desk: Desk) -> None:
    desk.fill("BUY", 10, 100)
    desk.fill("SELL", 15, 110, "-0.5")
    assert desk.position() == ("-5", "-550", "110", "100", "-0.5")
    desk.fill("BUY", 7, 90)  # 5 close a short of 550 at 450; 2 open at 90
    assert desk.position() == ("2", "180", "90", "200", "-0.5")
    desk.fill("SELL", 2, 80)
    assert desk.position() == ("0", "0", None, "180", "-0.5")
    assert [f["fill_realized_pnl"] for f in desk.model.fills] == ["0", "100", "100", "-20"]


def test_partial_closes_round_half_to_even(desk: Desk) -> None:
    desk.fill("BUY", 2, "0.000000000000000001")  # cost 2 units
    desk.fill("BUY", 2, "0.000000000000000002")  # cost 6 units of 4
    desk.fill("SELL", 3, "0.000000000000000005")  # releases 4.5: to 4; proceeds 15
    assert desk.position()[:4] == (
        "1",
        "0.000000000000000002",
        "0.000000000000000002",
        "0.000000000000000011",
    )
    desk.fill("BUY", 3, "0.000000000000000004")  # cost 14 of 4
    desk.fill("SELL", 1, "0.000000000000000005")  # releases 3.5: to 4
    assert desk.position()[1] == "0.00000000000000001"


def test_the_notional_is_rounded_once_and_a_flip_shares_it(desk: Desk) -> None:
    desk.fill("BUY", "0.5", "0.000000000000000001")  # 0.5 units: to 0
    assert desk.position()[1] == "0"
    desk.fill("SELL", 2, "0.000000000000000003")  # 6 units; 0.5 closes at 1.5, to 2; the rest opens with 4
    assert desk.position() == ("-1.5", "-0.000000000000000004", "0.000000000000000003", "0.000000000000000002", "0")


# ----------------------------------------------------------------------------------- marks and FX


def test_without_a_price_the_mark_is_that_of_the_last_fill(desk: Desk) -> None:
    desk.fill("BUY", 10, 100, 1)
    desk.fill("SELL", 4, 90)
    assert desk.update() == {
        "user_id": "u",
        "portfolio_id": "p",
        "base_currency": "USD",
        "market_value": "540",
        "cost_basis": "600",
        "realized_pnl": "-40",
        "unrealized_pnl": "-60",
        "fees": "1",
        "total_pnl": "-101",
        "daily_pnl": "-101",
        "gross_exposure": "540",
        "open_positions": 1,
        "complete": True,
        "unpriced": [],
        "as_of": "2026-03-02T12:00:00.000000Z",
    }
    desk.mark("AAPL", 120)
    assert desk.update()["market_value"] == "720"


def test_a_mark_counts_only_when_it_is_taken(desk: Desk) -> None:
    desk.fill("BUY", 10, 100)
    assert desk.put("prices", take_mark=False, price=120) == "applied"
    assert desk.update()["market_value"] == "1000"
    desk.model.take_mark("AAPL")
    assert desk.update()["market_value"] == "1200"


def test_rates(desk: Desk) -> None:
    """Direct, by the inverse, through USD; each rounded on its own."""
    desk.fill("BUY", 3, 100, 1, currency="EUR")
    desk.fill("SELL", 1, 40, symbol="SONY", currency="JPY")
    assert desk.update()["unpriced"] == ["AAPL", "SONY"]
    assert (desk.update()["complete"], desk.update()["total_pnl"]) == (False, "0")
    desk.mark("USD/JPY", 150, "JPY")  # one JPY: 0.006666666666666667
    assert desk.update()["unpriced"] == ["AAPL"]
    assert desk.update()["market_value"] == "-0.26666666666666668"
    desk.mark("EUR/USD", "1.1", as_of="2026-03-02T12:30:00Z")
    update = desk.update()
    assert update["market_value"] == "329.73333333333333332"
    assert (update["fees"], update["complete"]) == ("1.1", True)
    assert update["gross_exposure"] == "330.26666666666666668"
    assert update["as_of"] == "2026-03-02T12:30:00.000000Z"
    desk.mark("JPY/USD", "0.01")  # a direct price goes before the inverse
    assert desk.update()["market_value"] == "329.6"


def test_a_rate_through_usd() -> None:
    desk = Desk(base_currency="EUR")
    desk.fill("BUY", 1, 1000, symbol="SONY", currency="JPY")
    desk.mark("USD/JPY", 150, "JPY")
    assert desk.update()["unpriced"] == ["SONY"]
    desk.mark("EUR/USD", "1.25")
    # 0.006666666666666667 · 0.8 = 0.0053333333333333336, at 18 decimals …334; of 1000
    assert desk.update()["market_value"] == "5.333333333333334"


def test_a_mark_in_another_currency_is_converted_first(desk: Desk) -> None:
    desk.fill("BUY", 3, 100)
    desk.mark("AAPL", 80, "EUR")
    assert desk.update()["unpriced"] == ["AAPL"]
    desk.mark("USD/EUR", 3, "EUR")  # one EUR: 0.333333333333333333 USD; mark 26.66666666666666664
    assert desk.update()["market_value"] == "79.99999999999999992"
    assert desk.update()["unrealized_pnl"] == "-220.00000000000000008"


def test_a_flat_position_needs_its_rate_too(desk: Desk) -> None:
    desk.fill("BUY", 1, 10, currency="EUR")
    desk.fill("SELL", 1, 12, currency="EUR")
    assert (desk.update()["unpriced"], desk.update()["open_positions"]) == (["AAPL"], 0)
    desk.mark("EUR/USD", 2)
    assert (desk.update()["total_pnl"], desk.update()["complete"]) == ("4", True)


def test_prices(desk: Desk) -> None:
    assert desk.mark("AAPL", 10) == "applied"
    assert desk.mark("AAPL", "10.0", as_of="2026-03-02T14:00:00+02:00") == "duplicate"
    assert desk.put("prices", price=10, bid="9.99") == "applied"
    assert desk.mark("AAPL", 11, as_of="2026-03-02T11:59:59.999999Z") == "ignored"
    assert desk.mark("AAPL", 11, "EUR") == "currency_mismatch"
    assert desk.mark("EUR/USD", 1, "EUR") == "currency_mismatch"
    assert [p["bid"] for p in desk.model.prices_accepted] == [None, "9.99"]


# ------------------------------------------------------------------------------------------ alerts


def test_levels_at_exactly_the_lines(desk: Desk) -> None:
    desk.put("risk_limits", max_position_size=1000)
    desk.fill("BUY", 10, "89.9999")
    assert desk.alerts() == []
    desk.mark("AAPL", 90)
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/1", "WARNING", "900", "1000", "90")]
    desk.mark("AAPL", 100)
    assert desk.alerts() == []
    desk.mark("AAPL", "100.000000000000000001")
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/2", "CRITICAL", "1000.00000000000000001", "1000", "100")]
    desk.mark("AAPL", 100)
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/3", "WARNING", "1000", "1000", "100")]
    desk.mark("AAPL", "89.999999999999999999")
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/4", "INFO", "899.99999999999999999", "1000", "90")]
    desk.mark("AAPL", 101)
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/5", "CRITICAL", "1010", "1000", "100")]
    desk.mark("AAPL", 1)
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/6", "INFO", "10", "1000", "90")]


def test_an_alert_whole(desk: Desk) -> None:
    desk.put("risk_limits", max_position_size="10")
    desk.fill("SELL", 1, 11, executed_at="2026-03-02T12:00:01.5Z")
    assert desk.model.alerts == [
        {
            "alert_id": "u/p/POSITION_LIMIT/AAPL/1",
            "user_id": "u",
            "portfolio_id": "p",
            "type": "POSITION_LIMIT",
            "severity": "CRITICAL",
            "symbol": "AAPL",
            "current_value": "11",
            "limit_value": "10",
            "threshold_percent": "100",
            "is_resolved": False,
            "action": "NONE",
            "created_at": "2026-03-02T12:00:01.500000Z",
            "cause": {"topic": "trades", "partition": 3, "offset": 1},
        }
    ]
    desk.mark("AAPL", 1, as_of="2026-03-02T12:00:00.25Z")
    resolved = desk.model.alerts[1]
    assert (resolved["severity"], resolved["is_resolved"]) == ("INFO", True)
    assert resolved["created_at"] == "2026-03-02T12:00:00.250000Z"
    assert resolved["cause"] == {"topic": "prices", "partition": 3, "offset": 2}


def test_several_alerts_come_in_the_order_of_the_table(desk: Desk) -> None:
    for symbol in ("b", "B", "a:"):
        desk.fill("BUY", 100, 1, 1000, symbol=symbol)
    assert desk.alerts() == []
    limits = dict.fromkeys(
        ("max_position_size", "max_portfolio_value", "max_total_loss", "max_daily_loss", "max_weekly_loss"), 50
    )
    desk.put("risk_limits", **limits, asset_limits={"b": 111, "B": None})
    assert desk.alerts() == [
        ("POSITION_LIMIT/B/1", "CRITICAL", "100", "50", "100"),
        ("POSITION_LIMIT/a:/1", "CRITICAL", "100", "50", "100"),
        ("POSITION_LIMIT/b/1", "WARNING", "100", "111", "90"),
        ("EXPOSURE_LIMIT/-/1", "CRITICAL", "300", "50", "100"),
        ("LOSS_LIMIT/total/1", "CRITICAL", "3000", "50", "100"),
        ("LOSS_LIMIT/daily/1", "CRITICAL", "3000", "50", "100"),
        ("LOSS_LIMIT/weekly/1", "CRITICAL", "3000", "50", "100"),
    ]
    desk.put("risk_limits", version=2, **limits, active=False)
    assert [alert[1:4] for alert in desk.alerts()] == [
        *[("INFO", "100", None)] * 3,
        ("INFO", "300", None),
        *[("INFO", "3000", None)] * 3,
    ]


def test_limits_have_versions(desk: Desk) -> None:
    assert desk.put("risk_limits", version=5) == "applied"
    assert desk.put("risk_limits", version=5, max_position_size=1) == "ignored"
    assert desk.put("risk_limits", version=4, max_position_size=1) == "ignored"
    assert desk.put("risk_limits", version=6, max_position_size=1) == "applied"


def test_an_fx_mark_judges_the_portfolio_but_no_position(desk: Desk) -> None:
    desk.mark("EUR/USD", 1)
    desk.put("risk_limits", max_position_size=100, max_portfolio_value=100)
    desk.fill("BUY", 1, 80, currency="EUR")
    desk.mark("EUR/USD", 2)
    assert desk.alerts() == [("EXPOSURE_LIMIT/-/1", "CRITICAL", "160", "100", "100")]
    desk.mark("AAPL", 80, "EUR")
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/1", "CRITICAL", "160", "100", "100")]


def test_a_holding_of_the_pair_itself_is_judged(desk: Desk) -> None:
    desk.put("risk_limits", max_position_size=100)
    desk.fill("BUY", 50, 1, symbol="EUR/USD")
    desk.mark("EUR/USD", 3)
    assert desk.alerts() == [("POSITION_LIMIT/EUR/USD/1", "CRITICAL", "150", "100", "100")]


def test_while_incomplete_portfolio_rules_only_rise(desk: Desk) -> None:
    desk.put("risk_limits", max_portfolio_value=100, max_position_size=100)
    desk.fill("BUY", 1, 200)
    desk.alerts()
    desk.fill("BUY", 1, 1, symbol="SAP", currency="EUR")  # not priced, so not judged
    assert desk.alerts() == []
    desk.mark("AAPL", 10)  # the position is priced and judged; the exposure of 10 is not the whole
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/2", "INFO", "10", "100", "90")]
    desk.mark("EUR/USD", 2)
    assert desk.alerts() == [("EXPOSURE_LIMIT/-/2", "INFO", "12", "100", "90")]


def test_an_unpriced_position_keeps_its_level_until_its_limit_goes(desk: Desk) -> None:
    desk.put("risk_limits", max_position_size=100)
    desk.fill("BUY", 1, 200)
    desk.alerts()
    desk.mark("AAPL", 1, "EUR")
    desk.put("risk_limits", version=2, max_position_size=1000)
    assert desk.alerts() == []
    desk.put("risk_limits", version=3)
    assert desk.alerts() == [("POSITION_LIMIT/AAPL/2", "INFO", "0", None, "90")]


def test_days_and_weeks_turn_before_the_message_counts(desk: Desk) -> None:
    desk.put("risk_limits", max_daily_loss=100, max_weekly_loss=100, max_total_loss=1000)
    desk.fill("BUY", 1, 1000)
    desk.mark("AAPL", 905)
    assert [a[:3] for a in desk.alerts()] == [
        ("LOSS_LIMIT/daily/1", "WARNING", "95"),
        ("LOSS_LIMIT/weekly/1", "WARNING", "95"),
    ]
    desk.mark("AAPL", 900, as_of="2026-03-03T00:00:00Z")  # Tuesday: the day starts at −95
    assert desk.update()["daily_pnl"] == "-5"
    assert [a[:3] for a in desk.alerts()] == [("LOSS_LIMIT/daily/2", "INFO", "5")]
    desk.fill("BUY", 1, 900, executed_at="2026-03-02T23:59:59Z")  # late: the day doesn't turn back
    assert desk.update()["daily_pnl"] == "-5"
    desk.fill("SELL", 1, 800, 3, executed_at="2026-03-09T00:00:00Z")  # Monday: day and week start at −100
    # sold at 800 what cost 950, and the mark of the other is 900: −150 − 50 − 3
    assert (desk.update()["total_pnl"], desk.update()["daily_pnl"]) == ("-203", "-103")
    assert [a[:3] for a in desk.alerts()] == [
        ("LOSS_LIMIT/daily/3", "CRITICAL", "103"),
        ("LOSS_LIMIT/weekly/2", "CRITICAL", "103"),
    ]


def test_a_mark_turns_the_day_of_holders_only(desk: Desk) -> None:
    desk.fill("BUY", 1, 10)
    desk.fill("SELL", 1, 15)
    desk.mark("AAPL", 20, as_of="2026-03-03T00:00:00Z")
    assert desk.update()["daily_pnl"] == "5"
    desk.put("risk_limits", updated_at="2026-03-03T00:00:00Z")
    assert desk.update()["daily_pnl"] == "0"


# ----------------------------------------------------------------------------------------- bounds


def test_amounts_that_reach_the_bound_are_refused(desk: Desk) -> None:
    assert desk.fill("BUY", "1e10", "99999999999999999999e-10") == "applied"
    assert desk.fill("BUY", "1e10", "1e10") == "out_of_range"  # its notional
    assert desk.fill("BUY", "1", "1") == "out_of_range"  # the cost basis after it
    assert desk.fill("SELL", "1", "1", "-99999999999999999999") == "applied"
    assert desk.fill("SELL", "1", "1", "-1") == "out_of_range"  # the fees after it
    assert desk.position()[0] == "9999999999"


def test_a_valuation_that_reaches_the_bound_is_unpriced(desk: Desk) -> None:
    desk.put("risk_limits", max_position_size=1)
    desk.fill("BUY", 10, 1)
    desk.fill("BUY", 5, 1, symbol="SAP")
    desk.alerts()
    desk.mark("AAPL", "1e19")
    assert (desk.update()["unpriced"], desk.update()["market_value"]) == (["AAPL"], "5")
    desk.mark("AAPL", "9e18")
    desk.mark("SAP", "1e19")  # each below the bound, their sum not: nothing is priced
    assert (desk.update()["unpriced"], desk.update()["gross_exposure"]) == (["AAPL", "SAP"], "0")
    assert desk.alerts() == []
    desk.mark("SAP", "1")
    assert desk.update()["market_value"] == "90000000000000000005"
    assert times(BOUND - 1, ONE) == BOUND - 1


# ---------------------------------------------------------------------------- what is not accepted


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" ",
        b"x",
        b"[]",
        b"null",
        b"1",
        b'"a"',
        b"{} {}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\n"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"a":' + b"[" * 100_000,
        bytes(range(256)) * 4096,
    ],
)
def test_malformed(desk: Desk, value: bytes | None) -> None:
    assert desk.send("trades", b"u", value) == "malformed"


def test_nesting_of_64_is_fine(desk: Desk) -> None:
    value = json.dumps(TRADE).encode()[:-1] + b',"a":' + b"[" * 63 + b"]" * 63 + b',"b":"[[["}'
    assert desk.send("trades", b"u", value) == "applied"


@pytest.mark.parametrize("topic", GOOD)
def test_every_required_field_is_required(topic: str) -> None:
    for name in GOOD[topic]:
        for message in ({k: v for k, v in GOOD[topic].items() if k != name}, {**GOOD[topic], name: None}):
            desk = Desk()
            assert desk.send(topic, b"u", json.dumps(message).encode()) == "invalid"
            assert desk.model.details[f"{topic}-3-0"].startswith(f"{name}:")
    assert Desk().put(topic) == "applied"


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        *(("trades", {"trade_id": v}) for v in ("", "a b", "a'b", "a\n", "ä", "a" * 65, 1, True, [])),
        *(("trades", {"symbol": v}) for v in ("", "A B", "A" * 33, 1)),
        *(("trades", {"quantity": v}) for v in ("0", "-1", "", "x", " 1", "1_0", "٣", "1e12345", True)),
        *(("trades", {"quantity": v}) for v in ("+", ".", "1e", "0x1", "NaN", "-0", "0e9", "1" * 65, {})),
        ("trades", {"price": "-1e30"}),
        *(("trades", {"side": v}) for v in ("buy", "", 1)),
        ("trades", {"asset_type": "BOND"}),
        ("trades", {"broker": "b" * 1025}),
        *(
            ("trades", {"executed_at": v})
            for v in (
                "2026-03-02T12:00:00",
                "2026-03-02 12:00:00Z",
                "2026-02-29T12:00:00Z",
                "2026-03-02T24:00:00Z",
                "2026-03-02T23:59:60Z",
                "2026-03-02T12:00:00.Z",
                "2026-03-02T12:00:00+24:00",
                "2026-03-02T12:00:00+0100",
                "1970-01-01T00:00:00+00:01",
                "2300-01-01T00:00:00Z",
                "9999-01-01T00:00:00Z",
                "2026-03-02",
                1772442000,
            )
        ),
        *(("risk_limits", {"version": v}) for v in ("1", 1.5, 1.0, True, 2**63)),
        *(("risk_limits", {"active": v}) for v in ("true", 1)),
        *(("risk_limits", {"max_volatility": v}) for v in (0, "-1", "x")),
        *(("risk_limits", {"asset_limits": v}) for v in ([], {"A": 0}, {"A B": 1})),
        *(("transactions", {"amount": v}) for v in (0, -1)),
        ("transactions", {"type": "ADJUSTMENT", "amount": 0}),
        *(("transactions", {"fee": v}) for v in (-1, "100.01")),
        ("transactions", {"type": "GIFT"}),
        ("transactions", {"status": "DONE"}),
        ("transactions", {"counterparty": {"user_id": "v"}}),
        ("transactions", {"metadata": {"a": 1}}),
        ("prices", {"price": 0}),
    ],
)
def test_invalid(desk: Desk, topic: str, fields: dict[str, Any]) -> None:
    assert desk.put(topic, **{"symbol": "AAPL", **fields}) == "invalid"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.", "1"),
        (".5", "0.5"),
        ("+1e-18", "0.000000000000000001"),
        ("0.01E4", "100"),
        ("1" + "0" * 59 + "e-57", "100"),
    ],
)
def test_decimals(desk: Desk, text: str, value: str) -> None:
    assert desk.put("trades", quantity=text) == "applied"
    assert desk.position()[0] == value


def test_the_future_is_bounded_by_the_kafka_timestamp() -> None:
    model = Reference(max_future_skew_s=10)
    for second, expected in (("10", "applied"), ("10.0000009", "applied"), ("10.000001", "invalid")):
        message = {**TRADE, "trade_id": second, "executed_at": f"2026-03-02T12:00:{second}Z"}
        assert model.feed("trades", 0, 0, NOON_MS, b"u", json.dumps(message).encode()) == expected
    message = {**TRANSACTION, "expires_at": "2299-12-31T23:59:59.999999Z"}
    assert model.feed("transactions", 0, 0, NOON_MS, b"u", json.dumps(message).encode()) == "applied"


def test_the_first_reason_counts(desk: Desk) -> None:
    desk.fill("BUY", 1, 1, trade_id="t")
    wrong = {"quantity": "1e19", "price": "1e19", "currency": "EUR"}
    assert desk.put("trades", **wrong, side="x") == "invalid"
    value = json.dumps({**TRADE, **wrong}).encode()
    assert desk.send("trades", b"v", value) == "out_of_range"
    assert desk.send("trades", None, json.dumps({**TRADE, "currency": "EUR"}).encode()) == "key_mismatch"
    assert desk.put("trades", currency="EUR") == "conflict"
    assert desk.put("trades", trade_id="t2", currency="EUR") == "currency_mismatch"
    assert desk.put("trades", quantity="99999999999999999999") == "out_of_range"
    assert desk.put("transactions", type="CONVERSION", amount="1e30", to_asset="EUR") == "out_of_range"
    assert desk.put("transactions", type="HOLD", amount="1e30") == "out_of_range"
    assert desk.put("transactions", type="WITHDRAWAL", amount="6e19", fee="4e19") == "out_of_range"
    letter = desk.model.dead_letters[1]
    assert letter == {
        "dead_letter_id": "trades-3-2",
        "topic": "trades",
        "partition": 3,
        "offset": 2,
        "key": b64encode(b"v").decode(),
        "value": b64encode(value).decode(),
        "reason": "out_of_range",
    }
    assert desk.model.dead_letters[2]["key"] is None
    assert len(desk.model.fills) == 1
    assert desk.model.counts["trades", "applied"] == 1
    assert desk.model.counts["trades", "conflict"] == 1


def test_duplicates_are_told_by_meaning(desk: Desk) -> None:
    assert desk.put("trades", quantity="1.50") == "applied"
    same = {"quantity": 15e-1, "fee": "-0", "order_id": None, "executed_at": "2026-03-02T13:00:00.0000001+01:00"}
    assert desk.put("trades", **same, unknown=[1]) == "duplicate"
    assert desk.put("trades", quantity="1.51") == "conflict"
    assert desk.put("trades", quantity="1.5", order_id="o") == "conflict"
    assert desk.put("trades", quantity="1.5", user_id="v") == "applied"
    assert desk.put("transactions") == "applied"
    assert desk.put("transactions", metadata={}, fee=0) == "duplicate"
    assert desk.put("transactions", metadata={"a": "b"}) == "conflict"


def test_a_rejected_id_is_not_remembered(desk: Desk) -> None:
    assert desk.put("trades", quantity="1e20") == "out_of_range"
    assert desk.put("trades") == "applied"


def test_ids_are_remembered_per_topic_and_partition_up_to_the_memory() -> None:
    desk = Desk(id_memory=2)
    assert [desk.put("trades", trade_id=each) for each in "abab"] == ["applied", "applied", "duplicate", "duplicate"]
    assert desk.put("transactions", transaction_id="a") == "applied"
    assert [desk.put("trades", trade_id=each) for each in "cba"] == [
        "applied",
        "duplicate",
        "applied",
    ]  # a was forgotten
    assert desk.put("trades", trade_id="c", quantity="2") == "conflict"
    trade = json.dumps({**TRADE, "trade_id": "c"}).encode()
    assert desk.model.feed("trades", 4, 0, NOON_MS + MONTH_MS, b"u", trade) == "applied"


def test_portfolios_may_be_valued_at_the_end() -> None:
    one, two = Desk(), Desk(judging=False)
    for desk in (one, two):
        desk.put("prices", price="3")
        desk.put("risk_limits", max_portfolio_value="1")
        desk.put("trades")
    assert [a["severity"] for a in one.model.alerts] == ["CRITICAL"]
    assert two.model.alerts == []
    assert two.model.portfolios["u", "p"].gross_exposure == 0
    two.model.value_all()
    assert two.model.update("u", "p") == one.model.update("u", "p")
    assert two.model.portfolios["u", "p"].gross_exposure == 3 * ONE


def test_the_last_of_a_repeated_key_counts(desk: Desk) -> None:
    desk.send("trades", b"u", json.dumps(TRADE).encode()[:-1] + b',"quantity":7}')
    assert desk.position()[0] == "7"


# ----------------------------------------------------------------------------------------- wallets


def test_wallets(desk: Desk) -> None:
    desk.put("transactions", amount="100", fee="1.5", payment_method="card")
    desk.put("transactions", transaction_id="x2", type="WITHDRAWAL", amount="98", fee="0.6")
    desk.put("transactions", transaction_id="x3", type="WITHDRAWAL", amount="98", fee="0.5")
    desk.put("transactions", transaction_id="x4", type="FEE", amount="0.000001", fee="7")
    desk.put("transactions", transaction_id="x5", amount="5", fee="5", asset="EUR")
    desk.put("transactions", transaction_id="x6", type="FEE", amount="1", wallet_id="w2")
    assert [(o["status"], o["code"], o["balance"]["total"]) for o in desk.model.outcomes] == [
        ("COMPLETED", None, "98.5"),
        ("FAILED", "INSUFFICIENT_FUNDS", "98.5"),
        ("COMPLETED", None, "0"),
        ("FAILED", "INSUFFICIENT_FUNDS", "0"),
        ("COMPLETED", None, "0"),
        ("FAILED", "INSUFFICIENT_FUNDS", "0"),
    ]
    assert [[(p["account"], p["amount"]) for p in o["postings"]] for o in desk.model.outcomes] == [
        [("wallet:u/w", "98.5"), ("fees", "1.5"), ("external:card", "-100")],
        [],
        [("wallet:u/w", "-98.5"), ("fees", "0.5"), ("external:unspecified", "98")],
        [],
        [("fees", "5"), ("external:unspecified", "-5")],
        [],
    ]
    assert desk.model.outcomes[0] == {
        "transaction_id": "x",
        "user_id": "u",
        "wallet_id": "w",
        "type": "DEPOSIT",
        "asset": "USD",
        "amount": "100",
        "fee": "1.5",
        "status": "COMPLETED",
        "code": None,
        "balance": {"total": "98.5", "available": "98.5", "locked": "0"},
        "postings": [
            {"account": "wallet:u/w", "asset": "USD", "amount": "98.5"},
            {"account": "fees", "asset": "USD", "amount": "1.5"},
            {"account": "external:card", "asset": "USD", "amount": "-100"},
        ],
        "occurred_at": "2026-03-02T12:00:00.000000Z",
        "journal": 1,
        "cause": {"topic": "transactions", "partition": 3, "offset": 0},
    }
    assert desk.model.balances["u", "w", "USD"] == {"total": "0", "available": "0", "locked": "0"}
    assert desk.put("transactions", transaction_id="x2", type="WITHDRAWAL", amount="98", fee="0.6") == "duplicate"


def test_a_balance_that_reaches_the_bound_is_refused(desk: Desk) -> None:
    assert desk.put("transactions", amount="99999999999999999999") == "applied"
    assert desk.put("transactions", transaction_id="x2", amount="1") == "out_of_range"
    assert desk.put("transactions", transaction_id="x3", amount="1.5", fee="0.6") == "applied"


DONE, FUNDS = ("COMPLETED", None), ("FAILED", "INSUFFICIENT_FUNDS")
TO_W2 = {"counterparty": {"user_id": "u", "wallet_id": "w2"}}
TO_ITSELF = {"counterparty": {"user_id": "u", "wallet_id": "w"}}
TO_EUR = {"to_asset": "EUR", "rate": "0.5"}
SIGNED = {"description": "d", "authorized_by": "a"}
#: a good event of every type, that takes 10, or 11 with the fee
EVENTS: dict[str, dict[str, Any]] = {
    "DEPOSIT": {"fee": 1},
    "WITHDRAWAL": {"fee": 1},
    "TRANSFER": {"fee": 1, **TO_W2},
    "CONVERSION": {"fee": 1, **TO_EUR},
    "FEE": {"fee": 1},
    "DIVIDEND": {"fee": 1},
    "INTEREST": {"fee": 1},
    "ADJUSTMENT": {"fee": 1, **SIGNED},
    "HOLD": {"fee": 1},
    "REVERSAL": {"fee": 1, "reverses": "0"},
}
OWN, OUTSIDE = "wallet:u/w", "external:unspecified"


@pytest.fixture
def funded(desk: Desk) -> Desk:
    """100 USD in w, by deposit 0."""
    assert desk.event("0", "DEPOSIT", 100) == (*DONE, "100", "0")
    desk.changes()
    return desk


@pytest.mark.parametrize(
    ("kind", "available", "postings", "changes"),
    [
        (
            "DEPOSIT",
            "109",
            [(OWN, "USD", "9"), ("fees", "USD", "1"), (OUTSIDE, "USD", "-10")],
            [("w", "USD", "109", "0")],
        ),
        (
            "WITHDRAWAL",
            "89",
            [(OWN, "USD", "-11"), ("fees", "USD", "1"), (OUTSIDE, "USD", "10")],
            [("w", "USD", "89", "0")],
        ),
        (
            "TRANSFER",
            "89",
            [(OWN, "USD", "-11"), ("fees", "USD", "1"), ("wallet:u/w2", "USD", "10")],
            [("w", "USD", "89", "0"), ("w2", "USD", "10", "0")],
        ),
        (
            "CONVERSION",
            "89",
            [
                (OWN, "USD", "-11"),
                ("fees", "USD", "1"),
                ("exchange", "USD", "10"),
                (OWN, "EUR", "5"),
                ("exchange", "EUR", "-5"),
            ],
            [("w", "USD", "89", "0"), ("w", "EUR", "5", "0")],
        ),
        ("FEE", "90", [(OWN, "USD", "-10"), ("fees", "USD", "10")], [("w", "USD", "90", "0")]),
        ("DIVIDEND", "110", [(OWN, "USD", "10"), ("income", "USD", "-10")], [("w", "USD", "110", "0")]),
        ("INTEREST", "110", [(OWN, "USD", "10"), ("income", "USD", "-10")], [("w", "USD", "110", "0")]),
        ("ADJUSTMENT", "110", [(OWN, "USD", "10"), ("adjustments", "USD", "-10")], [("w", "USD", "110", "0")]),
        ("HOLD", "100", [], [("w", "USD", "100", "0")]),
    ],
)
def test_every_type_completed_and_then_reversed(
    funded: Desk, kind: str, available: str, postings: list[Any], changes: list[Any]
) -> None:
    assert funded.event("1", kind, 10, **EVENTS[kind]) == (*DONE, available, "0")
    assert funded.postings() == postings
    assert funded.changes() == changes
    # the fee comes back too; one of the reversal itself is not booked
    assert funded.event("2", "REVERSAL", 10, reverses="1", fee=7) == (*DONE, "100", "0")
    opposite = [(*leg, amount[1:] if amount.startswith("-") else f"-{amount}") for *leg, amount in postings]
    assert funded.postings() == opposite
    other = {"TRANSFER": [("w2", "USD", "0", "0")], "CONVERSION": [("w", "EUR", "0", "0")]}
    assert funded.changes() == [("w", "USD", "100", "0"), *other.get(kind, [])]
    assert funded.event("3", "REVERSAL", 10, reverses="1") == ("FAILED", "ALREADY_REVERSED", "100", "0")
    assert funded.event("4", "REVERSAL", 10, reverses="2") == ("FAILED", "UNKNOWN_REFERENCE", "100", "0")


def test_what_an_outcome_and_a_balance_change_say(funded: Desk) -> None:
    funded.event("1", "TRANSFER", 10, "PENDING", **TO_W2, fee="0.5")
    cause = {"topic": "transactions", "partition": 3, "offset": 1}
    outcome = funded.model.outcomes[-1]
    assert outcome == {
        "transaction_id": "1",
        "user_id": "u",
        "wallet_id": "w",
        "type": "TRANSFER",
        "asset": "USD",
        "amount": "10",
        "fee": "0.5",
        "status": "PENDING",
        "code": None,
        "balance": {"total": "100", "available": "89.5", "locked": "10.5"},
        "postings": [],
        "occurred_at": "2026-03-02T12:00:00.000000Z",
        "journal": 2,
        "cause": cause,
    }
    assert funded.model.balance_changes == []
    funded.event("1", "TRANSFER", 10, **TO_W2, fee="0.5")
    cause["offset"] = 2
    assert funded.model.balance_changes == [
        {
            "user_id": "u",
            "wallet_id": "w2",
            "asset": "USD",
            "total": "10",
            "available": "10",
            "locked": "0",
            "sequence": 1,
            "transaction_id": "1",
            "occurred_at": "2026-03-02T12:00:00.000000Z",
            "cause": cause,
        }
    ]


@pytest.mark.parametrize(("kind", "locked"), [("WITHDRAWAL", 11), ("TRANSFER", 11), ("CONVERSION", 11), ("HOLD", 10)])
@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("before", [("PENDING",), ("PROCESSING",), ("PENDING", "PROCESSING")])
def test_what_locks(funded: Desk, kind: str, locked: int, end: str, before: tuple[str, ...]) -> None:
    for status in before:
        assert funded.event("1", kind, 10, status, **EVENTS[kind]) == (status, None, str(100 - locked), str(locked))
        assert funded.postings() == []
    spent = 11 if end == "COMPLETED" and kind != "HOLD" else 0
    assert funded.event("1", kind, 10, end, **EVENTS[kind]) == (end, None, str(100 - spent), "0")
    assert len(funded.postings()) == {"WITHDRAWAL": 3, "TRANSFER": 3, "CONVERSION": 5}.get(kind if spent else "", 0)
    assert (("w2", "USD") in funded.wallets()) == (kind == "TRANSFER" and end == "COMPLETED")
    assert (("w", "EUR") in funded.wallets()) == (kind == "CONVERSION" and end == "COMPLETED")


@pytest.mark.parametrize("kind", ["DEPOSIT", "FEE", "DIVIDEND", "INTEREST", "ADJUSTMENT", "REVERSAL"])
def test_what_locks_nothing(funded: Desk, kind: str) -> None:
    for amount, final in ((1000, "FAILED"), (1000, "CANCELLED")):
        for status in ("PENDING", "PROCESSING", final):
            expected = (status, None, "100", "0")
            assert funded.event(final, kind, amount, status, **EVENTS[kind]) == expected
            assert (funded.postings(), funded.changes()) == ([], [("w", "USD", "100", "0")])


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_what_was_never_pending_and_fails_moves_nothing(funded: Desk, kind: str, status: str) -> None:
    assert funded.event("1", kind, 10, status, **EVENTS[kind]) == (status, None, "100", "0")
    assert (funded.postings(), funded.changes()) == ([], [("w", "USD", "100", "0")])
    assert funded.event("2", "REVERSAL", 10, reverses="1") == ("FAILED", "UNKNOWN_REFERENCE", "100", "0")


@pytest.mark.parametrize(
    ("kind", "status", "amount"),
    [
        *(
            (kind, status, "99.1")
            for kind in ("WITHDRAWAL", "TRANSFER", "CONVERSION")
            for status in ("PENDING", "COMPLETED")
        ),
        ("HOLD", "PROCESSING", "100.1"),
        ("FEE", "COMPLETED", "100.1"),
        ("ADJUSTMENT", "COMPLETED", "-100.1"),
    ],
)
def test_more_than_there_is_is_refused_for_good(funded: Desk, kind: str, status: str, amount: str) -> None:
    fields = EVENTS[kind]
    assert funded.event("1", kind, amount, status, **fields) == (*FUNDS, "100", "0")
    assert (funded.postings(), funded.changes()) == ([], [("w", "USD", "100", "0")])
    funded.event("2", "DEPOSIT", 900)
    assert funded.event("1", kind, amount, status, **fields) == "duplicate"
    assert funded.event("1", kind, amount, "FAILED", **fields) == "illegal_transition"
    assert funded.event("1", kind, amount, status, **{**fields, "description": "other"}) == "conflict"
    if status != "COMPLETED":
        assert funded.event("1", kind, amount, "COMPLETED", **fields) == "illegal_transition"
    reversal = {"reverses": "1"}
    amount = amount.lstrip("-")
    assert funded.event("3", "REVERSAL", amount, **reversal) == ("FAILED", "UNKNOWN_REFERENCE", "1000", "0")
    assert funded.wallets() == {("w", "USD"): ("1000", "0")}


@pytest.mark.parametrize(
    ("kind", "amount"),
    [("WITHDRAWAL", "99"), ("TRANSFER", "99"), ("CONVERSION", "99"), ("FEE", "100"), ("ADJUSTMENT", "-100")],
)
def test_all_there_is_can_be_taken(funded: Desk, kind: str, amount: str) -> None:
    assert funded.event("1", kind, amount, **EVENTS[kind]) == (*DONE, "0", "0")


def test_what_is_locked_is_not_available_but_its_own_transaction_takes_it(funded: Desk) -> None:
    assert funded.event("1", "WITHDRAWAL", 60, "PENDING") == ("PENDING", None, "40", "60")
    assert funded.event("2", "FEE", 41) == (*FUNDS, "40", "60")
    assert funded.event("3", "HOLD", 40, "PROCESSING") == ("PROCESSING", None, "0", "100")
    assert funded.event("1", "WITHDRAWAL", 60) == (*DONE, "0", "40")
    assert funded.event("3", "HOLD", 40, "CANCELLED") == ("CANCELLED", None, "40", "0")


def test_an_adjustment_goes_both_ways_and_back(funded: Desk) -> None:
    assert funded.event("1", "ADJUSTMENT", -30, **SIGNED) == (*DONE, "70", "0")
    assert funded.postings() == [(OWN, "USD", "-30"), ("adjustments", "USD", "30")]
    assert funded.event("2", "REVERSAL", 30, reverses="1") == (*DONE, "100", "0")
    assert funded.postings() == [(OWN, "USD", "30"), ("adjustments", "USD", "-30")]


def test_a_transfer_to_itself_is_booked_literally(funded: Desk) -> None:
    assert funded.event("1", "TRANSFER", "99.5", **TO_ITSELF, fee="0.5") == (*DONE, "99.5", "0")
    postings = [(OWN, "USD", "-100"), ("fees", "USD", "0.5"), (OWN, "USD", "99.5")]
    assert (funded.postings(), funded.changes()) == (postings, [("w", "USD", "99.5", "0")])
    assert funded.event("2", "TRANSFER", "99.5", **TO_ITSELF, fee="0.5") == (*FUNDS, "99.5", "0")
    assert funded.event("3", "TRANSFER", 90, "PENDING", **TO_ITSELF, fee=1) == ("PENDING", None, "8.5", "91")
    assert funded.event("3", "TRANSFER", 90, **TO_ITSELF, fee=1) == (*DONE, "98.5", "0")
    assert funded.event("4", "REVERSAL", 90, reverses="3") == (*DONE, "99.5", "0")
    assert funded.postings() == [(OWN, "USD", "91"), ("fees", "USD", "-1"), (OWN, "USD", "-90")]


def test_a_conversion_into_the_same_asset_is_booked_literally(funded: Desk) -> None:
    fields = {"to_asset": "USD", "rate": "1.5", "fee": 1}
    assert funded.event("1", "CONVERSION", 50, **fields) == (*DONE, "124", "0")
    assert funded.postings() == [
        (OWN, "USD", "-51"),
        ("fees", "USD", "1"),
        ("exchange", "USD", "50"),
        (OWN, "USD", "75"),
        ("exchange", "USD", "-75"),
    ]
    assert funded.changes() == [("w", "USD", "124", "0")]
    assert funded.event("2", "REVERSAL", 50, reverses="1") == (*DONE, "100", "0")


@pytest.mark.parametrize(
    ("amount", "rate", "arrives"),
    [
        ("0.000000000000000001", "0.5", None),  # half of the last digit goes to the even side, 0
        ("0.000000000000000003", "0.5", "0.000000000000000002"),
        ("0.000000000000000005", "0.5", "0.000000000000000002"),
        ("0.000000000000000001", "0.500000000000000001", "0.000000000000000001"),
        ("10", "0.333333333333333333", "3.33333333333333333"),
        ("3", "1.25", "3.75"),
    ],
)
def test_what_arrives_is_rounded_once_half_to_even(funded: Desk, amount: str, rate: str, arrives: str | None) -> None:
    funded.event("1", "CONVERSION", amount, to_asset="EUR", rate=rate)
    legs = [(OWN, "EUR", arrives), ("exchange", "EUR", f"-{arrives}")] if arrives else []
    assert funded.postings() == [(OWN, "USD", f"-{amount}"), ("exchange", "USD", amount), *legs]
    assert [change[1] for change in funded.changes()] == (["USD", "EUR"] if arrives else ["USD"])
    assert funded.wallets().get(("w", "EUR")) == ((arrives, "0") if arrives else None)
    assert funded.event("2", "REVERSAL", amount, reverses="1") == (*DONE, "100", "0")
    assert len(funded.postings()) == 2 + len(legs)


def test_a_deposit_that_is_all_fee_and_back(funded: Desk) -> None:
    assert funded.event("1", "DEPOSIT", 5, fee=5) == (*DONE, "100", "0")
    assert funded.postings() == [("fees", "USD", "5"), (OUTSIDE, "USD", "-5")]
    assert funded.event("2", "REVERSAL", 5, reverses="1") == (*DONE, "100", "0")
    assert funded.postings() == [("fees", "USD", "-5"), (OUTSIDE, "USD", "5")]


def test_payment_methods(funded: Desk) -> None:
    assert funded.event("1", "DEPOSIT", 1, "PENDING", payment_method="wire")[0] == "PENDING"
    for number, (given, account) in enumerate((("", "external:"), ("ä b", "external:ä b"), (None, OUTSIDE))):
        funded.event(f"d{number}", "DEPOSIT", 1, payment_method=given)
        assert funded.postings()[-1] == (account, "USD", "-1")
        funded.event(f"r{number}", "REVERSAL", 1, reverses=f"d{number}", payment_method="other")
        assert funded.postings()[-1] == (account, "USD", "1")
    funded.event("1", "DEPOSIT", 1, payment_method="card")  # it is no term: that of COMPLETED counts
    assert funded.postings()[-1] == ("external:card", "USD", "-1")
    funded.event("2", "REVERSAL", 1, reverses="1")
    assert funded.postings()[-1] == ("external:card", "USD", "1")


# -------------------------------------------------------------------------------------- reversals


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"reverses": "x"}, "UNKNOWN_REFERENCE"),
        ({"reverses": "r"}, "UNKNOWN_REFERENCE"),  # itself
        ({"reverses": "pending"}, "UNKNOWN_REFERENCE"),
        ({"reverses": "failed"}, "UNKNOWN_REFERENCE"),
        ({"reverses": "refused"}, "UNKNOWN_REFERENCE"),
        ({"reverses": "reversal"}, "UNKNOWN_REFERENCE"),
        ({"reverses": "reversed"}, "ALREADY_REVERSED"),
        ({"reverses": "reversed", "amount": 1}, "ALREADY_REVERSED"),
        ({"amount": 99}, "NOT_ALLOWED"),
        ({"asset": "EUR"}, "NOT_ALLOWED"),
        ({"wallet_id": "w2"}, "NOT_ALLOWED"),
        ({"user_id": "v"}, "UNKNOWN_REFERENCE"),
    ],
)
def test_what_can_not_be_reversed(funded: Desk, fields: dict[str, Any], code: str) -> None:
    funded.event("pending", "DEPOSIT", 100, "PENDING")
    funded.event("failed", "DEPOSIT", 100, "FAILED")
    funded.event("refused", "FEE", 100.5)
    funded.event("reversed", "DEPOSIT", 2)
    funded.event("reversal", "REVERSAL", 2, reverses="reversed")
    # every reason speaks against one that has another before it
    funded.event("spent", "WITHDRAWAL", 100)
    event = {"amount": 100, "reverses": "0", **fields}
    where = (event.get("user_id", "u"), event.get("wallet_id", "w"), event.get("asset", "USD"))
    assert funded.event("r", "REVERSAL", event.pop("amount"), **event) == ("FAILED", code, "0", "0")
    assert funded.postings() == []
    assert funded.model.balances[where] == {"total": "0", "available": "0", "locked": "0"}  # opened, too
    assert funded.event("r2", "REVERSAL", 100, reverses="0") == (*FUNDS, "0", "0")


def test_a_refused_reversal_is_final_and_another_may_try_again(funded: Desk) -> None:
    funded.event("1", "WITHDRAWAL", 30)
    assert funded.event("2", "REVERSAL", 100, reverses="0") == (*FUNDS, "70", "0")
    funded.event("3", "DEPOSIT", 30)
    assert funded.event("2", "REVERSAL", 100, reverses="0") == "duplicate"
    assert funded.event("2", "REVERSAL", 100, "CANCELLED", reverses="0") == "illegal_transition"
    assert funded.event("4", "REVERSAL", 100, "PENDING", reverses="0") == ("PENDING", None, "100", "0")
    assert funded.event("4", "REVERSAL", 100, reverses="0") == (*DONE, "0", "0")
    assert funded.event("5", "REVERSAL", 100, reverses="0") == ("FAILED", "ALREADY_REVERSED", "0", "0")


def test_a_reversal_takes_from_the_other_balance_too_or_moves_nothing(funded: Desk) -> None:
    funded.event("1", "TRANSFER", 10, **TO_W2, fee=1)
    funded.event("2", "HOLD", "0.5", "PENDING", wallet_id="w2")
    assert funded.event("3", "REVERSAL", 10, reverses="1") == (*FUNDS, "89", "0")
    assert funded.wallets() == {("w", "USD"): ("89", "0"), ("w2", "USD"): ("9.5", "0.5")}
    funded.event("4", "CONVERSION", 10, **TO_EUR)
    funded.event("5", "FEE", 1, asset="EUR")
    assert funded.event("6", "REVERSAL", 10, reverses="4") == (*FUNDS, "79", "0")
    assert funded.wallets()["w", "EUR"] == ("4", "0")


# ----------------------------------------------------------------------- statuses and repetitions


STATUSES = ("PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")


@pytest.mark.parametrize("before", STATUSES)
@pytest.mark.parametrize("after", STATUSES)
@pytest.mark.parametrize("kind", ["DEPOSIT", "WITHDRAWAL"])
def test_a_status_comes_after_the_one_before(funded: Desk, kind: str, before: str, after: str) -> None:
    steps = {"PENDING": 1, "PROCESSING": 2}
    assert funded.event("1", kind, 10, before)[0] == before
    balance = funded.wallets()
    result = funded.event("1", kind, 10, after)
    if before == after:
        assert result == "duplicate"
    elif steps.get(after, 3) <= steps.get(before, 3):
        assert result == "illegal_transition"
        assert funded.wallets() == balance
    else:
        assert result[0] == after


def test_a_repeat_is_a_duplicate_however_far_the_transaction_has_come(funded: Desk) -> None:
    for status in ("PENDING", "PROCESSING", "COMPLETED"):
        funded.event("1", "WITHDRAWAL", 10, status, description=status)
    for status in ("PENDING", "PROCESSING", "COMPLETED"):
        assert funded.event("1", "WITHDRAWAL", "10.0", status, description=status) == "duplicate"
        assert funded.event("1", "WITHDRAWAL", 10, status) == "conflict"
    assert funded.event("1", "WITHDRAWAL", 10, "FAILED") == "illegal_transition"
    assert funded.wallets() == {("w", "USD"): ("90", "0")}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("TRANSFER", {"wallet_id": "w3"}),
        ("TRANSFER", {"type": "WITHDRAWAL"}),
        ("TRANSFER", {"asset": "EUR"}),
        ("TRANSFER", {"amount": 11}),
        ("TRANSFER", {"fee": 2}),
        ("TRANSFER", TO_ITSELF),
        ("CONVERSION", {"to_asset": "CHF"}),
        ("CONVERSION", {"rate": "0.51"}),
        ("REVERSAL", {"reverses": "1"}),
        ("DEPOSIT", TO_W2),  # they mean nothing to a deposit, but they are terms
        ("DEPOSIT", {"to_asset": "EUR"}),
        ("DEPOSIT", {"rate": 2}),
        ("DEPOSIT", {"reverses": "0"}),
    ],
)
def test_another_status_must_have_the_same_terms(funded: Desk, kind: str, fields: dict[str, Any]) -> None:
    event = {"status": "PENDING", "type": kind, "amount": 10, **EVENTS[kind]}
    assert funded.put("transactions", **event) == "applied"
    before = funded.wallets()
    assert funded.put("transactions", **{**event, "status": "PROCESSING", **fields}) == "conflict"
    assert funded.wallets() == before
    free = {"occurred_at": "2026-03-01T00:00:00Z", "external_id": "e", "payment_method": "p", "metadata": {"a": "b"}}
    free = {**free, "description": "other", "authorized_by": "other"}
    assert funded.put("transactions", **{**event, "status": "PROCESSING", **free}) == "applied"
    assert funded.put("transactions", **{**event, "status": "CANCELLED", **fields}) == "conflict"
    assert funded.put("transactions", **{**event, "status": "CANCELLED"}) == "applied"
    assert funded.put("transactions", **{**event, "status": "FAILED", **fields}) == "conflict"
    assert funded.put("transactions", **{**event, "status": "FAILED"}) == "illegal_transition"


def test_terms_are_compared_by_value(funded: Desk) -> None:
    assert funded.event("1", "CONVERSION", "10", "PENDING", to_asset="EUR", rate="0.5", fee=None) != "conflict"
    assert funded.event("1", "CONVERSION", 10.0, to_asset="EUR", rate="5e-1", fee="0.0") == (*DONE, "90", "0")


# ------------------------------------------------------------------------------- what is rejected


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    ("kind", "fields", "reason", "field"),
    [
        ("TRANSFER", {"counterparty": None}, "invalid", "counterparty"),
        ("CONVERSION", {"to_asset": None}, "invalid", "to_asset"),
        ("CONVERSION", {"to_asset": None, "rate": None}, "invalid", "to_asset"),
        ("CONVERSION", {"rate": 0}, "invalid", "rate"),
        ("REVERSAL", {"reverses": None}, "invalid", "reverses"),
        ("ADJUSTMENT", {"description": None}, "invalid", "description"),
        ("ADJUSTMENT", {"description": ""}, "invalid", "description"),
        ("ADJUSTMENT", {"authorized_by": None}, "invalid", "authorized_by"),
        ("ADJUSTMENT", {"authorized_by": ""}, "invalid", "authorized_by"),
        ("ADJUSTMENT", {"amount": 0}, "invalid", "amount"),
        *(
            (kind, {"amount": amount}, "invalid", "amount")
            for kind in EVENTS
            for amount in (0, -1)
            if kind != "ADJUSTMENT"
        ),
        *((kind, {"fee": -1}, "invalid", "fee") for kind in EVENTS),
        ("DEPOSIT", {"fee": 11}, "invalid", "fee"),
        ("CONVERSION", {"rate": None, "amount": "6e19", "fee": "4e19"}, "out_of_range", "amount"),
        *((kind, {"amount": "1e20"}, "out_of_range", "amount") for kind in EVENTS),
        ("WITHDRAWAL", {"amount": "6e19", "fee": "4e19"}, "out_of_range", "amount"),
        ("TRANSFER", {"amount": "6e19", "fee": "4e19"}, "out_of_range", "amount"),
        ("CONVERSION", {"amount": "6e19", "fee": "4e19", "rate": "1e-9"}, "out_of_range", "amount"),
        ("CONVERSION", {"amount": "1e10", "rate": "1e10"}, "out_of_range", "rate"),
        (
            "CONVERSION",
            {"amount": "99999999999999999999", "fee": 0, "rate": "1.000000000000000001"},
            "out_of_range",
            "rate",
        ),
    ],
)
def test_rejections_that_need_no_state(
    funded: Desk, kind: str, fields: dict[str, Any], reason: str, field: str, status: str
) -> None:
    event = {"transaction_id": "0", "type": kind, "status": status, "amount": 10, **EVENTS[kind], **fields}
    before = funded.wallets()
    # they go before a wrong key, and before what is known of the transaction
    assert funded.send("transactions", b"v", json.dumps({**TRANSACTION, **event}).encode()) == reason
    assert funded.model.details["transactions-3-1"].startswith(f"{field}:")
    assert (funded.wallets(), len(funded.model.outcomes), funded.changes()) == (before, 1, [])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("DEPOSIT", {"amount": "6e19", "fee": "4e19"}),
        ("DIVIDEND", {"amount": "6e19", "fee": "4e19"}),
        ("ADJUSTMENT", {"description": " ", "authorized_by": " "}),
        ("DEPOSIT", {"expires_at": NOON}),
        ("DEPOSIT", {"counterparty": {"user_id": "v", "wallet_id": "w"}}),
        ("CONVERSION", {"amount": "1e10", "rate": "9999999999.999999999999999999", "fee": 0, "status": "CANCELLED"}),
        ("WITHDRAWAL", {"amount": "6e19", "fee": "3e19", "status": "FAILED"}),
    ],
)
def test_what_is_not_rejected(desk: Desk, kind: str, fields: dict[str, Any]) -> None:
    assert desk.put("transactions", **{"type": kind, "amount": 10, **EVENTS[kind], **fields}) == "applied"


def test_a_credit_that_makes_a_balance_too_large(desk: Desk) -> None:
    most = "99999999999999999999.999999999999999999"
    assert desk.event("0", "DEPOSIT", most) == (*DONE, most, "0")
    tiny = "0.000000000000000001"
    for kind in ("DEPOSIT", "DIVIDEND", "INTEREST", "ADJUSTMENT"):
        assert desk.event("1", kind, tiny, **SIGNED) == "out_of_range"
        assert desk.event("1", kind, tiny, "PENDING", **SIGNED)[0] == "PENDING"  # only COMPLETED credits
        assert desk.event("1", kind, tiny, **SIGNED) == "out_of_range"
        assert desk.event("1", kind, "1.5", **SIGNED) == "out_of_range"  # before conflict
        assert desk.event("1", kind, tiny, "CANCELLED", **SIGNED)[0] == "CANCELLED"
        assert desk.event("1", kind, tiny, **SIGNED) == "out_of_range"  # before illegal_transition
        desk = Desk()
        desk.event("0", "DEPOSIT", most)
    assert desk.event("0", "DEPOSIT", most) == "duplicate"  # before out_of_range
    # locked counts: what is available is only 1 less than half of it
    assert desk.event("2", "HOLD", "5e19", "PENDING")[0] == "PENDING"
    assert desk.event("3", "DEPOSIT", tiny) == "out_of_range"
    assert desk.event("4", "TRANSFER", 1, **TO_ITSELF)[:2] == DONE  # the debit comes first
    assert desk.event("5", "WITHDRAWAL", "5e19") == (*FUNDS, "49999999999999999999.999999999999999999", "5" + "0" * 19)
    assert desk.event("6", "TRANSFER", 1, **TO_W2)[:2] == DONE
    assert desk.event("7", "DEPOSIT", 1)[:2] == DONE
    assert desk.event("8", "REVERSAL", 1, reverses="6") == "out_of_range"  # before it takes from w2
    assert desk.event("9", "FEE", 1, wallet_id="w2")[:2] == DONE
    assert desk.event("8", "REVERSAL", 1, reverses="6")[:2] == FUNDS  # a refusal moves nothing
    assert desk.wallets()["w2", "USD"] == ("0", "0")


def test_the_other_balance_may_become_too_large(desk: Desk) -> None:
    desk.event("0", "DEPOSIT", "99999999999999999999", wallet_id="w2")
    desk.event("1", "DEPOSIT", 100)
    assert desk.event("2", "TRANSFER", 1, "PENDING", **TO_W2) == ("PENDING", None, "99", "1")
    assert desk.event("2", "TRANSFER", 1, **TO_W2) == "out_of_range"
    assert desk.event("3", "TRANSFER", 101, **TO_W2) == (*FUNDS, "99", "1")
    assert desk.event("4", "FEE", 1, wallet_id="w2")[:2] == DONE
    assert desk.event("2", "TRANSFER", 1, **TO_W2) == (*DONE, "99", "0")
    desk.event("5", "DEPOSIT", "99999999999999999999", asset="EUR")
    assert desk.event("6", "CONVERSION", 2, **TO_EUR) == "out_of_range"
    assert desk.event("6", "CONVERSION", "1.9", **TO_EUR) == (*DONE, "97.1", "0")


def test_a_lock_serves_only_what_locked_it(desk: Desk) -> None:
    """What would be a conflict is looked at as if it were accepted: its credit is out of range, or it isn't."""
    desk.event("1", "DEPOSIT", "5e19")
    desk.event("2", "HOLD", 1, "PENDING")
    assert desk.event("2", "DEPOSIT", "4e19") == "conflict"
    assert desk.event("2", "DEPOSIT", "5e19") == "out_of_range"
    desk.event("0", "DEPOSIT", "5e19", wallet_id="w2")
    # it has a lock, so its debit is not refused, so its credit counts
    assert desk.event("2", "TRANSFER", "6e19", **TO_W2) == "out_of_range"
    assert desk.event("3", "TRANSFER", "6e19", **TO_W2)[:2] == FUNDS


# ------------------------------------------------------------------------------ what is remembered


def test_any_accepted_event_opens_its_balance(desk: Desk) -> None:
    assert desk.event("1", "TRANSFER", 1, **TO_W2) == (*FUNDS, "0", "0")
    assert desk.event("2", "CONVERSION", 1, "CANCELLED", **TO_EUR, asset="CHF")[0] == "CANCELLED"
    assert desk.event("3", "DEPOSIT", "1e20", asset="GBP") == "out_of_range"
    assert desk.wallets() == {("w", "USD"): ("0", "0"), ("w", "CHF"): ("0", "0")}
    assert desk.changes() == [("w", "USD", "0", "0"), ("w", "CHF", "0", "0")]


def test_what_is_remembered_is_open_or_became_final_last() -> None:
    desk = Desk(id_memory=2)

    def ids() -> set[str]:
        return {identity for _, identity in desk.model.remembered("transactions", 3)}

    desk.event("a", "DEPOSIT", 9)
    desk.event("P", "HOLD", 1, "PENDING")
    desk.event("b", "DEPOSIT", 1)
    assert ids() == set("aPb")
    desk.event("c", "DEPOSIT", 1)
    assert ids() == set("Pbc")
    desk.event("Q", "HOLD", 1, "PROCESSING")
    desk.event("d", "DEPOSIT", 1)
    assert ids() == set("PQcd")
    assert desk.event("P", "HOLD", 1, "PENDING") == desk.event("d", "DEPOSIT", 1) == "duplicate"
    assert desk.event("a", "DEPOSIT", 9) == (*DONE, "19", "2")  # as if never seen
    assert ids() == set("PQda")
    assert desk.event("P", "HOLD", 1, "CANCELLED") == ("CANCELLED", None, "20", "1")
    assert ids() == set("QaP")
    assert desk.event("Q", "HOLD", 1) == (*DONE, "21", "0")
    assert ids() == set("PQ")
    assert desk.event("P", "HOLD", 1, "CANCELLED") == desk.event("Q", "HOLD", 1) == "duplicate"
    assert desk.event("r", "REVERSAL", 9, reverses="a") == ("FAILED", "UNKNOWN_REFERENCE", "21", "0")
    assert ids() == set("Qr")


def test_what_is_remembered_under_which_ids(desk: Desk) -> None:
    desk.fill("BUY", 1, 1, trade_id="t")
    desk.event("1", "DEPOSIT", 1, "PENDING")
    desk.event("1", "DEPOSIT", 1)
    desk.event("2", "FEE", 5)
    assert desk.model.remembered("trades", 3).keys() == {("u", "t")}
    assert desk.model.remembered("trades", 4) == desk.model.remembered("transactions", 4) == {}
    remembered = desk.model.remembered("transactions", 3)
    assert {key: set(bodies) for key, bodies in remembered.items()} == {
        ("u", "1"): {"PENDING", "COMPLETED"},
        ("u", "2"): {"COMPLETED"},
    }
    assert remembered["u", "1"]["PENDING"] != remembered["u", "1"]["COMPLETED"]


def test_partitions_that_are_added_take_over_what_is_remembered_of_their_users(desk: Desk) -> None:
    desk.fill("BUY", 1, 1, trade_id="t")
    desk.event("1", "DEPOSIT", 1, "PENDING")
    desk.event("2", "DEPOSIT", 1, "PENDING", user_id="v")
    desk.model.split(3, [11], {"u": 11, "v": 3}.__getitem__)
    assert desk.model.remembered("trades", 11) == desk.model.remembered("trades", 3) != {}
    assert desk.model.remembered("transactions", 11).keys() == {("u", "1")}
    assert desk.model.remembered("transactions", 3).keys() == {("v", "2")}
    event = {**TRANSACTION, "transaction_id": "1", "amount": 1, "status": "PENDING"}
    assert desk.model.feed("transactions", 11, 0, NOON_MS + MONTH_MS, b"u", json.dumps(event).encode()) == "duplicate"
