"""What a round of the reconciler tells, as Kafka records: breaks, statements that were judged, dead letters, rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from assetstream.cli.reconciliation.ours import digest
from assetstream.models.messages import BrokerStatement, Cause, ReconciliationBreak
from assetstream.models.records import records_of
from assetstream.models.verdicts import Verdict
from assetstream.sinks import batches
from assetstream.sinks.batches import SCHEMAS, serialize
from assetstream.streams import dead_letters
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings
from assetstream.streams.topics import ANALYTICS, BREAKS


class Record(NamedTuple):
    """A record to publish; `topic` with prefix."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes


class Outbox:
    """Takes what is to be told; `records` are those of one transaction."""

    def __init__(self, settings: Settings, partition: int) -> None:
        """partition: of `analytics`, for the rows."""
        self._settings, self._partition = settings, partition
        self._rows: dict[str, list[pa.RecordBatch]] = {}
        self._records: list[Record] = []

    def breaks(self, changed: Iterable[ReconciliationBreak], nowhere: tuple[str, int]) -> None:
        """Breaks that changed; `nowhere`: topic and partition that rows without a cause name, at offset −1."""
        rows = []
        for each in changed:
            key, count = each.break_id.encode(), self._settings.partitions
            partition = partition_of(key, count)
            value = each.model_dump_json().encode()
            self._records.append(Record(self._settings.topic(BREAKS), partition, key, value))
            rows.append(_break_row(each, nowhere))
        self._table("reconciliation_breaks", rows)

    def judged(self, statement: BrokerStatement, breaks: int, at: datetime, cause: Cause) -> None:
        """A statement that was judged, and how many breaks it shows."""
        parts = {name: getattr(statement, name) for name in ("trades", "positions", "balances")}
        row = {
            **statement.model_dump(exclude={*parts, "positions_complete"}),
            **{name: None if part is None else len(part) for name, part in parts.items()},
            "breaks": breaks,
            "digest": digest(statement),
            "judged_at": at,
            **_source(cause),
        }
        self._table("broker_statements", [row])

    def letter(self, cause: Cause, timestamp_ms: int, key: bytes | None, value: bytes | None, why: Any) -> None:
        """A message that is refused; why: its Rejection."""
        records = records_of(cause.topic, cause.partition, [(key, value)], cause.offset, timestamp_ms)
        verdict: Verdict = why.verdict
        now = np.array([time.time_ns() // 1000], np.int64)
        letters = dead_letters.Rejected(records, np.array([0]), np.array([verdict], np.uint8), [why.detail], now)
        partition = cause.partition if key is None else partition_of(key, self._settings.partitions)
        for told in dead_letters.encode(letters):
            self._records.append(Record(self._settings.topic("dead_letters"), partition, *told))
        row = batches.dead_letters(records, [0], [int(verdict)], [why.detail], now)
        self._rows.setdefault("dead_letters", []).append(row)

    def records(self) -> Iterator[Record]:
        """All of it."""
        yield from self._records
        for table, parts in self._rows.items():
            for value in serialize(table, pa.concat_batches(parts)):
                yield Record(self._settings.topic(ANALYTICS), self._partition, table.encode(), value)

    def _table(self, name: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._rows.setdefault(name, []).append(pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[name]))


def _break_row(each: ReconciliationBreak, nowhere: tuple[str, int]) -> dict[str, Any]:
    cause = each.cause or Cause(topic=nowhere[0], partition=nowhere[1], offset=-1)
    sides = {
        name: None if side is None else side.model_dump_json()
        for name, side in (("statement_trade", each.statement_trade), ("our_trade", each.our_trade))
    }
    return {
        **each.model_dump(exclude={"cause", *sides}),
        "type": each.type.value,
        "status": each.status.value,
        **sides,
        **_source(cause),
    }


def _source(cause: Cause) -> dict[str, Any]:
    return {"source_topic": cause.topic, "source_partition": cause.partition, "source_offset": cause.offset}
