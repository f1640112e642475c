"""The writer against real in-memory stand-ins: whatever happens, every row is there once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from tenacity import wait_none

from assetstream.models.records import Records, records_of
from assetstream.sinks import writer
from assetstream.sinks.clickhouse import ClickHouseAway, ClickHouseRefused
from assetstream.sinks.positions import NotOurPosition, understood
from assetstream.sinks.writer import Fenced, PartitionWriter, RangeLost, UnknownTable

P = 5
PLACE = ("analytics", P)
FIRST = '{"to": -1}'


@dataclass
class Group:
    """Committed position per partition, and the generation that may commit."""

    positions: dict[int, tuple[int, str]] = field(default_factory=dict)
    generation: int = 0
    commits: int = 0

    def join(self) -> MemoryCommits:
        """A new member takes over: all before it are fenced."""
        self.generation += 1
        return MemoryCommits(self, self.generation)


@dataclass
class MemoryCommits:
    """Commits of one generation of the group."""

    group: Group
    generation: int

    async def commit(self, positions: dict[int, tuple[int, str]]) -> None:
        await asyncio.sleep(0)
        if self.generation != self.group.generation:
            raise Fenced("another generation")
        self.group.positions.update(positions)
        self.group.commits += 1


class Crash(BaseException):
    """The process dies here."""


@dataclass
class MemoryInserts:
    """Rows by table, each token once; `faults` are raised in turn, before or after the rows are in."""

    rows: dict[str, list[bytes]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    faults: list[tuple[str, BaseException] | None] = field(default_factory=list)

    async def insert(self, table: str, messages: Sequence[bytes], token: str) -> int:
        fault = self.faults.pop(0) if self.faults else None
        await asyncio.sleep(0)
        if fault and fault[0] == "before":
            raise fault[1]
        if token not in self.tokens:
            self.tokens.append(token)
            self.rows.setdefault(table, []).extend(messages)
        if fault:
            raise fault[1]
        return len(messages)


AWAY = ClickHouseAway("http://there", "gone")


@dataclass
class Log:
    """A partition of `analytics`; every checkpoint is some records and then a transaction marker."""

    messages: list[tuple[int, str, bytes]] = field(default_factory=list)
    end: int = 0

    def append(self, *tables: str) -> None:
        """One checkpoint with a record for each of these tables."""
        for table in tables:
            self.messages.append((self.end, table, b"%d" % self.end))
            self.end += 1
        self.end += 1

    def read(self, start: int, end: int | None = None) -> tuple[Records, int, int]:
        """What a fetch from `start` gives: records, begins, ends."""
        end = self.end if end is None else end
        found = [m for m in self.messages if start <= m[0] < end]
        records = records_of("analytics", P, [(table.encode(), value) for _, table, value in found])
        offsets = [m[0] for m in found]
        return records._replace(offset=np.array(offsets, np.int64)), start, end

    def expected(self) -> dict[str, list[bytes]]:
        """All rows by table."""
        rows: dict[str, list[bytes]] = {}
        for _, table, value in self.messages:
            rows.setdefault(table, []).append(value)
        return rows


async def started(group: Group, inserts: MemoryInserts, **limits: int) -> PartitionWriter:
    """A successor's writer, recovered from what the group has."""
    made = PartitionWriter("db", "analytics@1", P, group.join(), inserts, pauses=wait_none(), **limits)
    offset, metadata = group.positions.get(P, (0, FIRST))
    await made.recover(*understood("sinks", PLACE, offset, metadata, 1_000))
    return made


def same(inserts: MemoryInserts, log: Log) -> bool:
    """Whether every record is there exactly once."""
    return {t: Counter(rows) for t, rows in inserts.rows.items()} == {
        t: Counter(rows) for t, rows in log.expected().items()
    }


async def test_rows_go_to_their_tables_under_one_token_a_table() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    log.append("fills", "risk_alerts")
    log.append("fills")
    sink = await started(group, inserts)
    assert await sink.add(*log.read(0))
    assert inserts.rows == {}
    await sink.tick()
    assert inserts.rows == log.expected()
    assert inserts.tokens == ["db:fills:analytics@1:5:0-3", "db:risk_alerts:analytics@1:5:0-3"]
    assert group.positions == {P: (0, '{"to": 3}')}
    await sink.tick()
    assert group.positions == {P: (5, '{"to": 4}')}
    await sink.tick()
    assert group.commits == 2


