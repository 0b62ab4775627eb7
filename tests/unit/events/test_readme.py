"""The README's table of events: it names exactly the types that exist, and says what their source says."""

from pathlib import Path

import pytest

from forge_consensus.events.types import EVENT_TYPES
from tests.worlds.event_table import HEAD, publishers, table

README = Path(__file__).resolve().parents[3] / "README.md"


def rows() -> list[str]:
    """The lines of the README's table, its head aside."""
    lines = README.read_text().splitlines()
    if HEAD[0] not in lines:
        pytest.skip("the README has no table of events yet")
    begin = lines.index(HEAD[0]) + len(HEAD)
    end = next((place for place in range(begin, len(lines)) if not lines[place].startswith("|")), len(lines))
    return lines[begin:end]


def test_the_table_names_exactly_the_types_that_exist() -> None:
    assert [row.split("|")[2].strip(" `") for row in rows()] == list(EVENT_TYPES)


def test_the_table_agrees_with_the_source() -> None:
    assert rows() == table()[len(HEAD) :], "make it anew: python -m tests.worlds.event_table"


def test_every_event_type_is_published_by_some_actor() -> None:
    assert set(publishers()) == {kind.__name__ for kind in EVENT_TYPES.values()}
