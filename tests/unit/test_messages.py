"""The contract's rules, one by one, as the strict parser judges them."""

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from assetstream.models import messages
from assetstream.models.messages import (
    INPUTS,
    SCHEMAS,
    AssetType,
    Input,
    Rejection,
    Side,
    Trade,
    TransactionType,
    codes,
    from_micros,
    parse,
    parse_time,
    time_text,
    to_micros,
)
from assetstream.models.verdicts import Verdict

NOW_MS = 1_741_000_000_000  # 2025-03-03T11:06:40Z
HOUR = 3_600_000_000
TIME = "2025-03-03T11:06:40Z"
MALFORMED, INVALID, OUT_OF_RANGE = Verdict.MALFORMED, Verdict.INVALID, Verdict.OUT_OF_RANGE

TRADE = {
    "trade_id": "t1",
    "user_id": "u1",
    "portfolio_id": "p1",
    "wallet_id": "w1",
    "symbol": "BTC/USD",
    "currency": "USD",
    "side": "BUY",
    "quantity": "1.5",
    "price": "100",
    "executed_at": TIME,
}
PRICE = {"symbol": "EUR/USD", "price": "1.08", "currency": "USD", "as_of": TIME}
LIMITS = {"user_id": "u1", "portfolio_id": "p1", "version": 1, "updated_at": TIME}
DEPOSIT = {
    "transaction_id": "x1",
    "user_id": "u1",
    "wallet_id": "w1",
    "type": "DEPOSIT",
    "status": "COMPLETED",
    "asset": "USD",
    "amount": "10",
    "occurred_at": TIME,
}
BASE = {"trades": TRADE, "prices": PRICE, "risk_limits": LIMITS, "transactions": DEPOSIT}
LEAVE_OUT = object()


def judge(kind: str, value: Any) -> Input | Rejection:
    data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return parse(kind, data, NOW_MS, HOUR)


def verdict(kind: str, **changes: Any) -> Verdict:
    """What becomes of the usual message with changes."""
    message = {k: v for k, v in {**BASE[kind], **changes}.items() if v is not LEAVE_OUT}
    found = judge(kind, message)
    if isinstance(found, Rejection):
        assert 0 < len(found.detail) <= 500
        return found.verdict
    return Verdict.APPLIED


def detail(kind: str, value: Any) -> str:
    found = judge(kind, value)
    assert isinstance(found, Rejection)
    return found.detail


@pytest.mark.parametrize("kind", BASE)
def test_the_usual_is_accepted(kind: str) -> None:
    assert verdict(kind) == Verdict.APPLIED
    assert verdict(kind, venue={"deep": [1, None, {"x": True}]}, newer="field") == Verdict.APPLIED


@pytest.mark.parametrize("kind", BASE)
def test_required_fields(kind: str) -> None:
    for name in BASE[kind]:
        assert verdict(kind, **{name: LEAVE_OUT}) == INVALID
        assert verdict(kind, **{name: None}) == INVALID
        assert detail(kind, {**BASE[kind], name: None}) == f"{name}: is missing"


