"""Fee schedules: what to charge for a wallet event, by rules for its type, asset and payment method.

Pure, and exact: decimals are never rounded but once, at the end, half to even, to the decimals of the asset. A schedule
tells publishers what to put into a message's `fee`; what the message says is what is booked.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, localcontext
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from assetstream.models.decimals import DecimalError, to_units
from assetstream.models.documents import read_document
from assetstream.models.messages import NotNegative, Number, Symbol, Text
from assetstream.models.precision import MOST, Precision

#: the types that a fee is taken of
FeeType = Literal["DEPOSIT", "WITHDRAWAL", "TRANSFER", "CONVERSION"]
#: products of two amounts and their sums have far fewer digits: none of them is rounded
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, Inexact])
_BPS = Decimal("0.0001")


class ScheduleError(ValueError):
    """A fee schedule that isn't one: the file, the place in it, and what is wrong there."""


class FeeError(ValueError):
    """A schedule has no fee for an event, or none that could be booked."""


def _in_range(value: Decimal) -> Decimal:
    try:
        to_units(value)
    except DecimalError as error:
        raise PydanticCustomError("out_of_range", str(error)) from error  # type: ignore[arg-type]
    return value.copy_abs()  # of -0


def _at_most_all(value: Decimal) -> Decimal:
    if value > 10_000:
        raise _wrong("must not be above 10000, which is all of the amount")
    return value


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("schedule", text)  # type: ignore[arg-type]


