"""Forks: what a child process must let go of, because it belongs to the parent.

A child gets copies of all descriptors and no thread but one. A copy of a listening socket keeps the port in use, a copy
of a folder's lock keeps the lock, a copy of a pipe keeps it open, and a copy of a connection hides from the other end
that the parent has died. So every object that holds such things is told in the child that it was forked.

Nothing here calls ZeroMQ or LMDB in the child: their memory there is a copy of threads at work. Their descriptors are
found by the addresses of the sockets.
"""

from __future__ import annotations

import _socket
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

ANYWHERE = ("0.0.0.0", "[::]", "*")


class Forked(Protocol):
    """What is told in a child process."""

    def forked(self) -> None:
        """Let go of what belongs to the parent; called in the child, before anything else runs there."""


ALIVE: WeakSet[Any] = WeakSet()
KEPT: list[object] = []
"""Objects of ZeroMQ and LMDB of a parent. They are never collected, because that would call their libraries here."""


def tell_of_forks(one: Forked) -> None:
    """From now on call `one.forked()` in every forked child, for as long as the object lives."""
    ALIVE.add(one)


def tell_all() -> None:
    """Tell everyone, in the child."""
    for one in list(ALIVE):
        with suppress(Exception):  # the next one must be told too
            one.forked()


os.register_at_fork(after_in_child=tell_all)


def keep(*objects: object) -> None:
    """Keep these objects of the parent from being collected in this child."""
    KEPT.extend(objects)


def close_descriptor(descriptor: int) -> None:
    """Close this process' copy of a descriptor, if it has one."""
    with suppress(OSError):
        os.close(descriptor)


def close_sockets(*, bound: Collection[str] = (), dialled: Collection[str] = ()) -> int:
    """Close this process' copies of sockets, found by their addresses; return how many there were.

    Args:
        bound: addresses where the parent listens, HOST:PORT or ``ipc://PATH``: the listening sockets and the
            connections that were accepted there.
        dialled: addresses to which the parent connected; a name instead of a number finds nothing.

    """
    ports = {address.rpartition(":")[2] for address in bound if address.rpartition(":")[0] in ANYWHERE}
    closed = 0
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
        except OSError:  # the descriptor of the listing itself
            continue
        here, there = addresses_of(descriptor)
        if here in bound or here.rpartition(":")[2] in ports or there in dialled:
            close_descriptor(descriptor)
            closed += 1
    return closed


def addresses_of(descriptor: int) -> tuple[str, str]:
    """The addresses of a socket, its own and that of the other end; "" for what it has not."""
    try:
        socket = _socket.socket(fileno=descriptor)
    except OSError:
        return "", ""
    found = []
    try:
        for ask in (socket.getsockname, socket.getpeername):
            try:
                found.append(text_of(ask()))
            except OSError:
                found.append("")
    finally:
        socket.detach()
    return found[0], found[1]


def text_of(address: Any) -> str:
    """The address of a socket as HOST:PORT or ``ipc://PATH``; "" for any other."""
    if isinstance(address, str | bytes):
        path = os.fsdecode(address)
        return f"ipc://{path}" if path else ""
    if not isinstance(address, tuple) or len(address) not in (2, 4) or not isinstance(address[0], str):
        return ""
    host = address[0].removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
