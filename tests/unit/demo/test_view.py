"""The output of the demo, on a terminal and elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from forge_consensus.demo.view import EVENT_ROWS, LiveView, PlainView
from forge_consensus.events.types import LeaderElected

EVENT = LeaderElected(node_id="n2", term=7, time=1.5, leader="n2", votes=2, total=3, duration=0.004)


def test_without_a_terminal_every_event_is_a_line() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    view.step("starting")
    view.event(EVENT)
    view.close()
    first, second = stream.getvalue().splitlines()
    assert first.endswith("s] starting")
    assert second == "  00:00:01.500 n2 leader.elected term=7 leader=n2 votes=2 total=3 duration=4ms"


def test_on_a_terminal_the_newest_events_are_a_table() -> None:
    stream = io.StringIO()
    view = LiveView(lambda: "12 writes", Console(file=stream, force_terminal=True, width=120, height=50))
    try:
        view.step("starting")
        for _ in range(EVENT_ROWS + 5):
            view.event(EVENT)
    finally:
        view.close()
    last = stream.getvalue()[stream.getvalue().rindex("starting") :]
    assert last.count("leader.elected") == EVENT_ROWS
    assert "12 writes" in last
