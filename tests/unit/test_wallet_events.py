"""Wallets themselves, worked out by hand: kernel and reference side by side."""

from __future__ import annotations

import json
from typing import Any

import pytest

from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import LedgerResult, apply_transactions
from assetstream.models.messages import Rejection, parse
from assetstream.models.outcomes import balance_names, legs_of, outcome_values
from assetstream.models.records import records_of
from assetstream.models.reference import Reference
from assetstream.models.state import new_account_state
from assetstream.models.verdicts import Verdict
from assetstream.models.wallet_events import with_currencies
from tests.unit.test_transfers import HOUR_US, NOW_MS, Desk

PAPER = {"wallet_type": "VIRTUAL", "currency": "EUR"}
START = {"initial_capital": "1000", "allocation": {"EUR": "0.5", "BTC": "2", "AAPL": "10"}}


def of_wallet(desk: Desk, identity: str, kind: str, **fields: Any) -> dict[str, Any]:
    """The outcome of an event of ann's wallet w itself; {}: there is none."""
    n = len(desk.model.outcomes)
    desk.event("ann", identity, kind, None, **{"asset": None, **fields})
    return desk.model.outcomes[-1] if len(desk.model.outcomes) > n else {}


def became(outcome: dict[str, Any]) -> tuple[str, str | None]:
    return outcome["status"], outcome["code"]


def moved(outcome: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(posting["account"], posting["asset"], posting["amount"]) for posting in outcome["postings"]]


def money(desk: Desk, identity: str, kind: str, amount: str, **fields: Any) -> dict[str, Any]:
    """The outcome of an event that moves money of ann's wallet w."""
    desk.event("ann", identity, kind, amount, **fields)
    return desk.model.outcomes[-1]


def held(desk: Desk, wallet: str = "w", user: str = "ann") -> dict[str, str]:
    """The totals of a wallet that aren't 0."""
    found = desk.model.balances.items()
    return {asset: each["total"] for (*of, asset), each in found if of == [user, wallet] and each["total"] != "0"}


def test_a_virtual_wallet_begins_with_its_capital_and_comes_back_to_it() -> None:
    desk = Desk()
    opened = of_wallet(desk, "o", "OPEN", **PAPER, configuration=START)
    assert opened == {
        "transaction_id": "o",
        "user_id": "ann",
        "wallet_id": "w",
        "type": "OPEN",
        "asset": "EUR",
        "amount": "0",
        "fee": "0",
        "status": "COMPLETED",
        "code": None,
        "balance": {"total": "1000.5", "available": "1000.5", "locked": "0"},
        "postings": opened["postings"],
        "wallet_type": "VIRTUAL",
        "resets": 0,
        "occurred_at": "2026-03-02T09:00:00.000000Z",
        "journal": 1,
        "cause": {"topic": "transactions", "partition": 0, "offset": 1},
    }
    assert moved(opened) == [
        ("wallet:ann/w", "EUR", "1000"), ("virtual", "EUR", "-1000"),
        ("wallet:ann/w", "AAPL", "10"), ("virtual", "AAPL", "-10"),
        ("wallet:ann/w", "BTC", "2"), ("virtual", "BTC", "-2"),
        ("wallet:ann/w", "EUR", "0.5"), ("virtual", "EUR", "-0.5"),
    ]  # fmt: skip
    # whatever is on the other side is virtual
    deposit = money(desk, "d", "DEPOSIT", "7", asset="EUR", fee="1", payment_method="SEPA")
    assert moved(deposit) == [("wallet:ann/w", "EUR", "6"), ("virtual", "EUR", "1"), ("virtual", "EUR", "-7")]
    assert "wallet_type" not in deposit
    money(desk, "c", "CONVERSION", "1006.5", asset="EUR", to_asset="USD", rate="2")
    money(desk, "f", "FEE", "2", asset="BTC")
    assert held(desk) == {"AAPL": "10", "USD": "2013"}
    n = len(desk.model.balance_changes)
    reset = of_wallet(desk, "r", "RESET")
    assert (became(reset), reset["resets"], held(desk)) == (
        ("COMPLETED", None), 1, {"EUR": "1000.5", "AAPL": "10", "BTC": "2"}
    )  # fmt: skip
    assert moved(reset) == [
        ("wallet:ann/w", "USD", "-2013"), ("virtual", "USD", "2013"),
        ("wallet:ann/w", "AAPL", "-10"), ("virtual", "AAPL", "10"),
        *moved(opened),
    ]  # fmt: skip
    changes = [(each["asset"], each["total"], each["sequence"]) for each in desk.model.balance_changes[n:]]
    assert changes == [("USD", "0", 2), ("AAPL", "10", 2), ("BTC", "2", 3)]
    # another configuration counts from the next RESET on, and replaces all of the old one
    assert moved(of_wallet(desk, "k", "CONFIGURE", configuration={"allocation": {"ETH": 3}})) == []
    assert held(desk) == {"EUR": "1000.5", "AAPL": "10", "BTC": "2"}
    assert (of_wallet(desk, "r2", "RESET")["resets"], held(desk)) == (2, {"ETH": "3"})
    # what was done before can still be undone, but what a wallet's own events did
    assert became(money(desk, "u", "REVERSAL", "1", asset="EUR", reverses="r"))[1] == "UNKNOWN_REFERENCE"
    assert moved(money(desk, "u2", "REVERSAL", "2", asset="BTC", reverses="f")) == [
        ("wallet:ann/w", "BTC", "2"), ("virtual", "BTC", "-2")
    ]  # fmt: skip


