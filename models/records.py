"""Kafka records as columns over one byte buffer, the form in which agents get their batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Records(NamedTuple):
    """A run of records of one partition, in offset order. Nothing is copied out of `data`.

    data        uint8, any length: the bytes that keys and values lie in
    offset      int64[n], the record's offset
    timestamp   int64[n], Kafka's timestamp, milliseconds UTC
    key_at      int64[n], where the key starts in `data`; key_len int32[n], its bytes, -1: null
    value_at    int64[n], where the value starts; value_len int32[n], its bytes, -1: null
    """

    topic: str
    partition: int
    data: np.ndarray
    offset: np.ndarray
    timestamp: np.ndarray
    key_at: np.ndarray
    key_len: np.ndarray
    value_at: np.ndarray
    value_len: np.ndarray

    @property
    def n(self) -> int:
        """How many records."""
        return len(self.offset)

    def key(self, i: int) -> bytes | None:
        """The key of record i, copied; None when it has none."""
        n = self.key_len[i]
        return None if n < 0 else self.data[self.key_at[i] : self.key_at[i] + n].tobytes()

    def value(self, i: int) -> bytes | None:
        """The value of record i, copied; None for a tombstone."""
        n = self.value_len[i]
        return None if n < 0 else self.data[self.value_at[i] : self.value_at[i] + n].tobytes()

    def slice(self, start: int, stop: int) -> Records:
        """Records start … stop−1, over the same buffer."""
        return Records(self.topic, self.partition, self.data, *(column[start:stop] for column in self[3:]))


def records_of(
    topic: str,
    partition: int,
    messages: Sequence[tuple[bytes | None, bytes | None]],
    first_offset: int = 0,
    timestamp_ms: int | Sequence[int] = 0,
) -> Records:
    """Records from (key, value) pairs, with consecutive offsets: what tests and the auditor feed the core with."""
    n = len(messages)
    flat = [part for message in messages for part in message]
    sizes = np.array([-1 if part is None else len(part) for part in flat], np.int32).reshape(n, 2)
    ends = np.cumsum(np.maximum(sizes, 0).reshape(-1), dtype=np.int64).reshape(n, 2)
    starts = ends - np.maximum(sizes, 0)
    return Records(
        topic,
        partition,
        np.frombuffer(b"".join(part for part in flat if part), np.uint8),
        np.arange(first_offset, first_offset + n, dtype=np.int64),
        np.broadcast_to(np.asarray(timestamp_ms, np.int64), (n,)),
        starts[:, 0],
        sizes[:, 0],
        starts[:, 1],
        sizes[:, 1],
    )


def joined(runs: Sequence[Records]) -> Records:
    """Runs of one partition that follow each other, as one."""
    if len(runs) == 1:
        return runs[0]
    before = np.cumsum([0, *(len(run.data) for run in runs[:-1])])

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(run, name) for run in runs])

    def place(name: str) -> np.ndarray:
        return np.concatenate([getattr(run, name) + n for run, n in zip(runs, before, strict=True)])

    return Records(
        runs[0].topic,
        runs[0].partition,
        column("data"),
        column("offset"),
        column("timestamp"),
        place("key_at"),
        column("key_len"),
        place("value_at"),
        column("value_len"),
    )
