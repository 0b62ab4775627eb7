"""The changes of members and of leadership that an operator makes at any moment, together with all faults.

That combination found most bugs in public analyses of consensus systems. Each of them asks the leader of its moment,
and again for a while if the answer is no; what is refused, lost or overtaken by a fault is part of what is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.storage.ledger.changes import Action
from forge_consensus.testing.faults.disks import may_ruin
from forge_consensus.testing.faults.strike import NOBODY, Strike
from forge_consensus.testing.world.cluster import address_of
from forge_consensus.testing.world.operator import Request, Row

TRIES = 10
NODES_MAX = 9
"""No run has more nodes, because each costs time."""
WATCH_SECONDS = 0.002
"""How often a leader that hands over is looked at, to cut it off at the worst moment."""
HANDOVER_SECONDS_MAX = 2.0


# --- members ----------------------------------------------------------------------------------------------------------


def add_members(strike: Strike) -> str:
    """Add one or two nodes: new ones with empty folders, or such that were removed before."""
    count, action = strike.chance.choice((1, 1, 2)), drawn_action(strike)
    names = outsiders(strike, count)
    return change(strike, [(action, name, address_of(name)) for name in names])


def remove_members(strike: Strike) -> str:
    """Remove one or two members, the leader too."""
    return change(strike, [(Action.REMOVE, name, "") for name in insiders(strike)[: strike.chance.choice((1, 1, 2))]])


def replace_members(strike: Strike) -> str:
    """Replace one or two members by others in one change."""
    count, action = strike.chance.choice((1, 2)), drawn_action(strike)
    gone, come = insiders(strike)[:count], outsiders(strike, count)
    learners = learners_of(strike)[:count]
    rows = [(action, name, address_of(name)) for name in come]
    rows += [(Action.PROMOTE, name, "") for name in learners if name not in gone]
    return change(strike, [*rows, *[(Action.REMOVE, name, "") for name in gone]])


def change_votes(strike: Strike) -> str:
    """Let learners vote, and voters be learners, up to three at once."""
    learners, names = learners_of(strike), insiders(strike)[: strike.chance.choice((1, 2, 2, 3))]
    return change(strike, [(Action.PROMOTE if name in learners else Action.DEMOTE, name, "") for name in names])


def move_member(strike: Strike) -> str:
    """Give a member another address, at which it is found from then on."""
    port = strike.chance.randint(7001, 7999)
    return change(strike, [(Action.UPDATE, name, f"{name}:{port}") for name in insiders(strike)[:1]])


def rejoin_member(strike: Strike) -> str:
    """Remove a member, start it on an empty folder, and add it again under its id: also one whose disk is ruined."""
    names, ruined = insiders(strike), list(strike.operator.ruined_members())
    name = next(iter(ruined or names), None)
    if name is None:
        return NOBODY

    def add() -> None:
        if name in strike.cluster.members():
            return  # it was not removed
        strike.operator.start_empty(name)
        strike.after(strike.seconds(0.05, 1.0), partial(change, strike, [(Action.ADD, name, address_of(name))]))

    change(strike, [(Action.REMOVE, name, "")])
    strike.after(strike.seconds(1.0, 4.0), add)
    return f"{name}{', which is ruined' if name in ruined else ''}"


def lose_folder(strike: Strike) -> str:
    """Start a member on an empty folder, to join, although nobody removed it; later it is removed and added again."""
    strike.operator.acquit()
    name = next(iter(insiders(strike)), None)
    if name is None or not may_ruin(strike, name):
        return NOBODY
    strike.operator.start_empty(name)
    back = strike.seconds(0.5, 3.0)
    strike.after(back, partial(change, strike, [(Action.REMOVE, name, "")]))
    strike.after(back + strike.seconds(1.0, 3.0), partial(change, strike, [(Action.ADD, name, address_of(name))]))
    return name


# --- leadership and snapshots -----------------------------------------------------------------------------------------


def hand_over(strike: Strike) -> str:
    """Have the leader hand over, to a certain node or to any."""
    target = strike.chance.choice(["", *strike.shuffled()[:2]])
    leader = strike.operator.hand_over(target)
    return NOBODY if leader is None else f"{leader.name} to {target or 'anybody'}"


def hand_over_cut_off(strike: Strike) -> str:
    """Have the leader hand over, and cut it off as soon as it has told its successor to stand."""
    leader, lasts = strike.operator.hand_over(), strike.seconds(0.3, 2.0)
    if leader is None or leader.name in strike.cluster.core:
        return NOBODY
    others, until = strike.others(leader.name), strike.timeline.now + HANDOVER_SECONDS_MAX * strike.pace

    def look() -> None:
        handover = leader.engine.shared.handover
        if leader.alive and handover is not None and handover.told:
            strike.network.part([leader.name], others)
            strike.after(lasts, partial(strike.network.join_again, [leader.name], others))
        elif leader.alive and strike.timeline.now < until:
            strike.after(WATCH_SECONDS, look)

    look()
    return f"{leader.name} for {lasts:.3f} s"


def snapshot_everywhere(strike: Strike) -> str:
    """Have every node take a snapshot now, so that logs are cut and who lags behind is sent one."""
    for base in strike.cluster.running():
        base.tell(base.engine.actor("snapshot"), TakeSnapshot())
    return f"{len(strike.cluster.running())} nodes"


# --- what they share --------------------------------------------------------------------------------------------------


def drawn_action(strike: Strike) -> Action:
    """Draw how nodes are added."""
    return strike.chance.choice((Action.ADD, Action.ADD_LEARNER))


def insiders(strike: Strike) -> list[str]:
    """Return the members by the configuration in force on the leader, in a drawn order."""
    leader = strike.leader()
    present = strike.cluster.configuration if leader is None else leader.engine.ledger.configuration
    return [name for name in strike.shuffled() if name in present.nodes]


def learners_of(strike: Strike) -> list[str]:
    """Return the learners among them."""
    leader = strike.leader()
    learners = frozenset[str]() if leader is None else leader.engine.ledger.configuration.learners
    return [name for name in strike.shuffled() if name in learners]


def outsiders(strike: Strike, count: int) -> list[str]:
    """Return nodes that are no members: such that run, otherwise new ones, which are started."""
    strike.operator.acquit()
    cluster, members = strike.cluster, strike.cluster.members()
    names = [name for name in strike.shuffled() if name not in members | cluster.suspect.keys()][:count]
    while len(names) < count and len(cluster.names) < min(
        NODES_MAX, len(cluster.configuration.nodes) + strike.operator.spares
    ):
        names.append(f"n{len(cluster.names) + 1}")
        cluster.join(names[-1])
    return names


def change(strike: Strike, rows: Sequence[Row]) -> str:
    """Ask for these changes, and again for a while as long as the answer is no; returns them in words."""
    rows, force = [(str(action), name, address) for action, name, address in rows], strike.chance.random() < 0.3
    if not rows:
        return NOBODY
    pauses = [strike.seconds(0.1, 1.0) for _ in range(TRIES)]
    asked: list[Request] = []

    def again() -> None:
        operator = strike.operator
        operator.acquit()
        if asked and asked[-1].made:
            return
        if operator.ask(rows, force=force) and operator.request is not None:
            asked.append(operator.request)
        if pauses:
            strike.after(pauses.pop(), again)

    strike.after(strike.seconds(0.0, 0.2), again)
    return ", ".join(f"{action} {name}" for action, name, _ in rows) + (", forced" if force else "")


MEMBER_FAULTS = (
    add_members,
    remove_members,
    replace_members,
    change_votes,
    move_member,
    rejoin_member,
    lose_folder,
    hand_over,
    hand_over_cut_off,
    snapshot_everywhere,
)
