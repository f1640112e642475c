"""Outcomes of wallet events as the messages of `asset_transactions`, and the names of the accounts they post to."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assetstream.models.encode import names_of
from assetstream.models.encode_outcomes import encode_outcomes
from assetstream.models.outputs import Account
from assetstream.models.state import text

if TYPE_CHECKING:
    from assetstream.models.clock import DueBatch
    from assetstream.models.decode import TransactionBatch, TransferBatch
    from assetstream.models.state import AccountState


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
    accounts, assets = (names_of([leg[k].encode() for leg in legs]) for k in range(2))
    data, ends = encode_outcomes(batch, outcomes, postings, accounts, assets, partition)
    written, bounds = data.tobytes(), [0, *ends.tolist()]
    return [written[start:end] for start, end in pairwise(bounds)]
