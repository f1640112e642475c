"""What grows and what must not: the changelog, the memory of ids, and the time of those who have a busy neighbour."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from assetstream.cli.benchmarks import load
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message
from assetstream.models.rows import DUE, SETTLEMENT
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings
from assetstream.tables.store import SWEEP_FACTOR, SWEEP_SLACK
from tests.integration.pipeline import (
    Pipeline,
    WorkerProcess,
    logs_on_failure,  # noqa: F401
    pipeline,
    wait_until,
)

IDS = 2_000


def trades(first: int, n: int, users: int, symbols: int) -> Iterator[Message]:
    """Trades from number `first` on, users and symbols in turn."""
    for i in range(first, first + n):
        yield "trades", *load.trade(i, i % users, i // users % symbols, 10 if i % 3 else -15, 9_000 + i % 1_000)


def begins_at(settings: Settings) -> int:
    """The first offset of the account changelog (of one partition) that is still there."""
    tp = TopicPartition(settings.topic("account_changelog"), 0)
    admin = AdminClient(settings.kafka())
    return int(admin.list_offsets({tp: OffsetSpec.earliest()})[tp].result().offset)


def rows_of(worker: WorkerProcess) -> dict[str, int]:
    return {dict(labels)["table"]: int(rows) for labels, rows in worker.samples("state_rows").items()}


def test_the_log_and_the_ids_stay_bounded_however_long_it_runs(stack: EmbeddedStack, tmp_path: Path) -> None:
    """Three times the history: the log is no longer, a restore without a snapshot reads no more, ids are forgotten."""
    users, symbols, each = 500, 4, 60_000
    settings = stack.settings(topic_prefix="long.", clickhouse_database="long", partitions=1, id_memory=IDS)
    # 128 bytes a position, 300 a portfolio, 56 a balance, at most
    state = users * symbols * 128 + users * 400 + IDS * 24 + users * (symbols + 2) * 56
    began, restored = [0], [0.0]
    with pipeline(settings, tmp_path, "one") as running:
        for i in range(3):
            running.publish(trades(i * each, each, users, symbols), rate=10_000)
            running.settle(sinks=False)
            wait_until(lambda: rows_of(running.workers[0])["trade_ids"] == IDS, "the gauges")
            rows = rows_of(running.workers[0])
            assert rows["positions"] == users * symbols
            # what settled leaves its rows to others: there are as many as ever waited between two ticks
            assert rows["agenda"] < each / 2
            waiting = rows["agenda"] * (SETTLEMENT.itemsize + DUE.itemsize)
            bound = 5 * SWEEP_FACTOR * (state + waiting) / 2 + SWEEP_SLACK + (1 << 20)
            assert running.workers[0].terminate()[0] == 0
            began.append(begins_at(settings))
            records = running.read("account_changelog", start={("account_changelog", 0): began[-1]})
            assert sum(len(r.value or b"") for r in records) < bound
            shutil.rmtree(tmp_path / "data-one" / "state")
            (again,) = running.start("one")
            restored.append(again.metric("restored_rows_total"))
    assert began[0] < began[1] < began[2] < began[3], "nothing was deleted"
    assert max(restored) < bound / 28  # the smallest row is an id, with its number


@pytest.mark.parametrize("workers", [("alone",)])
def test_a_busy_neighbour_starves_nobody(stack: EmbeddedStack, tmp_path: Path, workers: tuple[str, ...]) -> None:
    """A hundred times as much for one partition: the other's are all out while that still has work to do."""
    name = f"busy-{len(workers)}"
    settings = stack.settings(topic_prefix=f"{name}.", clickhouse_database=name.replace("-", "_"), partitions=2)
    busy, quiet = (next(k for k in range(99) if partition_of(b"u%d" % k, 2) == home) for home in (0, 1))
    with pipeline(settings, tmp_path) as running:
        # all of it lies there before anybody can take it
        load.publish(settings, "trades", (load.trade(i, busy, i % 50, 10, 9_000) for i in range(400_000)), 400_000)
        load.publish(settings, "trades", (load.trade(i, quiet, i % 50, 10, 9_000) for i in range(4_000)), 4_000)
        running.start(*workers, ready=False)
        left = {0: 1, 1: 1}
        ends = offsets(running, OffsetSpec.latest())

        def quiet_is_done() -> bool:
            left.update({p: end - committed(running).get(p, 0) for p, end in ends.items()})
            return left[1] <= 0

        wait_until(quiet_is_done, "the quiet partition's messages to be out", pause=0.01)
        assert left[0] > 0, "the busy one was done before"
        updates = [r.json for r in running.read("portfolio_updates") if r.key == b"u%d" % quiet]
        assert updates[-1]["open_positions"] == 50
        running.settle(sinks=False)


def offsets(running: Pipeline, spec: OffsetSpec) -> dict[int, int]:
    """Of both partitions of `trades`."""
    admin, topic = AdminClient(running.settings.kafka()), running.settings.topic("trades")
    asked = {TopicPartition(topic, p): spec for p in range(2)}
    return {tp.partition: future.result().offset for tp, future in admin.list_offsets(asked).items()}


def committed(running: Pipeline) -> dict[int, int]:
    """What the agents have committed of `trades`."""
    admin, group = AdminClient(running.settings.kafka()), running.settings.group("agents")
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(running.settings.topic("trades"), p) for p in range(2)])
    found = admin.list_consumer_group_offsets([asked])[group].result()
    return {tp.partition: max(tp.offset, 0) for tp in found.topic_partitions}
