"""What the tests of the whole pipeline share: workers as processes, publishing, reading back, and the comparison of
everything that came out with the reference model.

Nothing here knows the code under test beyond its settings, `init`, `lag` and command line.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec
from prometheus_client.parser import text_string_to_metric_families

from assetstream.cli.init import init_all
from assetstream.cli.lag import lags
from assetstream.models.market import Message
from assetstream.models.reference import NO_QUOTE, SEVERITIES, Reference, Rejected, level_of, read
from assetstream.sinks.clickhouse import connect
from assetstream.streams import processes
from assetstream.streams.admin import Admin
from assetstream.streams.settings import PREFIX, Settings

#: deadlines are for tests that would hang, not for slow machines
READY_S = 240
SETTLE_S = 300
INPUTS = ("risk_limits", "prices")
#: inputs that move balances; the `journal` of what is told of them is the order in which they were taken
LEDGER = ("trades", "transactions", "transfers", "clock")
TOLD = ("asset_transactions", "settlement_events")
#: what is due within this is waited for
SOON_S = 30
OUTPUTS = ("portfolio_updates", "risk_alerts", "asset_transactions", "settlement_events", "dead_letters")
#: passed on to a worker where they differ from their defaults
SECRETS = ("kafka_sasl_password", "kafka_ssl_key_password", "clickhouse_password")

_workers: list[WorkerProcess] = []


@pytest.fixture(autouse=True)
def logs_on_failure() -> Iterator[None]:
    """Print what the workers said: pytest shows it when the test fails. Import it into a test module to have it."""
    yield
    for worker in {worker.log: worker for worker in _workers if worker.log.exists()}.values():
        print(f"--- {worker.log}, exit code {worker.process.poll()}\n{worker.tail(40)}")


# -- processes --------------------------------------------------------------------------------------------------------


class WorkerProcess:
    """`assetstream worker` as a process that ends with this one; its log is `folder/name.log`."""

    def __init__(self, settings: Settings, folder: Path, name: str, *arguments: str) -> None:
        self.settings, self.name = settings, name
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "assetstream.cli.main", "worker", "--metrics-port", str(self.port), *arguments]
        launcher = [sys.executable, "-I", "-S", processes.__file__, str(folder / f"{name}.pid"), str(self.port)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*launcher, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
                env=environment(settings),
            )
        _workers.append(self)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the metrics port; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_ready(self, patience: float = READY_S) -> WorkerProcess:
        """Return when `/readyz` says 200."""
        wait_until(lambda: self.is_ready, f"{self.name} to be ready", patience)
        return self

    @property
    def is_ready(self) -> bool:
        """What `/readyz` says; fails when the process has ended."""
        assert self.process.poll() is None, f"{self.name} ended: {self.tail()}"
        return self.get("/readyz")[0] == 200

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels. `name` is that of the sample, such as `messages_total`."""
        return sum(value for key, value in self.samples(name).items() if labels.items() <= dict(key).items())

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Value by labels (sorted pairs) of a metric's samples."""
        status, text = self.get("/metrics")
        assert status == 200, f"{self.name} has no metrics: {text}"
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)
        return {tuple(sorted(s.labels.items())): s.value for s in samples}

    def signal(self, number: int) -> None:
        """Send a signal to the worker, if it lives."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.process.wait(20)

    def terminate(self, patience: float = 30) -> tuple[int, float]:
        """SIGTERM; exit code and how many seconds it took."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {patience} s of SIGTERM: {self.tail()}") from None
        return code, time.monotonic() - began

    def end(self) -> None:
        """End it, somehow."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        self.kill()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a child that is to have these settings: ours, without other `ASSETSTREAM_` names."""
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value is not None and value != field.default and name not in SECRETS:
            env[PREFIX + name.upper()] = str(value)
    return env


def run(settings: Settings, folder: Path, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`assetstream …` until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "assetstream.cli.main", *arguments],
        cwd=folder,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def wait_until(done: Callable[[], bool], what: str, patience: float = SETTLE_S, pause: float = 0.1) -> None:
    """Ask until it is done; fails, naming `what`, when it isn't in time."""
    if not processes.wait(done, patience, pause):
        logs = "\n".join(f"--- {w.name}:\n{w.tail()}" for w in _workers if w.process.poll() is None)
        raise AssertionError(f"waited {patience:.0f} s in vain for {what}\n{logs}")


