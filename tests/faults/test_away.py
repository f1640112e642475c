"""Kafka and ClickHouse stand still or die for longer than any of our deadlines: nobody restarts anything, and all of it
is exact afterwards. Memory stays bounded, and the log says when it began and when it was over."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from assetstream.models.market import market
from tests.faults.load import SEED, Servers, kill, own_servers, process, resident, said, while_publishing
from tests.integration.pipeline import (
    Check,
    Pipeline,
    WorkerProcess,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    rows,
    wait_until,
)

USERS, SYMBOLS, BAD = 20, 10, 0.01
MESSAGES, RATE = 16_000, 150
#: longer than a session (6 s), than leaving the group (8 s), a transaction (10 s) and a request (12 s)
AWAY_S = 26
#: lines that a worker may log for one outage of one server: its beginning and end, a failed checkpoint, what follows
LINES = 10
#: what a sink may grow by while it can't insert: what waits (32 MiB), what was fetched, and what Python makes of it
BACKLOG_MIB = 100
#: what agents may have grown by after a burst: a checkpoint of rejected messages, and what malloc keeps of it
BURST_MIB = 1_200


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(tmp_path_factory.mktemp("away")) as running:
        yield running


def total(running: Pipeline, metric: str) -> float:
    return sum(worker.metric(metric) for worker in running.workers)


def test_clickhouse_stands_still(servers: Servers, tmp_path: Path) -> None:
    """Alerts flow on, ready and at full speed; rows wait; a worker that starts meanwhile knows how long already."""
    *before, last = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)
    with pipeline(servers.settings("frozen"), tmp_path, "one") as running:
        for phase in before:
            running.publish(phase)
            running.settle()
            running.feed()
        (one,) = running.workers
        wait_until(lambda: one.metric("analytics_delay_seconds") == 0, "all rows to be in")

        def freeze() -> None:
            process(servers.clickhouse).signal(signal.SIGSTOP)
            began = time.monotonic()
            (two,) = running.start("two")
            while time.monotonic() < began + AWAY_S:
                time.sleep(1)
                assert running.lag(sinks=False) < 5 * RATE  # what came in the last few seconds
            assert all(worker.is_ready for worker in running.workers)
            wait_until(lambda: total(running, "clickhouse_unreachable") == 2, "both to notice", 60)
            for worker in (one, two):
                wait_until(lambda w=worker: w.metric("analytics_delay_seconds") > AWAY_S / 2, "the delay to show", 60)
            process(servers.clickhouse).signal(signal.SIGCONT)

        while_publishing(running, last, RATE, freeze)
        wait_until(lambda: total(running, "analytics_delay_seconds") == 0, "all rows to be in")
        assert total(running, "clickhouse_unreachable") == 0
        Check(running).everything()
        assert len(said(running, "ClickHouse does not answer")) == 2  # each worker once
        assert len(said(running, "ClickHouse answers again")) == 2
        assert len(said(running, "warning|error")) < 2 * LINES


def test_kafka_is_away(servers: Servers, tmp_path: Path) -> None:
    """It stands still; then it is killed together with ClickHouse."""
    *before, last = phases(market(USERS, SYMBOLS, SEED + 1, bad=BAD), MESSAGES)
    with pipeline(servers.settings("away"), tmp_path, "one", "two") as running:
        for phase in before:
            running.publish(phase)
            running.settle()
            running.feed()
        pids = [worker.process.pid for worker in running.workers]

        def stays_away(seconds: float) -> None:
            time.sleep(seconds)
            assert total(running, "broker_unreachable") == 2
            assert all(worker.get("/healthz")[0] == 200 for worker in running.workers)

        def heals() -> None:
            wait_until(lambda: total(running, "broker_unreachable") == 0, "the metric to say so")
            wait_until(lambda: all(worker.is_ready for worker in running.workers), "the workers to heal")

        def take_away() -> None:
            time.sleep(1)
            process(servers.kafka).signal(signal.SIGSTOP)
            stays_away(AWAY_S)
            process(servers.kafka).signal(signal.SIGCONT)
            heals()
            time.sleep(2)
            kill(servers.kafka)
            kill(servers.clickhouse)
            stays_away(AWAY_S / 2)
            servers.start()
            heals()

        while_publishing(running, last, RATE, take_away)
        heals()
        Check(running).everything()
        assert [worker.process.pid for worker in running.workers] == pids
        # each worker twice; a busy machine may let one take its first answer for the end of it too soon
        assert 4 <= len(said(running, "Kafka does not answer")) == len(said(running, "Kafka answers again")) <= 6
        assert len(said(running, "warning|error|rdkafka")) < 4 * LINES


def test_memory_is_bounded_while_clickhouse_is_away(servers: Servers, tmp_path: Path) -> None:
    """Rows that nobody takes wait in Kafka, not in the sink. Agents and sinks apart: state may grow, a backlog not."""
    settings = servers.settings("bounded", data_dir=tmp_path / "data")
    with pipeline(settings, tmp_path) as running:
        running.workers = [WorkerProcess(settings, tmp_path, part, "--only", part) for part in ("agents", "sinks")]
        agents, sinks = (worker.wait_ready() for worker in running.workers)
        stream = market(200, 50, SEED)
        running.publish(islice(stream, 5_000))
        running.settle()
        kill(servers.clickhouse)
        before = resident(agents), resident(sinks)
        large = [("trades", b"u%d" % i, b"{" * 500_000) for i in range(300)]  # whole in their dead letters, in base64
        for _ in range(3):
            running.publish(islice(stream, 20_000))
            running.publish(large)
            running.settle(sinks=False)
            grown = resident(agents) - before[0], resident(sinks) - before[1]
            print("MiB in the log, and more in agents and sinks:", logged(servers, "bounded.analytics"), *grown)
            assert grown[0] < BURST_MIB
            assert grown[1] < BACKLOG_MIB
        assert logged(servers, "bounded.analytics") > 2 * BACKLOG_MIB
        servers.start()
        running.settle()
        print("most that agents and sinks had:", resident(agents, "VmHWM"), resident(sinks, "VmHWM"))
        applied = agents.metric("messages_total", topic="trades", result="applied")
        with Check(running).client() as client:
            (row,) = rows(client, "SELECT count() AS n, uniqExact(user_id, trade_id) AS ids FROM bounded.fills")
        assert row == {"n": applied, "ids": applied}


def logged(servers: Servers, topic: str) -> int:
    """MiB of a topic on the broker's disk."""
    segments = servers.kafka.folder.glob(f"data/{topic}-*/*.log")
    return sum(segment.stat().st_size for segment in segments) >> 20
