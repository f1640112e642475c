"""What is asked of ClickHouse where some wallets are VIRTUAL: kernels' rows on the engine in this process (chDB)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner

from assetstream.agents.clock import take_clock
from assetstream.agents.partition import AccountPartition
from assetstream.agents.transactions import take_transactions
from assetstream.cli import fees, history, trial_balance
from assetstream.cli.audit import tables
from assetstream.cli.main import app
from assetstream.cli.reconciliation.ours import Books
from assetstream.models.outcomes import balance_names, legs_of
from assetstream.models.records import records_of
from assetstream.sinks import batches
from assetstream.sinks.migrations import migrate
from assetstream.sinks.schema import TABLES
from assetstream.streams.settings import Settings
from tests.documents import ROOT
from tests.unit.test_books import Engine

DB = "virtual_money_test"
SETTINGS = Settings(clickhouse_database=DB, partitions=1, _env_file=None)
NOW = datetime.now(UTC).replace(microsecond=0)
NOW_MS = int(NOW.timestamp()) * 1000
TODAY = NOW.strftime("%Y-%m-%dT")
START = {"initial_capital": "1000", "allocation": {"BTC": "2", "EUR": "5"}}

#: ann's; a RESET brings USD and EUR back, a hold expires, and what is refused is in the tables too
EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "DEPOSIT", "wallet_id": "w", "amount": "100", "fee": "1", "payment_method": "SEPA"},
    {"type": "OPEN", "wallet_id": "p", "wallet_type": "VIRTUAL", "currency": "USD", "configuration": START},
    {"type": "OPEN", "wallet_id": "q", "wallet_type": "VIRTUAL"},
    {"type": "WITHDRAWAL", "wallet_id": "p", "amount": "300", "fee": "2"},
    {"type": "CONVERSION", "wallet_id": "p", "amount": "10", "to_asset": "EUR", "rate": "0.9"},
    {"type": "TRANSFER", "wallet_id": "p", "amount": "40", "counterparty": {"user_id": "ann", "wallet_id": "q"}},
    {"type": "TRANSFER", "wallet_id": "w", "amount": "40", "counterparty": {"user_id": "ann", "wallet_id": "q"}},
    {"type": "HOLD", "wallet_id": "p", "status": "PENDING", "amount": "7", "expires_at": "2026-01-01T00:00:00Z"},
    {"type": "RESET", "wallet_id": "p"},
    {"type": "TICK"},
    {"type": "RESET", "wallet_id": "p"},
    {"type": "WITHDRAWAL", "wallet_id": "w", "amount": "30"},
    {"type": "CLOSE", "wallet_id": "q"},
)


@pytest.fixture(scope="module")
def engine(engine: Client) -> Iterator[Client]:
    """With all of it in its tables."""
    migrate(engine, SETTINGS)
    engine.command(f"USE {DB}")
    book(engine)
    yield engine
    engine.command(f"DROP DATABASE {DB}")


def book(client: Client) -> None:
    """EVENTS as a partition books them, into the tables."""
    partition = AccountPartition(0, SETTINGS)
    for offset, event in enumerate(EVENTS):
        if event["type"] == "TICK":
            take_clock(partition, records_of("clock", 0, [(None, b"{}")], offset, NOW_MS))
            continue
        whole = {"transaction_id": f"x{offset}", "user_id": "ann", "status": "COMPLETED", "asset": "USD", **event}
        value = json.dumps({**whole, "occurred_at": NOW.isoformat()}).encode()
        take_transactions(partition, records_of("transactions", 0, [(b"ann", value)], offset, NOW_MS))
    state = partition.store.state
    for batch, result in partition.work.booked:
        changed = balance_names(state, result.changes["balance"])
        for name, rows in (
            ("transactions", batches.transactions(batch, result.outcomes)),
            ("ledger_entries", batches.ledger_entries(batch, result.postings, legs_of(state, result.postings))),
            ("balance_changes", batches.balance_changes(batch, result.changes, changed)),
        ):
            client.insert_arrow(f"{DB}.{TABLES[name].target}", pa.Table.from_batches([rows]))


@pytest.fixture
def client(engine: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Commands ask the engine."""

    def ask(settings: Settings, query: str, default_format: str, given: dict[str, str]) -> bytes:
        exact = {"output_format_json_quote_64bit_integers": 1, "output_format_json_quote_decimals": 1}
        answer: bytes = engine.raw_query(query, given, exact, default_format)
        return answer

    for module in (history, trial_balance, fees):
        monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(tables, "connect", lambda settings: Engine(engine))
    return engine


