"""The messages that benchmarks feed: 500 users who trade 97 symbols, in the form of the interface, always the same.

Users and symbols take turns, so after 48,500 trades every user has a position in every symbol. Quantities are 0.1 to
10 and prices 90 to 100, in even distribution; sides are thrown. `executed_at` grows by a microsecond a trade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

import numpy as np
from confluent_kafka import KafkaError, Message, Producer

from assetstream.cli.benchmarks.report import BenchError
from assetstream.streams.embedded_kafka import Progress, silent
from assetstream.streams.settings import Settings

USERS, SYMBOLS = 500, 97
#: the limits of everyone: one or two trades in a hundred move a rule to another level, early and late in a run
LIMITS = {
    "max_position_size": "8000",
    "max_portfolio_value": "100000",
    "max_daily_loss": "100",
    "max_weekly_loss": "2000",
    "max_total_loss": "5000",
}
#: microseconds that times can be moved by and stay in one UTC day
MOST = 14 * 3_600_000_000

Pair = tuple[bytes, bytes]


def moment(us: int) -> str:
    """The time `us` microseconds after nine o'clock of the benchmarks' day, 0 ≤ us < MOST."""
    seconds, micros = divmod(us, 1_000_000)
    minutes, second = divmod(seconds, 60)
    return f"2026-03-02T{9 + minutes // 60:02}:{minutes % 60:02}:{second:02}.{micros:06}Z"


class Trades:
    """The first `n` trades: iterate for (key, value). quantity: in tenths, signed; price: in hundredths."""

    def __init__(self, n: int, users: int = USERS, symbols: int = SYMBOLS, seed: int = 42, first: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.users, self.symbols, self.first = n, users, symbols, first
        self.quantity = rng.integers(1, 101, n) * rng.choice([-1, 1], n)
        self.price = rng.integers(9_000, 10_001, n)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Pair]:
        columns = zip(self.quantity.tolist(), self.price.tolist(), strict=True)
        for i, (quantity, price) in enumerate(columns, self.first):
            yield trade(i, i % self.users, i % self.symbols, quantity, price)

    def traded(self) -> Decimal:
        """The sum of all signed quantities: what ClickHouse must add up to."""
        return Decimal(int(self.quantity.sum())) / 10


def trade(i: int, user: int, symbol: int, tenths: int, cents: int) -> Pair:
    """Trade number i of a user, `tenths` > 0 bought; its time is `moment(i)`."""
    size = abs(tenths)
    return b"u%d" % user, (
        f'{{"trade_id":"t{i}","user_id":"u{user}","portfolio_id":"main","wallet_id":"cash","symbol":"S{symbol}",'
        f'"currency":"USD","side":"{"BUY" if tenths > 0 else "SELL"}","quantity":"{size // 10}.{size % 10}",'
        f'"price":"{cents // 100}.{cents % 100:02}","fee":"0.05","executed_at":"{moment(i)}"}}'
    ).encode()


def price(symbol: int, cents: int, us: int) -> Pair:
    """A price of a symbol as of `moment(us)`."""
    return b"S%d" % symbol, (
        f'{{"symbol":"S{symbol}","price":"{cents // 100}.{cents % 100:02}","currency":"USD","as_of":"{moment(us)}"}}'
    ).encode()


def limits(user: int, rules: dict[str, str], version: int = 1) -> Pair:
    """The limits of a user's portfolio."""
    written = "".join(f'"{name}":"{value}",' for name, value in rules.items())
    return b"u%d" % user, (
        f'{{"user_id":"u{user}","portfolio_id":"main","version":{version},{written}"updated_at":"{moment(0)}"}}'
    ).encode()


def publish(
    settings: Settings, topic: str, messages: Iterable[Pair], total: int, progress: Progress = silent
) -> dict[bytes, int]:
    """Publish (key, value) pairs to an input topic (plain name), in large batches; -> the partition of each key.

    Raises BenchError when the broker does not take one of them.
    """
    placed: dict[bytes, int] = {}
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)
        else:
            placed[message.key()] = message.partition()

    producer = Producer(
        settings.kafka(
            **{
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 20,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )
    )
    name = settings.topic(topic)
    for sent, (key, value) in enumerate(messages, 1):
        while True:
            try:
                producer.produce(name, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        if sent % 5_000 == 0:
            producer.poll(0)
            progress(f"publishing {topic}", sent, total)
    left = producer.flush(60)
    if failed or left:
        raise BenchError(f"{name}: {failed[0].str() if failed else f'{left} messages were not acknowledged'}")
    return placed