OPTIONAL = {
    "trades": ["fee", "order_id", "broker", "asset_type"],
    "prices": ["bid", "ask", "source"],
    "risk_limits": ["active", *messages.LIMIT_FIELDS, "asset_limits"],
    "transactions": [
        "fee", "counterparty", "to_asset", "rate", "reverses", "expires_at", "external_id", "payment_method",
        "description", "authorized_by", "metadata", "wallet_type", "currency", "configuration",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", BASE)
def test_null_is_absent(kind: str) -> None:
    assert set(OPTIONAL[kind]) | set(BASE[kind]) == set(INPUTS[kind].model_fields)
    usual = judge(kind, BASE[kind])
    for name in OPTIONAL[kind]:
        assert judge(kind, {**BASE[kind], name: None}) == usual


def test_values() -> None:
    everything = {
        **TRADE,
        "side": "SELL",
        "fee": -0.1,
        "executed_at": "2025-03-03t13:06:40.1234569+02:00",
        "order_id": "o1",
        "broker": "Größer & Söhne",
        "asset_type": "ETF",
    }
    assert judge("trades", everything) == Trade(
        trade_id="t1",
        user_id="u1",
        portfolio_id="p1",
        wallet_id="w1",
        symbol="BTC/USD",
        currency="USD",
        side=Side.SELL,
        quantity=Decimal("1.5"),
        price=Decimal(100),
        fee=Decimal("-0.1"),
        executed_at=datetime(2025, 3, 3, 11, 6, 40, 123456, tzinfo=UTC),
        order_id="o1",
        broker="Größer & Söhne",
        asset_type=AssetType.ETF,
    )


def test_numbers_are_read_by_their_digits() -> None:
    value = json.dumps(TRADE).replace('"1.5"', "0.100000000000000005").encode()
    found = judge("trades", value)
    assert isinstance(found, Trade)
    assert found.quantity == Decimal("0.100000000000000005")


def test_a_repeated_key_counts_last() -> None:
    text = json.dumps(TRADE)[:-1]
    assert judge("trades", (text + ', "fee": "x", "fee": "3"}').encode()).fee == 3  # type: ignore[union-attr]
    assert judge("trades", (text + ', "fee": "3", "fee": null}').encode()).fee == 0  # type: ignore[union-attr]
    assert judge("trades", (text + ', "price": null}').encode()).verdict == INVALID  # type: ignore[union-attr]


IDS = {
    INVALID: ["", "a" * 65, "a b", "a/b", "O'Brien", 'a"b', "a\n", "\n",
              "x'; DROP TABLE fills; --", "ä", "a\x00", 5, True, ["a"], {}],
    Verdict.APPLIED: ["a", "A" * 64, "aZ09._:-", "null"],
}  # fmt: skip


def test_ids() -> None:
    for expected, ids in IDS.items():
        for value in ids:
            for name in ("trade_id", "user_id", "portfolio_id", "wallet_id", "order_id"):
                assert verdict("trades", **{name: value}) == expected, value
            for name in ("transaction_id", "user_id", "wallet_id", "reverses", "external_id"):
                assert verdict("transactions", **{name: value}) == expected, value


def test_symbols() -> None:
    for name in ("symbol", "currency"):
        for value in ("a", "EUR/USD", "S" * 32, "a.b_c:d-e/f"):
            assert verdict("prices", **{name: value}) == Verdict.APPLIED
        for value in ("", "S" * 33, "a b", "a\\b", "€", 1, None):
            assert verdict("prices", **{name: value}) == INVALID


def test_other_strings() -> None:
    for value in ("", "x" * 1024, "😀" * 1024, "quote \" and 'quote' and \n and \x00"):
        assert verdict("trades", broker=value) == Verdict.APPLIED
        assert verdict("transactions", description=value, metadata={value: value}) == Verdict.APPLIED
    for value in ("x" * 1025, 5, False, ["x"]):
        assert verdict("trades", broker=value) == INVALID
        assert verdict("transactions", metadata={"a": value}) == INVALID
    assert verdict("transactions", metadata={"x" * 1025: ""}) == INVALID
    assert verdict("transactions", metadata={"a": None}) == INVALID
    assert verdict("transactions", metadata=[]) == INVALID


@pytest.mark.parametrize("name", ["quantity", "price"])
def test_what_must_be_above_0(name: str) -> None:
    for value in ("0.000000000000000001", 1, "99999999999999999999.999999999999999999", "1e-18", "+1"):
        assert verdict("trades", **{name: value}) == Verdict.APPLIED
    for value in ("0", 0, "-0.0", -1, "-1e30", "0e9999", "x", "", " 1", "1_0", True, [1], {}, "0" * 65):
        assert verdict("trades", **{name: value}) == INVALID
    for value in ("1e20", 10**20, "1e-19", "1.0000000000000000001", 1e300, "9" * 64, "1e9999"):
        assert verdict("trades", **{name: value}) == OUT_OF_RANGE


def test_fees() -> None:
    for value in ("-5", 0, "5"):
        assert verdict("trades", fee=value) == Verdict.APPLIED
    assert verdict("trades", fee="-1e20") == OUT_OF_RANGE
    assert verdict("transactions", fee="-0") == Verdict.APPLIED
    assert verdict("transactions", fee="-0.01") == INVALID
    assert verdict("transactions", fee="-1e20") == INVALID
    assert verdict("transactions", fee="10") == Verdict.APPLIED
    assert verdict("transactions", fee="10.000000000000000001") == INVALID
    assert verdict("transactions", fee="11", type="WITHDRAWAL") == Verdict.APPLIED


def test_bids_and_asks_have_any_sign() -> None:
    for value, expected in (
        ("0.5", Verdict.APPLIED),
        (0, Verdict.APPLIED),
        (-1, Verdict.APPLIED),
        ("1e20", OUT_OF_RANGE),
    ):
        assert verdict("prices", bid=value) == expected
        assert verdict("prices", ask=value) == expected


def test_limits_are_above_0() -> None:
    for value, expected in (("0.5", Verdict.APPLIED), (0, INVALID), (-1, INVALID), ("1e20", OUT_OF_RANGE)):
        assert verdict("risk_limits", asset_limits={"BTC": value, "ETH": None}) == expected
        assert verdict("transactions", rate=value) == expected
        for name in messages.LIMIT_FIELDS:
            assert verdict("risk_limits", **{name: value}) == expected
    assert verdict("risk_limits", asset_limits={"a b": "1"}) == INVALID
    assert verdict("risk_limits", asset_limits=["BTC"]) == INVALID


def test_versions_and_booleans() -> None:
    for version in (0, -1, 2**63 - 1, -(2**63)):
        found = judge("risk_limits", {**LIMITS, "version": version})
        assert found.version == version  # type: ignore[union-attr]
    for wrong in ("1", 1.0, 2**63, -(2**63) - 1, True, 10**30):
        assert verdict("risk_limits", version=wrong) == INVALID
    assert judge("risk_limits", json.dumps(LIMITS).replace(": 1,", ": 1e0,").encode()).verdict == INVALID  # type: ignore[union-attr]
    assert verdict("risk_limits", active=False) == Verdict.APPLIED
    for wrong in (0, 1, "true", "false", [], {}):
        assert verdict("risk_limits", active=wrong) == INVALID


def test_enums_are_exact() -> None:
    for side in ("buy", "BUY ", "", "HOLD", 0, True, ["BUY"]):
        assert verdict("trades", side=side) == INVALID
    assert verdict("trades", asset_type="BOND") == INVALID
    assert verdict("transactions", type="GIFT") == INVALID
    assert verdict("transactions", status="DONE") == INVALID
    assert codes(Side) == ("BUY", "SELL")
    assert [member.code for member in AssetType] == [0, 1, 2, 3, 4]


#: what a type of transaction can't do without
NEEDED: dict[str, dict[str, Any]] = {
    "TRANSFER": {"counterparty": {"user_id": "u1", "wallet_id": "x"}},
    "CONVERSION": {"to_asset": "EUR", "rate": "0.9"},
    "ADJUSTMENT": {"description": "counted again", "authorized_by": "bob"},
    "REVERSAL": {"reverses": "t0"},
}


def test_every_type_with_every_status() -> None:
    for kind in codes(TransactionType):
        for status in codes(messages.TransactionStatus):
            assert verdict("transactions", type=kind, status=status, **NEEDED.get(kind, {})) == Verdict.APPLIED
    for kind, fields in NEEDED.items():
        for name in fields.keys() - {"rate"}:
            assert verdict("transactions", type=kind, **{**fields, name: None}) == INVALID
    for name in ("description", "authorized_by"):
        assert verdict("transactions", type="ADJUSTMENT", **{**NEEDED["ADJUSTMENT"], name: ""}) == INVALID


def test_one_invalid_field_beats_another_out_of_range() -> None:
    assert verdict("trades", quantity="1e30", user_id="") == INVALID
    assert verdict("trades", quantity="1e30", price="0") == INVALID
    assert verdict("transactions", amount="1", fee="1e30") == INVALID  # a DEPOSIT's fee is at most its amount
    assert verdict("transactions", amount="1", fee="1.00000000000000000001") == INVALID
    assert verdict("transactions", amount="1e31", fee="1e30") == OUT_OF_RANGE


def test_adjustments_may_be_negative_and_nothing_else() -> None:
    assert verdict("transactions", type="ADJUSTMENT", amount="-1", **NEEDED["ADJUSTMENT"]) == Verdict.APPLIED
    assert verdict("transactions", type="ADJUSTMENT", amount="0", **NEEDED["ADJUSTMENT"]) == INVALID
    for kind in set(codes(TransactionType)) - {"ADJUSTMENT"}:
        assert verdict("transactions", type=kind, amount="-1", **NEEDED.get(kind, {})) == INVALID
        assert verdict("transactions", type=kind, amount="0", **NEEDED.get(kind, {})) == INVALID


def test_counterparty() -> None:
    good = {"user_id": "u2", "wallet_id": "w2", "newer": 1}
    assert verdict("transactions", counterparty=good) == Verdict.APPLIED
    for wrong in (
        {},
        {"user_id": "u2"},
        {"user_id": "u2", "wallet_id": None},
        {**good, "user_id": "a b"},
        "u2",
        [good],
    ):
        assert verdict("transactions", counterparty=wrong) == INVALID
    assert detail("transactions", {**DEPOSIT, "counterparty": {"user_id": "u"}}) == "counterparty.wallet_id: is missing"


TIMES = {
    "1970-01-01T00:00:00Z": 0,
    "1970-01-01T00:00:00.000001Z": 1,
    "1970-01-01t00:00:00z": 0,
    "1970-01-01T00:00:00.0000019999Z": 1,
    "1970-01-01T00:00:00.5Z": 500_000,
    "1969-12-31T23:30:00-01:00": 30 * 60 * 10**6,
    "1970-01-01T05:45:00+05:45": 0,
    "1970-01-01T00:00:00-00:00": 0,
    "2000-02-29T12:00:00Z": 951_825_600 * 10**6,
    "2024-02-29T23:59:59.999999Z": 1_709_251_199_999_999,
    "2299-12-31T23:59:59.999999Z": 10_413_791_999_999_999,
    "2300-01-01T00:59:59+01:00": 10_413_791_999 * 10**6,
}
NO_TIMES = [
    "", "2025-03-03", "2025-03-03T11:06:40", "2025-03-03 11:06:40Z", "2025-03-03T11:06Z", "2025-03-03T11:06:40.Z",
    "2025-03-03T11:06:60Z", "2025-03-03T24:00:00Z", "2025-03-03T11:60:00Z", "2025-02-29T00:00:00Z",
    "2100-02-29T00:00:00Z", "2025-04-31T00:00:00Z", "2025-13-01T00:00:00Z", "2025-00-01T00:00:00Z",
    "2025-01-00T00:00:00Z", "1969-12-31T23:59:59.999999Z", "2300-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "0000-01-01T00:00:00Z", "1970-01-01T00:30:00+01:00",
    "2025-03-03T11:06:40+24:00", "2025-03-03T11:06:40+01:60", "2025-03-03T11:06:40+0100", "2025-03-03T11:06:40+01",
    "2025-03-03T11:06:40Z ", " 2025-03-03T11:06:40Z", "2025-3-3T11:06:40Z", "+2025-03-03T11:06:40Z",
    "٢٠٢٥-03-03T11:06:40Z", "2025-W10-1T00:00:00Z", "1741000000", "2025-03-03T11:06:40,5Z", "2025-03-03T11:06:40ZZ",
]  # fmt: skip


def test_times() -> None:
    for text, micros in TIMES.items():
        assert to_micros(parse_time(text)) == micros, text
        assert from_micros(micros) == parse_time(text)
        # `expires_at` may lie anywhere in these years, all other times not in the future
        assert verdict("transactions", expires_at=text) == Verdict.APPLIED
    for text in NO_TIMES:
        assert verdict("transactions", occurred_at=text) == INVALID, text
        assert verdict("transactions", expires_at=text) == INVALID, text
    for wrong in (NOW_MS, None, True, [TIME]):
        assert verdict("trades", executed_at=wrong) == INVALID
    assert time_text(datetime(2026, 3, 2, 10, tzinfo=timezone(timedelta(hours=1)))) == "2026-03-02T09:00:00.000000Z"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("trades", "executed_at"), ("prices", "as_of"), ("risk_limits", "updated_at"), ("transactions", "occurred_at")],
)
def test_a_time_too_far_ahead_of_kafkas(kind: str, name: str) -> None:
    assert verdict(kind, **{name: "2025-03-03T12:06:40.000000Z"}) == Verdict.APPLIED
    assert verdict(kind, **{name: "2025-03-03T12:06:40.000001Z"}) == INVALID


