"""`assetstream verify`: whoever gets a proof checks it, with nothing but the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from assetstream.cli.audit.heads import read_key
from assetstream.models.audit_heads import BadProof, ConsistencyProof, is_signed, read_proof


def verify(
    file: Annotated[Path, typer.Argument(help="What `assetstream prove` printed; - for stdin.")],
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The heads must be signed with its key.")
    ] = None,
) -> None:
    """Check a proof, without Kafka: says what it proves, or why it proves nothing, and exits with 1 then.

    It proves what was under a head. That the head is the notary's is what its signature says, or a copy of it, or of
    its hash, that somebody kept.
    """
    key = None if public_key is None else read_key(public_key)
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadProof(f"{file}: {error}") from error
    proof = read_proof(text)
    told = proof.check()
    heads = (proof.first, proof.second) if isinstance(proof, ConsistencyProof) else (proof.head,)
    if key is not None and not all(is_signed(head, key) for head in heads):
        raise BadProof("it would be proved, but the head is not signed with the key given")
    typer.echo(f"{told}; {'signed' if key is not None else 'signature not checked: give --public-key'}")
