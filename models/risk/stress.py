"""Stress tests, exactly: what a scenario does to a portfolio, and how much of it breaks a limit.

A portfolio is valued again with prices and currencies moved, by the rules that the stream values it with. So a loss
told here is the loss that the stream would tell, were those prices to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from assetstream.models.reference_reading import ONE, divide, times
from assetstream.models.risk.account import Account, Value
from assetstream.models.risk.scenarios import Scenario, Sensitivities, Shock, shock_of

#: factors are multiples of this (units): 0.000001
STEP = 10**12
#: and no larger than this, in steps: a hundred times the scenario
MOST = 100 * ONE // STEP


class Impact(NamedTuple):
    """What a scenario does to a position: its own change of price, and market values in base currency, units."""

    symbol: str
    shock: Shock
    before: int
    after: int

    @property
    def change(self) -> int:
        return self.after - self.before


class Totals(NamedTuple):
    """A portfolio in base currency, units. equity: market value + cash, None while cash isn't known."""

    market_value: int
    gross_exposure: int
    total_pnl: int
    daily_pnl: int | None
    equity: int | None


class Stressed(NamedTuple):
    """A scenario's result: the changes of `impacts` add up to that of the market value.

    not_moved: symbols of open positions that the scenario says nothing of
    """

    impacts: list[Impact]
    before: Totals
    after: Totals
    not_moved: list[str]

    @property
    def change(self) -> int:
        return self.after.market_value - self.before.market_value


def stress(
    account: Account, scenario: Scenario, sensitivities: Sensitivities | None = None, factor: int = ONE
) -> Stressed:
    """The portfolio after `factor` (units, ≥ 0) times a scenario. Positions that are unpriced are in neither value."""
    plan = _Plan(account, scenario, sensitivities or {})
    before, after = plan.values(0), plan.values(factor)
    impacts = [
        Impact(symbol, plan.shocks[symbol], before[symbol].market_value, after[symbol].market_value)
        for symbol in plan.open
    ]
    totals = (_totals(account, before), _totals(account, after))
    return Stressed(impacts, *totals, [each.symbol for each in impacts if each.shock.is_none])


