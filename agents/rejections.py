"""Watches for a publisher gone wrong: too many dead letters in a row, or too large a share of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from assetstream.streams import metrics
from assetstream.streams.settings import Settings

#: the share is that of about the last WINDOW to 2·WINDOW records of a topic
WINDOW = 1_000


class TooManyDeadLetters(RuntimeError):
    """Rejections exceed a limit, and DEAD_LETTER_STOP says to stop then."""


@dataclass
class _Share:
    records: int = 0
    rejected: int = 0


class Rejections:
    """Counts what committed checkpoints rejected, and sets `too_many_dead_letters` by topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shares: dict[str, _Share] = defaultdict(_Share)
        self._runs: dict[tuple[str, int], int] = defaultdict(int)  # rejected in a row, up to the last record
        self._excess: dict[str, str] = {}

    def saw(self, topic: str, partition: int, n: int, rejected: np.ndarray) -> None:
        """A batch of `n` records of an input partition was committed; `rejected`: the indexes of its dead letters."""
        longest = self._run(topic, partition, n, rejected)
        share = self._shares[topic]
        share.records, share.rejected = share.records + n, share.rejected + len(rejected)
        self._judge(topic, longest, share)
        if share.records >= 2 * WINDOW:
            share.records, share.rejected = share.records // 2, share.rejected // 2

    def _run(self, topic: str, partition: int, n: int, rejected: np.ndarray) -> int:
        """The longest run of rejections that ends in this batch, or goes on after it in any partition of the topic."""
        before = self._runs[topic, partition]
        is_accepted = np.ones(n, bool)
        is_accepted[rejected] = False
        accepted = np.flatnonzero(is_accepted)
        ended = 0
        if len(accepted) == 0:
            self._runs[topic, partition] = before + n
        else:
            first = int(accepted[0])
            ended = max(before + first if first else 0, int(np.diff(accepted).max(initial=1)) - 1)
            self._runs[topic, partition] = n - 1 - int(accepted[-1])
        return max(ended, *(run for (name, _), run in self._runs.items() if name == topic))

    def _judge(self, topic: str, longest: int, share: _Share) -> None:
        in_a_row, at_most = self._settings.dead_letter_run, self._settings.dead_letter_share
        if in_a_row and longest >= in_a_row:
            self._excess[topic] = f"{longest:,} in a row (DEAD_LETTER_RUN is {in_a_row:,})"
        elif at_most and share.records >= WINDOW and share.rejected > at_most * share.records:
            percent = 100 * share.rejected / share.records
            self._excess[topic] = f"{percent:.0f}% of the last {share.records:,} (DEAD_LETTER_SHARE is {at_most:.0%})"
        else:
            self._excess.pop(topic, None)
        metrics.TOO_MANY_DEAD_LETTERS.labels(topic).set(topic in self._excess)

    def check(self) -> None:
        """Raise TooManyDeadLetters when there are, and the settings say to stop then."""
        for topic, what in self._excess.items() if self._settings.dead_letter_stop else ():
            raise TooManyDeadLetters(
                f"too many dead letters on {topic}: {what}. They are committed and none is lost: read them in "
                "dead_letters, correct the publisher, start the worker again, and replay-dead-letters; or set "
                "ASSETSTREAM_DEAD_LETTER_STOP=false"
            )
