"""A process that sends back what it gets: ``python -m tests.benchmarks.peers.echo tcp|zeromq`` prints its port."""

from __future__ import annotations

import socket
import sys

import zmq

RECEIVED_BYTES = 4096


def serve_tcp() -> None:
    """Serve one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(RECEIVED_BYTES):
                connection.sendall(data)


def serve_zeromq() -> None:
    """Serve until this process is ended."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        print(router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
        while True:
            router.send_multipart(router.recv_multipart())


if __name__ == "__main__":
    {"tcp": serve_tcp, "zeromq": serve_zeromq}[sys.argv[1]]()
