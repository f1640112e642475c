"""What our consumer does in another way than Faust's."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import ConsumerStoppedError, IllegalStateError
from faust.types import TP

from assetstream.streams.transport import RecordConsumer

PLACE = TP("trades", 3)


class Thread:
    """Stands for the thread that has aiokafka's consumer."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.sought = error, {}

    async def seek_wait(self, partitions: dict[TP, int]) -> None:
        if self.error is not None:
            raise self.error
        self.sought |= partitions


def seek(error: Exception | None = None) -> dict[TP, int]:
    consumer = RecordConsumer.__new__(RecordConsumer)
    consumer._thread = thread = Thread(error)
    asyncio.run(consumer._seek(PLACE, 7))
    return thread.sought


def test_a_seek_goes_through_the_consumers_own_thread() -> None:
    assert seek() == {PLACE: 7}


def test_what_a_rebalance_took_away_a_moment_ago_is_not_sought() -> None:
    """It stopped a sink for good, or a worker, though the next assignment was on its way."""
    assert seek(IllegalStateError(f"No current assignment for partition {PLACE}")) == {}


def test_any_other_failure_is_told() -> None:
    with pytest.raises(ConsumerStoppedError):
        seek(ConsumerStoppedError())
