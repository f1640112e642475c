"""`clock`: ticks that this worker, or the partition's owner before it, wrote when something was due."""

import time

from assetstream.agents.partition import AccountPartition
from assetstream.models.clock import apply_ticks
from assetstream.models.records import Records
from assetstream.streams import metrics, topics


def take_clock(partition: AccountPartition, records: Records) -> None:
    """Let happen in the partition's state what is due by one batch of ticks."""
    with metrics.CALCULATION.labels(topics.CLOCK).time():
        batch, result, settled = apply_ticks(partition.store.state, records)
    partition.account_for(topics.CLOCK, records, result.verdict, {})
    if len(result.outcomes):
        partition.work.booked.append((batch, result))
    if len(settled.side):
        partition.work.settled.append(settled)
    found_something = len(result.outcomes) + len(settled.side) > 0
    partition.ticked(time.monotonic_ns() // 1_000_000, found_something)