MALFORMED_VALUES = [
    None, b"", b" ", b"null", b"[]", b"5", b'"x"', b"true", b"{", b"}", b"{}{}", b"{} x", b"{'a': 1}", b'{"a": 1,}',
    b'{"a" 1}', b'{"a": }', b"{1: 2}", b'{"a": 01}', b'{"a": 1.}', b'{"a": .5}', b'{"a": +1}', b'{"a": 0x1}',
    b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": nul}', b'{"a": "\n"}', b'{"a": "\\x"}',
    b'{"a": "\xff"}', b'\xef\xbb\xbf{"a": 1}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}', b'{"\\udfff": 1}',
    b'{"a": [{"b": "\\ud83d"}]}', b'{"a": 1}\x00', '{"a": 1}'.encode("utf-16"), b'{"a": "\xc0\xaf"}', b"// x\n{}",
    b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", b"[" * (1 << 20), b'{"a":' * 200_000, b"\x00" * (1 << 20),
]  # fmt: skip


@pytest.mark.parametrize("value", MALFORMED_VALUES, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("kind", BASE)
def test_malformed(kind: str, value: bytes | None) -> None:
    found = judge(kind, value)
    assert isinstance(found, Rejection)
    assert found.verdict == MALFORMED
    assert 0 < len(found.detail) <= 500


def test_strict_json_that_is_fine() -> None:
    text = json.dumps(TRADE)[:-1]
    for more in (
        ', "a": ' + "[" * 63 + "]" * 63 + "}",
        ', "a": "\\ud83d\\ude00"}',
        ', "a": "' + "[" * 100 + '\\"{"}',
        ', "": -0.0e+10}\n',
        ', "a": "\x7f\\u0000"}\t\r\n ',
        ', "a": ' + "9" * 5000 + "}",
    ):
        assert isinstance(judge("trades", (text + more).encode()), Trade), more[:40]


def test_details_name_the_field_and_what_was_wrong() -> None:
    assert detail("trades", {**TRADE, "quantity": "-1"}) == "quantity: must be above 0, got '-1'"
    assert detail("trades", {**TRADE, "quantity": "1e20"}) == "quantity: is 10^20 or more, got 1E+20"
    assert detail("trades", {**TRADE, "price": "1e-19"}) == "price: has more than 18 decimals, got 1E-19"
    assert detail("prices", {**PRICE, "as_of": "x"}) == "as_of: is no RFC 3339 time with an offset, got 'x'"
    assert detail("risk_limits", {**LIMITS, "asset_limits": {"A/B": 0}}) == "asset_limits.A/B: must be above 0, got 0"
    assert detail("risk_limits", {**LIMITS, "asset_limits": {"A/B": "1e20"}}).startswith("asset_limits.A/B: is 10^20")
    both = detail("trades", {**TRADE, "quantity": 0, "user_id": 5})
    assert "user_id: " in both
    assert "quantity: must be above 0, got 0" in both
    assert detail("trades", b"\xff{}") == "not UTF-8 at byte 0"
    assert detail("trades", b"[" * 1000) == "nested deeper than 64 levels"


def test_details_stay_short() -> None:
    long = "y" * (1 << 20)
    for value in (
        {**TRADE, "quantity": long},
        {**TRADE, "user_id": long},
        {**TRADE, "user_id": "\x00" * 1000},
        {**TRADE, "executed_at": long},
        dict.fromkeys(TRADE, long),
    ):
        text = detail("trades", value)
        assert len(text) <= 500
        assert "y" * 61 not in text
    assert len(detail("risk_limits", {**LIMITS, "asset_limits": {long: 1}})) <= 500
    assert len(detail("risk_limits", {**LIMITS, "asset_limits": {f"{i} ": 0 for i in range(10_000)}})) <= 500
    assert len(detail("trades", json.dumps(TRADE).replace('"1.5"', "9" * 100_000).encode())) <= 500


def test_bad_messages_are_cheap_enough_to_refuse() -> None:
    bad = json.dumps({**TRADE, "price": "x"}).encode()
    best = min(_seconds(bad) for _ in range(30))
    assert best < 200e-6  # some 20 µs on a free core


def _seconds(value: bytes) -> float:
    start = time.perf_counter()
    for _ in range(10):
        parse("trades", value, NOW_MS, HOUR)
    return (time.perf_counter() - start) / 10


def test_models_in_python_keep_the_same_rules() -> None:
    trade = Trade(**{**TRADE, "quantity": 2, "fee": None, "executed_at": datetime(2025, 3, 3, tzinfo=UTC)})
    assert trade.fee == 0
    written = json.loads(trade.model_dump_json())
    assert written["quantity"] == "2"
    assert written["executed_at"] == "2025-03-03T00:00:00.000000Z"
    assert judge("trades", written) == trade
    for wrong in (
        {"quantity": 1.5},
        {"quantity": Decimal("1e20")},
        {"quantity": Decimal("NaN")},
        {"executed_at": datetime(2025, 3, 3)},
        {"user_id": "a b"},
    ):
        with pytest.raises(ValidationError):
            Trade(**{**TRADE, **wrong})


def test_schemas() -> None:
    for topic, model in SCHEMAS.items():
        schema = model.model_json_schema()
        assert schema["title"] == model.__name__, topic
        json.dumps(schema)
    quantity = SCHEMAS["trades"].model_json_schema()["properties"]["quantity"]
    assert [option["type"] for option in quantity["anyOf"]] == ["string", "number"]
    assert SCHEMAS["trades"].model_json_schema()["required"] == list(TRADE)
    assert SCHEMAS["transactions"].model_json_schema()["properties"]["occurred_at"]["format"] == "date-time"
