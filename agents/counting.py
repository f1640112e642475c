"""What a committed checkpoint adds to the metrics: nothing is counted before it is durable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from assetstream.agents.partition import PartitionCut
from assetstream.models.messages import TransactionType
from assetstream.models.outputs import AlertType, Code, Level, concatenated
from assetstream.streams import metrics
from assetstream.streams.checkpoint import Committed

_TYPES = [kind.name for kind in TransactionType]  # by code


def count_checkpoint(cuts: Sequence[PartitionCut], committed: Committed) -> None:
    """Count one committed checkpoint."""
    metrics.CHECKPOINT.observe(committed.seconds)
    metrics.CHECKPOINTS.labels("committed").inc()
    metrics.PUBLISHED.inc(committed.records)
    now = time.time()
    counts: Counter[tuple[str, str]] = Counter()
    for cut in cuts:
        counts.update(cut.work.counts)
        for topic, oldest in cut.work.oldest.items():
            metrics.LATENCY.labels(topic).observe(max(0.0, now - oldest / 1000))
    for (topic, result), n in counts.items():
        metrics.MESSAGES.labels(topic, result).inc(n)
    if alerts := [rows for cut in cuts for rows in cut.work.alerts]:
        _count_alerts(concatenated(alerts))
    for cut in cuts:
        for batch, booked in cut.work.booked:
            _count_outcomes(batch, booked.outcomes)


def _count_alerts(rows: np.ndarray) -> None:
    rising = (rows["is_resolved"] == 0) & ((rows["line"] == 90) == (rows["severity"] == Level.WARNING))
    kinds = (rows["type"] * np.uint8(3) + rows["severity"])[rising]
    for kind, n in enumerate(np.bincount(kinds).tolist()):
        if n:
            metrics.BREACHES.labels(AlertType(kind // 3).name, Level(kind % 3).name).inc(n)
    for severity, n in enumerate(np.bincount(rows["severity"], minlength=3).tolist()):
        if n:
            metrics.ALERTS.labels("INFO" if severity == Level.OK else Level(severity).name).inc(n)


def _count_outcomes(batch: object, outcomes: np.ndarray) -> None:
    types = batch.type[outcomes["message"]]  # type: ignore[attr-defined]
    for kind, n in enumerate(np.bincount(types).tolist()):
        if n:
            metrics.TRANSACTIONS.labels(_TYPES[kind]).inc(n)
    for code, n in enumerate(np.bincount(outcomes["code"]).tolist()):
        if n and code != Code.NONE:
            metrics.TRANSACTION_FAILURES.labels(Code(code).name).inc(n)
