"""The health actor: judges which peers live, whether a quorum is reachable, and the state of this node.

It only reports: no decision of the consensus depends on its judgement. Its checks also carry the tips of the disks.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from forge_consensus.actors.messages import REFUSALS, CheckPeer, CheckPeerReply
from forge_consensus.actors.notices import (
    CheckHealth,
    LeaderChanged,
    LeadershipEnded,
    MembersChanged,
    PeerDown,
    PeerUp,
    SettingsChanged,
    Start,
)
from forge_consensus.actors.raft.clock_watch import ClockWatch
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.shared import HealthState, PeerStatus, PeerView
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.events.types import (
    ConsensusEvent,
    Degraded,
    Healthy,
    NodeFailed,
    NodeRecovered,
    QuorumAchieved,
    QuorumLost,
    Recovering,
    TimeSkewed,
    TimeStepped,
    Unhealthy,
)
from forge_consensus.storage.ledger.log_time import ClockSample
from forge_consensus.storage.ledger.time_slice import NS
from forge_consensus.storage.ledger.tips import Tip

LAG_ENTRIES = 100_000
"""A node with more committed entries than this still to apply counts as recovering."""


class HealthActor(ConsensusActor):
    """Checks every peer at a steady interval, in every role, and judges by the replies."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.missed: dict[str, int] = {}
        self.busy = 0
        self.overloads: list[str] = []
        """What the last check found too slow for what is asked of it; without numbers, as each text is an event."""
        self.clock_watch = ClockWatch()
        self.next_check: Timer | None = None

    def bind(self, context: Context) -> None:
        """Take the context. The published states of the peers stay valid after a rebuild."""
        super().bind(context)
        known = context.shared.peers
        context.shared.peers = {node: known.get(node) or PeerView() for node in self.others}

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Begin the checks of the peers, which go on as long as the actor lives."""
        self.busy = self.totals.busy
        self.missed = dict.fromkeys(self.others, 0)
        self.judge()
        self.check_later()

    def check_later(self) -> None:
        """Check the peers again after the interval."""
        self.next_check = self.after(self.settings.check_interval, CheckHealth())

    def receiveMsg_SettingsChanged(self, message: SettingsChanged, sender: Any) -> None:
        """Check the peers at the new interval, from now on."""
        before = self.settings.check_interval
        super().receiveMsg_SettingsChanged(message, sender)
        if self.next_check is not None and self.settings.check_interval != before:
            self.next_check.cancel()
            self.check_later()

    def receiveMsg_CheckHealth(self, message: CheckHealth, sender: Any) -> None:
        """Judge the peers that did not answer, and check all of them again."""
        self.overloads = self.find_overloads()
        self.number += 1
        settings = self.settings
        for node, missed in self.missed.items():
            view = self.shared.peers[node]
            if view.status is not PeerStatus.INACTIVE:
                if missed >= settings.fail_checks:
                    self.fail(node, f"{missed} checks without an answer")
                elif missed >= settings.suspect_checks and view.status is PeerStatus.ACTIVE:
                    view.status = PeerStatus.SUSPECTED
            self.missed[node] = missed + 1
            self.tell_peer(node, "health", CheckPeer(self.number))
        self.judge()
        self.compare_clocks()
        self.check_later()

    def receiveMsg_CheckPeer(self, message: CheckPeer, sender: Any) -> None:
        """Answer a peer that checks whether this node is alive."""
        commit_ms = ceil(self.context.commit_times.slowest(self.clock.now()) * 1000)
        clock_ns = self.clock.boottime_ns()
        self.send(sender, CheckPeerReply(message.number, self.clock.wall_ms(), self.tip, commit_ms, clock_ns))

    def receiveMsg_CheckPeerReply(self, message: CheckPeerReply, sender: Any) -> None:
        """Note that a peer is alive, its round trip, its clocks, which were read within that time, and its tip.

        The reply echoes the send time by this node's clock.
        """
        view = self.shared.peers.get(sender.node)
        if view is None:
            return
        ledger = self.ledger
        ledger.identity.tips.note_tip(sender.node, Tip(*message.tip), ledger.log, ledger.commit_index)
        received = self.clock.boottime_ns()
        view.commit_seconds = message.commit_ms / 1000
        view.round_trip_ms = max(0, received - sender.sent) / 1e6
        if message.wall_ms:
            latest_ms = message.wall_ms + ceil(view.round_trip_ms)
            view.wall_clock = ClockSample(message.wall_ms, latest_ms, received / NS)
        if message.clock_ns:
            self.shared.freshness.read_clock(sender.node, sender.sent / NS, message.clock_ns / NS, received / NS)
        self.alive(sender.node)

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """Note that a peer is alive, because it accepted the greeting."""
        if message.node in self.shared.peers:
            self.alive(message.node)

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """Note that a peer has failed, because its connection broke."""
        if message.node in self.shared.peers:
            self.fail(message.node, "connection lost")
            self.judge()

    def receiveMsg_MembersChanged(self, message: MembersChanged, sender: Any) -> None:
        """Check the members that were added, and no longer those that were removed."""
        peers, others = self.shared.peers, self.others
        self.shared.peers = {node: peers.get(node) or PeerView() for node in others}
        self.missed = {node: self.missed.get(node, 0) for node in others}
        self.judge()

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Judge again, because a node without a leader is not healthy; a new leader compares the clocks at once."""
        self.judge()
        self.compare_clocks()

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Judge again, because this node may have no leader now."""
        self.judge()

    def alive(self, node: str) -> None:
        """Note that a peer answered; publish its recovery if it had failed."""
        view = self.shared.peers[node]
        self.missed[node] = 0
        view.heard_at = self.clock.now()
        was, view.status = view.status, PeerStatus.ACTIVE
        if was is PeerStatus.FAILED:
            self.publish(NodeRecovered(peer=node))
        if was is not PeerStatus.ACTIVE:
            self.judge()

    def fail(self, node: str, reason: str) -> None:
        """Note that a peer has failed, and publish it once."""
        view = self.shared.peers[node]
        if view.status not in (PeerStatus.FAILED, PeerStatus.INACTIVE):
            view.status = PeerStatus.FAILED
            self.publish(NodeFailed(peer=node, reason=reason))

    def compare_clocks(self) -> None:
        """If this node leads, let the log's wall time follow the members' clocks, and tell whose clock is wrong."""
        ledger = self.ledger
        if ledger.leading_term is None:
            self.clock_watch.skewed.clear()
            return
        now, wall_ms = self.clock.reading(), self.clock.wall_ms()
        samples = {node: view.wall_clock for node, view in self.shared.peers.items() if view.wall_clock is not None}
        samples[self.node_id] = ClockSample(wall_ms, wall_ms, now)
        quorum, skew_max_ms = ledger.configuration.quorum, self.settings.clock_skew_max * 1000
        stepped_ms, skews = self.clock_watch.look(ledger.log_time, quorum, samples, ledger.now, skew_max_ms)
        if stepped_ms:
            self.publish(TimeStepped(seconds=stepped_ms / 1000))
        for node, ahead_ms in skews:
            self.publish(TimeSkewed(member=node, ahead=ahead_ms / 1000))

    # --- judging -----------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Publish what changed in the quorum or in this node's health."""
        peers, quorum = self.shared.peers, self.ledger.configuration.quorum
        gone = [n for n, v in peers.items() if v.status in (PeerStatus.FAILED, PeerStatus.INACTIVE)]
        live = quorum.voters - set(gone)
        has_quorum = quorum.has(live)
        if has_quorum != self.reported.has_quorum:
            self.reported.has_quorum = has_quorum
            kind = QuorumAchieved if has_quorum else QuorumLost
            self.publish(kind(required=quorum.required, healthy=len(live), total=quorum.total))
        details = [f"{node} is {peers[node].status}" for node in sorted(gone)]
        if self.waits_to_be_added():
            details.append("this node waits to be added to the cluster")
        elif self.shared.leader is None:
            details.append("no leader is known")
        lag = self.ledger.commit_index - self.ledger.applied
        if lag > LAG_ENTRIES:
            details.append(f"{lag} committed entries wait to be applied")
        details += [*self.troubles(), *self.overloads]
        self.change(self.state_for(has_quorum, lag, bool(details)), tuple(details))

    def waits_to_be_added(self) -> bool:
        """Whether this node knows no members yet, because it joins a cluster that has not added it."""
        return not self.ledger.configuration.nodes

    def troubles(self) -> list[str]:
        """What keeps this node, or a follower of it, from taking entries. The texts do not change while it lasts."""
        found = [self.reported.removed] if self.reported.removed else []
        full, since = self.ledger.look_for_room(), self.ledger.room.full_since
        if full and self.clock.now() - since >= self.settings.election_timeout_min / 2:
            found.append(f"no entries are taken: {full}")
        for node, refusal in sorted(self.shared.refusals.items()):
            found.append(f"{node} takes no entries: {REFUSALS.get(refusal, refusal)}")
        for node, refusal in sorted(self.shared.snapshot_refusals.items()):
            found.append(f"{node} did not take the last snapshot: {REFUSALS.get(refusal, refusal)}")
        for node in self.shared.late_learners:
            found.append(
                f"learner {node} gets entries more slowly than they come: until it has caught up it does not vote"
            )
        if self.shared.snapshot_trouble:
            found.append(self.shared.snapshot_trouble)
        if self.ledger.applier.replacing:
            found.append(
                "the state machine restores the snapshot: until then this node applies nothing and does not stand"
            )
        slow = self.settings.election_timeout_min / 2
        if self.context.commit_times.slowest(self.clock.now()) > slow:
            found.append(f"the disk is slow: commits take longer than {slow:g} s")
        return found

    def find_overloads(self) -> list[str]:
        """What does not keep up: clients were answered with busy, or much work waits for the state machine."""
        ledger, found = self.ledger, list[str]()
        busy, self.busy = self.totals.busy - self.busy, self.totals.busy
        if busy > 0:
            found.append("clients are answered with busy, because more is asked than can be done")
        if ledger.applier.pace.seconds(ledger.commit_index - ledger.applied) > 2 * self.settings.backlog_seconds_max:
            found.append("the state machine is far behind the log")
        return found

    def state_for(self, quorum: bool, lag: int, trouble: bool) -> HealthState:
        """This node's state: is a `quorum` reachable, how many entries does it `lag`, is there other `trouble`."""
        if not quorum:
            began = self.clock.now() - self.context.started_at < 2 * self.settings.election_timeout_max
            return HealthState.RECOVERING if began or self.waits_to_be_added() else HealthState.UNHEALTHY
        if self.shared.leader is None or lag > LAG_ENTRIES:
            return HealthState.RECOVERING
        return HealthState.DEGRADED if trouble else HealthState.HEALTHY

    def change(self, state: HealthState, details: tuple[str, ...]) -> None:
        """Enter a state, and publish it unless the same state and details were published last."""
        reported = self.reported
        known = (reported.health, reported.details)
        reported.health, reported.details = state, details
        if known == (state, details):
            return
        events: dict[HealthState, ConsensusEvent] = {
            HealthState.HEALTHY: Healthy(),
            HealthState.DEGRADED: Degraded(details=details),
            HealthState.UNHEALTHY: Unhealthy(details=details),
            HealthState.RECOVERING: Recovering(details=details),
        }
        if known[0] is not state or state is not HealthState.HEALTHY:
            self.publish(events[state])
