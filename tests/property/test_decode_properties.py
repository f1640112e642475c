"""The fast path against the strict parser: same verdicts, same values, whatever the bytes.

The parser says what each message is; of every accepted one a twin is written, by the model and with a nested field in
it, which only the strict parser can decode. Message and twin must fill the same columns.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assetstream.models import decode
from assetstream.models.decode import decode_limits, decode_prices, decode_trades, decode_transactions
from assetstream.models.messages import LIMIT_FIELDS, Input, Rejection, parse
from assetstream.models.records import Records, records_of

NOW_MS = 1_741_000_000_000  # 2025-03-03T11:06:40Z
SKEW = 3_600_000_000

DECODERS: dict[str, tuple[Callable[[Records, int], Any], tuple[str, ...]]] = {
    "trades": (decode_trades, decode.TRADE_TEXT),
    "prices": (decode_prices, decode.PRICE_TEXT),
    "transactions": (decode_transactions, decode.TRANSACTION_TEXT),
    "risk_limits": (decode_limits, decode.LIMIT_TEXT),
}


def quoted(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return strategy.map(json.dumps)


def mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON tokens, one in eight of them odd."""
    return st.integers(0, 7).flatmap(lambda i: odd if i == 0 else usual)


ANYTHING = st.sampled_from(
    ["null", "true", "false", "0", "-1", "1e2", "1.5E-3", "01", "1.", "-", "+1", "[]", "{}", '["x"]', '{"a":{}}', '""',
     '"\\u0041"', '"\\"', '"é"', '"\x01"', '"a\\/b"', "NaN", "nul", "trueX", '"x', "", "1e999", '" "', '"null"']
)  # fmt: skip
ids = mostly(
    quoted(st.text("abzAZ019._:-", min_size=1, max_size=12)),
    quoted(st.text('ab/ é"\\\x00', max_size=3) | st.sampled_from(["a" * 64, "a" * 65, ""])) | ANYTHING,
)
symbols = mostly(
    quoted(st.text("ABC/19._:-", min_size=1, max_size=9)),
    quoted(st.text('AB/ é"', max_size=3) | st.sampled_from(["S" * 32, "S" * 33, ""])) | ANYTHING,
)
texts = mostly(
    st.just("null") | quoted(st.text("ab '/,{}[]:~\x7f", max_size=9)),
    quoted(st.text(max_size=5) | st.sampled_from(["t" * 1024, "t" * 1025, "é" * 1024])) | ANYTHING,
)
numerals = st.from_regex(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?", fullmatch=True)
odd_numerals = st.from_regex(r"[+-]?([0-9]{1,22}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,4})?", fullmatch=True)
decimals = mostly(numerals.map(json.dumps) | numerals, odd_numerals | quoted(odd_numerals) | ANYTHING)
times = mostly(
    st.from_regex(r"(19[789][0-9]|20[01][0-9])-(0[1-9]|1[0-2])-([01][1-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
                  r"(\.[0-9]{1,8})?(Z|[+-]0[0-9]:[0-5][0-9])", fullmatch=True).map(json.dumps),
    quoted(
        st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,70})?"
                      r"([Zz]|[+-][0-2][0-9]:[0-6][0-9])?", fullmatch=True)
        | st.sampled_from(["2025-03-03T12:06:40Z", "2025-03-03T12:06:40.000001Z", "9999-12-31T23:59:59Z"])
        | st.sampled_from(["1969-12-31T23:00:00-01:00", "2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z"])
    )
    | ANYTHING,
)  # fmt: skip


def names(*usual: str) -> st.SearchStrategy[str]:
    odd = quoted(st.sampled_from(["X", usual[0].lower(), ""]))
    return mostly(st.sampled_from(usual).map(json.dumps), odd | ANYTHING)


versions = mostly(
    st.integers(-(10**18), 10**18).map(str),
    st.sampled_from(["9223372036854775807", "-9223372036854775808", "9223372036854775808", "-0", "007", "1.0", "1e0"])
    | ANYTHING,
)
flags = mostly(st.sampled_from(["true", "false"]), ANYTHING)
objects = mostly(
    st.sampled_from(["null", '{"b": "x", "a": ""}', "{}"]),
    ANYTHING | st.sampled_from(['{"A": 1, "B/C": null}', '{"A": 0}', '{"user_id": "u", "wallet_id": "w"}']),
)
asset_limits = mostly(st.sampled_from(["null", '{"Z":"1", "A":2.5,"B":null}', "{}"]), objects)
counterparties = mostly(st.sampled_from(["null", '{"user_id": "u", "wallet_id": "w"}']), objects)
configurations = mostly(
    st.sampled_from(
        ["null", "{}", '{"initial_capital": 1.5, "x": []}', '{"allocation": {"Z": "1", "A": 2.5, "B": null}}']
    ),
    objects
    | st.sampled_from(['{"allocation": {"A": 0}}', '{"initial_capital": "-1"}', '{"allocation": {"A": "1e20"}}']),
)

