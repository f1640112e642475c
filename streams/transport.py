"""Faust's Kafka transport, changed so that an agent's message is a run of records instead of one record.

Faust keeps what it is good at: the consumer group, the co-partitioned assignment, agents, rebalance signals. What it
would do per record (a message, an event, an ack, an interval tree of offset gaps) and the offset commits are replaced:
a fetch response becomes one message per topic with a `Run` of records per partition, and offsets are committed by the
checkpoint's transaction only.

Each override below names the behaviour of faust-streaming 0.15.3 or aiokafka 0.14 it is there for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import faust
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode.threads import WorkerThread

from assetstream.models.records import Records
from assetstream.streams import records as batches

#: how long the broker may hold a fetch that finds nothing; also how soon a seek takes effect on a quiet topic
FETCH_WAIT_MS = 100
#: under load the broker collects this long, or this much, before it answers: a fetch of a few records for each of many
#: partitions costs nearly what one of a few hundred does, and nothing is visible before the next checkpoint anyway
COLLECT_MS, COLLECT_BYTES = 10, 256 << 10
#: how long leaving the group may take: with the broker away Faust would wait for a minute
LEAVE_S = 8.0
#: records that wait so long, while we do nothing, were dropped on their way
STALL_S = 5.0


class Run(NamedTuple):
    """What an agent gets: the visible records of one partition from offset `begins` up to (not including) `ends`.

    Offsets in between that no record has are markers, aborted or compacted away: a fact of the log, not a loss.
    """

    begins: int
    ends: int
    records: Records

    def before(self, offset: int) -> Run:
        """What of it lies before `offset`."""
        if offset >= self.ends:
            return self
        return Run(self.begins, offset, self.records.slice(0, int(self.records.offset.searchsorted(offset))))


class _WholeFetch:
    """In place of aiokafka's MemoryRecords: the bytes of one partition in a fetch response, left alone."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def has_next(self) -> bool:
        """Whether at least one whole batch is there."""
        return len(self.data) >= batches.HEADER and len(self.data) >= 12 + int.from_bytes(self.data[8:12], "big")

    def size_in_bytes(self) -> int:
        """Bytes there are, whole batches or not."""
        return len(self.data)


class _OneRun:
    """In place of aiokafka's PartitionRecords: an iterator of one `Run`."""

    def __init__(
        self,
        tp: Any,
        records: _WholeFetch,
        aborted_transactions: Any,
        fetch_offset: int,
        key_deserializer: Any,
        value_deserializer: Any,
        check_crcs: bool,
        isolation_level: int,
    ) -> None:
        self.next_fetch_offset = fetch_offset
        aborted = [(a[0], a[1]) for a in aborted_transactions or ()]
        self._run = self._parse(tp, records.data, aborted, check_crcs)

    def _parse(self, tp: Any, data: bytes, aborted: list[tuple[int, int]], check: bool) -> Iterator[Run]:
        begins = self.next_fetch_offset
        visible, ends = batches.parse(tp.topic, tp.partition, data, begins, aborted, check)
        self.next_fetch_offset = ends
        yield Run(begins, ends, visible)

    def __iter__(self) -> Iterator[Run]:
        return self._run


# aiokafka makes these two by name inside its fetcher and offers no hook; every consumer of this process wants runs.
aiokafka_fetcher.MemoryRecords = _WholeFetch
aiokafka_fetcher.PartitionRecords = _OneRun


class _Daemon(WorkerThread):
    """A thread that may be left behind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class _Thread(driver.AIOKafkaConsumerThread):
    Worker = _Daemon
    shutdown_timeout = LEAVE_S

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = self.consumer
        consumer.in_transaction = True  # Faust reads committed only in its own exactly-once mode
        try:
            kafka = super()._create_worker_consumer(transport)
        finally:
            consumer.in_transaction = False
        kafka._fetch_max_wait_ms = FETCH_WAIT_MS  # Faust: 1.5 s, in the code
        return kafka


class _Forgetful(dict):
    """Faust drops what lies below the read offset it remembers, which is just what a seek back brings."""

    def __missing__(self, key: Any) -> None:
        return None

    def __setitem__(self, key: Any, value: Any) -> None:
        return

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Forget that too."""


