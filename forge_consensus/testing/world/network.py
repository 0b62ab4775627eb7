"""The simulated network: connections that break in silence or not, and frames that are late, lost, doubled or old."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from forge_consensus.testing.world.timeline import Timeline

REMEMBERED = 200
"""So many of the newest frames may be delivered once more."""
ANCIENT_EACH = 10
"""And each so many'th of those before them, so that frames come again whose term is long over."""


class Party(Protocol):
    """Who holds one end of a connection: the process of a node, or a client."""

    name: str
    alive: bool

    def take(self, data: bytes, connection: Any) -> None:
        """A frame arrived; `connection` is None for an answer."""

    def linked(self, node: str, stands: bool) -> None:
        """The connection to a node stands, or broke."""


@dataclass(slots=True)
class Weather:
    """How the network fares: probabilities of a frame's fate, and delays in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    replay: float = 0.0
    delay_s_min: float = 0.0002
    delay_s_max: float = 0.002
    unreported: float = 0.0
    """How often a broken connection is reported never, instead of promptly or late."""
    report_s_max: float = 0.01


@dataclass(eq=False, slots=True)
class Connection:
    """From a process to a node. Requests go forth, answers come back, each way in order (unless reordered)."""

    owner: Party
    target: str
    forth_at: float = 0.0
    back_at: float = 0.0


@dataclass(slots=True)
class Network:
    """All connections of a simulation. Frames from a to b get through unless (a, b) is in `cut`."""

    timeline: Timeline
    weather: Weather = field(default_factory=Weather)
    live: dict[str, Party] = field(default_factory=dict)
    """The nodes' running processes by name."""
    callers: dict[str, list[Party]] = field(default_factory=dict)
    """By node: the clients that keep a connection to it, and hear when it breaks and when it stands again."""
    links: dict[tuple[str, str], Connection] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)
    old: deque[tuple[Connection, bytes, bool]] = field(default_factory=deque)
    ancient: deque[tuple[Connection, bytes, bool]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    frames: int = 0
    copies: int = 0
    """How many frames were delivered, or are to be, beside the first delivery."""
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = self.timeline.chance("network")

    # --- processes and connections -----------------------------------------------------------------------------------

    def join(self, node: Party) -> None:
        """A node's process began: it connects to the others, and they to it."""
        self.live[node.name] = node
        for other in [party for party in self.live.values() if party is not node]:
            self.reach(node, other.name)
            self.links_again(other, node.name)
        for caller in self.callers.get(node.name, ()):
            self.links_again(caller, node.name)

    def links_again(self, other: Party, name: str) -> None:
        """The node `name` is back: whoever never heard that it was gone may never hear of its return either."""
        if (other.name, name) not in self.links:
            self.reach(other, name)
        elif self.chance.random() < 0.5:
            self.report(other, name)

    def leave(self, node: Party) -> None:
        """A node's process ended: the others hear of it soon, late or never."""
        if self.live.get(node.name) is node:
            del self.live[node.name]
        for ends in [ends for ends in self.links if ends[0] == node.name]:
            del self.links[ends]
        for other in [*self.live.values(), *self.callers.get(node.name, ())]:
            if self.chance.random() >= self.weather.unreported:
                late = self.chance.uniform(0.001, self.weather.report_s_max)
                self.timeline.after(late, self.report, other, node.name)

    def attach(self, caller: Party, name: str) -> None:
        """Have a client keep a connection to a node, through all of the node's processes, until `detach`."""
        self.callers.setdefault(name, []).append(caller)
        self.reach(caller, name)

    def detach(self, caller: Party) -> None:
        """A client is gone: its connections end, and nobody tells it of any again."""
        for name, callers in self.callers.items():
            if caller in callers:
                callers.remove(caller)
                self.links.pop((caller.name, name), None)

    def report(self, party: Party, name: str) -> None:
        """A party hears that its connection to a node broke, and tries again."""
        if party.alive and self.links.pop((party.name, name), None) is not None:
            self.timeline.note("down", f"{party.name}>{name}")
            party.linked(name, False)
            self.reach(party, name)

    def reach(self, party: Party, name: str) -> None:
        """Connect soon, and try until it works; whoever joins meanwhile begins it anew."""
        self.timeline.after(self.chance.uniform(0.001, 0.1), self.connect, party, name)

    def connect(self, party: Party, name: str) -> None:
        """Connect now, if both run and frames get through in both directions."""
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
        """Whether frames from the one to the other are lost."""
        return (sender, receiver) in self.cut

    def part(self, one: list[str], other: list[str], *, both_ways: bool = True) -> None:
        """Let no frames through from the first group to the second, nor back unless one way is meant."""
        for sender in one:
            for receiver in other:
                self.cut.add((sender, receiver))
                if both_ways:
                    self.cut.add((receiver, sender))

    def join_again(self, one: list[str], other: list[str]) -> None:
        """Let everything through between two groups."""
        for sender in one:
            for receiver in other:
                self.cut -= {(sender, receiver), (receiver, sender)}

    def heal(self) -> None:
        """Let everything through, in good weather, and have what broke unnoticed be noticed."""
        self.cut.clear()
        self.weather = Weather()
        for connection in list(self.links.values()):
            if connection.owner.alive and self.chance.random() < 0.5:
                self.report(connection.owner, connection.target)

    # --- frames ------------------------------------------------------------------------------------------------------

    def ask(self, connection: Connection, data: bytes) -> None:
        """Send a frame to the node that the connection leads to."""
        self.send(connection, data, forth=True)

    def answer(self, connection: Connection, data: bytes) -> None:
        """Send a frame back by the connection that the request came by."""
        self.send(connection, data, forth=False)

    def send(self, connection: Connection, data: bytes, *, forth: bool) -> None:
        """Let a frame meet its fate, and perhaps an old one come again."""
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
        """Plan a frame's arrival."""
        weather, timeline = self.weather, self.timeline
        least = weather.delay_s_min
        at = timeline.now + (least + (weather.delay_s_max - least) * self.chance.random())
        if not in_order:
            at += self.chance.uniform(0.0, 4 * weather.delay_s_max)
        elif forth:
            at = connection.forth_at = max(at, connection.forth_at)
        else:
            at = connection.back_at = max(at, connection.back_at)
        timeline.after(at - timeline.now, self.arrive, connection, data, forth)

    def arrive(self, connection: Connection, data: bytes, forth: bool) -> None:
        """Hand a frame over: a request to whatever process the node has now, an answer to who asked only."""
        owner, target = connection.owner, connection.target
        sender, receiver = (owner.name, target) if forth else (target, owner.name)
        if (sender, receiver) in self.cut:
            return
        party = self.live.get(target) if forth else owner
        if party is None or not party.alive:
            return
        self.timeline.note("frame", f"{sender}>{receiver}", data)
        party.take(data, connection if forth else None)
