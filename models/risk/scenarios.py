"""Scenarios: by how much which prices, currencies and factors move. Named ones with their sources, and one's own.

A position's price moves by what is said of its symbol, else of its asset type, else of all; and on top of it by each
factor times its sensitivity to that factor. Currencies move against the base currency. No price falls by more than all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from assetstream.models.decimals import DecimalError, from_units, is_decimal, to_units
from assetstream.models.documents import read_document
from assetstream.models.messages import AssetType, Number, Symbol
from assetstream.models.reference_reading import ONE, times
from assetstream.models.risk.account import Account, Holding, Move

#: all currencies but the base
EVERY = "*"
#: no scenario multiplies anything by more: 100,000 %
MOST = 1000 * ONE


class ScenarioError(ValueError):
    """A file of scenarios, or a shock, that is none: where, and what is wrong there."""


def change(text: Any) -> int:
    """`-50%`, `200bp` or `-0.5` in units, exactly. Raises ScenarioError."""
    number = text.digits if isinstance(text, Number) else str(text).strip()
    scale = 0
    for unit, places in (("%", 2), ("bp", 4)):
        if number.endswith(unit):
            number, scale = number.removesuffix(unit).strip(), places
    if not is_decimal(number):
        raise ScenarioError(f"{text!r} is no change: write it as -50%, 200bp or -0.5")
    try:
        found = to_units(Decimal(number).scaleb(-scale))
    except DecimalError as error:
        raise ScenarioError(f"{text!r} {error}") from error
    if abs(found) > MOST:
        raise ScenarioError(f"{text!r} is more than 100000%")
    return found


def percent(units: int) -> str:
    """A change as it is shown: `-50%`."""
    return f"{from_units(units * 100)}%"


def _change(value: Any) -> int:
    try:
        return change(value)
    except ScenarioError as error:
        raise PydanticCustomError("change", str(error)) from error  # type: ignore[arg-type]


def _price_change(value: Any) -> int:
    found = _change(value)
    if found < -ONE:
        raise PydanticCustomError("change", "is a fall by more than 100%")
    return found


Change = Annotated[int, BeforeValidator(_change)]
PriceChange = Annotated[int, BeforeValidator(_price_change)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Scenario(BaseModel):
    """Changes in units of 10^-18 (−0.5 is a fall by half); of `factors` in the factor's own unit, of rates 0.02."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = ""
    all: PriceChange | None = None
    types: dict[AssetType, PriceChange] = {}
    symbols: dict[Symbol, PriceChange] = {}
    currencies: dict[Symbol | Literal["*"], PriceChange] = {}
    factors: dict[Name, Change] = {}

    @property
    def changes(self) -> dict[str, int]:
        """Everything that it moves, as it is written on the command line: `type:CRYPTO` → −0.5."""
        told = {} if self.all is None else {"all": self.all}
        for kind in ("types", "symbols", "currencies", "factors"):
            told |= {f"{_PREFIXES[kind]}{name}": each for name, each in getattr(self, kind).items()}
        return told


_PREFIXES = {"types": "type:", "symbols": "symbol:", "currencies": "currency:", "factors": "factor:"}


