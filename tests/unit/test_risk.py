"""Looking ahead, by hand and by examples from the textbooks that docs/risk.md names."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from assetstream.models.decimals import to_units as units
from assetstream.models.reference import ONE, Book
from assetstream.models.risk import report
from assetstream.models.risk.account import Account, Holding, Mark, TradeError, Value, read_trade, with_trades
from assetstream.models.risk.monte_carlo import KINDS, Model, parts_of, simulate
from assetstream.models.risk.returns import Closing, TooFewPrices, covariance, returns_of, root
from assetstream.models.risk.scenarios import (
    MARKET,
    NAMED,
    Scenario,
    ScenarioError,
    change,
    custom,
    percent,
    read_scenarios,
    shock_of,
)
from assetstream.models.risk.stress import LimitError, reverse, stress, totals
from assetstream.models.risk.value_at_risk import historical, liquidity, parametric, volatility

AS_OF = 1_772_442_000_000_000  # 2026-03-02T09:00:00Z


def mark(price: str, currency: str, bid: str | None = None, ask: str | None = None) -> Mark:
    return Mark(units(price), currency, bid and units(bid), ask and units(ask), AS_OF)  # type: ignore[arg-type]


def holding(symbol: str, kind: str, currency: str, quantity: str, cost: str, last: str = "1") -> Holding:
    return Holding(symbol, currency, kind, Book(units(quantity), int(cost) * ONE, 0, 0), units(last))


#: 2 BTC are worth 600 USD, 10 SAP 2,000 EUR = 2,200 USD, −5 ACME −500 USD; nothing says what a yen is worth
ACCOUNT = Account(
    "alice",
    "main",
    "USD",
    (
        holding("ACME", "STOCK", "USD", "-5", "-400"),
        holding("BTC", "CRYPTO", "USD", "2", "500"),
        holding("SAP", "STOCK", "EUR", "10", "1500"),
        holding("SONY", "STOCK", "JPY", "1", "90"),
    ),
    {
        "ACME": mark("100", "USD", "99", "101"),
        "BTC": mark("300", "USD"),
        "SAP": mark("200", "EUR", "199.8", "200.2"),
        "SONY": mark("100", "JPY"),
        "EUR/USD": mark("1.1", "USD"),
    },
)
NO_SENSITIVITIES: dict[str, dict[str, int]] = {}


# -- the portfolio as it is -------------------------------------------------------------------------------------------


def test_a_portfolio_is_valued_as_the_stream_values_it_and_what_has_no_rate_is_named() -> None:
    found = report.positions(ACCOUNT)
    assert [(line["symbol"], line["market_value"], line["unrealized_pnl"]) for line in found["positions"]] == [
        ("ACME", "-500", "-100"),
        ("BTC", "600", "100"),
        ("SAP", "2200", "550"),
    ]
    assert (found["unpriced"], found["market_value"], found["gross_exposure"]) == (["SONY"], "2300", "3300")
    assert found["total_pnl"] == "550"
    # half of what lies between bid and ask: ½·2·5 USD, ½·0.4·10 EUR
    assert [line["liquidation_cost"] for line in found["positions"]] == ["5", None, "2.2"]


def test_before_there_is_a_price_the_last_fill_is_the_mark() -> None:
    account = replace(ACCOUNT, holdings=(holding("NEW", "OTHER", "EUR", "3", "30", last="12"),))
    (line,) = report.positions(account)["positions"]
    assert (line["mark"], line["mark_as_of"], line["market_value"]) == ("12", None, "39.6")


@pytest.mark.parametrize(
    ("have", "want", "rate"),
    [("EUR", "USD", "1.1"), ("USD", "EUR", "0.909090909090909091"), ("USD", "USD", "1"), ("JPY", "USD", None)],
)
def test_rates_follow_the_contract(have: str, want: str, rate: str | None) -> None:
    assert ACCOUNT.rate(have, want) == (None if rate is None else units(rate))


def test_a_rate_over_the_dollar() -> None:
    account = replace(ACCOUNT, marks={**ACCOUNT.marks, "GBP/USD": mark("1.25", "USD")})
    assert account.rate("GBP", "EUR") == units("1.136363636363636364")  # 1.25 · (1/1.1), each rounded
    assert account.rate("EUR", "GBP") == units("0.88")  # 1.1 · (1/1.25)


# -- hypothetical trades ----------------------------------------------------------------------------------------------


def test_a_trade_is_booked_as_the_stream_books_it() -> None:
    after = with_trades(replace(ACCOUNT, cash=1000 * ONE), [read_trade("sell 4 SAP @ 210")], {})
    (sap,) = (each for each in after.holdings if each.symbol == "SAP")
    assert sap.book == Book(6 * ONE, 900 * ONE, 240 * ONE, 0)
    assert after.cash == 1000 * ONE + 924 * ONE  # 840 EUR at 1.1
    assert totals(after).total_pnl == totals(ACCOUNT).total_pnl + 44 * ONE  # 10 above the mark, 4 times, in USD


def test_a_trade_of_something_new() -> None:
    account = replace(ACCOUNT, marks={**ACCOUNT.marks, "MSFT": mark("50", "USD")})
    after = with_trades(account, [read_trade("BUY 2 MSFT@40"), read_trade("BUY 1 X @ 7 USD")], {"MSFT": "STOCK"})
    found = {line["symbol"]: line for line in report.positions(after)["positions"]}
    assert (found["MSFT"]["asset_type"], found["MSFT"]["market_value"]) == ("STOCK", "100")
    assert (found["X"]["asset_type"], found["X"]["market_value"]) == ("OTHER", "7")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("BUY SAP 100", "write it as"),
        ("BUY 0 SAP @ 1", "above 0"),
        ("BUY 1e30 SAP @ 1", "10^20"),
        ("BUY x SAP @ 1", "not an exact decimal"),
        ("BUY 1 S,P @ 1", "is no symbol"),
        ("BUY 1 SAP @ 1 USD", "held in EUR"),
        ("BUY 1 NEW @ 1", "has no price"),
        ("BUY 99999999999 SAP @ 99999999999", "10^20 or more"),
    ],
)
def test_what_is_no_trade_is_told(text: str, told: str) -> None:
    with pytest.raises(TradeError, match=told.replace("^", r"\^")):
        with_trades(ACCOUNT, [read_trade(text)], {})


# -- scenarios ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"), [("-50%", "-0.5"), ("200bp", "0.02"), ("-0.125", "-0.125"), ("+3 %", "0.03"), ("1e1%", "0.1")]
)
def test_changes_are_exact(text: str, told: str) -> None:
    assert change(text) == change(told)
    assert change(percent(change(text))) == change(text)


@pytest.mark.parametrize("text", ["half", "", "%", "nan", "1e-20", "100001%", "0x1"])
def test_what_is_no_change_is_told(text: str) -> None:
    with pytest.raises(ScenarioError):
        change(text)


def test_named_scenarios_are_what_their_sources_say() -> None:
    def fell(start: float, end: float) -> float:
        return round((end / start - 1) * 10_000) * ONE // 10_000

    assert NAMED["crisis-2008"].types == dict.fromkeys(("STOCK", "ETF"), fell(1565.15, 676.53))
    of_2020 = fell(3386.15, 2237.40)
    assert NAMED["march-2020"].types == {"STOCK": of_2020, "ETF": of_2020, "CRYPTO": fell(7911.43, 4970.79)}
    assert NAMED["rates-up-200bp"].factors == {"rates": ONE // 50}
    assert all(each.source for each in NAMED.values())


def test_the_symbol_goes_before_its_type_and_that_before_all_and_factors_add() -> None:
    scenario = custom(["all=-10%", "type:STOCK=-20%", "SAP=5%", "factor:rates=200bp", "currency:*=-1%"])
    known = {"SAP": {"rates": -3 * ONE}, "BTC": {"oil": ONE}}
    found = {each.symbol: shock_of(scenario, ACCOUNT, each, known) for each in ACCOUNT.holdings}
    assert found["SAP"] == (change("-1%"), change("-1%"), change("-1%"))  # 5% − 3·2%
    assert found["ACME"] == (change("-20%"), None, None)
    assert found["BTC"] == (change("-10%"), None, None)


def test_money_that_is_held_moves_with_its_currency() -> None:
    pair, euros = holding("EUR/USD", "FIAT", "USD", "100", "100"), holding("EUR", "FIAT", "USD", "100", "100")
    account = replace(ACCOUNT, holdings=(pair, euros), marks={**ACCOUNT.marks, "EUR": mark("1.1", "USD")})
    found = stress(account, custom(["currency:EUR=-10%", "all=-50%"]))
    assert [(each.before, each.after) for each in found.impacts] == [(110 * ONE, 99 * ONE)] * 2
    assert found.after.total_pnl == found.before.total_pnl - 22 * ONE  # what was paid in dollars, was


FILE = """
[scenarios.oil-1973]
source = "our own"
symbols = {ACME = "-20%"}
types = {CRYPTO = "-0.1"}
factors = {rates = "100bp"}

