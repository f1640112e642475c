"""The reconciler: reads `broker_statements` and `break_decisions`, tells `reconciliation_breaks`, exactly once.

It works in rounds: some messages; wait until ClickHouse has all that was published before them; judge each; one Kafka
transaction with all that they make, and their offsets. What stands is not kept in memory between rounds: ClickHouse has
it, for what the round before has told was published before this one. A user's statements and decisions lie in the
same partition number, which one member of the group reads: so nobody else changes their breaks meanwhile.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from assetstream.cli.reconciliation.complete import complete_cut
from assetstream.cli.reconciliation.ours import Books, digest, tolerances
from assetstream.cli.reconciliation.outbox import Outbox
from assetstream.models.messages import (
    BreakDecision,
    BrokerStatement,
    Cause,
    Input,
    ReconciliationBreak,
    Rejection,
    from_micros,
    parse,
)
from assetstream.models.reconciliation import account_of, decided, judge, judge_internal
from assetstream.models.verdicts import Verdict
from assetstream.sinks.clickhouse import ClickHouseAway
from assetstream.streams import faults, metrics
from assetstream.streams.admin import BrokerAway
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings
from assetstream.streams.topics import RECONCILED, STATEMENTS

log = structlog.get_logger(__name__)

#: messages of a round, and how long it waits for them
ROUND = 100
ROUND_S = 1.0
#: between two looks at what is not complete yet, or not there
PAUSE_S = 0.5
#: the same wait is told again after so long
TELL_S = 60.0
#: accounts of our own are held against each other so often, and when it starts
INTERNAL_S = 86_400.0
#: a dead reconciler's open transaction holds up readers for so long
TRANSACTION_S = 10.0


class Reassigned(Exception):
    """Partitions came or went, or it is to stop: what was not committed is read again, here or elsewhere."""


class Reconciler:
    """One member of the group `…-reconciler`; `run` in a thread of its own, `stop` from any."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = {settings.topic(name): name for name in RECONCILED}
        group = settings.group("reconciler")
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "group.id": group,
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "partition.assignment.strategy": "range",
                    "session.timeout.ms": int(settings.session_timeout_s * 1000),
                    "heartbeat.interval.ms": int(settings.session_timeout_s * 250),
                    "fetch.message.max.bytes": 2 << 20,
                    "log_level": 0,
                }
            )
        )
        name = f"{group}-{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        fenced = {"transactional.id": name, "transaction.timeout.ms": int(TRANSACTION_S * 1000)}
        self._producer = Producer(settings.kafka(**fenced, **{"message.max.bytes": 4 << 20, "log_level": 0}))
        self._stopping = threading.Event()
        self._assignments = 0
        self._assigned: set[int] = set()
        self._internal_due = 0.0

    def stop(self) -> None:
        """Have `run` return, soon."""
        self._stopping.set()

    def waiting_for(self) -> list[str]:
        """What it waits for before it is ready."""
        return [] if self._assignments else ["partitions"]

    def run(self) -> None:
        """Until `stop`. Raises RowsExpire, ClickHouseRefused, SchemaError, KafkaException."""
        try:
            self._producer.init_transactions(TRANSACTION_S)
            self._consumer.subscribe([*self._topics], on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stopping.is_set():
                messages = [each for each in self._consumer.consume(ROUND, ROUND_S) if _is_record(each)]
                if messages:
                    self._until_done(partial(self._round, messages))
                if self._assigned and time.monotonic() >= self._internal_due:
                    self._until_done(self._internal)
        finally:
            self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assignments += 1
        self._assigned = {each.partition for each in partitions if each.topic == self._settings.topic(STATEMENTS)}
        self._internal_due = 0.0
        log.info("reads statements", partitions=sorted(self._assigned))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assignments += 1
        self._assigned = set()

    # -- rounds -----------------------------------------------------------------------------------------------------

    def _until_done(self, work: Callable[[], None]) -> None:
        """Do it, again and again while Kafka or ClickHouse is away; not any more when the assignment is over."""
        self._consumer.pause(self._consumer.assignment())
        pause, told = self._pauses(), ""
        try:
            while True:
                try:
                    return work()
                except (ClickHouseAway, BrokerAway) as error:
                    why = str(error)
                except KafkaException as failure:
                    if failure.args[0].fatal():
                        raise
                    why = failure.args[0].str()
                if why != told:
                    log.warning("tries again", why=why)
                told = why
                pause(why)
        except Reassigned:
            return None
        finally:
            self._consumer.resume(self._consumer.assignment())

    def _pauses(self) -> Callable[[str], None]:
        """A pause that keeps us in the group, raises Reassigned, and tells now and then what it is for."""
        assignment, told = self._assignments, time.monotonic()

        def pause(what: str) -> None:
            nonlocal told
            if time.monotonic() - told > TELL_S:
                log.warning("waits", what=what)
                told = time.monotonic()
            message = self._consumer.poll(PAUSE_S)
            if message is not None and _is_record(message):  # of partitions that are new
                self._consumer.seek(TopicPartition(_topic(message), _partition(message), message.offset()))
            if self._assignments != assignment or self._stopping.is_set():
                raise Reassigned

        return pause

    def _round(self, messages: list[Message]) -> None:
        cut = complete_cut(self._settings, self._pauses())
        with closing(Books(self._settings, cut)) as books:
            results: Counter[tuple[str, str]] = Counter()
            raised: list[ReconciliationBreak] = []
            outbox = Outbox(self._settings, _partition(messages[0]))
            for message in messages:
                verdict = self._take(message, books, outbox, raised)
                results[self._topics[_topic(message)], verdict.reason] += 1
        ends = {(_topic(m), _partition(m)): (m.offset() or 0) + 1 for m in messages}
        self._commit(outbox, [TopicPartition(*place, offset) for place, offset in ends.items()])
        for (topic, result), n in results.items():
            metrics.MESSAGES.labels(topic, result).inc(n)
        _count(raised)

    def _internal(self) -> None:
        """Hold ledger, balances, fills and positions of the users whose statements we read against each other."""
        cut, count = complete_cut(self._settings, self._pauses()), self._settings.partitions
        assigned = sorted(self._assigned)
        at = datetime.now(UTC)

        def is_ours(user: str) -> bool:
            return partition_of(user.encode(), count) in assigned

        with closing(Books(self._settings, cut)) as books:
            judgement = judge_internal(books.internal(is_ours, at), books.standing_internal(is_ours), at)
        if judgement.changed:
            place = self._settings.topic(STATEMENTS), assigned[0]
            outbox = Outbox(self._settings, assigned[0])
            outbox.breaks(judgement.changed, place)
            self._commit(outbox, [self._position(*place)])  # which fences us
            _count(judgement.raised)
        self._internal_due = time.monotonic() + INTERNAL_S
        log.info("held our accounts against each other", differences=len(judgement.found))

    def _position(self, topic: str, partition: int) -> TopicPartition:
        """What we have committed of it, the log's start when nothing."""
        place = TopicPartition(topic, partition)
        (committed,) = self._consumer.committed([place], TRANSACTION_S)
        start, _ = self._consumer.get_watermark_offsets(place, TRANSACTION_S)
        return TopicPartition(topic, partition, committed.offset if committed.offset >= 0 else start)

    def _commit(self, outbox: Outbox, offsets: list[TopicPartition]) -> None:
        """All of it, or nothing and a KafkaException."""
        self._producer.begin_transaction()
        try:
            for record in outbox.records():
                self._producer.produce(record.topic, record.value, record.key, record.partition)
            self._producer.flush(TRANSACTION_S)
            faults.reach("reconciler.produced")
            self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), TRANSACTION_S)
            self._producer.commit_transaction(TRANSACTION_S)
            faults.reach("reconciler.committed")
        except KafkaException as failure:
            if not failure.args[0].fatal():
                self._producer.abort_transaction(TRANSACTION_S)
            raise

    # -- messages ---------------------------------------------------------------------------------------------------

    def _take(self, message: Message, books: Books, outbox: Outbox, raised: list[ReconciliationBreak]) -> Verdict:
        """Judge one message; its breaks go to `outbox`, those that are newly OPEN to `raised` as well."""
        cause = Cause(topic=_topic(message), partition=_partition(message), offset=message.offset() or 0)
        timestamp_ms = message.timestamp()[1]
        at, kind = from_micros(timestamp_ms * 1000), self._topics[cause.topic]
        found: Input | Rejection | Verdict = parse(
            kind, message.value(), timestamp_ms, self._settings.max_future_skew_s * 1_000_000
        )
        if isinstance(found, Input) and message.key() != found.key.encode():
            found = Rejection(Verdict.KEY_MISMATCH, "the message key is not the user_id")
        if isinstance(found, BrokerStatement):
            found = self._statement(found, books, outbox, raised, at, cause)
        elif isinstance(found, BreakDecision):
            found = self._decision(found, books, outbox, at, cause)
        if isinstance(found, Rejection):
            outbox.letter(cause, timestamp_ms, message.key(), message.value(), found)
            log.warning("refused", topic=cause.topic, offset=cause.offset, why=found.detail)
            return found.verdict
        assert isinstance(found, Verdict)
        return found

    def _statement(
        self,
        statement: BrokerStatement,
        books: Books,
        outbox: Outbox,
        raised: list[ReconciliationBreak],
        at: datetime,
        cause: Cause,
    ) -> Rejection | Verdict:
        version, body = books.judged(statement) or (statement.version, digest(statement))
        if statement.version < version:
            return Verdict.IGNORED
        if statement.version == version and body != digest(statement):
            return Rejection(Verdict.CONFLICT, f"version {version} of this statement was seen with another body")
        ours, standing = books.ours(statement), books.standing(account_of(statement))
        judgement = judge(statement, ours, standing, tolerances(self._settings), at, cause)
        outbox.breaks(judgement.changed, (cause.topic, cause.partition))
        outbox.judged(statement, len(judgement.found), at, cause)
        books.tell(judgement.changed)
        books.tell_judged(statement)
        raised += judgement.raised
        what = {"broker": statement.broker, "user": statement.user_id, "statement": statement.statement_id}
        log.info("judged", **what, version=statement.version, breaks=len(judgement.found), new=len(judgement.raised))
        return Verdict.APPLIED

    def _decision(
        self, decision: BreakDecision, books: Books, outbox: Outbox, at: datetime, cause: Cause
    ) -> Rejection | Verdict:
        standing = books.break_of(decision.user_id, decision.break_id)
        if standing is None:
            return Rejection(Verdict.INVALID, f"break_id: {decision.user_id} has no break {decision.break_id[:200]}")
        changed = decided(standing, decision, at, cause)
        if changed is None:
            return Rejection(Verdict.ILLEGAL_TRANSITION, "status: the break is RESOLVED")
        outbox.breaks([changed], (cause.topic, cause.partition))
        books.tell([changed])
        return Verdict.APPLIED


def _count(raised: list[ReconciliationBreak]) -> None:
    for each in raised:
        metrics.BREAKS.labels(each.type.value).inc()
        log.warning("break", id=each.break_id, difference=str(each.difference))


def _is_record(message: Message) -> bool:
    """Whether it is one. Raises KafkaException for an error that no patience mends."""
    error: Any = message.error()
    if error is not None and error.fatal():
        raise KafkaException(error)
    if error is not None:
        log.warning("Kafka says", error=error.str())
    return error is None


def _topic(message: Message) -> str:
    return message.topic() or ""


def _partition(message: Message) -> int:
    return message.partition() or 0
