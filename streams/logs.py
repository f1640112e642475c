"""Logs: one line an event, by structlog; JSON where machines read them."""

from __future__ import annotations

import logging
import sys

import structlog

#: libraries whose chatter says nothing an operator can act on
QUIET = ("faust", "mode", "kafka", "asyncio", "aiohttp", "clickhouse_connect", "urllib3", "numba")
#: and the one that repeats, many times a second, what we say once: that no broker answers
MUTE = ("aiokafka",)


def configure(level: str = "INFO", json: bool = False) -> None:
    """Set up structlog, and the standard library's loggers for warnings of others, to stderr."""
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ValueError(f"LOG_LEVEL {level!r} is none of DEBUG, INFO, WARNING, ERROR")
    renderer = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # stderr as it is when something is logged
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR if number > logging.DEBUG else logging.INFO)
    for name in MUTE:
        logging.getLogger(name).setLevel(logging.CRITICAL if number > logging.DEBUG else logging.INFO)
