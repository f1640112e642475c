"""Statements, breaks and decisions through the real Kafka and ClickHouse, with a worker and a reconciler."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from assetstream.cli.audit import audit
from assetstream.cli.main import app
from assetstream.cli.reconciliation.complete import complete_cut
from assetstream.cli.reconciliation.process import Reconciler
from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.clickhouse import connect
from assetstream.streams.settings import Settings
from tests.integration.pipeline import (
    Pipeline,
    environment,
    logs_on_failure,  # noqa: F401
    pipeline,
    wait_until,
)

PREFIX, DATABASE = "recon.", "recon"
#: what breaks careless SQL and careless ids
BROKER = "O'Neil & Söhne\\ 1/2"
DAY = "2026-03-02"


def trade(trade_id: str, **other: Any) -> dict[str, Any]:
    usual = {
        "trade_id": trade_id,
        "symbol": "SAP",
        "side": "BUY",
        "quantity": "10",
        "price": "241.3",
        "fee": "1",
        "currency": "EUR",
        "executed_at": f"{DAY}T10:00:00Z",
    }
    return usual | other


def statement(*trades: dict[str, Any], **other: Any) -> dict[str, Any]:
    usual = {"statement_id": "s-1", "broker": BROKER, "user_id": "alice", "trades": list(trades)}
    return usual | {"period_start": f"{DAY}T00:00:00Z", "period_end": "2026-03-03T00:00:00Z"} | other


class Desk:
    """Who reconciles: publishes, runs commands, and looks at what is on record."""

    def __init__(self, running: Pipeline) -> None:
        self.running, self.settings, self.folder = running, running.settings, running.folder
        self.client = connect(running.settings)

    def publish(self, topic: str, *messages: dict[str, Any] | bytes, key: str = "alice") -> None:
        self.running.publish(
            (topic, key.encode(), m if isinstance(m, bytes) else json.dumps(m).encode()) for m in messages
        )

    def trades(self, *trades: dict[str, Any], **other: Any) -> None:
        """Executions of alice at the broker."""
        whose = {"user_id": "alice", "portfolio_id": "main", "wallet_id": "w-1", "broker": BROKER} | other
        self.publish("trades", *(each | whose for each in trades), key=whose["user_id"])

    def command(self, *arguments: str) -> Result:
        return CliRunner(env=environment(self.settings)).invoke(app, arguments)

    def reconcile(self, stated: dict[str, Any], *options: str) -> tuple[int, dict[tuple[str, str], str]]:
        """Exit code, and the difference by (type, subject)."""
        path = self.folder / "statement.json"
        path.write_text(json.dumps(stated))
        result = self.command("reconcile", str(path), "--json", *options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        found = json.loads(result.stdout or "[]")
        return result.exit_code, {(each["type"], each["subject"]): each["difference"] for each in found}

    def refused(self, stated: dict[str, Any]) -> str:
        """Why a statement isn't even published."""
        path = self.folder / "refused.json"
        path.write_text(json.dumps(stated))
        before = len(self.running.read("broker_statements"))
        result = self.command("reconcile", str(path))
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert len(self.running.read("broker_statements")) == before
        return result.stderr

    def recorded(self) -> dict[str, tuple[str, int, str]]:
        """Status, sequence and who by break, in ClickHouse; each change is there once, as on the topic."""
        names = "break_id, status, sequence, decided_by"
        rows = self.client.query(f"SELECT {names} FROM {DATABASE}.reconciliation_breaks ORDER BY sequence").result_rows
        told = [each.json for each in self.running.read("reconciliation_breaks")]
        assert len(rows) == len({(row[0], row[2]) for row in rows})
        if len(rows) < len(told):
            return {}  # on their way
        assert sorted(rows) == sorted((e["break_id"], e["status"], e["sequence"], e["decided_by"]) for e in told)
        return {row[0]: tuple(row[1:]) for row in rows}

    def wait(self, expected: dict[str, tuple[str, int, str]]) -> None:
        wait_until(lambda: self.recorded() == expected, f"{expected} to be on record", 60)


@contextmanager
def reconciling(settings: Settings) -> Iterator[Reconciler]:
    """A reconciler that runs here."""
    running = Reconciler(settings)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            running.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    with capture_logs() as told:  # or it would be among what commands print, which run here too
        thread.start()
        try:
            yield running
        finally:
            running.stop()
            thread.join(60)
            print(*told, sep="\n")
    assert not thread.is_alive()
    assert not failed


