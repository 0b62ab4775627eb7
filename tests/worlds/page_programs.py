"""The programs on the pages of the recipes, with what each page says that they print."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.worlds.source_tree import ROOT

BLOCK = re.compile(r"^```python\n(?P<text>.*?)^```\n\n```text\n(?P<prints>.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "docs" / "recipes.md", *sorted((ROOT / "docs" / "recipes").glob("*.md"))]


@dataclass(frozen=True, slots=True)
class PageProgram:
    """One program of a page."""

    page: str
    text: str
    prints: str


def page_programs() -> list[PageProgram]:
    """All of them."""
    return [
        PageProgram(page.stem, found["text"], found["prints"])
        for page in PAGES
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
