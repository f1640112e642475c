"""Value at risk and expected shortfall (CVaR): parametric and historical, with what each position contributes.

Statistics, in float64, in base currency; a loss is above 0. Contributions add up to their total but for rounding.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from assetstream.models.risk.returns import covariance

#: percent
CONFIDENCES = (95, 99)
_NORMAL = NormalDist()


class Risk(NamedTuple):
    """Value at risk and expected shortfall at a confidence (percent); contributions float64[k]."""

    confidence: int
    var: float
    cvar: float
    var_contributions: np.ndarray
    cvar_contributions: np.ndarray


def parametric(values: np.ndarray, sigma: np.ndarray, confidence: int, horizon: float = 1.0) -> Risk:
    """Of market values float64[k] whose returns are normal around 0, with covariance `sigma` per period, in `horizon`
    periods.

    VaR = z·σ·√h, CVaR = φ(z)/(1 − c)·σ·√h; position i contributes the part vᵢ(Σv)ᵢ/σ² of either (Euler).
    """
    z, of_normal = _NORMAL.inv_cdf(confidence / 100), 1 - confidence / 100
    together = sigma @ values
    deviation = sqrt(max(float(values @ together), 0.0))
    parts = values * together / deviation if deviation else np.zeros_like(values)
    scale = sqrt(horizon)
    var, cvar = z * scale, _NORMAL.pdf(z) / of_normal * scale
    return Risk(confidence, var * deviation, cvar * deviation, var * parts, cvar * parts)


class Tail(NamedTuple):
    """Where the tail of n losses lies: the place of VaR among them, and the places (the worst first) that CVaR is the
    mean of, with weights that add up to 1.
    """

    at: int
    places: np.ndarray
    weights: np.ndarray


def tail(losses: np.ndarray, confidence: int) -> Tail:
    """The tail of losses float64[n] that all are as likely, at a confidence in percent.

    With t = n·(1 − c): VaR is the ⌈t⌉-th worst, CVaR the mean of the t worst, the last of them counting in part.
    """
    hundredths = len(losses) * (100 - confidence)  # t·100, an integer: no float decides what a quantile is
    count = -(-hundredths // 100)
    worst = np.argsort(-losses, kind="stable")[:count]
    weights = np.full(count, 100 / hundredths)
    weights[-1] = 1.0 - (count - 1) * 100 / hundredths
    return Tail(int(worst[-1]), worst, weights)


def least(confidence: int) -> int:
    """How many losses are needed so that one is beyond."""
    return -(-100 // (100 - confidence))


def historical(values: np.ndarray, returns: np.ndarray, confidence: int, horizon: float = 1.0) -> Risk | None:
    """Of market values float64[k], as if one of the returns float64[n, k] came again; times √h. None: too few of them.

    A position contributes what it lost in the period that VaR is of, and in the mean of those that CVaR is of.
    """
    if len(returns) < least(confidence):
        return None
    losses = -returns * values * sqrt(horizon)
    found = tail(losses.sum(axis=1), confidence)
    of_var, of_cvar = losses[found.at], found.weights @ losses[found.places]
    return Risk(confidence, float(of_var.sum()), float(of_cvar.sum()), of_var, of_cvar)


def liquidity(values: np.ndarray, spreads: np.ndarray, confidence: int) -> np.ndarray:
    """What it costs to close each position (float64[k]) when spreads are as wide as `confidence` says: ½·|v|·(μ + z·σ).

    spreads: relative, (ask − bid)/mid, float64[n, k], nan: not quoted. nan: of what was never quoted. To be added to a
    value at risk (Bangia, Diebold, Schuermann, Stroughair); it doesn't grow with the horizon.
    """
    known = ~np.isnan(spreads)
    count = known.sum(axis=0)
    filled = np.where(known, spreads, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / count
        squares = np.where(known, (spreads - mean) ** 2, 0.0).sum(axis=0)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    return 0.5 * np.abs(values) * (mean + _NORMAL.inv_cdf(confidence / 100) * deviation)


def volatility(values: np.ndarray, returns: np.ndarray, decay: float | None = None) -> float:
    """The standard deviation of a portfolio's change per period, in base currency."""
    return sqrt(max(float(values @ covariance(returns, decay) @ values), 0.0))
