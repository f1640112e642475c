"""Wallets: what must hold of the reference after any history of events, and that the kernel gives the same.

The kernel's tests alone: `pytest tests/property/test_ledger.py -k kernel`; all others need no kernel.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from assetstream.models.reference import BOUND, ONE, Reference

NOW_MS = 1_800_000_000_000
SKEW_US = 3600 * 10**6
RUN = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

# ---------------------------------------------------------------------------------------------------------- strategies

USERS, WALLETS, ASSETS = ("u1", "u2"), ("w1", "w2"), ("USD", "BTC")
TYPES = (
    "DEPOSIT",
    "WITHDRAWAL",
    "TRANSFER",
    "CONVERSION",
    "FEE",
    "DIVIDEND",
    "INTEREST",
    "ADJUSTMENT",
    "REVERSAL",
    "HOLD",
)
EVENTS = ("OPEN", "CLOSE", "RESET", "CONFIGURE")
LOCKING = ("WITHDRAWAL", "TRANSFER", "CONVERSION", "HOLD")
OPEN = ("PENDING", "PROCESSING")
#: more of the first user, so that more is about the same
PLACES = [(user, wallet, asset) for user in ("u1", "u1", "u2") for wallet in WALLETS for asset in ASSETS]
STATUSES = (*OPEN, "COMPLETED", "COMPLETED", "COMPLETED", "FAILED", "CANCELLED")
MOST = "99999999999999999999.999999999999999999"

#: mostly what can be had, now and then what brings a balance near 10^20 or beyond
SMALL = ("1", "2", "3", "0.5", "10", "0.000000000000000001", "0.000000000000000003")
LARGE = ("4e19", "5e19", "6e19", "99999999999999999999", MOST, "1e20")
AMOUNTS = st.sampled_from((*3 * SMALL, *LARGE))
FEES = st.sampled_from(("0", "0", "0", "1", "0.01", "1e-18", "5e19"))
RATES = st.sampled_from(("1", "0.5", "1.5", "2", "0.333333333333333333", "1e-18", "1e10", "5e19"))
TIMES = st.sampled_from(["2026-03-02T12:00:00Z", "2026-03-01T00:00:00Z"])
METHODS = st.sampled_from([None, None, "", "card", "wire ä\n", "m" * 1024])


def mostly(value: Any, otherwise: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`value`, seldom something else."""
    return st.integers(0, 5).flatmap(lambda k: otherwise if k == 5 else st.just(value))


@st.composite
def transactions(draw: st.DrawFn, number: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of one transaction, all but its status; a reversal is mostly of one of those `before`."""
    user = draw(st.sampled_from(("u1", "u1", "u1", "u2")))
    kind = draw(st.sampled_from((*TYPES, *TYPES, *EVENTS, "TRANSFER", "CONVERSION", *4 * ("REVERSAL",))))
    wallet, asset, amount = draw(st.sampled_from(WALLETS)), draw(st.sampled_from(ASSETS)), draw(AMOUNTS)
    original = draw(st.sampled_from([str(number), "unknown"]))
    if kind == "REVERSAL" and before:
        of = draw(st.sampled_from(before))
        original, user, wallet, asset = of["transaction_id"], of["user_id"], of["wallet_id"], of["asset"]
        wallet = draw(mostly(wallet, st.sampled_from(WALLETS)))
        asset = draw(mostly(asset, st.sampled_from(ASSETS)))
        amount = draw(mostly(of.get("amount", "1").lstrip("-"), AMOUNTS))
    if kind == "ADJUSTMENT" and draw(st.booleans()):
        amount = f"-{amount}"
    optional = {
        "counterparty": {"user_id": draw(mostly(user, st.just("u2"))), "wallet_id": draw(st.sampled_from(WALLETS))},
        "to_asset": draw(st.sampled_from(ASSETS)),
        "rate": draw(mostly(draw(RATES), st.none())),
        "reverses": original,
        "description": "d",
        "authorized_by": "a",
    }
    needed = {
        "TRANSFER": ("counterparty",),
        "CONVERSION": ("to_asset", "rate"),
        "REVERSAL": ("reverses",),
        "ADJUSTMENT": ("description", "authorized_by"),
    }.get(kind, ())
    everything = draw(st.booleans())
    return {
        "transaction_id": str(number),
        "user_id": user,
        "wallet_id": wallet,
        "type": kind,
        "asset": asset,
        "amount": amount,
        "fee": draw(FEES),
        "payment_method": draw(METHODS),
        **{name: value for name, value in optional.items() if everything or name in needed},
    }


#: how a message differs from what else is said of its transaction, if it does
TWISTS = st.one_of(
    st.fixed_dictionaries({"external_id": st.sampled_from(["e", "f"])}),
    st.fixed_dictionaries({"payment_method": METHODS}),
    st.fixed_dictionaries({"amount": AMOUNTS}),
    st.fixed_dictionaries({"fee": FEES}),
    st.fixed_dictionaries({"type": st.sampled_from((*TYPES, *EVENTS))}),
    st.fixed_dictionaries({"wallet_id": st.sampled_from(WALLETS)}),
    st.fixed_dictionaries({"asset": st.sampled_from(ASSETS)}),
    st.fixed_dictionaries({"user_id": st.sampled_from(USERS)}),
    st.fixed_dictionaries({"reverses": st.integers(0, 6).map(str)}),
    st.fixed_dictionaries({"expires_at": TIMES}),
)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Wallets that mostly have something, then statuses of a few transactions in any order, repeated and twisted."""
    events = [
        {
            "transaction_id": f"funds-{number}",
            "user_id": user,
            "wallet_id": wallet,
            "type": "DEPOSIT",
            "status": "COMPLETED",
            "asset": asset,
            "amount": draw(st.sampled_from(("7", "100", "100", "100", "5e19", "99999999999999999990", MOST))),
            "occurred_at": "2026-03-01T00:00:00Z",
        }
        for number, (user, wallet, asset) in enumerate(
            draw(st.permutations(PLACES))[: draw(st.integers(0, len(PLACES)))]
        )
    ]
    about: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 8))):
        about.append(draw(transactions(number, about + events)))
    for event in [*about, *draw(st.lists(st.sampled_from(about), max_size=30))]:
        status, twist = draw(st.sampled_from(STATUSES)), draw(mostly({}, TWISTS))
        events.append({**event, "status": status, "occurred_at": draw(TIMES), **twist})
    return events


