"""Where a ClickHouse statement ends and its data begins; which format it asks for; whether it only reads.

The engine parses SQL. The server in front of it must know three things before: an INSERT's data goes to the engine
apart from the statement, one request is one statement, and a GET may only read. A few words at the top level decide
that; a word inside a string, a comment, a quoted name or parentheses never does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(
    rb"""
    (?P<skip> \s+ | --[^\n]* | \#[\ !][^\n]* | /\*.*?\*/ )
  | (?P<quoted> '(?:[^'\\]|\\.|'')*+' | "(?:[^"\\]|\\.|"")*+" | `(?:[^`\\]|\\.|``)*+`
              | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<open> ['"`].* | /\*.* )                  # never closed: the rest is no SQL, the engine will say so
  | (?P<word> [A-Za-z_][A-Za-z_0-9]* )
  | (?P<mark> [();.] )
  | (?P<other> [^\sA-Za-z_'"`$\#/();.-]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

#: between a format's name and its data
BEFORE_DATA = re.compile(rb"[ \t\f]*\r?\n?")

IN_PARENTHESES = re.compile(rb"\(\s*(SELECT|WITH)\b", re.IGNORECASE)

READS = {b"SELECT", b"WITH", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS", b"SET", b"USE", b"CHECK"}


class Refused(Exception):
    """What ClickHouse's server refuses before its engine sees it; `code` is ClickHouse's number for it."""

    def __init__(self, code: int, name: str, message: str) -> None:
        self.code = code
        super().__init__(f"Code: {code}. DB::Exception: {message} ({name})")


@dataclass(frozen=True)
class Statement:
    """One statement, parsed as far as the server needs.

    text      for the engine; of an INSERT with data only what comes before FORMAT or VALUES
    kind      its first word, in capitals
    reads     it changes no data (SET and USE, which change a session, count as reading)
    takes     the data that follows the statement belongs to it (an INSERT that is no INSERT … SELECT)
    data      what followed it in the same text
    format    of its data if it takes any, else of its result; None when it doesn't say
    """

    text: bytes
    kind: bytes
    reads: bool
    takes: bool = False
    data: bytes = b""
    format: str | None = None


def parse(sql: bytes) -> Statement:
    """Parse one statement. Raises Refused for several at once and for files of the server's machine."""
    words = _top_level(sql)
    kind = next((word.upper() for word, _, _ in words), b"")
    if kind == b"INSERT":
        return _insert(sql, words)
    if sql.lstrip()[:1] == b"(":
        kind, words = b"SELECT", _top_level(sql)
    found: str | None = None
    inserts = in_settings = False
    before = kind
    for word, _, _ in words:
        upper = word.upper()
        if before == b"INTO" and upper == b"OUTFILE":
            raise Refused(358, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
        if before == b"FORMAT":
            found = word.decode()
        elif found and upper == b"SETTINGS":
            in_settings = True
        elif found and not in_settings:  # words go on, so that was a name
            found = None
        inserts |= upper == b"INSERT"
        before = upper
    return Statement(sql, kind, kind in READS and not inserts, format=found)


def _insert(sql: bytes, words: Iterator[tuple[bytes, int, int]]) -> Statement:
    selects = False
    before, clause = b"INSERT", 0
    for word, start, end in words:
        upper = word.upper()
        if before in (b"INSERT", b"INTO", b"TABLE") and upper not in (b"INTO", b"TABLE", b"FUNCTION"):
            upper = b""  # the table's name, whatever it is
        elif before == b"FROM" and upper == b"INFILE":
            raise Refused(78, "UNKNOWN_TYPE_OF_QUERY", "FROM INFILE is read by a client, not by the server")
        elif upper in (b"SELECT", b"WITH", b"WATCH"):
            selects = True
        elif upper == b"VALUES" and not selects:
            return Statement(sql[:start], b"INSERT", False, True, sql[end:], "Values")
        elif before == b"FORMAT":
            if selects:
                raise Refused(48, "NOT_IMPLEMENTED", "INSERT … SELECT with data (input()) is not served")
            gap = BEFORE_DATA.match(sql, end)
            data = sql[gap.end() if gap else end :]
            return Statement(sql[:clause], b"INSERT", False, True, data, word.decode())
        before, clause = upper, start
    selects = selects or IN_PARENTHESES.search(sql) is not None
    return Statement(sql.rstrip(b"; \t\r\n"), b"INSERT", False, takes=not selects)


def _top_level(sql: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The words outside strings, comments and parentheses, each with where it starts and ends."""
    depth, ended, after_dot = 0, False, False
    for token in TOKEN.finditer(sql):
        kind = token.lastgroup if token.lastgroup != "tag" else "quoted"
        if kind == "skip":
            continue
        text = token[0]
        if ended and text != b";":
            raise Refused(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        if kind == "mark":
            depth += (text == b"(") - (text == b")")
            ended = text == b";" and depth <= 0
        elif kind == "quoted" and depth == 0 and text[:1] in b'"`' and not after_dot:
            yield b"", *token.span()  # a quoted name stands where a name may stand
        elif kind == "word" and depth == 0 and not after_dot:
            yield text, *token.span()
        after_dot = kind == "mark" and text == b"."
