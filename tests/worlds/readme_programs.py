"""The programs that the README prints, as files that can be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"^```python\n(?P<text>(?:# (?P<name>\w+\.py)\n)?.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN_ADDRESS = "127.0.0.1:700"
"""The beginning of the addresses of the README's cluster."""


@dataclass(frozen=True, slots=True)
class Program:
    """One block; its first line may name its file, so that another block can import it."""

    name: str
    text: str

    @property
    def needs_cluster(self) -> bool:
        """Whether it connects to the three nodes that the reader has started."""
        return SHOWN_ADDRESS in self.text


def programs() -> list[Program]:
    """All of them, in the order of the page."""
    found = BLOCK.finditer(README.read_text(encoding="utf-8"))
    return [Program(each["name"] or f"program_{number}.py", each["text"]) for number, each in enumerate(found, 1)]