REQUIRED: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "trades": {
        "trade_id": ids, "user_id": ids, "portfolio_id": ids, "wallet_id": ids, "symbol": symbols,
        "currency": symbols, "side": names("BUY", "SELL"), "quantity": decimals, "price": decimals,
        "executed_at": times,
    },
    "prices": {"symbol": symbols, "price": decimals, "currency": symbols, "as_of": times},
    "transactions": {
        "transaction_id": ids, "user_id": ids, "wallet_id": ids, "asset": symbols, "amount": decimals,
        "type": names("DEPOSIT", "WITHDRAWAL", "FEE", "DEPOSIT", "FEE", "HOLD", "ADJUSTMENT", "OPEN", "RESET"),
        "status": names("COMPLETED", "COMPLETED", "COMPLETED", "PENDING"), "occurred_at": times,
    },
    "risk_limits": {"user_id": ids, "portfolio_id": ids, "version": versions, "updated_at": times},
}  # fmt: skip
OPTIONAL: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "trades": {
        "fee": decimals, "order_id": ids, "broker": texts,
        "asset_type": names("CRYPTO", "FIAT", "STOCK", "ETF", "OTHER"),
    },
    "prices": {"bid": decimals, "ask": decimals, "source": texts},
    "transactions": {
        "fee": decimals, "rate": decimals, "expires_at": times, "external_id": ids, "payment_method": texts,
        "description": texts, "authorized_by": texts, "to_asset": symbols, "reverses": ids,
        "counterparty": counterparties, "metadata": objects, "wallet_type": names("REAL", "VIRTUAL", "VIRTUAL"),
        "currency": symbols, "configuration": configurations,
    },
    "risk_limits": {"active": flags, "asset_limits": asset_limits, **dict.fromkeys(LIMIT_FIELDS, decimals)},
}  # fmt: skip
UNKNOWN = {"venue": texts, "user_ids": ANYTHING, "": decimals}
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t \r"])


@st.composite
def objects_of(draw: st.DrawFn, kind: str) -> bytes:
    """A message: mostly valid, in any order, with repeated and unknown fields, spaces and odd values."""
    pools = {**REQUIRED[kind], **OPTIONAL[kind], **UNKNOWN}
    chosen = list(REQUIRED[kind])
    chosen += draw(st.lists(st.sampled_from([*OPTIONAL[kind], *OPTIONAL[kind], *UNKNOWN]), max_size=4, unique=True))
    trouble = draw(st.integers(0, 9))
    if trouble == 0:
        chosen.remove(draw(st.sampled_from(chosen)))
    elif trouble == 1:
        chosen.append(draw(st.sampled_from(chosen)))
    if draw(st.booleans()):
        chosen = draw(st.permutations(chosen))
    space = draw(SPACES)
    pairs = []
    for name in chosen:
        key = json.dumps(name) if trouble != 2 or name != chosen[-1] else f'"\\u{ord((name + "x")[0]):04x}{name[1:]}"'
        pairs.append(f"{space}{key}{space}:{space}{draw(pools[name])}{space}")
    return f"{space}{{{','.join(pairs)}}}{space}".encode("utf-8", "surrogatepass")


@st.composite
def mutants_of(draw: st.DrawFn, kind: str) -> bytes:
    """A message with a few bytes changed, inserted, dropped or doubled."""
    value = bytearray(draw(objects_of(kind)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(value) - 1, 0)))
        byte = draw(st.sampled_from(b'"\\{}[],:.-+eE0159 \n\x00\x1f\x7f\x80\xc3\xffnutZTabc/') | st.integers(0, 255))
        change = draw(st.integers(0, 3))
        if change == 0:
            value[at : at + 1] = bytes([byte])
        elif change == 1:
            value[at:at] = bytes([byte])
        elif change == 2:
            del value[at : at + draw(st.integers(1, 9))]
        else:
            value[at:at] = value[at : at + draw(st.integers(1, 30))]
    return bytes(value)


def key_of(value: bytes) -> bytes:
    try:
        found = json.loads(value)
        return str(found.get("user_id", found.get("symbol"))).encode()
    except (ValueError, AttributeError):
        return b"u"


