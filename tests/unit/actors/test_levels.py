"""Feature levels: nothing is proposed that a member does not know, and nothing unknown is stored or applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    Hello,
    HelloReply,
    OpenSession,
    Refused,
    VoteReply,
)
from forge_consensus.actors.raft.handshake import LEVEL_LOW
from forge_consensus.actors.runtime.actor import ConsensusActor
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.errors import BusyError, UnsupportedVersionError
from forge_consensus.events.types import NodeRefused
from forge_consensus.storage.ledger.levels import LEVEL, LEVEL_OF_KIND
from forge_consensus.storage.ledger.record import Kind, encode, kind_of
from forge_consensus.version import __version__
from tests.unit.actors.test_election import lead, stand
from tests.worlds.ledger_world import World
from tests.worlds.one_node import OneNode
from tests.worlds.scenario_world import acknowledge

UNKNOWN = 100
NEXT = LEVEL + 1


def actor_of(node: OneNode) -> ConsensusActor:
    found = node.engine.cells.actor("replication")
    assert isinstance(found, ConsensusActor)
    return found


def test_every_kind_has_a_level_that_this_program_reaches() -> None:
    assert set(LEVEL_OF_KIND) == {int(kind) for kind in Kind}
    assert max(LEVEL_OF_KIND.values()) <= LEVEL


@pytest.mark.parametrize("kind", [2, 5, UNKNOWN, 127])
def test_an_entry_of_an_unknown_kind_ends_the_node_before_anything_of_its_frame_is_stored(kind: int) -> None:
    node = OneNode()
    records = (encode(2, 1, Kind.NOOP, 0), encode(3, 1, kind, 0))
    with pytest.raises(UnsupportedVersionError, match=rf"entry 3 is of kind {kind}, .* upgrade the program"):
        node.request("n2", "replication", AppendEntries(1, 1, 0, 3, 0, records))
    assert node.ledger.log.last == 1
    assert not [to for to, message in node.sent if isinstance(message, AppendReply)]
    assert UnsupportedVersionError("").fatal


def test_a_configuration_of_a_later_version_ends_the_node_likewise() -> None:
    node = OneNode()
    later = encode(2, 1, Kind.CONFIGURATION, 0, data=msgpack.packb([99, [["n1", "a:1"]], False]))
    with pytest.raises(UnsupportedVersionError, match="version 99"):
        node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, (later,)))
    assert node.ledger.log.last == 1


@pytest.mark.parametrize("backend", ["memory", "lmdb"])
def test_an_entry_of_an_unknown_kind_in_the_folder_is_not_replayed(backend: str, tmp_path: Path) -> None:
    """A newer version of the program ran on the folder, and then this one is started on it."""
    world = World(backend, tmp_path)
    world.follow(1)
    with pytest.MonkeyPatch.context() as newer:
        newer.setitem(LEVEL_OF_KIND, UNKNOWN, LEVEL + 1)
        with world.turn():
            world.accept(1, 0, encode(2, 1, UNKNOWN, 0))
            world.ledger.commit_following(1, 2)
    world.crash()
    with pytest.raises(UnsupportedVersionError, match=f"entry 2 is of kind {UNKNOWN}"), world.turn():
        world.ledger.apply(10)
    assert world.ledger.applier.on_disk <= 1
    world.close()


def told(node: OneNode, peer: str, level: int) -> None:
    """The peer's answer to a greeting."""
    incarnation, boot = node.boot_of(peer)
    node.answer(peer, "membership", HelloReply(incarnation, boot, "", "", program=("9.9", level)))


def leader(level: int = LEVEL, size: int = 3) -> OneNode:
    """A leader whose first entry is committed."""
    node = OneNode(size, level=level)
    lead(node)
    return node


def test_the_first_level_needs_nobody_and_a_higher_one_a_committed_configuration() -> None:
    node = OneNode(greet=False, level=NEXT)
    actor = actor_of(node)
    assert actor.may_use(1)
    assert not actor.may_use(NEXT)
    raised = encode(2, 1, Kind.CONFIGURATION, 0, data=replace(node.configuration, level=NEXT).encode())
    node.greet("n2")
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, (raised,)))
    assert node.ledger.configuration.level == NEXT
    assert not actor.may_use(NEXT), "it may still be truncated"
    assert NodeStatus.of(node.engine).level == LEVEL
    node.request("n2", "replication", AppendEntries(1, 2, 1, 2, 0, ()))
    assert actor.may_use(NEXT)
    assert not actor.may_use(NEXT + 1)
    assert NodeStatus.of(node.engine).level == NEXT


