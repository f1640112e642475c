"""Faults that tests put into a running worker, at places where a crash from outside would hardly ever hit.

Nothing here acts unless the environment names it, and only the tests do:

TEST_ASSETSTREAM_FAULT="checkpoint.produced:12"  kill -9 of this process when it reaches that point for the 12th time
TEST_ASSETSTREAM_POISON="text"                   a batch with a record that holds this text breaks its kernel
"""

from __future__ import annotations

import os
import signal
from collections import Counter

from assetstream.models.records import Records

#: every point there is, in the order in which a worker comes to them
POINTS = (
    "restore.begin",
    "restore.record",
    "restore.end",
    "checkpoint.begin",
    "checkpoint.added",
    "checkpoint.produced",
    "checkpoint.offsets",
    "checkpoint.committed",
    "snapshot.begin",
    "snapshot.written",
    "sink.announced",
    "sink.inserted",
    "reconciler.produced",
    "reconciler.committed",
    "repartition.restored",
    "repartition.topic",
    "repartition.raised",
    "repartition.produced",
    "repartition.written",
    "repartition.done",
)

_point, _, _times = os.environ.get("TEST_ASSETSTREAM_FAULT", "").partition(":")
_poison = os.environ.get("TEST_ASSETSTREAM_POISON", "").encode()
_reached: Counter[str] = Counter()

if _point and _point not in POINTS:
    raise ValueError(f"TEST_ASSETSTREAM_FAULT: no point {_point}; there are {', '.join(POINTS)}")


class Poisoned(RuntimeError):
    """What a poisonous record raises."""


def reach(point: str) -> None:
    """The process dies here, if a test wants it to."""
    if point == _point:
        _reached[point] += 1
        if _reached[point] == int(_times or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def break_at(records: Records) -> None:
    """Raise Poisoned if a test wants one of these records to break its kernel."""
    if _poison and any(_poison in (records.value(i) or b"") for i in range(records.n)):
        raise Poisoned(f"a kernel breaks, as a test wants, on {_poison.decode()}")
