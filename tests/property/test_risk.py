"""Laws of looking ahead: what adds up, what grows, what stays, and that no breaking of a limit is missed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetstream.models.market import market
from assetstream.models.reference import Book, Reference
from assetstream.models.reference_reading import ONE, plain
from assetstream.models.risk.account import Account, Holding, Mark
from assetstream.models.risk.returns import covariance
from assetstream.models.risk.scenarios import Scenario
from assetstream.models.risk.stress import MEASURES, STEP, reverse, stress, totals
from assetstream.models.risk.value_at_risk import Risk, historical, parametric

SYMBOLS = ("A", "B", "C")
CURRENCIES = ("USD", "EUR", "CHF")
#: a few decimals, so that numbers meet
PRICES = st.integers(1, 4000).map(lambda n: n * ONE // 8)
CHANGES = st.integers(-100, 200).map(lambda n: n * ONE // 100)
HOLDINGS = st.builds(
    Holding,
    st.sampled_from(SYMBOLS),
    st.sampled_from(CURRENCIES),
    st.sampled_from(("STOCK", "CRYPTO")),
    st.builds(Book, st.integers(-50, 50).map(lambda n: n * ONE), *[st.integers(-9, 9).map(lambda n: n * ONE)] * 3),
    PRICES,
)


@st.composite
def accounts(draw: Any) -> Account:
    marks = {symbol: Mark(draw(PRICES), draw(st.sampled_from(CURRENCIES)), None, None, 0) for symbol in SYMBOLS}
    marks |= {pair: Mark(draw(PRICES), "USD", None, None, 0) for pair in ("EUR/USD", "CHF/USD")}
    holdings = draw(st.lists(HOLDINGS, max_size=3, unique_by=lambda each: each.symbol))
    cash = draw(st.integers(-50_000, 50_000)) * ONE
    return Account("u", "p", draw(st.sampled_from(CURRENCIES)), tuple(holdings), marks, 0, cash)


SCENARIOS = st.builds(
    Scenario,
    all=st.none() | CHANGES.map(plain),
    types=st.dictionaries(st.sampled_from(("STOCK", "CRYPTO")), CHANGES.map(plain)),
    symbols=st.dictionaries(st.sampled_from(SYMBOLS), CHANGES.map(plain)),
    currencies=st.dictionaries(st.sampled_from(("*", *CURRENCIES)), CHANGES.map(plain)),
)


@given(accounts(), SCENARIOS, st.integers(0, 3 * 10**6))
def test_what_positions_lose_is_what_the_portfolio_loses(account: Account, scenario: Scenario, step: int) -> None:
    found = stress(account, scenario, factor=step * STEP)
    assert sum(each.change for each in found.impacts) == found.change
    assert found.before == totals(account)
    assert stress(account, scenario, factor=0).change == 0
    unmoved = {each.symbol: each.change for each in found.impacts if each.symbol in found.not_moved}
    assert set(unmoved.values()) <= {0}


@settings(max_examples=150)
@given(accounts(), SCENARIOS, st.sampled_from(sorted(MEASURES)), st.integers(1, 40_000))
def test_no_breaking_of_a_limit_is_missed(account: Account, scenario: Scenario, name: str, most: int) -> None:
    def is_broken(step: int) -> bool:
        found = stress(account, scenario, factor=step * STEP)
        values = {each.symbol: None for each in found.impacts}
        return MEASURES[name](found.after, values, most * ONE).excess > 0  # type: ignore[arg-type]

    (found,) = reverse(account, scenario, {name: most * ONE})
    first = 100 * ONE // STEP if found.factor is None else found.factor // STEP
    if found.factor is not None:
        assert is_broken(first)
        assert first == 0 or not is_broken(first - 1)
    for n in range(40):  # denser where it begins
        assert not is_broken(first * n * n // 1600) or first * n * n // 1600 == first


def test_a_market_is_valued_as_the_reference_values_it() -> None:
    model = Reference(judging=False)
    for number, (topic, key, value) in enumerate(islice(market(users=5, symbols=20, seed=3), 3000)):
        if topic in ("trades", "prices"):
            model.feed(topic, 0, number, 4_102_444_800_000, key, value)
    model.value_all()
    marks = {
        symbol: Mark(found.fields["price"], found.fields["currency"], None, None, 0)
        for symbol, found in model.marks.items()
    }
    assert len(model.portfolios) > 3
    for (user, portfolio), held in model.portfolios.items():
        holdings = tuple(Holding(p.symbol, p.currency, "OTHER", p.book, p.last_price) for p in held.positions.values())
        found = totals(account := Account(user, portfolio, "USD", holdings, marks))
        told = model.update(user, portfolio)
        names = ("market_value", "gross_exposure", "total_pnl")
        assert [plain(getattr(found, name)) for name in names] == [told[name] for name in names]
        assert account.unpriced == told["unpriced"]
        lost = replace(account, marks={symbol: each for symbol, each in marks.items() if "/" not in symbol})
        assert bool(lost.unpriced) == any(each.currency != "USD" for each in holdings)


VALUES = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=4)


@given(VALUES, st.integers(100, 400), st.integers(0, 2**32 - 1))
def test_laws_of_value_at_risk(values: list[float], count: int, seed: int) -> None:
    worth, returns = np.array(values), np.random.default_rng(seed).standard_normal((count, len(values))) * 0.02
    sigma = covariance(returns)
    scale = 1e-9 + abs(worth).sum()

    def both(horizon: float = 1.0, by: float = 1.0) -> Iterable[tuple[Risk, Risk]]:
        yield tuple(parametric(worth * by, sigma, each, horizon) for each in (95, 99))  # type: ignore[misc]
        yield tuple(_known(worth * by, returns, each, horizon) for each in (95, 99))  # type: ignore[misc]

    for (low, high), (longer, _), (double, _) in zip(both(), both(horizon=4), both(by=2), strict=True):
        for each in (low, high):
            assert each.cvar >= each.var - 1e-9 * scale
            assert each.var_contributions.sum() == pytest.approx(each.var, abs=1e-9 * scale)
            assert each.cvar_contributions.sum() == pytest.approx(each.cvar, abs=1e-9 * scale)
        assert high.var >= low.var
        assert high.cvar >= low.cvar - 1e-9 * scale
        assert longer.var == pytest.approx(2 * low.var, abs=1e-9 * scale)
        assert double.cvar == pytest.approx(2 * low.cvar, abs=1e-9 * scale)


def _known(values: np.ndarray, returns: np.ndarray, confidence: int, horizon: float) -> Risk:
    found = historical(values, returns, confidence, horizon)
    assert found is not None
    return found
