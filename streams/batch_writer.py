"""Columns straight into Kafka's record batches (format v2): the counterpart of `records.py`, for what we publish.

A checkpoint publishes hundreds to tens of thousands of records, whose keys and values lie one after the other in a few
buffers already. A kernel copies them into one batch per partition; no Python object is made per record.

Format: Kafka protocol guide, "Record Batch"; integers big-endian, record fields zigzag varints.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cramjam
import numpy as np
from crc32c import crc32c
from numba import njit

from assetstream.models.spans import copy
from assetstream.streams.records import ATTRIBUTES_AT, CRC_AT, HEADER, LEADER_EPOCH_AT, LENGTH_AT, TRANSACTIONAL

#: bytes of records per batch; topics take more, and a larger record goes alone
BATCH_BYTES = 960 << 10
#: batches of as many bytes and more are compressed: to a sixth at 1.4 ns a byte. What isn't sent needn't be copied,
#: checked, stored and read, which costs the worker and the broker some 5 ns a byte each
COMPRESS_FROM = 1 << 10
#: but none to less than its 32nd: readers take megabytes of batches at once, and must not get gigabytes by it
MOST_SHRUNK = 32
#: Kafka's number for it
ZSTD = 4
#: most bytes that a record takes beside its key and value
RECORD_OVERHEAD = 32
#: sequence numbers of an idempotent producer go around here
SEQUENCES = 1 << 31

# columns of the table of batches
AT, END, PARTITION, COUNT = range(4)


class Outgoing(NamedTuple):
    """Records to publish to one topic, in order: of each its partition, and where its key and its value lie.

    partition int32[n]; keys, values uint8; key_at, value_at int64[n]; key_len int32[n], −1: no key; value_len int64[n].
    """

    topic: str
    partition: np.ndarray
    keys: np.ndarray
    key_at: np.ndarray
    key_len: np.ndarray
    values: np.ndarray
    value_at: np.ndarray
    value_len: np.ndarray


_DTYPES = (np.int32, np.uint8, np.int64, np.int32, np.uint8, np.int64, np.int64)


def _column(array: np.ndarray, dtype: type) -> np.ndarray:
    """The same, of the one type that the kernel is compiled for: some are read-only, so all must be."""
    column: np.ndarray = np.ascontiguousarray(array, dtype).view()
    column.flags.writeable = False
    return column


class ProducerId(NamedTuple):
    """Who writes, for the broker's check of sequences; `ANYBODY`: no check."""

    id: int
    epoch: int
    transactional: bool


ANYBODY = ProducerId(-1, -1, False)


class Batch(NamedTuple):
    """One record batch, ready to send."""

    topic: str
    partition: int
    data: memoryview
    records: int


def outgoing_of(topic: str, records: Sequence[tuple[int, bytes | None, bytes]]) -> Outgoing:
    """From (partition, key, value) of each: for records that are few."""
    keys = [key or b"" for _, key, _ in records]
    lengths = [-1 if key is None else len(key) for _, key, _ in records]
    values = [value for _, _, value in records]
    value_len = np.array([len(value) for value in values], np.int64)
    key_len = np.array(lengths, np.int32)
    return Outgoing(
        topic,
        np.array([partition for partition, _, _ in records], np.int32),
        np.frombuffer(b"".join(keys), np.uint8),
        _starts(np.maximum(key_len, 0)),
        key_len,
        np.frombuffer(b"".join(values), np.uint8),
        _starts(value_len),
        value_len,
    )


def _starts(lengths: np.ndarray) -> np.ndarray:
    ends = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths


