"""Requests to Kafka that aiokafka has no words for, or older ones: the versions here are served by Kafka 2.5 and later.

Field by field from the Kafka protocol guide. Encoding, headers, log-in and connections are aiokafka's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest_v0,
    AddPartitionsToTxnRequest_v0,
    EndTxnRequest_v0,
    InitProducerIdRequest_v0,
)
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

from assetstream.streams.batch_writer import Batch

__all__ = [
    "AddOffsetsToTxnRequest_v0",
    "AddPartitionsToTxnRequest_v0",
    "EndTxnRequest_v0",
    "Exactly",
    "InitProducerIdRequest_v0",
    "OffsetFetchRequest_v7",
    "ProduceRequest_v8",
    "TxnOffsetCommitRequest_v3",
]

TEXT, COMPACT_TEXT = String("utf-8"), CompactString("utf-8")


class Exactly:
    """A request in the one version we speak, where aiokafka would choose one."""

    def __init__(self, request: RequestStruct) -> None:
        self._request = request

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """The request. Raises RuntimeError when the broker does not know that version."""
        key, version = self._request.API_KEY, self._request.API_VERSION
        first, last = versions.get(key, (0, -1))
        if not first <= version <= last:
            raise RuntimeError(
                f"this Kafka serves versions {first} to {last} of request {key}, we need {version}: Kafka 2.5 or later"
            )
        return self._request


class ProduceResponse_v8(Response):  # noqa: N801  aiokafka's way to name them
    """Per partition: error code, and the offset of its first record."""

    API_KEY = 0
    API_VERSION = 8
    SCHEMA = Schema(
        (
            "topics",
            Array(
                ("topic", TEXT),
                (
                    "partitions",
                    Array(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("offset", Int64),
                        ("timestamp", Int64),
                        ("log_start_offset", Int64),
                        ("record_errors", Array(("index", Int32), ("message", TEXT))),
                        ("error_message", TEXT),
                    ),
                ),
            ),
        ),
        ("throttle_time_ms", Int32),
    )


class ProduceRequest_v8(RequestStruct):  # noqa: N801
    """One record batch each for any number of partitions."""

    API_KEY = 0
    API_VERSION = 8
    RESPONSE_TYPE = ProduceResponse_v8
    SCHEMA = Schema()

    def __init__(self, transactional_id: str | None, timeout_ms: int, batches: Iterable[Batch]) -> None:
        super().__init__()
        by_topic: dict[str, list[Batch]] = {}
        for batch in batches:
            by_topic.setdefault(batch.topic, []).append(batch)
        self._parts: list[Any] = [TEXT.encode(transactional_id), struct.pack(">hii", -1, timeout_ms, len(by_topic))]
        for topic, its in by_topic.items():
            self._parts += [TEXT.encode(topic), struct.pack(">i", len(its))]
            for batch in its:
                self._parts += [struct.pack(">ii", batch.partition, len(batch.data)), batch.data]

    def encode(self) -> bytes:
        """The request's body; the batches are copied once."""
        return b"".join(self._parts)


class OffsetFetchResponse_v7(Response):  # noqa: N801
    """Per partition: committed offset (−1: none), leader epoch, metadata, error code."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", COMPACT_TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", COMPACT_TEXT),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest_v7(RequestStruct):  # noqa: N801
    """What a group has committed; the first version that can insist on it being decided."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponse_v7
    SCHEMA = Schema(
        ("group_id", COMPACT_TEXT),
        (
            "topics",
            CompactArray(("topic", COMPACT_TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitResponse_v3(Response):  # noqa: N801
    """Error codes by partition."""

    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", COMPACT_TEXT),
                (
                    "partitions",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitRequest_v3(RequestStruct):  # noqa: N801
    """Offsets of a group in a transaction; the first version that is checked against the group's generation."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponse_v3
    SCHEMA = Schema(
        ("transactional_id", COMPACT_TEXT),
        ("group_id", COMPACT_TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", COMPACT_TEXT),
        ("group_instance_id", COMPACT_TEXT),
        (
            "topics",
            CompactArray(
                ("topic", COMPACT_TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", COMPACT_TEXT),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )
