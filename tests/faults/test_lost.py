"""Logs that are not what they were: records that expired or were deleted, topics made anew or set back to an older
copy, offsets set by hand, damaged and foreign records. Each is exact, or a loud stop whose text says what to do.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from assetstream.cli.init import init_all
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message, market
from assetstream.tables.changelog import VERSION
from tests.faults.load import SEED
from tests.integration.pipeline import (
    READY_S,
    Check,
    Pipeline,
    WorkerProcess,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    wait_until,
)

USERS, SYMBOLS, BAD, MESSAGES = 10, 6, 0.01, 2_500
PARTITIONS = 2
DOCUMENTED = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("lost")) as running:
        yield running


@contextmanager
def installation(stack: EmbeddedStack, name: str, folder: Path) -> Iterator[tuple[Pipeline, list[list[Message]]]]:
    """One whose worker has processed a market and was stopped; and phases that are still to come."""
    settings = stack.settings(topic_prefix=f"{name}.", clickhouse_database=name, partitions=PARTITIONS)
    settings = settings.model_copy(update={"snapshot_s": 0.5})
    first, later = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)[:3], phases(market(USERS, SYMBOLS, 2), 600)
    with pipeline(settings, folder, "one") as running:
        process(running, first)
        stop(running)
        yield running, later


def process(running: Pipeline, phases: list[list[Message]]) -> None:
    for phase in phases:
        running.publish(phase)
        running.settle()
        running.feed()


def stop(running: Pipeline) -> None:
    for worker in running.workers:
        assert worker.terminate()[0] == 0
    running.workers = []


def without_snapshots(running: Pipeline) -> None:
    for state in running.folder.glob("data-*/state"):
        state.rename(state.with_name("state.old"))


def refused(running: Pipeline) -> str:
    """What a worker says that ends with exit code 1: its last line, which `operations.md` explains."""
    (worker,) = running.start("one", ready=False)
    running.workers = []
    assert worker.process.wait(READY_S) == 1, worker.tail()
    said = worker.tail(1)
    assert "Traceback" not in worker.log.read_text()
    return said


def explains(said: str) -> bool:
    """Whether a row of the table in `operations.md` quotes this."""
    table = DOCUMENTED[DOCUMENTED.index("| it says |") :].split("\n\n")[0]
    quotes = [quote for row in table.splitlines() for quote in re.findall(r"`([^`]+)`", row.split("|")[1])]
    return any(re.search(".*".join(map(re.escape, quote.split("…"))), said) for quote in quotes)


# -- inputs -----------------------------------------------------------------------------------------------------------


def ends(running: Pipeline, topic: str) -> dict[TopicPartition, int]:
    admin = AdminClient(running.settings.kafka())
    name = running.settings.topic(topic)
    tps = [TopicPartition(name, p) for p in range(running.settings.partitions)]
    found = admin.list_offsets(dict.fromkeys(tps, OffsetSpec.latest()))
    return {tp: future.result().offset for tp, future in found.items()}


def delete_before(running: Pipeline, topic: str, before_end: int) -> None:
    """As if expired: all records but the last few of each partition."""
    admin = AdminClient(running.settings.kafka())
    tps = [TopicPartition(tp.topic, tp.partition, end - before_end) for tp, end in ends(running, topic).items()]
    for future in admin.delete_records(tps).values():
        future.result()


def delete_topics(running: Pipeline, *topics: str) -> None:
    admin = AdminClient(running.settings.kafka())
    for future in admin.delete_topics([running.settings.topic(topic) for topic in topics]).values():
        future.result()
    gone = {running.settings.topic(topic) for topic in topics}
    wait_until(lambda: not gone & admin.list_topics(timeout=10).topics.keys(), "topics to be gone")


def test_inputs_that_expired(stack: EmbeddedStack, tmp_path: Path) -> None:
    """After they were taken: nobody misses them. Before: a loud stop. And a topic made anew: its offsets begin at 0."""
    with installation(stack, "expired", tmp_path) as (running, later):
        for topic in ("trades", "transactions", "prices"):
            delete_before(running, topic, 0)
        running.start("one")
        process(running, later)
        Check(running).everything()
        stop(running)

        running.publish(later[2])
        delete_before(running, "trades", 1)
        said = refused(running)
        assert "expired.trades-" in said
        assert "records expired before they were taken" in said
        assert explains(said)

        delete_topics(running, "trades")
        init_all(running.settings)
        said = refused(running)
        assert "the topic is older than the state" in said
        assert explains(said)


def test_inputs_that_expired_before_anybody_took_part(stack: EmbeddedStack, tmp_path: Path) -> None:
    """A first start begins with what is there; and so does a second, though trades were not among what it took."""
    settings = stack.settings(topic_prefix="late.", clickhouse_database="late", partitions=PARTITIONS)
    with pipeline(settings, tmp_path) as running:
        limits, prices, trades = phases(market(USERS, SYMBOLS, SEED), MESSAGES)[:3]
        running.publish(trades)
        delete_before(running, "trades", 0)
        delete_before(running, "transactions", 0)
        running.start("one")
        running.publish(limits)
        running.settle()
        stop(running)
        (again,) = running.start("one")
        running.publish(prices)
        later = [(topic, key, value.replace(b"t1-", b"late-")) for topic, key, value in trades]
        running.publish(later)
        running.settle()
        assert again.metric("messages_total", topic="trades") == sum(topic == "trades" for topic, _, _ in later)


def test_offsets_set_by_hand(stack: EmbeddedStack, tmp_path: Path) -> None:
    """Of the agents: the state knows what was applied, whatever the group says; nothing is taken twice or left out."""
    with installation(stack, "reset", tmp_path) as (running, later):
        for to, untaken in (("earliest", later[:1]), ("latest", later[1:3])):
            for phase in untaken:
                running.publish(phase)
            for topic in ("trades", "transactions", "risk_limits", "prices"):
                reset(running, "agents", topic, to)
            (worker,) = running.start("one")
            count = sum(map(len, untaken))
            wait_until(lambda w=worker, n=count: taken(w) >= n, "what waited to be taken")
            assert taken(worker) == count
            stop(running)
            running.feed()
        running.start("one")
        process(running, later[3:])
        Check(running).everything()


def taken(worker: WorkerProcess) -> float:
    """How many messages of publishers it took."""
    own = sum(worker.metric("messages_total", topic=topic) for topic in ("transfers", "clock"))
    return worker.metric("messages_total") - own


def reset(running: Pipeline, group: str, topic: str, to: str) -> None:
    """As `kafka-consumer-groups --reset-offsets` does."""
    tps = [
        TopicPartition(tp.topic, tp.partition, 0 if to == "earliest" else end)
        for tp, end in ends(running, topic).items()
    ]
    admin = AdminClient(running.settings.kafka())
    (done,) = admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(running.settings.group(group), tps)]
    ).values()
    done.result()


# -- the changelog ----------------------------------------------------------------------------------------------------


def append(running: Pipeline, topic: str, partition: int, *values: bytes) -> None:
    producer = Producer(running.settings.kafka())
    for value in values:
        producer.produce(running.settings.topic(topic), value, partition=partition)
    assert producer.flush(30) == 0


def test_a_changelog_that_is_damaged_and_one_that_begins_in_the_middle(stack: EmbeddedStack, tmp_path: Path) -> None:
    """With a snapshot of all before the damage, and without one."""
    with installation(stack, "damaged", tmp_path) as (running, _):
        partition, value = next((r.partition, r.value) for r in running.read("account_changelog")[::-1])
        assert value is not None
        append(running, "account_changelog", partition, value[:-1] + bytes([value[-1] ^ 1]))
        for prepare in (lambda running: None, without_snapshots):
            prepare(running)
            said = refused(running)
            assert f"damaged.account_changelog-{partition} at offset " in said
            assert "the checksum fails" in said
            assert explains(said)

        delete_before(running, "account_changelog", 4)
        said = refused(running)
        assert "records are missing" in said
        assert explains(said)


def test_a_changelog_of_another_release(stack: EmbeddedStack, tmp_path: Path) -> None:
    """A format that this release does not know, with a snapshot of all before and without one."""
    with installation(stack, "release", tmp_path) as (running, _):
        partition, value = next((r.partition, r.value) for r in running.read("account_changelog")[::-1])
        assert value is not None
        newer = value[:4] + struct.pack("<H", VERSION + 1) + value[6:]
        at = ends(running, "account_changelog")[TopicPartition("release.account_changelog", partition)]
        append(running, "account_changelog", partition, newer)
        where = f"release.account_changelog-{partition} at offset {at}"
        for prepare in (lambda running: None, without_snapshots):
            prepare(running)
            said = refused(running)
            told = f"{where}: format {VERSION + 1}, this release reads {VERSION}; use the release that wrote it"
            assert said == told
            assert explains(said)


def test_a_changelog_that_is_older_than_the_offsets(stack: EmbeddedStack, tmp_path: Path) -> None:
    """As after a restored backup, or when it was made anew: what was published since would be published again."""
    with installation(stack, "older", tmp_path) as (running, _):
        delete_topics(running, "account_changelog")
        init_all(running.settings)
        said = refused(running)
        assert "the changelog is older than the offsets" in said
        assert explains(said)