@st.composite
def collisions(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Something is there, something is locked, and then its id comes with other terms, of large amounts.

    They are conflicts, unless they would be out of range, were they accepted: with a lock that they have not made.
    """
    amounts = st.sampled_from(("1", "4e19", "5e19", "6e19"))
    events = [{"type": "DEPOSIT", "amount": draw(amounts)}]
    events.append({"transaction_id": "2", "type": draw(st.sampled_from(LOCKING)), "status": "PENDING", "amount": "1"})
    for _ in range(draw(st.integers(1, 5))):
        event = {
            "type": draw(st.sampled_from(TYPES)),
            "amount": draw(amounts),
            "reverses": draw(st.sampled_from("123")),
        }
        event["transaction_id"] = draw(st.sampled_from("223"))
        other = {"user_id": "u1", "wallet_id": draw(st.sampled_from(WALLETS))}
        events.append({**event, "wallet_id": draw(st.sampled_from(("w1", *WALLETS))), "counterparty": other})
    common = {"transaction_id": "1", "user_id": "u1", "wallet_id": "w1", "status": "COMPLETED", "asset": "USD"}
    common.update(counterparty={"user_id": "u1", "wallet_id": "w2"}, to_asset="USD", rate=draw(st.sampled_from("12")))
    common.update(reverses="1", description="d", authorized_by="a", occurred_at="2026-03-01T00:00:00Z")
    return [{**common, **event} for event in events]


#: mostly of two wallets, of which the one is mostly VIRTUAL; "w2" is what it happens to be
OWN_WALLETS = ("w1", "v1", "v1", "w2")
CONFIGURATIONS = st.fixed_dictionaries(
    {},
    optional={
        "initial_capital": st.sampled_from(("0", "100", "100", "7.5", "6e19", None)),
        "allocation": st.dictionaries(st.sampled_from(("USD", "BTC", "A/B")), st.sampled_from(("2", "1e-18", "5e19"))),
        "unknown": st.just(1),
    },
)


STARTS = st.fixed_dictionaries(
    {
        "initial_capital": st.sampled_from(("100", "3", "0")),
        "allocation": st.sampled_from(
            ({}, {"BTC": 5}, {"USD": "1", "BTC": "2", "A/B": "1e-18"}, {"BTC": "9", "A/B": 1})
        ),
    }
)


@st.composite
def lives(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Wallets are opened, used, emptied, reset and closed, in any order, and a few things are said of each."""
    events: list[dict[str, Any]] = []
    if draw(st.integers(0, 3)):
        events.append({"wallet_id": "v1", "type": "OPEN", "wallet_type": "VIRTUAL", "configuration": draw(STARTS)})
    if draw(st.booleans()):
        events.append({"wallet_id": "w1", "type": "DEPOSIT", "amount": "10", "asset": "USD"})
    if draw(st.booleans()):  # what is locked for a wallet that lets nothing in when it is to arrive
        sent = {"transaction_id": "sent", "type": "TRANSFER", "wallet_id": "w1", "amount": "4", "asset": "USD"}
        sent["counterparty"] = {"user_id": "u1", "wallet_id": "w2"}
        between = (
            {"type": "CLOSE"},
            {"type": "OPEN", "wallet_type": "VIRTUAL"},
            {"type": "OPEN", "wallet_type": "MARGIN"},
        )
        events += [{**sent, "status": "PENDING"}, {"wallet_id": "w2", **draw(st.sampled_from(between))}]
        events.append({**sent, "status": draw(st.sampled_from(STATUSES))})
    for number in range(draw(st.integers(1, 6)) * 4):
        kind = draw(
            st.sampled_from(
                (*3 * EVENTS, "RESET", "RESET", *TYPES, "DEPOSIT", "WITHDRAWAL", "TRANSFER", "TRANSFER", "REVERSAL")
            )
        )
        event: dict[str, Any] = {"type": kind, "wallet_id": draw(st.sampled_from(OWN_WALLETS))}
        event["transaction_id"] = draw(mostly(f"e{number}", st.integers(0, 4).map(str)))
        event["status"] = draw(mostly("COMPLETED", st.sampled_from(STATUSES)))
        if kind in EVENTS:
            wallet_types, currencies = ("REAL", "VIRTUAL", "VIRTUAL", "MARGIN", None), ("USD", "EUR", "BTC", None, None)
            event |= {"wallet_type": draw(st.sampled_from(wallet_types)), "currency": draw(st.sampled_from(currencies))}
            event |= {"configuration": draw(CONFIGURATIONS | STARTS | st.none())}
            event |= draw(mostly({}, st.just({"asset": "XAU", "amount": "3", "fee": "1"})))
        else:
            event |= {"asset": draw(st.sampled_from(ASSETS)), "amount": draw(st.sampled_from(("10", "10", "3", "1")))}
        other = {"user_id": draw(mostly("u1", st.just("u2"))), "wallet_id": draw(st.sampled_from(OWN_WALLETS))}
        event |= {
            "counterparty": other,
            "to_asset": draw(st.sampled_from(ASSETS)),
            "rate": draw(mostly("1", st.none())),
        }
        event["reverses"] = draw(st.integers(0, 15).map(str) | st.integers(0, 15).map("e{}".format))
        events.append(event)
        if event["status"] in OPEN and draw(st.booleans()):
            events.append({**event, "status": draw(st.sampled_from(STATUSES))})
    common = {"user_id": "u1", "status": "COMPLETED", "description": "d", "authorized_by": "a"}
    common["occurred_at"] = "2026-03-01T00:00:00Z"
    return [{"transaction_id": str(number), **common, **event} for number, event in enumerate(events)]


HISTORIES = histories() | collisions() | lives()
MEMORIES = st.sampled_from([1, 2, 3, 5, 1000, 1000, 1000])


def record(event: dict[str, Any]) -> tuple[bytes, bytes]:
    """Key and value of an event."""
    return event["user_id"].encode(), json.dumps(event).encode()


def feed(reference: Reference, offset: int, event: dict[str, Any]) -> str:
    return reference.feed("transactions", 3, offset, NOW_MS, *record(event))


# ------------------------------------------------------------------------------------------------ laws of the reference

Key = tuple[str, str, str]


def units(text: str) -> int:
    """Units of 10^-18 of a plain decimal."""
    whole, _, fraction = text.lstrip("-").partition(".")
    return (-1 if text.startswith("-") else 1) * (int(whole) * ONE + int(fraction.ljust(18, "0")))


def own(outcome: dict[str, Any]) -> Key:
    return outcome["user_id"], outcome["wallet_id"], outcome["asset"]


def locks(outcomes: list[dict[str, Any]]) -> dict[Key, int]:
    """What open transactions have locked, by what was said of them last."""
    last = {(outcome["user_id"], outcome["transaction_id"]): outcome for outcome in outcomes}
    found: dict[Key, int] = defaultdict(int)
    for each in last.values():
        if each["status"] in OPEN and each["type"] in LOCKING:
            found[own(each)] += units(each["amount"]) + (units(each["fee"]) if each["type"] != "HOLD" else 0)
    return found


def totals(outcomes: list[dict[str, Any]]) -> dict[Key, int]:
    """What all postings to wallets add up to."""
    found: dict[Key, int] = defaultdict(int)
    for outcome in outcomes:
        for posting in outcome["postings"]:
            kind, _, name = posting["account"].partition(":")
            if kind == "wallet":
                user, _, wallet = name.partition("/")
                found[user, wallet, posting["asset"]] += units(posting["amount"])
    return found


def check_laws(model: Reference) -> None:
    """What must hold of outcomes and balances at any time; nothing but published figures is looked at."""
    balances = {key: {name: units(text) for name, text in each.items()} for key, each in model.balances.items()}
    locked, moved = locks(model.outcomes), totals(model.outcomes)
    for key, balance in balances.items():
        assert balance["total"] == balance["available"] + balance["locked"] == moved.get(key, 0) < BOUND
        assert balance["locked"] == locked.get(key, 0) >= 0
        assert balance["available"] >= 0
    assert balances.keys() >= locked.keys() | moved.keys()
    wallets = model.ledger.wallets
    assert {key[:2] for key in balances} == wallets.keys()
    for (user, wallet, _), balance in balances.items():
        assert balance["total"] == 0 or wallets[user, wallet].status == "OPEN"


def check_virtual(model: Reference, outcome: dict[str, Any]) -> None:
    """What moves in a VIRTUAL wallet moves in VIRTUAL wallets and in `virtual`, and nothing else does."""
    accounts = {posting["account"] for posting in outcome["postings"]}
    wallets = [name.removeprefix("wallet:").split("/") for name in accounts if name.startswith("wallet:")]
    if accounts:  # its own one has no posting of a deposit that is all fee
        wallets.append([outcome["user_id"], outcome["wallet_id"]])
    kinds = {model.ledger.wallets[user, wallet].is_virtual for user, wallet in wallets}
    assert len(kinds) <= 1
    others = {name for name in accounts if not name.startswith("wallet:")}
    assert others <= {"virtual"} if kinds == {True} else "virtual" not in others


def check_outcome(outcome: dict[str, Any], result: dict[Key, dict[str, str]]) -> None:
    """An outcome says what came of its balance; its postings sum to zero per asset, none of them is zero."""
    assert outcome["balance"] == result[own(outcome)]
    sums: dict[str, int] = defaultdict(int)
    for posting in outcome["postings"]:
        assert units(posting["amount"]) != 0
        sums[posting["asset"]] += units(posting["amount"])
    assert not any(sums.values())
    assert not outcome["postings"] or (outcome["status"], outcome["code"]) == ("COMPLETED", None)
    assert outcome["code"] is None or outcome["status"] == "FAILED"


@RUN
@given(HISTORIES, MEMORIES)
def test_laws_hold_after_every_event(history: list[dict[str, Any]], memory: int) -> None:
    model = Reference(id_memory=memory)
    for offset, event in enumerate(history):
        before, n, n_changes = model.balances, len(model.outcomes), len(model.balance_changes)
        verdict = feed(model, offset, event)
        after = model.balances
        changed = {key for key in after if before.get(key) != after[key]}
        if verdict != "applied":
            assert (after, len(model.outcomes), len(model.balance_changes)) == (before, n, n_changes)
            continue
        (outcome,), changes = model.outcomes[n:], model.balance_changes[n_changes:]
        check_outcome(outcome, after)
        told = [own(change) for change in changes]
        assert len(told) == len({*told, own(outcome)}) - 1
        assert changed - {own(outcome)} <= {*told} <= totals([outcome]).keys()
        assert all({**change, **after[own(change)]} == change for change in changes)
        if outcome["code"]:
            zero = {"total": "0", "available": "0", "locked": "0"}
            # at most what was locked for it is let go
            assert after[own(outcome)]["total"] == before.get(own(outcome), zero)["total"]
            assert after == {**before, own(outcome): after[own(outcome)]}
        check_laws(model)
        check_virtual(model, outcome)


@RUN
@given(HISTORIES)
def test_a_reversal_undoes_exactly_and_once(history: list[dict[str, Any]]) -> None:
    model, done, undone = Reference(), {}, set()
    for offset, event in enumerate(history):
        n = len(model.outcomes)
        feed(model, offset, event)
        for outcome in model.outcomes[n:]:
            if outcome["status"] != "COMPLETED":
                continue
            done[outcome["user_id"], outcome["transaction_id"]] = outcome
            if outcome["type"] == "REVERSAL":
                original = outcome["user_id"], event["reverses"]
                assert original not in undone
                undone.add(original)
                assert done[original]["type"] != "REVERSAL"
                opposite = [{**p, "amount": (-units(p["amount"]))} for p in done[original]["postings"]]
                assert [{**p, "amount": units(p["amount"])} for p in outcome["postings"]] == opposite


@RUN
@given(HISTORIES)
def test_each_message_counts_once(history: list[dict[str, Any]]) -> None:
    """Whatever is repeated after it was accepted is a duplicate, at once and at the end."""
    model, accepted, offset = Reference(), [], 0
    for event in history:
        result = feed(model, offset, event)
        accepted += [event] * (result == "applied")
        if result in ("applied", "duplicate"):
            assert feed(model, offset + 1, event) == "duplicate"
        offset += 2
    n = len(model.outcomes)
    assert {feed(model, offset + k, event) for k, event in enumerate(accepted)} <= {"duplicate"}
    assert len(model.outcomes) == n == len(accepted)


@RUN
@given(HISTORIES)
def test_any_history_is_judged_the_same_without_what_was_rejected(history: list[dict[str, Any]]) -> None:
    """What was rejected, or repeated, leaves no trace."""
    whole, clean = Reference(), Reference()
    applied = [event for offset, event in enumerate(history) if feed(whole, offset, event) == "applied"]
    assert [feed(clean, offset, event) for offset, event in enumerate(applied)] == ["applied"] * len(applied)

    def but_their_place(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in row.items() if name != "cause"} for row in rows]

    assert but_their_place(clean.outcomes) == but_their_place(whole.outcomes)
    assert but_their_place(clean.balance_changes) == but_their_place(whole.balance_changes)
    assert clean.balances == whole.balances
    assert clean.remembered("transactions", 3) == whole.remembered("transactions", 3)


