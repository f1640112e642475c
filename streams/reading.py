"""Reading a topic from its start to its end, as it is now, and no further."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from assetstream.streams.admin import Admin
from assetstream.streams.settings import Settings

#: the broker may be silent for this long
SILENCE_S = 60.0


class Unreadable(RuntimeError):
    """A topic could not be read to its end; the text says which."""


def read_to_end(
    settings: Settings, topic: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Message]:
    """What read_committed readers see of `topic` (full name) now, each partition in its order.

    progress: called with how many offsets are done, and of how many. Blocks; raises BrokerAway, KafkaException,
    Unreadable.
    """
    admin = Admin(settings)
    partitions = [(topic, p) for p in range(admin.partitions()[topic])]
    begins = admin.offsets(partitions, OffsetSpec.earliest())
    ends = admin.offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    at = {p: begins[topic, p] for _, p in partitions if begins[topic, p] < ends[topic, p]}
    total = sum(ends[topic, p] - begins[topic, p] for p in at)
    left = set(at)
    config = {"group.id": settings.group("reader"), "enable.auto.commit": False, "auto.offset.reset": "error"}
    committed = {"isolation.level": "read_committed", "enable.partition.eof": True, "log_level": 0}
    consumer = Consumer(settings.kafka(**config, **committed))
    try:
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in at.items()])
        heard = time.monotonic()
        while left:
            messages = consumer.consume(1000, 0.1)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                raise Unreadable(f"{topic} could not be read to its end: Kafka was silent for {SILENCE_S:.0f} s")
            for message in messages:
                error, p = message.error(), message.partition()
                if error is None and message.offset() < ends[topic, p]:
                    at[p] = message.offset() + 1
                    yield message
                elif error is None or error.code() == KafkaError._PARTITION_EOF:
                    at[p] = ends[topic, p]
                    left.discard(p)
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
            progress(total - sum(ends[topic, p] - offset for p, offset in at.items()), total)
    finally:
        consumer.close()
