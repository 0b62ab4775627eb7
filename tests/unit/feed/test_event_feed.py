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
    assert names == {"get", "aget", "positions", "silent", "close", "timeout", "queue_max"}


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
