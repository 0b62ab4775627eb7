"""The commands of a story that change the members, and hand the leadership over."""

from __future__ import annotations

from forge_consensus.actors.messages import ChangeMembers, TransferLeadership
from forge_consensus.storage.ledger.changes import Action
from tests.worlds.story.script import StoryError
from tests.worlds.story.stage import Stage, command

FORCE = "force"
ACTIONS = (Action.ADD, Action.ADD_LEARNER, Action.PROMOTE, Action.DEMOTE, Action.REMOVE, Action.UPDATE)
WITH_ADDRESS = (Action.ADD, Action.ADD_LEARNER, Action.UPDATE)


@command("join")
def join(stage: Stage, words: list[str]) -> None:
    """`join n4`: start a new node, which is no member and waits to be added."""
    stage.listen(stage.cluster.join(words[0]))
    stage.cluster.begin(words[0])


@command("members")
def members(stage: Stage, words: list[str]) -> None:
    """`members n1 [force] promote n4 n5 remove n2`: the client asks n1 for these changes, which are made together.

    The changes are `add`, `add-learner`, `promote`, `demote`, `remove` and `update`, each of the nodes behind it. An
    added node is one that was started by `join`; `update` names where the node is found now. With `force` nobody asks
    whether enough nodes are alive: a leader does not know it of new ones, because health checks are off. The answers to
    this and to `transfer` are recorded under `order1`, `order2` and so on.
    """
    action, changes = "", list[tuple[str, str, str]]()
    for word in words[1:]:
        if word == FORCE:
            continue
        if word in ACTIONS:
            action = word
        elif not action:
            raise StoryError(f"{word!r} is no change: there are {', '.join(ACTIONS)}")
        else:
            stage.names([word])
            address = stage.cluster.hosts[word].address if action in WITH_ADDRESS else ""
            changes.append((action, word, address))
    stage.client.order(stage.node(words[0]), ChangeMembers(tuple(changes), force=FORCE in words))


@command("transfer")
def transfer(stage: Stage, words: list[str]) -> None:
    """`transfer n1 [n2]`: the client asks n1 to hand its leadership over to n2, or to the best voter."""
    stage.client.order(stage.node(words[0]), TransferLeadership(words[1] if len(words) > 1 else ""))


@command("move")
def move(stage: Stage, words: list[str]) -> None:
    """`move n3 elsewhere:7000`: a node that does not run is found at this address from now on."""
    stage.cluster.stopped(words[0]).address = words[1]
