"""From where on sinks fill ClickHouse: the first positions of their group. They take none but their own and these."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from assetstream.cli.lag import committed
from assetstream.sinks.positions import metadata
from assetstream.streams.admin import TIMEOUT_S, Admin
from assetstream.streams.settings import Settings
from assetstream.streams.topics import ANALYTICS

#: a sink that has just started commits positions itself: look again for so long
PATIENCE_S = 5.0
BEYOND = (
    "ClickHouse is empty, and sinks go on beyond the start of analytics: to have in it what analytics has, stop them "
    "and run `assetstream init --refill`"
)
_HAS_MEMBERS = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP, KafkaError.REBALANCE_IN_PROGRESS)


class SinksRun(RuntimeError):
    """Positions can't be set while a sink works; the text says whose and what to do."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            f"group {settings.group('sinks')} has members: stop all workers that run sinks, then run this again (one "
            f"that was killed is a member for another {settings.session_timeout_s:g} s)"
        )


class NotEmpty(RuntimeError):
    """The tables that are to be filled anew have rows, which would be inserted again."""

    def __init__(self, database: str) -> None:
        super().__init__(
            f"ClickHouse database {database} has rows, which would be inserted again: drop it first "
            f'(assetstream sql "DROP DATABASE {database} SYNC"), or set ASSETSTREAM_CLICKHOUSE_DATABASE to a new name'
        )


def set_first(settings: Settings, is_empty: Callable[[], bool], refill: bool = False) -> list[str]:
    """Give each partition of `analytics` that has no position its first, at the log's start; what was done, as lines.

    Only where none of its rows can be in ClickHouse: nothing was ever written to it, or our tables are empty.
    refill: all partitions, whatever positions they have; raises NotEmpty. Raises SinksRun, BrokerAway, KafkaException.
    """
    admin, deadline = Admin(settings), time.monotonic() + PATIENCE_S
    places = [(settings.topic(ANALYTICS), number) for number in range(settings.partitions)]
    while True:
        found = committed(settings, settings.group("sinks"), places)
        starts, ends = admin.offsets(places, OffsetSpec.earliest()), admin.offsets(places, OffsetSpec.latest())
        empty = is_empty()
        if refill and not empty:
            raise NotEmpty(settings.clickhouse_database)
        fresh = {p: starts[p] for p in places if refill or (found[p] < 0 and (empty or ends[p] == 0))}
        try:
            if fresh:
                _commit(admin, settings.group("sinks"), fresh)
            beyond = empty and any(found[p] > starts[p] for p in places if p not in fresh)
            return [*_told(fresh, len(places)), *([BEYOND] if beyond else [])]
        except KafkaException as failure:
            if failure.args[0].code() not in _HAS_MEMBERS:
                raise
            if time.monotonic() > deadline:
                raise SinksRun(settings) from failure
            time.sleep(0.2)


def _commit(admin: Admin, group: str, offsets: dict[tuple[str, int], int]) -> None:
    """All of them; the broker refuses it while the group has members."""
    positions = [TopicPartition(*place, offset, metadata(offset - 1)) for place, offset in offsets.items()]
    asked = [ConsumerGroupTopicPartitions(group, positions)]
    answer = admin.results(admin.client.alter_consumer_group_offsets(asked, request_timeout=TIMEOUT_S))[group]
    for each in answer.topic_partitions:
        if each.error is not None:
            raise KafkaException(each.error)


def _told(fresh: dict[tuple[str, int], int], partitions: int) -> list[str]:
    if not fresh:
        return []
    late = [f"{topic}-{number} begins at offset {offset}" for (topic, number), offset in fresh.items() if offset]
    lines = [f"sinks begin at the start of {len(fresh)} of {partitions} partitions of {ANALYTICS}"]
    return lines + ([f"rows of before are no longer in the log: {', '.join(late)}"] if late else [])
