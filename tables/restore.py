"""Restore: bring partitions' stores to the true end of their changelog, in bulk.

The end is taken as it is now with transactions still open below it, so a restore waits until the previous owner's last
transaction is decided, and then reads only what was committed. Positions are compared, not record numbers: transaction
markers take offsets too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from assetstream.streams import faults
from assetstream.streams.admin import log_offsets
from assetstream.streams.settings import Settings
from assetstream.tables.changelog import ChangelogError
from assetstream.tables.snapshot import Damaged, Snapshot
from assetstream.tables.store import Store

log = structlog.get_logger(__name__)

#: an end that doesn't come closer for this long: the previous owner's transaction should have timed out long before
STUCK_S = 90
#: after so long without a record we look whether the end lies behind an open transaction: its owner has probably died
UNDECIDED_S = 0.3
#: read records held before they are put into the snapshots
TAIL_BYTES = 16 << 20


@dataclass
class Progress:
    """How far a restore is: what `/readyz` and the metrics show."""

    rows: int = 0
    records: int = 0
    partitions: int = 0
    done: int = 0


class OtherPartitions(ChangelogError):
    """The state is of another number of partitions than the setting: users would be looked for in the wrong ones."""

    def __init__(self, where: str, found: int, wanted: int) -> None:
        self.found = found
        super().__init__(
            f"{where} holds the state of one of {found} partitions, ASSETSTREAM_PARTITIONS is {wanted}: set it to "
            f"{found}; or, to have {wanted}, run `assetstream repartition {wanted}` with it set to {found}"
        )


class Superseded(Exception):
    """The assignment that this restore was for is over."""


def restore(
    settings: Settings,
    topic: str,
    stores: Mapping[int, Store],
    snapshots: Mapping[int, Snapshot],
    alive: Callable[[], bool],
    progress: Progress,
    undecided: Callable[[set[int]], None] = lambda partitions: None,
) -> None:
    """Bring `stores` (by partition) of changelog `topic` (full name) to its end; blocks, so run it in a thread.

    `undecided` is called, once, with the partitions that wait for somebody's open transaction.

    A store that holds state already gets only the tail; an empty one starts from its local snapshot, if there is one.
    Raises ChangelogError (never stepped over), OtherPartitions among them; Superseded when `alive()` turns false;
    KafkaException.
    """
    if not stores:
        return
    faults.reach("restore.begin")
    tps = [TopicPartition(topic, p) for p in stores]
    begins = log_offsets(settings, dict.fromkeys(tps, OffsetSpec.earliest()), True)
    ends = log_offsets(settings, dict.fromkeys(tps, OffsetSpec.latest()), True)
    lasts: dict[int, tuple[int, bytes]] = {}
    for p, store in stores.items():
        begin, end = begins[topic, p], ends[topic, p]
        if store.position < begin:
            store.reset()
        if store.position == 0 and p in snapshots:
            last = _from_snapshot(store, snapshots[p], f"{topic}-{p}", begin, progress)
            if last is not None:
                lasts[p] = last
        if store.position > end:
            raise ChangelogError(
                f"{topic}-{p} ends at offset {end} but this machine has applied it up to {store.position}: the topic "
                "is older than the snapshot (a restored backup?). If that is meant, delete the snapshot's folder, "
                "state/ under DATA_DIR"
            )
    tails = _Tails(snapshots)
    _from_kafka(settings, topic, stores, begins, ends, alive, progress, tails, undecided, lasts)
    tails.write(stores)
    for p, store in stores.items():
        store.partitions = settings.partitions
        if store.written_for not in (0, settings.partitions):
            raise OtherPartitions(f"{topic}-{p}", store.written_for, settings.partitions)
        store.rebuild()
    faults.reach("restore.end")


def _from_snapshot(
    store: Store, snapshot: Snapshot, where: str, begin: int, progress: Progress
) -> tuple[int, bytes] | None:
    """-> the last record it has, which the log must have too; None: nothing is taken from it."""
    last = None
    try:
        for offset, value in snapshot.records():
            progress.rows += store.apply(value, offset, f"snapshot of {where} at offset {offset}")
            last = offset, value
        if last is not None and last[0] >= begin:
            store.position = snapshot.position
            return last
    except (ChangelogError, Damaged) as error:
        # The snapshot is only a copy: whatever is wrong with it, the log is the truth.
        log.warning("snapshot is damaged, made anew from Kafka", path=str(snapshot.path), error=str(error))
        snapshot.remake()
        store.reset()
    if snapshot.position:  # the log has been swept past it
        snapshot.clear()
        store.reset()
    return None


class _Tails:
    """What was read from Kafka goes into the snapshots too, so that they stay whole prefixes of the log."""

    def __init__(self, snapshots: Mapping[int, Snapshot]) -> None:
        self._snapshots = snapshots
        self._records: dict[int, list[tuple[int, bytes]]] = {}
        self._bytes = 0

    def add(self, partition: int, offset: int, value: bytes, stores: Mapping[int, Store]) -> None:
        """One record, just applied to its store."""
        if partition in self._snapshots:
            self._records.setdefault(partition, []).append((offset, value))
            self._bytes += len(value)
            if self._bytes > TAIL_BYTES:
                self.write(stores)

    def write(self, stores: Mapping[int, Store]) -> None:
        """Put what was read so far into the snapshots."""
        for partition, records in self._records.items():
            try:
                self._snapshots[partition].append(records, stores[partition].position)
            except Exception as error:
                log.warning("snapshot can't be written, going on without it", error=str(error))
        self._records, self._bytes = {}, 0


def _from_kafka(
    settings: Settings,
    topic: str,
    stores: Mapping[int, Store],
    begins: Mapping[tuple[str, int], int],
    ends: Mapping[tuple[str, int], int],
    alive: Callable[[], bool],
    progress: Progress,
    tails: _Tails,
    undecided: Callable[[set[int]], None],
    lasts: dict[int, tuple[int, bytes]],
) -> None:
    """Read to the ends. `lasts`: where a snapshot was taken, its last record: reading begins with that one, and it must
    be the same; else the log was replaced by an older copy of itself and has grown again.
    """
    froms = {p: lasts[p][0] if p in lasts else max(store.position, begins[topic, p]) for p, store in stores.items()}
    waiting = {p for p, offset in froms.items() if offset < ends[topic, p]}
    if not waiting:
        return
    consumer = Consumer(
        settings.kafka(
            **{
                "group.id": "assetstream-restore",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": 131_072,
                "fetch.message.max.bytes": 8 << 20,
                "check.crcs": True,
                "log_level": 0,
            }
        )
    )
    try:
        consumer.assign([TopicPartition(topic, p, froms[p]) for p in waiting])
        deadline = time.monotonic() + STUCK_S
        told = False
        while waiting:
            if not alive():
                raise Superseded
            if not told and time.monotonic() > deadline - STUCK_S + UNDECIDED_S:
                told = True
                tps = [TopicPartition(topic, p) for p in waiting]
                stable = log_offsets(settings, dict.fromkeys(tps, OffsetSpec.latest()), False)
                held_up = {p for p in waiting if stable[topic, p] < ends[topic, p]}  # the others are only slow to come
                if held_up:
                    undecided(held_up)
            if time.monotonic() > deadline:
                raise ChangelogError(
                    f"{topic} {sorted(waiting)}: the end of the changelog stays undecided for {STUCK_S} s: a "
                    "transaction hangs on the broker; see kafka-transactions.sh find-hanging"
                )
            for message in consumer.consume(500, 0.1):
                error = message.error()
                if error is None:
                    p = message.partition()
                    where = f"{topic}-{p} at offset {message.offset()}"
                    if p in lasts:
                        _check_same(lasts.pop(p), message.offset(), message.value(), f"{topic}-{p}")
                        continue
                    progress.rows += stores[p].apply(message.value(), message.offset(), where)
                    progress.records += 1
                    faults.reach("restore.record")
                    tails.add(p, message.offset(), message.value(), stores)
                    deadline = time.monotonic() + STUCK_S
                elif error.code() == KafkaError._PARTITION_EOF:
                    # Its offset passes the markers at the end; below an open transaction it comes again later.
                    p, offset = message.partition(), message.offset()
                    stores[p].position = max(stores[p].position, offset)
                    if offset >= ends[topic, p]:
                        waiting.discard(p)
                elif error.fatal() or not (error.retriable() or error.code() == KafkaError._ALL_BROKERS_DOWN):
                    raise KafkaException(error)
    finally:
        consumer.close()


def _check_same(last: tuple[int, bytes], offset: int, value: bytes, where: str) -> None:
    if last != (offset, value):
        raise ChangelogError(
            f"{where} at offset {last[0]} is not what this machine's snapshot has: the topic goes on from a restored "
            "backup? If that is meant, delete the snapshot's folder, state/ under DATA_DIR"
        )
