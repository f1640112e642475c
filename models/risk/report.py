"""The risk report of a portfolio, put together: exact figures as the interface writes them, statistics as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from assetstream.models.decimals import from_units
from assetstream.models.messages import from_micros, time_text
from assetstream.models.reference_reading import ONE, times
from assetstream.models.risk.account import Account
from assetstream.models.risk.monte_carlo import Simulated
from assetstream.models.risk.returns import Closings, Returns, TooFewPrices, covariance, returns_of
from assetstream.models.risk.scenarios import Scenario, Sensitivities, percent
from assetstream.models.risk.stress import Breaking, Stressed, leverage, reverse, scaled, stress, totals
from assetstream.models.risk.value_at_risk import (
    CONFIDENCES,
    Risk,
    historical,
    least,
    liquidity,
    parametric,
    volatility,
)

#: columns of a histogram
BINS = 24
#: a JSON object
Lines = dict[str, Any]


class Terms(NamedTuple):
    """How statistics are taken: of the last `window` returns, for `horizon` periods; no decay: all weigh the same."""

    window: int = 250
    horizon: int = 1
    decay: float | None = None


def time_or_none(micros: int | None) -> str | None:
    """A time as it is published."""
    return None if micros is None else time_text(from_micros(micros))


def positions(account: Account) -> Lines:
    """What is held and what it comes to, exactly; weight: the part of gross exposure, a statistic."""
    sums = totals(account)
    lines = []
    for each in account.open:
        value = account.value(each)
        assert value is not None
        mark = account.marks.get(each.symbol)
        price, currency = account.mark_of(each)
        lines.append(
            {
                "symbol": each.symbol,
                "asset_type": each.asset_type,
                "quantity": from_units(each.book.quantity),
                "mark": from_units(price),
                "mark_currency": currency,
                "mark_as_of": time_or_none(None if mark is None else mark.as_of),
                "market_value": from_units(value.market_value),
                "unrealized_pnl": from_units(value.market_value - value.cost_basis),
                "weight": abs(value.market_value) / sums.gross_exposure if sums.gross_exposure else 0.0,
                "liquidation_cost": _plain(_half_spread(account, each.symbol, each.book.quantity)),
            }
        )
    return {
        "positions": lines,
        "unpriced": account.unpriced,
        "market_value": from_units(sums.market_value),
        "gross_exposure": from_units(sums.gross_exposure),
        "total_pnl": from_units(sums.total_pnl),
        "daily_pnl": _plain(sums.daily_pnl),
        "cash": _plain(account.cash),
        "equity": _plain(sums.equity),
        "leverage": _plain(leverage(sums)),
    }


def _half_spread(account: Account, symbol: str, quantity: int) -> int | None:
    """What it costs to close a position at its bid or ask rather than in their middle, in base currency."""
    mark = account.marks.get(symbol)
    rate = None if mark is None else account.rate(mark.currency, account.base_currency)
    if mark is None or mark.spread is None or rate is None:
        return None
    return times(times(times(abs(quantity), mark.spread), ONE // 2), rate)


def _plain(units: int | None) -> str | None:
    return None if units is None else from_units(units)


# ----------------------------------------------------------------------------------------------------- value at risk


def value_at_risk(account: Account, closings: Closings, terms: Terms) -> Lines:
    """VaR and CVaR by both methods; `too_few` says why there is none. Open positions that aren't in it are named."""
    try:
        found = returns_of(account, closings, terms.window)
    except TooFewPrices as error:
        left_out = {"not_priced": [each.symbol for each in account.open], "not_quoted": []}
        return {"too_few": str(error), "returns": 0, "fewest": None, **left_out, "volatility": None, "risks": []}
    sigma, count = covariance(found.returns, terms.decay), len(found.returns)
    risks = [
        (method, risk)
        for confidence in CONFIDENCES
        for method, risk in (
            ("parametric", parametric(found.values, sigma, confidence, terms.horizon)),
            ("historical", historical(found.values, found.returns, confidence, terms.horizon)),
        )
        if risk is not None
    ]
    missing = [each for each in CONFIDENCES if count < least(each)]
    too_few = [f"historical at {each}% needs {least(each)} returns, there are {count}" for each in missing]
    return {"too_few": "; ".join(too_few) or None, **risk_lines(found, terms, risks)}