#: (transaction, its status)
STEPS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("PENDING", "COMPLETED", "COMPLETED"))), max_size=40)


def step(number: int, status: str) -> dict[str, Any]:
    """A transaction that is never refused becomes open or final."""
    return {
        "transaction_id": str(number),
        "user_id": "u1",
        "wallet_id": "w1",
        "type": "DEPOSIT",
        "status": status,
        "asset": "USD",
        "amount": "1",
        "occurred_at": "2026-03-01T00:00:00Z",
    }


@RUN
@given(STEPS, st.integers(1, 4))
def test_open_transactions_are_remembered(steps: list[tuple[int, str]], memory: int) -> None:
    model, still_open = Reference(id_memory=memory), set()
    for offset, (number, status) in enumerate(steps):
        if feed(model, offset, step(number, status)) == "applied":
            (still_open.add if status == "PENDING" else still_open.discard)(("u1", str(number)))
        remembered = model.remembered("transactions", 3)
        assert remembered.keys() >= still_open


@RUN
@given(STEPS, st.integers(1, 4))
@example([(0, "PENDING"), (1, "COMPLETED"), (2, "COMPLETED"), (0, "COMPLETED"), (3, "COMPLETED")], 2)
def test_the_last_accepted_messages_are_remembered(steps: list[tuple[int, str]], memory: int) -> None:
    """The interface: of (user_id, transaction_id, status) at least the last ID_MEMORY."""
    model, last = Reference(id_memory=memory), []
    for offset, (number, status) in enumerate(steps):
        if feed(model, offset, step(number, status)) == "applied":
            last = [*last, (number, status)][-memory:]
        remembered = model.remembered("transactions", 3)
        assert all(status in remembered.get(("u1", str(number)), {}) for number, status in last)


