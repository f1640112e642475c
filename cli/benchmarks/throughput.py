"""A backlog of trades: how fast one worker takes it with everything durable, and how fast it can be read at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from assetstream.cli.benchmarks import load
from assetstream.cli.benchmarks.installation import Ends, Installation, WorkerProcess, cpu_seconds
from assetstream.cli.benchmarks.report import BenchError, Table
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams.embedded_kafka import Progress

#: seconds that ClickHouse may take after the last checkpoint
CLICKHOUSE_PATIENCE_S = 300


@dataclass
class Backlog:
    """Trades that lie in the topic, and an installation that has not taken them: its limits and prices are applied."""

    installation: Installation
    trades: load.Trades
    ends: Ends


@dataclass
class Run:
    """One worker's run over a backlog. Seconds from the first trade; CPU in seconds by process."""

    messages: int
    seconds: float
    clickhouse_seconds: float
    cpu: dict[str, float]
    metrics: dict[tuple[str, str], float]
    alerts: int = 0
    updates: int = 0

    @property
    def rate(self) -> float:
        """Messages a second, to the commit of the last checkpoint."""
        return self.messages / self.seconds


@contextmanager
def backlog(
    stack: EmbeddedStack, name: str, messages: int, progress: Progress, partitions: int = 8
) -> Iterator[Backlog]:
    """An installation with everyone's limits and a price of every symbol applied, and then `messages` trades published.

    The worker that applies limits and prices has ended before the trades are published; what it has compiled stays.
    """
    installation = Installation(stack, name, partitions=partitions)
    progress(f"making topics and tables of {name}", 0, 0)
    installation.init()
    try:
        limits = [load.limits(user, load.LIMITS) for user in range(load.USERS)]
        prices = [load.price(symbol, 9_500, symbol) for symbol in range(load.SYMBOLS)]
        load.publish(installation.settings, "risk_limits", limits, len(limits))
        load.publish(installation.settings, "prices", prices, len(prices))
        progress("applying limits and prices", 0, 0)
        with installation.worker() as worker:
            installation.when_committed(installation.ends("risk_limits", "prices"), check=lambda: worker.port)
        trades = load.Trades(messages)
        load.publish(installation.settings, "trades", trades, messages, progress)
        yield Backlog(installation, trades, installation.ends("trades"))
    finally:
        installation.remove()


def run_worker(backlog: Backlog, progress: Progress) -> Run:
    """One worker takes the whole backlog.

    The clock starts when the worker takes its first batch (its own `batch_size_records_created`, the moment the metric
    first had a value) and stops when the group's committed offsets are seen, from outside, at the end of every
    partition. Raises BenchError when ClickHouse does not hold each trade once and exactly.
    """
    here = backlog.installation
    usage = cpu_of(here.stack)
    with here.worker() as worker:
        before = usage(worker)
        ended = here.when_committed(backlog.ends, progress=progress, check=lambda: worker.port)
        after = usage(worker)
        progress("waiting for ClickHouse", 0, 0)
        filled = when_filled(here, "fills", backlog.trades.n)
        metrics = worker.metrics()
    _verify(here, backlog.trades)
    began = metrics["batch_size_records_created", "trades"]
    return Run(
        backlog.trades.n,
        ended - began,
        filled - began,
        {name: after[name] - before[name] for name in after},
        metrics,
        int(here.ask("SELECT count() FROM {db}.risk_alerts")),
        int(here.ask("SELECT count() FROM {db}.portfolio_updates")),
    )


def cpu_of(stack: EmbeddedStack) -> Callable[[WorkerProcess], dict[str, float]]:
    """Tells the CPU time of a worker and of the servers so far, seconds by name."""
    servers = {name: pid for name, pid in stack.status()["pids"].items() if pid}
    return lambda worker: {
        "worker": worker.cpu_seconds,
        **{name: cpu_seconds(pid) for name, pid in servers.items()},
    }


def when_filled(here: Installation, table: str, rows: int) -> float:
    """When ClickHouse was seen to hold so many rows of a table, seconds since 1970. Raises BenchError."""
    deadline = time.monotonic() + CLICKHOUSE_PATIENCE_S
    while (found := here.ask(f"SELECT count() FROM {{db}}.{table}")) < rows:
        if time.monotonic() > deadline:
            raise BenchError(
                f"ClickHouse holds {found:,} of {rows:,} {table} {CLICKHOUSE_PATIENCE_S} s after their commit"
            )
        time.sleep(0.1)
    return time.time()


