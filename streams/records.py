"""Kafka's record batches (format v2) straight into columns: no Python object per record.

A fetch response holds, per partition, record batches one after the other. `parse` finds the spans of keys and values
in that buffer and leaves the bytes where they are; only compressed batches are unpacked into a new buffer.
Aborted transactions and control batches are left out, as `read_committed` asks.

Format: Kafka protocol guide, "Record Batch"; integers big-endian, record fields zigzag varints.
"""

from __future__ import annotations

import gzip

import cramjam
import numpy as np
from crc32c import crc32c
from numba import njit

from assetstream.models.records import Records

HEADER = 61
LENGTH_AT, LEADER_EPOCH_AT, MAGIC_AT, CRC_AT, ATTRIBUTES_AT = 8, 12, 16, 17, 21
COMPRESSION, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20
ABORT = 0

# columns of the batch table
AT, END, BASE, ATTRIBUTES, LAST_DELTA, FIRST_TIME, MAX_TIME, PRODUCER, COUNT = range(9)


class CorruptBatch(RuntimeError):
    """Bytes from the broker that are not what Kafka's format says: the network, a disk or memory is broken."""


@njit(cache=True, nogil=True)
def _int(data, at, size):
    value = np.int64(data[at])
    if value >= 128:
        value -= 256
    for i in range(1, size):
        value = (value << 8) | np.int64(data[at + i])
    return value


