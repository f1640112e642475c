"""Transactions and marks over a connection that fails as we tell it: what is asked again, and what is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiokafka import errors

from assetstream.streams.batch_writer import Batch, outgoing_of
from assetstream.streams.checkpoint import Checkpointer, CheckpointFailed, Committed
from assetstream.streams.connection import Placed, Refused
from assetstream.streams.marks import MarkPublisher
from assetstream.streams.membership import Member
from assetstream.streams.protocol import (
    AddOffsetsToTxnRequest_v0,
    AddPartitionsToTxnRequest_v0,
    EndTxnRequest_v0,
    Exactly,
    InitProducerIdRequest_v0,
    TxnOffsetCommitRequest_v3,
)
from assetstream.streams.records import parse
from assetstream.streams.settings import Settings
from assetstream.streams.transaction import CONCURRENT, NOT_COORDINATOR

ILLEGAL_GENERATION = 22
MEMBER = Member("agents", 5, "worker-1")
SOURCES = {("trades", 3): 42}
INIT, ADD, GROUP, OFFSETS, END = (
    InitProducerIdRequest_v0,
    AddPartitionsToTxnRequest_v0,
    AddOffsetsToTxnRequest_v0,
    TxnOffsetCommitRequest_v3,
    EndTxnRequest_v0,
)


class Broker:
    """Stands for a Connection. `asked`: what came, in order; `fail`: what to raise next at a kind of request."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.lookups = 0
        self.epoch = -1
        self.fail: dict[Any, list[BaseException | int]] = {}

    async def coordinator(self, kind: int, name: str) -> int:
        self.lookups += 1
        return 1

    async def ask(self, node: int, request: Any) -> Any:
        self.asked.append(request)
        await asyncio.sleep(0)
        code = self._next(type(request))
        kind = type(request)
        if kind is INIT:
            self.epoch += 1
            return kind.RESPONSE_TYPE(0, code, 7, self.epoch)
        if kind is ADD:
            return kind.RESPONSE_TYPE(0, [(t, [(p, code) for p in ps]) for t, ps in request.topics])
        if kind is OFFSETS:
            return kind.RESPONSE_TYPE(0, [(t, [(p[0], code, {}) for p in ps], {}) for t, ps, _ in request.topics], {})
        return kind.RESPONSE_TYPE(0, code)

    async def produce(self, rounds: Sequence[Sequence[Batch]], transactional_id: str | None = None) -> Placed:
        self.asked.append(rounds)
        await asyncio.sleep(0)
        if self._next("produce"):
            raise Refused(19, "t-0")
        return {(batch.topic, batch.partition): [range(batch.records)] for batches in rounds for batch in batches}

    def _next(self, kind: Any) -> int:
        waiting = self.fail.get(kind)
        failure = waiting.pop(0) if waiting else 0
        if isinstance(failure, BaseException):
            raise failure
        return failure

    def kinds(self) -> list[Any]:
        return ["produce" if isinstance(each, list) else type(each) for each in self.asked]


RECORDS = [outgoing_of("t", [(0, b"k", b"v")])]


async def opened(broker: Broker) -> Checkpointer:
    made = Checkpointer(broker, "agents")  # type: ignore[arg-type]
    await made.open()
    return made


async def write(broker: Broker, marks: Callable[[], Awaitable[None]] | None = None) -> Committed:
    return await (await opened(broker)).write(RECORDS, SOURCES, MEMBER, marks)


async def test_a_checkpoint_is_one_transaction_whose_end_comes_last() -> None:
    broker = Broker()
    checkpointer = await opened(broker)
    committed = await checkpointer.write(RECORDS, SOURCES, MEMBER)
    assert broker.kinds()[:2] == [INIT, ADD]
    assert sorted(map(str, broker.kinds()[2:4])) == sorted(map(str, ["produce", GROUP]))
    assert broker.kinds()[4:] == [OFFSETS, END]
    offsets, end = broker.asked[-2:]
    assert (offsets.group_id, offsets.generation_id, offsets.member_id) == ("agents", 5, "worker-1")
    assert offsets.topics == [("trades", [(3, 42, -1, checkpointer.name, {})], {})]
    assert end.transaction_result is True
    assert committed.placed == {("t", 0): [range(1)]}
    assert committed.records == 1


