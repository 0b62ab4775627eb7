"""Telling a story: a script goes in, and comes out with what happens."""

from __future__ import annotations

from tests import (  # noqa: F401 - each enters its commands
    story_clients,
    story_expectations,
    story_frames,
    story_processes,
    story_time,
    story_views,
)
from tests.story_script import retold
from tests.story_stage import Stage


def tell(text: str) -> str:
    """The script, with what happens now below each line. Raises `StoryError`, and what a check found."""
    with Stage() as stage:
        return retold(text, stage.tell)
