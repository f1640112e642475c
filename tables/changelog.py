"""The changelog: what a checkpoint changed in a partition's state, as one record (or a few, when it is much).

A record holds, per table, the numbers and bytes of the rows that changed. Applying the records of a partition in order
gives its state; since rows are whole, a later row simply replaces an earlier one.

The log is kept short by a sweep: beside what changed, each checkpoint also writes the next rows of a slow walk over the
whole state. When a walk is complete, everything before its first record is superfluous and is deleted from the log. So
the log is never longer than a few times the state, restore time does not grow with history, and there is no moment at
which everything is written at once.

Each record says of how many partitions its own is one: another number means that users would be looked for in the wrong
partition. `assetstream repartition` writes every partition's state anew, for another number; what was before is void.

Record: header `HEADER`, then sections (`SECTION`, row numbers uint32, rows). All little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MAGIC = b"ASCL"
VERSION = 1
#: magic, version, flags, crc32 of all that follows the crc, fingerprint of the row layouts, checkpoint number, sections
HEADER = struct.Struct("<4sHHIIQI")
_CRC_AT, _AFTER_CRC = 8, 12
#: table number, rows in use, rows that follow
SECTION = struct.Struct("<IQI")

#: flag: a walk over the whole state starts with this record; everything before it is superfluous once it is complete
SWEEP_STARTS = 1
#: flag: the state begins anew with this record; nothing of what was before it is left
STARTS_ANEW = 2
#: the flags above these bits: how many partitions there are, 0: not said, by an older release
_PARTITIONS_AT = 2

#: rows' bytes per record; a record must fit the topic's max.message.bytes, with room for its envelope
MAX_RECORD_BYTES = 2 << 20


class ChangelogError(RuntimeError):
    """The changelog can't be applied: damaged, incomplete, or written by another version. Never stepped over."""


@dataclass(frozen=True)
class Delta:
    """One changelog record, decoded. `sections`: (table number, rows in use, row numbers, rows' bytes)."""

    checkpoint: int
    sweep_starts: bool
    starts_anew: bool
    partitions: int
    sections: list[tuple[int, int, np.ndarray, memoryview]]


def fingerprint(dtypes: Sequence[np.dtype]) -> int:
    """A number that changes when the layout of any table does."""
    return zlib.crc32(repr([d.descr for d in dtypes]).encode())


def encode(
    checkpoint: int,
    layout: int,
    sections: Sequence[tuple[int, int, np.ndarray, np.ndarray]],
    sweep_starts: bool = False,
    limit: int = MAX_RECORD_BYTES,
    starts_anew: bool = False,
    partitions: int = 0,
) -> list[bytes]:
    """The records of one checkpoint, about `limit` bytes each, from (table number, rows in use, numbers, rows)."""
    parts: list[list[bytes]] = [[]]
    counts, room = [0], limit
    for table, in_use, numbers, rows in sections:
        at = 0
        while True:
            per_row = rows.dtype.itemsize + 4
            if room < per_row and at < len(numbers):
                parts.append([])
                counts.append(0)
                room = limit
            k = min(len(numbers) - at, max(room // per_row, 1))
            chunk = slice(at, at + k)
            parts[-1] += [
                SECTION.pack(table, in_use, k),
                numbers[chunk].astype("<u4").tobytes(),
                rows[chunk].tobytes(),
            ]
            counts[-1] += 1
            room -= k * per_row
            at += k
            if at >= len(numbers):
                break
    records = []
    for i, (body, count) in enumerate(zip(parts, counts, strict=True)):
        flags = partitions << _PARTITIONS_AT
        if i == 0:
            flags |= SWEEP_STARTS * sweep_starts | STARTS_ANEW * starts_anew
        head = HEADER.pack(MAGIC, VERSION, flags, 0, layout, checkpoint, count)
        tail = b"".join([head[_AFTER_CRC:], *body])
        records.append(head[:_CRC_AT] + struct.pack("<I", zlib.crc32(tail)) + tail)
    return records


def place(value: bytes) -> tuple[int, bool]:
    """Checkpoint number of a record, and whether a walk over the whole state starts with it; unchecked."""
    header = HEADER.unpack_from(value)
    return header[5], bool(header[2] & SWEEP_STARTS)


def decode(value: bytes, layout: int, dtypes: Sequence[np.dtype], where: str) -> Delta:
    """A record back. Raises ChangelogError, naming `where`, when it is damaged or of another version."""
    if len(value) < HEADER.size or value[:4] != MAGIC:
        raise ChangelogError(f"{where}: not a changelog record")
    _, version, flags, crc, theirs, checkpoint, count = HEADER.unpack_from(value)
    if version != VERSION:
        raise ChangelogError(f"{where}: format {version}, this release reads {VERSION}; use the release that wrote it")
    if zlib.crc32(memoryview(value)[_AFTER_CRC:]) != crc:
        raise ChangelogError(f"{where}: the checksum fails: the record is damaged")
    if theirs != layout:
        raise ChangelogError(f"{where}: written with another row layout; use the release that wrote it")
    sections = list(_sections(memoryview(value), count, dtypes))
    starts = bool(flags & SWEEP_STARTS), bool(flags & STARTS_ANEW)
    return Delta(checkpoint, *starts, flags >> _PARTITIONS_AT, sections)


def _sections(
    view: memoryview, count: int, dtypes: Sequence[np.dtype]
) -> Iterator[tuple[int, int, np.ndarray, memoryview]]:
    at = HEADER.size
    for _ in range(count):
        table, in_use, k = SECTION.unpack_from(view, at)
        at += SECTION.size
        numbers = np.frombuffer(view, "<u4", k, at)
        at += 4 * k
        size = k * dtypes[table].itemsize
        yield table, in_use, numbers, view[at : at + size]
        at += size
