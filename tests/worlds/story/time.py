"""The commands of a story that let time pass, for one node or all, and hold elections."""

from __future__ import annotations

from typing import cast

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.messages import PreVoteReply, RequestPreVote, RequestVote, VoteReply
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.actors.replication import ReplicationActor
from tests.worlds.story.frames import stabilize
from tests.worlds.story.network import Held
from tests.worlds.story.script import StoryError
from tests.worlds.story.stage import Stage, command
from tests.worlds.story.words import seconds_of
from tests.worlds.story.world import StoryNode

CAMPAIGN_S_MAX = 10.0
SILENCE_MARGIN_S = 0.01
ATTEMPTS_MAX = 3
HEARTBEATS_MAX = 5
ELECTION = (RequestPreVote, PreVoteReply, RequestVote, VoteReply)


@command("advance")
def advance(stage: Stage, words: list[str]) -> None:
    """`advance 100ms [n1 ...]`: let time pass on these nodes, or all; due alarms fire. Frames are held."""
    stage.cluster.advance(seconds_of(words[0]), stage.names(words[1:]))


@command("run")
def run(stage: Stage, words: list[str]) -> None:
    """`run 3s [n1 ...]`: as `advance`, and every frame between these nodes is delivered at once."""
    names = stage.names(words[1:])
    network = stage.cluster.network

    def flow() -> bool:
        while held := next((h for h in network.held if h.sender in names and h.receiver in names), None):
            stage.deliver([held])
        return False

    flow()
    stage.cluster.advance(seconds_of(words[0]), names, flow)


@command("heartbeat")
def heartbeat(stage: Stage, words: list[str]) -> None:
    """`heartbeat n1`: let a heartbeat interval pass on this node alone."""
    stage.cluster.advance(stage.cluster.raft.heartbeat_interval, stage.names(words))


@command("silence")
def silence(stage: Stage, words: list[str]) -> None:
    """`silence n2 n3`: let the minimal election timeout pass on these nodes, so that they protect no leader."""
    stage.cluster.advance(stage.cluster.raft.election_timeout_min + SILENCE_MARGIN_S, stage.names(words))


@command("luck")
def luck(stage: Stage, words: list[str]) -> None:
    """`luck n1 0.2`: its random draws lie at this part of the range from now on; at first 0.5, the middle."""
    stage.cluster.hosts[words[0]].luck.part = float(words[1])


def election_of(node: StoryNode) -> ElectionActor:
    """The election actor of a node."""
    return cast("ElectionActor", node.engine.cells.actor("election"))


def leading_of(node: StoryNode) -> Leadership:
    """The leadership of a node. Raises `StoryError` for a node that does not lead."""
    leading = cast("ReplicationActor", node.engine.cells.actor("replication")).current()
    if leading is None:
        raise StoryError(f"{node.name} does not lead")
    return leading


@command("campaign")
def campaign(stage: Stage, words: list[str]) -> None:
    """`campaign n1`: let time pass on this node alone until its election timeout makes it ask for pre-votes."""
    node = stage.node(words[0])
    if node.engine.ledger.leading_term is not None:
        raise StoryError(f"{node.name} leads")
    election, round_before = election_of(node), election_of(node).round
    stage.cluster.advance(CAMPAIGN_S_MAX, [node.name], lambda: election.round > round_before)
    if election.round == round_before:
        raise StoryError(f"{node.name} asked for no pre-votes within {CAMPAIGN_S_MAX} s of its time")


def lay_down(stage: Stage, node: StoryNode) -> None:
    """Let time pass on a leader until it resigns, because nobody answers it."""
    ledger = node.engine.ledger
    if ledger.leading_term is not None:
        stage.cluster.advance(CAMPAIGN_S_MAX, [node.name], lambda: ledger.leading_term is None)


@command("elect")
def elect(stage: Stage, words: list[str]) -> None:
    """`elect n1 [by n2 n3]`: hold elections until n1 wins one with the votes of these nodes, or all; at most three.

    Nodes that protect a leader, or lead, first lose contact, without output. Frames of the election reach only the
    named nodes; other frames stay held. The first entries of the new leader are not delivered yet.
    """
    name, *voters = words
    voters = [voter for voter in stage.names(voters[1:]) if voter != name]
    voters = [base.name for base in stage.cluster.running() if base.name in voters]
    network = stage.cluster.network
    before, told = list(network.held), list(stage.trace.lines)
    for each in (name, *voters):
        if each != name and stage.node(each).engine.gate.is_sticky():
            silence(stage, [each])
        lay_down(stage, stage.node(each))
    network.held = before
    stage.trace.lines = told
    for _ in range(ATTEMPTS_MAX):
        campaign(stage, [name])
        hold_election(stage, name, voters)
        if stage.node(name).engine.ledger.leading_term is not None:
            return
    raise StoryError(f"{name} was not elected")


def hold_election(stage: Stage, name: str, voters: list[str]) -> None:
    """Deliver the frames of an election between a candidate and some voters, and drop all its other frames."""
    network = stage.cluster.network

    def of_election(held: Held) -> bool:
        return isinstance(held.frame.message, ELECTION) and name in (held.sender, held.receiver)

    while held := next((h for h in network.held if of_election(h) and {h.sender, h.receiver} & {*voters}), None):
        stage.deliver([held])
    network.held = [held for held in network.held if not of_election(held)]


def settle_all(stage: Stage, leader: str) -> None:
    """Deliver everything, with heartbeats, until every node that the leader reaches knows its commit index."""
    cluster = stage.cluster
    stabilize(stage, [])
    for _ in range(HEARTBEATS_MAX):
        heartbeat(stage, [leader])
        stabilize(stage, [])
        members = stage.node(leader).engine.ledger.configuration.nodes
        reached = [base for base in cluster.running() if cluster.network.reachable(leader, base.name)]
        reached = [base for base in reached if base.name in members]
        if len({(base.engine.ledger.log.last, base.engine.ledger.commit_index) for base in reached}) <= 1:
            return


@command("settle")
def settle(stage: Stage, words: list[str]) -> None:
    """`settle n1`: deliver everything, with heartbeats of the leader n1 until all know its commit index."""
    settle_all(stage, words[0])
