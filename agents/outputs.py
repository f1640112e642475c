"""What a checkpoint publishes: cuts of partitions become records of the output, analytics and changelog topics.

Everything is built for all partitions at once: at a steady load the batches are small, and then it is their number
that costs. It runs on the event loop's thread: in another, each of its many small calls into numba and Arrow would wait
for the interpreter's lock (measured: 180 ms a checkpoint instead of 11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from assetstream.agents.partition import PartitionCut
from assetstream.models.clock import DueBatch, encode_tick
from assetstream.models.decode import TransactionBatch, TransferBatch
from assetstream.models.encode import (
    Encoded,
    Names,
    cause_topics,
    encode_alerts,
    encode_settlements,
    encode_updates,
)
from assetstream.models.interning import MAX_BYTES
from assetstream.models.outcomes import Leg, balance_names, legs_of, outcome_values
from assetstream.models.outputs import concatenated
from assetstream.models.settlement_events import SettlementBatch
from assetstream.models.transfers import messages_of
from assetstream.models.wallets import LedgerResult
from assetstream.sinks import batches
from assetstream.streams import dead_letters, topics
from assetstream.streams.batch_writer import Outgoing, outgoing_of, partition_of
from assetstream.streams.settings import Settings


@dataclass
class Publication:
    """What one checkpoint publishes. `changelog` and `sources` are by (topic, partition)."""

    outputs: list[Outgoing] = field(default_factory=list)
    changelog: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)
    sources: dict[tuple[str, int], int] = field(default_factory=dict)

    def records(self) -> list[Outgoing]:
        """All records, those of the changelog too."""
        by_topic: dict[str, list[tuple[int, bytes | None, bytes]]] = {}
        for (topic, partition), values in self.changelog.items():
            by_topic.setdefault(topic, []).extend((partition, None, value) for value in values)
        return [*self.outputs, *(outgoing_of(topic, records) for topic, records in by_topic.items())]


class Publisher:
    """Turns cuts into a Publication."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._causes = cause_topics(settings.topic_prefix)
        self._topic = {name: settings.topic(name) for name in topics.WRITTEN}

    def publication(self, cuts: Sequence[PartitionCut], analytics_partition: int) -> Publication:
        """All records of one checkpoint; its analytics rows go to one partition of `analytics`."""
        made = Publication()
        rows: dict[str, list[pa.RecordBatch]] = {}
        self._dead_letters(cuts, made, rows)
        self._alerts([cut for cut in cuts if cut.work.alerts], made, rows)
        self._updates([cut for cut in cuts if len(cut.updates)], made, rows)
        if fills := [part for cut in cuts for part in cut.work.fills]:
            batch, first, partition = batches.joined([batch for batch, _ in fills])
            rows["fills"] = [batches.fills(batch, _renumbered([part for _, part in fills], first), partition)]
        if prices := [part for cut in cuts for part in cut.work.prices]:
            batch, first, partition = batches.joined([batch for batch, _ in prices])
            accepted = np.concatenate([part + n for (_, part), n in zip(prices, first, strict=True)])
            rows["prices"] = [batches.prices(batch, accepted, partition)]
        self._outcomes(cuts, made, rows)
        self._settlements([each for cut in cuts for each in cut.work.settled], made, rows)
        if ticks := [(cut.partition.number, None, encode_tick(cut.tick)) for cut in cuts if cut.tick is not None]:
            made.outputs.append(outgoing_of(self._topic[topics.CLOCK], ticks))
        for cut in cuts:
            changelog = self._topic[cut.partition.changelog]
            made.changelog[changelog, cut.partition.number] = cut.changes.records()
            made.sources.update(cut.sources)
        analytics = []
        for table, parts in rows.items():
            whole = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
            analytics += [(analytics_partition, table.encode(), value) for value in batches.serialize(table, whole)]
        if analytics:
            made.outputs.append(outgoing_of(self._topic[topics.ANALYTICS], analytics))
        return made

    def _publish(self, made: Publication, topic: str, partition: np.ndarray, keys: Names, encoded: Encoded) -> None:
        values, ends = encoded
        starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
        made.outputs.append(Outgoing(self._topic[topic], partition, *keys, values, starts, ends - starts))

    def _dead_letters(
        self, cuts: Sequence[PartitionCut], made: Publication, rows: dict[str, list[pa.RecordBatch]]
    ) -> None:
        rejected = [(cut.partition.number, letters) for cut in cuts for letters in cut.work.rejected]
        records: list[tuple[int, bytes | None, bytes]] = []
        for number, letters in rejected:
            for key, value in dead_letters.encode(letters):
                partition = number if key is None else partition_of(key, self._settings.partitions)
                records.append((partition, key, value))
            rows.setdefault("dead_letters", []).append(
                batches.dead_letters(
                    letters.records,
                    letters.message.tolist(),
                    letters.verdict.tolist(),
                    letters.detail,
                    letters.rejected_at,
                )
            )
        if records:
            made.outputs.append(outgoing_of(self._topic["dead_letters"], records))

    def _alerts(self, cuts: Sequence[PartitionCut], made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        if not cuts:
            return
        each = [concatenated(cut.work.alerts) for cut in cuts]
        alerts, n = concatenated(each), sum(map(len, each))
        texts = _Texts()
        users, portfolios = _owners(texts, cuts, each)
        has_symbol = alerts["symbol"] >= 0
        symbols = [part["symbol"][part["symbol"] >= 0] for part in each]
        alerts["symbol"][has_symbol] = texts.add(cuts, symbols)
        names, base = texts.names(), self._settings.base_currency
        encoded = encode_alerts(alerts, names, users, portfolios, self._causes, base)
        self._publish(made, "risk_alerts", _numbers(cuts, each), texts.first(n), encoded)
        rows["risk_alerts"] = [batches.risk_alerts(alerts, encoded, names, users, portfolios, self._causes)]

    def _updates(self, cuts: Sequence[PartitionCut], made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        if not cuts:
            return
        each = [cut.updates for cut in cuts]
        updates, n = concatenated(each), sum(map(len, each))
        texts = _Texts()
        users, portfolios = _owners(texts, cuts, each)
        unpriced = texts.add(cuts, [cut.unpriced for cut in cuts])
        before = np.cumsum([0, *(len(cut.unpriced) for cut in cuts[:-1])])
        updates["unpriced_at"] += np.repeat(before, [len(part) for part in each]).astype(np.int32)
        names, base = texts.names(), self._settings.base_currency
        encoded = encode_updates(updates, unpriced, names, users, portfolios, base)
        self._publish(made, "portfolio_updates", _numbers(cuts, each), texts.first(n), encoded)
        rows["portfolio_updates"] = [
            batches.portfolio_updates(updates, unpriced, names, users, portfolios, self._causes, base)
        ]

    def _outcomes(self, cuts: Sequence[PartitionCut], made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        booked = [
            _Booked(cut, batch, result, legs_of(cut.state, result.postings))
            for cut in cuts
            for batch, result in cut.work.booked
        ]
        # in the order in which they were booked, whatever told of them: a balance is seen as it moved
        if told := [record for part in booked for record in part.outcomes()]:
            made.outputs.append(outgoing_of(self._topic["asset_transactions"], told))
        if sent := [each for part in booked for each in messages_of(part.cut.state, part.batch, part.result.sent)]:
            records = [(partition_of(key, self._settings.partitions), key, value) for key, value in sent]
            made.outputs.append(outgoing_of(self._topic[topics.TRANSFERS], records))
        for kind in (TransactionBatch, TransferBatch, DueBatch):
            if parts := [part for part in booked if isinstance(part.batch, kind)]:
                self._ledger_rows(parts, rows)

    def _settlements(
        self, settled: Sequence[SettlementBatch], made: Publication, rows: dict[str, list[pa.RecordBatch]]
    ) -> None:
        for name in ("trades", topics.CLOCK):
            parts = [part for part in settled if part.records.topic == self._settings.topic(name)]
            if not parts:
                continue
            batch, _, partition = batches.joined(parts)
            users = Names(batch.data, batch.text_at[1], batch.text_len[1])
            encoded = encode_settlements(batch, partition)
            self._publish(made, "settlement_events", partition.astype(np.int32), users, encoded)
            rows.setdefault("settlements", []).append(batches.settlements(batch, partition))

    @staticmethod
    def _ledger_rows(parts: Sequence[_Booked], rows: dict[str, list[pa.RecordBatch]]) -> None:
        """The rows of batches of one kind."""
        batch, first, partition = batches.joined([part.batch for part in parts])
        outcomes, postings, changes = (
            _renumbered([getattr(part.result, name) for part in parts], first)
            for name in ("outcomes", "postings", "changes")
        )
        legs = [leg for part in parts for leg in part.legs]
        others = [name for part in parts for name in balance_names(part.cut.state, part.result.changes["balance"])]
        rows.setdefault("transactions", []).append(batches.transactions(batch, outcomes, partition))
        rows.setdefault("ledger_entries", []).append(batches.ledger_entries(batch, postings, legs, partition))
        rows.setdefault("balance_changes", []).append(batches.balance_changes(batch, changes, others, partition))


class _Booked(NamedTuple):
    """What became of one batch of wallet events, of transfers, or of what was due; `legs` of its postings."""

    cut: PartitionCut
    batch: Any
    result: LedgerResult
    legs: list[Leg]

    def outcomes(self) -> list[tuple[int, bytes | None, bytes]]:
        """(partition, key, value) of each outcome."""
        batch, result, number = self.batch, self.result, self.cut.partition.number
        values = outcome_values(batch, result.outcomes, result.postings, self.legs, number)
        message = result.outcomes["message"]
        spans = zip(batch.text_at[1][message].tolist(), batch.text_len[1][message].tolist(), values, strict=True)
        return [(number, batch.data[at : at + size].tobytes(), value) for at, size, value in spans]


def _renumbered(parts: Sequence[np.ndarray], first: np.ndarray) -> np.ndarray:
    """Rows of several batches together, their `message` counted in the joined batch."""
    rows = concatenated(parts)
    rows["message"] += np.repeat(first, [len(part) for part in parts]).astype(np.int32)
    return rows


class _Texts:
    """Strings of several partitions under common numbers: 64 bytes each, as they lie in the partitions' tables."""

    def __init__(self) -> None:
        self._words: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._count = 0

    def add(self, cuts: Sequence[PartitionCut], ids: Sequence[np.ndarray]) -> np.ndarray:
        """Take strings `ids[k]` of cut k's partition, one cut after the other; -> their numbers here, int32."""
        first = self._count
        for cut, wanted in zip(cuts, ids, strict=True):
            self._words.append(cut.state.strings.rows["text"][wanted])
            self._lengths.append(cut.state.lengths[wanted])
            self._count += len(wanted)
        return np.arange(first, self._count, dtype=np.int32)

    def names(self) -> Names:
        """All of them."""
        data = np.concatenate(self._words).view(np.uint8).reshape(-1)
        return Names(data, np.arange(0, MAX_BYTES * self._count, MAX_BYTES), np.concatenate(self._lengths))

    def first(self, n: int) -> Names:
        """The first `n`."""
        data, at, length = self.names()
        return Names(data, at[:n], length[:n])


def _owners(texts: _Texts, cuts: Sequence[PartitionCut], rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers in `texts` of the user and of the portfolio of each row."""
    portfolios = [cut.state.portfolios.rows[part["portfolio"]] for cut, part in zip(cuts, rows, strict=True)]
    users = texts.add(cuts, [part["user"] for part in portfolios])
    return users, texts.add(cuts, [part["portfolio"] for part in portfolios])


def _numbers(cuts: Sequence[PartitionCut], rows: Sequence[np.ndarray]) -> np.ndarray:
    """The partition number of each row, int32."""
    return np.repeat(np.array([cut.partition.number for cut in cuts], np.int32), [len(part) for part in rows])
