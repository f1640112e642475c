"""Kafka's record batches to columns, held against batches that aiokafka's own writer makes."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from assetstream.models.records import records_of
from assetstream.streams.records import CorruptBatch, parse

Message = tuple[bytes | None, bytes | None]


def batch(
    messages: list[Message],
    base: int = 0,
    codec: int = 0,
    time: int = 1_700_000_000_000,
    producer: int = -1,
    transactional: bool = False,
    control: bool = False,
) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 1 if transactional else 0, producer, 0, 0, 1 << 22)
    for i, (key, value) in enumerate(messages):
        builder.append(i, time + i, key, value, [("h", b"x")] if i % 3 == 0 else [])
    raw = bytearray(builder.build())
    raw[0:8] = base.to_bytes(8, "big")
    if control:
        raw[22] |= 0x20
        checksum(raw)
    return bytes(raw)


def checksum(raw: bytearray) -> None:
    from aiokafka.record.util import calc_crc32c

    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")


def messages_of(records) -> list[Message]:
    return [(records.key(i), records.value(i)) for i in range(records.n)]


SOME: list[Message] = [(b"k%d" % i if i % 4 else None, b"v" * (i * 37 % 300) if i % 5 else None) for i in range(120)]


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4], ids=["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec(codec: int) -> None:
    raw = batch(SOME[:70], 100, codec) + batch(SOME[70:], 170, codec)
    records, following = parse("t", 3, raw, 100)
    assert (records.topic, records.partition, following) == ("t", 3, 220)
    assert messages_of(records) == SOME
    assert records.offset.tolist() == list(range(100, 220))
    assert records.timestamp[:3].tolist() == [1_700_000_000_000 + i for i in range(3)]


def test_codecs_mixed_in_one_fetch() -> None:
    raw = b"".join(batch(SOME[i * 20 : i * 20 + 20], i * 20, codec) for i, codec in enumerate((0, 3, 0, 4, 1, 0)))
    records, following = parse("t", 0, raw, 0)
    assert messages_of(records) == SOME
    assert following == 120


def test_records_before_the_wanted_offset_are_left_out() -> None:
    records, following = parse("t", 0, batch(SOME, 1000), 1050)
    assert records.offset[0] == 1050
    assert messages_of(records) == SOME[50:]
    assert following == 1120


def test_a_batch_cut_off_by_the_broker_waits_for_the_next_fetch() -> None:
    first, second = batch(SOME[:10], 0), batch(SOME[10:20], 10)
    records, following = parse("t", 0, first + second[:-5], 0)
    assert (records.n, following) == (10, 10)
    assert parse("t", 0, second[:30], 10)[1] == 10


def marker(base: int, producer: int, commit: bool) -> bytes:
    return batch([(b"\0\0" + (b"\0\1" if commit else b"\0\0"), b"\0\0\0\0\0\0")], base, 0, 0, producer, True, True)


def test_aborted_transactions_and_markers_are_invisible() -> None:
    a = [(b"a", b"1"), (b"a", b"2")]
    raw = (
        batch(a, 0, producer=7, transactional=True)
        + batch([(b"b", b"1")], 2, producer=8, transactional=True)
        + marker(3, 7, commit=False)
        + marker(4, 8, commit=True)
        + batch([(b"c", b"1")], 5, producer=7, transactional=True)
        + marker(6, 7, commit=True)
        + batch([(b"d", b"1")], 7)
    )
    records, following = parse("t", 0, raw, 0, aborted=[(7, 0)])
    assert [key for key, _ in messages_of(records)] == [b"b", b"c", b"d"]
    assert records.offset.tolist() == [2, 5, 7]
    assert following == 8
    records, following = parse("t", 0, marker(9, 7, commit=True), 9)
    assert (records.n, following) == (0, 10), "nothing to see, but the position moves"


def test_log_append_time_is_the_batchs() -> None:
    raw = bytearray(batch(SOME[:3]))
    raw[22] |= 0x08
    raw[35:43] = (1_800_000_000_000).to_bytes(8, "big")
    checksum(raw)
    records, _ = parse("t", 0, bytes(raw), 0)
    assert records.timestamp.tolist() == [1_800_000_000_000] * 3


@pytest.mark.parametrize("at", [25, 60, 61, 70, 100])
def test_a_flipped_bit_is_found(at: int) -> None:
    raw = bytearray(batch(SOME[:20]))
    raw[at] ^= 0x10
    with pytest.raises(CorruptBatch, match="checksum"):
        parse("t", 0, bytes(raw), 0)


def test_nonsense_never_reads_beyond_the_buffer() -> None:
    random = np.random.default_rng(5)
    good = batch(SOME[:20])
    for _ in range(500):
        raw = bytearray(good)
        for at in random.integers(61, len(raw), 3):
            raw[at] = random.integers(256)
        try:
            records, _ = parse("t", 0, bytes(raw), 0, check_crc=False)
        except CorruptBatch:
            continue
        ends = records.value_at + np.maximum(records.value_len, 0)
        assert (ends <= len(raw)).all()
        assert (records.key_at + np.maximum(records.key_len, 0) <= len(raw)).all()
    with pytest.raises(CorruptBatch, match="no record batch v2"):
        parse("t", 0, good[:16] + b"\x01" + good[17:], 0)


def test_slices_share_the_buffer() -> None:
    records = records_of("t", 1, SOME, first_offset=10)
    part = records.slice(5, 9)
    assert messages_of(part) == SOME[5:9]
    assert part.offset.tolist() == [15, 16, 17, 18]
    assert part.data is records.data
