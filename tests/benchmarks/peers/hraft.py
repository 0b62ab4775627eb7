"""hashicorp/raft with its log in BoltDB, which flushes twice for each transaction, in batches as large as it allows."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from forge_consensus.testing.local.ports import free_ports
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.go_programs import client_command, go_missing, go_program
from tests.benchmarks.peers.load import LoadProgram
from tests.benchmarks.peers.system import NAMES, ProcessSystem, package_version

LIBRARIES: Final = ("github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb")
ASK_SECONDS_MAX: Final = 2.0
LENGTH_BYTES: Final = 4


class Hraft(ProcessSystem):
    """Three processes of a store of keys and values on the library: `hraft_node.go`."""

    name: ClassVar = "hraft"
    title: ClassVar = "hashicorp/raft"
    durability: ClassVar = "on the disks of a majority"
    client: ClassVar = "pipelined connection, in Go"
    install: ClassVar = (
        "apt-get install golang-go golang-github-hashicorp-raft-dev golang-github-hashicorp-raft-boltdb-dev"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ports = free_ports(2 * len(NAMES))
        self.ports = dict(zip(NAMES, ports[: len(NAMES)], strict=True))
        self.peer_ports = dict(zip(NAMES, ports[len(NAMES) :], strict=True))

    @classmethod
    def missing(cls) -> str:
        """Return what is not installed."""
        return ", ".join(go_missing(*LIBRARIES))

    @classmethod
    def version(cls) -> str:
        """Return the version of the library, as Debian names it."""
        return package_version("golang-github-hashicorp-raft-dev")

    def command(self, name: str) -> Sequence[str]:
        """Return the command line of a node. Raises `LoadFailedError` if it cannot be built."""
        peers = ",".join(f"{each}=127.0.0.1:{port}" for each, port in self.peer_ports.items())
        options = {"id": name, "serves": f"127.0.0.1:{self.ports[name]}", "data": self.folder / name, "peers": peers}
        return [go_program("hraft_node.go"), *(f"-{each}={value}" for each, value in options.items())]

    def state(self, name: str) -> dict[str, Any]:
        """Return what a node says of itself. Raises `OSError`."""
        with socket.create_connection(("127.0.0.1", self.ports[name]), ASK_SECONDS_MAX) as connection:
            connection.sendall((1).to_bytes(LENGTH_BYTES) + b"S")
            with connection.makefile("rb") as answers:
                body = answers.read(int.from_bytes(answers.read(LENGTH_BYTES)))
        if not body:
            raise ConnectionError(f"{name} ended the connection")
        found: dict[str, Any] = json.loads(body)
        return found

    def leader(self) -> str:
        """Return the node that leads; empty while none is known. Raises `OSError` while one does not answer."""
        leaders = [name for name in NAMES if self.state(name)["leads"]]
        return leaders[0] if leaders else ""

    def flushes(self) -> int | None:
        """Return how often the leader has flushed its log."""
        return int(self.state(self.wait_for_leader())["flushes"])

    def load(self, work: Work) -> LoadProgram:
        """Begin a load of the leader."""
        to = f"127.0.0.1:{self.ports[self.wait_for_leader()]}"
        return LoadProgram(client_command("hraft_client.go", to, work), self.log("load"), work.seconds)