def test_a_leader_raises_the_level_once_all_members_told_it_and_not_a_majority() -> None:
    node = leader(NEXT)
    before = node.ledger.log.last
    told(node, "n2", NEXT + 4)
    node.wait(0.3)
    assert node.ledger.log.last == before, "n3 told no level"
    acknowledge(node)
    told(node, "n3", LEVEL)
    node.wait(0.3)
    assert node.ledger.log.last == before, "n3 has the first level"
    acknowledge(node)
    told(node, "n3", NEXT)
    node.wait(0.3)
    assert node.ledger.configuration == replace(node.configuration, level=NEXT)
    assert kind_of(node.ledger.log.get(before + 1)) == Kind.CONFIGURATION
    assert node.ledger.log.last == before + 1, "it is proposed once"
    assert not actor_of(node).may_use(NEXT)
    acknowledge(node)
    assert actor_of(node).may_use(NEXT)
    node.wait(0.3)
    assert node.ledger.log.last == before + 1, "this program has no further level"


def test_levels_rise_one_by_one_each_when_the_one_before_is_committed() -> None:
    node = leader(NEXT + 1)
    for peer in ("n2", "n3"):
        told(node, peer, NEXT + 1)
    for level in (NEXT, NEXT + 1):
        for _ in range(2):
            node.wait(0.2)
            assert node.ledger.configuration.level == level
        acknowledge(node)
    assert actor_of(node).may_use(NEXT + 1)


def test_a_leader_whose_first_entry_is_not_committed_proposes_no_level() -> None:
    node = OneNode(level=NEXT)
    stand(node)
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    assert node.ledger.leading_term == node.ledger.term
    for peer in ("n2", "n3"):
        told(node, peer, NEXT)
    node.wait(0.2)
    assert node.ledger.configuration.level == LEVEL
    acknowledge(node)
    node.wait(0.2)
    assert node.ledger.configuration.level == NEXT


def test_a_program_without_the_level_raises_nothing() -> None:
    node = leader()
    for peer in ("n2", "n3"):
        told(node, peer, NEXT)
    node.wait(0.3)
    assert node.ledger.configuration == node.configuration


def test_a_cluster_of_one_raises_its_level_by_itself() -> None:
    node = OneNode(1, level=NEXT)
    node.wait(1.0)
    assert actor_of(node).may_use(NEXT)


def test_a_member_whose_program_is_below_the_level_of_the_cluster_is_refused_with_advice() -> None:
    node = leader(NEXT)
    for peer in ("n2", "n3"):
        told(node, peer, NEXT)
    node.wait(0.2)
    acknowledge(node)
    incarnation, _ = node.boot_of("n3")
    said = Hello(incarnation, 1, "127.0.0.1:3", node.configuration.digest, "", program=("0.0.1", LEVEL))
    node.request("n3", "membership", said)
    reply = node.last(HelloReply)
    assert reply.reason == LEVEL_LOW
    assert f"feature level {NEXT}, and the program of node n3 (version 0.0.1) has level {LEVEL}" in reply.detail
    assert "start node n3 with the newer program" in reply.detail
    assert [event.reason for event in node.told(NodeRefused)] == [LEVEL_LOW]
    node.request("n3", "membership", replace(said, program=("", 0)))
    assert node.last(HelloReply).reason == LEVEL_LOW, "a program that is older than the levels"
    node.request("n3", "membership", replace(said, program=("0.0.2", NEXT)))
    assert not node.last(HelloReply).reason
    node.events.clear()
    told(node, "n3", LEVEL)
    assert [event.reason for event in node.told(NodeRefused)] == [LEVEL_LOW], "an answer that accepts is no admission"


def test_a_node_without_the_level_stops_at_the_configuration_that_has_it() -> None:
    node = OneNode()
    raised = encode(2, 1, Kind.CONFIGURATION, 0, data=replace(node.configuration, level=NEXT).encode())
    with pytest.raises(UnsupportedVersionError, match=f"reached feature level {NEXT}"):
        node.request("n2", "replication", AppendEntries(1, 1, 0, 2, 0, (raised, encode(3, 1, Kind.NOOP, 0))))
    assert node.ledger.log.last == 1
    assert node.ledger.configuration == node.configuration
    assert not [to for to, message in node.sent if isinstance(message, AppendReply)]


def test_what_a_level_brought_is_not_proposed_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEVEL_OF_KIND, Kind.SESSION, NEXT)
    node = leader(NEXT)
    before = node.ledger.log.last
    node.request("", "gateway", OpenSession(1000))
    refused = node.last(Refused)
    assert refused.code == BusyError.code
    assert f"below feature level {NEXT}" in refused.text
    assert node.ledger.log.last == before
    for peer in ("n2", "n3"):
        told(node, peer, NEXT)
    node.wait(0.2)
    acknowledge(node)
    node.request("", "gateway", OpenSession(1000))
    assert kind_of(node.ledger.log.get(node.ledger.log.last)) == Kind.SESSION


def test_the_status_shows_the_version_of_each_member() -> None:
    node = OneNode()
    incarnation, boot = node.boot_of("n2")
    node.answer("n2", "membership", HelloReply(incarnation, boot, "", "", program=("7.1", LEVEL)))
    seen = {member.id: member.program for member in NodeStatus.of(node.engine).nodes}
    assert seen == {"n1": __version__, "n2": "7.1", "n3": ""}
    assert {member.id: member.program for member in NodeStatus.of(OneNode(greet=False).engine).nodes}["n2"] is None
