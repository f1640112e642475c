"""Conversions at the current mark: the kernel gives what the reference does, however marks and events are batched."""

from __future__ import annotations

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from assetstream.models.messages import from_micros, time_text
from assetstream.models.reference import ONE, Reference, times
from tests.property.test_ledger import NOW_MS, RUN, Machine, check_laws, record, same, units

ASSETS = ("USD", "EUR", "JPY", "A/B")
PAIRS = ("EUR/USD", "USD/EUR", "JPY/USD", "USD/JPY", "EUR/JPY", "JPY/EUR", "USD/USD")
PRICES = ("1", "1.0842", "3", "150", "0.000000000000000007", "99999999999999999999", "5e18")
SPREADS = ("0", "0", "25", "12.5", "0.00000000000001", "9999.99999999999999")
Message = tuple[str, bytes, bytes]


@st.composite
def events(draw: st.DrawFn) -> Message:
    """A conversion mostly, without a rate mostly; what funds it, takes it back, or closes its wallet."""
    number = draw(st.integers(0, 5))
    kind = draw(st.sampled_from((*5 * ("CONVERSION",), "DEPOSIT", "REVERSAL")))
    event = {
        # a conversion's statuses are of one id, so that locks and conflicts come about
        "transaction_id": f"{kind[0]}{number}" if kind == "CONVERSION" else f"{kind[0]}{draw(st.integers(0, 99))}",
        "user_id": "u1",
        "wallet_id": "w1",
        "type": kind,
        "status": draw(st.sampled_from(("PENDING", "COMPLETED", "COMPLETED", "COMPLETED", "CANCELLED"))),
        "asset": ASSETS[number % 3] if kind != "DEPOSIT" else draw(st.sampled_from(ASSETS)),
        "amount": ("1", "10", "0.5", "7", "1e-18", "2e19")[number],
        "fee": ("0", "1")[number % 2],
        "to_asset": draw(st.sampled_from((ASSETS[(number + 1 + number // 3) % 4], draw(st.sampled_from(ASSETS))))),
        "occurred_at": "2026-03-02T12:00:00Z",
    }
    if kind == "DEPOSIT":
        event |= {"status": "COMPLETED", "amount": draw(st.sampled_from(("100", "100", "9e19"))), "fee": "0"}
    if kind == "REVERSAL":
        event |= {"reverses": f"C{number}", "status": "COMPLETED"}
    if draw(st.integers(0, 30)) == 0:
        event |= {"type": "CLOSE", "transaction_id": f"close-{number}", "status": "COMPLETED"}
    if draw(st.integers(0, 7)) == 0:
        event["rate"] = draw(st.sampled_from(("1", "0.92")))
    return ("transactions", *record(event))


@st.composite
def prices(draw: st.DrawFn) -> Message:
    """A mark, new or somewhat old."""
    symbol, seconds = draw(st.sampled_from(PAIRS)), draw(st.sampled_from((0, 0, 1, 10, 30, 59.999999, 60, 60.000001)))
    price = {
        "symbol": symbol,
        "price": draw(st.sampled_from(PRICES)),
        "currency": symbol.partition("/")[2],
        "as_of": time_text(from_micros(NOW_MS * 1000 - round(seconds * 10**6))),
    }
    return "prices", symbol.encode(), json.dumps(price).encode()


START = {"initial_capital": "100", "allocation": {"EUR": "100", "JPY": "9e19"}}
PAPER = {"type": "OPEN", "wallet_type": "VIRTUAL", "currency": "USD", "configuration": START}
OPENING = {"transaction_id": "o", "user_id": "u1", "wallet_id": "w1", "status": "COMPLETED", **PAPER}
OPENED = ("transactions", *record({**OPENING, "occurred_at": "2026-03-02T12:00:00Z"}))
#: in a wallet that is VIRTUAL, or not
HISTORIES = st.builds(
    list.__add__,
    st.sampled_from(([], [], [OPENED])),
    st.lists(events() | events() | prices(), min_size=1, max_size=40),
)


class Desk(Machine):
    """The kernel with marks, at a spread."""

    def __init__(self, spread_bps: str) -> None:
        super().__init__(1000)
        self.spread_bps = spread_bps

    def take(self, topic: str, messages: list[tuple[bytes, bytes]], offset: int, prices: Reference) -> list[str]:
        """Take a batch; `prices` has accepted those of `topic` prices."""
        from assetstream.models.conversion import QuoteTerms
        from assetstream.models.decode import decode_marks, encode_mark
        from assetstream.models.marks import apply_marks
        from assetstream.models.records import records_of

        if topic == "transactions":
            self.terms = QuoteTerms(60, Decimal(self.spread_bps))
            return self.feed(messages, offset)
        marks = []
        for symbol in dict.fromkeys(key.decode() for key, _ in messages):
            price = prices.latest[symbol]
            fields = (price.fields[name] for name in ("price", "currency", "as_of"))
            marks.append((symbol.encode(), encode_mark(symbol, *fields, 3, price.source.offset)))
        self.state = apply_marks(self.state, decode_marks(records_of("marks", 3, marks))).state
        return []

    def restored(self) -> Desk:
        from assetstream.models.state import PERSISTED, rebuild
        from tests.property.test_kernels import copied

        other = Desk(self.spread_bps)
        other.state = rebuild(copied(self.state, other.state, PERSISTED))
        other.outcomes, other.changes = list(self.outcomes), list(self.changes)
        other.sequences, other.sent = list(self.sequences), list(self.sent)
        return other


@RUN
@given(HISTORIES, st.sampled_from(SPREADS), st.data())
def test_kernel_conversions_are_as_the_reference_has_them(
    history: list[Message], spread: str, data: st.DataObject
) -> None:
    desk, single = Desk(spread), Desk(spread)
    model = Reference(id_memory=1000, conversion_spread_bps=int(Decimal(spread) * ONE))
    at = 0
    while at < len(history):
        topic, size = history[at][0], data.draw(st.integers(1, 8))
        batch = history[at : at + size]
        batch = batch[: next((k for k, each in enumerate(batch) if each[0] != topic), len(batch))]
        records = [(key, value) for _, key, value in batch]
        expected = []
        for k, each in enumerate(records):
            # a mark that is superseded in its batch is never taken
            last = each[0] not in [key for key, _ in records[k + 1 :]]
            expected.append(model.feed(topic, 3, at + k, NOW_MS, *each, take_mark=False))
            if topic == "prices" and last:
                model.take_mark(each[0].decode())
            if topic == "transactions":
                assert single.take(topic, [each], at + k, model) == [expected[-1]]
        told = desk.take(topic, records, at, model)
        if topic == "prices":
            single.take(topic, records, at, model)
        else:
            assert told == expected
            same(desk, model)
            check_laws(model)
        assert desk.persisted() == single.persisted()
        if data.draw(st.integers(0, 3)) == 0:
            desk = desk.restored()
        at += len(batch)
    same(desk, model)


@RUN
@given(HISTORIES)
def test_what_a_conversion_says_of_its_rate_is_what_it_did(history: list[Message]) -> None:
    """The rate, the postings and the codes of outcomes agree; only a conversion that was done has a rate."""
    model = Reference()
    for offset, (topic, key, value) in enumerate(history):
        before, n = model.balances, len(model.outcomes)
        model.feed(topic, 3, offset, NOW_MS, key, value)
        for outcome in model.outcomes[n:]:
            is_done = outcome["type"] == "CONVERSION" and outcome["status"] == "COMPLETED"
            assert (outcome.get("rate") is not None) == is_done
            if is_done:
                arrives = times(units(outcome["amount"]), units(outcome["rate"]))
                legs = outcome["postings"][-2:] if arrives else []
                assert [units(leg["amount"]) for leg in legs] == ([arrives, -arrives] if arrives else [])
                against = "virtual" if model.ledger.wallets["u1", "w1"].is_virtual else "exchange"
                assert [leg["account"] for leg in legs] == (["wallet:u1/w1", against] if arrives else [])
            if outcome["code"] == "NO_RATE":
                own = model.balances["u1", "w1", outcome["asset"]]
                assert own["total"] == before.get(("u1", "w1", outcome["asset"]), {"total": "0"})["total"]
