"""`assetstream balance` against the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from assetstream.cli.main import app
from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate

DB = "balance_test"
DAY = "2026-03-02"
TINY = "0.000000000000000001"
Ask = Callable[..., Result]

#: alice's events as they were booked: (wallet, asset, total, available, locked, time, partition, offset). The dividend
#: is late; before the withdrawal was completed, partitions were added
BOOKED = (
    ("w-1", "USD", "100", "100", "0", "10:00", 3, 10),  # a deposit
    ("w-1", "USD", "100", "70", "30", "12:00", 3, 11),  # a withdrawal is pending
    ("w-1", "USD", "105", "75", "30", "11:00", 3, 12),  # a dividend
    ("w-1", "BTC", TINY, TINY, "0", "12:30", 3, 13),
    ("w-1", "USD", "85", "55", "30", "13:00", 3, 14),  # a transfer to w-2, and what arrives there
    ("w-1", "USD", "55", "55", "0", "14:00", 9, 0),  # the withdrawal is completed
)
ARRIVED = ("w-2", "USD", "20", "20", "0", "13:00", 3, 14)


@pytest.fixture
def ask(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Runs the command against a database with alice's events, and one of bob's."""
    settings = stack.settings(clickhouse_database=DB)
    client = connect(settings)
    migrate(client, settings)
    for user, table, prefix, row in (
        *(("alice", "transactions", "balance_", row) for row in BOOKED),
        ("alice", "wallet_changes", "", ARRIVED),
        ("bob", "transactions", "balance_", BOOKED[0]),
    ):
        wallet, asset, total, available, locked, time, partition, offset = row
        client.command(
            f"INSERT INTO {DB}.{table} (user_id, wallet_id, asset, {prefix}total, {prefix}available, {prefix}locked, "
            f"occurred_at, source_partition, source_offset) VALUES ('{user}', '{wallet}', '{asset}', {total}, "
            f"{available}, {locked}, '{DAY} {time}:00', {partition}, {offset})"
        )
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", stack.clickhouse)
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_DATABASE", DB)
    yield lambda *args: CliRunner().invoke(app, ["balance", *args])
    client.command(f"DROP DATABASE {DB}")
    client.close()


def found(result: Result) -> dict[tuple[str, str], tuple[str, str, str]]:
    """(total, available, locked) by (wallet, asset), as --json prints it."""
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {(row["wallet_id"], row["asset"]): (row["total"], row["available"], row["locked"]) for row in rows}


def test_without_a_time_it_is_what_the_view_balances_says(ask: Ask) -> None:
    result = ask("alice", "--json")
    assert found(result) == {
        ("w-1", "BTC"): (TINY, TINY, "0"),
        ("w-1", "USD"): ("55", "55", "0"),
        ("w-2", "USD"): ("20", "20", "0"),
    }
    view = "SELECT * EXCEPT (user_id, last_transaction_at) FROM balances WHERE user_id = 'alice' ORDER BY ALL"
    rows = [json.loads(line) for line in CliRunner().invoke(app, ["sql", "--json", view]).stdout.splitlines()]
    assert [(*row.values(),) for row in rows] == [(*place, *held) for place, held in found(result).items()]
    assert json.loads(result.stdout.splitlines()[1]) == {
        "wallet_id": "w-1",
        "asset": "USD",
        "total": "55",
        "available": "55",
        "locked": "0",
        "last_transaction_at": "2026-03-02T14:00:00.000000Z",
    }


@pytest.mark.parametrize(
    ("time", "held"),
    [
        ("10:00:00Z", ("100", "100", "0")),
        ("10:59:59.999999Z", ("100", "100", "0")),
        ("11:30:00Z", ("105", "105", "0")),  # with the dividend that came late, without what was booked before it
        ("14:30:00+02:00", ("105", "75", "30")),
        ("13:59:59Z", ("85", "55", "30")),
        ("14:00:00Z", ("55", "55", "0")),
    ],
)
def test_what_had_occurred_by_a_time_counts(ask: Ask, time: str, held: tuple[str, str, str]) -> None:
    assert found(ask("alice", "--at", f"{DAY}T{time}", "--json"))["w-1", "USD"] == held


def test_a_balance_that_nothing_had_touched_by_then_is_not_there(ask: Ask) -> None:
    assert found(ask("alice", "--at", f"{DAY}T12:59:59Z", "--json")).keys() == {("w-1", "BTC"), ("w-1", "USD")}
    assert found(ask("alice", "--at", f"{DAY}T09:59:59.999999Z", "--json")) == {}
    assert found(ask("nobody", "--json")) == found(ask("' OR 1 = 1 --", "--json")) == {}


def test_one_wallet_alone(ask: Ask) -> None:
    assert found(ask("alice", "--wallet", "w-2", "--json")) == {("w-2", "USD"): ("20", "20", "0")}
    assert found(ask("bob", "--json")) == {("w-1", "USD"): ("100", "100", "0")}


def test_a_table_shows_whole_values(ask: Ask) -> None:
    result = ask("alice")
    assert result.exit_code == 0
    head, *rows = (
        [cell.strip() for cell in line[1:-1].split(line[0])] for line in result.stdout.splitlines() if line[0] in "┃│"
    )
    assert head == ["wallet_id", "asset", "total", "available", "locked", "last_transaction_at"]
    assert rows[0] == ["w-1", "BTC", TINY, TINY, "0", "2026-03-02T12:30:00.000000Z"]
    assert len(rows) == 3


@pytest.mark.parametrize("time", ["yesterday", "2026-03-02", "2026-03-02T09:00:00", "2026-02-30T09:00:00Z"])
def test_a_time_that_is_none_is_wrong_use(time: str) -> None:
    result = CliRunner().invoke(app, ["balance", "alice", "--at", time])
    assert result.exit_code == 2
    assert "write it as 2026-03-02T09:00:00Z" in " ".join(result.stderr.split())


def test_no_clickhouse_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", "http://127.0.0.1:1")
    result = CliRunner().invoke(app, ["balance", "alice"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "ClickHouse at http://127.0.0.1:1 does not answer: [Errno 111] Connection refused\n"
