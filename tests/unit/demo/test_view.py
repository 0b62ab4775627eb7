"""The output of the demo, on a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from forge_consensus.demo.view import EVENT_ROWS, FRAME_ROWS, STEP_ROWS, LiveView, PlainView, style_of
from forge_consensus.events.types import ConsensusEvent, Healthy, LeaderElected, LeaderLost, Unhealthy

EVENT = LeaderElected(node_id="n2", term=7, time=1.5, leader="n2", votes=2, total=3, duration=0.004)


def test_without_a_terminal_every_event_is_a_line() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    view.step("starting")
    view.event(EVENT)
    view.close()
    first, second = stream.getvalue().splitlines()
    assert first.endswith("s] starting")
    assert second == "  00:00:01.500 n2 leader.elected term=7 leader=n2 votes=2 total=3 duration=4.0ms"


@pytest.mark.parametrize("height", [50, 24, 10])
def test_on_a_terminal_the_newest_events_fit_the_screen(height: int) -> None:
    stream = io.StringIO()
    view = LiveView(lambda: "12 writes", Console(file=stream, force_terminal=True, width=80, height=height))
    try:
        for number in range(STEP_ROWS):
            view.step(f"step {number}")
        for term in range(100, 100 + EVENT_ROWS + 5):
            view.event(replace(EVENT, term=term))
    finally:
        view.close()
    last = stream.getvalue()[stream.getvalue().rindex("step 0") :]
    shown = last.count("leader.elected")
    assert f" {100 + EVENT_ROWS + 4} " in last
    assert shown == min(EVENT_ROWS, max(1, height - FRAME_ROWS - STEP_ROWS))
    assert last.count("\n") <= max(height, FRAME_ROWS + STEP_ROWS + 1)
    assert "12 writes" in last


@pytest.mark.parametrize(
    ("event", "style"),
    [
        (EVENT, "green"),
        (LeaderLost(leader="n1", reason="gone"), "yellow"),
        (Healthy(), "green"),
        (Unhealthy(details=()), "bold red"),
    ],
)
def test_colors_say_whether_something_is_well(event: ConsensusEvent, style: str) -> None:
    assert style_of(event) == style
