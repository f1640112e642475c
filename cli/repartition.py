"""`assetstream repartition`: an installation of P partitions becomes one of N, with all state, while nobody works.

The order is what makes it safe to kill and run again at any point:

1. Refuse unless all is at rest: no worker, nothing to read, no alert or update still to come from the last prices.
2. Raise the changelog topics. From here on no worker starts, with P or with N, until the last topic has N partitions.
3. Write the state of every new partition, as one that begins anew, in one Kafka transaction. Before it commits the old
   state is the state; after it, the new one is, and a second run finds that and goes on with the next step.
4. Raise the other topics, and give the sinks their first positions in the partitions of `analytics` that are new.
5. Delete what the changelogs had before: it is superfluous.

Snapshots need nothing: they are prefixes of changelogs that go on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from confluent_kafka import ConsumerGroupState, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions
from rich.progress import Progress

from assetstream.agents.partition import AccountPartition, Partition, PricePartition
from assetstream.cli.lag import lags
from assetstream.cli.positions import set_first
from assetstream.models.decimals import units
from assetstream.models.decode import decode_marks, encode_mark
from assetstream.models.records import records_of
from assetstream.models.state import text
from assetstream.streams import faults, operations
from assetstream.streams.admin import TIMEOUT_S, Admin, TopicMismatch
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import ACCOUNT_CHANGELOG, MARKS, OPERATIONS, PRICE_CHANGELOG, specs
from assetstream.tables.repartition import Rows, anew, split_accounts, split_prices
from assetstream.tables.restore import OtherPartitions, restore
from assetstream.tables.restore import Progress as Restored

#: the longest that a broker allows unless it is told otherwise (transaction.max.timeout.ms)
TRANSACTION_S = 900
#: bytes on their way to the broker
QUEUE_KB = 128 << 10
#: later than any update can be due
NEVER_MS = 1 << 62


class NotAtRest(RuntimeError):
    """Something still works, or is still to be worked on; the text says what and how to end it."""


class NotWritten(RuntimeError):
    """Kafka did not take the new state; nothing of it is visible."""


def repartition(
    partitions: Annotated[int, typer.Argument(metavar="N", help="How many: a multiple of ASSETSTREAM_PARTITIONS.")],
) -> None:
    """Raise the number of partitions to N, a multiple of what it is, with all state. Stop publishers and workers first.

    Killed or failed on the way, run it again: until it is done no worker starts. Afterwards set
    ASSETSTREAM_PARTITIONS=N, and start publishers (anew: a running one may know the old number) and workers.
    """
    before = load()
    if partitions <= before.partitions or partitions % before.partitions:
        raise typer.BadParameter(
            f"not a multiple of ASSETSTREAM_PARTITIONS={before.partitions}; the next is {2 * before.partitions}",
            param_hint="N",
        )
    for line in Repartition(before, load(partitions=partitions)).run():
        typer.echo(line)


@dataclass
class _States:
    """What is restored of the old partitions."""

    accounts: list[AccountPartition] = field(default_factory=list)
    prices: list[PricePartition] = field(default_factory=list)
    is_new: bool = False  # an earlier run has written the new states already

    @property
    def each(self) -> list[Partition]:
        return [*self.accounts, *self.prices]


class Repartition:
    """From the installation `before` to the same with more partitions, `after`. `run` says what it does, line by line.

    Raises NotAtRest, NotWritten, Misplaced, ChangelogError, TopicMismatch, BrokerAway, KafkaException.
    """

    def __init__(self, before: Settings, after: Settings) -> None:
        self.before, self.after = before, after
        self.old, self.new = before.partitions, after.partitions
        self._admin = Admin(before)
        self._counts = self._admin.partitions()
        self._changelogs = [before.topic(name) for name in (ACCOUNT_CHANGELOG, PRICE_CHANGELOG)]

    def run(self) -> Iterator[str]:
        """All steps that are left to do."""
        self._check_topics()
        self._check_at_rest()
        state_producer(self.before)  # ends what an earlier run left open
        states = self._restore()
        faults.reach("repartition.restored")
        if states.is_new:
            begins = self._begins(states)
            yield f"the states of {self.new} partitions are written already: going on from there"
        else:
            _check_settled(states, self.before)
            positions = sum(int(account.store.state.positions.count[0]) for account in states.accounts)
            yield f"restored {self.old} partitions: {positions:,} positions"
            yield from self._raise(self._changelogs)
            faults.reach("repartition.raised")
            begins = self._write(states)
            yield f"wrote the states of {self.new} partitions, in one transaction"
        faults.reach("repartition.written")
        yield from self._raise(spec.name for spec in specs(self.after))
        yield from set_first(self.after, lambda: False)
        self._admin.results(self._admin.client.delete_records(begins, request_timeout=TIMEOUT_S))
        self._check_at_rest("; what came meanwhile may lie in the wrong partition: publish it again, and skip it there")
        faults.reach("repartition.done")
        yield f"done: set ASSETSTREAM_PARTITIONS={self.new}, start publishers and workers"

    # -- what must be so --------------------------------------------------------------------------------------------

    def _check_topics(self) -> None:
        wrong = []
        for spec in specs(self.after):
            count = self._counts.get(spec.name)
            if count is None:
                wrong.append(f'topic {spec.name} is missing: run "assetstream init"')
            elif count not in (self.old, self.new):
                wrong.append(
                    f"topic {spec.name} has {count} partitions, neither {self.old} nor {self.new}: set "
                    f"ASSETSTREAM_PARTITIONS, or finish an earlier `assetstream repartition {count}` first"
                )
        if wrong:
            raise TopicMismatch(wrong)

    def _check_at_rest(self, then: str = "") -> None:
        groups = [self.before.group(name) for name in ("agents", "sinks", "reconciler")]
        with self._admin.answering():
            listed = self._admin.client.list_consumer_groups(request_timeout=TIMEOUT_S).result()
        if listed.errors:
            raise listed.errors[0]
        at_rest = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
        for group in listed.valid:
            if group.group_id in groups and group.state not in at_rest:
                raise NotAtRest(
                    f"group {group.group_id} has members: stop all workers (one that was killed is a member for "
                    f"another {self.before.session_timeout_s:g} s){then}"
                )
        for row in lags(self.before):
            if row.group == groups[0] and row.lag and row.partition < self.old:
                raise NotAtRest(
                    f"{row.lag:,} records of {row.topic}-{row.partition} are not taken yet: stop the publishers, and "
                    f"have a worker take them{then}"
                )

    # -- the steps --------------------------------------------------------------------------------------------------

    def _restore(self) -> _States:
        states = _States(
            [AccountPartition(number, self.before) for number in range(self.old)],
            [PricePartition(number, self.before) for number in range(self.old)],
        )
        with _bar("restore", 2 * self.old) as bar:
            for partition in states.each:
                topic, stores = self.before.topic(partition.changelog), {partition.number: partition.store}
                try:
                    restore(self.before, topic, stores, {}, lambda: True, Restored())
                except OtherPartitions as other:
                    if other.found != self.new:
                        raise
                    states.is_new = True
                bar.advance(bar.task_ids[0])
        return states

    def _raise(self, names: Any) -> Iterator[str]:
        """Give topics the new number of partitions, where they don't have it yet."""
        for name in names:
            if self._counts[name] == self.new:
                continue
            self._admin.results(self._admin.client.create_partitions([NewPartitions(name, self.new)]))
            self._counts[name] = self.new
            faults.reach("repartition.topic")
            yield f"raised topic {name} to {self.new} partitions"
        self._admin.wait_served([spec for spec in specs(self.after) if self._counts[spec.name] == self.new])

    def _write(self, states: _States) -> list[TopicPartition]:
        """The new states, in one transaction. -> where those of the old partitions begin."""
        writer = StateWriter(state_producer(self.before))
        with _bar("write", 2 * self.new) as bar:
            for partition in states.each:
                for number, rows in self._split(partition).items():
                    checkpoint = partition.store.checkpoint + 1 if number == partition.number else 1
                    writer.write(self.before.topic(partition.changelog), number, anew(rows, checkpoint, self.new))
                    bar.advance(bar.task_ids[0])
        writer.write(self.before.topic(OPERATIONS), 0, [self._deed(states)], f"repartition/{self.new}".encode())
        writer.flush()
        self._check_at_rest("; nothing was changed but the changelogs' number of partitions: run this again")
        faults.reach("repartition.produced")
        writer.commit()
        old = [(topic, number) for topic in self._changelogs for number in range(self.old)]
        return [TopicPartition(*place, writer.first[place]) for place in old]

    def _deed(self, states: _States) -> bytes:
        """For the record: by input partition, the first offset that is taken under the new number."""
        names = [(name, each) for each in states.each for name in each.inputs]
        begins = {f"{name}-{each.number}": each.applied(name) + 1 for name, each in names}
        return operations.signed(partitions_before=self.old, partitions=self.new, begins=begins)

    def _split(self, partition: Partition) -> dict[int, Rows]:
        split: Any = split_accounts if isinstance(partition, AccountPartition) else split_prices
        made: dict[int, Rows] = split(partition.store.state, partition.number, self.old, self.new)
        return made

    def _begins(self, states: _States) -> list[TopicPartition]:
        return [
            TopicPartition(self.before.topic(each.changelog), each.number, each.store.anew_at)
            for each in states.each
            if each.store.anew_at is not None
        ]


