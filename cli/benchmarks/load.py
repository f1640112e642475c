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


class WalletEvents:
    """The first `n` wallet events: iterate for (key, value). All are accepted, none is refused or rejected.

    Users take turns, and each does these ten, again and again, with so many cents: a deposit of ten times as much, a
    withdrawal PENDING, a transfer to the next user, a conversion, a hold PENDING, the withdrawal COMPLETED, a deposit
    in EUR, the hold COMPLETED, a fee, and a withdrawal at once.
    """

    #: what its steps do to the total that is in wallets: times the cents of USD, and the fee that leaves, in cents
    IN_USD = (10, 0, 0, -1, 0, -1, 0, 0, -1, -1), (0, 0, 35, 10, 0, 25, 0, 0, 0, 25)

    def __init__(self, n: int, users: int = USERS, seed: int = 42) -> None:
        self.n, self.users = n, users
        number = np.arange(n)
        self.step, self.user = number // users % 10, number % users
        self.turn = number // users // 10
        rounds = np.random.default_rng(seed).integers(100, 10_000, (n // users // 10 + 1, users))
        self.cents = rounds[self.turn, self.user]

    def __iter__(self) -> Iterator[Pair]:
        columns = (each.tolist() for each in (self.user, self.turn, self.step, self.cents))
        for i, (user, turn, step, cents) in enumerate(zip(*columns, strict=True)):
            yield wallet_event(i, user, turn, step, cents, (user + 1) % self.users)

    @property
    def transfers(self) -> int:
        """How many of them are transfers, which arrive as so many more outcomes."""
        return int((self.step == 2).sum())

    def held(self) -> tuple[Decimal, Decimal]:
        """All that is in wallets after them and all transfers, (USD, EUR): what ClickHouse must add up to."""
        times, fees = (np.array(each)[self.step] for each in self.IN_USD)
        euros = (9 * self.cents * (self.step == 3)).sum() + (10 * self.cents * (self.step == 6)).sum()
        return Decimal(int((times * self.cents - fees).sum())) / 100, Decimal(int(euros)) / 1000


def wallet_event(i: int, user: int, turn: int, step: int, cents: int, other: int) -> Pair:
    """What user `user` does at a step of the ten of a turn; its time is `moment(i)`."""
    kind, status, name, more = (
        ("DEPOSIT", "COMPLETED", "d", '"payment_method":"card"'),
        ("WITHDRAWAL", "PENDING", "w", '"fee":"0.25","payment_method":"wire"'),
        ("TRANSFER", "COMPLETED", "t", f'"fee":"0.35","counterparty":{{"user_id":"u{other}","wallet_id":"cash"}}'),
        ("CONVERSION", "COMPLETED", "c", '"fee":"0.1","to_asset":"EUR","rate":"0.9"'),
        ("HOLD", "PENDING", "h", '"expires_at":"2299-01-01T00:00:00Z"'),
        ("WITHDRAWAL", "COMPLETED", "w", '"fee":"0.25","payment_method":"wire"'),
        ("DEPOSIT", "COMPLETED", "e", '"payment_method":"sepa"'),
        ("HOLD", "COMPLETED", "h", '"expires_at":"2299-01-01T00:00:00Z"'),
        ("FEE", "COMPLETED", "f", '"description":"custody"'),
        ("WITHDRAWAL", "COMPLETED", "o", '"fee":"0.25","payment_method":"card"'),
    )[step]
    amount = 10 * cents if step == 0 else cents
    return b"u%d" % user, (
        f'{{"transaction_id":"{name}{turn}","user_id":"u{user}","wallet_id":"cash","type":"{kind}","status":"{status}",'
        f'"asset":"{"EUR" if step == 6 else "USD"}","amount":"{amount // 100}.{amount % 100:02}",{more},'
        f'"occurred_at":"{moment(i)}"}}'
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
