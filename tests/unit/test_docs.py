"""README.md and docs/ say what the code says: settings, metrics, topics, commands, tables, examples, links."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr

from assetstream.cli.main import COMMANDS
from assetstream.models.messages import INPUTS, SCHEMAS, Input, parse
from assetstream.models.verdicts import Verdict
from assetstream.sinks.migrations import MIGRATIONS
from assetstream.sinks.schema import TABLES, VIEWS, VIEWS_AT
from assetstream.streams import metrics
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import specs
from tests.documents import DOCUMENTS, LANGUAGES, ROOT, RUN, all_blocks, table

README = ROOT / "README.md"
INTERFACE = ROOT / "docs" / "interface.md"
OPERATIONS = ROOT / "docs" / "operations.md"
BLOCKS = all_blocks()
LATER = 4_102_444_800_000  # the year 2100: no example is in the future of it


def _shown(default: Any) -> str:
    """A setting's default as the table writes it."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    return "–" if default is None else str(default) or "empty"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    told = {row[0]: row[1] for row in table(README, "Settings")}
    assert told == {name.upper(): _shown(field.default) for name, field in Settings.model_fields.items()}


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    told = {row[0]: (row[1], row[2].split(":")[0]) for row in table(README, "Metrics")}
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            suffix = "_total" if isinstance(metric, Counter) else ""
            found[metric._name + suffix] = (", ".join(metric._labelnames), type(metric))
    assert {name: labels for name, (labels, _) in told.items()} == {name: labels for name, (labels, _) in found.items()}
    for name, (_, kind) in found.items():
        said = told[name][1]
        assert (said == "histogram") == (kind is Histogram), name
        assert (said == "gauge") == (kind is Gauge), name


def test_the_table_of_topics_is_that_of_the_code() -> None:
    told = {row[0]: row[1:4] for row in table(OPERATIONS, "Topics and retention")}
    found = {}
    for spec in specs(Settings()):
        kept = {"-1": "for ever", str(7 * 86_400_000): "RETENTION_DAYS", None: "compacted"}
        assert (spec.config.get("retention.ms") is None) == (spec.config["cleanup.policy"] == "compact")
        size = int(spec.config.get("max.message.bytes", 0)) // 1024
        found[spec.name] = [
            kept[spec.config.get("retention.ms")],
            spec.config.get("message.timestamp.type", "–"),
            f"{size:,} KiB" if size else "the broker's",
        ]
    assert told == found


def test_every_rejection_has_its_row_in_the_contracts_order() -> None:
    told = [row[0] for row in table(INTERFACE, "Rejections")]
    assert told == [verdict.reason for verdict in Verdict if verdict.is_rejection]


def test_every_table_and_column_of_clickhouse_is_named() -> None:
    told = {row[0]: row[2].split(", ") for row in table(INTERFACE, "ClickHouse")}
    assert told.keys() == {*TABLES, *VIEWS, *VIEWS_AT}
    for name, found in TABLES.items():
        assert told[name] == [column for column in found.columns if not column.startswith("source_")], name
    for name in (*VIEWS, *VIEWS_AT):
        assert told[name] == _columns_of_view(name), name


def _columns_of_view(name: str) -> list[str]:
    """What the SQL of the latest migration that makes it selects."""
    texts = [str(statement) for migration in MIGRATIONS for statement in migration.statements]
    (*_, view) = (text for text in texts if f"VIEW {{db}}.{name} AS" in text)
    selected = view.split("SELECT", 1)[1].split("\nFROM", 1)[0]
    return [column.split(" AS ")[-1] for column in re.split(r",\s+", selected.strip())]


def test_every_command_has_its_row() -> None:
    assert [row[0] for row in table(INTERFACE, "Command line")] == list(COMMANDS)


@pytest.mark.parametrize("topic", sorted(SCHEMAS.keys() - {"marks"}))  # that one is internal
def test_every_field_of_a_message_is_named(topic: str) -> None:
    words = set(re.findall(r"\w+", INTERFACE.read_text()))
    assert set(SCHEMAS[topic].model_fields) <= words


# -- blocks -----------------------------------------------------------------------------------------------------------


def test_every_block_says_what_it_is() -> None:
    assert sum(block.language in RUN for block in BLOCKS) >= 20
    for block in BLOCKS:
        assert block.language in LANGUAGES, block.where
        assert set(block.words) <= {"background", "last", "make", "output"} or block.language == "json", block.where


def test_an_output_follows_what_prints_it() -> None:
    for before, after in pairwise(BLOCKS):
        if "output" in after.words:
            assert (before.document, before.language, before.words) == (after.document, "bash", ()), after.where


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    texts = [path.read_text() for path in (*DOCUMENTS, ROOT / "CONTRIBUTING.md")]
    named = {name for text in texts for name in re.findall(r"(?:^|`|\$ )make ([a-z]+)", text, re.MULTILINE)}
    assert {"demo", "test"} <= named <= set(targets)


def test_what_is_named_of_the_command_exists() -> None:
    for path in DOCUMENTS:
        for name in re.findall(r"`assetstream ([a-z-]+)", path.read_text()):
            assert name in COMMANDS, f"{path.name}: {name}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=lambda b: b.where)
def test_example_messages_are_messages(block: Any) -> None:
    (topic,) = (word.removeprefix("topic=") for word in block.words)
    if topic in INPUTS:
        message = parse(topic, block.text.encode(), LATER, 0)
        assert isinstance(message, Input), message
        known: dict[str, Any] = json.loads(block.text)
        assert set(known) <= set(type(message).model_fields), "an example has no unknown fields"
    else:
        found = json.loads(block.text, parse_float=str)
        model = SCHEMAS[topic].model_validate(found)
        fields = type(model).model_fields
        assert {name for name in fields if fields[name].is_required()} <= set(found) <= set(fields)
        assert model.model_dump(mode="json", exclude_unset=True) == found, "as it is written, byte for byte"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "dotenv"], ids=lambda b: b.where)
def test_example_settings_are_settings(block: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(block.text)
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert len(settings.model_fields_set) >= len(block.text.strip().splitlines())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.where)
def test_programs_are_programs(block: Any) -> None:
    compile(block.text, block.where, "exec")


def test_every_test_that_holds_a_promise_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "guarantees.md").read_text())
    assert len(named) > 10
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


# -- links ------------------------------------------------------------------------------------------------------------


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there), target