# ------------------------------------------------------------------------------------------ the kernel as the reference


class Machine:
    """The kernel as the shell drives it, one batch at a time, and what it puts out."""

    def __init__(self, memory: int) -> None:
        from assetstream.models.state import new_account_state

        self.memory = memory
        #: of conversions without a rate; None: the default
        self.terms: Any = None
        self.state = new_account_state(b"USD", memory)
        self.outcomes: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.sequences: list[int] = []
        self.sent: list[tuple[bytes, bytes]] = []

    def feed(
        self, messages: list[tuple[Any, bytes]], offset: int, topic: str = "transactions", at: Any = NOW_MS
    ) -> list[str]:
        """Take a batch, of these Kafka timestamps; -> what became of each message."""
        from assetstream.models.clock import apply_ticks
        from assetstream.models.decode import decode_transactions, decode_transfers
        from assetstream.models.ledger import apply_transactions
        from assetstream.models.outcomes import balance_names, legs_of, outcome_values
        from assetstream.models.records import records_of
        from assetstream.models.transfers import apply_transfers, messages_of
        from assetstream.models.verdicts import Verdict
        from assetstream.models.wallet_events import with_currencies

        records = records_of(topic, 3, messages, offset, at)
        if topic == "transactions":
            batch: Any = decode_transactions(records, SKEW_US)
            result = apply_transactions(self.state, batch, *([self.terms] if self.terms else []))
            batch = with_currencies(batch, result)
        elif topic == "clock":
            batch, result = apply_ticks(self.state, records)
        else:
            batch = decode_transfers(records, SKEW_US)
            result = apply_transfers(self.state, batch)
        self.sent += messages_of(result.state, batch, result.sent)
        self.sequences += result.outcomes["sequence"].tolist()
        self.state = result.state
        assert all(list(part) == list(range(len(part))) for part in entries(result.postings))
        legs = legs_of(self.state, result.postings)
        self.outcomes += map(json.loads, outcome_values(batch, result.outcomes, result.postings, legs, 3))
        names = balance_names(self.state, result.changes["balance"])
        for name, row in zip(names, result.changes, strict=True):
            where = {"sequence": int(row["sequence"]), "offset": int(batch.records.offset[row["message"]])}
            self.changes.append({**name._asdict(), **balance(row), **where})
        return [Verdict(verdict).reason for verdict in result.verdict]

    def restored(self) -> Machine:
        """A machine whose state is made of nothing but the persisted rows."""
        from assetstream.models.state import PERSISTED, rebuild
        from tests.property.test_kernels import copied

        other = Machine(self.memory)
        other.state = rebuild(copied(self.state, other.state, PERSISTED))
        other.outcomes, other.changes = list(self.outcomes), list(self.changes)
        other.sequences, other.sent = list(self.sequences), list(self.sent)
        return other

    def balances(self) -> dict[Key, tuple[int, int]]:
        """By (user, wallet, asset): available, locked."""
        from assetstream.models.state import text

        found = {}
        for row in self.state.balances.rows[: self.state.balances.count[0]]:
            wallet = self.state.wallets.rows[row["wallet"]]
            key = tuple(text(self.state, int(n)) for n in (wallet["user"], wallet["wallet"], row["asset"]))
            found[key] = amount(row, "available"), amount(row, "locked")
        return found

    def wallets(self) -> dict[tuple[str, str], dict[str, Any]]:
        """By (user, wallet)."""
        from assetstream.cli.audit.states import Account

        return Account(self.state).wallets()

    def remembered(self) -> set[tuple[int, int]]:
        """The hashes of the transactions' ids."""
        rows = self.state.events.rows[: self.state.events.count[0]]
        rows = rows[rows["seen"] != 0]
        return set(zip(rows["id_lo"].tolist(), rows["id_hi"].tolist(), strict=True))

    def due(self) -> dict[int, list[tuple[str, int]]]:
        """What is due, by time: (id, its number) in their order."""
        rows = self.state.agenda.rows[: self.state.agenda.count[0]]
        found: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for row in sorted(rows[rows["kind"] != 0], key=lambda row: row["number"]):
            found[int(row["at"])].append((row["text"].tobytes().rstrip(b"\0").decode(), int(row["number"])))
        return found

    def persisted(self) -> dict[str, bytes]:
        """The bytes of every persisted row."""
        from assetstream.models.state import PERSISTED

        tables = {name: getattr(self.state, name) for name in PERSISTED}
        return {name: table.rows[: table.count[0]].tobytes() for name, table in tables.items()}


