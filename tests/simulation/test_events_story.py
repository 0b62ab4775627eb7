"""The story: one cluster makes every transition that exists, and each publishes its event, in order and complete."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from forge_consensus.events.types import (
    EVENT_TYPES,
    BecameCandidate,
    BecameFollower,
    ClusterFormed,
    ConfigReloaded,
    ConfigUpdated,
    ConsensusEvent,
    Degraded,
    Healthy,
    LeaderElected,
    LeaderLost,
    LeaderStepDown,
    LogAppended,
    LogCommitted,
    LogCompacted,
    LogTruncated,
    NodeFailed,
    NodeRecovered,
    NodeStopped,
    QuorumAchieved,
    QuorumLost,
    Recovering,
    RoleChanged,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
    SnapshotStarted,
    Unhealthy,
    payload,
)
from tests.worlds.event_story import EXPECTED, Story, faults_of, is_in_order, play

SEED = 33
OWN = frozenset(
    f"consensus.{kind}"
    for kind in (
        "apply.slow",
        "query.slow",
        "time.skewed",
        "time.stepped",
        "settings.differ",
        "address.differs",
        "node.refused",
        "node.removed",
        "snapshot.on_thread",
        "config.rejected",
        "audit.recorded",
    )
)
"""Kinds that the Go original does not have; each has tests of its own, because a healthy story has none of them."""
TOLD = {kind: event_type for kind, event_type in EVENT_TYPES.items() if kind not in OWN}


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """The story, played once."""
    yield play(SEED)


# --- that everything is told, in order -------------------------------------------------------------------------------


def test_the_story_tells_all_33_of_the_go_original() -> None:
    assert set(EVENT_TYPES) >= OWN
    assert len(TOLD) == 33


def test_every_event_type_occurs(story: Story) -> None:
    told = {type(event) for events in story.recording.events.values() for event in events}
    assert {kind for kind, event_type in TOLD.items() if event_type not in told} == set()


def test_the_events_of_each_scene_come_in_order(story: Story) -> None:
    assert faults_of(story) == []


@pytest.mark.parametrize("kind", TOLD.values(), ids=lambda kind: kind.__name__)
def test_the_story_notices_a_missing_event_type(story: Story, kind: type[ConsensusEvent]) -> None:
    assert faults_of(story, without=kind)


def test_the_story_notices_events_in_another_order(story: Story) -> None:
    for scene, expectations in EXPECTED.items():
        for expected in expectations:
            for chain in expected.chains:
                told = [type(event) for event in story.scenes[scene][story.parts[expected.who][0]]]
                for first, second in pairwise(chain):
                    firsts = [kind for kind in told if kind is first]
                    late = [kind for kind in told if kind is not first] + firsts
                    assert first is second or not is_in_order(late, chain), f"{first} behind {second}"


def test_all_events_keep_the_rules_and_are_published_after_their_commit(story: Story) -> None:
    # The rules and the node's disk are checked at each event while the story is played, and break it off.
    for name, rules in story.recording.rules.items():
        assert rules.count == len(story.recording.events[name]) > 50
    assert [len(boots) for boots in story.recording.boots.values()] == [
        2 if [name] == story.parts["dead"] else 1 for name in story.cluster.names
    ]


def test_terms_and_numbers_rise_over_restarts(story: Story) -> None:
    for told in story.recording.events.values():
        numbers = [event.sequence for event in told]
        assert numbers == sorted(set(numbers))
        assert [event.term for event in told] == sorted(event.term for event in told)
    assert len({event.term for told in story.recording.events.values() for event in told}) >= 4


def test_the_story_is_the_same_each_time(story: Story) -> None:
    again = play(SEED)
    assert again.recording.events == story.recording.events
    assert again.digest() == story.digest()


def test_the_story_does_not_depend_on_one_seed() -> None:
    for seed in range(1, 13):
        assert faults_of(play(seed)) == []


# --- what they say ---------------------------------------------------------------------------------------------------


def test_the_winner_of_an_election_publishes_votes_total_and_duration(story: Story) -> None:
    for scene, part in (
        ("the cluster forms", "leader"),
        ("the leader is cut off", "winner"),
        ("the leader dies", "heir"),
    ):
        (elected,) = story.events(scene, part, LeaderElected)
        assert elected.leader == elected.node_id == story.parts[part][0]
        assert (elected.votes, elected.total) == (2, 3)
        assert 0 < elected.duration < 0.2
        candidate = story.events(scene, part, BecameCandidate)[-1]
        assert elected.monotonic - candidate.monotonic == pytest.approx(elected.duration, abs=0.05)
    (heard,) = story.events("the leader is cut off", "voter", LeaderElected)
    assert (heard.leader, heard.votes, heard.total) == (story.parts["winner"][0], 0, 3)
    assert heard.term == story.events("the leader is cut off", "winner", LeaderElected)[0].term


def test_a_change_of_role_tells_both_roles_and_why(story: Story) -> None:
    changes = story.events("the leader is cut off", "winner", RoleChanged)
    assert [(change.old, change.new) for change in changes] == [("follower", "candidate"), ("candidate", "leader")]
    assert [change.reason for change in changes] == ["asks for votes", "2 votes"]
    (fallen,) = story.events("the leader is cut off", "cut off", RoleChanged)
    (down,) = story.events("the leader is cut off", "cut off", LeaderStepDown)
    assert (fallen.old, fallen.new) == ("leader", "follower")
    assert fallen.reason == down.reason == "no answer from a majority within 0.8 s"
    assert down.leader == down.node_id
    assert story.events("the leader is cut off", "cut off", BecameFollower)[-1].leader is None


def test_a_lost_leader_is_named_with_the_reason(story: Story) -> None:
    (silent,) = story.events("the leader is cut off", "winner", LeaderLost)
    assert (silent.leader, silent.reason) == (story.parts["cut off"][0], "silent for an election timeout")
    (dead,) = story.events("the leader dies", "heir", LeaderLost)
    assert (dead.leader, dead.reason) == (story.parts["winner"][0], "connection lost")


def test_a_changed_setting_is_told_with_both_values_and_what_waits_for_a_restart(story: Story) -> None:
    (updated,) = story.events("a setting is changed", "winner", ConfigUpdated)
    assert (updated.settings, updated.old, updated.new) == (("storage.events_kept",), ("50000",), ("40000",))
    (reloaded,) = story.events("a setting is changed", "winner", ConfigReloaded)
    assert (reloaded.trigger, reloaded.changed) == ("call", ("storage.events_kept",))
    assert reloaded.pending_restart == ("http_url",)
    assert reloaded.sequence == updated.sequence + 1


def test_the_cluster_names_its_members_once(story: Story) -> None:
    for name in story.cluster.names:
        formed = [event for event in story.recording.events[name] if isinstance(event, ClusterFormed)]
        assert [event.members for event in formed] == [("n1", "n2", "n3")]


def test_a_quorum_event_holds_required_healthy_and_total(story: Story) -> None:
    (lost,) = story.events("the leader is cut off", "cut off", QuorumLost)
    assert (lost.required, lost.healthy, lost.total) == (2, 1, 3)
    (achieved,) = story.events("it comes back", "cut off", QuorumAchieved)
    assert (achieved.required, achieved.healthy, achieved.total) == (2, 2, 3)


def test_events_name_a_failed_peer_with_the_reason_and_a_recovered_one(story: Story) -> None:
    failed = story.events("the leader is cut off", "cut off", NodeFailed)
    assert {event.peer for event in failed} == {*story.parts["winner"], *story.parts["voter"]}
    assert {event.reason for event in failed} == {"4 checks without an answer"}
    (dead,) = story.events("a follower dies, and its leader's log moves on without it", "winner", NodeFailed)
    assert (dead.peer, dead.reason) == (story.parts["dead"][0], "connection lost")
    back = story.events("it is back, too late for the log", "winner", NodeRecovered)
    assert [event.peer for event in back] == story.parts["dead"]


def test_health_names_the_fault(story: Story) -> None:
    (one, other) = sorted([*story.parts["winner"], *story.parts["voter"]])
    unhealthy = story.events("the leader is cut off", "cut off", Unhealthy)[-1]
    assert unhealthy.details == (f"{one} is failed", f"{other} is failed", "no leader is known")
    degraded = story.events("a follower dies, and its leader's log moves on without it", "winner", Degraded)
    assert [event.details for event in degraded] == [(f"{story.parts['dead'][0]} is failed",)]
    recovering = story.events("the leader dies", "heir", Recovering)
    assert recovering[-1].details == (f"{story.parts['winner'][0]} is failed", "no leader is known")
    assert payload(story.events("it comes back", "cut off", Healthy)[-1]) == {}


def test_log_events_hold_ranges_and_truncated_entries_were_never_committed(story: Story) -> None:
    unheard = story.events("the leader is cut off", "cut off", LogAppended)
    (truncated,) = story.events("it comes back", "cut off", LogTruncated)
    assert truncated.from_index == unheard[0].first_index
    assert truncated.removed == unheard[-1].last_index - unheard[0].first_index + 1
    instead = story.events("it comes back", "cut off", LogAppended)[0]
    assert instead.first_index == truncated.from_index
    assert instead.term > unheard[-1].term
    committed = story.events("the cluster forms", "leader", LogCommitted)
    assert committed[0].first_index == 2, "the first entry, the members, is committed by birth"
    assert all(later.first_index == earlier.last_index + 1 for earlier, later in pairwise(committed))


def test_a_snapshot_event_holds_index_term_size_and_duration(story: Story) -> None:
    scene = "a follower dies, and its leader's log moves on without it"
    failing, well = story.events(scene, "winner", SnapshotStarted)
    (failed,) = story.events(scene, "winner", SnapshotFailed)
    (completed,) = story.events(scene, "winner", SnapshotCompleted)
    (compacted,) = story.events(scene, "winner", LogCompacted)
    assert failed.index == failing.index
    assert failed.error == "OSError: ordered: the disk is full"
    assert completed.index == well.index >= 60
    assert completed.snapshot_term == completed.term
    assert completed.size > 100
    assert 0 < completed.duration < 1
    assert compacted.first_index == completed.index + 1
    assert compacted.removed == completed.index
    (restored,) = story.events("it is back, too late for the log", "dead", SnapshotRestored)
    assert (restored.index, restored.snapshot_term, restored.size) == (
        completed.index,
        completed.snapshot_term,
        completed.size,
    )
    assert 0 < restored.duration < 1


def test_no_event_follows_the_last_one_of_a_node(story: Story) -> None:
    (name,) = story.parts["last follower"]
    assert isinstance(story.recording.events[name][-1], NodeStopped)
    assert NodeStopped not in {type(event) for event in story.recording.events[name][:-1]}
