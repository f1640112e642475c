"""An account partition in this process, fed with batches as a worker feeds it, without Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from prometheus_client import REGISTRY

from assetstream.agents.outputs import Publication, Publisher
from assetstream.agents.partition import AccountPartition, PartitionCut
from assetstream.agents.trades import take_trades
from assetstream.cli.benchmarks import load
from assetstream.models.decode import MarkBatch, decode_limits, decode_marks, decode_trades, encode_mark
from assetstream.models.fills import apply_trades
from assetstream.models.limits import apply_limits
from assetstream.models.records import Records, records_of
from assetstream.models.settlement_dates import SettlementDates
from assetstream.models.settlement_rules import settlement_rules
from assetstream.models.state import AccountState, new_account_state
from assetstream.models.verdicts import Verdict
from assetstream.streams.settings import Settings

#: Kafka's timestamp of all records fed here: after every time in them
APPENDED_MS = 1_772_500_000_000
SKEW_US = 3_600_000_000
#: when trades settle
DATES = SettlementDates(settlement_rules())
#: messages at a time when a state is filled
CHUNK = 2_000
#: price units (18 decimals) of a hundredth
CENT = 10**16


def chunks(messages: Iterable[load.Pair], size: int, topic: str = "trades") -> Iterator[Records]:
    """The messages as records of partition 0, so many at a time, offsets from 0."""
    stream, first = iter(messages), 0
    while part := list(islice(stream, size)):
        yield records_of(topic, 0, part, first, APPENDED_MS)
        first += len(part)


def portfolios(positions: int, symbols: int, each: int = 1) -> Iterator[load.Pair]:
    """Trades that open `positions`, every user's in all symbols, `each` a position; bought at 95."""
    for k in range(each):
        for i in range(positions):
            yield load.trade(k * positions + i, i // symbols, i % symbols, 10 + i % 90, 9_500)


def filled(positions: int, symbols: int, id_memory: int = 1) -> AccountState:
    """A state with so many positions and everyone's limits."""
    state = new_account_state(b"USD", id_memory)
    for records in chunks(portfolios(positions, symbols), CHUNK):
        batch = decode_trades(records, SKEW_US)
        result = apply_trades(state, batch, DATES.times(batch))
        assert (result.verdict == Verdict.APPLIED).all()
        state = result.state
    users = -(-positions // symbols)
    rules = {**load.LIMITS, "max_position_size": "930"}  # the largest positions are about there
    limits = [load.limits(user, rules) for user in range(users)]
    for records in chunks(limits, CHUNK, "risk_limits"):
        state = apply_limits(state, decode_limits(records, SKEW_US)).state
    return state


def marks(symbols: int, round_: int) -> MarkBatch:
    """One mark of every symbol; the prices of rounds differ, by up to a tenth of a per cent from 95."""
    prices = 9_500 + np.random.default_rng(round_).integers(-9, 10, symbols)
    texts: list[tuple[bytes | None, bytes | None]] = [
        (
            b"S%d" % s,
            encode_mark(f"S{s}", int(cents) * CENT, "USD", 1_772_442_000_000_000 + round_, 0, symbols * round_ + s),
        )
        for s, cents in enumerate(prices)
    ]
    return decode_marks(records_of("marks", 0, texts, symbols * round_, APPENDED_MS))


class Partition:
    """A partition with all that a worker does to it in memory; `seconds` adds up what each stage took."""

    def __init__(self, settings: Settings, number: int = 0) -> None:
        self.account = AccountPartition(number, settings)
        self._publisher = Publisher(settings)
        self.seconds = {"decode": 0.0, "kernel": 0.0, "bookkeeping": 0.0, "cut": 0.0, "encoding, Arrow": 0.0}

    def take(self, records: Records) -> None:
        """Decode and apply one batch of trades."""
        began = time.perf_counter()
        decode_trades(records, SKEW_US)
        decoding, kernel, began = time.perf_counter() - began, -_kernel_seconds(), time.perf_counter()
        self.account.arrived("trades", records, int(records.offset[-1]) + 1)
        self.account.take_waiting(lambda topic, partition, records: take_trades(self.account, records))
        taking, kernel = time.perf_counter() - began, kernel + _kernel_seconds()
        self.seconds["decode"] += decoding
        self.seconds["kernel"] += kernel
        self.seconds["bookkeeping"] += max(0.0, taking - decoding - kernel)

    def cut(self) -> PartitionCut:
        """What has changed since the last cut."""
        began = time.perf_counter()
        cut = self.account.cut(time.time_ns() // 1_000_000)
        self.seconds["cut"] += time.perf_counter() - began
        assert cut is not None
        return cut

    def publication(self, cuts: list[PartitionCut]) -> Publication:
        """The records that a checkpoint of these cuts produces."""
        began = time.perf_counter()
        made = self._publisher.publication(cuts, 0)
        self.seconds["encoding, Arrow"] += time.perf_counter() - began
        return made


def _kernel_seconds() -> float:
    name = "portfolio_calculation_duration_seconds_sum"
    return REGISTRY.get_sample_value(name, {"kind": "trades"}) or 0.0