def _verify(here: Installation, trades: load.Trades) -> None:
    """What computes wrong figures measures nothing."""
    signed = "sum(if(side = 'BUY', quantity, -quantity))"
    once = here.ask("SELECT count() = uniqExact(user_id, trade_id) FROM {db}.fills")
    traded = here.ask(f"SELECT {signed} FROM {{db}}.fills")
    held = here.ask("SELECT sum(quantity) FROM {db}.positions")
    if not once or traded != trades.traded() or held != trades.traded():
        raise BenchError(f"wrong result: once {bool(once)}, traded {traded}, held {held}, should be {trades.traded()}")


def read_raw(backlog: Backlog, progress: Progress) -> tuple[int, float]:
    """Read the backlog with a bare confluent-kafka consumer; -> (messages, seconds) after the first batch.

    `queued.min.messages` and `fetch.queue.backoff.ms` are set: else librdkafka stalls for a second when its queue is
    full.
    """
    settings: dict[str, Any] = {
        "group.id": f"bench-raw-{time.time_ns()}",
        "enable.auto.commit": False,
        "queued.min.messages": 1_000_000,
        "fetch.queue.backoff.ms": 10,
    }
    consumer = Consumer(backlog.installation.settings.kafka(**settings))
    try:
        consumer.assign([TopicPartition(topic, number, 0) for topic, number in backlog.ends])
        first, count, began = 0, 0, 0.0
        deadline = time.monotonic() + 120
        while count < backlog.trades.n:
            batch = consumer.consume(5_000, 1.0)
            if not began and batch:
                first, began = len(batch), time.perf_counter()
            count += len(batch)
            if time.monotonic() > deadline:
                raise BenchError(f"a bare consumer read {count:,} of {backlog.trades.n:,} messages in 120 s")
        return count - first, time.perf_counter() - began
    finally:
        consumer.close()


def table(run: Run, raw: float | None) -> list[Table]:
    """The results of a worker's run; raw: what a bare consumer reads a second, when that was measured."""
    share = None if raw is None else f"{run.rate / raw:.0%}"
    rows: list[tuple[Any, ...]] = [
        ("messages", run.messages),
        ("messages/s, exactly once, to the commit of the last checkpoint", run.rate),
        ("seconds to that commit", run.seconds),
        ("seconds until ClickHouse held all rows", run.clickhouse_seconds),
        ("messages/s until ClickHouse held all rows", run.messages / run.clickhouse_seconds),
        ("alerts published", run.alerts),
        ("portfolio updates published", run.updates),
        ("share of what a bare consumer reads", share),
    ]
    title = "Backlog of trades: one worker, changelog, updates, alerts, analytics and sinks on"
    return [Table("throughput", title, ("what", "value"), rows), where_time_goes(run, "throughput", "trades")]


def where_time_goes(run: Run, part: str, topic: str) -> Table:
    """µs a message of an input topic, from the worker's own counters and the processes' CPU time."""
    micros = 1e6 / run.messages
    counters = {
        "worker, in the kernel (wall)": run.metrics.get(("portfolio_calculation_duration_seconds_sum", topic), 0.0),
        "worker, checkpoint transactions (wall, beside the next batches)": run.metrics.get(
            ("checkpoint_duration_seconds_sum", ""), 0.0
        ),
        **{f"{name}, CPU": seconds for name, seconds in run.cpu.items()},
    }
    rows = [("wall", run.seconds * micros), *((name, seconds * micros) for name, seconds in counters.items())]
    checkpoints = run.metrics.get(("checkpoint_duration_seconds_count", ""), 0.0)
    batches = run.metrics.get(("batch_size_records_count", topic), 1.0)
    note = f"{checkpoints:.0f} checkpoints; {run.messages / max(batches, 1):,.0f} messages a batch."
    return Table(part, "The same run, µs a message", ("where", "µs"), rows, note)


def raw_table(messages: int, seconds: float) -> Table:
    """The results of `read_raw`."""
    rows = [("bare confluent-kafka consumer, no decoding", messages, seconds, messages / seconds)]
    return Table("raw", "What can be read at all", ("reader", "messages", "seconds", "messages/s"), rows)