async def test_while_busy_one_commit_a_range() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    sink = await started(group, inserts)
    for _ in range(5):
        log.append("fills")
        await sink.add(*log.read(sink.next))
        await sink.tick()
    assert group.commits == 5
    assert group.positions == {P: (8, '{"to": 8}')}
    await sink.flush()
    assert group.positions == {P: (10, '{"to": 9}')}
    assert same(inserts, log)


async def test_full_ranges_are_written_while_records_are_added() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    for _ in range(10):
        log.append("fills")
    sink = await started(group, inserts, range_records=3)
    await sink.add(*log.read(0))
    assert [token.rsplit(":", 1)[1] for token in inserts.tokens] == ["0-4", "6-10", "12-16"]
    await sink.flush()
    assert inserts.tokens[-1].endswith(":18-18")
    assert same(inserts, log)


async def test_a_range_ends_with_the_record_that_reaches_its_bytes() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    log.append(*["fills"] * 7)
    sink = await started(group, inserts, range_bytes=2)  # a value is one digit, one byte
    await sink.add(*log.read(0))
    assert [token.rsplit(":", 1)[1] for token in inserts.tokens] == ["0-1", "2-3", "4-5"]


async def test_what_is_known_is_skipped_and_a_gap_is_not_taken() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    log.append("fills")
    log.append("fills")
    log.append("fills")
    sink = await started(group, inserts)
    assert not await sink.add(*log.read(2))
    assert await sink.add(*log.read(0, 3))
    assert await sink.add(*log.read(0, 2))
    assert sink.next == 3
    assert not await sink.add(*log.read(4))
    assert await sink.add(*log.read(2))
    assert sink.next == 6
    await sink.flush()
    assert inserts.rows == log.expected()


async def test_markers_alone_move_the_position() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    sink = await started(group, inserts)
    log.append()
    await sink.add(*log.read(0))
    await sink.tick()
    assert group.positions == {P: (1, '{"to": 0}')}
    assert inserts.tokens == []


@pytest.mark.parametrize(
    "faults",
    [
        [("before", Crash())],  # after the commit, before the insert
        [("after", Crash())],  # after the insert, before the next commit
        [None, ("before", Crash())],  # between two tables
        [None, ("after", Crash())],
    ],
)
async def test_a_successor_repeats_exactly_the_intended_range(faults: list[tuple[str, BaseException] | None]) -> None:
    group, inserts, log = Group(), MemoryInserts(faults=list(faults)), Log()
    log.append("fills", "portfolio_updates")
    sink = await started(group, inserts)
    await sink.add(*log.read(0))
    with pytest.raises(Crash):
        await sink.tick()
    assert group.positions == {P: (0, '{"to": 1}')}

    log.append("fills", "portfolio_updates")  # more has come since: it must not get into the repeated range
    sink = await started(group, inserts)
    await sink.add(*log.read(0))
    await sink.flush()
    assert sorted(inserts.tokens) == sorted(
        f"db:{t}:analytics@1:5:{r}" for t in ("fills", "portfolio_updates") for r in ("0-1", "3-4")
    )
    assert inserts.rows == log.expected()
    assert group.positions == {P: (6, '{"to": 5}')}


async def test_a_repeated_range_waits_until_all_of_it_was_read() -> None:
    group, inserts, log = Group(positions={P: (0, '{"to": 2}')}), MemoryInserts(), Log()
    log.append("fills", "fills", "fills")
    sink = await started(group, inserts, range_records=1)
    await sink.add(*log.read(0, 2))
    await sink.tick()
    await sink.flush()
    assert inserts.tokens == []
    assert group.commits == 0
    await sink.add(*log.read(2))
    assert inserts.tokens == ["db:fills:analytics@1:5:0-2"]


