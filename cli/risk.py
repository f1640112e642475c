"""`assetstream risk`: a portfolio's risk report, stress tests, what breaks a limit, simulated losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from assetstream.cli import risk_view
from assetstream.cli.risk_data import Limit, load_account, load_closings, load_limits, load_types
from assetstream.models.decimals import DecimalError, from_units, to_units
from assetstream.models.risk import report as reports
from assetstream.models.risk.account import Account, Trade, TradeError, read_trade, with_trades
from assetstream.models.risk.monte_carlo import Model
from assetstream.models.risk.monte_carlo import simulate as draw
from assetstream.models.risk.report import Lines, Terms
from assetstream.models.risk.returns import covariance, returns_of, root
from assetstream.models.risk.scenarios import (
    MARKET,
    NAMED,
    Scenario,
    ScenarioError,
    Scenarios,
    custom,
    read_scenarios,
)
from assetstream.models.risk.stress import MEASURES, POSITION
from assetstream.streams.settings import Settings, load

risk = typer.Typer(
    help="""Look ahead: a portfolio's risk report, stress tests, what breaks a limit, simulated losses.

    Asks ClickHouse, which has what its sinks have inserted, and changes nothing. docs/risk.md has the formulas.""",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
SECOND = 1_000_000
#: microseconds from one closing to the next
WIDTHS = {"day": 86_400 * SECOND, "hour": 3_600 * SECOND, "minute": 60 * SECOND}
Every = Literal["day", "hour", "minute"]
Distribution = Literal["normal", "t", "bootstrap"]

User = Annotated[str, typer.Argument(help="The user_id.", metavar="USER")]
Portfolio = Annotated[str, typer.Argument(help="The portfolio_id.", metavar="PORTFOLIO")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option("--what-if", metavar="TRADE", help='"BUY 100 SAP @ 241.31": the same with this trade; repeat it.'),
]
ScenarioFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Scenarios and sensitivities of your own, TOML or JSON.")
]
Names = Annotated[
    list[str] | None, typer.Option("--scenario", metavar="NAME", help="Only this one; repeat it. Default: all.")
]
Shocks = Annotated[
    list[str] | None,
    typer.Option(
        "--shock",
        metavar="CHANGE",
        help="BTC=-50%, type:STOCK=-20%, currency:EUR=-10%, factor:rates=200bp or all=-10%; together they are one.",
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="LIMIT", help="max_total_loss=10000; as in risk_limits; repeat it."),
]
Cash = Annotated[str | None, typer.Option(metavar="AMOUNT", help="Beside the positions, in base currency.")]
Window = Annotated[int, typer.Option(min=20, max=10_000, help="Returns that statistics are taken of.")]
Horizon = Annotated[int, typer.Option(min=1, max=1000, help="Periods that risk is told for.")]
Decay = Annotated[
    float | None, typer.Option(min=0.5, max=0.9999, help="EWMA: how much less each older return counts, such as 0.94.")
]
EveryOption = Annotated[Every, typer.Option(help="From one closing to the next (UTC).")]
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the same as a page, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


class NoLimits(RuntimeError):
    """No limit is known that could break; the text says what to do."""


class Unwritable(RuntimeError):
    """The page can't be written; the text says why."""


# ------------------------------------------------------------------------------------------------------- the commands


@risk.command()
def report(
    user: User,
    portfolio: Portfolio,
    what_if: WhatIf = None,
    file: ScenarioFile = None,
    limit: Limits = None,
    cash: Cash = None,
    every: EveryOption = "day",
    window: Window = 250,
    horizon: Horizon = 1,
    decay: Decay = None,
    html: Page = None,
    as_json: AsJson = False,
) -> None:
    """Positions, value at risk with what each contributes, every scenario, and what breaks the limits that are known.

    Amounts are exact, VaR and CVaR are statistics. A position that is unpriced, or has too few prices, is named.
    """
    given, own, settings = _limits(limit), _own(file), load()
    limits = given or load_limits(settings, user, portfolio)
    terms = Terms(window, horizon, decay)

    def figures(account: Account) -> Lines:
        closings = load_closings(settings, account, WIDTHS[every], window)
        found = {
            **reports.positions(account),
            "value_at_risk": reports.value_at_risk(account, closings, terms),
            "stress": [
                reports.stress_line(name, each, account, own.sensitivities)
                for name, each in _scenarios(own, None, None).items()
            ],
        }
        if limits:
            found["breaks"] = _breaks(account, limits, _reversed(own, None, None), own)
        return found

    told = _told(settings, user, portfolio, what_if, cash, figures)
    told |= {"limits": _limit_lines(limits), "every": every, "window": window, "horizon": horizon, "decay": decay}
    _show(told, risk_view.report, html, as_json)


