"""The checkpoint: one Kafka transaction for all that a worker did since the last one.

In this order, and nothing of it without the rest:

1. The partitions written to are added to the transaction.
2. Outputs, analytics and changelog records are written, one request for all of them per broker. `marks` that the
   checkpoint's prices made are durable too by then (outside the transaction).
3. The source offsets go into the transaction with the group membership of *this* assignment: a worker whose generation
   is over is refused here.
4. Commit. A commit whose answer is late is asked again until the outcome is known, never replayed.

Only then does the worker take the changes for done (`Committed`). Any failure means: drop the state, restore, go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from assetstream.streams import faults
from assetstream.streams.batch_writer import Batch, Outgoing
from assetstream.streams.connection import Connection, Placed
from assetstream.streams.membership import Member
from assetstream.streams.transaction import FENCED, Transactions, error_code


class CheckpointFailed(Exception):
    """A checkpoint did not commit; nothing of it is visible. `fenced`: because our membership is over."""

    def __init__(self, cause: BaseException, fenced: bool) -> None:
        self.cause, self.fenced = cause, fenced
        super().__init__(f"checkpoint {'fenced' if fenced else 'failed'}: {cause}")


class Committed(NamedTuple):
    """A committed checkpoint: where its records are, in order, by (topic, partition); and how long it took."""

    placed: Placed
    seconds: float
    records: int


class Checkpointer:
    """The transactions of one worker, one at a time."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._transactions = Transactions(connection, group)

    @property
    def name(self) -> str:
        """Its transactional id; also the metadata of the offsets it commits: so a successor knows whose they are."""
        return self._transactions.name

    @property
    def is_open(self) -> bool:
        """Whether a checkpoint can be written: `open` was called, and what failed since could be aborted."""
        return self._transactions.is_open

    async def open(self) -> None:
        """Abort what this worker left open, if anything, and be ready to write. Raises aiokafka's KafkaError."""
        await self._transactions.init()

    async def write(
        self,
        records: Sequence[Outgoing],
        sources: dict[tuple[str, int], int],
        member: Member,
        marks: Callable[[], Awaitable[None]] | None = None,
    ) -> Committed:
        """One transaction. `sources`: next offset to read by (topic, partition), never empty; `marks`: waits for them.

        Raises CheckpointFailed; nothing of the transaction will ever be visible then.
        """
        if not sources:
            raise ValueError("a checkpoint without source offsets would not be fenced")
        if not self.is_open:
            raise CheckpointFailed(RuntimeError("not open"), fenced=False)
        began = time.perf_counter()
        faults.reach("checkpoint.begin")
        try:
            rounds = self._transactions.batches(records)
            placed = await self._write(rounds, sources, member, marks)
            faults.reach("checkpoint.offsets")
            await self._transactions.commit()
            faults.reach("checkpoint.committed")
        except BaseException as error:
            await self._transactions.abort()
            raise CheckpointFailed(error, fenced=error_code(error) in FENCED) from error
        count = sum(batch.records for batches in rounds for batch in batches)
        return Committed(placed, time.perf_counter() - began, count)

    async def _write(
        self,
        rounds: list[list[Batch]],
        sources: dict[tuple[str, int], int],
        member: Member,
        marks: Callable[[], Awaitable[None]] | None,
    ) -> Placed:
        partitions: dict[str, list[int]] = {}
        for batch in rounds[0] if rounds else ():
            partitions.setdefault(batch.topic, []).append(batch.partition)
        if partitions:
            await self._transactions.add(partitions)
        faults.reach("checkpoint.added")
        beside: list[Awaitable[Any]] = [self._transactions.add_group(member.group)]
        if marks is not None:
            beside.append(marks())
        # All of them are over before the transaction is ended, or given up.
        results = await asyncio.gather(self._transactions.produce(rounds), *beside, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        faults.reach("checkpoint.produced")
        await self._transactions.send_offsets({place: (offset, self.name) for place, offset in sources.items()}, member)
        return results[0]  # type: ignore[return-value]
