"""Where a statement ends and its data begins, as ClickHouse's own parser sees it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetstream.sinks.statement import Refused, parse


@pytest.mark.parametrize(
    ("sql", "text", "data", "data_format"),
    [
        (b"INSERT INTO t VALUES (1,'a;b')", b"INSERT INTO t ", b" (1,'a;b')", "Values"),
        (b"insert into t(a) format CSV\n1,2\n", b"insert into t(a) ", b"1,2\n", "CSV"),
        (b"INSERT INTO t FORMAT CSV 1,2", b"INSERT INTO t ", b"1,2", "CSV"),
        (b"INSERT INTO t FORMAT CSV\r\n\n1", b"INSERT INTO t ", b"\n1", "CSV"),
        (b"INSERT INTO t FORMAT Native\n \x00'\"/*", b"INSERT INTO t ", b" \x00'\"/*", "Native"),
        (b"/* FORMAT X */INSERT INTO `FORMAT a` FORMAT TSV\n1", b"/* FORMAT X */INSERT INTO `FORMAT a` ", b"1", "TSV"),
        (b"INSERT INTO values VALUES (1)", b"INSERT INTO values ", b" (1)", "Values"),
        (b"INSERT INTO format FORMAT CSV\n1", b"INSERT INTO format ", b"1", "CSV"),
        (b"INSERT INTO FUNCTION null('a Int8') FORMAT CSV\n1", b"INSERT INTO FUNCTION null('a Int8') ", b"1", "CSV"),
        (
            b"INSERT INTO t SETTINGS max_threads = 1 FORMAT CSV\n1",
            b"INSERT INTO t SETTINGS max_threads = 1 ",
            b"1",
            "CSV",
        ),
        (b"INSERT INTO t (a, b)", b"INSERT INTO t (a, b)", b"", None),
    ],
)
def test_inserts_with_data(sql: bytes, text: bytes, data: bytes, data_format: str | None) -> None:
    statement = parse(sql)
    assert statement.takes
    assert not statement.reads
    assert (statement.text, statement.data, statement.format) == (text, data, data_format)


@pytest.mark.parametrize(
    "sql",
    [
        b"INSERT INTO t SELECT * FROM values('a UInt8', 1)",
        b"INSERT INTO t WITH 1 AS x SELECT x",
        b"INSERT INTO t (SELECT 1);",
        b"WITH 1 AS x INSERT INTO t SELECT x",
        b"DROP TABLE t",
        b"ALTER TABLE t DELETE WHERE 'SELECT' = ''",
        b"SYSTEM FLUSH LOGS",
        b"",
    ],
)
def test_other_writes(sql: bytes) -> None:
    statement = parse(sql)
    assert not statement.reads
    assert not statement.takes
    assert statement.text.rstrip(b"; ") == sql.rstrip(b"; ")


@pytest.mark.parametrize(
    ("sql", "result_format"),
    [
        (b"SELECT 1", None),
        (b"SELECT 'FORMAT JSON' -- FORMAT CSV", None),
        (b"SELECT 1 # FORMAT CSV\n /* ; FORMAT XML */ format JSON ;", "JSON"),
        (b"(SELECT 1) UNION ALL (SELECT 2 FORMAT) FORMAT TSV SETTINGS max_threads = 1", "TSV"),
        (b"SELECT format FROM t.format", None),
        (b"SELECT $x$ it's FORMAT A; $x$ FORMAT CSV", "CSV"),
        (b"WITH t AS (SELECT 'INSERT') SELECT * FROM t", None),
        (b"SHOW TABLES FORMAT JSONEachRow", "JSONEachRow"),
        (b"EXPLAIN SELECT 1", None),
        (b"SELECT 1;; -- done", None),
        (b"SELECT a.insert FROM a", None),
    ],
)
def test_reads(sql: bytes, result_format: str | None) -> None:
    statement = parse(sql)
    assert statement.reads
    assert not statement.takes
    assert (statement.text, statement.format) == (sql, result_format)


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        (b"SELECT 1; SELECT 2", 62),
        (b"SELECT 1;;SELECT 2", 62),
        (b"DROP TABLE a; DROP TABLE b", 62),
        (b"SELECT 1 INTO OUTFILE 'x'", 358),
        (b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", 78),
        (b"INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV 1", 48),
    ],
)
def test_refusals(sql: bytes, code: int) -> None:
    with pytest.raises(Refused) as caught:
        parse(sql)
    assert caught.value.code == code


#: whatever it holds, it is one literal or one comment
quoted = st.text(st.characters(exclude_categories=["Cs"])).map(
    lambda s: ("'" + s.replace("\\", "\\\\").replace("'", "\\'") + "'").encode()
)
comment = st.text(st.characters(exclude_categories=["Cs"])).map(
    lambda s: ("/*" + s.replace("*/", "").replace("*", "") + "*/").encode()
)


@settings(max_examples=200)
@given(quoted, comment)
def test_literals_and_comments_decide_nothing(literal: bytes, note: bytes) -> None:
    read = parse(b"SELECT " + literal + note + b" FORMAT JSON")
    assert (read.reads, read.format) == (True, "JSON")
    write = parse(b"INSERT INTO t SETTINGS insert_deduplication_token = " + literal + note + b" FORMAT CSV\n1;2")
    assert (write.takes, write.format, write.data) == (True, "CSV", b"1;2")
    with pytest.raises(Refused):
        parse(b"SELECT " + literal + b";" + note + b"DROP TABLE t")


def test_a_long_unclosed_string_takes_linear_time() -> None:
    began = time.process_time()
    parse(b"SELECT '" + b"\\'" * 200_000)
    parse(b"SELECT " + b"'" * 200_001)
    parse(b"INSERT INTO t FORMAT Native\n" + b"'" * 50_000_000)
    assert time.process_time() - began < 2