@risk.command()
def stress(
    user: User,
    portfolio: Portfolio,
    scenario: Names = None,
    shock: Shocks = None,
    file: ScenarioFile = None,
    what_if: WhatIf = None,
    html: Page = None,
    as_json: AsJson = False,
) -> None:
    """What scenarios do to a portfolio, exactly, position by position.

    Named: crisis-2008, march-2020, rates-up-200bp, crypto-half, fx-10, and those of --file. The positions that a
    scenario says nothing of are named.
    """
    own = _own(file)
    scenarios = _scenarios(own, scenario, shock)

    def figures(account: Account) -> Lines:
        lines = [reports.stress_line(name, each, account, own.sensitivities) for name, each in scenarios.items()]
        return {**reports.positions(account), "stress": lines}

    _show(_told(load(), user, portfolio, what_if, None, figures), risk_view.stress, html, as_json)


@risk.command()
def reverse(
    user: User,
    portfolio: Portfolio,
    limit: Limits = None,
    scenario: Names = None,
    shock: Shocks = None,
    file: ScenarioFile = None,
    cash: Cash = None,
    what_if: WhatIf = None,
    html: Page = None,
    as_json: AsJson = False,
) -> None:
    """How much of a scenario, or of a move of the whole market, breaks a limit.

    Limits: max_total_loss, max_daily_loss, max_portfolio_value, max_position_size, max_leverage (which needs --cash);
    without --limit those that the portfolio's latest alerts told. The factor is the smallest one, to 0.000001, and
    verified: one step less doesn't break the limit. At most 100.
    """
    given, own, settings = _limits(limit), _own(file), load()
    limits = given or load_limits(settings, user, portfolio)
    scenarios = _reversed(own, scenario, shock)

    def figures(account: Account) -> Lines:
        return {**reports.positions(account), "breaks": _breaks(account, limits, scenarios, own)}

    told = _told(settings, user, portfolio, what_if, cash, figures)
    if not limits:
        raise NoLimits(f"no alert has told a limit of {user}/{portfolio}: say which, as --limit max_total_loss=10000")
    _show({**told, "limits": _limit_lines(limits)}, risk_view.reverse, html, as_json)


@risk.command()
def simulate(
    user: User,
    portfolio: Portfolio,
    distribution: Annotated[Distribution, typer.Option(help="What returns are drawn from.")] = "normal",
    paths: Annotated[int, typer.Option(min=1000, max=10_000_000, help="How many are drawn.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same one gives the same losses.")] = 1,
    freedom: Annotated[int, typer.Option(min=3, max=1000, help="Degrees of freedom of Student t.")] = 4,
    every: EveryOption = "day",
    window: Window = 250,
    horizon: Horizon = 1,
    decay: Decay = None,
    what_if: WhatIf = None,
    html: Page = None,
    as_json: AsJson = False,
) -> None:
    """Simulated losses (Monte Carlo), VaR and CVaR, and what each position contributes.

    normal and t have the covariance of past returns, bootstrap draws past days themselves. All of it are statistics.
    """
    settings, terms = load(), Terms(window, horizon, decay)

    def figures(account: Account) -> Lines:
        found = returns_of(account, load_closings(settings, account, WIDTHS[every], window), window)
        left = root(covariance(found.returns, decay))
        model = Model(distribution, found.values, left, found.returns, freedom, horizon)
        with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
            task = progress.add_task("drawing paths", total=paths)
            drawn = draw(model, paths, seed, lambda done: progress.update(task, completed=done))
        return {**reports.positions(account), **reports.simulated(found, drawn, distribution, terms)}

    told = _told(settings, user, portfolio, what_if, None, figures)
    told |= {"every": every, "window": window, "horizon": horizon, "decay": decay}
    told |= {"distribution": distribution, "paths": paths, "seed": seed, "freedom": freedom}
    _show(told, risk_view.simulation, html, as_json)


