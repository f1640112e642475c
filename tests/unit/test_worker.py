"""What a worker cuts, writes and drops, without Kafka."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from assetstream.agents import worker as workers
from assetstream.agents.halts import Halt
from assetstream.agents.outputs import Publication
from assetstream.agents.partition import (
    TICK_PATIENCE_MS,
    TICK_PAUSE_MS,
    AccountPartition,
    Partition,
    PartitionCut,
    PricePartition,
)
from assetstream.agents.trades import take_trades
from assetstream.agents.worker import ENOUGH_WAITING, LOOK_S, RecordsLost, Worker
from assetstream.cli.benchmarks import core, load
from assetstream.models.records import Records, records_of
from assetstream.models.verdicts import Verdict
from assetstream.streams.checkpoint import Committed
from assetstream.streams.connection import GroupOffsets
from assetstream.streams.membership import Member
from assetstream.streams.settings import Settings
from assetstream.streams.transport import Run


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that has partition 0, empty, and was told that it is ready."""
    made = Worker(Settings(_env_file=None, data_dir=tmp_path, partitions=1))
    made.member = Member("agents", 1, "me")
    made.accounts, made.prices = {0: AccountPartition(0, made.settings)}, {0: PricePartition(0, made.settings)}
    for partition in (made.accounts[0], made.prices[0]):
        partition.next = dict.fromkeys(partition.inputs, 0)
    made.assigned = made.ready = {0}
    yield made
    made._snapshots.close()


def trades(first: int, n: int) -> Run:
    messages = [load.trade(first + i, i % 3, i % 5, 10, 9_500) for i in range(n)]
    return Run(first, first + n, records_of("trades", 0, messages, first, core.APPENDED_MS))


def applied(worker: Worker) -> int:
    return worker.accounts[0].applied("trades")


async def test_records_wait_for_the_cut_which_takes_them_together(worker: Worker) -> None:
    await worker._take("trades", trades(0, 10))
    await worker._take("trades", trades(10, 5))
    assert applied(worker) == -1
    checkpoint = worker._cut(last=False)
    assert checkpoint is not None
    assert applied(worker) == 14
    assert checkpoint.made.sources["trades", 0] == 15
    ((batch, fills),) = checkpoint.cuts[0].work.fills
    assert batch.records.offset.tolist() == list(range(15))
    assert len(fills) == 15
    assert worker._cut(last=False) is None


async def test_many_records_are_taken_at_once(worker: Worker) -> None:
    await worker._take("trades", trades(0, ENOUGH_WAITING - 1))
    assert applied(worker) == -1
    await worker._take("trades", trades(ENOUGH_WAITING - 1, 1))
    assert applied(worker) == ENOUGH_WAITING - 1


async def until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def test_large_records_are_bounded_by_their_bytes(worker: Worker) -> None:
    """No more than about 30 MiB, until a checkpoint has taken them; and many bytes are taken at once."""
    room = worker.app.consumer.room
    for offset in range(29):
        await worker._take("trades", large(offset))
    await worker._have_room(worker.epoch)
    assert room.is_set()
    assert applied(worker) == 27  # with every second
    await worker._take("trades", large(29))
    waiting = asyncio.create_task(worker._have_room(worker.epoch))
    await until(lambda: not room.is_set())
    assert not waiting.done()
    worker._cut(last=False)
    await waiting
    assert room.is_set()


def large(offset: int) -> Run:
    """One message of 1,020 KiB, which ends whole in dead letters."""
    return Run(offset, offset + 1, records_of("trades", 0, [(b"", b"{" * (1_020 << 10))], offset, core.APPENDED_MS))


async def test_what_comes_during_a_restore_waits_in_kafka(worker: Worker) -> None:
    room = worker.app.consumer.room
    worker.ready = set()
    waiting = asyncio.create_task(worker._take("trades", trades(0, 10)))
    await until(lambda: not room.is_set())
    worker.ready = {0}
    await waiting
    await worker._have_room(worker.epoch)
    assert room.is_set()
    assert worker.accounts[0].next["trades"] == 10


