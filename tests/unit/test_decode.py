"""Columns by hand: each value where it belongs, exactly, and which path it took."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from assetstream.models import decode
from assetstream.models.decimals import texts_of
from assetstream.models.decode import (
    LIMIT_FIELDS,
    TRADE_TEXT,
    TRANSACTION_TEXT,
    compile_kernels,
    decode_limits,
    decode_marks,
    decode_prices,
    decode_trades,
    decode_transactions,
    encode_mark,
)
from assetstream.models.messages import Mark, from_micros
from assetstream.models.outputs import NO_TIME
from assetstream.models.records import Records, records_of
from assetstream.models.siphash import KEY
from assetstream.models.verdicts import Verdict
from tests.unit.test_decode_siphash import canonical, plain_siphash

NOW_MS = 1_741_000_000_000  # 2025-03-03T11:06:40Z
NOW = NOW_MS * 1000
HOUR = 3_600_000_000
TIME = "2025-03-03T11:06:40Z"

TRADE: dict[str, Any] = {
    "trade_id": "t1",
    "user_id": "user-1",
    "portfolio_id": "main",
    "wallet_id": "w1",
    "symbol": "BTC/USD",
    "currency": "USD",
    "side": "SELL",
    "quantity": "1.5",
    "price": "64000.25",
    "executed_at": TIME,
}
PRICE: dict[str, Any] = {"symbol": "EUR/USD", "price": "1.08", "currency": "USD", "as_of": TIME}
DEPOSIT: dict[str, Any] = {
    "transaction_id": "x1",
    "user_id": "user-1",
    "wallet_id": "w1",
    "type": "DEPOSIT",
    "status": "COMPLETED",
    "asset": "USD",
    "amount": "10",
    "occurred_at": TIME,
}
LIMITS: dict[str, Any] = {"user_id": "user-1", "portfolio_id": "main", "version": 7, "updated_at": TIME}


def records(kind: str, *values: dict[str, Any] | bytes | None, key: bytes | None = b"user-1") -> Records:
    data = [v if isinstance(v, bytes) or v is None else json.dumps(v).encode() for v in values]
    return records_of(kind, 3, [(key, v) for v in data], first_offset=100, timestamp_ms=NOW_MS)


def texts(batch: Any, i: int) -> list[str | None]:
    spans = zip(batch.text_at[:, i].tolist(), batch.text_len[:, i].tolist(), strict=True)
    return [None if n < 0 else batch.data[at : at + n].tobytes().decode() for at, n in spans]


@pytest.fixture
def fast_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict parser must not be asked."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"took the slow path: {args}")

    monkeypatch.setattr(decode, "parse", refuse)


@pytest.mark.usefixtures("fast_only")
def test_trades() -> None:
    full = {
        **TRADE,
        "side": "BUY",
        "fee": -0.05,
        "order_id": "o:1",
        "broker": "J. P. {[,]}",
        "asset_type": "ETF",
        "executed_at": "2025-03-03T13:06:40.0000019+02:00",
        "venue": 1e5,
        "test": False,
    }
    batch = decode_trades(records("trades", TRADE, full), HOUR)
    assert batch.verdict.tolist() == [0, 0]
    assert batch.key_ok.tolist() == [1, 1]
    assert batch.details == {}
    assert TRADE_TEXT[5] == "currency"
    assert texts(batch, 0) == ["t1", "user-1", "main", "w1", "BTC/USD", "USD", None, None]
    assert texts(batch, 1) == ["t1", "user-1", "main", "w1", "BTC/USD", "USD", "o:1", "J. P. {[,]}"]
    assert batch.quantity.tolist() == [[1_500_000_000_000_000_000, 0]] * 2
    assert texts_of(batch.price) == ["64000.25"] * 2
    assert texts_of(batch.fee) == ["0", "-0.05"]
    assert batch.fee[1].tolist() == [2**64 - 5 * 10**16, 2**64 - 1]
    assert batch.executed_at.tolist() == [NOW, NOW + 1]
    assert batch.side.tolist() == [1, 0]
    assert batch.asset_type.tolist() == [255, 3]
    dtypes = [column.dtype.str for column in batch if isinstance(column, np.ndarray)]
    assert dtypes == ["|u1", "|u1", "|u1", "<i8", "<i4", "<u8", "<u8", "<u8", "<i8", "|u1", "|u1"] + ["<u8"] * 3


def test_ids_and_bodies_are_hashes_of_their_canonical_bytes() -> None:
    slow = {**TRADE, "fee": "0.00", "broker": "é", "tags": []}
    batch = decode_trades(records("trades", TRADE, slow), HOUR)
    names = [b"t1", b"user-1", b"main", b"w1", b"BTC/USD", b"USD", None]
    for i, broker in ((0, None), (1, "é".encode())):
        amounts = struct.pack("<qqqqqq", 15 * 10**17, 0, *divmod_limbs(6400025 * 10**16), 0, 0)
        # texts, quantity, price, fee, executed_at, side | asset_type << 8
        body = canonical([*names, broker], 0)[:-8] + amounts + struct.pack("<qQ", NOW, 1 | 255 << 8)
        assert tuple(batch.body[i].tolist()) == plain_siphash(body, KEY, 1, 3, wide=True)
        identity = canonical([b"user-1", b"t1"], 0)[:-8]
        assert tuple(batch.id[i].tolist()) == plain_siphash(identity, KEY, 1, 3, wide=True)


def divmod_limbs(value: int) -> tuple[int, int]:
    lo, hi = value & (2**64 - 1), value >> 64
    return lo - (1 << 64) if lo >> 63 else lo, hi


SAME_TRADE: list[dict[str, Any]] = [
    {"fee": None},
    {"fee": "0"},
    {"fee": "-0.00"},
    {"fee": 0},
    {"quantity": "1.50"},
    {"quantity": 1.5},
    {"quantity": "15e-1"},
    {"price": "+064000.250"},
    {"broker": None, "order_id": None, "asset_type": None},
    {"executed_at": "2025-03-03T12:06:40.0000001+01:00"},
    {"unknown": 1},
    {"unknown": {"a": [1]}},
    {"symbol": "BTC/USD"},
]
OTHER_TRADE: list[dict[str, Any]] = [
    {"trade_id": "t2"},
    {"user_id": "user-2"},
    {"portfolio_id": "main2"},
    {"wallet_id": "w2"},
    {"symbol": "BTC/EUR"},
    {"currency": "EUR"},
    {"side": "BUY"},
    {"quantity": "1.500000000000000001"},
    {"price": "64000.26"},
    {"fee": "0.01"},
    {"fee": "-0.01"},
    {"executed_at": "2025-03-03T11:06:40.000001Z"},
    {"order_id": "o"},
    {"broker": "o"},
    {"broker": ""},
    {"asset_type": "CRYPTO"},
    {"asset_type": "OTHER"},
]


@pytest.mark.parametrize("nested", [{}, {"~": []}], ids=["fast", "slow"])
def test_a_body_is_compared_by_meaning(nested: dict[str, Any]) -> None:
    same = [{**TRADE, **change, **nested} for change in SAME_TRADE]
    other = [{**TRADE, **change, **nested} for change in OTHER_TRADE]
    batch = decode_trades(records("trades", TRADE, *same, *other), HOUR)
    assert not batch.verdict.any()
    bodies = [tuple(body) for body in batch.body.tolist()]
    assert set(bodies[: len(same) + 1]) == {bodies[0]}
    assert len(set(bodies[len(same) :])) == len(other) + 1
    ids = [tuple(i) for i in batch.id.tolist()]
    assert len(set(ids)) == 3  # t1, t2, user-2
    assert len(set(ids[: len(same) + 1])) == 1


TRANSACTION_CHANGES: list[dict[str, Any]] = [
    {},
    {"transaction_id": "x2"},
    {"wallet_id": "w2"},
    {"type": "WITHDRAWAL"},
    {"asset": "EUR"},
    {"amount": "11"},
    {"fee": "1"},
    {"rate": "1"},
    {"occurred_at": "2025-03-03T11:06:39Z"},
    {"expires_at": "1970-01-01T00:00:00Z"},
    {"external_id": "a"},
    {"payment_method": "a"},
    {"description": "a"},
    {"authorized_by": "a"},
    {"to_asset": "a"},
    {"reverses": "a"},
    {"counterparty": {"user_id": "a", "wallet_id": "b"}},
    {"counterparty": {"user_id": "b", "wallet_id": "a"}},
    {"metadata": {"a": "b"}},
    {"metadata": {"b": "a"}},
    {"metadata": {"a": "b", "c": ""}},
    {"metadata": {"ab": ""}},
    {"metadata": {"": "ab"}},
]


def test_bodies_of_transactions() -> None:
    messages = [{**DEPOSIT, **change} for change in TRANSACTION_CHANGES]
    same = [{"metadata": {}}, {"metadata": None}, {"counterparty": None}, {"fee": "0"}, {"expires_at": None}]
    batch = decode_transactions(records("transactions", *messages, *({**DEPOSIT, **change} for change in same)), HOUR)
    assert not batch.verdict.any()
    bodies = [tuple(body) for body in batch.body.tolist()]
    assert len(set(bodies[: len(messages)])) == len(messages)
    assert set(bodies[len(messages) :]) == {bodies[0]}
    order = [{"b": "1", "a": "é"}, {"a": "é", "b": "1"}]
    batch = decode_transactions(records("transactions", *({**DEPOSIT, "metadata": m} for m in order)), HOUR)
    assert batch.body[0].tolist() == batch.body[1].tolist()


@pytest.mark.usefixtures("fast_only")
def test_transactions() -> None:
    full = {
        **DEPOSIT,
        "type": "WITHDRAWAL",
        "fee": "0.5",
        "rate": "1.25",
        "expires_at": "2299-12-31T23:59:59.999999Z",
        "external_id": "e1",
        "payment_method": "card",
        "description": "rent",
        "authorized_by": "Ann",
        "to_asset": "EUR",
        "reverses": "x0",
        "counterparty": None,
        "metadata": None,
    }
    batch = decode_transactions(records("transactions", DEPOSIT, full, {**DEPOSIT, "type": "FEE", "fee": 11}), HOUR)
    assert batch.verdict.tolist() == [0, 0, 0]
    assert batch.key_ok.tolist() == [1, 1, 1]
    assert texts(batch, 0) == ["x1", "user-1", "w1", "USD", *[None] * 8]
    assert texts(batch, 1) == ["x1", "user-1", "w1", "USD", "e1", "card", "rent", "Ann", "EUR", "x0", None, None]
    assert texts_of(batch.amount) == ["10"] * 3
    assert texts_of(batch.fee) == ["0", "0.5", "11"]
    assert texts_of(batch.rate) == ["0", "1.25", "0"]
    assert batch.has_rate.tolist() == [0, 1, 0]
    assert batch.occurred_at.tolist() == [NOW] * 3
    assert batch.expires_at.tolist() == [NO_TIME, 10_413_791_999_999_999, NO_TIME]
    assert batch.type.tolist() == [0, 1, 4]
    assert batch.status.tolist() == [2, 2, 2]


def test_transactions_with_nested_values() -> None:
    nested = {
        **DEPOSIT,
        "counterparty": {"user_id": "u2", "wallet_id": "w2"},
        "metadata": {"a": "b"},
        "description": "ö",
    }
    batch = decode_transactions(records("transactions", nested), HOUR)
    assert texts(batch, 0) == ["x1", "user-1", "w1", "USD", None, None, "ö", None, None, None, "u2", "w2"]
    assert TRANSACTION_TEXT[10:] == ("counterparty_user_id", "counterparty_wallet_id")
    assert batch.key_ok.tolist() == [1]


@pytest.mark.usefixtures("fast_only")
def test_prices() -> None:
    quotes = {**PRICE, "bid": "1.07", "ask": 1.09, "source": "ECB"}
    batch = decode_prices(records("prices", PRICE, quotes, key=b"EUR/USD"), HOUR)
    assert batch.verdict.tolist() == [0, 0]
    assert batch.key_ok.tolist() == [1, 1]
    assert texts(batch, 0) == ["EUR/USD", "USD", None]
    assert texts(batch, 1) == ["EUR/USD", "USD", "ECB"]
    assert texts_of(batch.price) == ["1.08"] * 2
    assert texts_of(batch.bid) == ["0", "1.07"]
    assert texts_of(batch.ask) == ["0", "1.09"]
    assert batch.has_bid.tolist() == batch.has_ask.tolist() == [0, 1]
    assert batch.as_of.tolist() == [NOW] * 2
    assert batch.body[0].tolist() != batch.body[1].tolist()


def test_limits() -> None:
    some = {**LIMITS, "active": False, "max_position_size": "5", "max_correlation": 0.5, "max_leverage": None}
    assets = {**LIMITS, "version": -(2**63), "asset_limits": {"Z": "1", "A/B": 2.5, "B": None}}
    more = {**LIMITS, "asset_limits": {"C": 3}}
    batch = decode_limits(records("risk_limits", LIMITS, some, assets, b"x", more), HOUR)
    assert batch.verdict.tolist() == [0, 0, 0, Verdict.MALFORMED, 0]
    assert list(batch.details) == [3]
    assert batch.key_ok.tolist() == [1, 1, 1, 0, 1]
    assert texts(batch, 2) == ["user-1", "main"]
    assert batch.version.tolist() == [7, 7, -(2**63), 0, 7]
    assert batch.active.tolist() == [1, 0, 1, 0, 1]
    assert batch.updated_at.tolist() == [NOW, NOW, NOW, 0, NOW]
    assert len(LIMIT_FIELDS) == 10
    assert batch.has_limit[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert batch.has_limit[[0, 2, 3, 4]].sum() == 0
    assert texts_of(batch.limits[1]) == ["5", *["0"] * 8, "0.5"]
    assert batch.asset_start.tolist() == [0, 0, 0, 2, 2, 3]
    symbols = [batch.data[a : a + n].tobytes() for a, n in zip(batch.asset_at, batch.asset_len, strict=True)]
    assert symbols == [b"A/B", b"Z", b"C"]
    assert texts_of(batch.asset_limit) == ["2.5", "1", "3"]


@pytest.mark.usefixtures("fast_only")
def test_limits_without_assets_are_fast() -> None:
    batch = decode_limits(records("risk_limits", {**LIMITS, "version": -12, "active": True, "max_leverage": 2}), HOUR)
    assert batch.version.tolist() == [-12]
    assert texts_of(batch.limits[0])[6] == "2"
    assert batch.asset_start.tolist() == [0, 0]
    assert batch.asset_limit.shape == (0, 2)


def test_marks() -> None:
    values = [
        encode_mark("EUR/USD", 108 * 10**16, "USD", NOW + 1, 3, 2**40),
        encode_mark("A", 1, "USD", 0, 0, 0),
    ]
    mark = Mark.model_validate_json(values[0])
    assert (mark.symbol, str(mark.price), mark.currency) == ("EUR/USD", "1.08", "USD")
    assert (mark.as_of, mark.cause_partition, mark.cause_offset) == (from_micros(NOW + 1), 3, 2**40)
    assert json.loads(values[1])["price"] == "0.000000000000000001"
    batch = decode_marks(records("marks", *values, None, b"{}", b'{"symbol":"A"', key=b"EUR/USD"))
    assert batch.verdict.tolist() == [0, 0, 10, 10, 10]
    assert texts(batch, 0) == ["EUR/USD", "USD"]
    assert texts(batch, 1) == ["A", "USD"]
    assert texts_of(batch.price)[:2] == ["1.08", "0.000000000000000001"]
    assert batch.as_of.tolist()[:2] == [NOW + 1, 0]
    assert batch.cause_partition.tolist()[:2] == [3, 0]
    assert batch.cause_offset.tolist()[:2] == [2**40, 0]


def test_keys() -> None:
    for key, good in ((b"user-1", 1), (b"user-2", 0), (b"user-", 0), (b"user-11", 0), (b"", 0), (None, 0)):
        for nested in ({}, {"~": []}):
            batch = decode_trades(records("trades", {**TRADE, **nested}, key=key), HOUR)
            assert batch.verdict.tolist() == [0]
            assert batch.key_ok.tolist() == [good]


def test_a_repeated_field_counts_last_on_the_fast_path_too() -> None:
    text = json.dumps(TRADE)[:-1].encode()
    repeats = [
        text + b',"fee":"x","fee":"3"}',
        text + b',"fee":"3","fee":null}',
        text + b',"price":null}',
        text + b',"fee":[]}',
    ]
    batch = decode_trades(records("trades", *repeats), HOUR)
    assert batch.verdict.tolist() == [0, 0, Verdict.INVALID, Verdict.INVALID]
    assert texts_of(batch.fee) == ["3", "0", "0", "0"]


def test_names_are_matched_whole() -> None:
    for name in ("fe", "fees", "Fee", "fee ", "f", "\\u0066ee"):
        raw = json.dumps(TRADE)[:-1] + f', "{name}": "3"}}'
        batch = decode_trades(records("trades", raw.encode()), HOUR)
        assert texts_of(batch.fee) == ["3" if name.startswith("\\") else "0"], name


def test_unknown_fields_must_be_json_too() -> None:
    values = [
        "1.",
        "01",
        "+1",
        ".5",
        "1e",
        "-",
        "nul",
        "tru",
        "falsey",
        "NaN",
        "'x'",
        '"\t"',
        "1 2",
        '"x" "y"',
        "[1,]",
        "",
    ]
    messages = [(json.dumps(TRADE)[:-1] + f', "x": {value}}}').encode() for value in values]
    batch = decode_trades(records("trades", *messages), HOUR)
    assert batch.verdict.tolist() == [Verdict.MALFORMED] * len(values)


def test_the_worst_stops_nothing() -> None:
    mib = 1 << 20
    bad = {
        None: 10,
        b"": 10,
        b"\x00" * mib: 10,
        b"[" * mib: 10,
        b'{"a":' * (mib // 5): 10,
        b'"' + b"x" * mib: 10,
        json.dumps({**TRADE, "trade_id": "x" * mib}).encode(): 11,
        json.dumps(TRADE).replace("1.5", "\xff").encode("latin-1"): 10,
        json.dumps({**TRADE, "executed_at": "9999-12-31T23:59:59Z"}).encode(): 11,
        json.dumps({**TRADE, "trade_id": "'; DROP TABLE fills; --"}).encode(): 11,
        json.dumps({**TRADE, "trade_id": 'a"b\n'}).encode(): 11,
        json.dumps({**TRADE, "price": "1e20"}).encode(): 13,
        json.dumps({**TRADE, "price": "10000000000000000000", "quantity": "1e19"}).encode(): 0,
    }
    batch = decode_trades(records("trades", *bad, TRADE), HOUR)
    assert batch.verdict.tolist() == [*bad.values(), 0]
    assert set(batch.details) == {i for i, verdict in enumerate(bad.values()) if verdict}
    assert all(0 < len(detail) <= 500 for detail in batch.details.values())
    assert texts_of(batch.price)[-2:] == ["10000000000000000000", "64000.25"]
    assert texts(batch, len(bad)) == ["t1", "user-1", "main", "w1", "BTC/USD", "USD", None, None]


def test_a_rejected_row_leaves_nothing_behind() -> None:
    # as many rows as text fields: rows and fields are easily mixed up then
    for n in (1, 8):
        rows = [TRADE] * (n - 1) + [{**TRADE, "fee": "3", "side": "X"}]
        batch = decode_trades(records("trades", *rows), HOUR)
        assert batch.verdict.tolist() == [0] * (n - 1) + [Verdict.INVALID]
        last = n - 1
        assert texts(batch, last) == [None] * 8
        columns = (batch.key_ok, batch.quantity, batch.price, batch.fee, batch.executed_at, batch.id, batch.body)
        assert not any(column[last].any() for column in columns)
        if last:
            assert texts(batch, 0)[:2] == ["t1", "user-1"]
            assert texts_of(batch.price)[:last] == ["64000.25"] * last


def test_time_is_judged_by_each_records_own_timestamp() -> None:
    values = [(b"user-1", json.dumps(TRADE).encode())] * 3
    stamped = records_of("trades", 0, values, timestamp_ms=[NOW_MS, NOW_MS - 1, -(2**63)])
    assert decode_trades(stamped, 0).verdict.tolist() == [0, 11, 11]
    assert decode_trades(stamped, 1000).verdict.tolist() == [0, 0, 11]


def test_all_is_compiled_beforehand() -> None:
    compile_kernels()
    kernels = [getattr(decode, name) for name in vars(decode) if name in KERNELS]
    assert len(kernels) == len(KERNELS)
    before = [len(kernel.signatures) for kernel in kernels]
    assert before == [1] * len(KERNELS)  # more would be the same kernel for arrays of another layout
    test_the_worst_stops_nothing()
    test_bodies_of_transactions()
    test_limits()
    test_marks()
    assert [len(kernel.signatures) for kernel in kernels] == before


KERNELS = (
    "_trades",
    "_hash_trades",
    "_prices",
    "_hash_prices",
    "_transactions",
    "_hash_transactions",
    "_limits",
    "_marks",
)


def test_no_records() -> None:
    for decoder in (decode_trades, decode_prices, decode_transactions, decode_limits):
        batch = decoder(records("any"), HOUR)
        assert batch.verdict.shape == (0,)
    assert decode_marks(records("marks")).verdict.shape == (0,)


def test_a_slice_of_a_batch() -> None:
    many = records("trades", *({**TRADE, "trade_id": f"t{i}"} for i in range(10)))
    batch = decode_trades(many.slice(4, 6), HOUR)
    assert [texts(batch, i)[0] for i in range(2)] == ["t4", "t5"]