Amount = Annotated[NotNegative, AfterValidator(_in_range)]
BasisPoints = Annotated[Amount, AfterValidator(_at_most_all)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tier(_Part):
    """What is charged of the part of the 30-day volume that lies above `above`, up to the next tier."""

    above: Amount
    bps: BasisPoints


class Rule(_Part):
    """One fee: flat, in basis points, or by tiers of the 30-day volume. An absent asset or method stands for any."""

    type: FeeType
    asset: Symbol | None = None
    method: Text | None = None
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    flat: Amount | None = None
    bps: BasisPoints | None = None
    tiers: tuple[Tier, ...] | None = None
    minimum: Amount | None = None
    maximum: Amount | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Rule:
        if sum(each is not None for each in (self.flat, self.bps, self.tiers)) != 1:
            raise _wrong("needs exactly one of flat, bps and tiers")
        if self.flat is not None and (self.minimum, self.maximum) != (None, None):
            raise _wrong("a flat fee has no minimum and no maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise _wrong("minimum is above maximum")
        if self.tiers is not None:
            starts = [tier.above for tier in self.tiers]
            if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
                raise _wrong("tiers: begin above 0, and each begins above the one before")
        # 1 of anything would be 1 BTC where 1 USD was meant
        if self.asset is None and (self.bps is None or self.minimum is not None or self.maximum is not None):
            raise _wrong("asset: an amount (flat, tiers, minimum, maximum) is one of an asset")
        return self

    @property
    def subject(self) -> tuple[str, str | None, str | None]:
        """What it is for; no two rules of a schedule are for the same."""
        return self.type, self.asset, self.method

    def fits(self, kind: str, asset: str, method: str | None) -> bool:
        """Whether it is for such an event."""
        return self.type == kind and self.asset in (None, asset) and self.method in (None, method)


class Schedule(_Part):
    """Rules, and how many decimals the fees in an asset have (18, when it isn't named)."""

    fee: Annotated[tuple[Rule, ...], Field(min_length=1)]
    decimals: dict[Symbol, Annotated[int, Field(strict=True, ge=0, le=MOST)]] = {}

    def name(self, number: int) -> str:
        """A rule as it is spoken of; its number counts from 0."""
        return self.fee[number].name or f"fee {number + 1}"

    def scale(self, asset: str) -> int:
        """The decimals of a fee in an asset."""
        return self.decimals.get(asset, MOST)

    @model_validator(mode="after")
    def _is_clear(self) -> Schedule:
        seen: dict[tuple[str, str | None, str | None], int] = {}
        for number, rule in enumerate(self.fee):
            first = seen.setdefault(rule.subject, number)
            if first != number:
                raise _wrong(f"fee {number + 1}: the same type, asset and method as fee {first + 1}")
            for field in ("flat", "minimum", "maximum"):
                amount = getattr(rule, field)
                if amount is not None and rule.asset and _rounded(amount, self.scale(rule.asset)) != amount:
                    fewer = f"{rule.asset} has {self.scale(rule.asset)} decimals, got {plain(amount)}"
                    raise _wrong(f"fee {number + 1}, {field}: {fewer}")
        return self


class FeeQuote(NamedTuple):
    """A fee, the name of the rule that it comes from, and how it was computed, step by step."""

    fee: Decimal
    rule: str
    steps: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------------- reading


def read_schedule(text: str, name: str, precision: Precision | None = None) -> Schedule:
    """The schedule of a TOML file, or of a JSON one when its `name` ends so. Raises ScheduleError.

    precision: decimals of assets that it says nothing of.
    """
    found = read_document(text, name, ScheduleError, parse_float=Number)
    if not isinstance(found, dict):
        raise ScheduleError(f"{name}: not an object with `fee`, a list of rules")
    if precision and isinstance(found.get("decimals", {}), dict):
        found["decimals"] = {**precision, **found.get("decimals", {})}
    try:
        return Schedule.model_validate(found)
    except ValidationError as error:
        raise ScheduleError(f"{name}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """`fee 2, tiers 1, bps: must not be negative, got '-1'`."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ""
    for part in first["loc"]:
        where += f" {part + 1}" if isinstance(part, int) else f", {part}"
    got = first["input"]
    if isinstance(got, Number):
        got = got.digits
    shown = f", got {got!r}"[:80] if isinstance(got, str | int | float) else ""
    return f"{where[2:]}: {first['msg']}{shown}" if where else str(first["msg"])


# ------------------------------------------------------------------------------------------------------------- quoting


def quote(
    schedule: Schedule, kind: str, asset: str, amount: Decimal, method: str | None = None, volume: Decimal | None = None
) -> FeeQuote:
    """The fee of an event, in its asset.

    Of the rules that fit, the one that names the asset goes before one that doesn't, and then the one that names the
    method. `volume`: the user's volume of the last 30 days in this type and asset, without this event. Tiers are
    marginal: each part of `amount` is charged as the tier says that it falls into, so a fee never falls as an amount
    grows. Raises FeeError.
    """
    fitting = [number for number, rule in enumerate(schedule.fee) if rule.fits(kind, asset, method)]
    if not fitting:
        by = "any method" if method is None else repr(method)
        raise FeeError(f"no rule for a {kind} of {asset} by {by}: add one to the schedule, with bps 0 if it is free")
    number = max(fitting, key=lambda n: (schedule.fee[n].asset is not None, schedule.fee[n].method is not None))
    rule, name, scale = schedule.fee[number], schedule.name(number), schedule.scale(asset)
    with localcontext(_EXACT):
        fee, steps = _charged(rule, name, amount, volume)
        for bound, limited in (
            ("minimum", rule.minimum if rule.minimum is not None and fee < rule.minimum else None),
            ("maximum", rule.maximum if rule.maximum is not None and fee > rule.maximum else None),
        ):
            if limited is not None:
                fee = limited
                steps.append(f"{bound} {plain(fee)}")
        rounded = _rounded(fee, scale)
        if rounded != fee:
            steps.append(f"rounded half to even to {scale} decimals: {plain(rounded)}")
        if kind == "DEPOSIT" and rounded > amount:
            raise FeeError(f"{name}: a fee of {plain(rounded)} is above the DEPOSIT of {plain(amount)}: it is invalid")
        return FeeQuote(rounded, name, tuple(steps))


def _charged(rule: Rule, name: str, amount: Decimal, volume: Decimal | None) -> tuple[Decimal, list[str]]:
    if rule.flat is not None:
        return rule.flat, [f"flat {plain(rule.flat)}"]
    if rule.bps is not None:
        return _part(amount, rule.bps)
    assert rule.tiers is not None
    if volume is None:
        raise FeeError(f"{name} depends on the volume of the last 30 days: give --volume, or --user to look it up")
    fee, steps = Decimal(0), [f"30-day volume {plain(volume)}"]
    for k, tier in enumerate(rule.tiers):
        end = volume + amount
        if k + 1 < len(rule.tiers):
            end = min(end, rule.tiers[k + 1].above)
        part = end - max(volume, tier.above)
        if part > 0:
            charged, told = _part(part, tier.bps)
            fee += charged
            steps += told
    return fee, steps if len(steps) < 3 else [*steps, f"together {plain(fee)}"]


def _part(amount: Decimal, bps: Decimal) -> tuple[Decimal, list[str]]:
    fee = amount * bps * _BPS
    return fee, [f"{plain(amount)} at {plain(bps)} bps = {plain(fee)}"]


def _rounded(value: Decimal, scale: int) -> Decimal:
    """Half to even."""
    return value.quantize(Decimal(1).scaleb(-scale), context=Context(prec=120, rounding=ROUND_HALF_EVEN))


def plain(value: Decimal) -> str:
    """A decimal as the interface writes it, with all of its digits: `1.5`, `0`."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_json(found: FeeQuote) -> Mapping[str, Any]:
    """As `--json` prints it."""
    return {"fee": plain(found.fee), "rule": found.rule, "steps": list(found.steps)}
