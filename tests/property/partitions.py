"""An account partition as a worker drives it, with lists in Kafka's place."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from assetstream.agents.clock import take_clock
from assetstream.agents.outputs import Publisher
from assetstream.agents.partition import AccountPartition
from assetstream.agents.trades import take_trades
from assetstream.agents.transactions import take_transactions
from assetstream.agents.transfers import take_transfers
from assetstream.models.records import records_of
from assetstream.models.verdicts import Verdict
from assetstream.sinks.batches import deserialize
from assetstream.streams import topics
from assetstream.streams.batch_writer import Outgoing
from assetstream.streams.settings import Settings

HANDLERS = {
    "trades": take_trades,
    "transactions": take_transactions,
    topics.TRANSFERS: take_transfers,
    topics.CLOCK: take_clock,
}
#: milliseconds from one checkpoint to the next, by the clock that never runs backwards: a tick may be written at each
_APART_MS = 10**12


class Record(NamedTuple):
    """One record of an input; `at` is Kafka's timestamp, milliseconds UTC."""

    key: bytes | None
    value: bytes
    at: int


class Partition:
    """One account partition: the logs of its inputs, its changelog, and all that its checkpoints published."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.logs: dict[str, list[Record]] = {topic: [] for topic in HANDLERS}
        self.changelog: list[bytes] = []
        self.outcomes: list[dict[str, Any]] = []
        self.settlements: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        #: rows for ClickHouse, by table
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._publisher, self._checkpoints = Publisher(settings), 0
        self._account = AccountPartition(number, settings)
        self._account.next = dict.fromkeys(self._account.inputs, 0)
        self._committed = self.persisted()
        #: the topic of each record that was taken since the last checkpoint, in order
        self._taken: list[str] = []

    @property
    def state(self) -> Any:
        """Its state, as kernels have left it."""
        return self._account.store.state

    def persisted(self) -> list[bytes]:
        """The bytes of all rows of each persisted table."""
        return [table.rows[: table.count[0]].tobytes() for table in self._account.store.tables]

    def waiting(self, topic: str) -> int:
        """How many records of an input it has still to take."""
        return len(self.logs[topic]) - self._account.next[topic]

    def next(self, topic: str) -> int:
        """The offset of the record of an input that it takes next."""
        return self._account.next[topic]

    def take(self, topic: str, n: int = 1) -> list[str]:
        """Take the next `n` records of an input, in one batch. -> what became of each."""
        first = self._account.next[topic]
        run = self.logs[topic][first : first + n]
        records = records_of(topic, self.number, [each[:2] for each in run], first, [each.at for each in run])
        self._account.arrived(topic, records, first + n)
        self._account.take_waiting(lambda name, account, records: HANDLERS[name](account, records))  # type: ignore[arg-type]
        self._taken += [topic] * n
        return [Verdict(verdict).reason for verdict in self._account.work.verdicts[-1][1]]

    def checkpoint(self, now_ms: int) -> list[tuple[int, bytes, bytes]]:
        """Publish all that was done since the last one. -> what goes to `transfers`: (partition, key, value).

        When something is due by `now_ms`, the wall clock, a tick follows the partition's log.
        """
        self._checkpoints += 1
        monotonic = self._checkpoints * _APART_MS
        if self._account.tick_due(monotonic, now_ms) is not None:
            self._account.due = True
        cut = self._account.cut(monotonic, now_ms)
        if cut is None:
            return []
        made, store = self._publisher.publication([cut], 0), self._account.store
        (deltas,) = made.changelog.values()
        store.written(cut.changes, [(len(self.changelog) + k, len(value)) for k, value in enumerate(deltas)])
        self.changelog += deltas
        self._committed, self._taken = self.persisted(), []
        published: dict[str, list[tuple[int, bytes, bytes]]] = defaultdict(list)
        for each in made.outputs:
            published[each.topic] += _records(each)
        self.outcomes += [json.loads(value) for _, _, value in published["asset_transactions"]]
        self.settlements += [json.loads(value) for _, _, value in published["settlement_events"]]
        self.sent += [json.loads(value) for _, _, value in published[topics.TRANSFERS]]
        for _, table, value in published[topics.ANALYTICS]:
            self.rows[table.decode()] += deserialize(value).to_pylist()
        self.logs[topics.CLOCK] += [Record(None, value, now_ms) for _, _, value in published[topics.CLOCK]]
        return published[topics.TRANSFERS]

    def crash(self) -> None:
        """Lose what is in memory, restore what the changelog has, and take the logs again, in other batches."""
        lost, taken = self.persisted(), self._taken
        self._account = self._account.afresh()
        store = self._account.store
        for offset, value in enumerate(self.changelog):
            store.apply(value, offset, "changelog")
        store.rebuild()
        assert self.persisted() == self._committed
        self._account.next = {topic: self._account.applied(topic) + 1 for topic in self._account.inputs}
        self._taken = []
        while taken:
            n = next((k for k, topic in enumerate(taken) if topic != taken[0]), len(taken))
            self.take(taken[0], n)
            taken = taken[n:]
        assert self.persisted() == lost


def _records(written: Outgoing) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, key, value) of each."""
    keys, values = written.keys.tobytes(), written.values.tobytes()
    spans = (written.partition, written.key_at, written.key_len, written.value_at, written.value_len)
    for partition, key_at, key_len, value_at, value_len in zip(*(each.tolist() for each in spans), strict=True):
        yield partition, keys[key_at : key_at + max(key_len, 0)], values[value_at : value_at + value_len]
