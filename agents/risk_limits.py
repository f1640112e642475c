"""`risk_limits`: a portfolio's limits, replaced whole and judged at once."""

from assetstream.agents.partition import AccountPartition
from assetstream.models.decode import decode_limits
from assetstream.models.limits import apply_limits
from assetstream.models.records import Records
from assetstream.streams import metrics


def take_risk_limits(partition: AccountPartition, records: Records) -> None:
    """Apply one batch of limits to the partition's state."""
    batch = decode_limits(records, partition.settings.max_future_skew_s * 1_000_000)
    with metrics.CALCULATION.labels("risk_limits").time():
        result = apply_limits(partition.store.state, batch)
    partition.store.state = result.state
    partition.account_for("risk_limits", records, result.verdict, batch.details)
    if len(result.alerts):
        partition.work.alerts.append(result.alerts)
