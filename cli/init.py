"""`assetstream init`: topics and ClickHouse tables."""

from __future__ import annotations

import typer

from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate
from assetstream.streams.admin import init_topics
from assetstream.streams.settings import Settings, load


def init() -> None:
    """Create the topics and ClickHouse tables that are missing; idempotent.

    Retention follows the settings. A topic that differs in its number of partitions, cleanup policy, kind of
    timestamp, or takes too small messages, is refused and nothing is changed.
    """
    for line in init_all(load()) or ["nothing to do: all topics and tables are there"]:
        typer.echo(line)


def init_all(settings: Settings) -> list[str]:
    """Create what is missing; what was done, a line each."""
    client = connect(settings)
    try:
        done = init_topics(settings)
        return done + [f"applied migration {m.version} {m.name}" for m in migrate(client, settings)]
    finally:
        client.close()
