"""The snapshots of this worker's partitions: kept beside its work, in a thread of their own.

Committed changelog records are handed over after each checkpoint. Every `snapshot_s` they are put into the local
snapshots; and where a sweep is complete, what it made superfluous is deleted from the changelog topic.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from assetstream.streams import faults
from assetstream.streams.settings import Settings
from assetstream.tables.snapshot import Snapshot

log = structlog.get_logger(__name__)

#: records held for the next snapshot; beyond this they are written at once
MOST_HELD_BYTES = 32 << 20
#: bytes per write
PORTION_BYTES = 512 << 10


class Snapshots:
    """Opens, fills and closes snapshots. Safe to call from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._open: dict[tuple[str, int], Snapshot] = {}
        self._held: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
        self._held_bytes = 0
        self._obsolete: dict[tuple[str, int], int] = {}
        self._identities: dict[str, str] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def open(self, topic: str, partitions: Iterable[int]) -> dict[int, Snapshot]:
        """The snapshots of these partitions of changelog `topic`; those of others are closed. Raises KafkaException."""
        wanted = set(partitions)
        identity = self._identity(topic)
        with self._lock:
            self.flush()
            for key in [key for key in self._open if key[0] == topic and key[1] not in wanted]:
                self._open.pop(key).close()
            for number in wanted:
                if (topic, number) not in self._open:
                    snapshot = Snapshot.open(self._path(topic, number), f"{identity}/{number}")
                    if snapshot is not None:
                        self._open[topic, number] = snapshot
            return {number: self._open[topic, number] for number in wanted if (topic, number) in self._open}

    def add(self, topic: str, partition: int, records: list[tuple[int, bytes]], obsolete: int | None) -> None:
        """Committed changelog records, in order; all before `obsolete` may go, from the snapshot and from the log."""
        with self._lock:
            self._held.setdefault((topic, partition), []).extend(records)
            self._held_bytes += sum(len(value) for _, value in records)
            if obsolete is not None:
                self._obsolete[topic, partition] = obsolete
            if obsolete is not None or self._held_bytes > MOST_HELD_BYTES:
                self._wake.set()

    def flush(self) -> None:
        """Put what is held into the snapshots now."""
        with self._lock:
            held, self._held, self._held_bytes = self._held, {}, 0
            obsolete, self._obsolete = self._obsolete, {}
            for key, records in held.items():
                snapshot = self._open.get(key)
                records = [(offset, value) for offset, value in records if snapshot and offset >= snapshot.position]
                if snapshot is not None and records:
                    self._append(key, snapshot, records, obsolete.get(key))
        if obsolete:
            self._delete_records(obsolete)

    def _append(
        self, key: tuple[str, int], snapshot: Snapshot, records: list[tuple[int, bytes]], first: int | None
    ) -> None:
        try:
            # RocksDB's Python binding holds the interpreter's lock while it writes, so it gets a little at a time.
            for part in _portions(records):
                faults.reach("snapshot.begin")
                snapshot.append(part, part[-1][0] + 1, first)
                faults.reach("snapshot.written")
                first = None
        except Exception as error:
            # A full disk must not stop the worker: the log is the truth. The folder is given up until the next restart.
            log.warning("snapshot can't be written, going on without it", path=str(snapshot.path), error=str(error))
            self._open.pop(key).close()

    def close(self) -> None:
        """Write what is held and let all folders go."""
        self._stop.set()
        self._wake.set()
        self._thread.join(10)
        with self._lock:
            self.flush()
            for snapshot in self._open.values():
                snapshot.close()
            self._open.clear()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._settings.snapshot_s)
            self._wake.clear()
            try:
                self.flush()
            except Exception as error:
                log.warning("snapshots not written this time", error=str(error))

    def _delete_records(self, before: dict[tuple[str, int], int]) -> None:
        admin = AdminClient(self._settings.kafka(log_level=0))
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in before.items()]
        try:
            for future in admin.delete_records(offsets, request_timeout=10).values():
                future.result()
        except KafkaException as error:
            # Not needed for correctness; the next complete sweep asks again.
            log.warning("old changelog records not deleted this time", error=str(error.args[0]))

    def _path(self, topic: str, partition: int) -> Path:
        return self._settings.data_dir / "state" / topic / str(partition)

    def _identity(self, topic: str) -> str:
        """The cluster's and the topic's own ids: a topic that was made anew is another."""
        if topic not in self._identities:
            admin = AdminClient(self._settings.kafka(log_level=0))
            cluster = admin.describe_cluster(request_timeout=10).result().cluster_id
            described = admin.describe_topics(TopicCollection([topic]), request_timeout=10)[topic].result()
            self._identities[topic] = f"{cluster}/{topic}/{described.topic_id}"
        return self._identities[topic]


def _portions(records: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """The records in runs of about PORTION_BYTES."""
    portion: list[tuple[int, bytes]] = []
    size = 0
    for record in records:
        portion.append(record)
        size += len(record[1])
        if size >= PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
