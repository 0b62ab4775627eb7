"""The commands of a story that act on processes, disks and connections."""

from __future__ import annotations

from forge_consensus.actors.notices import CompactLog, TakeSnapshot
from forge_consensus.testing.world.base import CrashAt, SimulatedCrashError
from tests.worlds.story.network import ANYBODY
from tests.worlds.story.script import StoryError
from tests.worlds.story.stage import Stage, command
from tests.worlds.story.words import seconds_of

MOMENTS = {
    "before-commit": CrashAt.BEFORE_COMMIT,
    "after-commit": CrashAt.AFTER_COMMIT,
    "amid-sending": CrashAt.AMID_SENDING,
}


@command("crash")
def crash(stage: Stage, words: list[str]) -> None:
    """`crash n1`: end its process between two turns. No node is notified (`disconnect` does that); frames stay held."""
    stage.node(words[0]).end(SimulatedCrashError())


@command("crash-at")
def crash_at(stage: Stage, words: list[str]) -> None:
    """`crash-at n1 before-commit|after-commit|amid-sending [frames]`: end its process at that point."""
    frames = int(words[2]) if len(words) > 2 else 0
    stage.node(words[0]).crash(MOMENTS[words[1]], frames)


@command("restart")
def restart(stage: Stage, words: list[str]) -> None:
    """`restart n1 [unnoticed]`: start a new process; by default the others notice that their connections broke."""
    name = words[0]
    if any(base.name == name for base in stage.cluster.running()):
        raise StoryError(f"{name} runs")
    others = [other for other in stage.cluster.running() if other.name != name]
    stage.cluster.network.greeting = True
    stage.cluster.begin(name)
    unnoticed = words[1:] == ["unnoticed"]
    for other in others:
        if not unnoticed and stage.cluster.network.disconnect(other.name, name):
            other.settle()
    for other in others:
        stage.cluster.connect(name, other.name)
        if not unnoticed:
            stage.cluster.connect(other.name, name)
    stage.cluster.network.greeting = False


@command("wipe")
def wipe(stage: Stage, words: list[str]) -> None:
    """`wipe n1`: empty the disk of a node that does not run."""
    stage.cluster.wipe(words[0])


@command("back-up")
def back_up(stage: Stage, words: list[str]) -> None:
    """`back-up n1 as early`: copy its disk."""
    disk = stage.cluster.hosts[words[0]].disk
    stage.copies[words[2]] = {table: rows.copy() for table, rows in disk.items()}


@command("put-back")
def put_back(stage: Stage, words: list[str]) -> None:
    """`put-back n1 early`: put a copy onto the disk of a node that does not run."""
    stage.cluster.put_back(words[0], stage.copies[words[1]])


@command("may-end")
def may_end(stage: Stage, words: list[str]) -> None:
    """`may-end n1 IdentityError`: its process may end with that error; every other end must be ordered."""
    stage.cluster.hosts[words[0]].may_end.add(words[1])


# --- disks -----------------------------------------------------------------------------------------------------------


@command("fail-disk")
def fail_disk(stage: Stage, words: list[str]) -> None:
    """`fail-disk n1 [written]`: its next commit fails; with `written` the data is on the disk all the same."""
    stage.node(words[0]).disk.fail_next_commit(OSError("ordered"), written=words[1:] == ["written"])


@command("slow-disk")
def slow_disk(stage: Stage, words: list[str]) -> None:
    """`slow-disk n1 2s`: its next commit takes this long."""
    stage.node(words[0]).slow_s = seconds_of(words[1])


@command("snapshot")
def snapshot(stage: Stage, words: list[str]) -> None:
    """`snapshot n1`: take a snapshot, and compact the log behind it."""
    node = stage.node(words[0])
    node.tell(node.engine.actor("snapshot"), TakeSnapshot())
    node.settle()


@command("compact")
def compact(stage: Stage, words: list[str]) -> None:
    """`compact n1`: compact the log behind the newest snapshot."""
    node = stage.node(words[0])
    node.tell(node.engine.actor("snapshot"), CompactLog())
    node.settle()


# --- turns -----------------------------------------------------------------------------------------------------------


@command("one-by-one")
def one_by_one(stage: Stage, words: list[str]) -> None:
    """`one-by-one n1`: from now on it takes one turn at a time; postponed messages (`Persisted`) wait."""
    stage.node(words[0]).one_by_one = True


@command("turn")
def turn(stage: Stage, words: list[str]) -> None:
    """`turn n1`: take one turn without frames."""
    stage.node(words[0]).turn()


@command("flow")
def flow(stage: Stage, words: list[str]) -> None:
    """`flow n1`: end `one-by-one`."""
    node = stage.node(words[0])
    node.one_by_one = False
    node.settle()


@command("fail-actor")
def fail_actor(stage: Stage, words: list[str]) -> None:
    """`fail-actor n1 election [at-end]`: an actor raises, at the beginning of the node's next turn or at its end."""
    stage.node(words[0]).fail_actor(words[1], at_end=words[2:] == ["at-end"])


# --- connections -----------------------------------------------------------------------------------------------------


@command("partition")
def partition(stage: Stage, words: list[str]) -> None:
    """`partition n1 | n2 n3`: frames between the groups are lost from now on, without notice.

    `partition n1 -> n2` loses only those from the left to the right.
    """
    mark = "|" if "|" in words else "->"
    place = words.index(mark)
    one, other = stage.names(words[:place]), stage.names(words[place + 1 :])
    stage.cluster.network.part(one, other, both_ways=mark == "|")


@command("heal")
def heal(stage: Stage, words: list[str]) -> None:
    """`heal`: frames pass again; unbroken connections continue, and broken ones are connected again."""
    stage.cluster.network.cut.clear()
    stage.cluster.network.greeting = True
    stage.cluster.connect_all()
    stage.cluster.network.greeting = False


@command("disconnect")
def disconnect(stage: Stage, words: list[str]) -> None:
    """`disconnect n1->n2` (or `*`): n1 notices that its connection to n2 broke, as when the process of n2 dies."""
    sender, receiver = stage.pair(words[0])
    for base in stage.cluster.running():
        for other in stage.cluster.names:
            meant = sender in (ANYBODY, base.name) and receiver in (ANYBODY, other)
            if meant and stage.cluster.network.disconnect(base.name, other):
                base.settle()


@command("connect")
def connect(stage: Stage, words: list[str]) -> None:
    """`connect n1->n2`: n1 connects to n2 again, and they greet."""
    stage.cluster.network.greeting = True
    stage.cluster.connect(*stage.pair(words[0]))
    stage.cluster.network.greeting = False
