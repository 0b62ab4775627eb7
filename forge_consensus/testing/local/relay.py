"""A relay: one connection through the proxy, made of one from the connecting side and one to the real node."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, cast

from forge_consensus.testing.local.network_paths import WHOLE, Path
from forge_consensus.testing.local.zmtp import Part, Splitter, sender_of

CLIENT: Final = "client"
"""The name of every sender that is no node."""
BUFFER_BYTES_MAX: Final = 1 << 18
"""Bytes that may wait for a slow reader before its writer is paused, as between any two sockets."""

FindPath = Callable[[str, str], Path]


class RelaySide(asyncio.Protocol):
    """One of the two connections of a relay: receives bytes and delivers them to the other one."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.splitter = Splitter()
        self.transport: asyncio.Transport | None = None
        self.late: list[tuple[float, int, bytes]] = []
        """Pieces on their way to the other side: time of arrival, a number, the bytes."""
        self.early = b""
        """Bytes to be sent here before the connection is established."""
        self.was_made = False
        self.number = 0
        self.last_due = 0.0
        self.timer: asyncio.TimerHandle | None = None

    @property
    def other(self) -> RelaySide:
        """The other connection of the relay."""
        return self.relay.back if self is self.relay.front else self.relay.front

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the bytes that waited for the connection."""
        self.transport = cast("asyncio.Transport", transport)
        self.was_made = True
        self.transport.set_write_buffer_limits(BUFFER_BYTES_MAX)
        self.write(self.early)
        if self.relay.ended:
            self.close()

    def data_received(self, data: bytes) -> None:
        """Forward the received pieces, subject to the faults of their path."""
        now: list[bytes] = []
        for part, piece in self.splitter.feed(data):
            if part is Part.SETUP:
                now.append(piece)
                continue
            path = self.relay.path_of(self, piece)
            if path.faults is WHOLE and not self.late:
                path.counts.messages += 1
                path.counts.bytes += len(piece)
                now.append(piece)
            else:
                self.send_late(path, piece)
        if now:
            self.other.write(b"".join(now))

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side too, unless the path from here to there is cut."""
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()
        self.relay.lost(self)

    def pause_writing(self) -> None:
        """Pause the writer, because the reader here is slow."""
        if (writer := self.other.transport) is not None:
            writer.pause_reading()

    def resume_writing(self) -> None:
        """Let the writer continue, because the reader here has caught up."""
        if (writer := self.other.transport) is not None:
            writer.resume_reading()

    # --- delivering --------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection has ended."""
        if self.transport is not None:
            self.transport.write(data)
        elif not self.was_made:
            self.early += data

    def send_late(self, path: Path, piece: bytes) -> None:
        """Draw the deliveries of a message from its path, and plan them."""
        now = self.relay.loop.time()
        for copy in path.fate(len(piece)):
            due = now + copy.seconds
            if copy.in_order:
                due = self.last_due = max(due, self.last_due)
            self.number += 1
            heapq.heappush(self.late, (due, self.number, piece))
        self.deliver_due()

    def deliver_due(self) -> None:
        """Deliver the pieces that are due, and set the timer for the next one."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        late, loop = self.late, self.relay.loop
        while late and late[0][0] <= loop.time():
            self.other.write(heapq.heappop(late)[2])
        if late:
            self.timer = loop.call_at(late[0][0], self.deliver_due)

    def close(self) -> None:
        """Close the connection; waiting bytes are still sent."""
        if self.transport is not None:
            self.transport.close()


class Relay:
    """A connection to `target` through the proxy; its first message names its source.

    A connection that breaks on one side is broken on the other, so that ZeroMQ's monitors report the end of a node. If
    the path from the dead to the living side is cut, this happens when the path heals.
    """

    def __init__(self, target: str, find_path: FindPath, on_end: Callable[[Relay], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.target = target
        self.source = ""
        self.began_cut = False
        """Whether it was made while its path was cut, which no real network would allow."""
        self.find_path = find_path
        self.on_end = on_end
        self.ended = False
        self.front = RelaySide(self)
        """To the connecting side."""
        self.back = RelaySide(self)
        """To the real node."""

    def path_of(self, side: RelaySide, piece: bytes) -> Path:
        """The path of a message that arrived on that side."""
        if not self.source and side is self.front:
            self.source = sender_of(piece) or CLIENT
            path = self.find_path(self.source, self.target)
            path.counts.connections += 1
            self.began_cut = path.faults.cut
        return self.path_from(side)

    def path_from(self, side: RelaySide) -> Path:
        """The path that begins at that side."""
        source = self.source or CLIENT
        return self.find_path(source, self.target) if side is self.front else self.find_path(self.target, source)

    def is_between(self, one: str, other: str) -> bool:
        """Whether it connects these two nodes."""
        return {self.source, self.target} == {one, other}

    def lost(self, side: RelaySide) -> None:
        """Handle the end of one side: close the other, unless the path to it is cut."""
        if side.other.transport is None:
            self.ended = True
            self.on_end(self)
        elif not self.path_from(side).faults.cut:
            side.other.close()

    def healed(self) -> None:
        """Break connections that a cut kept: those whose other side has ended, and those made during the cut."""
        if self.began_cut and not self.path_from(self.front).faults.cut:
            self.close()
            return
        for side in (self.front, self.back):
            gone = side.was_made and side.transport is None
            if gone and not self.path_from(side).faults.cut:
                side.other.close()

    def close(self) -> None:
        """Break the connection on both sides; waiting bytes are still sent."""
        self.front.close()
        self.back.close()

    def abort(self) -> None:
        """Break the connection without sending waiting bytes."""
        self.ended = True  # a side that is yet to be established ends then, as right after `accept`
        for side in (self.front, self.back):
            if side.transport is not None:
                side.transport.abort()
