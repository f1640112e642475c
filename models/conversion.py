"""Rates of conversions: those that their messages give, else the current ones of the marks that the partition took.

The rate of one asset in another is found by the rules of valuation (interface, section 3). It is as old as the oldest
mark that it comes from, and too old a one is none: both are judged against the record's Kafka timestamp, so that a
replay judges the same. A rate of 0 stands for none; one that rounds to 0 is none too.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.decimals import limbs_of, to_units
from assetstream.models.int128 import at, get, inline, kernel, multiply, one, put, zero
from assetstream.models.outputs import NO_TIME
from assetstream.models.state import book_of
from assetstream.models.valuation import ROUTE, Book, find_sources, update_rate
from assetstream.models.wallets import intern_text

if TYPE_CHECKING:
    from assetstream.models.state import AccountState

#: places of an event's texts in the batch
_ASSET, _TO_ASSET = 3, 8
_ONE = 10**18
#: basis points in 1
_WHOLE = 10_000


class QuoteTerms(NamedTuple):
    """On what terms a conversion gets a rate, when its message gives none.

    max_age_s   how old the oldest mark may be that the rate comes from: seconds before the record's Kafka timestamp
    spread_bps  what is taken off the rate, in basis points: 0 ≤ spread_bps < 10,000, of 14 decimals at most
    """

    max_age_s: int
    spread_bps: Decimal


AT_MARKS = QuoteTerms(60, Decimal(0))


class CurrentTerms(NamedTuple):
    """The same with the marks, as kernels take them."""

    book: Book
    route: np.ndarray  # ROUTE[1], to reckon in: what positions need of their routes doesn't change
    max_age_us: int
    spread: np.ndarray  # uint64[2, 2]: in basis points; what is left of 1 when it is taken off


class Quote(NamedTuple):
    """A rate (int128 units, 0: there is none), the time of its oldest mark (µs, NO_TIME: of none), and its spread."""

    rate: int
    as_of: int
    spread_bps: int


def current_terms(state: AccountState, terms: QuoteTerms) -> CurrentTerms:
    """Terms with the marks of a partition as it is now."""
    spread = to_units(terms.spread_bps)
    both = limbs_of([spread, _ONE - spread // _WHOLE])
    return CurrentTerms(book_of(state), np.zeros(1, ROUTE), terms.max_age_s * 1_000_000, both)


@inline
def no_quote():  # type: ignore[no-untyped-def]
    """The Quote of nothing."""
    return Quote(zero(), np.int64(NO_TIME), zero())


@kernel
def _current(strings, terms, have, want, timestamp_ms):  # type: ignore[no-untyped-def]
    """The Quote of one `have` in `want`, numbers of strings, for a record of this Kafka timestamp."""
    rate, as_of, known = one(), np.int64(NO_TIME), True
    if have != want:
        route = terms.route[0]
        route.have, route.want = np.uint32(have), np.uint32(want)
        find_sources(strings, terms.book, route)
        update_rate(terms.book.marks.rows, route)
        rate, as_of = get(route, "rate"), np.int64(route.oldest)
        known = route.known != 0 and (as_of + terms.max_age_us) // 1000 >= timestamp_ms
    if not known:
        return no_quote()
    rate, _ = multiply(rate, at(terms.spread, 1))
    return Quote(rate, as_of, at(terms.spread, 0))


@kernel
def quote_of(strings, terms, batch, m):  # type: ignore[no-untyped-def]
    """The Quote at which message m, a CONVERSION, is done."""
    if batch.has_rate[m]:
        return Quote(at(batch.rate, m), np.int64(NO_TIME), zero())
    have = intern_text(strings, batch, _ASSET, m)
    want = intern_text(strings, batch, _TO_ASSET, m)
    return _current(strings, terms, have, want, batch.timestamp[m])


@inline
def tell_rate(written, quote):  # type: ignore[no-untyped-def]
    """At what the event was done whose outcome was written last."""
    outcome = written.outcomes[written.counts[0] - 1]
    put(outcome, "rate", quote.rate)
    put(outcome, "spread_bps", quote.spread_bps)
    outcome.rate_as_of = quote.as_of
