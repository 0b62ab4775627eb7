"""The simulated network: connections that break with or without notice; frames that are late, lost, doubled or old."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from forge_consensus.testing.world.timeline import Timeline

REMEMBERED = 200
"""The number of the newest frames that may be delivered once more."""
ANCIENT_EACH = 10
"""One in this many of the older frames is kept too, so that frames of past terms are delivered again."""


class Party(Protocol):
    """The owner of one end of a connection: the process of a node, or a client."""

    name: str
    alive: bool

    def take(self, data: bytes, connection: Any) -> None:
        """Accept a frame that arrived; `connection` is None if it is an answer."""

    def linked(self, node: str, stands: bool) -> None:
        """Note that the connection to a node was established (`stands`) or broke."""


@dataclass(slots=True)
class Weather:
    """The behaviour of the network: the probability of each fate of a frame, and delays in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    replay: float = 0.0
    delay_seconds_min: float = 0.0002
    delay_seconds_max: float = 0.002
    unreported: float = 0.0
    """The probability that the end of a connection is never reported, instead of promptly or late."""
    report_seconds_max: float = 0.01


@dataclass(eq=False, slots=True)
class Connection:
    """A connection from a process to a node: requests go forth, answers come back, in order unless reordered."""

    owner: Party
    target: str
    forth_at: float = 0.0
    back_at: float = 0.0


