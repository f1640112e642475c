"""Kafka transactions over our own connection, in the protocol that every Kafka from 2.5 on serves.

A transaction is written whole or given up whole: nothing is sent twice but its end. Whoever gets an error calls
`abort`, which is `init` again: the coordinator aborts what is open and fences everything of the old epoch that is
still under way. Then it starts over from what is committed.

Source: KIP-98 (transactions), KIP-447 (offsets are checked against the group's generation).
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import errors
from aiokafka.client import CoordinationType
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential

from assetstream.streams import outages
from assetstream.streams.batch_writer import Batch, BatchWriter, Outgoing, ProducerId
from assetstream.streams.connection import Connection, Placed, raise_for
from assetstream.streams.membership import Member
from assetstream.streams.protocol import (
    AddOffsetsToTxnRequest_v0,
    AddPartitionsToTxnRequest_v0,
    EndTxnRequest_v0,
    InitProducerIdRequest_v0,
    TxnOffsetCommitRequest_v3,
)

log = structlog.get_logger(__name__)

#: the coordinator is moving, loading, or still busy with the transaction before: ask again
LOADING, NOT_AVAILABLE, NOT_COORDINATOR, CONCURRENT = 14, 15, 16, 51
BUSY = {LOADING, NOT_AVAILABLE, NOT_COORDINATOR, CONCURRENT}
#: nothing came back: only what may be done twice is asked again then
SILENT = (errors.KafkaConnectionError, errors.NodeNotReadyError, errors.RequestTimedOutError, errors.StaleMetadata)
#: the group is in another generation: a rebalance, or we were away too long. Normal, heals by rejoining.
ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, FENCED_INSTANCE_ID = 22, 25, 27, 82
FENCED = {ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, FENCED_INSTANCE_ID}
#: after this the broker aborts a dead process's open transaction, and readers of its partitions go on
TIMEOUT_MS = 10_000
#: how long a busy coordinator is asked again
PATIENCE_S = 10.0
#: how long a commit's outcome may stay unknown before we start over (the broker has decided by then)
COMMIT_PATIENCE_S = 60.0
#: how long to try to abort what failed
ABORT_PATIENCE_S = 5.0


def error_code(error: BaseException) -> int | None:
    """Kafka's code of an error, None when it has none."""
    return getattr(error, "errno", None)


async def abort_left_open(connection: Connection, group: str, places: Sequence[tuple[str, int]], own: str) -> None:
    """Abort what the last owners of these source partitions (topic, partition) left open. Raises KafkaError.

    Who committed offsets last stands in their metadata. A dead owner's transaction would else stay open until it times
    out, and hold up all readers of what it wrote. A live one is fenced and starts over, which costs it a restore; but
    no healthy owner has anything open in a partition that is ours.
    """
    # its last offsets may themselves be part of what is left open
    committed = await connection.committed(group, places, decided=False)
    owners = {metadata for _, metadata in committed.values() if metadata.startswith(f"{group}-")} - {own}
    for owner in sorted(owners):
        await Transactions(connection, group, owner).init()
        log.info("aborted what a worker before us left open, if anything", transactional_id=owner)


