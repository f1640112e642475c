"""Messages that break a kernel, in a real pipeline: they halt their own partition and are skipped on the record. Dead
letters are replayed. TEST_ASSETSTREAM_POISON makes a kernel break on any record that holds that text.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from assetstream.cli.lag import lags
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message, market
from assetstream.models.reference import Rejected, Source
from assetstream.streams import operations
from assetstream.streams.settings import Settings
from tests.integration.pipeline import (
    Check,
    Pipeline,
    logs_on_failure,  # noqa: F401
    partition_of,
    phases,
    pipeline,
    run,
    wait_until,
)

USERS, SYMBOLS, SEED, MESSAGES = 30, 10, 21, 4_000
POISON = "arsenic"


def settings_of(stack: EmbeddedStack, name: str, **more: object) -> Settings:
    return stack.settings(topic_prefix=f"{name}.", clickhouse_database=name, **more)


def poisoned(messages: list[Message], at: int) -> tuple[list[Message], Message]:
    """The phase with a copy of its `at`-th trade, under an id of its own, that breaks the kernel, right before that."""
    trades = [i for i, message in enumerate(messages) if message[0] == "trades" and message[2].startswith(b"{")]
    i = trades[at]
    topic, key, value = messages[i]
    body = json.loads(value) | {"trade_id": "poisonous", "order_id": POISON}
    bad = (topic, key, json.dumps(body).encode())
    return [*messages[:i], bad, *messages[i:]], bad


def where(running: Pipeline, message: Message) -> tuple[int, int]:
    """Partition and offset of a published message."""
    (found,) = [record for record in running.read(message[0]) if record.value == message[2]]
    return found.partition, found.offset


def feed_without(running: Pipeline, partition: int, offset: int) -> None:
    """Feed the reference, for which the skipped trade is a dead letter and changes nothing."""
    reference, feed = running.reference, running.reference.feed

    def without(topic: str, p: int, o: int, at: int, key: bytes | None, value: bytes | None, mark: bool) -> str:
        if (topic, p, o) != ("trades", partition, offset):
            return feed(topic, p, o, at, key, value, mark)
        reference._bury(Source(topic, p, o), key, value, Rejected("skipped", ""))
        return "skipped"

    reference.feed = without  # type: ignore[method-assign]
    running.feed()


def test_a_poisonous_trade_halts_its_partition_alone_until_it_is_skipped(
    stack: EmbeddedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ASSETSTREAM_POISON", POISON)
    limits, prices, trades, more_limits, more_trades = phases(market(USERS, SYMBOLS, SEED, bad=0.01), MESSAGES)
    trades, bad = poisoned(trades, 200)
    number = partition_of(bad[1] or b"", 8)
    with pipeline(settings_of(stack, "poison"), tmp_path, "one", "two") as running:
        for phase in (limits, prices):
            running.publish(phase)
            running.settle()
            running.feed()
        running.publish(trades)
        partition, offset = where(running, bad)
        assert partition == number
        wait_until(lambda: paused(running) == {("trades", number)}, "the partition to halt")
        (ill,) = [worker for worker in running.workers if not worker.is_ready]
        assert f"trades-{number} stands before offset {offset}" in ill.get("/readyz")[1]
        log = ill.log.read_text()
        assert re.search(rf"a kernel broke.*offset={offset}.*partition={number}.*topic=trades", log)

        def others_are_done() -> bool:
            return all(v == 0 for k, v in behind(running).items() if k != ("poison.trades", number))

        wait_until(others_are_done, "all other partitions to go on")
        assert behind(running)["poison.trades", number] > 0

        # whoever gets the partition halts there too, and nobody else does
        ill.kill()
        running.workers.remove(ill)
        (other,) = running.workers
        wait_until(lambda: paused(running) == {("trades", number)}, "the other to halt there too")
        assert not other.is_ready
        running.start(ill.name, ready=False)
        wait_until(lambda: len(running.workers) == 2 and all(alive(w) for w in running.workers), "both to be alive")

        assert "waits for the message at offset" in skip(running, number, offset + 1, 1)
        done = skip(running, number, offset, 0)
        assert f"skipped: it is dead letter poison.trades-{number}-{offset}" in done
        assert "is at offset" in skip(running, number, offset, 1)
        running.settle()
        (deed,) = operations.read(running.settings).values()
        assert {k: deed[k] for k in ("action", "topic", "partition", "offset", "reason")} == {
            "action": "skip",
            "topic": "trades",
            "partition": number,
            "offset": offset,
            "reason": "a test",
        }
        feed_without(running, number, offset)
        for phase in (more_limits, more_trades):
            running.publish(phase)
            running.settle()
            running.feed()
        wait_until(lambda: all(worker.is_ready for worker in running.workers), "both to be ready again")
        assert paused(running) == set()
        Check(running).everything()


def paused(running: Pipeline) -> set[tuple[str, int]]:
    """(topic, partition) that some worker says it is halted in."""
    found = set()
    for worker in running.workers:
        for labels, value in worker.samples("paused_partitions").items() if alive(worker) else ():
            if value:
                found.add((dict(labels)["topic"], int(dict(labels)["partition"])))
    return found


def alive(worker: object) -> bool:
    return worker.get("/healthz")[0] == 200  # type: ignore[attr-defined,no-any-return]


def behind(running: Pipeline) -> dict[tuple[str, int], int]:
    """What the agents have still to read, by topic and partition."""
    group = running.settings.group("agents")
    return {(row.topic, row.partition): row.lag for row in lags(running.settings) if row.group == group}


def skip(running: Pipeline, partition: int, offset: int, code: int) -> str:
    """Run `assetstream skip`; -> what it said."""
    arguments = ("skip", "trades", str(partition), str(offset), "--reason", "a test")
    ended = run(running.settings, running.folder, *arguments)
    assert ended.returncode == code, ended
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


def test_dead_letters_are_replayed_once_unchanged_or_repaired(stack: EmbeddedStack, tmp_path: Path) -> None:
    with pipeline(settings_of(stack, "replayed"), tmp_path, "one") as running:
        stamp = {
            "portfolio_id": "p",
            "wallet_id": "w",
            "symbol": "ACME",
            "currency": "USD",
            "side": "BUY",
            "quantity": "1",
        }
        times = {"executed_at": "2026-03-02T09:00:00Z"}
        good = {"trade_id": "1", "user_id": "u", **stamp, **times, "price": "1.10"}
        wrong = {**good, "trade_id": "2", "price": 0, "fee": 0.1000000000000000055511151231257827}
        foreign = {**good, "trade_id": "3", "currency": "EUR"}
        messages = [("trades", b"u", json.dumps(each).encode()) for each in (good, wrong, foreign)]
        running.publish(messages)
        running.settle()
        letters = {letter["reason"]: letter for letter in exported(running, "--all")}
        assert letters.keys() == {"invalid", "currency_mismatch"}
        assert letters["invalid"]["value"] == wrong
        assert letters["invalid"]["key"] == "u"
        assert said(running, "--all", "--dry-run") == {"letters": 2, "published": 2, "before": 0}

        # unchanged: rejected again, as a new dead letter, which is not replayed for ever
        assert said(running, "--reason", "currency_mismatch") == {"letters": 1, "published": 1, "before": 0}
        running.settle()
        assert len(exported(running, "--reason", "currency_mismatch")) == 2
        twice = ("--reason", "currency_mismatch", "--topic", "trades")
        assert said(running, *twice) == {"letters": 2, "published": 0, "before": 2}
        assert said(running, *twice, "--again") == {"letters": 2, "published": 1, "before": 1}

        # repaired: exactly the digits of the file
        repaired = tmp_path / "repaired.jsonl"
        line = exported(running, "--reason", "invalid", raw=True)[0]
        repaired.write_text(line.replace('"price": 0', '"price": 2.300000000000000001'))
        assert said(running, "--repaired", str(repaired)) == {"letters": 1, "published": 1, "before": 0}
        assert said(running, "--repaired", str(repaired)) == {"letters": 1, "published": 0, "before": 1}
        running.settle()
        with Check(running).client() as client:
            rows = client.query("SELECT trade_id, price FROM replayed.fills ORDER BY trade_id").result_rows
        assert [(trade, str(price)) for trade, price in rows] == [
            ("1", "1.100000000000000000"),
            ("2", "2.300000000000000001"),
        ]
        assert "no dead letter nope" in refused(running, tmp_path, '{"dead_letter_id": "nope", "value": {}}')
        assert 'needs "dead_letter_id"' in refused(running, tmp_path, "{}")
        assert replay(running, "--reason", "nonsense").returncode == 2


def replay(running: Pipeline, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(running.settings, running.folder, "replay-dead-letters", *arguments)


def said(running: Pipeline, *arguments: str) -> dict[str, int]:
    ended = replay(running, *arguments, "--json")
    assert ended.returncode == 0, ended
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


def exported(running: Pipeline, *arguments: str, raw: bool = False) -> list:
    ended = replay(running, *arguments, "--export")
    assert ended.returncode == 0, ended
    lines = ended.stdout.splitlines()
    return lines if raw else [json.loads(line) for line in lines]


def refused(running: Pipeline, folder: Path, line: str) -> str:
    (folder / "refused.jsonl").write_text(line)
    ended = replay(running, "--repaired", str(folder / "refused.jsonl"))
    assert ended.returncode == 1, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_too_many_dead_letters_stop_the_worker_when_asked(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = settings_of(stack, "excess", dead_letter_run=20, dead_letter_stop=True)
    with pipeline(settings, tmp_path, "one") as running:
        (worker,) = running.workers
        running.publish([("trades", b"u", b"nonsense")] * 30)
        wait_until(lambda: worker.process.poll() is not None, "the worker to stop")
        assert worker.process.poll() == 1
        assert "too many dead letters on trades" in worker.tail(3)
        letters = [record.json["offset"] for record in running.read("dead_letters")]
        assert len(letters) == len(set(letters)) >= 20  # what it rejected is committed, once
