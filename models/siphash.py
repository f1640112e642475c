"""SipHash-1-3 with 128 bits, over spans of bytes and over words: the identity and the body of a message as hashes.

The key is a constant: hashes live in changelogs and must mean the same to every worker, for ever. The hash is of
what a publisher controls, so it is a keyed one of 128 bits: a collision is not to be expected, even on purpose by
anyone who doesn't know this file, and one would only make a message a false duplicate or conflict of its own user.

A body is hashed as a run of 64-bit words, `state = start(); state = absorb(state, word); …; lo, hi = finish(state)`:
the result is SipHash-1-3-128 of these words' bytes, little-endian.
Algorithm: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; 128 bits as in their reference code.
"""

from __future__ import annotations

import numpy as np

from assetstream.models.spans import Window, kernel, load64, load_up_to_8, window

KEY = (0x7465737361010101, 0x6D61657274737361)

# v0 … v3 and the number of bytes so far
State = tuple[int, int, int, int, int]

_V0 = np.uint64(KEY[0] ^ 0x736F6D6570736575)
_V1 = np.uint64(KEY[1] ^ 0x646F72616E646F6D ^ 0xEE)
_V2 = np.uint64(KEY[0] ^ 0x6C7967656E657261)
_V3 = np.uint64(KEY[1] ^ 0x7465646279746573)


@kernel
def _rotate(x, n):  # type: ignore[no-untyped-def]
    return (x << np.uint64(n)) | (x >> np.uint64(64 - n))


@kernel
def _round(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    v0 += v1
    v2 += v3
    v1 = _rotate(v1, 13) ^ v0
    v3 = _rotate(v3, 16) ^ v2
    v0 = _rotate(v0, 32)
    v2 += v1
    v0 += v3
    v1 = _rotate(v1, 17) ^ v2
    v3 = _rotate(v3, 21) ^ v0
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


@kernel
def start() -> State:
    """The state of a hash of nothing yet."""
    return _V0, _V1, _V2, _V3, np.uint64(0)


@kernel
def _block(state, word):  # type: ignore[no-untyped-def]
    v0, v1, v2, v3, n = state
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
    return v0 ^ word, v1, v2, v3, n


@kernel
def absorb(state: State, word: int) -> State:
    """The state after one more word, a uint64 (cast others yourself: `np.uint64(x)`)."""
    v0, v1, v2, v3, n = _block(state, word)
    return v0, v1, v2, v3, n + np.uint64(8)


@kernel
def absorb_text(state: State, data: Window, at: int, n: int) -> State:
    """The state after one more string: 16 bits of n + 1 (0: null, n < 0), its bytes, zeros up to a whole word.

    `n` must be below 65,535. No two lists of strings and nulls make the same words.
    """
    if n < 0:
        return absorb(state, np.uint64(0))
    head = load_up_to_8(data, at, min(n, 6))
    state = absorb(state, (head << np.uint64(16)) | np.uint64(n + 1))
    done = 6
    while n - done >= 8:
        state = absorb(state, load64(data, at + done))
        done += 8
    if n > done:
        state = absorb(state, load_up_to_8(data, at + done, n - done))
    return state


@kernel
def _finish(state, tail):  # type: ignore[no-untyped-def]
    n = state[4]
    v0, v1, v2, v3, n = _block(state, (n << np.uint64(56)) | tail)
    v2 ^= np.uint64(0xEE)
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    lo = v0 ^ v1 ^ v2 ^ v3
    v1 ^= np.uint64(0xDD)
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return lo, v0 ^ v1 ^ v2 ^ v3


@kernel
def finish(state: State) -> tuple[int, int]:
    """The hash (lo, hi), two uint64, of the words absorbed."""
    return _finish(state, np.uint64(0))


@kernel
def hash_span(data: Window, at: int, n: int) -> tuple[int, int]:
    """SipHash-1-3-128 (lo, hi) of the `n` bytes from `at`, under KEY."""
    v0, v1, v2, v3, _ = start()
    state = (v0, v1, v2, v3, np.uint64(n))
    done = 0
    while n - done >= 8:
        state = _block(state, load64(data, at + done))
        done += 8
    return _finish(state, load_up_to_8(data, at + done, n - done))


@kernel
def hash_bytes(data: np.ndarray) -> tuple[int, int]:
    """`hash_span` of a whole uint8 array."""
    return hash_span(window(data), 0, len(data))
