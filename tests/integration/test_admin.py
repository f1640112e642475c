"""`init` and a worker's check of the topics, on a real broker of this module's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from assetstream.streams import admin
from assetstream.streams.embedded_kafka import EmbeddedKafka
from assetstream.streams.processes import free_port
from assetstream.streams.settings import Settings
from assetstream.streams.topics import MIB, TopicSpec, specs

_prefixes = count()


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    kafka = EmbeddedKafka(Path(tmp_path_factory.mktemp("admin")))
    process = kafka.start(attached=True)
    yield f"127.0.0.1:{process.port}"
    kafka.stop()


@pytest.fixture
def settings(bootstrap: str) -> Settings:
    """Of an installation that has no topics yet."""
    return Settings(
        kafka_bootstrap_servers=bootstrap, topic_prefix=f"t{next(_prefixes)}.", partitions=2, _env_file=None
    )


def with_(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update=changes)


def make(settings: Settings, name: str, partitions: int = 2, **config: str) -> str:
    """A topic as somebody else made it."""
    spec = next(s for s in specs(settings) if s.name == settings.topic(name))
    different = {key.replace("_", "."): value for key, value in config.items()}
    theirs = TopicSpec(spec.name, partitions, {**spec.config, **different})
    client = admin.Admin(settings)
    client.create([theirs], 1)
    client.wait_served([theirs])
    return spec.name


def test_init_makes_every_topic_as_specified_and_again_does_nothing(settings: Settings) -> None:
    wanted = specs(settings)
    assert admin.init_topics(settings) == [f"created topic {s.name} with 2 partitions" for s in wanted]
    actual = admin.Admin(settings).actual(wanted)
    for spec in wanted:
        partitions, config = actual[spec.name]
        assert partitions == 2
        assert {name: config[name] for name in spec.config} == spec.config
    assert admin.init_topics(settings) == []
    admin.check_topics(settings)


def test_only_missing_topics_are_made(settings: Settings) -> None:
    name = make(settings, "trades")
    done = admin.init_topics(settings)
    assert len(done) == len(specs(settings)) - 1
    assert not any(f" {name} " in line for line in done)


def test_other_partition_count_is_refused_and_nothing_is_made(settings: Settings) -> None:
    name = make(settings, "trades", partitions=3)
    with pytest.raises(admin.TopicMismatch) as refused:
        admin.init_topics(settings)
    (line,) = refused.value.differences
    assert line.startswith(f"topic {name} has 3 partitions, should have 2: set ASSETSTREAM_PARTITIONS=3")
    assert set(admin.Admin(settings).actual(specs(settings))) == {name}


@pytest.mark.parametrize(
    ("topic", "config", "line"),
    [
        ("marks", {"cleanup_policy": "delete"}, "has cleanup.policy=delete, should have compact: "),
        (
            "prices",
            {"message_timestamp_type": "CreateTime"},
            "has message.timestamp.type=CreateTime, should have LogAppendTime: ",
        ),
        (
            "dead_letters",
            {"max_message_bytes": str(MIB)},
            f"has max.message.bytes={MIB}, should have {4 * MIB} or more: ",
        ),
    ],
)
def test_a_topic_of_another_kind_is_refused(settings: Settings, topic: str, config: dict[str, str], line: str) -> None:
    name = make(settings, topic, **config)
    for refuses in (admin.init_topics, admin.check_topics):
        with pytest.raises(admin.TopicMismatch) as refused:
            refuses(settings)
        assert sum(f"topic {name} {line}" in each for each in refused.value.differences) == 1


def test_what_an_earlier_release_compacted_is_kept_for_ever_from_now_on(settings: Settings) -> None:
    name = make(settings, "operations", cleanup_policy="compact", retention_ms="604800000")
    with pytest.raises(admin.TopicMismatch, match=rf"{name} has retention.ms=604800000, .* \"assetstream init\""):
        admin.check_topics(settings)
    assert f"set cleanup.policy=delete of topic {name}, was compact" in admin.init_topics(settings)
    admin.check_topics(settings)


def test_larger_messages_than_needed_are_fine(settings: Settings) -> None:
    make(settings, "dead_letters", max_message_bytes=str(5 * MIB))
    admin.init_topics(settings)
    admin.check_topics(settings)


def test_retention_follows_the_setting(settings: Settings) -> None:
    admin.init_topics(settings)
    longer = with_(settings, retention_days=30)
    admin.check_topics(longer)  # an operator may change it before init
    done = admin.init_topics(longer)
    name = settings.topic("trades")
    assert f"set retention.ms=2592000000 of topic {name}, was 604800000" in done
    assert admin.Admin(longer).actual(specs(longer))[name][1]["retention.ms"] == "2592000000"
    assert not any(settings.topic("risk_limits") in line for line in done)  # kept for ever
    assert admin.init_topics(longer) == []


def test_a_worker_refuses_missing_topics_and_a_changelog_that_forgets(settings: Settings) -> None:
    name = make(settings, "account_changelog", retention_ms="1000")
    with pytest.raises(admin.TopicMismatch) as refused:
        admin.check_topics(settings)
    lines = refused.value.differences
    assert f'topic {settings.topic("trades")} is missing: run "assetstream init"' in lines
    assert len([line for line in lines if "is missing" in line]) == len(specs(settings)) - 1
    forgets = f'topic {name} has retention.ms=1000, should have -1 (kept for ever): run "assetstream init"'
    assert lines[-1] == forgets
    admin.init_topics(settings)
    admin.check_topics(settings)


def test_what_the_cluster_refuses_is_told(settings: Settings) -> None:
    with pytest.raises(KafkaException, match=r"(?i)replication"):
        admin.init_topics(with_(settings, replication_factor=3))


def test_a_broker_that_is_away_is_told_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "TIMEOUT_S", 1.0)
    nobody = f"127.0.0.1:{free_port()}"
    for call in (admin.init_topics, admin.check_topics):
        with pytest.raises(admin.BrokerAway) as away:
            call(with_(settings, kafka_bootstrap_servers=nobody))
        text = str(away.value)
        assert nobody in text
        assert "refused" in text
        assert '"assetstream up"' in text
        assert "\n" not in text
