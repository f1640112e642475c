"""`assetstream risk`, against the real engine of ClickHouse; without Kafka, which it doesn't need."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner, Result

from assetstream.cli.main import app
from assetstream.models.reference import ONE, Book, fill, plain, times
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
from assetstream.sinks.migrations import migrate
from assetstream.streams.settings import load

DAYS = 130
#: (user, symbol, asset_type, currency, side, quantity, price)
TRADES = (
    ("alice", "BTC", "CRYPTO", "USD", "BUY", 2, 250),
    ("alice", "SAP", "STOCK", "EUR", "BUY", 20, 150),
    ("alice", "SAP", None, "EUR", "SELL", 10, 160),
    ("alice", "ACME", "OTHER", "USD", "SELL", 5, 80),
    ("alice", "SONY", "STOCK", "JPY", "BUY", 1, 90),
    ("alice", "NEW", "ETF", "USD", "BUY", 3, 10),
    ("alice", "GONE", "STOCK", "USD", "BUY", 1, 10),
    ("alice", "GONE", "STOCK", "USD", "SELL", 1, 14),
    ("bob", "ACME", "STOCK", "USD", "BUY", 1, 80),
    ("carol", "NEW", "ETF", "USD", "BUY", 3, 10),
)
#: the last of each, by symbol: currency, price, bid, ask
LAST = {
    "BTC": ("USD", "300", None, None),
    "SAP": ("EUR", "200", "199.8", "200.2"),
    "ACME": ("USD", "100", "99", "101"),
    "SONY": ("JPY", "100", None, None),
    "EUR/USD": ("USD", "1.1", None, None),
}


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """ClickHouse with the trades and 130 days of prices; commands ask it."""
    server = EmbeddedClickHouse(tmp_path_factory.mktemp("risk"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSETSTREAM_CLICKHOUSE_URL", f"http://127.0.0.1:{server.start(attached=True).port}")
        settings = load()
        client = connect(settings)
        migrate(client, settings)
        insert(client, "fills", *fills())
        insert(client, "prices", *prices())
        update = {"user_id": "alice", "portfolio_id": "main", "total_pnl": "554", "daily_pnl": "54", "sequence": 1}
        insert(client, "portfolio_updates", update)
        insert(client, "risk_alerts", *alerts())
        yield client
        client.close()
    server.stop()


def fills() -> Iterator[dict[str, Any]]:
    books: dict[tuple[str, str], Book] = {}
    for offset, (user, symbol, kind, currency, side, quantity, price) in enumerate(TRADES):
        sign = 1 if side == "BUY" else -1
        book = fill(books.get((user, symbol), Book()), sign, quantity * ONE, price * ONE, 0)
        books[user, symbol] = book
        names = ("quantity", "cost_basis", "realized_pnl", "fees")
        yield {
            "trade_id": f"t-{offset}",
            "user_id": user,
            "portfolio_id": "main",
            "symbol": symbol,
            "currency": currency,
            "asset_type": kind,
            "side": side,
            "quantity": str(quantity),
            "price": str(price),
            "notional": plain(times(quantity * ONE, price * ONE)),
            **{f"position_{name}": plain(value) for name, value in zip(names, book, strict=True)},
            "executed_at": f"2026-03-02 09:00:{offset:02}",
            "source_offset": offset,
        }


def prices() -> Iterator[dict[str, Any]]:
    """A random walk that ends with LAST; each day has an earlier price, which doesn't count."""
    random = Random(1)
    for symbol, (currency, last, bid, ask) in LAST.items():
        price, quotes = Decimal(last), {"bid": bid, "ask": ask}
        for day in range(DAYS):
            row = {"symbol": symbol, "currency": currency}
            yield {**row, "price": str(price), **quotes, "as_of": _day(day, "12"), "source_offset": 2 * (DAYS - day)}
            noon = {"price": "1", "as_of": _day(day, "09"), "source_offset": 2 * (DAYS - day) - 1}
            yield {**row, **noon}
            price = (price / Decimal(str(1 + random.gauss(0, 0.02)))).quantize(Decimal("0.0001"))


def _day(back: int, hour: str) -> str:
    return f"{date(2026, 3, 2) - timedelta(days=back)} {hour}:00:00"


def alerts() -> Iterator[dict[str, Any]]:
    """Of bob, whose ACME is worth 100, and has earned 20."""
    for subject, number, limit in (
        ("EXPOSURE_LIMIT/-", 9, "80"),
        ("EXPOSURE_LIMIT/-", 10, "125"),
        ("LOSS_LIMIT/total", 1, "30"),
        ("LOSS_LIMIT/weekly", 1, "31"),
        ("LOSS_LIMIT/daily", 1, "32"),
        ("LOSS_LIMIT/daily", 2, None),
        ("POSITION_LIMIT/ACME", 1, "33"),
    ):
        alert_id = f"bob/main/{subject}/{number}"
        known = {"user_id": "bob", "portfolio_id": "main", "type": subject.split("/")[0]}
        yield {**known, "alert_id": alert_id, "limit_value": limit}


