"""Dead letters: every rejected message, whole, with a reason its publisher can act on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from assetstream.models.records import Records
from assetstream.models.verdicts import Verdict

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rejected(NamedTuple):
    """The rejected records of one batch.

    message int64[n]: their indexes in `records`; verdict uint8[n]; detail: of each, names the field and what was wrong;
    rejected_at int64[n], microseconds UTC.
    """

    records: Records
    message: np.ndarray
    verdict: np.ndarray
    detail: list[str]
    rejected_at: np.ndarray


#: what the kernels' own rejections mean, for `detail`; decode's details are more specific
DETAILS = {
    Verdict.OUT_OF_RANGE: "the notional or a resulting amount reaches 10^20",
    Verdict.KEY_MISMATCH: "the message key is not the {key}",
    Verdict.CONFLICT: "the id was seen before with another body",
    Verdict.CURRENCY_MISMATCH: "currency differs from that of the first accepted message of this {subject}",
    Verdict.ILLEGAL_TRANSITION: "status can't follow the one the transaction has",
}


def rejected(
    records: Records, verdict: np.ndarray, details: dict[int, str], now_us: int, by_symbol: bool
) -> Rejected | None:
    """The rejections among a batch's final verdicts, None when there are none; `details` as decode gave them."""
    message = np.flatnonzero(verdict >= Verdict.MALFORMED)
    if len(message) == 0:
        return None
    words = {"key": "symbol" if by_symbol else "user_id", "subject": "symbol" if by_symbol else "position"}
    detail = [details.get(int(i)) or DETAILS.get(Verdict(int(verdict[i])), "").format(**words) for i in message]
    return Rejected(records, message, verdict[message], detail, np.full(len(message), now_us, np.int64))


def encode(letters: Rejected) -> Iterator[tuple[bytes | None, bytes]]:
    """(key, value) of each as published."""
    records = letters.records
    for i, verdict, detail, at in zip(
        letters.message, letters.verdict, letters.detail, letters.rejected_at, strict=True
    ):
        offset, key = int(records.offset[i]), records.key(i)
        body = {
            "dead_letter_id": f"{records.topic}-{records.partition}-{offset}",
            "topic": records.topic,
            "partition": records.partition,
            "offset": offset,
            "key": _base64(key),
            "value": _base64(records.value(i)),
            "reason": Verdict(int(verdict)).reason,
            "detail": detail,
            "rejected_at": _time(int(at)),
        }
        yield key, json.dumps(body, separators=(",", ":")).encode()


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _time(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