# ------------------------------------------------------------------------------------------------------- what is asked


def _told(
    settings: Settings,
    user: str,
    portfolio: str,
    what_if: list[str] | None,
    cash: str | None,
    figures: Callable[[Account], Lines],
) -> Lines:
    """What is told of a portfolio: the figures as it is and, when there are hypothetical trades, as it would be."""
    trades = [_parsed(read_trade, each, "--what-if") for each in what_if or ()]
    beside = None if cash is None else _amount(cash, "--cash")
    account = replace(load_account(settings, user, portfolio, trades), cash=beside)
    as_of = max((mark.as_of for mark in account.marks.values()), default=None)
    return {
        "user_id": user,
        "portfolio_id": portfolio,
        "base_currency": account.base_currency,
        "as_of": reports.time_or_none(as_of),
        "trades": what_if or [],
        "now": figures(account),
        "what_if": figures(_after(settings, account, trades)) if trades else None,
    }


def _after(settings: Settings, account: Account, trades: list[Trade]) -> Account:
    types = load_types(settings, {each.symbol for each in trades})
    try:
        return with_trades(account, trades, types)
    except TradeError as error:
        raise typer.BadParameter(str(error), param_hint="--what-if") from error


def _parsed(parse: Callable[[str], Any], text: str, option: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _amount(text: str, option: str) -> int:
    try:
        return to_units(text)
    except DecimalError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from error


def _limits(given: list[str] | None) -> dict[str, Limit]:
    """Those that are given."""
    found = {}
    for each in given or ():
        name, _, amount = each.partition("=")
        if name not in (*MEASURES, POSITION):
            known = ", ".join((*MEASURES, POSITION))
            raise typer.BadParameter(f"{each!r}: write one of {known} as NAME=AMOUNT", param_hint="--limit")
        found[name] = Limit(_amount(amount, "--limit"))
        if found[name].most <= 0:
            raise typer.BadParameter(f"{each!r}: must be above 0", param_hint="--limit")
    return found


def _limit_lines(limits: dict[str, Limit]) -> list[Lines]:
    return [{"limit": name, "most": from_units(each.most), "alert_id": each.alert_id} for name, each in limits.items()]


def _breaks(account: Account, limits: dict[str, Limit], scenarios: dict[str, Scenario], own: Scenarios) -> list[Lines]:
    return reports.reverse_lines(
        scenarios, account, {name: each.most for name, each in limits.items()}, own.sensitivities
    )


def _own(file: Path | None) -> Scenarios:
    if file is None:
        return Scenarios()
    try:
        return read_scenarios(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: can't be read: {error}") from error


def _scenarios(own: Scenarios, names: list[str] | None, shocks: list[str] | None) -> dict[str, Scenario]:
    """Those that are named, and the one given by hand; else all."""
    known = {**NAMED, **own.scenarios}
    found = {}
    for name in names or ():
        if name not in {**known, **MARKET}:
            raise typer.BadParameter(f"{name} is none of {', '.join((*known, *MARKET))}", param_hint="--scenario")
        found[name] = {**known, **MARKET}[name]
    if shocks:
        found["by-hand"] = _parsed(custom, shocks, "--shock")  # type: ignore[arg-type]
    return found or known


def _reversed(own: Scenarios, names: list[str] | None, shocks: list[str] | None) -> dict[str, Scenario]:
    """The same, and by default also a move of the whole market."""
    found = _scenarios(own, names, shocks)
    return found if names or shocks else {**MARKET, **found}


def _show(told: Lines, view: Callable[[Lines, Console], None], html: Path | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        view(told, risk_view.console())
    if html is not None:
        page = risk_view.page()
        view(told, page)
        try:
            page.save_html(str(html))
        except OSError as error:
            raise Unwritable(f"{html}: can't be written: {error}") from error
