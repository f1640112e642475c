"""Recovery: how long a large state takes to come back, what it costs while it is there, and how long its users' alerts
stay away when one of two workers is killed.

The state is written to the changelogs as a worker would have left it: positions filled by the kernels from trades, and
every ring of remembered ids full, with ids that nobody sent. Then one user of each partition trades back and forth over
a limit, so that each trade causes one alert, which is looked for as the risk desk sees it: read committed.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from assetstream.agents.partition import AccountPartition
from assetstream.cli.benchmarks import core, load
from assetstream.cli.benchmarks.installation import Installation, WorkerProcess
from assetstream.cli.benchmarks.report import BenchError, Table, Value
from assetstream.cli.repartition import StateWriter, state_producer
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.decode import decode_trades
from assetstream.models.fills import apply_trades
from assetstream.models.messages import TransactionStatus
from assetstream.models.rows import EVENT, SEEN
from assetstream.models.state import PERSISTED
from assetstream.streams import topics
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.processes import wait
from assetstream.streams.settings import Settings
from assetstream.tables.repartition import Rows, anew

PARTITIONS, SYMBOLS = 8, 100
#: trade ids for each wallet event that is remembered
EVENTS_SHARE = 8
#: trades a second of each user who trades back and forth
RATE = 10
#: what each of them may hold, between nothing and what they buy
LIMITS, BOUGHT, CENTS = {"max_position_size": "1000"}, 200, 9_500
#: number of the first user who may be one of them; of their first trade
OTHERS = 1_000_000
_numbers = count(100_000_000)
#: how long alerts may stay away
PATIENCE_S = 180.0


def run(stack: EmbeddedStack, positions: int, ids: int, kills: int, seconds: float, progress: Progress) -> list[Table]:
    """`positions` over 8 partitions, `ids` remembered in each ring; one of two workers is killed so many times.

    seconds: how long an idle worker, and one at a small load, is looked at
    """
    made = Installation(stack, "recovery", partitions=PARTITIONS)
    progress("making topics and tables of recovery", 0, 0)
    made.init()
    try:
        size = _write_state(made.settings, positions, ids, progress)
        rows: list[tuple[Value, ...]] = [("state and remembered ids, MB", size / 1e6)]
        rows += _one_worker(made, seconds, progress)
        rows += _two_workers(made, kills, progress)
    finally:
        made.remove()
    title = (
        f"Recovery: {positions:,} positions; {ids:,} remembered trades and {ids // EVENTS_SHARE:,} wallet transactions "
        f"in each of {PARTITIONS} partitions"
    )
    note = (
        "One worker has all 8 partitions. Restore: the worker's own figure; start to ready: Python, kernels and the "
        f"group too. Killed: two workers with a data folder each, {kills} times; from kill -9 until every partition "
        f"has an alert that a trade after the kill caused, {RATE} trades a second in each. The session timeout is "
        f"{made.settings.session_timeout_s:g} s."
    )
    return [Table("recovery", title, ("what", "value"), rows, note)]


# ---------------------------------------------------------------------------------------------------------- the state


def _write_state(settings: Settings, positions: int, ids: int, progress: Progress) -> int:
    """The state of all partitions, as changelog records in one transaction. -> their bytes."""
    writer, topic, size = StateWriter(state_producer(settings)), settings.topic(topics.ACCOUNT_CHANGELOG), 0
    users: list[list[int]] = [[] for _ in range(PARTITIONS)]
    for user in range(-(-positions // SYMBOLS)):
        users[partition_of(b"u%d" % user, PARTITIONS)].append(user)
    for number in range(PARTITIONS):
        progress("writing the state", number, PARTITIONS)
        records = anew(_rows(settings, number, users[number], ids), 1, PARTITIONS)
        size += sum(map(len, records))
        writer.write(topic, number, records)
    writer.flush()
    writer.commit()
    return size


def _rows(settings: Settings, number: int, users: list[int], ids: int) -> Rows:
    """A partition in which each of `users` has a position in every symbol, and all rings are full."""
    state = AccountPartition(number, settings.model_copy(update={"id_memory": 1})).store.state
    trades = (load.trade(user * SYMBOLS + s, user, s, 10 + s % 90, CENTS) for user in users for s in range(SYMBOLS))
    for records in core.chunks(trades, core.CHUNK):
        batch = decode_trades(records, core.SKEW_US)
        state = apply_trades(state, batch, core.DATES.times(batch)).state
    rows = {name: (table := getattr(state, name)).rows[: table.count[0]] for name in PERSISTED}
    random = np.random.default_rng(number)
    rows["trade_ids"] = np.frombuffer(random.bytes(ids * SEEN.itemsize), SEEN)
    rows["events"] = events = np.zeros(ids // EVENTS_SHARE, EVENT)
    for limb in ("id_lo", "id_hi"):
        events[limb] = random.integers(0, 1 << 64, len(events), np.uint64)
    events["status"], events["seen"] = TransactionStatus.COMPLETED.code, 1 << TransactionStatus.COMPLETED.code
    events["final"], events["due"] = np.arange(len(events)), -1
    rows["heads"] = rows["heads"].copy()
    rows["heads"]["next"][:2] = ids, len(events)  # nothing is on the agenda
    return rows


# ------------------------------------------------------------------------------------------------------------- workers


@contextmanager
def _workers(made: Installation, *names: str) -> Iterator[list[WorkerProcess]]:
    """Workers with a data folder each, started at once and ready; ended behind."""
    folder = made.settings.data_dir
    processes = [WorkerProcess(made.settings.model_copy(update={"data_dir": folder / name})) for name in names]
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            list(pool.map(lambda process: process.start(attached=True), processes))
            yield processes
        finally:
            list(pool.map(WorkerProcess.stop, processes))


def _one_worker(made: Installation, seconds: float, progress: Progress) -> Iterator[tuple[Value, ...]]:
    for what in ("cold, from Kafka", "warm, from snapshots"):
        progress(f"restoring {what}", 0, 0)
        began = time.monotonic()
        with _workers(made, "one") as (worker,):
            ready = time.monotonic() - began
            yield f"restore, {what}: s", worker.metrics()["last_restore_duration_seconds", ""]
            yield f"start to ready, {what}: s", ready
            if what.startswith("cold"):
                continue  # what was restored is in the snapshots
            yield "resident memory, MB", _resident(worker) / 1e6
            progress("looking at an idle worker", 0, 0)
            yield "CPU while idle, % of a core", _cpu(worker, seconds)
            with _Desk(made) as desk:
                progress("looking at a small load", 0, 0)
                desk.wait_for_all()
                yield f"CPU at {RATE * PARTITIONS} trades/s, % of a core", _cpu(worker, seconds)
                yield "resident memory then, MB", _resident(worker) / 1e6


def _two_workers(made: Installation, kills: int, progress: Progress) -> Iterator[tuple[Value, ...]]:
    taken: list[float] = []
    restored: list[float] = []
    with _workers(made, "one", "two") as workers, _Desk(made) as desk:
        for kill in range(kills):
            progress("killing a worker", kill, kills)
            _wait_shared(workers)
            desk.wait_for_all()
            victim, other = workers[kill % 2], workers[1 - kill % 2]
            process = victim.process
            if process is None:
                raise BenchError("the worker to be killed has ended by itself")
            began = time.monotonic()
            process.signal(signal.SIGKILL)
            taken.append(desk.wait_for_all() - began)
            restored.append(other.metrics()["last_restore_duration_seconds", ""])
            if kill + 1 < kills:
                victim.start(attached=True)
    yield "kill -9 to the next alerts, s, median", statistics.median(taken)
    yield "kill -9 to the next alerts, s, longest", max(taken)
    yield "of that, the survivor's restore, s, median", statistics.median(restored)


def _wait_shared(workers: list[WorkerProcess]) -> None:
    """Until each has half of the partitions, restored."""

    def shared() -> bool:
        return [worker.metrics()["ready_partitions", ""] for worker in workers] == [PARTITIONS / 2] * 2

    if not wait(shared, PATIENCE_S, 0.2):
        raise BenchError(f"the workers did not share the partitions within {PATIENCE_S:.0f} s")
    time.sleep(2)


def _resident(worker: WorkerProcess) -> int:
    """Bytes of its memory that are in RAM."""
    process = worker.process
    pages = Path(f"/proc/{process.pid if process else 'self'}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _cpu(worker: WorkerProcess, seconds: float) -> float:
    """Per cent of a core that it uses over so many seconds."""
    began, used = time.monotonic(), worker.cpu_seconds
    time.sleep(seconds)
    return 100 * (worker.cpu_seconds - used) / (time.monotonic() - began)


# ------------------------------------------------------------------------------------------------------------ the desk


class _Desk:
    """One user of each partition trades back and forth over a limit; every alert is awaited."""

    def __init__(self, made: Installation) -> None:
        self._settings = made.settings
        self._users = {partition_of(b"u%d" % user, PARTITIONS): user for user in range(OTHERS, OTHERS + 1_000)}
        #: by partition: offset of the last trade that is written; and of each alert the offset of the trade that
        #: caused it, and when it could be read (monotonic s)
        self._sent = dict.fromkeys(range(PARTITIONS), -1)
        self._alerts: dict[int, list[tuple[int, float]]] = {number: [] for number in range(PARTITIONS)}
        self._failed: Any = None
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._trade, self._read)]

    def __enter__(self) -> _Desk:
        limits = [load.limits(user, LIMITS) for user in self._users.values()]
        load.publish(self._settings, "risk_limits", limits, len(limits))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def sent(self) -> dict[int, int]:
        """By partition: the offset of the last trade that is written."""
        return self._sent.copy()

    def wait_for_all(self, after: dict[int, int] | None = None) -> float:
        """When each partition had an alert of a trade behind these (else: behind those of now). Raises BenchError."""
        after = after or self.sent()

        def first(number: int) -> float | None:
            later = (when for offset, when in reversed(self._alerts[number]) if offset > after[number])
            return min(later, default=None)

        def seen() -> bool:
            return self._failed is not None or all(first(number) is not None for number in after)

        if not wait(seen, PATIENCE_S, 0.01) or self._failed is not None:
            raise BenchError(f"alerts stayed away: {self._failed or f'not all within {PATIENCE_S:.0f} s'}")
        return max(first(number) or 0.0 for number in after)

    def _trade(self) -> None:
        """Everybody buys, and then sells, until it is over; nobody is left with anything."""
        producer = Producer(self._settings.kafka(**{"linger.ms": 5, "log_level": 0}))
        topic = self._settings.topic("trades")
        while not self._over.is_set():
            for tenths in (BOUGHT, -BOUGHT):
                for number, user in self._users.items():
                    key, value = load.trade(next(_numbers), user, 0, tenths, CENTS)
                    producer.produce(topic, value, key, number, on_delivery=self._delivered)
                self._wait(producer, 1 / RATE)
        producer.flush(30)

    def _wait(self, producer: Producer, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            producer.poll(left)

    def _delivered(self, error: Any, message: Any) -> None:
        self._failed = self._failed or error
        self._sent[message.partition()] = message.offset()

    def _read(self) -> None:
        """As who watches the alerts does."""
        more = {"group.id": "bench", "isolation.level": "read_committed", "enable.auto.commit": False, "log_level": 0}
        consumer = Consumer(self._settings.kafka(**more))
        topic = self._settings.topic("risk_alerts")
        try:
            consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in range(PARTITIONS)])
            while not self._over.is_set():
                for message in consumer.consume(1_000, 0.01):
                    if message.error() is None:
                        cause = json.loads(message.value())["cause"]["offset"]
                        self._alerts[message.partition()].append((cause, time.monotonic()))
        finally:
            consumer.close()