def simulated(found: Returns, drawn: Simulated, method: str, terms: Terms) -> Lines:
    """VaR and CVaR of simulated losses, and how these are distributed."""
    risks = risk_lines(found, terms, [(method, each) for each in drawn.risks])
    return {"value_at_risk": {"too_few": None, **risks}, "histogram": histogram(drawn.losses)}


def risk_lines(found: Returns, terms: Terms, risks: list[tuple[str, Risk]]) -> Lines:
    """Risks by method, of which returns they are, and who isn't in them."""
    return {
        "returns": len(found.returns),
        "fewest": found.fewest if len(found.returns) < terms.window else None,
        "not_priced": found.not_priced,
        "not_quoted": not_quoted(found),
        "volatility": volatility(found.values, found.returns, terms.decay),
        "risks": [
            {
                "method": method,
                **risk_line(risk, found.symbols, liquidity(found.values, found.spreads, risk.confidence)),
            }
            for method, risk in risks
        ],
    }


def not_quoted(found: Returns) -> list[str]:
    """Symbols without any spread: nothing is known of what it costs to close them."""
    never = np.isnan(found.spreads).all(axis=0)
    return [symbol for symbol, is_never in zip(found.symbols, never, strict=True) if is_never]


def risk_line(risk: Risk, symbols: list[str], widened: np.ndarray) -> Lines:
    """A risk; liquidity_var: with what it costs to close positions at wide spreads, of those that are quoted."""
    cost = float(np.nansum(widened))
    return {
        "confidence": risk.confidence,
        "var": risk.var,
        "cvar": risk.cvar,
        "liquidity_cost": cost,
        "liquidity_var": risk.var + cost,
        "contributions": [
            {
                "symbol": symbol,
                "var": float(of_var),
                "cvar": float(of_cvar),
                "liquidity_cost": None if np.isnan(of_cost) else float(of_cost),
            }
            for symbol, of_var, of_cvar, of_cost in zip(
                symbols, risk.var_contributions, risk.cvar_contributions, widened, strict=True
            )
        ],
    }


def histogram(losses: np.ndarray) -> Lines:
    """How many losses lie between each two edges; one in a thousand on either side counts into the outermost."""
    lowest, highest = np.quantile(losses, (0.001, 0.999))
    counts, edges = np.histogram(np.clip(losses, lowest, highest), BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


# ------------------------------------------------------------------------------------------------------------ stress


def stress_line(name: str, scenario: Scenario, account: Account, sensitivities: Sensitivities) -> Lines:
    """What a scenario does, exactly, position by position; relative: to gross exposure, a statistic."""
    found = stress(account, scenario, sensitivities)
    return {
        "scenario": name,
        "source": scenario.source,
        "shocks": {each: percent(units) for each, units in scenario.changes.items()},
        "change": from_units(found.change),
        "relative": _relative(found),
        "market_value": from_units(found.after.market_value),
        "gross_exposure": from_units(found.after.gross_exposure),
        "total_pnl": from_units(found.after.total_pnl),
        "impacts": [
            {
                "symbol": each.symbol,
                "price": None if each.shock.price is None else percent(each.shock.price),
                "currency": None if each.shock.exposure is None else percent(each.shock.exposure),
                "before": from_units(each.before),
                "after": from_units(each.after),
                "change": from_units(each.change),
            }
            for each in found.impacts
        ],
        "not_moved": found.not_moved,
    }


def _relative(found: Stressed) -> float:
    return found.change / found.before.gross_exposure if found.before.gross_exposure else 0.0


def reverse_lines(
    scenarios: Mapping[str, Scenario], account: Account, limits: Mapping[str, int], sensitivities: Sensitivities
) -> list[Lines]:
    """How much of each scenario breaks each limit. Raises LimitError."""
    return [
        _breaking(name, scenario, each)
        for name, scenario in scenarios.items()
        for each in reverse(account, scenario, limits, sensitivities)
    ]


def _breaking(name: str, scenario: Scenario, found: Breaking) -> Lines:
    shocks = None if found.factor is None else scaled(scenario, found.factor)
    return {
        "limit": found.limit,
        "subject": found.subject,
        "most": from_units(found.most),
        "now": _plain(found.now),
        "scenario": name,
        "factor": _plain(found.factor),
        "shocks": None if shocks is None else {each: percent(units) for each, units in shocks.items()},
        "value": _plain(found.value),
        "loss": _plain(found.loss),
    }