def amount(row: Any, name: str) -> int:
    return int(row[f"{name}_hi"]) << 64 | int(row[f"{name}_lo"])


def balance(row: Any) -> dict[str, int]:
    return {name: amount(row, name) for name in ("total", "available", "locked")}


def entries(postings: Any) -> list[list[int]]:
    """The numbers of the legs of each outcome."""
    found: dict[int, list[int]] = defaultdict(list)
    for message, entry in zip(postings["message"].tolist(), postings["entry"].tolist(), strict=True):
        found[message].append(entry)
    return list(found.values())


def told(change: dict[str, Any]) -> dict[str, Any]:
    """A balance change of the reference as the machine has it."""
    named = {name: change[name] for name in ("user_id", "wallet_id", "asset")}
    amounts = {name: units(change[name]) for name in ("total", "available", "locked")}
    return {**named, **amounts, "sequence": change["sequence"], "offset": change["cause"]["offset"]}


def same(machine: Machine, model: Reference) -> None:
    """All that was put out, and the state, are those of the reference."""
    from assetstream.cli.audit.identities import hashes

    assert machine.outcomes == model.outcomes
    assert [list(outcome) for outcome in machine.outcomes] == [list(outcome) for outcome in model.outcomes]
    assert machine.changes == [told(change) for change in model.balance_changes]
    assert machine.sequences == model.ledger.sequences
    assert [(key.decode(), json.loads(value)) for key, value in machine.sent] == [
        (message["user_id"], message) for message in model.ledger.sent
    ]
    expected = {key: (units(each["available"]), units(each["locked"])) for key, each in model.balances.items()}
    assert machine.balances() == expected
    assert machine.wallets() == {key: wallet.plain() for key, wallet in model.ledger.wallets.items()}
    assert machine.remembered() == set(hashes(model.remembered("transactions", 3)))
    due: dict[int, list[str]] = defaultdict(list)
    for (_, identity), at in model.ledger.due(3).items():
        due[at].append(identity)
    assert {at: [identity for identity, _ in each] for at, each in machine.due().items()} == due


