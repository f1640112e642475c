"""`prices`: validated, and the latest of each symbol handed to `marks` for every worker."""

from __future__ import annotations

from collections.abc import Callable

from assetstream.agents.partition import PricePartition
from assetstream.models.decimals import units
from assetstream.models.decode import PriceBatch, decode_prices, encode_mark
from assetstream.models.prices import apply_prices
from assetstream.models.records import Records
from assetstream.streams import metrics

Publish = Callable[[list[tuple[bytes, bytes]]], None]


def take_prices(partition: PricePartition, records: Records, publish: Publish) -> None:
    """Validate one batch of prices; `publish` gets the (symbol, mark) of each symbol's last accepted one."""
    batch = decode_prices(records, partition.settings.max_future_skew_s * 1_000_000)
    with metrics.CALCULATION.labels("prices").time():
        result = apply_prices(partition.store.state, batch)
    partition.store.state = result.state
    partition.account_for("prices", records, result.verdict, batch.details)
    if len(result.accepted):
        partition.work.prices.append((batch, result.accepted))
        publish([_mark(batch, int(i)) for i in result.latest])


def _mark(batch: PriceBatch, i: int) -> tuple[bytes, bytes]:
    """Key and value of the mark that price `i` becomes."""

    def text(k: int) -> bytes:
        at = int(batch.text_at[k, i])
        return batch.data[at : at + int(batch.text_len[k, i])].tobytes()

    symbol, currency = text(0), text(1)
    price = units(int(batch.price[i, 0]), int(batch.price[i, 1]))
    offset = int(batch.records.offset[i])
    as_of = int(batch.as_of[i])
    return symbol, encode_mark(symbol.decode(), price, currency.decode(), as_of, batch.records.partition, offset)
