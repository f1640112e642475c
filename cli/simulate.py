"""`assetstream simulate`: publish a simulated market."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer
from confluent_kafka import KafkaError, KafkaException, Producer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from assetstream.models.market import START, STEP, Message, market
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import INPUTS, MIB

#: how often the pace is kept, seconds; so many messages are sent between two looks at the clock
TICK_S = 0.01
CHUNK = 1000
REPORT_S = 0.5
CONNECT_TIMEOUT_S = 5.0
FLUSH_TIMEOUT_S = 60.0


class SimulationFailed(Exception):
    """Nothing, or not all, could be published; the text says why in one line."""


@dataclass(frozen=True)
class Sent:
    """What was published and acknowledged: records per topic (without prefix), in how many seconds."""

    topics: dict[str, int]
    messages: int
    seconds: float


def publish_market(
    settings: Settings,
    *,
    users: int = 100,
    symbols: int = 20,
    rate: float = 1000.0,
    seconds: float | None = None,
    messages: int | None = None,
    seed: int = 0,
    bad: float = 0.0,
    live_times: bool = False,
    stop: threading.Event | None = None,
    report: Callable[[Counter[str], float], None] | None = None,
) -> Sent:
    """Publish a simulated market in the order `models.market` makes it, and wait until all is acknowledged.

    rate        messages a second, 0: as fast as possible
    seconds     for how long; with a rate that means rate · seconds messages, however long they take
    messages    how many at most; with neither, until `stop`
    live_times  messages carry times from now on instead of the fixed ones that depend on nothing
    stop        set it to end early
    report      called about twice a second with records sent per topic and seconds since the start

    Raises SimulationFailed when no broker answers, an input topic doesn't exist or a record is refused.
    """
    if rate < 0 or (seconds is not None and seconds < 0) or (messages is not None and messages < 0):
        raise ValueError("rate, seconds and messages can't be negative")
    if rate and seconds is not None:
        messages = min(round(rate * seconds), sys.maxsize if messages is None else messages)
        seconds = None
    start, step = START, STEP
    if live_times:
        start, step = datetime.now(UTC), timedelta(microseconds=max(1, int(1e6 / rate) if rate else 1))
    stream = islice(market(users, symbols, seed, bad=bad, start=start, step=step), messages)
    publisher = _Publisher(settings)
    began = time.monotonic()
    _publish(publisher, stream, rate, seconds, stop or threading.Event(), report)
    publisher.finish()
    return Sent(dict(publisher.sent), publisher.sent.total(), time.monotonic() - began)


def _publish(
    publisher: _Publisher,
    stream: Iterator[Message],
    rate: float,
    seconds: float | None,
    stop: threading.Event,
    report: Callable[[Counter[str], float], None] | None,
) -> None:
    """Send the stream at its pace until it ends, the time is over or `stop` is set."""
    began = time.monotonic()
    reported = began
    sent = 0
    while not stop.is_set():
        now = time.monotonic()
        if seconds is not None and now - began >= seconds:
            return
        due = min(int((now - began) * rate) + 1 - sent, CHUNK) if rate else CHUNK
        chunk = list(islice(stream, max(due, 0)))
        if due > 0 and not chunk:
            return
        publisher.send(chunk)
        sent += len(chunk)
        if report and now - reported >= REPORT_S:
            reported = now
            report(publisher.sent, now - began)
        if rate and due < CHUNK:
            stop.wait(TICK_S)


class _Publisher:
    """An idempotent producer that counts what it sent and remembers the first failure."""

    def __init__(self, settings: Settings) -> None:
        self.sent: Counter[str] = Counter()
        self._failure: str | None = None
        self._topics = {name: settings.topic(name) for name in INPUTS}
        self._producer = Producer(
            settings.kafka(
                **{
                    "partitioner": "murmur2_random",
                    "enable.idempotence": True,
                    "acks": "all",
                    "compression.type": "lz4",
                    "linger.ms": 5,
                    "batch.num.messages": 10_000,
                    "queue.buffering.max.messages": 500_000,
                    "message.max.bytes": 4 * MIB,
                    "log_level": 0,
                    "error_cb": self._on_error,
                }
            )
        )
        self._check(settings)

    def _check(self, settings: Settings) -> None:
        """Raise SimulationFailed unless the cluster answers and has the input topics."""
        try:
            known = self._producer.list_topics(timeout=CONNECT_TIMEOUT_S).topics
        except KafkaException as error:
            self._producer.poll(0)  # the callback knows more than the timeout
            why = self._failure or error.args[0].str()
            raise SimulationFailed(
                f"no Kafka broker at {settings.kafka_bootstrap_servers} ({why}); `assetstream up` starts one"
            ) from None
        missing = [topic for topic in self._topics.values() if topic not in known]
        if missing:
            raise SimulationFailed(f"no topic {', '.join(missing)}; `assetstream init` makes them")
        self._failure = None

    def send(self, chunk: list[Message]) -> None:
        """Hand the chunk to the producer; waits while its queue is full."""
        produce, topics, delivered = self._producer.produce, self._topics, self._on_delivery
        for topic, key, value in chunk:
            while True:
                try:
                    produce(topics[topic], value, key, on_delivery=delivered)
                    break
                except BufferError:
                    self._producer.poll(0.05)
                    self._raise_failure()
            self.sent[topic] += 1
        self._producer.poll(0)
        self._raise_failure()

    def finish(self) -> None:
        """Wait until everything is acknowledged."""
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        self._raise_failure()
        if left:
            raise SimulationFailed(f"{left} messages were not acknowledged within {FLUSH_TIMEOUT_S:.0f} s")

    def _on_delivery(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failure = f"a message was refused: {error.str()}"

    def _on_error(self, error: KafkaError) -> None:
        # librdkafka reconnects by itself: only what is final, or why nothing ever answered, is of interest.
        if error.fatal() or not self.sent:
            self._failure = self._failure or error.str()

    def _raise_failure(self) -> None:
        if self._failure:
            raise SimulationFailed(self._failure)


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that what was sent is still flushed and reported."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _reporter(total: int | None) -> Iterator[Callable[[Counter[str], float], None]]:
    """Progress on stderr: a bar on a terminal, else a plain line every five seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:>12,.0f} messages"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[speed]:,.0f}/s"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, speed=0.0)
        yield lambda sent, seconds: progress.update(
            task, completed=sent.total(), speed=sent.total() / max(seconds, 1e-9)
        )


