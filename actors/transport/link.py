"""A link: one outgoing connection, made again until it stands, to whichever address of its name answers.

Nodes, clients and event feeds connect with it. ZeroMQ repeats an attempt at one address by itself; the link moves on to
the next address of a name, looks the name up again after a loss, and starts anew where ZeroMQ has given up: it does so
for good after bytes that are no ZeroMQ, from a socket of another kind, or in too large a frame. A link that hears
nothing sends pings, and is begun anew when they are not answered. With keys it speaks CURVE, and only with whoever
proves one of the keys that it was given for the other end; it tries them one after the other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

import zmq

from forge_consensus.actors.transport.liveness import (
    HANDSHAKE_TIMES,
    LINK_TIMEOUT_SECONDS,
    PING,
    SILENCE_TIMES,
    watch_other_end,
)
from forge_consensus.actors.transport.names import Ask, Name
from forge_consensus.security.curve import KeyPair, be_client

NOBLOCK: Final = int(zmq.NOBLOCK)
HANDSHAKE: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
"""Only a handshake, not a mere TCP connection, proves a live receiver."""
DISCONNECTED: Final = int(zmq.EVENT_DISCONNECTED)
CLOSED: Final = int(zmq.EVENT_CLOSED)
RETRIED: Final = int(zmq.EVENT_CONNECT_RETRIED)
DENIED: Final = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
"""The other end does not know the key of this one."""
FAILED: Final = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
MISMATCH: Final = 0x11000002
"""With `FAILED`: ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH, only one of the two ends wants encryption."""
LINK_EVENTS: Final = HANDSHAKE | DISCONNECTED | CLOSED | RETRIED | DENIED | FAILED
DENIED_SECONDS: Final = 1.0
"""So long after a denial the next attempt is made: the key may have been added meanwhile."""
GAVE_UP_SECONDS: Final = 0.5
"""ZeroMQ announces its next attempt at once; without that for so long, it has given up."""
MAPPED: Final = "[::ffff:"
"""How ZeroMQ writes an address of version 4 after the first attempt."""
SCOPE: Final = re.compile(r"%[^]]*\]")
MONITOR_NUMBERS = itertools.count(1)

Socket = zmq.Socket[bytes]


@dataclass(frozen=True, slots=True)
class DealerOptions:
    """Limits and delays of one DEALER."""

    frame_bytes_max: int
    """A peer that sends a larger frame is disconnected."""
    send_frames_max: int
    """The length of the send queue, in frames; a full socket refuses the next frame."""
    receive_frames_max: int | None
    """The length of the receive queue, in frames; None for ZeroMQ's default."""
    reconnect_ms: int
    """The first delay between a lost connection, or a failed attempt, and the next attempt, in milliseconds."""
    reconnect_ms_max: int
    """The limit to which that delay grows with further attempts, in milliseconds."""
    link_timeout: float = LINK_TIMEOUT_SECONDS
    """Seconds after which an other end that acknowledges nothing is given up, see `liveness`."""


