"""What a worker cuts, writes and drops, without Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assetstream.agents.partition import AccountPartition, PricePartition
from assetstream.agents.worker import ENOUGH_WAITING, Worker
from assetstream.cli.benchmarks import core, load
from assetstream.models.records import records_of
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


async def test_a_batch_that_breaks_off_is_never_committed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    await worker._take("trades", trades(0, 10))

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("a kernel broke")

    monkeypatch.setitem(worker._handlers, "trades", broken)
    await worker._last_checkpoint()
    assert isinstance(worker._error, ZeroDivisionError)
    assert worker._cut(last=True) is None  # Faust revokes partitions while it stops


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
