"""What a checkpoint publishes: cuts of partitions become records of the output, analytics and changelog topics.

Runs in the checkpoint's thread while the event loop takes the next batches; it reads copies only, and rows that never
change once written (interned strings, whose portfolio is whose).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from assetstream.agents.partition import PartitionCut
from assetstream.models.encode import (
    Encoded,
    Names,
    cause_topics,
    encode_alerts,
    encode_updates,
)
from assetstream.models.outcomes import encode_outcomes
from assetstream.models.outputs import UPDATE
from assetstream.models.state import names as names_of_state
from assetstream.sinks import batches
from assetstream.streams import dead_letters, topics
from assetstream.streams.checkpoint import Output
from assetstream.streams.settings import Settings


@dataclass
class Publication:
    """The records of one checkpoint, in the order they are produced."""

    outputs: list[Output] = field(default_factory=list)
    changelog: list[Output] = field(default_factory=list)
    sources: dict[tuple[str, int], int] = field(default_factory=dict)


class Publisher:
    """Turns cuts into a Publication."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._causes = cause_topics(settings.topic_prefix)
        self._topic = {name: settings.topic(name) for name in (*topics.OUTPUTS, *topics.INTERNAL)}

    def publication(self, cuts: Sequence[PartitionCut], analytics_partition: int) -> Publication:
        """All records of one checkpoint; its analytics rows go to one partition of `analytics`."""
        made = Publication()
        rows: dict[str, list[pa.RecordBatch]] = {}
        for cut in cuts:
            self._dead_letters(cut, made, rows)
            self._alerts(cut, made, rows)
            self._updates(cut, made, rows)
            self._outcomes(cut, made, rows)
            for batch, fills in cut.work.fills:
                rows.setdefault("fills", []).append(batches.fills(batch, fills))
            for batch, message in cut.work.prices:
                rows.setdefault("prices", []).append(batches.prices(batch, message))
            changelog = self._topic[cut.partition.changelog]
            for value in cut.changes.records():
                made.changelog.append(Output(changelog, cut.partition.number, None, value))
            made.sources.update(cut.sources)
        analytics = self._topic[topics.ANALYTICS]
        for table, parts in rows.items():
            whole = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
            for value in batches.serialize(table, whole):
                made.outputs.append(Output(analytics, analytics_partition, table.encode(), value))
        return made

    def _publish(self, made: Publication, topic: str, partition: int, keys: Iterator[bytes], encoded: Encoded) -> None:
        data, ends = encoded[0].tobytes(), encoded[1].tolist()
        start, name = 0, self._topic[topic]
        for key, end in zip(keys, ends, strict=True):
            made.outputs.append(Output(name, partition, key, data[start:end]))
            start = end

    def _dead_letters(self, cut: PartitionCut, made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        for letters in cut.work.rejected:
            for key, value in dead_letters.encode(letters):
                made.outputs.append(Output(self._topic["dead_letters"], -1, key, value))
            rows.setdefault("dead_letters", []).append(
                batches.dead_letters(
                    letters.records,
                    letters.message.tolist(),
                    letters.verdict.tolist(),
                    letters.detail,
                    letters.rejected_at,
                )
            )

    def _alerts(self, cut: PartitionCut, made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        if not cut.work.alerts:
            return
        alerts = np.concatenate(cut.work.alerts)
        names, user, portfolio = _owners(cut.state, alerts)
        encoded = encode_alerts(alerts, names, user, portfolio, self._causes, self._settings.base_currency)
        self._publish(made, "risk_alerts", cut.partition.number, _keys(names, user), encoded)
        rows.setdefault("risk_alerts", []).append(
            batches.risk_alerts(alerts, encoded, names, user, portfolio, self._causes)
        )

    def _updates(self, cut: PartitionCut, made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        updates, unpriced = cut.updates, cut.unpriced
        if updates is None or unpriced is None or len(updates) == 0:
            return
        assert updates.dtype == UPDATE
        names, user, portfolio = _owners(cut.state, updates)
        base = self._settings.base_currency
        encoded = encode_updates(updates, unpriced, names, user, portfolio, base)
        self._publish(made, "portfolio_updates", cut.partition.number, _keys(names, user), encoded)
        rows.setdefault("portfolio_updates", []).append(
            batches.portfolio_updates(updates, unpriced, names, user, portfolio, self._causes, base)
        )

    def _outcomes(self, cut: PartitionCut, made: Publication, rows: dict[str, list[pa.RecordBatch]]) -> None:
        for batch, outcomes, postings in cut.work.outcomes:
            if len(outcomes) == 0:
                continue
            encoded = encode_outcomes(batch, outcomes, postings)
            users = Names(batch.data, batch.text_at[1], batch.text_len[1])
            self._publish(made, "asset_transactions", cut.partition.number, _keys(users, outcomes["message"]), encoded)
            rows.setdefault("transactions", []).append(batches.transactions(batch, outcomes))
            if len(postings):
                rows.setdefault("ledger_entries", []).append(batches.ledger_entries(batch, postings))


def _owners(state: Any, rows: np.ndarray) -> tuple[Names, np.ndarray, np.ndarray]:
    """The partition's strings, and the numbers of user and portfolio of each row among them."""
    portfolios = state.portfolios.rows[rows["portfolio"]]
    return names_of_state(state), portfolios["user"].astype(np.int32), portfolios["portfolio"].astype(np.int32)


def _keys(names: Names, index: np.ndarray) -> Iterator[bytes]:
    """The texts `index` of `names`, as bytes; each distinct one is made once."""
    distinct, which = np.unique(index, return_inverse=True)
    at, size = names.at[distinct].tolist(), names.len[distinct].tolist()
    texts = [names.data[a : a + n].tobytes() for a, n in zip(at, size, strict=True)]
    return (texts[k] for k in which.tolist())