@dataclass(slots=True)
class Network:
    """All connections of a simulation. Frames from a to b arrive unless (a, b) is in `cut`."""

    timeline: Timeline
    weather: Weather = field(default_factory=Weather)
    live: dict[str, Party] = field(default_factory=dict)
    """The running processes of the nodes, by name."""
    callers: dict[str, list[Party]] = field(default_factory=dict)
    """By node: the clients with a connection to it, which are notified when it breaks and when it is back."""
    links: dict[tuple[str, str], Connection] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)
    old: deque[tuple[Connection, bytes, bool]] = field(default_factory=deque)
    ancient: deque[tuple[Connection, bytes, bool]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    frames: int = 0
    copies: int = 0
    """How many frames were delivered, or will be, in addition to the first delivery."""
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = self.timeline.chance("network")

    # --- processes and connections -----------------------------------------------------------------------------------

    def join(self, node: Party) -> None:
        """Add a node's new process: it connects to the others and they to it."""
        self.live[node.name] = node
        for other in [party for party in self.live.values() if party is not node]:
            self.reach(node, other.name)
            self.links_again(other, node.name)
        for caller in self.callers.get(node.name, ()):
            self.links_again(caller, node.name)

    def links_again(self, other: Party, name: str) -> None:
        """Connect another party to the restarted node `name`; it may never notice that its old connection broke."""
        if (other.name, name) not in self.links:
            self.reach(other, name)
        elif self.chance.random() < 0.5:
            self.report(other, name)

    def leave(self, node: Party) -> None:
        """Remove a node's process; the others are notified soon, late or never."""
        if self.live.get(node.name) is node:
            del self.live[node.name]
        for ends in [ends for ends in self.links if ends[0] == node.name]:
            del self.links[ends]
        for other in [*self.live.values(), *self.callers.get(node.name, ())]:
            if self.chance.random() >= self.weather.unreported:
                late = self.chance.uniform(0.001, self.weather.report_seconds_max)
                self.timeline.after(late, self.report, other, node.name)

    def attach(self, caller: Party, name: str) -> None:
        """Keep a connection of a client to a node, through all of the node's processes, until `detach`."""
        self.callers.setdefault(name, []).append(caller)
        self.reach(caller, name)

    def detach(self, caller: Party) -> None:
        """Remove a client: its connections end, and it is notified of nothing any more."""
        for name, callers in self.callers.items():
            if caller in callers:
                callers.remove(caller)
                self.links.pop((caller.name, name), None)

    def report(self, party: Party, name: str) -> None:
        """Notify a party that its connection to a node broke; it connects again."""
        if party.alive and self.links.pop((party.name, name), None) is not None:
            self.timeline.note("down", f"{party.name}>{name}")
            party.linked(name, False)
            self.reach(party, name)

    def reach(self, party: Party, name: str) -> None:
        """Connect after a short random time, and retry until it succeeds."""
        self.timeline.after(self.chance.uniform(0.001, 0.1), self.connect, party, name)

    def connect(self, party: Party, name: str) -> None:
        """Connect now, if both processes run and frames pass in both directions; otherwise retry."""
        ends = (party.name, name)
        if not party.alive or name not in self.live or ends in self.links:
            return
        if self.is_cut(party.name, name) or self.is_cut(name, party.name):
            self.reach(party, name)
            return
        self.links[ends] = Connection(party, name)
        self.timeline.note("up", f"{party.name}>{name}")
        party.linked(name, True)

    # --- cutting -----------------------------------------------------------------------------------------------------

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Return whether frames from `sender` to `receiver` are lost."""
        return (sender, receiver) in self.cut

    def part(self, one: list[str], other: list[str], *, both_ways: bool = True) -> None:
        """Stop all frames from the first group to the second and, if `both_ways`, back."""
        for sender in one:
            for receiver in other:
                self.cut.add((sender, receiver))
                if both_ways:
                    self.cut.add((receiver, sender))

    def join_again(self, one: list[str], other: list[str]) -> None:
        """Let all frames pass between two groups again."""
        for sender in one:
            for receiver in other:
                self.cut -= {(sender, receiver), (receiver, sender)}

    def heal(self) -> None:
        """End all cuts and bad weather; connections that broke without notice may be reported now."""
        self.cut.clear()
        self.weather = Weather()
        for connection in list(self.links.values()):
            if connection.owner.alive and self.chance.random() < 0.5:
                self.report(connection.owner, connection.target)

    # --- frames ------------------------------------------------------------------------------------------------------

    def ask(self, connection: Connection, data: bytes) -> None:
        """Send a frame to the node at the far end of the connection."""
        self.send(connection, data, forth=True)

    def answer(self, connection: Connection, data: bytes) -> None:
        """Send a frame back on the connection of the request."""
        self.send(connection, data, forth=False)

    def send(self, connection: Connection, data: bytes, *, forth: bool) -> None:
        """Send a frame: it may be lost, doubled or reordered, and an old frame may be delivered again."""
        chance, weather = self.chance, self.weather
        self.frames += 1
        if weather.replay and self.old and chance.random() < weather.replay:
            self.copies += 1
            frames = self.ancient if self.ancient and chance.random() < 0.5 else self.old
            self.transmit(*frames[chance.randrange(len(frames))], in_order=False)
        self.old.append((connection, data, forth))
        if len(self.old) > REMEMBERED:
            oldest = self.old.popleft()
            if self.frames % ANCIENT_EACH == 0:
                self.ancient.append(oldest)
        if weather.loss and chance.random() < weather.loss:
            return
        in_order = not weather.reorder or chance.random() >= weather.reorder
        self.transmit(connection, data, forth, in_order=in_order)
        if weather.duplicate and chance.random() < weather.duplicate:
            self.copies += 1
            self.transmit(connection, data, forth, in_order=False)

    def transmit(self, connection: Connection, data: bytes, forth: bool, *, in_order: bool) -> None:
        """Plan the arrival of a frame."""
        weather, timeline = self.weather, self.timeline
        least = weather.delay_seconds_min
        at = timeline.now + (least + (weather.delay_seconds_max - least) * self.chance.random())
        if not in_order:
            at += self.chance.uniform(0.0, 4 * weather.delay_seconds_max)
        elif forth:
            at = connection.forth_at = max(at, connection.forth_at)
        else:
            at = connection.back_at = max(at, connection.back_at)
        timeline.after(at - timeline.now, self.arrive, connection, data, forth)

    def arrive(self, connection: Connection, data: bytes, forth: bool) -> None:
        """Deliver a frame: a request to the node's present process, an answer only to the process that asked."""
        owner, target = connection.owner, connection.target
        sender, receiver = (owner.name, target) if forth else (target, owner.name)
        if (sender, receiver) in self.cut:
            return
        party = self.live.get(target) if forth else owner
        if party is None or not party.alive:
            return
        self.timeline.note("frame", f"{sender}>{receiver}", data)
        party.take(data, connection if forth else None)
