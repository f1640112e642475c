"""ClickHouse as one process: chDB (the engine in a wheel) behind ClickHouse's own HTTP protocol.

One process owns the data folder; clickhouse-connect, curl and Grafana talk to it as to a server. What the engine does
it does: SQL, types, formats, settings, deduplication, errors. What a server adds is here: users, sessions, parameters
and settings in the URL, compression, status codes and headers. Every request runs on an engine connection of its own,
in a thread of its own, so that queries run side by side and no setting of one reaches another; a session
(`session_id`) is such a connection that is kept.

Not served: `compress=1` and `decompress=1` (ClickHouse's own block format; HTTP's encodings are), INSERT … SELECT from
`input()`, streaming of results (they are complete when the first byte leaves, as with `wait_end_of_query=1`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import gzip
import hmac
import json
import os
import re
import signal
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import chdb
import cramjam
from aiohttp import BodyPartReader, web

from assetstream.sinks.statement import Refused, Statement, parse

MIB = 1 << 20
#: on a machine shared with Kafka and a worker, alerts must not wait for inserts and merges (p50 of a trade's way at
#: 10,000/s on 2 cores: about a fifth shorter)
NICENESS = 10
#: a request's body, and its URL
MAX_BODY, MAX_URL = 1024 * MIB, MIB
#: queries at once; more wait for their turn
THREADS = 32

#: parameters of the protocol, as opposed to settings
RESERVED = frozenset(
    "query user password database default_format quota_key query_id stacktrace role buffer_size wait_end_of_query "  # noqa: SIM905
    "session_id session_timeout session_check close_session client_protocol_version compress decompress".split()
)

#: HTTP status of ClickHouse's error codes, as in its exceptionCodeToHTTPStatus; every other is 500
STATUS = {
    **dict.fromkeys((192, 193, 497, 512, 516), 403),  # who are you
    194: 401,
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123), 400),  # no sense in it
    **dict.fromkeys((167, 168, 223, 321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),  # no such thing
    159: 408,
    229: 413,
    381: 411,
    779: 415,
    48: 501,
    **dict.fromkeys((76, 209, 439), 503),
}

CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Pretty": "text/plain; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
}

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "lz4": cramjam.lz4.decompress,
    "zstd": cramjam.zstd.decompress,
    "br": cramjam.brotli.decompress,
    "snappy": cramjam.snappy.decompress,
    "bz2": cramjam.bzip2.decompress,
    "xz": cramjam.xz.decompress,
}

#: best first: on one machine the cheapest is the fastest
ENCODERS: dict[str, Callable[[bytes], Any]] = {
    "lz4": cramjam.lz4.compress,
    "zstd": lambda data: cramjam.zstd.compress(data, 1),
    "gzip": lambda data: gzip.compress(data, 3),
    "deflate": lambda data: zlib.compress(data, 3),
    "br": lambda data: cramjam.brotli.compress(data, 3),
}


@dataclass
class Request:
    """One request, read whole. `sql` is the URL's query, `body` what followed; `files` are external tables."""

    params: dict[str, str]
    sql: bytes = b""
    body: bytes = b""
    encoding: str = ""
    accepts: str = ""
    read_only: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """The parameters that are ClickHouse settings."""
        tables = tuple(f"{name}_" for name in self.files)
        return {
            name: value
            for name, value in self.params.items()
            if name not in RESERVED and not name.startswith(("param_", *tables))
        }


@dataclass
class Answer:
    """What a request is answered with."""

    body: bytes
    format: str = "TabSeparated"
    encoding: str = ""
    summary: dict[str, str] = field(default_factory=dict)


@dataclass
class Session:
    """An engine connection that is kept between requests, one of which may use it at a time.

    usual: the values of what requests' URLs override for their own duration.
    """

    connection: Any
    expires: float = 0.0
    busy: bool = False
    usual: dict[str, str] = field(default_factory=dict)


