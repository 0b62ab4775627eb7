"""The story of a simulated cluster, scene by scene, and the events that each of its nodes must publish, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from loguru import logger

from forge_consensus.actors.messages import ChangeMembers
from forge_consensus.actors.notices import MembersRequested, TakeSnapshot, TransferRequested
from forge_consensus.actors.runtime.address import Address
from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import (
    EVENT_TYPES,
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    ClusterFormed,
    ClusterUpdated,
    ConfigReloaded,
    ConfigUpdated,
    ConsensusEvent,
    Degraded,
    Healthy,
    LeaderElected,
    LeaderLost,
    LeaderStepDown,
    LeaderTransfer,
    LogAppended,
    LogCommitted,
    LogCompacted,
    LogTruncated,
    MembershipChanged,
    NodeFailed,
    NodeJoined,
    NodeLeft,
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
)
from forge_consensus.service.reloading import Reloader
from forge_consensus.storage.snapshots.file import SnapshotInfo
from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.event_recording import Recording, stop

NODES = 3
LOG_HELD_SECONDS = 5.0
"""For longer than this no log is held for a follower that has no connection."""
PATIENCE_SECONDS = 20.0
LIMITS = StorageSettings(
    snapshot_entries=1_000_000, trailing_entries=0, sweep_entries=50, checkpoint_entries=1000, verify_entries=50
)
E = TypeVar("E", bound=ConsensusEvent)
Chain = tuple[type[ConsensusEvent], ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """The events of one part of the cluster in one scene: each chain in this order, and none of `never`."""

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
    "a learner is added and removed": tuple(
        Expected(
            part,
            ((NodeJoined, MembershipChanged, ClusterUpdated, NodeLeft, MembershipChanged, ClusterUpdated),),
            (LeaderElected, LeaderLost, QuorumLost, ClusterFormed, NodeFailed),
        )
        for part in ("winner", "voter", "cut off")
    ),
    "a setting is changed": (
        Expected("winner", ((ConfigUpdated, ConfigReloaded),), (RoleChanged, QuorumLost, NodeFailed, Degraded)),
        Expected("voter", (), (ConfigUpdated, ConfigReloaded, LeaderLost)),
    ),
    "the leader hands over": (
        Expected(
            "winner", ((LeaderTransfer, RoleChanged, BecameFollower, LeaderStepDown, LeaderElected),), (LeaderLost,)
        ),
        Expected(
            "cut off",
            ((LeaderLost, RoleChanged, BecameCandidate, RoleChanged, BecameLeader, LeaderElected),),
            (LeaderTransfer, LeaderStepDown),
        ),
    ),
    "it hands back": (
        Expected("cut off", ((LeaderTransfer, RoleChanged, BecameFollower, LeaderStepDown, LeaderElected),)),
        Expected("winner", ((RoleChanged, BecameCandidate, RoleChanged, BecameLeader, LeaderElected),)),
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
"""The order that the story demands, scene by scene. Events that no chain relates may come in any order."""


class Nobody(Address):
    """An asker that takes no notice of the answer."""

    def deliver(self, message: Any, sender: Address) -> None: ...


class NoJudge:
    """Accepts every answer, because the story's client is not under test."""

    def invoked(self, operation: Operation) -> None: ...
    def answered(self, operation: Operation) -> None: ...
    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None: ...
    def refused(self, operation: Operation, moment: float) -> None: ...
    def told_age(self, operation: Operation, applied: int, stale_ms: int) -> None: ...


