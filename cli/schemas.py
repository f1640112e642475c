"""`assetstream schemas`: the contract as JSON Schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from assetstream.models.messages import SCHEMAS


def schemas(
    topic: Annotated[str | None, typer.Argument(help="Only this topic's schema, without its prefix.")] = None,
) -> None:
    """Print the JSON Schema of every topic's messages: one JSON object, topic → schema."""
    if topic is not None and topic not in SCHEMAS:
        raise typer.BadParameter(f"no topic {topic}; there are {', '.join(SCHEMAS)}", param_hint="TOPIC")
    found = {name: model.model_json_schema() for name, model in SCHEMAS.items() if topic in (None, name)}
    typer.echo(json.dumps(found if topic is None else found[topic], indent=2))
