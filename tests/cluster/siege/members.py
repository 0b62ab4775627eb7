"""The blows that change members: each begins a change under load, strikes another fault beside it, and sees it done."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary

from forge_consensus.client.members import ClusterMembers
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.testing.local.cluster import LocalCluster

NODES_MIN: Final = 3
NODES_MAX: Final = 6
CHANGE_SECONDS_MAX: Final = 60.0
"""How long a change may take, with a fault of some seconds beside it, on a busy machine."""
ASK_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 0.2
TRANSFERS_MAX: Final = 5

Beside = Callable[[], object]
"""Strikes another fault, from its beginning to its end."""
Done = Callable[[ClusterMembers], bool]
SEEN: Final[WeakKeyDictionary[LocalCluster, int]] = WeakKeyDictionary()
"""By cluster: the index of its newest members that were seen. A node that does not know them yet is not believed: else
two changes of a node could seem made, because what the second one undoes was so before the first."""


class Changing(threading.Thread):
    """Changes the members as an operator does, again and again until it is done; `wait` raises what went wrong."""

    def __init__(self, cluster: LocalCluster, done: Done, *changes: Change) -> None:
        super().__init__(name="siege-members", daemon=True)
        self.cluster = cluster
        self.endpoints = cluster.endpoints
        self.cluster_id = cluster.cluster_id
        self.done = done
        self.changes = changes
        self.told = "nothing yet"
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Ask until the members are as they should be; the body of the thread."""
        try:
            end = time.monotonic() + CHANGE_SECONDS_MAX
            with Client(self.endpoints, timeout=ASK_SECONDS, cluster_id=self.cluster_id) as client:
                while not self.look(client):
                    text = f"after {CHANGE_SECONDS_MAX:g} s these are not made: {self.changes}; {self.told}"
                    assert time.monotonic() < end, text
                    time.sleep(AGAIN_SECONDS)
        except BaseException as failure:
            self.failure = failure

    def look(self, client: Client) -> bool:
        """Whether it is done; if not, ask for the changes."""
        try:
            members = client.members()
            self.told = f"the members are {members}"
            known = members.settled and members.index >= SEEN.get(self.cluster, 0)
            if known and self.done(members):
                SEEN[self.cluster] = members.index
                return True
            client.change_members(*self.changes, wait=False)
        except ConsensusError as error:
            self.told = f"{type(error).__name__}: {error}"
        return False

    def wait(self) -> None:
        """Wait for the end. Raises what went wrong."""
        self.join(CHANGE_SECONDS_MAX + 2 * ASK_SECONDS)
        assert not self.is_alive(), "a call of the client hangs"
        if self.failure is not None:
            raise self.failure


@contextmanager
def changing(cluster: LocalCluster, done: Done, *changes: Change) -> Iterator[None]:
    """Make changes while the block strikes, and see them done after it."""
    change = Changing(cluster, done, *changes)
    yield
    change.wait()


def votes(*names: str) -> Done:
    """Whether these nodes vote."""
    return lambda members: all(members.part_of(name) == "voter" for name in names)


def learns(name: str) -> Done:
    """Whether this node is a learner."""
    return lambda members: members.part_of(name) == "learner"


def gone(*names: str) -> Done:
    """Whether these nodes are no members."""
    return lambda members: all(not members.part_of(name) for name in names)


def is_at(name: str, address: str) -> Done:
    """Whether the cluster looks for this node at that address."""
    return lambda members: (name, address) in [(one.id, one.address) for one in members.members]


def fresh_name(cluster: LocalCluster) -> str:
    """A name that no node of the cluster ever had."""
    folders = [path.name for path in cluster.folder.glob("n*") if path.is_dir()]
    return f"n{1 + max(int(name[1:]) for name in [*folders, *cluster.names])}"


def victim(cluster: LocalCluster, dice: random.Random) -> str:
    """The leader or any node, with equal probability."""
    return cluster.wait_for_leader() if dice.random() < 0.5 else dice.choice(cluster.names)


