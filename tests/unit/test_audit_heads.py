"""The audit log without Kafka: leaves byte for byte, heads and signatures, and proofs that anyone can check."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from typer.testing import CliRunner, Result

from assetstream.cli.main import app
from assetstream.models.audit_heads import (
    BadHead,
    BadKey,
    BadProof,
    ConsistencyProof,
    InclusionProof,
    LoggedRecord,
    frontier_of,
    hash_of,
    is_signed,
    leaf_hasher,
    make_head,
    private_key,
    public_key,
    read_head,
    read_proof,
    signed_text,
)
from assetstream.models.merkle import EMPTY_ROOT, Frontier, Tree
from assetstream.models.messages import AuditHead
from assetstream.streams.settings import Settings
from assetstream.streams.topics import AUDIT_HEADS, AUDITED, specs

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
NOW = datetime(2026, 3, 2, 9, 0, 0, 250_000, tzinfo=UTC)
PLACE = "trades", 3
RECORDS = [(0, 1000, b"alice", b"{}"), (1, 1001, None, b""), (4, 1002, b"", None), (5, 1003, b"bob", b"x" * 300)]
LEAVES = [leaf_hasher(*PLACE)(*record) for record in RECORDS]


def head_of(n: int, previous: AuditHead | None = None, key: Ed25519PrivateKey | None = KEY) -> AuditHead:
    frontier = Frontier()
    frontier.extend(LEAVES[:n])
    newest = RECORDS[n - 1][1] if n else -1
    return make_head(PLACE, frontier, (0, RECORDS[n - 1][0] + 1 if n else 0), newest, previous, NOW, key)


def test_a_leaf_byte_for_byte() -> None:
    data = bytes.fromhex(
        "0006 747261646573"  # "trades"
        "00000003"  # partition
        "0000000000000412"  # offset 1042
        "0000019cadc69a80"  # 2026-03-02T09:00:00Z in milliseconds
        "00000005 616c696365"  # "alice"
        "00000002 7b7d"  # "{}"
    )
    assert int("19cadc69a80", 16) == int(datetime(2026, 3, 2, 9, tzinfo=UTC).timestamp() * 1000)
    found = leaf_hasher("trades", 3)(1042, 0x19CADC69A80, b"alice", b"{}")
    assert found == sha256(b"\x00" + data).digest()
    nulls = bytes.fromhex("0000 00000000 0000000000000000 ffffffffffffffff ffffffff ffffffff")
    assert leaf_hasher("", 0)(0, -1, None, None) == sha256(b"\x00" + nulls).digest()


def test_nothing_that_is_audited_is_ever_compacted() -> None:
    policies = {spec.name: spec.config["cleanup.policy"] for spec in specs(Settings())}
    assert {policies[name] for name in (*AUDITED, AUDIT_HEADS)} == {"delete"}
    assert {policies[name] for name in policies.keys() - {*AUDITED}} == {"delete", "compact"}


def test_nothing_is_mistaken_for_something_else() -> None:
    leaves = {
        leaf_hasher(topic, partition)(offset, 5, key, value)
        for topic, partition in (("a", 1), ("a1", 1), ("a", 11))
        for offset in (0, 1)
        for key, value in ((None, b"ab"), (b"", b"ab"), (b"a", b"b"), (b"ab", b""), (b"ab", None), (None, None))
    }
    assert len(leaves) == 3 * 2 * 6


def test_what_a_head_says_is_what_is_signed() -> None:
    first = head_of(2)
    second = head_of(4, first)
    assert signed_text(second).decode().splitlines() == [
        "assetstream/trades-3",
        "4",
        json.loads(second.model_dump_json())["root"],
        "first_offset 0",
        "next_offset 6",
        "newest_ms 1003",
        f"previous {json.loads(second.model_dump_json())['previous']}",
        "recorded_at 2026-03-02T09:00:00.250000Z",
    ]
    assert second.previous == hash_of(first) == sha256(signed_text(first)).digest()
    assert b"\nprevious -\n" in signed_text(first)
    assert signed_text(second).endswith(b"Z\n")
    assert is_signed(second, KEY.public_key())
    assert not is_signed(second, OTHER.public_key())
    assert not is_signed(head_of(4, first, None), KEY.public_key())
    assert not is_signed(second.model_copy(update={"next_offset": 7}), KEY.public_key())


def test_a_head_is_read_as_it_was_written() -> None:
    head = head_of(3, head_of(1))
    assert read_head(head.model_dump_json().encode()) == head
    assert frontier_of(head).root() == head.root == Tree(LEAVES).root(3)
    assert head_of(0).root == EMPTY_ROOT
    assert head_of(0).newest_ms == -1


@pytest.mark.parametrize(
    "value", [None, b"", b"{}", b"[]", b"\xff", b"nonsense", b'{"topic": "trades", "partition": -1}']
)
def test_what_is_no_head(value: bytes | None) -> None:
    with pytest.raises(BadHead, match="no head"):
        read_head(value)


def test_a_head_that_contradicts_itself() -> None:
    head = head_of(3)
    with pytest.raises(BadHead, match="does not make its root"):
        frontier_of(head.model_copy(update={"root": EMPTY_ROOT}))
    with pytest.raises(BadHead, match="does not make its root"):
        read_head(head.model_copy(update={"root": EMPTY_ROOT}).model_dump_json().encode())
    with pytest.raises(BadHead, match="a tree of 4 leaves has 1 complete subtrees, not 2"):
        frontier_of(head.model_copy(update={"size": 4}))


def test_proofs_prove_what_they_say_and_nothing_else() -> None:
    first = head_of(2)
    second = head_of(4, first)
    offset, timestamp, key, value = RECORDS[3]
    record = LoggedRecord(topic="trades", partition=3, offset=offset, timestamp=timestamp, key=key, value=value)
    tree = Tree(LEAVES)
    inclusion = InclusionProof(record=record, index=3, path=tree.inclusion(3, 4), head=second)
    assert inclusion.check().startswith("trades-3@5 is record 3 of the 4 in head ")
    assert read_proof(inclusion.model_dump_json()) == inclusion
    for changed in ({"value": b"y"}, {"key": None}, {"offset": 4}, {"timestamp": 0}, {"partition": 2}):
        with pytest.raises(BadProof):
            inclusion.model_copy(update={"record": record.model_copy(update=changed)}).check()
    with pytest.raises(BadProof, match="does not lead from the record"):
        inclusion.model_copy(update={"index": 2}).check()
    consistency = ConsistencyProof(first=first, second=second, path=tree.consistency(2, 4))
    assert consistency.check().startswith("the 4 records in head ")
    assert read_proof(consistency.model_dump_json()) == consistency
    with pytest.raises(BadProof, match="does not lead from the first root"):
        consistency.model_copy(update={"first": head_of(1)}).check()
    with pytest.raises(BadProof, match="of two partitions"):
        consistency.model_copy(update={"first": first.model_copy(update={"partition": 2})}).check()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"record": 1}', '{"first": {}}', "null"])
def test_what_is_no_proof(text: str) -> None:
    with pytest.raises(BadProof, match="no proof as"):
        read_proof(text)


def pem(key: Ed25519PrivateKey | X25519PrivateKey) -> tuple[bytes, bytes]:
    encoding, no = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no)
    return private, key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_keys_are_ed25519_in_pem() -> None:
    private, public = pem(KEY)
    assert private_key(private).private_bytes_raw() == bytes(range(32))
    assert is_signed(head_of(1), public_key(public))
    for bad in (b"", b"x", public, pem(X25519PrivateKey.generate())[0]):
        with pytest.raises(BadKey):
            private_key(bad)
    for bad in (b"", private, pem(X25519PrivateKey.generate())[1]):
        with pytest.raises(BadKey):
            public_key(bad)


# -- verify -----------------------------------------------------------------------------------------------------------


def verified(*args: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, args)], input=given)


def test_verify_needs_nothing_but_the_file(tmp_path: Path) -> None:
    first = head_of(2)
    proof = ConsistencyProof(first=first, second=head_of(4, first), path=Tree(LEAVES).consistency(2, 4))
    (file := tmp_path / "proof.json").write_text(proof.model_dump_json())
    (ours := tmp_path / "ours.pem").write_bytes(pem(KEY)[1])
    (other := tmp_path / "other.pem").write_bytes(pem(OTHER)[1])
    assert verified(file).stdout == f"{proof.check()}; signature not checked: give --public-key\n"
    assert verified("-", "--public-key", ours, given=proof.model_dump_json()).stdout == f"{proof.check()}; signed\n"
    for result, why in (
        (verified(file, "--public-key", other), "not signed with the key given"),
        (verified(file, "--public-key", tmp_path / "none"), "No such file"),
        (verified(tmp_path / "none"), "No such file"),
        (verified("-", given="{}"), "no proof as"),
        (verified("-", given=proof.model_copy(update={"path": []}).model_dump_json()), "does not lead"),
    ):
        assert (result.exit_code, result.stdout) == (1, ""), result
        assert why in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["check", "--audit", "--invariants"],
        ["check", "--save", "x"],
        ["prove", "marks", "0", "1"],
        ["prove", "trades", "0"],
        ["prove", "trades", "0", "1", "--since", "1"],
    ],
)
def test_wrong_use(args: list[str]) -> None:
    assert CliRunner().invoke(app, args).exit_code == 2