@dataclass(slots=True)
class Story:
    """A cluster with a random seed, its events in each scene, and the node that plays each part."""

    cluster: SimulatedCluster
    recording: Recording
    parts: dict[str, list[str]] = field(default_factory=dict)
    scenes: dict[str, dict[str, list[ConsensusEvent]]] = field(default_factory=dict)
    unheard: SimulatedClient | None = None
    """A client with a session, whose commands will reach only a leader that is cut off."""

    def play(self, name: str, act: Callable[[], None]) -> None:
        """Play a scene and keep the events of each node in it."""
        begins = {node: len(told) for node, told in self.recording.events.items()}
        act()
        self.scenes[name] = {node: told[begins[node] :] for node, told in self.recording.events.items()}

    def until(self, done: Callable[[], bool]) -> None:
        """Let time pass until `done` is true."""
        assert self.cluster.run(PATIENCE_SECONDS, done), "it did not happen in time"

    def told(self, node: str, kind: type[ConsensusEvent], since: int = 0) -> bool:
        """Whether a node has published an event of this kind, from that position on."""
        return any(type(event) is kind for event in self.recording.events[node][since:])

    def base(self, part: str) -> SimulatedBase:
        """The running process of the node that plays a part."""
        base = self.cluster.nodes[self.parts[part][0]].running
        assert base is not None, f"{part} runs"
        return base

    def all_healthy(self) -> bool:
        """Whether all nodes run, agree, and report that they are healthy."""
        healthy = [base for base in self.cluster.running() if base.engine.reported.health == "healthy"]
        return self.cluster.settled() and len(healthy) == NODES

    def client(self, name: str, patience_s: float = 1.0) -> SimulatedClient:
        """A client that writes all the time."""
        client = SimulatedClient(
            self.cluster, name, NoJudge(), Habits(read_share=0.0, rest_s_max=0.01, patience_s=patience_s)
        )
        client.start()
        return client

    def write(self, count: int) -> None:
        """Let a new client write at least this many times."""
        client = self.client(f"client {self.cluster.timeline.now}")
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
        self.write(20)
        self.unheard = self.client("unheard", patience_s=3600.0)
        self.until(lambda: self.unheard is not None and self.unheard.session != 0)
        self.unheard.stop()
        self.until(lambda: self.all_healthy() and self.unheard is not None and self.unheard.idle)

    def cut_off(self) -> None:
        """The leader accepts commands that no other node receives, while the others continue."""
        (alone,) = self.parts["cut off"] = self.parts["leader"]
        others = self.parts["followers"]
        self.cluster.network.part([alone], others)
        assert self.unheard is not None, "the client has a session"
        self.unheard.submit_new()
        self.until(lambda: self.base("cut off").engine.reported.health == "unhealthy")
        self.until(lambda: all(base.engine.reported.health != "healthy" for base in self.cluster.running()))
        self.until(lambda: (leader := self.cluster.leader()) is not None and leader.name in others)
        winner = self.cluster.leader()
        assert winner is not None, "the others have a leader"
        self.parts["winner"] = [winner.name]
        self.parts["voter"] = [name for name in others if name != winner.name]
        self.write(10)

    def comes_back(self) -> None:
        """The network is whole again."""
        self.cluster.network.cut.clear()
        self.until(self.all_healthy)

    def changes_members(self) -> None:
        """A learner is added that does not run, and removed again."""
        address = self.cluster.join("n9")
        for action, members in (("add-learner", NODES + 1), ("remove", NODES)):
            leader = self.base("winner")
            request = ChangeMembers(((action, "n9", address if members > NODES else ""),))
            leader.tell(leader.engine.actor("membership"), MembersRequested(request, Nobody(None)))
            self.until(lambda members=members: self.members_are(members))  # type: ignore[misc]
        self.cluster.crash("n9")
        self.cluster.names.remove("n9")
        self.until(self.all_healthy)

    def reloads(self) -> None:
        """The leader takes another value of a setting that is its own affair, and keeps one for its next start."""
        leader = self.base("winner")
        engine = leader.engine
        node = NodeSettings(leader.name, raft=engine.settings, storage=engine.ledger.settings)

        def take(change: SettingsChange, timeout: float) -> None:
            leader.reports.append(lambda: engine.take_settings(change))
            leader.wake(0.0)

        reloader = Reloader(LoadedConfig(node, ProgramSettings(), (), {}), take)
        reloader.take_config(replace(node, storage=replace(node.storage, events_kept=40_000), http_url="http://h:1"))
        self.until(lambda: self.told(leader.name, ConfigReloaded))

    def hand_over(self, one: str, other: str) -> None:
        """The node that plays a part hands its leadership over to another one."""
        leader, (target,) = self.base(one), self.parts[other]
        leader.tell(leader.engine.actor("election"), TransferRequested(target, None))
        self.until(lambda: (now := self.cluster.leader()) is not None and now.name == target)
        self.until(self.all_healthy)

    def members_are(self, count: int) -> bool:
        """Whether so many members are committed on all of the first nodes."""
        ledgers = [base.engine.ledger for base in self.cluster.running() if base.name != "n9"]
        return all(len(ledger.configurations.at(ledger.commit_index).nodes) == count for ledger in ledgers)

    def moves_on(self) -> None:
        """Without one follower the leader compacts its log; the first snapshot fails."""
        self.parts["dead"] = self.parts["voter"]
        self.cluster.crash(self.parts["dead"][0])
        winner = self.base("winner")
        self.write(60)
        self.cluster.run(LOG_HELD_SECONDS, lambda: False)
        snapshots, since = winner.engine.opened.snapshots, len(self.recording.events[winner.name])
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
        self.write(10)
        self.until(self.cluster.settled)

    def leader_dies(self) -> None:
        """The leader's process is killed."""
        self.cluster.crash(self.parts["winner"][0])
        self.until(lambda: self.cluster.leader() is not None)
        heir = self.cluster.leader()
        assert heir is not None, "two of three elect"
        self.parts["heir"] = [heir.name]
        self.parts["last follower"] = [base.name for base in self.cluster.running() if base is not heir]
        engines = [base.engine for base in self.cluster.running()]
        self.until(lambda: all((e.shared.leader, e.reported.health) == (heir.name, "degraded") for e in engines))

    def leaves(self) -> None:
        """The last follower is stopped, and one of three is no quorum."""
        stop(self.cluster, self.parts["last follower"][0])
        self.until(lambda: self.base("heir").engine.reported.health == "unhealthy")
        self.until(lambda: self.cluster.leader() is None)

    # --- asking ------------------------------------------------------------------------------------------------------

    def events(self, scene: str, part: str, kind: type[E]) -> list[E]:
        """The events of a kind that the player of a part published in a scene."""
        (node,) = self.parts[part]
        return [event for event in self.scenes[scene][node] if isinstance(event, kind)]

    def digest(self) -> str:
        """The hash of everything that happened in the simulation."""
        return self.cluster.timeline.digest


def play(seed: int) -> Story:
    """Play the whole story."""
    logger.disable("forge_consensus")
    with SimulatedCluster(NODES, seed, storage=LIMITS) as cluster:
        story = Story(cluster, Recording(cluster))
        acts = (
            story.forms,
            story.cut_off,
            story.comes_back,
            story.changes_members,
            story.reloads,
            lambda: story.hand_over("winner", "cut off"),
            lambda: story.hand_over("cut off", "winner"),
            story.moves_on,
            story.too_late,
            story.leader_dies,
            story.leaves,
        )
        for name, act in zip(EXPECTED, acts, strict=True):
            story.play(name, act)
    logger.enable("forge_consensus")
    return story


def is_in_order(told: list[type[ConsensusEvent]], chain: Chain) -> bool:
    """Whether these types come one after the other, with any others between them."""
    rest = iter(told)
    return all(kind in rest for kind in chain)


def faults_of(story: Story, without: type[ConsensusEvent] | None = None) -> list[str]:
    """The differences from the expected order; `without` is treated as if it were never published at all."""
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
