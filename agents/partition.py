"""One partition of this worker: its store, and the work done since the last checkpoint.

Handlers (one file per input topic) decode a batch, call the kernel and leave what is to be published in `work`. A cut
takes all of it between two batches; `agents/outputs.py` turns a cut into records.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from assetstream.agents.halts import Broken, Trouble
from assetstream.models import state as states
from assetstream.models.clock import next_due
from assetstream.models.decode import MarkBatch
from assetstream.models.marks import apply_marks
from assetstream.models.outputs import UPDATE
from assetstream.models.records import Records, joined
from assetstream.models.settlement_events import SettlementBatch
from assetstream.models.updates import collect_updates, next_update_ms
from assetstream.models.verdicts import Verdict
from assetstream.models.wallets import LedgerResult
from assetstream.streams import dead_letters, metrics, topics
from assetstream.streams.dead_letters import Rejected
from assetstream.streams.settings import Settings
from assetstream.tables.store import Cut, Store

#: a tick that found nothing due, because our clock is ahead of the broker's, is not followed by another one for so long
TICK_PAUSE_MS = 1_000
#: nor is one that is on its way; one that takes longer is given up
TICK_PATIENCE_MS = 30_000


@dataclass
class Work:
    """What a partition did since the last cut."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (topic, result)
    oldest: dict[str, int] = field(default_factory=dict)  # by topic: Kafka timestamp (ms) of the first record taken
    verdicts: list[tuple[str, np.ndarray]] = field(default_factory=list)  # (topic, of each record), batch by batch
    rejected: list[Rejected] = field(default_factory=list)
    fills: list[tuple[Any, np.ndarray]] = field(default_factory=list)  # (TradeBatch, FILL rows)
    settled: list[SettlementBatch] = field(default_factory=list)
    alerts: list[np.ndarray] = field(default_factory=list)  # ALERT rows
    booked: list[tuple[Any, LedgerResult]] = field(default_factory=list)  # (Transaction-, Transfer- or DueBatch, …)
    prices: list[tuple[Any, np.ndarray]] = field(default_factory=list)  # (PriceBatch, accepted messages)


class PartitionCut(NamedTuple):
    """All that one checkpoint writes for a partition. Arrays are copies, or rows that never change again."""

    partition: Partition
    work: Work
    updates: np.ndarray  # UPDATE rows
    unpriced: np.ndarray  # int32, the symbols they name
    state: Any
    changes: Cut
    sources: dict[tuple[str, int], int]
    tick: int | None = None  # write one to `clock`: what is due was due at this microsecond


