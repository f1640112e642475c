"""What happens when a kernel breaks on what a partition was given: that partition alone stops, and is mended.

1. The state may be half changed, so it is dropped and restored from what is committed (`Worker._broke`, `_mend`).
2. The records that broke it are taken again, one by one: `careful` says up to which offset of each topic.
3. The one that breaks alone is poisonous: the state is restored once more, and its topic halts before it (`Halt`).
   Everything before it is committed; the partition's other topics, marks and all other partitions go on.
4. When an operator has put its skip on the record, it becomes a dead letter with reason `skipped`, and the topic goes
   on. A message that breaks nothing is never skipped, whatever is on the record.

What breaks a partition and is no single record (a mark, an update) is tried again with growing pauses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from assetstream.models.records import Records
from assetstream.streams.operations import skip_key

log = structlog.get_logger(__name__)

#: pauses before a partition that no record can be blamed for is tried again: the first, and the longest
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


class Broken(Exception):
    """Taking records of `topic` broke a kernel: the record at `offset` when it was alone, None when it was several."""

    def __init__(self, topic: str, offset: int | None, cause: Exception) -> None:
        self.topic, self.offset, self.cause = topic, offset, cause
        super().__init__(f"{type(cause).__name__}: {cause}")


class Halt(NamedTuple):
    """A topic stands before `offset`, whose record breaks the kernel, with this error."""

    offset: int
    error: str


@dataclass
class Trouble:
    """What is wrong with a partition; empty for nearly every one, nearly always. By topic (plain name)."""

    careful: dict[str, int] = field(default_factory=dict)  # records before this offset are taken one by one
    halts: dict[str, Halt] = field(default_factory=dict)
    skips: dict[str, tuple[int, str]] = field(default_factory=dict)  # halted records to skip: offset, why
    error: str = ""  # of what no record can be blamed for
    times: int = 0  # that it broke since it last committed

    def note(self, error: Exception, following: dict[str, int]) -> None:
        """The partition broke, with the offsets that were to be sent next by topic."""
        if not isinstance(error, Broken):
            self.error, self.times = f"{type(error).__name__}: {error}", self.times + 1
        elif error.offset is None:
            self.careful[error.topic] = following[error.topic]
        else:
            self.halts[error.topic] = Halt(error.offset, str(error))

    def obey(self, partition: int, deeds: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Have those halted records skipped that operators put on the record; -> the topics that go on."""
        on = []
        for topic, halt in list(self.halts.items()):
            deed = deeds.get(skip_key(topic, partition, halt.offset))
            if deed is not None:
                del self.halts[topic]
                self.skips[topic] = halt.offset, f"skipped by {deed['by']}: {deed['reason']}"
                log.warning(
                    "skipping a message", topic=topic, partition=partition, offset=halt.offset, why=self.skips[topic][1]
                )
                on.append(topic)
        return on

    def committed(self, following: Mapping[str, int]) -> None:
        """All before these offsets is committed: what stood in the way is behind us."""
        self.error, self.times = "", 0
        self.careful = {topic: offset for topic, offset in self.careful.items() if offset > following[topic]}
        self.skips = {topic: skip for topic, skip in self.skips.items() if skip[0] >= following[topic]}

    def lines(self, partition: int, prices: bool, mending: bool) -> Iterator[str]:
        """What stands still, why, and what to do: a line for each thing."""
        for topic, (offset, error) in self.halts.items():
            yield (
                f"a decision: {topic}-{partition} stands before offset {offset}, which breaks its kernel ({error}): "
                f'upgrade, or "assetstream skip {topic} {partition} {offset} --reason …"'
            )
        if mending:
            what = "price" if prices else "account"
            why = f", tried again within {self.pause_s:.0f} s: {self.error}" if self.error else ""
            yield f"{what} partition {partition} to be restored, after a kernel broke on it{why}"

    @property
    def pause_s(self) -> float:
        """How long to wait before the partition is tried again."""
        return min(FIRST_PAUSE_S * 2 ** (self.times - 1), LONGEST_PAUSE_S) if self.error else 0.0

    def pieces(self, topic: str, records: Records) -> Iterator[tuple[Records, str | None]]:
        """The records as they are to be taken, each piece with why it is to be skipped (None: it isn't)."""
        if not (self.careful or self.skips):
            yield records, None
            return
        skip, why = self.skips.get(topic, (-1, ""))
        at, alone = 0, int(records.offset.searchsorted(self.careful.get(topic, 0)))
        for stop in sorted({*range(1, alone + 1), *self._around(records, skip), records.n} - {0}):
            piece = records.slice(at, stop)
            yield piece, (why if piece.n == 1 and piece.offset[0] == skip else None)
            at = stop

    @staticmethod
    def _around(records: Records, offset: int) -> tuple[int, ...]:
        """Where to cut so that the record at `offset` is alone; nowhere when it isn't there."""
        i = int(records.offset.searchsorted(offset))
        return (i, i + 1) if i < records.n and records.offset[i] == offset else ()
