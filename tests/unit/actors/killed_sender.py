"""A node that reads the frames of a process only once that was killed; it ends with 0 unless libzmq aborts it.

Run as a program, because a regression aborts the process. With an argument it is the one to be killed.
"""

from __future__ import annotations

import subprocess
import sys
import time

import zmq

from forge_consensus.actors.transport.link import DealerOptions, Link
from forge_consensus.actors.transport.sockets import FRAMES_UNREAD_MAX, Sockets

ROUNDS = 3
FRAMES = 20 * FRAMES_UNREAD_MAX
"""More than wait at the node, so that it takes no more in."""
LINK_TIMEOUT = 0.1


def send_until_killed(address: str) -> None:
    """Send frames, with pings between them, and wait."""
    link = Link(zmq.Context(), address, DealerOptions(1 << 20, 4096, None, 20, 100, LINK_TIMEOUT), "sender")
    sent = 0
    while True:
        link.monitor.poll(2)
        list(link.changes())
        if link.wake_at <= time.monotonic():
            link.tick(time.monotonic())
        if link.stands and sent < FRAMES:
            link.socket.send(b"x" * 100, zmq.NOBLOCK)
            sent += 1
        if sent == FRAMES:
            print("sent", flush=True)
            sent += 1


def main() -> None:
    """Be the node."""
    sockets = Sockets("127.0.0.1:0", {}, 1 << 20, LINK_TIMEOUT, 100)
    for _ in range(ROUNDS):
        words = [sys.executable, __file__, sockets.bind_address]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "sent\n"
            sender.kill()
        end = time.monotonic() + 1.0
        taken = 0
        while time.monotonic() < end:
            if sockets.router.poll(100):
                taken += len(list(sockets.from_anyone(1000, 1 << 30)))
        assert taken > FRAMES_UNREAD_MAX, taken
    sockets.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        send_until_killed(sys.argv[1])
    main()