@pytest.fixture(scope="module")
def desk(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    settings = stack.settings(topic_prefix=PREFIX, clickhouse_database=DATABASE, partitions=2)
    with pipeline(settings, tmp_path_factory.mktemp("recon"), "only") as running:
        yield Desk(running)


def of(type_: str, subject: str) -> str:
    return f"O%27Neil %26 S%C3%B6hne%5C 1%2F2/alice/*/{type_}/{subject}"


def opened(type_: str) -> float:
    return REGISTRY.get_sample_value("balance_reconciliation_errors_total", {"type": type_}) or 0.0


def test_a_statement_and_the_lives_of_its_breaks(desk: Desk) -> None:
    desk.publish(
        "transactions",
        deposit("d-1", "1000") | {"fee": "0.5", "occurred_at": f"{DAY}T09:00:00Z"},
    )
    desk.trades(trade("same"), trade("price"), trade("ours", side="SELL", quantity="3"))
    desk.trades(trade("elsewhere"), broker="another")
    desk.trades(trade("bobs"), user_id="bob")
    stated = statement(
        trade("same"),
        trade("price", price="241.31"),
        trade("theirs", symbol="IBM", quantity="2.5"),
        positions=[{"symbol": "SAP", "quantity": "17"}],
        positions_complete=True,
        balances=[{"wallet_id": "w-1", "asset": "EUR", "total": "-5519.1"}],
    )
    # the wallet has 999.5, three BUYs of 2,413 and a SELL of 723.9 for a fee of 1 each: 0.5 less than stated
    # at once: what was published is awaited, not missing
    shown = {
        ("PRICE_MISMATCH", "price"): "0.01",
        ("MISSING_TRADE", "theirs"): "2.5",
        ("UNKNOWN_TRADE", "ours"): "-3",
        ("BALANCE_MISMATCH", "w-1/EUR"): "0.5",
    }
    assert desk.reconcile(stated, "--dry-run") == (1, shown)
    assert desk.running.read("broker_statements") == []
    assert desk.reconcile(stated) == (1, shown)

    before = opened("PRICE_MISMATCH")
    first = "statement s-1 version 1"
    record = {of(*key): ("OPEN", 1, first) for key in shown}
    with reconciling(desk.settings):
        desk.wait(record)
        assert opened("PRICE_MISMATCH") == before + 1

        # explained, and sent again: the same breaks, and none told twice
        result = desk.command("breaks", "explain", of("PRICE_MISMATCH", "price"), "--reason", "cents", "--by", "ops-4")
        assert result.exit_code == 0, result.output
        record[of("PRICE_MISMATCH", "price")] = ("EXPLAINED", 2, "ops-4")
        assert desk.reconcile(stated) == (1, shown)

        # what can't be taken: kept whole, and the reconciler goes on
        desk.publish("broker_statements", b"{", statement(user_id="bob"), statement(trade("same")))
        desk.publish(
            "break_decisions",
            {"break_id": "a/alice/*/x/y", "user_id": "alice", "status": "RESOLVED", "by": "x", "reason": "x"},
        )
        wait_until(lambda: len(letters(desk)) == 4, "four dead letters", 60)
        assert letters(desk) == {
            ("broker_statements", "malformed"),
            ("broker_statements", "key_mismatch"),
            ("broker_statements", "conflict"),
            ("break_decisions", "invalid"),
        }
        desk.wait(record)

        # a correction: what is gone is resolved, and an older version says nothing any more
        corrected = statement(trade("same"), trade("price", price="241.31"), trade("ours", side="SELL", quantity="3"))
        assert desk.reconcile(corrected | {"version": 2}) == (0, {("PRICE_MISMATCH", "price"): "0.01"})
        second = "statement s-1 version 2"
        record |= {
            of(*key): ("RESOLVED", 2, second) for key in [("MISSING_TRADE", "theirs"), ("UNKNOWN_TRADE", "ours")]
        }
        desk.wait(record)
        for late, why in ((stated, "version 2 was judged"), (stated | {"version": 2}, "with another body")):
            assert why in desk.refused(late)
            desk.publish("broker_statements", late)

        # the trade is booked, and the statement of the next day agrees with the balance: by itself
        desk.publish("transactions", deposit("d-2", "0.5"))
        balance = {"wallet_id": "w-1", "asset": "EUR", "total": "-5519.1"}
        next_day = statement(statement_id="s-2", period_start="2026-03-03T00:00:00Z", period_end="2026-03-04T00:00:00Z")
        assert desk.reconcile(next_day | {"balances": [balance]}) == (0, {})
        record[of("BALANCE_MISMATCH", "w-1/EUR")] = ("RESOLVED", 2, "statement s-2 version 1")
        desk.wait(record)

    # another one takes nothing twice, and the auditor has nothing to say
    with reconciling(desk.settings):
        assert desk.reconcile(statement(statement_id="s-3", user_id="bob", broker="another")) == (0, {})
        desk.running.settle()
        desk.wait(record)
    listed = desk.command("breaks", "--all", "--json")
    assert {json.loads(line)["status"] for line in listed.stdout.splitlines()} == {"EXPLAINED", "RESOLVED"}
    assert desk.command("breaks", "--json").stdout == ""
    report = audit(desk.settings)
    assert report.differences == [], report.differences
    assert len(letters(desk)) == 4
    query = f"SELECT statement_id, version, breaks FROM {DATABASE}.broker_statements ORDER BY source_offset, version"
    judged = desk.client.query(query).result_rows
    assert sorted(judged) == [("s-1", 1, 4), ("s-1", 1, 4), ("s-1", 2, 1), ("s-2", 1, 0), ("s-3", 1, 0)]


def deposit(transaction_id: str, amount: str) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "user_id": "alice",
        "wallet_id": "w-1",
        "type": "DEPOSIT",
        "status": "COMPLETED",
        "asset": "EUR",
        "amount": amount,
        "occurred_at": "2026-03-03T09:00:00Z",
    }


