"""Compile every kernel before the worker joins the group: a compilation in mid-assignment would cost its membership.

Numba keeps what it compiled on disk, so only the first start on a machine takes its time.
"""

from __future__ import annotations

import time

import structlog

from assetstream.agents.clock import take_clock
from assetstream.agents.outputs import Publisher
from assetstream.agents.partition import AccountPartition, Partition, PricePartition
from assetstream.agents.prices import take_prices
from assetstream.agents.risk_limits import take_risk_limits
from assetstream.agents.trades import take_trades
from assetstream.agents.transactions import take_transactions
from assetstream.agents.transfers import take_transfers
from assetstream.models.decode import compile_kernels, decode_marks
from assetstream.models.market import market
from assetstream.models.records import Records, records_of
from assetstream.streams.batch_writer import BatchWriter
from assetstream.streams.settings import Settings

#: what no market publishes
TRANSFER = (
    b'{"step":"CREDIT","transaction_id":"a","user_id":"a","wallet_id":"a","other_user_id":"b","other_wallet_id":"b",'
    b'"asset":"USD","amount":"1","occurred_at":"1970-01-01T00:00:00Z"}'
)
TICK = b'{"due":"1970-01-01T00:00:00Z"}'

log = structlog.get_logger(__name__)


def warm_up(settings: Settings) -> None:
    """Run a small simulated market, bad messages included, through everything that publishes nothing."""
    began = time.perf_counter()
    compile_kernels()
    account, price = AccountPartition(0, settings), PricePartition(0, settings)
    published: list[tuple[bytes, bytes]] = []
    by_topic: dict[str, list[tuple[bytes | None, bytes | None]]] = {}
    stream = market(users=3, symbols=5, seed=1, bad=0.2)
    for _ in range(600):
        topic, key, value = next(stream)
        by_topic.setdefault(topic, []).append((key, value))
    take_prices(price, _records(settings, "prices", by_topic), published.extend)
    account.take_marks(decode_marks(records_of(settings.topic("marks"), 0, published)))
    take_risk_limits(account, _records(settings, "risk_limits", by_topic))
    take_transactions(account, _records(settings, "transactions", by_topic))
    take_transfers(account, _records(settings, "transfers", {"transfers": [(b"a", TRANSFER)]}))
    take_trades(account, _records(settings, "trades", by_topic))
    take_clock(account, _records(settings, "clock", {"clock": [(None, TICK)]}))
    account.take_marks(decode_marks(records_of(settings.topic("marks"), 0, published, first_offset=1)))
    for partition in (account, price):
        _write_nowhere(partition, settings)
        partition.store.rebuild()
    log.info("kernels ready", seconds=round(time.perf_counter() - began, 1))


def _records(settings: Settings, topic: str, messages: dict[str, list[tuple[bytes | None, bytes | None]]]) -> Records:
    now_ms = int(time.time() * 1000)
    return records_of(settings.topic(topic), 0, messages[topic], timestamp_ms=now_ms)


def _write_nowhere(partition: Partition, settings: Settings) -> None:
    partition.due = True
    cut = partition.cut(now_ms=1)
    assert cut is not None
    BatchWriter().write(Publisher(settings).publication([cut], 0).records())
