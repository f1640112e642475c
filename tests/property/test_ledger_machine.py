"""Any life of two users, who lie on two partitions, step by step: wallets, trades, transfers, time, crashes.

Partitions, checkpoints, changelogs and restores are those of a worker (`partitions.py`); the reference takes each
record when the kernels take it. Longer: `LEDGER_EXAMPLES=5000 pytest tests/property/test_ledger_machine.py`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from decimal import Context, Decimal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from assetstream.cli.audit.identities import hashes
from assetstream.cli.audit.states import Account
from assetstream.models.messages import from_micros, time_text
from assetstream.models.reference import ONE, Reference, plain
from assetstream.streams.settings import Settings
from tests.property.partitions import Partition, Record
from tests.property.test_ledger import EVENTS, STARTS, TWISTS, TYPES, check_virtual, locks, mostly, totals, units

#: where each user lies, of three partitions
HOMES = {"u1": 1, "u2": 0}
PARTITIONS = 3
#: a Monday, 12:00
START_MS = 1_772_452_800_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000

USERS, WALLETS, ASSETS = (st.sampled_from(each) for each in (("u1", "u2"), ("w1", "w1", "w2", "v1"), ("USD", "BTC")))
AMOUNTS = st.sampled_from(("10", "10", "1", "25", "60", "0.000000000000000003", "6e19"))
FEES = st.sampled_from(("0", "0", "1", "0.01"))
STATUSES = st.sampled_from((*5 * ("COMPLETED",), "PENDING", "PENDING", "PROCESSING", "CANCELLED", "FAILED"))
#: money that arrives somewhere with these steps, and is on its way until then
CARRYING = ("CREDIT", "RETURN", "GRANT")
#: what trades are in, and when they settle: at once, the next business day, the one after that
DEALS = st.sampled_from(
    (
        {"symbol": "BTC", "currency": "USD", "asset_type": "CRYPTO"},
        {"symbol": "BTC/USD", "currency": "USD", "asset_type": "STOCK", "broker": "ib"},
        {"symbol": "ACME", "currency": "USD", "asset_type": "STOCK"},
        {"symbol": "SAP", "currency": "EUR"},
        {"symbol": "USD", "currency": "USD", "broker": "ib"},
        {"symbol": "ACME", "currency": "EUR", "asset_type": "STOCK"},
    )
)
EXACT = Context(prec=60)
BOOK = ("quantity", "cost_basis", "realized_pnl", "fees")
Key = tuple[str, str, str]


class Lives(RuleBasedStateMachine):
    """What is said of transactions, and of trades, can be said again, otherwise, and of another status."""

    said, traded = Bundle("said"), Bundle("traded")

    @initialize(
        memory=st.sampled_from((1000, 1000, 1000, 4, 2)), funds=st.sampled_from(("100", "100", "99999999999999999990"))
    )
    def begin(self, memory: int, funds: str) -> None:
        found = Settings(_env_file=None, partitions=PARTITIONS, id_memory=memory)
        self.partitions = {number: Partition(number, found) for number in HOMES.values()}
        self.model = Reference(id_memory=memory, judging=False)
        self.now_ms, self.count, self.checked = START_MS, 0, 0
        #: by partition, how many steps of transfers it has taken; by asset, what is in transit for ever
        self.arrived: Counter[int] = Counter()
        self.stuck: Counter[str] = Counter()
        self.accepted: set[str] = set()
        #: what each transaction that was accepted reverses
        self.reverses: dict[tuple[str, str], str] = {}
        self.is_sound = True
        for user in HOMES:
            self.event(user, "v1", "OPEN", wallet_type="VIRTUAL", configuration={"initial_capital": "100"})
            for wallet, asset in (("w1", "USD"), ("w1", "BTC"), ("w2", "USD")):
                self.event(user, wallet, "DEPOSIT", asset=asset, amount="100")
        self.event("u2", "w1", "DEPOSIT", amount=funds)

    # ------------------------------------------------------------------------------------------------- what is said

    def event(self, user: str, wallet: str, kind: str, status: str = "COMPLETED", **fields: Any) -> dict[str, Any]:
        """A new transaction, taken at once."""
        self.count += 1
        about = {"transaction_id": str(self.count), "user_id": user, "wallet_id": wallet, "type": kind}
        event = {**about, "status": status, "asset": "USD", "occurred_at": self.time(), **fields}
        self.say("transactions", event)
        return event

    def say(self, topic: str, message: dict[str, Any]) -> str:
        """A message comes, and is taken. -> what became of it."""
        key, value = message["user_id"].encode(), json.dumps(message)
        partition = self.partitions[HOMES[message["user_id"]]]
        partition.logs[topic].append(Record(key, value.encode(), self.now_ms))
        result = self.take(partition, topic)
        if result == "applied":
            self.accepted.add(value)
            if message.get("type") == "REVERSAL":
                self.reverses[message["user_id"], message["transaction_id"]] = message["reverses"]
        return result

    def time(self, ms: float = 0) -> str:
        """That of now, and so many milliseconds later."""
        return time_text(from_micros(round((self.now_ms + ms) * 1000)))

    def take(self, partition: Partition, topic: str) -> str:
        """A partition takes its next record of an input, and so does the reference. -> what became of it."""
        self.is_sound = False
        offset, before, outcomes = partition.next(topic), dict(self.model.ledger.balances), len(self.model.outcomes)
        key, value, at = partition.logs[topic][offset]
        expected = self.model.feed(topic, partition.number, offset, at, key, value)
        assert partition.take(topic) == [expected]
        if topic == "transfers":
            self.arrived[partition.number] += 1
            step, outcome = json.loads(value), self.model.outcomes[outcomes]
            if step["step"] in ("RETURN", "GRANT") and outcome["status"] == "FAILED":
                self.stuck[step["asset"]] += units(step["amount"])
        if topic != "trades":
            after = self.model.ledger.balances
            assert all(each.available >= min(0, before.get(key, (0, 0))[0]) for key, each in after.items())
        self.is_sound = True
        return expected

    @rule(
        target=said,
        user=USERS,
        wallet=WALLETS,
        asset=ASSETS,
        amount=AMOUNTS,
        fee=FEES,
        status=STATUSES,
        kind=st.sampled_from(("DEPOSIT", "DEPOSIT", "WITHDRAWAL", "WITHDRAWAL", "FEE", "DIVIDEND", "INTEREST")),
        method=st.sampled_from((None, "card")),
    )
    def pay(self, user: str, wallet: str, kind: str, method: str | None, **fields: Any) -> dict[str, Any]:
        return self.event(user, wallet, kind, payment_method=method, **fields)

    @rule(
        target=said,
        user=USERS,
        wallet=WALLETS,
        asset=ASSETS,
        amount=AMOUNTS,
        sign=st.sampled_from(("", "-")),
        status=STATUSES,
    )
    def adjust(self, user: str, wallet: str, amount: str, sign: str, **fields: Any) -> dict[str, Any]:
        why = {"description": "d", "authorized_by": "a"}
        return self.event(user, wallet, "ADJUSTMENT", amount=sign + amount, **why, **fields)

    @rule(
        target=said,
        user=USERS,
        wallet=mostly("w1", WALLETS),
        to=mostly(None, USERS),
        other=mostly("w1", WALLETS),
        asset=mostly("USD", ASSETS),
        amount=AMOUNTS,
        fee=FEES,
        status=STATUSES,
    )
    def transfer(self, user: str, wallet: str, to: str | None, other: str, **fields: Any) -> dict[str, Any]:
        """Mostly to the other user."""
        somebody = to or ("u2" if user == "u1" else "u1")
        return self.event(user, wallet, "TRANSFER", counterparty={"user_id": somebody, "wallet_id": other}, **fields)

    @rule(
        target=said,
        user=USERS,
        wallet=WALLETS,
        asset=ASSETS,
        to_asset=ASSETS,
        amount=AMOUNTS,
        fee=FEES,
        status=STATUSES,
        rate=st.sampled_from(("2", "0.333333333333333333", "1e-18", None)),
    )
    def convert(self, user: str, wallet: str, **fields: Any) -> dict[str, Any]:
        return self.event(user, wallet, "CONVERSION", **fields)

    @rule(
        target=said,
        user=USERS,
        wallet=WALLETS,
        amount=AMOUNTS,
        status=STATUSES,
        after_ms=st.sampled_from((None, 0, 0.001, 1, HOUR_MS, DAY_MS)),
    )
    def hold(self, user: str, wallet: str, after_ms: float | None, **fields: Any) -> dict[str, Any]:
        expires_at = None if after_ms is None else self.time(after_ms)
        return self.event(user, wallet, "HOLD", expires_at=expires_at, **fields)

    @rule(target=said, of=said, status=STATUSES, twist=mostly({}, TWISTS))
    def reverse(self, of: dict[str, Any], status: str, twist: dict[str, Any]) -> dict[str, Any]:
        """Whatever became of it; also what is a reversal itself."""
        fields = {"asset": of["asset"], "amount": of.get("amount", "1").lstrip("-"), "reverses": of["transaction_id"]}
        return self.event(of["user_id"], of["wallet_id"], "REVERSAL", status, **{**fields, **twist})

    @precondition(lambda self: self.done(TYPES))
    @rule(target=said, which=st.integers(0, 20), kinds=st.sampled_from((TYPES, ("TRANSFER",))))
    def undo(self, which: int, kinds: tuple[str, ...]) -> dict[str, Any]:
        """What was COMPLETED, rather lately."""
        found = self.done(kinds) or self.done(TYPES)
        return self.reverse(found[-1 - which % len(found)], "COMPLETED", {})

    def done(self, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
        """Transactions of these types that are COMPLETED."""
        outcomes = (each for each in self.model.outcomes if "/" not in each["transaction_id"])
        return [each for each in outcomes if each["status"] == "COMPLETED" and each["type"] in kinds]

    @rule(
        user=USERS,
        wallet=WALLETS,
        kind=st.sampled_from(EVENTS),
        wallet_type=st.sampled_from(("REAL", "VIRTUAL", "MARGIN")),
        currency=st.sampled_from((None, "BTC")),
        configuration=st.none() | STARTS,
        status=mostly("COMPLETED", STATUSES),
    )
    def change_wallet(self, user: str, wallet: str, kind: str, **fields: Any) -> None:
        self.event(user, wallet, kind, **fields)

    @rule(user=USERS, wallet=mostly("w1", WALLETS))
    def leave(self, user: str, wallet: str) -> None:
        """All that can be is paid out, and the wallet closed, if that was all."""
        for (owner, name, asset), balance in list(self.model.ledger.balances.items()):
            if (owner, name) == (user, wallet) and balance.available > 0:
                self.event(user, wallet, "WITHDRAWAL", asset=asset, amount=plain(balance.available))
        self.event(user, wallet, "CLOSE")

    @rule(
        target=traded,
        user=USERS,
        wallet=WALLETS,
        deal=DEALS,
        side=st.sampled_from(("BUY", "SELL")),
        quantity=AMOUNTS,
        price=st.sampled_from(("1", "2", "0.333333333333333333", "1e10")),
        fee=st.sampled_from(("0", "1", "-0.5")),
    )
    def trade(self, user: str, wallet: str, deal: dict[str, str], **fields: Any) -> dict[str, Any]:
        self.count += 1
        about = {"trade_id": str(self.count), "user_id": user, "wallet_id": wallet, "portfolio_id": "p"}
        message = {**about, **deal, "executed_at": self.time(), **fields}
        self.say("trades", message)
        return message

    @rule(target=said, event=said, status=STATUSES, twist=mostly({}, TWISTS))
    def go_on(self, event: dict[str, Any], status: str, twist: dict[str, Any]) -> dict[str, Any]:
        """Another status of a transaction, or the same one; mostly with the same terms."""
        again = {**event, "status": status, **twist}
        if not self.is_forgotten(again):
            self.say("transactions", again)
        return again

    @rule(event=said)
    def repeat_event(self, event: dict[str, Any]) -> None:
        self.repeat("transactions", event)

    @rule(trade=traded, twist=st.sampled_from(({}, {"quantity": "7"}, {"wallet_id": "w2"}, {"fee": "6e19"})))
    def repeat_trade(self, trade: dict[str, Any], twist: dict[str, str]) -> None:
        self.repeat("trades", {**trade, **twist})

    def repeat(self, topic: str, message: dict[str, Any]) -> None:
        """What was accepted is a duplicate for ever, as long as it is remembered."""
        if topic == "transactions" and self.is_forgotten(message):
            return
        was_accepted = json.dumps(message) in self.accepted
        result = self.say(topic, message)
        assert result == "duplicate" or not was_accepted or self.model.id_memory < 1000

    def is_forgotten(self, event: dict[str, Any]) -> bool:
        """Whether it is a transfer that was forgotten: one that comes again could be refused twice under one id, which
        the kernel remembers twice, and the reference once."""
        identity = event["user_id"], event["transaction_id"]
        remembered = self.model.remembered("transactions", HOMES[event["user_id"]])
        return event["type"] == "TRANSFER" and identity not in remembered

    # ------------------------------------------------------------------------------------------------ what happens

    @rule(ms=st.sampled_from((1, HOUR_MS, DAY_MS, 3 * DAY_MS)))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(user=USERS)
    def tick(self, user: str) -> None:
        """One that another worker has written; it may find nothing."""
        self.partitions[HOMES[user]].logs["clock"].append(Record(None, b"{}", self.now_ms))

    @rule(user=USERS, then=st.integers(0, 3))
    def checkpoint(self, user: str, then: int = 0) -> None:
        """What a partition did is published, and what is due gets a tick; some of it arrives at once."""
        for number, key, value in self.partitions[HOMES[user]].checkpoint(self.now_ms):
            assert number == HOMES[key.decode()]
            self.partitions[number].logs["transfers"].append(Record(key, value, self.now_ms))
        self.check_published(self.partitions[HOMES[user]])
        for place in self.on_the_way()[:then]:
            self.take(*place)

    def on_the_way(self) -> list[tuple[Partition, str]]:
        """Inputs of which there is something still to take."""
        places = [(each, topic) for each in self.partitions.values() for topic in ("transfers", "clock")]
        return [(each, topic) for each, topic in places if each.waiting(topic)]

    @precondition(lambda self: self.on_the_way())
    @rule(place=st.integers(0, 3))
    def arrive(self, place: int) -> None:
        found = self.on_the_way()
        self.take(*found[place % len(found)])

    @rule(user=USERS)
    def crash(self, user: str) -> None:
        self.partitions[HOMES[user]].crash()

    # -------------------------------------------------------------------------------------------------------- laws

    @invariant()
    def state_is_that_of_the_reference(self) -> None:
        balances, wallets, books = {}, {}, {}
        for number, partition in self.partitions.items():
            found = Account(partition.state)
            balances |= found.balances()
            wallets |= found.wallets()
            books |= {key: tuple(each[name] for name in BOOK) for key, each in found.positions().items()}
            ids = found.remembered("transactions")
            remembered = set(zip(ids["id_lo"].tolist(), ids["id_hi"].tolist(), strict=True))
            assert remembered == set(hashes(self.model.remembered("transactions", number)))
            assert found.due() == self.model.ledger.due(number)
        assert balances == self.model.ledger.balances
        assert wallets == {key: wallet.plain() for key, wallet in self.model.ledger.wallets.items()}
        assert books == {
            (*key, symbol): position.book
            for key, portfolio in self.model.portfolios.items()
            for symbol, position in portfolio.positions.items()
        }

    @invariant()
    def all_that_moved_adds_up(self) -> None:
        trades = [{"postings": legs} for _, legs in self.model.settled_postings]
        moved, locked = totals([*self.model.outcomes, *trades]), locks(self.model.outcomes)
        for key, amount in self.unsettled().items():
            locked[key] += amount
        for key, balance in self.model.ledger.balances.items():
            assert balance.available + balance.locked == moved.get(key, 0)
            assert balance.locked == locked.get(key, 0) >= 0
        assert self.model.ledger.balances.keys() >= moved.keys()

    def unsettled(self) -> Counter[Key]:
        """What trades have locked, by what was told of their settlement."""
        found: Counter[Key] = Counter()
        for each in self.model.settlements:
            is_end = each["cause"]["topic"] == "clock"
            if each["status"] == "PENDING" or is_end:
                asset, amount = ("currency", "amount") if each["side"] == "SELL" else ("asset", "quantity")
                key = each["user_id"], each["wallet_id"], each[asset]
                found[key] += (-1 if is_end else 1) * units(each[amount])
        return found

    @invariant()
    def every_entry_is_double(self) -> None:
        for outcome in self.model.outcomes[self.checked :]:
            check_virtual(self.model, outcome)
            balance = {name: units(amount) for name, amount in outcome["balance"].items()}
            assert balance["total"] == balance["available"] + balance["locked"]
            assert not outcome["postings"] or (outcome["status"], outcome["code"]) == ("COMPLETED", None)
        self.checked = len(self.model.outcomes)
        for legs in self.legs():
            sums: Counter[str] = Counter()
            for leg in legs:
                assert units(leg["amount"]) != 0
                sums[leg["asset"]] += units(leg["amount"])
            assert not any(sums.values())

    def legs(self) -> list[list[dict[str, str]]]:
        """Of each outcome, and of each trade."""
        return [each["postings"] for each in self.model.outcomes] + [legs for _, legs in self.model.settled_postings]

    @invariant()
    def transit_is_what_is_on_its_way(self) -> None:
        there: Counter[str] = Counter(self.stuck)
        for number in self.partitions:
            steps = [each for each in self.model.ledger.sent if HOMES[each["user_id"]] == number]
            for step in steps[self.arrived[number] :]:
                if step["step"] in CARRYING:
                    there[step["asset"]] += units(step["amount"])
        assert self.in_transit() == {asset: amount for asset, amount in there.items() if amount}

    def in_transit(self) -> dict[str, int]:
        """By asset, where there is any."""
        found: Counter[str] = Counter()
        for legs in self.legs():
            for leg in legs:
                if leg["account"] == "transit":
                    found[leg["asset"]] += units(leg["amount"])
        return {asset: amount for asset, amount in found.items() if amount}

    @invariant()
    def a_reversal_undoes_exactly_and_once(self) -> None:
        """As long as all is remembered; a reversal itself is never reversed."""
        if self.model.id_memory < 1000:
            return
        done: dict[tuple[str, str], dict[str, Any]] = {}
        undone: set[tuple[str, str]] = set()
        for outcome in self.model.outcomes:
            identity = outcome["user_id"], outcome["transaction_id"]
            if outcome["status"] != "COMPLETED":
                continue
            done[identity] = outcome
            if outcome["type"] == "REVERSAL" and "/" not in identity[1]:
                original = identity[0], self.reverses[identity]
                assert original not in undone
                undone.add(original)
                assert done[original]["type"] != "REVERSAL"
                left: Counter[tuple[str, str]] = Counter()
                for leg in [*done[original]["postings"], *outcome["postings"]]:
                    left[leg["account"], leg["asset"]] += units(leg["amount"])
                assert not any(left.values())

    def check_published(self, partition: Partition) -> None:
        """All that a partition has done by its last checkpoint was published, as the reference has it."""
        model, number = self.model, partition.number
        outcomes = [(k, each) for k, each in enumerate(model.outcomes) if each["cause"]["partition"] == number]
        assert partition.outcomes == [each for _, each in outcomes]
        # what ticks settled is told after what trades did
        told = [each for each in model.settlements if each["cause"]["partition"] == number]
        assert sorted(partition.settlements, key=lambda each: each["journal"]) == told
        assert partition.sent == [each for each in model.ledger.sent if HOMES[each["other_user_id"]] == number]
        changes = [each for each in model.balance_changes if each["cause"]["partition"] == number]
        settled = partition.rows["settlements"]
        rows = [*partition.rows["balance_changes"], *(change for each in settled for change in changes_of_event(each))]
        assert Counter(map(change_of_row, rows)) == Counter(map(change_of, changes))
        sequences = [model.ledger.sequences[k] for k, _ in outcomes]
        assert sorted(row["balance_sequence"] for row in partition.rows["transactions"]) == sorted(sequences)
        entries = [(each["user_id"], each["transaction_id"], each["postings"]) for _, each in outcomes]
        assert Counter(
            (row["user_id"], row["transaction_id"], row["entry"], row["account"], row["asset"], units_of(row["amount"]))
            for row in partition.rows["ledger_entries"]
        ) == Counter(
            (user, identity, entry, leg["account"], leg["asset"], units(leg["amount"]))
            for user, identity, legs in entries
            for entry, leg in enumerate(legs)
        )
        # what the postings of a trade are follows from its event: tests/unit/test_schema.py
        trades = [(each, legs) for each, legs in model.settled_postings if each["cause"]["partition"] == number]
        assert Counter(
            (row["user_id"], row["trade_id"], row["is_booked"], row["is_virtual"])
            for row in settled
            if row["source_topic"] == "trades"
        ) == Counter(
            (each["user_id"], each["trade_id"], bool(legs), any(leg["account"] == "virtual" for leg in legs))
            for each, legs in trades
        )

    # --------------------------------------------------------------------------------------------------------- end

    def teardown(self) -> None:
        """All arrives, then all that is due is done; nothing is left on its way or waiting, whatever crashes."""
        if not getattr(self, "is_sound", False):
            return
        self.come_to_rest()
        assert self.in_transit() == {asset: amount for asset, amount in self.stuck.items() if amount}
        assert not [
            each for number in self.partitions for each in self.model.ledger.transactions(number).values() if each.waits
        ]
        self.now_ms += 30 * DAY_MS
        self.come_to_rest()
        assert not any(self.unsettled().values())
        assert not [each for number in self.partitions for each in self.model.ledger.due(number)]
        for user in HOMES:
            self.crash(user)
        self.state_is_that_of_the_reference()
        self.all_that_moved_adds_up()
        self.every_entry_is_double()
        self.a_reversal_undoes_exactly_and_once()

    def come_to_rest(self) -> None:
        """Until nobody has anything more to say."""
        while True:
            for user in HOMES:
                self.checkpoint(user)
            if not self.on_the_way():
                return
            for place in self.on_the_way():
                self.take(*place)


def units_of(amount: Decimal) -> int:
    """In units of 10^-18, never rounded."""
    numerator, denominator = amount.as_integer_ratio()
    return numerator * ONE // denominator


_CHANGE = ("user_id", "wallet_id", "asset", "transaction_id", "sequence")
_HELD = ("total", "available", "locked")


def changes_of_event(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What a row of `settlements` says of balances, as rows of `balance_changes`."""
    said = {**row, "transaction_id": f"{row['user_id']}/{row['trade_id']}"}
    return [
        {
            **said,
            "asset": row[place],
            "sequence": row[f"{name}_sequence"],
            "total": EXACT.add(row[f"{name}_available"], row[f"{name}_locked"]),
            "available": row[f"{name}_available"],
            "locked": row[f"{name}_locked"],
        }
        for name, place in (("cash", "currency"), ("asset", "asset"))
        if row[f"{name}_sequence"] is not None
    ]


def change_of_row(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row of `balance_changes`."""
    named, amounts = [row[name] for name in _CHANGE], [units_of(row[name]) for name in _HELD]
    return (*named, *amounts, time_text(row["occurred_at"]), row["source_topic"], row["source_offset"])


def change_of(change: dict[str, Any]) -> tuple[Any, ...]:
    """The same of a change of the reference."""
    named, amounts = [change[name] for name in _CHANGE], [units(change[name]) for name in _HELD]
    return (*named, *amounts, change["occurred_at"], change["cause"]["topic"], change["cause"]["offset"])


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=int(os.environ.get("LEDGER_EXAMPLES", "100")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
