"""A DEALER with its monitor: one outgoing connection, and reports whether it is established.

Nodes, clients and event feeds connect with it. ZeroMQ connects and reconnects by itself; the monitor reports when a
handshake succeeded and when the connection was lost.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import zmq

from forge_consensus.actors.transport.endpoint import url_of

NOBLOCK: Final = int(zmq.NOBLOCK)
HANDSHAKE: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
MADE_OR_LOST: Final = int(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
"""The events that a monitor reports of a DEALER. Only a handshake, not a mere TCP connection, proves a live
receiver."""
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


def open_dealer(
    context: zmq.Context[Socket], address: str, options: DealerOptions, owner: str
) -> tuple[Socket, Socket]:
    """Begin to connect to an address (``HOST:PORT`` or ``ipc://PATH``); returns the DEALER and its monitor.

    `owner` names the connecting side in the monitor's address. Raises `zmq.ZMQError`, with both sockets closed, if
    `address` is malformed.
    """
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
    monitor = open_monitor(dealer, MADE_OR_LOST, owner)
    try:
        dealer.connect(url_of(address))
    except zmq.ZMQError:
        close_watched(dealer, monitor)
        raise
    return dealer, monitor


def open_monitor(socket: Socket, events: int, owner: str) -> Socket:
    """Open the monitor that reports these events of a socket.

    It has a name of our own, because the default name is made from a file descriptor and clashes when that is reused.
    """
    return socket.get_monitor_socket(events, f"inproc://forge-{owner}-{os.getpid()}-{next(MONITOR_NUMBERS)}")


def monitored(monitor: Socket) -> Iterator[bool]:
    """Yield the events that a monitor has recorded: True for an established connection, False for any other."""
    while True:
        try:
            event = monitor.recv_multipart(NOBLOCK)[0]
        except zmq.Again:
            return
        yield int.from_bytes(event[:2], "little") == HANDSHAKE


def close_watched(socket: Socket, monitor: Socket) -> None:
    """Close a socket and its monitor; unsent frames are dropped."""
    socket.disable_monitor()
    monitor.close(0)
    socket.close(0)