class Engine:
    """chDB over one data folder. Its methods may be called from several threads at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = str(folder)
        self._keeper = chdb.connect(self._folder)  # as long as one is open the engine stays
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self.version, self.timezone = (
            _result(self._keeper.query("SELECT version(), timezone()", "TabSeparatedRaw")).decode().strip().split("\t")
        )

    def close(self) -> None:
        """Close every connection; the engine flushes and lets go of the folder."""
        for session in self._sessions.values():
            session.connection.close()
        self._keeper.close()

    def answer(self, request: Request) -> Answer:
        """Run one request. Raises Refused and chdb.ChdbError."""
        if request.params.get("compress") == "1" or request.params.get("decompress") == "1":
            raise Refused(48, "NOT_IMPLEMENTED", "compress/decompress is not served; use Accept-/Content-Encoding")
        statement = _statement(request)
        if request.read_only and not statement.reads:
            raise Refused(
                164,
                "READONLY",
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. "
                "You should use method POST for modifying queries",
            )
        with self._connection(request) as session, self._overridden(session, request, statement):
            answer = self._run(session.connection, statement, request)
        answer.encoding = _chosen(request) if answer.body else ""
        if answer.encoding:
            answer.body = bytes(ENCODERS[answer.encoding](answer.body))
        return answer

    def _run(self, connection: Any, statement: Statement, request: Request) -> Answer:
        for name, value in request.params.items():
            if name.startswith("param_") and name.isidentifier():
                _query(connection, f"SET {name} = {_quoted(value)}")
        for name, data in request.files.items():
            self._external(connection, name, data, request.params)
        default = request.params.get("default_format", "")
        if statement.takes:
            result = _insert(connection, statement.text, statement.format or default or "Values", statement.data)
            return Answer(b"", summary=_summary(written=(result.rows_written, result.bytes_written)))
        result = connection.query(_text(statement.text), default or "TabSeparated")
        return Answer(
            _result(result),
            statement.format or default or "TabSeparated",
            summary=_summary(
                (result.storage_rows_read(), result.storage_bytes_read()),
                (result.rows_written(), result.bytes_written()),
                (result.rows_read(), result.bytes_read()),
                result.elapsed(),
            ),
        )

    def _external(self, connection: Any, name: str, data: bytes, params: dict[str, str]) -> None:
        """A file that came with the request, as a temporary table."""
        types = params.get(f"{name}_types", "").split(",")
        columns = params.get(f"{name}_structure") or ", ".join(f"_{i} {each}" for i, each in enumerate(types, 1))
        if not name.isidentifier():
            raise Refused(36, "BAD_ARGUMENTS", f"Not a name of an external table: {name}")
        _query(connection, f"CREATE OR REPLACE TEMPORARY TABLE {name} ({columns}) ENGINE = Memory")
        _insert(connection, f"INSERT INTO {name}".encode(), params.get(f"{name}_format", "TabSeparated"), data)

    @contextlib.contextmanager
    def _connection(self, request: Request) -> Iterator[Session]:
        """A connection of the request's own, or its session's."""
        key = request.params.get("session_id")
        if not key:
            session = Session(chdb.connect(self._folder))
            try:
                yield session
            finally:
                session.connection.close()
            return
        timeout = 0.0 if request.params.get("close_session") == "1" else _session_timeout(request.params)
        session = self._session(key, request.params)
        try:
            yield session
        finally:
            session.expires = time.monotonic() + timeout
            session.busy = False

    def _session(self, key: str, params: dict[str, str]) -> Session:
        with self._lock:
            now = time.monotonic()
            for old in [k for k, each in self._sessions.items() if not each.busy and each.expires < now]:
                self._sessions.pop(old).connection.close()
            session = self._sessions.get(key)
            if session is None:
                if params.get("session_check") == "1":
                    raise Refused(372, "SESSION_NOT_FOUND", f"Session {key} not found")
                session = self._sessions[key] = Session(chdb.connect(self._folder))
            if session.busy:
                raise Refused(373, "SESSION_IS_LOCKED", f"Session {key} is locked by a concurrent client")
            session.busy = True
            return session

    @contextlib.contextmanager
    def _overridden(self, session: Session, request: Request, statement: Statement) -> Iterator[None]:
        """The URL's database and settings, for this request only; what a SET or USE in it changes stays changed."""
        database, wanted = request.params.get("database"), request.settings
        if not request.params.get("session_id"):
            _apply(session.connection, database, wanted)
            yield
            return
        _remember(session, wanted)
        try:
            _apply(session.connection, database, wanted)
            yield
        finally:
            meant = statement.text if statement.kind == b"SET" else b""
            usual = {name: session.usual[name] for name in wanted if name.encode() not in meant}
            back = session.usual["database"] if database and statement.kind != b"USE" else None
            _apply(session.connection, back, usual)
            if statement.kind in (b"SET", b"USE"):
                session.usual.clear()


