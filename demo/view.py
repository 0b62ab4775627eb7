"""The views of the demo: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from forge_consensus.events.types import ConsensusEvent, payload
from forge_consensus.output import clock_text, event_text, field_text

if TYPE_CHECKING:
    from rich.console import Group

EVENT_ROWS = 14
STEP_ROWS = 8
REFRESH_HERTZ = 10
COLORS = {
    "leader": "bold green", "node": "cyan", "role": "blue", "cluster": "magenta", "health": "yellow",
    "log": "white", "snapshot": "white",
}  # fmt: skip
"""The color of an event by the second word of its kind."""

Numbers = Callable[[], str]
"""Returns one line with the present numbers."""


class View(Protocol):
    """The output of the demo."""

    def event(self, event: ConsensusEvent) -> None:
        """Show an event; may be called on any thread."""

    def step(self, text: str) -> None:
        """Show what the demo does."""

    def close(self) -> None:
        """Show nothing more."""


class PlainView:
    """Lines as they come, for pipes and logs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.began = time.monotonic()
        self.lock = threading.Lock()

    def line(self, text: str) -> None:
        """Write one whole line."""
        with self.lock:
            self.stream.write(text + "\n")
            self.stream.flush()

    def event(self, event: ConsensusEvent) -> None:
        """Show an event."""
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
        self.live = Live(
            console=console or Console(),
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
        table = Table("TIME (UTC)", "NODE", "TERM", "EVENT", "FACTS", expand=True, title="events", title_justify="left")
        for event in events:
            kind = event.topic.removeprefix("consensus.")
            facts = " ".join(
                f"{name}={field_text(value)}" for name, value in payload(event).items() if value not in (None, "", ())
            )
            style = COLORS.get(kind.split(".")[0], "")
            when, term = clock_text(event.time), str(event.term)
            table.add_row(when, event.node_id, term, Text(kind, style), Text(facts, overflow="ellipsis"))
        return Group(*(Text(step) for step in steps), Text(self.numbers(), "bold"), table)

    def event(self, event: ConsensusEvent) -> None:
        """Show an event."""
        with self.lock:
            self.events.append(event)

    def step(self, text: str) -> None:
        """Show what the demo does."""
        with self.lock:
            self.steps.append(f"[{time.monotonic() - self.began:5.1f}s] {text}")

    def close(self) -> None:
        """Leave the last picture and release the terminal."""
        self.live.stop()


def make_view(numbers: Numbers) -> View:
    """Return the view that fits the standard output."""
    if sys.stdout.isatty():
        return LiveView(numbers)
    return PlainView(sys.stdout)
