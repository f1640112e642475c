"""The client to ClickHouse, from the settings, and which of its errors pass by themselves."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error, ProgrammingError

from assetstream.streams.settings import Settings

#: errors after which the same request may succeed: load, memory, disk, timeouts, shutdown, a network between servers
TRANSIENT_CODES = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE
        159,  # TIMEOUT_EXCEEDED
        198,  # DNS_ERROR
        201,  # QUOTA_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        473,  # DEADLOCK_AVOIDED
        999,  # KEEPER_EXCEPTION
    }
)
#: how long ClickHouse may take to accept a connection
CONNECT_S = 5
#: how long a worker waits for an answer: for a write it repeats harmlessly, and it must end soon when asked to
PATIENCE_S = 10
LOGIN_CODES = frozenset({192, 193, 194, 516})
UNKNOWN_DATABASE = 81

#: what the driver and ClickHouse wrap an error's text in
_WRAPPING = re.compile(r"^.*?\bDB::Exception: |\s*\(version [^()]*(\([^()]*\))?[^()]*\)|\s*\(for url [^()]*\)")
_CAUSE = re.compile(r"\[(Errno \d+|SSL[^\]]*)\] [^\"')(]+|timed out")

# both also log what they raise, and the first raises the level of the second
for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class ClickHouseError(RuntimeError):
    """ClickHouse at `url` did not do what was asked; `code` is its own error number, None when it gave none."""

    def __init__(self, url: str, message: str, code: int | None = None) -> None:
        self.url, self.code = url, code
        super().__init__(message)


class ClickHouseAway(ClickHouseError):
    """No answer, or one that says to come back later: the same request may succeed."""


class ClickHouseRefused(ClickHouseError):
    """The request itself is wrong (login, SQL, data): repeating it won't help."""


def translate(error: Exception, url: str) -> ClickHouseError:
    """The driver's error as one of ours, in one line that says what to do."""
    code = getattr(error, "code", None)
    text = _WRAPPING.sub("", " ".join(str(error).split()))
    if code in LOGIN_CODES:
        return ClickHouseRefused(url, f"ClickHouse at {url} refuses the user or password: {text}", code)
    if code == UNKNOWN_DATABASE:
        return ClickHouseRefused(url, f"ClickHouse refuses: {text}: run `assetstream init`", code)
    if code not in TRANSIENT_CODES and (code is not None or isinstance(error, ProgrammingError)):
        return ClickHouseRefused(url, f"ClickHouse refuses: {text}", code)
    cause = _CAUSE.search(text)
    return ClickHouseAway(url, f"ClickHouse at {url} does not answer: {cause[0].strip() if cause else text}", code)


def connect(settings: Settings, patience_s: float = 300) -> Client:
    """A client for this installation's database, safe to share between threads (it has no session).

    patience_s: how long an answer may take. A server that stands still accepts connections, and says nothing.
    Raises ClickHouseAway when nothing answers there, ClickHouseRefused when the login is wrong.
    """
    url = settings.clickhouse_url
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClickHouseRefused(url, f"CLICKHOUSE_URL {url!r} is not a URL such as http://127.0.0.1:8123")
    ca = settings.clickhouse_ca_location
    try:
        client = clickhouse_connect.get_client(
            interface=parts.scheme,
            host=parts.hostname,
            port=parts.port or (8443 if secure else 8123),
            username=settings.clickhouse_user,
            password=settings.clickhouse_password.get_secret_value(),
            ca_cert=str(ca) if ca else None,
            autogenerate_session_id=False,
            query_retries=0,
            connect_timeout=CONNECT_S,
            send_receive_timeout=patience_s,
        )
    except Error as error:
        raise translate(error, url) from error
    return client
