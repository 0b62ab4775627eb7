"""ZooKeeper with its defaults, which flush its log before each acknowledgement, loaded by a client for Go."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from forge_consensus.testing.local.ports import free_ports
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.go_programs import client_command, go_missing
from tests.benchmarks.peers.load import LoadProgram
from tests.benchmarks.peers.system import NAMES, ProcessSystem, files_missing, package_version, programs_missing

JAR: Final = "/usr/share/java/zookeeper.jar"
LOG_SETTINGS: Final = """\
log4j.rootLogger=WARN, C
log4j.appender.C=org.apache.log4j.ConsoleAppender
log4j.appender.C.layout=org.apache.log4j.PatternLayout
"""
OUTSTANDING_MAX: Final = 5_000
"""How many requests a node lets wait before it reads no more from clients: more than any measurement has."""
ASK_SECONDS_MAX: Final = 2.0


class Zookeeper(ProcessSystem):
    """Three processes of ZooKeeper."""

    name: ClassVar = "zookeeper"
    title: ClassVar = "ZooKeeper"
    durability: ClassVar = "on the disks of a majority"
    client: ClassVar = "go-zookeeper, in Go"
    install: ClassVar = "apt-get install zookeeper golang-go golang-github-samuel-go-zookeeper-dev (Java comes with it)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ports = free_ports(3 * len(NAMES))
        count = len(NAMES)
        self.ports = dict(zip(NAMES, ports[:count], strict=True))
        others = zip(ports[count : 2 * count], ports[2 * count :], strict=True)
        self.peer_ports = dict(zip(NAMES, others, strict=True))

    @classmethod
    def missing(cls) -> str:
        """Return what is not installed."""
        libraries = go_missing("github.com/samuel/go-zookeeper/zk")
        return ", ".join([*programs_missing("java"), *files_missing(JAR), *libraries])

    @classmethod
    def version(cls) -> str:
        """Return the version of the package."""
        return package_version("zookeeper")

    def settings(self, name: str) -> str:
        """Return the configuration of a node."""
        servers = "".join(
            f"server.{number}=127.0.0.1:{one}:{other}\n"
            for number, (one, other) in enumerate(self.peer_ports.values(), 1)
        )
        return (
            f"dataDir={self.folder / name}\nclientPort={self.ports[name]}\nclientPortAddress=127.0.0.1\n"
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\nforceSync=yes\nmaxClientCnxns=0\nadmin.enableServer=false\n"
            f"globalOutstandingLimit={OUTSTANDING_MAX}\n4lw.commands.whitelist=mntr\n{servers}"
        )

    def start(self) -> None:
        """Write the configurations, start the nodes and wait until one leads."""
        for number, name in enumerate(NAMES, 1):
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / "myid").write_text(str(number))
            (self.folder / f"{name}.cfg").write_text(self.settings(name))
        (self.folder / "log4j.properties").write_text(LOG_SETTINGS)
        super().start()

    def command(self, name: str) -> Sequence[str]:
        """Return the command line of a node."""
        return [
            *("java", "-Xmx1g", "-cp", f"{self.folder}:{JAR}", "-Dzookeeper.jmx.log4j.disable=true"),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.folder / f"{name}.cfg"),
        ]

    def monitored(self, name: str) -> str:
        """Return what a node tells those who watch it. Raises `OSError`."""
        with socket.create_connection(("127.0.0.1", self.ports[name]), ASK_SECONDS_MAX) as connection:
            connection.sendall(b"mntr")
            with connection.makefile() as answer:
                return answer.read()

    def leader(self) -> str:
        """Return the node that leads; empty while none is known. Raises `OSError` while one does not answer."""
        leaders = [name for name in NAMES if field(self.monitored(name), "zk_server_state") == "leader"]
        return leaders[0] if leaders else ""

    def flushes(self) -> int | None:
        """Return how often the leader has flushed its log; None for a version that does not tell."""
        text = field(self.monitored(self.wait_for_leader()), "zk_cnt_fsynctime")
        return int(text) if text else None

    def load(self, work: Work) -> LoadProgram:
        """Begin a load of the leader."""
        to = f"127.0.0.1:{self.ports[self.wait_for_leader()]}"
        return LoadProgram(client_command("zookeeper.go", to, work), self.log("load"), work.seconds)


def field(text: str, name: str) -> str:
    """Return the value of a field of what a node tells; empty if it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition("\t")
        if key == name:
            return value.strip()
    return ""
