"""Runs the shipped client's `SessionCore` in a simulation: virtual time, seeded chance, the simulated network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import NEVER_MS, Locate, OpenSession, Read, Submit, WireMessage
from forge_consensus.client.connections import FRAME_BYTES_MAX, GATEWAY
from forge_consensus.client.pending import Pending
from forge_consensus.client.session import SessionCore
from forge_consensus.config.client import ClientSettings
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection

WAKE_SECONDS_MIN: Final = 0.001
"""The shortest wait of the driver, as that of the real one, which waits in milliseconds."""


@dataclass(frozen=True, slots=True)
class Misdelivery:
    """The faults between a client and the nodes, in shares of the frames with commands (or queries).

    The shipped client does none of this by itself. A proxy, a changed address or a process that was replaced can do it
    to its frames, and nodes must tolerate it: sessions make it safe.
    """

    copy_share: float = 0.0
    """The share of frames with commands that are sent a second time, to any node: at once, or after the session's
    end."""
    late_seconds_max: float = 0.0
    """The longest delay of a copy, in virtual seconds."""
    stray_share: float = 0.0
    """The share of frames with commands or queries that reach any node instead of the one that the client meant."""


class SimulatedDriver:
    """Does for a `SessionCore` the work of `forge_consensus.client.driver.Driver`, in virtual time and on no thread.

    It is a party of the network: `take` receives answers, `linked` reports of connections. It lives as long as one
    client object; a client that is closed or killed and starts again has another driver with another name, as it would
    have other sockets.

    Args:
        cluster: the nodes, their network and their timeline.
        name: names the driver in the trace; unique among all drivers of the simulation.
        deliver: receives the calls that ended, each with its `answer` or `error`.
        endpoints: addresses that the client is given; None for those of all nodes.
        settings: the client's settings, at pace 1.
        pace: the virtual seconds in one second of the client. All its times are stretched alike, also those that no
            setting names and the two in its requests.
        prefer: the endpoint that answers stale reads while it is connected, "" for any.
        follow: whether the client connects to nodes that it was not given.
        misdelivery: the faults on the way to the nodes.

    """

    alive = True

    def __init__(
        self,
        cluster: SimulatedCluster,
        name: str,
        deliver: Callable[[list[Pending[Any]]], None],
        *,
        endpoints: Sequence[str] | None = None,
        settings: ClientSettings | None = None,
        pace: float = 1.0,
        prefer: str = "",
        follow: bool = True,
        misdelivery: Misdelivery | None = None,
    ) -> None:
        self.cluster = cluster
        self.network = cluster.network
        self.timeline = cluster.timeline
        self.name = name
        self.deliver = deliver
        self.pace = pace
        self.misdelivery = misdelivery or Misdelivery()
        self.chance = self.timeline.chance(f"driver {name}")
        addresses = cluster.addresses()
        self.address_of: dict[str, str] = {}
        """By node: the endpoint under which the driver was attached to it."""
        self.attached: set[str] = set()
        """The endpoints to which the driver keeps a connection."""
        self.connections: dict[str, Connection] = {}
        """By node: the connection that frames to it use when they do not use the network's link."""
        self.wake_planned = inf
        """The virtual time at which `wake` is planned; infinity if it is not."""
        self.core = SessionCore(
            list(addresses.values()) if endpoints is None else endpoints,
            now=self.now,
            random=self.chance.random,
            settings=settings,
            prefer=prefer,
            follow=follow,
        )
        self.turn()

    @property
    def now(self) -> float:
        """The client's time: virtual seconds divided by the pace."""
        return self.timeline.now / self.pace

    # --- what the client's user does ---------------------------------------------------------------------------------

    def submit(self, wanted: Sequence[Pending[Any]]) -> None:
        """Submit commands, queries and node queries, whose deadlines are in the client's time."""
        self.core.now = self.now
        self.core.submit(wanted)
        self.turn()

    def close(self, reason: str) -> None:
        """End in order: the core ends every outstanding call with the known outcome."""
        self.kill()
        self.core.now = self.now
        self.core.close(reason)
        self.hand_out()

    def kill(self) -> None:
        """End as a killed process does: the outcomes of outstanding calls stay unknown."""
        self.alive = False
        self.network.detach(self)

    # --- the network's party -----------------------------------------------------------------------------------------

    def linked(self, node: str, stands: bool) -> None:
        """Report to the core that the connection to a node was established or broke."""
        self.core.now = self.now
        (self.core.connected if stands else self.core.disconnected)(self.address_of[node])
        self.turn()

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Pass an answer to the core; it may be late or arrive a second time."""
        if not self.alive:
            return
        frame = decode(data, FRAME_BYTES_MAX)
        if frame.sender not in self.address_of:
            return
        self.core.now = self.now
        self.core.receive(self.address_of[frame.sender], frame.message, frame.request)
        self.turn()

    # --- what the real driver's thread does --------------------------------------------------------------------------

    def turn(self) -> None:
        """Report the time to the core, send its requests, deliver the calls that ended, and plan the next turn."""
        core = self.core
        if self.attached != core.directory.endpoints.keys():
            self.follow_endpoints()
        core.tick(self.now)
        for endpoint, message, request in list(core.outgoing()):
            if not self.send(endpoint, message, request):
                core.unsent(endpoint, message, request)
        if core.resolved:
            self.hand_out()
        self.plan_wake()

    def follow_endpoints(self) -> None:
        """Connect to the endpoints that the core was given or has learned, and leave those that it has dropped."""
        for endpoint in sorted(self.attached - self.core.directory.endpoints.keys()):
            self.attached.discard(endpoint)
            node = node_at(endpoint)
            if self.address_of.get(node) == endpoint:
                del self.address_of[node]
                self.network.let_go(self, node)
                self.attached.difference_update([other for other in self.attached if node_at(other) == node])
        for endpoint in self.core.directory.endpoints:
            if endpoint not in self.attached:
                self.attached.add(endpoint)
                node = node_at(endpoint)
                if self.address_of.setdefault(node, endpoint) == endpoint:  # else it moved, and is connected already
                    self.network.attach(self, node)

    def hand_out(self) -> None:
        """Deliver the calls that ended to the user; demand that none ends twice."""
        ended, self.core.resolved = self.core.resolved, []
        for pending in ended:
            demand(not pending.finished, "client", f"{self.name} resolved a call twice")
            pending.finish()
        self.deliver(ended)

    def plan_wake(self) -> None:
        """Plan the next turn for the core's time, unless an earlier one is planned."""
        at = self.core.wake_at()
        if at == inf or not self.alive:
            return
        moment = self.timeline.now + max(at - self.now, WAKE_SECONDS_MIN) * self.pace
        if moment < self.wake_planned:
            self.wake_planned = moment
            self.timeline.after(moment - self.timeline.now, self.wake, moment)

    def wake(self, planned: float) -> None:
        """Take a turn, unless an earlier one was planned meanwhile."""
        if planned == self.wake_planned and self.alive:
            self.wake_planned = inf
            self.turn()

    # --- frames ------------------------------------------------------------------------------------------------------

    def send(self, endpoint: str, message: WireMessage, request: int) -> bool:
        """Send a request; returns whether there is a connection that accepts it."""
        link = self.network.links.get((self.name, node_at(endpoint)))
        if link is None:
            return False
        cluster = self.core.directory.cluster
        frame = Frame(GATEWAY, cluster, "", "", 0, 0, request, int(self.timeline.now * 1e9), self.stretched(message))
        data = encode(frame)
        if isinstance(message, Submit) and self.chance.random() < self.misdelivery.copy_share:
            self.copy(data, request)
        if isinstance(message, Submit | Read) and self.chance.random() < self.misdelivery.stray_share:
            link = self.connection_to_any()
        self.network.ask(link, data)
        return True

    def stretched(self, message: WireMessage) -> WireMessage:
        """The request with its times in virtual milliseconds."""
        if self.pace == 1.0:
            return message
        if isinstance(message, OpenSession):
            return replace(message, ttl_ms=int(message.ttl_ms * self.pace))
        if isinstance(message, Locate):
            return replace(message, wait_ms=int(message.wait_ms * self.pace))
        if isinstance(message, Read) and message.stale_ms_max < NEVER_MS:
            return replace(message, stale_ms_max=int(message.stale_ms_max * self.pace))
        return message

    def copy(self, data: bytes, request: int) -> None:
        """Plan a copy of a frame with commands, to any node, at once or late.

        It counts as one more attempt of each command in it, so that the core calls the outcome unknown even if every
        attempt that it knows of was refused.
        """
        window = self.core.commands
        for number in window.flights[request].numbers:
            window.open[number].sends += 1
        late = self.chance.choice((0.0, self.chance.random() * self.misdelivery.late_seconds_max))
        self.timeline.after(late, self.network.ask, self.connection_to_any(), data)

    def connection_to_any(self) -> Connection:
        """Return a connection to some node, whether or not the client would send to it."""
        node = self.chance.choice(self.cluster.names)
        return self.connections.setdefault(node, Connection(self, node))


def node_at(endpoint: str) -> str:
    """Return the node that a simulated address belongs to: it begins with the node's name."""
    return endpoint.partition(":")[0]
