"""The commands of a story that decide the fate of each frame: delivered, lost, late, duplicated or forged."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.codec import Frame, encode
from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    Hello,
    PreVoteReply,
    RequestPreVote,
    RequestVote,
    VoteReply,
    WireMessage,
)
from forge_consensus.actors.runtime.gate import ANSWERS, DESTINATION
from forge_consensus.testing.world.network import Connection
from tests.worlds.story.network import ANYBODY, Held
from tests.worlds.story.script import StoryError
from tests.worlds.story.stage import Stage, command
from tests.worlds.story.words import entry_of, point_of, told

ALL = "all"
FRAMES_MAX = 2000


def chosen(stage: Stage, words: list[str], default: str) -> list[Held]:
    """The frames that `n1->n2`, and perhaps `3`, `#2`, `all` or the name of a message, stand for. Raises `StoryError`.

    `3` are the first three, `#2` is the second, a message's name stands for its first frame.
    """
    frames = stage.cluster.network.between(*stage.pair(words[0]))
    which = words[1] if len(words) > 1 else default
    if which == ALL:
        return frames
    if which.startswith("#"):
        picked = frames[int(which[1:]) - 1 : int(which[1:])]
    elif which.isdecimal():
        picked = frames[: int(which)] if len(frames) >= int(which) else []
    else:
        picked = [held for held in frames if type(held.frame.message).__name__ == which][:1]
    if not picked:
        held = "; ".join(told(held.frame.message) for held in frames) or "nothing"
        raise StoryError(f"no such frame is under way from {words[0]}, only: {held}")
    return picked


@command("deliver")
def deliver(stage: Stage, words: list[str]) -> None:
    """`deliver n1->n2 [3|#2|all|VoteReply]`: deliver frames, each in a turn of its own; by default the first."""
    stage.deliver(chosen(stage, words, "1"))


@command("together")
def together(stage: Stage, words: list[str]) -> None:
    """`together n2->n1 n3->n1`: deliver the first frame of each direction in one turn of the receiver."""
    picked: list[Held] = []
    for word in words:
        frames = [held for held in stage.cluster.network.between(*stage.pair(word)) if held not in picked]
        if not frames:
            raise StoryError(f"nothing is under way from {word}")
        picked.append(frames[0])
    stage.hand_over(picked)


@command("drop")
def drop(stage: Stage, words: list[str]) -> None:
    """`drop n1->n2 [3|#2|VoteReply]`, `drop all`: drop held frames; by default all of the direction."""
    frames = chosen(stage, [f"{ANYBODY}->{ANYBODY}"] if words == [ALL] else words, ALL)
    for held in frames:
        stage.cluster.network.held.remove(held)
        stage.trace.write(f"{held.sender} -> {held.receiver} {told(held.frame.message)} (dropped)")


@command("keep")
def keep(stage: Stage, words: list[str]) -> None:
    """`keep n1->n2 [#2|VoteReply] as late`: keep a copy of a held frame, to be delivered by `replay late`."""
    *which, as_, name = words
    if as_ != "as" or name in stage.kept:
        raise StoryError("write `keep n1->n2 as late`, with a new name")
    stage.kept[name] = chosen(stage, which, "1")[0]


@command("replay")
def replay(stage: Stage, words: list[str]) -> None:
    """`replay late`: deliver a frame that was kept, once more or late."""
    if words[0] not in stage.kept:
        raise StoryError(f"no frame was kept as {words[0]}")
    stage.deliver([stage.kept[words[0]]])


@command("pending")
def pending(stage: Stage, words: list[str]) -> None:
    """`pending [n1->n2]`: print the held frames, in the order in which they were sent."""
    for held in chosen(stage, words or [f"{ANYBODY}->{ANYBODY}"], ALL):
        stage.trace.write(f"{held.sender} -> {held.receiver} {told(held.frame.message)}")


@command("stabilize")
def stabilize(stage: Stage, words: list[str]) -> None:
    """`stabilize [n1 n2 ...]`: deliver frames between these nodes, or all, in the order of sending until none is left.

    No time passes, so followers may not know the last commit index yet; `heartbeat n1` sends it to them.
    """
    names = stage.names(words)
    for _ in range(FRAMES_MAX):
        held = next((h for h in stage.cluster.network.held if h.sender in names and h.receiver in names), None)
        if held is None:
            return
        stage.deliver([held])
    raise StoryError(f"the nodes still talk after {FRAMES_MAX} frames")


# --- forging ---------------------------------------------------------------------------------------------------------


class Stranger:
    """The sender of a forged frame: a process that is unknown to the cluster, or pretends to be one of its nodes."""

    alive = True

    def __init__(self, name: str) -> None:
        self.name = name

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Ignore an answer, because the trace shows it already."""

    def linked(self, node: str, stands: bool) -> None:
        """Ignore the state of connections."""


