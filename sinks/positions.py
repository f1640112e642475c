"""What a position of the sinks' group says, and whose it is.

An offset says that all below it is in ClickHouse; its metadata, `{"to": last}`, that exactly offset … last may be on
its way (last = offset − 1: nothing is). Only sinks and `assetstream init` write such metadata. An offset without it was
set by somebody else, and says nothing about what is in ClickHouse.
"""

from __future__ import annotations

import json

#: what to do when it is not known what is in ClickHouse
REBUILD = "Rebuild ClickHouse (`assetstream init --refill`, see docs/operations.md)"


class NotOurPosition(RuntimeError):
    """Nobody knows what of a partition is in ClickHouse: to go on could insert rows twice, or leave rows out."""

    def __init__(self, group: str, place: tuple[str, int], found: str) -> None:
        self.group, self.place = group, place
        where = f"group {group} in {place[0]}-{place[1]}"
        super().__init__(f"{where} {found}: rows may be in ClickHouse already, or be missing. {REBUILD}")


def metadata(last: int) -> str:
    """What a position carries: the last offset that may be on its way, below the position when nothing is."""
    return json.dumps({"to": last})


def understood(group: str, place: tuple[str, int], offset: int, metadata: str, end: int) -> tuple[int, int]:
    """-> from where to go on in `place` (topic, partition), and the last offset of what may be on its way.

    offset: the group's, negative when it has none, which is fine where nothing was ever written: the log's `end` is 0.
    Raises NotOurPosition.
    """
    if offset < 0:
        if end == 0:
            return 0, -1
        raise NotOurPosition(group, place, f"has no position below the log's end at {end}: it was deleted, or expired")
    last = _last(metadata)
    if last is None or last < offset - 1:
        raise NotOurPosition(group, place, f"stands at offset {offset}, set by somebody else (metadata {metadata!r})")
    if offset > end:
        raise NotOurPosition(group, place, f"stands at offset {offset}, the log ends at {end}: it was made anew")
    return offset, last


def _last(metadata: str) -> int | None:
    try:
        found = json.loads(
            metadata.rstrip("\0")
        )  # confluent-kafka, which `init` writes with, sends the C string's end too
    except ValueError:
        return None
    last = found.get("to") if isinstance(found, dict) else None
    return last if type(last) is int else None
