"""Proof of who may commit: the consumer group's generation and our member id, as librdkafka wants them.

A transaction that carries them is refused by the broker once the group has moved on, which fences a worker that was
stopped and woke up. They are captured when partitions are assigned and never read again: after a long stop aiokafka
resets them to (−1, ""), which the broker would accept from anyone.

The bytes are librdkafka's own format, "CGMDv2"; `check_format` holds it against the installed release at start.
"""

from __future__ import annotations

import struct
from typing import Any

from confluent_kafka import Consumer

MAGIC = b"CGMDv2:"


class NotAMember(RuntimeError):
    """We are in no generation of the group: partitions were assigned and lost again at once. A rejoin mends it."""


class MetadataFormatChanged(RuntimeError):
    """The installed librdkafka writes group metadata differently; this release can't fence its commits with it."""


def metadata(group: str, generation: int, member: str, instance: str | None = None) -> bytes:
    """Group metadata for `send_offsets_to_transaction`. Raises NotAMember for no generation or no member id."""
    if generation < 0 or not member:
        raise NotAMember(f"group {group}: generation {generation}, member {member!r}")
    tail = b"\1" if instance is None else b"\0" + instance.encode() + b"\0"
    return MAGIC + struct.pack("<i", generation) + group.encode() + b"\0" + member.encode() + b"\0" + tail


def capture(app: Any) -> bytes:
    """Metadata of the generation that the Faust `app`'s consumer is in now; call it when partitions are assigned."""
    coordinator = app.consumer._thread._consumer._coordinator
    return metadata(app.conf.id, coordinator.generation, coordinator.member_id)


def check_format() -> None:
    """Hold our idea of the format against what the installed librdkafka writes; raises MetadataFormatChanged."""
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "format", "log_level": 0})
    try:
        ours = MAGIC + struct.pack("<i", -1) + b"format\0\0\1"
        theirs = consumer.consumer_group_metadata()
    finally:
        consumer.close()
    raw = getattr(theirs, "_serialized", theirs)
    if raw != ours:
        raise MetadataFormatChanged(f"expected {ours!r}, librdkafka gave {raw!r}; install the pinned confluent-kafka")