def flag(values: dict[str, str], name: str) -> bool:
    """Return a field that is yes or no."""
    return values.get(name, "yes") == "yes"


def forged(kind: str, values: dict[str, str]) -> WireMessage:
    """The message of that name with fields from words. Raises `StoryError`."""
    term = int(values.get("term", "0"))
    number = int(values.get("round", "0"))
    last_index, last_term = point_of(values.get("last", "0/0"))
    if kind == "RequestPreVote":
        return RequestPreVote(term, number, last_index, last_term)
    if kind == "PreVoteReply":
        return PreVoteReply(term, number, flag(values, "granted"))
    if kind == "RequestVote":
        return RequestVote(term, last_index, last_term)
    if kind == "VoteReply":
        return VoteReply(term, flag(values, "granted"))
    if kind == "AppendReply":
        index, entry_term = point_of(values.get("hint", f"{values.get('index', '0')}/0"))
        return AppendReply(term, flag(values, "success"), index, entry_term, number)
    if kind != "AppendEntries":
        raise StoryError(f"{kind} cannot be forged here")
    prev, prev_term = point_of(values["prev"])
    records = []
    for index, word in enumerate(filter(None, values.get("entries", "").split(",")), prev + 1):
        of_term, _, what = word.partition(":")
        records.append(entry_of(index, int(of_term), what))
    return AppendEntries(term, prev, prev_term, int(values.get("commit", "0")), number, tuple(records))


@command("inject")
def inject(stage: Stage, words: list[str]) -> None:
    """`inject n2->n1 VoteReply term=2 granted=yes`: deliver a hand-made frame, through codec, gate and a turn.

    Fields: term, round, last=5/2, granted, success, index or hint=5/2, prev=5/2, entries=2:a,2:b, commit. The header is
    that of the sender's process as the receiver knows it; `boot=`, `to_boot=`, `token=`, `cluster=` change it. With
    `asked=no` an answer arrives on a connection on which no request was sent. The sender need not be a node of the
    cluster.
    """
    direction, kind, *rest = words
    values = dict(word.split("=", 1) for word in rest)
    sender, _, receiver = direction.partition("->")
    node = stage.node(receiver)
    token, boot = node.engine.ledger.identity.boots.get(sender, ("stranger", 1))
    token, boot = values.get("token", token), int(values.get("boot", boot))
    members = stage.cluster.configuration
    message = Hello(token, boot, "", members.digest, members.text) if kind == "Hello" else forged(kind, values)
    to_boot = int(values.get("to_boot", node.engine.ledger.identity.boot))
    cluster = values.get("cluster", node.engine.ledger.identity.cluster_id)
    sent = node.clock.boottime_ns()
    frame = Frame(DESTINATION[type(message)], cluster, sender, token, boot, to_boot, 1, sent, message)
    running = {base.name: base for base in stage.cluster.running()}
    connection = Connection(running.get(sender) or Stranger(sender), receiver)
    stage.trace.write(f"{sender} -> {receiver} {told(message)} (forged)")
    answers = isinstance(message, ANSWERS) and flag(values, "asked")
    node.take(encode(frame), None if answers else connection, sender)
    node.settle()
