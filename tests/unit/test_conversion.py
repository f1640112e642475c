"""Conversions at the current mark, worked out by hand: kernel and reference side by side."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from assetstream.models.conversion import QuoteTerms
from assetstream.models.decode import decode_marks, decode_transactions, encode_mark
from assetstream.models.ledger import apply_transactions
from assetstream.models.marks import apply_marks
from assetstream.models.messages import AssetTransaction, from_micros, time_text
from assetstream.models.outcomes import legs_of, outcome_values
from assetstream.models.records import records_of
from assetstream.models.reference import ONE, Reference
from assetstream.models.state import new_account_state, rebuild
from assetstream.models.verdicts import Verdict
from assetstream.models.wallet_events import with_currencies

NOW_MS = 1_772_452_800_000
NOON = "2026-03-02T12:00:00.000000Z"
MINUTE_AGO = "2026-03-02T11:59:00.000000Z"
HOUR_US = 3600 * 10**6
MOST = "99999999999999999999"


class Desk:
    """A partition and the reference; the kernel has to put out what the reference does."""

    def __init__(self, spread_bps: str = "0") -> None:
        self.state = new_account_state(b"GBP", 100)
        self.terms = QuoteTerms(60, Decimal(spread_bps))
        self.model = Reference("GBP", id_memory=100, conversion_spread_bps=int(Decimal(spread_bps) * ONE))
        self.offset = self.n = 0

    def mark(self, symbol: str, price: str, seconds_ago: float = 0) -> None:
        self.offset += 1
        as_of, currency = NOW_MS * 1000 - round(seconds_ago * 10**6), symbol.rpartition("/")[2]
        units = int(Decimal(price) * ONE)
        record = (symbol.encode(), encode_mark(symbol, units, currency, as_of, 0, self.offset))
        self.state = rebuild(apply_marks(self.state, decode_marks(records_of("marks", 0, [record]))).state)
        quoted = {"symbol": symbol, "price": price, "currency": currency, "as_of": time_text(from_micros(as_of))}
        value = json.dumps(quoted).encode()
        assert self.model.feed("prices", 0, self.offset, NOW_MS, symbol.encode(), value) == "applied"

    def event(self, kind: str, amount: str, asset: str = "USD", **fields: Any) -> dict[str, Any] | str:
        """The outcome, or the reason of a rejection; `transaction_id` is x1, x2, … by default."""
        self.n += 1
        event = {
            "transaction_id": f"x{self.n}",
            "user_id": "ann",
            "wallet_id": "w",
            "type": kind,
            "status": "COMPLETED",
            "asset": asset,
            "amount": amount,
            "occurred_at": NOON,
            **fields,
        }
        self.offset += 1
        value, told = json.dumps(event).encode(), len(self.model.outcomes)
        batch = decode_transactions(records_of("transactions", 0, [(b"ann", value)], self.offset, NOW_MS), HOUR_US)
        result = apply_transactions(self.state, batch, self.terms)
        self.state = rebuild(result.state)
        verdict = self.model.feed("transactions", 0, self.offset, NOW_MS, b"ann", value)
        assert Verdict(result.verdict[0]).reason == verdict
        legs = legs_of(result.state, result.postings)
        batch = with_currencies(batch, result)
        values = outcome_values(batch, result.outcomes, result.postings, legs, 0)
        assert [json.loads(each) for each in values] == self.model.outcomes[told:]
        if verdict != "applied":
            return verdict
        outcome = json.loads(values[0])
        AssetTransaction.model_validate(outcome)
        return outcome

    def convert(self, amount: str, asset: str, to_asset: str, **fields: Any) -> Any:
        return self.event("CONVERSION", amount, asset, to_asset=to_asset, **fields)

    def held(self, asset: str) -> tuple[str, str]:
        """(available, locked)"""
        balance = self.model.balances["ann", "w", asset]
        return balance["available"], balance["locked"]


@pytest.fixture
def desk() -> Desk:
    """Ann has 1000 of USD, of EUR and of BTC."""
    made = Desk()
    for asset in ("USD", "EUR", "BTC"):
        made.event("DEPOSIT", "1000", asset)
    return made


def done(outcome: Any) -> tuple[Any, ...]:
    return tuple(outcome[name] for name in ("status", "code", "rate", "rate_as_of", "spread_bps"))


def test_the_price_of_the_pair_is_the_rate(desk: Desk) -> None:
    desk.mark("EUR/USD", "1.0842", seconds_ago=1.5)
    outcome = desk.convert("100", "EUR", "USD", fee="1")
    assert done(outcome) == ("COMPLETED", None, "1.0842", "2026-03-02T11:59:58.500000Z", "0")
    assert [(each["account"], each["asset"], each["amount"]) for each in outcome["postings"]] == [
        ("wallet:ann/w", "EUR", "-101"),
        ("fees", "EUR", "1"),
        ("exchange", "EUR", "100"),
        ("wallet:ann/w", "USD", "108.42"),
        ("exchange", "USD", "-108.42"),
    ]
    assert desk.held("USD") == ("1108.42", "0")


def test_else_the_inverse_and_else_over_usd(desk: Desk) -> None:
    desk.mark("USD/JPY", "150", seconds_ago=3)
    desk.mark("USD/CHF", "3", seconds_ago=2)
    desk.mark("BTC/USD", "60000", seconds_ago=1)
    assert done(desk.convert("9", "USD", "CHF"))[2:4] == ("3", "2026-03-02T11:59:58.000000Z")
    assert done(desk.convert("9", "CHF", "USD"))[2:4] == ("0.333333333333333333", "2026-03-02T11:59:58.000000Z")
    # 60,000 · 150, as old as the older of both
    assert done(desk.convert("2", "BTC", "JPY"))[2:4] == ("9000000", "2026-03-02T11:59:57.000000Z")
    assert desk.held("JPY") == ("18000000", "0")
    # round(1/150) · round(1/60000), each at 18 decimals, then their product
    assert done(desk.convert("3", "JPY", "BTC"))[2] == "0.000000111111111111"
    desk.mark("CHF/JPY", "7")
    assert done(desk.convert("1", "CHF", "JPY"))[2:4] == ("7", NOON)  # goes before 50


def test_a_mark_that_is_too_old_is_none(desk: Desk) -> None:
    desk.mark("EUR/USD", "1.25", seconds_ago=60)
    assert done(desk.convert("1", "EUR", "USD"))[:4] == ("COMPLETED", None, "1.25", MINUTE_AGO)
    desk.mark("GBP/USD", "1.5", seconds_ago=60.000001)
    assert done(desk.convert("1", "USD", "GBP")) == ("FAILED", "NO_RATE", None, None, None)
    assert done(desk.convert("1", "EUR", "GBP"))[1] == "NO_RATE"  # the older one counts
    assert desk.held("USD") == ("1001.25", "0")


def test_the_spread_is_taken_off_once() -> None:
    desk = Desk("12.5")
    desk.event("DEPOSIT", "1000", "EUR")
    desk.mark("EUR/USD", "1.25")
    assert done(desk.convert("100", "EUR", "USD")) == ("COMPLETED", None, "1.2484375", NOON, "12.5")
    assert desk.held("USD") == ("124.84375", "0")
    desk.mark("EUR/JPY", "0.000000000000000004")
    # 3.995 units: rounded to 4
    assert done(desk.convert("1", "EUR", "JPY"))[2] == "0.000000000000000004"
    # into itself at 1, which comes from no mark
    assert done(desk.convert("1", "EUR", "EUR")) == ("COMPLETED", None, "0.99875", None, "12.5")
    # what the message gives is as it is
    assert done(desk.convert("1", "EUR", "USD", rate="2")) == ("COMPLETED", None, "2", None, "0")


def test_without_a_rate_nothing_moves_and_nothing_stays_locked(desk: Desk) -> None:
    pending = {"transaction_id": "c", "fee": "1"}
    outcome = desk.convert("99", "EUR", "USD", **pending, status="PENDING")
    assert done(outcome) == ("PENDING", None, None, None, None)
    assert desk.held("EUR") == ("900", "100")
    outcome = desk.convert("99", "EUR", "USD", **pending)
    assert (*done(outcome)[:2], outcome["postings"]) == ("FAILED", "NO_RATE", [])
    assert outcome["balance"] == {"total": "1000", "available": "1000", "locked": "0"}
    desk.mark("EUR/USD", "1.5")
    assert desk.convert("99", "EUR", "USD", **pending) == "duplicate"
    assert desk.convert("99", "EUR", "USD", **pending, status="CANCELLED") == "illegal_transition"
    assert done(desk.convert("99", "EUR", "USD", fee="1"))[:3] == ("COMPLETED", None, "1.5")
    # a rate that comes later is of other terms
    desk.convert("1", "EUR", "USD", transaction_id="d", status="PENDING")
    assert desk.convert("1", "EUR", "USD", transaction_id="d", rate="1.5") == "conflict"
    assert done(desk.convert("1", "EUR", "USD", transaction_id="d"))[2] == "1.5"
    assert desk.held("EUR") == ("899", "0")
    assert desk.held("USD") == ("1150", "0")


def test_a_reversal_gives_back_what_arrived_whatever_the_rate_is_by_then(desk: Desk) -> None:
    desk.mark("EUR/USD", "1.1")
    there = desk.convert("10", "EUR", "USD", fee="0.5", transaction_id="c")
    desk.mark("EUR/USD", "9")
    back = desk.event("REVERSAL", "10", "EUR", reverses="c")
    assert (back["status"], "rate" in back) == ("COMPLETED", False)
    opposite = [{**each, "amount": str(-Decimal(each["amount"]))} for each in there["postings"]]
    assert back["postings"] == opposite
    assert [desk.held(asset) for asset in ("EUR", "USD")] == [("1000", "0"), ("1000", "0")]


def test_what_it_comes_to_is_in_range_or_the_message_is_rejected(desk: Desk) -> None:
    desk.mark("BTC/USD", MOST)
    assert desk.convert("1.1", "BTC", "USD") == "out_of_range"
    assert desk.convert("5000", "BTC", "USD") == "out_of_range"  # though there is less
    assert desk.convert("1", "BTC", "USD") == "out_of_range"  # the balance
    assert done(desk.convert("0.5", "BTC", "USD", transaction_id="c"))[0] == "COMPLETED"
    assert desk.convert("1.1", "BTC", "USD", transaction_id="c") == "out_of_range"  # before it is a conflict
    assert done(desk.convert("1.1", "BTC", "USD", status="CANCELLED"))[0] == "CANCELLED"
    assert done(desk.convert("1000", "BTC", "EUR"))[1] == "NO_RATE"  # before there are no funds
    assert done(desk.convert("1000", "BTC", "BTC"))[:2] == ("FAILED", "INSUFFICIENT_FUNDS")


def test_what_is_no_rate(desk: Desk) -> None:
    desk.mark("EUR/USD", "1.5")
    desk.mark("USD/XAU", MOST)
    assert done(desk.convert("1", "XAU", "USD"))[1] == "NO_RATE"  # 1/10^20 rounds to 0
    assert done(desk.convert("1", "USD", "A/B"))[1] == "NO_RATE"
    assert done(desk.convert("1", "EUR/USD", "USD"))[1] == "NO_RATE"
    assert done(desk.convert("1", "EUR", "SEK"))[1] == "NO_RATE"  # only one leg


def test_a_virtual_wallet_converts_against_virtual_and_back(desk: Desk) -> None:
    paper = {"wallet_id": "p", "wallet_type": "VIRTUAL", "currency": "EUR", "configuration": {"initial_capital": "50"}}
    desk.event("OPEN", "1", **paper)
    desk.mark("EUR/USD", "1.1")
    there = desk.convert("10", "EUR", "USD", wallet_id="p", fee="0.5", transaction_id="c")
    assert done(there) == ("COMPLETED", None, "1.1", NOON, "0")
    assert [(each["account"], each["asset"], each["amount"]) for each in there["postings"]] == [
        ("wallet:ann/p", "EUR", "-10.5"),
        ("virtual", "EUR", "0.5"),
        ("virtual", "EUR", "10"),
        ("wallet:ann/p", "USD", "11"),
        ("virtual", "USD", "-11"),
    ]
    desk.mark("EUR/USD", "9")
    back = desk.event("REVERSAL", "10", "EUR", wallet_id="p", reverses="c")
    assert back["postings"] == [{**each, "amount": str(-Decimal(each["amount"]))} for each in there["postings"]]
    assert done(desk.convert("10", "EUR", "JPY", wallet_id="p"))[1] == "NO_RATE"


def test_a_closed_wallet_goes_before_the_rate_and_what_it_comes_to_before_both() -> None:
    desk = Desk()
    desk.event("CLOSE", "1")
    assert done(desk.convert("10", "EUR", "USD")) == ("FAILED", "WALLET_CLOSED", None, None, None)
    desk.mark("EUR/USD", "1.1")
    assert done(desk.convert("10", "EUR", "USD")) == ("FAILED", "WALLET_CLOSED", None, None, None)
    desk.mark("EUR/USD", MOST)
    assert desk.convert("1.1", "EUR", "USD") == "out_of_range"
