"""Publishing one message for the reconciler."""

from __future__ import annotations

from confluent_kafka import Producer

from assetstream.streams.admin import Admin, TopicMismatch
from assetstream.streams.settings import Settings

PATIENCE_S = 20.0


class NotPublished(RuntimeError):
    """Kafka didn't take the message."""


def publish(settings: Settings, topic: str, user_id: str, value: bytes) -> None:
    """A message under its user's key; returns when Kafka has it. Raises BrokerAway, TopicMismatch, NotPublished."""
    name = settings.topic(topic)
    if name not in Admin(settings).partitions():
        raise TopicMismatch([f'topic {name} is missing: run "assetstream init"'])
    failed: list[str] = []
    more = {"partitioner": "murmur2_random", "acks": "all", "message.max.bytes": 4 << 20, "log_level": 0}
    producer = Producer(settings.kafka(**more))
    producer.produce(
        name, value, user_id.encode(), on_delivery=lambda error, _: failed.append(error.str()) if error else None
    )
    if producer.flush(PATIENCE_S) or failed:
        raise NotPublished(f"{name} did not take the message ({''.join(failed) or 'no answer'}): try again")