def row(batch: Any, i: int) -> dict[str, Any]:
    """Row i of all columns, text as bytes."""
    found: dict[str, Any] = {"text": text(batch, batch.text_at[:, i], batch.text_len[:, i])}
    for name, column in batch._asdict().items():
        if isinstance(column, np.ndarray) and not name.startswith(("text_", "asset_")) and name != "data":
            found[name] = column[i].tolist()
    if hasattr(batch, "asset_start"):
        own = slice(batch.asset_start[i], batch.asset_start[i + 1])
        found["assets"] = text(batch, batch.asset_at[own], batch.asset_len[own])
        found["asset_limits"] = batch.asset_limit[own].tolist()
    if hasattr(batch, "grants"):
        own = slice(batch.grants.start[i], batch.grants.start[i + 1])
        found["granted"] = text(batch, batch.grants.text_at[own], batch.grants.text_len[own])
        found["amounts"] = batch.grants.amount[own].tolist()
    return found


def text(batch: Any, at: np.ndarray, size: np.ndarray) -> list[bytes | None]:
    return [None if n < 0 else batch.data[a : a + n].tobytes() for a, n in zip(at, size, strict=True)]


def check(kind: str, values: list[bytes | None]) -> list[Input | Rejection]:
    """Hold the batch of these values against the strict parser; gives what it says."""
    decoder, _ = DECODERS[kind]
    keys = [None if v is None else key_of(v) for v in values]
    batch = decoder(records_of(kind, 0, list(zip(keys, values, strict=True)), timestamp_ms=NOW_MS), SKEW)
    judged = [parse(kind, value, NOW_MS, SKEW) for value in values]
    assert batch.verdict.tolist() == [m.verdict if isinstance(m, Rejection) else 0 for m in judged]
    assert batch.details == {i: m.detail for i, m in enumerate(judged) if isinstance(m, Rejection)}
    good = [i for i, m in enumerate(judged) if isinstance(m, Input)]
    twins = [(keys[i], twin(judged[i])) for i in good]
    expected = decoder(records_of(kind, 0, twins, timestamp_ms=NOW_MS), SKEW)
    for j, i in enumerate(good):
        assert row(batch, i) == row(expected, j)
        assert batch.key_ok[i] == (keys[i] == judged[i].key.encode())  # type: ignore[union-attr]
    return judged


def twin(message: Any) -> bytes:
    """The same message as its model writes it, for the strict parser only."""
    return json.dumps({"~": [], **json.loads(message.model_dump_json())}).encode()


MANY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", DECODERS)
def test_fast_is_slow(kind: str) -> None:
    accepted = 0

    @MANY
    @given(st.lists(objects_of(kind), min_size=1, max_size=4))
    def run(values: list[bytes]) -> None:
        nonlocal accepted
        accepted += sum(isinstance(m, Input) for m in check(kind, list(values)))

    run()
    assert accepted > 20  # else the messages test nothing but refusal


@pytest.mark.parametrize("kind", DECODERS)
def test_fast_is_slow_for_broken_bytes(kind: str) -> None:
    @MANY
    @given(st.lists(mutants_of(kind), min_size=1, max_size=3))
    def run(values: list[bytes]) -> None:
        check(kind, list(values))

    run()


@pytest.mark.parametrize("kind", DECODERS)
def test_every_cut_and_every_byte_of_a_message(kind: str) -> None:
    """Of one valid message: every prefix, and every position with each of some awkward bytes."""
    value = USUAL[kind]
    values: list[bytes | None] = [value[:i] for i in range(len(value) + 1)]
    for i in range(len(value)):
        values += [value[:i] + bytes([c]) + value[i + 1 :] for c in b'"\\,:}0 \xff']
        values.append(value[:i] + value[i + 1 :])
    judged = check(kind, [*values, None])
    assert isinstance(judged[len(value)], Input)


USUAL = {
    "trades": b'{"trade_id":"t-1","user_id":"u1","portfolio_id":"p","wallet_id":"w","symbol":"BTC/USD",'
    b'"currency":"USD","side":"SELL","quantity":"1.5","price":100.25,"fee":"-0.1",'
    b'"executed_at":"2025-03-03T11:06:40.25Z","broker":"b b","asset_type":"ETF","x":null}',
    "prices": b'{"symbol":"EUR/USD","price":1.08,"currency":"USD","as_of":"2025-03-03T11:06:40+00:00",'
    b'"bid":"1.07","ask":2}',
    "transactions": b'{"transaction_id":"x","user_id":"u1","wallet_id":"w","type":"DEPOSIT","status":"COMPLETED",'
    b'"asset":"USD","amount":"10","fee":0.5,"occurred_at":"2025-03-03T11:06:40Z","expires_at":null,'
    b'"description":"d"}',
    "risk_limits": b'{"user_id":"u1","portfolio_id":"p","version":-12,"active":false,'
    b'"updated_at":"2025-03-03T11:06:40Z","max_leverage":2,"max_daily_loss":"1.5","asset_limits":null}',
}