# -- one installation -------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A record as a read_committed consumer sees it; `topic` without prefix."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

    @property
    def json(self) -> Any:
        """The value."""
        return json.loads(self.value or b"null")


class Pipeline:
    """Topics, tables and workers of one installation, and the reference model beside it.

    `publish` a phase, `settle`, `feed` the reference with what was published: again and again; then `check`.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.reference = Reference(settings.base_currency, settings.max_future_skew_s)
        self.published: Counter[str] = Counter()
        self.workers: list[WorkerProcess] = []
        self._fed: dict[tuple[str, int], int] = {}
        #: by (user, id): when holds expire, as first said, and trades settle, and the last that was told of each
        self._expiring: dict[tuple[str, str], str] = {}
        self._told: dict[tuple[str, str], str] = {}
        self._seen: dict[tuple[str, int], int] = {}
        self._before: list[tuple[int, dict[tuple[str, int], int]]] = []
        init_all(settings)

    def start(self, *names: str, ready: bool = True) -> list[WorkerProcess]:
        """Start workers, all at once, each with a data folder of its own; return when they are ready."""
        started = []
        for name in names:
            settings = self.settings.model_copy(update={"data_dir": self.folder / f"data-{name}"})
            started.append(WorkerProcess(settings, self.folder, name))
        self.workers = [w for w in self.workers if w.process.poll() is None] + started
        for worker in started if ready else ():
            worker.wait_ready()
        if ready:
            wait_until(lambda: all(w.is_ready for w in self.workers), "all workers to be ready", READY_S)
        return started

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        for worker in self.workers:
            worker.end()

    def publish(self, messages: Iterable[Message], rate: float = 0.0) -> int:
        """Publish and wait until all is acknowledged; `rate`: messages a second, 0: as fast as possible."""
        failed: list[Any] = []
        producer = Producer(
            self.settings.kafka(
                **{
                    "partitioner": "murmur2_random",
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "compression.type": "lz4",
                    "message.max.bytes": 4 << 20,
                    "queue.buffering.max.messages": 500_000,
                    "log_level": 0,
                }
            )
        )
        with suppress(KafkaException):
            producer.list_topics(timeout=5)  # connect first: else it asks for its id again only half a second later
        began, sent = time.monotonic(), 0
        for topic, key, value in messages:
            while True:
                try:
                    producer.produce(
                        self.settings.topic(topic), value, key, on_delivery=lambda e, _: e and failed.append(e)
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
            self.published[topic] += 1
            sent += 1
            if sent % 100 == 0:
                producer.poll(0)
                if rate and (ahead := sent / rate - (time.monotonic() - began)) > 0:
                    time.sleep(ahead)
        assert producer.flush(60) == 0
        assert not failed, failed[:3]
        return sent

    def lag(self, sinks: bool = True) -> int:
        """What agents (and sinks) have still to read, all in all."""
        agents = self.settings.group("agents")
        return sum(row.lag for row in lags(self.settings) if sinks or row.group == agents)

    def settle(self, patience: float = SETTLE_S, sinks: bool = True) -> None:
        """Return when nothing is left to read, for agents (and sinks), and nothing left to happen that is due soon."""

        def settled() -> bool:
            for worker in self.workers:
                assert worker.process.poll() is None, f"{worker.name} ended: {worker.tail()}"
            try:
                if self.lag(sinks):
                    return False
                happened = self._look_at_holds()
                return not self._waits() and not (happened and self.lag(sinks))
            except KafkaException:
                return False

        wait_until(settled, "lag to be zero, and what is due to happen", patience)

    def _look_at_holds(self) -> bool:
        """Read what came of them, and of trades, since the last time; whether one has expired, or settled later."""
        happened = False
        names = ("transactions", *TOLD)
        for at, begin in self._begins(*names).items():  # what expired isn't missed
            self._seen[at] = max(begin, self._seen.get(at, 0))
        for record in self.read(*names, start=self._seen):
            self._seen[record.topic, record.partition] = record.offset + 1
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                if record.topic == "settlement_events":
                    key = record.json["user_id"], f"settlement {record.json['trade_id']}"
                    self._told[key] = record.json["status"]
                    self._expiring[key] = record.json["settles_at"]
                    happened = happened or record.json["cause"]["topic"].endswith("clock")
                    continue
                key = record.json["user_id"], record.json["transaction_id"]
                if record.topic == "asset_transactions":
                    self._told[key] = record.json["status"]
                    happened = happened or record.json["code"] == "EXPIRED"
                elif record.json["type"] == "HOLD" and record.json["expires_at"]:
                    self._expiring.setdefault(key, record.json["expires_at"])
        return happened

    def _begins(self, *topics: str) -> dict[tuple[str, int], int]:
        """The first offset that is kept of each partition."""
        places = {(self.settings.topic(t), p): (t, p) for t in topics for p in range(self.settings.partitions)}
        found = Admin(self.settings).offsets(list(places), OffsetSpec.earliest())
        return {places[place]: offset for place, offset in found.items()}

    def _waits(self) -> bool:
        """Whether a hold that was accepted is open although it expires soon, or should have; and so for trades."""
        soon = datetime.now(UTC) + timedelta(seconds=SOON_S)
        self._expiring = {
            key: at for key, at in self._expiring.items() if self._told.get(key) in (None, "PENDING", "PROCESSING")
        }
        return any(datetime.fromisoformat(at) <= soon for key, at in self._expiring.items() if key in self._told)

    def work_through(self, parts: Iterable[list[Message]]) -> None:
        """Publish, feed and settle phase after phase; between them rows may wait: sinks take a second to fill a batch.

        After prices they don't: in that second all workers get the marks, and then trades find them.
        """
        for phase in parts:
            self.publish(phase)
            self.feed(ledger=False)  # while the workers are at it
            self.settle(sinks=2 * sum(topic == "prices" for topic, _, _ in phase) > len(phase))
            self.feed()
        self.settle()

    def repartitioned(self, partitions: int) -> None:
        """There are so many partitions now, a multiple of what there were; what was put out before stays there."""
        old = self.settings.partitions
        ends = {(r.topic, r.partition): r.offset + 1 for r in self.read(*OUTPUTS)}
        self._before.append((old, ends))
        self.settings = self.settings.model_copy(update={"partitions": partitions})
        for number in range(old):
            added = range(number + old, partitions, old)
            self.reference.split(number, added, lambda user: partition_of(user.encode(), partitions))

    def partitions_at(self, record: Record) -> int:
        """How many partitions there were when this record was put out."""
        for partitions, ends in self._before:
            if record.offset < ends.get((record.topic, record.partition), 0):
                return partitions
        return self.settings.partitions

    def marks_taken(self) -> dict[str, float]:
        """By worker: marks it has revalued with."""
        return {worker.name: worker.metric("marks_taken_total") for worker in self.workers}

    def feed(self, take_marks: bool = True, ledger: bool = True) -> None:
        """Give the reference what was published since the last time: topic by topic, partition by partition.

        ledger: what moves balances too, which has to be settled by then.
        """
        found: dict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in self.read(*INPUTS, start=self._fed):
            found[record.topic, record.partition].append(record)
        for topic in INPUTS:
            for partition in range(self.settings.partitions):
                for r in found[topic, partition]:
                    self._give(r, take_marks)
        if ledger:
            self._feed_ledger()

    def _give(self, r: Record, take_marks: bool = True) -> None:
        self.reference.feed(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, take_marks)
        self._fed[r.topic, r.partition] = r.offset + 1

    def _feed_ledger(self) -> None:
        """In the order of what was told of them; what nothing was told of changes nothing, whenever it comes.

        A tick of which nothing was is left out: it would, where it found nothing due because that came after it.
        """
        outcomes = sorted(self.read(*TOLD, start=self._fed), key=lambda r: (r.partition, r.json["journal"]))
        found: dict[tuple[str, int], deque[Record]] = defaultdict(deque)
        for record in self.read(*LEDGER, start=self._fed):
            found[record.topic, record.partition].append(record)
        for outcome in outcomes:
            last = self._fed.get((outcome.topic, outcome.partition), 0)
            self._fed[outcome.topic, outcome.partition] = max(outcome.offset + 1, last)
            cause = outcome.json["cause"]
            waiting = found[cause["topic"].removeprefix(self.settings.topic_prefix), cause["partition"]]
            while waiting and waiting[0].offset <= cause["offset"]:
                record = waiting.popleft()
                if record.topic != "clock" or record.offset == cause["offset"]:
                    self._give(record)
        for (topic, _), waiting in found.items():
            for record in waiting if topic != "clock" else ():
                self._give(record)

    def read(self, *topics: str, start: dict[tuple[str, int], int] | None = None) -> list[Record]:
        """All that read_committed consumers can read of `topics` now, by partition in offset order."""
        prefix = self.settings.topic_prefix
        places = [(self.settings.topic(t), p) for t in topics for p in range(self.settings.partitions)]
        stable = Admin(self.settings).offsets(places, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        begins = {(topic, p): (start or {}).get((topic[len(prefix) :], p), 0) for topic, p in places}
        left = {each for each, end in stable.items() if begins[each] < end}
        found: dict[tuple[str, int], list[Record]] = {place: [] for place in places}
        consumer = Consumer(
            self.settings.kafka(
                **{
                    "group.id": "tests-reader",
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 20,  # at the end of a partition the broker holds an answer back so long
                    "fetch.message.max.bytes": 8 << 20,
                }
            )
        )
        try:
            consumer.assign([TopicPartition(*each, begins[each]) for each in left])
            end = time.monotonic() + SETTLE_S
            while left:
                assert time.monotonic() < end, f"could not read {sorted(left)} to their ends"
                for message in consumer.consume(5000, 0.05):
                    each = (message.topic(), message.partition())
                    if message.error() is None:
                        record = (message.offset(), message.timestamp()[1], message.key(), message.value())
                        found[each].append(Record(each[0][len(prefix) :], each[1], *record))
                    elif message.offset() >= stable[each]:  # the end of the partition
                        left.discard(each)
        finally:
            consumer.close()
        return [record for records in found.values() for record in records]


@contextmanager
def pipeline(settings: Settings, folder: Path, *names: str) -> Iterator[Pipeline]:
    """An installation with workers that are ready, ended at the end."""
    made = Pipeline(settings, folder)
    try:
        made.start(*names)
        yield made
    finally:
        made.end()


# -- a market in phases -----------------------------------------------------------------------------------------------

#: rounds of limits and trades: in the second one days turn while positions are held
ROUNDS = 2


def phases(market: Iterable[Message], messages: int) -> list[list[Message]]:
    """The first so many messages of a market, in phases within which the order between topics doesn't matter.

    Limits, prices, trades and wallet events, then limits again, trades and wallet events again. Bad limits and prices
    come in any phase, as they change nothing.
    """
    good: dict[str, list[Message]] = defaultdict(list)
    bad: list[Message] = []
    for message in islice(market, messages):
        (bad if message[0] in ("risk_limits", "prices") and is_bad(message) else good[message[0]]).append(message)
    made: list[list[Message]] = []
    for i in range(ROUNDS):
        made.append(share(good["risk_limits"], i))
        if i == 0:
            made.append(good["prices"])
        made.append(share(good["trades"], i) + share(good["transactions"], i))
    for i, message in enumerate(bad):
        phase = made[i % len(made)]
        phase.insert(7 * i % (len(phase) + 1), message)
    assert sum(map(len, made)) == messages
    return made


def share(messages: list[Message], i: int) -> list[Message]:
    """Part `i` of ROUNDS."""
    return messages[i * len(messages) // ROUNDS : (i + 1) * len(messages) // ROUNDS]


def is_bad(message: Message) -> bool:
    """Whether nothing that was before could make this message good."""
    topic, key, value = message
    try:
        read(topic, 1_800_000_000_000, 3600, key, value)
    except Rejected:
        return True
    return False


# -- what came out, against the reference -----------------------------------------------------------------------------


def rows(client: Client, query: str) -> list[dict[str, Any]]:
    """Rows of a query; decimals as plain strings, times as the interface writes them."""
    answer = client.raw_query(
        query,
        fmt="JSONEachRow",
        settings={
            "output_format_json_quote_decimals": 1,
            "output_format_json_quote_64bit_integers": 0,
            "date_time_output_format": "iso",
        },
    )
    return [json.loads(line) for line in answer.splitlines()]


def same(found: dict[Any, Any], expected: dict[Any, Any], what: str) -> None:
    """Fails with the first differences, short, where `found` is not `expected`."""
    if found == expected:
        return
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    differ = [key for key in expected.keys() & found.keys() if found[key] != expected[key]]
    lines = [f"{what}: {len(missing)} missing, {len(extra)} too many, {len(differ)} differ, of {len(expected)}"]
    lines += [f"  missing {key}: {str(expected[key])[:600]}" for key in sorted(missing, key=str)[:3]]
    lines += [f"  too many {key}: {str(found[key])[:600]}" for key in sorted(extra, key=str)[:3]]
    for key in sorted(differ, key=str)[:3]:
        lines.append(f"  {key}: found {_differing(found[key], expected[key])}")
    raise AssertionError("\n".join(lines))


def _differing(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [k for k in found | expected if found.get(k, "—") != expected.get(k, "—")]
        return "; ".join(f"{k}={found.get(k, '—')!r:.300}, expected {expected.get(k, '—')!r:.300}" for k in keys)
    return f"{found!r:.900}\n    expected {expected!r:.900}"


def unique(items: Iterable[Any], key: Callable[[Any], Any], what: str) -> dict[Any, Any]:
    """Items by key; fails where a key comes twice."""
    found: dict[Any, Any] = {}
    for item in items:
        assert key(item) not in found, f"{what}: {key(item)} is there twice"
        found[key(item)] = item
    return found


def cause_of(message: dict[str, Any]) -> tuple[str, int, int]:
    """The cause of an output, as a key."""
    return message["cause"]["topic"], message["cause"]["partition"], message["cause"]["offset"]


def outcome_of(message: dict[str, Any]) -> tuple[str, int, int, str]:
    """The cause of an outcome, and what it is of: one tick of the clock may have several."""
    return *cause_of(message), message["transaction_id"]


def balance_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Which change of which balance a row tells of."""
    return row["user_id"], row["wallet_id"], row["asset"], row["sequence"]