@RUN
@given(HISTORIES, MEMORIES)
def test_kernel_any_history_is_as_the_reference_has_it(history: list[dict[str, Any]], memory: int) -> None:
    machine, model = Machine(memory), Reference(id_memory=memory)
    for offset, event in enumerate(history):
        expected = feed(model, offset, event)
        assert (offset, event, machine.feed([record(event)], offset)) == (offset, event, [expected])
        same(machine, model)


@RUN
@given(HISTORIES, MEMORIES, st.data())
def test_kernel_any_batching_and_any_restart_give_the_same(
    history: list[dict[str, Any]], memory: int, data: st.DataObject
) -> None:
    single, batched, model = Machine(memory), Machine(memory), Reference(id_memory=memory)
    offset = 0
    while offset < len(history):
        batch = history[offset : offset + data.draw(st.integers(1, 12))]
        expected = [feed(model, offset + k, event) for k, event in enumerate(batch)]
        assert batched.feed([record(event) for event in batch], offset) == expected
        assert [single.feed([record(event)], offset + k)[0] for k, event in enumerate(batch)] == expected
        offset += len(batch)
        assert batched.persisted() == single.persisted()
        if data.draw(st.booleans()):
            batched = batched.restored()
            assert batched.persisted() == single.persisted()
    same(batched, model)
    same(single, model)


@RUN
@given(STEPS, st.integers(1, 4), st.data())
def test_kernel_remembers_the_same(steps: list[tuple[int, str]], memory: int, data: st.DataObject) -> None:
    machine, model = Machine(memory), Reference(id_memory=memory)
    for offset, (number, status) in enumerate(steps):
        expected = feed(model, offset, step(number, status))
        assert machine.feed([record(step(number, status))], offset) == [expected]
        same(machine, model)
        if data.draw(st.integers(0, 4)) == 0:
            machine = machine.restored()


