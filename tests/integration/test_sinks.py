"""The writer into the real engine: one insert one part, each token once, every row once whatever breaks."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from tenacity import wait_exponential, wait_none

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.records import Records, records_of
from assetstream.sinks import batches
from assetstream.sinks.clickhouse import ClickHouseAway, ClickHouseRefused, connect
from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
from assetstream.sinks.migrations import check, migrate
from assetstream.sinks.positions import metadata, understood
from assetstream.sinks.schema import TABLES
from assetstream.sinks.writer import ClickHouseInserts, Fenced, PartitionWriter
from assetstream.streams.processes import is_free, wait
from assetstream.streams.settings import Settings

D = Decimal
DB = "sinks_test"


@pytest.fixture
def settings(stack: EmbeddedStack) -> Settings:
    """Settings with a database of these tests."""
    return stack.settings(clickhouse_database=DB)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client of empty tables."""
    made = connect(settings)
    made.command(f"DROP DATABASE IF EXISTS {DB}")
    migrate(made, settings)
    yield made
    made.command(f"DROP DATABASE {DB}")
    made.close()


@pytest.fixture
def inserts(client: Client, settings: Settings) -> Iterator[ClickHouseInserts]:
    """Inserts into those tables."""
    made = ClickHouseInserts(settings)
    yield made
    made.close()


def one(client: Client, query: str) -> tuple:
    """The only row of a query."""
    (row,) = client.query(query).result_rows
    return tuple(row)


def filler(table: str, first: int, n: int) -> pa.RecordBatch:
    """n rows with trade ids t<first>, … and source offsets <first>, …; the rest of the columns is filler."""
    columns = []
    for field in TABLES[table].arrow:
        if field.name == "trade_id":
            columns.append(pa.array([f"t{i}" for i in range(first, first + n)], pa.utf8()))
        elif field.type == pa.utf8():
            columns.append(batches.constant(field.name, n))
        elif field.type == pa.decimal128(38, 18):
            units = np.zeros((n, 2), np.uint64)
            units[:, 0] = np.arange(first, first + n) + 1
            columns.append(batches.decimals(units))
        elif field.name == "source_offset":
            columns.append(pa.array(np.arange(first, first + n)))
        else:
            columns.append(pa.array(np.zeros(n, np.int64)).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=TABLES[table].arrow)


async def test_large_inserts_are_one_part_and_a_token_counts_once(client: Client, inserts: ClickHouseInserts) -> None:
    # more rows than max_insert_block_size is by default (1,048,449), in several messages
    messages = [m for k in range(4) for m in batches.serialize("prices", filler("prices", k * 300_000, 300_000))]
    assert len(messages) > 4
    for _ in range(2):
        assert await inserts.insert("prices", messages, "token") == 1_200_000
    assert one(client, f"SELECT count(), uniqExact(source_offset) FROM {DB}.prices") == (1_200_000, 1_200_000)
    parts = f"SELECT count(), sum(rows) FROM system.parts WHERE database = '{DB}' AND table = 'prices' AND level = 0"
    assert one(client, parts) == (1, 1_200_000)
    await inserts.insert("prices", batches.serialize("prices", filler("prices", 0, 1)), "another")
    assert one(client, f"SELECT count() FROM {DB}.prices") == (1_200_001,)


