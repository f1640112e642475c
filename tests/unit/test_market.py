"""The simulated market: the same messages for the same seed, good ones good, bad ones of every kind."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from assetstream.models.market import START, Message, market
from assetstream.models.messages import TransactionStatus, TransactionType
from assetstream.models.reference import Reference

NOW_MS = int(START.timestamp() * 1000) + 30 * 86_400_000


def digest(messages: list[Message]) -> str:
    return hashlib.sha256(repr(messages).encode()).hexdigest()


def judged(messages: list[Message]) -> Reference:
    model = Reference()
    for offset, (topic, key, value) in enumerate(messages):
        model.feed(topic, 0, offset, NOW_MS, key, value)
    return model


@pytest.fixture(scope="module")
def clean() -> Reference:
    return judged(list(islice(market(30, 20, 1), 25_000)))


@pytest.fixture(scope="module")
def dirty() -> Reference:
    return judged(list(islice(market(30, 20, 1, bad=0.2), 10_000)))


def test_same_seed_same_messages() -> None:
    first, again, other = (list(islice(market(20, 12, seed, bad=0.1), 5_000)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_messages_do_not_change_between_machines_and_versions() -> None:
    """Change the digest when you mean to change the market: recorded runs depend on it."""
    assert (
        digest(list(islice(market(20, 12, 7, bad=0.1), 5_000)))
        == "a472f0c104a924a313a654a4e7c9b7b116f4fac85bc4cf0aff9a922744c73e36"
    )


def test_the_head_is_limits_then_prices_then_deposits() -> None:
    topics = [topic for topic, _, _ in islice(market(30, 20), 40 + 23 + 30)]
    assert topics == ["risk_limits"] * 40 + ["prices"] * 23 + ["transactions"] * 30


def test_every_message_of_a_clean_market_is_applied(clean: Reference) -> None:
    assert {result for _, result in clean.counts} == {"applied"}
    assert {topic for topic, _ in clean.counts} == {"trades", "prices", "risk_limits", "transactions"}


def test_there_is_something_to_see(clean: Reference) -> None:
    alerts = Counter(alert["severity"] for alert in clean.alerts)
    assert 0.005 < len(clean.alerts) / len(clean.fills) < 0.05
    assert alerts["WARNING"] > 20
    assert alerts["CRITICAL"] > 20
    assert {a["type"] for a in clean.alerts} == {"POSITION_LIMIT", "EXPOSURE_LIMIT", "LOSS_LIMIT"}
    quantities = [float(position["quantity"]) for position in clean.positions.values()]
    assert min(quantities) < 0 < max(quantities)
    flips = sum(
        f["fill_realized_pnl"] != "0" and float(f["position_quantity"]) * (1 if f["side"] == "BUY" else -1) > 0
        for f in clean.fills
    )
    assert flips > 1000
    assert {position["currency"] for position in clean.positions.values()} == {"USD", "EUR", "GBP", "JPY"}
    assert all(clean.update(*key)["complete"] for key in clean.portfolios)
    # its prices are a month older than what the records say
    refusals = {"INSUFFICIENT_FUNDS", "ALREADY_REVERSED", "WALLET_CLOSED", "NOT_ALLOWED", "NO_RATE"}
    assert {outcome["code"] for outcome in clean.outcomes} == {None, *refusals}
    assert {outcome["type"] for outcome in clean.outcomes} == set(TransactionType)
    assert {outcome["status"] for outcome in clean.outcomes} == set(TransactionStatus)
    assert any(balance["locked"] != "0" for balance in clean.balances.values())
    assert any(fill["fee"].startswith("-") for fill in clean.fills)


def test_some_positions_are_in_another_currency_than_their_mark(clean: Reference) -> None:
    converted = {
        position["currency"]
        for (_, _, symbol), position in clean.positions.items()
        if clean.marks[symbol].fields["currency"] != position["currency"]
    }
    assert converted == {"USD"}


def test_some_conversions_are_done_at_the_mark() -> None:
    model = Reference(conversion_max_age_s=30 * 86_400, judging=False)
    for offset, (topic, key, value) in enumerate(islice(market(30, 20, 1), 25_000)):
        model.feed(topic, 0, offset, NOW_MS, key, value)
    done = [each for each in model.outcomes if each.get("rate_as_of")]
    assert len(done) > 10
    assert all(0.8 < float(each["rate"]) < 1 for each in done)


def test_bad_messages_are_of_every_kind(dirty: Reference) -> None:
    seen = set(dirty.counts)
    for topic in ("trades", "transactions", "risk_limits", "prices"):
        assert {(topic, r) for r in ("malformed", "invalid", "out_of_range", "key_mismatch")} <= seen
    assert {
        ("trades", "duplicate"),
        ("trades", "conflict"),
        ("trades", "currency_mismatch"),
        ("transactions", "duplicate"),
        ("transactions", "conflict"),
        ("transactions", "illegal_transition"),
        ("prices", "duplicate"),
        ("prices", "ignored"),
        ("prices", "currency_mismatch"),
        ("risk_limits", "ignored"),
    } <= seen
    share = sum(n for (_, result), n in dirty.counts.items() if result != "applied") / 10_000
    assert 0.17 < share < 0.22


def test_the_nasty_ones_are_there(dirty: Reference) -> None:
    values = [letter["value"] for letter in dirty.dead_letters]
    assert None in values
    assert max(len(value or "") for value in values) > 1_398_000  # 1 MiB in base64
    details = " ".join(dirty.details.values())
    for words in ("nested too deeply", "codec can't decode", "years 1970–2299", "notional of 10^20"):
        assert words in details
    assert dirty.update("absurd", "p")["unpriced"] == ["ABSURD"]


def test_bad_messages_leave_the_market_as_it_is(dirty: Reference) -> None:
    """Nothing of what is applied comes from a bad message, but for the user `absurd` and their symbol."""
    ids = [fill["trade_id"] for fill in dirty.fills if fill["user_id"] != "absurd"]
    assert len(set(ids)) == len(ids)
    assert all(trade_id.startswith("t1-") for trade_id in ids)


def test_times_are_steps_from_the_start() -> None:
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)
    messages = list(islice(market(2, 3, start=start, step=timedelta(milliseconds=250)), 1_000))
    names = {
        "trades": "executed_at",
        "prices": "as_of",
        "risk_limits": "updated_at",
        "transactions": "occurred_at",
    }
    times = [datetime.fromisoformat(json.loads(value or b"")[names[topic]]) for topic, _, value in messages]
    assert times == [start + timedelta(milliseconds=250) * (i + 1) for i in range(1_000)]
    other = {json.loads(value or b"").get("trade_id") for _, _, value in islice(market(2, 3), 1_000)}
    ids = {json.loads(value or b"").get("trade_id") for _, _, value in messages}
    assert other & ids == {None}


@pytest.mark.parametrize(
    "arguments",
    [
        {"users": 0},
        {"symbols": 0},
        {"bad": 1.5},
        {"bad": -0.1},
        {"start": datetime(2026, 1, 1)},
        {"step": timedelta(0)},
    ],
)
def test_what_makes_no_market(arguments: dict) -> None:
    with pytest.raises(ValueError):
        market(**arguments)


def test_a_market_of_one() -> None:
    assert {r for _, r in judged(list(islice(market(1, 1, bad=0.5), 2_000))).counts} >= {"applied", "duplicate"}


def test_it_is_fast_enough_to_load_a_worker() -> None:
    began = time.process_time()
    for _ in islice(market(1000, 100), 50_000):
        pass
    assert 50_000 / (time.process_time() - began) > 40_000  # 130,000/s alone on the machine
