"""One worker: Faust gives it partitions; it restores them, takes their records, and writes checkpoints.

An *epoch* is one assignment. State that was changed but not committed, the group metadata that fences commits, and what
is being restored all belong to an epoch and end with it.

For what an agent gets, one rule holds whatever Faust fetches, queues or drops across a rebalance: continuity. A run
that begins after the next offset we want means something was dropped on the way: seek back and wait for it. A run that
ends before it is old. If the log itself no longer has the next offset, something was lost, and the worker stops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import faust
import numpy as np
import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from faust.types import TP

from assetstream.agents.clock import take_clock
from assetstream.agents.counting import count_checkpoint
from assetstream.agents.halts import Broken
from assetstream.agents.outputs import Publication, Publisher
from assetstream.agents.partition import AccountPartition, Partition, PartitionCut, PricePartition
from assetstream.agents.prices import take_prices
from assetstream.agents.rejections import Rejections
from assetstream.agents.risk_limits import take_risk_limits
from assetstream.agents.trades import take_trades
from assetstream.agents.transactions import take_transactions
from assetstream.agents.transfers import take_transfers
from assetstream.models.decode import decode_marks
from assetstream.models.records import Records, records_of
from assetstream.models.verdicts import Verdict
from assetstream.streams import faults, membership, metrics, operations, outages, topics
from assetstream.streams.admin import BrokerAway, log_offsets
from assetstream.streams.app import crash, make_app, raw_topic
from assetstream.streams.checkpoint import Checkpointer, CheckpointFailed, Committed
from assetstream.streams.connection import Connection, GroupOffsets
from assetstream.streams.marks import MarkFollower, MarkPublisher
from assetstream.streams.reading import Unreadable
from assetstream.streams.settings import Settings
from assetstream.streams.transaction import abort_left_open
from assetstream.streams.transport import Run, Stalls
from assetstream.tables.restore import Progress, Superseded, restore
from assetstream.tables.snapshots import Snapshots

log = structlog.get_logger(__name__)

#: records in hand (taken, not yet in a checkpoint) beyond which no more are fetched
MOST_IN_HAND = 60_000
#: large records count for as many as they have of these bytes: 30 MiB in hand (dead letters make many times that of it)
RECORD_BYTES = 512
#: records that came and wait for the next checkpoint to be taken; as many as this are taken at once
ENOUGH_WAITING = 4_000
#: with so many in hand the next checkpoint is cut while the one before is still being written
ENOUGH_TO_CUT = 20_000
#: how often updates that are due because of marks alone, and anything else that is due, are looked for
LOOK_S = 0.1
#: time between checkpoints that price partitions take part in
PRICES_MS = 200
#: how often gauges are set, and the tables whose sizes they tell
GAUGES_S, SIZES = 1.0, ("portfolios", "positions", "balances", "trade_ids", "events", "agenda")
#: how long a worker that is asked to stop waits for its last checkpoint
LAST_PATIENCE_S = 5
#: how often we look whether an operator has skipped what a partition halts before
OPERATORS_S = 2.0
#: a gap that a seek back hasn't closed after this is looked into
GAP_PATIENCE_S = 5
#: checkpoints after which analytics go to the next partition of their topic, so that any number of sinks share them
ANALYTICS_TURN = 64


#: offsets by (topic, partition)
Offsets = dict[tuple[str, int], int]
#: what operators did, by key
Deeds = dict[str, dict[str, Any]]


#: by changelog: an input whose committed offsets tell whose the changelog's last records are
INPUT_OF = {topics.ACCOUNT_CHANGELOG: "trades", topics.PRICE_CHANGELOG: "prices"}


class RecordsLost(RuntimeError):
    """The log no longer has records we have not taken. Never stepped over."""


class _Checkpoint(NamedTuple):
    """A checkpoint that is cut and waits to be written; void when the state has another `life` by then."""

    cuts: list[PartitionCut]
    made: Publication
    member: membership.Member
    with_prices: bool
    life: int


class Worker:
    """Agents, checkpoints and restores of one process. `await run()` returns after `stop()`; it raises what broke."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = make_app(settings, settings.group("agents"))
        self.accounts: dict[int, AccountPartition] = {}
        self.prices: dict[int, PricePartition] = {}
        self.epoch = 0
        self.member: membership.Member | None = None
        self.assigned: set[int] = set()
        self.ready: set[int] = set()
        self.warm = False
        self.restoring = Progress()
        self._connection = Connection(settings)
        self._checkpointer = Checkpointer(self._connection, settings.group("agents"))
        self._publisher = Publisher(settings)
        self._rejections = Rejections(settings)
        self._snapshots = Snapshots(settings)
        self._follower = MarkFollower(settings, self._marks_arrived)
        self._marks = MarkPublisher(self._connection, settings)
        self._cutting = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._loading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._in_hand = self._waiting = 0
        self._cuts = 0
        self._lives = 0
        self._prices_written_ms = 0
        self._fresh_marks: dict[bytes, bytes] = {}
        self._gaps: dict[tuple[str, int], tuple[int, float]] = {}
        self._failures = 0
        self._stopping = asyncio.Event()
        self._error: BaseException | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._handlers: dict[str, Callable[[Any, Records], None]] = {
            "trades": take_trades,
            "transactions": take_transactions,
            "transfers": take_transfers,
            "risk_limits": take_risk_limits,
            "clock": take_clock,
            "prices": lambda partition, records: take_prices(partition, records, self._marks.publish),
        }
        for name in topics.INPUTS:
            self._add_agent(name)
        self.app.on_partitions_revoked.connect(self._on_revoked)
        self.app.on_partitions_assigned.connect(self._on_assigned)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop()`; then finish the batch, write a last checkpoint and leave the group."""
        self._loop = asyncio.get_running_loop()
        self._follower.start()
        await self._open_producer()
        await self.app.start()
        forever = (
            self._checkpoint_loop,
            self._look_what_is_due,
            self._gauges,
            self._seek_what_was_dropped,
            self._obey_operators,
            self._stop_with_faust,
        )
        for loop in forever:
            self._spawn(loop())
        try:
            await self._stopping.wait()
        finally:
            await self._last_checkpoint()
            for task in tuple(self._background):
                task.cancel()
            self.epoch += 1
            await self.app.stop()
            await self._connection.close()
            await asyncio.to_thread(self._close)
        if self._error is not None:
            raise self._error

    async def _last_checkpoint(self) -> None:
        try:
            await asyncio.wait_for(self.checkpoint(last=True), LAST_PATIENCE_S)
        except TimeoutError:
            log.warning("Kafka does not answer, stopping without a last checkpoint: the next start takes its records")
        except Exception as error:
            self.stop(error)

    def stop(self, error: BaseException | None = None) -> None:
        """Ask `run` to end; with an error: because of it, without a last checkpoint."""
        if error is not None and self._error is None:
            self._error = error
            log.error("worker stops", error=str(error), kind=type(error).__name__)
        self._stopping.set()

    async def _stop_with_faust(self) -> None:
        self.stop(await crash(self.app))

    def waiting_for(self) -> list[str]:
        """What is missing before this worker is ready: the lines of `/readyz`."""
        missing = []
        if not self.warm:
            missing.append("kernels to compile")
        if not self._follower.caught_up.is_set():
            missing.append("marks to catch up")
        if self.member is None:
            missing.append("partitions to be assigned")
        elif self.assigned - self.ready:
            missing.append(f"{len(self.assigned - self.ready)} partitions to be restored")
        for partition in self._mine():
            is_prices = isinstance(partition, PricePartition)
            missing.extend(partition.trouble.lines(partition.number, is_prices, partition.mending))
        return missing

    def _close(self) -> None:
        self._follower.stop()
        self._snapshots.close()

    async def _open_producer(self) -> None:
        """A transactional producer; keeps trying, with growing pauses, until the broker is there."""
        pause = 0.2
        while not self._stopping.is_set():
            try:
                await self._connection.know(self.settings.topic(name) for name in topics.WRITTEN)
                await self._checkpointer.open()
                return
            except (KafkaError, OSError) as error:
                pause = await outages.pause("Kafka opens no transaction", repr(error), pause)

    def _spawn(self, work: Any) -> None:
        """Run `work` beside; if it breaks, the worker stops."""

        def done(task: asyncio.Task[Any]) -> None:
            self._background.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self.stop(task.exception())

        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(done)

    # -- taking records -----------------------------------------------------------------------------------------------

    def _add_agent(self, name: str) -> None:
        async def agent(stream: faust.StreamT) -> None:
            async for event in stream.noack().events():
                try:
                    for run in event.value:
                        await self._take(name, run)
                    await self._have_room(self.epoch)
                except Exception as error:
                    self.stop(error)

        topic = raw_topic(self.app, self.settings.topic(name), self.settings.partitions)
        self.app.agent(topic, name=f"assetstream.agents.{name}")(agent)

    def _partition(self, name: str, number: int) -> Partition | None:
        return self.prices.get(number) if name == "prices" else self.accounts.get(number)

    async def _take(self, name: str, run: Run) -> None:
        epoch, number = self.epoch, run.records.partition
        # What was fetched of a partition that is not ours any more never gets ready: it must not hold up the others.
        while number in self.assigned - self.ready and self.epoch == epoch and not self._stopping.is_set():
            self.app.consumer.room.clear()  # what comes during a restore waits in Kafka, not here
            await asyncio.sleep(0.005)  # one wait per assignment; an event per partition says no more
        partition = self._partition(name, number)
        if self.epoch != epoch or partition is None or partition.mending or self._stopping.is_set():
            return  # not ours any more; whoever has it starts from what is committed
        expected = partition.next[name]
        if (halt := partition.trouble.halts.get(name)) is not None:
            run = run.before(halt.offset)
        if run.ends <= expected:
            return
        if run.begins > expected:
            await self._close_gap(name, number, expected)
            return
        records = run.records
        if records.n and records.offset[0] < expected:
            records = records.slice(int(records.offset.searchsorted(expected)), records.n)
        partition.arrived(name, records, run.ends)
        self._in_hand += _weight(records)
        self._waiting += _weight(records)
        if self._waiting >= ENOUGH_WAITING:
            self._take_waiting()
        self._wake.set()

    def _take_waiting(self) -> None:
        """Everything that came: few large batches cost much less than many small ones."""
        self._waiting = 0
        for partition in self._mine():
            try:
                partition.take_waiting(self._handle)
            except Broken as error:
                self._broke(partition, error)

    def _handle(self, name: str, partition: Partition, records: Records) -> None:
        metrics.BATCH_SIZE.labels(name).observe(records.n)
        self._handlers[name](partition, records)
        faults.break_at(records)

    async def _have_room(self, epoch: int) -> None:
        room = self.app.consumer.room
        while self._in_hand > MOST_IN_HAND and self.epoch == epoch and not self._stopping.is_set():
            room.clear()
            self._drained.clear()
            await self._drained.wait()
        room.set()

    async def _close_gap(self, name: str, number: int, expected: int) -> None:
        """Records were dropped between the broker and us (a rebalance does that): have them sent again."""
        key, now = (name, number), time.monotonic()
        last = self._gaps.get(key)
        if last is not None and last[0] == expected and now - last[1] < GAP_PATIENCE_S:
            return  # what was still queued when we sought back
        topic = self.settings.topic(name)
        if last is not None and last[0] == expected:
            tp = TopicPartition(topic, number)
            begins = await asyncio.to_thread(log_offsets, self.settings, {tp: OffsetSpec.earliest()}, True)
            self._check_not_lost(name, number, expected, begins[topic, number])
        self._gaps[key] = (expected, now)
        await self.app.consumer.seek(TP(topic, number), expected)

    def _check_not_lost(self, name: str, number: int, expected: int, begins: int) -> None:
        if begins > expected:
            raise RecordsLost(
                f"{self.settings.topic(name)}-{number} begins at offset {begins} but the state has only what is below "
                f"{expected}: records expired before they were taken. Restore the topic from a backup; or, if they are "
                f"to be given up, delete the changelog topics and the consumer group {self.settings.group('agents')}, "
                "and run `assetstream init`: everything that the inputs still have is published again"
            )

    def _check_not_older(self, name: str, number: int, expected: int, end: int) -> None:
        if end < expected:
            raise RecordsLost(
                f"{self.settings.topic(name)}-{number} ends at offset {end} but the state has all below {expected}: "
                "the topic is older than the state (made anew, or restored from a backup?), and new records would be "
                "taken for old ones. Restore topics and changelogs from the same moment"
            )

    async def _committed(self, loaded: list[Partition]) -> GroupOffsets:
        """What the group has committed of these partitions' inputs."""
        places = [(self.settings.topic(name), each.number) for each in loaded for name in each.inputs]
        return await self._connection.committed(self.settings.group("agents"), places, decided=False)

    def _check_not_behind(self, loaded: list[Partition], committed: GroupOffsets) -> None:
        """Changelog and offsets are committed together: offsets of ours beyond the state mean that it lost its end.

        `committed` is from before the restore: whoever else commits meanwhile is further than what was restored.
        Offsets that somebody else set mean nothing: the state is the truth about what was applied.
        """
        group = self.settings.group("agents")
        applied = {(self.settings.topic(n), p.number): p.applied(n) for p in loaded for n in p.inputs}
        for place, (offset, owner) in committed.items():
            if owner.startswith(f"{group}-") and offset > applied[place] + 1:
                raise RecordsLost(
                    f"the changelog tells of {place[0]}-{place[1]} only what is below offset {applied[place] + 1}, we "
                    f"have committed {offset}: the changelog is older than the offsets (made anew, or restored from a "
                    "backup?), and what was published since would be published again. Restore the end of the changelog "
                    f"too; or, if that is meant, delete the consumer group {group}"
                )

    # -- marks --------------------------------------------------------------------------------------------------------

    def _marks_arrived(self, marks: dict[bytes, bytes]) -> None:
        self._loop.call_soon_threadsafe(self._keep_marks, marks)

    def _keep_marks(self, marks: dict[bytes, bytes]) -> None:
        """Marks wait for the next checkpoint, the last of each symbol: a superseded one need not be judged."""
        for symbol, mark in marks.items():
            self._fresh_marks.pop(symbol, None)
            self._fresh_marks[symbol] = mark
        self._wake.set()

    def _take_marks(self) -> None:
        """Revalue with the marks that came since the last checkpoint, just before it is cut."""
        if not self._fresh_marks or not self.ready:
            return
        fresh, self._fresh_marks = self._fresh_marks, {}
        batch = decode_marks(records_of(self.settings.topic(topics.MARKS), 0, list(fresh.items())))
        metrics.MARKS.inc(len(fresh))
        for account in [self.accounts[number] for number in self.ready & self.accounts.keys()]:
            try:
                if not account.mending:
                    account.take_marks(batch)
            except Exception as error:
                self._broke(account, error)

    async def _look_what_is_due(self) -> None:
        """Updates that only marks caused come at their own pace; and what waits for its time gets a tick."""
        while True:
            await asyncio.sleep(LOOK_S)
            now, clock = _now_ms(), _clock_ms()
            for account in [self.accounts[number] for number in self.ready & self.accounts.keys()]:
                if not account.mending and (account.update_due(now) or account.tick_due(now, clock) is not None):
                    account.due = True
                    self._wake.set()
            if any(partition.due for partition in self.prices.values()):
                self._wake.set()

    async def _gauges(self) -> None:
        """Lag and sizes, for who watches."""
        while True:
            await asyncio.sleep(GAUGES_S)
            metrics.PAUSED.clear()
            if self.member is None:
                continue
            for partition in self._mine():
                for name in partition.trouble.halts:
                    metrics.PAUSED.labels(name, partition.number).set(1)
                for name, following in partition.next.items():
                    with suppress(IllegalStateError, AssertionError):  # aiokafka's, for what is not assigned any more
                        end = self.app.consumer.highwater(TP(self.settings.topic(name), partition.number)) or 0
                        metrics.LAG.labels(name, partition.number).set(max(0, end - following))
            for table in SIZES:
                rows = sum(int(getattr(account.store.state, table).count[0]) for account in self.accounts.values())
                metrics.STATE_ROWS.labels(table).set(rows)

    async def _seek_what_was_dropped(self) -> None:
        stalls = Stalls()
        while True:
            await asyncio.sleep(GAUGES_S)
            epoch = self.epoch
            ready = [partition for partition in self._mine() if partition.number in self.ready]
            for partition, (name, following) in [(p, each) for p in ready for each in p.next.items()]:
                if self.epoch != epoch:
                    break
                if name in partition.trouble.halts:
                    continue
                tp = TP(self.settings.topic(name), partition.number)
                with suppress(IllegalStateError, AssertionError):  # aiokafka's, for what is not assigned any more
                    end = self.app.consumer.highwater(tp) or 0
                    if stalls.stalled(tp, following, end, self._in_hand == 0):
                        log.warning(
                            "records wait but do not come, seeking back", topic=tp.topic, partition=tp.partition
                        )
                        await self.app.consumer.seek(tp, following)

    # -- partitions that break ----------------------------------------------------------------------------------------

    def _broke(self, partition: Partition, error: Exception) -> None:
        """A kernel broke on it, so its state says nothing any more: restore it, it alone. See `agents/halts.py`."""
        cause, where = error, {}
        if isinstance(error, Broken):
            cause, where = error.cause, {"topic": error.topic, "offset": error.offset}
        log.error("a kernel broke, restoring its partition", partition=partition.number, **where, exc_info=cause)
        partition.trouble.note(error, partition.next)
        partition.is_broken = True
        fresh = partition.afresh()
        fresh.mending = True
        if isinstance(fresh, AccountPartition):
            self.accounts[fresh.number] = fresh
        elif isinstance(fresh, PricePartition):
            self.prices[fresh.number] = fresh
        self._count_ready()
        self._spawn(self._mend(self.epoch, fresh))

    async def _mend(self, epoch: int, partition: Partition) -> None:
        """In a later epoch everything is restored anyway."""
        async with self._cutting, self._writing:
            pass  # what was cut of it before is in the log, or never will be
        await self._load(epoch, partition.trouble.pause_s, [partition])

    async def _obey_operators(self) -> None:
        """A topic that halts before a poisonous record goes on when an operator has put its skip on the record."""
        while True:
            await asyncio.sleep(OPERATORS_S)
            halted = [partition for partition in self._mine() if partition.trouble.halts and not partition.mending]
            if not halted:
                continue
            epoch = self.epoch
            try:
                deeds = await asyncio.to_thread(operations.read, self.settings)
            except (BrokerAway, KafkaException, Unreadable) as error:
                log.warning("can't read what operators did, trying again", error=str(error))
                continue
            for partition in halted:
                if self.epoch == epoch and not partition.mending:
                    await self._go_on(partition, deeds)

    async def _go_on(self, partition: Partition, deeds: Deeds) -> None:
        for name in partition.trouble.obey(partition.number, deeds):
            await self.app.consumer.seek(TP(self.settings.topic(name), partition.number), partition.next[name])

    # -- checkpoints --------------------------------------------------------------------------------------------------

    async def _checkpoint_loop(self) -> None:
        pause = self.settings.checkpoint_ms / 1000
        following = 0.0
        while True:
            await self._wake.wait()
            await asyncio.sleep(max(0.0, following - time.monotonic()))
            if self._writing.locked() and self._in_hand < ENOUGH_TO_CUT:
                self._wake.clear()  # what comes, or the end of the write, sets it again
                continue
            following = time.monotonic() + pause
            try:
                await self._cut_and_write()
            except Exception as error:
                self.stop(error)

    async def checkpoint(self, last: bool = False) -> None:
        """Write what was done since the last checkpoint, if anything, and wait until all of it is committed."""
        await self._cut_and_write(last)
        async with self._writing:
            pass

    async def _cut_and_write(self, last: bool = False) -> None:
        """Cut a checkpoint and have it written when the one before is; under load the two go on beside each other."""
        async with self._cutting:
            checkpoint = self._cut(last)
            if checkpoint is not None:
                await self._writing.acquire()
                self._spawn(self._write(checkpoint))

    def _cut(self, last: bool) -> _Checkpoint | None:
        """All that is to be written, as records; None when it is nothing.

        Price partitions only take part now and then, or when it is the `last` one: nobody waits for their rows, and
        `marks` are out already.
        """
        self._wake.clear()
        now = _now_ms()
        if self.member is None or self._error is not None:
            return None  # not ours any more; or a batch broke off in the middle, and the state says nothing any more
        self._take_waiting()
        self._take_marks()
        with_prices = last or now >= self._prices_written_ms + PRICES_MS
        if with_prices:
            self._prices_written_ms = now
        clock = None if last else _clock_ms()  # the next owner sees for itself what is due
        cuts = [cut for p in self._mine(with_prices) if (cut := self._cut_of(p, now, clock)) is not None]
        self._in_hand = 0
        self._drained.set()
        if cuts:
            cuts, made = self._publication(cuts)
        return _Checkpoint(cuts, made, self.member, with_prices, self._lives) if cuts else None

    def _cut_of(self, partition: Partition, now_ms: int, clock_ms: int | None) -> PartitionCut | None:
        try:
            return partition.cut(now_ms, clock_ms)
        except Exception as error:
            self._broke(partition, error)
            return None

    def _publication(self, cuts: list[PartitionCut]) -> tuple[list[PartitionCut], Publication]:
        """What is to be published of the cuts, without those of partitions that break it."""
        turn = (self._cuts // ANALYTICS_TURN) % self.settings.partitions
        self._cuts += 1
        try:
            return cuts, self._publisher.publication(cuts, turn)
        except Exception:
            sound = [cut for cut in cuts if self._is_publishable(cut)]
            if len(sound) == len(cuts):
                raise  # it is none of the partitions
            return sound, self._publisher.publication(sound, turn)

    def _is_publishable(self, cut: PartitionCut) -> bool:
        try:
            self._publisher.publication([cut], 0)
        except Exception as error:
            self._broke(cut.partition, error)
            return False
        return True

    async def _write(self, checkpoint: _Checkpoint) -> None:
        try:
            if checkpoint.life != self._lives:
                return  # the one before failed, and with it the state that this was cut from
            made, marks = checkpoint.made, self._marks.durable if checkpoint.with_prices else None
            committed = await self._checkpointer.write(made.records(), made.sources, checkpoint.member, marks)
        except CheckpointFailed as error:
            self._start_over(error)
        else:
            self._done(checkpoint.cuts, made, committed)
        finally:
            self._writing.release()
            self._wake.set()

    def _mine(self, with_prices: bool = True) -> Iterable[Partition]:
        yield from (self.accounts[number] for number in sorted(self.accounts))
        if with_prices:
            yield from (self.prices[number] for number in sorted(self.prices))

    def _done(self, cuts: list[PartitionCut], made: Publication, committed: Committed) -> None:
        self._failures = 0
        for cut in cuts:
            key = (self.settings.topic(cut.partition.changelog), cut.partition.number)
            records = list(zip(chain(*committed.placed[key]), made.changelog[key], strict=True))
            obsolete = cut.partition.store.written(cut.changes, [(o, len(v)) for o, v in records])
            self._snapshots.add(*key, records, obsolete)
            if not cut.partition.is_broken:
                cut.partition.trouble.committed(
                    {
                        name: cut.sources[self.settings.topic(name), cut.partition.number]
                        for name in cut.partition.inputs
                    }
                )
            for topic, verdict in cut.work.verdicts:
                rejected = np.flatnonzero(verdict >= Verdict.MALFORMED)
                self._rejections.saw(topic, cut.partition.number, len(verdict), rejected)
        count_checkpoint(cuts, committed)
        self._rejections.check()

    def _start_over(self, error: CheckpointFailed) -> None:
        """A checkpoint did not commit: what is in memory is worth nothing. Restore what is committed, and go on."""
        metrics.CHECKPOINTS.labels("fenced" if error.fenced else "failed").inc()
        self.epoch += 1
        self._forget()
        if error.fenced:
            # The group has moved on without us; its next assignment brings partitions and a generation.
            log.info("fenced by a rebalance, waiting for the next assignment", error=str(error.cause))
            self.member = None
            return
        self._failures += 1
        pause = min(0.1 * 2**self._failures, 10.0)
        log.warning("checkpoint failed, restoring what is committed", error=str(error.cause), pause_s=pause)
        self._spawn(self._load(self.epoch, pause))

    def _forget(self) -> None:
        """New, empty partitions in place of the old: a restore still at work on those does no harm."""
        self.ready = set()
        self._lives += 1
        self.accounts = {number: account.afresh() for number, account in self.accounts.items()}
        self.prices = {number: prices.afresh() for number, prices in self.prices.items()}
        self._in_hand = self._waiting = 0
        self._drained.set()

    # -- assignment ---------------------------------------------------------------------------------------------------

    async def _on_revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        """Still in the old generation: one last checkpoint, then nothing more is taken."""
        self.epoch += 1
        self.ready = set()
        self._drained.set()
        await self.checkpoint(last=True)
        self.member = None

    async def _on_assigned(self, app: Any, assigned: set[TP], **kwargs: Any) -> None:
        try:
            self.member = membership.capture(self.app)
        except membership.NotAMember as error:
            log.warning("assigned without membership, waiting for the next assignment", error=str(error))
            self.member = None
            return
        self.epoch += 1
        self._gaps.clear()
        self.assigned = {tp.partition for tp in assigned}
        accounts = {tp.partition for tp in assigned if tp.topic != self.settings.topic("prices")}
        prices = {tp.partition for tp in assigned if tp.topic == self.settings.topic("prices")}
        for number in accounts - self.accounts.keys():
            self.accounts[number] = AccountPartition(number, self.settings)
        for number in prices - self.prices.keys():
            self.prices[number] = PricePartition(number, self.settings)
        for number in self.accounts.keys() - accounts:
            del self.accounts[number]
        for number in self.prices.keys() - prices:
            del self.prices[number]
        metrics.ASSIGNED.set(len(accounts))
        metrics.READY.set(0)
        log.info("assigned", partitions=sorted(self.assigned), epoch=self.epoch)
        self._spawn(self._load(self.epoch))

    async def _load(self, epoch: int, pause: float = 0.0, some: list[Partition] | None = None) -> None:
        """Restore partitions (None: all that are assigned), set their input positions, take the current marks; then
        they are ready.
        """
        await asyncio.sleep(pause)
        began = time.monotonic()
        async with self._loading:
            loaded = [*self._mine()] if some is None else some
            while self.epoch == epoch:
                try:
                    if not self._checkpointer.is_open:
                        await self._open_producer()
                    committed = await self._committed(loaded)
                    await asyncio.to_thread(self._restore, epoch, loaded)
                    begins = await asyncio.to_thread(self._input_offsets, loaded, OffsetSpec.earliest())
                    ends = await asyncio.to_thread(self._input_offsets, loaded, OffsetSpec.latest())
                    deeds = await asyncio.to_thread(self._deeds, loaded)
                    self._check_not_behind(loaded, committed)
                    while not self._follower.caught_up.is_set():  # noqa: ASYNC110
                        await asyncio.sleep(0.01)  # set by another thread
                    break
                except Superseded:
                    return
                except (KafkaException, KafkaError, BrokerAway, Unreadable) as error:
                    why = str(error.args[0] if error.args else repr(error))
                    pause = await outages.pause("restore interrupted", why, max(pause, 0.2))
            if self.epoch == epoch:
                await self._make_ready(epoch, loaded, begins, ends, deeds)
                log.info(
                    "ready",
                    partitions=len({partition.number for partition in loaded}),
                    rows=self.restoring.rows,
                    seconds=round(time.monotonic() - began, 3),
                )
                metrics.RESTORE_SECONDS.set(time.monotonic() - began)

    async def _make_ready(
        self, epoch: int, loaded: list[Partition], begins: Offsets, ends: Offsets, deeds: Deeds
    ) -> None:
        for partition in loaded:
            partition.waiting.clear()  # all of it is sent again
            partition.trouble.obey(partition.number, deeds)
            for name, halt in partition.trouble.halts.items():
                log.error(
                    "halted before a message that breaks its kernel",
                    topic=name,
                    partition=partition.number,
                    offset=halt.offset,
                    error=halt.error,
                    then=f'upgrade, or "assetstream skip {name} {partition.number} {halt.offset} --reason …"',
                )
            for name in partition.inputs:
                topic, applied = self.settings.topic(name), partition.applied(name)
                begin = begins[topic, partition.number]
                if applied >= 0:
                    self._check_not_lost(name, partition.number, applied + 1, begin)
                    self._check_not_older(name, partition.number, applied + 1, ends[topic, partition.number])
                partition.begins(name, max(applied + 1, begin))
                await self.app.consumer.seek(TP(topic, partition.number), partition.next[name])
                if self.epoch != epoch:
                    return
        # From here on without a pause: a mark that arrives now waits for its turn, and finds the partitions ready.
        marks = decode_marks(self._follower.latest())
        for partition in loaded:
            partition.mending = False
            if isinstance(partition, AccountPartition):
                try:
                    partition.take_marks(marks)
                except Exception as error:
                    self._broke(partition, error)
        self.ready |= {partition.number for partition in loaded}
        self._count_ready()
        self._wake.set()

    def _count_ready(self) -> None:
        mending = sum(account.mending for account in self.accounts.values())
        metrics.READY.set(len(self.ready & self.accounts.keys()) - mending)

    def _deeds(self, loaded: list[Partition]) -> Deeds:
        """What operators did, if anything waits for it."""
        return operations.read(self.settings) if any(partition.trouble.halts for partition in loaded) else {}

    def _restore(self, epoch: int, loaded: list[Partition]) -> None:
        self.restoring = Progress(partitions=len(loaded))
        try:
            for name, mine in ((topics.ACCOUNT_CHANGELOG, self.accounts), (topics.PRICE_CHANGELOG, self.prices)):
                topic = self.settings.topic(name)
                stores = {partition.number: partition.store for partition in loaded if partition.changelog == name}
                snapshots = self._snapshots.open(topic, mine)
                left_open = partial(self._abort_left_open, INPUT_OF[name])
                restore(self.settings, topic, stores, snapshots, lambda: self.epoch == epoch, self.restoring, left_open)
        finally:
            metrics.RESTORED_ROWS.inc(self.restoring.rows)  # also of one that was superseded: the next goes on from it

    def _abort_left_open(self, topic: str, numbers: set[int]) -> None:
        """In the thread of a restore, which an open transaction holds up."""
        places = [(self.settings.topic(topic), number) for number in sorted(numbers)]
        group, own = self.settings.group("agents"), self._checkpointer.name
        abort = abort_left_open(self._connection, group, places, own)
        try:
            asyncio.run_coroutine_threadsafe(abort, self._loop).result()
        except (KafkaError, OSError) as error:
            log.warning("waiting for an open transaction to time out", error=repr(error))

    def _input_offsets(self, loaded: list[Partition], spec: OffsetSpec) -> Offsets:
        wanted = {
            TopicPartition(self.settings.topic(name), partition.number): spec
            for partition in loaded
            for name in partition.inputs
        }
        return log_offsets(self.settings, wanted, True) if wanted else {}


def _weight(records: Records) -> int:
    """For how many they count: so what is in hand is bounded in bytes too."""
    return max(records.n, len(records.data) // RECORD_BYTES)


def _clock_ms() -> int:
    """Milliseconds of the wall clock, as Kafka's timestamps are."""
    return time.time_ns() // 1_000_000


def _now_ms() -> int:
    """Milliseconds of a clock that never runs backwards, whatever is done to the wall clock."""
    return time.monotonic_ns() // 1_000_000
