"""Where a message's time goes in the worker, stage by stage, in one thread and with nothing beside."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from confluent_kafka import Consumer

from assetstream.cli.benchmarks import core, load
from assetstream.cli.benchmarks.installation import Installation
from assetstream.cli.benchmarks.report import BenchError, Table
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams import records, topics
from assetstream.streams.checkpoint import Checkpointer
from assetstream.streams.connection import Connection
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.membership import Member
from assetstream.streams.settings import Settings

BATCH = 2_000
#: a busy worker's checkpoint holds a batch of each partition
PARTITIONS = 8


def run(stack: EmbeddedStack, rounds: int, progress: Progress) -> list[Table]:
    """Rounds of one batch a partition and then a checkpoint into Kafka; µs a message by stage."""
    installation = Installation(stack, "profile", partitions=PARTITIONS)
    progress("making topics", 0, 0)
    installation.init()
    try:
        return [asyncio.run(_profile(installation.settings, rounds, progress))]
    finally:
        installation.remove()


async def _profile(settings: Settings, rounds: int, progress: Progress) -> Table:
    partitions = [core.Partition(settings, number) for number in range(PARTITIONS)]
    consumer, member = _consumer(settings)
    connection = Connection(settings)
    await connection.know(settings.topic(name) for name in topics.WRITTEN)
    checkpointer = Checkpointer(connection, member.group)
    await checkpointer.open()
    parsing = writing = 0.0
    warm = 2
    for k, fetched in enumerate(_fetches(warm + rounds)):
        if k == warm:
            parsing = writing = 0.0
            for partition in partitions:
                partition.seconds = dict.fromkeys(partition.seconds, 0.0)
        progress("profiling", k, warm + rounds)
        for partition, raw in zip(partitions, fetched, strict=True):
            began = time.perf_counter()
            batch, _ = records.parse(settings.topic("trades"), partition.account.number, raw, k * BATCH)
            parsing += time.perf_counter() - began
            partition.take(batch)
        made = partitions[0].publication([partition.cut() for partition in partitions])
        began = time.perf_counter()
        await checkpointer.write(made.records(), made.sources, member)
        writing += time.perf_counter() - began
    await connection.close()
    consumer.close()
    taken = {"parse the fetch": parsing}
    for partition in partitions:
        for stage, seconds in partition.seconds.items():
            taken[stage] = taken.get(stage, 0.0) + seconds
    taken["produce, commit"] = writing
    total, micros = sum(taken.values()), 1e6 / (rounds * PARTITIONS * BATCH)
    rows = [(stage, seconds * micros, f"{seconds / total:.0%}") for stage, seconds in taken.items()]
    note = (
        f"Batches of {BATCH:,}, {PARTITIONS} partitions, a checkpoint after each has had one. The worker runs the "
        "last two stages in another thread, beside the next batches. Decoding is timed apart, and taken out of what it "
        "is part of."
    )
    columns = ("stage", "µs a message", "share")
    return Table("profile", "Where a message's time goes", columns, [*rows, ("all", total * micros, "100%")], note)


def _consumer(settings: Settings) -> tuple[Consumer, Member]:
    """A member of the agents' group, whose membership lets a checkpoint commit."""
    group = settings.group("agents")
    consumer = Consumer(settings.kafka(**{"group.id": group, "enable.auto.commit": False}))
    consumer.subscribe([settings.topic("transactions")])
    deadline = time.monotonic() + 30
    while not consumer.assignment():
        consumer.poll(0.1)
        if time.monotonic() > deadline:
            raise BenchError("the consumer group gave no assignment within 30 s")
    # librdkafka's own format: "CGMDv2:", generation, group, member
    raw = bytes(consumer.consumer_group_metadata())
    (generation,) = struct.unpack_from("<i", raw, 7)
    return consumer, Member(group, generation, raw[11:].split(b"\0")[1].decode())


def _fetches(rounds: int) -> Iterator[list[bytes]]:
    """Fetch responses of trades: one record batch of BATCH records for each partition, a round at a time."""
    number, users = 0, load.USERS // PARTITIONS
    for k in range(rounds):
        fetched = []
        for partition in range(PARTITIONS):
            trades = load.Trades(BATCH, seed=number)
            size = zip(trades.quantity.tolist(), trades.price.tolist(), strict=True)
            pairs = [
                load.trade(number + i, partition * users + i % users, i % load.SYMBOLS, q, p)
                for i, (q, p) in enumerate(size)
            ]
            fetched.append(record_batch(pairs, k * BATCH, core.APPENDED_MS))
            number += BATCH
        yield fetched


def record_batch(pairs: list[load.Pair], first: int, timestamp_ms: int) -> bytes:
    """A record batch (format v2) as a broker sends it, without compression."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for i, (key, value) in enumerate(pairs):
        builder.append(i, timestamp_ms, key, value, [])
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, first)  # not covered by the checksum
    return bytes(built)
