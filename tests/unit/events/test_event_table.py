"""The table of events in docs/events.md; that its text is the source's is checked with all generated blocks."""

from pathlib import Path

from forge_consensus.events.types import EVENT_TYPES
from tests.worlds.event_table import HEAD, publishers, table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "events.md"


def rows() -> list[str]:
    """The lines of the page's table, its head aside."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index(HEAD[0]) + len(HEAD)
    end = next(place for place in range(begin, len(lines)) if not lines[place].startswith("|"))
    return lines[begin:end]


def test_the_table_names_exactly_the_types_that_exist() -> None:
    assert [row.split("|")[2].strip(" `") for row in rows()] == list(EVENT_TYPES)


def test_the_table_agrees_with_the_source() -> None:
    assert rows() == table()[len(HEAD) :], "make it anew: FORGE_REGENERATE=1 pytest tests/unit/test_docs.py"


def test_every_event_type_has_a_publisher() -> None:
    assert set(publishers()) == {kind.__name__ for kind in EVENT_TYPES.values()}
