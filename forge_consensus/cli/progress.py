"""The line that shows on a terminal how far a command is that takes long; elsewhere there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Final, Self

from forge_consensus.client.members import ClusterMembers
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError
from forge_consensus.output import bytes_text
from forge_consensus.storage.ledger.configuration import LEARNER

BAR_CHARS: Final = 30
LINE_CHARS: Final = 100
LOOK_SECONDS: Final = 0.2
"""How often the leader is asked how far the nodes are."""
STATUS_SECONDS: Final = 1.0
ERASE: Final = "\r\x1b[K"
"""Moves the cursor to the begin of the line on a terminal and clears it."""


class ProgressLine:
    """A line that is written over and over; a context manager, which erases it at the end."""

    def __init__(self, client: Client, stream: IO[str] | None = None) -> None:
        self.client = client
        self.stream = sys.stderr if stream is None else stream
        self.shown = self.stream.isatty()
        self.looked_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.write("")

    def write(self, text: str) -> None:
        """Show another text, if this is a terminal."""
        if self.shown:
            self.stream.write(f"{ERASE}{text:.{LINE_CHARS}}")
            self.stream.flush()

    def arrived(self, count: int, total: int) -> None:
        """Show how many bytes of a snapshot have arrived."""
        if count < total and time.monotonic() - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = time.monotonic()
        self.write(f"saving {bar(count, total)} {bytes_text(count)} of {bytes_text(total)}")

    def look(self, members: ClusterMembers) -> None:
        """Show what a change waits for; nothing new if the leader does not tell."""
        self.tell(lambda status: progress_text(members, status))

    def follow(self, target: str) -> None:
        """Show how much of the log a node has that is to lead; nothing new if the leader does not tell."""
        self.tell(lambda status: f"handing over to {target}, which has {held_text(target, status)}")

    def tell(self, text: Callable[[dict[str, Any]], str]) -> None:
        """Show what `text` makes of the leader's status, now and then."""
        if not self.shown or time.monotonic() - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = time.monotonic()
        try:
            self.write(text(self.client.status(timeout=STATUS_SECONDS)))
        except ConsensusError:
            return


def progress_text(members: ClusterMembers, status: dict[str, Any]) -> str:
    """What a change waits for, as one line; `status` is the leader's."""
    joining = [each.id for each in members.members if each.part == LEARNER and each.joining]
    if not joining:
        return "waiting for a majority to have the change on disk" if not members.committed else "almost done"
    doing = f"; {status['snapshot_doing']}" if status.get("snapshot_doing") else ""
    return f"{joining[0]} catches up {held_text(joining[0], status)}{doing}"


def held_text(node: str, status: dict[str, Any]) -> str:
    """How much of the leader's log a node holds; `status` is the leader's."""
    held = next((row["match_index"] or 0 for row in status["nodes"] if row["id"] == node), 0)
    last = status["last_log_index"]
    return f"{bar(held, last)} {held:,} of {last:,} entries"


def bar(part: int, whole: int) -> str:
    """A bar that shows which part of a whole is done."""
    done = "#" * int(BAR_CHARS * part / whole) if whole else "#" * BAR_CHARS
    return f"[{done:{BAR_CHARS}}]"
