"""Merkle trees exactly as RFC 6962, section 2, has them (SHA-256): roots, proofs, and what checks them.

A leaf's hash is SHA-256(0x00 ‖ data), a node's SHA-256(0x01 ‖ left ‖ right), the root of no leaves SHA-256 of nothing;
n leaves are split at the largest power of two below n. Hashes are 32 bytes. Leaves are given as their hashes.

The verifiers are the algorithms of RFC 9162, sections 2.1.3.2 and 2.1.4.2, for the same trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from hashlib import sha256

EMPTY_ROOT = sha256().digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """All that a tree needs to grow: the roots of its complete subtrees, one for each bit of its size."""

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        """`nodes`: as the property gives them. Raises ValueError when they can't be those of a tree of `size`."""
        levels = _bits(size)
        if len(levels) != len(nodes):
            raise ValueError(f"a tree of {size} leaves has {len(levels)} complete subtrees, not {len(nodes)}")
        self.size = size
        self._at = dict(zip(levels, nodes, strict=True))  # level → the root of its 2^level leaves

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The roots of the complete subtrees, in the order of the leaves: the largest first."""
        return tuple(self._at[level] for level in sorted(self._at, reverse=True))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves, given as their hashes: row by row, which is as quick as hashing is."""
        row, level, size = [*leaves], 0, self.size
        self.size += len(row)
        while row:
            if size >> level & 1:
                row.insert(0, self._at.pop(level))
            if len(row) & 1:
                self._at[level] = row.pop()
            row = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)]
            level += 1

    def root(self) -> bytes:
        """The root of all leaves so far."""
        nodes = self.nodes
        return reduce(lambda right, left: node_hash(left, right), nodes[-2::-1], nodes[-1]) if nodes else EMPTY_ROOT


class Tree:
    """A tree of which all leaves from some number on are at hand, and of those before only their frontier."""

    def __init__(self, leaves: Sequence[bytes], before: Frontier | None = None) -> None:
        """`leaves`: the hashes of those from number `before.size` on."""
        self._leaves, self._first = leaves, 0 if before is None else before.size
        self._known: dict[tuple[int, int], bytes] = {}
        at = 0
        for node, level in zip(before.nodes if before else (), _bits(self._first), strict=True):
            self._known[at, at + (1 << level)] = node
            at += 1 << level

    def root(self, size: int) -> bytes:
        """Of the first `size` leaves. Raises ValueError when it takes leaves that are not at hand."""
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The path of leaf `index` in the tree of the first `size` leaves (2.1.1). Raises ValueError."""
        path, low, high = [], 0, size
        while high - low > 1:
            middle = _middle(low, high)
            if index < middle:
                path.append(self._hash(middle, high))
                high = middle
            else:
                path.append(self._hash(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """That the first `new` leaves begin with the first `old` (2.1.2); empty for old = 0. Raises ValueError."""
        proof, low, high = [], 0, new
        while 0 < old < high:
            middle = _middle(low, high)
            if old <= middle:
                proof.append(self._hash(middle, high))
                high = middle
            else:
                proof.append(self._hash(low, middle))
                low = middle
        return ([self._hash(low, high)] if low else []) + proof[::-1]

    def _hash(self, low: int, high: int) -> bytes:
        """The root of leaves low … high−1, a subtree."""
        if (known := self._known.get((low, high))) is not None:
            return known
        if high - low == 1:
            if not self._first <= low < self._first + len(self._leaves):
                raise ValueError(f"leaf {low} is not at hand")
            return self._leaves[low - self._first]
        middle = _middle(low, high)
        return node_hash(self._hash(low, middle), self._hash(middle, high))


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves that the leaf with this hash is number `index` of the `size` leaves under `root`."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` proves that the `new` leaves under `new_root` begin with the `old` ones under `old_root`."""
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if not 0 < old < new:
        return False
    path = [old_root, *proof] if old.bit_count() == 1 else [*proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and (first, second) == (old_root, new_root)


def _middle(low: int, high: int) -> int:
    """Where the tree over leaves low … high−1 splits."""
    return low + (1 << (high - low - 1).bit_length() - 1)


def _bits(size: int) -> list[int]:
    """The bits that are set, the highest first."""
    return [level for level in reversed(range(size.bit_length())) if size >> level & 1]