class Partition:
    """What account and price partitions have in common. By topic (plain name): `next` is the offset to be sent next,
    `waiting` the records that came and wait to be taken, all together. `is_broken`: a kernel broke on it, and a fresh
    one has its place; that one is `mending`, and takes nothing, until it is restored.
    """

    inputs: tuple[str, ...]
    changelog: str

    def __init__(self, number: int, settings: Settings) -> None:
        self.number, self.settings = number, settings
        self.store = self._new_store()
        self.next: dict[str, int] = {}
        self.waiting: dict[str, list[Records]] = {}
        self.trouble = Trouble()
        self.is_broken = self.mending = False
        self.forget_work()

    def _new_store(self) -> Store:
        raise NotImplementedError

    def afresh(self) -> Self:
        """The same partition, empty as before a restore; what is known to be wrong with it stays known."""
        fresh = type(self)(self.number, self.settings)
        fresh.trouble = self.trouble
        return fresh

    def forget_work(self) -> None:
        """Drop what is not committed; the store's rows must be dropped or restored with it."""
        self.work = Work()
        self.due = False  # something must be written at the next checkpoint

    def applied(self, topic: str) -> int:
        """Offset of the last record of `topic` in the state; −1: none."""
        return states.applied(self.store.state, self.inputs.index(topic))

    def begins(self, topic: str, offset: int) -> None:
        """The record at `offset` is the next to be sent. What expired before we ever took part counts as applied."""
        self.next[topic] = offset
        if offset > self.applied(topic) + 1:
            states.set_applied(self.store.state, self.inputs.index(topic), offset - 1)

    def arrived(self, topic: str, records: Records, ends: int) -> None:
        """These records are next, and after them is offset `ends`."""
        self.waiting.setdefault(topic, []).append(records)
        self.next[topic] = ends
        self.due = True

    def take_waiting(self, take: Callable[[str, Partition, Records], None]) -> None:
        """Have all that waits taken, in the order in which its topics came. Raises Broken when a kernel breaks."""
        while self.waiting:
            topic = next(iter(self.waiting))
            runs = [run for run in self.waiting.pop(topic) if run.n]
            if runs:
                for records, skipped in self.trouble.pieces(topic, joined(runs)):
                    self._take(topic, records, skipped, take)
            states.set_applied(self.store.state, self.inputs.index(topic), self.next[topic] - 1)

    def _take(
        self, topic: str, records: Records, skipped: str | None, take: Callable[[str, Partition, Records], None]
    ) -> None:
        if skipped is not None:
            self.account_for(topic, records, np.array([Verdict.SKIPPED], np.uint8), {0: skipped})
            return
        try:
            take(topic, self, records)
        except Exception as error:
            raise Broken(topic, int(records.offset[0]) if records.n == 1 else None, error) from error

    def account_for(self, topic: str, records: Records, verdict: np.ndarray, details: dict[int, str]) -> None:
        """Count a batch's records by what became of them, and set the rejected aside."""
        work = self.work
        work.oldest.setdefault(topic, int(records.timestamp[0]))
        work.verdicts.append((topic, verdict))
        for value, n in enumerate(np.bincount(verdict)):
            if n:
                work.counts[topic, Verdict(value).reason] += int(n)
        letters = dead_letters.rejected(records, verdict, details, time.time_ns() // 1000, by_symbol=topic == "prices")
        if letters is not None:
            work.rejected.append(letters)

    def cut(self, now_ms: int, clock_ms: int | None = None) -> PartitionCut | None:
        """What is to be written, None when there is nothing. Call when nothing waits.

        With `clock_ms`, the wall clock's milliseconds, it may have a tick to be written.
        """
        if not self.due:
            return None
        assert not self.waiting, "a cut's source offsets say that all before them is taken"
        updates, unpriced = self._collect(now_ms)
        tick = None if clock_ms is None else self._tick(now_ms, clock_ms)
        work = self.work
        self.forget_work()
        sources = {(self.settings.topic(t), self.number): offset for t, offset in self.next.items()}
        return PartitionCut(self, work, updates, unpriced, self.store.state, self.store.cut(), sources, tick)

    def _collect(self, now_ms: int) -> tuple[np.ndarray, np.ndarray]:
        """Updates that are due, and the unpriced symbols they name."""
        return np.empty(0, UPDATE), np.empty(0, np.int32)

    def _tick(self, now_ms: int, clock_ms: int) -> int | None:
        """When what a tick is to be written for was due."""
        return None


class AccountPartition(Partition):
    """Positions, portfolios, limits and balances of the users of one partition."""

    inputs = topics.ACCOUNT_INPUTS
    changelog = topics.ACCOUNT_CHANGELOG
    next_tick_ms = 0  # no tick is written before this, of the clock that never runs backwards

    def _new_store(self) -> Store:
        base, memory = self.settings.base_currency.encode(), self.settings.id_memory
        return Store(lambda: states.new_account_state(base, memory), tuple(states.PERSISTED), states.rebuild)

    def take_marks(self, batch: MarkBatch) -> None:
        """Revalue with marks and check limits, one mark after the other."""
        with metrics.CALCULATION.labels("marks").time():
            result = apply_marks(self.store.state, batch)
        self.store.state = result.state
        if len(result.alerts):
            self.work.alerts.append(result.alerts)
            self.due = True

    def update_due(self, now_ms: int) -> bool:
        """Whether an update that only marks caused is to be published now."""
        due = next_update_ms(self.store.state, self.settings.mark_update_ms)
        return due is not None and due <= now_ms

    def tick_due(self, now_ms: int, clock_ms: int) -> int | None:
        """When what a tick is to be written for now was due, microseconds; None: nothing is, or one is on its way."""
        at = next_due(self.store.state)
        if at is None or at > clock_ms * 1000 or now_ms < self.next_tick_ms or topics.CLOCK in self.trouble.halts:
            return None
        return at

    def ticked(self, now_ms: int, found_something: bool) -> None:
        """A tick was taken: another one may be written."""
        self.next_tick_ms = 0 if found_something else now_ms + TICK_PAUSE_MS

    def _tick(self, now_ms: int, clock_ms: int) -> int | None:
        at = self.tick_due(now_ms, clock_ms)
        if at is not None:
            self.next_tick_ms = now_ms + TICK_PATIENCE_MS
        return at

    def _collect(self, now_ms: int) -> tuple[np.ndarray, np.ndarray]:
        result = collect_updates(self.store.state, now_ms, self.settings.mark_update_ms)
        return result.updates, result.unpriced


class PricePartition(Partition):
    """The latest accepted price of the symbols of one partition."""

    inputs = ("prices",)
    changelog = topics.PRICE_CHANGELOG

    def _new_store(self) -> Store:
        return Store(states.new_price_state, tuple(states.PRICE_PERSISTED), states.rebuild)
