"""What can be said of the embedded Kafka without starting it."""

import uuid

import pytest

from assetstream.streams.embedded_kafka import new_cluster_id


def test_a_cluster_id_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    like_an_option, good = uuid.UUID(bytes=b"\xf8" + bytes(15)), uuid.UUID(bytes=b"\x01" * 16)
    made = iter([like_an_option, like_an_option, good])
    monkeypatch.setattr(uuid, "uuid4", lambda: next(made))
    assert new_cluster_id() == "AQEBAQEBAQEBAQEBAQEBAQ"
