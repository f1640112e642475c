"""SipHash-1-3-128 against a plain Python SipHash, which is itself held against the published vectors."""

import random
import struct

import numpy as np
import pytest
from numba import njit

from assetstream.models.siphash import KEY, absorb, absorb_text, finish, hash_bytes, start
from assetstream.models.spans import window

MASK = (1 << 64) - 1


def plain_siphash(data: bytes, key: tuple[int, int], compress: int, finalize: int, wide: bool) -> tuple[int, ...]:
    """SipHash-compress-finalize of the paper, 64 or 128 bits, as (lo,) or (lo, hi)."""
    v = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]
    if wide:
        v[1] ^= 0xEE

    def rotate(x: int, n: int) -> int:
        return (x << n | x >> (64 - n)) & MASK

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    tail = len(data) % 8
    padded = data + bytes(7 - tail) + bytes([len(data) & 255])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(compress)
        v[0] ^= word
    v[2] ^= 0xEE if wide else 0xFF
    rounds(finalize)
    lo = v[0] ^ v[1] ^ v[2] ^ v[3]
    if not wide:
        return (lo,)
    v[1] ^= 0xDD
    rounds(finalize)
    return lo, v[0] ^ v[1] ^ v[2] ^ v[3]


PAPER_KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)


def test_the_plain_one_gives_the_published_vectors() -> None:
    # the example of the paper's appendix A, and the first and last of the reference code's 128-bit vectors
    assert plain_siphash(bytes(range(15)), PAPER_KEY, 2, 4, wide=False) == (0xA129CA6149BE45E5,)
    lo, hi = plain_siphash(b"", PAPER_KEY, 2, 4, wide=True)
    assert struct.pack("<QQ", lo, hi).hex() == "a3817f04ba25a8e66df67214c7550293"
    lo, hi = plain_siphash(bytes(range(63)), PAPER_KEY, 2, 4, wide=True)
    assert struct.pack("<QQ", lo, hi).hex() == "5150d1772f50834a503e069a973fbd7c"


@pytest.mark.parametrize("size", [*range(34), 255, 256, 257, 1000])
def test_spans_hash_like_the_plain_one(size: int) -> None:
    data = random.Random(size).randbytes(size)
    # alone in its buffer, so that loads of eight bytes would run over its end
    assert hash_bytes(np.frombuffer(data, np.uint8)) == plain_siphash(data, KEY, 1, 3, wide=True)


@njit
def _hash_texts(data, at, size, pad):  # type: ignore[no-untyped-def]
    state = start()
    buffer = window(data)
    for i in range(len(at)):
        state = absorb_text(state, buffer, at[i], size[i])
    return finish(absorb(state, np.uint64(pad)))


def canonical(texts: list[bytes | None], number: int) -> bytes:
    """The documented words: 16 bits of length + 1, the bytes, zeros up to a whole word."""
    parts = []
    for text in texts:
        head = b"\0\0" if text is None else struct.pack("<H", len(text) + 1) + text
        parts.append(head + bytes(-len(head) % 8))
    return b"".join(parts) + struct.pack("<Q", number)


@pytest.mark.parametrize("after", [b"", b"x" * 20], ids=["at the end", "in the middle"])
@pytest.mark.parametrize("size", [*range(26), 1024, 4096])
def test_texts_and_words_hash_as_their_canonical_bytes(size: int, after: bytes) -> None:
    text = random.Random(size).randbytes(size)
    data = np.frombuffer(b"abc" + text + after, np.uint8)
    got = _hash_texts(data, np.array([0, 0, 3]), np.array([3, -1, size]), 77)
    assert got == plain_siphash(canonical([b"abc", None, text], 77), KEY, 1, 3, wide=True)


def test_the_key_never_changes() -> None:
    # what lies in changelogs was hashed with it
    key = (0x7465737361010101, 0x6D61657274737361)
    assert hash_bytes(np.frombuffer(b"trade", np.uint8)) == plain_siphash(b"trade", key, 1, 3, wide=True)
