"""Reading exactly so much of Kafka's logs, and no further."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from assetstream.streams.admin import Admin
from assetstream.streams.settings import Settings

#: the broker may be silent for this long
SILENCE_S = 60.0
#: (topic with prefix, partition)
Place = tuple[str, int]


class Unreadable(RuntimeError):
    """Kafka did not give what its log holds; the text says of which partitions."""


def read_to_end(
    settings: Settings, topic: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Message]:
    """What read_committed readers see of `topic` (full name) now, each partition in its order.

    progress: called with how many offsets are done, and of how many. Blocks; raises BrokerAway, KafkaException,
    Unreadable.
    """
    admin = Admin(settings)
    places = [(topic, p) for p in range(admin.partitions()[topic])]
    begins = admin.offsets(places, OffsetSpec.earliest())
    ends = admin.offsets(places, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    total, done = sum(ends[place] - begins[place] for place in places), 0

    def more(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    yield from read(settings, {place: (begins[place], ends[place]) for place in places}, more)


def read(
    settings: Settings, ranges: Mapping[Place, tuple[int, int]], progress: Callable[[int], None] = lambda n: None
) -> Iterator[Message]:
    """The committed records of each partition from its first offset up to, not with, its last; in order within each.

    The ends must lie within what is committed already. progress: called with how many offsets are newly done.
    Raises KafkaException, Unreadable.
    """
    at = {place: begin for place, (begin, end) in ranges.items() if begin < end}
    if not at:
        return
    left = set(at)
    consumer = Consumer(
        settings.kafka(
            **{
                "group.id": settings.group("reader"),
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.message.max.bytes": 8 << 20,
                "fetch.wait.max.ms": 20,  # who reads to an end need not wait there for more
                "queued.min.messages": 50_000,
                "queued.max.messages.kbytes": 65_536,
                "check.crcs": True,
                "log_level": 0,
            }
        )
    )
    try:
        consumer.assign([TopicPartition(*place, begin) for place, begin in at.items()])
        heard = time.monotonic()
        while left:
            messages = consumer.consume(2000, 0.1)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                names = ", ".join(f"{topic}-{partition}" for topic, partition in sorted(left))
                raise Unreadable(f"{names} could not be read to the end: Kafka was silent for {SILENCE_S:.0f} s")
            for message in messages:
                error, place = message.error(), (message.topic(), message.partition())
                offset = message.offset()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if error.fatal() or not error.retriable():
                        raise KafkaException(error)
                    continue
                if place not in left:
                    continue
                end = ranges[place][1]
                if error is None and offset < end:
                    yield message
                    offset += 1
                progress(min(offset, end) - at[place])
                at[place] = min(offset, end)
                if offset >= end:
                    left.discard(place)
                    consumer.incremental_unassign([TopicPartition(*place)])
    finally:
        consumer.close()
