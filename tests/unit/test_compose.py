"""docker/ without a Docker engine: the files parse, and agree with the code they deploy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from assetstream.cli.main import COMMANDS
from assetstream.streams.embedded_kafka import PROPERTIES, VERSION
from assetstream.streams.settings import PREFIX, Settings

DOCKER = Path(__file__).parents[2] / "docker"
OURS = ("init", "worker", "reconciler", "notary", "market")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_services_and_volumes(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"kafka", "clickhouse", "prometheus", *OURS}
    for name, service in services.items():
        named = [volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in ".$"]
        assert set(named) <= set(compose["volumes"]), name
        for needed, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            assert needed in services
            assert condition in ("service_healthy", "service_completed_successfully")
            assert condition != "service_healthy" or "healthcheck" in services[needed]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would listen to the whole network"


def test_what_runs_for_long_has_a_health_check(compose: dict[str, Any]) -> None:
    for name in ("kafka", "clickhouse", "worker", "reconciler", "prometheus"):
        check = compose["services"][name]["healthcheck"]
        assert check["test"][0] == "CMD"
        assert set(check) <= {"test", "interval", "timeout", "retries", "start_period"}


def test_our_containers(compose: dict[str, Any]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in OURS:
        service = compose["services"][name]
        assert set(service["environment"]) <= known
        assert service["command"][0] == {"market": "simulate"}.get(name, name)
        assert service["command"][0] in COMMANDS
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()
    for name in ("worker", "reconciler"):
        assert "container_name" not in compose["services"][name]  # it could not be scaled
        assert "ports" not in compose["services"][name]


def filled_in(text: str, variables: dict[str, str]) -> str:
    """What Compose makes of `${NAME:-default}`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1]) or match[2], text)


def test_the_notary_has_a_key_if_whoever_starts_it_has_one(compose: dict[str, Any]) -> None:
    notary, settings = compose["services"]["notary"], compose["services"]["worker"]["environment"]
    assert notary["environment"] == {**settings, "ASSETSTREAM_AUDIT_KEY": None}  # null: as it is outside, or not at all
    assert notary["profiles"] == ["audit"]
    (mount,) = notary["volumes"]
    source, target, how = filled_in(mount, {"ASSETSTREAM_AUDIT_KEY": "/keys/audit.pem"}).split(":")
    assert (source, target, how) == ("/keys/audit.pem", "/keys/audit.pem", "ro")
    assert filled_in(mount, {}) == "/dev/null:/run/no-key:ro"


def test_settings_of_the_containers_hold_together(compose: dict[str, Any]) -> None:
    services = compose["services"]
    environment = services["worker"]["environment"]
    values = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items()}
    settings = Settings(_env_file=None, **values)
    assert (
        f"INSIDE://{settings.kafka_bootstrap_servers}" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    )
    assert settings.clickhouse_url == "http://clickhouse:8123"
    login = services["clickhouse"]["environment"]
    assert login["CLICKHOUSE_USER"] == settings.clickhouse_user
    assert login["CLICKHOUSE_PASSWORD"] == environment["ASSETSTREAM_CLICKHOUSE_PASSWORD"]
    scrape = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    assert scrape["names"] == ["worker", "reconciler"]
    assert scrape["port"] == settings.metrics_port
    for name in scrape["names"]:
        assert str(scrape["port"]) in services[name]["expose"]
        assert f":{scrape['port']}/healthz" in services[name]["healthcheck"]["test"][-1]


def test_the_broker_is_set_as_the_embedded_one(compose: dict[str, Any]) -> None:
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{VERSION}"
    embedded = dict(line.split("=", 1) for line in PROPERTIES.splitlines() if "=" in line and not line.startswith("#"))
    own = re.compile(r"NODE|PROCESS|CONTROLLER|LISTENER|LOG_DIRS|HEAP")
    shared = {name: value for name, value in kafka["environment"].items() if not own.search(name)}
    assert len(shared) >= 14
    for name, value in shared.items():
        assert embedded[name.removeprefix("KAFKA_").lower().replace("_", ".")] == str(value), name


def test_the_image() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    assert any(line.startswith("COPY dist/*.whl") for line in lines)
    assert 'ENTRYPOINT ["assetstream"]' in lines
    assert "!dist/*.whl" in (DOCKER / "Dockerfile.dockerignore").read_text().split()
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}\w+", text)) <= known