def insert(client: Client, table: str, *rows: dict[str, Any]) -> None:
    text = "\n".join(json.dumps(row) for row in rows)
    reading = {"date_time_input_format": "best_effort"}
    client.raw_insert(f"assetstream.{table}", insert_block=text, fmt="JSONEachRow", settings=reading)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["risk", *args])


def told(*args: str) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def cells(result: Result) -> list[list[str]]:
    """The rows of all tables."""
    assert result.exit_code == 0, result.output
    lines = (line for line in result.stdout.splitlines() if line.startswith("│"))
    return [[cell.strip() for cell in line[1:-1].split("│")] for line in lines]


# -- report ------------------------------------------------------------------------------------------------------------


def test_a_report_is_exact_about_today() -> None:
    found = told("report", "alice", "main")
    names = ("symbol", "asset_type", "quantity", "mark", "market_value", "unrealized_pnl", "liquidation_cost")
    assert [tuple(line[name] for name in names) for line in found["now"]["positions"]] == [
        ("ACME", "STOCK", "-5", "100", "-500", "-100", "5"),  # bob said what it is, and later
        ("BTC", "CRYPTO", "2", "300", "600", "100", None),
        ("NEW", "ETF", "3", "10", "30", "0", None),
        ("SAP", "STOCK", "10", "200", "2200", "550", "2.2"),
    ]
    now = found["now"]
    assert (now["unpriced"], now["positions"][2]["mark_as_of"]) == (["SONY"], None)
    assert (now["market_value"], now["gross_exposure"]) == ("2330", "3330")
    assert now["total_pnl"] == "664"  # 550 not realised, 110 with SAP, 4 with what is gone
    assert now["daily_pnl"] == "164"  # 500 of it before today
    assert found["as_of"] == "2026-03-02T12:00:00.000000Z"
    changes = {line["scenario"]: line["change"] for line in now["stress"]}
    assert changes == {
        "crisis-2008": plain(-(2200 - 500 + 30) * 5678 * ONE // 10_000),
        "march-2020": plain(-((2200 - 500 + 30) * 3392 + 600 * 3717) * ONE // 10_000),
        "rates-up-200bp": "0",
        "crypto-half": "-300",
        "fx-10": "-220",
    }
    assert "breaks" not in now


def test_value_at_risk_adds_up_and_names_what_it_leaves_out() -> None:
    risk = told("report", "alice", "main", "--horizon", "10")["now"]["value_at_risk"]
    assert (risk["returns"], risk["too_few"], risk["not_priced"]) == (DAYS - 1, None, ["NEW"])
    assert risk["not_quoted"] == ["BTC"]
    found = {(line["method"], line["confidence"]): line for line in risk["risks"]}
    assert list(found) == [(m, c) for c in (95, 99) for m in ("parametric", "historical")]
    for line in found.values():
        assert [each["symbol"] for each in line["contributions"]] == ["ACME", "BTC", "SAP"]
        for name in ("var", "cvar"):
            assert sum(each[name] for each in line["contributions"]) == pytest.approx(line[name])
        assert line["cvar"] > line["var"] > 0
        assert line["liquidity_var"] == pytest.approx(line["var"] + line["liquidity_cost"])
    # spreads of SAP and ACME never change: half of them, as today
    assert found["parametric", 99]["liquidity_cost"] == pytest.approx(2200 * 0.4 / 200 / 2 + 500 * 2 / 100 / 2, rel=0.2)
    daily = told("report", "alice", "main")["now"]["value_at_risk"]["risks"][0]
    assert found["parametric", 95]["var"] == pytest.approx(daily["var"] * 10**0.5)


def test_too_few_prices_are_one_clear_line() -> None:
    result = run("report", "carol", "main")
    assert result.exit_code == 0
    line = "value at risk: too few prices: 21 closings are needed, NEW has the most: 0"
    assert line in result.stdout.splitlines()
    result = run("simulate", "carol", "main")
    assert (result.exit_code, result.stderr) == (1, line.removeprefix("value at risk: ") + "\n")
    risk = told("report", "alice", "main", "--window", "50")["now"]["value_at_risk"]
    assert risk["too_few"] == "historical at 99% needs 100 returns, there are 50"
    assert run("report", "alice", "main", "--every", "hour").exit_code == 0


def test_a_report_is_readable_and_a_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run("report", "alice", "main", "--limit", "max_total_loss=500", "--html", str(page))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("alice/main, in USD, prices as of 2026-03-02T12:00:00.000000Z\n")
    for line in ("unpriced, and in no figure: SONY", "too few prices, and in no value at risk: NEW"):
        assert line in result.stdout.splitlines()
    rows = cells(result)
    assert ["NEW", "ETF", "3", "10 (last fill)", "USD", "30", "0", "–", "0.9%", "▎"] in rows
    (falls,) = (row for row in rows if row[4:5] == ["market-falls"])
    assert falls[:6] == ["max_total_loss", "-", "500", "-664", "market-falls", "0.499571"]
    assert "market-falls" in page.read_text()
    away = run("report", "alice", "main", "--html", str(tmp_path / "no" / "page.html"))
    assert (away.exit_code, "can't be written" in away.stderr) == (1, True)


def test_every_key_is_documented() -> None:
    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, each in value.items():
                yield name
                yield from () if name == "shocks" else keys(each)
        elif isinstance(value, list):
            for each in value:
                yield from keys(each)

    documented = set(re.findall(r"\w+", (Path(__file__).parents[2] / "docs" / "risk.md").read_text()))
    asked = told("report", "alice", "main", "--limit", "max_total_loss=1"), told("simulate", "alice", "main")
    assert {name for each in asked for name in keys(each)} <= documented


# -- stress and its reverse --------------------------------------------------------------------------------------------


def test_a_shock_of_ones_own() -> None:
    shocks = ("--shock", "type:STOCK=-20%", "--shock", "currency:EUR=-10%", "--shock", "BTC=1%")
    (found,) = told("stress", "alice", "main", *shocks)["now"]["stress"]
    assert [(line["symbol"], line["change"]) for line in found["impacts"]] == [
        ("ACME", "100"),
        ("BTC", "6"),
        ("NEW", "0"),
        ("SAP", "-616"),
    ]
    assert (found["scenario"], found["change"], found["not_moved"]) == ("by-hand", "-510", ["NEW"])
    assert sum(Decimal(line["change"]) for line in found["impacts"]) == Decimal(found["change"])


def test_scenarios_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[scenarios.mine]\nall = "-1%"\n[sensitivities]\nSAP = {rates = "-6.5"}\n')
    lines = told("stress", "alice", "main", "--file", str(file))["now"]["stress"]
    changes = {line["scenario"]: line["change"] for line in lines}
    assert len(changes) == 6
    assert (changes["mine"], changes["rates-up-200bp"]) == ("-23.3", "-286")
    (one,) = told("stress", "alice", "main", "--file", str(file), "--scenario", "mine")["now"]["stress"]
    assert one["scenario"] == "mine"
    assert "it says nothing of ACME, BTC, NEW" in run("stress", "alice", "main", "--file", str(file)).stdout


def test_what_breaks_limits() -> None:
    limits = ("--limit", "max_total_loss=500", "--limit", "max_daily_loss=100", "--limit", "max_portfolio_value=4000")
    lines = told("reverse", "alice", "main", *limits, "--limit", "max_leverage=5", "--cash", "-1500")["now"]["breaks"]
    found = {(line["limit"], line["scenario"]): line for line in lines}
    # P&L 664 and value 2330: 664 − 2330·k < −500; today's 164 − 2330·k < −100; 3330·(1 + k) > 4000
    assert found["max_total_loss", "market-falls"]["factor"] == "0.499571"
    assert found["max_daily_loss", "market-falls"]["factor"] == "0.113305"
    assert found["max_portfolio_value", "market-rises"]["factor"] == "0.201202"
    # 3330·u > 5·(2330·u − 1500): u < 7500 / 8320
    assert found["max_leverage", "market-falls"]["factor"] == "0.098558"
    assert found["max_total_loss", "rates-up-200bp"]["factor"] is None
    crypto = found["max_total_loss", "crypto-half"]
    assert (crypto["factor"], crypto["value"], crypto["loss"]) == (None, None, None)  # all of it is 600
    rows = cells(run("reverse", "alice", "main", *limits))
    falls = ["max_total_loss", "-", "500", "-664", "market-falls", "0.499571", "all -49.9571%"]
    assert [*falls, "500.00043", "1164.00043"] in rows
    assert ["max_total_loss", "-", "500", "-664", "crypto-half", "not by 100 times", "", "", ""] in rows


def test_limits_are_those_that_the_latest_alerts_told() -> None:
    found = told("reverse", "bob", "main", "--scenario", "market-falls", "--scenario", "market-rises")
    limits = [tuple(line.values()) for line in found["limits"]]
    assert limits == [
        ("max_total_loss", "30", "bob/main/LOSS_LIMIT/total/1"),
        ("max_portfolio_value", "125", "bob/main/EXPOSURE_LIMIT/-/10"),
    ]
    breaks = {(line["limit"], line["scenario"]): line["factor"] for line in found["now"]["breaks"]}
    assert breaks["max_total_loss", "market-falls"] == "0.500001"
    assert breaks["max_portfolio_value", "market-rises"] == "0.250001"
    assert "max_portfolio_value (bob/main/EXPOSURE_LIMIT/-/10)" in run("report", "bob", "main").stdout
    given = told("reverse", "bob", "main", "--limit", "max_portfolio_value=99")
    assert given["limits"] == [{"limit": "max_portfolio_value", "most": "99", "alert_id": None}]
    assert {line["factor"] for line in given["now"]["breaks"]} == {"0"}
    assert "is broken now" in run("reverse", "bob", "main", "--limit", "max_portfolio_value=99").stdout


# -- simulations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["normal", "t", "bootstrap"])
def test_simulated_losses(distribution: str) -> None:
    asked = ("simulate", "alice", "main", "--distribution", distribution, "--paths", "20000", "--seed", "3")
    found = told(*asked)
    assert found == told(*asked)
    assert found != told(*asked[:-1], "4")
    low, high = found["now"]["value_at_risk"]["risks"]
    assert (low["confidence"], high["confidence"]) == (95, 99)
    assert 0 < low["var"] < high["var"] < high["cvar"]
    assert sum(line["cvar"] for line in high["contributions"]) == pytest.approx(high["cvar"])
    assert sum(found["now"]["histogram"]["counts"]) == 20_000
    risks = told("report", "alice", "main")["now"]["value_at_risk"]["risks"]
    if distribution == "normal":
        assert low["var"] == pytest.approx(risks[0]["var"], rel=0.05)
    if distribution == "bootstrap":
        assert low["cvar"] == pytest.approx(risks[1]["cvar"], rel=0.05)
    lines = run(*asked).stdout.splitlines()
    assert lines[0].startswith(f"20,000 paths, {distribution}")
    assert "losses from, share of the paths" in lines


# -- hypothetical trades -----------------------------------------------------------------------------------------------


def test_the_same_with_a_trade() -> None:
    sale = ("--what-if", "SELL 4 SAP @ 210", "--what-if", "BUY 1 XYZ @ 50 EUR")
    found = told("stress", "alice", "main", "--scenario", "crisis-2008", *sale)
    now, then = found["now"], found["what_if"]
    assert (now["market_value"], then["market_value"]) == ("2330", "1505")  # −4·220 + 55
    assert Decimal(then["total_pnl"]) - Decimal(now["total_pnl"]) == 44  # sold 10 EUR above the mark
    assert {line["symbol"]: line["change"] for line in then["stress"][0]["impacts"]}["SAP"] == "-749.496"
    assert then["stress"][0]["not_moved"] == ["BTC", "XYZ"]
    assert now == told("stress", "alice", "main", "--scenario", "crisis-2008")["now"]
    shown = run("report", "alice", "main", *sale)
    assert "with SELL 4 SAP @ 210, BUY 1 XYZ @ 50 EUR\n" in shown.stdout
    assert ["market_value", "2,330.00", "1,505.00", "-825.00"] in cells(shown)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("stress", "alice", "main", "--what-if", "SAP 4"), "write it as"),
        (("stress", "alice", "main", "--what-if", "BUY 1 SAP @ 1 USD"), "held in EUR"),
        (("stress", "alice", "main", "--scenario", "nope"), "is none of"),
        (("stress", "alice", "main", "--shock", "BTC"), "is no shock"),
        (("reverse", "alice", "main", "--limit", "max_fun=1"), "write one of"),
        (("reverse", "alice", "main", "--limit", "max_total_loss=0"), "above 0"),
        (("reverse", "alice", "main", "--limit", "max_total_loss=x"), "not an exact decimal"),
    ],
)
def test_wrong_use_is_told_and_exits_with_2(options: tuple[str, ...], word: str) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert word in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("report", "nobody", "main"), "nobody/main has no fills in ClickHouse"),
        (("reverse", "alice", "main", "--limit", "max_leverage=2"), "max_leverage: equity is market value and cash"),
        (("reverse", "alice", "main"), "no alert has told a limit of alice/main"),
        (("reverse", "bob", "main", "--limit", "max_daily_loss=2"), "max_daily_loss: ClickHouse has no update"),
        (("stress", "alice", "main", "--file", "no.toml"), "no.toml: can't be read"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_1(options: tuple[str, ...], line: str) -> None:
    result = run(*options)
    assert result.exit_code == 1
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


def test_every_command_has_help() -> None:
    assert "ASSETSTREAM_CLICKHOUSE_URL" in os.environ
    for name in ("report", "stress", "reverse", "simulate"):
        assert name in run("--help").stdout
        assert run(name, "--help").stdout.startswith(f"Usage: root risk {name} ")
