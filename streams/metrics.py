"""Every metric, with what it means. Operators read this one file.

Times are seconds, sizes are bytes or records. No label takes a value that users or publishers choose.
"""

from prometheus_client import Counter, Gauge, Histogram

_LATENCY = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_DURATION = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZE = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)

# -- what came in -------------------------------------------------------------------------------------------------

#: Every data record of an input topic, once it is committed. result: applied, duplicate, ignored, or the reason of its
#: dead letter. The sum over results is the number of records taken.
MESSAGES = Counter("messages_total", "Input records committed, by what became of them", ["topic", "result"])

#: Records per batch that an agent got from one partition.
BATCH_SIZE = Histogram("batch_size_records", "Records per batch", ["topic"], buckets=_SIZE)

#: From an input record's Kafka timestamp (when the broker appended it) to the commit of the checkpoint that holds its
#: effects: what a reader of `risk_alerts` waits. Per partition and checkpoint the oldest record is observed.
LATENCY = Histogram(
    "end_to_end_latency_seconds", "Record appended to its effects committed", ["topic"], buckets=_LATENCY
)

#: Records of an input or analytics partition not yet committed by us.
LAG = Gauge("partition_lag_records", "Records waiting", ["topic", "partition"])

#: Marks taken from the `marks` topic by this worker, after conflation.
MARKS = Counter("marks_taken_total", "Marks revalued with")

# -- what was computed --------------------------------------------------------------------------------------------

#: One kernel call over one batch: positions, P&L, valuation and limit checks of all its messages.
CALCULATION = Histogram("portfolio_calculation_duration_seconds", "Kernel time per batch", ["kind"], buckets=_DURATION)

#: Alerts published because a rule's level rose, by type and new severity.
BREACHES = Counter("risk_limit_breaches_total", "Alerts of a rising level", ["type", "severity"])

#: Alerts published, of any kind.
ALERTS = Counter("risk_alerts_total", "Alerts published", ["severity"])

#: Wallet events with an outcome, by type; and those that were refused (or, with EXPIRED, expired), by code.
TRANSACTIONS = Counter("transactions_total", "Wallet events decided", ["type"])
TRANSACTION_FAILURES = Counter("transaction_failures_total", "Wallet events refused", ["code"])

#: Positions, portfolios and remembered ids held in memory by this worker.
STATE_ROWS = Gauge("state_rows", "Rows of partition state in memory", ["table"])

# -- what was reconciled ------------------------------------------------------------------------------------------

#: Breaks that became OPEN: a difference between a broker's statement and us, or between accounts of our own.
BREAKS = Counter("balance_reconciliation_errors_total", "Breaks that were opened", ["type"])

# -- what was made durable ----------------------------------------------------------------------------------------

#: One checkpoint: from the first produced record to the commit.
CHECKPOINT = Histogram("checkpoint_duration_seconds", "Time of one checkpoint transaction", buckets=_DURATION)

#: Checkpoints by outcome: committed, fenced (a rebalance: heals by itself), failed (retried from the changelog).
CHECKPOINTS = Counter("checkpoints_total", "Checkpoints", ["outcome"])

#: Records published by committed checkpoints (outputs, analytics, changelog).
PUBLISHED = Counter("published_records_total", "Records published")

#: 1 while a topic's dead letters exceed DEAD_LETTER_RUN in a row or DEAD_LETTER_SHARE of the last ones.
TOO_MANY_DEAD_LETTERS = Gauge("too_many_dead_letters", "A publisher has gone wrong", ["topic"])

#: 1 for an input partition that stands before a record which breaks its kernel, until an operator skips that.
PAUSED = Gauge("paused_partitions", "Input partitions that stand before a poisonous record", ["topic", "partition"])

# -- coming up and staying up -------------------------------------------------------------------------------------

#: Partitions this worker is assigned, and of these, how many are restored and processing.
ASSIGNED = Gauge("assigned_partitions", "Account partitions assigned")
READY = Gauge("ready_partitions", "Account partitions restored and processing")

#: Rows read by restores so far, and how long the last one took.
RESTORED_ROWS = Counter("restored_rows_total", "Changelog rows read by restores")
RESTORE_SECONDS = Gauge("last_restore_duration_seconds", "Time of the last restore")

#: 1 while the broker can't be reached; the worker keeps trying by itself.
BROKER_DOWN = Gauge("broker_unreachable", "1 while Kafka does not answer")

# -- ClickHouse ---------------------------------------------------------------------------------------------------

#: 1 while ClickHouse takes no rows of this worker's partitions; they wait in Kafka, and the worker keeps trying.
CLICKHOUSE_DOWN = Gauge("clickhouse_unreachable", "1 while ClickHouse does not answer")

#: Age of the oldest row that this worker has to insert and has not; 0 when none waits.
ANALYTICS_DELAY = Gauge("analytics_delay_seconds", "Age of the oldest row not yet in ClickHouse")

#: Rows inserted, by table; one insert's time; inserts that failed and are tried again.
CLICKHOUSE_ROWS = Counter("clickhouse_rows_total", "Rows inserted", ["table"])
CLICKHOUSE_INSERT = Histogram("clickhouse_insert_duration_seconds", "Time of one insert", buckets=_DURATION)
CLICKHOUSE_ERRORS = Counter("clickhouse_errors_total", "Inserts that failed and are tried again")
