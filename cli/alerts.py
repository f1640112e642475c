"""`assetstream alerts`: what the risk desk sees, as it is committed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec
from rich.console import Console
from rich.text import Text

from assetstream.streams.admin import Admin, TopicMismatch
from assetstream.streams.settings import Settings, load


class Severity(StrEnum):
    """`severity` of an alert."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


COLOURS = {"INFO": "green", "WARNING": "yellow", "CRITICAL": "bold red"}
POLL_S = 0.2


def alerts(
    severity: Annotated[list[Severity] | None, typer.Option(help="Only these; may be repeated.")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this user_id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The messages themselves, one JSON object a line.")] = False,
    from_beginning: Annotated[bool, typer.Option(help="All that the topic holds first.")] = False,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="End after this many.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after this long.")] = None,
) -> None:
    """Follow risk alerts as they are committed, until Ctrl-C."""
    wanted = {each.value for each in severity or Severity}
    console, shown = Console(soft_wrap=True, highlight=False), 0
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        for value in follow(load(), "risk_alerts", from_beginning, deadline):
            alert = json.loads(value)
            if alert["severity"] not in wanted or user not in (None, alert["user_id"]):
                continue
            if as_json:
                typer.echo(value)
            else:
                console.print(line(alert))
            shown += 1
            if shown == limit:
                return
    except KeyboardInterrupt:
        return


def follow(settings: Settings, topic: str, from_beginning: bool, deadline: float | None) -> Iterator[bytes]:
    """Values of the topic's committed records, from its beginning or from now on, until `deadline`.

    Raises BrokerAway when no Kafka answers, TopicMismatch when the topic isn't there.
    """
    admin, name = Admin(settings), settings.topic(topic)
    count = admin.partitions().get(name)
    if count is None:
        raise TopicMismatch([f'topic {name} is missing: run "assetstream init"'])
    partitions = [(name, p) for p in range(count)]
    if from_beginning:
        starts = dict.fromkeys(partitions, OFFSET_BEGINNING)
    else:
        starts = admin.offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    consumer = Consumer(reader(settings))
    try:
        consumer.assign([TopicPartition(*each, start) for each, start in starts.items()])
        typer.echo(f"following {name} at {settings.kafka_bootstrap_servers}", err=True)
        while deadline is None or time.monotonic() < deadline:
            for message in consumer.consume(500, POLL_S):
                if message.error() is None and (value := message.value()) is not None:
                    yield value
    finally:
        consumer.close()


def reader(settings: Settings, **extra: Any) -> dict[str, Any]:
    """Configuration of a consumer that only looks: it joins no group and commits nothing."""
    return settings.kafka(
        **{
            "group.id": settings.group("reader"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
            **extra,
        }
    )


def line(alert: dict[str, Any]) -> Text:
    """One alert as a coloured line: when, severity, whose, what."""
    return Text.assemble(
        (f"{alert['created_at'].replace('T', ' ')[:23]}  ", "dim"),
        (f"{alert['severity']:<8}  ", COLOURS[alert["severity"]]),
        (f"{alert['user_id']}/{alert['portfolio_id']}  ", "bold"),
        alert["message"],
    )
