"""From the `analytics` log into ClickHouse, every row exactly once.

One writer a partition of `analytics`. It works in ranges: the records of one partition from a first to a last offset.
In this order, line by line in `PartitionWriter._write`:

1. Plan: the next records, up to RANGE_BYTES, become a range. What was planned stays planned until it is done.
2. Commit to Kafka: offset = first, metadata = `{"to": last}`. It says both "all before first is in ClickHouse" and
   "exactly first … last may be on its way". The commit is fenced: a writer whose assignment is over stops here.
3. Per table of the range one INSERT of one block under the token `database:table:log:partition:first-last`, which makes
   ClickHouse take it once, however often and by whomever it is sent, also when an earlier attempt is still running.
4. Done: the next range's commit says so; when there is none, a commit of the position p with `{"to": p − 1}`.

A successor that finds metadata repeats exactly that range under the same tokens, and then goes on. "Highest offset in
the table" would not do: an insert of a killed worker may still be running.

ClickHouse away: the same range again, for ever, with growing pauses, and before every attempt step 2 again, so that a
writer that has lost its partition meanwhile doesn't keep knocking. The same when the process was stopped for a while
between commit and insert: ClickHouse remembers many tokens (`non_replicated_deduplication_window`), but not for ever.
ClickHouse refusing (wrong data, missing table): the
error is raised; the range stays intended and nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter
from tenacity.wait import wait_base

from assetstream.models.records import Records
from assetstream.sinks.batches import combine
from assetstream.sinks.clickhouse import PATIENCE_S, ClickHouseAway, connect, translate
from assetstream.sinks.positions import metadata
from assetstream.sinks.schema import TABLES
from assetstream.streams import faults, metrics, outages
from assetstream.streams.settings import Settings

#: a range ends with the record that reaches one of these
RANGE_BYTES = 16 << 20
RANGE_RECORDS = 10_000
#: an insert goes out at most this long after the commit that announces it; else that is made again first
FRESH_S = 30.0
#: inserts running at once; ClickHouse gains nothing from more, and each holds a combined range in memory
INSERT_THREADS = 2
PAUSES = wait_exponential_jitter(multiplier=0.1, max=10, jitter=0.5)

#: what keeps one INSERT one block and therefore one part: atomic, and one token
ONE_BLOCK = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "input_format_parallel_parsing": 0,
    "max_insert_threads": 1,
    "max_insert_block_size": 1 << 40,
    "min_insert_block_size_rows": 1 << 40,
    "min_insert_block_size_bytes": 0,
}


class Fenced(RuntimeError):
    """The assignment under which this writer commits is over: another writer has the partition, or will have."""


class RangeLost(RuntimeError):
    """The log no longer has what was intended but maybe not inserted: some rows may be missing in ClickHouse."""

    def __init__(self, partition: int, wanted: tuple[int, int], found: tuple[int, int] | None) -> None:
        self.partition, self.wanted, self.found = partition, wanted, found
        super().__init__(
            f"analytics partition {partition}: offsets {wanted[0]}–{wanted[1]} were to be inserted, the log has "
            f"{'none of them' if found is None else f'only {found[0]}–{found[1]}'}"
        )


class UnknownTable(RuntimeError):
    """A record's key is no table of ours: something else writes to `analytics`, or a newer assetstream does."""

    def __init__(self, partition: int, offset: int, key: bytes | None) -> None:
        self.partition, self.offset, self.key = partition, offset, key
        super().__init__(f"analytics partition {partition}, offset {offset}: no table {key!r}")


class Commits(Protocol):
    """Where positions are kept: Kafka's offsets of the sinks' group, or memory in tests."""

    async def commit(self, positions: dict[int, tuple[int, str]]) -> None:
        """Keep offset and metadata of each partition. Raises Fenced when the assignment is over."""


class Inserts(Protocol):
    """Where rows go: ClickHouse, or memory in tests."""

    async def insert(self, table: str, messages: Sequence[bytes], token: str) -> int:
        """Add the rows of serialised batches as one block, unless the token has been seen; how many rows they are.

        Raises ClickHouseAway when trying again may help, ClickHouseRefused when not.
        """


