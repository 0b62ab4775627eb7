"""Feature levels: nothing is proposed that a member does not know, and nothing unknown is stored or applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from forge_consensus.actors.messages import AppendEntries, AppendReply, Hello, HelloReply
from forge_consensus.actors.raft.handshake import PROGRAM
from forge_consensus.actors.runtime.actor import ConsensusActor
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.errors import UnsupportedVersionError
from forge_consensus.storage.ledger.levels import LEVEL, LEVEL_OF_KIND
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.version import __version__
from tests.worlds.ledger_world import World
from tests.worlds.one_node import OneNode

UNKNOWN = 100


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


def test_a_level_is_used_only_when_all_members_of_the_present_configuration_told_it() -> None:
    node = OneNode(greet=False)
    actor = actor_of(node)
    assert not actor.may_use(LEVEL), "nobody was met yet"
    node.greet("n2")
    assert not actor.may_use(1)
    node.greet("n3")
    assert not actor.may_use(1), "their greetings named no level"
    for peer in ("n2", "n3"):
        incarnation, boot = node.boot_of(peer)
        node.answer(peer, "membership", HelloReply(incarnation, boot, "", "", program=("9.9", LEVEL + 4)))
    assert actor.may_use(LEVEL)
    assert not actor.may_use(LEVEL + 1), "this node does not know it itself"


def test_a_member_that_comes_back_with_an_earlier_version_is_believed() -> None:
    node = OneNode(2)
    incarnation, boot = node.boot_of("n2")
    said = Hello(incarnation, boot, "n2:1", node.configuration.digest, "", program=PROGRAM)
    node.request("n2", "membership", said)
    assert actor_of(node).may_use(LEVEL)
    node.request("n2", "membership", replace(said, program=("0.0.1", LEVEL - 1)))
    assert not actor_of(node).may_use(LEVEL)


def test_the_status_shows_the_version_of_each_member() -> None:
    node = OneNode()
    incarnation, boot = node.boot_of("n2")
    node.answer("n2", "membership", HelloReply(incarnation, boot, "", "", program=("7.1", LEVEL)))
    seen = {member.id: member.program for member in NodeStatus.of(node.engine).nodes}
    assert seen == {"n1": __version__, "n2": "7.1", "n3": ""}
    assert {member.id: member.program for member in NodeStatus.of(OneNode(greet=False).engine).nodes}["n2"] is None