async def test_a_failed_writer_that_goes_on_repeats_the_same_range() -> None:
    refused = ClickHouseRefused("http://there", "no such column", 16)
    group, inserts, log = Group(), MemoryInserts(faults=[("after", refused)]), Log()
    log.append("fills")
    sink = await started(group, inserts)
    await sink.add(*log.read(0))
    with pytest.raises(ClickHouseRefused):
        await sink.tick()
    log.append("fills")
    await sink.add(*log.read(sink.next))
    await sink.flush()
    assert inserts.rows == log.expected()


async def test_away_is_retried_under_the_same_token_and_counted() -> None:
    before = writer.metrics.CLICKHOUSE_ERRORS._value.get()
    faults = [("after", AWAY), ("before", AWAY), ("before", AWAY)]
    group, inserts, log = Group(), MemoryInserts(faults=faults), Log()
    log.append("fills", "prices")
    sink = await started(group, inserts)
    await sink.add(*log.read(0))
    await sink.flush()
    assert inserts.rows == log.expected()
    assert inserts.tokens == ["db:fills:analytics@1:5:0-1", "db:prices:analytics@1:5:0-1"]
    assert writer.metrics.CLICKHOUSE_ERRORS._value.get() == before + 3


async def test_a_fenced_writer_stops_knocking() -> None:
    group, inserts, log = Group(), MemoryInserts(faults=[("before", AWAY)] * 1000), Log()
    log.append("fills")
    old = await started(group, inserts)
    await old.add(*log.read(0))
    task = asyncio.create_task(old.tick())
    while len(inserts.faults) > 990:  # noqa: ASYNC110
        await asyncio.sleep(0)
    new = await started(group, inserts)
    with pytest.raises(Fenced):
        await task
    inserts.faults.clear()
    await new.add(*log.read(0))
    await new.flush()
    assert inserts.rows == log.expected()


async def test_a_stopped_writer_that_wakes_up_adds_nothing_twice() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    log.append("fills")
    old = await started(group, inserts)
    await old.add(*log.read(0))
    task = asyncio.create_task(old.tick())
    while P not in group.positions:  # noqa: ASYNC110
        await asyncio.sleep(0)  # now it has committed, and its insert is about to run
    new = await started(group, inserts)
    await new.add(*log.read(0))
    await new.flush()
    await task
    with pytest.raises(Fenced):
        await old.tick()
    assert inserts.rows == log.expected()


@pytest.mark.parametrize(("wall", "since_start"), [(3600, 0), (60, 60), (-3600, 60)])
async def test_a_writer_stopped_between_two_inserts_asks_again_before_the_second(
    monkeypatch: pytest.MonkeyPatch, wall: int, since_start: int
) -> None:
    clocks = [1000.0, 1000.0]
    monkeypatch.setattr(writer, "_clocks", lambda: tuple(clocks))
    group, inserts, log = Group(), MemoryInserts(), Log()
    log.append("fills", "prices")

    async def stopped(table: str, messages: Sequence[bytes], token: str) -> int:
        rows = await MemoryInserts.insert(inserts, table, messages, token)
        clocks[:] = clocks[0] + wall, clocks[1] + since_start
        group.generation += 1
        return rows

    old = await started(group, inserts)
    monkeypatch.setattr(inserts, "insert", stopped)
    await old.add(*log.read(0))
    with pytest.raises(Fenced):
        await old.tick()
    assert list(inserts.rows) == ["fills"]


async def test_a_log_that_lost_what_was_intended_stops_loudly() -> None:
    group, inserts, log = Group(positions={P: (0, '{"to": 1}')}), MemoryInserts(), Log()
    sink = await started(group, inserts)
    log.append("fills")  # offset 1 is a marker, not the record that was intended
    log.append("fills")
    await sink.add(*log.read(0))
    with pytest.raises(RangeLost, match="0–1"):
        await sink.tick()
    assert inserts.rows == {}

    late = PartitionWriter("db", "analytics@1", P, group.join(), inserts)
    with pytest.raises(RangeLost, match="none of them"):
        await late.recover(0, 1, log_start=1)


