"""The table of scenarios.md: read, compared with the tests and stories that bear numbers, and written anew on request.

``python -m tests.scenarios.scenario_table`` puts into each row the tests and stories that bear its number; what else a
row names, and what it waits for, is written by hand and stays.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.worlds.source_tree import tree_of

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS / "scenarios" / "scenarios.md"
PROBES = ("P1", "P2", "P3", "P3b", "P4", "P5", "P6", "P7", "P8", "P9")
NUMBERS = (*PROBES, *(str(number) for number in range(1, 67)))
ROW = re.compile(r"\| *(P?\d+b?) *\| (.+?) \| (.*?) \|$")
NAMED = re.compile(r"`([^`]+)`")
NUMBERED_TEST = re.compile(r"test_(?:scenario|probe)_(P?\d+b?)_")
NUMBERED_STORY = re.compile(r"stories/(\d+)_\w+\.txt")
WAITS = "waits for "
PENDING = "waits for its story"
"""Stands in a row until the first test or story that bears its number."""


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario: its number, its name, where it is tested (tests and stories), and the rest of what is said."""

    number: str
    name: str
    tested: tuple[str, ...]
    remark: str

    @property
    def waits(self) -> bool:
        """Whether something that it needs is not built yet."""
        return self.remark.startswith(WAITS)

    @property
    def line(self) -> str:
        """The row as it stands in the file: what is tested each on a line of its own, the remark last."""
        cell = "<br>".join([*(f"`{test}`" for test in self.tested), *filter(None, [self.remark])])
        return f"| {self.number} | {self.name} | {cell} |"


def row_of(line: str) -> Row | None:
    """The row in a line of the file, if it is one."""
    match = ROW.fullmatch(line)
    if match is None:
        return None
    parts = [part.strip() for part in match[3].split("<br>") if part.strip()]
    tested = tuple(part.strip("`") for part in parts if part.startswith("`"))
    return Row(match[1], match[2].strip(), tested, "<br>".join(part for part in parts if not part.startswith("`")))


def rows(text: str) -> list[Row]:
    """All rows of the file."""
    return [row for line in text.splitlines() if (row := row_of(line)) is not None]


def tests_in(path: Path) -> list[str]:
    """The names of the tests in a file, in their order."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in ast.walk(tree_of(path)) if isinstance(node, kinds) and node.name.startswith("test_")]


def existing() -> list[str]:
    """Every test and story there is, as the table names it."""
    found = [
        f"{path.relative_to(TESTS)}::{name}" for path in sorted(TESTS.rglob("test_*.py")) for name in tests_in(path)
    ]
    return found + [f"stories/{path.name}" for path in sorted((TESTS / "stories").glob("*.txt"))]


def number_of(test: str) -> str:
    """The number that a test or a story bears in its name, or nothing."""
    match = NUMBERED_STORY.fullmatch(test) or NUMBERED_TEST.match(test.rpartition("::")[2])
    if match is None:
        return ""
    return match[1] if match[1].startswith("P") else str(int(match[1]))


def numbered(tests: list[str]) -> dict[str, list[str]]:
    """The tests and stories that bear a number, by number; stories come first."""
    found = defaultdict(list)
    for test in sorted(tests, key=lambda test: not test.startswith("stories/")):
        if number := number_of(test):
            found[number].append(test)
    return found


def belongs(test: str, row: str) -> bool:
    """Whether a row may name a test: one without a number, one with its own, and in a probe's row any story."""
    return number_of(test) in ("", row) or (row in PROBES and test.startswith("stories/"))


def rewritten(text: str, tests: list[str]) -> str:
    """The file with the numbered tests as they are now; other tests that rows name stay as long as they exist."""
    by_number = numbered(tests)

    def renewed(row: Row) -> Row:
        others = [test for test in row.tested if belongs(test, row.number) and test in tests]
        others = [test for test in others if test not in by_number.get(row.number, [])]
        tested = tuple(by_number.get(row.number, []) + others)
        remark = "" if row.remark == PENDING else row.remark
        return Row(row.number, row.name, tested, remark if tested or remark else PENDING)

    lines = [line if (row := row_of(line)) is None else renewed(row).line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(rewritten(TABLE.read_text(encoding="utf-8"), existing()), encoding="utf-8")
