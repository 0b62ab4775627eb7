"""Telling a story: a script goes in, and comes out with what happens."""

from __future__ import annotations

from tests.worlds.story import (  # noqa: F401 - each enters its commands
    clients,
    expectations,
    frames,
    processes,
    time,
    views,
)
from tests.worlds.story.script import retold
from tests.worlds.story.stage import Stage


def tell(text: str) -> str:
    """The script, with what happens now below each line. Raises `StoryError`, and what a check found."""
    with Stage() as stage:
        return retold(text, stage.tell)