def told(*args: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*args, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_trial_balance_has_both_halves_apart(client: Client) -> None:
    found = told("trial-balance")
    assert {(row["asset"], row["account"]): row["total"] for row in found["accounts"]} == {
        ("BTC", "virtual wallets"): "2",
        ("BTC", "virtual"): "-2",
        ("EUR", "virtual wallets"): "5",
        ("EUR", "virtual"): "-5",
        ("USD", "external:SEPA"): "-100",
        ("USD", "external:unspecified"): "30",
        ("USD", "fees"): "1",
        ("USD", "virtual wallets"): "1040",
        ("USD", "virtual"): "-1040",
        ("USD", "wallets"): "69",
    }
    assert {(row["total"], row["virtual"]) for row in found["totals"]} == {("0", "0")}
    view = client.query("SELECT asset, account, toString(postings), toString(total) FROM trial_balance").result_rows
    assert sorted(view) == [tuple(row.values()) for row in found["accounts"]]
    by_account = {row["account"]: row["total"] for row in told("trial-balance", "--by-account")["accounts"]}
    assert (by_account["wallet:ann/q"], by_account["wallet:ann/w"]) == ("40", "69")


def test_what_is_mixed_is_off_though_the_asset_comes_to_zero(client: Client) -> None:
    insert = "INSERT INTO wallet_entries (account, asset, amount, source_offset) VALUES ('{}', 'XAU', {}, 999)"
    for account, amount in (("wallet:ann/p", 3), ("fees", -3)):
        client.command(insert.format(account, amount))
    result = CliRunner().invoke(app, ["trial-balance"])
    client.command("DELETE FROM wallet_entries WHERE asset = 'XAU'")
    assert isinstance(result.exception, SystemExit | trial_balance.NotBalanced)
    assert result.exit_code == 1
    assert "XAU (3 of virtual money)" in result.output + str(result.exception)


def test_a_statement_of_wallets_that_are_opened_and_reset_adds_up(client: Client) -> None:
    found = told("statement", "ann", "--from", "2020-01-01", "--to", "2100-01-01")
    assert found["reconciled"]
    closing = {(line["wallet_id"], line["asset"]): line["closing"]["total"] for line in found["balances"]}
    assert closing == {
        ("w", "USD"): "69",
        ("p", "USD"): "1000",
        ("p", "BTC"): "2",
        ("p", "EUR"): "5",
        ("q", "USD"): "40",
    }
    opened = [line for line in found["movements"] if line["type"] == "OPEN" and line["wallet_id"] == "p"]
    assert [(line["asset"], line["amount"], line["change"]["total"]) for line in opened] == [
        ("BTC", None, "2"),
        ("EUR", None, "5"),
        ("USD", "0", "1000"),
    ]
    codes = {line["transaction_id"]: line["code"] for line in found["movements"] if line["code"]}
    assert codes == {"x6": "NOT_ALLOWED", "x8": "NOT_ALLOWED", "x7": "EXPIRED", "x12": "NOT_ALLOWED"}


def test_the_reconciler_finds_nothing_to_object_to(client: Client) -> None:
    books = Books(SETTINGS, {("transactions", 0): 100, ("clock", 0): 100})
    assert books.internal(lambda user: True, NOW) == {}


def test_paper_money_is_no_volume(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSETSTREAM_FEE_SCHEDULE", str(ROOT / "examples" / "fees.toml"))
    quote = ["fees", "quote", "--type", "WITHDRAWAL", "--asset", "USD", "--amount", "10", "--user", "ann"]
    assert told(*quote)["volume"] == "30"
