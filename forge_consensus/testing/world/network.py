"""The simulated network: connections that break with or without notice; frames that are late, lost, doubled or old."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from forge_consensus.testing.world.timeline import Timeline

REMEMBERED = 200
"""The number of the newest frames that may be delivered once more."""
ANCIENT_EACH = 10
"""One in this many of the older frames is kept too, so that frames of past terms are delivered again."""
RETRY_SECONDS = 0.2
RETRY_SECONDS_MAX = 120.0
"""The first and the longest wait of TCP before it sends again what was not acknowledged; each is twice the last."""
STALLED_MAX = 200
"""The number of frames that wait in a stalled connection; further ones are lost, as beyond a socket's limit."""
RUBBISH_BYTES_MAX = 200
CORE_CLIENT = "core.1"
"""The name of the client that has a calm network to the core, see `Network.core`."""


class Party(Protocol):
    """The owner of one end of a connection: the process of a node, or a client."""

    name: str
    alive: bool

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Accept a frame that arrived from `sender`; `connection` is None if it is an answer."""

    def linked(self, node: str, stands: bool) -> None:
        """Note that the connection to a node was established (`stands`) or broke."""


Alter = Callable[[Party, bytes], bytes]
"""Returns a request to a party as it arrives."""


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
    corrupt: float = 0.0
    """The probability that a frame between nodes arrives with a flipped bit, cut short, or as rubbish."""


CALM = Weather()


@dataclass(slots=True)
class Stall:
    """The frames of one direction of a connection that TCP has not got across, and its back-off."""

    since: float
    wait: float = RETRY_SECONDS
    frames: list[bytes] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Connection:
    """A connection from a process to a node: requests go forth, answers come back, in order unless reordered."""

    owner: Party
    target: str
    forth_at: float = 0.0
    back_at: float = 0.0
    stalls: dict[bool, Stall] = field(default_factory=dict)
    """By direction (whether it is forth): what is stalled, only in a network with `backoff`."""


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
    core: frozenset[str] = frozenset()
    """The nodes between which no frame is lost, late, doubled or damaged, whatever strikes the others."""
    backoff: bool = False
    """Whether a cut stalls connections as TCP does: frames wait, and pass after a back-off that doubles."""
    silence_seconds: float = inf
    """The silence after which the transport of a node or client breaks a stalled connection and makes a new one."""
    corrupts: bool = False
    """Whether nodes refuse frames that were damaged on their way, so that weather may damage some."""
    alter: Alter | None = None
    """Changes requests between nodes as they arrive; None to change none."""
    wanted: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """By node: the nodes that it connects to, with their addresses. Whoever has none here connects to any."""
    answered: dict[tuple[str, str], float] = field(default_factory=dict)
    """(asker, node): when an answer of the node last arrived at the asker."""
    chance: random.Random = field(init=False)
    damage: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = self.timeline.chance("network")
        self.damage = self.timeline.chance("damage")

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
            told = self.chance.random() >= self.weather.unreported
            if told or self.calm(other.name, node.name):
                late = self.chance.uniform(0.001, self.weather.report_seconds_max)
                self.timeline.after(late, self.report, other, node.name)
            elif self.backoff and self.silence_seconds < inf:
                self.timeline.after(self.silence_seconds, self.report, other, node.name)

    def wants(self, party: Party, name: str) -> bool:
        """Return whether a party connects to a node, so far as it knows now; a client until it lets go."""
        wanted = self.wanted.get(party.name)
        if wanted is not None:
            return name in wanted
        return self.live.get(party.name) is party or party in self.callers.get(name, ())

    def drop(self, party: Party, name: str) -> None:
        """End a party's connection to a node, because it does not want it any more."""
        if self.links.pop((party.name, name), None) is not None:
            self.timeline.note("drop", f"{party.name}>{name}")
            party.linked(name, False)

    def attach(self, caller: Party, name: str) -> None:
        """Keep a connection of a client to a node, through all of the node's processes, until `detach`."""
        self.callers.setdefault(name, []).append(caller)
        self.reach(caller, name)

    def let_go(self, caller: Party, name: str) -> None:
        """End a client's connection to one node; it is notified of that node no more."""
        self.callers[name].remove(caller)
        self.links.pop((caller.name, name), None)

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
        """Connect after a short random time, and retry until it succeeds, if the party wants to connect there."""
        if not self.wants(party, name):
            return
        self.timeline.after(self.chance.uniform(0.001, 0.1), self.connect, party, name)

    def connect_later(self, party: Party, name: str, wait: float) -> None:
        """Retry as TCP does, after a wait that doubles; a transport that breaks silent connections waits no longer."""
        wait = min(wait, self.silence_seconds, RETRY_SECONDS_MAX)
        self.timeline.after(wait, self.connect, party, name, 2 * wait)

    def connect(self, party: Party, name: str, wait: float = 1.0) -> None:
        """Connect now, if both processes run and frames pass in both directions; otherwise retry."""
        ends = (party.name, name)
        if not party.alive or name not in self.live or ends in self.links or not self.wants(party, name):
            return
        if self.is_cut(party.name, name) or self.is_cut(name, party.name):
            if self.backoff:
                self.connect_later(party, name, wait)
            else:
                self.reach(party, name)
            return
        self.links[ends] = Connection(party, name)
        self.timeline.note("up", f"{party.name}>{name}")
        party.linked(name, True)

    def calm(self, one: str, other: str) -> bool:
        """Return whether no fault touches what passes between two parties, because they belong to the core."""
        core = self.core
        return bool(core) and (one in core or one == CORE_CLIENT) and (other in core or other == CORE_CLIENT)

    # --- cutting -----------------------------------------------------------------------------------------------------

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Return whether frames from `sender` to `receiver` are lost."""
        return (sender, receiver) in self.cut

    def part(self, one: list[str], other: list[str], *, both_ways: bool = True) -> None:
        """Stop all frames from the first group to the second and, if `both_ways`, back."""
        for sender in one:
            for receiver in other:
                if self.calm(sender, receiver):
                    continue
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
        self.alter = None
        self.weather = Weather()
        for connection in list(self.links.values()):
            if connection.owner.alive and self.chance.random() < 0.5 and not connection.stalls:
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
        if self.core and self.calm(connection.owner.name, connection.target):
            weather = CALM
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
        if self.core and self.calm(connection.owner.name, connection.target):
            weather = CALM
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
        if self.backoff and (forth in connection.stalls or (sender, receiver) in self.cut):
            self.stall(connection, data, forth)
            return
        if (sender, receiver) in self.cut:
            return
        party = self.live.get(target) if forth else owner
        if party is None or not party.alive:
            return
        if forth and self.alter is not None and self.between_nodes(connection):
            data = self.alter(party, data)
        if self.weather.corrupt and self.damage.random() < self.weather.corrupt and self.between_nodes(connection):
            data = self.damaged(data)
        self.timeline.note("frame", f"{sender}>{receiver}", data)
        if not forth:
            self.answered[receiver, sender] = self.timeline.now
        party.take(data, connection if forth else None, sender)

    # --- damage and back-off -----------------------------------------------------------------------------------------

    def between_nodes(self, connection: Connection) -> bool:
        """Return whether a connection is one between nodes that faults may touch."""
        name = connection.owner.name
        return self.live.get(name) is connection.owner and not self.calm(name, connection.target)

    def damaged(self, data: bytes) -> bytes:
        """Return a frame as it arrives damaged: with a flipped bit, cut short, or as rubbish."""
        chance = self.damage
        how = chance.random()
        if how < 0.2 or not data:
            return chance.randbytes(chance.randint(0, RUBBISH_BYTES_MAX))
        if how < 0.4:
            return data[: chance.randrange(len(data))]
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(flipped)

    def stall(self, connection: Connection, data: bytes, forth: bool) -> None:
        """Keep a frame that does not get across; the first one begins the back-off of its direction."""
        stall = connection.stalls.get(forth)
        if stall is None:
            stall = connection.stalls[forth] = Stall(self.timeline.now)
            self.timeline.after(stall.wait, self.retry, connection, forth, stall)
            if self.silence_seconds < inf:
                self.timeline.after(self.silence_seconds, self.notice, connection, forth, stall)
        if len(stall.frames) < STALLED_MAX:
            stall.frames.append(data)

    def notice(self, connection: Connection, forth: bool, stall: Stall) -> None:
        """Break a connection that has been silent for as long as its transport tolerates."""
        if connection.stalls.get(forth) is stall:
            connection.stalls.clear()
            if self.links.get((connection.owner.name, connection.target)) is connection:
                self.report(connection.owner, connection.target)

    def retry(self, connection: Connection, forth: bool, stall: Stall) -> None:
        """Send again what is stalled, or wait twice as long; a broken connection loses its frames."""
        owner, target = connection.owner, connection.target
        if connection.stalls.get(forth) is not stall:
            return
        if not owner.alive or self.links.get((owner.name, target)) is not connection:
            connection.stalls.pop(forth)
            return
        if ((owner.name, target) if forth else (target, owner.name)) in self.cut:
            stall.wait = min(2 * stall.wait, RETRY_SECONDS_MAX)
            self.timeline.after(stall.wait, self.retry, connection, forth, stall)
            return
        connection.stalls.pop(forth)
        for data in stall.frames:
            self.arrive(connection, data, forth)
