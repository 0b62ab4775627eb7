"""The election actor: decides which role this node has, and when to ask for an election.

Paper 5.2; dissertation 4.2.3 (stickiness) and 9.6 (pre-vote).
"""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.handing_over import HandingOver
from forge_consensus.actors.messages import PreVoteReply, RequestPreVote, RequestVote, TimeoutNow, VoteReply
from forge_consensus.actors.notices import (
    ElectionTimeout,
    LeaderChanged,
    LeaderContact,
    LeadershipBegan,
    LeadershipEnded,
    PeerDown,
    PeerUp,
    Resign,
    Start,
    TermRaised,
)
from forge_consensus.actors.runtime.actor import Context
from forge_consensus.actors.runtime.shared import Role
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.events.types import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    LeaderElected,
    LeaderLost,
    LeaderStepDown,
    RoleChanged,
)
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind

LEFT_TO_OTHERS_MAX = 5
"""How many election timeouts in a row a node that is no good leader now leaves the candidacy to the others."""
FAULT = "an actor of this node failed"
NOOP = Proposal(Kind.NOOP, session=0, seq=0, done_below=0, data=b"")
"""The first entry of each leader's term; it lets the entries of earlier terms commit."""


class ElectionActor(HandingOver):
    """Owns the role, the election timer and the votes received. The votes that this node gave are the ledger's."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_votes: set[str] = set()
        self.votes: set[str] = set()
        self.asking = False
        self.round = self.asked_in = 0
        self.disconnected = False
        self.broke_at = 0.0
        self.broke_in = 0
        self.deadline = self.alarm_at = 0.0
        self.alarm: Timer | None = None
        self.fast_left = 0
        self.left_to_others = 0
        self.stood_at = 0.0

    def bind(self, context: Context) -> None:
        """Take the context. Its role and leader are those that were reported last, before a rebuild."""
        super().bind(context)
        self.stickiness = context.shared.stickiness

    @property
    def role(self) -> Role:
        """This node's role. It is shared, and after a rebuild it is the role that was reported last."""
        return self.shared.role

    @role.setter
    def role(self, role: Role) -> None:
        self.shared.role = role

    @property
    def leader(self) -> str | None:
        """The leading node, None while none is known; shared and reported like the role."""
        return self.shared.leader

    @leader.setter
    def leader(self, leader: str | None) -> None:
        self.shared.leader = leader

    # --- beginning and waiting ---------------------------------------------------------------------------------------

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Start as a follower that waits for a leader; the only member of its cluster asks for votes at once."""
        self.shared.handover = None
        self.stood_at = self.clock.now()
        configuration = self.ledger.configuration
        if configuration.lease_reads:
            self.stickiness.no_vote_before = self.clock.running() + configuration.vote_kept(0.0)
        if message.again:
            follows = self.stickiness.follows
            self.step_down(FAULT)
            self.lose_leader(FAULT)
            self.stickiness.follows = follows  # the fault was this node's own, so the leader may live
        else:
            self.publish(BecameFollower(leader=None))
        if self.may_stand and self.is_majority({self.node_id}):
            self.wait_until(max(self.clock.running(), self.stickiness.no_vote_before))
        else:
            self.wait_long()

    def wait_until(self, deadline: float) -> None:
        """Move the election deadline.

        The alarm is replaced only if the deadline comes earlier. An alarm that fires too early sets the next one, so
        the many contacts that postpone the deadline need no new alarm.
        """
        self.deadline = deadline
        if self.alarm is not None and self.alarm_at > deadline:
            self.alarm.cancel()
            self.alarm = None
        if self.alarm is None:
            self.alarm_at = deadline
            self.alarm = self.after(max(0.0, deadline - self.clock.running()), ElectionTimeout())

    def wait_long(self) -> None:
        """Wait for a random election timeout, so that nodes do not all become candidates at once (paper 5.2)."""
        low, high = self.settings.election_timeout_min, self.settings.election_timeout_max
        self.wait_until(self.clock.running() + self.context.random.uniform(low, high))

    def wait_short(self) -> None:
        """Wait for a time that grows with this node's rank, so that voters of lower rank become candidates first."""
        ranked = [node for node in sorted(self.ledger.configuration.voters) if node != self.leader]
        rank = ranked.index(self.node_id) if self.node_id in ranked else len(ranked)
        delay = self.settings.rank_delay
        jitter = self.context.random.uniform(0, delay / 2)
        self.wait_until(self.clock.running() + rank * delay + jitter)

    def receiveMsg_ElectionTimeout(self, message: ElectionTimeout, sender: Any) -> None:
        """Ask for pre-votes if the deadline has passed; otherwise wait for the rest.

        The alarm goes by real time, the deadline by the time in which this node ran.
        """
        self.alarm = None
        if self.role is Role.LEADER:
            return
        configuration = self.ledger.configuration
        if self.clock.running() < self.deadline:
            self.wait_until(self.deadline)
        elif configuration.lease_reads and self.sticky():
            self.wait_long()  # under a lease a candidate's vote for itself is held back like any other
        elif not self.may_stand or self.leaves_to_others():
            self.lose_silent_leader()
            self.wait_long()
        else:
            self.ask_for_pre_votes()

    @property
    def is_voter(self) -> bool:
        """Whether this node votes, so that it may stand: by the configuration in force or by the committed one.

        One that was told of its removal does not stand, but votes: who asks for its vote knows better.
        """
        ledger = self.ledger
        in_doubt = ledger.configurations.in_doubt(ledger.commit_index)
        return (
            ledger.may_vote
            and not self.reported.removed
            and any(self.node_id in configuration.voters for configuration in in_doubt)
        )

    @property
    def may_stand(self) -> bool:
        """Whether this node votes and is not marked never to lead, by the configuration in force."""
        return self.is_voter and self.ledger.configuration.may_lead(self.node_id)

    # --- asking ------------------------------------------------------------------------------------------------------

    def leaves_to_others(self) -> bool:
        """Whether not to stand this time, because another node would be the better leader.

        While a user's machine is being handed a snapshot, this node as the leader could apply and answer nothing. So it
        only votes until `restore()` returns, which costs a cluster without another candidate nothing. With a full store
        it could append nothing, and if it has much to apply, nobody would be answered until that is done; a few more
        election timeouts, or one, give the others the time to stand. If nobody else leads then, it stands all the same:
        a leader that appends nothing still answers reads.
        """
        applier, ledger = self.ledger.applier, self.ledger
        if applier.replacing:
            return True
        full = self.other_voters and ledger.look_for_room()
        times = LEFT_TO_OTHERS_MAX if full else 0
        backlog = applier.pace.seconds(ledger.commit_index - ledger.applied)
        if self.other_voters and backlog > self.settings.election_timeout_max:
            times = max(times, 1)
        if self.left_to_others >= times:
            return False
        self.left_to_others += 1
        return True

    def lose_silent_leader(self) -> None:
        """Forget the leader that was not heard for so long; does nothing if none is known."""
        self.lose_leader("connection lost" if self.disconnected else "silent for an election timeout")

    def ask_for_pre_votes(self) -> None:
        """Ask whether this node would win an election, because a new term would disturb a leader that others follow."""
        self.lose_silent_leader()
        if self.fast_left > 0:
            self.fast_left -= 1
            delay = self.settings.rank_delay * (1 + len(self.other_voters) * self.context.random.random())
            self.wait_until(self.clock.running() + delay)
        else:
            self.wait_long()
        self.asking = True
        self.asked_in = self.ledger.term
        self.round += 1
        self.pre_votes = {self.node_id}
        log = self.ledger.log
        if self.is_majority(self.pre_votes):
            self.campaign()
            return
        for node in self.other_voters:
            self.tell_peer(
                node,
                "election",
                RequestPreVote(self.ledger.term + 1, self.round, log.last, log.last_term),
            )

    def receiveMsg_RequestPreVote(self, message: RequestPreVote, sender: Any) -> None:
        """Reply whether this node would grant the vote, without promising it.

        A node that would grant it postpones its own candidacy, so that the sender can win.
        """
        ledger = self.ledger
        granted = (
            message.term > ledger.term
            and ledger.up_to_date(message.last_index, message.last_term)
            and not self.sticky()
            and ledger.may_vote
        )
        if granted and self.role is not Role.LEADER:
            quick = self.settings.rank_delay * (2 + len(self.other_voters)) + self.vote_seconds()
            self.wait_until(max(self.deadline, self.clock.running() + quick))
        self.send(sender, PreVoteReply(ledger.term, message.round, granted))

    def receiveMsg_PreVoteReply(self, message: PreVoteReply, sender: Any) -> None:
        """Become a candidate once a majority has granted the pre-votes of the present round.

        They count only in the term in which they were requested: the gate may have entered a higher term while
        `TermRaised` is still in the mailbox.
        """
        present = message.round == self.round and self.asked_in == self.ledger.term
        if not (self.asking and message.granted and present):
            return
        if sender.node in self.ledger.configuration.voters:
            self.pre_votes.add(sender.node)
            if self.is_majority(self.pre_votes):
                self.campaign()

    def campaign(self, *, transfer: bool = False) -> None:
        """Enter the next term with a vote for this node, and ask the others for theirs.

        `transfer` says that the leader has asked this node to, so that nobody keeps its vote back.
        """
        self.asking = False
        term = self.ledger.stand(self.ledger.term)
        self.wait_until(self.deadline + self.vote_seconds())
        self.votes = {self.node_id}
        self.stood_at = self.clock.now()
        self.totals.elections += 1
        self.take_role(Role.CANDIDATE, "asks for votes")
        self.publish(BecameCandidate())
        if self.is_majority(self.votes):
            self.win()
            return
        log = self.ledger.log
        for node in self.other_voters:
            self.tell_peer(node, "election", RequestVote(term, log.last, log.last_term, transfer))

    def vote_seconds(self) -> float:
        """How long a vote may take to get to a disk that is as slow as this node's; 0 if that is no matter.

        A candidate asks once its own vote is on disk, and is answered once the voter's is. Where that takes as long as
        an election timeout, nodes that did not wait for it would stand one after the other, and split every vote. At
        most it is the longest election timeout, because one disk that hung for long must hold up no later election.
        """
        settings = self.settings
        slowest = self.context.commit_times.slowest(self.clock.now())
        return min(slowest, settings.election_timeout_max) if slowest > settings.election_timeout_min / 2 else 0.0

    def receiveMsg_RequestVote(self, message: RequestVote, sender: Any) -> None:
        """Vote, at most once in a term; the answer leaves when the vote is on disk (I10)."""
        ledger = self.ledger
        granted = (
            self.role is not Role.LEADER
            and (message.transfer or not self.sticky())
            and ledger.grant_vote(message.term, sender.node, message.last_index, message.last_term)
        )
        if granted:
            self.asking = False
            self.wait_long()
        self.send(sender, VoteReply(ledger.term, granted))

    def receiveMsg_VoteReply(self, message: VoteReply, sender: Any) -> None:
        """Count the vote of a voter of the configuration in force, given in the present term."""
        if self.role is not Role.CANDIDATE or message.term != self.ledger.term or not message.granted:
            return
        self.ledger.identity.tips.note_term(sender.node, message.term)
        if sender.node in self.ledger.configuration.voters:
            self.votes.add(sender.node)
            if self.is_majority(self.votes):
                self.win()

    def is_majority(self, votes: set[str]) -> bool:
        """Whether these nodes are a quorum. Votes and pre-votes are always counted separately."""
        return self.ledger.configuration.quorum.has(votes)

    def win(self) -> None:
        """Become the leader of the term.

        Its first entry is a no-op, because only an entry of the leader's own term lets earlier ones commit (paper
        5.4.2, 8). It is appended here, so that it precedes every client's command that arrived in the same turn.
        """
        self.asking = False  # a candidate may have asked for pre-votes again before its votes arrived
        term = self.ledger.term
        self.ledger.lead(term, self.clock.wall_ms())
        noop, _ = self.ledger.propose(term, [NOOP])
        self.leader = self.node_id
        self.fast_left = 0
        self.take_role(Role.LEADER, f"{len(self.votes)} votes")
        self.publish(BecameLeader())
        self.announce_leader(votes=len(self.votes))
        self.tell("replication", LeadershipBegan(term, noop))

    # --- following ---------------------------------------------------------------------------------------------------

    def sticky(self) -> bool:
        """Whether this node refuses its vote, because it leads or has recently received a leader's request."""
        configuration, own = self.ledger.configuration, self.settings.election_timeout_min
        timeout, lease_reads = configuration.vote_kept(own), configuration.lease_reads
        return self.stickiness.holds(self.clock.running(), timeout=timeout, lease_reads=lease_reads)

    def receiveMsg_LeaderContact(self, message: LeaderContact, sender: Any) -> None:
        """Follow the leader of the present term, and restart the election timeout."""
        if message.term != self.ledger.term:
            return
        self.stickiness.heard_at = self.clock.running()
        self.shared.leader_heard_at = self.clock.boottime_ns() / 1e9
        if self.left_behind(message.term):
            return
        self.asking = self.disconnected = False
        self.stickiness.follows = True
        self.fast_left = self.left_to_others = 0
        self.wait_long()
        if self.role is not Role.FOLLOWER:
            self.take_role(Role.FOLLOWER, f"{message.leader} leads")
            self.publish(BecameFollower(leader=message.leader))
        if self.leader != message.leader:
            self.leader = message.leader
            self.announce_leader(votes=0)

    def left_behind(self, term: int) -> bool:
        """Whether a leader's request may have been sent before the connection to that leader broke.

        A leader's requests arrive on another connection than the one whose end this node notices, so under load some
        are read after that end. They must not cancel the quick election. A leader that lives sends further requests.
        """
        fresh = self.clock.running() - self.broke_at < self.settings.heartbeat_interval
        return self.disconnected and term == self.broke_in and fresh

    def announce_leader(self, votes: int) -> None:
        """Notify the other actors and publish who leads. Only the leader itself knows its number of votes."""
        term = self.ledger.term
        self.shared.leader_term = term
        duration = self.clock.now() - self.stood_at
        total = len(self.ledger.configuration.voters)
        self.publish(LeaderElected(leader=self.leader or "", votes=votes, total=total, duration=duration))
        self.tell_all(LeaderChanged(self.leader, term))
        self.end_if_retiring()

    def lose_leader(self, reason: str) -> None:
        """Forget the leader, and publish that it is lost; does nothing if none is known."""
        if self.leader is None:
            return
        if self.leader != self.node_id:
            self.publish(LeaderLost(leader=self.leader, reason=reason))
        self.stood_at = self.clock.now()
        self.leader = None
        self.stickiness.follows = False
        self.tell_all(LeaderChanged(None, self.ledger.term))

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """If the connection to the leader broke, ask for pre-votes after a short wait instead of a whole timeout.

        Not with lease reads, because a leader that is cut off may still answer reads under its lease. A leader that
        moved leads on, and is heard by its own connections meanwhile.
        """
        self.lose_target(message.node)
        if message.node != self.leader or self.role is not Role.FOLLOWER or message.moved:
            return
        if self.ledger.configuration.lease_reads:
            return
        self.disconnected, self.stickiness.follows = True, False
        self.broke_at = self.clock.running()
        self.broke_in = self.shared.leader_term  # the ledger's may be its successor's
        self.fast_left = self.settings.fast_retries
        self.wait_short()

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """The connection to the leader is back: wait for its heartbeats."""
        if message.node == self.leader and self.disconnected:
            self.disconnected, self.stickiness.follows = False, True
            self.wait_long()

    def receiveMsg_TimeoutNow(self, message: TimeoutNow, sender: Any) -> None:
        """Stand at once, because the leader that this node follows hands over to it."""
        ledger = self.ledger
        follows = self.role is Role.FOLLOWER and message.term == ledger.term and self.leader == sender.node
        if follows and self.may_stand and not ledger.applier.replacing and not ledger.look_for_room():
            self.asking = False
            self.lose_leader("it hands over to this node")
            self.campaign(transfer=True)

    # --- stepping down -----------------------------------------------------------------------------------------------

    def receiveMsg_TermRaised(self, message: TermRaised, sender: Any) -> None:
        """Give up the role of an earlier term, because the gate has entered a higher one."""
        self.asking = False
        self.step_down(f"term {message.term} began")
        self.lose_leader(f"term {message.term} began")

    def receiveMsg_Resign(self, message: Resign, sender: Any) -> None:
        """Stop leading without entering a new term, for example because no quorum answers."""
        if self.ledger.resign(message.term):
            self.step_down(message.reason)
            self.lose_leader(message.reason)

    def step_down(self, reason: str) -> None:
        """Become a follower; if this node led, publish that and notify the other actors."""
        was = self.role
        if was is Role.FOLLOWER:
            return
        self.take_role(Role.FOLLOWER, reason)
        self.publish(BecameFollower(leader=None))
        if was is Role.LEADER:
            self.shared.handover = None
            self.publish(LeaderStepDown(leader=self.node_id, reason=reason))
            self.tell_all(LeadershipEnded(self.ledger.term, reason))
            self.wait_long()

    def take_role(self, role: Role, reason: str) -> None:
        """Change the role, and publish the change if there is one."""
        if role is not self.role:
            self.publish(RoleChanged(old=str(self.role), new=str(role), reason=reason))
        self.role = role
        self.stickiness.leads = role is Role.LEADER
