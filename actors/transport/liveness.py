"""Liveness: the options by which a socket notices that the other end is gone, although nothing says so.

A firewall that forgets a connection, a cable, a host without power: TCP would go on waiting for a quarter of an hour,
and after an outage its pauses between attempts are about as long as the outage was. So every socket of a node, a client
and a feed has these bounds, all made from one time, the link timeout:

* A connection on which the other *host* acknowledges nothing for one link timeout is given up (TCP_USER_TIMEOUT). A
  slow link acknowledges little by little, and the host answers for a process that is busy or stopped, as long as it has
  room for what is sent. Where nothing is sent, the kernel's probes are what the other host acknowledges.
* Connecting may take half of it, and the handshake three of them.
* A process, or whatever stands before it, that has answered nothing to five pings, one each link timeout, is left.
  These pings are ours (`Link.ping`), and a node's thread answers them.

ZeroMQ has pings of its own, and none of ours may use them: libzmq 4.3.5 aborts the process (``Assertion failed:
!_io_error``) if a connection breaks whose frames wait to be read while a ping is among them, so a peer that is killed
would end a node that is busy.
"""

from __future__ import annotations

from typing import Any, Final

import zmq

LINK_TIMEOUT_SECONDS: Final = 2.0
"""The link timeout of sockets that have no setting for it."""
CONNECT_PART: Final = 2
HANDSHAKE_TIMES: Final = 3
SILENCE_TIMES: Final = 5
"""After so many pings without an answer a link is begun anew."""
KEEPALIVE_COUNT: Final = 3
PING: Final = b""
"""An empty frame: a ping, and its answer. No other frame is empty."""


def watch_other_end(socket: zmq.Socket[Any], seconds: float) -> None:
    """Set the options of a socket that connects, for this link timeout.

    The kernel counts in seconds, so a host that vanished while nothing was sent is noticed after one link timeout and
    up to two seconds more.
    """
    ms = max(int(seconds * 1000), 1)
    for option, value in (
        (zmq.TCP_MAXRT, ms),
        (zmq.CONNECT_TIMEOUT, max(ms // CONNECT_PART, 1)),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMES * ms),
        *probes(1, 1),
    ):
        socket.setsockopt(option, value)


def watch_those_who_connect(socket: zmq.Socket[Any], seconds: float) -> None:
    """Set the options of a socket that listens, for this link timeout."""
    ms = max(int(seconds * 1000), 1)
    for option, value in (
        (zmq.TCP_MAXRT, ms),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMES * ms),
        *probes(max(SILENCE_TIMES * ms // 1000, 1), max(ms // 1000, 1)),
    ):
        socket.setsockopt(option, value)


def probes(idle_seconds: int, interval_seconds: int) -> list[tuple[int, int]]:
    """The options by which the kernel asks the other host after so many idle seconds, and again at such intervals."""
    return [
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, idle_seconds),
        (zmq.TCP_KEEPALIVE_INTVL, interval_seconds),
        (zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT),
    ]
