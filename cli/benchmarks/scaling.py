"""End to end: throughput by number of partitions."""

from __future__ import annotations

from collections.abc import Sequence

from assetstream.cli.benchmarks.report import Table, Value
from assetstream.cli.benchmarks.throughput import backlog, run_worker
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams.embedded_kafka import Progress


def run(stack: EmbeddedStack, partitions: Sequence[int], messages: int, progress: Progress) -> list[Table]:
    """A worker takes a shorter backlog, of topics with more and more partitions; no table when there are none."""
    if not partitions:
        return []
    rows: list[tuple[Value, ...]] = []
    for count in partitions:
        with backlog(stack, f"scaling-{count}", messages, progress, count) as made:
            run = run_worker(made, progress)
        rows.append((count, messages, run.rate, run.messages / run.clickhouse_seconds))
    columns = ("partitions", "messages", "messages/s", "messages/s until ClickHouse held all rows")
    note = "As in throughput: one worker, everything durable; a shorter backlog, so the last checkpoint weighs more."
    return [Table("scaling", "End to end by partitions", columns, rows, note)]