def test_what_wallets_do_not_allow() -> None:
    desk, refused = Desk(), ("FAILED", "NOT_ALLOWED")
    capital = {"configuration": {"initial_capital": "1"}}
    assert became(of_wallet(desk, "1", "OPEN", **capital)) == refused
    assert became(of_wallet(desk, "2", "OPEN", wallet_type="MARGIN", **capital)) == refused
    opened = of_wallet(desk, "3", "OPEN", wallet_type="MARGIN", configuration={"initial_capital": "0", "new": 1})
    assert (became(opened), opened["asset"], opened["wallet_type"]) == (("COMPLETED", None), "USD", "MARGIN")
    assert became(of_wallet(desk, "4", "OPEN", wallet_type="MARGIN")) == refused
    assert became(of_wallet(desk, "5", "CONFIGURE", **capital)) == refused
    assert became(of_wallet(desk, "6", "CONFIGURE")) == ("COMPLETED", None)
    assert became(of_wallet(desk, "7", "RESET")) == refused
    money(desk, "8", "DEPOSIT", "1")
    assert became(of_wallet(desk, "9", "CLOSE")) == refused
    # unknown ones are REAL, in base currency
    assert became(of_wallet(desk, "10", "RESET", wallet_id="x")) == refused
    assert became(of_wallet(desk, "11", "OPEN", wallet_id="x")) == refused
    of_wallet(desk, "12", "OPEN", wallet_id="v", wallet_type="VIRTUAL", **capital)
    money(desk, "13", "HOLD", "1", wallet_id="v", status="PENDING")
    assert became(of_wallet(desk, "14", "RESET", wallet_id="v")) == refused
    assert became(of_wallet(desk, "15", "CLOSE", wallet_id="v")) == refused
    money(desk, "13", "HOLD", "1", wallet_id="v", status="CANCELLED")
    # real money and virtual money never mix
    for sender, receiver in (("v", "w"), ("w", "v"), ("v", "new")):
        to = {"user_id": "ann", "wallet_id": receiver}
        for status in ("PENDING", "PROCESSING", "COMPLETED"):
            identity = f"{sender}{receiver}{status}"
            outcome = money(desk, identity, "TRANSFER", "1", wallet_id=sender, counterparty=to, status=status)
            assert became(outcome) == refused
    to_bob = {"counterparty": {"user_id": "bob", "wallet_id": "x"}}
    assert became(money(desk, "16", "TRANSFER", "1", wallet_id="v", **to_bob)) == refused
    of_wallet(desk, "17", "OPEN", wallet_id="v2", wallet_type="VIRTUAL")
    to_own = {"counterparty": {"user_id": "ann", "wallet_id": "v2"}}
    assert moved(money(desk, "18", "TRANSFER", "0.5", wallet_id="v", fee="0.25", **to_own)) == [
        ("wallet:ann/v", "USD", "-0.75"), ("virtual", "USD", "0.25"), ("wallet:ann/v2", "USD", "0.5")
    ]  # fmt: skip
    assert desk.arrive() == []


