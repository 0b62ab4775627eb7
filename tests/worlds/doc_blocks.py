"""The generated blocks of the documents: each is made from the source, and a test compares it with the page.

A block stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. To write all of them: ``FORGE_REGENERATE=1
pytest tests/unit/test_docs.py``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path

from forge_consensus.actors import messages
from forge_consensus.actors.runtime.gate import DESTINATION
from forge_consensus.config.agreement import among_members
from forge_consensus.config.client import ClientSettings
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.original import ANY, FIELDS
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.rows import text_of
from forge_consensus.config.setting import describe
from forge_consensus.errors import ConsensusError
from tests.worlds import api_page, event_table, import_graph
from tests.worlds.api_page import shown

SETTINGS_HEAD = (
    "| Setting | Type | Default | Takes effect | Among members | What | Why the default | In the Go original |",
    "|---|---|---|---|---|---|---|---|",
)
BLOCK = re.compile(r"(?P<head><!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(?P<end><!-- end -->)", re.DOTALL)


def first_sentence(kind: type) -> str:
    """The first paragraph of a class's docstring, on one line of a table."""
    paragraph = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def ends_of(kind: type) -> tuple[str, str]:
    """The sender and the receiver of a message."""
    requests, name = messages.CLIENT_REQUESTS, kind.__name__
    if kind in requests:
        return "client", "gateway"
    if kind not in DESTINATION:
        return "gateway", "client"
    actor = DESTINATION[kind]
    return actor, f"{actor} of the peer" if not name.endswith("Reply") else f"{actor} that asked"


def message_table() -> list[str]:
    """Every message that leaves a node, in the order of its tags."""
    lines = ["| Tag | Message | From | To | Meaning | Fields |", "|---|---|---|---|---|---|"]
    for tag, kind in sorted(messages.WIRE_TAGS.items()):
        sender, receiver = ends_of(kind)
        fields = ", ".join(f"`{name}`" for name in kind.__dataclass_fields__) or "-"
        lines.append(f"| {tag} | `{kind.__name__}` | {sender} | {receiver} | {first_sentence(kind)} | {fields} |")
    return lines


def error_table() -> list[str]:
    """Every error by its class, in the order of the hierarchy's page."""
    lines = ["| Error | Code | Retry | Fatal | Exit code | Meaning |", "|---|---|---|---|---|---|"]
    for kind in errors_below(ConsensusError):
        retry, fatal = ("yes" if kind.retryable else "no"), ("yes" if kind.fatal else "no")
        lines.append(
            f"| `{kind.__name__}` | `{kind.code}` | {retry} | {fatal} | {kind.exit_code} | {first_sentence(kind)} |"
        )
    return lines


def setting_tables() -> list[str]:
    """Every setting of nodes and clients, a table for each section."""
    lines: list[str] = []
    section = None
    kinds = (("The node itself", NodeSettings), ("The program that runs a node", ProgramSettings), ("", ClientSettings))
    for own, row in ((own, row) for own, kind in kinds for row in describe(kind)):
        head, _, _ = row.name.rpartition(".")
        title = f"`{head}`" if head else own
        if title != section:
            section = title
            lines += ["", f"## {title}", "", *SETTINGS_HEAD]
        said = row.described
        default = "must be given" if row.default is MISSING else f"`{shown(row.default)}`"
        unit = f" ({said.unit})" if said.unit else ""
        original = f"`{said.original}`" if said.original else "-"
        cells = (
            f"`{row.name}`",
            f"{row.kind}{unit}",
            default,
            said.reload,
            among_members(row.name),
            said.what,
            said.why,
            original,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines[1:], ""]


def original_table() -> list[str]:
    """Every field of the original's configuration that is no setting here, with what it means here."""
    lines = ["| Field of the original | Default there | Here | Another value | Why, and what to use instead |"]
    lines.append("|---|---|---|---|---|")
    for field in FIELDS:
        here = "nothing" if field.here is ANY else f"always `{text_of(field.here) or '(empty)'}`"
        default = ",".join(field.default) if isinstance(field.default, tuple) else text_of(field.default)
        unit = f" {field.unit}" if field.unit else ""
        shown_default = f"`{default}{unit}`" if default else "(empty)"
        lines.append(f"| `{field.name}` | {shown_default} | {here} | {field.otherwise} | {field.why} |")
    return lines


def errors_below(kind: type[ConsensusError]) -> list[type[ConsensusError]]:
    """The error classes of `forge_consensus.errors`, sorted by name."""
    found = {kind}
    waiting = [kind]
    while waiting:
        for below in waiting.pop().__subclasses__():
            if below.__module__ == kind.__module__ and below not in found:
                found.add(below)
                waiting.append(below)
    return sorted(found, key=lambda each: each.__name__)


def fenced(lines: list[str]) -> list[str]:
    """Lines as a block of text."""
    return ["```text", *lines, "```"]


BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    "imports": lambda: fenced(import_graph.text()),
    "messages": message_table,
    "events": event_table.table,
    "errors": error_table,
    "settings": setting_tables,
    "original-fields": original_table,
    "api": api_page.page,
    "recipes-api": api_page.recipes_page,
    "testing-api": api_page.testing_page,
}
"""The function that makes the lines of each block, by the block's name."""


def rebuilt(page: Path) -> str:
    """The page's text with its blocks regenerated. Raises `KeyError` for an unknown block."""

    def block(found: re.Match[str]) -> str:
        return f"{found['head']}{chr(10).join(BLOCKS[found['name']]())}\n{found['end']}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))