def letters(desk: Desk) -> set[tuple[str, str]]:
    """Topic and reason of the reconciler's dead letters in ClickHouse."""
    query = f"SELECT topic, reason FROM {DATABASE}.dead_letters"
    return {(topic.removeprefix(PREFIX), reason) for topic, reason in desk.client.query(query).result_rows}


def test_our_own_accounts_are_held_against_each_other_when_it_starts(desk: Desk) -> None:
    before = desk.recorded()
    desk.client.command(
        f"INSERT INTO {DATABASE}.wallet_entries (user_id, transaction_id, account, asset, amount, source_topic, "
        f"source_partition, source_offset) SELECT 'alice', 'd-1', 'fees', 'EUR', 0.25, source_topic, source_partition, "
        f"source_offset FROM {DATABASE}.ledger_entries WHERE transaction_id = 'd-1' LIMIT 1"
    )
    with reconciling(desk.settings):
        wait_until(lambda: len(desk.recorded()) == len(before) + 1, "the break to be on record", 60)
    (break_id,) = desk.recorded().keys() - before.keys()
    assert break_id.startswith("internal/alice/*/INTERNAL_POSTINGS/d-1/")
    desk.client.command(f"ALTER TABLE {DATABASE}.wallet_entries DELETE WHERE amount = 0.25 SETTINGS mutations_sync = 1")
    with reconciling(desk.settings):
        wait_until(lambda: desk.recorded().get(break_id, ("",))[0] == "RESOLVED", "the break to be resolved", 60)
    assert desk.recorded()[break_id] == ("RESOLVED", 2, "reconciler")


@pytest.mark.parametrize("point", ["reconciler.produced", "reconciler.committed"])
def test_killed_inside_and_after_its_transaction_it_tells_each_change_once(desk: Desk, point: str) -> None:
    before, name = desk.recorded(), point.partition(".")[2]
    desk.publish("broker_statements", statement(trade(name, symbol="IBM"), statement_id=name, portfolio_id=name))
    env = environment(desk.settings) | {"TEST_ASSETSTREAM_FAULT": point}
    command = [sys.executable, "-m", "assetstream.cli.main", "reconciler", "--metrics-port", "0"]
    killed = subprocess.run(command, env=env, cwd=desk.folder, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    break_id = of("MISSING_TRADE", name).replace("*", name)
    with reconciling(desk.settings):
        desk.wait(before | {break_id: ("OPEN", 1, f"statement {name} version 1")})
        wait_until(lambda: desk.running.lag() == 0, "it to take everything", 60)
    assert desk.recorded().keys() - before.keys() == {break_id}


def test_without_a_worker_nothing_is_judged(desk: Desk) -> None:
    """Nothing is a break because a row is on its way: the command says what it waits for, and exits with 1."""
    desk.running.end()
    desk.trades(trade("late"))
    path = Path(desk.folder / "late.json")
    path.write_text(json.dumps(statement(trade("late"), statement_id="s-4")))
    result = desk.command("reconcile", str(path), "--dry-run", "--patience", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"waited 1 s in vain for {desk.settings.group('agents')} to take {PREFIX}trades-")

    def give_up(what: str) -> None:
        raise TimeoutError(what)

    with pytest.raises(TimeoutError, match="trades"):
        complete_cut(desk.settings, give_up)
