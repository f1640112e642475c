"""Arrow batches against values written out by hand."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetstream.models.encode import Names, cause_topics, encode_alerts, names_of
from assetstream.models.outcomes import BalanceName, Leg
from assetstream.models.outputs import ALERT, CHANGE, FILL, NO_TIME, OUTCOME, POSTING, UPDATE
from assetstream.models.records import records_of
from assetstream.models.verdicts import Verdict
from assetstream.sinks import batches
from assetstream.sinks.schema import TABLES

D = Decimal
TOPICS = cause_topics("p-")
T0 = 1_772_442_000_000_000  # 2026-03-02T09:00:00Z
AT = datetime(2026, 3, 2, 9, tzinfo=UTC)


def limbs(*values: str) -> np.ndarray:
    """Decimals as uint64[n, 2]."""
    whole = [int(Fraction(value) * 10**18) for value in values]
    return np.array([[w & (2**64 - 1), (w >> 64) & (2**64 - 1)] for w in whole], np.uint64)


def put(rows: np.ndarray, name: str, *values: str) -> None:
    """Decimals into two fields of structured rows."""
    pairs = limbs(*values)
    rows[f"{name}_lo"], rows[f"{name}_hi"] = pairs[:, 0], pairs[:, 1].view(np.int64)


def spans(*columns: list[str | None]) -> dict[str, np.ndarray]:
    """`data`, `text_at`, `text_len` of a batch with these text columns."""
    raw = [[None if t is None else t.encode() for t in column] for column in columns]
    sizes = np.array([[-1 if t is None else len(t) for t in column] for column in raw], np.int32)
    ends = np.cumsum(np.maximum(sizes, 0).reshape(-1), dtype=np.int64).reshape(sizes.shape)
    data = np.frombuffer(b"".join(t for column in raw for t in column if t), np.uint8)
    return dict(data=data, text_at=ends - np.maximum(sizes, 0), text_len=sizes)


def trades() -> SimpleNamespace:
    """Three trades; the middle one was rejected."""
    return SimpleNamespace(
        records=records_of("trades", 3, [(b"u1", b"x")] * 3, first_offset=100),
        **spans(
            ["t1", "t2", "t3"],
            ["u1", "u1", "ü"],
            ["p", "p", "q"],
            ["w", "w", ""],
            ["BTC/USD", "X", "AAPL"],
            ["USD", "X", "EUR"],
            [None, "o2", "o3"],
            ["broker", None, None],
        ),
        quantity=limbs("1.5", "9", "20000000000"),
        price=limbs("0.000000000000000001", "9", "3"),
        fee=limbs("-0.25", "9", "0"),
        executed_at=np.array([T0, 0, T0 + 1]),
        side=np.array([0, 0, 1], np.uint8),
        asset_type=np.array([255, 0, 2], np.uint8),
    )


def test_fills_hold_the_trade_and_the_position_after_it() -> None:
    rows = np.zeros(2, FILL)
    rows["message"] = [0, 2]
    rows["has_average_price"] = [1, 0]
    for k, name in enumerate(
        ["notional", "fill_realized_pnl", "position_quantity", "position_cost_basis", "position_average_price",
         "position_realized_pnl", "position_fees"]
    ):  # fmt: skip
        put(rows, name, f"-{k}.5", f"{k}")
    batch = batches.fills(trades(), rows)
    batch.validate(full=True)
    assert batch.schema == TABLES["fills"].arrow
    first, second = batch.to_pylist()
    assert first == {
        "trade_id": "t1",
        "user_id": "u1",
        "portfolio_id": "p",
        "wallet_id": "w",
        "symbol": "BTC/USD",
        "currency": "USD",
        "side": "BUY",
        "quantity": D("1.5"),
        "price": D("0.000000000000000001"),
        "fee": D("-0.25"),
        "executed_at": AT,
        "order_id": None,
        "broker": "broker",
        "asset_type": None,
        "notional": D("-0.5"),
        "fill_realized_pnl": D("-1.5"),
        "position_quantity": D("-2.5"),
        "position_cost_basis": D("-3.5"),
        "position_average_price": D("-4.5"),
        "position_realized_pnl": D("-5.5"),
        "position_fees": D("-6.5"),
        "source_topic": "trades",
        "source_partition": 3,
        "source_offset": 100,
    }
    assert second["trade_id"] == "t3"
    assert second["user_id"] == "ü"
    assert second["wallet_id"] == ""
    assert second["side"] == "SELL"
    assert second["asset_type"] == "STOCK"
    assert (second["order_id"], second["broker"]) == ("o3", None)
    assert second["quantity"] == D("20000000000")
    assert second["position_average_price"] is None
    assert second["position_fees"] == D(6)
    assert second["source_offset"] == 102


def test_prices() -> None:
    batch = SimpleNamespace(
        records=records_of("prices", 0, [(b"A", b"x")] * 2, first_offset=7),
        **spans(["A", "EUR/USD"], ["USD", "USD"], [None, "ecb"]),
        price=limbs("1", "1.1"),
        bid=limbs("0", "1.09"),
        ask=limbs("0", "1.11"),
        has_bid=np.array([0, 1], np.uint8),
        has_ask=np.array([0, 1], np.uint8),
        as_of=np.array([T0, T0]),
    )
    made = batches.prices(batch, np.array([1, 0]))
    made.validate(full=True)
    source = {"source_topic": "prices", "source_partition": 0}
    assert made.to_pylist() == [
        {"symbol": "EUR/USD", "price": D("1.1"), "currency": "USD", "as_of": AT, "bid": D("1.09"), "ask": D("1.11"),
         "source": "ecb", **source, "source_offset": 8},
        {"symbol": "A", "price": D(1), "currency": "USD", "as_of": AT, "bid": None, "ask": None, "source": None,
         **source, "source_offset": 7},
    ]  # fmt: skip


def test_portfolio_updates_name_their_unpriced_symbols() -> None:
    names = names_of([b"u", b"p", b"q", b"AAA", b"BBB", b"CCC"])
    rows = np.zeros(3, UPDATE)
    rows["sequence"] = [5, 1, 2]
    rows["unpriced_at"], rows["unpriced_n"] = [2, 0, 0], [1, 0, 2]
    rows["open_positions"] = [1, 0, 2]
    rows["as_of"] = T0
    rows["cause_topic"], rows["cause_partition"], rows["cause_offset"] = [0, 2, 3], [1, 1, 6], [10, 11, 12]
    put(rows, "market_value", "100", "0", "-3.5")
    put(rows, "gross_exposure", "100", "0", "3.5")
    user, portfolio = np.array([0, 0, 0], np.int32), np.array([1, 2, 1], np.int32)
    made = batches.portfolio_updates(rows, np.array([3, 4, 5], np.int32), names, user, portfolio, TOPICS, "USD")
    made.validate(full=True)
    assert made["unpriced"].to_pylist() == [["CCC"], [], ["AAA", "BBB"]]
    assert made["complete"].to_pylist() == [False, True, False]
    assert made["portfolio_id"].to_pylist() == ["p", "q", "p"]
    assert made["market_value"].to_pylist() == [D(100), D(0), D("-3.5")]
    assert made["gross_exposure"].to_pylist() == [D(100), D(0), D("3.5")]
    assert made["base_currency"].to_pylist() == ["USD"] * 3
    assert made["source_topic"].to_pylist() == ["p-trades", "p-risk_limits", "p-prices"]
    assert made["source_partition"].to_pylist() == [1, 1, 6]
    assert made["sequence"].to_pylist() == [5, 1, 2]


def test_risk_alerts_carry_the_id_and_message_that_were_published() -> None:
    names = names_of([b"u", b"p", b"BTC/USD"])
    rows = np.zeros(2, ALERT)
    rows["symbol"], rows["subject"], rows["type"] = [2, -1], [0, 3], [0, 2]
    rows["severity"], rows["line"], rows["has_limit"] = [2, 0], [100, 90], [1, 0]
    rows["is_resolved"], rows["number"] = [0, 1], [1, 42]
    rows["created_at"] = T0
    rows["cause_topic"], rows["cause_partition"], rows["cause_offset"] = [3, 2], 4, [9, 10]
    put(rows, "value", "1000.5", "-7")
    put(rows, "limit", "1000", "0")
    user, portfolio = np.zeros(2, np.int32), np.ones(2, np.int32)
    encoded = encode_alerts(rows, names, user, portfolio, TOPICS, "USD")
    made = batches.risk_alerts(rows, encoded, names, user, portfolio, TOPICS)
    made.validate(full=True)
    first, second = made.to_pylist()
    assert first == {
        "alert_id": "u/p/POSITION_LIMIT/BTC/USD/1",
        "user_id": "u",
        "portfolio_id": "p",
        "type": "POSITION_LIMIT",
        "severity": "CRITICAL",
        "symbol": "BTC/USD",
        "message": "POSITION_LIMIT of BTC/USD rose to CRITICAL: 1000.5 against limit 1000 USD",
        "current_value": D("1000.5"),
        "limit_value": D(1000),
        "threshold_percent": D(100),
        "is_resolved": False,
        "action": "NONE",
        "created_at": AT,
        "source_topic": "p-prices",
        "source_partition": 4,
        "source_offset": 9,
    }
    assert second["alert_id"] == "u/p/LOSS_LIMIT/daily/42"
    assert (second["symbol"], second["limit_value"]) == (None, None)
    assert (second["severity"], second["is_resolved"]) == ("INFO", True)
    assert second["threshold_percent"] == D(90)
    assert second["message"].startswith("LOSS_LIMIT daily is resolved: -7 USD")


def wallet_events() -> SimpleNamespace:
    none = [None, None]
    return SimpleNamespace(
        records=records_of("transactions", 1, [(b"u", b"x")] * 2, first_offset=50),
        **spans(["d1", "f1"], ["u", "u"], ["w", "w"], ["USD", "USD"], ["e-1", None], ['"wire"', None], *[none] * 6),
        amount=limbs("100", "5"),
        fee=limbs("1", "0"),
        occurred_at=np.array([T0, T0]),
        type=np.array([0, 4], np.uint8),
    )


def test_transactions_are_outcomes_with_the_balance_after() -> None:
    rows = np.zeros(2, OUTCOME)
    rows["message"], rows["status"], rows["code"] = [0, 1], [2, 3], [0, 1]
    put(rows, "total", "99", "99")
    put(rows, "available", "90", "90")
    put(rows, "locked", "9", "9")
    rows["sequence"], rows["tells"], rows["resets"] = [5, 6], [0, 2], [0, 3]
    rows["rate_as_of"] = [NO_TIME, 0]  # no rate, so no time of it either
    made = batches.transactions(wallet_events(), rows)
    made.validate(full=True)
    first, second = made.to_pylist()
    assert first == {
        "transaction_id": "d1",
        "user_id": "u",
        "wallet_id": "w",
        "external_id": "e-1",
        "payment_method": '"wire"',
        "type": "DEPOSIT",
        "asset": "USD",
        "amount": D(100),
        "fee": D(1),
        "status": "COMPLETED",
        "code": None,
        "balance_total": D(99),
        "balance_available": D(90),
        "balance_locked": D(9),
        "balance_sequence": 5,
        "rate": None,
        "rate_as_of": None,
        "spread_bps": None,
        "occurred_at": AT,
        "wallet_type": None,
        "resets": None,
        "source_topic": "transactions",
        "source_partition": 1,
        "source_offset": 50,
    }
    assert (second["type"], second["status"], second["code"]) == ("FEE", "FAILED", "INSUFFICIENT_FUNDS")
    assert (second["external_id"], second["rate_as_of"]) == (None, None)
    assert (second["wallet_type"], second["resets"]) == ("VIRTUAL", 3)


def test_transactions_say_at_what_a_conversion_was_done() -> None:
    rows = np.zeros(2, OUTCOME)
    rows["message"] = [0, 1]
    put(rows, "rate", "0.92", "1.5")
    put(rows, "spread_bps", "12.5", "0")
    rows["rate_as_of"] = [T0, NO_TIME]
    made = batches.transactions(wallet_events(), rows)
    made.validate(full=True)
    names = ("rate", "rate_as_of", "spread_bps")
    assert [tuple(each[name] for name in names) for each in made.to_pylist()] == [
        (D("0.92"), AT, D("12.5")),
        (D("1.5"), None, D(0)),
    ]


def test_ledger_entries_name_their_accounts() -> None:
    rows = np.zeros(3, POSTING)
    rows["message"], rows["entry"] = [0, 0, 1], [0, 1, 0]
    put(rows, "amount", "99", "-99", "-5")
    legs = [Leg("wallet:u/w", "USD"), Leg('external:"wïre"', "USD"), Leg("exchange", "BTC")]
    made = batches.ledger_entries(wallet_events(), rows, legs)
    made.validate(full=True)
    assert made["account"].to_pylist() == [leg.account for leg in legs]
    assert made["asset"].to_pylist() == ["USD", "USD", "BTC"]
    assert made["amount"].to_pylist() == [D(99), D(-99), D(-5)]
    assert made["entry"].to_pylist() == [0, 1, 0]
    assert made["transaction_id"].to_pylist() == ["d1", "d1", "f1"]
    assert made["source_offset"].to_pylist() == [50, 50, 51]


def test_balance_changes_name_whose_they_are() -> None:
    rows = np.zeros(1, CHANGE)
    rows["message"] = 1
    put(rows, "total", "9")
    put(rows, "available", "8")
    put(rows, "locked", "1")
    rows["sequence"] = 7
    made = batches.balance_changes(wallet_events(), rows, [BalanceName("u", "x", "BTC")])
    made.validate(full=True)
    assert made.to_pylist() == [
        {"user_id": "u", "wallet_id": "x", "asset": "BTC", "transaction_id": "f1", "total": D(9), "available": D(8),
         "locked": D(1), "sequence": 7, "occurred_at": AT, "source_topic": "transactions", "source_partition": 1,
         "source_offset": 51}
    ]  # fmt: skip


def test_dead_letters_keep_every_byte() -> None:
    records = records_of("prices", 2, [(b"\xff\0", None), (b"k", b"ok"), (None, b"\x80'\n")], first_offset=5)
    made = batches.dead_letters(
        records, [0, 2], [Verdict.MALFORMED, Verdict.KEY_MISMATCH], ["empty", "it's"], np.array([T0, T0])
    )
    made.validate(full=True)
    source = {"source_topic": "prices", "source_partition": 2}
    assert made.to_pylist() == [
        {"dead_letter_id": "prices-2-5", "topic": "prices", "partition": 2, "offset": 5,
         "key": base64.b64encode(b"\xff\0").decode(), "value": None, "reason": "malformed", "detail": "empty",
         "rejected_at": AT, **source, "source_offset": 5},
        {"dead_letter_id": "prices-2-7", "topic": "prices", "partition": 2, "offset": 7, "key": None,
         "value": base64.b64encode(b"\x80'\n").decode(), "reason": "key_mismatch", "detail": "it's",
         "rejected_at": AT, **source, "source_offset": 7},
    ]  # fmt: skip


texts = st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=20)


@given(texts, st.data())
def test_text_is_what_the_spans_say(values: list[str | None], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(-1, len(values) - 1), max_size=30))
    made = spans(values)
    names = Names(made["data"], made["text_at"][0], made["text_len"][0])
    picked = batches.text(names, np.array(index, np.int64))
    picked.validate(full=True)
    assert picked.to_pylist() == [None if i < 0 else values[i] for i in index]
    assert batches.text(names).to_pylist() == values


@given(st.lists(st.integers(-(10**38) + 1, 10**38 - 1), max_size=10))
def test_decimals_are_arrows_own_bytes(units: list[int]) -> None:
    pairs = np.array([[u & (2**64 - 1), (u >> 64) & (2**64 - 1)] for u in units], np.uint64).reshape(-1, 2)
    assert [Fraction(d) * 10**18 for d in batches.decimals(pairs).to_pylist()] == units


def test_constant() -> None:
    assert batches.constant("ab", 3).to_pylist() == ["ab"] * 3
    assert batches.constant("", 2).to_pylist() == ["", ""]
    assert batches.constant("x", 0).to_pylist() == []


def fills_of(n: int) -> pa.RecordBatch:
    """A batch of n fills, trade ids t0, t1, …"""
    batch, rows = trades(), np.zeros(n, FILL)
    made = batches.fills(batch, rows)
    return made.set_column(0, made.schema.field(0), pa.array([f"t{i}" for i in range(n)], pa.utf8()))


def test_a_serialised_batch_comes_back_and_any_arrow_reader_reads_it() -> None:
    batch = fills_of(3)
    (message,) = batches.serialize("fills", batch)
    assert batches.deserialize(message).equals(batch)
    assert pa.ipc.open_stream(message).read_all().equals(pa.Table.from_batches([batch]))


def test_a_large_batch_becomes_several_messages_in_order() -> None:
    batch = fills_of(1000)
    messages = batches.serialize("fills", batch, limit=50_000)
    assert len(messages) > 4
    assert max(map(len, messages)) <= 50_000
    rows = [t for message in messages for t in batches.deserialize(message)["trade_id"].to_pylist()]
    assert rows == [f"t{i}" for i in range(1000)]


def test_no_rows_are_no_message_and_a_foreign_batch_is_refused() -> None:
    assert batches.serialize("fills", fills_of(0)) == []
    with pytest.raises(ValueError, match="not a batch of prices"):
        batches.serialize("prices", fills_of(1))


def test_combine_is_one_batch_also_across_versions() -> None:
    messages = [m for n in (2, 3) for m in batches.serialize("fills", fills_of(n))]
    stream, rows = batches.combine(messages)
    assert rows == 5
    assert batches.deserialize(stream)["trade_id"].to_pylist() == ["t0", "t1", "t0", "t1", "t2"]

    newer = fills_of(1).append_column(pa.field("venue", pa.utf8()), pa.array(["X"]))
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, newer.schema) as writer:
        writer.write_batch(newer)
    stream, rows = batches.combine([messages[0], out.getvalue().to_pybytes()])
    assert rows == 3
    assert batches.deserialize(stream)["venue"].to_pylist() == [None, None, "X"]