[sensitivities]
SAP = {rates = "-6.5"}
"""


def test_a_file_has_scenarios_and_sensitivities() -> None:
    own = read_scenarios(FILE, "own.toml")
    found = stress(ACCOUNT, own.scenarios["oil-1973"], own.sensitivities)
    assert {each.symbol: each.change for each in found.impacts} == {
        "ACME": 100 * ONE,
        "BTC": -60 * ONE,
        "SAP": -143 * ONE,  # 2,200 · 6.5 · 1%
    }
    in_json = '{"scenarios": {"a": {"all": -0.1, "factors": {"x": 1}}}}'
    assert read_scenarios(in_json, "own.json").scenarios["a"].changes == {"all": -ONE // 10, "factor:x": ONE}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[scenarios.a]\nall = '-101%'", "scenarios, a, all: is a fall by more than 100%"),
        ("[scenarios.a]\ntypes = {BOND = '-1%'}", "scenarios, a, types, BOND"),
        ("[scenarios.a]\nall = 'half'", "is no change"),
        ("[scenarios.a]\nevery = '1%'", "Extra inputs"),
        ("[scenarios", "own.toml: "),
    ],
)
def test_what_is_no_file_of_scenarios_is_told(text: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        read_scenarios(text, "own.toml")


@pytest.mark.parametrize("text", ["BTC", "=5%", "BTC=", "type:BOND=1%", "BTC=-200%"])
def test_what_is_no_shock_is_told(text: str) -> None:
    with pytest.raises(ScenarioError):
        custom([text])


# -- stress ------------------------------------------------------------------------------------------------------------


def test_a_stress_by_hand() -> None:
    found = stress(ACCOUNT, custom(["type:STOCK=-20%", "currency:EUR=-10%"]))
    assert [(each.symbol, each.before, each.after) for each in found.impacts] == [
        ("ACME", -500 * ONE, -400 * ONE),
        ("BTC", 600 * ONE, 600 * ONE),
        ("SAP", 2200 * ONE, 1584 * ONE),  # 10 · 160 EUR · 0.99
    ]
    assert (found.change, found.not_moved) == (-516 * ONE, ["BTC"])
    # what SAP cost is in EUR too: 1,500 · 0.99
    assert found.after.total_pnl == (0 + 100 + 99) * ONE


def test_nothing_falls_by_more_than_all() -> None:
    found = stress(ACCOUNT, custom(["BTC=-60%"]), factor=2 * ONE)
    assert {each.symbol: each.after for each in found.impacts}["BTC"] == 0


def test_a_scenario_that_says_nothing_says_so() -> None:
    found = stress(ACCOUNT, NAMED["rates-up-200bp"])
    assert (found.change, found.not_moved) == (0, ["ACME", "BTC", "SAP"])


# -- reverse stress ----------------------------------------------------------------------------------------------------

ONE_BTC = replace(ACCOUNT, holdings=(holding("BTC", "CRYPTO", "USD", "200", "50000"),))  # worth 60,000


def breaks(limit: str, most: int, account: Account = ONE_BTC, scenario: Scenario = MARKET["market-falls"]) -> list:
    return [each.factor for each in reverse(account, scenario, {limit: most * ONE})]


def test_a_limit_breaks_when_it_is_passed_not_when_it_is_reached() -> None:
    # 10,000 are earned; at −25% 5,000 are lost, which is the limit
    (found,) = reverse(ONE_BTC, MARKET["market-falls"], {"max_total_loss": 5000 * ONE})
    assert (found.factor, found.now) == (units("0.250001"), -10_000 * ONE)
    assert (found.value, found.loss) == (units("5000.06"), units("15000.06"))
    assert breaks("max_total_loss", 50_000) == [None]  # all of it is 50,000
    assert breaks("max_portfolio_value", 90_000, scenario=MARKET["market-rises"]) == [units("0.500001")]
    assert breaks("max_portfolio_value", 59_999) == [0]


def test_leverage_breaks_when_equity_is_gone() -> None:
    loan = replace(ONE_BTC, cash=-40_000 * ONE)
    assert breaks("max_leverage", 5, loan) == [units("0.166667")]  # 60,000·u > 5·(60,000·u − 40,000): u < 5/6
    assert breaks("max_leverage", 2, loan) == [0]
    (found,) = reverse(replace(ONE_BTC, cash=-60_000 * ONE), MARKET["market-falls"], {"max_leverage": ONE})
    assert (found.factor, found.now) == (0, None)
    with pytest.raises(LimitError, match="--cash"):
        breaks("max_leverage", 5)


def test_the_day_counts_from_its_beginning() -> None:
    assert breaks("max_daily_loss", 3000, replace(ONE_BTC, baseline=10_000 * ONE)) == [units("0.050001")]
    with pytest.raises(LimitError, match="max_daily_loss"):
        breaks("max_daily_loss", 3000)


def test_the_position_that_breaks_first_is_told() -> None:
    (found,) = reverse(ACCOUNT, MARKET["market-rises"], {"max_position_size": 2300 * ONE})
    assert (found.subject, found.factor) == ("SAP", units("0.045455"))


def test_what_breaks_on_the_way_is_found_although_it_is_well_in_the_end() -> None:
    """A loss is largest where what was bought has lost all, and what was sold has not yet."""
    account = replace(
        ACCOUNT,
        holdings=(holding("ACME", "STOCK", "USD", "-10", "-1000"), holding("BTC", "CRYPTO", "USD", "2", "600")),
    )
    scenario = custom(["BTC=-50%", "ACME=-10%"])  # −300 + 100; at twice it −400; from there on less and less
    (found,) = reverse(account, scenario, {"max_total_loss": 390 * ONE})
    assert found.factor == units("1.950001")
    (never,) = reverse(account, scenario, {"max_total_loss": 400 * ONE})
    assert never.factor is None


def test_a_parabola_has_its_vertex_between() -> None:
    """Gross exposure of something that rises while its currency falls: 2,200·(1 + k)·(1 − k/2), most at k = ½."""
    account = replace(ACCOUNT, holdings=(holding("SAP", "STOCK", "EUR", "10", "1500"),))
    scenario = custom(["SAP=100%", "currency:EUR=-50%"])
    assert breaks("max_portfolio_value", 2475, account, scenario) == [None]
    (found,) = breaks("max_portfolio_value", 2474, account, scenario)
    assert units("0.46") < found < units("0.48")


# -- value at risk -----------------------------------------------------------------------------------------------------

#: Hull, Options, Futures, and Other Derivatives, "Value at risk", two-asset case: $10 million of Microsoft, σ 2% a day,
#: and $5 million of AT&T, σ 1%; ρ = 0.3; N(−2.33) = 1%
HULL = np.array([10e6, 5e6]), np.array([[4e-4, 0.3 * 2e-4], [0.3 * 2e-4, 1e-4]])
Z99 = NormalDist().inv_cdf(0.99)


def test_hulls_two_assets() -> None:
    values, sigma = HULL
    found = parametric(values, sigma, 99, 10)
    assert found.var / Z99 / 10**0.5 == pytest.approx(220_227, abs=0.5)
    assert found.var * 2.33 / Z99 == pytest.approx(1_622_657, abs=10)
    apart = [parametric(values * mask, sigma, 99, 10).var * 2.33 / Z99 for mask in ([1, 0], [0, 1])]
    assert apart == [pytest.approx(1_473_621, abs=10), pytest.approx(368_405, abs=10)]


def test_jorions_component_var() -> None:
    """Value at Risk, "Portfolio risk": $2 million of CAD, σ 5%, $1 million of EUR, σ 12%, not correlated; 1.65·σ."""
    found = parametric(np.array([2e6, 1e6]), np.diag([0.05**2, 0.12**2]), 95)
    scale = 1.65 / NormalDist().inv_cdf(0.95)
    assert found.var * scale == pytest.approx(257_738, abs=1)
    assert list(found.var_contributions * scale) == [pytest.approx(105_630, abs=1), pytest.approx(152_108, abs=1)]


@pytest.mark.parametrize(("confidence", "times"), [(95, 2.0627), (99, 2.6652)])
def test_expected_shortfall_of_a_normal(confidence: int, times: float) -> None:
    assert parametric(np.array([1.0]), np.array([[1.0]]), confidence).cvar == pytest.approx(times, abs=5e-5)


def test_hulls_ewma() -> None:
    """λ = 0.90, σ = 1% a day, then a change of 2%: 1.14%."""
    assert covariance(np.array([[0.01], [0.02]]), 0.9)[0, 0] ** 0.5 == pytest.approx(0.0114, abs=5e-5)


def test_historical_of_500_days() -> None:
    """Hull, Risk Management and Financial Institutions, "Historical simulation": VaR 99% of 500 is the fifth worst
    loss; CVaR here is the mean of all five (Acerbi and Tasche).
    """
    worst = np.array([1082.969, 715.512, 687.720, 661.221, 602.968, 546.540, 492.764])
    losses = np.concatenate([np.linspace(-300, 300, 493), worst])
    np.random.default_rng(1).shuffle(losses)
    found = historical(np.array([1.0]), -losses[:, None], 99)
    assert found is not None
    assert (found.var, found.cvar) == (pytest.approx(602.968), pytest.approx(worst[:5].mean()))


def test_a_tail_of_two_losses_and_a_half() -> None:
    losses = np.arange(250.0)
    found = historical(np.array([1.0]), -losses[:, None], 99)
    assert found is not None
    assert (found.var, found.cvar) == (247.0, pytest.approx((249 + 248 + 247 / 2) / 2.5))


def test_too_few_for_a_quantile() -> None:
    returns = np.full((99, 1), 0.01)
    assert historical(np.array([1.0]), returns, 99) is None
    assert historical(np.array([1.0]), returns, 95) is not None


def test_hulls_cost_of_liquidation() -> None:
    """Hull, RMFI, "Liquidity risk": shares worth 900 million quoted 89.5 and 90.5, a commodity worth 752.5 quoted 15
    and 15.1; 7.5 million in normal markets. With spreads that never change z·σ is 0.
    """
    spreads = np.tile([1 / 90, 0.1 / 15.05], (30, 1))
    assert liquidity(np.array([900.0, -752.5]), spreads, 99).sum() == pytest.approx(7.5)


def test_wide_spreads_cost_more_and_what_was_never_quoted_is_not_free() -> None:
    spreads = np.array([[0.01, np.nan], [0.03, np.nan], [np.nan, np.nan]])
    found = liquidity(np.array([100.0, 100.0]), spreads, 99)
    assert found[0] == pytest.approx(50 * (0.02 + Z99 * 0.02 / 2**0.5))
    assert np.isnan(found[1])


def closings(*prices: float, start: int = 100) -> dict[int, Closing]:
    return {start + day: Closing(price, float("nan")) for day, price in enumerate(prices)}


def test_returns_are_in_base_currency_and_of_days_when_all_was_priced() -> None:
    days = [100.0 * 1.01**n for n in range(30)]
    series = {"BTC": closings(*days), "EUR/USD": closings(*[1.1] * 29, 1.21), "ACME": closings(1.0, 2.0)}
    series["SAP"] = {day: each for day, each in closings(*[200.0] * 30).items() if day != 110}
    found = returns_of(ACCOUNT, series, 250)
    assert (found.symbols, found.not_priced, len(found.returns)) == (["BTC", "SAP"], ["ACME"], 28)
    assert found.returns[-1] == pytest.approx([0.01, 0.1])
    assert found.returns[list(found.periods).index(111)] == pytest.approx([0.0201, 0.0])  # two days of BTC
    assert list(found.values) == [600.0, 2200.0]
    assert len(returns_of(ACCOUNT, series, 25).returns) == 25


def test_too_few_prices_are_told_in_one_line() -> None:
    with pytest.raises(TooFewPrices, match=r"^too few prices: 21 closings are needed, BTC has the most: 5$"):
        returns_of(ACCOUNT, {"BTC": closings(*[1.0] * 5)}, 250)
    apart = {"BTC": closings(*[1.0] * 30), "ACME": closings(*[1.0] * 30, start=900)}
    with pytest.raises(TooFewPrices, match=r"at once are needed, there are 0; ACME has the fewest: 30$"):
        returns_of(ACCOUNT, apart, 250)


# -- simulations -------------------------------------------------------------------------------------------------------

MASK = 2**64 - 1


def plain_paths(model: Model, paths: int, seed: int) -> np.ndarray:
    """What each position loses, float64[paths, k]: the same in plain Python and numpy."""

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    rows = []
    for path in range(paths):
        state = mixed(seed + 0x9E3779B97F4A7C15 * (path + 1) & MASK)

        def unit() -> float:
            nonlocal state
            state = state + 0x9E3779B97F4A7C15 & MASK
            return ((mixed(state) >> 11) + 1) / 2**53

        if model.kind == "bootstrap":
            days = [int(unit() * len(model.past)) for _ in range(model.horizon)]
            rows.append(np.prod(1 + model.past[days], axis=0) - 1)
            continue
        scale = model.horizon**0.5
        if model.kind == "t":
            squares = -2 * sum(np.log(unit()) for _ in range(model.freedom // 2))
            if model.freedom % 2:
                squares += (np.sqrt(-2 * np.log(unit())) * np.cos(2 * np.pi * unit())) ** 2
            scale *= np.sqrt((model.freedom - 2) / squares)
        normals: list[float] = []
        while len(normals) < len(model.values):
            radius, angle = np.sqrt(-2 * np.log(unit())), 2 * np.pi * unit()
            normals += [radius * np.cos(angle), radius * np.sin(angle)]
        rows.append(np.maximum(model.root @ normals[: len(model.values)] * scale, -1))
    return -np.array(rows) * model.values


def model(kind: str, freedom: int = 5, horizon: int = 3) -> Model:
    past = np.random.default_rng(7).standard_normal((40, 3)) * [0.01, 0.02, 0.5]
    return Model(kind, np.array([100.0, -50.0, 10.0]), root(covariance(past)), past, freedom, horizon)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_draw_what_plain_python_draws(kind: str) -> None:
    expected = plain_paths(model(kind), 200, 2**64 - 3)
    assert parts_of(model(kind), np.arange(200), 2**64 - 3) == pytest.approx(expected, rel=1e-9)
    assert parts_of(model(kind), np.array([7]), 2**64 - 3) == pytest.approx(expected[7:8], rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_says_it_all(kind: str) -> None:
    told: list[int] = []
    first, again = (simulate(model(kind), 10_000, 5, told.append) for _ in range(2))
    assert told == [4096, 8192, 10_000] * 2
    assert first.losses.tobytes() == again.losses.tobytes()
    assert first.losses[:5000].tobytes() == simulate(model(kind), 5000, 5).losses.tobytes()
    assert simulate(model(kind), 5000, 6).losses.tobytes() != first.losses[:5000].tobytes()
    for each in first.risks:
        assert each.var_contributions.sum() == pytest.approx(each.var)
        assert each.cvar_contributions.sum() == pytest.approx(each.cvar)
        assert each.cvar >= each.var


#: tables of Student's t: 2.132 and 3.747 of 4 degrees, 2.015 and 3.365 of 5; √((ν − 2)/ν) makes their deviation 1
@pytest.mark.parametrize(
    ("kind", "freedom", "quantiles"),
    [
        ("normal", 4, (1.645, 2.326)),
        ("t", 4, (2.132 * 0.5**0.5, 3.747 * 0.5**0.5)),
        ("t", 5, (2.015 * 0.6**0.5, 3.365 * 0.6**0.5)),
    ],
)
def test_quantiles_are_those_of_the_distribution(kind: str, freedom: int, quantiles: tuple[float, float]) -> None:
    values, sigma = HULL
    drawn = simulate(Model(kind, values, root(sigma), np.zeros((1, 2)), freedom), 200_000, 11)
    deviation = volatility(values, np.linalg.cholesky(sigma).T * 2**0.5)
    assert deviation == pytest.approx(220_227, abs=0.5)
    assert [each.var / deviation for each in drawn.risks] == pytest.approx(quantiles, rel=0.015)


def test_a_bootstrap_draws_days_that_were() -> None:
    past = np.array([[0.1, -0.1], [-0.2, 0.3]])
    drawn = simulate(Model("bootstrap", np.array([100.0, 10.0]), np.zeros((2, 2)), past, horizon=2), 1000, 1)
    days = [1.1 * 1.1, 1.1 * 0.8, 0.8 * 0.8], [0.9 * 0.9, 0.9 * 1.3, 1.3 * 1.3]
    possible = {round(110 - 100 * a - 10 * b, 9) for a, b in zip(*days, strict=True)}
    assert {round(float(each), 9) for each in drawn.losses} == possible


def test_the_root_of_a_covariance_that_is_singular() -> None:
    past = np.random.default_rng(3).standard_normal((5, 9))
    sigma = covariance(past)
    assert root(sigma) @ root(sigma).T == pytest.approx(sigma)
    assert root(np.zeros((2, 2))) == pytest.approx(np.zeros((2, 2)))


def test_values_know_their_total() -> None:
    assert Value(10, 4, 3, 1).total_pnl == 8
