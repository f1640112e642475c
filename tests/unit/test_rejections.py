"""When a publisher has gone wrong: exact limits of runs and shares."""

from __future__ import annotations

import numpy as np
import pytest

from assetstream.agents.rejections import WINDOW, Rejections, TooManyDeadLetters
from assetstream.streams import metrics
from assetstream.streams.settings import Settings


def watching(**settings: object) -> Rejections:
    return Rejections(Settings(_env_file=None, dead_letter_stop=True, **settings))  # type: ignore[arg-type]


def saw(rejections: Rejections, pattern: str, partition: int = 0) -> None:
    """x is a dead letter, . is none."""
    rejected = np.array([i for i, each in enumerate(pattern) if each == "x"], np.int64)
    rejections.saw("trades", partition, len(pattern), rejected)


def is_too_many(rejections: Rejections) -> bool:
    told = metrics.TOO_MANY_DEAD_LETTERS.labels("trades")._value.get()
    try:
        rejections.check()
    except TooManyDeadLetters:
        assert told == 1
        return True
    assert told == 0
    return False


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (["xxxx"], False),
        (["xxxxx"], True),
        (["..xxxxx.."], True),
        (["xx", "xxx"], True),
        ([".xx", "xx.x"], False),
        (["xxxx.", "x"], False),
        (["xxxx", ".xxxx"], False),
        (["xxxx", "x."], True),
        (["x.xxxx", "x"], True),
    ],
)
def test_in_a_row(batches: list[str], expected: bool) -> None:
    rejections = watching(dead_letter_run=5, dead_letter_share=0)
    for batch in batches:
        saw(rejections, batch)
    assert is_too_many(rejections) == expected


def test_a_row_is_of_one_partition_and_over_when_one_is_accepted() -> None:
    rejections = watching(dead_letter_run=5, dead_letter_share=0)
    saw(rejections, "xxx", 0)
    saw(rejections, "xxx", 1)
    assert not is_too_many(rejections)
    saw(rejections, "xx", 1)
    assert is_too_many(rejections)
    saw(rejections, ".", 1)
    assert not is_too_many(rejections)


def test_the_share_of_the_last_ones() -> None:
    rejections = watching(dead_letter_run=0, dead_letter_share=0.5)
    saw(rejections, "x" * (WINDOW - 1))
    assert not is_too_many(rejections)  # too few to tell
    saw(rejections, "." * (WINDOW - 1))
    assert not is_too_many(rejections)  # half is not more than half
    saw(rejections, "x")
    assert is_too_many(rejections)
    saw(rejections, "." * 10)
    assert not is_too_many(rejections)
    saw(rejections, "." * 20_000)  # long ago counts less and less
    saw(rejections, "x" * 1_500)
    assert not is_too_many(rejections)


def test_nothing_stops_unless_asked() -> None:
    rejections = Rejections(Settings(_env_file=None, dead_letter_run=1))
    saw(rejections, "xxx")
    rejections.check()
    assert metrics.TOO_MANY_DEAD_LETTERS.labels("trades")._value.get() == 1
