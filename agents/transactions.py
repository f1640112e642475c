"""`transactions`: wallet events, balances and their double entry."""

from assetstream.agents.partition import AccountPartition
from assetstream.models.conversion import QuoteTerms
from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import apply_transactions
from assetstream.models.records import Records
from assetstream.models.wallet_events import with_currencies
from assetstream.streams import metrics
from assetstream.streams.precision import precision


def take_transactions(partition: AccountPartition, records: Records) -> None:
    """Apply one batch of wallet events to the partition's state."""
    settings = partition.settings
    scales = precision(settings.asset_precision)
    batch = decode_transactions(records, settings.max_future_skew_s * 1_000_000, scales)
    terms = QuoteTerms(settings.conversion_max_age_s, settings.conversion_spread_bps)
    with metrics.CALCULATION.labels("transactions").time():
        result = apply_transactions(partition.store.state, batch, terms)
    partition.store.state = result.state
    partition.account_for("transactions", records, result.verdict, batch.details)
    if len(result.outcomes):
        partition.work.booked.append((with_currencies(batch, result), result))
