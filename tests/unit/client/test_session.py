"""The client's core in virtual time: pipelines, changing leaders, answers that never come."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from forge_consensus.actors.messages import (
    GetStatus,
    Locate,
    Located,
    OpenSession,
    Refused,
    Results,
    Submit,
    WireMessage,
)
from forge_consensus.client.endpoints import FRAME_OVERHEAD_BYTES, Directory, parse_endpoints
from forge_consensus.client.outcome import late_error
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import (
    BusyError,
    CommandTooLargeError,
    ConnectionFailedError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NoLeaderError,
    OutcomeUnknownError,
    SessionExpiredError,
    StorageFullError,
)
from tests.worlds.client_fakes import Session
from tests.worlds.client_world import World


def led() -> World:
    """A world in which the client has its session already."""
    world = World()
    world.connect()
    world.put("first")
    world.settle()
    world.sent.clear()
    return world


def test_the_first_command_finds_the_leader_and_opens_one_session() -> None:
    world = World()
    world.connect()
    pending = world.put("k")
    assert world.settle() < 0.05
    assert pending.result(0) is None
    assert len(world.messages(OpenSession)) == 1
    assert world.group.data == {"k": 1}


def test_one_address_is_enough_to_find_a_leader_elsewhere() -> None:
    world = World(given=("h:3",))
    world.connect()
    world.run(0.05)
    assert set(world.core.directory.endpoints) == {"h:1", "h:2", "h:3"}
    pending = world.put("k")
    world.connect("h:1")
    world.settle()
    assert pending.error is None


def test_queued_commands_travel_in_one_frame() -> None:
    world = led()
    pendings = [world.put(f"k{number}") for number in range(1000)]
    world.settle()
    assert len(world.messages(Submit)) == 1
    assert all(pending.error is None for pending in pendings)


def test_a_frame_is_bounded_in_commands_and_bytes() -> None:
    world = led()
    for number in range(2100):
        world.put(f"k{number}")
    world.put("large", b"x" * 600_000)
    world.put("small")
    world.settle()
    assert [len(frame.commands) for frame in world.messages(Submit)] == [2000, 100, 1, 1]


def test_what_no_frame_can_hold_is_refused_and_harms_nothing_beside_it() -> None:
    world = World()
    world.group.frame_bytes_max = 10_000
    world.connect()
    small = [world.put(f"k{number}", b"x" * 3000) for number in range(6)]
    large = world.put("large", b"x" * 9_500)
    asked = world.get("x" * 20_000)
    beside = world.get("k1")
    assert world.settle() < 0.1
    assert all(pending.error is None for pending in (*small, beside))
    for pending in (large, asked):
        assert isinstance(pending.error, CommandTooLargeError)
        assert "at most 8976 fit into a frame to the nodes" in str(pending.error)
    assert [len(frame.commands) for frame in world.messages(Submit)] == [2, 2, 2]


def test_the_limit_of_a_node_that_went_away_counts_no_more() -> None:
    world = World()
    world.group.frame_bytes_max = 10_000
    world.connect()
    world.put("k")
    world.settle()
    for name in list(world.core.directory.endpoints):
        world.disconnect(name)
    world.group.frame_bytes_max = 100_000
    world.connect()
    large = world.put("large", b"x" * 20_000)
    world.settle()
    assert large.error is None


def test_the_smallest_limit_of_the_nodes_counts() -> None:
    directory = Directory(["h:1", "h:2", "h:3"], "", lambda: 0.0)
    assert directory.call_bytes_max() == inf
    for name, limit in (("h:1", 0), ("h:2", 9_000), ("h:3", 5_000)):
        directory.endpoints[name].frame_bytes_max = limit
    assert directory.call_bytes_max() == 5_000 - FRAME_OVERHEAD_BYTES


def test_no_more_is_outstanding_than_allowed() -> None:
    world = World(settings=ClientSettings(outstanding_max=10))
    world.connect()
    for number in range(25):
        world.put(f"k{number}")
    world.settle()
    assert [len(frame.commands) for frame in world.messages(Submit)] == [10, 10, 5]


def test_done_below_follows_the_oldest_outstanding_command() -> None:
    world = led()
    for number in range(3):
        world.put(f"k{number}")
        world.settle()
    assert [frame.done_below for frame in world.messages(Submit)] == [2, 3, 4]
    assert world.group.sessions[1].results.keys() == {4}


def test_a_frame_lost_in_the_middle_of_a_pipeline_goes_again_soon() -> None:
    world = led()
    lost: list[WireMessage] = []

    def fate(message: WireMessage, request: bool) -> list[float]:
        if isinstance(message, Submit) and not lost:
            lost.append(message)
            return []
        return [0.001]

    world.fate = fate
    first = world.put("a")
    world.step()
    second = world.put("b")
    world.run(0.05)
    assert second.done() and not first.done()
    assert world.settle() < 0.15
    assert first.error is None
    assert max(world.group.applied.values()) == 1


def test_a_lost_answer_is_answered_again_and_not_applied_again() -> None:
    world = led()
    lost: list[WireMessage] = []

    def fate(message: WireMessage, request: bool) -> list[float]:
        if isinstance(message, Results) and not lost:
            lost.append(message)
            return []
        return [0.001]

    world.fate = fate
    pending = world.put("a")
    world.settle()
    assert pending.error is None
    assert max(world.group.applied.values()) == 1


def test_a_new_leader_gets_everything_outstanding_in_order() -> None:
    world = led()
    world.mute.add("h:1")
    pendings = [world.put(f"k{number}") for number in range(50)]
    world.run(0.02)
    world.disconnect("h:1")
    world.run(0.02)
    world.group.elect("n2")
    assert world.settle() < 0.03
    assert all(pending.error is None for pending in pendings)
    (again,) = [message for _, name, message in world.sent if name == "h:2" and isinstance(message, Submit)]
    assert [number for number, _ in again.commands] == list(range(2, 52))
    assert again.done_below == 2


def test_a_client_finds_the_successor_of_a_silent_leader() -> None:
    world = led()
    world.mute.add("h:1")
    pending = world.put("k")
    world.run(0.5)
    asked = {(name, message.known_term) for _, name, message in world.sent if isinstance(message, Locate)}
    assert asked == {("h:1", 0), ("h:2", 1), ("h:3", 1)}
    world.group.elect("n3")
    assert world.settle() < 0.05
    assert pending.error is None


def test_a_client_uses_its_leader_again_at_once_after_a_broken_connection() -> None:
    world = led()
    world.mute.add("h:1")
    pending = world.put("k")
    world.run(0.02)
    world.disconnect("h:1")
    world.run(0.05)
    world.mute.clear()
    world.connect("h:1")
    assert world.settle() < 0.03
    assert pending.error is None


def test_a_client_follows_the_leader_named_in_a_refusal_at_once() -> None:
    world = led()
    world.group.elect("n2")
    pending = world.put("k")
    assert world.settle() < 0.03
    assert pending.error is None
    assert world.messages(Locate) == []


def test_a_client_pauses_when_two_nodes_name_each_other_as_leader() -> None:
    world = led()

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        other = "n2" if node == "n1" else "n1"
        if isinstance(message, Submit):
            return [Refused("CONSENSUS_NOT_LEADER", "", other, world.group.nodes[other], 1)]
        return None

    world.group.hook = hook
    pending = world.put("k", timeout=2.0)
    world.settle()
    assert isinstance(pending.error, ConsensusTimeoutError | NoLeaderError)
    assert len(world.messages(Submit)) < 60


def test_a_busy_leader_is_asked_again_with_growing_pauses() -> None:
    world = led()
    world.group.hook = lambda node, message: (
        [Refused("CONSENSUS_BUSY", "too much", "n1", "h:1", 1)] if isinstance(message, Submit) else None
    )
    pending = world.put("k", timeout=3.0)
    world.settle()
    assert isinstance(pending.error, BusyError)
    assert "too much" in str(pending.error)
    assert 5 < len(world.messages(Submit)) < 25
    assert not world.group.applied[pending.payload]


def test_no_error_tells_what_another_call_was_refused_for() -> None:
    world = led()
    private = Refused("CONSENSUS_BUSY", "the key of somebody else", "n1", "h:1", 1)
    world.group.hook = lambda node, message: (
        [private] if isinstance(message, Submit) else [] if isinstance(message, GetStatus) else None
    )
    other = PendingNodeQuery[Any](GetStatus(), "h:1", world.now + 1.0)
    world.core.submit([other])
    refused = world.put("k", timeout=1.0)
    world.settle()
    assert private.text in str(refused.error)
    assert isinstance(other.error, ConsensusTimeoutError)
    assert private.text not in str(other.error)


def test_the_error_says_once_why_a_command_was_refused_also_if_the_node_has_said_something_else_since() -> None:
    world = led()
    refusal = Refused("CONSENSUS_STORAGE_FULL", "the store is full", "n1", "h:1", 1)
    world.group.hook = lambda node, message: [refusal] if isinstance(message, Submit) else None
    pending = world.put("k")
    world.run(0.02)
    directory = world.core.directory
    assert pending.refusal == refusal
    assert str(late_error(pending, directory, outcome_unknown=False)).count(refusal.text) == 1
    directory.endpoints["h:1"].said = "n1 says that n1 leads in term 1"
    error = late_error(pending, directory, outcome_unknown=False)
    assert isinstance(error, StorageFullError)
    assert str(error).startswith("refused until the deadline: the store is full (h:1: n1 says that n1 leads")


def test_the_caller_does_not_notice_a_temporary_refusal() -> None:
    world = led()
    refusals = [1, 2, 3]

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if isinstance(message, Submit) and refusals:
            refusals.pop()
            return [Refused("CONSENSUS_STORAGE_FULL", "", "n1", "h:1", 1)]
        return None

    world.group.hook = hook
    pending = world.put("k")
    assert world.settle() < 0.3
    assert pending.error is None


def test_only_the_commands_that_a_refusal_names_fail() -> None:
    world = led()

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if not isinstance(message, Submit):
            return None
        rest = Submit(message.session, message.done_below, message.commands[1:])
        number = message.commands[0][0]
        refusal = Refused("CONSENSUS_COMMAND_TOO_LARGE", "11 bytes", "n1", "h:1", 1, (number,))
        return [refusal, world.group.submit(rest)]

    world.group.hook = hook
    large, small = world.put("large"), world.put("small")
    world.settle()
    assert isinstance(large.error, CommandTooLargeError)
    assert small.error is None


def test_an_unknown_outcome_is_resolved_by_sending_again() -> None:
    world = led()
    answers: list[WireMessage] = []

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if isinstance(message, Submit) and not answers:
            answers.append(world.group.submit(message))
            return [Refused("CONSENSUS_OUTCOME_UNKNOWN", "", "", "", 1)]
        return None

    world.group.hook = hook
    pending = world.put("k")
    assert world.settle() < 0.1
    assert pending.error is None
    assert world.group.applied[pending.payload] == 1


def test_an_unresolved_outcome_stays_unknown() -> None:
    world = led()

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if not isinstance(message, Submit) or not world.group.leader:
            return None
        world.group.submit(message)
        world.group.elect("")
        return [Refused("CONSENSUS_OUTCOME_UNKNOWN", "", "", "", 1)]

    world.group.hook = hook
    pending = world.put("k", timeout=1.0)
    world.settle()
    assert isinstance(pending.error, OutcomeUnknownError)
    assert world.group.applied[pending.payload] == 1


@pytest.mark.parametrize("again", [False, True])
def test_a_command_of_which_one_copy_found_its_session_full_may_be_carried_out_by_another(again: bool) -> None:
    world = led()
    submits: list[Submit] = []

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if not isinstance(message, Submit):
            return None
        submits.append(message)
        if again and len(submits) == 1:
            return []  # it is on its way for long
        return [Results(message.session, tuple((number, BusyError.code, b"") for number, _ in message.commands))]

    world.group.hook = hook
    pending = world.put("k")
    world.settle()
    assert len(submits) == 1 + again
    assert isinstance(pending.error, OutcomeUnknownError if again else BusyError)


def test_an_expired_session_fails_outstanding_commands_and_is_followed_by_a_new_one() -> None:
    world = led()
    world.group.sessions.clear()
    lost = world.put("lost")
    world.settle()
    kept = world.put("kept")
    assert world.settle() < 0.1, "the next session is asked for at once, however young the last one was"
    assert isinstance(lost.error, SessionExpiredError)
    assert kept.error is None
    assert "lost" not in world.group.data


def test_the_caller_does_not_notice_the_replacement_of_an_unused_session() -> None:
    world = led()
    session = world.core.session

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if isinstance(message, Submit) and message.session == session:
            return [Refused("CONSENSUS_SESSION_EXPIRED", "", "n1", "h:1", 1)]
        return None

    world.group.hook = hook
    pending = world.put("k")
    world.settle()
    assert pending.error is None
    assert world.group.applied[pending.payload] == 1


def test_a_client_does_not_trust_a_session_after_a_long_idle_time() -> None:
    world = led()
    world.now += 31
    world.group.sessions[1] = Session()
    pending = world.put("k")
    world.settle()
    assert pending.error is None
    assert len(world.messages(OpenSession)) == 1


def test_an_unsent_command_ends_as_not_carried_out() -> None:
    world = World()
    pending = world.put("k", timeout=0.5)
    assert world.settle() == pytest.approx(0.5, abs=0.02)
    assert isinstance(pending.error, ConnectionFailedError)
    assert "h:1: not connected" in str(pending.error)


def test_without_a_leader_the_error_holds_the_answer_of_every_node() -> None:
    world = World()
    world.connect()
    world.group.elect("")
    pending = world.put("k", timeout=1.5)
    world.settle()
    assert isinstance(pending.error, NoLeaderError)
    assert "n2 says that nobody leads" in str(pending.error)


def test_a_command_that_was_sent_and_not_answered_ends_with_an_unknown_outcome() -> None:
    world = led()
    world.mute.add("h:1")
    pending = world.put("k", timeout=1.0)
    assert world.settle() == pytest.approx(1.0, abs=0.02)
    assert isinstance(pending.error, OutcomeUnknownError)
    world.mute.clear()
    later = world.put("later")
    world.settle()
    assert later.error is None
    assert world.messages(Submit)[-1].done_below == later.number


def test_a_command_in_an_unsent_frame_has_a_known_outcome() -> None:
    world = led()
    world.refuses = True
    pending = world.put("k", timeout=1.0)
    world.settle()
    assert not isinstance(pending.error, OutcomeUnknownError)
    assert pending.error is not None


def test_late_and_doubled_answers_change_nothing() -> None:
    world = led()
    world.fate = lambda message, request: [0.001] if request else [0.001, 0.002, 1.0]
    pendings = [world.put(f"k{number}") for number in range(10)]
    world.settle()
    world.run(2.0)
    assert all(pending.error is None for pending in pendings)
    assert len(world.done) == 11


def test_a_linearizable_read_goes_to_the_leader_and_again_to_its_successor() -> None:
    world = led()
    world.mute.add("h:1")
    pending = world.get("first")
    world.run(0.05)
    world.disconnect("h:1")
    world.group.elect("n2")
    world.settle()
    assert pending.result(0) == 1
    assert [node for node, _ in world.group.reads] == ["n2"]


def test_a_stale_read_needs_no_leader_and_leaves_a_silent_node() -> None:
    world = led()
    world.disconnect("h:1")
    world.group.elect("")
    world.mute.add("h:2")
    pending = world.get("first", "stale")
    assert world.settle() < 0.6
    assert pending.result(0) == 1
    assert pending.stale_ms == 7
    assert pending.applied == world.group.index


def test_a_client_ignores_a_node_of_another_cluster() -> None:
    world = led()
    stranger = Located("x", "other", "x", "h:9", 99, ())
    world.core.receive("h:2", stranger, 999)
    assert world.core.directory.leader is world.core.directory.endpoints["h:1"]
    assert "h:9" not in world.core.directory.endpoints
    assert "belongs to cluster 'other'" in world.core.directory.account()


def test_a_cluster_made_anew_with_lower_terms_is_found() -> None:
    world = led()
    world.core.directory.term = 50
    world.disconnect("h:1")
    pending = world.put("k")
    world.connect("h:1")
    world.core.directory.leader = None
    assert world.settle() < 2.5
    assert pending.error is None


def test_an_idle_client_says_nothing() -> None:
    world = led()
    world.run(5.0)
    assert world.sent == []


@pytest.mark.parametrize("given", ["", [], "host", "host:0", "host:70000", ["ok:1", "no port"], [7]])
def test_a_bad_endpoint_is_refused_with_advice(given: object) -> None:
    with pytest.raises(InvalidConfigError, match=r"127\.0\.0\.1:7001"):
        parse_endpoints(given)  # type: ignore[arg-type]


def test_endpoints_come_as_a_list_or_with_commas() -> None:
    assert parse_endpoints("tcp://a:1, b:2,a:1") == ["a:1", "b:2"]
    assert parse_endpoints(["[::1]:7001"]) == ["[::1]:7001"]


# --- a leader that is busy --------------------------------------------------------------------------------------------


def refuse(world: World, request: int, *numbers: int) -> None:
    """The leader has no room for these commands of a frame."""
    leader = world.core.directory.leader
    assert leader is not None
    message = Refused("CONSENSUS_BUSY", "much waits", "n1", leader.name, world.core.directory.term, numbers)
    world.core.receive(leader.name, message, request)


def test_a_busy_leader_is_sent_no_more_than_it_had_room_for_and_a_little_more_with_each_answer() -> None:
    world = led()
    world.group.handle = lambda node, message: []  # type: ignore[method-assign]
    window = world.core.commands
    calls = [world.put(f"k{number}") for number in range(100)]
    world.run(0.02)
    (request,) = [request for request in window.flights if len(window.flights[request].numbers) == 100]
    numbers = window.flights[request].numbers[:]
    refuse(world, request, *numbers[40:])
    assert (window.allowed, len(window.open), len(window.again)) == (40, 100, 60)
    world.sent.clear()
    world.run(0.6)
    assert not world.messages(Submit)
    name = world.core.directory.leader.name  # type: ignore[union-attr]
    world.core.receive(name, Results(world.core.session, tuple((n, "", b"\xc0") for n in numbers[:8])), request)
    assert window.allowed == 42
    world.run(0.1)
    assert sum(len(message.commands) for message in world.messages(Submit)) == 10
    assert [call.number for call in calls] == numbers, "a copy of the refused frame may have been taken"


def test_what_a_busy_leader_would_answer_too_late_is_not_sent() -> None:
    world = led()
    window = world.core.commands
    window.allowed, window.answer_seconds = 1, 0.4
    world.group.handle = lambda node, message: []  # type: ignore[method-assign]
    world.put("under way", timeout=30.0)
    world.run(0.05)
    first = world.put("a", timeout=0.5)  # there is no time for it
    second = world.put("b", timeout=30.0)
    world.run(0.05)
    assert isinstance(first.error, BusyError)
    assert "0.40 s" in str(first.error)
    assert second.error is None
    assert len(window.open) == 1


def test_a_leader_that_was_busy_is_asked_again_however_slow_its_last_answers_were() -> None:
    """Otherwise nothing would be sent, so no answer could show that it is quick again."""
    world = led()
    window = world.core.commands
    window.allowed, window.answer_seconds = 1, 60.0  # it was silent for a minute, and had been busy before
    calls = [world.put(f"k{number}", timeout=5.0) for number in range(3)]
    world.run(1.0)
    assert calls[0].error is None
    assert calls[0].done()
    for number in range(20):
        world.put(f"again{number}", timeout=5.0)
        world.run(0.5)
    last = world.put("last", timeout=5.0)
    world.run(0.5)
    assert last.done()
    assert last.error is None
    assert window.answer_seconds < 1.0