def test_an_open_that_is_not_done_opens_nothing() -> None:
    desk = Desk()
    said = {**PAPER, "configuration": START}
    pending = of_wallet(desk, "o", "OPEN", **said, status="PENDING")
    assert (became(pending), pending["asset"], pending["wallet_type"]) == (("PENDING", None), "EUR", "VIRTUAL")
    assert of_wallet(desk, "o", "OPEN", **said, status="PENDING") == {}  # a duplicate
    assert of_wallet(desk, "o", "OPEN", **{**said, "currency": "USD"}) == {}
    assert of_wallet(desk, "o", "OPEN", **{**said, "configuration": {}}) == {}
    assert [letter["reason"] for letter in desk.model.dead_letters] == ["conflict", "conflict"]
    assert became(of_wallet(desk, "o", "OPEN", **said)) == ("COMPLETED", None)
    assert of_wallet(desk, "p", "OPEN", **PAPER, wallet_id="x", status="PENDING")["balance"]["total"] == "0"
    money(desk, "d", "DEPOSIT", "1", wallet_id="x", asset="EUR")
    assert became(of_wallet(desk, "p", "OPEN", **PAPER, wallet_id="x")) == ("FAILED", "NOT_ALLOWED")
    wallet = desk.model.ledger.wallets["ann", "x"]
    assert (wallet.type, wallet.currency, wallet.status) == ("REAL", "USD", "OPEN")


def test_a_closed_wallet_stays_closed() -> None:
    desk, closed = Desk(), ("FAILED", "WALLET_CLOSED")
    money(desk, "d", "DEPOSIT", "5")
    money(desk, "s", "TRANSFER", "1", counterparty={"user_id": "ann", "wallet_id": "other"})
    to_w = {"wallet_id": "other", "counterparty": {"user_id": "ann", "wallet_id": "w"}}
    money(desk, "p", "TRANSFER", "0.75", fee="0.25", status="PENDING", **to_w)
    money(desk, "waits", "DEPOSIT", "1", status="PENDING")
    money(desk, "w", "WITHDRAWAL", "4")
    outcome = of_wallet(desk, "c", "CLOSE")
    assert (became(outcome), outcome["wallet_type"]) == (("COMPLETED", None), "REAL")
    more = {
        "TRANSFER": {"counterparty": {"user_id": "bob", "wallet_id": "x"}},
        "CONVERSION": {"to_asset": "EUR", "rate": "1"},
        "ADJUSTMENT": {"description": "d", "authorized_by": "a"},
        "REVERSAL": {"reverses": "w"},
    }
    for kind in ("DEPOSIT", "WITHDRAWAL", "TRANSFER", "CONVERSION", "FEE", "DIVIDEND", "INTEREST", "ADJUSTMENT",
                 "REVERSAL", "HOLD"):  # fmt: skip
        for status in ("PENDING", "PROCESSING", "COMPLETED"):
            assert became(money(desk, f"{kind}{status}", kind, "4", status=status, **more.get(kind, {}))) == closed
        for status in ("FAILED", "CANCELLED"):
            outcome = money(desk, f"{kind}{status}", kind, "4", status=status, **more.get(kind, {}))
            assert became(outcome) == (status, None)
    assert became(money(desk, "waits", "DEPOSIT", "1")) == closed
    assert became(of_wallet(desk, "o", "OPEN")) == ("FAILED", "NOT_ALLOWED")
    for kind in ("CLOSE", "RESET", "CONFIGURE"):
        assert became(of_wallet(desk, f"again-{kind}", kind)) == closed
    # what would arrive in it is refused, and what was locked for that is free again
    assert became(money(desk, "p", "TRANSFER", "0.75", fee="0.25", **to_w)) == closed
    assert desk.model.balances["ann", "other", "USD"] == {"total": "1", "available": "1", "locked": "0"}
    assert became(money(desk, "t", "TRANSFER", "1", **to_w)) == closed
    money(desk, "new", "DEPOSIT", "1", wallet_id="new")
    money(desk, "x", "TRANSFER", "1", wallet_id="new", counterparty={"user_id": "ann", "wallet_id": "gone"})
    money(desk, "y", "WITHDRAWAL", "1", wallet_id="gone")
    of_wallet(desk, "z", "CLOSE", wallet_id="gone")
    assert became(money(desk, "u", "REVERSAL", "1", wallet_id="new", reverses="x")) == closed
    assert desk.arrive() == []
    assert held(desk) == {}


