"""`assetstream trial-balance` against the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner, Result

from assetstream.cli.main import app
from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate

DB = "trial_balance_test"
TINY = "0.000000000000000001"
MOST = "99999999999999999999"
Ask = Callable[..., Result]

#: (time, account, asset, amount): a deposit with a fee, a conversion, one that was booked late
POSTED = (
    ("10:00", "wallet:alice/w-1", "USD", "97.5"),
    ("10:00", "fees", "USD", "2.5"),
    ("10:00", "external:SEPA", "USD", "-100"),
    ("12:00", "wallet:alice/w-1", "USD", "-50"),
    ("12:00", "exchange", "USD", "50"),
    ("12:00", "wallet:alice/w-1", "BTC", TINY),
    ("12:00", "exchange", "BTC", "-" + TINY),
    ("11:00", "wallet:bob/w-1", "USD", "30"),
    ("11:00", "income", "USD", "-30"),
)


@pytest.fixture(scope="module")
def database(stack: EmbeddedStack) -> Iterator[Client]:
    """A client, and the database of these tests."""
    settings = stack.settings(clickhouse_database=DB)
    client = connect(settings)
    migrate(client, settings)
    yield client
    client.command(f"DROP DATABASE {DB}")
    client.close()


@pytest.fixture
def client(database: Client, stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of a database in which is what POSTED says, and nothing else; commands ask it."""
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", stack.clickhouse)
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_DATABASE", DB)
    database.command(f"TRUNCATE TABLE {DB}.wallet_entries")
    post(database, *POSTED)
    return database


def post(client: Client, *entries: tuple[str, str, str, str]) -> None:
    rows = ", ".join(
        f"('{account}', '{asset}', {amount}, '2026-03-02 {time}:00')" for time, account, asset, amount in entries
    )
    client.command(f"INSERT INTO {DB}.wallet_entries (account, asset, amount, occurred_at) VALUES {rows}")


def ask(*args: str) -> Result:
    return CliRunner().invoke(app, ["trial-balance", *args])


def accounts(result: Result) -> dict[tuple[str, str], tuple[str, str]]:
    """(postings, total) by (asset, account), as --json prints it."""
    return {
        (row["asset"], row["account"]): (row["postings"], row["total"]) for row in json.loads(result.stdout)["accounts"]
    }


def test_every_asset_sums_to_zero_with_the_wallets_in_one_line(client: Client) -> None:
    result = ask("--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "at": None,
        "accounts": [
            {"asset": "BTC", "account": "exchange", "postings": "1", "total": "-" + TINY},
            {"asset": "BTC", "account": "wallets", "postings": "1", "total": TINY},
            {"asset": "USD", "account": "exchange", "postings": "1", "total": "50"},
            {"asset": "USD", "account": "external:SEPA", "postings": "1", "total": "-100"},
            {"asset": "USD", "account": "fees", "postings": "1", "total": "2.5"},
            {"asset": "USD", "account": "income", "postings": "1", "total": "-30"},
            {"asset": "USD", "account": "wallets", "postings": "3", "total": "77.5"},
        ],
        "totals": [
            {"asset": "BTC", "postings": "2", "total": "0", "virtual": "0"},
            {"asset": "USD", "postings": "7", "total": "0", "virtual": "0"},
        ],
        "balanced": True,
    }
    view = CliRunner().invoke(app, ["sql", "--json", "SELECT * FROM trial_balance ORDER BY asset, account"])
    assert [json.loads(line) for line in view.stdout.splitlines()] == json.loads(result.stdout)["accounts"]


def test_each_wallet_alone(client: Client) -> None:
    found = accounts(ask("--by-account", "--json"))
    assert len(found) == 8
    assert found["USD", "wallet:alice/w-1"] == ("2", "47.5")
    assert found["USD", "wallet:bob/w-1"] == ("1", "30")


def test_what_had_occurred_by_a_time_counts_also_what_came_late(client: Client) -> None:
    result = ask("--at", "2026-03-02T12:59:59.999999+02:00", "--json")
    assert json.loads(result.stdout)["at"] == "2026-03-02T10:59:59.999999Z"
    assert accounts(result).keys() == {("USD", "external:SEPA"), ("USD", "fees"), ("USD", "wallets")}
    assert accounts(ask("--at", "2026-03-02T11:00:00Z", "--json"))["USD", "wallets"] == ("2", "127.5")


def test_an_asset_that_is_off_is_named_and_exits_with_1(client: Client) -> None:
    post(client, ("13:00", "wallet:bob/w-1", "BTC", TINY), ("13:00", "fees", "EUR", "-1"))
    result = ask()
    assert result.exit_code == 1
    assert result.stderr == (
        f"the postings of BTC ({TINY}), EUR (-1) don't sum to zero: `assetstream check` says which\n"
    )
    rows = [
        [cell.strip() for cell in line[1:-1].split(line[0])] for line in result.stdout.splitlines() if line[0] in "┃│"
    ]
    assert rows[0] == ["asset", "account", "postings", "total"]
    assert [row for row in rows if row[1] == "total"] == [
        ["BTC", "total", "3", TINY],
        ["EUR", "total", "1", "-1"],
        ["USD", "total", "7", "0"],
    ]
    assert not json.loads(ask("--json").stdout)["balanced"]
    assert ask("--at", "2026-03-02T12:59:59Z").exit_code == 0


def test_a_total_beyond_128_bits_is_exact(client: Client) -> None:
    """Four of these wrap what ClickHouse makes of their sum; 2^128 units would come to zero there."""
    post(client, *[("13:00", "wallet:bob/w-1", "XXX", MOST)] * 4)
    result = ask("--json")
    assert result.exit_code == 1
    assert accounts(result)["XXX", "wallets"] == ("4", "399999999999999999996")
    post(client, *[("13:00", "transit", "XXX", "-" + MOST)] * 4)
    assert ask().exit_code == 0


def test_without_any_posting_it_balances(client: Client) -> None:
    result = ask("--at", "1970-01-01T00:00:00Z", "--json")
    assert (result.exit_code, json.loads(result.stdout)["accounts"]) == (0, [])
