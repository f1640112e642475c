"""Outcomes of wallet events as the messages of `asset_transactions`, and the names of the accounts they post to.

Free text (a payment method) needs JSON's escapes, and events come a thousand times rarer than fills, so this is Python.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.decimals import texts_of
from assetstream.models.messages import TransactionStatus, TransactionType, WalletType, codes, from_micros, time_text
from assetstream.models.outputs import NO_TIME, Account, Code, decimal_column
from assetstream.models.state import text

if TYPE_CHECKING:
    from assetstream.models.clock import DueBatch
    from assetstream.models.decode import TransactionBatch, TransferBatch
    from assetstream.models.state import AccountState


_CONVERSION = TransactionType.CONVERSION.code
_TYPES, _STATUSES, _WALLET_TYPES = codes(TransactionType), codes(TransactionStatus), codes(WalletType)
#: accounts that are one for all
_COMMON = {account: account.name.lower() for account in Account}


class BalanceName(NamedTuple):
    """Whose balance of what."""

    user_id: str
    wallet_id: str
    asset: str


class Leg(NamedTuple):
    """The account and the asset of a posting."""

    account: str
    asset: str


def balance_names(state: AccountState, balances: np.ndarray) -> list[BalanceName]:
    """The names of balance rows, int[n]."""
    found: dict[int, BalanceName] = {}
    for number in set(balances.tolist()):
        row = state.balances.rows[number]
        wallet = state.wallets.rows[row["wallet"]]
        found[number] = BalanceName(*(text(state, int(n)) for n in (wallet["user"], wallet["wallet"], row["asset"])))
    return [found[number] for number in balances.tolist()]


def legs_of(state: AccountState, postings: np.ndarray) -> list[Leg]:
    """Account and asset of POSTING rows."""
    names = balance_names(state, postings["balance"])
    methods = {number: method_of(state, number) for number in set(postings["method"].tolist())}
    made = []
    for name, account, method in zip(names, postings["account"].tolist(), postings["method"].tolist(), strict=True):
        if account == Account.WALLET:
            made.append(Leg(f"wallet:{name.user_id}/{name.wallet_id}", name.asset))
        elif account == Account.EXTERNAL:
            made.append(Leg(f"external:{methods[method]}", name.asset))
        else:
            made.append(Leg(_COMMON[account], name.asset))
    return made


def method_of(state: AccountState, number: int) -> str:
    """The free text of row `number` of methods; −1: `unspecified`."""
    if number < 0:
        return "unspecified"
    row = state.methods.rows[number]
    first, size = int(row["first"]), int(row["size"])
    return state.words.rows[first : first + (size + 7) // 8].tobytes()[:size].decode()


def outcome_values(
    batch: TransactionBatch | TransferBatch | DueBatch,
    outcomes: np.ndarray,
    postings: np.ndarray,
    legs: list[Leg],
    partition: int,
) -> list[bytes]:
    """The messages of OUTCOME rows of a partition's batch; `legs` are those of its POSTING rows."""
    posted: dict[int, list[dict[str, str]]] = {}
    amounts = texts_of(decimal_column(postings, "amount"))
    for message, leg, amount in zip(postings["message"].tolist(), legs, amounts, strict=True):
        posted.setdefault(message, []).append({"account": leg.account, "asset": leg.asset, "amount": amount})
    message = outcomes["message"]
    columns = zip(
        message.tolist(),
        batch.type[message].tolist(),
        texts_of(batch.amount[message]),
        texts_of(batch.fee[message]),
        outcomes["status"].tolist(),
        outcomes["code"].tolist(),
        texts_of(decimal_column(outcomes, "total")),
        texts_of(decimal_column(outcomes, "available")),
        texts_of(decimal_column(outcomes, "locked")),
        outcomes["tells"].tolist(),
        outcomes["resets"].tolist(),
        outcomes["journal"].tolist(),
        strict=True,
    )
    made = [
        {
            "transaction_id": _text(batch, 0, i),
            "user_id": _text(batch, 1, i),
            "wallet_id": _text(batch, 2, i),
            "type": _TYPES[kind],
            "asset": _text(batch, 3, i),
            "amount": amount,
            "fee": fee,
            "status": _STATUSES[status],
            "code": Code(code).name if code else None,
            "balance": {"total": total, "available": available, "locked": locked},
            "postings": posted.get(i, []),
            **({"wallet_type": _WALLET_TYPES[tells - 1], "resets": resets} if tells else {}),
            "occurred_at": time_text(from_micros(int(batch.occurred_at[i]))),
            "journal": journal,
            "cause": {"topic": batch.records.topic, "partition": partition, "offset": int(batch.records.offset[i])},
        }
        for i, kind, amount, fee, status, code, total, available, locked, tells, resets, journal in columns
    ]
    for k in np.flatnonzero(batch.type[message] == _CONVERSION).tolist():
        made[k] |= _rate(outcomes[k : k + 1])
    return [json.dumps(each, separators=(",", ":"), ensure_ascii=False).encode() for each in made]


def _rate(outcome: np.ndarray) -> dict[str, str | None]:
    """At what a conversion was done, of one OUTCOME row; nulls when it wasn't."""
    rate, spread = (texts_of(decimal_column(outcome, name))[0] for name in ("rate", "spread_bps"))
    if rate == "0":
        return {"rate": None, "rate_as_of": None, "spread_bps": None}
    as_of = int(outcome["rate_as_of"][0])
    return {
        "rate": rate,
        "rate_as_of": None if as_of == NO_TIME else time_text(from_micros(as_of)),
        "spread_bps": spread,
    }


def _text(batch: TransactionBatch | TransferBatch | DueBatch, field: int, i: int) -> str:
    """Text `field` (of TRANSACTION_TEXT) of event `i`, which has it."""
    at, size = int(batch.text_at[field, i]), int(batch.text_len[field, i])
    return batch.data[at : at + size].tobytes().decode()
