"""The commands of a story with which a client sends requests."""

from __future__ import annotations

from tests.worlds.story.script import StoryError
from tests.worlds.story.stage import Stage, command
from tests.worlds.story.time import elect, settle_all


@command("begin")
def begin(stage: Stage, words: list[str]) -> None:
    """`begin n1`: elect n1 by all, open the client's session and deliver everything, without output.

    The logs are then: entry 1 the members, 2 the no-op of term 1, 3 the session; all of it committed and applied.
    """
    elect(stage, words)
    settle_all(stage, words[0])
    stage.client.open_session(stage.node(words[0]))
    settle_all(stage, words[0])
    stage.trace.taken()
    if not stage.client.session:
        raise StoryError("no session was opened")


@command("propose")
def propose(stage: Stage, words: list[str]) -> None:
    """`propose n1 a b=5 c:100 +d`: the client submits commands to n1 in one frame.

    `a` sets a to "a", `b=5` to 5, `c:100` to a text of 100 characters, `+d` increments. A word always means the same
    command: a word that is used again submits that command again, under its first number.
    """
    stage.client.propose(stage.node(words[0]), words[1:])


@command("retry")
def retry(stage: Stage, words: list[str]) -> None:
    """`retry n2 a`: the client submits a command again that it submitted before, under its number."""
    for word in words[1:]:
        if word not in stage.client.numbers:
            raise StoryError(f"{word} was never proposed")
    stage.client.propose(stage.node(words[0]), words[1:])


@command("read")
def read(stage: Stage, words: list[str]) -> None:
    """`read n1 a [lease|stale]`: the client queries a key at n1, by default linearizably.

    The answers are recorded under `read1`, `read2` and so on.
    """
    stage.client.read(stage.node(words[0]), words[1], words[2] if len(words) > 2 else "linearizable")
