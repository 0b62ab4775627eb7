"""The blows: faults of a cluster under load, each from its beginning to its end, drawn from the siege's random seed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Final

from forge_consensus.errors import ConsensusTimeoutError
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.network_paths import CUT, PathFaults
from tests.cluster.siege.members import MEMBERS
from tests.cluster.siege.members import Blow as MembersBlow
from tests.cluster.siege.namespaces import LINKS, Link, SpacedCluster, no_namespaces
from tests.cluster.siege.preloads import FAULTS, Fault, missing

Blow = Callable[[LocalCluster, random.Random], str | None]
"""Returns details for the log beside its name, or None."""

LEADER_SECONDS: Final = 10.0
QUIET_SHARE: Final = 0.25
"""The share of changes of members beside which no other fault is struck."""
CLOCKS: Final = ("clock-jumps", "clock-drifts")


def leader_or_any(cluster: LocalCluster, dice: random.Random) -> str:
    """The leader, or some node if no node leads in time, because an earlier fault may last."""
    try:
        return cluster.wait_for_leader(LEADER_SECONDS)
    except ConsensusTimeoutError:
        return dice.choice(cluster.names)


def some(cluster: LocalCluster, dice: random.Random) -> str:
    """The leader or any node, with equal probability."""
    return leader_or_any(cluster, dice) if dice.random() < 0.5 else dice.choice(cluster.names)


def minority(cluster: LocalCluster, dice: random.Random) -> list[str]:
    """Fewer than half of the nodes, but at least one."""
    return dice.sample(cluster.names, dice.randint(1, max(1, (len(cluster.names) - 1) // 2)))


def kill_and_restart(cluster: LocalCluster, names: list[str], dice: random.Random) -> None:
    """Send SIGKILL to nodes, and start them again after a while."""
    for name in names:
        cluster.nodes[name].kill()
    time.sleep(dice.choice([0.0, 0.1, 1.0, 3.0]) * dice.random())
    for name in names:
        cluster.nodes[name].launch()
    cluster.wait_serving(*names)


def kill_one(cluster: LocalCluster, dice: random.Random) -> None:
    """Kill any node."""
    kill_and_restart(cluster, [dice.choice(cluster.names)], dice)


def kill_leader(cluster: LocalCluster, dice: random.Random) -> None:
    """Kill the leader."""
    kill_and_restart(cluster, [leader_or_any(cluster, dice)], dice)


def kill_all(cluster: LocalCluster, dice: random.Random) -> None:
    """Kill all nodes, as when the power fails."""
    kill_and_restart(cluster, cluster.names, dice)


def restart(cluster: LocalCluster, dice: random.Random) -> None:
    """End a node in order (SIGTERM) and start it; it must end with exit code 0."""
    name = some(cluster, dice)
    cluster.shut_down(name)
    ended = cluster.process(name).process
    assert ended is not None, "it was started"
    assert ended.returncode == 0, f"{name} ended with {ended.returncode} after SIGTERM"
    time.sleep(dice.random())
    cluster.restart(name)


def pause(cluster: LocalCluster, dice: random.Random) -> None:
    """Send SIGSTOP to one node or a minority, and SIGCONT after others may have taken over."""
    names = [some(cluster, dice)] if dice.random() < 0.6 else minority(cluster, dice)
    for name in names:
        cluster.pause(name)
    time.sleep(dice.uniform(0.2, 5.0))
    for name in names:
        cluster.resume(name)


def hold(cluster: LocalCluster, dice: random.Random) -> None:
    """Let a fault of the network last a while, and end it."""
    time.sleep(dice.uniform(0.5, 5.0))
    cluster.heal()


def part_minority(cluster: LocalCluster, dice: random.Random) -> None:
    """Partition a minority, with or without broken connections."""
    cluster.partition(minority(cluster, dice), disconnect=dice.random() < 0.3)
    hold(cluster, dice)


def part_leader(cluster: LocalCluster, dice: random.Random) -> None:
    """Partition the leader, alone or with one follower."""
    leader = leader_or_any(cluster, dice)
    others = [name for name in cluster.names if name != leader]
    company = dice.sample(others, 1) if len(others) >= 4 and dice.random() < 0.5 else []
    cluster.partition([leader, *company], disconnect=dice.random() < 0.3)
    hold(cluster, dice)


def part_all(cluster: LocalCluster, dice: random.Random) -> None:
    """Separate all nodes from each other, so that there is no majority."""
    cluster.partition(*cluster.names)
    hold(cluster, dice)


def part_one_way(cluster: LocalCluster, dice: random.Random) -> None:
    """Drop all messages from one node, or all messages to it."""
    name = some(cluster, dice)
    others = [other for other in cluster.names if other != name]
    sides = ([name], others) if dice.random() < 0.5 else (others, [name])
    cluster.partition(*sides, one_way=True)
    hold(cluster, dice)


def part_bridge(cluster: LocalCluster, dice: random.Random) -> None:
    """Split the cluster into two halves that are connected only through one node."""
    names = dice.sample(cluster.names, len(cluster.names))
    half = len(names) // 2
    pairs = [(one, other) for one in names[:half] for other in names[half + 1 :]]
    cluster.proxy.impose_all([*pairs, *((other, one) for one, other in pairs)], CUT)
    hold(cluster, dice)


def disturb(cluster: LocalCluster, dice: random.Random) -> None:
    """Delay, drop, duplicate and reorder messages on all paths."""
    slow = dice.choice([0.0, 0.01, 0.1])
    cluster.disturb(
        PathFaults(0.0, slow, drop=dice.choice([0.0, 0.02, 0.1]), duplicate=dice.choice([0.0, 0.1]), reorder=0.1)
    )
    hold(cluster, dice)


def against_a_node(fault: Fault) -> Blow:
    """Return the blow that imposes a fault of a disk or a clock on the leader or any node."""

    def blow(cluster: LocalCluster, dice: random.Random) -> str:
        return fault(cluster, cluster.process(some(cluster, dice)), dice)

    return blow


def against_links(link: Link) -> Blow:
    """Return the blow that imposes a fault of cables or of a switch on the leader or a minority."""

    def blow(cluster: LocalCluster, dice: random.Random) -> None:
        assert isinstance(cluster, SpacedCluster), "there are cables"
        names = [leader_or_any(cluster, dice)] if dice.random() < 0.5 else minority(cluster, dice)
        link(cluster.switch, names, dice)

    return blow


def against_members(change: MembersBlow) -> Blow:
    """Return the blow that changes members, mostly while another fault is struck."""

    def blow(cluster: LocalCluster, dice: random.Random) -> str:
        others = set(LINKS if not isinstance(cluster, SpacedCluster) else PROXIED) | set(MEMBERS) | set(impossible())
        name = dice.choice([name for name in BLOWS if name not in others and name not in CLOCKS])
        if dice.random() < QUIET_SHARE:
            return change(cluster, dice, lambda: None)
        told = change(cluster, dice, lambda: BLOWS[name](cluster, dice))
        return f"{told}, beside {name}"

    return blow


BLOWS: Final[dict[str, Blow]] = {
    "kill-one": kill_one,
    "kill-leader": kill_leader,
    "kill-all": kill_all,
    "restart": restart,
    "pause": pause,
    "part-minority": part_minority,
    "part-leader": part_leader,
    "part-all": part_all,
    "part-one-way": part_one_way,
    "part-bridge": part_bridge,
    "disturb": disturb,
    **{name: against_a_node(fault) for name, fault in FAULTS.items()},
    **{name: against_links(link) for name, link in LINKS.items()},
    **{name: against_members(change) for name, change in MEMBERS.items()},
}
PROXIED: Final = {name for name in BLOWS if name.startswith("part-")} | {"disturb"}
"""The blows that need a proxy; those in `LINKS` need namespaces, all others neither."""


@cache
def impossible() -> dict[str, str]:
    """The blows that this machine cannot strike -> the reason; it looks once, because that starts programs."""
    return {**missing(), **(dict.fromkeys(LINKS, reason) if (reason := no_namespaces()) else {})}
