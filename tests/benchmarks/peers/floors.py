"""What no system on this machine can beat: the times of a flush, of a commit of LMDB, and of a round trip."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import zmq

from forge_consensus.checks.disk import measure_commits, timed
from forge_consensus.checks.latencies import Latencies
from tests.worlds.source_tree import ROOT

APPENDED_BYTES: Final = 4096
MESSAGE: Final = b"x" * 128
ECHO_BYTES: Final = 4096
FLUSH: Final = "append of 4 KiB and fdatasync"
COMMIT: Final = "durable commit of LMDB"
TCP: Final = "round trip over a TCP socket, in Python"
ZEROMQ: Final = "round trip over ZeroMQ, in Python"


def measure_floors(folder: Path, seconds: float) -> dict[str, Latencies]:
    """Return how long each operation takes, one after the other and each for so many seconds, by its name.

    Args:
        folder: where what is written to disk goes; it is removed.
        seconds: how long each is measured.

    Raises `OSError`.

    """
    with TemporaryDirectory(prefix="floors-", dir=folder) as own:
        return {
            FLUSH: flushes(Path(own) / "appended", seconds),
            COMMIT: measure_commits(Path(own) / "tables", seconds),
            TCP: round_trips_tcp(seconds),
            ZEROMQ: round_trips_zeromq(seconds),
        }


def flushes(file: Path, seconds: float) -> Latencies:
    """Append to a file and flush each time, as a log without any preparation does."""
    data = os.urandom(APPENDED_BYTES)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(number: int) -> None:
        os.write(descriptor, data)
        os.fdatasync(descriptor)

    try:
        return timed(append, seconds)
    finally:
        os.close(descriptor)


def round_trips_tcp(seconds: float) -> Latencies:
    """Send a message to another process and await it, on one connection."""
    with echo("tcp") as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(number: int) -> None:
            connection.sendall(MESSAGE)
            connection.recv(ECHO_BYTES)

        return timed_when_warm(ask, seconds)


def round_trips_zeromq(seconds: float) -> Latencies:
    """The same from a DEALER to a ROUTER, as clients and nodes have them."""
    with echo("zeromq") as port, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")

        def ask(number: int) -> None:
            dealer.send(MESSAGE)
            dealer.recv()

        return timed_when_warm(ask, seconds)


def timed_when_warm(ask: Callable[[int], None], seconds: float) -> Latencies:
    """Time an operation whose first time makes a connection."""
    ask(0)
    return timed(ask, seconds)


@contextmanager
def echo(kind: str) -> Iterator[int]:
    """Another process that sends back what it gets; gives its port."""
    command = [sys.executable, "-m", "tests.benchmarks.peers.echo", kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "it is a pipe"
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
