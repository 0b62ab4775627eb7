"""A client of a cluster that was made anew from its data, by a restore or a recovery, under the same name."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import Locate, Located, Refused, Submit
from forge_consensus.client.endpoints import Directory
from forge_consensus.errors import SessionExpiredError
from tests.worlds.client_world import World


def led() -> World:
    """A world in which the client has its session already."""
    world = World()
    world.connect()
    world.put("first")
    world.settle()
    world.sent.clear()
    return world


def located(cluster: str, term: int) -> Located:
    return Located("n1", cluster, "n1", "h:1", term, (("n1", "h:1"),))


def test_a_cluster_that_was_made_anew_is_followed_when_nobody_led_for_a_while_and_knows_no_session() -> None:
    world = led()
    old, anew = "fake~000000000001", "fake~000000000002"
    world.core.directory.cluster = old
    session = world.core.session
    world.core.receive("h:1", located(anew, 9), 0)
    assert (world.core.directory.cluster, world.core.session) == (old, session)  # the old one may still be there
    sent = world.put("sent")
    world.mute.update(("h:1", "h:2", "h:3"))
    world.run(0.05)
    assert sent.sends == 1
    for name in ("h:1", "h:2", "h:3"):
        world.disconnect(name)
    world.connect("h:1")
    unsent = world.put("unsent")
    world.core.directory.leader = None
    world.run(1.2)
    world.core.receive("h:1", located(anew, 2), 0)
    assert (world.core.directory.cluster, world.core.directory.term) == (anew, 2)
    assert isinstance(sent.error, SessionExpiredError)
    assert unsent.error is None
    world.mute.clear()
    world.settle()
    assert world.core.session != session
    assert unsent.error is None


def test_a_command_that_another_cluster_of_the_name_refused_is_sent_again_and_its_leader_looked_for_anew() -> None:
    world = led()
    refusals = [Refused("CONSENSUS_CLUSTER_NOT_FOUND", "made anew", "", "", 0)] * 2
    world.group.hook = lambda node, message: [refusals.pop()] if isinstance(message, Submit) and refusals else None
    pending = world.put("k")
    world.settle()
    assert pending.error is None
    assert world.messages(Locate)
    assert not refusals


@pytest.mark.parametrize(
    ("given", "told", "taken"),
    [
        ("", "any~000000000001", True),
        ("name", "name~000000000001", True),
        ("name", "name", True),
        ("name", "other~000000000001", False),
        ("name~000000000001", "name~000000000001", True),
        ("name~000000000001", "name~000000000002", False),
        ("name~000000000001", "name", False),
    ],
)
def test_a_name_stands_for_every_cluster_of_that_name_and_a_whole_id_for_one(
    given: str, told: str, taken: bool
) -> None:
    directory = Directory(["h:1"], given, lambda: 0.5)
    endpoint = directory.endpoints["h:1"]
    assert directory.located(endpoint, located(told, 1), 1.0) is taken
    assert directory.cluster == (told if taken else given)
