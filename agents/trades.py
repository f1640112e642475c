"""`trades`: fills, positions, P&L and limit checks."""

from functools import cache

from assetstream.agents.partition import AccountPartition
from assetstream.models.decode import decode_trades
from assetstream.models.fills import apply_trades
from assetstream.models.records import Records
from assetstream.models.settlement_dates import SettlementDates
from assetstream.models.settlement_events import settlements_of
from assetstream.models.settlement_rules import settlement_rules
from assetstream.streams import metrics
from assetstream.streams.settings import Settings


@cache
def _dates(cycles: str, calendars: str, holidays: str) -> SettlementDates:
    return SettlementDates(settlement_rules(cycles, calendars, holidays))


def dates_of(settings: Settings) -> SettlementDates:
    """When trades settle by these settings; made once a process."""
    return _dates(settings.settlement_cycles, settings.settlement_calendars, settings.settlement_holidays)


def take_trades(partition: AccountPartition, records: Records) -> None:
    """Apply one batch of executions to the partition's state."""
    batch = decode_trades(records, partition.settings.max_future_skew_s * 1_000_000)
    settles_at = dates_of(partition.settings).times(batch)
    with metrics.CALCULATION.labels("trades").time():
        result = apply_trades(partition.store.state, batch, settles_at)
    partition.store.state = result.state
    partition.account_for("trades", records, result.verdict, batch.details)
    if len(result.fills):
        partition.work.fills.append((batch, result.fills))
        partition.work.settled.append(settlements_of(batch, result.fills, result.settlements, result.changes))
    if len(result.alerts):
        partition.work.alerts.append(result.alerts)
