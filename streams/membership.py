"""Proof of who may commit: the consumer group's generation and our member id.

A transaction that carries them is refused by the broker once the group has moved on, which fences a worker that was
stopped and woke up. They are captured when partitions are assigned and never read again: after a long stop aiokafka
resets them to (−1, ""), which the broker would accept from anyone.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class NotAMember(RuntimeError):
    """We are in no generation of the group: partitions were assigned and lost again at once. A rejoin mends it."""


class Member(NamedTuple):
    """A membership in one generation of a consumer group."""

    group: str
    generation: int
    member: str


def capture(app: Any) -> Member:
    """Our membership in the generation that the Faust `app`'s consumer is in now; call it when partitions are assigned.

    Raises NotAMember for no generation or no member id.
    """
    coordinator = app.consumer._thread._consumer._coordinator
    found = Member(app.conf.id, coordinator.generation, coordinator.member_id)
    if found.generation < 0 or not found.member:
        raise NotAMember(f"group {found.group}: generation {found.generation}, member {found.member!r}")
    return found
