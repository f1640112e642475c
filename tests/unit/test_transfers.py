"""Transfers between users, worked out by hand: kernel and reference side by side, each user on an own partition."""

from __future__ import annotations

import json
from typing import Any

import pytest

from assetstream.models.decode import decode_transactions, decode_transfers
from assetstream.models.ledger import apply_transactions
from assetstream.models.outcomes import legs_of, outcome_values
from assetstream.models.records import records_of
from assetstream.models.reference import Reference
from assetstream.models.state import new_account_state, rebuild
from assetstream.models.transfers import apply_transfers, messages_of
from assetstream.models.wallet_events import with_currencies

NOW_MS = 1_800_000_000_000
HOUR_US = 3600 * 10**6
PARTITIONS = {"ann": 0, "bob": 1}
Told = tuple[str, str, str, str | None, str, dict[str, str]]


class Desk:
    """Both partitions, and what is on its way between them; the kernel has to put out what the reference does."""

    def __init__(self) -> None:
        self.states = {user: new_account_state(b"USD", 100) for user in PARTITIONS}
        self.model = Reference(id_memory=100)
        self.offset = 0
        self.on_the_way: list[tuple[bytes, bytes]] = []

    def event(self, user: str, identity: str, kind: str, amount: str | None, **fields: Any) -> list[Told]:
        """What is told of a wallet event: (user, id, status, code, available, postings)."""
        event = {
            "transaction_id": identity,
            "user_id": user,
            "wallet_id": "w",
            "type": kind,
            "status": "COMPLETED",
            "asset": "USD",
            "amount": amount,
            "occurred_at": "2026-03-02T09:00:00Z",
            **fields,
        }
        return self._put("transactions", user, json.dumps(event).encode())

    def arrive(self) -> list[Told]:
        """All that is on its way, and what comes of it, arrives."""
        told: list[Told] = []
        while self.on_the_way:
            key, value = self.on_the_way.pop(0)
            told += self._put("transfers", key.decode(), value)
        return told

    def _put(self, topic: str, user: str, value: bytes) -> list[Told]:
        self.offset += 1
        partition, n, sent = PARTITIONS[user], len(self.model.outcomes), len(self.model.ledger.sent)
        records = records_of(topic, partition, [(user.encode(), value)], self.offset, NOW_MS)
        if topic == "transactions":
            batch: Any = decode_transactions(records, HOUR_US)
            result = apply_transactions(self.states[user], batch)
            batch = with_currencies(batch, result)
        else:
            batch = decode_transfers(records, HOUR_US)
            result = apply_transfers(self.states[user], batch)
        self.states[user] = rebuild(result.state)
        legs = legs_of(result.state, result.postings)
        values = outcome_values(batch, result.outcomes, result.postings, legs, partition)
        self.model.feed(topic, partition, self.offset, NOW_MS, user.encode(), value)
        assert [json.loads(each) for each in values] == self.model.outcomes[n:]
        messages = messages_of(result.state, batch, result.sent)
        assert [json.loads(each) for _, each in messages] == self.model.ledger.sent[sent:]
        self.on_the_way += messages
        return [
            (
                each["user_id"],
                each["transaction_id"],
                each["status"],
                each["code"],
                each["balance"]["available"],
                {posting["account"]: posting["amount"] for posting in each["postings"]},
            )
            for each in self.model.outcomes[n:]
        ]


@pytest.fixture
def desk() -> Desk:
    """Ann has 100 and has sent bob 30, for a fee of 1."""
    made = Desk()
    made.event("ann", "d", "DEPOSIT", "100")
    assert made.event("ann", "t", "TRANSFER", "30", fee="1", counterparty={"user_id": "bob", "wallet_id": "x"}) == [
        ("ann", "t", "COMPLETED", None, "69", {"wallet:ann/w": "-31", "fees": "1", "transit": "30"})
    ]
    assert made.arrive() == [
        ("bob", "ann/t", "COMPLETED", None, "30", {"wallet:bob/x": "30", "transit": "-30"}),
    ]
    return made


