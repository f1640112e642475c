"""Holds that expire, worked out by hand: kernel and reference side by side, restored after every step."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from assetstream.models.agenda import Agenda, count_due, cross_out, earliest, put_down, sort_heap
from assetstream.models.clock import apply_ticks, next_due
from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import apply_transactions
from assetstream.models.outcomes import legs_of, outcome_values
from assetstream.models.records import records_of
from assetstream.models.reference import Reference
from assetstream.models.state import agenda_of, new_account_state, rebuild, reserve
from assetstream.models.wallet_events import with_currencies

HOUR_US = 3600 * 10**6
TEN = int(datetime(2026, 3, 2, 10, tzinfo=UTC).timestamp() * 1000)
#: what is told: (id, status, code, available, locked, occurred_at)
Told = tuple[str, str, str | None, str, str, str]


def at(ms: float) -> str:
    """So many milliseconds after ten."""
    return datetime.fromtimestamp((TEN + ms) / 1000, UTC).isoformat(timespec="microseconds")


class Desk:
    """Ann's wallet, with 100 in it; the kernel has to put out what the reference does."""

    def __init__(self) -> None:
        self.state, self.model, self.offset = new_account_state(b"USD", 100), Reference(id_memory=100), 0
        self.event("d", "DEPOSIT", "100", "COMPLETED")

    def event(self, identity: str, kind: str, amount: str, status: str, **fields: Any) -> list[Told]:
        """What is told of a wallet event."""
        event = {
            "transaction_id": identity,
            "user_id": "ann",
            "wallet_id": "w",
            "type": kind,
            "status": status,
            "asset": "USD",
            "amount": amount,
            "occurred_at": "2026-03-02T09:00:00Z",
            **fields,
        }
        return self._take("transactions", b"ann", json.dumps(event).encode(), TEN)

    def hold(
        self, identity: str, expires_at: float, amount: str = "10", status: str = "PENDING", **fields: Any
    ) -> None:
        """A hold of ann's that expires so many milliseconds after ten."""
        (told,) = self.event(identity, "HOLD", amount, status, expires_at=at(expires_at), **fields)
        assert told[1:3] == (status, None)

    def tick(self, ms: int) -> list[Told]:
        """What is told at so many milliseconds after ten."""
        return self._take("clock", None, b'{"due":"2026-03-02T10:00:00Z"}', TEN + ms)

    @property
    def last_rejection(self) -> str:
        reason: str = self.model.dead_letters[-1]["reason"]
        return reason

    def _take(self, topic: str, key: bytes | None, value: bytes, timestamp_ms: int) -> list[Told]:
        self.offset += 1
        n = len(self.model.outcomes)
        records = records_of(topic, 0, [(key, value)], self.offset, timestamp_ms)
        batch: Any
        if topic == "clock":
            batch, result, _ = apply_ticks(self.state, records)
        else:
            batch = decode_transactions(records, HOUR_US)
            result = apply_transactions(self.state, batch)
            batch = with_currencies(batch, result)
        self.state = rebuild(result.state)
        legs = legs_of(result.state, result.postings)
        values = outcome_values(batch, result.outcomes, result.postings, legs, 0)
        self.model.feed(topic, 0, self.offset, timestamp_ms, key, value)
        told = self.model.outcomes[n:]
        assert [json.loads(each) for each in values] == told
        assert {each["cause"]["offset"] for each in told} <= {self.offset}
        due = self.model.ledger.due(0).values()
        assert next_due(self.state) == min(due, default=None)
        return [
            (
                each["transaction_id"],
                each["status"],
                each["code"],
                each["balance"]["available"],
                each["balance"]["locked"],
                each["occurred_at"],
            )
            for each in told
        ]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_hold_expires_at_the_first_tick_from_its_time_on(desk: Desk) -> None:
    desk.hold("h", 1500.001, fee="3")
    assert desk.tick(1499) == []
    assert desk.tick(1500) == []  # a microsecond too soon: Kafka's timestamps have milliseconds
    assert desk.tick(1501) == [("h", "CANCELLED", "EXPIRED", "100", "0", "2026-03-02T10:00:01.500001Z")]
    (outcome,) = [each for each in desk.model.outcomes if each["code"]]
    assert outcome == {
        "transaction_id": "h",
        "user_id": "ann",
        "wallet_id": "w",
        "type": "HOLD",
        "asset": "USD",
        "amount": "10",
        "fee": "3",
        "status": "CANCELLED",
        "code": "EXPIRED",
        "balance": {"total": "100", "available": "100", "locked": "0"},
        "postings": [],
        "occurred_at": "2026-03-02T10:00:01.500001Z",
        "journal": 3,
        "cause": {"topic": "clock", "partition": 0, "offset": 5},
    }
    assert desk.tick(5000) == []  # once