async def test_marks_are_durable_before_the_end() -> None:
    broker = Broker()
    before: list[Any] = []

    async def marks() -> None:
        await asyncio.sleep(0.01)
        before.extend(broker.kinds())

    await write(broker, marks)
    assert before
    assert END not in before


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("produce", 19),
        ("produce", errors.KafkaConnectionError()),
        (ADD, errors.RequestTimedOutError()),
        (GROUP, errors.NodeNotReadyError()),
        (OFFSETS, errors.KafkaConnectionError()),
        (END, 47),
    ],
)
async def test_what_fails_is_aborted_at_once_and_not_sent_again(kind: Any, failure: Any) -> None:
    broker = Broker()
    made = await opened(broker)
    broker.fail[kind] = [failure]
    with pytest.raises(CheckpointFailed) as failed:
        await made.write(RECORDS, SOURCES, MEMBER)
    assert not failed.value.fenced
    assert broker.kinds().count(kind) == 1
    assert broker.kinds()[-1] is INIT  # aborts what is open
    assert made.is_open
    assert kind == END or END not in broker.kinds()
    await made.write(RECORDS, SOURCES, MEMBER)
    assert broker.asked[-1].producer_epoch == 1


async def test_a_failed_mark_fails_the_checkpoint() -> None:
    async def marks() -> None:
        raise errors.KafkaConnectionError()

    broker = Broker()
    with pytest.raises(CheckpointFailed):
        await write(broker, marks)
    assert END not in broker.kinds()


async def test_an_old_generation_is_fenced() -> None:
    broker = Broker()
    broker.fail[OFFSETS] = [ILLEGAL_GENERATION]
    with pytest.raises(CheckpointFailed) as failed:
        await write(broker)
    assert failed.value.fenced
    assert END not in broker.kinds()


async def test_a_busy_coordinator_is_asked_again_and_a_moved_one_looked_up() -> None:
    broker = Broker()
    broker.fail = {ADD: [CONCURRENT, CONCURRENT], END: [NOT_COORDINATOR]}
    await write(broker)
    assert broker.kinds().count(ADD) == 3
    assert broker.kinds().count(END) == 2
    assert broker.lookups == 3  # of the transaction, the group, and once more


async def test_a_commit_without_an_answer_is_asked_until_there_is_one() -> None:
    broker = Broker()
    broker.fail[END] = [errors.RequestTimedOutError(), errors.NodeNotReadyError()]
    await write(broker)
    assert broker.kinds().count(END) == 3
    assert {(end.producer_id, end.producer_epoch) for end in broker.asked if type(end) is END} == {(7, 0)}


async def test_no_checkpoint_without_source_offsets() -> None:
    made = await opened(Broker())
    with pytest.raises(ValueError, match="would not be fenced"):
        await made.write([], {}, MEMBER)


async def test_an_aborted_transaction_that_can_not_be_aborted_needs_open() -> None:
    broker = Broker()
    made = await opened(broker)
    broker.fail = {"produce": [19], INIT: [87]}  # a code that is not asked again
    with pytest.raises(CheckpointFailed):
        await made.write(RECORDS, SOURCES, MEMBER)
    assert not made.is_open
    with pytest.raises(CheckpointFailed, match="not open"):
        await made.write(RECORDS, SOURCES, MEMBER)


def test_a_broker_without_our_versions_is_named() -> None:
    request = Exactly(InitProducerIdRequest_v0("id", 1))
    with pytest.raises(RuntimeError, match=r"serves versions 1 to 3 of request 22, we need 0: Kafka 2\.5 or later"):
        request.prepare({22: (1, 3)})


# ------------------------------------------------------------------------------------------------------------ marks


def publisher(broker: Broker) -> MarkPublisher:
    return MarkPublisher(broker, Settings(_env_file=None, partitions=1))  # type: ignore[arg-type]


def written(rounds: list[list[Batch]]) -> dict[bytes | None, bytes | None]:
    """Marks by symbol."""
    ((batch,),) = rounds
    found, _ = parse(batch.topic, batch.partition, bytes(batch.data), 0)
    return {found.key(i): found.value(i) for i in range(found.n)}


async def test_marks_that_come_meanwhile_go_together_the_last_of_each_symbol() -> None:
    broker = Broker()
    marks = publisher(broker)
    marks.publish([(b"A", b"1")])
    await asyncio.sleep(0)  # the first is under way
    marks.publish([(b"A", b"2"), (b"B", b"1")])
    marks.publish([(b"A", b"3")])
    await marks.durable()
    assert [written(rounds) for rounds in broker.asked] == [{b"A": b"1"}, {b"A": b"3", b"B": b"1"}]
    await marks.durable()  # nothing waits


async def test_a_mark_that_was_not_written_is_told_once() -> None:
    broker = Broker()
    marks = publisher(broker)
    broker.fail["produce"] = [19]
    marks.publish([(b"A", b"1")])
    await asyncio.sleep(0)
    marks.publish([(b"B", b"1")])  # goes well, but what failed before must not be forgotten
    with pytest.raises(Refused):
        await marks.durable()
    await marks.durable()
