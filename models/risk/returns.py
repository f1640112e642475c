"""What a portfolio's positions returned from one closing to the next, in base currency, and how they vary together.

Statistics, in float64. A position's closing in base currency is its symbol's, times those of the prices that make the
rate; so the risk of currencies is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from assetstream.models.decimals import ONE
from assetstream.models.risk.account import Account, Holding

#: below that neither a volatility nor a 95% quantile is worth telling
LEAST = 20


class TooFewPrices(ValueError):
    """There are too few closings for a statistic; the text says how many, and of which symbol."""


class Closing(NamedTuple):
    """The last price of a symbol in a period, and the relative spread (ask − bid)/mid that came with it, or nan."""

    price: float
    spread: float


#: by symbol, and number of the period since 1970
Closings = Mapping[str, Mapping[int, Closing]]


class Returns(NamedTuple):
    """Simple returns of positions, float64[n, k]: the earlier before the later; those that have no price are left out.

    periods     of the closings that returns end with, int64[n]
    values      market values of the k positions now, in base currency, float64[k], signed
    spreads     relative spreads in the same periods, float64[n, k]; nan: not quoted
    not_priced  symbols of open positions that have too few closings
    fewest      the symbol with the fewest: it may be why there aren't more returns
    """

    symbols: list[str]
    returns: np.ndarray
    periods: np.ndarray
    values: np.ndarray
    spreads: np.ndarray
    not_priced: list[str]
    fewest: str


def returns_of(account: Account, closings: Closings, window: int) -> Returns:
    """The last `window` returns between periods in which everything needed was priced. Raises TooFewPrices."""
    needed = {each.symbol: _legs(account, each) for each in account.open}
    if not needed:
        raise TooFewPrices("too few prices: no position is open and priced")
    counts = {
        symbol: min(len(closings.get(leg, ())) for leg, _ in legs) if legs else 0 for symbol, legs in needed.items()
    }
    symbols = [symbol for symbol, count in counts.items() if count > LEAST]
    if not symbols:
        most = max(counts, key=lambda symbol: counts[symbol])
        raise TooFewPrices(f"too few prices: {LEAST + 1} closings are needed, {most} has the most: {counts[most]}")
    common = set.intersection(*(set(closings[leg]) for symbol in symbols for leg, _ in needed[symbol]))
    fewest = min(symbols, key=lambda symbol: counts[symbol])
    if len(common) <= LEAST:
        raise TooFewPrices(
            f"too few prices: {LEAST + 1} closings of all positions at once are needed, there are {len(common)}; "
            f"{fewest} has the fewest: {counts[fewest]}"
        )
    periods = sorted(common)[-window - 1 :]
    series = np.array([_series(closings, needed[symbol], periods) for symbol in symbols]).T
    spreads = np.array([[closings[symbol][each].spread for symbol in symbols] for each in periods[1:]])
    values = {each.symbol: value.market_value / ONE for each in account.open if (value := account.value(each))}
    return Returns(
        symbols,
        series[1:] / series[:-1] - 1.0,
        np.array(periods[1:], np.int64),
        np.array([values[each] for each in symbols]),
        spreads,
        [each for each in needed if each not in symbols],
        fewest,
    )


def _legs(account: Account, holding: Holding) -> list[tuple[str, bool]]:
    """The prices whose product is a position's in base currency; none, when it is valued without a price of its own."""
    if holding.symbol not in account.marks:
        return []
    rate = account.legs(account.marks[holding.symbol].currency, account.base_currency)
    return [] if rate is None else [(holding.symbol, False), *rate]


def _series(closings: Closings, legs: Sequence[tuple[str, bool]], periods: Sequence[int]) -> np.ndarray:
    found = np.ones(len(periods))
    for symbol, inverse in legs:
        prices = np.array([closings[symbol][each].price for each in periods])
        found = found / prices if inverse else found * prices
    return found


def covariance(returns: np.ndarray, decay: float | None = None) -> np.ndarray:
    """Covariance per period of returns float64[n, k] around a mean of 0: float64[k, k].

    All returns weigh the same; with a decay λ each later one counts: Σ ← λ·Σ + (1 − λ)·r·rᵀ, beginning with the first.
    """
    if decay is None:
        return returns.T @ returns / len(returns)
    age = np.arange(len(returns))[::-1]
    weights = (1.0 - decay) * decay**age
    weights[0] = decay ** age[0]
    return (returns * weights[:, None]).T @ returns


def root(covariance: np.ndarray) -> np.ndarray:
    """The lower triangular L with L·Lᵀ = covariance, float64[k, k], also where it is singular (Cholesky)."""
    left, size = np.zeros_like(covariance), len(covariance)
    for j in range(size):
        rest = covariance[j:, j] - left[j:, :j] @ left[j, :j]
        # what is left over of a variance by rounding is none
        if rest[0] > 1e-12 * covariance[j, j]:
            left[j:, j] = rest / np.sqrt(rest[0])
    return left