@st.composite
def crossings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two users who send one another money, take it back, and spend it meanwhile; some can't take any more."""
    rich = draw(st.sampled_from(("0", "0", "99999999999999999990")))
    common = {"wallet_id": "w1", "asset": "USD", "occurred_at": "2026-03-01T00:00:00Z", "status": "COMPLETED"}
    events: list[dict[str, Any]] = [
        {"transaction_id": f"funds-{user}", "user_id": user, "type": "DEPOSIT", "amount": amount}
        for user, amount in (("u1", "100"), ("u2", rich))
        if amount != "0"
    ]
    for number in range(draw(st.integers(3, 20))):
        user, number = draw(st.sampled_from(USERS)), draw(st.sampled_from((number, number, number, 0)))
        kind = draw(st.sampled_from(("TRANSFER", "TRANSFER", "TRANSFER", "REVERSAL", "REVERSAL", "FEE")))
        event = {
            # what is sent, and what takes it back, have numbers of their own, so that few are in conflict
            "transaction_id": f"{kind[0]}{number}",
            "user_id": user,
            "type": kind,
            "amount": draw(st.sampled_from(("10", "10", "10", "25", "9"))),
            "fee": draw(st.sampled_from(("0", "1", "1"))),
        }
        if kind == "TRANSFER":
            event["counterparty"] = {
                "user_id": "u2" if user == "u1" else "u1",
                "wallet_id": draw(st.sampled_from(("w1", "w1", "w2"))),
            }
            event["status"] = draw(st.sampled_from(("COMPLETED", "COMPLETED", "COMPLETED", "PENDING", "CANCELLED")))
        if kind == "REVERSAL":
            sent = [each for each in events if each["type"] == "TRANSFER"]
            original = draw(st.sampled_from(sent)) if sent else event
            event |= {
                "reverses": original["transaction_id"],
                "user_id": original["user_id"],
                "amount": original["amount"],
            }
            event["status"] = draw(st.sampled_from(("COMPLETED", "COMPLETED", "COMPLETED", "PENDING", "CANCELLED")))
        events.append(event)
    return [{**common, **event} for event in events]


