"""Where keys lie and lay: an installation may have been given more partitions, by whole multiples (`repartition`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings

REPARTITION = "repartition/"


class Partitions:
    """The numbers of partitions that an installation had, ascending; the last is today's.

    A key's messages lie in one partition under each number, each at or above the one before: so partition and offset
    together say which came first. Partitions of one family never shared a key with those of another.

    ends: by number, but the last: the offset behind what was taken under it, by "input-partition".
    """

    def __init__(self, ends: dict[int, dict[str, int]], today: int) -> None:
        self.counts = [*sorted(ends), today]
        self._ends = ends
        self._homes: dict[str, tuple[int, ...]] = {}

    @classmethod
    def on_record(cls, settings: Settings, deeds: Mapping[str, Mapping[str, Any]]) -> Partitions:
        """As the operators' deeds tell."""
        grown = (deed for key, deed in deeds.items() if key.startswith(REPARTITION))
        return cls({deed["partitions_before"]: deed["begins"] for deed in grown}, settings.partitions)

    def homes(self, key: str) -> tuple[int, ...]:
        """Where a key lay under each number; the last is where it lies."""
        if key not in self._homes:
            self._homes[key] = tuple(partition_of(key.encode(), count) for count in self.counts)
        return self._homes[key]

    def home(self, key: str) -> int:
        """Where a key lies."""
        return self.homes(key)[-1]

    def families(self) -> list[range]:
        """The partitions that came of each of the first."""
        return [range(first, self.counts[-1], self.counts[0]) for first in range(self.counts[0])]

    def eras(
        self, family: range, inputs: tuple[str, ...], ends: Mapping[tuple[str, int], int]
    ) -> Iterator[tuple[int, list[tuple[str, int, int, int]]]]:
        """The numbers of partitions, and what was taken of a family under each: (input, partition, begin, end).

        ends: behind what is taken today, by (input, partition).
        """
        at: dict[tuple[str, int], int] = {}
        for count in self.counts:
            taken = []
            for place in ((name, number) for number in family if number < count for name in inputs):
                begin = at.get(place, 0)
                at[place] = self._ends.get(count, {}).get(f"{place[0]}-{place[1]}", ends[place])
                taken.append((*place, begin, at[place]))
            yield count, taken