class BatchWriter:
    """Writes the batches of one producer: knows the next sequence number of each partition."""

    def __init__(self, producer: ProducerId = ANYBODY) -> None:
        self._producer = producer
        self._sequences: dict[str, np.ndarray] = {}

    def write(self, records: Iterable[Outgoing]) -> list[list[Batch]]:
        """Rounds of batches, at most one of each partition per round: a request to Kafka takes no more."""
        rounds: list[list[Batch]] = []
        taken: Counter[tuple[str, int]] = Counter()
        now_ms = time.time_ns() // 1_000_000
        for outgoing in records:
            for batch in self._batches(outgoing, now_ms):
                number = taken[batch.topic, batch.partition]
                taken[batch.topic, batch.partition] = number + 1
                if number == len(rounds):
                    rounds.append([])
                rounds[number].append(batch)
        return rounds

    def _batches(self, records: Outgoing, now_ms: int) -> list[Batch]:
        n = len(records.partition)
        if n == 0:
            return []
        sequences = self._sequence(records.topic, int(records.partition.max()))
        order = np.argsort(records.partition, kind="stable")
        size = int(records.value_len.sum()) + int(np.maximum(records.key_len, 0).sum())
        out = np.empty(size + n * (RECORD_OVERHEAD + HEADER), np.uint8)
        table = np.empty((n, 4), np.int64)
        attributes = TRANSACTIONAL if self._producer.transactional else 0
        columns = (_column(array, dtype) for array, dtype in zip(records[1:], _DTYPES, strict=True))
        count = _write(out, table, order, *columns, sequences, *self._producer[:2], attributes, now_ms, BATCH_BYTES)
        view = out.data
        batches = []
        for at, end, partition, records_in_it in table[:count].tolist():
            data = _compressed(view[at:end])
            data[CRC_AT:ATTRIBUTES_AT] = crc32c(data[ATTRIBUTES_AT:]).to_bytes(4, "big")
            batches.append(Batch(records.topic, partition, data, records_in_it))
        return batches

    def _sequence(self, topic: str, partition: int) -> np.ndarray:
        """int64 by partition of `topic`; −1: sequences are not counted."""
        first = 0 if self._producer.id >= 0 else -1
        known = self._sequences.get(topic)
        if known is None or len(known) <= partition:
            grown = np.full(partition + 1, first, np.int64)
            if known is not None:
                grown[: len(known)] = known
            known = self._sequences[topic] = grown
        return known


def _compressed(batch: memoryview) -> memoryview:
    """The batch, its records compressed when that is worth it; its checksum is still to be set."""
    if len(batch) < COMPRESS_FROM:
        return batch
    records = cramjam.zstd.compress(batch[HEADER:], level=1)
    if MOST_SHRUNK * len(records) < len(batch):
        return batch
    data = bytearray(batch[:HEADER]) + records
    data[LENGTH_AT:LEADER_EPOCH_AT] = (len(data) - LEADER_EPOCH_AT).to_bytes(4, "big")
    data[ATTRIBUTES_AT + 1] |= ZSTD
    return memoryview(data)


@njit(cache=True, nogil=True)
def murmur2(data):
    """Kafka's hash of a key, uint8[n]; a partition is `(murmur2(key) & 0x7fffffff) % partitions`.

    Source: org.apache.kafka.common.utils.Utils.murmur2.
    """
    n = data.shape[0]
    mask, m = np.uint64(0xFFFFFFFF), np.uint64(0x5BD1E995)
    h = np.uint64(0x9747B28C) ^ np.uint64(n)
    whole = n & ~3
    for i in range(0, whole, 4):
        k = np.uint64(data[i]) | np.uint64(data[i + 1]) << np.uint64(8)
        k |= np.uint64(data[i + 2]) << np.uint64(16) | np.uint64(data[i + 3]) << np.uint64(24)
        k = (k * m) & mask
        k ^= k >> np.uint64(24)
        h = ((h * m) & mask) ^ ((k * m) & mask)
    left = n - whole
    if left >= 3:
        h ^= np.uint64(data[whole + 2]) << np.uint64(16)
    if left >= 2:
        h ^= np.uint64(data[whole + 1]) << np.uint64(8)
    if left >= 1:
        h = ((h ^ np.uint64(data[whole])) * m) & mask
    h ^= h >> np.uint64(13)
    h = (h * m) & mask
    return h ^ (h >> np.uint64(15))


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's Java client gives `key`."""
    return (int(murmur2(np.frombuffer(key, np.uint8))) & 0x7FFFFFFF) % partitions