def test_a_wallet_is_reset_and_closed_when_its_holds_have_expired() -> None:
    desk = Desk()

    def of_wallet(identity: str, kind: str, **fields: Any) -> tuple[str, str | None]:
        ((_, status, code, *_),) = desk.event(identity, kind, "1", "COMPLETED", wallet_id="p", **fields)
        return status, code

    capital = {"wallet_type": "VIRTUAL", "configuration": {"initial_capital": "30"}}
    assert of_wallet("o", "OPEN", **capital) == ("COMPLETED", None)
    desk.hold("h", 1000, "30", wallet_id="p")
    desk.hold("late", 9000, "0.5")  # in another wallet
    assert desk.tick(999) == []
    assert of_wallet("r1", "RESET") == ("FAILED", "NOT_ALLOWED")
    assert of_wallet("c1", "CLOSE") == ("FAILED", "NOT_ALLOWED")
    assert desk.tick(1000) == [("h", "CANCELLED", "EXPIRED", "30", "0", "2026-03-02T10:00:01.000000Z")]
    assert desk.event("r1", "RESET", "1", "COMPLETED", wallet_id="p") == []  # a repeat: refused is final
    assert of_wallet("r2", "RESET") == ("COMPLETED", None)
    desk.event("w", "WITHDRAWAL", "30", "COMPLETED", wallet_id="p")
    assert of_wallet("c2", "CLOSE") == ("COMPLETED", None)
    # what a closed wallet refuses never expires
    ((_, status, code, *_),) = desk.event("h2", "HOLD", "1", "PENDING", wallet_id="p", expires_at=at(2000))
    assert (status, code) == ("FAILED", "WALLET_CLOSED")
    assert desk.tick(3000) == []
    assert [each[0] for each in desk.tick(9000)] == ["late"]


def test_a_tick_at_the_very_time_will_do(desk: Desk) -> None:
    desk.hold("h", 1500)
    assert [told[0] for told in desk.tick(1500)] == ["h"]


def test_what_expired_is_final(desk: Desk) -> None:
    desk.hold("h", 0)
    desk.tick(0)
    for status in ("PROCESSING", "COMPLETED", "FAILED", "CANCELLED"):
        assert desk.event("h", "HOLD", "10", status, expires_at=at(0)) == []
        assert desk.last_rejection == "illegal_transition"
    assert desk.event("h", "HOLD", "11", "CANCELLED") == []
    assert desk.last_rejection == "conflict"
    # what was accepted is still a duplicate
    assert desk.event("h", "HOLD", "10", "PENDING", expires_at=at(0)) == []
    assert desk.model.counts["transactions", "duplicate"] == 1
    (refused,) = desk.event("r", "REVERSAL", "10", "COMPLETED", reverses="h")
    assert refused[1:3] == ("FAILED", "UNKNOWN_REFERENCE")


def test_after_a_long_time_all_that_is_due_comes_in_the_order_of_its_times(desk: Desk) -> None:
    desk.hold("later", 2000, "1")
    desk.hold("b", 1000, "2")
    desk.hold("first", 500, "3")
    desk.hold("a", 1000, "4")
    desk.hold("not-yet", 86_400_001, "5")
    told = desk.tick(86_400_000)
    # what is due at the same time: as it was accepted
    assert [(each[0], each[3], each[4]) for each in told] == [
        ("first", "88", "12"),
        ("b", "90", "10"),
        ("a", "94", "6"),
        ("later", "95", "5"),
    ]
    assert {each["cause"]["offset"] for each in desk.model.outcomes if each["code"]} == {desk.offset}