def test_what_was_sent_comes_back_with_its_fee(desk: Desk) -> None:
    assert desk.event("ann", "r", "REVERSAL", "30", reverses="t", fee="2") == [
        ("ann", "r", "PROCESSING", None, "69", {})
    ]
    # while bob is asked: no other reversal, and no other status
    assert desk.event("ann", "r2", "REVERSAL", "30", reverses="t")[0][2:4] == ("FAILED", "ALREADY_REVERSED")
    assert desk.event("ann", "r", "REVERSAL", "30", reverses="t", fee="2", status="CANCELLED") == []
    assert desk.model.dead_letters[-1]["reason"] == "illegal_transition"
    assert desk.event("ann", "r3", "REVERSAL", "30", reverses="r")[0][2:4] == ("FAILED", "UNKNOWN_REFERENCE")
    assert desk.arrive() == [
        ("bob", "ann/r", "COMPLETED", None, "0", {"wallet:bob/x": "-30", "transit": "30"}),
        ("ann", "r", "COMPLETED", None, "100", {"wallet:ann/w": "31", "fees": "-1", "transit": "-30"}),
    ]
    assert desk.event("ann", "r4", "REVERSAL", "30", reverses="t")[0][2:4] == ("FAILED", "ALREADY_REVERSED")
    assert desk.arrive() == []


def test_what_was_spent_cannot_come_back_until_it_is_there_again(desk: Desk) -> None:
    desk.event("bob", "f", "FEE", "0.01", wallet_id="x")
    assert desk.event("ann", "r", "REVERSAL", "30", reverses="t")[0][2] == "PROCESSING"
    assert desk.arrive() == [
        ("bob", "ann/r", "FAILED", "INSUFFICIENT_FUNDS", "29.99", {}),
        ("ann", "r", "FAILED", "INSUFFICIENT_FUNDS", "69", {}),
    ]
    desk.event("bob", "d", "DEPOSIT", "0.01", wallet_id="x")
    assert desk.event("ann", "r", "REVERSAL", "30", reverses="t") == []  # a duplicate
    assert desk.event("ann", "r2", "REVERSAL", "30", reverses="t")[0][2] == "PROCESSING"
    assert [told[2] for told in desk.arrive()] == ["COMPLETED", "COMPLETED"]


def test_what_does_not_fit_comes_back_and_cannot_be_claimed(desk: Desk) -> None:
    desk.event("bob", "rich", "DEPOSIT", "99999999999999999950", wallet_id="x")
    desk.event("ann", "t2", "TRANSFER", "25", fee="1", counterparty={"user_id": "bob", "wallet_id": "x"})
    # ann takes it back before she knows that bob could not take it
    assert desk.event("ann", "r", "REVERSAL", "25", reverses="t2")[0][2] == "PROCESSING"
    bob = "99999999999999999980"
    assert desk.arrive() == [
        ("bob", "ann/t2", "FAILED", "NOT_ALLOWED", bob, {}),
        ("bob", "ann/r", "FAILED", "NOT_ALLOWED", bob, {}),
        ("ann", "ann/t2/returned", "COMPLETED", None, "68", {"wallet:ann/w": "25", "transit": "-25"}),
        ("ann", "r", "FAILED", "NOT_ALLOWED", "68", {}),
    ]
    assert desk.event("ann", "r2", "REVERSAL", "25", reverses="t2")[0][2:4] == ("FAILED", "ALREADY_REVERSED")
    assert desk.arrive() == []


def test_a_pending_transfer_is_sent_when_it_is_completed(desk: Desk) -> None:
    to_bob = {"counterparty": {"user_id": "bob", "wallet_id": "y"}}
    assert desk.event("ann", "p", "TRANSFER", "60", **to_bob, status="PENDING")[0][4] == "9"
    assert desk.arrive() == []
    assert desk.event("ann", "q", "TRANSFER", "60", **to_bob)[0][2:4] == ("FAILED", "INSUFFICIENT_FUNDS")
    assert desk.event("ann", "p", "TRANSFER", "60", **to_bob) == [
        ("ann", "p", "COMPLETED", None, "9", {"wallet:ann/w": "-60", "transit": "60"})
    ]
    assert desk.arrive() == [("bob", "ann/p", "COMPLETED", None, "60", {"wallet:bob/y": "60", "transit": "-60"})]
    # a counterparty of something else than a TRANSFER means nothing
    assert desk.event("ann", "d2", "DEPOSIT", "1", **to_bob)[0][2:5] == ("COMPLETED", None, "10")
    assert desk.event("ann", "r", "REVERSAL", "1", reverses="d2")[0][2:5] == ("COMPLETED", None, "9")
    assert desk.arrive() == []