class Scenarios(BaseModel):
    """What a file says. sensitivities: of a symbol to factors, the relative change of its price for 1 of the factor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: dict[Name, Scenario] = {}
    sensitivities: dict[Symbol, dict[Name, Change]] = {}


def _of(source: str, **changes: Any) -> Scenario:
    return Scenario.model_validate({"source": source, **changes})


#: What each class went through in the worst stretch, close to close. Where a class didn't exist, or nothing is said of
#: it, its positions are named as not moved: no proxy is invented.
NAMED: dict[str, Scenario] = {
    # 676.53 / 1565.15 − 1
    "crisis-2008": _of(
        "S&P 500, closes of 2007-10-09 (1,565.15) and 2009-03-09 (676.53): S&P Dow Jones Indices",
        types={"STOCK": "-56.78%", "ETF": "-56.78%"},
    ),
    # 2237.40 / 3386.15 − 1, and 4970.79 / 7911.43 − 1
    "march-2020": _of(
        "S&P 500, closes of 2020-02-19 (3,386.15) and 2020-03-23 (2,237.40): S&P Dow Jones Indices; Bitcoin, closes of "
        "2020-03-11 (7,911.43) and 2020-03-12 (4,970.79): CoinMarketCap",
        types={"STOCK": "-33.92%", "ETF": "-33.92%", "CRYPTO": "-37.17%"},
    ),
    "rates-up-200bp": _of(
        "the standardised parallel shock of 200 basis points: Basel Committee, Principles for the Management and "
        "Supervision of Interest Rate Risk (bcbs108, July 2004), annex 3",
        factors={"rates": "200bp"},
    ),
    "crypto-half": _of(
        "hypothetical: half is what Bitcoin lost from its peak of April 2021 (above 63,000) within three months",
        types={"CRYPTO": "-50%"},
    ),
    "fx-10": _of(
        "hypothetical: on its worst day since records began in 1971, 2016-06-24, sterling closed 8.1% lower against "
        "the dollar; rounded up, and for all currencies at once",
        currencies={EVERY: "-10%"},
    ),
}
#: for what a limit stands: scaled by a factor, these are a fall and a rise of everything but money
MARKET = {
    "market-falls": _of("everything that isn't money falls by as much", all="-100%"),
    "market-rises": _of("everything that isn't money rises by as much", all="100%"),
}


def custom(changes: Iterable[str]) -> Scenario:
    """One scenario of changes as they are written on the command line: `BTC=-50%`, `type:STOCK=-20%`, `all=-10%`.

    Raises ScenarioError.
    """
    found: dict[str, Any] = {}
    for text in changes:
        name, is_one, value = text.rpartition("=")
        if not is_one or not name:
            raise ScenarioError(f"{text!r} is no shock: write it as BTC=-50%")
        kind = next((each for each, prefix in _PREFIXES.items() if name.startswith(prefix)), "symbols")
        if name == "all":
            found["all"] = value
        else:
            found.setdefault(kind, {})[name.removeprefix(_PREFIXES[kind])] = value
    try:
        return _of("given by hand", **found)
    except ValidationError as error:
        raise ScenarioError(_first(error)) from error


def read_scenarios(text: str, name: str) -> Scenarios:
    """What a TOML file says, or a JSON one when its `name` ends so. Raises ScenarioError."""
    found = read_document(text, name, ScenarioError, parse_float=Number, parse_int=Number)
    try:
        return Scenarios.model_validate(found)
    except ValidationError as error:
        raise ScenarioError(f"{name}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ", ".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


# ------------------------------------------------------------------------------------------- what it does to a position

#: by symbol and factor, in units
Sensitivities = Mapping[str, Mapping[str, int]]


class Shock(NamedTuple):
    """By what a scenario changes a position: its price, the currency that it is exposed to, and that of its cost.

    None: the scenario says nothing of it. Units; currencies against the base.
    """

    price: int | None
    exposure: int | None
    own: int | None

    @property
    def is_none(self) -> bool:
        """Whether the position's market value is left alone."""
        return self.price is None and self.exposure is None

    def scaled(self, factor: int) -> Move:
        """The move at `factor` times the scenario (units, ≥ 0); nothing falls by more than all."""
        return Move(*(max(ONE + times(each or 0, factor), 0) for each in self))


def shock_of(scenario: Scenario, account: Account, holding: Holding, sensitivities: Sensitivities) -> Shock:
    """What a scenario does to a position."""
    price = scenario.symbols.get(holding.symbol)
    if price is None:
        price = scenario.types.get(AssetType(holding.asset_type))
    if price is None and holding.asset_type != "FIAT":
        price = scenario.all
    known = sensitivities.get(holding.symbol, {})
    moved = [times(known[name], each) for name, each in scenario.factors.items() if name in known]
    if moved:
        price = sum(moved, price or 0)
    exposure = _currency_change(scenario, account, account.exposure(holding))
    return Shock(price, exposure, _currency_change(scenario, account, holding.currency))


def _currency_change(scenario: Scenario, account: Account, currency: str) -> int | None:
    if currency == account.base_currency:
        return None
    return scenario.currencies.get(currency, scenario.currencies.get(EVERY))
