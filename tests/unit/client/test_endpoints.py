"""The endpoints of a client: it learns the members that the leader tells of, and drops those that left or moved."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import ChangeMembers, GetStatus, Located, Refused
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.errors import BusyError
from tests.unit.client.test_session import led
from tests.worlds.client_world import NODES, World


def told(world: World, leader: str, members: dict[str, str], *, term: int = 1, by: str = "") -> None:
    """A node tells who leads and who the members are."""
    address = members.get(leader, NODES.get(leader, ""))
    answer = Located(by or leader, "fake", leader, address, term, tuple(members.items()))
    world.core.receive(NODES[by or leader], answer, 999)


def test_members_that_the_leader_tells_of_are_learned_and_those_that_left_are_dropped() -> None:
    world = led()
    for endpoint in world.core.directory.endpoints.values():
        endpoint.node = endpoint.last_node = endpoint.node if endpoint.name == "h:1" else ""
    told(world, "n1", {"n1": "h:1", "n4": "h:4"})
    assert set(world.core.directory.endpoints) == {"h:1", "h:2", "h:3", "h:4"}, "nobody knows who is at h:2 and h:3"
    told(world, "n1", {"n2": "h:2"}, by="n2")
    told(world, "n3", {"n3": "h:3"}, term=0)
    assert "h:4" in world.core.directory.endpoints, "only a leader of the newest term is believed"
    told(world, "n1", {"n1": "h:1", "n5": "h:5"})
    assert set(world.core.directory.endpoints) == {"h:1", "h:5"}
    assert world.settle() == 0


def test_a_member_that_moved_is_found_at_its_new_address_and_left_at_the_old_one() -> None:
    world = led()
    told(world, "n2", {"n1": "h:1", "n2": "h:2", "n3": "h:3"}, by="n2", term=0)
    world.disconnect("h:2")
    told(world, "n1", {"n1": "h:1", "n2": "h:20"})
    assert {"h:2", "h:20"} <= set(world.core.directory.endpoints), "it may come back where it was given"
    world.core.connected("h:20")
    world.core.receive("h:20", Located("n2", "fake", "n1", "h:1", 1, ()), 999)
    told(world, "n1", {"n1": "h:1", "n2": "h:20"})
    assert "h:2" not in world.core.directory.endpoints


def test_what_was_given_is_tried_again_when_nothing_else_is_left() -> None:
    world = led()
    told(world, "n2", {"n2": "h:2"}, by="n2", term=0)
    told(world, "n1", {"n1": "h:1", "n3": "h:3"})
    assert "h:2" not in world.core.directory.endpoints
    world.disconnect("h:1")
    world.disconnect("h:3")
    world.group.elect("n2")
    pending = world.put("k")
    world.run(1.2)
    assert "h:2" in world.core.directory.endpoints
    world.connect("h:2")
    world.settle()
    assert pending.error is None


def test_what_was_given_is_tried_again_when_what_is_left_knows_no_leader() -> None:
    world = led()
    directory = world.core.directory
    for node in ("n2", "n3"):
        told(world, node, {node: NODES[node]}, by=node, term=0)
    told(world, "n1", {"n1": "h:1"})
    assert set(directory.endpoints) == {"h:1"}
    world.group.elect("n2")
    world.mute.add("h:1")  # its node left the members, and is as good as new
    told(world, "", {}, by="n1", term=0)
    directory.dismiss(directory.endpoints["h:1"])
    pending = world.put("k")
    world.run(1.2)
    assert directory.endpoints["h:1"].connected
    assert {"h:2", "h:3"} <= set(directory.endpoints)
    world.connect("h:2")
    world.settle()
    assert pending.error is None
    told(world, "n2", {"n2": "h:2"}, term=directory.term)
    assert set(directory.endpoints) == {"h:2"}, "it is still known who had answered at h:3, though nobody does now"


def test_who_the_members_are_is_asked_of_the_leader_or_of_whoever_is_there() -> None:
    world = led()
    assert [name for name, _, _ in world.core.ask_for_members()] == ["h:1"]
    world.disconnect("h:1")
    assert [name for name, _, _ in world.core.ask_for_members()] == ["h:2", "h:3"]


def test_an_endpoint_that_is_asked_for_its_status_is_not_dropped_before_it_answers() -> None:
    world = led()
    world.core.directory.add("h:9").last_node = "n9"
    world.core.submit([PendingNodeQuery(GetStatus(), "h:9", world.now + 5.0)])
    told(world, "n1", {"n1": "h:1"})
    assert "h:9" in world.core.directory.endpoints


def test_a_change_that_is_refused_again_and_again_ends_with_the_reason_and_not_as_unknown() -> None:
    world = led()
    change: PendingNodeQuery[Any] = PendingNodeQuery(ChangeMembers((("add", "n9", "h:9"),)), "", world.now + 5.0)
    world.core.submit([change])
    asked = []
    while not change.finished:
        world.core.tick(world.now)
        asked += [request for _, message, request in world.core.outgoing() if isinstance(message, ChangeMembers)]
        assert asked, "it goes to the leader"
        world.now += 2.0
        world.core.now = world.now
        refused = Refused("CONSENSUS_BUSY", "node n9 was not met", "n1", "h:1", 1)
        world.core.receive("h:1", refused, asked[-1])
        if world.core.resolved:
            break
        world.now += 0.1
    assert len(asked) == 2, "a third answer would come too late"
    assert isinstance(change.error, BusyError)
    assert "n9 was not met" in str(change.error)
