"""The local snapshot: a copy of a partition's changelog in RocksDB, so that a restart reads only the tail from Kafka.

It holds the committed changelog records themselves, from the last complete sweep on, under their offsets, and the next
offset to read. Records are put in one WriteBatch with that offset, some time after they were committed, never from
live memory; so a snapshot is always a prefix of the log, and a restore from it is the restore from Kafka.

It names the cluster and topic it belongs to; another cluster's snapshot is not read but thrown away.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog
from rocksdict import AccessType, Options, Rdict, WriteBatch

from assetstream.tables.changelog import place

log = structlog.get_logger(__name__)
_META = b"meta"
FORMAT = 2


class Damaged(RuntimeError):
    """A snapshot's records can't be read, or not all of them."""


class Snapshot:
    """One partition's snapshot. A folder in use by another process is left alone: `open` gives None then."""

    def __init__(self, db: Rdict, path: Path, identity: str, position: int) -> None:
        self._db, self.path, self._identity = db, path, identity
        self.position = position  # next changelog offset to read; 0: empty
        self._checkpoint = 0  # number of the last record's checkpoint
        self._last = -1  # its offset

    @classmethod
    def open(cls, path: Path, identity: str) -> Snapshot | None:
        """The snapshot at `path`, empty when there is none or it is another's (`identity`), damaged or newer."""
        path.mkdir(parents=True, exist_ok=True)
        try:
            db = Rdict(str(path), _options(), access_type=AccessType.read_write())
        except Exception as error:
            if f"{path}/LOCK:" in str(error):  # the word alone is also in "block checksum mismatch"
                log.warning("snapshot in use by another process, restoring from Kafka", path=str(path))
                return None
            log.warning("snapshot is damaged, made anew from Kafka", path=str(path), error=str(error))
            shutil.rmtree(path, ignore_errors=True)
            db = Rdict(str(path), _options(), access_type=AccessType.read_write())
        snapshot = cls(db, path, identity, 0)
        try:
            meta = json.loads(db.get(_META) or b"{}")
        except ValueError:
            meta = {}
        if meta.get("identity") == identity and meta.get("format") == FORMAT:
            snapshot.position, snapshot._last = int(meta["position"]), int(meta["last"])
            snapshot._checkpoint = int(meta["checkpoint"])
        elif meta:
            log.warning("snapshot is another's, made anew", path=str(path), found=meta.get("identity"))
            snapshot.clear()
        return snapshot

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(offset, changelog record), in order. Raises Damaged when not all of them can be read."""
        offset = -1
        try:
            for key, value in self._db.items():
                if key != _META:
                    offset = int.from_bytes(key[1:], "big")
                    yield offset, value
        except Exception as error:
            raise Damaged(str(error)) from error
        if offset != self._last:
            raise Damaged(f"it ends at offset {offset}, not {self._last}")

    def append(self, records: Sequence[tuple[int, bytes]], position: int, first: int | None = None) -> None:
        """Add committed records up to `position`, and drop those before `first`; all or nothing.

        Records that don't follow the last one would make a hole, so they are left out; then the snapshot stays empty
        until a sweep starts.
        """
        batch = WriteBatch(raw_mode=True)
        checkpoint, last = self._checkpoint, self._last
        for offset, value in records:
            number, sweep_starts = place(value)
            if number not in (checkpoint, checkpoint + 1) and not (checkpoint == 0 and sweep_starts):
                self.clear()
                return
            checkpoint, last = number, offset
            batch.put(_key(offset), value)
        if first is not None:
            batch.delete_range(_key(0), _key(first))
        meta = {
            "format": FORMAT,
            "identity": self._identity,
            "position": position,
            "checkpoint": checkpoint,
            "last": last,
        }
        batch.put(_META, json.dumps(meta).encode())
        self._db.write(batch)
        self.position, self._checkpoint, self._last = position, checkpoint, last

    def clear(self) -> None:
        """Drop everything."""
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(_key(0), _key((1 << 63) - 1))
        batch.delete(_META)
        self._db.write(batch)
        self.position, self._checkpoint, self._last = 0, 0, -1

    def remake(self) -> None:
        """Throw the folder away and begin with an empty one: the files themselves are damaged."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self._db = Rdict(str(self.path), _options(), access_type=AccessType.read_write())
        self.position, self._checkpoint, self._last = 0, 0, -1

    def close(self) -> None:
        """Let the folder go. It writes what is still in memory; what it can't, Kafka has."""
        try:
            self._db.close()
        except Exception as error:
            log.warning("snapshot not closed in order", path=str(self.path), error=str(error))


def _key(offset: int) -> bytes:
    return b"r" + offset.to_bytes(8, "big")


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_max_total_wal_size(64 << 20)
    options.set_write_buffer_size(16 << 20)
    options.set_max_write_buffer_number(2)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    return options
