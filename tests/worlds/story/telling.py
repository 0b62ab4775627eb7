"""The execution of a story: reads a script, and returns it with the observed events."""

from __future__ import annotations

from tests.worlds.story import (  # noqa: F401 - each enters its commands
    clients,
    expectations,
    frames,
    members,
    processes,
    time,
    views,
)
from tests.worlds.story.script import retold
from tests.worlds.story.stage import Stage


def tell(text: str) -> str:
    """The script, with the events observed now below each line. Raises `StoryError`, and the error of a check."""
    with Stage() as stage:
        return retold(text, stage.tell)
