"""A partition's state with its place in the changelog: what is cut at a checkpoint, and what is applied at a restore.

The store knows tables, rows and numbers, not what they mean: `models/state.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from assetstream.models.state import Table, grow
from assetstream.tables import changelog
from assetstream.tables.changelog import ChangelogError

#: rows' bytes that the sweep adds to a checkpoint at least, while a walk is under way
SWEEP_BYTES = 64 << 10
#: a walk starts when the log has grown by this many times the state, and this many bytes, since the last one
SWEEP_FACTOR, SWEEP_SLACK = 2, 8 << 20


class Layout(NamedTuple):
    """Which tables of a state are persisted, in their order, and their fingerprint."""

    names: tuple[str, ...]
    dtypes: tuple[np.dtype, ...]
    fingerprint: int


def layout_of(state: Any, names: Sequence[str]) -> Layout:
    """The layout of `state`'s tables `names`."""
    dtypes = tuple(getattr(state, name).rows.dtype for name in names)
    return Layout(tuple(names), dtypes, changelog.fingerprint(dtypes))


class Store:
    """State of one partition. `state` is replaced by kernels' wrappers when a table grows: always read it from here."""

    def __init__(self, new: Callable[[], Any], names: Sequence[str], rebuild: Callable[[Any], Any]) -> None:
        self._new, self._names, self._rebuild = new, tuple(names), rebuild
        self.partitions = 0  # how many there are, for what is written from now on; 0: not said
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before the first record of the changelog."""
        self.state = self._new()
        self.layout = layout_of(self.state, self._names)
        self._is_derived = False  # what is derived from the rows is as they are
        self.checkpoint = 0  # number of the last checkpoint applied or cut
        self.position = 0  # next changelog offset to read
        self.written_for = 0  # of how many partitions this was one when the last record was written; 0: not said
        self.anew_at: int | None = None  # offset of the record that it began anew with
        self.log_bytes = 0  # in the log since the last complete walk began
        self._unwritten = 0  # cuts that are not committed yet
        self._walk: tuple[int, int] | None = None  # next (table, row) of the walk under way
        self._walk_bytes = 0
        self.walk_began: int | None = None  # changelog offset of the walk's first record, once known

    @property
    def tables(self) -> list[Table]:
        """The persisted tables, in changelog order."""
        return [getattr(self.state, name) for name in self._names]

    def state_bytes(self) -> int:
        """Bytes of all rows in use."""
        return sum(int(t.count[0]) * t.rows.dtype.itemsize for t in self.tables)

    def _log_is_long(self) -> bool:
        """Whether a walk over the state is worth it; the state is only measured when the log is long at all."""
        return self.log_bytes > SWEEP_SLACK and self.log_bytes > SWEEP_FACTOR * self.state_bytes() + SWEEP_SLACK

    def cut(self) -> Cut:
        """Copies what changed since the last cut and counts a checkpoint. Call between batches only."""
        self.checkpoint += 1
        sections, changed = [], 0
        for number, table in enumerate(self.tables):
            in_use, touched = int(table.count[0]), int(table.count[1])
            if touched:
                rows = table.touched[:touched].copy()
                sections.append((number, in_use, rows, table.rows[rows]))
                table.dirty[rows] = 0
                table.count[1] = 0
                changed += touched * table.rows.dtype.itemsize
        # What a walk made superfluous is only known when its last record is written.
        starts = self._walk is None and self._unwritten == 0 and self._log_is_long()
        self._unwritten += 1
        if starts:
            self._walk, self._walk_bytes, self.walk_began = (0, 0), 0, None
        walked = self._walk is not None
        if walked:
            sections += self._sweep(max(SWEEP_BYTES, changed))
        ends = walked and self._walk is None
        return Cut(self.checkpoint, self.layout.fingerprint, sections, starts, ends, self.partitions)

    def _sweep(self, budget: int) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """The next rows of the walk, about `budget` bytes; the walk is over when `_walk` becomes None."""
        sections, tables = [], self.tables
        assert self._walk is not None
        number, row = self._walk
        while budget > 0 and number < len(tables):
            rows, in_use = tables[number].rows, int(tables[number].count[0])
            stop = min(in_use, row + max(budget // rows.dtype.itemsize, 1))
            if stop > row:
                sections.append((number, in_use, np.arange(row, stop, dtype=np.uint32), rows[row:stop].copy()))
                budget -= (stop - row) * rows.dtype.itemsize
            number, row = (number, stop) if stop < in_use else (number + 1, 0)
        self._walk = (number, row) if number < len(tables) else None
        return sections

    def written(self, cut: Cut, records: Sequence[tuple[int, int]]) -> int | None:
        """The cut is committed as changelog records (offset, bytes). -> the offset before which the log may go."""
        self._unwritten -= 1
        size = sum(n for _, n in records)
        self.position = records[-1][0] + 1
        self.log_bytes += size
        if cut.walk_starts:
            self.walk_began = records[0][0]
        if self.walk_began is not None:
            self._walk_bytes += size
        if not cut.walk_ends:
            return None
        self.log_bytes = self._walk_bytes
        return self.walk_began

    def apply(self, value: bytes, offset: int, where: str) -> int:
        """Apply one changelog record; -> rows it brought. Raises ChangelogError when it doesn't follow the last one."""
        delta = changelog.decode(value, self.layout.fingerprint, self.layout.dtypes, where)
        first = self.checkpoint == 0
        follows = delta.checkpoint in (self.checkpoint, self.checkpoint + 1)
        if not (follows or (first and delta.sweep_starts)):
            raise ChangelogError(
                f"{where}: checkpoint {delta.checkpoint} follows {self.checkpoint or 'the beginning of the log'}: "
                "records are missing; restore the topic from a backup, or rebuild it from the inputs"
            )
        if delta.starts_anew:
            self.reset()
            self.anew_at = offset
        self._is_derived = False
        rows = 0
        for number, in_use, numbers, data in delta.sections:
            name = self._names[number]
            table = getattr(self.state, name)
            if in_use > len(table.rows):
                table = grow(table, in_use)
                self.state = self.state._replace(**{name: table})
            table.rows[numbers] = np.frombuffer(data, table.rows.dtype)
            table.count[0] = in_use
            rows += len(numbers)
        self.checkpoint, self.position, self.written_for = delta.checkpoint, offset + 1, delta.partitions
        self.log_bytes += len(value)
        return rows

    def rebuild(self) -> None:
        """Make what is derived from the rows (indexes, base values, totals); call when a restore is complete.

        Where nothing was applied since the last time, that is so already: a partition that stays costs nothing.
        """
        if self._is_derived:
            return
        try:
            self.state = self._rebuild(self.state)
            self._is_derived = True
        except ValueError as error:
            raise ChangelogError(str(error)) from error


class Cut(NamedTuple):
    """What one checkpoint writes of a partition's state."""

    checkpoint: int
    fingerprint: int
    sections: list[tuple[int, int, np.ndarray, np.ndarray]]
    walk_starts: bool
    walk_ends: bool
    partitions: int

    def records(self) -> list[bytes]:
        """The changelog records."""
        return changelog.encode(
            self.checkpoint, self.fingerprint, self.sections, self.walk_starts, partitions=self.partitions
        )
