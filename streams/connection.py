"""Our own connection to Kafka, for what we write: checkpoints and marks.

librdkafka sends a request per partition; over the 25 partitions of a checkpoint that is most of its time, and of the
broker's. Here one request carries the batches of all partitions that a broker leads. Connections, log-in and metadata
are aiokafka's; all of it runs on an event loop in a thread of its own, so that a kernel at work holds up no answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.api import RequestStruct
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from assetstream.streams.app import credentials
from assetstream.streams.batch_writer import Batch
from assetstream.streams.protocol import Exactly, ProduceRequest_v8
from assetstream.streams.settings import Settings

T = TypeVar("T")

#: an answer that takes longer won't come: longer than a transaction may last
REQUEST_TIMEOUT_MS = 12_000
#: how long the broker may wait for its replicas
REPLICATION_TIMEOUT_MS = 10_000

#: offset of the first record of a batch, by (topic, partition), in the order the batches were sent
Placed = dict[tuple[str, int], list[range]]


class Connection:
    """Connections to the brokers of one cluster. Coroutines of this class run on its own loop: see `run` and `wait`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AIOKafkaClient | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kafka", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the connection's loop, from another loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def wait(self, work: Coroutine[Any, Any, T], patience_s: float | None = None) -> T:
        """Run a coroutine on the connection's loop and wait for it, from a thread without a loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience_s)

    def soon(self, callback: Any, *args: Any) -> None:
        """Call a function on the connection's loop."""
        self._loop.call_soon_threadsafe(callback, *args)

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._thread.is_alive():
            self.wait(self._close_client(), 10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    async def _close_client(self) -> None:
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

    async def produce(self, rounds: Sequence[Sequence[Batch]], transactional_id: str | None = None) -> Placed:
        """Send rounds of batches, each round's in one request per broker; -> where they are. All, or KafkaError.

        After an error nothing is known of any of them. Requests to a broker are answered in the order they were sent.
        """
        client = await self.client()
        answers = []
        for batches in rounds:
            for node, its in self._by_leader(client, batches).items():
                request = Exactly(ProduceRequest_v8(transactional_id, REPLICATION_TIMEOUT_MS, its))
                answers.append(asyncio.ensure_future(client.send(node, request)))
                await asyncio.sleep(0)  # so that they are sent in this order
        # Wait for all of them, also when one failed: what is under way could still be written.
        results = await asyncio.gather(*answers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return _placed(rounds, results)

    def _by_leader(self, client: AIOKafkaClient, batches: Iterable[Batch]) -> dict[int, list[Batch]]:
        leaders: dict[int, list[Batch]] = {}
        for batch in batches:
            node = client.cluster.leader_for_partition(TopicPartition(batch.topic, batch.partition))
            if node is None or node < 0:
                client.force_metadata_update()
                raise errors.LeaderNotAvailableError(f"{batch.topic}-{batch.partition}")
            leaders.setdefault(node, []).append(batch)
        return leaders


def _placed(rounds: Sequence[Sequence[Batch]], answers: Iterable[Any]) -> Placed:
    counts: dict[tuple[str, int], list[int]] = {}
    for batches in rounds:
        for batch in batches:
            counts.setdefault((batch.topic, batch.partition), []).append(batch.records)
    placed: Placed = {}
    for answer in answers:
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
