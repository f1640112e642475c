"""Outcomes of wallet events as the messages of `asset_transactions`.

Free text (a payment method) needs JSON's escapes, and events come a thousand times rarer than fills, so this is Python.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from assetstream.models.decimals import texts_of
from assetstream.models.encode import Encoded
from assetstream.models.messages import TransactionType, from_micros, time_text
from assetstream.models.outputs import Account, Code, decimal_column

if TYPE_CHECKING:
    from assetstream.models.decode import TransactionBatch


_TYPES = [kind.name for kind in TransactionType]  # by code


def encode_outcomes(
    batch: TransactionBatch, outcomes: np.ndarray, postings: np.ndarray, partition: np.ndarray
) -> Encoded:
    """`asset_transactions` of OUTCOME rows and their POSTING rows; `partition` int[n] of each message of the batch."""
    legs: dict[int, list[dict[str, str]]] = {}
    amounts = texts_of(decimal_column(postings, "amount"))
    for message, account, amount in zip(
        postings["message"].tolist(), postings["account"].tolist(), amounts, strict=True
    ):
        leg = {"account": _account(batch, message, account), "asset": _text(batch, 3, message), "amount": amount}
        legs.setdefault(message, []).append(leg)
    message = outcomes["message"]
    columns = zip(
        message.tolist(),
        batch.type[message].tolist(),
        texts_of(batch.amount[message]),
        texts_of(batch.fee[message]),
        outcomes["failed"].tolist(),
        outcomes["code"].tolist(),
        texts_of(decimal_column(outcomes, "total")),
        texts_of(decimal_column(outcomes, "available")),
        texts_of(decimal_column(outcomes, "locked")),
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
            "status": "FAILED" if failed else "COMPLETED",
            "code": Code(code).name if code else None,
            "balance": {"total": total, "available": available, "locked": locked},
            "postings": legs.get(i, []),
            "occurred_at": time_text(from_micros(int(batch.occurred_at[i]))),
            "cause": {
                "topic": batch.records.topic,
                "partition": int(partition[i]),
                "offset": int(batch.records.offset[i]),
            },
        }
        for i, kind, amount, fee, failed, code, total, available, locked in columns
    ]
    values = [json.dumps(each, separators=(",", ":"), ensure_ascii=False).encode() for each in made]
    ends = np.cumsum([len(value) for value in values], dtype=np.int64)
    return np.frombuffer(b"".join(values), np.uint8), ends


def _account(batch: TransactionBatch, i: int, account: int) -> str:
    """The full name of an account of event `i`."""
    if account == Account.WALLET:
        return f"wallet:{_text(batch, 1, i)}/{_text(batch, 2, i)}"
    if account == Account.EXTERNAL:
        return f"external:{_text(batch, 5, i) or 'unspecified'}"
    return "fees"


def _text(batch: TransactionBatch, field: int, i: int) -> str:
    """Text `field` (of TRANSACTION_TEXT) of event `i`; empty when null."""
    at, size = int(batch.text_at[field, i]), int(batch.text_len[field, i])
    return batch.data[at : at + max(size, 0)].tobytes().decode()
