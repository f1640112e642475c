"""Merkle trees of RFC 6962: the vectors of Certificate Transparency's own tests."""

from __future__ import annotations

import pytest

from assetstream.models.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

#: from certificate-transparency's merkletree tests (transparency-dev/merkle, testonly)
DATA = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [leaf_hash(bytes.fromhex(data)) for data in DATA]
ROOTS = [
    bytes.fromhex(root)
    for root in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


@pytest.mark.parametrize("size", range(9))
def test_roots(size: int) -> None:
    frontier = Frontier()
    frontier.extend(LEAVES[:size])
    assert frontier.root() == Tree(LEAVES).root(size) == ROOTS[size]
    assert len(frontier.nodes) == size.bit_count()


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion(index: int, size: int) -> None:
    path = Tree(LEAVES).inclusion(index, size)
    assert [node.hex() for node in path] == INCLUSION[index, size]
    assert verify_inclusion(LEAVES[index], index, size, path, ROOTS[size])


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency(old: int, new: int) -> None:
    proof = Tree(LEAVES).consistency(old, new)
    assert [node.hex() for node in proof] == CONSISTENCY[old, new]
    assert verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)


def test_what_is_no_proof() -> None:
    path = Tree(LEAVES).inclusion(5, 8)
    assert not verify_inclusion(LEAVES[4], 5, 8, path, ROOTS[8])
    assert not verify_inclusion(LEAVES[5], 4, 8, path, ROOTS[8])
    assert not verify_inclusion(LEAVES[5], 5, 8, path, ROOTS[7])
    assert not verify_inclusion(LEAVES[5], 5, 8, path[:-1], ROOTS[8])
    assert not verify_inclusion(LEAVES[5], 5, 8, [*path, ROOTS[1]], ROOTS[8])
    assert not verify_inclusion(LEAVES[5], 8, 8, path, ROOTS[8])
    proof = Tree(LEAVES).consistency(6, 8)
    assert not verify_consistency(5, 8, ROOTS[5], ROOTS[8], proof)
    assert not verify_consistency(6, 8, ROOTS[5], ROOTS[8], proof)
    assert not verify_consistency(6, 8, ROOTS[6], ROOTS[7], proof)
    assert not verify_consistency(6, 8, ROOTS[6], ROOTS[8], proof[1:])
    assert not verify_consistency(6, 8, ROOTS[6], ROOTS[8], [])
    assert not verify_consistency(8, 6, ROOTS[8], ROOTS[6], proof)
    assert not verify_consistency(6, 6, ROOTS[6], ROOTS[5], [])


def test_everything_begins_with_nothing() -> None:
    assert Tree(LEAVES).consistency(0, 8) == []
    assert verify_consistency(0, 8, EMPTY_ROOT, ROOTS[8], [])
    assert not verify_consistency(0, 8, ROOTS[1], ROOTS[8], [])


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a tree of 5 leaves has 2 complete subtrees, not 1"):
        Frontier(5, LEAVES[:1])


def test_leaves_before_the_frontier_are_not_at_hand() -> None:
    before = Frontier()
    before.extend(LEAVES[:6])
    tree = Tree(LEAVES[6:], before)
    assert tree.consistency(6, 8) == Tree(LEAVES).consistency(6, 8)
    with pytest.raises(ValueError, match="leaf 4 is not at hand"):
        tree.inclusion(5, 8)
