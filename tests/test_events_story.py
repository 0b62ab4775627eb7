"""The story: one cluster lives through every transition that exists, and each tells its event, in order, in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import pytest
from loguru import logger

from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.actors.simulated import SimulatedBase
from forge_consensus.actors.simulated_client import Habits, Operation, SimulatedClient
from forge_consensus.actors.simulated_cluster import SimulatedCluster
from forge_consensus.events.types import (
    EVENT_TYPES,
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    ClusterFormed,
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
    NodeStarted,
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
from forge_consensus.storage.limits import Limits
from forge_consensus.storage.snapshot_file import SnapshotInfo
from tests.event_recording import Recording, stop

WITHOUT_TRANSITION = (
    "node.joined",
    "node.left",
    "leader.transfer",
    "cluster.updated",
    "cluster.membership.changed",
    "config.updated",
    "config.reloaded",
)
"""Those of the seed's 33 that nothing in the product can make happen yet; each leaves the list with its transition."""

SEED = 33
NODES = 3
PATIENCE_S = 20.0
LIMITS = Limits(
    snapshot_entries=1_000_000, trailing_entries=0, sweep_entries=50, checkpoint_entries=1000, verify_entries=50
)
E = TypeVar("E", bound=ConsensusEvent)
Chain = tuple[type[ConsensusEvent], ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What one part of the cluster must tell in one scene: each chain in this order, and nothing of `never`."""

    who: str
    chains: tuple[Chain, ...]
    never: Chain = ()


EXPECTED: dict[str, tuple[Expected, ...]] = {
    "the cluster forms": (
        Expected(
            "leader",
            (
                (NodeStarted, BecameFollower, RoleChanged, BecameCandidate),
                (BecameCandidate, RoleChanged, BecameLeader, LeaderElected, ClusterFormed, LogCommitted),
                (NodeStarted, Recovering, QuorumAchieved, LeaderElected, Healthy),
                (LeaderElected, LogAppended, LogCommitted),
            ),
            (LeaderLost, LeaderStepDown, QuorumLost, Unhealthy, NodeFailed, LogTruncated),
        ),
        Expected(
            "followers",
            (
                (NodeStarted, BecameFollower, LeaderElected, ClusterFormed),
                (NodeStarted, Recovering, QuorumAchieved, LeaderElected, Healthy),
                (LeaderElected, LogAppended, LogCommitted),
            ),
            (BecameLeader, LeaderStepDown, QuorumLost, Unhealthy, NodeFailed, LogTruncated),
        ),
    ),
    "the leader is cut off": (
        Expected(
            "cut off",
            (
                (LogAppended, RoleChanged, BecameFollower, LeaderStepDown, QuorumLost, Unhealthy),
                (NodeFailed, NodeFailed, QuorumLost),
            ),
            (BecameLeader, LeaderElected, LeaderLost, QuorumAchieved, Healthy, LogCommitted, ClusterFormed),
        ),
        Expected(
            "winner",
            (
                (LeaderLost, RoleChanged, BecameCandidate, RoleChanged, BecameLeader, LeaderElected, LogCommitted),
                (LeaderLost, Recovering, LeaderElected),
                (NodeFailed, Degraded),
            ),
            (LeaderStepDown, QuorumLost, Unhealthy, ClusterFormed),
        ),
        Expected(
            "voter",
            ((LeaderLost, LeaderElected, LogAppended, LogCommitted), (NodeFailed, Degraded)),
            (BecameLeader, LeaderStepDown, QuorumLost, Unhealthy, ClusterFormed),
        ),
    ),
    "it comes back": (
        Expected(
            "cut off",
            (
                (LeaderElected, LogTruncated, LogAppended, LogCommitted),
                (NodeRecovered, QuorumAchieved, NodeRecovered),
                (QuorumAchieved, Healthy),
                (LeaderElected, Healthy),
            ),
            (BecameLeader, LeaderStepDown, QuorumLost, ClusterFormed, SnapshotRestored),
        ),
        Expected("winner", ((NodeRecovered, Healthy),), (LeaderStepDown, LeaderElected, LogTruncated)),
        Expected("voter", ((NodeRecovered, Healthy),), (LeaderLost, LeaderElected, LogTruncated)),
    ),
    "a follower dies, and its leader's log moves on without it": (
        Expected(
            "winner",
            (
                (NodeFailed, Degraded),
                (SnapshotStarted, SnapshotFailed, SnapshotStarted, SnapshotCompleted, LogCompacted),
            ),
            (LeaderStepDown, QuorumLost, Unhealthy, SnapshotRestored),
        ),
        Expected("dead", (), tuple(EVENT_TYPES.values())),
    ),
    "it is back, too late for the log": (
        Expected(
            "dead",
            (
                (NodeStarted, BecameFollower, LeaderElected, SnapshotRestored, LogAppended, LogCommitted),
                (NodeStarted, Recovering, QuorumAchieved, Healthy),
            ),
            (ClusterFormed, BecameCandidate, SnapshotStarted, LogTruncated, NodeFailed, NodeRecovered),
        ),
        Expected("winner", ((NodeRecovered, Healthy),), (LeaderStepDown, SnapshotRestored)),
    ),
    "the leader dies": (
        Expected(
            "heir",
            (
                (NodeFailed, LeaderLost, RoleChanged, BecameCandidate, RoleChanged, BecameLeader, LeaderElected),
                (LeaderLost, Recovering, LeaderElected, Degraded),
            ),
            (LeaderStepDown, QuorumLost, Unhealthy, ClusterFormed),
        ),
        Expected("last follower", ((LeaderLost, LeaderElected), (NodeFailed, Degraded)), (BecameLeader, QuorumLost)),
    ),
    "a node leaves in order": (
        Expected("last follower", ((NodeStopped,),), (BecameFollower,)),
        Expected("heir", ((NodeFailed, QuorumLost, Unhealthy), (RoleChanged, BecameFollower, LeaderStepDown))),
    ),
}
"""The order that the story demands, scene by scene. What no chain relates may come in any order."""


class NoJudge:
    """The story's client is not what is tested."""

    def invoked(self, operation: Operation) -> None: ...
    def answered(self, operation: Operation) -> None: ...
    def failed(self, operation: Operation, code: str) -> None: ...


@dataclass(slots=True)
class Story:
    """A cluster under a seed, what it told in each scene, and who played which part."""

    cluster: SimulatedCluster
    recording: Recording
    parts: dict[str, list[str]] = field(default_factory=dict)
    scenes: dict[str, dict[str, list[ConsensusEvent]]] = field(default_factory=dict)
    unheard: SimulatedClient | None = None
    """A client with a session, whose commands will reach only a leader that is cut off."""

    def play(self, name: str, act: Callable[[], None]) -> None:
        """Play a scene and keep what each node told in it."""
        begins = {node: len(told) for node, told in self.recording.told.items()}
        act()
        self.scenes[name] = {node: told[begins[node] :] for node, told in self.recording.told.items()}

    def until(self, done: Callable[[], bool]) -> None:
        """Let time pass until it is so."""
        assert self.cluster.run(PATIENCE_S, done), "it did not happen in time"

    def told(self, node: str, kind: type[ConsensusEvent], since: int = 0) -> bool:
        """Whether a node has told such an event, from that place on."""
        return any(type(event) is kind for event in self.recording.told[node][since:])

    def base(self, part: str) -> SimulatedBase:
        """The running process of who plays a part."""
        base = self.cluster.nodes[self.parts[part][0]].running
        assert base is not None, f"{part} runs"
        return base

    def all_healthy(self) -> bool:
        """Whether all nodes run, agree, and say that they are well."""
        healthy = [base for base in self.cluster.running() if base.engine.board.health == "healthy"]
        return self.cluster.settled() and len(healthy) == NODES

    def client(self, name: str, target: str, patience_s: float = 1.0) -> SimulatedClient:
        """A client that writes all the time."""
        client = SimulatedClient(
            self.cluster, name, NoJudge(), Habits(read_share=0.0, rest_s_max=0.01, patience_s=patience_s)
        )
        client.target = target
        client.start()
        return client

    def write(self, count: int, target: str) -> None:
        """Have a new client write so many times at least."""
        client = self.client(f"client {self.cluster.timeline.now}", target)
        self.until(lambda: client.done >= count)
        client.stop()
        self.until(lambda: client.idle)

    # --- the scenes --------------------------------------------------------------------------------------------------

    def forms(self) -> None:
        """Three nodes start on empty disks."""
        self.cluster.start()
        self.until(self.all_healthy)
        leader = self.cluster.leader()
        assert leader is not None, "a healthy cluster has a leader"
        self.parts["leader"] = [leader.name]
        self.parts["followers"] = [name for name in self.cluster.names if name != leader.name]
        self.write(20, leader.name)
        self.unheard = self.client("unheard", leader.name, patience_s=3600.0)
        self.until(lambda: self.unheard is not None and self.unheard.session != 0)
        self.unheard.stop()
        self.until(lambda: self.all_healthy() and self.unheard is not None and self.unheard.idle)

    def cut_off(self) -> None:
        """The leader takes commands that nobody else hears of, while the others go on."""
        (alone,) = self.parts["cut off"] = self.parts["leader"]
        others = self.parts["followers"]
        self.cluster.network.part([alone], others)
        assert self.unheard is not None, "the client has a session"
        self.unheard.submit_new()
        self.until(lambda: self.base("cut off").engine.board.health == "unhealthy")
        self.until(lambda: all(base.engine.board.health != "healthy" for base in self.cluster.running()))
        self.until(lambda: (leader := self.cluster.leader()) is not None and leader.name in others)
        winner = self.cluster.leader()
        assert winner is not None, "the others have a leader"
        self.parts["winner"] = [winner.name]
        self.parts["voter"] = [name for name in others if name != winner.name]
        self.write(10, winner.name)

    def comes_back(self) -> None:
        """The network is whole again."""
        self.cluster.network.cut.clear()
        self.until(self.all_healthy)

    def moves_on(self) -> None:
        """Without one follower the leader compacts its log; the first snapshot fails."""
        self.parts["dead"] = self.parts["voter"]
        self.cluster.crash(self.parts["dead"][0])
        winner = self.base("winner")
        self.write(60, winner.name)
        snapshots, since = winner.engine.opened.snapshots, len(self.recording.told[winner.name])
        export = snapshots.export

        def failing() -> SnapshotInfo:
            raise OSError("ordered: the disk is full")

        snapshots.export = failing
        winner.tell(winner.engine.actor("snapshot"), TakeSnapshot())
        self.until(lambda: self.told(winner.name, SnapshotFailed, since))
        snapshots.export = export
        winner.tell(winner.engine.actor("snapshot"), TakeSnapshot())
        self.until(lambda: self.told(winner.name, LogCompacted, since))

    def too_late(self) -> None:
        """The follower's next entries are compacted away."""
        self.cluster.restart(self.parts["dead"][0])
        self.until(self.all_healthy)
        self.write(10, self.parts["winner"][0])
        self.until(self.cluster.settled)

    def leader_dies(self) -> None:
        """The leader ends without a word."""
        self.cluster.crash(self.parts["winner"][0])
        self.until(lambda: self.cluster.leader() is not None)
        heir = self.cluster.leader()
        assert heir is not None, "two of three elect"
        self.parts["heir"] = [heir.name]
        self.parts["last follower"] = [base.name for base in self.cluster.running() if base is not heir]
        boards = [base.engine.board for base in self.cluster.running()]
        self.until(lambda: all((board.leader, board.health) == (heir.name, "degraded") for board in boards))

    def leaves(self) -> None:
        """The last follower is stopped, and one of three is no quorum."""
        stop(self.cluster, self.parts["last follower"][0])
        self.until(lambda: self.base("heir").engine.board.health == "unhealthy")
        self.until(lambda: self.cluster.leader() is None)

    # --- asking ------------------------------------------------------------------------------------------------------

    def events(self, scene: str, part: str, kind: type[E]) -> list[E]:
        """What the one who plays a part told of a kind in a scene."""
        (node,) = self.parts[part]
        return [event for event in self.scenes[scene][node] if isinstance(event, kind)]

    def digest(self) -> str:
        """The hash of all that happened in the simulation."""
        return self.cluster.timeline.digest


def play(seed: int) -> Story:
    """Play the whole story."""
    logger.disable("forge_consensus")
    with SimulatedCluster(NODES, seed, limits=LIMITS) as cluster:
        story = Story(cluster, Recording(cluster))
        acts = (
            story.forms,
            story.cut_off,
            story.comes_back,
            story.moves_on,
            story.too_late,
            story.leader_dies,
            story.leaves,
        )
        for name, act in zip(EXPECTED, acts, strict=True):
            story.play(name, act)
    logger.enable("forge_consensus")
    return story


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """The story, played once."""
    yield play(SEED)


def is_in_order(told: list[type[ConsensusEvent]], chain: Chain) -> bool:
    """Whether these types come one after the other, whatever lies between."""
    rest = iter(told)
    return all(kind in rest for kind in chain)


def faults_of(story: Story, without: type[ConsensusEvent] | None = None) -> list[str]:
    """What of the expected order was not told, or was told and must not be; as if one type were never told at all."""
    faults = []
    for scene, expectations in EXPECTED.items():
        for expected in expectations:
            for node in story.parts[expected.who]:
                told = [type(event) for event in story.scenes[scene][node] if type(event) is not without]
                names = [kind.__name__ for kind in told]
                for chain in expected.chains:
                    if not is_in_order(told, chain):
                        faults.append(f"{scene}: {node}: {[kind.__name__ for kind in chain]} not in {names}")
                for kind in set(expected.never) & set(told):
                    faults.append(f"{scene}: {node}: {kind.__name__} in {names}")
    return faults


# --- that everything is told, in order -------------------------------------------------------------------------------


def test_the_types_with_and_without_a_transition_are_the_seeds_33(story: Story) -> None:
    missing = {f"consensus.{kind}" for kind in WITHOUT_TRANSITION}
    assert len(missing) == len(WITHOUT_TRANSITION)
    assert not missing & set(EVENT_TYPES), "it exists now: put it into the story and take it off the list"
    assert len(EVENT_TYPES) + len(missing) == 33


def test_every_event_type_occurs(story: Story) -> None:
    told = {type(event) for events in story.recording.told.values() for event in events}
    assert {kind for kind, event_type in EVENT_TYPES.items() if event_type not in told} == set()


def test_the_events_of_each_scene_come_in_order(story: Story) -> None:
    assert faults_of(story) == []


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=lambda kind: kind.__name__)
def test_the_story_would_notice_if_a_type_were_not_told(story: Story, kind: type[ConsensusEvent]) -> None:
    assert faults_of(story, without=kind)


