"""`marks`, the latest price of each symbol: written by whoever has the symbol's partition of `prices`, read by all.

The follower is no member of the consumer group: a plain consumer over all partitions, in a thread of its own. What it
reads is conflated (the last per symbol of each read) and handed to the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import OffsetSpec

from assetstream.models.records import Records, records_of
from assetstream.streams import topics
from assetstream.streams.admin import log_offsets
from assetstream.streams.batch_writer import BatchWriter, outgoing_of, partition_of
from assetstream.streams.connection import Connection
from assetstream.streams.settings import Settings

log = structlog.get_logger(__name__)


class MarkPublisher:
    """Writes marks at once, those that come meanwhile together in the next request, of each symbol the last.

    Outside any transaction: a mark that is written twice changes nothing, its `as_of` is the same.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection, self._settings = connection, settings
        self._topic = settings.topic(topics.MARKS)
        self._writer = BatchWriter()
        self._waiting: dict[bytes, bytes] = {}
        self._round: asyncio.Future[None] | None = None  # done when what waits is written, or failed
        self._under_way: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._failed: Exception | None = None
        self._partitions: dict[bytes, int] = {}

    def publish(self, marks: Sequence[tuple[bytes, bytes]]) -> None:
        """Have (symbol, mark) pairs written; returns at once."""
        self._waiting.update(marks)
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def durable(self) -> None:
        """Wait until all that was published is written. Raises what a write failed with since the last call."""
        last = self._round or self._under_way
        if last is not None:
            await asyncio.shield(last)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    async def _send(self) -> None:
        while self._round is not None:
            marks, self._waiting = self._waiting, {}
            self._under_way, self._round = self._round, None
            try:
                await self._connection.produce(self._writer.write([outgoing_of(self._topic, self._placed(marks))]))
            except Exception as error:  # whatever it is: the checkpoint of these marks must not commit
                self._failed = error
            self._under_way.set_result(None)
        self._under_way = self._sending = None

    def _placed(self, marks: dict[bytes, bytes]) -> list[tuple[int, bytes | None, bytes]]:
        known, count = self._partitions, self._settings.partitions
        for symbol in marks.keys() - known.keys():
            known[symbol] = partition_of(symbol, count)
        return [(known[symbol], symbol, mark) for symbol, mark in marks.items()]


class MarkFollower:
    """Follows `marks` from its beginning. `on_marks({symbol: mark})` is called in the follower's own thread.

    `caught_up` is set once everything that was there at the start has been handed over.
    """

    def __init__(self, settings: Settings, on_marks: Callable[[dict[bytes, bytes]], None]) -> None:
        self._settings, self._on_marks = settings, on_marks
        self._topic = settings.topic(topics.MARKS)
        self._latest: dict[bytes, bytes] = {}
        self._homes: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="marks", daemon=True)
        self.caught_up = threading.Event()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def latest(self) -> Records:
        """The latest mark of every symbol, in the byte order of symbols: what a new partition begins with."""
        with self._lock:
            marks = sorted(self._latest.items())
        return records_of(self._topic, 0, marks)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except BaseException as error:
                log.warning("mark follower starts over", error=str(error))
                self._stop.wait(1)

    def _follow(self) -> None:
        consumer = Consumer(
            self._settings.kafka(
                **{
                    "group.id": "assetstream-marks",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": False,
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 100,
                    "queued.min.messages": 1_000_000,
                    "log_level": 0,
                }
            )
        )
        try:
            partitions = [TopicPartition(self._topic, p) for p in range(self._settings.partitions)]
            ends = self._ends(partitions)
            consumer.assign([TopicPartition(tp.topic, tp.partition, 0) for tp in partitions])
            while not self._stop.is_set():
                self._take(consumer.consume(5000, 0.05))
                if not self.caught_up.is_set():
                    self._check(consumer, ends)
        finally:
            consumer.close()

    def _ends(self, partitions: list[TopicPartition]) -> dict[int, int]:
        found = log_offsets(self._settings, dict.fromkeys(partitions, OffsetSpec.latest()), False)
        return {partition: offset for (_, partition), offset in found.items()}

    def _take(self, messages: list) -> None:
        fresh: dict[bytes, bytes] = {}
        for message in messages:
            error = message.error()
            if error is None:
                key, value = message.key(), message.value()
                if key is not None and value is not None and self._is_home(key, message.partition()):
                    fresh.pop(key, None)  # the last of a symbol also takes the last place
                    fresh[key] = value
            elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise RuntimeError(f"{self._topic}: {error}")
        if fresh:
            with self._lock:
                self._latest.update(fresh)
            self._on_marks(fresh)

    def _is_home(self, symbol: bytes, partition: int) -> bool:
        """Whether a symbol's marks lie there now: those from before a repartition would pass for later ones."""
        if symbol not in self._homes:
            self._homes[symbol] = partition_of(symbol, self._settings.partitions)
        return self._homes[symbol] == partition

    def _check(self, consumer: Consumer, ends: dict[int, int]) -> None:
        behind = [p for p, end in ends.items() if end > 0]
        positions = consumer.position([TopicPartition(self._topic, p) for p in behind])
        reached = {tp.partition: tp.offset for tp in positions}
        lows = {p: consumer.get_watermark_offsets(TopicPartition(self._topic, p), cached=True)[0] for p in behind}
        # a partition whose records were all compacted or expired away has nothing to wait for
        if all(reached[p] >= ends[p] or lows[p] >= ends[p] for p in behind):
            self.caught_up.set()