class ClickHouseInserts:
    """Inserts into the settings' ClickHouse, in threads of its own; connects at the first one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._threads = ThreadPoolExecutor(INSERT_THREADS, "clickhouse")

    async def insert(self, table: str, messages: Sequence[bytes], token: str) -> int:
        """As Inserts. When cancelled the insert goes on in its thread: its token makes that harmless."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._insert, table, messages, token)

    def _insert(self, table: str, messages: Sequence[bytes], token: str) -> int:
        block, rows = combine(messages)
        if self._client is None:
            self._client = connect(self._settings, PATIENCE_S)
        try:
            self._client.raw_insert(
                f"{self._settings.clickhouse_database}.{TABLES[table].target}",
                insert_block=block,
                settings={**ONE_BLOCK, "insert_deduplication_token": token},
                fmt="ArrowStream",
            )
        except Error as error:
            raise translate(error, self._settings.clickhouse_url) from error
        return rows

    def close(self) -> None:
        """Let go of threads and connections; waits for inserts that run."""
        self._threads.shutdown()
        if self._client is not None:
            self._client.close()


def _clocks() -> tuple[float, float]:
    """The clock that is set back and forth, and the one that stands still with the machine."""
    return time.time(), time.monotonic()


def _elapsed(since: tuple[float, float]) -> float:
    """Seconds since then, by the clock that says more: rather one commit too many than a late insert."""
    return max(now - then for now, then in zip(_clocks(), since, strict=True))


class _Message(NamedTuple):
    offset: int
    timestamp: int
    table: str
    value: bytes


