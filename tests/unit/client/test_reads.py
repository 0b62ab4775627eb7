"""Where a client sends its queries: to the leader, the nearest node, any in turn or one; and what refusals do."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import NEVER_MS, STALE, Locate, Read, Refused, WireMessage
from forge_consensus.client.routes import Route
from forge_consensus.errors import (
    CommandTooLargeError,
    ConnectionFailedError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NoLeaderError,
    StaleReadError,
)
from tests.worlds.client_world import NODES, World


def connected(**options: Any) -> World:
    world = World(**options)
    world.connect()
    world.run(0.1)
    return world


def asked(world: World) -> list[str]:
    """The endpoints to which reads were sent, in order."""
    return [address for _, address, message in world.sent if isinstance(message, Read)]


def refusing(world: World, *nodes: str, code: str = StaleReadError.code) -> None:
    """Have these nodes refuse all reads but linearizable ones at the leader."""

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if not isinstance(message, Read) or node not in nodes:
            return None
        if node == world.group.leader and message.consistency != STALE:
            return None
        return [Refused(code, "too old", world.group.leader, "", world.group.term)]

    world.group.hook = hook


# --- the choice of the node -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", ["linearizable", "lease", "stale"])
def test_by_default_reads_go_where_they_always_went(consistency: str) -> None:
    world = connected()
    world.get("k", consistency)
    world.settle()
    assert asked(world) == ["h:1"]
    sent = world.messages(Read)[0]
    assert (sent.by_follower, sent.stale_ms_max, sent.after_index) == (False, NEVER_MS, 0)


@pytest.mark.parametrize("consistency", ["linearizable", "lease", "stale"])
def test_any_asks_the_nodes_in_turn(consistency: str) -> None:
    world = connected()
    for _ in range(6):
        world.get("k", consistency, read_from="any")
        world.settle()
    assert sorted(asked(world)) == ["h:1", "h:1", "h:2", "h:2", "h:3", "h:3"]
    assert all(message.by_follower is (consistency != "stale") for message in world.messages(Read))


def test_one_node_is_asked_by_its_address_and_no_other() -> None:
    world = connected()
    world.get("k", read_from="h:3")
    world.settle()
    assert asked(world) == ["h:3"]
    world.disconnect("h:3")
    late = world.get("k", timeout=1.0, read_from="h:3")
    world.settle()
    assert isinstance(late.error, ConsensusTimeoutError | ConnectionFailedError)
    assert asked(world) == ["h:3"]


def test_the_leader_can_be_asked_for_a_stale_read() -> None:
    world = connected()
    world.group.elect("n2")
    world.put("k")
    world.settle()
    world.get("k", "stale", read_from="leader")
    world.settle()
    assert asked(world)[-1] == "h:2"


def test_a_node_that_does_not_answer_is_passed_over_and_asked_again_later() -> None:
    world = connected()
    world.mute.add("h:2")
    for _ in range(3):
        world.get("k", read_from="any")
        assert world.settle() < 1.0
    world.mute.clear()
    world.run(1.5)
    for _ in range(3):
        world.get("k", read_from="any")
        world.settle()
    assert "h:2" in asked(world)[-3:]


def test_an_answer_that_comes_after_the_connection_was_lost_sends_nothing_there() -> None:
    world = connected()
    world.core.reads.prefer = "h:2"
    world.disconnect("h:2")
    world.core.receive("h:2", world.group.located("n2"), 999)
    world.get("k", "stale", read_from="nearest")
    assert world.settle() < 0.1
    assert asked(world) == ["h:1"]
    world.connect("h:2")
    world.run(0.1)
    world.get("k", "stale", read_from="nearest")
    world.settle()
    assert asked(world) == ["h:1", "h:2"]


def test_reads_of_different_routes_do_not_share_a_frame() -> None:
    world = connected()
    for index in (5, 5, 6):
        world.get("k", "stale", after_index=index)
    world.get("k", "stale", max_staleness=0.5)
    world.settle()
    sent = world.messages(Read)
    assert [(one.after_index, one.stale_ms_max, len(one.queries)) for one in sent] == [
        (5, NEVER_MS, 2),
        (6, NEVER_MS, 1),
        (0, 500, 1),
    ]
    assert len(world.core.reads.windows) == 3, "windows in which nothing waits are forgotten"


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_bounded_read_goes_to_another_node_and_then_to_the_leader() -> None:
    world = connected()
    refusing(world, "n1", "n2", "n3")
    pending = world.get("k", "stale", max_staleness=0.2, read_from="any")
    assert world.settle() < 0.5
    assert pending.error is None
    sent = [(address, message.consistency) for _, address, message in world.sent if isinstance(message, Read)]
    assert [consistency for _, consistency in sent] == ["stale", "stale", "linearizable"]
    assert sent[0][0] != sent[1][0]
    assert sent[2][0] == "h:1"


def test_a_bounded_read_of_one_node_asks_no_other_and_ends_with_its_own_error() -> None:
    world = connected()
    refusing(world, "n2")
    pending = world.get("k", "stale", timeout=2.0, max_staleness=0.2, read_from="h:2")
    world.settle()
    assert isinstance(pending.error, StaleReadError)
    assert set(asked(world)) == {"h:2"}
    assert len(asked(world)) < 20, "it does not ask without pause"


def test_without_a_leader_a_bounded_read_ends_with_its_own_error() -> None:
    world = connected()
    world.group.elect("")
    refusing(world, "n1", "n2", "n3")
    world.disconnect("h:1")
    pending = world.get("k", "stale", timeout=2.0, max_staleness=0.2)
    world.settle()
    assert isinstance(pending.error, StaleReadError | NoLeaderError)


def test_a_read_that_followers_cannot_confirm_goes_to_the_leader() -> None:
    world = connected()
    refusing(world, "n2", "n3", code=NoLeaderError.code)
    pendings = [world.get("k", read_from="any") for _ in range(5)]
    assert world.settle() < 1.0
    assert not any(pending.error for pending in pendings)


def test_refused_reads_do_not_hold_up_commands() -> None:
    world = connected()
    refusing(world, "n2")
    world.get("k", "stale", timeout=3.0, max_staleness=0.2, read_from="h:2")
    world.run(0.5)
    began = world.now
    put = world.put("k")
    world.run(0.1)
    assert put.finished
    assert world.now - began < 0.2


# --- tokens and arguments ---------------------------------------------------------------------------------------------


def test_every_outcome_names_an_entry_after_which_a_read_sees_it() -> None:
    world = connected()
    first = world.put("k", 1)
    world.settle()
    second = world.put("k", 2)
    world.settle()
    assert 0 < first.applied < second.applied == world.core.last_index
    world.get("k", "stale", after_index=world.core.last_index, read_from="any")
    world.settle()
    assert world.messages(Read)[-1].after_index == second.applied


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"consistency": "strong"}, "expected one of linearizable"),
        ({"read_from": "follower"}, "'leader', 'nearest', 'any' or the address"),
        ({"max_staleness": 1.0}, "but consistency is 'linearizable'"),
        ({"consistency": "stale", "max_staleness": 0}, "expected seconds above 0"),
        ({"consistency": "stale", "max_staleness": "1"}, "expected seconds above 0"),
        ({"after_index": -1}, "the index of an entry"),
        ({"after_index": 1 << 63}, "the index of an entry"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(wanted: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        Route.of(**wanted)


def test_a_client_finds_the_successor_of_a_leader_that_keeps_a_question_for_too_long() -> None:
    world = connected()
    world.sent.clear()
    pending = world.get("k", timeout=20.0, wait_ms=5000)
    world.mute.add("h:1")
    world.run(5.2)
    assert not [name for _, name, message in world.sent if isinstance(message, Locate) and message.known_term], "it may"
    world.run(0.4)
    assert {name for _, name, message in world.sent if isinstance(message, Locate)} == {"h:1", "h:2", "h:3"}
    world.group.elect("n3")
    assert world.settle() < 0.05
    assert pending.error is None


def test_what_is_too_large_for_a_node_is_not_sent_on_a_new_connection_either() -> None:
    world = World()
    world.group.frame_bytes_max = 10_000
    world.connect()
    world.put("k")
    world.settle()
    for name in NODES.values():
        world.disconnect(name)
        world.connect(name)
    large = world.get("x" * 20_000)
    world.settle()
    assert isinstance(large.error, CommandTooLargeError)
    assert not world.messages(Read)
