"""What the core does without Kafka: revaluation with limit checks, wallets, throughput by batch size and positions."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from assetstream.cli.benchmarks import core, load
from assetstream.cli.benchmarks.report import BenchError, Table, Value
from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import apply_transactions
from assetstream.models.market import START, STEP, Market
from assetstream.models.marks import apply_marks
from assetstream.models.outputs import Code
from assetstream.models.state import new_account_state
from assetstream.models.verdicts import Verdict
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.settings import Settings

SYMBOLS = 100
#: what revaluation may take, ms by positions
WANTED_MS = {10_000: 1.0, 1_000_000: 100.0}
#: wallet events a second through decoding and kernel, on one core
WANTED_EVENTS = 100_000
#: transactions that a partition remembers, as the setting's default has it
ID_MEMORY = 1_000_000


def revaluation(sizes: Sequence[int], repetitions: int, progress: Progress) -> list[Table]:
    """One mark of every symbol: every position is valued anew, and after each mark the rules it touches are judged."""
    rows: list[tuple[Value, ...]] = []
    for positions in sizes:
        progress(f"filling {positions:,} positions", 0, 0)
        state = core.filled(positions, SYMBOLS)
        taken, alerts = [], 0
        for k in range(2 + repetitions):  # the first two compile, and give every symbol its mark
            progress(f"revaluing {positions:,} positions", k, 2 + repetitions)
            batch = core.marks(SYMBOLS, k + 1)
            began = time.perf_counter()
            result = apply_marks(state, batch)
            taken.append(time.perf_counter() - began)
            state = result.state
            alerts += len(result.alerts) if k >= 2 else 0
        taken_ms = np.array(taken[2:]) * 1e3
        p50 = float(np.median(taken_ms))
        rows.append(
            (
                positions,
                SYMBOLS,
                p50,
                float(taken_ms.max()),
                p50 * 1e6 / positions,
                alerts / repetitions,
                WANTED_MS.get(positions),
            )
        )
    columns = ("positions", "marks", "p50 ms", "max ms", "ns a position", "alerts each time", "wanted ms")
    return [
        Table(
            "revaluation",
            "All positions revalued and all their limits checked",
            columns,
            rows,
            f"{repetitions} repetitions; portfolios of {SYMBOLS} positions with all five rules; the marks move by a "
            "tenth of a per cent. One partition, one thread.",
        )
    ]


def ledger(events: int, batches: Sequence[int], progress: Progress) -> list[Table]:
    """Wallet events of every type and status, decoded and booked, by batch size."""
    messages = list(islice(wallet_events(), events))
    _book(messages[: 2 * core.CHUNK], core.CHUNK)  # compiled
    rows: list[tuple[Value, ...]] = []
    refused = 0
    for size in batches:
        progress(f"booking {events:,} wallet events, batches of {size:,}", 0, 0)
        decoding, booking, refused = _book(messages, size)
        both = decoding + booking
        rows.append((size, decoding * 1e6 / events, booking * 1e6 / events, events / both, WANTED_EVENTS))
    columns = ("batch", "decode, µs an event", "kernel, µs an event", "events/s", "wanted events/s")
    note = (
        f"{events:,} events of {load.USERS} users, all types and statuses as `assetstream simulate` mixes them, "
        f"{refused / events:.1%} of them refused; {ID_MEMORY:,} final transactions are remembered. One partition, one "
        "thread, without Kafka."
    )
    return [Table("ledger", "Wallet events decoded and booked", columns, rows, note)]


def wallet_events() -> Iterator[load.Pair]:
    """The wallet events of a simulated market without end: a deposit for everyone, then all types; none is rejected."""
    market = Market(load.USERS, 1, 42, START, STEP)
    for topic, key, value in market.head():
        if topic == "transactions":
            yield key or b"", value or b""
    while True:
        _, key, value = market.transaction()
        yield key or b"", value or b""


def _book(messages: list[load.Pair], batch: int) -> tuple[float, float, int]:
    """(seconds of decoding, seconds of the kernel, events that were refused); the state is new."""
    state, decoding, booking, refused = new_account_state(b"USD", ID_MEMORY), 0.0, 0.0, 0
    for records in list(core.chunks(messages, batch, "transactions")):
        began = time.perf_counter()
        decoded = decode_transactions(records, core.SKEW_US)
        between = time.perf_counter()
        result = apply_transactions(state, decoded)
        decoding, booking = decoding + between - began, booking + time.perf_counter() - between
        state = result.state
        if (result.verdict != Verdict.APPLIED).any():
            raise BenchError("a wallet event of the benchmark was rejected")
        refused += int((result.outcomes["code"] != Code.NONE).sum())
    return decoding, booking, refused


def scaling(batches: Sequence[int], positions: Sequence[int], progress: Progress) -> list[Table]:
    """Messages a second that the core takes, decoding to encoded outputs, by batch size and by number of positions."""
    by_batch: list[tuple[Value, ...]] = []
    for size in batches:
        progress(f"batches of {size:,}", 0, 0)
        by_batch.append((size, _rate(load.USERS * load.SYMBOLS, size)))
    by_positions: list[tuple[Value, ...]] = []
    for count in positions:
        progress(f"{count:,} positions", 0, 0)
        by_positions.append((count, _rate(count, 2_000)))
    note = "In one process without Kafka: decode, kernel, cut, encoded outputs and Arrow; a cut after every batch."
    return [
        Table("scaling", "Core throughput by batch size, 48,500 positions", ("batch", "messages/s"), by_batch, note),
        Table(
            "scaling", "Core throughput by positions, batches of 2,000", ("positions", "messages/s"), by_positions, note
        ),
    ]


def _rate(positions: int, batch: int, least_messages: int = 100_000) -> float:
    """Messages a second over so many positions, all of them held before the clock starts."""
    symbols = min(load.SYMBOLS, positions)
    users = positions // symbols
    partition = core.Partition(Settings(_env_file=None))  # type: ignore[call-arg]
    opening = (load.trade(i, i % users, i // users, 10, 9_500) for i in range(users * symbols))
    for records in core.chunks(opening, core.CHUNK):
        partition.take(records)
        partition.publication([partition.cut()])
    rng = np.random.default_rng(7)
    n = max(least_messages // batch, 5) * batch
    drawn = rng.integers(0, [[users], [symbols], [200], [1001]], (4, n))
    drawn[2] += drawn[2] >= 100  # tenths −100 … −1, 1 … 100
    messages = (
        load.trade(users * symbols + i, u, s, tenths - 100, 9_000 + cents)
        for i, (u, s, tenths, cents) in enumerate(drawn.T.tolist())
    )
    batches = [r._replace(offset=r.offset + users * symbols) for r in core.chunks(messages, batch)]
    partition.seconds = dict.fromkeys(partition.seconds, 0.0)
    gc.collect()
    for records in batches:
        partition.take(records)
        partition.publication([partition.cut()])
    return n / sum(partition.seconds.values())