class PartitionWriter:
    """Writes one partition of `analytics` during one assignment; see the module for how.

    log: what names the log for ever, such as topic and topic id: offsets mean something within it only.
    Call `recover` first, then `add` in log order and `tick` now and then (that is how old rows get before they are
    inserted), `flush` before the partition is given back. Any of them may raise Fenced (drop the writer),
    ClickHouseRefused, RangeLost or UnknownTable (stop loudly), and what `commits` raises. They may overlap.
    """

    def __init__(
        self,
        database: str,
        log_name: str,
        partition: int,
        commits: Commits,
        inserts: Inserts,
        range_bytes: int = RANGE_BYTES,
        range_records: int = RANGE_RECORDS,
        pauses: wait_base = PAUSES,
    ) -> None:
        self._database, self._log, self.partition = database, log_name, partition
        self._commits, self._inserts = commits, inserts
        self._range_bytes, self._range_records, self._pauses = range_bytes, range_records, pauses
        self._lock = asyncio.Lock()
        self._waiting: deque[_Message] = deque()
        self._bytes = 0
        self._planned: tuple[int, int] | None = None
        self._settled = 0
        #: the offset to read next: all below was taken, or is no record
        self.next = 0

    async def recover(self, offset: int, last: int, log_start: int = 0) -> None:
        """Begin where the last writer left off: at the group's position, see `positions.understood`.

        last: of what may be on its way, offset − 1 for nothing; log_start: the first offset that the log still has.
        Raises RangeLost when that lies beyond `offset`.
        """
        if log_start > offset:
            raise RangeLost(self.partition, (offset, max(last, log_start - 1)), None)
        self._planned = (offset, last) if last >= offset else None
        self._settled = self.next = offset

    async def add(self, records: Records, begins: int, ends: int) -> bool:
        """Take the records of a run that covers offsets begins … ends − 1 of the log; what is known is skipped.

        False, and nothing taken, when the run begins beyond `next`: seek there. When a range is full it is written
        before this returns, so memory stays bounded.
        """
        if begins > self.next:
            return False
        for i in range(int(records.offset.searchsorted(self.next)), records.n):
            self._take(int(records.offset[i]), int(records.timestamp[i]), records.key(i), records.value(i))
        self.next = max(self.next, ends)
        while self._is_full and await self._write():
            pass
        return True

    async def tick(self) -> None:
        """Write what waits; when nothing does, commit that all is done."""
        if not self._waiting:
            await self._settle()
        last = self.next
        while self._waiting and self._waiting[0].offset < last and await self._write():
            pass

    async def flush(self) -> None:
        """Write all that waits and commit that it is done."""
        while await self._write():
            pass
        await self._settle()

    @property
    def backlog(self) -> int:
        """Bytes that it took and could write; 0 while an intended range is not all here: that must come first."""
        return 0 if self._planned is not None and self.next <= self._planned[1] else self._bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing it took waits to be written."""
        return not self._waiting

    @property
    def oldest(self) -> int | None:
        """Kafka's time, in milliseconds, of the first record that waits to be written."""
        return self._waiting[0].timestamp if self._waiting else None

    @property
    def _is_full(self) -> bool:
        return self._bytes >= self._range_bytes or len(self._waiting) >= self._range_records

    def _take(self, offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> None:
        table = (key or b"").decode(errors="replace")
        if table not in TABLES or not value:
            raise UnknownTable(self.partition, offset, key)
        self._waiting.append(_Message(offset, timestamp, table, value))
        self._bytes += len(value)

    async def _write(self) -> bool:
        """Write the next range, steps 1 to 3; False when there is none, or not all of a repeated one is here yet."""
        async with self._lock:
            messages = self._plan()
            if not messages:
                return False
            first, last = messages[0].offset, messages[-1].offset
            tables: dict[str, list[bytes]] = {}
            for message in messages:
                tables.setdefault(message.table, []).append(message.value)
            retry = AsyncRetrying(
                retry=retry_if_exception_type(ClickHouseAway),
                wait=self._pauses,
                before_sleep=self._report,
                reraise=True,
            )
            async for attempt in retry:
                with attempt:
                    intended = (float("-inf"), 0.0)
                    for table in list(tables):
                        if _elapsed(intended) > FRESH_S:
                            await self._commits.commit({self.partition: (first, metadata(last))})
                            intended = _clocks()
                            faults.reach("sink.announced")
                        await self._insert(table, tables[table], first, last)
                        faults.reach("sink.inserted")
                        del tables[table]
            outages.CLICKHOUSE.ends()
            self._drop(len(messages))
            return True

    def _plan(self) -> list[_Message]:
        """The messages of the planned range, or of a new one; empty when they are not all here."""
        if self._planned is None:
            size, messages = 0, []
            for message in self._waiting:
                messages.append(message)
                size += len(message.value)
                if size >= self._range_bytes or len(messages) >= self._range_records:
                    break
            if messages:
                self._planned = messages[0].offset, messages[-1].offset
            return messages
        last = self._planned[1]
        if self.next <= last:
            return []
        messages = [message for message in self._waiting if message.offset <= last]
        found = (messages[0].offset, messages[-1].offset) if messages else None
        if found != self._planned:
            raise RangeLost(self.partition, self._planned, found)
        return messages

    async def _insert(self, table: str, messages: list[bytes], first: int, last: int) -> None:
        token = f"{self._database}:{table}:{self._log}:{self.partition}:{first}-{last}"
        began = time.perf_counter()
        rows = await self._inserts.insert(table, messages, token)
        metrics.CLICKHOUSE_INSERT.observe(time.perf_counter() - began)
        metrics.CLICKHOUSE_ROWS.labels(table).inc(rows)

    def _drop(self, count: int) -> None:
        """The planned range is in ClickHouse."""
        for _ in range(count):
            self._bytes -= len(self._waiting.popleft().value)
        self._planned = None

    async def _settle(self) -> None:
        """Step 4, when nothing waits and the position is not committed yet."""
        async with self._lock:
            if self._planned is None and not self._waiting and self._settled < self.next:
                position = self.next
                await self._commits.commit({self.partition: (position, metadata(position - 1))})
                self._settled = position

    def _report(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        metrics.CLICKHOUSE_ERRORS.inc()
        outages.CLICKHOUSE.begins(str(state.outcome.exception()))
