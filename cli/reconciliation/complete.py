"""Waiting until ClickHouse has all that was published by now: before that our side is not there to be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from confluent_kafka import IsolationLevel
from confluent_kafka.admin import OffsetSpec

from assetstream.cli.lag import committed, readable
from assetstream.streams.admin import Admin
from assetstream.streams.settings import Settings
from assetstream.streams.topics import ACCOUNT_INPUTS, ANALYTICS

#: (topic with prefix, partition) → the offset below which every input's rows are in ClickHouse, in all tables
Cut = Mapping[tuple[str, int], int]
#: what was published, what that sends to other users by `transfers`, and what these answer
HOPS = 3


class Incomplete(RuntimeError):
    """Agents or sinks have not taken in time what was published before."""


def complete_cut(settings: Settings, pause: Callable[[str], None]) -> Cut:
    """Returns when every row of every input that is published by now is in ClickHouse.

    pause: called between two looks, with what is waited for; it waits a little, or raises to give up. Rows of later
    inputs may be there too, and not all of them: leave out what the cut doesn't hold. It is one the agents committed,
    so what is below it fits together. Raises BrokerAway, KafkaException.
    """
    admin, cut = Admin(settings), dict[tuple[str, int], int]()
    inputs = [(settings.topic(name), p) for name in ACCOUNT_INPUTS for p in range(settings.partitions)]
    for _ in range(HOPS):
        published = admin.offsets(inputs, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        cut = _taken(settings, admin, "agents", published, pause)
    rows = [(settings.topic(ANALYTICS), p) for p in range(settings.partitions)]
    # with those of transactions that are decided, but not yet marked so in every partition
    _taken(settings, admin, "sinks", admin.offsets(rows, OffsetSpec.latest()), pause)
    return cut


def _taken(
    settings: Settings, admin: Admin, group: str, ends: Cut, pause: Callable[[str], None]
) -> dict[tuple[str, int], int]:
    """Waits until a group has taken all records below these ends; -> its offsets, all of one answer."""
    while True:
        at = committed(settings, settings.group(group), list(ends))
        left = {place: (max(at[place], 0), end) for place, end in ends.items() if at[place] < end}
        if not left:
            return at
        stable = admin.offsets(list(left), OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        if all(stable[place] >= end for place, (_, end) in left.items()):
            waiting = {place for place, n in readable(settings, left).items() if n}  # markers are not committed past
            if not waiting:
                return at
            left = {place: left[place] for place in waiting}
        place, (begin, end) = min(left.items())
        pause(f"{settings.group(group)} to take {place[0]}-{place[1]} up to offset {end}, from {begin}")
