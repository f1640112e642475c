"""A backlog of wallet events: how fast one worker books them with everything durable."""

from __future__ import annotations

import time

from assetstream.cli.benchmarks import load
from assetstream.cli.benchmarks.installation import LOOK_S, Installation, WorkerProcess
from assetstream.cli.benchmarks.report import BenchError, Table, Value
from assetstream.cli.benchmarks.throughput import Run, cpu_of, when_filled, where_time_goes
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams.embedded_kafka import Progress

#: wallet events a second by one worker, end to end
WANTED = 25_000
#: seconds that transfers may take to arrive after the last event is committed
PATIENCE_S = 120


def run(stack: EmbeddedStack, events: int, warm: bool, progress: Progress) -> list[Table]:
    """One worker books so many wallet events; a smaller backlog before, which is not counted, where Kafka is cold."""
    if warm:
        run_worker(stack, "wallets-warm-up", load.WalletEvents(events // 3), progress)
    return table(run_worker(stack, "wallets", load.WalletEvents(events), progress))


def run_worker(stack: EmbeddedStack, name: str, events: load.WalletEvents, progress: Progress) -> Run:
    """One worker books the whole backlog, in an installation of its own.

    The clock starts when the worker takes its first batch, as in throughput, and stops when the offsets of all events
    are seen committed and all transfers have arrived with their receivers. Raises BenchError when ClickHouse has
    anything not once, or what it has doesn't add up.
    """
    here, usage = Installation(stack, name), cpu_of(stack)
    progress(f"making topics and tables of {name}", 0, 0)
    here.init()
    try:
        load.publish(here.settings, "transactions", events, events.n, progress)
        ends = here.ends("transactions")
        with here.worker() as worker:
            before = usage(worker)
            here.when_committed(ends, progress=progress, check=lambda: worker.port)
            ended = _when_arrived(worker, events.transfers)
            after = usage(worker)
            progress("waiting for ClickHouse", 0, 0)
            filled = when_filled(here, "transactions", events.n + events.transfers)
            metrics = worker.metrics()
        _verify(here, events)
    finally:
        here.remove()
    began = metrics["batch_size_records_created", "transactions"]
    cpu = {name: after[name] - before[name] for name in after}
    return Run(events.n, ended - began, filled - began, cpu, metrics)


def _when_arrived(worker: WorkerProcess, transfers: int) -> float:
    """When so many transfers were seen committed on both sides, seconds since 1970."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := worker.metrics().get(("transactions_total", "TRANSFER"), 0)) < 2 * transfers:
        if time.monotonic() > deadline:
            raise BenchError(f"{found:,.0f} of {2 * transfers:,} sides of transfers were booked within {PATIENCE_S} s")
        time.sleep(LOOK_S)
    return time.time()


def _verify(here: Installation, events: load.WalletEvents) -> None:
    """What books wrong figures measures nothing."""
    once = here.ask("SELECT count() = uniqExact(user_id, transaction_id, status) FROM {db}.transactions")
    refused = here.ask("SELECT countIf(code IS NOT NULL) FROM {db}.transactions")
    total = "SELECT sum(toDecimal256(total, 18)) FROM {db}.balances WHERE asset = "
    held = tuple(here.ask(f"{total}'{asset}'") for asset in ("USD", "EUR"))
    open_sums = here.ask(
        "SELECT count() FROM (SELECT sum(toDecimal256(amount, 18)) AS left FROM {db}.ledger_entries GROUP BY asset "
        "HAVING left != 0 UNION ALL SELECT sum(toDecimal256(amount, 18)) AS left FROM {db}.ledger_entries "
        "WHERE account = 'transit' HAVING left != 0)"
    )
    if not once or refused or held != events.held() or open_sums:
        raise BenchError(
            f"wrong result: once {bool(once)}, {refused} refused, {open_sums} sums that aren't 0, held {held}, should "
            f"be {events.held()}"
        )


def table(run: Run) -> list[Table]:
    """The results of a worker's run."""
    cpu = run.cpu["worker"]
    rows: list[tuple[Value, ...]] = [
        ("wallet events", run.messages),
        ("events/s, exactly once, until all are committed and all transfers have arrived", run.rate),
        ("wanted events/s", WANTED),
        ("events/s and core, by the worker's CPU time", run.messages / cpu if cpu else None),
        ("seconds", run.seconds),
        ("seconds until ClickHouse held all rows", run.clickhouse_seconds),
        ("events/s until ClickHouse held all rows", run.messages / run.clickhouse_seconds),
    ]
    title = "Backlog of wallet events: one worker, changelog, outcomes, transfers, analytics and sinks on"
    return [Table("wallets", title, ("what", "value"), rows), where_time_goes(run, "wallets", "transactions")]
