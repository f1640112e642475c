"""Latency at a steady load: from `produce()` of a message to its effects being readable, as a publisher and a reader
see it. Both are processes of their own beside the worker; the clock is the machine's monotonic one.

- A trade's update: the first record of `portfolio_updates` of its portfolio whose `as_of` is not before the trade's
  `executed_at`. Every trade has a time of its own and all prices are older, so such a record has the trade in it.
- An alert: the record of `risk_alerts` whose `cause` is the trade's, or the price's, partition and offset. Whoever
  publishes knows them: the producer is the only one, is idempotent, and so the k-th message it gives to a partition
  is the k-th there; the last delivery reports prove it.

Of prices there is one alert each to wait for: for every symbol somebody holds ten of it under a limit that lies between
the two prices it alternates between. The traders' own limits are of the throughput benchmark.
"""

from __future__ import annotations

import gc
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from assetstream.cli.benchmarks import load
from assetstream.cli.benchmarks.installation import Ends, Installation
from assetstream.cli.benchmarks.report import BenchError, Table, Value
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.settings import Settings

#: the generator wakes up this often and sends what is due
STEP_S = 0.001
#: what a publisher waits for company before it sends
LINGER_MS = 5
PARTITIONS = 8
#: the two prices that every symbol alternates between, and the limit in between of ten of it
CENTS = (9_500, 9_510)
HOLDER_LIMITS = {"max_position_size": "950.5"}
#: readers go on this long after the last message was sent
TAIL_S = 2.0
#: ms that p50 and p99 of a trade's way may take
WANTED_MS = (30.0, 50.0)


class Load(NamedTuple):
    """What is sent, and when: `rate` trades and `prices` prices a second."""

    rate: int
    prices: int
    seconds: float

    @property
    def trades(self) -> int:
        """How many trades."""
        return round(self.rate * self.seconds)


class Sent(NamedTuple):
    """When what was given to the producer, monotonic ns: trades and prices by number; and how late it ever was, ms."""

    trades: np.ndarray
    prices: np.ndarray
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
            sent, received, starts = _measure(installation, planned, placed, progress)
            worker.port  # noqa: B018  raises when it is gone
    finally:
        installation.remove()
    return [_table(planned, warm_up, sent, received, placed, starts)]


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
    for k in range(round(planned.prices * planned.seconds)):
        yield load.price(k % load.SYMBOLS, CENTS[(k // load.SYMBOLS + 1) % 2], load.SYMBOLS + k)


# ------------------------------------------------------------------------------------------------------ the measurement


def _measure(
    installation: Installation, planned: Load, placed: dict[bytes, int], progress: Progress
) -> tuple[Sent, Received, Ends]:
    """The load and its reader, in processes of their own; and where the input partitions ended before it."""
    starts = installation.ends("trades", "prices")
    outputs = installation.ends("portfolio_updates", "risk_alerts")
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        reading, over, begin = manager.Event(), manager.Event(), manager.Event()
        reader = pool.submit(_read, installation.settings, outputs, reading, over)
        sender = pool.submit(_send, installation.settings, planned, placed, starts, begin)
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
        return sent, reader.result(60), starts


def _send(settings: Settings, planned: Load, placed: dict[bytes, int], starts: Ends, begin: Event) -> Sent:
    """Send all messages, each in its millisecond. Raises BenchError when they lie elsewhere than they should."""
    trades, prices = list(trades_of(planned)), list(prices_of(planned))
    last: dict[tuple[str, int], int] = {}
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)
        else:
            last[message.topic(), message.partition()] = message.offset()

    config = {"partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": LINGER_MS, "log_level": 0}
    producer = Producer(settings.kafka(**config))
    topics = settings.topic("trades"), settings.topic("prices")
    producer.list_topics(timeout=10)
    times = [0] * len(trades), [0] * len(prices)
    begin.wait()
    gc.collect()
    gc.disable()
    clock, late, done = time.monotonic_ns, 0, [0, 0]
    began = clock()
    for step in range(1, round(planned.seconds / STEP_S) + 1):
        due = began + int((step - 1) * STEP_S * 1e9)
        wait = due - clock()
        if wait > 0:
            time.sleep(wait / 1e9)
        late = max(late, -wait)
        for which, messages in enumerate((trades, prices)):
            until = min(len(messages), round(step * len(messages) * STEP_S / planned.seconds))
            for i in range(done[which], until):
                key, value = messages[i]
                times[which][i] = clock()
                producer.produce(topics[which], value, key, on_delivery=delivered)
            done[which] = until
        producer.poll(0)
    gc.enable()
    left = producer.flush(30)
    if failed or left:
        raise BenchError(f"not delivered: {failed[0].str() if failed else f'{left} messages'}")
    for topic, messages in zip(topics, (trades, prices), strict=True):
        _check_offsets(topic, [placed[key] for key, _ in messages], starts, last)
    return Sent(np.array(times[0], np.int64), np.array(times[1], np.int64), late / 1e6)


def _check_offsets(topic: str, partitions: list[int], starts: Ends, last: dict[tuple[str, int], int]) -> None:
    for partition, count in enumerate(np.bincount(partitions, minlength=PARTITIONS).tolist()):
        if count and last.get((topic, partition)) != starts[topic, partition] + count - 1:
            raise BenchError(f"{topic}-{partition}: somebody else wrote to it, offsets are not known")


def _read(settings: Settings, starts: Ends, reading: Event, over: Event) -> Received:
    """Read the outputs as a consumer of read_committed does, and note when each record came."""
    consumer = Consumer(
        settings.kafka(
            **{
                "group.id": f"bench-latency-{time.time_ns()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 5,
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


def _table(
    planned: Load, warm_up: float, sent: Sent, received: Received, placed: dict[bytes, int], starts: Ends
) -> Table:
    counts = slice(round(planned.rate * warm_up), None), slice(round(planned.prices * warm_up), None)
    updates = _to_updates(planned, sent, received)[counts[0]]
    by_trade, by_price = _to_alerts(planned, sent, received, placed, starts)
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
    planned: Load, sent: Sent, received: Received, placed: dict[bytes, int], starts: Ends
) -> tuple[np.ndarray, np.ndarray]:
    """ms from each trade, and from each price, to the first alert that it caused; nan where there was none."""
    numbers = {
        "trades": _numbers([placed[b"u%d" % (i % load.USERS)] for i in range(planned.trades)]),
        "prices": _numbers([placed[b"S%d" % (i % load.SYMBOLS)] for i in range(len(sent.prices))]),
    }
    waits = {"trades": np.full(planned.trades, np.nan), "prices": np.full(len(sent.prices), np.nan)}
    times: dict[str, Any] = {"trades": sent.trades, "prices": sent.prices}
    for now, value in received.alerts:
        cause = json.loads(value)["cause"]
        topic = cause["topic"].rpartition("-")[2]
        if topic not in numbers:
            continue
        ordinal = cause["offset"] - starts[cause["topic"], cause["partition"]]
        if ordinal >= 0:  # else of what was there before
            i = numbers[topic][cause["partition"]][ordinal]
            waits[topic][i] = np.fmin(waits[topic][i], (now - times[topic][i]) / 1e6)
    return waits["trades"], waits["prices"]


def _numbers(partitions: list[int]) -> list[list[int]]:
    """By partition: which messages went there, in order."""
    found: list[list[int]] = [[] for _ in range(PARTITIONS)]
    for i, partition in enumerate(partitions):
        found[partition].append(i)
    return found
