"""More partitions for an installation that has worked: state, order and every figure go on as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewPartitions

from assetstream.cli.init import init_all
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message, market
from assetstream.streams.settings import Settings
from assetstream.streams.topics import specs
from tests.integration.pipeline import (
    Check,
    Pipeline,
    environment,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    run,
    wait_until,
)
from tests.integration.test_pipeline import moves

OLD, NEW = 4, 8
MESSAGES, USERS, SYMBOLS, SEED, BAD = 30_000, 40, 12, 20260303, 0.02
#: where the command is killed, one run after the other, each going on where the one before was killed
POINTS = (
    "repartition.restored",
    "repartition.topic:1",
    "repartition.raised",
    "repartition.produced",
    "repartition.written",
    "repartition.topic:5",
    "repartition.done",
)


def repartition(
    settings: Settings, folder: Path, partitions: int = NEW, fault: str | None = None
) -> subprocess.CompletedProcess[str]:
    """`assetstream repartition`, killed at a fault point."""
    env = environment(settings) | ({"TEST_ASSETSTREAM_FAULT": fault} if fault else {})
    command = [sys.executable, "-m", "assetstream.cli.main", "repartition", str(partitions)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400)


def one_by_one(running: Pipeline, prices: Iterable[Message]) -> None:
    """Publish prices, each when all workers have taken the one before."""
    for message in prices:
        taken, ignored = running.marks_taken(), running.reference.counts["prices", "ignored"]
        running.publish([message])
        running.settle(sinks=False)
        running.feed()
        if running.reference.counts["prices", "ignored"] == ignored:
            wait_until(
                lambda taken=taken: all(n > taken[name] for name, n in running.marks_taken().items()),
                "all workers to take a mark",
                pause=0.02,
            )
    time.sleep(1.5)  # updates that only marks caused come within MARK_UPDATE_MS
    running.settle()


def test_half_a_market_before_and_half_after(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = stack.settings(topic_prefix="grown.", clickhouse_database="grown", partitions=OLD)
    settings = settings.model_copy(update={"snapshot_s": 1.0})
    parts = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)
    with pipeline(settings, tmp_path, "one", "two") as running:
        running.work_through(parts[:3])
        one_by_one(running, moves(running.reference)[:9])

        refused = repartition(settings, tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("group grown.assetstream-agents has members: stop all workers"), refused.stderr

        for worker in running.workers:
            assert worker.terminate()[0] == 0
        for point in POINTS:
            killed = repartition(settings, tmp_path, fault=point)
            assert killed.returncode == -9, (point, killed.stdout, killed.stderr)
            if point in ("repartition.raised", "repartition.written"):
                for partitions in (OLD, NEW):
                    half = settings.model_copy(update={"partitions": partitions})
                    refused = run(half, tmp_path, "worker", "--metrics-port", "0")
                    assert refused.returncode == 1
                    assert f"partitions, should have {partitions}" in refused.stderr, refused.stderr
        done = repartition(settings, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(f"done: set ASSETSTREAM_PARTITIONS={NEW}")
        assert run(settings, tmp_path, "worker", "--metrics-port", "0").returncode == 1

        running.repartitioned(NEW)
        running.start("one", "two")
        seen = running.reference.counts["trades", "duplicate"]
        again = [message for message in parts[2] if message[0] in ("trades", "transactions")][:2000]
        running.work_through([again, *parts[3:]])
        assert running.reference.counts["trades", "duplicate"] > seen + 1000
        before = len(running.reference.alerts)
        one_by_one(running, moves(running.reference))
        caused = running.reference.alerts[before:]
        # of a symbol whose prices go on in another partition, where their offsets are below those of before
        assert any(alert["cause"]["partition"] >= OLD for alert in caused)
        Check(running).everything()
        outputs = running.read("risk_alerts", "portfolio_updates")
        assert {r.partition for r in outputs if r.partition >= OLD} == set(range(OLD, NEW))


def test_what_is_refused(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = stack.settings(topic_prefix="refused.", clickhouse_database="refused", partitions=2)
    for wrong in (1, 2, 3, 5):
        refused = repartition(settings, tmp_path, wrong)
        assert refused.returncode == 2, refused
        assert "not a multiple of ASSETSTREAM_PARTITIONS=2; the next is 4" in refused.stderr
    missing = repartition(settings, tmp_path, 4)
    assert missing.returncode == 1
    assert "topic refused.trades is missing" in missing.stderr
    installation = Pipeline(settings, tmp_path)
    installation.publish([("trades", b"someone", b"{}")])
    behind = repartition(settings, tmp_path, 4)
    assert behind.returncode == 1
    assert "1 records of refused.trades-" in behind.stderr
    assert "are not taken yet: stop the publishers, and have a worker take them" in behind.stderr


def test_topics_raised_by_hand(stack: EmbeddedStack, tmp_path: Path) -> None:
    """Then users would be looked for where they are not: no worker starts, and the command sets it right."""
    settings = stack.settings(topic_prefix="hand.", clickhouse_database="hand", partitions=2)
    parts = phases(market(10, SYMBOLS, SEED, bad=BAD), 3000)
    with pipeline(settings, tmp_path, "one") as running:
        running.work_through(parts[:3])
        time.sleep(1.5)
        assert running.workers[0].terminate()[0] == 0
        admin = AdminClient(settings.kafka())
        for future in admin.create_partitions([NewPartitions(spec.name, 4) for spec in specs(settings)]).values():
            future.result()
        raised = settings.model_copy(update={"partitions": 4})
        init_all(raised)
        refused = run(raised, tmp_path, "worker", "--only", "agents", "--metrics-port", "0", timeout=300)
        assert refused.returncode == 1
        assert "holds the state of one of 2 partitions, ASSETSTREAM_PARTITIONS is 4" in refused.stderr
        assert "run `assetstream repartition 4` with it set to 2" in refused.stderr
        mended = repartition(settings, tmp_path, 4)
        assert mended.returncode == 0, mended.stderr
        running.repartitioned(4)
        running.start("one")
        running.work_through(parts[3:])
        Check(running).everything()
