"""The sink: a Faust agent over `analytics`, in a consumer group of its own, that feeds ClickHouse.

Its group is not the agents' group, so a slow or absent ClickHouse never holds up a rebalance of those. Positions are
committed in Kafka transactions that carry the group metadata captured at assignment: a sink that was stopped and woke
up can't commit, and so can't insert.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import faust
import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from faust.types import TP

from assetstream.sinks.clickhouse import PATIENCE_S, ClickHouseAway, connect
from assetstream.sinks.migrations import check
from assetstream.sinks.positions import understood
from assetstream.sinks.writer import ClickHouseInserts, Fenced, PartitionWriter
from assetstream.streams import membership, metrics, outages, topics
from assetstream.streams.app import crash, make_app, raw_topic
from assetstream.streams.connection import Connection
from assetstream.streams.membership import Member
from assetstream.streams.settings import Settings
from assetstream.streams.transaction import FENCED, Transactions, error_code
from assetstream.streams.transport import Run, Stalls

log = structlog.get_logger(__name__)

#: rows wait at most about this long before they are inserted
TICK_S = 0.5
#: bytes that wait in all partitions together beyond which no more are taken
MOST_HELD_BYTES = 32 << 20
#: how long we look for what waits while ClickHouse is away
LOOK_S = 5.0
_NEVER = -1


class KafkaCommits:
    """Offsets and metadata of the sinks' group, each commit a fenced transaction. Implements `writer.Commits`."""

    def __init__(self, connection: Connection, topic: str, member: Member) -> None:
        self._topic, self._member = topic, member
        self._transactions = Transactions(connection, member.group)
        self._lock = asyncio.Lock()

    async def commit(self, positions: dict[int, tuple[int, str]]) -> None:
        """Raises Fenced when the assignment is over. Kafka away: tries until it is back."""
        offsets = {(self._topic, partition): position for partition, position in positions.items()}
        pause = 0.1
        async with self._lock:
            while True:
                try:
                    return await self._commit(offsets)
                except (KafkaError, OSError) as error:
                    await self._transactions.abort()
                    if error_code(error) in FENCED:
                        raise Fenced(str(error)) from error
                    pause = await outages.pause("the sink can't commit", repr(error), pause)

    async def _commit(self, offsets: dict[tuple[str, int], tuple[int, str]]) -> None:
        if not self._transactions.is_open:
            await self._transactions.init()
        await self._transactions.add_group(self._member.group)
        await self._transactions.send_offsets(offsets, self._member)
        await self._transactions.commit()