def settlement_of(event: dict[str, Any]) -> tuple[str, str]:
    """What a settlement event is of: one trade has one of each status."""
    return event["settlement_id"], event["status"]


def columns(message: dict[str, Any], prefix: str) -> dict[str, Any]:
    """An output of the reference as the columns of its row: the cause flat, and with the topic's full name."""
    row = {name: value for name, value in message.items() if name not in ("cause", "balance", "postings", "journal")}
    if "cause" in message:
        topic, partition, offset = cause_of(message)
        row |= {"source_topic": topic, "source_partition": partition, "source_offset": offset}
    row["source_topic"] = prefix + row["source_topic"]
    return row


def source(row: dict[str, Any]) -> tuple[str, int, int]:
    """Where a row came from."""
    return row["source_topic"], row["source_partition"], row["source_offset"]


class Check:
    """Everything that came out of a pipeline, read once, against its reference."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.reference = pipeline, pipeline.reference
        self.prefix, self.database = pipeline.settings.topic_prefix, pipeline.settings.clickhouse_database
        pipeline.feed()  # what moves balances is fed when all of it is settled
        self.records: dict[str, list[Record]] = {name: [] for name in OUTPUTS}
        for record in pipeline.read(*self.records):
            self.records[record.topic].append(record)

    def everything(self) -> None:
        """All of it: for runs in which the order between topics was determined."""
        self.topics()
        self.tables()
        self.views()

    def racing(self) -> None:
        """For runs in which limits, prices and trades raced: all that the race leaves determined, and once."""
        self.keys()
        self.levels()
        self.updates(without=("daily_pnl",))
        self.transactions()
        self.settlements()
        self.dead_letters()
        self.tables()
        with self.client() as client:
            self._positions(client)

    # -- topics

    def topics(self) -> None:
        """Each output topic holds exactly the reference's messages, once, keyed and in order."""
        self.keys()
        self.alerts()
        self.updates()
        self.transactions()
        self.settlements()
        self.dead_letters()

    def keys(self) -> None:
        """Every record is keyed by its user (a dead letter by the rejected key) and lies where murmur2 puts it."""
        for name in OUTPUTS:
            for r in self.records[name]:
                if name == "dead_letters":
                    key = r.json["key"]
                    assert r.key == (None if key is None else base64.b64decode(key))
                else:
                    assert r.key == r.json["user_id"].encode()
                if r.key:
                    assert r.partition == partition_of(r.key, self.pipeline.partitions_at(r)), r[:4]

    def alerts(self) -> None:
        """Of each portfolio the same alerts in the same order."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        unique((r.json for r in self.records["risk_alerts"]), lambda a: a["alert_id"], "risk_alerts")
        for r in self.records["risk_alerts"]:
            alert = self._unprefixed(r.json)
            assert alert.pop("message")
            found[alert["user_id"], alert["portfolio_id"]].append(alert)
        expected: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for alert in self.reference.alerts:
            expected[alert["user_id"], alert["portfolio_id"]].append(alert)
        for key in expected.keys() | found.keys():
            theirs, ours = ({(i, a["alert_id"]): a for i, a in enumerate(each[key])} for each in (expected, found))
            same(ours, theirs, f"risk_alerts of {key}")

    def levels(self) -> None:
        """Alerts of each subject are numbered from 1 without holes, each changes the level, and the last one of the
        rules that every message judges tells the level that the reference came to.
        """
        last: dict[str, tuple[int, str]] = {}
        for r in self.records["risk_alerts"]:
            alert = r.json
            subject, _, number = alert["alert_id"].rpartition("/")
            before, severity = last.get(subject, (0, "INFO"))
            assert int(number) == before + 1, f"{alert['alert_id']} follows number {before}"
            assert alert["severity"] != severity, f"{alert['alert_id']} changes nothing"
            last[subject] = int(number), alert["severity"]
        found, expected = {}, {}
        for (user, name), portfolio in self.reference.portfolios.items():
            for subject, value, limit in (
                ("EXPOSURE_LIMIT/-", portfolio.gross_exposure, "max_portfolio_value"),
                ("LOSS_LIMIT/total", -portfolio.total_pnl, "max_total_loss"),
            ):
                key = f"{user}/{name}/{subject}"
                found[key] = last.get(key, (0, "INFO"))[1]
                expected[key] = SEVERITIES[level_of(value, portfolio.limit(limit))]
        same(found, expected, "levels")

    def updates(self, without: tuple[str, ...] = ()) -> None:
        """Sequences grow by one, also in the order of the log; the last update of each portfolio is the reference's."""
        last: dict[tuple[str, str], dict[str, Any]] = {}
        for r in self.records["portfolio_updates"]:
            update = r.json
            key = update["user_id"], update["portfolio_id"]
            assert update["sequence"] == (last[key]["sequence"] if key in last else 0) + 1, (key, r.offset)
            last[key] = update
        expected = {key: self.reference.update(*key) for key in self.reference.portfolios}
        for update in (*last.values(), *expected.values()):
            for name in ("sequence", *without):
                update.pop(name, None)
        same(last, expected, "last portfolio_updates")

    def transactions(self) -> None:
        """Every outcome, in the order of the wallet events of its partition."""
        records = self.records["asset_transactions"]
        found = unique((self._unprefixed(r.json) for r in records), outcome_of, "asset_transactions")
        same(found, {outcome_of(outcome): outcome for outcome in self.reference.outcomes}, "asset_transactions")
        self._in_order("asset_transactions")

    def settlements(self) -> None:
        """Every settlement event, in the order of the trades of its partition."""
        records = self.records["settlement_events"]
        found = unique((self._unprefixed(r.json) for r in records), settlement_of, "settlement_events")
        expected = {settlement_of(event): event for event in self.reference.settlements}
        same(found, expected, "settlement_events")
        self._in_order("settlement_events")

    def dead_letters(self) -> None:
        """Every rejected message, whole, with its reason and some detail."""
        found = {}
        for r in self.records["dead_letters"]:
            letter = r.json
            assert letter.pop("detail"), letter
            assert letter.pop("rejected_at") > "2020"
            assert letter["dead_letter_id"] == f"{letter['topic']}-{letter['partition']}-{letter['offset']}"
            letter["topic"] = letter["topic"].removeprefix(self.prefix)
            letter["dead_letter_id"] = f"{letter['topic']}-{letter['partition']}-{letter['offset']}"
            assert letter["dead_letter_id"] not in found, f"{letter['dead_letter_id']} is there twice"
            found[letter["dead_letter_id"]] = letter
        same(found, {each["dead_letter_id"]: each for each in self.reference.dead_letters}, "dead_letters")
        self._in_order("dead_letters")

    def _in_order(self, name: str) -> None:
        last: dict[tuple[Any, ...], int] = {}
        for r in self.records[name]:
            if r.key is None:
                continue  # spread over partitions
            where = r.json if name == "dead_letters" else r.json["cause"]
            key = (r.key, r.partition, where["topic"], where["partition"])
            # a tick may have several outcomes
            before = last.get(key, -1) - where["topic"].endswith("clock")
            assert before < where["offset"], f"{name}: {where} of {r.key!r} is out of order"
            last[key] = where["offset"]

    def _unprefixed(self, message: dict[str, Any]) -> dict[str, Any]:
        topic = message["cause"]["topic"]
        assert topic.startswith(self.prefix)
        return message | {"cause": message["cause"] | {"topic": topic[len(self.prefix) :]}}

    # -- tables

    def tables(self) -> None:
        """Each table holds exactly the reference's rows, once."""
        with self.client() as client:
            self._counts(client)
            self._stream(client, "fills", [columns(each, self.prefix) for each in self.reference.fills])
            self._stream(client, "prices", [columns(each, self.prefix) for each in self.reference.prices_accepted])
            self._alert_rows(client)
            self._update_rows(client)
            self._transaction_rows(client)
            self._ledger_rows(client)
            self._balance_rows(client)
            self._settlement_rows(client)
            self._dead_letter_rows(client)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of its ClickHouse."""
        client = connect(self.pipeline.settings)
        try:
            yield client
        finally:
            client.close()

    def _counts(self, client: Client) -> None:
        ids = {
            "fills": "(user_id, trade_id)",
            "prices": "(source_partition, source_offset)",
            "portfolio_updates": "(user_id, portfolio_id, sequence)",
            "risk_alerts": "alert_id",
            "transactions": "(user_id, transaction_id, status)",
            "ledger_entries": "(user_id, transaction_id, entry)",
            "balance_changes": "(user_id, wallet_id, asset, sequence)",
            "settlements": "(settlement_id, status)",
            "dead_letters": "dead_letter_id",
        }
        for table, identity in ids.items():
            query = f"SELECT count() AS n, uniqExact({identity}) AS ids FROM {self.database}.{table}"
            (row,) = rows(client, query)
            assert row["n"] == row["ids"], f"{table}: {row['n'] - row['ids']} of {row['n']} rows are there twice"

    def _stream(self, client: Client, table: str, expected: Sequence[dict[str, Any]]) -> None:
        found = rows(client, f"SELECT * FROM {self.database}.{table}")
        same(unique(found, source, table), {source(row): row for row in expected}, table)

    def _alert_rows(self, client: Client) -> None:
        found = unique(rows(client, f"SELECT * FROM {self.database}.risk_alerts"), lambda r: r["alert_id"], "alerts")
        published = [r.json for r in self.records["risk_alerts"]]
        messages = {alert["alert_id"]: alert["message"] for alert in published}
        expected = {
            alert["alert_id"]: columns(alert, self.prefix) | {"message": messages[alert["alert_id"]]}
            for alert in map(self._unprefixed, published)
        }
        same(found, expected, "table risk_alerts")

    def _update_rows(self, client: Client) -> None:
        found = {}
        for row in rows(client, f"SELECT * FROM {self.database}.portfolio_updates"):
            topic, partition, _ = source(row)
            assert topic.removeprefix(self.prefix) in (*INPUTS, "trades")
            assert 0 <= partition < self.pipeline.settings.partitions
            key = row["user_id"], row["portfolio_id"], row["sequence"]
            found[key] = {name: v for name, v in row.items() if not name.startswith("source_")}
        published = (r.json for r in self.records["portfolio_updates"])
        same(found, {(u["user_id"], u["portfolio_id"], u["sequence"]): u for u in published}, "table portfolio_updates")

    def _transaction_rows(self, client: Client) -> None:
        found = rows(client, f"SELECT * EXCEPT (external_id, payment_method) FROM {self.database}.transactions")
        expected = {}
        for outcome, sequence in zip(self.reference.outcomes, self.reference.ledger.sequences, strict=True):
            row = {"wallet_type": None, "resets": None} | NO_QUOTE | columns(outcome, self.prefix)
            row |= {f"balance_{k}": v for k, v in outcome["balance"].items()} | {"balance_sequence": sequence}
            expected[*source(row), row["transaction_id"]] = row
        named = unique(found, lambda r: (*source(r), r["transaction_id"]), "transactions")
        same(named, expected, "table transactions")

    def _ledger_rows(self, client: Client) -> None:
        found = rows(client, f"SELECT * FROM {self.database}.ledger_entries")
        expected = {}
        for outcome in self.reference.outcomes:
            for entry, posting in enumerate(outcome["postings"]):
                row = {name: outcome[name] for name in ("user_id", "transaction_id", "occurred_at", "cause")}
                row = columns({**row, **posting, "entry": entry}, self.prefix)
                expected[*source(row), entry] = row
        for event, postings in self.reference.settled_postings:
            for entry, posting in enumerate(postings):
                row = {name: event[name] for name in ("user_id", "occurred_at", "cause")}
                row = columns({**row, "transaction_id": event["settlement_id"], **posting, "entry": entry}, self.prefix)
                expected[*source(row), entry] = row
        same(unique(found, lambda r: (*source(r), r["entry"]), "ledger_entries"), expected, "table ledger_entries")

    def _balance_rows(self, client: Client) -> None:
        found = rows(client, f"SELECT * FROM {self.database}.balance_changes")
        changes = (columns(each, self.prefix) for each in self.reference.balance_changes)
        expected = {balance_of(row): row for row in changes}
        same(unique(found, balance_of, "balance_changes"), expected, "table balance_changes")

    def _settlement_rows(self, client: Client) -> None:
        # what these say is told by the views of postings and balances
        found = rows(client, f"SELECT * EXCEPT '^(is|cash|asset)_' FROM {self.database}.settlements")
        expected = {settlement_of(event): columns(event, self.prefix) for event in self.reference.settlements}
        same(unique(found, settlement_of, "settlements"), expected, "table settlements")

    def _dead_letter_rows(self, client: Client) -> None:
        found = unique(
            rows(client, f"SELECT * FROM {self.database}.dead_letters"), lambda r: r["dead_letter_id"], "dead_letters"
        )
        expected = {}
        for r in self.records["dead_letters"]:
            letter = r.json
            where = {f"source_{name}": letter[name] for name in ("topic", "partition", "offset")}
            expected[letter["dead_letter_id"]] = letter | where
        same(found, expected, "table dead_letters")

    # -- views

    def views(self) -> None:
        """The views hold the latest of each."""
        with self.client() as client:
            self._positions(client)
            portfolios = rows(client, f"SELECT * EXCEPT (sequence) FROM {self.database}.portfolios")
            same(
                unique(portfolios, lambda r: (r["user_id"], r["portfolio_id"]), "portfolios"),
                {key: self.reference.update(*key) for key in self.reference.portfolios},
                "view portfolios",
            )
            balances = rows(client, f"SELECT * EXCEPT (last_transaction_at) FROM {self.database}.balances")
            found = {}
            for row in balances:
                found[row.pop("user_id"), row.pop("wallet_id"), row.pop("asset")] = row
            same(found, self.reference.balances, "view balances")
            wallets = {
                (row["user_id"], row["wallet_id"]): (row["wallet_type"], row["currency"], row["status"], row["resets"])
                for row in rows(client, f"SELECT * FROM {self.database}.wallets")
            }
            told = {
                key: (wallet.type, wallet.currency, wallet.status, wallet.resets)
                for key, wallet in self.reference.ledger.wallets.items()
                if wallet.status
            }
            same(wallets, told, "view wallets")
            self._open_alerts(client)

    def _positions(self, client: Client) -> None:
        found = {}
        for row in rows(client, f"SELECT * FROM {self.database}.positions"):
            found[row.pop("user_id"), row.pop("portfolio_id"), row.pop("symbol")] = row
        same(found, self.reference.positions, "view positions")

    def _open_alerts(self, client: Client) -> None:
        latest: dict[str, dict[str, Any]] = {}
        for alert in self.reference.alerts:
            latest[alert["alert_id"].rpartition("/")[0]] = alert
        expected = {a["alert_id"]: a["severity"] for a in latest.values() if not a["is_resolved"]}
        found = {r["alert_id"]: r["severity"] for r in rows(client, f"SELECT * FROM {self.database}.open_alerts")}
        same(found, expected, "view open_alerts")


def partition_of(key: bytes, partitions: int) -> int:
    """Where the Java client puts a key: murmur2 with seed 0x9747b28c, made positive, modulo."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % partitions
