"""`assetstream notary`: the process that makes the audit log tamper-evident."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assetstream.agents.notary import Notary
from assetstream.models.audit_heads import BadKey, private_key
from assetstream.streams import logs
from assetstream.streams.admin import check_topics
from assetstream.streams.settings import load


def notary(
    once: Annotated[bool, typer.Option("--once", help="Take what there is now, publish the heads, and end.")] = False,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Begin a tree anew where records are gone; it stays on the record.")
    ] = False,
) -> None:
    """Publish tree heads of all that came in and what became of it, so that nobody can change it unnoticed.

    Runs beside the workers, on any machine, until SIGTERM or Ctrl-C; one at a time. With ASSETSTREAM_AUDIT_KEY, the
    file of an Ed25519 key, heads are signed. `assetstream check --audit` verifies them.
    """
    settings = load()
    logs.configure(settings.log_level, settings.log_json)
    check_topics(settings)
    works = Notary(settings, None if settings.audit_key is None else _key(settings.audit_key))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: works.stop())
    works.run(once, accept_gap)


def _key(path: Path) -> Ed25519PrivateKey:
    """Raises BadKey."""
    try:
        return private_key(path.read_bytes())
    except (OSError, BadKey) as error:
        raise BadKey(f"ASSETSTREAM_AUDIT_KEY={path}: {error}") from error
