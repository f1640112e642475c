"""`prices`: validated, and the latest of each symbol handed to `marks` for every worker."""

from collections.abc import Callable

from assetstream.agents.partition import PricePartition
from assetstream.models.decode import decode_prices, encode_marks
from assetstream.models.prices import apply_prices
from assetstream.models.records import Records
from assetstream.streams import metrics


def take_prices(
    partition: PricePartition, records: Records, publish: Callable[[list[tuple[bytes, bytes]]], None]
) -> None:
    """Validate one batch of prices; `publish` gets the (symbol, mark) of each symbol's last accepted one."""
    batch = decode_prices(records, partition.settings.max_future_skew_s * 1_000_000)
    with metrics.CALCULATION.labels("prices").time():
        result = apply_prices(partition.store.state, batch)
    partition.store.state = result.state
    partition.account_for("prices", records, result.verdict, batch.details)
    if len(result.accepted):
        partition.work.prices.append((batch, result.accepted))
        publish(encode_marks(batch, result.latest))
