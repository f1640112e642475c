"""Columns to Kafka's record batches: read back by our parser, and held against aiokafka's own writer."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.partitioner import murmur2 as plain_murmur2
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from assetstream.streams.batch_writer import (
    BATCH_BYTES,
    Batch,
    BatchWriter,
    Outgoing,
    ProducerId,
    murmur2,
    outgoing_of,
    partition_of,
)
from assetstream.streams.records import parse

Record = tuple[int, bytes | None, bytes]

records_lists = st.lists(
    st.tuples(st.integers(0, 4), st.none() | st.binary(max_size=20), st.binary(max_size=200)), max_size=60
)


def _read(batch: Batch) -> list[Record]:
    """What a reader of the batch gets, by our own parser, checksum included."""
    found, following = parse(batch.topic, batch.partition, bytes(batch.data), 0)
    assert following == batch.records == found.n
    assert found.offset.tolist() == list(range(found.n))
    return [(batch.partition, found.key(i), found.value(i) or b"") for i in range(found.n)]


@given(records_lists)
def test_every_record_is_in_its_partitions_batch_in_order(records: list[Record]) -> None:
    rounds = BatchWriter().write([outgoing_of("t", records)])
    assert len(rounds) == (1 if records else 0)
    read = [record for batch in (rounds[0] if rounds else ()) for record in _read(batch)]
    assert read == sorted(records, key=lambda record: record[0])


@given(records_lists.filter(len))
def test_aiokafka_reads_the_same(records: list[Record]) -> None:
    writer = BatchWriter(ProducerId(id=7, epoch=3, transactional=True))
    for batch in writer.write([outgoing_of("t", records)])[0]:
        read = DefaultRecordBatch(bytes(batch.data))
        assert read.validate_crc()
        assert (read.producer_id, read.producer_epoch, read.base_sequence) == (7, 3, 0)
        assert read.is_transactional
        mine = [(key, value) for partition, key, value in records if partition == batch.partition]
        assert [(record.key, record.value) for record in read] == mine


def test_sequences_go_on_per_partition_and_around_at_two_to_the_31() -> None:
    writer = BatchWriter(ProducerId(id=7, epoch=3, transactional=True))
    records: list[Record] = [(0, None, b"a"), (2, None, b"b"), (0, None, b"c")]

    def sequences() -> dict[int, int]:
        batches = writer.write([outgoing_of("t", records)])[0]
        return {batch.partition: DefaultRecordBatch(bytes(batch.data)).base_sequence for batch in batches}

    assert sequences() == {0: 0, 2: 0}
    assert sequences() == {0: 2, 2: 1}
    writer._sequences["t"][0] = (1 << 31) - 1
    assert sequences() == {0: (1 << 31) - 1, 2: 2}
    assert sequences() == {0: 1, 2: 3}


def test_without_a_producer_id_no_sequence_is_given() -> None:
    writer = BatchWriter()
    for _ in range(2):
        (batch,) = writer.write([outgoing_of("t", [(0, b"k", b"v")])])[0]
        read = DefaultRecordBatch(bytes(batch.data))
        assert (read.producer_id, read.producer_epoch, read.base_sequence) == (-1, -1, -1)
        assert not read.is_transactional


def test_what_does_not_fit_one_batch_comes_in_rounds() -> None:
    big = [(p, b"%d" % i, bytes([i]) * (BATCH_BYTES // 3)) for i in range(7) for p in (0, 1)]
    big.append((0, b"alone", b"x" * (2 * BATCH_BYTES)))
    writer = BatchWriter(ProducerId(1, 0, True))
    rounds = writer.write([outgoing_of("t", big), outgoing_of("u", [(0, None, b"y")])])
    assert [len(batches) for batches in rounds] == [3, 2, 2, 2, 1]
    for batches in rounds:
        places = [(batch.topic, batch.partition) for batch in batches]
        assert len(places) == len(set(places))
    read = [record for batches in rounds for batch in batches if batch.topic == "t" for record in _read(batch)]
    for partition in (0, 1):
        assert [r for r in read if r[0] == partition] == [r for r in big if r[0] == partition]
    assert all(len(batch.data) < BATCH_BYTES + 61 for batches in rounds[:-1] for batch in batches)


def test_large_batches_are_compressed_and_kafkas_clients_read_them() -> None:
    records: list[Record] = [(0, b"k%d" % i, b'{"trade_id":"%d","user_id":"u%d"}' % (i, i)) for i in range(500)]
    small: list[Record] = [(1, None, b"little")]
    writer = BatchWriter(ProducerId(id=7, epoch=3, transactional=True))
    large, little = writer.write([outgoing_of("t", records + small)])[0]
    assert len(large.data) < sum(len(value) for _, _, value in records) / 2
    for batch, expected, codec in ((large, records, 4), (little, small, 0)):
        read = DefaultRecordBatch(bytes(batch.data))
        assert read.validate_crc()
        assert (read.compression_type, read.is_transactional, read.producer_id) == (codec, True, 7)
        assert [(record.key, record.value) for record in read] == [(key, value) for _, key, value in expected]
        assert _read(batch) == expected


def test_what_would_shrink_to_next_to_nothing_is_sent_as_it_is() -> None:
    """Or a few megabytes of it could fill a reader's memory."""
    records: list[Record] = [(0, b"k", b"{" * 500_000)]
    (batch,) = BatchWriter().write([outgoing_of("t", records)])[0]
    assert len(batch.data) > 500_000
    assert _read(batch) == records


def test_columns_are_taken_where_they_lie() -> None:
    keys, values = np.frombuffer(b"xxABxCDE", np.uint8), np.frombuffer(b"0123456789", np.uint8)
    columns = Outgoing(
        "t", np.array([1, 1]), keys, np.array([5, 2]), np.array([3, 2]), values, np.array([4, 0]), np.array([6, 4])
    )
    (batch,) = BatchWriter().write([columns])[0]
    assert _read(batch) == [(1, b"CDE", b"456789"), (1, b"AB", b"0123")]


@given(st.binary(max_size=50))
def test_murmur2_is_kafkas(key: bytes) -> None:
    assert int(murmur2(np.frombuffer(key, np.uint8))) == plain_murmur2(key) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "hashed"),
    # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_of_kafkas_own_tests(key: bytes, hashed: int) -> None:
    assert int(murmur2(np.frombuffer(key, np.uint8))) == hashed & 0xFFFFFFFF
    assert partition_of(key, 8) == (hashed & 0x7FFFFFFF) % 8