def _plain_lines() -> Callable[[Counter[str], float], None]:
    last = 0.0

    def line(sent: Counter[str], seconds: float) -> None:
        nonlocal last
        if seconds - last >= 5:
            last = seconds
            speed = sent.total() / seconds
            print(f"{seconds:.0f} s: {sent.total():,} messages, {speed:,.0f}/s", file=sys.stderr, flush=True)

    return line


def simulate(
    users: Annotated[int, typer.Option(min=1, help="Users; every third has two portfolios.")] = 100,
    symbols: Annotated[int, typer.Option(min=1, help="Symbols they trade, in USD, EUR, GBP and JPY.")] = 20,
    rate: Annotated[float, typer.Option(min=0, help="Messages a second; 0: as fast as possible.")] = 1000,
    seconds: Annotated[float | None, typer.Option(min=0, help="For how long; else until Ctrl-C.")] = None,
    messages: Annotated[int | None, typer.Option(min=0, help="How many at most.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same messages.")] = 0,
    bad: Annotated[float, typer.Option(min=0, max=1, help="Share of bad and repeated messages.")] = 0.0,
    live_times: Annotated[
        bool, typer.Option("--live-times", help="Carry times from now on: a new market every time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was sent as one JSON object.")] = False,
) -> None:
    """Publish a simulated market: trades, prices, wallet events and limits."""
    settings = load()
    totals = [messages, round(rate * seconds) if rate and seconds is not None else None]
    total = min((n for n in totals if n is not None), default=None)
    with _stop_on_signals() as stop, _reporter(total) as report:
        sent = publish_market(
            settings,
            users=users,
            symbols=symbols,
            rate=rate,
            seconds=seconds,
            messages=messages,
            seed=seed,
            bad=bad,
            live_times=live_times,
            stop=stop,
            report=report,
        )
    if as_json:
        typer.echo(json.dumps(asdict(sent)))
        return
    for topic, n in sorted(sent.topics.items()):
        typer.echo(f"{topic:<14}{n:>12,}")
    typer.echo(f"{'all':<14}{sent.messages:>12,}  in {sent.seconds:.1f} s")
