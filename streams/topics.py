"""Every topic: its name, what it is for, and the configuration `init` gives it."""

from __future__ import annotations

from dataclasses import dataclass, field

from assetstream.streams.settings import Settings

#: what account partitions tell one another: steps of transfers between users
TRANSFERS = "transfers"
#: what tells account partitions the time
CLOCK = "clock"
ACCOUNT_INPUTS = ("trades", "transactions", "risk_limits", TRANSFERS, CLOCK)
INPUTS = ("trades", "transactions", "risk_limits", "prices", TRANSFERS, CLOCK)
OUTPUTS = ("portfolio_updates", "risk_alerts", "asset_transactions", "settlement_events", "dead_letters")

#: what the reconciler reads, and what it tells
STATEMENTS = "broker_statements"
DECISIONS = "break_decisions"
BREAKS = "reconciliation_breaks"
RECONCILED = (STATEMENTS, DECISIONS)

#: state of the account partitions and of the price partitions, one record per partition and checkpoint
ACCOUNT_CHANGELOG = "account_changelog"
PRICE_CHANGELOG = "price_changelog"
MARKS = "marks"
#: Arrow batches for ClickHouse; the record key is the table's name
ANALYTICS = "analytics"
#: what operators did: skips and replays, one record per deed
OPERATIONS = "operations"
#: what the notary says of all that is AUDITED
AUDIT_HEADS = "audit_heads"
#: what came in, what became of it, and who did what: the audit log. Nothing compacted: what is gone proves nothing.
AUDITED = (
    *INPUTS,
    *RECONCILED,
    "asset_transactions",
    "risk_alerts",
    "settlement_events",
    "dead_letters",
    OPERATIONS,
)
INTERNAL = (ACCOUNT_CHANGELOG, PRICE_CHANGELOG, MARKS, ANALYTICS, OPERATIONS)
#: what a worker writes to in its transactions
WRITTEN = (*OUTPUTS, TRANSFERS, CLOCK, *INTERNAL)

#: what topics were made with by earlier releases, which `init` changes
EARLIER = {OPERATIONS: {"cleanup.policy": "compact"}}

MIB = 1 << 20
FOREVER = {"retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True)
class TopicSpec:
    """One topic as `init` makes it; `config` are Kafka's own topic settings, as strings.

    earlier: settings that earlier releases made it with, and `init` changes.
    """

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    earlier: dict[str, str] = field(default_factory=dict)


def specs(settings: Settings) -> list[TopicSpec]:
    """All topics of this installation, with their full names."""
    days = settings.retention_days
    retention = {"retention.ms": "-1" if days < 0 else str(int(days * 86_400_000)), "retention.bytes": "-1"}
    delete = {"cleanup.policy": "delete"}
    # An input record of 1 MiB, in base64 and with its envelope, must fit a dead letter and an analytics batch.
    big = {"max.message.bytes": str(4 * MIB)}
    inputs = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MIB + 64 * 1024), **delete}
    configs: dict[str, dict[str, str]] = {
        "trades": {**inputs, **retention},
        "transactions": {**inputs, **retention},
        "risk_limits": {**inputs, **FOREVER},
        "prices": {**inputs, **retention},
        TRANSFERS: {**inputs, **retention},
        CLOCK: {**inputs, **retention},
        "portfolio_updates": {**delete, **retention, **big},
        "risk_alerts": {**delete, **retention},
        "asset_transactions": {**delete, **retention},
        "settlement_events": {**delete, **retention},
        "dead_letters": {**delete, **retention, **big},
        # The worker itself deletes what a newer full sweep of the state has made superfluous.
        ACCOUNT_CHANGELOG: {**delete, **FOREVER, **big},
        PRICE_CHANGELOG: {**delete, **FOREVER, **big},
        MARKS: {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"},
        ANALYTICS: {**delete, **retention, **big},
        # Who did what is kept as it was said, and said again: nothing is compacted away.
        OPERATIONS: {**delete, **FOREVER, **big},
        AUDIT_HEADS: {**delete, **FOREVER},
        STATEMENTS: {**inputs, **FOREVER},
        DECISIONS: {**inputs, **FOREVER},
        BREAKS: {"cleanup.policy": "compact"},
    }
    return [
        TopicSpec(settings.topic(name), settings.partitions, config, EARLIER.get(name, {}))
        for name, config in configs.items()
    ]