TO_BOB = {"counterparty": {"user_id": "bob", "wallet_id": "x"}}


@pytest.mark.parametrize(("kind", "code"), [("CLOSE", "WALLET_CLOSED"), ("OPEN", "NOT_ALLOWED")])
def test_what_cannot_arrive_comes_back_and_opens_a_wallet_that_was_closed_meanwhile(kind: str, code: str) -> None:
    desk = Desk()
    desk.event("bob", "b", kind, "1", wallet_id="x", wallet_type="VIRTUAL")
    money(desk, "d", "DEPOSIT", "10")
    money(desk, "t", "TRANSFER", "10", **TO_BOB)
    assert became(of_wallet(desk, "c", "CLOSE")) == ("COMPLETED", None)
    assert desk.arrive() == [
        ("bob", "ann/t", "FAILED", code, "0", {}),
        ("ann", "ann/t/returned", "COMPLETED", None, "10", {"wallet:ann/w": "10", "transit": "-10"}),
    ]
    assert (desk.model.outcomes[-1]["wallet_type"], desk.model.outcomes[-1]["resets"]) == ("REAL", 0)
    assert became(money(desk, "w", "WITHDRAWAL", "10")) == ("COMPLETED", None)
    assert became(of_wallet(desk, "c2", "CLOSE")) == ("COMPLETED", None)


def test_what_is_taken_back_opens_a_wallet_and_is_not_taken_from_a_closed_one() -> None:
    desk = Desk()
    money(desk, "d", "DEPOSIT", "20")
    money(desk, "t", "TRANSFER", "9", fee="1", **TO_BOB)
    money(desk, "t2", "TRANSFER", "10", **TO_BOB)
    desk.arrive()
    assert money(desk, "r", "REVERSAL", "9", reverses="t")["status"] == "PROCESSING"
    assert became(of_wallet(desk, "c", "CLOSE")) == ("COMPLETED", None)
    assert desk.arrive()[-1] == (
        ("ann", "r", "COMPLETED", None, "10", {"wallet:ann/w": "10", "fees": "-1", "transit": "-9"})
    )
    assert desk.model.outcomes[-1]["wallet_type"] == "REAL"
    desk.event("bob", "w", "WITHDRAWAL", "10", wallet_id="x")
    desk.event("bob", "c", "CLOSE", "1", wallet_id="x")
    assert money(desk, "r2", "REVERSAL", "10", reverses="t2")["status"] == "PROCESSING"
    assert [told[2:4] for told in desk.arrive()] == [("FAILED", "WALLET_CLOSED")] * 2
    assert held(desk) == {"USD": "10"}


