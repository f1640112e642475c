"""Wallets themselves in the reference model: what OPEN, CLOSE, RESET and CONFIGURE do, and whom a wallet lets in.

Standard library only, and nothing shared with the code it judges; "Reading:" as in `reference`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

EVENTS = ("OPEN", "CLOSE", "RESET", "CONFIGURE")


@dataclass
class Wallet:
    """One wallet. `status` is "" until it is opened: an OPEN that isn't COMPLETED opens none."""

    currency: str
    type: str = "REAL"
    status: str = ""
    resets: int = 0
    #: what it begins with, (asset, amount): the capital, then the allocation by asset
    grants: list[tuple[str, int]] = field(default_factory=list)
    #: of its balances, the one that was opened first first
    assets: list[str] = field(default_factory=list)

    @property
    def is_closed(self) -> bool:
        return self.status == "CLOSED"

    @property
    def is_virtual(self) -> bool:
        return self.type == "VIRTUAL"

    def plain(self) -> dict[str, Any]:
        """What is to be remembered of it."""
        told = {"type": self.type, "currency": self.currency, "status": self.status, "resets": self.resets}
        return {**told, "grants": list(self.grants)}

    def after(self, m: dict[str, Any]) -> Wallet:
        """The wallet when event `m` is done."""
        kind, after = m["type"], replace(self)
        if kind == "OPEN":
            after.status, after.type = "OPEN", m["wallet_type"]
            after.currency = m["currency"] or self.currency
        if kind in ("OPEN", "CONFIGURE"):
            after.grants = granted(m["configuration"], after.currency)
        if kind == "CLOSE":
            after.status = "CLOSED"
        if kind == "RESET":
            after.resets += 1
        return after


def granted(configuration: dict[str, Any], currency: str) -> list[tuple[str, int]]:
    """What a configuration lets a wallet of this currency begin with."""
    grants = [(currency, configuration["initial_capital"]), *sorted(configuration["allocation"].items())]
    return [(asset, amount) for asset, amount in grants if amount]


def objection(m: dict[str, Any], wallet: Wallet, held: list[tuple[int, int]]) -> str | None:
    """Why event `m` of a wallet can't be done; `held` are its balances, (available, locked).

    Reading: PENDING and PROCESSING do nothing, so only a closed wallet is an objection to them.
    """
    kind, status = m["type"], m["status"]
    if kind != "OPEN" and wallet.is_closed and status in ("PENDING", "PROCESSING", "COMPLETED"):
        return "WALLET_CLOSED"
    if status != "COMPLETED":
        return None
    grants = kind in ("OPEN", "CONFIGURE") and granted(m["configuration"], "")
    refused = {
        "OPEN": wallet.status != "" or (grants and m.get("wallet_type") != "VIRTUAL"),
        "CLOSE": any(available or locked for available, locked in held),
        # Reading: what is to be emptied has to fit into one outcome.
        "RESET": not wallet.is_virtual or any(locked for _, locked in held) or sum(map(any, held)) > 1000,
        "CONFIGURE": grants and not wallet.is_virtual,
    }
    return "NOT_ALLOWED" if refused[kind] else None
