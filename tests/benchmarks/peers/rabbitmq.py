"""RabbitMQ: a quorum queue, whose Raft flushes its log before it confirms a message, loaded by a client for Go."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from forge_consensus.testing.local.ports import free_ports
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.go_programs import client_command, go_missing
from tests.benchmarks.peers.load import LoadProgram
from tests.benchmarks.peers.system import NAMES, ProcessSystem, files_missing, package_version, programs_missing

PROGRAMS: Final = "/usr/lib/rabbitmq/bin"
PLACES: Final = "epmd"
"""The process that tells nodes of Erlang each other's ports."""
ASK_SECONDS_MAX: Final = 60


class Rabbitmq(ProcessSystem):
    """Three nodes of RabbitMQ, with a process of their own that knows their ports."""

    name: ClassVar = "rabbitmq"
    title: ClassVar = "RabbitMQ quorum queue"
    durability: ClassVar = "on the disks of a majority"
    client: ClassVar = "amqp with confirms, in Go"
    install: ClassVar = (
        "apt-get install rabbitmq-server golang-go golang-github-streadway-amqp-dev (and stop the service that starts)"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ports = free_ports(2 * len(NAMES) + 1)
        self.ports = dict(zip(NAMES, ports[: len(NAMES)], strict=True))
        self.peer_ports = dict(zip(NAMES, ports[len(NAMES) : -1], strict=True))
        self.places_port = ports[-1]
        self.members = {name: f"{name}-{ports[-1]}@localhost" for name in NAMES}

    @classmethod
    def missing(cls) -> str:
        """Return what is not installed."""
        libraries = go_missing("github.com/streadway/amqp")
        return ", ".join([*programs_missing(PLACES), *files_missing(f"{PROGRAMS}/rabbitmq-server"), *libraries])

    @classmethod
    def version(cls) -> str:
        """Return the version of the package."""
        return package_version("rabbitmq-server")

    def environment(self, name: str) -> Mapping[str, str]:
        """Return the variables that keep a node apart from any other on this machine."""
        own = str(self.folder / name)
        return {
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.places_port),
            "RABBITMQ_NODENAME": self.members[name],
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.ports[name]),
            "RABBITMQ_DIST_PORT": str(self.peer_ports[name]),
            "RABBITMQ_MNESIA_BASE": own,
            "RABBITMQ_LOG_BASE": own,
            "RABBITMQ_CONFIG_FILE": own,  # it adds .conf
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }

    def settings(self) -> str:
        """Return the configuration of all nodes: find each other at once, and use the disk whatever room it has."""
        found = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {member}\n"
            for number, member in enumerate(self.members.values(), 1)
        )
        return (
            f"cluster_formation.peer_discovery_backend = classic_config\n{found}"
            "cluster_formation.randomized_startup_delay_range.min = 0\n"
            "cluster_formation.randomized_startup_delay_range.max = 1\ndisk_free_limit.absolute = 1MB\n"
        )

    def start(self) -> None:
        """Start the nodes and wait until they are one cluster."""
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(f"MEASURED{self.places_port}")
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text("[].")
        for name in NAMES:
            (self.folder / f"{name}.conf").write_text(self.settings())
        self.launch(PLACES, [PLACES, "-port", str(self.places_port), "-address", "127.0.0.1"], {})
        super().start()

    def command(self, name: str) -> Sequence[str]:
        """Return the command line of a node."""
        return [f"{PROGRAMS}/rabbitmq-server"]

    def leader(self) -> str:
        """Return the node at which the queue is declared, and which leads it therefore; empty before all are there."""
        asked = [f"{PROGRAMS}/rabbitmqctl", "-q", "-n", self.members["n1"], "cluster_status", "--formatter", "json"]
        environment = {**os.environ, **self.environment("n1")}
        done = subprocess.run(
            asked, env=environment, capture_output=True, text=True, timeout=ASK_SECONDS_MAX, check=False
        )
        return "n1" if running_members(done.stdout) == set(self.members.values()) else ""

    def wait_for_leader(self) -> str:
        """Wait until all nodes are one cluster; then the node that leads is known and is not asked for again."""
        return "n1" if self.loaded else super().wait_for_leader()

    loaded = False
    """Whether a load has begun: asking takes seconds of processor time."""

    def flushes(self) -> int | None:
        """Return None: it does not tell."""
        return None

    def load(self, work: Work) -> LoadProgram:
        """Begin a load of the first node, which declares the queue there if there is none."""
        self.loaded = True
        command = client_command("rabbitmq.go", f"127.0.0.1:{self.ports['n1']}", work)
        return LoadProgram(command, self.log("load"), work.seconds)


def running_members(text: str) -> set[str]:
    """Return the nodes that run, as the status of a cluster in JSON has them; none if that is no such status."""
    try:
        return set(json.loads(text)["running_nodes"])
    except (ValueError, KeyError, TypeError):
        return set()