def state_producer(settings: Settings) -> Producer:
    """For whole states, under a name of its own: the next one ends what the one before left open, and fences it."""
    producer = Producer(
        settings.kafka(
            **{
                "transactional.id": settings.group("repartition"),
                "transaction.timeout.ms": TRANSACTION_S * 1000,
                "message.max.bytes": 4 << 20,
                "queue.buffering.max.kbytes": QUEUE_KB,
                "log_level": 3,
            }
        )
    )
    producer.init_transactions(TIMEOUT_S * 3)
    return producer


class StateWriter:
    """Writes records in one transaction. `first`: where the first of each (topic, partition) is."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.first: dict[tuple[str, int], int] = {}
        self._failed: KafkaError | None = None
        producer.begin_transaction()

    def write(self, topic: str, partition: int, values: list[bytes], key: bytes | None = None) -> None:
        """Have these records written, in order."""
        for value in values:
            while True:
                try:
                    self._producer.produce(topic, value, key, partition, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        self._failed = self._failed or error
        self.first.setdefault((message.topic(), message.partition()), message.offset())

    def flush(self) -> None:
        """Wait until all are written. Raises NotWritten."""
        left = self._producer.flush(TRANSACTION_S)
        if left or self._failed:
            reason = self._failed.str() if self._failed else f"{left} records not acknowledged in {TRANSACTION_S} s"
            self._producer.abort_transaction(TIMEOUT_S)
            raise NotWritten(f"the new states could not be written ({reason}): run this again when Kafka is well")

    def commit(self) -> None:
        """All of them become visible."""
        self._producer.commit_transaction()


def _check_settled(states: _States, settings: Settings) -> None:
    """Take the current prices as a worker would when it starts: nothing may come of it, as nobody is there to publish
    it. Afterwards every partition has the marks of all symbols.
    """
    marks = [mark for partition in states.prices for mark in _marks(partition)]
    batch = decode_marks(records_of(settings.topic(MARKS), 0, marks))
    for account in states.accounts:
        account.take_marks(batch)
        if account.work.alerts or account.update_due(NEVER_MS):
            raise NotAtRest(
                f"alerts or updates of the last prices are not published yet for partition {account.number}: start a "
                f"worker, wait until it is ready and another {max(1.0, settings.mark_update_ms / 1000):g} s, stop it"
            )


def _marks(partition: PricePartition) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each symbol's mark. One that came with an earlier repartition is known everywhere."""
    state = partition.store.state
    for row in state.prices.rows[: state.prices.count[0]]:
        if row["offset"] >= 0:
            symbol, currency = text(state, int(row["symbol"])), text(state, int(row["currency"]))
            price = units(int(row["price_lo"]), int(row["price_hi"]))
            where = partition.number, int(row["offset"])
            yield symbol.encode(), encode_mark(symbol, price, currency, int(row["as_of"]), *where)


def _bar(what: str, steps: int) -> Progress:
    bar = Progress(transient=True, disable=not sys.stderr.isatty())
    bar.add_task(what, total=steps)
    return bar