class Kernel:
    """Takes trades, and breaks on the one at offset `poison`, when its batch is half applied."""

    def __init__(self, poison: int) -> None:
        self.poison = poison
        self.batches: list[list[int]] = []

    def __call__(self, partition: AccountPartition, records: Records) -> None:
        take_trades(partition, records)
        self.batches.append(records.offset.tolist())
        if self.poison in self.batches[-1]:
            raise ZeroDivisionError("a kernel broke")


@pytest.fixture
def mended(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[Partition]:
    """The partitions that were given to be restored: nobody restores them here."""
    given: list[Partition] = []

    async def mend(epoch: int, partition: Partition) -> None:
        given.append(partition)

    monkeypatch.setattr(worker, "_mend", mend)
    return given


def restored(worker: Worker, following: int) -> None:
    """Account partition 0 has the state of before offset `following`, as after `_make_ready`."""
    account = worker.accounts[0]
    account.next = dict.fromkeys(account.inputs, 0) | {"trades": following}
    account.mending = False


async def test_a_batch_that_breaks_off_is_never_committed(
    worker: Worker, mended: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(worker._handlers, "trades", Kernel(7))
    await worker._take("trades", trades(0, 10))
    before = worker.accounts[0]
    assert worker._cut(last=False) is None
    assert worker._error is None  # the other partitions go on
    account = worker.accounts[0]
    assert account is not before
    assert account.mending
    await asyncio.sleep(0)
    assert mended == [account]
    assert "partition 0 to be restored" in "".join(worker.waiting_for())
    await worker._take("trades", trades(10, 10))  # what comes meanwhile is sent again later
    assert worker._cut(last=True) is None


async def test_the_record_that_breaks_is_found_and_halted_before(
    worker: Worker, mended: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(7)
    monkeypatch.setitem(worker._handlers, "trades", kernel)
    await worker._take("trades", trades(0, 10))
    worker._cut(last=False)
    restored(worker, 0)
    await worker._take("trades", trades(0, 12))
    worker._cut(last=False)
    assert kernel.batches == [[*range(10)], [0], [1], [2], [3], [4], [5], [6], [7]]
    assert worker.accounts[0].trouble.halts == {"trades": Halt(7, "ZeroDivisionError: a kernel broke")}

    restored(worker, 0)
    await worker._take("trades", trades(0, 12))
    checkpoint = worker._cut(last=False)
    assert checkpoint is not None
    assert checkpoint.made.sources["trades", 0] == 7  # all before it is committed
    assert sum(len(fills) for _, fills in checkpoint.cuts[0].work.fills) == 7
    (line,) = [line for line in worker.waiting_for() if "decision" in line]
    assert "assetstream skip trades 0 7 --reason" in line
    await worker._take("trades", trades(12, 5))
    assert worker._cut(last=False) is None


async def test_a_skipped_record_is_a_dead_letter_and_the_topic_goes_on(
    worker: Worker, mended: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(worker._handlers, "trades", Kernel(7))
    trouble = worker.accounts[0].trouble
    trouble.halts["trades"] = Halt(7, "")
    deed = {"by": "me@here", "reason": "because"}
    assert trouble.obey(0, {"skip/trades-0-8": deed, "skip/trades-1-7": deed}) == []
    assert trouble.obey(0, {"skip/trades-0-7": deed}) == ["trades"]
    await worker._take("trades", trades(0, 12))
    checkpoint = worker._cut(last=False)
    assert checkpoint is not None
    work = checkpoint.cuts[0].work
    ((records, message, verdict, detail, _),) = work.rejected
    assert records.offset[message].tolist() == [7]
    assert [Verdict(v) for v in verdict] == [Verdict.SKIPPED]
    assert detail == ["skipped by me@here: because"]
    assert work.counts == {("trades", "applied"): 11, ("trades", "skipped"): 1}
    assert checkpoint.made.sources["trades", 0] == 12


async def test_what_is_no_single_record_is_tried_again_with_growing_pauses(
    worker: Worker, mended: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: AccountPartition, now_ms: int, clock_ms: int | None) -> None:
        raise ZeroDivisionError("updates break")

    await worker._take("trades", trades(0, 10))
    monkeypatch.setattr(AccountPartition, "cut", broken)
    for pause in (5.0, 10.0, 20.0):
        assert worker._cut(last=False) is None
        assert worker.accounts[0].trouble.pause_s == pause
        assert f"tried again within {pause:.0f} s: ZeroDivisionError: updates break" in "".join(worker.waiting_for())
        restored(worker, 0)
    await asyncio.sleep(0)
    assert len(mended) == 3
    monkeypatch.undo()
    await worker._take("trades", trades(0, 10))
    checkpoint = worker._cut(last=False)
    assert checkpoint is not None
    worker._done(checkpoint.cuts, checkpoint.made, Committed({("account_changelog", 0): [range(1)]}, 0.1, 1))
    assert worker.accounts[0].trouble.pause_s == 0


async def test_a_partition_that_cannot_be_published_holds_up_no_other(
    worker: Worker, mended: list[Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.settings = worker.settings.model_copy(update={"partitions": 2})
    worker.accounts[1] = AccountPartition(1, worker.settings)
    worker.accounts[1].next = dict.fromkeys(worker.accounts[1].inputs, 0)
    worker.assigned = worker.ready = {0, 1}
    await worker._take("trades", trades(0, 10))
    await worker._take("trades", Run(0, 5, trades(0, 5).records._replace(partition=1)))
    sound = worker._publisher.publication

    def publication(cuts: list[PartitionCut], turn: int) -> Publication:
        if any(cut.partition.number == 1 for cut in cuts):
            raise OverflowError("1 breaks")
        return sound(cuts, turn)

    monkeypatch.setattr(worker._publisher, "publication", publication)
    checkpoint = worker._cut(last=False)
    assert checkpoint is not None
    assert [cut.partition.number for cut in checkpoint.cuts] == [0]
    assert checkpoint.made.sources.keys() == {(name, 0) for name in worker.accounts[0].inputs}
    assert [worker.accounts[number].mending for number in (0, 1)] == [False, True]


async def test_what_was_cut_from_a_state_that_is_gone_is_not_written(worker: Worker) -> None:
    await worker._take("trades", trades(0, 10))
    checkpoint = worker._cut(last=False)
    assert checkpoint is not None
    written: list[Any] = []

    async def write(*args: Any) -> None:
        written.append(args)

    worker._checkpointer.write = write  # type: ignore[assignment,method-assign]
    worker._forget()
    await worker._writing.acquire()
    await worker._write(checkpoint)
    assert not written
    assert not worker._writing.locked()
    assert applied(worker) == -1


async def test_old_records_are_skipped_and_what_is_not_ours_is_left(worker: Worker) -> None:
    await worker._take("trades", trades(0, 10))
    await worker._take("trades", trades(5, 10))  # 5 … 9 came before
    await worker._take("trades", trades(2, 3))
    worker._cut(last=False)
    assert applied(worker) == 14
    worker.accounts = {}
    await worker._take("trades", trades(15, 5))
    assert worker._waiting == 0


@pytest.mark.parametrize(("restored_to", "is_lost"), [(10, False), (9, True)])
async def test_a_state_is_held_against_what_was_committed_before_it_was_restored(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, restored_to: int, is_lost: bool
) -> None:
    """Another worker may have the partition by then, and commit: that is no sign of a lost end."""
    group = {"trades": 10}

    async def committed(name: str, places: list[tuple[str, int]], decided: bool) -> GroupOffsets:
        return {place: (group.get(place[0], 0), f"{name}-me") for place in places}

    def restore(epoch: int, loaded: list[Partition]) -> None:
        worker.accounts[0].begins("trades", restored_to)
        group["trades"] = 20

    async def ready(*args: Any) -> None:
        pass

    worker._follower.caught_up.set()
    worker._checkpointer._transactions.is_open = True
    monkeypatch.setattr(worker._connection, "committed", committed)
    monkeypatch.setattr(worker, "_restore", restore)
    monkeypatch.setattr(worker, "_input_offsets", lambda *args: {})
    monkeypatch.setattr(worker, "_make_ready", ready)
    with pytest.raises(RecordsLost, match="below offset 9, we have committed 10") if is_lost else nullcontext():
        await worker._load(worker.epoch)


def hold(number: int, expires_ms: int, status: str = "PENDING") -> tuple[bytes, bytes]:
    """A hold of a deposit that expires then."""
    at = datetime.fromtimestamp(expires_ms / 1000, UTC).isoformat()
    event = {"transaction_id": f"h{number}", "user_id": "ann", "wallet_id": "w", "asset": "USD", "amount": "1"}
    event |= {"type": "HOLD", "status": status, "occurred_at": "2026-03-02T09:00:00Z", "expires_at": at}
    return b"ann", json.dumps(event).encode()


class Broker:
    """Takes the ticks of checkpoints, and gives them to the worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.ends = worker, Counter[str]()

    async def publish(self, topic: str, *messages: tuple[bytes | None, bytes], at_ms: int = core.APPENDED_MS) -> None:
        first = self.ends[topic]
        self.ends[topic] += len(messages)
        await self.worker._take(topic, Run(first, self.ends[topic], records_of(topic, 0, messages, first, at_ms)))

    def ticks(self, last: bool = False) -> list[bytes]:
        """The values that the next checkpoint writes to `clock`; it is fenced whatever else it has."""
        checkpoint = self.worker._cut(last)
        if checkpoint is None:
            return []
        assert set(checkpoint.made.sources) >= {(name, 0) for name in self.worker.accounts[0].inputs}
        found = [each for each in checkpoint.made.records() if each.topic == "clock"]
        assert all(each.key_len.tolist() == [-1] and each.partition.tolist() == [0] for each in found)
        return [each.values.tobytes() for each in found]


async def look(worker: Worker) -> bool:
    """Whether a worker that looks once finds something to write."""
    worker._wake.clear()
    looking = asyncio.create_task(worker._look_what_is_due())
    await asyncio.sleep(2 * LOOK_S)
    looking.cancel()
    return worker._wake.is_set()


async def test_a_tick_is_written_when_something_is_due_and_none_is_on_its_way(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, account, clock = Broker(worker), worker.accounts[0], core.APPENDED_MS
    monkeypatch.setattr(workers, "_clock_ms", lambda: clock)
    deposit = hold(0, clock)[1].replace(b"HOLD", b"DEPOSIT").replace(b"PENDING", b"COMPLETED").replace(b'"1"', b'"9"')
    await broker.publish("transactions", (b"ann", deposit))
    assert broker.ticks() == []
    await broker.publish("transactions", hold(1, clock + 5000), hold(2, clock + 6000))
    assert broker.ticks() == []
    assert not await look(worker)  # no idle traffic
    assert broker.ticks() == []

    clock += 5000
    assert await look(worker)
    assert broker.ticks(last=True) == []  # the next owner sees to it
    assert await look(worker)
    due = datetime.fromtimestamp(clock / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    (tick,) = broker.ticks()  # nothing else is in that checkpoint
    assert tick == f'{{"due":"{due}Z"}}'.encode()
    assert not await look(worker)
    clock += 1000
    assert not await look(worker)  # it is on its way
    assert broker.ticks() == []

    # the broker's clock is behind: nothing is due yet, and the next tick waits a second
    await broker.publish("clock", (None, tick), at_ms=clock - 1001)
    assert broker.ticks() == []
    assert account.work.booked == []
    assert not await look(worker)
    account.next_tick_ms -= TICK_PAUSE_MS
    assert await look(worker)
    assert broker.ticks() == [tick]
    await broker.publish("clock", (None, tick), at_ms=clock - 1000)
    # what is left is due, too, and gets the next one at once
    assert len(broker.ticks()) == 1
    await broker.publish("clock", (None, tick), at_ms=clock)
    assert broker.ticks() == []
    assert not await look(worker)
    amounts = account.store.state.balances.rows[0]
    assert (int(amounts["available_lo"]), int(amounts["locked_lo"])) == (9 * 10**18, 0)


async def test_a_tick_that_is_lost_is_given_up(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker, account = Broker(worker), worker.accounts[0]
    monkeypatch.setattr(workers, "_clock_ms", lambda: core.APPENDED_MS)
    deposit = hold(0, 0)[1].replace(b"HOLD", b"DEPOSIT").replace(b"PENDING", b"COMPLETED")
    await broker.publish("transactions", (b"ann", deposit), hold(1, core.APPENDED_MS))
    assert len(broker.ticks()) == 1
    assert not await look(worker)
    account.next_tick_ms -= TICK_PATIENCE_MS
    assert await look(worker)
    # nor is one written for a topic that halts
    account.trouble.halts["clock"] = Halt(0, "breaks")
    assert not await look(worker)
