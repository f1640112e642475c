"""The sinks' positions: set by hand, deleted or expired they say nothing about what is in ClickHouse. A sink then stops
and touches nothing; and ClickHouse can be made anew, with every row once, as docs/operations.md says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import market
from assetstream.sinks.schema import TABLES
from assetstream.streams.admin import Admin
from assetstream.streams.connection import Connection
from tests.faults.load import SEED
from tests.faults.test_lost import (
    BAD,
    MESSAGES,
    PARTITIONS,
    SYMBOLS,
    USERS,
    explains,
    installation,
    process,
    reset,
    stop,
)
from tests.integration.pipeline import (
    READY_S,
    SETTLE_S,
    Check,
    Pipeline,
    WorkerProcess,
    logs_on_failure,  # noqa: F401
    phases,
    run,
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("positions")) as running:
        yield running


def sinks(running: Pipeline) -> WorkerProcess:
    return WorkerProcess(running.settings, running.folder, "sinks", "--only", "sinks")


def refused(running: Pipeline) -> str:
    """What a sink says that ends with exit code 1: its last line."""
    before = counts(running)
    sink = sinks(running)
    assert sink.process.wait(READY_S) == 1, sink.tail()
    said = sink.tail(1)
    assert "Traceback" not in sink.log.read_text()
    assert explains(said)
    assert counts(running) == before
    return said


def counts(running: Pipeline) -> dict[str, int]:
    """Rows by table."""
    with Check(running).client() as client:
        database = running.settings.clickhouse_database
        return {name: client.query(f"SELECT count() FROM {database}.{name}").first_row[0] for name in TABLES}


def positions(running: Pipeline) -> dict[int, tuple[int, str]]:
    """Of the sinks' group: offset and metadata by partition."""
    places = [(running.settings.topic("analytics"), number) for number in range(running.settings.partitions)]

    async def ask() -> dict[tuple[str, int], tuple[int, str]]:
        connection = Connection(running.settings)
        try:
            return await connection.committed(running.settings.group("sinks"), places, decided=True)
        finally:
            await connection.close()

    return {number: (offset, of.rstrip("\0")) for (_, number), (offset, of) in asyncio.run(ask()).items()}


def forget(running: Pipeline) -> None:
    """As `kafka-consumer-groups --delete` does, and as if they had expired."""
    admin = AdminClient(running.settings.kafka())
    (done,) = admin.delete_consumer_groups([running.settings.group("sinks")], request_timeout=30).values()
    done.result()


def command(running: Pipeline, *arguments: str) -> tuple[int, str]:
    """Exit code of `assetstream …`, and what it said."""
    done = run(running.settings, running.folder, *arguments)
    return done.returncode, done.stdout + done.stderr


def test_positions_that_are_not_ours_stop_the_sink(stack: EmbeddedStack, tmp_path: Path) -> None:
    """Set back and set forward by hand, deleted, and then made anew as the documents say: every row is there once."""
    with installation(stack, "hand", tmp_path) as (running, later):
        group = running.settings.group("sinks")
        for offset, metadata in positions(running).values():
            assert metadata == f'{{"to": {offset - 1}}}'
        rows = counts(running)
        assert rows["fills"] == len(running.reference.fills) > 0
        for to in ("earliest", "latest"):
            reset(running, "sinks", "analytics", to)
            said = refused(running)
            assert f"group {group} in hand.analytics-" in said
            assert "set by somebody else (metadata '')" in said
        forget(running)
        assert "has no position below the log's end at " in refused(running)
        assert command(running, "init")[0] == 0  # there are rows: it knows no more than the sinks
        assert "has no position below the log's end at " in refused(running)

        code, said = command(running, "init", "--refill")
        assert code == 1
        assert said.startswith("ClickHouse database hand has rows, which would be inserted again: drop it first")
        assert command(running, "sql", "DROP DATABASE hand SYNC")[0] == 0
        sink = sinks(running)  # it refuses the database, not the positions
        assert sink.process.wait(READY_S) == 1
        assert "run `assetstream init`" in sink.tail(1)
        code, said = command(running, "init", "--refill")
        assert code == 0, said
        assert f"sinks begin at the start of {PARTITIONS} of {PARTITIONS} partitions of analytics" in said.splitlines()
        assert sum(counts(running).values()) == 0
        assert positions(running) == dict.fromkeys(range(PARTITIONS), (0, '{"to": -1}'))

        sink = sinks(running).wait_ready()
        running.settle()
        assert counts(running) == rows
        code, said = command(running, "init", "--refill")
        assert code == 1
        assert "has rows" in said
        running.start("one")
        process(running, later)
        Check(running).everything()
        assert command(running, "init")[0] == 0
        assert sink.terminate()[0] == 0
        stop(running)


def test_a_new_database_beside_the_old_one(stack: EmbeddedStack, tmp_path: Path) -> None:
    """Is filled when asked for, while no sink works; what is no longer in the log is told of."""
    with installation(stack, "beside", tmp_path) as (running, _):
        old = counts(running)
        running.settings = running.settings.model_copy(update={"clickhouse_database": "beside2"})
        code, said = command(running, "init")
        assert code == 0
        assert "ClickHouse is empty, and sinks go on beyond the start of analytics" in said
        (worker,) = running.start("one")
        code, said = command(running, "init", "--refill")
        assert code == 1
        assert said.startswith(f"group {running.settings.group('sinks')} has members: stop all workers")
        stop(running)
        assert worker.process.returncode == 0
        admin, topic = Admin(running.settings), running.settings.topic("analytics")
        admin.results(admin.client.delete_records([TopicPartition(topic, 0, 1)]))
        code, said = command(running, "init", "--refill")
        assert code == 0
        assert f"rows of before are no longer in the log: {topic}-0 begins at offset 1" in said
        running.start("one")
        running.settle(SETTLE_S)
        found = counts(running)
        assert sum(old.values()) > sum(found.values()) > 0  # the first record of a partition is missing, and no other
        stop(running)


def test_agents_first_and_sinks_later(stack: EmbeddedStack, tmp_path: Path) -> None:
    """What was published before the first sink came is inserted, also when the first positions expired meanwhile."""
    settings = stack.settings(topic_prefix="first.", clickhouse_database="first", partitions=PARTITIONS)
    running = Pipeline(settings, tmp_path)
    agents = WorkerProcess(settings, tmp_path, "agents", "--only", "agents")
    sink = None
    try:
        agents.wait_ready()
        for phase in phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)[:3]:
            running.publish(phase)
            running.settle(sinks=False)
            running.feed()
        forget(running)
        assert "has no position below the log's end at " in refused(running)
        code, said = command(running, "init")
        assert code == 0
        assert said.splitlines() == [
            f"sinks begin at the start of {PARTITIONS} of {PARTITIONS} partitions of analytics"
        ]
        sink = sinks(running).wait_ready()
        running.settle()
        Check(running).everything()
    finally:
        for each in (agents, sink):
            if each is not None:
                each.end()
