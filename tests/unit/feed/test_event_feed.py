"""The event feed as its user sees it, without a node; with nodes it is tested on real clusters."""

from __future__ import annotations

import pytest

from forge_consensus.errors import ConnectionFailedError, InvalidConfigError
from forge_consensus.feed.event_feed import EventFeed

NOBODY = "127.0.0.1:1"


def test_the_representation_shows_the_followed_nodes_and_the_state_of_the_feed() -> None:
    with EventFeed(NOBODY) as feed:
        assert repr(feed) == f"<EventFeed nodes={NOBODY} waiting=0 open>"
    assert repr(feed) == f"<EventFeed nodes={NOBODY} waiting=0 closed>"


def test_completion_offers_the_public_names_and_no_internals() -> None:
    with EventFeed(NOBODY) as feed:
        names = {name for name in dir(feed) if not name.startswith("_")}
    assert names == {"get", "aget", "positions", "silent", "close", "timeout", "queue_max", "from_config"}


def test_a_finite_feed_raises_if_it_reaches_no_node() -> None:
    with EventFeed(NOBODY, follow=False, connect_seconds=0.1) as feed:
        with pytest.raises(ConnectionFailedError, match=NOBODY):
            feed.get(5.0)
        assert feed.silent == [NOBODY]


def test_an_empty_queue_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match="queue_max is 0"):
        EventFeed(NOBODY, queue_max=0)
    with pytest.raises(InvalidConfigError, match=r"leadr.*did you mean consensus.leader"):
        EventFeed(NOBODY, ["leadr.*"])


def test_a_feed_that_reaches_no_node_says_so_once_and_goes_on() -> None:
    told: list[ConnectionFailedError] = []
    with EventFeed(NOBODY, connect_seconds=0.1, on_silence=told.append) as feed, pytest.raises(TimeoutError):
        feed.get(0.6)
    (error,) = told
    assert NOBODY in str(error) and "within 0.1 s" in str(error)


def test_a_feed_warns_by_the_log_of_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    with EventFeed(NOBODY, connect_seconds=0.05) as feed, pytest.raises(TimeoutError):
        feed.get(0.5)
    assert [(record.levelname, NOBODY in record.getMessage()) for record in caplog.records] == [("WARNING", True)]


@pytest.mark.parametrize("seconds", [0, -1, "5", None, float("inf")])
def test_no_time_to_wait_for_nodes_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidConfigError, match="connect_seconds is"):
        EventFeed(NOBODY, connect_seconds=seconds)