def _remember(session: Session, wanted: dict[str, str]) -> None:
    """Note what the session has where this request wants something else. Raises what an unknown setting raises."""

    def value(expression: str) -> str:
        return _result(_query(session.connection, f"SELECT {expression}", "TabSeparatedRaw")).decode()[:-1]

    if "database" not in session.usual:
        session.usual["database"] = value("currentDatabase()")
    for name in wanted:
        if name not in session.usual:
            session.usual[name] = value(f"toString(getSetting({_quoted(name)}))")


def _statement(request: Request) -> Statement:
    """The request's statement: from the URL, its data or its rest from the body; or all from the body."""
    body = request.body
    if request.encoding:
        try:
            body = bytes(DECODERS[request.encoding](body))
        except KeyError:
            raise Refused(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown encoding {request.encoding}") from None
        except Exception as error:
            raise Refused(271, "CANNOT_DECOMPRESS", f"Cannot decompress {request.encoding}: {error}") from None
    if not request.sql:
        return parse(body)
    statement = parse(request.sql)
    if statement.takes:
        return Statement(statement.text, statement.kind, False, True, statement.data + body, statement.format)
    return parse(request.sql + b"\n" + body) if body else statement


def _apply(connection: Any, database: str | None, settings: dict[str, str]) -> None:
    if database:
        _query(connection, f"USE {_name(database)}")
    if settings:
        for name in settings:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
                raise Refused(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
        _query(connection, "SET " + ", ".join(f"{name} = {_quoted(value)}" for name, value in settings.items()))


def _insert(connection: Any, text: bytes, data_format: str, data: bytes) -> Any:
    """Give the engine an INSERT and, apart from it, its data: no copy in SQL, no temporary file."""
    with connection.send_insert(_text(text), data_format) as insert:
        insert.append(data)
        return insert.finish()


def _summary(
    read: tuple[int, int] = (0, 0),
    written: tuple[int, int] = (0, 0),
    result: tuple[int, int] = (0, 0),
    elapsed_s: float = 0.0,
) -> dict[str, str]:
    names = ["read_rows", "read_bytes", "written_rows", "written_bytes", "result_rows", "result_bytes"]
    values = (*read, *written, *result)
    return {name: str(value) for name, value in zip(names, values, strict=True)} | {
        "total_rows_to_read": "0",
        "elapsed_ns": str(int(elapsed_s * 1e9)),
    }


def _chosen(request: Request) -> str:
    if request.params.get("enable_http_compression", "1").lower() in ("0", "false"):
        return ""
    accepted = {each.partition(";")[0].strip() for each in request.accepts.split(",")}
    return next((name for name in ENCODERS if name in accepted), "")


def _session_timeout(params: dict[str, str]) -> float:
    try:
        return min(float(params.get("session_timeout", "60")), 3600.0)
    except ValueError:
        raise Refused(72, "CANNOT_PARSE_NUMBER", "session_timeout is no number") from None


def _query(connection: Any, sql: str, output_format: str = "TabSeparated") -> Any:
    """For SQL with what came in a URL in it, which may be no UTF-8."""
    return connection.query(_text(sql.encode(errors="surrogateescape")), output_format)


def _result(result: Any) -> bytes:
    return result.bytes() or b""


def _text(sql: bytes) -> str | bytes:
    try:
        return sql.decode()
    except UnicodeDecodeError:
        return sql  # strings may hold any bytes


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _name(value: str) -> str:
    return "`" + value.replace("\\", "\\\\").replace("`", "\\`") + "`"


class Front:
    """The HTTP side. user and password: what a client has to say; ClickHouse's own default user has no password."""

    def __init__(self, engine: Engine, user: str = "default", password: str = "") -> None:
        self.engine = engine
        self._login = (user.encode(), password.encode())
        self._threads = ThreadPoolExecutor(THREADS, "query")
        self._common = {"X-ClickHouse-Server-Display-Name": "assetstream", "X-ClickHouse-Timezone": engine.timezone}

    def app(self) -> web.Application:
        """The application. `/ping` never waits for a query."""
        app = web.Application(client_max_size=MAX_BODY)
        for path in ("/ping", "/replicas_status"):
            app.router.add_get(path, self._ok)
        app.router.add_route("*", "/", self._query)
        return app

    async def _ok(self, _: web.Request) -> web.Response:
        return web.Response(text="Ok.\n", headers=self._common)

    async def _query(self, http: web.Request) -> web.Response:
        query_id = str(uuid.uuid4())
        try:
            request = await _read(http)
            query_id = request.params.get("query_id") or query_id
            self._check(http, request.params)
            if not request.sql and not request.body:
                if http.method in ("GET", "HEAD"):
                    return await self._ok(http)
                raise Refused(62, "SYNTAX_ERROR", "Syntax error: Empty query")
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self.engine.answer, request)
        except (Refused, RuntimeError) as error:  # chDB raises RuntimeError and its own kind of it
            return self._failed(error, query_id)
        headers = {
            **self._common,
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Format": answer.format,
            "X-ClickHouse-Summary": json.dumps(answer.summary),
            "Content-Type": CONTENT_TYPES.get(answer.format, "text/plain; charset=UTF-8"),
        }
        if answer.encoding:
            headers["Content-Encoding"] = answer.encoding
        return web.Response(body=answer.body, headers=headers)

    def _failed(self, error: Exception, query_id: str) -> web.Response:
        found = re.search(r"Code: (\d+)\. .*", str(error), re.DOTALL)
        code = int(found[1]) if found else 1001  # STD_EXCEPTION
        text = found[0] if found else f"Code: 1001. DB::Exception: {error} (STD_EXCEPTION)"
        text = re.sub(r" \(version [^)]*\)\s*$", "", text.strip())
        headers = {
            **self._common,
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Exception-Code": str(code),
            "Content-Type": "text/plain; charset=UTF-8",
        }
        if code == 194:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        body = f"{text} (version {self.engine.version} (chDB))\n"
        return web.Response(status=STATUS.get(code, 500), text=body, headers=headers)

    def _check(self, http: web.Request, params: dict[str, str]) -> None:
        """Raises Refused (516) unless the request names our user and password, in any of the three ways."""
        user = http.headers.get("X-ClickHouse-User") or params.get("user") or "default"
        password = http.headers.get("X-ClickHouse-Key") or params.get("password") or ""
        kind, _, credentials = http.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                user, _, password = base64.b64decode(credentials).decode().partition(":")
        said = (user.encode(errors="surrogateescape"), password.encode(errors="surrogateescape"))
        if not hmac.compare_digest(b"\0".join(said), b"\0".join(self._login)):
            raise Refused(
                516,
                "AUTHENTICATION_FAILED",
                f"{user}: Authentication failed: password is incorrect, or there is no user with such name",
            )


async def _read(http: web.Request) -> Request:
    raw = http.rel_url.raw_query_string
    pairs = parse_qsl(raw, keep_blank_values=True, errors="surrogateescape")
    request = Request(
        dict(pairs), accepts=http.headers.get("Accept-Encoding", ""), read_only=http.method in ("GET", "HEAD")
    )
    if http.content_type == "multipart/form-data":
        async for part in await http.multipart():
            if isinstance(part, BodyPartReader) and part.name:
                data = bytes(await part.read())
                if part.filename is not None:
                    request.files[part.name] = data
                else:
                    request.params[part.name] = data.decode(errors="surrogateescape")
    else:
        request.body = await http.read()
        request.encoding = http.headers.get("Content-Encoding", "").strip().lower().replace("identity", "")
    request.sql = request.params.get("query", "").encode(errors="surrogateescape")
    for header, name in (("X-ClickHouse-Database", "database"), ("X-ClickHouse-Format", "default_format")):
        if header in http.headers:
            request.params.setdefault(name, http.headers[header])
    return request


async def serve(folder: Path, host: str, port: int, user: str, password: str) -> None:
    """Serve until SIGTERM or SIGINT; running queries get a few seconds to finish."""
    engine = Engine(folder)
    runner = web.AppRunner(
        Front(engine, user, password).app(),
        auto_decompress=False,
        access_log=None,
        max_line_size=MAX_URL,
        max_field_size=64 * 1024,
        shutdown_timeout=5.0,
    )
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(f"ClickHouse {engine.version} (chDB) serves {folder} on {host}:{port}", flush=True)
    await stopped.wait()
    await runner.cleanup()
    # A query that still runs holds its connection, and the engine with it. All that was answered is on disk.
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(5.0)
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Command line of the process. The password comes from the environment, where `ps` doesn't show it."""
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP protocol over chDB")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    user = os.environ.get("ASSETSTREAM_CLICKHOUSE_USER", "default")
    password = os.environ.get("ASSETSTREAM_CLICKHOUSE_PASSWORD", "")
    os.nice(NICENESS)
    asyncio.run(serve(options.folder, options.host, options.port, user, password))


if __name__ == "__main__":
    main()