def test_rows_that_are_used_again_do_not_change_the_order(desk: Desk) -> None:
    desk.hold("x", 100, "1")
    desk.hold("one", 1000, "1")
    desk.hold("y", 100, "1")
    desk.event("y", "HOLD", "1", "COMPLETED", expires_at=at(100))
    desk.event("x", "HOLD", "1", "COMPLETED", expires_at=at(100))
    desk.hold("two", 1000, "1")  # in the row of x, before that of `one`
    desk.hold("three", 1000, "1")
    assert desk.state.agenda.count[0] == 3
    assert [told[0] for told in desk.tick(1000)] == ["one", "two", "three"]


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
def test_a_hold_that_ended_does_not_expire(desk: Desk, end: str) -> None:
    desk.hold("h", 1000)
    assert desk.event("h", "HOLD", "10", end, expires_at=at(1000)) == [
        ("h", end, None, "100", "0", "2026-03-02T09:00:00.000000Z")
    ]
    assert next_due(desk.state) is None
    assert desk.tick(2000) == []
    assert desk.model.counts["clock", "ignored"] == 1


def test_the_status_that_locks_says_when(desk: Desk) -> None:
    desk.hold("h", 1000)
    desk.hold("h", 9000, status="PROCESSING")  # too late to say something else
    desk.event("never", "HOLD", "5", "PENDING")
    desk.event("never", "HOLD", "5", "PROCESSING", expires_at=at(0))
    assert desk.tick(1000) == [("h", "CANCELLED", "EXPIRED", "95", "5", "2026-03-02T10:00:01.000000Z")]
    assert desk.tick(99_000) == []


def test_what_is_past_when_it_comes_is_locked_until_the_next_tick(desk: Desk) -> None:
    assert desk.tick(0) == []
    desk.hold("h", -1000, "60", status="PROCESSING")
    (refused,) = desk.event("i", "HOLD", "60", "PENDING", expires_at=at(-1000))
    assert refused[1:5] == ("FAILED", "INSUFFICIENT_FUNDS", "40", "60")
    assert desk.tick(0) == [("h", "CANCELLED", "EXPIRED", "100", "0", "2026-03-02T09:59:59.000000Z")]


def test_only_holds_that_lock_expire(desk: Desk) -> None:
    desk.event("w", "WITHDRAWAL", "10", "PENDING", expires_at=at(0))
    desk.event("c", "HOLD", "10", "COMPLETED", expires_at=at(0))
    assert next_due(desk.state) is None
    assert desk.tick(1000) == []
    assert desk.event("bad", "HOLD", "10", "PENDING", expires_at="2300-01-01T00:00:00Z") == []
    assert desk.last_rejection == "invalid"


def test_an_id_may_be_of_any_length(desk: Desk) -> None:
    ids = ["a" * n for n in (1, 7, 8, 9, 63, 64)]
    for place, identity in enumerate(ids):
        desk.hold(identity, place, "1")
    assert [told[0] for told in desk.tick(100)] == ids


def test_an_agenda_is_in_order_whatever_is_crossed_out() -> None:
    """The heap against a sorted list; counted, crossed out and sorted anew on the way."""
    state = reserve(new_account_state(b"USD", 10), agenda=200)
    agenda: Agenda = agenda_of(state)
    data, there = state.buffer, dict[int, tuple[int, int]]()
    for number in range(400):
        time_us = 1000 * (number * 7919 % 101)
        if number % 3 == 2:
            row = sorted(there)[number * 31 % len(there)]
            cross_out(agenda, row)
            del there[row]
        else:
            row = put_down(agenda, 1, time_us, number, data, 0, 0)
            assert row not in there
            there[row] = time_us, number
        if number % 50 == 0:
            sort_heap(agenda)
        assert earliest(agenda) == min(there.values(), default=(None,))[0]
        for limit in (-1, 0, 50, 100):
            assert count_due(agenda, limit) == sum(due <= 1000 * limit for due, _ in there.values())
    order = []
    while agenda.size[0]:
        row = int(agenda.heap[0])
        order.append(there.pop(row))
        cross_out(agenda, row)
    assert order == sorted(order)
    assert len(order) > 100
    assert not there
