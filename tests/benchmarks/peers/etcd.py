"""etcd with its defaults, which flush its log before each acknowledgement, loaded by its own client for Go."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from forge_consensus.testing.local.ports import free_ports
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.go_programs import client_command, go_missing
from tests.benchmarks.peers.load import LoadProgram
from tests.benchmarks.peers.system import NAMES, ProcessSystem, programs_missing, said_by

FLUSHES: Final = ("etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count")
"""The metrics that count flushes: of the log, and of the store behind it."""
ASK_SECONDS_MAX: Final = 2.0


class Etcd(ProcessSystem):
    """Three processes of etcd."""

    name: ClassVar = "etcd"
    title: ClassVar = "etcd"
    durability: ClassVar = "on the disks of a majority"
    client: ClassVar = "clientv3, in Go"
    reads: ClassVar = True
    install: ClassVar = "apt-get install etcd-server golang-go golang-etcd-server-dev"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ports = free_ports(2 * len(NAMES))
        self.ports = dict(zip(NAMES, ports[: len(NAMES)], strict=True))
        self.peer_ports = dict(zip(NAMES, ports[len(NAMES) :], strict=True))

    @classmethod
    def missing(cls) -> str:
        """Return what is not installed."""
        return ", ".join([*programs_missing("etcd"), *go_missing("go.etcd.io/etcd/clientv3")])

    @classmethod
    def version(cls) -> str:
        """Return the version of the server."""
        return said_by("etcd", "--version").rpartition(" ")[2]

    def command(self, name: str) -> Sequence[str]:
        """Return the command line of a node."""
        serves, for_peers = url(self.ports[name]), url(self.peer_ports[name])
        return [
            "etcd",
            *("--name", name, "--data-dir", str(self.folder / name), "--log-level", "error", "--logger", "zap"),
            *("--listen-client-urls", serves, "--advertise-client-urls", serves),
            *("--listen-peer-urls", for_peers, "--initial-advertise-peer-urls", for_peers),
            *("--initial-cluster", ",".join(f"{each}={url(port)}" for each, port in self.peer_ports.items())),
            *("--initial-cluster-state", "new"),
        ]

    def metrics(self, name: str) -> str:
        """Return the metrics of a node as it prints them. Raises `OSError`."""
        with urllib.request.urlopen(f"{url(self.ports[name])}/metrics", timeout=ASK_SECONDS_MAX) as answer:
            return str(answer.read().decode())

    def leader(self) -> str:
        """Return the node that leads; empty while none is known. Raises `OSError` while one does not answer."""
        leaders = [name for name in NAMES if metric(self.metrics(name), "etcd_server_is_leader")]
        return leaders[0] if leaders else ""

    def flushes(self) -> int | None:
        """Return how often the leader has flushed its log and its store."""
        text = self.metrics(self.wait_for_leader())
        return sum(metric(text, each) for each in FLUSHES)

    def load(self, work: Work) -> LoadProgram:
        """Begin a load of the leader."""
        to = f"127.0.0.1:{self.ports[self.wait_for_leader()]}"
        return LoadProgram(client_command("etcd.go", to, work), self.log("load"), work.seconds)


def url(port: int) -> str:
    """Return the address of a port as etcd wants it."""
    return f"http://127.0.0.1:{port}"


def metric(text: str, name: str) -> int:
    """Return the value of a metric without labels; 0 if it is not there."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0