class Transactions:
    """The transactions of one process for the consumer group `group`, one after the other.

    A transaction: `add` all partitions and `produce`; `add_group` and `send_offsets`; then `commit`.
    Every method raises aiokafka's KafkaError.
    """

    def __init__(self, connection: Connection, group: str, name: str | None = None) -> None:
        self._connection = connection
        #: the transactional id: one that nobody else has, and that says who it is; fencing is by the group
        self.name = name or f"{group}-{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        #: whether a transaction can begin: `init` was called, and what failed since could be aborted
        self.is_open = False
        self._coordinators: dict[CoordinationType, int] = {}
        self._producer = ProducerId(-1, -1, True)
        self._writer = BatchWriter()

    async def init(self) -> None:
        """A new epoch: what was open is aborted, what was decided stays decided."""
        answer = await self._ask(InitProducerIdRequest_v0(self.name, TIMEOUT_MS), PATIENCE_S, repeatable=True)
        self._producer = ProducerId(answer.producer_id, answer.producer_epoch, True)
        self._writer = BatchWriter(self._producer)
        self.is_open = True

    async def abort(self) -> None:
        """After an error: `init`, so that readers need not wait for the timeout; `is_open`: whether it went well."""
        self.is_open = False
        self._coordinators.clear()  # whatever failed, the other may have been on the same broker
        try:
            await asyncio.wait_for(self.init(), ABORT_PATIENCE_S)
        except (errors.KafkaError, OSError, TimeoutError) as error:
            if not outages.KAFKA.is_on:
                log.warning("Kafka aborts a transaction itself when it times out", name=self.name, error=repr(error))

    def batches(self, records: Iterable[Outgoing]) -> list[list[Batch]]:
        """Rounds of batches for `produce`."""
        return self._writer.write(records)

    async def add(self, partitions: Mapping[str, Sequence[int]]) -> None:
        """Partitions, by topic, that this transaction writes to."""
        await self._ask(AddPartitionsToTxnRequest_v0(self.name, *self._producer[:2], [*partitions.items()]))

    async def produce(self, rounds: Sequence[Sequence[Batch]]) -> Placed:
        """Write to them; -> at which offsets."""
        return await self._connection.produce(rounds, self.name)

    async def add_group(self, group: str) -> None:
        """The group whose offsets this transaction commits."""
        await self._ask(AddOffsetsToTxnRequest_v0(self.name, *self._producer[:2], group))

    async def send_offsets(self, offsets: Mapping[tuple[str, int], tuple[int, str]], member: Member) -> None:
        """Next offset to read, and metadata, by (topic, partition); refused when `member` is of an old generation.

        Not beside `produce`: Kafka checks both with the coordinator, and of two checks at a time it fails one.
        """
        by_topic: dict[str, list[tuple[int, int, int, str, dict[int, bytes]]]] = {}
        for (topic, partition), (offset, metadata) in offsets.items():
            by_topic.setdefault(topic, []).append((partition, offset, -1, metadata, {}))
        topics: list[tuple[str, Any, Any]] = [(topic, partitions, {}) for topic, partitions in by_topic.items()]
        owner = (*self._producer[:2], member.generation, member.member, None)
        request = TxnOffsetCommitRequest_v3(self.name, member.group, *owner, topics, {})
        await self._ask(request, kind=CoordinationType.GROUP, key=member.group)

    async def commit(self) -> None:
        """End the transaction; asks until the outcome is known, for COMMIT_PATIENCE_S."""
        request = EndTxnRequest_v0(self.name, *self._producer[:2], True)
        await self._ask(request, COMMIT_PATIENCE_S, repeatable=True)

    async def _ask(
        self,
        request: Any,
        patience_s: float = PATIENCE_S,
        repeatable: bool = False,
        kind: CoordinationType = CoordinationType.TRANSACTION,
        key: str | None = None,
    ) -> Any:
        def again(error: BaseException) -> bool:
            return error_code(error) in BUSY or (repeatable and isinstance(error, SILENT))

        async for attempt in AsyncRetrying(
            retry=retry_if_exception(again),
            wait=wait_exponential(0.001, max=0.25),
            stop=stop_after_delay(patience_s),
            sleep=asyncio.sleep,
            reraise=True,
        ):
            with attempt:
                return await self._ask_once(request, kind, key or self.name)
        raise AssertionError("tenacity raises the last error")

    async def _ask_once(self, request: Any, kind: CoordinationType, key: str) -> Any:
        if kind not in self._coordinators:
            self._coordinators[kind] = await self._connection.coordinator(kind, key)
        try:
            answer = await self._connection.ask(self._coordinators[kind], request)
            for code in _codes(answer):
                raise_for(code, type(request).__name__)
        except errors.KafkaError as error:
            if error_code(error) != CONCURRENT:
                self._coordinators.pop(kind, None)  # it may be another one now
            raise
        return answer


def _codes(answer: Any) -> Iterable[int]:
    """The error codes of an answer, its own or its partitions'."""
    if hasattr(answer, "error_code"):
        return [answer.error_code]
    topics = answer.errors if hasattr(answer, "errors") else answer.topics
    return [partition[1] for topic in topics for partition in topic[1]]
