"""Rates of conversions whose messages gave none: they are of marks, and when a partition took which is on no record.

So a rebuild takes the rate, or that there was none, from the published outcome. Of a rate is proven that prices were
accepted from which it follows by the rules of the interface, the oldest of them with the time that the outcome names,
and that this wasn't too old. What cannot be: that they were the latest that the partition had taken, that no earlier
rule had a price, and NO_RATE itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from assetstream.cli.audit.published import Published
from assetstream.cli.audit.report import Report
from assetstream.models.decimals import to_units
from assetstream.models.messages import parse_time, to_micros
from assetstream.models.reference import BOUND, ONE, SECOND, Quote, Source, divide, plain, times, timestamp
from assetstream.streams.settings import Settings

CHECK = "rates of conversions"
#: what stands for a rate that nobody told: one that brings nothing, and one that brings too much
_UNTOLD, _TOO_MUCH = Quote(0), Quote(BOUND * ONE)


class Rates:
    """The rates that were published, and the prices of pairs that they can have come from."""

    def __init__(self, settings: Settings, published: Published, report: Report) -> None:
        self._settings, self._published, self._report = settings, published, report
        #: by pair and time: prices, in units
        self._prices: dict[str, dict[int, set[int]]] = {}

    def accepted(self, price: dict[str, Any]) -> None:
        """A price was accepted; as the reference notes it."""
        if "/" in price["symbol"] and self._published.conversions:
            at = self._prices.setdefault(price["symbol"], {})
            at.setdefault(to_micros(parse_time(price["as_of"])), set()).add(to_units(price["price"]))

    def quote(self, m: dict[str, Any], source: Source, timestamp_ms: int) -> Quote | None:
        """What a conversion without a rate was done at, of a record with this Kafka timestamp."""
        place = self._settings.topic(source.topic), source.partition
        outcome = self._published.conversions.get((*place, source.offset))
        if outcome is None:
            letters = self._published.letters[place].get(source.offset, ())
            return _TOO_MUCH if any(each.reason == "out_of_range" for each in letters) else _UNTOLD
        if outcome["code"] == "NO_RATE":
            return None
        rate, at, spread = outcome["rate"], outcome["rate_as_of"], outcome["spread_bps"]
        if rate is None or spread is None:
            return _UNTOLD
        quote = Quote(to_units(rate), None if at is None else to_micros(parse_time(at)), to_units(spread))
        self._prove(m, quote, f"{place[0]}-{place[1]}@{source.offset}", timestamp_ms)
        return quote

    def _prove(self, m: dict[str, Any], quote: Quote, where: str, timestamp_ms: int) -> None:
        self._report.checked[CHECK] += 1
        have, want, left = m["asset"], m["to_asset"], ONE - quote.spread_bps // 10_000
        what = f"{plain(quote.rate)} {have}/{want}"
        if quote.as_of is None:
            if (have, quote.rate) != (want, left):
                self._report.add(CHECK, where, f"the time of the prices that {what} came from", "null")
            return
        if quote.as_of + self._settings.conversion_max_age_s * SECOND < timestamp_ms * 1000:
            oldest = f"marks of the last {self._settings.conversion_max_age_s} s before its Kafka timestamp"
            self._report.add(CHECK, where, oldest, timestamp(quote.as_of))
        if not any(times(rate, left) == quote.rate for rate in self._possible(have, want, quote.as_of)):
            expected = f"accepted prices, the oldest of {timestamp(quote.as_of)}"
            self._report.add(CHECK, where, expected, f"none that give {what}")

    def _possible(self, have: str, want: str, as_of: int) -> Iterator[int]:
        """The rates of which the oldest price is of this time, in the order of the rules."""
        yield from (rate for _, rate in self._direct(have, want, as_of))
        if "USD" not in (have, want):
            for first, second in ((have, "USD"), ("USD", want)), (("USD", want), (have, "USD")):
                for _, rate in self._direct(*first, as_of):
                    yield from (times(rate, other) for at, other in self._direct(*second) if at >= as_of)

    def _direct(self, have: str, want: str, as_of: int | None = None) -> Iterator[tuple[int, int]]:
        """(time, rate) of the prices of have/want, and of want/have; of one time only, if it is given."""
        for symbol, inverse in ((f"{have}/{want}", False), (f"{want}/{have}", True)):
            found = self._prices.get(symbol, {})
            for at in found if as_of is None else {as_of} & found.keys():
                for price in found[at]:
                    yield at, divide(ONE * ONE, price) if inverse else price