def booked(events: list[dict[str, Any]]) -> tuple[Reference, LedgerResult]:
    """What the reference, and the kernel in one batch, make of events of ann's wallet w: the same."""
    common = {"user_id": "ann", "wallet_id": "w", "status": "COMPLETED", "occurred_at": "2026-03-02T09:00:00Z"}
    messages = [(b"ann", json.dumps({"transaction_id": str(n), **common, **e}).encode()) for n, e in enumerate(events)]
    model = Reference()
    for offset, (key, value) in enumerate(messages):
        assert model.feed("transactions", 0, offset, NOW_MS, key, value) == "applied"
    batch = decode_transactions(records_of("transactions", 0, messages, 0, NOW_MS), HOUR_US)
    result = apply_transactions(new_account_state(b"USD", 2000), batch)
    legs = legs_of(result.state, result.postings)
    values = outcome_values(with_currencies(batch, result), result.outcomes, result.postings, legs, 0)
    assert [json.loads(value) for value in values] == model.outcomes
    names = balance_names(result.state, result.changes["balance"])
    told = [(name.asset, int(row["sequence"])) for name, row in zip(names, result.changes, strict=True)]
    assert told == [(each["asset"], each["sequence"]) for each in model.balance_changes]
    return model, result


def test_a_wallet_of_many_assets_is_reset_in_the_midst_of_a_batch() -> None:
    """Of many more movements than messages, some of them of assets that it has only since a message before."""
    allocation = {f"A{k:02d}": str(k + 1) for k in range(99)}
    capital = {"initial_capital": "5", "allocation": {**allocation, "USD": "1"}}
    events = [{"type": "OPEN", "wallet_type": "VIRTUAL", "configuration": capital}]
    events += [{"type": "DEPOSIT", "asset": f"B{k:03d}", "amount": "3"} for k in range(200)]
    events += [{"type": "RESET"}, {"type": "CONFIGURE", "configuration": {"allocation": {"C": "1"}}}, {"type": "RESET"}]
    events += [{"type": "CONFIGURE", "configuration": capital}, {"type": "RESET"}]
    model, result = booked(events)
    assert len(model.outcomes[201]["postings"]) == 2 * (200 + 100) + 2 * 101
    assert len(result.changes) == 99 + (200 + 99) + (99 + 1) + (1 + 99)
    assert sum(each["total"] != "0" for each in model.balances.values()) == 100
    # the rows of the first configuration are used again
    assert int(result.state.grants.count[0]) == 101


def test_a_wallet_of_too_many_assets_is_not_reset() -> None:
    """Its outcome could be larger than what Kafka takes."""
    events: list[dict[str, Any]] = [{"type": "OPEN", "wallet_type": "VIRTUAL"}]
    events += [{"type": "DEPOSIT", "asset": f"B{k}", "amount": "3"} for k in range(1001)]
    events += [{"type": "RESET"}, {"type": "FEE", "asset": "B7", "amount": "3"}, {"type": "RESET"}]
    model, _ = booked(events)
    assert [became(outcome) for outcome in model.outcomes[-3:]] == [
        ("FAILED", "NOT_ALLOWED"), ("COMPLETED", None), ("COMPLETED", None)
    ]  # fmt: skip
    assert len(model.outcomes[-1]["postings"]) == 2000


def test_more_than_a_balance_can_hold_is_out_of_range() -> None:
    desk, most = Desk(), "99999999999999999999"
    said = {"initial_capital": most, "allocation": {"USD": "1"}}
    assert of_wallet(desk, "o", "OPEN", wallet_type="VIRTUAL", configuration=said) == {}
    assert of_wallet(desk, "p", "OPEN", wallet_type="VIRTUAL", currency="USD", configuration=said) == {}
    assert [letter["reason"] for letter in desk.model.dead_letters] == ["out_of_range"] * 2
    assert became(of_wallet(desk, "o", "OPEN", wallet_type="VIRTUAL", currency="EUR", configuration=said))[1] is None
    said["allocation"] = {"EUR": "1"}  # type: ignore[assignment]
    assert of_wallet(desk, "c", "CONFIGURE", configuration=said) == {}
    assert desk.model.dead_letters[-1]["reason"] == "out_of_range"
    assert held(desk) == {"EUR": most, "USD": "1"}


