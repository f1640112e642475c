"""The Faust app: group membership, assignment, agents and timers, over our transport."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import faust
from faust.assignor import PartitionAssignor
from faust.auth import GSSAPICredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT
from yarl import URL

from assetstream.streams.settings import Settings
from assetstream.streams.transport import RecordSchema, RecordTransport

CRASH_LOOK_S = 0.5


class _Counts:
    """The one thing an assignor asks of the cluster's metadata."""

    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def partitions_for_topic(self, topic: str) -> set[int]:
        """The same of every topic."""
        return self._partitions


class Assignor(PartitionAssignor):
    """Faust's, but it always knows our topics: `check_topics` has made sure of how many partitions they have.

    Faust leaves out a topic that the leader's metadata lacks at that moment, as it does after a broker stood still:
    nobody gets any of its partitions, and the group is content with that.
    """

    def assign(self, cluster: Any, member_metadata: Any) -> Any:
        """Assignment by member."""
        return super().assign(_Counts(self.app.conf.topic_partitions), member_metadata)


def make_app(settings: Settings, group: str) -> faust.App:
    """A Faust app in consumer group `group` (its full name) whose agents get `Run`s of records."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)  # Faust makes its own folder in it, but no parents
    urls = [URL(f"kafka://{server.strip()}") for server in settings.kafka_bootstrap_servers.split(",")]
    app = faust.App(
        group,
        broker=urls,
        broker_credentials=credentials(settings),
        autodiscover=False,
        PartitionAssignor=Assignor,
        store="memory://",
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication_factor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=str(settings.data_dir / "faust"),
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 6,
        broker_rebalance_timeout=30,
        broker_request_timeout=max(40.0, settings.session_timeout_s + 10),
        broker_max_poll_interval=300,
        stream_wait_empty=False,  # nothing is acked, so nothing need be waited for: the last checkpoint is ours
        stream_buffer_maxsize=256,
        producer_acks=-1,
    )
    app.transport = RecordTransport(urls, app, loop=app.loop)
    return app


async def crash(app: faust.App) -> BaseException:
    """Wait until Faust has crashed, and say why. It only logs that: agents would wait for records for ever."""
    while not app._crashed.is_set():  # noqa: ASYNC110  # set by another thread
        await asyncio.sleep(CRASH_LOOK_S)
    return app.crash_reason or RuntimeError("Faust crashed")


def raw_topic(app: faust.App, name: str, partitions: int) -> faust.TopicT:
    """The topic `name` (full), whose messages are `Run`s."""
    return app.topic(name, schema=RecordSchema(key_type=bytes, value_type=bytes), partitions=partitions)


def credentials(settings: Settings) -> CredentialsT | None:
    """Faust's form of the security settings; None for PLAINTEXT."""
    protocol = settings.kafka_security_protocol.upper()
    if protocol == "PLAINTEXT":
        return None
    context = _tls(settings) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return SSLCredentials(context)
    mechanism = (settings.kafka_sasl_mechanism or "PLAIN").upper()
    if mechanism == "GSSAPI":
        return GSSAPICredentials(ssl_context=context, mechanism="GSSAPI")
    password = settings.kafka_sasl_password.get_secret_value() if settings.kafka_sasl_password else ""
    return SASLCredentials(
        username=settings.kafka_sasl_username or "",
        password=password,
        ssl_context=context,
        mechanism=mechanism,
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=_text(settings.kafka_ssl_ca_location))
    if settings.kafka_ssl_certificate_location:
        password = settings.kafka_ssl_key_password
        context.load_cert_chain(
            str(settings.kafka_ssl_certificate_location),
            _text(settings.kafka_ssl_key_location),
            password.get_secret_value() if password else None,
        )
    return context


def _text(path: object) -> str | None:
    return str(path) if path else None