async def test_strangers_in_the_log_stop_loudly() -> None:
    group, inserts = Group(), MemoryInserts()
    for key, value in ((b"fills; DROP", b"x"), (None, b"x"), (b"fills", None)):
        sink = await started(group, inserts)
        with pytest.raises(UnknownTable):
            await sink.add(records_of("analytics", P, [(key, value)]), 0, 1)


@pytest.mark.parametrize(
    ("offset", "metadata", "end", "found"),
    [
        (-1, "", 0, (0, -1)),  # nothing was ever written
        (0, '{"to": -1}', 0, (0, -1)),
        (7, '{"to": 6}', 7, (7, 6)),
        (7, '{"to": 6}\0', 9, (7, 6)),  # as confluent-kafka writes it
        (7, '{"to": 7}', 8, (7, 7)),
        (7, '{"to": 20}', 30, (7, 20)),
    ],
)
def test_positions_of_ours_are_understood(offset: int, metadata: str, end: int, found: tuple[int, int]) -> None:
    assert understood("sinks", PLACE, offset, metadata, end) == found


@pytest.mark.parametrize(
    ("offset", "metadata", "end", "told"),
    [
        (-1, "", 1, "has no position below the log's end at 1: it was deleted, or expired"),
        (0, "", 30, "stands at offset 0, set by somebody else (metadata '')"),
        (7, "", 30, "stands at offset 7, set by somebody else (metadata '')"),
        (7, "me", 30, "set by somebody else"),
        (7, "[7]", 30, "set by somebody else"),
        (7, '{"to": "7"}', 30, "set by somebody else"),
        (7, '{"to": true}', 30, "set by somebody else"),
        (7, '{"to": 5}', 30, "set by somebody else"),
        (7, '{"from": 6}', 30, "set by somebody else"),
        (7, '{"to": 6}', 6, "stands at offset 7, the log ends at 6: it was made anew"),
    ],
)
def test_positions_of_others_are_refused(offset: int, metadata: str, end: int, told: str) -> None:
    with pytest.raises(NotOurPosition) as refused:
        understood("eu.assetstream-sinks", PLACE, offset, metadata, end)
    said = str(refused.value)
    assert said.startswith("group eu.assetstream-sinks in analytics-5 ")
    assert told in said
    assert "`assetstream init --refill`" in said
    assert "\n" not in said


async def test_a_settled_position_has_nothing_to_repeat() -> None:
    group, inserts, log = Group(), MemoryInserts(), Log()
    log.append("fills")
    log.append("fills")
    sink = await started(group, inserts)
    await sink.add(*log.read(0, 2))
    await sink.flush()
    assert group.positions == {P: (2, '{"to": 1}')}
    sink = await started(group, inserts)
    await sink.flush()
    assert group.commits == 2
    await sink.add(*log.read(2))
    await sink.flush()
    assert [token.rsplit(":", 1)[1] for token in inserts.tokens] == ["0-0", "2-2"]


@pytest.mark.parametrize("seed", range(40))
async def test_any_run_of_faults_leaves_every_row_once(seed: int) -> None:
    rng = random.Random(seed)
    group, inserts, log = Group(), MemoryInserts(), Log()
    sink = await started(group, inserts, range_records=4)
    for _ in range(60):
        faults = [(when, error) for when in ("before", "after") for error in (AWAY, Crash())]
        inserts.faults = rng.choices([None] * 4 + faults, k=rng.randint(0, 3))
        log.append(*rng.choices(["fills", "prices", "risk_alerts"], k=rng.randint(0, 5)))
        try:
            await sink.add(*log.read(max(0, sink.next - rng.randint(0, 3)), rng.randint(sink.next, log.end)))
            await rng.choice([sink.tick, sink.flush])()
        except Crash:
            sink = await started(group, inserts, range_records=rng.randint(1, 6))
        if rng.random() < 0.1:  # a rebalance without a crash
            sink = await started(group, inserts, range_records=rng.randint(1, 6))
    inserts.faults = []
    await sink.add(*log.read(sink.next))
    await sink.flush()
    assert same(inserts, log), f"seed {seed}"
    assert group.positions == {P: (log.end, f'{{"to": {log.end - 1}}}')}
