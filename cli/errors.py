"""Which errors are told to the user as plain text, and which are bugs that deserve a traceback."""

from __future__ import annotations

from typing import Any

#: by module and name, so that nothing is imported for an error that didn't happen
KAFKA = ("cimpl.KafkaException", "confluent_kafka.KafkaException")
SETTINGS = "pydantic_core._pydantic_core.ValidationError"
CLICKHOUSE = "clickhouse_connect.driver.exceptions."


def told(error: BaseException) -> str | None:
    """What went wrong in one line (a line each, where several did); None for an error we didn't foresee.

    Every exception class of our own says in its text what to do. Of others' we know those of a setting, of
    Kafka and of ClickHouse.
    """
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if any(name.startswith("assetstream.") for name in names):
        return str(error)
    if SETTINGS in names and getattr(error, "title", "") == "Settings":
        return "\n".join(_setting(each) for each in error.errors())  # type: ignore[attr-defined]
    if any(name in KAFKA for name in names):
        return f"Kafka refused: {error.args[0].str()}"
    if any(name.startswith(CLICKHOUSE) for name in names):
        return f"ClickHouse refused: {str(error).strip().splitlines()[0]}"
    return None


def _setting(error: dict[str, Any]) -> str:
    """`ASSETSTREAM_PARTITIONS: input should be greater than or equal to 1, not 0`; never a secret's value."""
    name = f"ASSETSTREAM_{str(error['loc'][0]).upper()}" if error["loc"] else "settings"
    value = error["input"]
    shown = f", not {value!r}" if isinstance(value, str | int | float) and "PASSWORD" not in name else ""
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}{shown}"
