"""The audit log: what a leaf of it is, what a head says, how heads are chained and signed, and proofs for others.

One Merkle tree (models/merkle.py) per partition of each audited topic; its leaves are the committed data records, in
the order of their offsets. docs/interface.md has all of it byte for byte, so that it can be checked without us.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from struct import Struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import BaseModel, ConfigDict, ValidationError

from assetstream.models.merkle import Frontier, verify_consistency, verify_inclusion
from assetstream.models.messages import AuditHead, Base64, time_text

_TOPIC, _PLACE, _LENGTH = Struct(">H").pack, Struct(">qqi").pack, Struct(">i").pack
_PARTITION = Struct(">I").pack


class BadHead(ValueError):
    """No head, or one that contradicts itself; the text says how."""


class BadProof(ValueError):
    """A proof that proves nothing; the text says why."""


class BadKey(ValueError):
    """A file that holds no such key; the text says what it should be."""


# -- leaves -----------------------------------------------------------------------------------------------------------


def leaf_hasher(topic: str, partition: int) -> Callable[[int, int, bytes | None, bytes | None], bytes]:
    """A function (offset, timestamp in ms, key, value) → hash of the leaf of this record of `topic` (full name).

    The leaf's bytes, integers big-endian: length of the topic's name (u16), the name (UTF-8), partition (u32), offset
    (i64), timestamp (i64), length of the key (i32, −1: null), the key, length of the value (i32, −1: null), the value.
    A record's headers are no part of it: nothing here reads them.
    """
    name = topic.encode()
    start = b"\x00" + _TOPIC(len(name)) + name + _PARTITION(partition)

    def of(offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> bytes:
        key_length = -1 if key is None else len(key)
        value_length = -1 if value is None else len(value)
        parts = (start, _PLACE(offset, timestamp, key_length), key or b"", _LENGTH(value_length), value or b"")
        return sha256(b"".join(parts)).digest()

    return of


# -- heads ------------------------------------------------------------------------------------------------------------


def make_head(
    place: tuple[str, int],
    frontier: Frontier,
    offsets: tuple[int, int],
    newest_ms: int,
    previous: AuditHead | None,
    now: datetime,
    key: Ed25519PrivateKey | None = None,
) -> AuditHead:
    """The next head of a partition.

    offsets: where the tree begins, and what comes after it. newest_ms: the largest timestamp in it, −1 without records.
    """
    head = AuditHead(
        topic=place[0],
        partition=place[1],
        size=frontier.size,
        first_offset=offsets[0],
        next_offset=offsets[1],
        newest_ms=newest_ms,
        root=frontier.root(),
        frontier=frontier.nodes,
        previous=None if previous is None else hash_of(previous),
        recorded_at=now,
        signature=None,
    )
    return head if key is None else head.model_copy(update={"signature": key.sign(signed_text(head))})


def signed_text(head: AuditHead) -> bytes:
    """What a head says, as lines: what is signed, and what the next head has the hash of."""
    lines = (
        f"assetstream/{head.topic}-{head.partition}",
        f"{head.size}",
        _text(head.root),
        f"first_offset {head.first_offset}",
        f"next_offset {head.next_offset}",
        f"newest_ms {head.newest_ms}",
        f"previous {'-' if head.previous is None else _text(head.previous)}",
        f"recorded_at {time_text(head.recorded_at)}",
    )
    return "".join(f"{line}\n" for line in lines).encode()


def hash_of(head: AuditHead) -> bytes:
    """What the next head of the partition has as `previous`: SHA-256 of the signed text."""
    return sha256(signed_text(head)).digest()


def frontier_of(head: AuditHead) -> Frontier:
    """The frontier that a head holds. Raises BadHead unless it is one, and makes its root."""
    try:
        frontier = Frontier(head.size, head.frontier)
    except ValueError as error:
        raise BadHead(f"its frontier is none: {error}") from error
    if frontier.root() != head.root:
        raise BadHead("its frontier does not make its root")
    return frontier


def read_head(value: bytes | None) -> AuditHead:
    """A record of `audit_heads`. Raises BadHead when it is none, or its frontier doesn't make its root."""
    try:
        head = AuditHead.model_validate_json(value or b"")
    except ValidationError as error:
        raise BadHead(f"no head: {error.errors()[0]['msg']}") from error
    frontier_of(head)
    return head


def is_signed(head: AuditHead, key: Ed25519PublicKey) -> bool:
    """Whether the owner of this key signed it."""
    try:
        key.verify(head.signature or b"", signed_text(head))
    except InvalidSignature:
        return False
    return True


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """The Ed25519 key of a PEM file without a password. Raises BadKey."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise BadKey(f"no private key in PEM without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey("a private key, but not an Ed25519 one: make one with openssl genpkey -algorithm ed25519")
    return key


def public_key(pem: bytes) -> Ed25519PublicKey:
    """The Ed25519 public key of a PEM file. Raises BadKey."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise BadKey(f"no public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey("a public key, but not an Ed25519 one")
    return key


# -- proofs -----------------------------------------------------------------------------------------------------------


class LoggedRecord(BaseModel):
    """A record of a log; key and value in base64, or null."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Base64 | None
    value: Base64 | None


class InclusionProof(BaseModel):
    """That `record` is leaf `index` of the tree that `head` speaks of."""

    model_config = ConfigDict(frozen=True)

    record: LoggedRecord
    index: int
    path: list[Base64]
    head: AuditHead

    def check(self) -> str:
        """What it proves, in a line. Raises BadProof."""
        record, head = self.record, self.head
        if (record.topic, record.partition) != (head.topic, head.partition):
            raise BadProof(f"the head is of {head.topic}-{head.partition}, the record is not")
        leaf = leaf_hasher(record.topic, record.partition)(record.offset, record.timestamp, record.key, record.value)
        if not verify_inclusion(leaf, self.index, head.size, self.path, head.root):
            raise BadProof("the path does not lead from the record to the head's root")
        where = f"{record.topic}-{record.partition}@{record.offset}"
        return f"{where} is record {self.index:,} of the {head.size:,} in {_named(head)}"


class ConsistencyProof(BaseModel):
    """That the tree `second` speaks of begins with the one `first` speaks of."""

    model_config = ConfigDict(frozen=True)

    first: AuditHead
    second: AuditHead
    path: list[Base64]

    def check(self) -> str:
        """What it proves, in a line. Raises BadProof."""
        first, second = self.first, self.second
        if (first.topic, first.partition) != (second.topic, second.partition):
            raise BadProof("the heads are of two partitions")
        if not verify_consistency(first.size, second.size, first.root, second.root, self.path):
            raise BadProof("the path does not lead from the first root to the second")
        return f"the {second.size:,} records in {_named(second)} begin with the {first.size:,} in {_named(first)}"


Proof = InclusionProof | ConsistencyProof


def read_proof(text: str | bytes) -> Proof:
    """A proof as `assetstream prove` prints it. Raises BadProof when it is none."""
    try:
        found = json.loads(text)
        kind = InclusionProof if isinstance(found, dict) and "record" in found else ConsistencyProof
        return kind.model_validate(found)
    except ValueError as error:  # pydantic's and json's are
        raise BadProof(f"no proof as `assetstream prove` prints them: {str(error).splitlines()[0]}") from error


def _named(head: AuditHead) -> str:
    return f"head {_text(hash_of(head))} of {time_text(head.recorded_at)}"


def _text(data: bytes) -> str:
    return b64encode(data).decode()
