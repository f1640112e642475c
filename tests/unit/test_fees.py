"""Fee schedules, worked out by hand, and what is wrong with bad ones."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assetstream.cli.main import app
from assetstream.models.fees import FeeError, Schedule, ScheduleError, plain, quote, read_schedule
from tests.documents import ROOT

D = Decimal
EXAMPLE = ROOT / "examples" / "fees.toml"


def schedule(*rules: dict[str, Any], **decimals: int) -> Schedule:
    return read_schedule(json.dumps({"fee": rules, "decimals": decimals}), "fees.json")


def fee(found: Schedule, amount: str, *, kind: str = "WITHDRAWAL", asset: str = "USD", **how: Any) -> str:
    """What is charged, as it is published."""
    made = quote(found, kind, asset, D(amount), **how)
    return plain(made.fee)


WITHDRAWAL = {"type": "WITHDRAWAL", "asset": "USD"}
TIERS = [{"above": "0", "bps": "25"}, {"above": 1000, "bps": "12.5"}, {"above": "2000.5", "bps": "0.01"}]


def test_flat_and_percent() -> None:
    assert fee(schedule({**WITHDRAWAL, "flat": "1.25"}), "0.01") == "1.25"
    percent = schedule({**WITHDRAWAL, "bps": 1.7}, USD=6)
    assert fee(percent, "1234.56") == "0.209875"  # 0.2098752
    assert quote(percent, "WITHDRAWAL", "USD", D("1234.56")).steps == (
        "1234.56 at 1.7 bps = 0.2098752",
        "rounded half to even to 6 decimals: 0.209875",
    )


@pytest.mark.parametrize(("amount", "charged"), [("25", "0.0002"), ("35", "0.0004"), ("25.0001", "0.0003")])
def test_halves_are_rounded_to_even(amount: str, charged: str) -> None:
    assert fee(schedule({**WITHDRAWAL, "bps": "0.1"}, USD=4), amount) == charged


def test_nothing_is_rounded_before_the_end() -> None:
    """18 decimals, of the largest amounts; and a sum of tiers that would be another one, if each were rounded."""
    most = "99999999999999999999.999999999999999999"
    assert fee(schedule({**WITHDRAWAL, "bps": "10000"}), most) == most
    halves = [{"above": "0", "bps": "5"}, {"above": "1", "bps": "5"}]
    tiers = schedule({**WITHDRAWAL, "tiers": halves}, USD=3)
    # 0.0005 and 0.0005: both would be 0.000
    assert fee(tiers, "2", volume=D(0)) == "0.001"


def test_each_part_is_charged_by_its_tier() -> None:
    found = schedule({**WITHDRAWAL, "tiers": TIERS})
    assert fee(found, "1000", volume=D(0)) == "2.5"
    made = quote(found, "WITHDRAWAL", "USD", D("1500"), volume=D("600"))
    # 400 · 0.0025 + 1000.5 · 0.00125 + 99.5 · 0.000001
    assert (made.fee, made.steps) == (
        D("2.2507245"),
        (
            "30-day volume 600",
            "400 at 25 bps = 1",
            "1000.5 at 12.5 bps = 1.250625",
            "99.5 at 0.01 bps = 0.0000995",
            "together 2.2507245",
        ),
    )
    assert quote(found, "WITHDRAWAL", "USD", D("10"), volume=D("2000.5")).steps[1:] == ("10 at 0.01 bps = 0.00001",)
    with pytest.raises(FeeError, match="fee 1 depends on the volume of the last 30 days: give --volume, or --user"):
        fee(found, "1")


def test_minimum_and_maximum() -> None:
    found = schedule({**WITHDRAWAL, "bps": "100", "minimum": "0.5", "maximum": "2"})
    assert [D(fee(found, amount)) for amount in ("1", "50", "50.01", "200", "200.01")] == [
        D("0.5"), D("0.5"), D("0.5001"), D("2"), D("2"),
    ]  # fmt: skip
    assert quote(found, "WITHDRAWAL", "USD", D("1000")).steps == ("1000 at 100 bps = 10", "maximum 2")


def test_the_most_specific_rule_applies_and_the_asset_goes_before_the_method() -> None:
    def rule(name: str, **keys: str) -> dict[str, str]:
        return {"type": "WITHDRAWAL", "bps": "1", "name": name, **keys}

    rules = [
        rule("any"),
        rule("card", method="card"),
        rule("usd", asset="USD"),
        rule("both", asset="USD", method="card"),
        {**rule("other"), "type": "DEPOSIT"},
    ]
    for order in (rules, rules[::-1]):
        found = schedule(*order)
        told = [
            quote(found, "WITHDRAWAL", asset, D(1), method).rule
            for asset, method in (("USD", "card"), ("USD", "wire"), ("USD", None), ("EUR", "card"), ("EUR", None))
        ]
        assert told == ["both", "usd", "usd", "card", "any"]
    assert quote(schedule(*rules[:3]), "WITHDRAWAL", "USD", D(1), "card").rule == "usd"
    with pytest.raises(FeeError, match="no rule for a DEPOSIT of USD by 'card': add one"):
        quote(schedule(*rules[:4]), "DEPOSIT", "USD", D(1), "card")


def test_a_fee_above_its_deposit_would_be_invalid() -> None:
    found = schedule({"type": "DEPOSIT", "asset": "USD", "flat": "1", "name": "in"})
    assert fee(found, "1", kind="DEPOSIT") == "1"
    with pytest.raises(FeeError, match=r"in: a fee of 1 is above the DEPOSIT of 0\.99"):
        fee(found, "0.99", kind="DEPOSIT")


GOOD = '[[fee]]\ntype = "DEPOSIT"\nbps = 1\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fee = [", "f.toml: Invalid value (at end of document)"),
        ("", "f.toml: fee: Field required"),
        ("fee = []", "f.toml: fee: Tuple should have at least 1 item after validation, not 0"),
        (GOOD.replace("DEPOSIT", "HOLD"), "f.toml: fee 1, type: Input should be 'DEPOSIT', 'WITHDRAWAL', "),
        (GOOD + "flat = 1", "f.toml: fee 1: needs exactly one of flat, bps and tiers"),
        (GOOD + "fla = 1", "f.toml: fee 1, fla: Extra inputs are not permitted, got 1"),
        (GOOD.replace("bps = 1", "bps = -0.5"), "f.toml: fee 1, bps: must not be negative, got '-0.5'"),
        (GOOD.replace("bps = 1", "bps = nan"), "f.toml: fee 1, bps: is no exact decimal, got 'nan'"),
        (GOOD.replace("bps = 1", "bps = 10000.1"), "f.toml: fee 1, bps: must not be above 10000, which is all"),
        (GOOD.replace("bps = 1", "flat = 1"), "f.toml: fee 1: asset: an amount (flat, tiers, minimum, maximum) is one"),
        (GOOD + 'asset = "USD"\nminimum = "1e20"', "f.toml: fee 1, minimum: is 10^20 or more, got '1e20'"),
        (GOOD + 'asset = "USD"\nminimum = 2\nmaximum = 1', "f.toml: fee 1: minimum is above maximum"),
        (GOOD + "[decimals]\nUSD = 19", "f.toml: decimals, USD: Input should be less than or equal to 18, got 19"),
        (
            GOOD + 'asset = "USD"\nminimum = "0.005"\n[decimals]\nUSD = 2',
            "f.toml: fee 1, minimum: USD has 2 decimals, got 0.005",
        ),
        (GOOD + GOOD, "f.toml: fee 2: the same type, asset and method as fee 1"),
        (
            GOOD.replace("bps = 1", 'asset = "USD"\ntiers = [{above = 1, bps = 1}]'),
            "f.toml: fee 1: tiers: begin above 0, and each begins above the one before",
        ),
        (
            GOOD.replace("bps = 1", 'asset = "USD"\ntiers = [{above = 0, bps = 1}, {above = 0, bps = 1}]'),
            "f.toml: fee 1: tiers: begin above 0, and each begins above the one before",
        ),
        (
            GOOD.replace("bps = 1", 'asset = "USD"\ntiers = [{above = 0, bps = "x"}]'),
            "f.toml: fee 1, tiers 1, bps: is no exact decimal, got 'x'",
        ),
    ],
)
def test_what_is_wrong_with_a_schedule_is_one_line_with_the_place(text: str, told: str) -> None:
    with pytest.raises(ScheduleError) as error:
        read_schedule(text, "f.toml")
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_bad_json_too() -> None:
    with pytest.raises(ScheduleError, match=r"f\.json: Expecting value: line 2 column 1"):
        read_schedule("[1,\n", "f.json")
    with pytest.raises(ScheduleError, match=r"f\.json: not an object"):
        read_schedule("[1]", "f.json")
    with pytest.raises(ScheduleError, match=r"f\.json: fee 1, bps: is no exact decimal, got 'NaN'"):
        read_schedule('{"fee": [{"type": "DEPOSIT", "bps": NaN}]}', "f.json")


def run(*args: str, **env: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["fees", "quote", *args], env=env)
    return done.exit_code, done.output


def test_the_command_says_the_fee_the_rule_and_the_steps(tmp_path: Path) -> None:
    card = ("--type", "WITHDRAWAL", "--asset", "USD", "--amount", "1000.02", "--method", "card")
    assert run(*card, "--schedule", str(EXAMPLE)) == (
        0,
        "2.5 USD\nrule: USD withdrawals by card\n  1000.02 at 25 bps = 2.50005\n"
        "  rounded half to even to 4 decimals: 2.5\n",
    )
    code, text = run(
        "--type", "CONVERSION", "--asset", "USD", "--amount", "20000", "--volume", "4e4", "--json",
        ASSETSTREAM_FEE_SCHEDULE=str(EXAMPLE),
    )  # fmt: skip
    assert (code, json.loads(text)) == (
        0,
        {
            "type": "CONVERSION",
            "asset": "USD",
            "amount": "20000",
            "method": None,
            "volume": "40000",
            "fee": "37.5",
            "rule": "USD conversions",
            "steps": [
                "30-day volume 40000",
                "10000 at 25 bps = 25",
                "10000 at 12.5 bps = 12.5",
                "together 37.5",
            ],
        },
    )
    bad = tmp_path / "bad.toml"
    bad.write_text("fee = 1\n")
    for args, code, told in (
        (card, 1, "no fee schedule: name one with --schedule or ASSETSTREAM_FEE_SCHEDULE\n"),
        ((*card, "--schedule", str(tmp_path / "none")), 1, f"{tmp_path}/none: can't be read: "),
        ((*card, "--schedule", str(bad)), 1, f"{bad}: fee: Input should be a valid tuple, got 1\n"),
        (("--type", "DEPOSIT", *card[2:], "--schedule", str(EXAMPLE)), 1, "no rule for a DEPOSIT of USD by 'card'"),
    ):
        assert (found := run(*args))[0] == code
        assert found[1].startswith(told)
    for wrong in (("--amount", "0"), ("--amount", "x"), ("--type", "FEE"), ("--asset", "U S"), ("--volume", "-1")):
        assert run(*card, *wrong, "--schedule", str(EXAMPLE))[0] == 2
    assert run(*card, "--volume", "1", "--user", "ann", "--schedule", str(EXAMPLE))[0] == 2
