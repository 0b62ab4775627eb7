"""The programs that the README and the page about keys print, as files that can be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
KEYS = README.parent / "docs" / "keys.md"
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


def programs(page: Path = README) -> list[Program]:
    """All of a page, in its order."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    name = "program" if page == README else page.stem
    return [Program(each["name"] or f"{name}_{number}.py", each["text"]) for number, each in enumerate(found, 1)]
