"""Nasty inputs, one of each: the right reason in `dead_letters`, the message whole, and a worker that goes on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message
from tests.integration.pipeline import (
    Check,
    Pipeline,
    Record,
    logs_on_failure,  # noqa: F401
    pipeline,
    rows,
)

TRADE: dict[str, Any] = {
    "trade_id": "t",
    "user_id": "ann",
    "portfolio_id": "p",
    "wallet_id": "w",
    "symbol": "SAP",
    "currency": "EUR",
    "side": "BUY",
    "quantity": "2",
    "price": "10.5",
    "executed_at": "2026-03-02T09:00:00Z",
}
PRICE: dict[str, Any] = {"symbol": "SAP", "price": "11", "currency": "EUR", "as_of": "2026-03-02T09:00:00Z"}
LIMITS: dict[str, Any] = {
    "user_id": "ann",
    "portfolio_id": "p",
    "version": 1,
    "updated_at": "2026-03-02T09:00:00Z",
    "max_position_size": "1000",
}
EVENT: dict[str, Any] = {
    "transaction_id": "x",
    "user_id": "ann",
    "wallet_id": "w",
    "type": "DEPOSIT",
    "status": "COMPLETED",
    "asset": "USD",
    "amount": "100",
    "occurred_at": "2026-03-02T09:00:00Z",
}
MIB = 1 << 20
#: every byte there is, many times over, and nothing that looks like JSON
NOISE = bytes(i * 7 % 256 for i in range(256)) * (MIB // 256)


def text(fields: dict[str, Any], **other: Any) -> bytes:
    return json.dumps(fields | other, ensure_ascii=False).encode()


def trade(key: bytes | None = b"ann", **other: Any) -> Message:
    return "trades", key, text(TRADE, **other)


def price(key: bytes | None = b"SAP", **other: Any) -> Message:
    return "prices", key, text(PRICE, **other)


def limits(key: bytes | None = b"ann", **other: Any) -> Message:
    return "risk_limits", key, text(LIMITS, **other)


def event(key: bytes | None = b"ann", **other: Any) -> Message:
    return "transactions", key, text(EVENT, **other)


#: what must be good, so that conflicts and mismatches have something to be measured by
GOOD: list[Message] = [limits(), price(), trade(), event()]
GARBAGE: list[tuple[str, bytes | None]] = [
    ("malformed", None),
    ("malformed", b""),
    ("malformed", NOISE),
    ("malformed", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ("malformed", b'{"trade_id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("malformed", b'{"trade_id":"\xff\xfe\x80","user_id":"ann"}'),
    ("malformed", b'{"trade_id":"\xed\xa0\x80"}'),
    ("malformed", b'{"trade_id":"\\ud800"}'),
    ("malformed", b"[]"),
    ("malformed", b"null"),
    ("malformed", b'{"a":1}{"a":1}'),
    ("malformed", b'{"quantity":NaN}'),
    ("malformed", b'{"quantity":Infinity}'),
    ("malformed", b'{"quantity":01}'),
    ("malformed", b"\x00" * 100),
    ("malformed", b'{"trade_id":"a\nb"}'),
    ("invalid", b"{}"),
]
SPOILT: list[tuple[str, Message]] = [
    ("invalid", trade(executed_at="9999-12-31T23:59:59Z")),
    ("invalid", price(as_of="9999-01-01T00:00:00Z")),
    ("invalid", limits(version=2, updated_at="9999-01-01T00:00:00Z")),
    ("invalid", event(occurred_at="9999-01-01T00:00:00Z")),
    ("invalid", trade(executed_at="2290-01-01T00:00:00Z")),
    ("invalid", trade(executed_at="2026-03-02T09:00:00")),
    ("invalid", trade(executed_at=None)),
    ("invalid", trade(trade_id="it's")),
    ("invalid", trade(trade_id='say "hi"')),
    ("invalid", trade(trade_id="two\nlines")),
    ("invalid", trade(trade_id="t'; DROP TABLE fills; --")),
    ("invalid", trade(trade_id="t\x00")),
    ("invalid", trade(trade_id="ü")),
    ("invalid", trade(trade_id="t" * 65)),
    ("invalid", trade(trade_id="")),
    ("invalid", trade(trade_id=7)),
    ("invalid", trade(user_id="ann/bob")),
    ("invalid", event(wallet_id="w'); DROP TABLE transactions; --")),
    ("invalid", price(symbol="SAP'; --")),
    ("invalid", limits(portfolio_id='p"', version=2)),
    ("invalid", trade(quantity="0")),
    ("invalid", trade(quantity="-1")),
    ("invalid", trade(quantity="1e99999")),
    ("invalid", trade(quantity="1" * 65)),
    ("invalid", trade(quantity="٣")),
    ("invalid", trade(quantity=True)),
    ("invalid", trade(side="HODL")),
    ("invalid", trade(broker="b" * 1025)),
    ("invalid", limits(version="2")),
    ("invalid", limits(version=2, max_position_size="0")),
    ("invalid", event(amount="0")),
    ("invalid", event(fee="101")),
    ("out_of_range", trade(trade_id="big", quantity="1e19", price="1e19")),
    ("out_of_range", trade(trade_id="big", quantity="10000000000000000000", price=10**19)),
    ("out_of_range", trade(trade_id="big", quantity="1e20", price="1")),
    ("out_of_range", trade(trade_id="big", quantity="1e9999", price="1")),
    ("out_of_range", trade(trade_id="small", quantity="1e-19")),
    ("out_of_range", trade(trade_id="small", fee="0.1234567890123456789")),
    ("out_of_range", price(price="100000000000000000000")),
    ("out_of_range", event(amount="99999999999999999999.9999999999999999999")),
    ("out_of_range", limits(version=2, max_total_loss="1e20")),
    ("key_mismatch", trade(key=None, trade_id="k")),
    ("key_mismatch", trade(key=b"", trade_id="k")),
    ("key_mismatch", trade(key=b"bob", trade_id="k")),
    ("key_mismatch", trade(key=b"\xff\x00'\"\n", trade_id="k")),
    ("key_mismatch", price(key=None)),
    ("key_mismatch", price(key=b"sap")),
    ("key_mismatch", limits(key=b"bob", version=2)),
    ("key_mismatch", event(key=b"ann ", transaction_id="k")),
    ("conflict", trade(price="10.6")),
    ("conflict", trade(portfolio_id="q")),
    ("conflict", trade(broker="someone")),
    ("conflict", trade(executed_at="2026-03-02T09:00:00.000001Z")),
    ("conflict", event(amount="100.000000000000000001")),
    ("conflict", event(metadata={"a": "b"})),
    ("currency_mismatch", trade(trade_id="usd", currency="USD")),
    ("currency_mismatch", price(currency="USD", as_of="2026-03-02T10:00:00Z")),
    ("currency_mismatch", price(key=b"EUR/USD", symbol="EUR/USD", currency="EUR")),
    ("invalid", event(transaction_id="u", type="HOLD", expires_at="2300-01-01T00:00:00Z")),
    ("invalid", event(transaction_id="u", type="TRANSFER")),
    ("invalid", event(transaction_id="u", type="ADJUSTMENT", description="d")),
    ("illegal_transition", event(status="PENDING")),
    ("illegal_transition", event(status="FAILED")),
    # the first that applies: malformed, invalid, out_of_range, key_mismatch, conflict
    ("invalid", trade(key=None, quantity="0", price="1e30")),
    ("out_of_range", trade(key=b"bob", price="1e20")),
    ("key_mismatch", trade(key=b"bob", price="10.6")),
]
#: what says the same as something good in other words: duplicates, no dead letters
RESPELT: list[Message] = [
    trade(),
    trade(quantity=2, price="1.05e1"),
    trade(quantity="+002.000", price="10.50", fee="0", order_id=None, asset_type=None, unknown={"a": [1, "b"]}),
    trade(executed_at="2026-03-02T10:00:00.0000009+01:00"),
    ("trades", b"ann", text(TRADE, price="99")[:-1] + b', "price": "10.5"}'),  # of a repeated key the last counts
    ("trades", b"ann", json.dumps(TRADE, indent=4).replace("SAP", "\\u0053AP").encode()),
    event(amount="1e2", fee="0.0", metadata={}),
    event(occurred_at="2026-03-02T08:00:00-01:00", payment_method=None),
    price(price="11.000", bid=None),
]
IGNORED: list[Message] = [limits(max_position_size="1"), price(price="1", as_of="2026-03-02T08:59:59.999999Z")]
TOPICS = ("trades", "prices", "risk_limits", "transactions")


@pytest.fixture(scope="module")
def installation(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """All of the above, taken by one worker."""
    settings = stack.settings(topic_prefix="bad-messages.", clickhouse_database="bad_messages")
    with pipeline(settings, tmp_path_factory.mktemp("bad"), "worker") as running:
        running.publish(GOOD)
        running.settle()
        running.publish((topic, key, value) for _, value in GARBAGE for topic in TOPICS for key in (b"ann", None))
        running.publish(message for _, message in SPOILT)
        running.publish(RESPELT)
        running.publish(IGNORED)
        running.settle()
        running.feed()
        yield running


@pytest.fixture(scope="module")
def letters(installation: Pipeline) -> list[tuple[Record, dict[str, Any]]]:
    """Record and message of every dead letter."""
    return [(record, record.json) for record in installation.read("dead_letters")]


def reasons(letters: list[tuple[Record, dict[str, Any]]], message: Message) -> list[str]:
    """The reasons for which a message of these very bytes was rejected."""
    topic, key, value = message
    packed = [None if part is None else base64.b64encode(part).decode() for part in (key, value)]
    return [
        letter["reason"]
        for _, letter in letters
        if letter["topic"] == f"bad-messages.{topic}" and [letter["key"], letter["value"]] == packed
    ]


@pytest.mark.parametrize("at", range(len(GARBAGE)))
def test_garbage_is_malformed_on_every_topic(at: int, letters: list[tuple[Record, dict[str, Any]]]) -> None:
    reason, value = GARBAGE[at]
    for topic in TOPICS:
        for key in (b"ann", None):
            assert reasons(letters, (topic, key, value)) == [reason], (topic, key)


@pytest.mark.parametrize("at", range(len(SPOILT)))
def test_a_bad_message_has_its_reason(at: int, letters: list[tuple[Record, dict[str, Any]]]) -> None:
    reason, message = SPOILT[at]
    assert reasons(letters, message) == [reason], message


def test_details_name_the_field(letters: list[tuple[Record, dict[str, Any]]]) -> None:
    def detail(message: Message) -> str:
        value = base64.b64encode(message[2] or b"").decode()
        return next(letter["detail"] for _, letter in letters if letter["value"] == value)

    assert "executed_at" in detail(trade(executed_at="9999-12-31T23:59:59Z"))
    assert "trade_id" in detail(trade(trade_id="it's"))
    assert "max_position_size" in detail(limits(version=2, max_position_size="0"))
    assert "price" in detail(price(price="100000000000000000000"))
    assert "key" in detail(trade(key=b"bob", trade_id="k"))
    assert "currency" in detail(trade(trade_id="usd", currency="USD"))
    assert "expires_at" in detail(event(transaction_id="u", type="HOLD", expires_at="2300-01-01T00:00:00Z"))
    assert all(0 < len(letter["detail"]) < 2000 for _, letter in letters)


def test_nothing_else_was_rejected_and_nothing_lost(installation: Pipeline) -> None:
    worker = installation.workers[0]
    found = {tuple(dict(k).values()): int(v) for k, v in worker.samples("messages_total").items() if v}
    taken = {(topic, result): n for (result, topic), n in found.items()}
    assert taken == installation.reference.counts
    ticks = {result: n for (topic, result), n in taken.items() if topic == "clock"}
    assert ticks == {"applied": 1}, "the good trade settled long ago"
    assert sum(n for (_, result), n in taken.items() if result == "applied") == len(GOOD) + 1
    assert sum(n for (_, result), n in taken.items() if result == "duplicate") == len(RESPELT)
    assert sum(n for (_, result), n in taken.items() if result == "ignored") == len(IGNORED)
    assert sum(taken.values()) == len(GOOD) + 1 + 8 * len(GARBAGE) + len(SPOILT) + len(RESPELT) + len(IGNORED)


def test_topics_and_tables_hold_every_byte(installation: Pipeline) -> None:
    check = Check(installation)
    check.everything()
    with check.client() as client:
        database = installation.settings.clickhouse_database
        query = f"SELECT offset, value FROM {database}.dead_letters WHERE length(value) > 1000000"
        big = rows(client, query)
        assert [base64.b64decode(row["value"]) for row in big] == [NOISE] * 8


def test_the_worker_goes_on(installation: Pipeline) -> None:
    assert installation.workers[0].is_ready
    installation.publish([trade(trade_id="after", quantity="3"), event(transaction_id="after")])
    installation.settle()
    installation.feed()
    check = Check(installation)
    check.everything()
    assert check.reference.positions["ann", "p", "SAP"]["quantity"] == "5"
    assert check.reference.balances["ann", "w", "USD"]["available"] == "200"
