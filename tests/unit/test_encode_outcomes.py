"""Outcomes as they are published: the very bytes of one, and free text that JSON has to escape."""

from __future__ import annotations

import json

import pytest

from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import apply_transactions
from assetstream.models.outcomes import legs_of, outcome_values
from assetstream.models.records import records_of
from assetstream.models.state import new_account_state


def published(**fields: str) -> bytes:
    """The outcome of a deposit."""
    event = {
        "transaction_id": "d",
        "user_id": "ann",
        "wallet_id": "w",
        "type": "DEPOSIT",
        "status": "COMPLETED",
        "asset": "USD",
        "amount": "10.50",
        "fee": "0.5",
        "occurred_at": "2026-03-02T10:00:00+01:00",
        **fields,
    }
    records = records_of("eu-transactions", 3, [(b"ann", json.dumps(event).encode())], 12, 1_800_000_000_000)
    batch = decode_transactions(records, 0)
    result = apply_transactions(new_account_state(b"USD", 10), batch)
    legs = legs_of(result.state, result.postings)
    (value,) = outcome_values(batch, result.outcomes, result.postings, legs, 3)
    return value


def test_the_bytes_of_an_outcome() -> None:
    assert published() == (
        b'{"transaction_id":"d","user_id":"ann","wallet_id":"w","type":"DEPOSIT","asset":"USD","amount":"10.5","fee":"0.5",'
        b'"status":"COMPLETED","code":null,"balance":{"total":"10","available":"10","locked":"0"},"postings":['
        b'{"account":"wallet:ann/w","asset":"USD","amount":"10"},{"account":"fees","asset":"USD","amount":"0.5"},'
        b'{"account":"external:unspecified","asset":"USD","amount":"-10.5"}],'
        b'"occurred_at":"2026-03-02T09:00:00.000000Z",'
        b'"cause":{"topic":"eu-transactions","partition":3,"offset":12}}'
    )


@pytest.mark.parametrize("method", ["", 'M"üller\\', "\0\x1f\n\t\x7f", "€ 😀", 1024 * "\x01", 1024 * "\U0001f600"])
def test_a_payment_method_is_any_text(method: str) -> None:
    accounts = [posting["account"] for posting in json.loads(published(payment_method=method))["postings"]]
    assert accounts == ["wallet:ann/w", "fees", f"external:{method}"]
