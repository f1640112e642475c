"""The trees of models/merkle.py against RFC 6962's own recursive definitions, for any number of leaves."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from assetstream.models.merkle import Frontier, Tree, leaf_hash, verify_consistency, verify_inclusion

SIZES = st.integers(1, 70)


def leaves_of(n: int) -> list[bytes]:
    return [leaf_hash(b"%d" % i) for i in range(n)]


# -- section 2 of the RFC, word for word; d: hashes of leaves ---------------------------------------------------------


def k_of(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return d[0]
    k = k_of(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path_of(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = k_of(len(d))
    return [*path_of(m, d[:k]), mth(d[k:])] if m < k else [*path_of(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[bytes], b: bool) -> list[bytes]:
    if m == len(d):
        return [] if b else [mth(d)]
    k = k_of(len(d))
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


# ---------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=12))
def test_a_frontier_that_grows_has_the_root_of_all_leaves(steps: list[int]) -> None:
    leaves, frontier = leaves_of(sum(steps)), Frontier()
    for step in steps:
        frontier.extend(leaves[frontier.size : frontier.size + step])
        assert frontier.root() == mth(leaves[: frontier.size])
        frontier = Frontier(frontier.size, frontier.nodes)  # what a head keeps is all it needs
    assert frontier.size == len(leaves)


@given(st.data(), SIZES)
def test_inclusion(data: st.DataObject, size: int) -> None:
    leaves, index = leaves_of(size), data.draw(st.integers(0, size - 1))
    path = Tree(leaves).inclusion(index, size)
    assert path == path_of(index, leaves)
    assert verify_inclusion(leaves[index], index, size, path, mth(leaves))
    other = data.draw(st.integers(0, size + 3))
    assert verify_inclusion(leaves[index], other, size, path, mth(leaves)) == (other == index)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, path, mth(leaves))


@given(st.data(), SIZES)
def test_consistency(data: st.DataObject, new: int) -> None:
    leaves, old = leaves_of(new), data.draw(st.integers(1, new))
    proof = Tree(leaves).consistency(old, new)
    assert proof == subproof(old, leaves, True)
    assert verify_consistency(old, new, mth(leaves[:old]), mth(leaves), proof)
    changed = [*leaves]
    changed[data.draw(st.integers(0, old - 1))] = leaf_hash(b"another")
    proof = Tree(changed).consistency(old, new)
    assert not verify_consistency(old, new, mth(leaves[:old]), mth(changed), proof)


@given(st.data(), SIZES)
def test_a_frontier_and_what_follows_it_prove_as_much(data: st.DataObject, size: int) -> None:
    leaves = leaves_of(size)
    first, index = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    before = Frontier()
    before.extend(leaves[:first])
    tree = Tree(leaves[first:], before)
    assert tree.root(size) == mth(leaves)
    index = max(index, first)
    assert tree.inclusion(index, size) == path_of(index, leaves)
    old = data.draw(st.integers(max(first, 1), size))
    assert tree.consistency(old, size) == subproof(old, leaves, True)
