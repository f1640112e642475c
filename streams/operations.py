"""What operators did to the stream, on the record: the topic `operations`, one record per deed, kept for ever.

Keys are `skip/TOPIC-PARTITION-OFFSET` (the topic by its plain name) and `replay/DEAD_LETTER_ID`; values are JSON and
say who, when and why. Workers look here for the skip of a message that breaks its kernel; a replay looks here for what
was replayed before.
"""

from __future__ import annotations

import getpass
import json
import socket
from datetime import UTC, datetime
from typing import Any

from assetstream.streams.reading import read_to_end
from assetstream.streams.settings import Settings
from assetstream.streams.topics import OPERATIONS


def skip_key(topic: str, partition: int, offset: int) -> str:
    """The key under which the skip of an input record stands; `topic` is its plain name."""
    return f"skip/{topic}-{partition}-{offset}"


def replay_key(dead_letter_id: str) -> str:
    """The key under which the replay of a dead letter stands."""
    return f"replay/{dead_letter_id}"


def signed(**what: Any) -> bytes:
    """The value of a deed: what it is, who does it, from which machine, and when."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps({**what, "by": f"{getpass.getuser()}@{socket.gethostname()}", "at": now}).encode()


def read(settings: Settings) -> dict[str, dict[str, Any]]:
    """All that is on the record, by key. Blocks; raises BrokerAway, KafkaException, Unreadable."""
    deeds = read_to_end(settings, settings.topic(OPERATIONS))
    return {(deed.key() or b"").decode(): json.loads(deed.value() or b"{}") for deed in deeds}
