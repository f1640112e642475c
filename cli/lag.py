"""`assetstream lag`: how much each consumer group has still to read."""

from __future__ import annotations

import json
import time
from typing import Annotated, NamedTuple

import typer
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from rich.console import Console
from rich.table import Table

from assetstream.cli.alerts import reader
from assetstream.streams.admin import TIMEOUT_S, Admin, TopicMismatch
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import ANALYTICS, AUDITED, INPUTS, RECONCILED

#: what reads what; sinks come after those whose commits are on analytics by the time that is looked at
GROUPS = (("agents", INPUTS), ("reconciler", RECONCILED), ("sinks", (ANALYTICS,)), ("notary", AUDITED))
#: of these only what they have begun with: nobody need run them
OPTIONAL = ("notary",)

#: up to this many offsets behind, records are counted; beyond, offsets are
COUNTED = 2_000
PROBE_S = 30.0

#: a group's coordinator is being found, or is starting: ask again
COORDINATOR_S = 20.0
COORDINATOR_MOVES = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
    KafkaError._TIMED_OUT,
)


class Lag(NamedTuple):
    """What `group` has still to read of one partition.

    end: the log's end (the offset the next record will get); committed: the group's position, the log's start
    when it has committed nothing; lag: the data records between them. Markers of transactions and aborted
    records don't count; records of a transaction that is still open do, as they may yet be committed. More
    than COUNTED offsets behind, lag is a count of offsets from the first such record on.
    """

    group: str
    topic: str
    partition: int
    end: int
    committed: int
    lag: int


def lag(as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False) -> None:
    """Say how much each consumer group has still to read, per topic and partition.

    Zero means that no data record is left. Up to 2,000 behind, records are counted; beyond that, offsets.
    """
    rows = lags(load())
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows]))
        return
    table = Table("group", "topic", "partition", "end", "committed", "lag")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row[:2], *(f"{number:,}" for number in row[2:]), style="" if row.lag else "dim")
    Console().print(table)
    typer.echo(f"{sum(row.lag for row in rows):,} behind")


def lags(settings: Settings) -> list[Lag]:
    """The lag of every group, topic and partition, in that order.

    Looked at so that it errs to the larger side: the committed offsets before the ends, sinks last.
    Raises BrokerAway, and TopicMismatch when a topic is missing.
    """
    admin, found = Admin(settings), []
    counts = admin.partitions()
    for name, topics in GROUPS:
        names = [settings.topic(topic) for topic in topics]
        if missing := [topic for topic in names if topic not in counts]:
            raise TopicMismatch([f'topic {topic} is missing: run "assetstream init"' for topic in missing])
        partitions = [(topic, p) for topic in names for p in range(counts[topic])]
        found += _of_group(settings, admin, settings.group(name), partitions, name in OPTIONAL)
    return found


def _of_group(
    settings: Settings, admin: Admin, group: str, partitions: list[tuple[str, int]], is_optional: bool
) -> list[Lag]:
    found = committed(settings, group, partitions)
    if is_optional:
        found = {each: offset for each, offset in found.items() if offset >= 0}
        partitions = list(found)
    if not partitions:
        return []
    starts = admin.offsets(partitions, OffsetSpec.earliest())
    stable = admin.offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    ends = admin.offsets(partitions, OffsetSpec.latest())
    at = {each: offset if offset >= 0 else starts[each] for each, offset in found.items()}
    unread = readable(settings, {e: (max(at[e], starts[e]), stable[e]) for e in partitions})
    return [
        Lag(group, *each, ends[each], at[each], unread[each] + ends[each] - max(stable[each], at[each]))
        for each in partitions
    ]


def committed(settings: Settings, group: str, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """The group's committed offset of each partition, negative where there is none.

    Asked by a consumer that never joins: AdminClient waits in vain for the coordinator of a cluster that
    never had a group.
    """
    consumer, deadline = Consumer(reader(settings, **{"group.id": group})), time.monotonic() + COORDINATOR_S
    try:
        while True:
            try:
                found = consumer.committed([TopicPartition(*each) for each in partitions], timeout=TIMEOUT_S)
            except KafkaException as failure:
                if failure.args[0].code() not in COORDINATOR_MOVES or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return {(each.topic, each.partition): each.offset for each in found}
    finally:
        consumer.close()


def readable(settings: Settings, ranges: dict[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], int]:
    """Committed data records in each partition's range of offsets: counted by a reader, see COUNTED.

    A range that could not be looked at in time counts as long as it is.
    """
    counts = dict.fromkeys(ranges, 0)
    left = {each: span for each, span in ranges.items() if span[0] < span[1]}
    if not left:
        return counts
    # little is prefetched: most partitions need one look
    more = {"enable.partition.eof": True, "queued.min.messages": COUNTED, "fetch.wait.max.ms": 20}
    consumer = Consumer(reader(settings, **more))
    try:
        consumer.assign([TopicPartition(*each, start) for each, (start, _) in left.items()])
        deadline = time.monotonic() + PROBE_S
        while left and time.monotonic() < deadline:
            for message in consumer.consume(COUNTED, 0.1):
                each = (message.topic(), message.partition())
                if each not in left:
                    continue
                end, error = left[each][1], message.error()
                if error is not None:
                    done = error.code() == KafkaError._PARTITION_EOF
                elif message.offset() >= end:
                    done = True
                elif end - message.offset() > COUNTED:
                    counts[each] = end - message.offset()
                    done = True
                else:
                    counts[each] += 1
                    done = message.offset() == end - 1
                if done:
                    del left[each]
                    consumer.incremental_unassign([TopicPartition(*each)])
    finally:
        consumer.close()
    return counts | {each: end - start for each, (start, end) in left.items()}
