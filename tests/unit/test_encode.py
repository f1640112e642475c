"""Every output as JSON, field by field, against values made with Python's own Decimal and datetime."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assetstream.models import encode
from assetstream.models.outputs import ALERT, UPDATE, AlertType, Level, Subject

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_2299_US = (datetime(2300, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) - 1
NAMES = [b"u-1", b"growth", b"AAPL", b"EUR/USD", b"b:2.x_y", b"", b"U" * 64]
WIDE = Context(prec=60)
DECIMALS = [
    "market_value",
    "cost_basis",
    "realized_pnl",
    "unrealized_pnl",
    "fees",
    "total_pnl",
    "daily_pnl",
    "gross_exposure",
]

units = st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(10**20), 10**20) | st.sampled_from([0, 10**18, -5])
times = st.integers(0, YEAR_2299_US)
number = st.integers(0, 2**31 - 1)
big = st.integers(0, 2**63 - 1)


def plain(value: int) -> str:
    """A decimal of `value` units of 10^-18 as the contract writes it."""
    text = format(Decimal(value).scaleb(-18, WIDE), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso(us: int) -> str:
    return (EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def put(row: np.void, name: str, value: int) -> None:
    row[f"{name}_lo"] = value & (2**64 - 1)
    row[f"{name}_hi"] = value >> 64


def messages(encoded: encode.Encoded) -> list[dict]:
    data, ends = encoded
    starts = [0, *ends][:-1]
    assert len(data) == [0, *ends][-1]
    texts = [data[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=True)]
    assert all(text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) for text in texts)
    return [json.loads(text) for text in texts]


def int32(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "0.000000000000000001"),
        (-250_000_000_000_000_000, "-0.25"),
        (1_500_000_000_000_000_000, "1.5"),
        (100 * 10**18, "100"),
        (10**38 - 1, "99999999999999999999.999999999999999999"),
        (-(10**38) + 1, "-99999999999999999999.999999999999999999"),
        (2**64, "18.446744073709551616"),
        (-(2**64), "-18.446744073709551616"),
        (12_000_000_001 * 10**18 + 10**9, "12000000001.000000001"),
    ],
)
def test_decimals_are_written_plain(value: int, text: str) -> None:
    row = np.zeros(1, UPDATE)
    put(row[0], "fees", value)
    (message,) = messages(encode.encode_updates(row, int32([]), encode.names_of(NAMES), int32([0]), int32([1]), "USD"))
    assert message["fees"] == text == plain(value)


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01T00:00:00.000000Z",
        "2000-02-29T23:59:59.999999Z",
        "2026-03-02T09:00:00.000000Z",
        "2100-02-28T12:00:00.000001Z",
        "2100-03-01T00:00:00.000000Z",
        "2299-12-31T23:59:59.999999Z",
    ],
)
def test_times_are_written_with_six_digits(text: str) -> None:
    row = np.zeros(1, UPDATE)
    row["as_of"] = (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
    (message,) = messages(encode.encode_updates(row, int32([]), encode.names_of(NAMES), int32([0]), int32([1]), "USD"))
    assert message["as_of"] == text


update = st.tuples(
    st.lists(units, min_size=8, max_size=8),
    st.lists(st.sampled_from([2, 3, 6]), max_size=3),
    times,
    big,
    number,
    st.sampled_from(range(len(NAMES))),
    st.sampled_from(range(len(NAMES))),
)


@given(st.lists(update, max_size=4), st.sampled_from(["USD", "E" * 32]))
def test_updates_hold_what_the_rows_hold(cases: list, base: str) -> None:
    rows, unpriced = np.zeros(len(cases), UPDATE), []
    for row, (values, symbols, as_of, sequence, open_positions, *_) in zip(rows, cases, strict=True):
        for name, value in zip(DECIMALS, values, strict=True):
            put(row, name, value)
        row["as_of"], row["sequence"], row["open_positions"] = as_of, sequence, open_positions
        row["unpriced_at"], row["unpriced_n"] = len(unpriced), len(symbols)
        unpriced += symbols
    user, portfolio = int32([case[5] for case in cases]), int32([case[6] for case in cases])
    found = messages(encode.encode_updates(rows, int32(unpriced), encode.names_of(NAMES), user, portfolio, base))
    assert [list(m.items()) for m in found] == [
        [
            ("user_id", NAMES[u].decode()),
            ("portfolio_id", NAMES[p].decode()),
            ("base_currency", base),
            *((name, plain(value)) for name, value in zip(DECIMALS, values, strict=True)),
            ("open_positions", open_positions),
            ("complete", not symbols),
            ("unpriced", [NAMES[s].decode() for s in symbols]),
            ("as_of", iso(as_of)),
            ("sequence", sequence),
        ]
        for values, symbols, as_of, sequence, open_positions, u, p in cases
    ]


def alert(**fields: int) -> np.ndarray:
    row = np.zeros(1, ALERT)
    for name in ("value", "limit"):
        put(row[0], name, fields.pop(name))
    for name, value in fields.items():
        row[name] = value
    return row


CRITICAL = dict(
    type=AlertType.POSITION_LIMIT,
    subject=Subject.SYMBOL,
    symbol=2,
    severity=Level.CRITICAL,
    is_resolved=0,
    line=100,
    has_limit=1,
    number=3,
    value=1200 * 10**18,
    limit=1000 * 10**18,
    created_at=1_772_442_000_000_000,
    cause_topic=0,
    cause_partition=5,
    cause_offset=77,
)


def encode_one(**changes: int) -> dict:
    row = alert(**(CRITICAL | changes))
    topics = encode.cause_topics("t.")
    names = encode.names_of(NAMES)
    (message,) = messages(encode.encode_alerts(row, names, int32([0]), int32([1]), topics, "USD"))
    return message


def test_an_alert_as_the_contract_has_it() -> None:
    assert list(encode_one().items()) == [
        ("alert_id", "u-1/growth/POSITION_LIMIT/AAPL/3"),
        ("user_id", "u-1"),
        ("portfolio_id", "growth"),
        ("type", "POSITION_LIMIT"),
        ("severity", "CRITICAL"),
        ("symbol", "AAPL"),
        ("message", "POSITION_LIMIT of AAPL rose to CRITICAL: 1200 against limit 1000 USD"),
        ("current_value", "1200"),
        ("limit_value", "1000"),
        ("threshold_percent", "100"),
        ("is_resolved", False),
        ("action", "NONE"),
        ("created_at", "2026-03-02T09:00:00.000000Z"),
        ("cause", {"topic": "t.trades", "partition": 5, "offset": 77}),
    ]


def test_an_alert_whose_limit_is_gone() -> None:
    found = encode_one(severity=Level.OK, is_resolved=1, line=90, has_limit=0, cause_topic=2)
    assert (found["severity"], found["limit_value"], found["is_resolved"]) == ("INFO", None, True)
    assert found["message"] == "POSITION_LIMIT of AAPL is resolved: 1200 USD with no limit any more"
    assert found["cause"]["topic"] == "t.risk_limits"


@pytest.mark.parametrize(
    ("kind", "subject", "severity", "line", "alert_id", "message"),
    [
        (1, 1, 1, 90, "u-1/growth/EXPOSURE_LIMIT/-/3", "EXPOSURE_LIMIT rose to WARNING"),
        (1, 1, 1, 100, "u-1/growth/EXPOSURE_LIMIT/-/3", "EXPOSURE_LIMIT fell to WARNING"),
        (2, 2, 0, 90, "u-1/growth/LOSS_LIMIT/total/3", "LOSS_LIMIT total is resolved"),
        (2, 3, 2, 100, "u-1/growth/LOSS_LIMIT/daily/3", "LOSS_LIMIT daily rose to CRITICAL"),
        (2, 4, 1, 90, "u-1/growth/LOSS_LIMIT/weekly/3", "LOSS_LIMIT weekly rose to WARNING"),
    ],
)
def test_alerts_of_a_portfolio(kind: int, subject: int, severity: int, line: int, alert_id: str, message: str) -> None:
    found = encode_one(type=kind, subject=subject, symbol=-1, severity=severity, line=line)
    assert (found["alert_id"], found["symbol"], found["threshold_percent"]) == (alert_id, None, str(line))
    assert found["message"] == message + ": 1200 against limit 1000 USD"


@given(
    value=units,
    limit=units,
    number=big,
    created_at=times,
    partition=number,
    offset=big,
    prefix=st.sampled_from(["", "P" * 64]),
)
@example(
    value=-(10**38) + 1,
    limit=-(10**38) + 1,
    number=2**63 - 1,
    created_at=YEAR_2299_US,
    partition=2**31 - 1,
    offset=2**63 - 1,
    prefix="P" * 64,
)
def test_alerts_of_any_size(
    value: int, limit: int, number: int, created_at: int, partition: int, offset: int, prefix: str
) -> None:
    fields = dict(value=value, limit=limit, number=number, created_at=created_at)
    row = alert(**(CRITICAL | fields | dict(symbol=6, cause_partition=partition, cause_offset=offset)))
    rows, names = np.concatenate([row, row]), encode.names_of(NAMES)
    long = int32([6, 6])
    found = messages(encode.encode_alerts(rows, names, long, long, encode.cause_topics(prefix), "E" * 32))
    name = "U" * 64
    for m in found:
        assert m["alert_id"] == f"{name}/{name}/POSITION_LIMIT/{name}/{number}"
        assert (m["current_value"], m["limit_value"]) == (plain(value), plain(limit))
        assert m["message"].endswith(f": {plain(value)} against limit {plain(limit)} {'E' * 32}")
        assert m["created_at"] == iso(created_at)
        assert m["cause"] == {"topic": f"{prefix}trades", "partition": partition, "offset": offset}