async def test_values_arrive_exactly(client: Client, inserts: ClickHouseInserts) -> None:
    extreme = D("99999999999999999999.999999999999999999")
    at = datetime(2299, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    row = {
        "symbol": "A/B",
        "price": extreme,
        "currency": "B",
        "as_of": at,
        "bid": D("-99999999999999999999.999999999999999999"),
        "ask": None,
        "source": "quote ' \\ \n é",
        "source_topic": "prices",
        "source_partition": 7,
        "source_offset": 2**62,
    }
    other = {**row, "price": D("0.000000000000000001"), "as_of": datetime(1970, 1, 1, tzinfo=UTC), "source": None}
    batch = pa.RecordBatch.from_pylist([row, other], TABLES["prices"].arrow)
    await inserts.insert("prices", batches.serialize("prices", batch), "t")
    answer = client.raw_query(
        f"SELECT * FROM {DB}.prices ORDER BY as_of DESC",
        fmt="JSONEachRow",
        settings={"output_format_json_quote_decimals": 1, "output_format_json_quote_64bit_integers": 1},
    )
    first, second = map(json.loads, answer.splitlines())
    assert first == {
        "symbol": "A/B",
        "price": "99999999999999999999.999999999999999999",
        "currency": "B",
        "as_of": "2299-12-31 23:59:59.999999",
        "bid": "-99999999999999999999.999999999999999999",
        "ask": None,
        "source": "quote ' \\ \n é",
        "source_topic": "prices",
        "source_partition": 7,
        "source_offset": "4611686018427387904",
    }
    assert (second["price"], second["as_of"], second["source"]) == (
        "0.000000000000000001",
        "1970-01-01 00:00:00.000000",
        None,
    )


async def test_lists_and_flags_arrive(client: Client, inserts: ClickHouseInserts) -> None:
    schema = TABLES["portfolio_updates"].arrow
    zero = {f.name: D(0) if pa.types.is_decimal(f.type) else 0 if pa.types.is_integer(f.type) else "" for f in schema}
    at = datetime(2026, 3, 2, tzinfo=UTC)
    rows = [
        {**zero, "unpriced": unpriced, "complete": not unpriced, "as_of": at, "sequence": i}
        for i, unpriced in enumerate([[], ["A", "B/C"]])
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema)
    await inserts.insert("portfolio_updates", batches.serialize("portfolio_updates", batch), "t")
    found = client.query(f"SELECT unpriced, complete FROM {DB}.portfolio_updates ORDER BY sequence").result_rows
    assert [tuple(row) for row in found] == [([], True), (["A", "B/C"], False)]


async def test_a_refused_insert_is_told_from_an_absent_server(client: Client, inserts: ClickHouseInserts) -> None:
    client.command(f"DROP TABLE {DB}.prices")
    batch = pa.RecordBatch.from_pylist([], TABLES["prices"].arrow)
    with pytest.raises(ClickHouseRefused, match="prices") as error:
        await inserts.insert("prices", [_stream(batch)], "t")
    assert error.value.code == 60


def _stream(batch: pa.RecordBatch) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch)
    return out.getvalue().to_pybytes()


def test_nobody_there_is_away() -> None:
    with pytest.raises(ClickHouseAway, match=r"127\.0\.0\.1:1 does not answer"):
        connect(Settings(clickhouse_url="http://127.0.0.1:1", _env_file=None))
    with pytest.raises(ClickHouseRefused, match="CLICKHOUSE_URL"):
        connect(Settings(clickhouse_url="localhost:8123", _env_file=None))


class Crash(BaseException):
    """The process dies here."""


class Group:
    """The group's offsets in memory; only the latest generation commits."""

    def __init__(self) -> None:
        self.position, self.generation = (0, metadata(-1)), 0

    def join(self) -> Member:
        self.generation += 1
        return Member(self, self.generation)


class Member:
    """Commits of one generation."""

    def __init__(self, group: Group, generation: int) -> None:
        self.group, self.generation = group, generation

    async def commit(self, positions: dict[int, tuple[int, str]]) -> None:
        if self.generation != self.group.generation:
            raise Fenced("another generation")
        self.group.position = positions[0]


class Faulty:
    """Inserts that crash or lose the answer now and then, before or after the rows are in."""

    def __init__(self, inserts: ClickHouseInserts, rng: random.Random) -> None:
        self.inserts, self.rng, self.calm = inserts, rng, False

    async def insert(self, table: str, messages: Sequence[bytes], token: str) -> int:
        fault = (
            None if self.calm or self.rng.random() < 0.5 else self.rng.choice([Crash(), ClickHouseAway("x", "gone")])
        )
        if fault and self.rng.random() < 0.5:
            raise fault
        rows = await self.inserts.insert(table, messages, token)
        if fault:
            raise fault
        return rows


def log_of(checkpoints: int) -> tuple[Records, list[int]]:
    """An `analytics` partition of fills and prices messages with a transaction marker after each two; its ends."""
    messages, offsets = [], []
    for k in range(checkpoints):
        messages += [(b"fills", batches.serialize("fills", filler("fills", k * 10, 10))[0])]
        messages += [(b"prices", batches.serialize("prices", filler("prices", k, 1))[0])]
        offsets += [3 * k, 3 * k + 1]
    records = records_of("analytics", 0, messages)._replace(offset=np.array(offsets, np.int64))
    return records, [3 * (k + 1) for k in range(checkpoints)]


