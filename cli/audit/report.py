"""What an audit found: how much was compared, and every difference with its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ABSENT = "nothing"


class Difference(NamedTuple):
    """Something that is not as it must be.

    check: what was compared; where: topic-partition@offset, or the key of what differs; expected, found: as they would
    be published, only what differs of a row.
    """

    check: str
    where: str
    expected: str
    found: str


@dataclass
class Report:
    """`checked`: how many things each check compared; `notes`: what could not be judged, and isn't wrong for that."""

    checked: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    messages: int = 0  # that the reference took
    seconds: float = 0.0  # that it needed for them, comparing included

    @property
    def ok(self) -> bool:
        """Whether everything is as it must be."""
        return not self.differences

    def add(self, check: str, where: str, expected: object, found: object) -> None:
        """Something differs."""
        self.differences.append(Difference(check, where, str(expected), str(found)))

    def same(self, check: str, where: str, expected: Any, found: Any) -> None:
        """Compare one thing; None: it isn't there."""
        self.checked[check] += 1
        if expected != found:
            self.add(check, where, *_what_differs(expected, found))

    def all_same(self, check: str, expected: Mapping[Any, Any], found: Mapping[Any, Any], place: str = "{}") -> None:
        """Compare by key; `place` says where a key's thing lies."""
        for key in dict.fromkeys((*expected, *found)):
            name = "/".join(key) if isinstance(key, tuple) else key
            self.same(check, place.format(name), expected.get(key), found.get(key))

    def merge(self, other: Report) -> None:
        """Add what another report found."""
        self.checked.update(other.checked)
        self.differences += other.differences
        self.notes += other.notes
        self.messages += other.messages

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "ok": self.ok,
            "checked": dict(self.checked),
            "differences": [difference._asdict() for difference in self.differences],
            "notes": self.notes,
            "messages": self.messages,
            "seconds": round(self.seconds, 3),
        }


def bounds(first: int, last: int) -> str:
    """A number that lies between two, in words."""
    return str(first) if first == last else f"{first} to {last}"


def _what_differs(expected: Any, found: Any) -> tuple[str, str]:
    """Two values as text; of two rows only the columns that differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = [name for name in {**expected, **found} if expected.get(name, ABSENT) != found.get(name, ABSENT)]
        return _columns(expected, names), _columns(found, names)
    return _whole(expected), _whole(found)


def _whole(value: Any) -> str:
    if value is None:
        return ABSENT
    return _columns(value, list(value)) if isinstance(value, dict) else str(value)


def _columns(row: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}={row.get(name, ABSENT)}" for name in names)