def judged(**fields: Any) -> Verdict:
    """What the strict parser says of an OPEN with these fields; the reference says the same."""
    event = {
        "transaction_id": "o",
        "user_id": "ann",
        "wallet_id": "w",
        "type": "OPEN",
        "status": "COMPLETED",
        "occurred_at": "2026-03-02T09:00:00Z",
        **fields,
    }
    value = json.dumps(event).encode()
    found = parse("transactions", value, NOW_MS, HOUR_US)
    verdict = Verdict(found.verdict if isinstance(found, Rejection) else Verdict.APPLIED)
    assert Reference().feed("transactions", 0, 0, NOW_MS, b"ann", value) == verdict.reason
    return verdict


def test_how_events_of_wallets_are_read() -> None:
    applied, invalid, out = Verdict.APPLIED, Verdict.INVALID, Verdict.OUT_OF_RANGE
    assert {judged(wallet_type=kind) for kind in ("REAL", "VIRTUAL", "MARGIN", None)} == {applied}
    assert {judged(wallet_type=kind) for kind in ("PAPER", "", 1)} == {invalid}
    assert judged(asset="USD", amount="1", fee="1", currency="A/B") == applied
    for wrong in ({"asset": ""}, {"amount": "0"}, {"amount": "-1"}, {"amount": "x"}, {"fee": "-1"}, {"currency": ""}):
        assert judged(**wrong) == invalid
    assert judged(amount="1e20") == out
    assert judged(configuration={"initial_capital": None, "allocation": {"A": None, "B": 1.5}, "new": []}) == applied
    hundred = {f"A{k}": "1" for k in range(100)}
    assert judged(configuration={"allocation": {**hundred, "B": None}}) == applied
    for nonsense in (
        {"allocation": {**hundred, "B": "1"}},
        {"allocation": {"A": "0"}},
        {"allocation": {"a b": "1"}},
        {"allocation": ["A"]},
        {"initial_capital": "-1"},
        "none",
    ):
        assert judged(configuration=nonsense) == invalid
    assert judged(configuration={"initial_capital": "1e20"}) == out
    assert judged(configuration={"allocation": {"A": "1e-19"}}) == out
    # only OPEN and CONFIGURE have these: of all others they are unknown fields
    rest = {"wallet_type": "PAPER", "currency": "", "configuration": 1}
    for kind in ("CLOSE", "RESET", "DEPOSIT", "HOLD"):
        assert judged(type=kind, asset="USD", amount="1", **rest) == applied
    assert judged(type="CONFIGURE", wallet_type="PAPER", currency="") == applied
    assert judged(type="CONFIGURE", configuration=1) == invalid
    for name in ("asset", "amount"):
        assert judged(type="DEPOSIT", **{"asset": "USD", "amount": "1", name: None}) == invalid


def test_what_says_the_same_is_the_same() -> None:
    desk = Desk()
    said = {"initial_capital": "1.50", "allocation": {"BTC": "2", "ETH": 1}}
    of_wallet(desk, "o", "OPEN", wallet_type="VIRTUAL", configuration=said)
    again = {"allocation": {"ETH": "1.0", "BTC": 2.0, "X": None}, "initial_capital": 1.5, "new": 1}
    assert of_wallet(desk, "o", "OPEN", wallet_type="VIRTUAL", configuration=again) == {}
    assert desk.model.counts["transactions", "duplicate"] == 1
    of_wallet(desk, "c", "CONFIGURE")
    nothing = {"initial_capital": "0", "allocation": {}}
    assert of_wallet(desk, "c", "CONFIGURE", wallet_type=None, configuration=nothing) == {}
    assert desk.model.counts["transactions", "duplicate"] == 2
