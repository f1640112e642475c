"""The checkpoint: one Kafka transaction for all that a worker did since the last one.

In this order, and nothing of it without the rest:

1. `marks` that the checkpoint's prices made are durable (outside the transaction, idempotent by `as_of`).
2. Begin; produce outputs, analytics and changelog records.
3. Flush: every record is acknowledged, or the transaction fails.
4. The source offsets go into the transaction with the group metadata of *this* assignment: a worker whose generation is
   over is refused here.
5. Commit. A commit whose answer is late is asked again until the outcome is known, never replayed.

Only then does the worker take the changes for done (`Committed`). Any failure means: drop the state, restore, go on.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from assetstream.streams.settings import Settings

#: after this the broker aborts a dead worker's open transaction, and readers of its partitions go on
TRANSACTION_TIMEOUT_MS = 10_000
#: how long a commit's outcome may stay unknown before the worker starts over (the broker has decided by then)
COMMIT_PATIENCE_S = 60

#: the group is in another generation: a rebalance, or we were away too long. Normal, heals by rejoining.
FENCED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}


def transactional_id(group: str) -> str:
    """A transactional id that nobody else has, and that says who it is: fencing is by the group, not by this."""
    return f"{group}-{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class CheckpointFailed(Exception):
    """A checkpoint did not commit; nothing of it is visible. `fenced`: because our membership is over."""

    def __init__(self, cause: BaseException, fenced: bool) -> None:
        self.cause, self.fenced = cause, fenced
        super().__init__(f"checkpoint {'fenced' if fenced else 'failed'}: {cause}")


class Output(NamedTuple):
    """A record to publish. `partition` −1: by the key, as the Java client does."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes


class Committed(NamedTuple):
    """What a committed checkpoint wrote to the changelog: offsets by (topic, partition), in order, and how it took."""

    offsets: dict[tuple[str, int], list[int]]
    seconds: float
    records: int


class Checkpointer:
    """The transactional producer of one worker. Methods block: call them in a thread, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Producer | None = None
        self._delivered: dict[tuple[str, int], list[int]] = {}
        self._failed: KafkaError | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a producer to write with."""
        return self._producer is not None

    def open(self) -> None:
        """A new producer under a new transactional id; waits for the broker. Raises KafkaException."""
        self.close()
        producer = Producer(
            self._settings.kafka(
                **{
                    "transactional.id": transactional_id(self._settings.group("agents")),
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "partitioner": "murmur2_random",
                    "compression.type": "none",
                    "linger.ms": 0,
                    "batch.size": 2 << 20,
                    "batch.num.messages": 50_000,
                    "message.max.bytes": 5 << 20,
                    "queue.buffering.max.messages": 2_000_000,
                    "queue.buffering.max.kbytes": 1 << 20,
                    "log_level": 3,
                }
            )
        )
        producer.init_transactions(30)
        self._producer = producer

    def close(self) -> None:
        """Let the producer go. What is in an open transaction is aborted by the broker."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def write(
        self,
        outputs: Iterable[Output],
        changelog: Sequence[Output],
        sources: dict[tuple[str, int], int],
        member: bytes,
        before_commit: Callable[[], None] = lambda: None,
    ) -> Committed:
        """One transaction. `sources`: next offset to read by (topic, partition), never empty.

        Raises CheckpointFailed; the producer is closed then, and nothing of the transaction will ever be visible.
        """
        if not sources:
            raise ValueError("a checkpoint without source offsets would not be fenced")
        if self._producer is None:
            raise CheckpointFailed(RuntimeError("no producer"), fenced=False)
        began = time.perf_counter()
        try:
            self._delivered, self._failed = {}, None
            self._producer.begin_transaction()
            count = self._produce(outputs)
            for output in changelog:
                self._producer.produce(
                    output.topic, output.value, output.key, output.partition, on_delivery=self._on_delivery
                )
            before_commit()
            self._finish(sources, member)
        except BaseException as error:
            self._abandon()
            code = error.args[0].code() if isinstance(error, KafkaException) else None
            raise CheckpointFailed(error, fenced=code in FENCED) from error
        return Committed(self._delivered, time.perf_counter() - began, count + len(changelog))

    def _produce(self, outputs: Iterable[Output]) -> int:
        producer, count = self._producer, 0
        assert producer is not None
        produce = producer.produce
        for topic, partition, key, value in outputs:
            while True:
                try:
                    produce(topic, value, key, partition)
                    break
                except BufferError:
                    producer.poll(0.05)
            count += 1
        return count

    def _on_delivery(self, error: KafkaError | None, message: object) -> None:
        if error is not None:
            self._failed = error
        else:
            key = (message.topic(), message.partition())  # type: ignore[attr-defined]
            self._delivered.setdefault(key, []).append(message.offset())  # type: ignore[attr-defined]

    def _finish(self, sources: dict[tuple[str, int], int], member: bytes) -> None:
        producer = self._producer
        assert producer is not None
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in sources.items()]
        _until_known(lambda: producer.send_offsets_to_transaction(offsets, member, 10))
        if producer.flush(30):
            raise RuntimeError("the broker did not acknowledge all records within 30 s")
        if self._failed is not None:
            raise KafkaException(self._failed)
        _until_known(lambda: producer.commit_transaction(10))

    def _abandon(self) -> None:
        """Abort, so that readers need not wait for the timeout; then start afresh with another producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.purge()
                producer.abort_transaction(5)
            except KafkaException:
                pass  # the broker aborts it when it times out


def _until_known(call: Callable[[], None]) -> None:
    """Repeat what the broker did not answer in time: librdkafka resumes the same request, it does not start another."""

    def retriable(error: BaseException) -> bool:
        return isinstance(error, KafkaException) and error.args[0].retriable()

    for attempt in Retrying(
        retry=retry_if_exception(retriable),
        wait=wait_exponential(0.05, max=2),
        stop=stop_after_delay(COMMIT_PATIENCE_S),
        reraise=True,
    ):
        with attempt:
            call()
