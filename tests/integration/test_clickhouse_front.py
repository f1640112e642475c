"""ClickHouse's HTTP protocol over chDB, asked by clickhouse-connect and by bare HTTP, as clients ask a real server."""

from __future__ import annotations

import base64
import concurrent.futures
import gzip
import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import clickhouse_connect
import cramjam
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


def http(url: str, body: bytes | None = None, headers: dict[str, str] | None = None, **params: str) -> Answer:
    """GET, or POST when there is a body; an error status is an answer too."""
    full = f"{url}/?{urllib.parse.urlencode(params)}"
    request = urllib.request.Request(full, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Answer(response.status, response.read(), dict(response.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), dict(error.headers))


@pytest.fixture(scope="module")
def url(stack: EmbeddedStack) -> str:
    client = clickhouse_connect.get_client(dsn=stack.clickhouse)
    client.command("CREATE DATABASE front")
    client.command(
        "CREATE TABLE front.t (id UInt64, q Decimal(38, 18), s LowCardinality(String), at DateTime64(6, 'UTC')) "
        "ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    )
    return stack.clickhouse


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = clickhouse_connect.get_client(dsn=url, database="front")
    client.command("TRUNCATE TABLE t")
    yield client
    client.close()


class TestClickHouseConnect:
    def test_native_insert_and_query_are_exact(self, client: Client) -> None:
        rows = [
            (1, Decimal("1.5"), "a", datetime(2026, 3, 2, 9, 0, 0, 1, UTC)),
            (2**64 - 1, Decimal("-" + "9" * 20 + "." + "9" * 18), "tab\tquote'\\\n", datetime(1970, 1, 1, tzinfo=UTC)),
        ]
        summary = client.insert("t", rows)
        assert summary.written_rows == 2
        got = client.query("SELECT id, q, s, toUnixTimestamp64Micro(at) FROM t ORDER BY id").result_rows
        assert got == [
            (1, Decimal("1.5"), "a", 1_772_442_000_000_001),
            (2**64 - 1, Decimal("-99999999999999999999.999999999999999999"), "tab\tquote'\\\n", 0),
        ]

    @pytest.mark.parametrize("compression", [None, "lz4", "zstd", "gzip"])
    def test_compression_both_ways(self, url: str, client: Client, compression: str | None) -> None:
        packed = clickhouse_connect.get_client(dsn=url, database="front", compress=compression or False)
        rows = [[i, Decimal(i), "x" * 50, 0] for i in range(20_000)]
        packed.insert("t", rows, column_names=["id", "q", "s", "at"])
        got = packed.query("SELECT count(), sum(id), sum(q), uniqExact(s) FROM t").result_rows
        assert got == [(20_000, 199_990_000, Decimal(199_990_000), 1)]
        assert [row[0] for row in packed.query("SELECT id FROM t ORDER BY id").result_rows] == list(range(20_000))

    def test_arrow_both_ways(self, client: Client) -> None:
        table = pa.table(
            {
                "id": pa.array([1, 2], pa.uint64()),
                "q": pa.array([Decimal("0.000000000000000001"), Decimal(-7)], pa.decimal128(38, 18)),
                "s": pa.array(["ü", ""]),
                "at": pa.array([0, 1], pa.timestamp("us", "UTC")),
            }
        )
        assert client.insert_arrow("t", table).written_rows == 2
        got = client.query_arrow("SELECT id, q FROM t ORDER BY id")
        assert got.column("id").to_pylist() == [1, 2]
        assert got.column("q").to_pylist() == [Decimal("1E-18"), Decimal(-7)]

    def test_arrow_inserts_are_fast(self, client: Client) -> None:
        n = 300_000
        table = pa.table(
            {
                "id": pa.array(range(n), pa.uint64()),
                "q": pa.array([Decimal(1)] * n, pa.decimal128(38, 18)),
                "s": pa.array(["BTC/USD"] * n),
                "at": pa.array([0] * n, pa.timestamp("us", "UTC")),
            }
        )
        client.insert_arrow("t", table.slice(0, 1))
        began = time.perf_counter()
        client.insert_arrow("t", table)
        rate = n / (time.perf_counter() - began)
        print(f"{rate:,.0f} Arrow rows/s")
        assert client.command("SELECT count() FROM t") == n + 1
        assert rate > 100_000  # 500,000 and more when nothing else runs; see docs/benchmarks.md

    def test_server_side_parameters(self, client: Client) -> None:
        text = "it's a \\ \t tab\nand {x:UInt8}; DROP TABLE t"
        values = {
            "s": text,
            "n": 2**63,
            "l": ["a'b", "c"],
            "d": Decimal("1.50"),
        }
        got = client.query(
            "SELECT {s:String}, {n:UInt64}, {l:Array(String)}, {d:Decimal(38, 18)}, {nothing:Nullable(String)}",
            parameters={**values, "nothing": None},
        ).result_rows
        assert got == [(text, 2**63, ["a'b", "c"], Decimal("1.5"), None)]

    def test_identifier_parameter(self, client: Client) -> None:
        assert client.query("SELECT count() FROM {t:Identifier}", parameters={"t": "t"}).result_rows == [(0,)]

    def test_settings_reach_the_engine_for_one_request(self, client: Client) -> None:
        ask = "SELECT getSetting('max_block_size'), getSetting('max_result_rows')"
        usual = client.query(ask).result_rows
        assert client.query(ask, settings={"max_block_size": 777, "max_result_rows": 9}).result_rows == [(777, 9)]
        assert client.query(ask).result_rows == usual

    def test_a_session_keeps_what_was_set_in_it(self, client: Client) -> None:
        client.command("SET max_block_size = 4242")
        client.command("CREATE TEMPORARY TABLE mine (x UInt8)")
        client.command("INSERT INTO mine VALUES (7)")
        ask = "SELECT getSetting('max_block_size')"
        assert client.query("SELECT * FROM mine").result_rows == [(7,)]
        assert client.query(ask, settings={"max_block_size": 1}).result_rows == [(1,)]
        assert client.query(ask).result_rows == [(4242,)]
        client.command("SET max_block_size = 55", settings={"max_result_rows": 9})  # the URL's is for the request only
        assert client.query(f"{ask}, getSetting('max_result_rows')").result_rows == [(55, 0)]

    def test_a_repeated_token_inserts_nothing(self, client: Client) -> None:
        def insert(value: int, token: str) -> None:
            client.insert(
                "t",
                [[value, Decimal(0), "", 0]],
                column_names=["id", "q", "s", "at"],
                settings={"insert_deduplication_token": token, "async_insert": 0},
            )

        insert(1, "batch-1")
        insert(2, "batch-1")  # another body: it is the token that counts
        insert(1, "batch-2")  # the same body
        assert client.query("SELECT id FROM t ORDER BY id").result_rows == [(1,), (1,)]

    def test_an_arrow_insert_is_one_block(self, client: Client) -> None:
        n = 50_000
        table = pa.table(
            {
                "id": pa.array(range(n), pa.uint64()),
                "q": pa.array([Decimal(1)] * n, pa.decimal128(38, 18)),
                "s": pa.array(["x"] * n),
                "at": pa.array([0] * n, pa.timestamp("us", "UTC")),
            }
        )
        many = pa.Table.from_batches(table.to_batches(max_chunksize=1000))
        client.insert_arrow("t", many, settings={"insert_deduplication_token": "whole"})
        client.insert_arrow("t", many, settings={"insert_deduplication_token": "whole"})
        parts = "SELECT rows FROM system.parts WHERE database = 'front' AND table = 't' AND active"
        assert client.query(parts).result_rows == [(n,)]

    def test_errors_carry_clickhouses_code(self, client: Client) -> None:
        for sql, code, name in (
            ("SELECT nope", 47, "UNKNOWN_IDENTIFIER"),
            ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE"),
            ("SELECT throwIf(number = 3) FROM numbers(5)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ):
            with pytest.raises(DatabaseError) as caught:
                client.query(sql)
            assert (caught.value.code, caught.value.name) == (code, name)
        with pytest.raises(DatabaseError) as caught:
            client.insert_arrow("nowhere", pa.table({"x": [1]}))
        assert caught.value.code == 60
        assert client.ping()

    def test_external_data(self, client: Client) -> None:
        external = ExternalData(
            file_name="wanted.csv", data=b"1,one\n3,three\n", fmt="CSV", structure="id UInt8, name String"
        )
        got = client.query(
            "SELECT number, name FROM numbers(5) AS n JOIN wanted ON number = id ORDER BY 1", external_data=external
        )
        assert got.result_rows == [(1, "one"), (3, "three")]

    def test_form_encoded_parameters(self, url: str) -> None:
        client = clickhouse_connect.get_client(dsn=url, form_encode_query_params=True)
        assert client.query("SELECT {s:String}", parameters={"s": "x" * 100_000}).result_rows == [("x" * 100_000,)]

    def test_empty_results(self, client: Client) -> None:
        assert client.query("SELECT id FROM t").result_rows == []
        assert client.query("SELECT id, s FROM t LIMIT 0").column_names == ("id", "s")
        assert client.query_arrow("SELECT id FROM t").num_rows == 0


class TestBareHttp:
    def test_query_in_the_url_and_in_the_body(self, url: str) -> None:
        assert http(url, query="SELECT 1 + 1").body == b"2\n"
        assert http(url, b"SELECT 1 + 1").body == b"2\n"
        assert http(url, b"+ 5", query="SELECT 1").body == b"6\n"
        assert http(url).body == b"Ok.\n"
        with urllib.request.urlopen(f"{url}/ping") as response:
            assert response.read() == b"Ok.\n"

    def test_headers(self, url: str) -> None:
        answer = http(url, query="SELECT 1 AS x FORMAT JSON", query_id="mine")
        assert json.loads(answer.body)["data"] == [{"x": 1}]
        assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
        assert answer.headers["X-ClickHouse-Format"] == "JSON"
        assert answer.headers["X-ClickHouse-Timezone"]
        assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
        assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "1"

    def test_default_format_and_database(self, url: str) -> None:
        assert http(url, query="SELECT 'a', 1", default_format="CSV").body == b'"a",1\n'
        assert http(url, query="SELECT 1", headers={"X-ClickHouse-Format": "JSONEachRow"}).body == b'{"1":1}\n'
        assert http(url, query="SELECT currentDatabase()", database="front").body == b"front\n"
        missing = http(url, query="SELECT 1", database="nowhere")
        assert (missing.status, missing.headers["X-ClickHouse-Exception-Code"]) == (404, "81")

    def test_a_format_in_a_string_or_comment_is_none(self, url: str) -> None:
        answer = http(url, b"SELECT 'x FORMAT JSON' -- FORMAT CSV\n/* FORMAT XML */\n  AS y")
        assert answer.body == b"x FORMAT JSON\n"
        assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"

    def test_insert_statement_in_the_url_data_in_the_body(self, url: str) -> None:
        http(url, b"CREATE OR REPLACE TABLE front.curl (a UInt8, b String) ENGINE = MergeTree ORDER BY a")
        done = http(url, b"1,one\n2,two\n", query="INSERT INTO front.curl FORMAT CSV")
        assert json.loads(done.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
        http(url, b"(3, 'it''s; FORMAT CSV'), (4, 'four')", query="INSERT INTO front.curl VALUES")
        http(url, b"INSERT INTO front.curl (a, b) FORMAT JSONEachRow\n" + b'{"a": 5, "b": "five"}\n')
        http(url, b"INSERT INTO front.curl SELECT a + 10, b FROM front.curl WHERE a = 1")
        http(url, b"6\tsix\n", {"X-ClickHouse-Format": "TSV"}, query="INSERT INTO front.curl")
        got = http(url, b"SELECT * FROM front.curl ORDER BY a").body
        assert got == b"1\tone\n2\ttwo\n3\tit\\'s; FORMAT CSV\n4\tfour\n5\tfive\n6\tsix\n11\tone\n"

    @pytest.mark.parametrize(
        ("encoding", "compress"),
        [
            ("gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("zstd", cramjam.zstd.compress),
            ("lz4", cramjam.lz4.compress),
            ("br", cramjam.brotli.compress),
        ],
    )
    def test_encodings(self, url: str, encoding: str, compress: object) -> None:
        sql = bytes(compress(b"SELECT sum(number) FROM numbers(10)"))  # type: ignore[operator]
        assert http(url, sql, {"Content-Encoding": encoding}).body == b"45\n"
        answer = http(url, b"SELECT number FROM numbers(3)", {"Accept-Encoding": encoding})
        assert answer.headers["Content-Encoding"] == encoding
        decode = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding)
        plain = decode or getattr(cramjam, {"br": "brotli"}.get(encoding, encoding)).decompress
        assert bytes(plain(answer.body)) == b"0\n1\n2\n"

    def test_a_broken_body_is_told(self, url: str) -> None:
        answer = http(url, b"no gzip", {"Content-Encoding": "gzip"})
        assert answer.headers["X-ClickHouse-Exception-Code"] == "271"
        assert http(url, b"SELECT 1", {"Content-Encoding": "rot13"}).headers["X-ClickHouse-Exception-Code"] == "89"

    def test_get_only_reads(self, url: str) -> None:
        for sql in ("CREATE TABLE front.no (a Int8) ENGINE = Memory", "INSERT INTO front.t SELECT 1, 1, '', 0"):
            answer = http(url, query=sql)
            assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (500, "164")
        with_insert = "WITH 1 AS x INSERT INTO front.t SELECT x, x, '', 0"
        assert http(url, query=with_insert).headers["X-ClickHouse-Exception-Code"] == "164"
        assert http(url, query="(SELECT 5)").body == b"5\n"
        assert http(url, query="EXISTS TABLE front.no").body == b"0\n"

    def test_one_statement_a_request(self, url: str) -> None:
        answer = http(url, b"SELECT 1; DROP TABLE front.t")
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
        assert http(url, b"SELECT ';'; -- done\n").body == b";\n"
        assert http(url, b"EXISTS TABLE front.t").body == b"1\n"

    def test_no_files_of_the_server(self, url: str, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert http(url, f"SELECT 1 INTO OUTFILE '{out}'".encode()).headers["X-ClickHouse-Exception-Code"] == "358"
        assert not out.exists()
        answer = http(url, b"INSERT INTO front.t FROM INFILE '/etc/hostname' FORMAT CSV")
        assert answer.headers["X-ClickHouse-Exception-Code"] == "78"

    def test_unknown_setting(self, url: str) -> None:
        for session in ({}, {"session_id": "unknown-setting"}):
            answer = http(url, query="SELECT 1", no_such_setting="1", **session)
            assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "115")
            answer = http(url, query="SELECT 1", **{"a = 1, b": "1"}, **session)
            assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "115")
            assert http(url, query="SELECT 1", **session).body == b"1\n"

    def test_sessions(self, url: str) -> None:
        assert (
            http(url, query="SELECT 1", session_id="s9", session_check="1").headers["X-ClickHouse-Exception-Code"]
            == "372"
        )
        http(url, b"USE front", session_id="s9")
        assert http(url, query="SELECT currentDatabase()", session_id="s9").body == b"front\n"
        assert http(url, query="SELECT currentDatabase()", session_id="s9", database="system").body == b"system\n"
        assert http(url, query="SELECT currentDatabase()", session_id="s9").body == b"front\n"
        assert http(url, query="SELECT currentDatabase()").body == b"default\n"

    def test_strings_of_any_bytes(self, url: str) -> None:
        assert http(url, b"SELECT hex('\xff\x00\xfe')").body == b"FF00FE\n"
        assert http(url, query="SELECT hex({x:String})", param_x="a'\\\\b").body == b"61275C62\n"  # one backslash


class TestSeveralAtOnce:
    def test_results_never_mix(self, url: str) -> None:
        def ask(i: int) -> bool:
            answer = http(url, f"SELECT {i}, sum(number) FROM numbers({i} * 1000) SETTINGS max_threads = 1".encode())
            n = i * 1000
            return answer.body == f"{i}\t{n * (n - 1) // 2}\n".encode()

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert all(pool.map(ask, range(1, 161)))

    def test_a_long_query_blocks_nobody(self, url: str) -> None:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            long = pool.submit(http, url, b"SELECT sleepEachRow(0.5) FROM numbers(6) SETTINGS max_block_size = 1")
            time.sleep(0.3)
            began = time.perf_counter()
            with urllib.request.urlopen(f"{url}/ping") as response:
                assert response.read() == b"Ok.\n"
            assert http(url, b"SELECT 1").body == b"1\n"
            assert time.perf_counter() - began < 2
            assert not long.done()
            assert long.result().status == 200

    def test_a_session_is_one_clients_at_a_time(self, url: str) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            long = pool.submit(http, url, b"SELECT sleep(1.5)", session_id="busy")
            time.sleep(0.5)
            answer = http(url, b"SELECT 1", session_id="busy")
            assert answer.headers["X-ClickHouse-Exception-Code"] == "373"
            assert long.result().status == 200


class TestProcess:
    def test_login_and_data_after_kill(self, tmp_path: Path) -> None:
        server = EmbeddedClickHouse(tmp_path, "desk", "s3cret:é")
        try:
            url = f"http://127.0.0.1:{server.start(attached=True).port}"
            basic = base64.b64encode("desk:s3cret:é".encode()).decode()
            for right in (
                http(url, b"SELECT 1", {"Authorization": f"Basic {basic}"}),
                http(url, b"SELECT 1", user="desk", password="s3cret:é"),
            ):
                assert right.body == b"1\n"
            for wrong in (
                http(url, b"SELECT 1"),
                http(url, b"SELECT 1", {"X-ClickHouse-User": "desk", "X-ClickHouse-Key": "s3cret"}),
                http(url, b"SELECT 1", user="other", password="s3cret:é"),
            ):
                assert (wrong.status, wrong.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
            assert b"s3cret" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()  # type: ignore[union-attr]

            login = {"user": "desk", "password": "s3cret:é"}
            http(url, b"CREATE DATABASE d", **login)
            http(url, b"CREATE TABLE d.t (a UInt32) ENGINE = MergeTree ORDER BY a", **login)
            for i in range(20):
                assert http(url, str(i).encode(), query="INSERT INTO d.t FORMAT CSV", **login).status == 200
            server.process.signal(9)  # type: ignore[union-attr]
            url = f"http://127.0.0.1:{server.start(attached=True).port}"
            assert http(url, b"SELECT count(), sum(a) FROM d.t", **login).body == b"20\t190\n"
        finally:
            server.stop()

    def test_arrow_stream_of_pyarrow(self, url: str) -> None:
        """What the sink sends: an IPC stream as the body, the statement in the URL."""
        sink = io.BytesIO()
        table = pa.table({"a": pa.array([1, 2], pa.uint8()), "b": ["x", "y"]})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        http(url, b"CREATE OR REPLACE TABLE front.ipc (a UInt8, b String) ENGINE = MergeTree ORDER BY a")
        assert http(url, sink.getvalue(), query="INSERT INTO front.ipc FORMAT ArrowStream").status == 200
        assert http(url, b"SELECT * FROM front.ipc ORDER BY a").body == b"1\tx\n2\ty\n"
