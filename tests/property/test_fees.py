"""Fees against a plain computation in fractions, and the laws of tiers, minimum and maximum."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from assetstream.models.fees import Schedule, quote, read_schedule

AMOUNTS = st.decimals(0, Decimal("99999999999999999999"), places=6) | st.decimals(0, 5000, places=18)
POSITIVE = AMOUNTS.filter(bool)
BPS = st.decimals(0, 10_000, places=3)
SCALES = st.sampled_from((0, 2, 4, 8, 18))


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """One in basis points or tiers, as JSON."""
    rule: dict[str, Any] = {"type": "WITHDRAWAL", "asset": "USD"}
    if draw(st.booleans()):
        rule["bps"] = str(draw(BPS))
    else:
        starts = sorted(draw(st.sets(st.integers(1, 6000), max_size=4)))
        rule["tiers"] = [{"above": start, "bps": str(draw(BPS))} for start in (0, *starts)]
    low, high = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2)))
    if draw(st.booleans()):
        rule["minimum"] = low
    if draw(st.booleans()):
        rule["maximum"] = high
    return rule


def schedule(rule: dict[str, Any], scale: int) -> Schedule:
    return read_schedule(json.dumps({"fee": [rule], "decimals": {"USD": scale}}), "fees.json")


def charged(found: Schedule, amount: Decimal, volume: Decimal) -> Decimal:
    return quote(found, "WITHDRAWAL", "USD", amount, volume=volume).fee


def plainly(rule: dict[str, Any], amount: Fraction, volume: Fraction, scale: int) -> Fraction:
    """In fractions, all at once: what a volume costs up to the end, less what it costs up to the beginning."""
    tiers = rule.get("tiers", [{"above": 0, "bps": rule.get("bps")}])

    def up_to(volume: Fraction) -> Fraction:
        ends = [Fraction(tier["above"]) for tier in tiers[1:]] + [volume]
        return sum(
            (
                max(Fraction(0), min(volume, end) - Fraction(tier["above"])) * Fraction(tier["bps"]) / 10_000
                for tier, end in zip(tiers, ends, strict=True)
            ),
            Fraction(0),
        )

    fee = up_to(volume + amount) - up_to(volume)
    fee = min(max(fee, Fraction(rule.get("minimum", 0))), Fraction(rule["maximum"]) if "maximum" in rule else fee)
    fee = max(fee, Fraction(rule.get("minimum", 0)))
    return Fraction(round(fee * 10**scale), 10**scale)  # of a Fraction: half to even


@given(rules(), POSITIVE, AMOUNTS, SCALES)
def test_fees_are_those_of_fractions(rule: dict[str, Any], amount: Decimal, volume: Decimal, scale: int) -> None:
    found = charged(schedule(rule, scale), amount, volume)
    assert Fraction(found) == plainly(rule, Fraction(amount), Fraction(volume), scale)
    assert isinstance(found, Decimal)
    assert -int(found.as_tuple().exponent) == scale


@given(rules(), POSITIVE, POSITIVE, AMOUNTS, SCALES)
def test_more_never_costs_less(rule: dict[str, Any], a: Decimal, b: Decimal, volume: Decimal, scale: int) -> None:
    found = schedule(rule, scale)
    less, more = (charged(found, amount, volume) for amount in sorted((a, b)))
    assert less <= more
    assert rule.get("minimum", 0) <= less
    assert more <= rule.get("maximum", more)


@given(rules(), st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 5000))
def test_two_halves_cost_what_the_whole_does(rule: dict[str, Any], a: int, b: int, volume: int) -> None:
    """Unless a minimum, a maximum or rounding has its say: nobody gains by splitting, or by joining."""
    rule = {name: value for name, value in rule.items() if name not in ("minimum", "maximum")}
    found = schedule(rule, 18)
    apart = charged(found, Decimal(a), Decimal(volume)) + charged(found, Decimal(b), Decimal(volume + a))
    assert apart == charged(found, Decimal(a + b), Decimal(volume))
