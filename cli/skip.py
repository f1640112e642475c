"""`assetstream skip`: send the one message that a partition halts before to `dead_letters`, on the record."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec
from rich.console import Console

from assetstream.cli.alerts import reader
from assetstream.cli.lag import committed
from assetstream.streams import operations
from assetstream.streams.admin import Admin, TopicMismatch
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import INPUTS, OPERATIONS

READ_S = 20.0
LOOK_S = 0.5
LONGEST_REASON = 1024


class NotSkippable(RuntimeError):
    """Not the message that the partition waits before; the text says what it waits for."""


class NotSkipped(RuntimeError):
    """The skip is on the record, but no worker has obeyed it in time."""


def skip(
    topic: Annotated[str, typer.Argument(help=f"One of {', '.join(INPUTS)}.")],
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0, help="Of the message, as the worker's log and /readyz name it.")],
    reason: Annotated[str, typer.Option(help="Why; it goes on the record and into the dead letter.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a worker to obey.")] = 60.0,
) -> None:
    """Skip a poisonous message: it goes whole to dead_letters, with reason `skipped`, and its partition goes on.

    Only the message that the partition stands before can be skipped, and only if it breaks its kernel: one that can
    be applied is applied. Who skipped it, when and why is kept for ever on the topic `operations`.
    """
    settings = load()
    name = topic.removeprefix(settings.topic_prefix)
    if name not in INPUTS:
        raise typer.BadParameter(f"{topic} is no input topic, those are {', '.join(INPUTS)}", param_hint="TOPIC")
    if partition >= settings.partitions:
        raise typer.BadParameter(f"partitions are 0 … {settings.partitions - 1}", param_hint="PARTITION")
    reason = reason.strip()
    if not 0 < len(reason) <= LONGEST_REASON:
        raise typer.BadParameter(f"say why, in at most {LONGEST_REASON:,} characters", param_hint="--reason")
    message = _waited_for(settings, settings.topic(name), partition, offset)
    typer.echo(f"{name}-{partition} at offset {offset}: {_shown(message)}")
    letters = _Letters(settings, message)
    _record(settings, name, partition, offset, reason)
    typer.echo(f"on the record; waiting up to {wait:.0f} s for a worker to obey")
    with Console().status("waiting for a worker"):
        deadline = time.monotonic() + wait
        while _position(settings, settings.topic(name), partition) <= offset:
            if time.monotonic() > deadline:
                raise NotSkipped(
                    f"no worker has skipped it yet: is one running, and does its /readyz say that {name}-{partition} "
                    f"stands before offset {offset}? The skip stays on the record, and is obeyed when one does"
                )
            time.sleep(LOOK_S)
    if letters.has(f"{settings.topic(name)}-{partition}-{offset}"):
        typer.echo(f"skipped: it is dead letter {settings.topic(name)}-{partition}-{offset}, and the partition goes on")
    else:
        typer.echo("it broke nothing and was taken as any other, not skipped")


def _waited_for(settings: Settings, topic: str, partition: int, offset: int) -> Message:
    """The message at this offset. Raises NotSkippable unless it is the next one that the agents have to take."""
    position, first = _position(settings, topic, partition), None
    if position > offset:
        raise NotSkippable(f"{topic}-{partition} is at offset {position} already: {offset} was taken long ago")
    consumer = Consumer(reader(settings, **{"enable.partition.eof": True, "auto.offset.reset": "error"}))
    try:
        consumer.assign([TopicPartition(topic, partition, position)])
        deadline = time.monotonic() + READ_S
        while first is None and time.monotonic() < deadline:
            first = consumer.poll(0.2)
    finally:
        consumer.close()
    if first is None or first.error() is not None:
        raise NotSkippable(f"{topic}-{partition} has no message at offset {offset}: it is at {position}, its end")
    if first.offset() != offset:
        raise NotSkippable(
            f"{topic}-{partition} waits for the message at offset {first.offset()}, not {offset}: only that can be "
            "skipped, and only if a worker's /readyz says that it breaks its kernel"
        )
    return first


def _position(settings: Settings, topic: str, partition: int) -> int:
    """The agents' next offset; the log's start when they have committed none."""
    at = committed(settings, settings.group("agents"), [(topic, partition)])[topic, partition]
    return at if at >= 0 else Admin(settings).offsets([(topic, partition)], OffsetSpec.earliest())[topic, partition]


def _record(settings: Settings, topic: str, partition: int, offset: int, reason: str) -> None:
    name = settings.topic(OPERATIONS)
    if name not in Admin(settings).partitions():
        raise TopicMismatch([f'topic {name} is missing: run "assetstream init"'])
    producer = Producer(settings.kafka(partitioner="murmur2_random", acks="all", log_level=0))
    failed: list[str] = []
    value = operations.signed(action="skip", topic=topic, partition=partition, offset=offset, reason=reason)
    key = operations.skip_key(topic, partition, offset)
    producer.produce(name, value, key, on_delivery=lambda error, _: failed.append(error.str()) if error else None)
    if producer.flush(READ_S) or failed:
        raise NotSkipped(f"the skip could not be written to {name} ({''.join(failed) or 'no answer'}): try again")


class _Letters:
    """The dead letters that come from now on where this message's would be."""

    def __init__(self, settings: Settings, message: Message) -> None:
        self._settings, self._topic = settings, settings.topic("dead_letters")
        key = message.key()
        number = message.partition() if key is None else partition_of(key, settings.partitions)
        self._partition = number or 0
        ends = Admin(settings).offsets([(self._topic, self._partition)], OffsetSpec.latest())
        self._from = ends[self._topic, self._partition]

    def has(self, dead_letter_id: str) -> bool:
        """Whether this one is among them."""
        consumer = Consumer(reader(self._settings, **{"enable.partition.eof": True}))
        try:
            consumer.assign([TopicPartition(self._topic, self._partition, self._from)])
            deadline = time.monotonic() + READ_S
            while time.monotonic() < deadline:
                message = consumer.poll(0.2)
                if message is None:
                    continue
                if message.error() is not None:
                    return False  # the end
                if json.loads(message.value() or b"{}").get("dead_letter_id") == dead_letter_id:
                    return True
        finally:
            consumer.close()
        return False


def _shown(message: Message, most: int = 200) -> str:
    """Key and value, readable and short."""
    key, value = ((part or b"").decode(errors="replace") for part in (message.key(), message.value()))
    return f"{key or 'no key'}: {value[:most]}{' …' if len(value) > most else ''}"