class Sink:
    """The sink of one process. `await run()` returns after `stop()`; it raises what broke."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topic = settings.topic(topics.ANALYTICS)
        self.app = make_app(settings, settings.group("sinks"))
        self.writers: dict[int, PartitionWriter] = {}
        self.assigned: set[int] = set()
        self.epoch = 0
        self._connection = Connection(settings)
        self._inserts = ClickHouseInserts(settings)
        self._unread: int | None = None  # time of the oldest record that waits while ClickHouse keeps us from starting
        self._stopping = asyncio.Event()
        self._error: BaseException | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.app.agent(raw_topic(self.app, self.topic, settings.partitions), name="assetstream.sinks.analytics")(
            self._agent
        )
        self.app.on_partitions_revoked.connect(self._on_revoked)
        self.app.on_partitions_assigned.connect(self._on_assigned)

    async def run(self) -> None:
        """Work until `stop()`; then insert what is in hand and leave the group."""
        gauges = asyncio.create_task(self._gauges())
        try:
            await self._wait_for_clickhouse()
            if not self._stopping.is_set():
                await self._work()
        finally:
            gauges.cancel()
        if self._error is not None:
            raise self._error

    async def _work(self) -> None:
        await self.app.start()
        loops = [asyncio.create_task(loop()) for loop in (self._tick_loop, self._seek_what_was_dropped)]
        loops.append(asyncio.create_task(self._stop_with_faust()))
        try:
            await self._stopping.wait()
        finally:
            if self._error is None:
                try:
                    await asyncio.wait_for(self._flush(), 5)
                except (TimeoutError, Fenced):
                    log.info("stopped before all was inserted; the next sink goes on from there")
            for task in (*loops, *self._tasks):
                task.cancel()
            self.epoch += 1
            self.writers.clear()
            await self.app.stop()
            await asyncio.to_thread(self._inserts.close)
            await self._connection.close()

    def stop(self, error: BaseException | None = None) -> None:
        """Ask `run` to end; with an error: because of it."""
        if error is not None and self._error is None:
            self._error = error
            log.error("sink stops", error=str(error), kind=type(error).__name__)
        self._stopping.set()

    async def _stop_with_faust(self) -> None:
        self.stop(await crash(self.app))

    def waiting_for(self) -> list[str]:
        """What is missing before the sink is ready. ClickHouse being away is no reason: rows wait in Kafka."""
        if self._error is not None:
            return [f"the sink, which stopped: {self._error}"]
        return []

    async def _wait_for_clickhouse(self) -> None:
        """Until ClickHouse answers and has our schema. Raises SchemaError, ClickHouseRefused."""
        pause = 0.2
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(self._check)
                self._unread = None
                outages.CLICKHOUSE.ends()
                return
            except ClickHouseAway as error:
                metrics.CLICKHOUSE_ERRORS.inc()
                outages.CLICKHOUSE.begins(str(error))
                self._unread = await self._oldest_unread()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 10)

    async def _oldest_unread(self) -> int | None:
        """Kafka's time, in milliseconds, of the oldest record that waits for the sinks; None when none is found."""
        places = [(self.topic, number) for number in range(self.settings.partitions)]
        try:
            committed = await self._connection.committed(self.settings.group("sinks"), places, decided=False)
            at = {number: offset for (_, number), (offset, _) in committed.items()}
            return await asyncio.to_thread(self._oldest_from, at)
        except (KafkaException, KafkaError, OSError):
            return self._unread

    def _oldest_from(self, offsets: dict[int, int]) -> int | None:
        config = {"group.id": self.settings.group("sinks"), "enable.auto.commit": False, "enable.partition.eof": True}
        consumer = Consumer(self.settings.kafka(**config, **{"auto.offset.reset": "earliest", "log_level": 0}))
        times: dict[int, int] = {}
        try:
            consumer.assign([TopicPartition(self.topic, p, max(0, offset)) for p, offset in offsets.items()])
            end = time.monotonic() + LOOK_S
            while len(times) < len(offsets) and time.monotonic() < end:
                for message in consumer.consume(len(offsets), 0.1):
                    times.setdefault(message.partition(), _NEVER if message.error() else message.timestamp()[1])
        finally:
            consumer.close()
        return min((at for at in times.values() if at != _NEVER), default=None)

    def _check(self) -> None:
        client = connect(self.settings, PATIENCE_S)
        try:
            check(client, self.settings)
        finally:
            client.close()

    # -- records ------------------------------------------------------------------------------------------------------

    async def _agent(self, stream: faust.StreamT) -> None:
        room = self.app.consumer.room
        async for event in stream.noack().events():
            room.clear()  # what can't be inserted waits in Kafka, not here
            try:
                for run in event.value:
                    await self._take(run.records.partition, run)
                await self._have_room(self.epoch)
            except Fenced:
                pass  # the next assignment brings new writers
            except Exception as error:
                self.stop(error)
            room.set()

    async def _take(self, number: int, run: Run) -> None:
        epoch = self.epoch
        # What was fetched of a partition that is not ours any more never gets a writer: it must not hold up the others.
        while number in self.assigned - self.writers.keys() and self.epoch == epoch and not self._stopping.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # one wait per assignment
        writer = self.writers.get(number)
        if writer is None or self.epoch != epoch:
            return
        if not await writer.add(run.records, run.begins, run.ends) and self.epoch == epoch:
            await self.app.consumer.seek(TP(self.topic, number), writer.next)

    async def _have_room(self, epoch: int) -> None:
        while sum(writer.backlog for writer in self.writers.values()) > MOST_HELD_BYTES:
            if self.epoch != epoch or self._stopping.is_set():
                return
            await asyncio.sleep(0.02)  # each tick writes what waits

    async def _gauges(self) -> None:
        """How far behind, for who watches; beside all that waits for ClickHouse."""
        while True:
            waiting = [writer.oldest for writer in self.writers.values()]
            oldest = min((at for at in (self._unread, *waiting) if at is not None), default=None)
            metrics.ANALYTICS_DELAY.set(0 if oldest is None else max(0.0, time.time() - oldest / 1000))
            await asyncio.sleep(TICK_S)

    async def _seek_what_was_dropped(self) -> None:
        stalls = Stalls()
        while True:
            await asyncio.sleep(TICK_S)
            for number, writer in list(self.writers.items()):
                tp = TP(self.topic, number)
                with suppress(IllegalStateError, AssertionError):  # aiokafka's, for what is not assigned any more
                    end = self.app.consumer.highwater(tp) or 0
                    metrics.LAG.labels(topics.ANALYTICS, number).set(max(0, end - writer.next))
                    idle = writer.is_idle and self.app.consumer.room.is_set()  # else it may be in the agent's queue
                    if self.writers.get(number) is writer and stalls.stalled(tp, writer.next, end, idle):
                        log.warning(
                            "records wait but don't come, seeking back", topic=topics.ANALYTICS, partition=number
                        )
                        await self.app.consumer.seek(tp, writer.next)

    async def _tick_loop(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await asyncio.gather(*(writer.tick() for writer in self.writers.values()))
            except Fenced:
                continue
            except Exception as error:
                self.stop(error)

    async def _flush(self) -> None:
        await asyncio.gather(*(writer.flush() for writer in self.writers.values()))

    # -- assignment ---------------------------------------------------------------------------------------------------

    async def _on_revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        self.epoch += 1
        writers, self.writers = self.writers, {}
        try:
            await asyncio.wait_for(asyncio.gather(*(w.flush() for w in writers.values())), 2)
        except (TimeoutError, Fenced):
            pass  # the successor repeats the range that is under way
        except Exception as error:
            self.stop(error)

    async def _on_assigned(self, app: Any, assigned: set[TP], **kwargs: Any) -> None:
        try:
            member = membership.capture(self.app)
        except membership.NotAMember as error:
            log.warning("assigned without membership, waiting for the next assignment", error=str(error))
            return
        self.epoch += 1
        self.assigned = {tp.partition for tp in assigned}
        self.writers = {}
        outages.CLICKHOUSE.forget()  # whoever waited for it has ended with the last assignment
        task = asyncio.get_running_loop().create_task(self._start_writers(self.epoch, member))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_writers(self, epoch: int, member: Member) -> None:
        pause = 0.2
        while True:
            try:
                name, starts, ends = await asyncio.to_thread(self._log)
                committed = await self._committed()
                break
            except (KafkaException, KafkaError, OSError) as error:
                pause = await outages.pause("the sink can't read its positions", repr(error), pause)
                if self.epoch != epoch:
                    return
        try:
            group = self.settings.group("sinks")
            positions = {n: understood(group, (self.topic, n), *committed[n], ends[n]) for n in sorted(self.assigned)}
            commits = KafkaCommits(self._connection, self.topic, member)
            for number, (offset, last) in positions.items():
                writer = PartitionWriter(self.settings.clickhouse_database, name, number, commits, self._inserts)
                await writer.recover(offset, last, starts[number])
                await self.app.consumer.seek(TP(self.topic, number), writer.next)
                if self.epoch != epoch:
                    return
                self.writers[number] = writer
        except Exception as error:
            self.stop(error)

    async def _committed(self) -> dict[int, tuple[int, str]]:
        """Committed offset and metadata by partition, once they are decided: no transaction over them is open."""
        places = [(self.topic, number) for number in self.assigned]
        committed = await self._connection.committed(self.settings.group("sinks"), places, decided=True)
        return {number: position for (_, number), position in committed.items()}

    def _log(self) -> tuple[str, dict[int, int], dict[int, int]]:
        """The log's name for tokens, and its start and end by partition."""
        admin = AdminClient(self.settings.kafka(log_level=0))
        described = admin.describe_topics(TopicCollection([self.topic]), request_timeout=10)[self.topic].result()

        def offsets(spec: OffsetSpec) -> dict[int, int]:
            tps = [TopicPartition(self.topic, number) for number in self.assigned]
            found = admin.list_offsets(dict.fromkeys(tps, spec), request_timeout=10)
            return {tp.partition: future.result().offset for tp, future in found.items()}

        return f"{self.topic}:{described.topic_id}", offsets(OffsetSpec.earliest()), offsets(OffsetSpec.latest())
