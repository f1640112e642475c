"""How many decimals amounts of an asset have, for installations that hold publishers to it.

Of currencies ISO 4217 says it (minor units; the list of its maintenance agency comes with the package `iso4217`), of
crypto assets their protocol: the smallest unit that a ledger of theirs knows. Everything else has 18.
"""

from __future__ import annotations

from collections.abc import Mapping

from assetstream.models.documents import read_document

#: decimals of an asset that nothing is known of
MOST = 18
#: asset → decimals; what isn't in it has MOST
Precision = Mapping[str, int]

#: smallest units: satoshi, wei, litoshi, koinu, drop, lamport, lovelace, planck, stroop, sun, piconero, uatom; of
#: tokens what their contracts on Ethereum say
CRYPTO = {
    "BTC": 8,
    "BCH": 8,
    "LTC": 8,
    "DOGE": 8,
    "ETH": 18,
    "BNB": 18,
    "DAI": 18,
    "LINK": 18,
    "USDC": 6,
    "USDT": 6,
    "WBTC": 8,
    "XRP": 6,
    "SOL": 9,
    "ADA": 6,
    "DOT": 10,
    "XLM": 7,
    "TRX": 6,
    "XMR": 12,
    "ATOM": 6,
}


class PrecisionError(ValueError):
    """A file of decimals that isn't one: the file, and what is wrong in it."""


def iso4217() -> Precision:
    """Currencies by their minor units, those without any (XAU, XDR) left out; and CRYPTO."""
    from iso4217 import Currency  # it reads an XML file

    return {each.code: each.exponent for each in Currency if each.exponent is not None} | CRYPTO


def read_precision(text: str, name: str) -> Precision:
    """The decimals that a TOML file says, or a JSON one when its `name` ends so: `USD = 2`. Raises PrecisionError."""
    found = read_document(text, name, PrecisionError)
    if not isinstance(found, dict):
        raise PrecisionError(f"{name}: not an object, asset to decimals")
    for asset, decimals in found.items():
        if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= MOST:
            raise PrecisionError(f"{name}: {asset}: must be a number of decimals from 0 to {MOST}, got {decimals!r}")
    return found