@njit(cache=True, nogil=True)
def _put(out, pos, value, size):
    """`value` big-endian in `size` bytes; -> the position after it."""
    for i in range(size):
        out[pos + i] = np.uint8((value >> (8 * (size - 1 - i))) & 0xFF)
    return pos + size


@njit(cache=True, nogil=True)
def _put_varint(out, pos, value):
    """Zigzag; -> the position after it."""
    bits = np.uint64((value << 1) ^ (value >> 63))
    while bits >= np.uint64(128):
        out[pos] = np.uint8(bits & np.uint64(0x7F)) | np.uint8(0x80)
        bits >>= np.uint64(7)
        pos += 1
    out[pos] = np.uint8(bits)
    return pos + 1


@njit(cache=True, nogil=True)
def _varint_size(value):
    bits = np.uint64((value << 1) ^ (value >> 63))
    size = 1
    while bits >= np.uint64(128):
        bits >>= np.uint64(7)
        size += 1
    return size


@njit(cache=True, nogil=True)
def _put_bytes(out, pos, data, at, size):
    copy(out, pos, data, at, size)
    return pos + size


@njit(cache=True, nogil=True)
def _put_header(out, at, end, count, attributes, now_ms, producer_id, epoch, sequence):
    pos = _put(out, at, 0, 8)  # base offset: the broker's
    pos = _put(out, pos, end - at - 12, 4)
    pos = _put(out, pos, -1, 4)  # leader epoch
    out[pos] = 2
    pos += 5  # and the checksum, which comes last
    pos = _put(out, pos, attributes, 2)
    pos = _put(out, pos, count - 1, 4)
    pos = _put(out, pos, now_ms, 8)
    pos = _put(out, pos, now_ms, 8)
    pos = _put(out, pos, producer_id, 8)
    pos = _put(out, pos, epoch, 2)
    pos = _put(out, pos, sequence, 4)
    _put(out, pos, count, 4)


@njit(cache=True, nogil=True)
def _write(
    out,
    table,
    order,
    partition,
    keys,
    key_at,
    key_len,
    values,
    value_at,
    value_len,
    sequences,
    producer_id,
    epoch,
    attributes,
    now_ms,
    limit,
):
    """Fills `out` with batches and `table` int64[k, 4] with where they lie; -> how many. Advances `sequences`."""
    n, batches, pos, k = order.shape[0], 0, 0, 0
    while k < n:
        at, number, count = pos, partition[order[k]], 0
        pos += HEADER
        while k < n and partition[order[k]] == number:
            i = order[k]
            klen, vlen = np.int64(key_len[i]), np.int64(value_len[i])
            body = 3 + _varint_size(count) + _varint_size(klen) + max(klen, 0) + _varint_size(vlen) + vlen
            if count and pos - at + body > limit:
                break
            pos = _put_varint(out, pos, body)
            out[pos], out[pos + 1] = 0, 0  # attributes, time after the first record's
            pos = _put_varint(out, pos + 2, count)
            pos = _put_varint(out, pos, klen)
            pos = _put_bytes(out, pos, keys, key_at[i], max(klen, 0))
            pos = _put_varint(out, pos, vlen)
            pos = _put_bytes(out, pos, values, value_at[i], vlen)
            out[pos] = 0  # headers
            pos += 1
            count += 1
            k += 1
        sequence = sequences[number]
        if sequence >= 0:
            sequences[number] = (sequence + count) % SEQUENCES
        _put_header(out, at, pos, count, attributes, now_ms, producer_id, epoch, sequence)
        table[batches, AT], table[batches, END] = at, pos
        table[batches, PARTITION], table[batches, COUNT] = number, count
        batches += 1
    return batches
