"""Our own connection to Kafka, for what we write: checkpoints and marks.

librdkafka sends a request per partition; over the 25 partitions of a checkpoint that is most of its time, and of the
broker's. Here one request carries the batches of all partitions that a broker leads. Connections, log-in and metadata
are aiokafka's. It runs on the agents' own event loop: at a steady load that has nothing else to do meanwhile, and in
another thread every answer would have to wait for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.api import RequestStruct
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from assetstream.streams.app import credentials
from assetstream.streams.batch_writer import Batch
from assetstream.streams.protocol import Exactly, OffsetFetchRequest_v7, ProduceRequest_v8
from assetstream.streams.settings import Settings

#: an answer that takes longer won't come: longer than a transaction may last
REQUEST_TIMEOUT_MS = 12_000
#: batches in one request: what is copied at once stays in the processor's cache, and its memory is used again (of a
#: request of 20 MB every page was fresh: half of the time that a checkpoint of large batches took)
REQUEST_BYTES = 2 << 20
#: what the system holds of what we send (it may allow less)
SEND_BUFFER_BYTES = 4 << 20
#: how long the broker may wait for its replicas
REPLICATION_TIMEOUT_MS = 10_000

#: offset of the first record of a batch, by (topic, partition), in the order the batches were sent
Placed = dict[tuple[str, int], list[range]]
#: a group's offset (−1: none) and its metadata, by (topic, partition)
GroupOffsets = dict[tuple[str, int], tuple[int, str]]


class Connection:
    """Connections to the brokers of one cluster, made when they are first needed, by the loop that needs them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AIOKafkaClient | None = None
        self._roomy: WeakSet[Any] = WeakSet()

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def client(self) -> AIOKafkaClient:
        """The client, connected. Raises aiokafka's KafkaError when no broker answers."""
        if self._client is None:
            client = AIOKafkaClient(
                bootstrap_servers=self._settings.kafka_bootstrap_servers,
                client_id="assetstream",
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                **credentials_to_aiokafka_auth(credentials(self._settings)),
            )
            await client.bootstrap()
            self._client = client
        return self._client

    async def know(self, topics: Iterable[str]) -> None:
        """Have the leaders of these topics' partitions at hand."""
        client = await self.client()
        client.set_topics([*topics])
        await client.force_metadata_update()

    async def coordinator(self, kind: CoordinationType, name: str) -> int:
        """The broker in charge of a transactional id or a group. Raises KafkaError while there is none."""
        client = await self.client()
        return await client.coordinator_lookup(kind, name)  # type: ignore[no-any-return]

    async def ask(self, node: int, request: RequestStruct) -> Any:
        """Send a request to a coordinator, apart from the stream of batches; -> its answer."""
        client = await self.client()
        return await client.send(node, Exactly(request), group=ConnectionGroup.COORDINATION)

    async def committed(self, group: str, places: Iterable[tuple[str, int]], decided: bool) -> GroupOffsets:
        """What a group has committed of (topic, partition)s. Raises KafkaError; when `decided`, also while a commit is
        part of a transaction that is still open.
        """
        by_topic: dict[str, list[int]] = {}
        for topic, partition in places:
            by_topic.setdefault(topic, []).append(partition)
        topics: list[tuple[str, list[int], Any]] = [(topic, numbers, {}) for topic, numbers in by_topic.items()]
        node = await self.coordinator(CoordinationType.GROUP, group)
        answer = await self.ask(node, OffsetFetchRequest_v7(group, topics, decided, {}))
        raise_for(answer.error_code, f"offsets of {group}")
        found: GroupOffsets = {}
        for topic, partitions, _ in answer.topics:
            for partition, offset, _, metadata, code, _ in partitions:
                raise_for(code, f"offset of {group} in {topic}-{partition}")
                found[topic, partition] = offset, metadata or ""
        return found

    async def produce(self, rounds: Sequence[Sequence[Batch]], transactional_id: str | None = None) -> Placed:
        """Send rounds of batches, each round's in one request per broker; -> where they are. All, or KafkaError.

        After an error nothing is known of any of them. Requests to a broker are answered in the order they were sent.
        """
        client = await self.client()
        sent: list[list[Batch]] = []
        answers = []
        for batches in rounds:
            for node, its in self._by_leader(client, batches).items():
                for part in _requests(its):
                    await self._have_room(client, node)
                    request = Exactly(ProduceRequest_v8(transactional_id, REPLICATION_TIMEOUT_MS, part))
                    answers.append(asyncio.ensure_future(client.send(node, request)))
                    sent.append(part)
                    await asyncio.sleep(0)  # so that they are sent in this order
        # Wait for all of them, also when one failed: what is under way could still be written.
        results = await asyncio.gather(*answers, return_exceptions=True)
        try:
            return _placed(sent, results)
        except errors.KafkaError:
            client.force_metadata_update()  # whoever tries again should know where partitions have gone
            raise

    async def _have_room(self, client: AIOKafkaClient, node: int) -> None:
        """Wait until the system has taken what was sent before, so that the loop doesn't copy it around.

        It may take megabytes at once, and sends them on while the loop is busy with something else.
        """
        connection = await client._get_conn(node)
        if connection is None:
            return  # sending says so
        writer = connection._writer
        if connection not in self._roomy:
            self._roomy.add(connection)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        with suppress(OSError):  # sending says so
            await writer.drain()

    def _by_leader(self, client: AIOKafkaClient, batches: Iterable[Batch]) -> dict[int, list[Batch]]:
        leaders: dict[int, list[Batch]] = {}
        for batch in batches:
            node = client.cluster.leader_for_partition(TopicPartition(batch.topic, batch.partition))
            if node is None or node < 0:
                client.force_metadata_update()
                raise errors.LeaderNotAvailableError(f"{batch.topic}-{batch.partition}")
            leaders.setdefault(node, []).append(batch)
        return leaders


def _requests(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Batches as they are sent together: in their order, about REQUEST_BYTES each."""
    part: list[Batch] = []
    size = 0
    for batch in batches:
        if part and size + len(batch.data) > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(batch)
        size += len(batch.data)
    if part:
        yield part


def _placed(rounds: Sequence[Sequence[Batch]], answers: Iterable[Any]) -> Placed:
    counts: dict[tuple[str, int], list[int]] = {}
    for batches in rounds:
        for batch in batches:
            counts.setdefault((batch.topic, batch.partition), []).append(batch.records)
    placed: Placed = {}
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        for topic, partitions in answer.topics:
            for partition, code, offset, *_, message in partitions:
                where = f"{topic}-{partition}"
                raise_for(code, f"{where}: {message}" if message else where)
                ranges = placed.setdefault((topic, partition), [])
                ranges.append(range(offset, offset + counts[topic, partition][len(ranges)]))
    return placed


class Refused(errors.KafkaError):  # type: ignore[misc]
    """Kafka answered with an error; `errno` is its code, as in the protocol guide."""

    def __init__(self, code: int, what: str) -> None:
        self.errno = code
        super().__init__(f"{what} (error code {code}, {errors.for_code(code).__name__})")


def raise_for(code: int, what: str) -> None:
    """Raises Refused for an error code other than 0."""
    if code:
        raise Refused(code, what)