def test_the_story_would_notice_if_events_were_told_in_another_order(story: Story) -> None:
    for scene, expectations in EXPECTED.items():
        for expected in expectations:
            for chain in expected.chains:
                told = [type(event) for event in story.scenes[scene][story.parts[expected.who][0]]]
                for first, second in pairwise(chain):
                    firsts = [kind for kind in told if kind is first]
                    late = [kind for kind in told if kind is not first] + firsts
                    assert first is second or not is_in_order(late, chain), f"{first} behind {second}"


def test_all_events_keep_the_rules_and_were_told_after_their_commit(story: Story) -> None:
    # The rules and the node's disk are checked at each event while the story is played, and break it off.
    for name, rules in story.recording.rules.items():
        assert rules.count == len(story.recording.told[name]) > 50
    assert [len(boots) for boots in story.recording.boots.values()] == [
        2 if [name] == story.parts["dead"] else 1 for name in story.cluster.names
    ]


def test_terms_and_numbers_rise_over_restarts(story: Story) -> None:
    for told in story.recording.told.values():
        numbers = [event.sequence for event in told]
        assert numbers == sorted(set(numbers))
        assert [event.term for event in told] == sorted(event.term for event in told)
    assert len({event.term for told in story.recording.told.values() for event in told}) >= 4


