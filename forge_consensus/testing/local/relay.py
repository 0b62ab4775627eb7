"""A relay: one connection through the proxy, made of one to whoever connected and one to the real node."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, cast

from forge_consensus.testing.local.network_paths import WHOLE, Path
from forge_consensus.testing.local.zmtp import Part, Splitter, sender_of

CLIENT: Final = "client"
"""The name of who is no node."""
BUFFER_BYTES_MAX: Final = 1 << 18
"""What waits for a slow reader before the writer is held up too, as between any two sockets."""

FindPath = Callable[[str, str], Path]


class Lane(asyncio.Protocol):
    """One of the two connections of a relay: takes what comes in here and delivers it to the other one."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.splitter = Splitter()
        self.transport: asyncio.Transport | None = None
        self.late: list[tuple[float, int, bytes]] = []
        """What is on its way to the other side: when it arrives, a number, the bytes."""
        self.early = b""
        """What was to be sent from here before it stood."""
        self.was_made = False
        self.number = 0
        self.last_due = 0.0
        self.timer: asyncio.TimerHandle | None = None

    @property
    def other(self) -> Lane:
        """The other connection of the relay."""
        return self.relay.back if self is self.relay.front else self.relay.front

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self.transport = cast("asyncio.Transport", transport)
        self.was_made = True
        self.transport.set_write_buffer_limits(BUFFER_BYTES_MAX)
        self.write(self.early)
        if self.relay.ended:
            self.close()

    def data_received(self, data: bytes) -> None:
        """Pass on what came in, as far as its path lets it."""
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
        """Whoever was here is gone; the other side learns it, unless that very path is cut."""
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()
        self.relay.lost(self)

    def pause_writing(self) -> None:
        """The reader here is slow: whoever writes to it must wait."""
        if (writer := self.other.transport) is not None:
            writer.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        if (writer := self.other.transport) is not None:
            writer.resume_reading()

    # --- delivering --------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, if anybody is still here."""
        if self.transport is not None:
            self.transport.write(data)
        elif not self.was_made:
            self.early += data

    def send_late(self, path: Path, piece: bytes) -> None:
        """Let the path decide when a message arrives, and how often."""
        now = self.relay.loop.time()
        for copy in path.fate(len(piece)):
            due = now + copy.seconds
            if copy.in_order:
                due = self.last_due = max(due, self.last_due)
            self.number += 1
            heapq.heappush(self.late, (due, self.number, piece))
        self.deliver_due()

    def deliver_due(self) -> None:
        """Deliver what should have arrived by now, and come back for the rest."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        late, loop = self.late, self.relay.loop
        while late and late[0][0] <= loop.time():
            self.other.write(heapq.heappop(late)[2])
        if late:
            self.timer = loop.call_at(late[0][0], self.deliver_due)

    def close(self) -> None:
        """Let go of it."""
        if self.transport is not None:
            self.transport.close()


class Relay:
    """A connection to `target` through the proxy; who made it is known from its first message.

    A connection that breaks on one side is broken on the other, so that ZeroMQ's monitors tell the truth: a node that
    dies is seen to be gone. Where the path from the dead to the living is cut, it is seen when that is healed.
    """

    def __init__(self, target: str, find_path: FindPath, on_end: Callable[[Relay], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.target = target
        self.source = ""
        self.began_cut = False
        """It was made while its path was cut, which no real network would have let it."""
        self.find_path = find_path
        self.on_end = on_end
        self.ended = False
        self.front = Lane(self)
        """To who connected."""
        self.back = Lane(self)
        """To the real node."""

    def path_of(self, lane: Lane, piece: bytes) -> Path:
        """The path that a message takes which came in on that lane."""
        if not self.source and lane is self.front:
            self.source = sender_of(piece) or CLIENT
            path = self.find_path(self.source, self.target)
            path.counts.connections += 1
            self.began_cut = path.faults.cut
        return self.path_from(lane)

    def path_from(self, lane: Lane) -> Path:
        """The path that begins at that lane."""
        source = self.source or CLIENT
        return self.find_path(source, self.target) if lane is self.front else self.find_path(self.target, source)

    def is_between(self, one: str, other: str) -> bool:
        """Whether it connects these two."""
        return {self.source, self.target} == {one, other}

    def lost(self, lane: Lane) -> None:
        """One side is gone."""
        if lane.other.transport is None:
            self.ended = True
            self.on_end(self)
        elif not self.path_from(lane).faults.cut:
            lane.other.close()

    def healed(self) -> None:
        """Paths may be whole again: who was left alone learns of it, and who connected meanwhile connects anew."""
        if self.began_cut and not self.path_from(self.front).faults.cut:
            self.close()
            return
        for lane in (self.front, self.back):
            gone = lane.was_made and lane.transport is None
            if gone and not self.path_from(lane).faults.cut:
                lane.other.close()

    def close(self) -> None:
        """Break it, on both sides."""
        self.front.close()
        self.back.close()

    def abort(self) -> None:
        """Break it without sending what waits."""
        self.ended = True  # a side that is yet to be made, as right after it was accepted, ends then
        for lane in (self.front, self.back):
            if lane.transport is not None:
                lane.transport.abort()
