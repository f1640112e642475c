"""Amounts that are finer than their asset, with ASSET_PRECISION on and off; kernel's path, strict parser, reference."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetstream.agents.partition import AccountPartition
from assetstream.agents.transactions import take_transactions
from assetstream.models.decode import decode_transactions
from assetstream.models.fees import quote, read_schedule
from assetstream.models.messages import Rejection, parse
from assetstream.models.precision import Precision, PrecisionError, iso4217, read_precision
from assetstream.models.records import records_of
from assetstream.models.reference import Reference
from assetstream.models.verdicts import Verdict
from assetstream.streams.precision import precision
from assetstream.streams.settings import Settings

NOW_MS, HOUR = 1_800_000_000_000, 3_600_000_000


PAPER = {"type": "OPEN", "asset": None, "amount": None, "wallet_type": "VIRTUAL"}


def event(**fields: Any) -> dict[str, Any]:
    return {
        "transaction_id": "x",
        "user_id": "ann",
        "wallet_id": "w",
        "type": "DEPOSIT",
        "status": "COMPLETED",
        "asset": "USD",
        "amount": "10",
        "occurred_at": "2026-03-02T09:00:00Z",
        **fields,
    }


def judged(message: dict[str, Any], scales: Precision | None) -> tuple[str, str]:
    """(verdict, detail), by decode; the strict parser and the reference have to judge the same."""
    value = json.dumps(message).encode()
    batch = decode_transactions(records_of("transactions", 0, [(b"ann", value)], 0, NOW_MS), HOUR, scales)
    told = Verdict(batch.verdict[0]).reason, batch.details.get(0, "")
    strict = parse("transactions", value, NOW_MS, HOUR, scales)
    assert told == (("applied", "") if not isinstance(strict, Rejection) else (strict.verdict.reason, strict.detail))
    expected = Reference(decimals=scales).feed("transactions", 0, 0, NOW_MS, b"ann", value)
    assert expected == told[0] or (expected, told[0]) == ("out_of_range", "applied")
    return told


def test_decimals_are_those_of_the_list_and_of_protocols() -> None:
    known = iso4217()
    some = {"USD": 2, "EUR": 2, "JPY": 0, "KRW": 0, "KWD": 3, "CLF": 4, "BTC": 8, "USDC": 6, "ETH": 18}
    assert {asset: known[asset] for asset in some} == some
    assert not {"XAU", "XDR", "AAPL"} & known.keys()
    assert len(known) > 150


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"amount": "10.01"}, None),
        ({"amount": "10.010000"}, None),
        ({"amount": "1001e-2"}, None),
        ({"amount": "10.001"}, "amount: USD has 2 decimals, got 10.001"),
        ({"amount": 10.001}, "amount: USD has 2 decimals, got 10.001"),
        ({"fee": "0.005"}, "fee: USD has 2 decimals, got 0.005"),
        ({"amount": "0.001", "metadata": {"a": "b"}}, "amount: USD has 2 decimals, got 0.001"),
        ({"asset": "JPY", "amount": "1"}, None),
        ({"asset": "JPY", "amount": "1.5"}, "amount: JPY has 0 decimals, got 1.5"),
        ({"asset": "BTC", "amount": "0.00000001"}, None),
        ({"asset": "BTC", "amount": "0.000000001"}, "amount: BTC has 8 decimals, got 1E-9"),
        ({"asset": "AAPL", "amount": "0.000000000000000001"}, None),
        ({"asset": "XAU", "amount": "0.000000000000000001"}, None),
        ({"type": "CONVERSION", "to_asset": "JPY", "amount": "1.23", "rate": "149.123456"}, None),
        ({"type": "ADJUSTMENT", "description": "d", "authorized_by": "a", "amount": "-0.001"}, "amount: USD has 2 "),
        ({"type": "HOLD", "status": "PENDING", "amount": "0.001"}, "amount: USD has 2 decimals, got 0.001"),
        # what lets go
        ({"type": "HOLD", "status": "CANCELLED", "amount": "0.001"}, None),
        ({"type": "WITHDRAWAL", "status": "FAILED", "amount": "0.001"}, None),
        ({"type": "REVERSAL", "reverses": "y", "amount": "0.001"}, None),
        # of a wallet itself what it begins with, where its asset is said
        ({"type": "OPEN", "amount": "0.001", "fee": "0.001"}, None),
        ({"type": "OPEN", "asset": None, "amount": None, "currency": "USD"}, None),
        ({"type": "CLOSE", "asset": None, "amount": None}, None),
        ({**PAPER, "currency": "USD", "configuration": {"initial_capital": "100.01"}}, None),
        (
            {**PAPER, "currency": "USD", "configuration": {"initial_capital": "100.001"}},
            "configuration.initial_capital: USD has 2 decimals, got 100.001",
        ),
        ({**PAPER, "configuration": {"initial_capital": "100.001"}}, None),
        ({**PAPER, "configuration": {"allocation": {"ETH": "1e-18", "BTC": "1e-8"}}}, None),
        (
            {**PAPER, "type": "CONFIGURE", "configuration": {"allocation": {"BTC": "1e-9"}}},
            "configuration.allocation.BTC: BTC has 8 decimals, got 1E-9",
        ),
        ({**PAPER, "status": "FAILED", "configuration": {"allocation": {"BTC": "1e-9"}}}, None),
        # before what is out of range
        ({"type": "HOLD", "amount": "0.001", "expires_at": "2031-01-01T00:00:00Z"}, "amount: USD has 2 decimals"),
        ({"amount": "0.0000000000000000001"}, "amount: USD has 2 decimals, got 1E-19"),
        ({"amount": "1e30", "fee": "0.001"}, "fee: USD has 2 decimals, got 0.001"),
    ],
)
def test_what_is_finer_than_its_asset_is_invalid(fields: dict[str, Any], detail: str | None) -> None:
    verdict, told = judged(event(**fields), iso4217())
    assert verdict == ("applied" if detail is None else "invalid")
    assert told.startswith(detail or "")
    assert judged(event(**fields), None)[0] != "invalid"


def test_18_decimals_are_a_matter_of_range() -> None:
    assert judged(event(asset="ETH", amount="0.0000000000000000001"), iso4217())[0] == "out_of_range"


AMOUNTS = st.decimals(min_value=Decimal("1e-18"), max_value=10**6, allow_nan=False).map(str)


@given(AMOUNTS, st.just("0") | AMOUNTS, st.sampled_from(("USD", "JPY", "BTC", "ETH")), st.booleans())
def test_all_ways_of_reading_judge_the_same(amount: str, fee: str, asset: str, slow: bool) -> None:
    fields = {"metadata": {"a": "b"}} if slow else {}
    judged(event(type="WITHDRAWAL", amount=amount, fee=fee, asset=asset, **fields), {"USD": 2, "JPY": 0, "BTC": 8})


def test_a_partition_goes_by_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "decimals.toml"
    file.write_text("USD = 4\n")

    def verdicts(setting: str) -> list[str]:
        partition = AccountPartition(0, Settings(asset_precision=setting, _env_file=None))
        events = [event(transaction_id=str(n), amount=f"1.{n * '0'}1") for n in (1, 2, 4)]
        values = [(b"ann", json.dumps(each).encode()) for each in events]
        take_transactions(partition, records_of("transactions", 0, values, 0, NOW_MS))
        ((_, found),) = partition.work.verdicts
        return [Verdict(each).reason for each in found]

    assert verdicts("off") == ["applied"] * 3
    assert verdicts("iso4217") == ["applied", "invalid", "invalid"]
    assert verdicts(str(file)) == ["applied", "applied", "invalid"]


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("USD = 19", "d.toml", "d.toml: USD: must be a number of decimals from 0 to 18, got 19"),
        ("USD = true", "d.toml", "d.toml: USD: must be a number of decimals from 0 to 18, got True"),
        ("USD = ", "d.toml", "d.toml: Invalid value"),
        ('{"USD": "2"}', "d.json", "d.json: USD: must be a number of decimals from 0 to 18, got '2'"),
        ("[2]", "d.json", "d.json: not an object, asset to decimals"),
    ],
)
def test_a_file_that_says_no_decimals(text: str, name: str, told: str) -> None:
    with pytest.raises(PrecisionError) as error:
        read_precision(text, name)
    assert str(error.value).startswith(told)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(PrecisionError, match=r"nowhere: can't be read: .*; ASSET_PRECISION is off, iso4217 or a file"):
        precision("nowhere")


def test_fees_have_the_decimals_of_their_asset() -> None:
    text = '{"fee": [{"type": "WITHDRAWAL", "bps": "12.5"}], "decimals": {"EUR": 3}}'
    found = read_schedule(text, "f.json", iso4217())
    told = [str(quote(found, "WITHDRAWAL", asset, Decimal("123.45")).fee) for asset in ("USD", "EUR", "JPY", "AAPL")]
    assert told == ["0.15", "0.154", "0", "0.154312500000000000"]
