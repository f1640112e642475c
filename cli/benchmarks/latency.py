"""Latency at a steady load: from `produce()` of a message to its effects being readable, as a publisher and a reader
see it. Both are processes of their own beside the worker; the clock is the machine's monotonic one.

- A trade's update: the first record of `portfolio_updates` of its portfolio whose `as_of` is not before the trade's
  `executed_at`. Every trade has a time of its own and all prices are older, so such a record has the trade in it.
- An alert: the record of `risk_alerts` whose `cause` is the trade's, or the price's, partition and offset. Kafka tells
  the publisher where it put them.

The publisher sends one request each LINGER_MS for all partitions, as the Java client does (librdkafka sends one for
each partition: at this rate thousands a second, which would measure the broker's patience and not ours).

Of prices there is one alert each to wait for: for every symbol somebody holds ten of it under a limit that lies between
the two prices it alternates between. The traders' own limits are of the throughput benchmark.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from threading import Event
from typing import NamedTuple

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from assetstream.cli.benchmarks import load
from assetstream.cli.benchmarks.installation import Ends, Installation
from assetstream.cli.benchmarks.report import BenchError, Table, Value
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams.batch_writer import Batch, BatchWriter, outgoing_of
from assetstream.streams.connection import Connection
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.settings import Settings

#: how long a publisher collects before it sends: a message's clock runs from when it was given to it
LINGER_MS = 5
PARTITIONS = 8
#: the two prices that every symbol alternates between, and the limit in between of ten of it
CENTS = (9_500, 9_510)
HOLDER_LIMITS = {"max_position_size": "950.5"}
#: readers go on this long after the last message was sent
TAIL_S = 2.0
#: ms that p50 and p99 of a trade's way may take
WANTED_MS = (30.0, 50.0)


#: partition, key and value
Message = tuple[int, bytes | None, bytes]


class Load(NamedTuple):
    """What is sent, and when: `rate` trades and `prices` prices a second."""

    rate: int
    prices: int
    seconds: float

    @property
    def trades(self) -> int:
        """How many trades."""
        return round(self.rate * self.seconds)

    @property
    def priced(self) -> int:
        """How many prices."""
        return round(self.prices * self.seconds)


class Sent(NamedTuple):
    """When what was given to the producer, monotonic ns, and at which offset Kafka put it: trades and prices by number;
    and how late the producer ever was, ms.
    """

    trades: np.ndarray
    prices: np.ndarray
    trade_offsets: np.ndarray
    price_offsets: np.ndarray
    late_ms: float


class Received(NamedTuple):
    """When records were readable, monotonic ns, and what they said."""

    updates: list[tuple[int, bytes]]
    alerts: list[tuple[int, bytes]]


def run(
    stack: EmbeddedStack, rate: int, prices: int, warm_up: float, seconds: float, progress: Progress
) -> list[Table]:
    """Send for `warm_up` and then `seconds` seconds; what was sent in the latter counts."""
    installation = Installation(stack, "latency", partitions=PARTITIONS)
    progress("making topics and tables of latency", 0, 0)
    installation.init()
    try:
        with installation.worker() as worker:
            placed = _prepare(installation)
            installation.when_committed(installation.ends("risk_limits", "prices", "trades"), check=lambda: worker.port)
            planned = Load(rate, prices, warm_up + seconds)
            sent, received = _measure(installation, planned, placed, progress)
            worker.port  # noqa: B018  raises when it is gone
    finally:
        installation.remove()
    return [_table(planned, warm_up, sent, received, placed)]


# ------------------------------------------------------------------------------------------------- what is there before


def _prepare(installation: Installation) -> dict[bytes, int]:
    """Limits, a price of every symbol, and a holder of each; -> the partition of each user and symbol."""
    settings = installation.settings
    holders = range(load.USERS, load.USERS + load.SYMBOLS)
    limits = [load.limits(user, load.LIMITS) for user in range(load.USERS)]
    limits += [load.limits(user, HOLDER_LIMITS) for user in holders]
    prices = [load.price(symbol, CENTS[0], symbol) for symbol in range(load.SYMBOLS)]
    opening = [load.trade(i, user, i, 100, CENTS[0]) for i, user in enumerate(holders)]
    placed = load.publish(settings, "prices", prices, len(prices))
    placed |= load.publish(settings, "risk_limits", limits, len(limits))
    load.publish(settings, "trades", opening, len(opening))
    return placed


def trades_of(planned: Load) -> load.Trades:
    """The trades sent; their times are after all others."""
    return load.Trades(planned.trades, first=2 * load.MOST // 4)


def prices_of(planned: Load) -> Iterator[load.Pair]:
    """The prices sent: symbols in turn, each changes every time."""
    for k in range(planned.priced):
        yield load.price(k % load.SYMBOLS, CENTS[(k // load.SYMBOLS + 1) % 2], load.SYMBOLS + k)


# ------------------------------------------------------------------------------------------------------ the measurement


def _measure(
    installation: Installation, planned: Load, placed: dict[bytes, int], progress: Progress
) -> tuple[Sent, Received]:
    """The load and its reader, in processes of their own."""
    outputs = installation.ends("portfolio_updates", "risk_alerts")
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        reading, over, begin = manager.Event(), manager.Event(), manager.Event()
        reader = pool.submit(_read, installation.settings, outputs, reading, over)
        sender = pool.submit(_send, installation.settings, planned, placed, begin)
        try:
            if not reading.wait(60):
                raise BenchError("the reader did not start within 60 s")
            begin.set()
            began = time.monotonic()
            while not sender.done():
                time.sleep(0.5)
                progress("steady load", min(int(time.monotonic() - began), int(planned.seconds)), int(planned.seconds))
            sent = sender.result()
            time.sleep(TAIL_S)
        finally:
            begin.set()
            over.set()
        return sent, reader.result(60)


def _send(settings: Settings, planned: Load, placed: dict[bytes, int], begin: Event) -> Sent:
    """Send all messages at their time. Raises KafkaError when one could not be written."""
    return asyncio.run(_publish(settings, planned, placed, begin))


class _Request(NamedTuple):
    """What is sent at one moment: which trades and prices, and their batches."""

    trades: range
    prices: range
    rounds: list[list[Batch]]


def _requests(settings: Settings, planned: Load, messages: Sequence[Message]) -> list[_Request]:
    """All requests, built before the clock runs. `messages`: the trades, and after them the prices."""
    names, counts = (settings.topic("trades"), settings.topic("prices")), (planned.trades, planned.priced)
    writer, made, done = BatchWriter(), [], [0, counts[0]]
    steps = round(planned.seconds * 1_000 / LINGER_MS)
    for step in range(1, steps + 1):
        until = [round(step * counts[0] / steps), counts[0] + round(step * counts[1] / steps)]
        sent = [range(a, b) for a, b in zip(done, until, strict=True)]
        records = [outgoing_of(name, messages[its.start : its.stop]) for name, its in zip(names, sent, strict=True)]
        made.append(_Request(sent[0], sent[1], writer.write(records)))
        done = until
    return made


async def _publish(settings: Settings, planned: Load, placed: dict[bytes, int], begin: Event) -> Sent:
    messages = [(placed[key], key, value) for pairs in (trades_of(planned), prices_of(planned)) for key, value in pairs]
    requests = _requests(settings, planned, messages)
    connection = Connection(settings)
    names = settings.topic("trades"), settings.topic("prices")
    await connection.know(names)
    begin.wait()
    gc.collect()
    gc.disable()
    clock, late, answers = time.monotonic_ns, 0, []
    times = np.zeros(len(messages), np.int64)
    began = clock()
    for step, request in enumerate(requests, 1):
        due = began + step * LINGER_MS * 1_000_000
        await asyncio.sleep(max(0, due - clock()) / 1e9)
        late = max(late, clock() - due)
        for its in request[:2]:
            # evenly spread over the time before: what came first has waited the longest for company
            times[its.start : its.stop] = due - LINGER_MS * 1_000_000 * np.arange(len(its), 0, -1) // max(1, len(its))
        answers.append(asyncio.create_task(connection.produce(request.rounds)))
    gc.enable()
    offsets = np.zeros(len(messages), np.int64)
    for request, answer in zip(requests, answers, strict=True):
        where = {place: chain(*ranges) for place, ranges in (await answer).items()}
        for name, its in zip(names, request[:2], strict=True):
            for i in its:
                offsets[i] = next(where[name, messages[i][0]])
    await connection.close()
    n = planned.trades
    return Sent(times[:n], times[n:], offsets[:n], offsets[n:], late / 1e6)


def _read(settings: Settings, starts: Ends, reading: Event, over: Event) -> Received:
    """Read the outputs as a consumer of read_committed does, and note when each record came."""
    consumer = Consumer(
        settings.kafka(
            **{
                "group.id": f"bench-latency-{time.time_ns()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": 5,
            }
        )
    )
    updates = settings.topic("portfolio_updates")
    received = Received([], [])
    consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in starts.items()])
    consumer.poll(0.5)
    reading.set()
    gc.collect()
    gc.disable()
    following = time.monotonic()
    while True:
        first = consumer.poll(0.1)
        now = time.monotonic_ns()
        if first is not None:
            for message in (first, *consumer.consume(1_000, 0)):
                if message.error() is None:
                    (received.updates if message.topic() == updates else received.alerts).append((now, message.value()))
        if time.monotonic() > following:  # asking the other process costs something
            following = time.monotonic() + 0.5
            if over.is_set():
                break
    consumer.close()
    return received


# --------------------------------------------------------------------------------------------------------- the results


def _table(planned: Load, warm_up: float, sent: Sent, received: Received, placed: dict[bytes, int]) -> Table:
    counts = slice(round(planned.rate * warm_up), None), slice(round(planned.prices * warm_up), None)
    updates = _to_updates(planned, sent, received)[counts[0]]
    by_trade, by_price = _to_alerts(planned, sent, received, placed)
    ways = (
        ("trade → portfolio_updates", updates, len(updates)),
        ("trade → risk_alerts", by_trade[counts[0]], None),
        ("price → risk_alerts", by_price[counts[1]], len(by_price[counts[1]])),
    )
    rows: list[tuple[Value, ...]] = []
    for way, waits, expected in ways:
        seen = waits[np.isfinite(waits)]
        if not len(seen):
            raise BenchError(f"{way}: nothing came")
        quantiles = [float(np.quantile(seen, q)) for q in (0.5, 0.9, 0.99, 0.999, 1)]
        wanted = "–" if way.startswith("price") else f"{WANTED_MS[0]:.0f} / {WANTED_MS[1]:.0f}"
        rows.append((way, len(seen), *quantiles, wanted, None if expected is None else expected - len(seen)))
    columns = ("from → to", "measured", "p50", "p90", "p99", "p99.9", "max", "p50 / p99 wanted", "missing")
    note = (
        f"{planned.rate:,} trades/s and {planned.prices:,} prices/s for {planned.seconds - warm_up:.0f} s, after "
        f"{warm_up:.0f} s of warm-up; linger.ms of the publisher: {LINGER_MS}; it was late by {sent.late_ms:.1f} ms at "
        "most. Missing: prices superseded before they were judged, as the interface allows."
    )
    return Table(
        "latency",
        "Latency at a steady load, ms from produce() to readable by a read_committed consumer",
        columns,
        rows,
        note,
    )


def _to_updates(planned: Load, sent: Sent, received: Received) -> np.ndarray:
    """ms from each trade to the first update of its portfolio that has it in it; nan where none came."""
    seen: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for now, value in received.updates:
        update = json.loads(value)
        seen[update["user_id"]].append((update["as_of"], now))
    trades = trades_of(planned)
    waits = np.full(planned.trades, np.nan)
    for user in range(trades.users):
        numbers = np.arange(user, planned.trades, trades.users)
        found = seen.get(f"u{user}", [])
        as_of = np.array([_us(text) for text, _ in found], np.int64)
        readable = np.array([now for _, now in found], np.float64)
        at = np.searchsorted(np.maximum.accumulate(as_of) if len(as_of) else as_of, numbers + trades.first)
        came = at < len(found)
        waits[numbers[came]] = (readable[at[came]] - sent.trades[numbers[came]]) / 1e6
    return waits


def _us(text: str) -> int:
    """What `load.moment` was made of."""
    hours, minutes, seconds, micros = int(text[11:13]) - 9, int(text[14:16]), int(text[17:19]), int(text[20:26])
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros


def _to_alerts(
    planned: Load, sent: Sent, received: Received, placed: dict[bytes, int]
) -> tuple[np.ndarray, np.ndarray]:
    """ms from each trade, and from each price, to the first alert that it caused; nan where there was none."""
    trades = [placed[b"u%d" % (i % load.USERS)] for i in range(planned.trades)]
    prices = [placed[b"S%d" % (i % load.SYMBOLS)] for i in range(planned.priced)]
    numbers = {
        "trades": {place: i for i, place in enumerate(zip(trades, sent.trade_offsets.tolist(), strict=True))},
        "prices": {place: i for i, place in enumerate(zip(prices, sent.price_offsets.tolist(), strict=True))},
    }
    waits = {"trades": np.full(planned.trades, np.nan), "prices": np.full(planned.priced, np.nan)}
    times = {"trades": sent.trades, "prices": sent.prices}
    for now, value in received.alerts:
        cause = json.loads(value)["cause"]
        topic = cause["topic"].rpartition("-")[2]
        i = numbers.get(topic, {}).get((cause["partition"], cause["offset"]))
        if i is not None:  # else of what was there before
            waits[topic][i] = np.fmin(waits[topic][i], (now - times[topic][i]) / 1e6)
    return waits["trades"], waits["prices"]