def test_the_story_is_the_same_each_time(story: Story) -> None:
    again = play(SEED)
    assert again.recording.told == story.recording.told
    assert again.digest() == story.digest()


def test_the_story_does_not_hang_on_one_seed() -> None:
    for seed in range(1, 13):
        assert faults_of(play(seed)) == []


# --- what they say ---------------------------------------------------------------------------------------------------


def test_an_election_tells_votes_total_and_duration_at_the_winner(story: Story) -> None:
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


def test_the_cluster_names_its_members_once(story: Story) -> None:
    for name in story.cluster.names:
        formed = [event for event in story.recording.told[name] if isinstance(event, ClusterFormed)]
        assert [event.members for event in formed] == [("n1", "n2", "n3")]


def test_a_quorum_tells_required_healthy_and_total(story: Story) -> None:
    (lost,) = story.events("the leader is cut off", "cut off", QuorumLost)
    assert (lost.required, lost.healthy, lost.total) == (2, 1, 3)
    (achieved,) = story.events("it comes back", "cut off", QuorumAchieved)
    assert (achieved.required, achieved.healthy, achieved.total) == (2, 2, 3)


def test_a_failed_peer_is_named_with_the_reason_and_named_when_it_recovers(story: Story) -> None:
    failed = story.events("the leader is cut off", "cut off", NodeFailed)
    assert {event.peer for event in failed} == {*story.parts["winner"], *story.parts["voter"]}
    assert {event.reason for event in failed} == {"4 checks without an answer"}
    (dead,) = story.events("a follower dies, and its leader's log moves on without it", "winner", NodeFailed)
    assert (dead.peer, dead.reason) == (story.parts["dead"][0], "connection lost")
    back = story.events("it is back, too late for the log", "winner", NodeRecovered)
    assert [event.peer for event in back] == story.parts["dead"]


def test_health_tells_what_is_amiss(story: Story) -> None:
    (one, other) = sorted([*story.parts["winner"], *story.parts["voter"]])
    unhealthy = story.events("the leader is cut off", "cut off", Unhealthy)[-1]
    assert unhealthy.details == (f"{one} is failed", f"{other} is failed", "no leader is known")
    degraded = story.events("a follower dies, and its leader's log moves on without it", "winner", Degraded)
    assert [event.details for event in degraded] == [(f"{story.parts['dead'][0]} is failed",)]
    recovering = story.events("the leader dies", "heir", Recovering)
    assert recovering[-1].details == (f"{story.parts['winner'][0]} is failed", "no leader is known")
    assert payload(story.events("it comes back", "cut off", Healthy)[-1]) == {}


def test_the_log_tells_ranges_and_what_was_taken_back_was_never_committed(story: Story) -> None:
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


def test_a_snapshot_tells_index_term_size_and_duration(story: Story) -> None:
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


def test_nothing_is_told_behind_the_last_word(story: Story) -> None:
    (name,) = story.parts["last follower"]
    assert isinstance(story.recording.told[name][-1], NodeStopped)
    assert NodeStopped not in {type(event) for event in story.recording.told[name][:-1]}