@st.composite
def farewells(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two users who send one another all that they have, take it back, and close their wallets meanwhile."""
    events: list[dict[str, Any]] = [{"type": "DEPOSIT", "amount": "10", "user_id": "u1"}]
    if kind := draw(st.sampled_from((None, "VIRTUAL", "MARGIN", "CLOSED", "FULL"))):
        opening = {"type": "DEPOSIT", "amount": MOST} if kind == "FULL" else {"type": "OPEN", "wallet_type": kind}
        events.append({**opening, "user_id": "u2"} if kind != "CLOSED" else {"type": "CLOSE", "user_id": "u2"})
    for _ in range(draw(st.integers(2, 14))):
        user, kind = (
            draw(st.sampled_from(USERS)),
            draw(st.sampled_from(("TRANSFER", "CLOSE", "REVERSAL", "WITHDRAWAL"))),
        )
        event: dict[str, Any] = {"user_id": user, "type": kind, "amount": "10"}
        event["counterparty"] = {"user_id": "u2" if user == "u1" else "u1", "wallet_id": "w1"}
        if kind == "REVERSAL":
            sent = [
                number for number, each in enumerate(events) if each["type"] == "TRANSFER" and each["user_id"] == user
            ]
            event["reverses"] = str(draw(st.sampled_from(sent))) if sent else "none"
        events.append(event)
    common = {"wallet_id": "w1", "asset": "USD", "occurred_at": "2026-03-01T00:00:00Z", "status": "COMPLETED"}
    return [{"transaction_id": str(number), **common, **event} for number, event in enumerate(events)]


def in_transit(model: Reference) -> dict[str, int]:
    """By asset, where there is any."""
    found: dict[str, int] = defaultdict(int)
    for outcome in model.outcomes:
        for posting in outcome["postings"]:
            if posting["account"] == "transit":
                found[posting["asset"]] += units(posting["amount"])
    return {asset: total for asset, total in found.items() if total}


@RUN
@given(crossings() | farewells() | HISTORIES, MEMORIES, st.data())
def test_kernel_transfers_between_users_are_as_the_reference_has_them(
    history: list[dict[str, Any]], memory: int, data: st.DataObject
) -> None:
    """Steps come sooner or later, between any other events; what was sent is there once, or on its way."""
    machine, model, taken = Machine(memory), Reference(id_memory=memory), 0
    stuck: dict[str, int] = defaultdict(int)
    for offset, event in enumerate([*history, None]):
        if event is not None:
            expected = feed(model, offset, event)
            assert machine.feed([record(event)], offset) == [expected]
            same(machine, model)
        while taken < len(machine.sent) and (event is None or data.draw(st.booleans())):
            key, value = machine.sent[taken]
            assert model.feed("transfers", 3, taken, NOW_MS, key, value) == "applied"
            assert machine.feed([(key, value)], taken, "transfers") == ["applied"]
            same(machine, model)
            check_virtual(model, model.outcomes[-1])
            message = json.loads(value)
            if message["step"] in ("RETURN", "GRANT") and model.outcomes[-1]["status"] == "FAILED":
                stuck[message["asset"]] += units(message["amount"])
            taken += 1
        if data.draw(st.integers(0, 4)) == 0:
            machine = machine.restored()
    assert in_transit(model) == stuck
    assert not [each for each in model.ledger.transactions(3).values() if each.waits]


NOON_MS = 1_772_452_800_000
#: when holds expire, and what ticks say: around the very microsecond
EXPIRIES = st.sampled_from(
    [f"2026-03-02T12:00:00{fraction}Z" for fraction in ("", "", ".000001", ".001", ".002", ".002001")]
)
TICKS = st.sampled_from([NOON_MS + ms for ms in (-1, 0, 0, 1, 2, 3)])


@st.composite
def expirations(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Holds of two users that expire, or end before, or say something else later; (topic, event or a tick's time)."""
    common = {"wallet_id": "w1", "asset": "USD", "occurred_at": "2026-03-01T00:00:00Z"}
    about: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(("HOLD", "HOLD", "HOLD", "HOLD", "WITHDRAWAL", "FEE")))
        event = {"transaction_id": f"{number}", "user_id": draw(st.sampled_from(USERS)), "type": kind, **common}
        event["amount"] = draw(st.sampled_from(("1", "2", "10", "60")))
        event["expires_at"] = draw(mostly(draw(EXPIRIES), st.none()))
        about.append(event)
    steps: list[tuple[str, Any]] = [
        ("transactions", {**about[0], "transaction_id": f"funds-{user}", "user_id": user, "type": "DEPOSIT"})
        for user in USERS
    ]
    for _, funds in steps:
        funds.update(amount="100", status="COMPLETED")
    order = draw(st.permutations(about)) + draw(st.lists(st.sampled_from(about), max_size=20))
    for place, event in enumerate(order):
        statuses = OPEN if place < len(about) else STATUSES
        later = draw(mostly({}, st.fixed_dictionaries({"expires_at": EXPIRIES})))
        steps.append(("transactions", {**event, **later, "status": draw(st.sampled_from(statuses))}))
        steps += [("clock", tick) for tick in draw(mostly([], st.lists(TICKS, min_size=1, max_size=3)))]
    return [*steps, *(("clock", NOON_MS + ms) for ms in range(-1, draw(st.integers(0, 5))))]


@st.composite
def lives_in_time(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Wallets are opened, reset and closed while holds of theirs expire; else as `expirations`."""
    steps: list[tuple[str, Any]] = []
    for event in draw(lives()):
        if event["type"] in ("FEE", "DIVIDEND", "INTEREST", "HOLD"):
            event |= {"type": "HOLD", "amount": "1", "status": draw(mostly("PENDING", st.sampled_from(STATUSES)))}
            event["expires_at"] = draw(mostly(draw(EXPIRIES), st.none()))
        steps.append(("transactions", event))
        steps += [("clock", tick) for tick in draw(mostly([], st.lists(TICKS, min_size=1, max_size=3)))]
    return [*steps, *(("clock", NOON_MS + ms) for ms in range(-1, draw(st.integers(0, 5))))]


@RUN
@given(expirations() | lives_in_time(), MEMORIES, st.data())
def test_kernel_holds_expire_as_the_reference_has_it_in_any_batching_and_across_restores(
    steps: list[tuple[str, Any]], memory: int, data: st.DataObject
) -> None:
    machine, single, model = Machine(memory), Machine(memory), Reference(id_memory=memory)
    offset = 0
    while offset < len(steps):
        topic, n = steps[offset][0], data.draw(st.integers(1, 8))
        batch = [each for name, each in steps[offset : offset + n] if name == topic]
        batch = batch[: next((k for k, (name, _) in enumerate(steps[offset:]) if name != topic), n)]
        messages: list[tuple[Any, bytes]] = [(None, b"") if topic == "clock" else record(each) for each in batch]
        times = batch if topic == "clock" else [NOW_MS] * len(batch)
        expected = [model.feed(topic, 3, offset + k, times[k], *messages[k]) for k in range(len(batch))]
        assert machine.feed(messages, offset, topic, times) == expected
        assert [single.feed([messages[k]], offset + k, topic, times[k])[0] for k in range(len(batch))] == expected
        offset += len(batch)
        assert machine.persisted() == single.persisted()
        same(machine, model)
        check_laws(model)
        if data.draw(st.integers(0, 3)) == 0:
            machine = machine.restored()
            assert machine.persisted() == single.persisted()
    same(single, model)
    assert all(at > 1000 * steps[-1][1] for at in model.ledger.due(3).values())