class RecordConsumer(driver.Consumer):
    """A Faust consumer whose messages carry the `Run`s that one fetch brought of a topic's partitions."""

    #: milliseconds that the broker collects under load before it answers
    collect_ms = COLLECT_MS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _Forgetful()
        #: cleared by the worker while it has as much in hand as it wants
        self.room = asyncio.Event()
        self.room.set()
        self._last_fetch = 0.0

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """Offsets are committed by the checkpoint, never by Faust."""
        return False

    async def perform_seek(self) -> None:
        """Positions are set by the worker after a restore, never from Faust's notion of what is committed."""

    async def _seek(self, partition: TP, offset: int) -> None:
        # Faust seeks from this thread, amid whatever the consumer's own is doing: a fetch then ends in a KeyError, and
        # with it all fetching. What aiokafka's rebalance took away, a moment before we are told, needs no position:
        # the next assignment sets it anew.
        with suppress(IllegalStateError):
            await self._thread.seek_wait({partition: offset})

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        """One message per topic that has something, with the runs of its partitions; each keeps its order."""
        await self.room.wait()
        fetched, active = await self._wait_next_records(timeout)
        if not fetched or self.should_stop or not self.flow_active:
            return
        self._pace()
        for topic in {tp.topic for tp in fetched}:
            parts = [tp for tp in fetched if tp.topic == topic and (active is None or tp in active)]
            if parts and self.flow_active:
                yield parts[0], self._message(parts[0], tuple(run for tp in parts for run in fetched[tp]))

    def _pace(self) -> None:
        """Something came: when it comes often, let the broker collect; when it is rare, have it at once."""
        now = time.monotonic()
        often = now - self._last_fetch < 2 * self.collect_ms / 1000
        self._last_fetch = now
        fetcher = self._thread._ensure_consumer()._fetcher
        fetcher._fetch_min_bytes = COLLECT_BYTES if often else 1
        fetcher._fetch_max_wait_ms = self.collect_ms if often else FETCH_WAIT_MS

    def _message(self, tp: TP, runs: tuple[Run, ...]) -> ConsumerMessage:
        last, generation = runs[0].ends - 1, self.app.consumer_generation_id
        return ConsumerMessage(
            tp.topic, tp.partition, last, 0.0, 1, [], None, runs, None, -1, -1, tp, generation_id=generation
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        # Faust wraps each message in four tasks here and keeps gap and ack books that nobody reads.
        try:
            while not (self.should_stop or fetcher.should_stop):
                async for _, message in self.getmany(timeout=1.0):
                    await self.callback(message)
                await asyncio.sleep(0)
        except (asyncio.CancelledError, *self.consumer_stopped_errors):
            if not self.transport.app.should_stop:
                raise


class Stalls:
    """Finds partitions whose records wait but don't come.

    A run that was dropped on the way shows by the gap before the next run; if it was the last one, nothing shows it.
    """

    def __init__(self) -> None:
        self._since: dict[TP, tuple[int, float]] = {}

    def stalled(self, tp: TP, following: int, end: int, idle: bool) -> bool:
        """Whether to seek back: offset `following` is below the log's `end` while we are idle, since STALL_S ago."""
        now = time.monotonic()
        at, since = self._since.get(tp, (-1, now))
        if end <= following or not idle or at != following:
            self._since[tp] = (following, now)
            return False
        if now - since < STALL_S:
            return False
        self._since[tp] = (following, now)
        return True


class RecordTransport(driver.Transport):
    """The transport to give a Faust app whose agents take runs."""

    Consumer = RecordConsumer


class RecordSchema(faust.Schema):
    """Hands keys and values to the agent as they are."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        """The key, untouched (always None: keys lie in the runs)."""
        return message.key

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        """The runs, untouched."""
        return message.value