class Link:
    """A DEALER to one address (``HOST:PORT`` or ``ipc://PATH``), with its monitor.

    The owner polls `socket` for frames and `monitor` for what `changes` reports, and calls `tick` at `wake_at`, which
    may give `changes` something to report too. It sets `heard` when a frame has arrived, and ignores an empty one: it
    answers a ping. `owner` names the connecting side in the monitor's address. `keys` are those of this side, `servers`
    the public keys by which the other end may prove itself, at least one; without keys nothing is encrypted. Raises
    `zmq.ZMQError`, with both sockets closed, if `address` is malformed.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        address: str,
        options: DealerOptions,
        owner: str,
        ask: Ask | None = None,
        *,
        keys: KeyPair | None = None,
        servers: tuple[str, ...] = (),
    ) -> None:
        self.keys = keys
        self.servers = servers
        self.server = servers[0] if keys is not None else ""
        """The public key that the other end proves, or has to; empty without encryption."""
        self.denied = False
        """Whether the other end does not know the key of this one, as far as was heard last."""
        self.refusal = ""
        """Why the handshake that goes on failed, for people; its end is still to be told."""
        self.address = address
        self.name = Name(address, ask)
        self.url = ""
        """The URL that ZeroMQ tries or is connected to, "" before the name is resolved."""
        self.stands = False
        self.problem = ""
        """Why there is no connection, for people; "" while there is one and before the first attempt failed."""
        self.moved = False
        """Whether there was another URL before the present one, of which events may still come."""
        self.attempt_seconds = options.link_timeout * (HANDSHAKE_TIMES + 1) + options.reconnect_ms_max / 1000
        """Longer than any attempt takes that ZeroMQ reports the end of."""
        self.next_at = time.monotonic() + self.attempt_seconds
        """When to begin with the next address, or anew; infinity while the connection stands."""
        self.heard = False
        """Whether a frame has arrived since the last ping was due."""
        self.pings = 0
        """How many pings were sent since a frame last arrived."""
        self.broken = False
        """Whether the connection was given up here, which `changes` has yet to yield."""
        self.link_timeout = options.link_timeout
        self.ping_at = inf
        """When the next ping is due; infinity while there is no connection."""
        self.pause = self.pause_min = options.reconnect_ms / 1000
        self.pause_max = options.reconnect_ms_max / 1000
        self.socket = dealer_of(context, options)
        self.monitor = open_monitor(self.socket, LINK_EVENTS, owner)
        now = time.monotonic()
        try:
            if self.name.urls:
                self.go_to(self.name.urls[0])
        except zmq.ZMQError:
            self.close()
            raise
        self.name.look_up(now)
        self.wake_at = min(self.next_at, self.name.wake_at(now))

    # --- what happened -----------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[bool]:
        """Yield what happened to the connection: True when it was made, False when it was lost."""
        if self.broken:
            self.broken = False
            yield False
        for event, value, url in happened(self.monitor):
            if self.moved and url != plain_url(self.url):
                continue  # the rest of an attempt that was left
            if event == HANDSHAKE:
                self.stands, self.problem, self.next_at, self.pause = True, "", inf, self.pause_min
                self.denied, self.refusal = False, ""
                self.heard, self.pings, self.ping_at = False, 0, time.monotonic() + self.link_timeout
                self.wake_at = min(self.wake_at, self.ping_at)
                yield True
            elif event in (DENIED, FAILED):
                self.denied = event == DENIED
                self.refusal = self.why_refused() if self.denied or value == MISMATCH else ""
            elif event == RETRIED:
                if len(self.name.urls) <= 1 and len(self.servers) <= 1:
                    self.next_at = time.monotonic() + self.attempt_seconds
            elif self.stands:
                self.stands, self.ping_at = False, inf
                self.plan(f"the connection to {self.address} was lost", GAVE_UP_SECONDS)
                yield False
            else:
                self.failed(event)

    def failed(self, event: int) -> None:
        """Plan what follows a failed attempt: the next address at once, and after the last one a pause."""
        urls = self.name.urls
        silent = event == CLOSED
        self.denied = self.denied and not silent
        problem = f"nobody answers at {self.address}" if silent else self.refusal or self.why_ended()
        self.refusal = ""
        seconds = self.attempt_seconds if silent else GAVE_UP_SECONDS
        if len(urls) > 1 or (len(self.servers) > 1 and not silent):
            seconds = 0.0
            if self.url == urls[-1] and self.server in ("", self.servers[-1:][0] if self.servers else ""):
                seconds, self.pause = self.pause, min(self.pause * 2, self.pause_max)
        if self.denied:
            seconds = DENIED_SECONDS
        self.plan(problem, seconds)

    def why_refused(self) -> str:
        """Why a handshake failed, as far as this end was told."""
        if self.denied:
            assert self.keys is not None, "only a key can be denied"
            return (
                f"what listens at {self.address} does not know the key of this side, or does not let it in: "
                f"{self.keys.public} must stand in its list of access"
            )
        if self.keys is None:
            return (
                f"what listens at {self.address} does not answer as a node does, or speaks only with those who have "
                "keys, and this side has none"
            )
        return f"what listens at {self.address} does not speak encrypted, so it is not trusted, or is no node"

    def why_ended(self) -> str:
        """Why an attempt ended of which the other end said nothing."""
        if self.keys is None:
            return f"what listens at {self.address} does not answer as a node does"
        return f"what listens at {self.address} does not prove the key that is known of it, or is no node"

    def plan(self, problem: str, seconds: float) -> None:
        """Look the name up again, and begin anew after this many seconds unless ZeroMQ does so by itself."""
        now = time.monotonic()
        self.problem = self.name.problem or problem
        self.name.look_up(now)
        self.next_at = min(self.next_at, now + seconds)
        self.wake_at = min(self.wake_at, self.next_at, self.name.wake_at(now))

    # --- what to do --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Do what is due: take the answer of the name server, go on to the next address, begin anew.

        Returns whether a connection that stood was given up. The owner should take `changes` at once, because the
        monitor tells nothing before the next attempt has ended.
        """
        if self.name.settle(now) and self.url not in self.name.urls:
            self.move(self.name.urls[0])
        elif self.next_at <= now and self.name.urls:
            if not self.problem:
                self.problem = f"what listens at {self.address} does not answer as a node does"
            self.go_on()
        elif not self.stands and not self.url:
            self.name.look_up(now)
            self.next_at = inf
        elif self.ping_at <= now:
            self.ping(now)
        if self.name.problem and not self.stands:
            self.problem = self.name.problem
        self.wake_at = min(self.next_at, self.ping_at, self.name.wake_at(now))
        if not (self.stands or self.url):
            self.wake_at = min(self.wake_at, now + self.pause_max)
        return self.broken

    def ping(self, now: float) -> None:
        """Ask the other end for a sign of life if there was none lately; begin anew if it has given none for long."""
        self.pings = 0 if self.heard else self.pings
        if self.pings >= SILENCE_TIMES:
            self.problem = f"what listens at {self.address} has gone silent"
            self.go_on()
            return
        self.ping_at = now + self.link_timeout
        if not self.heard:
            self.pings += 1
            with contextlib.suppress(zmq.ZMQError):  # a full queue is as silent
                self.socket.send(PING, NOBLOCK)
        self.heard = False

    def take_servers(self, servers: tuple[str, ...]) -> None:
        """Take other public keys by which the other end may prove itself; a connection by none of them is ended."""
        self.servers = servers
        if self.server not in servers:
            self.server = servers[0]
            if self.url:
                self.move(self.url)
                self.wake_at = min(self.wake_at, self.next_at)

    def begin_anew(self) -> None:
        """End the connection that stands, and make another one to the same end."""
        self.problem = f"the connection to {self.address} was ended here"
        self.move(self.url)
        self.wake_at = min(self.wake_at, self.next_at)

    def go_on(self) -> None:
        """Try the next key at the same URL, and after the last one the next URL.

        Who denies this side has proven the present key, so that one stays.
        """
        if self.denied:
            self.move(self.following())
            return
        at = self.servers.index(self.server) + 1 if self.server in self.servers else 0
        if self.servers:
            self.server = self.servers[at % len(self.servers)]
        self.move(self.url if 0 < at < len(self.servers) and self.url in self.name.urls else self.following())

    def following(self) -> str:
        """The URL after the present one, which may be the same."""
        urls = self.name.urls
        return urls[(urls.index(self.url) + 1) % len(urls)] if self.url in urls else urls[0]

    def move(self, url: str) -> None:
        """Leave the present URL and go to another one, or to the same anew."""
        self.next_at = time.monotonic() + self.attempt_seconds
        self.moved = self.moved or url != self.url
        if self.stands:
            self.stands, self.broken, self.ping_at = False, True, inf
        if self.url:
            with contextlib.suppress(zmq.ZMQError):  # it is gone already where ZeroMQ has given up
                self.socket.disconnect(self.url)
        try:
            self.go_to(url)
        except zmq.ZMQError as error:
            self.problem = f"cannot connect to {url}: {error}"

    def go_to(self, url: str) -> None:
        """Begin to connect to a URL. Raises `zmq.ZMQError` for a malformed one."""
        self.url = url
        if url:
            if self.keys is not None:
                be_client(self.socket, self.keys, self.server)
            self.socket.connect(url)

    def places(self) -> set[str]:
        """The addresses in numbers to which it may be connected, HOST:PORT or ``ipc://PATH``."""
        return {url.removeprefix("tcp://") for url in (self.url, *self.name.urls) if url}

    def close(self) -> None:
        """Close both sockets; unsent frames are dropped."""
        close_watched(self.socket, self.monitor)