class _Plan:
    """An account, and what a scenario does to each of its priced positions."""

    def __init__(self, account: Account, scenario: Scenario, sensitivities: Sensitivities) -> None:
        self.account = account
        self.holdings = account.priced
        self.open = [each.symbol for each in self.holdings if each.book.quantity]
        self.shocks = {each.symbol: shock_of(scenario, account, each, sensitivities) for each in self.holdings}

    def values(self, factor: int) -> dict[str, Value]:
        """By symbol, at a factor (units)."""
        found = {}
        for each in self.holdings:
            value = self.account.value(each, self.shocks[each.symbol].scaled(factor))
            assert value is not None  # it has its rates
            found[each.symbol] = value
        return found

    @property
    def floors(self) -> set[int]:
        """The steps around each factor at which something has lost all, and moves no more."""
        falls = {each for shock in self.shocks.values() for each in shock if each is not None and each < 0}
        first = {ONE * ONE // (-fall * STEP) for fall in falls}
        return first | {each + 1 for each in first}


def totals(account: Account) -> Totals:
    """An account as it is."""
    return _totals(account, {each.symbol: value for each in account.priced if (value := account.value(each))})


def _totals(account: Account, values: Mapping[str, Value]) -> Totals:
    market_value = sum(each.market_value for each in values.values())
    total_pnl = sum(each.total_pnl for each in values.values())
    return Totals(
        market_value,
        sum(abs(each.market_value) for each in values.values()),
        total_pnl,
        None if account.baseline is None else total_pnl - account.baseline,
        None if account.cash is None else market_value + account.cash,
    )


def leverage(totals: Totals) -> int | None:
    """Gross exposure / equity, units; None: equity isn't known, or isn't above 0."""
    return (
        divide(totals.gross_exposure * ONE, totals.equity) if totals.equity is not None and totals.equity > 0 else None
    )


# ------------------------------------------------------------------------------------------------------- reverse stress


class LimitError(ValueError):
    """A limit that can't be looked at; the text says what is missing."""


class Measured(NamedTuple):
    """What a limit looks at, units; None: nothing, since equity isn't above 0. excess > 0: the limit is broken."""

    value: int | None
    excess: int


Measure = Callable[[Totals, Mapping[str, Value], int], Measured]


def _at_most(value: int, limit: int) -> Measured:
    return Measured(value, value - limit)


def _daily(totals: Totals, values: Mapping[str, Value], limit: int) -> Measured:
    if totals.daily_pnl is None:
        raise LimitError("max_daily_loss: ClickHouse has no update of the portfolio that says where its day began")
    return _at_most(-totals.daily_pnl, limit)


def _leverage(totals: Totals, values: Mapping[str, Value], limit: int) -> Measured:
    if totals.equity is None:
        raise LimitError("max_leverage: equity is market value and cash: say how much cash there is with --cash")
    return Measured(leverage(totals), totals.gross_exposure * ONE - limit * totals.equity)


#: the limits of `risk_limits` that are looked at, as the stream judges them; max_leverage as gross exposure / equity
MEASURES: dict[str, Measure] = {
    "max_total_loss": lambda totals, values, limit: _at_most(-totals.total_pnl, limit),
    "max_daily_loss": _daily,
    "max_portfolio_value": lambda totals, values, limit: _at_most(totals.gross_exposure, limit),
    "max_leverage": _leverage,
}
POSITION = "max_position_size"


def _of_symbol(symbol: str) -> Measure:
    return lambda totals, values, limit: _at_most(abs(values[symbol].market_value), limit)


class Breaking(NamedTuple):
    """The smallest factor (units) of a scenario at which a limit breaks; None: not by a hundred times it.

    value: what the limit looks at, at that factor; now: as things are; loss: of market value, at that factor
    """

    limit: str
    subject: str
    most: int
    now: int | None
    factor: int | None
    value: int | None
    loss: int | None


def reverse(
    account: Account, scenario: Scenario, limits: Mapping[str, int], sensitivities: Sensitivities | None = None
) -> list[Breaking]:
    """How much of a scenario breaks each limit (units, > 0). A limit that is broken now breaks at factor 0.

    Factors are multiples of STEP, verified: at that one the limit is broken, one step before it isn't.
    max_position_size is told of the position that breaks it first. Raises LimitError.
    """
    plan = _Plan(account, scenario, sensitivities or {})

    @cache
    def at(step: int) -> tuple[Totals, Mapping[str, Value]]:
        values = plan.values(step * STEP)
        return _totals(account, values), values

    def search(name: str, subject: str, measure: Measure, most: int) -> Breaking:
        def measured(step: int) -> Measured:
            return measure(*at(step), most)

        step = _first_above_zero(lambda step: measured(step).excess, plan.floors)
        now = measured(0).value
        if step is None:
            return Breaking(name, subject, most, now, None, None, None)
        loss = at(0)[0].market_value - at(step)[0].market_value
        return Breaking(name, subject, most, now, step * STEP, measured(step).value, loss)

    found = []
    for name, most in limits.items():
        if name == POSITION:
            each = [search(name, symbol, _of_symbol(symbol), most) for symbol in plan.open]
            found += sorted(each, key=lambda b: (b.factor is None, b.factor))[:1]
        else:
            found.append(search(name, "-", MEASURES[name], most))
    return found


def _first_above_zero(excess: Callable[[int], int], floors: set[int]) -> int | None:
    """The smallest step from 0 to MOST at which `excess` is above 0.

    Every value is a sum of products of a price and a currency that move along lines until they have lost all: between
    two `floors` a parabola, but for the last digit. So between those and its vertex it is found by halving.
    """
    edges = sorted({0, MOST, *(each for each in floors if each < MOST)})
    if excess(0) > 0:
        return 0
    for start, end in pairwise(edges):
        for low, high in pairwise(_with_vertex(excess, start, end)):
            if excess(high) > 0:
                return _halved(excess, low, high)
    return None


def _with_vertex(excess: Callable[[int], int], start: int, end: int) -> Iterator[int]:
    """start, end, and the steps on both sides of the vertex between them of the parabola that `excess` is there."""
    yield start
    middle = (start + end) // 2
    if start < middle < end:
        slopes = [Fraction(excess(b) - excess(a), b - a) for a, b in ((start, middle), (middle, end))]
        bend = (slopes[1] - slopes[0]) / (end - start)
        if bend:
            # of a parabola the slope of a chord is that at its middle
            vertex = Fraction(start + middle, 2) - slopes[0] / (2 * bend)
            yield from (each for each in (vertex.__floor__(), vertex.__floor__() + 1) if start < each < end)
    yield end


def _halved(excess: Callable[[int], int], low: int, high: int) -> int:
    """The first step after `low`, which isn't above 0, that is; `high` is."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return high


def scaled(scenario: Scenario, factor: int) -> dict[str, int]:
    """All that a scenario moves, at a factor (units)."""
    return {name: times(each, factor) for name, each in scenario.changes.items()}
