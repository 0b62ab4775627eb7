"""The poller of a thread with ZeroMQ sockets: one system call says which of them may have something to be read.

Whatever libzmq is asked about a socket, it asks the kernel again, with two system calls, and its own poller asks about
every socket twice. This one waits for the sockets' descriptors (ZMQ_FD) by epoll, and asks libzmq only about sockets
whose descriptor says nothing certain.

Such a descriptor is readable while libzmq has a note for the socket that no call has taken. *Any* call may take it: if
a send takes the note of a frame that has just arrived, the descriptor never tells of that frame. Hence the rule:

    After a call on a socket its descriptor counts only once libzmq has said since that nothing is to be read.

A socket of which libzmq has not said so is *unsure*: from `register` on, once it was found to have something, and after
`used`. `wait` asks libzmq about every unsure socket before it sleeps. So whoever was told of a socket may leave
something unread, but whoever sends on a socket, connects it or asks for its state must call `used` afterwards;
otherwise a frame may wait until the next one arrives.
"""

from __future__ import annotations

import select
from typing import Any, Final

import zmq

from forge_consensus.process.green import original_epoll

EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)

Socket = zmq.Socket[Any]


class SocketPoller:
    """The sockets and files of one thread, which it reads from. Nothing here waits for room to send."""

    def __init__(self) -> None:
        self.epoll = original_epoll()
        self.descriptors: dict[Socket, int] = {}
        self.watched: dict[int, Socket | int] = {}
        """By descriptor: the socket, or the file itself."""
        self.unsure: set[Socket] = set()
        """The sockets whose descriptors may say nothing of what can be read."""

    def register(self, socket: Socket) -> None:
        """Watch a socket."""
        descriptor = int(socket.getsockopt(zmq.FD))
        self.descriptors[socket] = descriptor
        self.watched[descriptor] = socket
        self.unsure.add(socket)
        self.epoll.register(descriptor, select.EPOLLIN)

    def register_file(self, descriptor: int) -> None:
        """Watch a file, whose descriptor is named by `wait` for as long as it can be read."""
        self.watched[descriptor] = descriptor
        self.epoll.register(descriptor, select.EPOLLIN)

    def unregister(self, socket: Socket) -> None:
        """Watch a socket no more. Call it before the socket is closed, because its descriptor may be another's then."""
        descriptor = self.descriptors.pop(socket)
        del self.watched[descriptor]
        self.unsure.discard(socket)
        self.epoll.unregister(descriptor)

    def used(self, socket: Socket) -> None:
        """Note a call on a socket that may have taken its note; see the rule above."""
        self.unsure.add(socket)

    def has_more(self, socket: Socket) -> bool:
        """Whether something can be read from a socket; if not, its descriptor tells of what comes."""
        if int(socket.getsockopt(EVENTS)) & POLLIN:
            self.unsure.add(socket)
            return True
        self.unsure.discard(socket)
        return False

    def wait(self, seconds: float) -> list[Socket | int]:
        """Wait until something can be read; returns the sockets that may have it, and the descriptors of files.

        Args:
            seconds: how long to wait at most, rounded up to milliseconds; 0 only looks.

        """
        found: list[Socket | int] = []
        for socket in list(self.unsure):
            if self.has_more(socket):
                found.append(socket)
        for descriptor, _ in self.epoll.poll(0 if found else seconds):
            watched = self.watched[descriptor]
            if watched not in found:
                found.append(watched)
        return found

    def close(self) -> None:
        """Watch nothing any more; the sockets stay as they are. A child process closes its copy with this."""
        self.epoll.close()
