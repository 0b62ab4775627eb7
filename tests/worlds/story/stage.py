"""The stage of a story: its cluster, trace, client and checks, and the list of commands that act on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.storage.backends.memory import MemoryTable
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.world.base import Watcher
from tests.worlds.story.client import StoryClient
from tests.worlds.story.network import ANYBODY, Held
from tests.worlds.story.script import StoryError
from tests.worlds.story.trace import Trace
from tests.worlds.story.words import told
from tests.worlds.story.world import Host, StoryCluster, StoryNode

Order = Callable[["Stage", list[str]], None]
COMMANDS: dict[str, Order] = {}
"""Every command by its word; `tests/stories/README.md` lists them for authors."""
CALM = {"check_interval": 3600.0}
"""No health checks, because they would fill every page of a story and decide nothing."""
QUIET = "quiet"
LEASES = "leases"


def command(word: str) -> Callable[[Order], Order]:
    """Register a function as a command."""

    def enter(order: Order) -> Order:
        COMMANDS[word] = order
        return order

    return enter


class Stage:
    """The run of one story. Use it in a ``with`` statement."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.invariants: Invariants | None = Invariants()
        self.made: StoryCluster | None = None
        self.client = StoryClient(self.trace)
        self.kept: dict[str, Held] = {}
        self.copies: dict[str, dict[str, MemoryTable]] = {}
        """Copies of disks, by the name that the story gave them."""

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.made is not None:
            self.made.close()

    def tell(self, line: str) -> list[str]:
        """Execute a command; returns the observed events. Raises `StoryError`, and the error of a check."""
        word, *words = line.split()
        quiet = word == QUIET
        if quiet:
            word, *words = words
        order = COMMANDS.get(word)
        if order is None:
            raise StoryError(f"there is no command {word!r}; there are {', '.join(sorted(COMMANDS))}")
        try:
            order(self, words)
            if self.made is not None and self.made.failure is not None:
                raise StoryError(f"{type(self.made.failure).__name__}: {self.made.failure}") from self.made.failure
        except (StoryError, ViolationError) as error:
            so_far = "\n".join(["", *self.trace.taken()])
            said = error if isinstance(error, StoryError) else f"{type(error).__name__}: {error}"
            raise StoryError(f"{said}{so_far.rstrip()}") from error
        lines = self.trace.taken()
        return [] if quiet else lines

    # --- who acts ----------------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> StoryCluster:
        """The cluster. Raises `StoryError` before there is one."""
        if self.made is None:
            raise StoryError("a story begins with `cluster`")
        return self.made

    def node(self, name: str) -> StoryNode:
        """A running node. Raises `StoryError`."""
        return self.cluster.node(name)

    def names(self, words: list[str]) -> list[str]:
        """The nodes that are named, or all of them. Raises `StoryError` for an unknown name."""
        for word in words:
            if word not in self.cluster.names:
                raise StoryError(f"there is no node {word}")
        return words or self.cluster.names

    def pair(self, word: str) -> tuple[str, str]:
        """The two nodes in `n1->n2`; `*` is any. Raises `StoryError`."""
        sender, arrow, receiver = word.partition("->")
        if not arrow:
            raise StoryError(f"{word!r} is no direction: write n1->n2")
        self.names([name for name in (sender, receiver) if name != ANYBODY])
        return sender, receiver

    def listen(self, host: Host) -> None:
        """Let the trace hear the events of a host's processes."""
        host.bus.subscribe(ConsensusEvent, self.trace.heard, inline=True)

    # --- frames ------------------------------------------------------------------------------------------------------

    def deliver(self, frames: list[Held]) -> None:
        """Deliver frames, each in a turn of its own."""
        for held in frames:
            self.hand_over([held])

    def hand_over(self, frames: list[Held]) -> None:
        """Deliver frames in one turn of each receiver."""
        receivers: list[str] = []
        for held in frames:
            if held in self.cluster.network.held:
                self.cluster.network.held.remove(held)
            arrives = self.cluster.network.arrives(held)
            fate = "" if arrives else " (lost)"
            self.trace.write(f"{held.sender} -> {held.receiver} {told(held.frame.message)}{fate}")
            if arrives and held.receiver not in receivers:
                receivers.append(held.receiver)
        for name in receivers:
            self.node(name).settle()


def settings_of(words: list[str]) -> tuple[RaftSettings, StorageSettings]:
    """The settings with the fields that `name=value` sets. Raises `StoryError`."""
    kinds: dict[str, type[RaftSettings | StorageSettings]] = {
        field.name: RaftSettings for field in fields(RaftSettings)
    }
    kinds |= {field.name: StorageSettings for field in fields(StorageSettings)}
    changed: dict[type[RaftSettings | StorageSettings], dict[str, Any]] = {
        RaftSettings: dict(CALM),
        StorageSettings: {},
    }
    for word in words:
        name, _, value = word.partition("=")
        if name not in kinds:
            raise StoryError(f"{name!r} is no option and no limit")
        changed[kinds[name]][name] = float(value) if "." in value else int(value)
    return RaftSettings(**changed[RaftSettings]), StorageSettings(**changed[StorageSettings])


@command("cluster")
def found(stage: Stage, words: list[str]) -> None:
    """`cluster 3 [leases] [name=value ...]`: start this many nodes, n1, n2 and so on, that have greeted each other.

    A name is that of a field of `RaftSettings` or `StorageSettings`; `leases` makes lease reads a part of the
    configuration.
    """
    if stage.made is not None:
        raise StoryError("there is a cluster already")
    raft, storage = settings_of([word for word in words[1:] if word != LEASES])
    watchers: list[Watcher] = [stage.trace]
    if stage.invariants is not None:
        watchers.append(stage.invariants)
    cluster = stage.made = StoryCluster(int(words[0]), raft, storage, watchers, leases=LEASES in words)
    stage.trace.network = cluster.network
    cluster.tells = stage.trace.happens
    for host in cluster.hosts.values():
        stage.listen(host)
    for name in cluster.names:
        cluster.begin(name)
    cluster.connect_all()
    stage.trace.taken()


@command("unchecked")
def unchecked(stage: Stage, words: list[str]) -> None:
    """`unchecked`, before `cluster`: check no invariants, because the story forges frames that no node would send."""
    if stage.made is not None:
        raise StoryError("say so before `cluster`")
    stage.invariants = None
