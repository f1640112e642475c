"""The notary: a process of its own that says, again and again, what all audited logs have held up to now.

It reads what is committed, in the order of offsets, and publishes tree heads (models/audit_heads.py) to `audit_heads`:
of a partition where something came, at most one in AUDIT_HEAD_S. Its state is its heads: it goes on where the last one
of each partition says. There is one notary at a time: its transactional id is the same everywhere, so one that starts
fences the one before it, and reads the heads only then. Offsets are committed beside the heads for `assetstream lag`
alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from threading import Event

import structlog
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assetstream.models.audit_heads import frontier_of, is_signed, leaf_hasher, make_head
from assetstream.models.merkle import Frontier
from assetstream.models.messages import AuditHead
from assetstream.streams.admin import Admin, BrokerAway
from assetstream.streams.audit_heads import audited_places, key_of, last_heads
from assetstream.streams.reading import Place, Unreadable
from assetstream.streams.settings import Settings
from assetstream.streams.topics import AUDIT_HEADS

log = structlog.get_logger(__name__)

#: records taken at once, and how long to wait for the first
TAKEN, POLL_S = 10_000, 0.1
TRANSACTION_S = 30.0
#: another producer has our transactional id
FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
#: between two tries while Kafka is away
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class AuditGap(RuntimeError):
    """A log no longer has what follows the last head; the text says which, and what to do."""


class NotaryReplaced(RuntimeError):
    """Another notary has started."""


class Book:
    """The tree of one partition, and how far it goes."""

    def __init__(self, place: Place, head: AuditHead | None, begin: int, key: Ed25519PrivateKey | None) -> None:
        """Goes on from `head`; without one a tree begins, at offset `begin`. Heads are signed with `key`."""
        self.place, self.head, self._key = place, head, key
        # a signature holds for all heads before it: with a new key we vouch for them anew
        self._is_told = head is not None and (key is None or is_signed(head, key.public_key()))
        self.frontier = Frontier() if head is None else frontier_of(head)
        self.first_offset = begin if head is None else head.first_offset
        self.next_offset = begin if head is None else head.next_offset
        self.newest_ms = -1 if head is None else head.newest_ms
        self._hash = leaf_hasher(*place)
        self._leaves: list[bytes] = []

    def begin_anew(self, begin: int) -> None:
        """A tree without leaves, at offset `begin`, chained to the heads before it."""
        self.frontier, self.first_offset, self.next_offset, self.newest_ms = Frontier(), begin, begin, -1

    def take(self, message: Message) -> None:
        """The next record."""
        offset, timestamp = message.offset(), message.timestamp()[1]
        self._leaves.append(self._hash(offset, timestamp, message.key(), message.value()))
        self.next_offset = offset + 1
        if timestamp > self.newest_ms:
            self.newest_ms = timestamp

    def grow(self) -> None:
        """Put what was taken into the tree."""
        self.frontier.extend(self._leaves)
        self._leaves.clear()

    @property
    def has_news(self) -> bool:
        """Whether there is something to say: records since the last head, or a position behind markers."""
        head, now = self.head, (self.first_offset, self.frontier.size, self.next_offset)
        return head is None or not self._is_told or (head.first_offset, head.size, head.next_offset) != now

    def next_head(self, now: datetime) -> AuditHead:
        """What there is to say."""
        offsets = (self.first_offset, self.next_offset)
        return make_head(self.place, self.frontier, offsets, self.newest_ms, self.head, now, self._key)

    def told(self, head: AuditHead) -> None:
        """It is published."""
        self.head, self._is_told = head, True


class Notary:
    """`run` works until `stop` is called, by a signal's handler or another thread."""

    def __init__(self, settings: Settings, key: Ed25519PrivateKey | None = None) -> None:
        self._settings, self._key = settings, key
        self._topic = settings.topic(AUDIT_HEADS)
        self._stopping = Event()

    def stop(self) -> None:
        """Publish what was taken, and end."""
        self._stopping.set()

    def run(self, once: bool = False, accept_gap: bool = False) -> None:
        """Take and tell; `once`: only what there is now. accept_gap: where records are gone, begin a tree anew.

        Kafka away: tries until it is back, from the last heads on. Raises AuditGap, NotaryReplaced, TopicMismatch.
        """
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                began = time.monotonic()
                self._session(once, accept_gap)
                return
            except (KafkaException, BrokerAway, Unreadable) as failure:
                if _is_fenced(failure):
                    raise NotaryReplaced("another notary has started: there is one at a time") from failure
                pause = FIRST_PAUSE_S if time.monotonic() - began > 60 else min(pause * 2, LONGEST_PAUSE_S)
                log.warning("the notary starts over from the last heads", error=str(failure), pause_s=pause)
                accept_gap = False  # what is found missing from here on is another gap
                self._stopping.wait(pause)

    def _session(self, once: bool, accept_gap: bool) -> None:
        producer = self._producer()
        producer.init_transactions(TRANSACTION_S)  # no other notary writes from here on: now the heads are the last
        books = self._books(accept_gap)
        consumer = self._consumer(books.values())
        log.info("notary goes on", partitions=len(books), records=sum(book.frontier.size for book in books.values()))
        try:
            left, due = set(books), time.monotonic()
            while not self._stopping.is_set() and (left or not once):
                left -= self._take(consumer, books)
                if time.monotonic() >= due:
                    self._tell(producer, consumer, books.values())
                    due = time.monotonic() + self._settings.audit_head_s
            self._tell(producer, consumer, books.values())
        finally:
            consumer.close()

    def _books(self, accept_gap: bool) -> dict[Place, Book]:
        places, heads, admin = audited_places(self._settings), last_heads(self._settings), Admin(self._settings)
        begins = admin.offsets(places, OffsetSpec.earliest())
        ends = admin.offsets(places, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        books = {place: Book(place, heads.get(place), begins[place], self._key) for place in places}
        for place, book in books.items():
            if gap := _gap(book, begins[place], ends[place]):
                if not accept_gap:
                    raise AuditGap(
                        f"{gap}: restore the topic from a backup; or go on without, on the record, with "
                        '"assetstream notary --accept-gap"'
                    )
                log.warning("a gap is accepted, and stays on the record", gap=gap)
                book.begin_anew(begins[place])
        return books

    def _take(self, consumer: Consumer, books: dict[Place, Book]) -> set[Place]:
        """Take what came; -> the partitions that were seen to their end."""
        ended = set()
        for message in consumer.consume(TAKEN, POLL_S):
            place, error = (message.topic(), message.partition()), message.error()
            if error is None:
                books[place].take(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                books[place].next_offset = max(books[place].next_offset, message.offset())  # behind markers
                ended.add(place)
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)  # records that are gone among them: the next session says which
        for book in books.values():
            book.grow()
        return ended

    def _tell(self, producer: Producer, consumer: Consumer, books: Iterable[Book]) -> None:
        """Publish the heads that are due, and how far we are, in one transaction."""
        now = datetime.now(UTC)
        heads = [(book, book.next_head(now)) for book in books if book.has_news]
        if not heads:
            return
        producer.begin_transaction()
        for book, head in heads:
            # beside what it is of, so that it stays where it is when partitions are added
            producer.produce(self._topic, head.model_dump_json().encode(), key_of(book.place), head.partition)
        offsets = [TopicPartition(*book.place, head.next_offset) for book, head in heads]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), TRANSACTION_S)
        producer.commit_transaction(TRANSACTION_S)
        for book, head in heads:
            book.told(head)

    def _producer(self) -> Producer:
        fenced = {"transactional.id": self._settings.group("notary"), "transaction.timeout.ms": 10_000}
        return Producer(self._settings.kafka(log_level=0, **fenced))

    def _consumer(self, books: Iterable[Book]) -> Consumer:
        more = {
            "group.id": self._settings.group("notary"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "fetch.message.max.bytes": 8 << 20,
            "queued.min.messages": 50_000,
            "queued.max.messages.kbytes": 65_536,
            "log_level": 0,
        }
        consumer = Consumer(self._settings.kafka(**more))
        consumer.assign([TopicPartition(*book.place, book.next_offset) for book in books])
        return consumer


def _gap(book: Book, begin: int, end: int) -> str | None:
    """What the log of a book, which goes from `begin` to `end`, lacks."""
    name = _named(book.place)
    if begin > book.next_offset:
        return f"{name} begins at offset {begin}, the last head covers only what is below {book.next_offset}"
    if end < book.next_offset:
        return f"{name} ends at offset {end}, the last head covers all below {book.next_offset}: it was made anew"
    return None


def _is_fenced(failure: BaseException) -> bool:
    error = failure.args[0]
    return isinstance(error, KafkaError) and error.code() in FENCED


def _named(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
