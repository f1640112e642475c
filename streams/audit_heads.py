"""What lies on `audit_heads`: the notary's heads of every audited partition, in its partition of the same number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from assetstream.models.audit_heads import BadHead, read_head
from assetstream.models.messages import AuditHead
from assetstream.streams.admin import Admin, TopicMismatch
from assetstream.streams.reading import Place, read_to_end
from assetstream.streams.settings import Settings
from assetstream.streams.topics import AUDIT_HEADS, AUDITED


class Said(NamedTuple):
    """A record of `audit_heads`. where: its own place, topic-partition@offset; key: whose head it should be."""

    where: str
    key: bytes
    head: AuditHead | BadHead


def key_of(place: Place) -> bytes:
    """The key of a partition's heads."""
    return f"{place[0]}-{place[1]}".encode()


def audited_places(settings: Settings) -> list[Place]:
    """The partitions of which heads are made. Raises BrokerAway, TopicMismatch when a topic is missing."""
    counts, names = Admin(settings).partitions(), [settings.topic(name) for name in AUDITED]
    if missing := [name for name in (*names, settings.topic(AUDIT_HEADS)) if name not in counts]:
        raise TopicMismatch([f'topic {name} is missing: run "assetstream init"' for name in missing])
    return [(name, number) for name in names for number in range(counts[name])]


def read_heads(settings: Settings, progress: Callable[[int, int], None] = lambda done, total: None) -> Iterator[Said]:
    """All heads, those of a partition in their order; what is no head of its key's partition is a BadHead.

    Blocks; raises BrokerAway, KafkaException, Unreadable.
    """
    for message in read_to_end(settings, settings.topic(AUDIT_HEADS), progress):
        key = message.key() or b""
        head: AuditHead | BadHead
        try:
            head = read_head(message.value())
            if (key_of((head.topic, head.partition)), head.partition) != (key, message.partition()):
                head = BadHead(f"a head of {head.topic}-{head.partition}, out of place")
        except BadHead as error:
            head = error
        yield Said(f"{message.topic()}-{message.partition()}@{message.offset()}", key, head)


def last_heads(settings: Settings) -> dict[Place, AuditHead]:
    """The last head of each partition that has one; what is none is left to the auditor. Raises as read_heads."""
    heads = (said.head for said in read_heads(settings))
    return {(head.topic, head.partition): head for head in heads if isinstance(head, AuditHead)}