def dealer_of(context: zmq.Context[Socket], options: DealerOptions) -> Socket:
    """Make a DEALER with these options."""
    dealer = context.socket(zmq.DEALER)
    settings = [
        (zmq.LINGER, 0),
        (zmq.IMMEDIATE, 1),
        (zmq.IPV6, 1),
        (zmq.MAXMSGSIZE, options.frame_bytes_max),
        (zmq.SNDHWM, options.send_frames_max),
        (zmq.RECONNECT_IVL, options.reconnect_ms),
        (zmq.RECONNECT_IVL_MAX, options.reconnect_ms_max),
    ]
    if options.receive_frames_max is not None:
        settings.append((zmq.RCVHWM, options.receive_frames_max))
    for option, value in settings:
        dealer.setsockopt(option, value)
    watch_other_end(dealer, options.link_timeout)
    return dealer


def open_monitor(socket: Socket, events: int, owner: str) -> Socket:
    """Open the monitor that reports these events of a socket.

    It has a name of our own, because the default name is made from a file descriptor and clashes when that is reused.
    """
    return socket.get_monitor_socket(events, f"inproc://forge-{owner}-{os.getpid()}-{next(MONITOR_NUMBERS)}")


def recorded(monitor: Socket) -> Iterator[list[bytes]]:
    """Yield what a monitor has recorded: the event and its value in six bytes, and the URL."""
    while True:
        try:
            yield monitor.recv_multipart(NOBLOCK)
        except zmq.Again:
            return


def happened(monitor: Socket) -> Iterator[tuple[int, int, str]]:
    """Yield the events that a monitor has recorded, each with its value and the URL that it is about.

    The value is the descriptor of a connection, or for a handshake that failed why it did.
    """
    for event, url in recorded(monitor):
        value = int.from_bytes(event[2:6], "little")
        yield int.from_bytes(event[:2], "little"), value, plain_url(url.decode(errors="replace"))


def plain_url(url: str) -> str:
    """The URL in one spelling: version 4 as such, and without the interface of a local address of version 6."""
    head, mapped, tail = SCOPE.sub("]", url).partition(MAPPED)
    return f"{head}{tail.replace(']', '', 1)}" if mapped else head


def close_watched(socket: Socket, monitor: Socket) -> None:
    """Close a socket and its monitor; unsent frames are dropped."""
    socket.disable_monitor()
    monitor.close(0)
    socket.close(0)