@njit(cache=True, nogil=True)
def _varint(data, at, end):
    """Zigzag varint at `at`; -> (value, where it ends), the end −1 when it runs past `end`."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        byte = data[at]
        at += 1
        value |= np.uint64(byte & 0x7F) << shift
        if byte < 128:
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
        if shift > np.uint64(63):
            break
    return np.int64(0), np.int64(-1)


@njit(cache=True, nogil=True)
def _batches(data, table):
    """Fills `table` int64[k, 9] with whole batches; -> how many, or −1 − (byte position) of a bad one."""
    at, n, size = 0, 0, data.shape[0]
    while size - at >= HEADER and n < table.shape[0]:
        end = at + 12 + _int(data, at + 8, 4)
        if end > size:
            break  # the broker cuts the last batch where the response is full
        if data[at + MAGIC_AT] != 2 or end < at + HEADER:
            return -1 - at
        table[n, AT] = at
        table[n, END] = end
        table[n, BASE] = _int(data, at, 8)
        table[n, ATTRIBUTES] = _int(data, at + 21, 2)
        table[n, LAST_DELTA] = _int(data, at + 23, 4)
        table[n, FIRST_TIME] = _int(data, at + 27, 8)
        table[n, MAX_TIME] = _int(data, at + 35, 8)
        table[n, PRODUCER] = _int(data, at + 43, 8)
        table[n, COUNT] = _int(data, at + 57, 4)
        n += 1
        at = end
    return n


@njit(cache=True, nogil=True)
def _spans(data, table, starts, ends, first, offset, timestamp, key_at, key_len, value_at, value_len):
    """Spans of all records at or after offset `first`; -> how many, −1 when a record breaks the format."""
    n = 0
    for b in range(table.shape[0]):
        at, end = starts[b], ends[b]
        for _ in range(table[b, COUNT]):
            length, at = _varint(data, at, end)
            stop = at + length
            if at < 0 or length < 0 or stop > end:
                return -1
            delta_time, at = _varint(data, at + 1, stop)
            if at < 0:
                return -1
            delta, at = _varint(data, at, stop)
            if at < 0:
                return -1
            klen, kat = _varint(data, at, stop)
            if kat < 0 or klen < -1 or kat + max(klen, 0) > stop:
                return -1
            vlen, vat = _varint(data, kat + max(klen, 0), stop)
            if vat < 0 or vlen < -1 or vat + max(vlen, 0) > stop:
                return -1
            at = stop
            if table[b, BASE] + delta < first:
                continue
            offset[n] = table[b, BASE] + delta
            append_time = table[b, ATTRIBUTES] & LOG_APPEND_TIME
            timestamp[n] = table[b, MAX_TIME] if append_time else table[b, FIRST_TIME] + delta_time
            key_at[n], key_len[n] = kat, klen
            value_at[n], value_len[n] = vat, vlen
            n += 1
    return n


def _decompress(payload: memoryview, codec: int) -> bytes:
    if codec == 1:
        return gzip.decompress(payload)
    if codec == 2:
        return _xerial_snappy(payload)
    if codec == 3:
        return bytes(cramjam.lz4.decompress(payload))
    if codec == 4:
        return bytes(cramjam.zstd.decompress(payload))
    raise CorruptBatch(f"unknown compression codec {codec}")


def _xerial_snappy(payload: memoryview) -> bytes:
    """Snappy as Java clients frame it (xerial blocks), or one raw block as librdkafka writes it."""
    if bytes(payload[:8]) != b"\x82SNAPPY\x00":
        return bytes(cramjam.snappy.decompress_raw(payload))
    at, out = 16, []
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4], "big")
        out.append(bytes(cramjam.snappy.decompress_raw(payload[at + 4 : at + 4 + size])))
        at += 4 + size
    return b"".join(out)


def _visible(table: np.ndarray, data: np.ndarray, aborted: list[tuple[int, int]] | None) -> np.ndarray:
    """Which batches a read_committed reader sees. `aborted`: (producer id, first offset) of aborted transactions."""
    control = (table[:, ATTRIBUTES] & CONTROL) != 0
    if not aborted:
        return ~control
    waiting = sorted(aborted, key=lambda a: a[1])
    open_producers: set[int] = set()
    keep = ~control
    for b, row in enumerate(table):
        producer = int(row[PRODUCER])
        while waiting and waiting[0][1] <= row[BASE]:
            open_producers.add(waiting.pop(0)[0])
        if control[b]:
            # a control record's key is version int16, type int16; here after the record's own few bytes
            if _control_type(data, int(row[AT]) + HEADER) == ABORT:
                open_producers.discard(producer)
        elif row[ATTRIBUTES] & TRANSACTIONAL and producer in open_producers:
            keep[b] = False
    return keep


def _control_type(data: np.ndarray, at: int) -> int:
    end = len(data)
    _, at = _varint(data, at, end)
    _, at = _varint(data, at + 1, end)
    _, at = _varint(data, at, end)
    _, at = _varint(data, at, end)
    return int(_int(data, at + 2, 2))


def parse(
    topic: str,
    partition: int,
    raw: bytes,
    first: int,
    aborted: list[tuple[int, int]] | None = None,
    check_crc: bool = True,
) -> tuple[Records, int]:
    """One partition's part of a fetch response -> (its visible records from offset `first` on, next offset to fetch).

    Raises CorruptBatch when the bytes break the format or a batch fails its checksum (CRC-32C).
    """
    data = np.frombuffer(raw, np.uint8)
    table = np.empty((len(raw) // HEADER, 9), np.int64)
    count = _batches(data, table)
    if count < 0:
        raise CorruptBatch(f"{topic}-{partition}: no record batch v2 at byte {-1 - count} of a fetch from {first}")
    table = table[:count]
    if count == 0:
        return _empty(topic, partition), first
    view = memoryview(raw)
    if check_crc:
        for at, end in table[:, :2].tolist():
            want = int.from_bytes(view[at + CRC_AT : at + CRC_AT + 4], "big")
            if crc32c(view[at + ATTRIBUTES_AT : end]) != want:
                raise CorruptBatch(f"{topic}-{partition}: a batch fetched from offset {first} fails its checksum")
    following = int(table[-1, BASE] + table[-1, LAST_DELTA] + 1)
    table = table[_visible(table, data, aborted)]
    starts, ends = table[:, AT] + HEADER, table[:, END].copy()
    if (table[:, ATTRIBUTES] & COMPRESSION).any():
        data, starts, ends = _unpack(view, table, starts, ends)
    n = int(table[:, COUNT].sum())
    columns = (
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int32),
        np.empty(n, np.int64),
        np.empty(n, np.int32),
    )
    found = _spans(data, table, starts, ends, first, *columns)
    if found < 0:
        raise CorruptBatch(f"{topic}-{partition}: a record fetched from offset {first} breaks Kafka's format")
    return Records(topic, partition, data, *(column[:found] for column in columns)), following


def _unpack(
    view: memoryview, table: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [
        _decompress(view[start:end], codec) if codec else bytes(view[start:end])
        for start, end, codec in zip(
            starts.tolist(), ends.tolist(), (table[:, ATTRIBUTES] & COMPRESSION).tolist(), strict=True
        )
    ]
    new_ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    new_starts = np.concatenate(([0], new_ends[:-1])).astype(np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), new_starts, new_ends


def _empty(topic: str, partition: int) -> Records:
    wide, narrow = np.empty(0, np.int64), np.empty(0, np.int32)
    return Records(topic, partition, np.empty(0, np.uint8), wide, wide, wide, narrow, wide, narrow)
