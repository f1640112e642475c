"""Ids as the state remembers them: their hashes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from assetstream.models.siphash import hash_bytes


def hashes(ids: Iterable[Sequence[str]]) -> list[tuple[int, int]]:
    """(lo, hi) of each id: (user, trade) or (user, transaction)."""
    return [_hash(b"".join(map(_words, each))) for each in ids]


def _words(text: str) -> bytes:
    """16 bits of the length + 1, the bytes, zeros up to a whole word."""
    head = struct.pack("<H", len(text) + 1) + text.encode()
    return head + bytes(-len(head) % 8)


def _hash(data: bytes) -> tuple[int, int]:
    lo, hi = hash_bytes(np.frombuffer(data, np.uint8))
    return int(lo), int(hi)