@pytest.mark.parametrize("seed", range(4))
async def test_every_row_is_there_once_whatever_breaks(client: Client, inserts: ClickHouseInserts, seed: int) -> None:
    rng = random.Random(seed)
    group, faulty = Group(), Faulty(inserts, rng)
    records, ends = log_of(30)

    async def successor() -> PartitionWriter:
        made = PartitionWriter(
            DB, "analytics:1", 0, group.join(), faulty, range_records=rng.randint(1, 9), pauses=wait_none()
        )
        await made.recover(*understood("sinks", ("analytics", 0), *group.position, ends[-1]))
        return made

    sink, crashes = await successor(), 0
    while sink.next < ends[-1]:
        try:
            until = rng.choice([end for end in ends if end > sink.next][:4])
            begins = max(0, sink.next - rng.randint(0, 4))
            seen = (records.offset >= begins) & (records.offset < until)
            part = records.slice(int(seen.argmax()), int(seen.argmax() + seen.sum()))
            await sink.add(part, begins, until)
            await rng.choice([sink.tick, sink.flush])()
        except Crash:
            crashes += 1
            sink = await successor()
    faulty.calm = True
    await sink.flush()
    assert crashes > 3, f"seed {seed} did not try hard enough"
    assert one(client, f"SELECT count(), uniqExact(trade_id) FROM {DB}.fills") == (300, 300), f"seed {seed}"
    assert one(client, f"SELECT count(), uniqExact(source_offset) FROM {DB}.prices") == (30, 30), f"seed {seed}"
    assert group.position == (ends[-1], metadata(ends[-1] - 1))


async def test_the_same_range_sent_by_two_at_once_is_there_once(client: Client, inserts: ClickHouseInserts) -> None:
    group = Group()
    records, ends = log_of(20)
    old = PartitionWriter(DB, "analytics:1", 0, group.join(), inserts)
    await old.recover(0, -1)
    await old.add(records, 0, ends[-1])
    task = asyncio.create_task(old.tick())
    while group.position[1] == metadata(-1):  # noqa: ASYNC110
        await asyncio.sleep(0)
    new = PartitionWriter(DB, "analytics:1", 0, group.join(), inserts)
    await new.recover(*understood("sinks", ("analytics", 0), *group.position, ends[-1]))
    await new.add(records, 0, ends[-1])
    await asyncio.gather(task, new.flush())
    assert one(client, f"SELECT count(), uniqExact(trade_id) FROM {DB}.fills") == (200, 200)
    assert one(client, f"SELECT count() FROM {DB}.prices") == (20,)


async def test_a_server_that_dies_and_comes_back_has_every_row_once(tmp_path: Path) -> None:
    server = EmbeddedClickHouse(tmp_path)
    port = (await asyncio.to_thread(server.start, 0, True)).port
    settings = Settings(clickhouse_database=DB, clickhouse_url=f"http://127.0.0.1:{port}", _env_file=None)
    client = connect(settings)
    migrate(client, settings)
    records, ends = log_of(80)
    inserts, group = ClickHouseInserts(settings), Group()
    sink = PartitionWriter(
        DB, "analytics:1", 0, group.join(), inserts, range_records=2, pauses=wait_exponential(0.02, max=0.2)
    )
    await sink.recover(0, -1)
    writing = asyncio.create_task(sink.add(records, 0, ends[-1]))
    try:
        for until in (30, 120):
            while group.position[0] < until:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            server.process.signal(signal.SIGKILL)
            await asyncio.to_thread(wait, lambda: is_free(port), 10)
            await asyncio.to_thread(server.start, port, True)
        await writing
        await sink.flush()
        check(client, settings)
        assert one(client, f"SELECT count(), uniqExact(trade_id) FROM {DB}.fills") == (800, 800)
        assert one(client, f"SELECT count(), uniqExact(source_offset) FROM {DB}.prices") == (80, 80)
        assert group.position == (ends[-1], metadata(ends[-1] - 1))
    finally:
        writing.cancel()
        inserts.close()
        server.stop()
