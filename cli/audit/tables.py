"""What ClickHouse holds: rows by where they came from, and the questions that the laws ask of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error

from assetstream.sinks.clickhouse import connect, translate
from assetstream.sinks.migrations import check
from assetstream.sinks.schema import TABLES
from assetstream.streams.settings import Settings

#: decimals as the interface writes them, exact; times too
EXACT = {
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_64bit_integers": 0,
    "date_time_output_format": "iso",
    "max_query_size": 1 << 20,
}
#: what a row is, by table
IDENTITIES = {
    "fills": ("user_id", "trade_id", "source_topic", "source_partition", "source_offset"),
    "prices": ("source_topic", "source_partition", "source_offset"),
    "portfolio_updates": ("user_id", "portfolio_id", "sequence"),
    "risk_alerts": ("alert_id",),
    "transactions": ("user_id", "transaction_id", "status", "source_topic", "source_partition", "source_offset"),
    "ledger_entries": ("source_topic", "source_partition", "source_offset", "entry"),
    "balance_changes": (
        *("source_topic", "source_partition", "source_offset"),
        *("user_id", "wallet_id", "asset", "sequence"),
    ),
    "settlements": ("settlement_id", "status"),
    "dead_letters": ("dead_letter_id",),
    "broker_statements": ("source_topic", "source_partition", "source_offset"),
    "reconciliation_breaks": ("break_id", "sequence"),
}


class Tables:
    """A client that answers in rows. Raises ClickHouseAway, ClickHouseRefused, SchemaError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._client.database = settings.clickhouse_database
        with self._answering():
            check(self._client, settings)
        days = settings.clickhouse_ttl_days
        #: rows of before may have been dropped; "": none may
        self.kept_since = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S") if days else ""

    @contextmanager
    def _answering(self) -> Iterator[Client]:
        try:
            yield self._client
        except Error as error:
            raise translate(error, self._settings.clickhouse_url) from error

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def ask(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query; `{name:Type}` in it stands for a parameter."""
        with self._answering() as client:
            answer = client.raw_query(query, parameters=parameters, settings=EXACT, fmt="JSONCompactEachRow")
        return [tuple(json.loads(line)) for line in answer.splitlines()]

    def rows(
        self, table: str, names: Sequence[str], topic: str, partition: int, begin: int, end: int
    ) -> list[tuple[Any, ...]]:
        """Columns of the rows that inputs from offset `begin` up to, not with, `end` caused, in their order."""
        order = "source_offset, entry" if "entry" in names else "source_offset"
        return self.ask(
            f"SELECT {', '.join(names)} FROM {table} WHERE source_topic = {{topic:String}} "
            "AND source_partition = {partition:Int32} "
            "AND source_offset >= {begin:Int64} AND source_offset < {end:Int64} "
            f"ORDER BY {order}",
            topic=topic,
            partition=partition,
            begin=begin,
            end=end,
        )

    def doubles(self, table: str) -> list[tuple[Any, ...]]:
        """What is there more than once: its identity, and how often."""
        identity = ", ".join(IDENTITIES[table])
        return self.ask(f"SELECT {identity}, count() FROM {table} GROUP BY {identity} HAVING count() > 1")

    def count(self, table: str) -> int:
        """How many rows a table has."""
        ((n,),) = self.ask(f"SELECT count() FROM {table}")
        return int(n)

    def last_sources(self) -> dict[tuple[str, str, int], int]:
        """The highest source offset by (table, topic, partition); of updates and alerts too."""
        found = {}
        for table in TABLES:
            for topic, partition, offset in self.ask(
                f"SELECT source_topic, source_partition, max(source_offset) FROM {table} "
                "GROUP BY source_topic, source_partition"
            ):
                found[table, topic, partition] = offset
        return found
