"""`transfers`: what other account partitions tell of transfers between users."""

from assetstream.agents.partition import AccountPartition
from assetstream.models.decode import decode_transfers
from assetstream.models.records import Records
from assetstream.models.transfers import apply_transfers
from assetstream.streams import metrics


def take_transfers(partition: AccountPartition, records: Records) -> None:
    """Book one batch of steps in the partition's state."""
    batch = decode_transfers(records, partition.settings.max_future_skew_s * 1_000_000)
    with metrics.CALCULATION.labels("transfers").time():
        result = apply_transfers(partition.store.state, batch)
    partition.store.state = result.state
    partition.account_for("transfers", records, result.verdict, batch.details)
    if len(result.outcomes):
        partition.work.booked.append((batch, result))
