"""Every setting, in one place: environment `ASSETSTREAM_*` or a `.env` file in the working folder.

The library and the command line share one `Settings`. An unknown `ASSETSTREAM_` name is an error that names the
nearest known one, because a misspelt limit that is silently ignored costs money.
"""

from __future__ import annotations

import difflib
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from assetstream.models.settlement_rules import (
    SettlementRules,
    calendars_of,
    cycles_of,
    holidays_of,
    settlement_rules,
)

PREFIX = "ASSETSTREAM_"


class UnknownSetting(ValueError):
    """A name with our prefix that no setting has; `names` maps each to its nearest known name (or None)."""

    def __init__(self, names: dict[str, str | None]) -> None:
        self.names = names
        super().__init__(
            "; ".join(
                f"unknown setting {name}" + (f", did you mean {near}?" if near else "") for name, near in names.items()
            )
        )


class Settings(BaseSettings):
    """Settings of one process. Names below are the environment's, without the prefix and in lower case."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: Path | None = None
    kafka_ssl_certificate_location: Path | None = None
    kafka_ssl_key_location: Path | None = None
    kafka_ssl_key_password: SecretStr | None = None

    clickhouse_url: str = "http://127.0.0.1:8123"
    clickhouse_user: str = "default"
    clickhouse_password: SecretStr = SecretStr("")
    clickhouse_database: str = Field("assetstream", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    clickhouse_ca_location: Path | None = None
    clickhouse_ttl_days: int | None = Field(None, ge=1, description="rows older than this are dropped; None: never")

    data_dir: Path = Path("data")
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    partitions: int = Field(8, ge=1, le=1024)
    replication_factor: int = Field(1, ge=1, le=9)
    retention_days: float = Field(7, description="of input topics; negative: for ever")
    base_currency: str = Field("USD", pattern=r"^[A-Za-z0-9._:/-]{1,32}$")
    consumer_group: str = Field("assetstream", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    session_timeout_s: float = Field(6, ge=1, le=300, description="a silent worker loses its partitions after this")

    checkpoint_ms: int = Field(20, ge=1, le=60_000)
    mark_update_ms: int = Field(1000, ge=0, le=3_600_000)
    max_future_skew_s: int = Field(3600, ge=0)
    id_memory: int = Field(1_000_000, ge=1, description="trade and transaction ids remembered per partition")
    settlement_cycles: str = Field("", description="business days by type of asset: STOCK/CAD=1, OTHER=3")
    settlement_calendars: str = Field("", description="exchanges by currency: AED=XSAU")
    settlement_holidays: str = Field("", description="dates by currency: CAD=2026-11-11")
    conversion_max_age_s: int = Field(
        60, ge=0, le=100 * 366 * 86_400, description="a conversion takes no rate of marks that are older"
    )
    conversion_spread_bps: Decimal = Field(
        Decimal(0), ge=0, lt=10_000, decimal_places=14, description="taken off the rate of marks, in basis points"
    )
    asset_precision: str = Field(
        "off", min_length=1, description="`iso4217`, or a file asset → decimals: amounts that are finer are invalid"
    )
    fee_schedule: Path | None = Field(None, description="a file that `assetstream fees quote` quotes from")
    snapshot_s: float = Field(30, ge=0.1, description="time between local snapshots")

    dead_letter_run: int = Field(100, ge=0, description="so many dead letters in a row raise an alarm; 0: never")
    dead_letter_share: float = Field(0.5, ge=0, le=1, description="of a topic's last 1,000 messages; 0: never")
    dead_letter_stop: bool = Field(False, description="stop the worker when either is exceeded")

    audit_head_s: float = Field(10, ge=1, le=3600, description="least time between two heads of a partition")
    audit_key: Path | None = Field(None, description="PEM file of the Ed25519 key that signs heads")
    reconcile_quantity_tolerance: Decimal = Field(Decimal(0), ge=0)
    reconcile_price_tolerance: Decimal = Field(Decimal(0), ge=0)
    reconcile_time_tolerance_s: int = Field(60, ge=0, le=86_400, description="of trades without the same id")

    metrics_port: int = Field(9108, ge=0, le=65535, description="0: any free port")
    metrics_host: str = "127.0.0.1"
    log_level: str = "INFO"
    log_json: bool = False

    @field_validator("base_currency")
    @classmethod
    def _no_pair(cls, value: str) -> str:
        if "/" in value:
            raise ValueError("a currency, not a pair")
        return value

    @field_validator("settlement_cycles", "settlement_calendars", "settlement_holidays")
    @classmethod
    def _can_be_followed(cls, value: str, field: ValidationInfo) -> str:
        parse = {"settlement_cycles": cycles_of, "settlement_calendars": calendars_of}
        parse.get(str(field.field_name), holidays_of)(value)
        return value

    @property
    def settlement_rules(self) -> SettlementRules:
        """When trades settle, by the defaults and these settings."""
        return settlement_rules(self.settlement_cycles, self.settlement_calendars, self.settlement_holidays)

    def topic(self, name: str) -> str:
        """The topic's full name, with the prefix."""
        return f"{self.topic_prefix}{name}"

    def group(self, name: str) -> str:
        """The consumer group of `agents` or `sinks`; the prefix keeps two installations on one cluster apart."""
        return f"{self.topic_prefix}{self.consumer_group}-{name}"

    def kafka(self, **extra: Any) -> dict[str, Any]:
        """librdkafka configuration: where the cluster is and how to log in to it, and `extra`."""
        secret = {
            "sasl.mechanism": self.kafka_sasl_mechanism,
            "sasl.username": self.kafka_sasl_username,
            "sasl.password": self.kafka_sasl_password and self.kafka_sasl_password.get_secret_value(),
            "ssl.ca.location": self.kafka_ssl_ca_location and str(self.kafka_ssl_ca_location),
            "ssl.certificate.location": self.kafka_ssl_certificate_location
            and str(self.kafka_ssl_certificate_location),
            "ssl.key.location": self.kafka_ssl_key_location and str(self.kafka_ssl_key_location),
            "ssl.key.password": self.kafka_ssl_key_password and self.kafka_ssl_key_password.get_secret_value(),
        }
        return {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "security.protocol": self.kafka_security_protocol,
            **{k: v for k, v in secret.items() if v},
            **extra,
        }


def load(**overrides: Any) -> Settings:
    """Settings from the environment and `.env`; keyword arguments (from the command line) win, None is left out.

    Raises UnknownSetting for a name we don't know, and pydantic's ValidationError for a value that breaks its rule.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    names = [name for name in [*os.environ, *dotenv_values(".env")] if name.upper().startswith(PREFIX)]
    unknown = [name for name in names if name.upper() not in known]
    if unknown:
        near = {name: next(iter(difflib.get_close_matches(name.upper(), known, 1)), None) for name in unknown}
        raise UnknownSetting(near)
    return Settings(**{k: v for k, v in overrides.items() if v is not None})
