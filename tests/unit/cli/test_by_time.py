"""Events of several nodes come out in the order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from forge_consensus.cli.by_time import by_time
from forge_consensus.errors import ConnectionFailedError
from forge_consensus.events.envelope import ConsensusEvent
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import Healthy


def at(node: str, time: float) -> ConsensusEvent:
    return Healthy(node_id=node, time=time)


def feed(*steps: ConsensusEvent | Exception) -> Callable[[float | None], ConsensusEvent]:
    """A feed that gives these events, and raises these exceptions in between."""
    left = iter(steps)

    def get(timeout: float | None) -> ConsensusEvent:
        step = next(left)
        if isinstance(step, Exception):
            raise step
        return step

    return get


def shown(events: Iterable[ConsensusEvent]) -> list[tuple[str, float]]:
    return [(event.node_id, event.time) for event in events]


END = StreamEndedError("over")


def test_journals_that_are_read_one_after_the_other_are_merged() -> None:
    events = feed(at("a", 1), at("a", 4), at("b", 2), at("b", 3), END)
    assert shown(by_time(events, None)) == [("a", 1), ("b", 2), ("b", 3), ("a", 4)]


def test_the_order_of_one_node_is_kept_though_its_clock_was_set_back() -> None:
    events = feed(at("a", 10), at("a", 5), at("b", 7), END)
    assert shown(by_time(events, None)) == [("b", 7), ("a", 10), ("a", 5)]


def test_a_pause_lets_out_what_was_held() -> None:
    events = by_time(feed(at("a", 9), TimeoutError(), at("b", 1), END), 0.1)
    assert shown(events) == [("a", 9), ("b", 1)]


def test_events_without_a_pause_are_held_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    events = by_time(feed(*(at("a", number) for number in range(6)), AssertionError("it waited for the end")), 2.0)
    assert shown([next(events), next(events)]) == [("a", 0), ("a", 1)]


def test_an_error_comes_after_the_events_before_it() -> None:
    events = by_time(feed(at("a", 2), at("b", 1), ConnectionFailedError("gone")), 0.1)
    assert shown([next(events), next(events)]) == [("b", 1), ("a", 2)]
    with pytest.raises(ConnectionFailedError):
        next(events)
