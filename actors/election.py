"""The election actor: who leads, and when somebody else should (paper 5.2, dissertation 4.2.3 and 9.6)."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import PreVoteReply, RequestPreVote, RequestVote, VoteReply
from forge_consensus.actors.notices import (
    CommitWasSlow,
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
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
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

FAULT = "an actor of this node failed"


class ElectionActor(ConsensusActor):
    """Owns the role, the election timer and the votes received. Votes given are the ledger's."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_votes: set[str] = set()
        self.votes: set[str] = set()
        self.asking = False
        self.round = self.asked_in = 0
        self.heard_at: float | None = None
        self.disconnected = False
        self.broke_at = 0.0
        self.broke_in = 0
        self.deadline = self.alarm_at = 0.0
        self.alarm: Timer | None = None
        self.fast_left = 0
        self.stood_at = 0.0
        self.no_vote_before = 0.0

    def bind(self, context: Context) -> None:
        """Take the context, and let the gate ask about stickiness."""
        super().bind(context)
        context.shared.sticky = self.sticky

    @property
    def role(self) -> Role:
        """This node's role. It is shared, and after a rebuild it is the role that was reported last."""
        return self.shared.role

    @role.setter
    def role(self, role: Role) -> None:
        self.shared.role = role

    @property
    def leader(self) -> str | None:
        """The node that leads, None while none is known; shared and reported like the role."""
        return self.shared.leader

    @leader.setter
    def leader(self, leader: str | None) -> None:
        self.shared.leader = leader

    # --- beginning and waiting ---------------------------------------------------------------------------------------

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Wait for a leader; alone, wait for nobody."""
        self.stood_at = self.clock.now()
        if self.ledger.configuration.lease_reads:
            self.no_vote_before = self.clock.now() + self.options.election_timeout_min
        if message.again:
            self.step_down(FAULT)
            self.lose_leader(FAULT)
        else:
            self.publish(BecameFollower(leader=None))
        if self.others:
            self.wait_long()
        else:
            self.wait_until(max(self.clock.now(), self.no_vote_before))

    def wait_until(self, deadline: float) -> None:
        """Move the deadline. An alarm that rings before it only sets the next, so contact costs no new alarm."""
        self.deadline = deadline
        if self.alarm is not None and self.alarm_at > deadline:
            self.alarm.cancel()
            self.alarm = None
        if self.alarm is None:
            self.alarm_at = deadline
            self.alarm = self.after(max(0.0, deadline - self.clock.now()), ElectionTimeout())

    def wait_long(self) -> None:
        """Give the others an election timeout."""
        low, high = self.options.election_timeout_min, self.options.election_timeout_max
        self.wait_until(self.clock.now() + self.context.random.uniform(low, high))

    def wait_short(self) -> None:
        """Give those of a lower rank the time to be first."""
        ranked = [node for node in sorted(self.ledger.configuration.voters) if node != self.leader]
        rank = ranked.index(self.node_id) if self.node_id in ranked else len(ranked)
        delay = self.options.rank_delay
        jitter = self.context.random.uniform(0, delay / 2)
        self.wait_until(self.clock.now() + rank * delay + jitter)

    def receiveMsg_ElectionTimeout(self, message: ElectionTimeout, sender: Any) -> None:
        """The alarm rang: ask for pre-votes if the deadline has come, else wait for it."""
        self.alarm = None
        if self.role is Role.LEADER:
            return
        if self.clock.now() < self.deadline:
            self.wait_until(self.deadline)
        elif self.node_id in self.ledger.configuration.voters:
            self.ask_for_pre_votes()
        else:
            self.wait_long()

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask_for_pre_votes(self) -> None:
        """Ask whether an election would be won, before disturbing anybody with a new term."""
        if self.leader is not None:
            silent = "connection lost" if self.disconnected else "silent for an election timeout"
            self.lose_leader(silent)
        if self.fast_left > 0:
            self.fast_left -= 1
            delay = self.options.rank_delay * (1 + len(self.others) * self.context.random.random())
            self.wait_until(self.clock.now() + delay)
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
        for node in self.others:
            self.tell_peer(
                node,
                "election",
                RequestPreVote(self.ledger.term + 1, self.round, log.last, log.last_term),
            )

    def receiveMsg_RequestPreVote(self, message: RequestPreVote, sender: Any) -> None:
        """Grant what an election would grant, without promising anything; leave one's own for later."""
        ledger = self.ledger
        granted = (
            message.term > ledger.term
            and ledger.up_to_date(message.last_index, message.last_term)
            and not self.sticky()
        )
        if granted and self.role is not Role.LEADER:
            quick = self.options.rank_delay * (2 + len(self.others))
            self.wait_until(max(self.deadline, self.clock.now() + quick))
        self.send(sender, PreVoteReply(ledger.term, message.round, granted))

    def receiveMsg_PreVoteReply(self, message: PreVoteReply, sender: Any) -> None:
        """Stand once a majority would have us; only answers of the present round count.

        And only in the term that they were asked in: the gate may have moved it, with `TermRaised` still on its way.
        """
        present = message.round == self.round and self.asked_in == self.ledger.term
        if not (self.asking and message.granted and present):
            return
        if sender.node in self.ledger.configuration.voters:
            self.pre_votes.add(sender.node)
            if self.is_majority(self.pre_votes):
                self.campaign()

    def campaign(self) -> None:
        """Enter a new term with a vote for oneself and ask for the others'."""
        self.asking = False
        term = self.ledger.stand(self.ledger.term)
        self.votes = {self.node_id}
        self.stood_at = self.clock.now()
        self.totals.elections += 1
        self.take_role(Role.CANDIDATE, "asks for votes")
        self.publish(BecameCandidate())
        if self.is_majority(self.votes):
            self.win()
            return
        log = self.ledger.log
        for node in self.others:
            self.tell_peer(node, "election", RequestVote(term, log.last, log.last_term))

    def receiveMsg_RequestVote(self, message: RequestVote, sender: Any) -> None:
        """Vote at most once a term; the answer leaves when the vote is on disk (I10)."""
        ledger = self.ledger
        granted = (
            self.role is not Role.LEADER
            and not self.sticky()
            and ledger.grant_vote(message.term, sender.node, message.last_index, message.last_term)
        )
        if granted:
            self.asking = False
            self.wait_long()
        self.send(sender, VoteReply(ledger.term, granted))

    def receiveMsg_VoteReply(self, message: VoteReply, sender: Any) -> None:
        """Count a vote of a member of our configuration, for the present term."""
        if self.role is not Role.CANDIDATE or message.term != self.ledger.term or not message.granted:
            return
        if sender.node in self.ledger.configuration.voters:
            self.votes.add(sender.node)
            if self.is_majority(self.votes):
                self.win()

    def is_majority(self, votes: set[str]) -> bool:
        """Whether those who said yes are a majority. Votes and pre-votes are never counted together."""
        return self.ledger.configuration.quorum.has(votes)

    def win(self) -> None:
        """Lead, and stand no more: a candidate may have asked for pre-votes again before its votes came."""
        self.asking = False
        term = self.ledger.term
        self.ledger.lead(term)
        self.leader = self.node_id
        self.fast_left = 0
        self.take_role(Role.LEADER, f"{len(self.votes)} votes")
        self.publish(BecameLeader())
        self.announce_leader(votes=len(self.votes))
        self.tell("replication", LeadershipBegan(term))

    # --- following ---------------------------------------------------------------------------------------------------

    def sticky(self) -> bool:
        """Whether there is a leader that this node heard within the minimal election timeout, or is one.

        A broken connection to the leader ends it, unless leases are on: then only time does, and nobody votes
        soon after a start either.
        """
        if self.role is Role.LEADER:
            return True
        now = self.clock.now()
        if now < self.no_vote_before:
            return True
        if self.heard_at is None or now - self.heard_at >= self.options.election_timeout_min:
            return False
        if self.ledger.configuration.lease_reads:
            return True
        return self.leader is not None and not self.disconnected

    def receiveMsg_LeaderContact(self, message: LeaderContact, sender: Any) -> None:
        """A leader of our term spoke."""
        if message.term != self.ledger.term:
            return
        self.heard_at = self.clock.now()
        self.shared.leader_heard_at = self.clock.boottime_ns() / 1e9
        if self.left_behind(message.term):
            return
        self.asking = self.disconnected = False
        self.fast_left = 0
        self.wait_long()
        if self.role is not Role.FOLLOWER:
            self.take_role(Role.FOLLOWER, f"{message.leader} leads")
            self.publish(BecameFollower(leader=message.leader))
        if self.leader != message.leader:
            self.leader = message.leader
            self.announce_leader(votes=0)

    def left_behind(self, term: int) -> bool:
        """Whether a leader's word may be from before its connection broke.

        Its frames come by another connection than the one whose end is noticed at once, so under load some are taken
        in after that; they must not call the quick election off. A leader that lives is heard again later.
        """
        fresh = self.clock.now() - self.broke_at < self.options.heartbeat_interval
        return self.disconnected and term == self.broke_in and fresh

    def announce_leader(self, votes: int) -> None:
        """Tell everybody who leads. Only the leader itself knows its votes."""
        term = self.ledger.term
        self.shared.leader_term = term
        duration = self.clock.now() - self.stood_at
        total = len(self.ledger.configuration.voters)
        self.publish(LeaderElected(leader=self.leader or "", votes=votes, total=total, duration=duration))
        self.tell_all(LeaderChanged(self.leader, term))

    def lose_leader(self, reason: str) -> None:
        """Nobody is known to lead."""
        if self.leader is None:
            return
        if self.leader != self.node_id:
            self.publish(LeaderLost(leader=self.leader, reason=reason))
        self.stood_at = self.clock.now()
        self.leader = None
        self.tell_all(LeaderChanged(None, self.ledger.term))

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """If it was the leader's connection, ask for pre-votes shortly instead of waiting the timeout out."""
        if message.node != self.leader or self.role is not Role.FOLLOWER:
            return
        if self.ledger.configuration.lease_reads:
            return
        self.disconnected = True
        self.broke_at, self.broke_in = self.clock.now(), self.shared.leader_term  # the ledger's may be its successor's
        self.fast_left = self.options.fast_retries
        self.wait_short()

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """The leader's connection stands again."""
        if message.node == self.leader and self.disconnected:
            self.disconnected = False
            self.wait_long()

    # --- laying the role down ----------------------------------------------------------------------------------------

    def receiveMsg_TermRaised(self, message: TermRaised, sender: Any) -> None:
        """A higher term was seen: whatever this node was in an older one is over."""
        self.asking = False
        self.step_down(f"term {message.term} began")
        self.lose_leader(f"term {message.term} began")

    def receiveMsg_Resign(self, message: Resign, sender: Any) -> None:
        """Stop leading without a new term (check-quorum)."""
        if self.ledger.resign(message.term):
            self.step_down(message.reason)
            self.lose_leader(message.reason)

    def receiveMsg_CommitWasSlow(self, message: CommitWasSlow, sender: Any) -> None:
        """A leader that could not write for an election timeout has been silent for as long: it resigns."""
        if self.role is Role.LEADER:
            reason = f"a commit took {message.seconds:.1f} s"
            self.receiveMsg_Resign(Resign(self.ledger.term, reason), sender)

    def step_down(self, reason: str) -> None:
        """Become a follower and, if this node led, say so."""
        was = self.role
        if was is Role.FOLLOWER:
            return
        self.take_role(Role.FOLLOWER, reason)
        self.publish(BecameFollower(leader=None))
        if was is Role.LEADER:
            self.publish(LeaderStepDown(leader=self.node_id, reason=reason))
            self.tell_all(LeadershipEnded(self.ledger.term, reason))
            self.wait_long()

    def take_role(self, role: Role, reason: str) -> None:
        """Change the role, and say it."""
        if role is not self.role:
            self.publish(RoleChanged(old=str(self.role), new=str(role), reason=reason))
        self.role = role
