"""The table of events in docs/events.md, made from docstrings and fields of event types and from the actors' source.

python -m tests.worlds.event_table
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

from forge_consensus.events.envelope import ENVELOPE_FIELDS
from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent

ROOT = Path(__file__).resolve().parents[2]
ACTORS = ROOT / "actors"
OUTSIDE = ROOT / "forge_consensus" / "service" / "reloading.py"
"""What publishes events and is no actor: it hands them to the engine with the settings that they tell of."""
HEAD = ("| Event | String | When | Published by | Payload |", "|---|---|---|---|---|")


def publishers() -> dict[str, str]:
    """Return the publisher of each event class by the name of the class: the one module that uses it, but for types.

    Raises ValueError if two do: a transition has one owner, except LogTruncated, which a snapshot may cause too.
    """
    found: dict[str, list[str]] = {}
    names = {kind.__name__ for kind in EVENT_TYPES.values()}
    for path in (*sorted(ACTORS.rglob("*.py")), OUTSIDE):
        tree = ast.parse(path.read_text())
        typed = {id(name) for node in ast.walk(tree) for type_of in types_in(node) for name in ast.walk(type_of)}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in typed}
        for name in used & names:
            found.setdefault(name, []).append(path.stem)
    # The events of a turn join the log's events; no transition is published there.
    for owners in found.values():
        if len(owners) > 1 and "turn_events" in owners:
            owners.remove("turn_events")
    return {name: ", ".join(owners) for name, owners in found.items()}


def types_in(node: ast.AST) -> list[ast.expr]:
    """Return the annotations that a piece of source has itself."""
    found = (getattr(node, "annotation", None), getattr(node, "returns", None))
    return [each for each in found if isinstance(each, ast.expr)]


def row(kind: type[ConsensusEvent], publisher: str) -> str:
    """Return the table row of one event type."""
    fields = [field for field in dataclasses.fields(kind) if field.name not in ENVELOPE_FIELDS]
    types = [inspect.formatannotation(field.type).replace("|", "or") for field in fields]
    told = ", ".join(f"`{field.name}: {name}`" for field, name in zip(fields, types, strict=True))
    when = (inspect.getdoc(kind) or "").replace("\n", " ")
    return f"| {kind.__name__} | `{kind.kind}` | {when} | {publisher} | {told or '-'} |"


def table() -> list[str]:
    """Return all lines of the table."""
    owners = publishers()
    return [*HEAD, *(row(kind, owners[kind.__name__]) for kind in EVENT_TYPES.values())]


if __name__ == "__main__":
    print("\n".join(table()))
