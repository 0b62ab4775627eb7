"""Liveness: the options by which a socket notices that the other end is gone, although nothing says so.

A firewall that forgets a connection, a cable, a host without power: TCP would go on waiting for a quarter of an hour,
and after an outage its pauses between attempts are about as long as the outage was. So every socket of a node, a client
and a feed has these bounds, all made from one time, the link timeout:

* Every end that connects sends a ping each quarter of it, so there is always something to acknowledge.
* A connection on which the other *host* acknowledges nothing for one link timeout is given up (TCP_USER_TIMEOUT). The
  host answers for a process that is busy or stopped, and a slow link acknowledges little by little, so neither is taken
  for dead.
* Connecting may take half of it, and the handshake three of them.
* A process, or whatever stands before it, that has sent nothing for five link timeouts is left, and so is a client that
  has sent no ping for that long. Pings are sent and answered by ZeroMQ's own thread, so a thread that computes is no
  silence.
"""

from __future__ import annotations

from typing import Any, Final

import zmq

LINK_TIMEOUT_SECONDS: Final = 2.0
"""The link timeout of sockets that have no setting for it."""
PINGS: Final = 4
"""So many pings are sent in one link timeout."""
CONNECT_PART: Final = 2
HANDSHAKE_TIMES: Final = 3
SILENCE_TIMES: Final = 5
KEEPALIVE_COUNT: Final = 3


def watch_other_end(socket: zmq.Socket[Any], seconds: float) -> None:
    """Set the options of a socket that connects, for this link timeout."""
    ms = max(int(seconds * 1000), 1)
    silence = SILENCE_TIMES * ms
    for option, value in (
        (zmq.HEARTBEAT_IVL, max(ms // PINGS, 1)),
        (zmq.HEARTBEAT_TIMEOUT, silence),
        (zmq.HEARTBEAT_TTL, silence),
        (zmq.TCP_MAXRT, ms),
        (zmq.CONNECT_TIMEOUT, max(ms // CONNECT_PART, 1)),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMES * ms),
    ):
        socket.setsockopt(option, value)


def watch_those_who_connect(socket: zmq.Socket[Any], seconds: float) -> None:
    """Set the options of a socket that listens, for this link timeout.

    The pings of those who connect carry how long they may be silent. The kernel's probes are for those that send none.
    """
    ms = max(int(seconds * 1000), 1)
    for option, value in (
        (zmq.TCP_MAXRT, ms),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMES * ms),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, max(SILENCE_TIMES * ms // 1000, 1)),
        (zmq.TCP_KEEPALIVE_INTVL, max(ms // 1000, 1)),
        (zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT),
    ):
        socket.setsockopt(option, value)
