"""`assetstream init`: topics, ClickHouse tables, and from where on sinks fill them."""

from __future__ import annotations

from typing import Annotated

import typer
from clickhouse_connect.driver.client import Client

from assetstream.cli.positions import set_first
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate
from assetstream.sinks.schema import TABLES
from assetstream.streams.admin import init_topics
from assetstream.streams.settings import Settings, load


def init(
    refill: Annotated[
        bool, typer.Option("--refill", help="Fill empty tables from the start of analytics; stop all sinks first.")
    ] = False,
) -> None:
    """Create the topics and ClickHouse tables that are missing; idempotent.

    Retention follows the settings. A topic that differs in its number of partitions, cleanup policy, kind of
    timestamp, or takes too small messages, is refused and nothing is changed.
    """
    for line in init_all(load(), refill) or ["nothing to do: all topics and tables are there"]:
        typer.echo(line)


def init_all(settings: Settings, refill: bool = False) -> list[str]:
    """Create what is missing; what was done, a line each. refill: have sinks begin again; raises NotEmpty, SinksRun."""
    client = connect(settings)
    try:
        done = init_topics(settings)
        done += [f"applied migration {m.version} {m.name}" for m in migrate(client, settings)]
        return done + set_first(settings, lambda: _is_empty(client, settings.clickhouse_database), refill)
    finally:
        client.close()


def _is_empty(client: Client, database: str) -> bool:
    """Whether no table of ours has a row."""
    counts = " + ".join(f"(SELECT count() FROM {database}.{table})" for table in TABLES)
    ((rows,),) = client.query(f"SELECT {counts}").result_rows
    return int(rows) == 0
