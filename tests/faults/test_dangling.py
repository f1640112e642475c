"""Workers that die at each named step: inside a transaction, around it, while restoring, writing a snapshot, inserting.

And how long it takes until alerts flow again: those of the others' users never stop; the dead worker's own wait for its
session to time out, its successor to abort what it left open, and a restore.
"""

from __future__ import annotations

import json
import re
import signal
import time
from itertools import islice
from pathlib import Path

import pytest

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message, market
from assetstream.streams import faults
from tests.faults.load import SEED, while_publishing
from tests.integration.pipeline import (
    Check,
    Pipeline,
    WorkerProcess,
    logs_on_failure,  # noqa: F401
    partition_of,
    pipeline,
    wait_until,
)

USERS, SYMBOLS, BAD, MESSAGES, RATE = 20, 10, 0.01, 2_000, 300
SESSION_S = 6
#: steps that a worker under load comes to, and how often it passes them before it dies there
STEPS = [point for point in faults.POINTS if not point.startswith(("repartition", "reconciler"))]


def start_to_die(
    running: Pipeline, name: str, point: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> WorkerProcess:
    """Start a worker that dies when it comes to `point` for the `times`-th time."""
    monkeypatch.setenv("TEST_ASSETSTREAM_FAULT", f"{point}:{times}")
    (doomed,) = running.start(name, ready=False)
    monkeypatch.delenv("TEST_ASSETSTREAM_FAULT")
    return doomed


def test_a_worker_dies_at_every_step(stack: EmbeddedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker lives, two others die under load, each at a step; then they are started anew, for the next steps."""
    settings = stack.settings(
        topic_prefix="steps.", clickhouse_database="steps", session_timeout_s=SESSION_S, snapshot_s=0.5
    )
    stream = market(USERS, SYMBOLS, SEED, bad=BAD)
    with pipeline(settings, tmp_path, "one") as running:
        running.publish(islice(stream, MESSAGES))  # something to restore

        def harm() -> None:
            for i in range(0, len(STEPS), 2):
                dying = {
                    point: start_to_die(running, name, point, 1 + (SEED + j) % 2, monkeypatch)
                    for j, (name, point) in enumerate(zip(("two", "three"), STEPS[i : i + 2], strict=False), i)
                }
                for point, worker in dying.items():
                    wait_until(lambda w=worker: w.process.poll() is not None, f"the other's death at {point}", 90)
                    assert worker.process.poll() == -signal.SIGKILL, f"{point}: {worker.tail()}"
                    running.workers.remove(worker)

        while_publishing(running, stream, RATE, harm, rest=False)
        for worker in running.workers:
            worker.wait_ready()
        time.sleep(1.5)  # updates that only marks caused come within MARK_UPDATE_MS
        running.settle()
        Check(running).racing()


def alarm(user: str, level: int) -> list[Message]:
    """A trade that moves one alert of this user's portfolio up (odd levels) or back down (even)."""
    side = "BUY" if level % 2 else "SELL"
    trade = {
        "trade_id": f"{user}-{level}",
        "user_id": user,
        "portfolio_id": "p",
        "wallet_id": "w",
        "symbol": "ACME",
        "currency": "USD",
        "side": side,
        "quantity": "100",
        "price": "10",
        "executed_at": "2026-03-02T09:00:00Z",
    }
    return [("trades", user.encode(), json.dumps(trade).encode())]


def limit(user: str) -> Message:
    body = {
        "user_id": user,
        "portfolio_id": "p",
        "version": 1,
        "updated_at": "2026-03-02T08:00:00Z",
        "max_portfolio_value": "900",
    }
    return ("risk_limits", user.encode(), json.dumps(body).encode())


def test_alerts_flow_again_after_a_death_inside_a_transaction(
    stack: EmbeddedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = stack.settings(topic_prefix="soon.", clickhouse_database="soon", session_timeout_s=SESSION_S)
    users = [next(f"u{i}" for i in range(1000) if partition_of(f"u{i}".encode(), 8) == p) for p in range(8)]
    with pipeline(settings, tmp_path, "one") as running:
        (one,) = running.workers
        running.publish([limit(user) for user in users])
        running.settle()
        # the other one dies in its tenth transaction, when all of it is written but the end
        two = start_to_die(running, "two", "checkpoint.offsets", 10, monkeypatch)
        wait_until(lambda: one.metric("ready_partitions") == 4, "both to share the partitions")
        (shared,) = re.findall(r"assigned epoch=4 partitions=\[(.*)\]", one.log.read_text())
        kept = {int(number) for number in shared.split(", ")}
        level = 0
        while two.process.poll() is None:
            level += 1
            running.publish([message for user in users for message in alarm(user, level)])
            time.sleep(0.3)
        died = time.monotonic()
        running.workers.remove(two)
        first: dict[str, float] = {}
        for _ in range(300):
            level += 1
            running.publish([message for user in users for message in alarm(user, level)])
            time.sleep(0.2)
            for user in seen(running, {f"{user}-{level}" for user in users}):
                first.setdefault(user, time.monotonic() - died)
            if len(first) == len(users):
                break
        assert len(first) == len(users)
        others, own = ([round(first[users[p]], 1) for p in ps] for ps in (kept, {*range(8)} - kept))
        print(f"alerts of others' users after {others} s, of the dead worker's own after {own} s")
        assert max(others) < min(own)  # the others' partitions never noticed
        running.settle()
        assert "aborted what a worker before us left open" in one.log.read_text()


def seen(running: Pipeline, trades: set[str]) -> set[str]:
    """Users whose alert caused by one of these trades a read_committed reader can read."""
    places = {(r.partition, r.offset): r.json for r in running.read("trades") if r.json["trade_id"] in trades}
    found = set()
    for record in running.read("risk_alerts"):
        cause = record.json["cause"]
        trade = places.get((cause["partition"], cause["offset"]))
        if trade is not None and cause["topic"].endswith("trades"):
            found.add(trade["user_id"])
    return found