def leave(cluster: LocalCluster, name: str, dice: random.Random) -> None:
    """End a node that was removed; sometimes it runs on for a while, and must harm nobody."""
    time.sleep(dice.choice([0.0, 0.5, 2.0]))
    cluster.leave(name)


def resize(cluster: LocalCluster, dice: random.Random, beside: Beside) -> str:
    """Add a node or remove one."""
    count = len(cluster.names)
    if count <= NODES_MIN or (count < NODES_MAX and dice.random() < 0.5):
        name = fresh_name(cluster)
        with changing(cluster, votes(name), Change(Action.ADD, name, cluster.join(name, None))):
            beside()
        return f"{name} added"
    name = victim(cluster, dice)
    with changing(cluster, gone(name), Change(Action.REMOVE, name)):
        beside()
    leave(cluster, name, dice)
    return f"{name} removed"


def replace(cluster: LocalCluster, dice: random.Random, beside: Beside) -> str:
    """Put one or two new nodes in the place of others, in one step."""
    old = [victim(cluster, dice)]
    if dice.random() < 0.3:
        old.append(dice.choice([name for name in cluster.names if name not in old]))
    new = []
    for _ in old:
        new.append(name := fresh_name(cluster))
        with changing(cluster, learns(name), Change(Action.ADD_LEARNER, name, cluster.join(name, None))):
            pass
    changes = [Change(Action.PROMOTE, name) for name in new] + [Change(Action.REMOVE, name) for name in old]
    with changing(cluster, lambda members: votes(*new)(members) and gone(*old)(members), *changes):
        beside()
    for name in old:
        leave(cluster, name, dice)
    return f"{' and '.join(old)} by {' and '.join(new)}"


def rejoin(cluster: LocalCluster, dice: random.Random, beside: Beside) -> str:
    """Wipe the folder of a member, and add it again under its id."""
    name = victim(cluster, dice)
    if dice.random() < 0.5:
        cluster.kill(name)
    with changing(cluster, gone(name), Change(Action.REMOVE, name)):
        pass
    cluster.nodes[name].kill()
    with changing(cluster, votes(name), Change(Action.ADD, name, cluster.join(name, None))):
        beside()
    return name


def move(cluster: LocalCluster, dice: random.Random, beside: Beside) -> str:
    """Let a member listen at another port from now on."""
    name = victim(cluster, dice)
    address = cluster.move(name)
    with changing(cluster, is_at(name, address), Change(Action.UPDATE, name, address)):
        beside()
    return name


def demote(cluster: LocalCluster, dice: random.Random, beside: Beside) -> str:
    """Let a voter be a learner for a while."""
    name = victim(cluster, dice)
    with changing(cluster, learns(name), Change(Action.DEMOTE, name)):
        beside()
    with changing(cluster, votes(name), Change(Action.PROMOTE, name)):
        pass
    return name


def transfer(cluster: LocalCluster, dice: random.Random, beside: Beside) -> str:
    """Hand the leadership over some times; a handover may be given up while a fault lasts."""
    began = threading.Thread(target=beside)
    began.start()
    told = []
    with Client(cluster.endpoints, timeout=ASK_SECONDS, cluster_id=cluster.cluster_id) as client:
        for _ in range(dice.randint(1, TRANSFERS_MAX)):
            try:
                told.append(client.transfer_leadership() or "")
            except ConsensusError as error:
                told.append(type(error).__name__)
            time.sleep(dice.uniform(0.0, 0.5))
    began.join(CHANGE_SECONDS_MAX)
    return " ".join(told)


Blow = Callable[[LocalCluster, random.Random, Beside], str]
MEMBERS: Final[dict[str, Blow]] = {
    "members-resize": resize,
    "members-replace": replace,
    "members-rejoin": rejoin,
    "members-move": move,
    "members-demote": demote,
    "transfer": transfer,
}
