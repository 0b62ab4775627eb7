"""The views of the demo: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from forge_consensus.events.log_lines import LEVELS
from forge_consensus.events.text import facts_text
from forge_consensus.events.types import (
    BecameLeader,
    ClusterFormed,
    ConsensusEvent,
    Healthy,
    LeaderElected,
    NodeRecovered,
    QuorumAchieved,
    SnapshotCompleted,
)
from forge_consensus.output import clock_text, event_text

if TYPE_CHECKING:
    from rich.console import Group

EVENT_ROWS = 30
STEP_ROWS = 8
FRAME_ROWS = 6
"""The lines of the screen that hold neither a step nor an event: numbers, title, head and the lines of the table."""
REFRESH_HERTZ = 10
STYLES = {"ERROR": "bold red", "WARNING": "yellow", "DEBUG": "dim", "TRACE": "dim"}
"""The style of an event by the level at which it is logged."""
GOOD: tuple[type[ConsensusEvent], ...] = (
    LeaderElected, BecameLeader, ClusterFormed, QuorumAchieved, Healthy, NodeRecovered, SnapshotCompleted,
)  # fmt: skip
"""Events that say that something is well, or well again."""
GOOD_STYLE = "green"

Numbers = Callable[[], str]
"""Returns one line with the present numbers."""


class View(Protocol):
    """The output of the demo."""

    def event(self, event: ConsensusEvent) -> None:
        """Show an event of a node; may be called on any thread."""

    def step(self, text: str) -> None:
        """Show what the demo does."""

    def close(self) -> None:
        """Show nothing more, and release the terminal if it is in use."""


class PlainView:
    """Lines as they come, for pipes and logs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.began = time.monotonic()
        self.lock = threading.Lock()

    def line(self, text: str) -> None:
        """Write a line that no line of another thread tears apart."""
        with self.lock:
            self.stream.write(text + "\n")
            self.stream.flush()

    def event(self, event: ConsensusEvent) -> None:
        """Show an event as a line with its time, topic and facts."""
        self.line(f"  {clock_text(event.time)} {event_text(event)}")

    def step(self, text: str) -> None:
        """Show what the demo does."""
        self.line(f"[{time.monotonic() - self.began:5.1f}s] {text}")

    def close(self) -> None:
        """Do nothing, because nothing is held back."""


class LiveView:
    """The steps, the present numbers and the newest events, redrawn in place."""

    def __init__(self, numbers: Numbers, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.numbers = numbers
        self.began = time.monotonic()
        self.lock = threading.Lock()
        self.events: deque[ConsensusEvent] = deque(maxlen=EVENT_ROWS)
        self.steps: deque[str] = deque(maxlen=STEP_ROWS)
        self.console = console or Console()
        self.live = Live(
            console=self.console,
            get_renderable=self.render,
            refresh_per_second=REFRESH_HERTZ,
        )
        self.live.start()

    def render(self) -> Group:
        """Return what the screen shows now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            events, steps = list(self.events), list(self.steps)
        rows = self.console.height - FRAME_ROWS - len(steps)
        table = Table(expand=True, title="events", title_justify="left")
        for head, width in (("TIME (UTC)", 12), ("NODE", 4), ("TERM", 4), ("EVENT", 18)):
            table.add_column(head, min_width=width, no_wrap=True)
        table.add_column("FACTS", ratio=1, no_wrap=True, overflow="ellipsis")
        for event in events[-max(1, rows) :]:
            kind = Text(event.topic.removeprefix("consensus."), style_of(event))
            table.add_row(clock_text(event.time), event.node_id, str(event.term), kind, Text(facts_text(event)))
        lines = [Text(step, no_wrap=True, overflow="ellipsis") for step in (*steps, self.numbers())]
        lines[-1].stylize("bold")
        return Group(*lines, table)

    def event(self, event: ConsensusEvent) -> None:
        """Show an event in the table, which holds the newest ones, at the next redrawing."""
        with self.lock:
            self.events.append(event)

    def step(self, text: str) -> None:
        """Show what the demo does."""
        with self.lock:
            self.steps.append(f"[{time.monotonic() - self.began:5.1f}s] {text}")

    def close(self) -> None:
        """Leave the last picture and release the terminal."""
        self.live.stop()


def style_of(event: ConsensusEvent) -> str:
    """Return the style of an event, by what it means."""
    return GOOD_STYLE if isinstance(event, GOOD) else STYLES.get(LEVELS.get(type(event), "INFO"), "")


def make_view(numbers: Numbers) -> View:
    """Return the view that fits the standard output."""
    if sys.stdout.isatty():
        return LiveView(numbers)
    return PlainView(sys.stdout)
