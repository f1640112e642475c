"""Simulated losses: many paths of a portfolio, drawn from normal or Student t returns, or from past ones.

The same seed gives the same paths, on any machine and however they are divided: each has random numbers of its own,
SplitMix64 (Steele, Lea, Flood 2014) from a state that is hashed from seed and number. So only losses are kept, and the
paths of the tail are drawn again to see which position lost how much in them. Statistics, in float64.

The kernels use nothing of other files: `models/__init__.py` keeps kernels by the files of its own folder only; of this
one numba itself sees when it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numba
import numpy as np

from assetstream.models.risk.value_at_risk import CONFIDENCES, Risk, tail

NORMAL, STUDENT, BOOTSTRAP = 0, 1, 2
KINDS = {"normal": NORMAL, "t": STUDENT, "bootstrap": BOOTSTRAP}
#: paths that are drawn between two words on how far it is
CHUNK = 4096

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_TO_UNIT = 2.0**-53

_inline = numba.njit(inline="always")


@_inline
def _mixed(state):  # type: ignore[no-untyped-def]
    """SplitMix64's output of a state."""
    z = (state ^ (state >> _30)) * _MIX1
    z = (z ^ (z >> _27)) * _MIX2
    return z ^ (z >> _31)


@_inline
def _unit(state):  # type: ignore[no-untyped-def]
    """A number above 0, up to 1, of 53 bits."""
    return (np.float64(_mixed(state) >> _11) + 1.0) * _TO_UNIT


@numba.njit(cache=True, nogil=True)
def _draw(seed, path, kind, root, freedom, past, horizon, returns):  # type: ignore[no-untyped-def]
    """One path: the returns of k positions over the horizon.

    root: L transposed, float64[k, k]; freedom: of Student t, > 2; past: returns float64[n, k]; horizon: periods
    """
    state = _mixed(seed + _GAMMA * (np.uint64(path) + np.uint64(1)))
    k = len(returns)
    if kind == BOOTSTRAP:
        returns[:] = 1.0
        for _ in range(horizon):
            state += _GAMMA
            day = min(np.int64(_unit(state) * len(past)), len(past) - 1)
            for i in range(k):
                returns[i] *= 1.0 + past[day, i]
        for i in range(k):
            returns[i] -= 1.0
        return
    scale = np.sqrt(np.float64(horizon))
    if kind == STUDENT:
        # χ² is a sum of squared normals, and two of those are −2·ln u together; (ν − 2) keeps the covariance
        squares = 0.0
        for _ in range(freedom // 2):
            state += _GAMMA
            squares -= 2.0 * np.log(_unit(state))
        if freedom % 2:
            state += _GAMMA
            radius = -2.0 * np.log(_unit(state))
            state += _GAMMA
            squares += radius * np.cos(2.0 * np.pi * _unit(state)) ** 2
        scale *= np.sqrt((freedom - 2.0) / squares)
    returns[:] = 0.0
    other, is_left = 0.0, False
    for j in range(k):
        if is_left:
            normal = other
        else:  # Box and Muller make two at a time
            state += _GAMMA
            radius = np.sqrt(-2.0 * np.log(_unit(state)))
            state += _GAMMA
            angle = 2.0 * np.pi * _unit(state)
            normal, other = radius * np.cos(angle), radius * np.sin(angle)
        is_left = not is_left
        for i in range(j, k):
            returns[i] += root[j, i] * normal
    for i in range(k):
        returns[i] = max(returns[i] * scale, -1.0)


@numba.njit(cache=True, nogil=True)
def _losses(seed, first, kind, root, freedom, past, horizon, values, losses):  # type: ignore[no-untyped-def]
    """The losses of the paths from number `first` on, as many as there is room for."""
    returns = np.empty(len(values))
    for n in range(len(losses)):
        _draw(seed, first + n, kind, root, freedom, past, horizon, returns)
        total = 0.0
        for i in range(len(values)):
            total -= values[i] * returns[i]
        losses[n] = total


@numba.njit(cache=True, nogil=True)
def _parts(seed, paths, kind, root, freedom, past, horizon, values, parts):  # type: ignore[no-untyped-def]
    """What each position lost in the paths of these numbers, float64[n, k]."""
    returns = np.empty(len(values))
    for n in range(len(paths)):
        _draw(seed, paths[n], kind, root, freedom, past, horizon, returns)
        for i in range(len(values)):
            parts[n, i] = -values[i] * returns[i]


class Model(NamedTuple):
    """What is drawn: `kind` of KINDS, for positions worth `values` float64[k].

    root: `returns.root` of their covariance per period; past: their returns float64[n, k]; freedom: an integer > 2, of
    Student t; horizon: periods
    """

    kind: str
    values: np.ndarray
    root: np.ndarray
    past: np.ndarray
    freedom: int = 4
    horizon: int = 1

    def arguments(self) -> tuple[object, ...]:
        """As the kernels take them."""
        root, past = (np.ascontiguousarray(each, np.float64) for each in (self.root.T, self.past))
        return KINDS[self.kind], root, self.freedom, past, self.horizon, np.ascontiguousarray(self.values, np.float64)


class Simulated(NamedTuple):
    """Losses of all paths in base currency, float64[paths], and the risks by confidence."""

    losses: np.ndarray
    risks: list[Risk]


def simulate(model: Model, paths: int, seed: int, told: Callable[[int], None] = lambda done: None) -> Simulated:
    """Draw `paths` paths; `told` hears how many are done. seed: 0 ≤ seed < 2^64.

    VaR and CVaR are those of the losses (`value_at_risk.tail`); a position contributes what it lost in the path that
    VaR is of, and in the mean of those that CVaR is of.
    """
    losses = np.empty(paths)
    for first, part in _chunks(losses):
        _losses(np.uint64(seed), first, *model.arguments(), part)
        told(first + len(part))
    return Simulated(losses, [_risk(model, losses, seed, confidence) for confidence in CONFIDENCES])


def _chunks(losses: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(losses), CHUNK):
        yield first, losses[first : first + CHUNK]


def _risk(model: Model, losses: np.ndarray, seed: int, confidence: int) -> Risk:
    found = tail(losses, confidence)
    of_cvar = np.zeros(len(model.values))
    for first in range(0, len(found.places), CHUNK):
        places = found.places[first : first + CHUNK]
        of_cvar += found.weights[first : first + CHUNK] @ parts_of(model, places, seed)
    (of_var,) = parts_of(model, np.array([found.at]), seed)
    return Risk(confidence, float(of_var.sum()), float(of_cvar.sum()), of_var, of_cvar)


def parts_of(model: Model, paths: np.ndarray, seed: int) -> np.ndarray:
    """What each position loses in the paths of these numbers, float64[n, k]."""
    parts = np.empty((len(paths), len(model.values)))
    _parts(np.uint64(seed), np.asarray(paths, np.int64), *model.arguments(), parts)
    return parts
