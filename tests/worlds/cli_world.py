"""A real node on a thread and the command line in this process, for tests of the command line."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from forge_consensus.cli.main import cli
from forge_consensus.config.node import NodeSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.service.node import Node
from forge_consensus.testing.local.ports import free_ports

NO_CONTEXTS = {
    "FORGE_CONSENSUS_CONTEXT": None,
    "FORGE_CONSENSUS_CONTEXTS": str(Path(__file__).with_name("no-contexts.yaml")),
}
"""The contexts of whoever runs the tests are none of theirs; a file of this name is not there."""


@dataclass
class Shell:
    """The command line with the endpoints of a running node."""

    address: str

    def run(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> Result:
        """Run a command, as a shell would."""
        known = {"FORGE_CONSENSUS_ENDPOINTS": self.address} if self.address else {}
        return CliRunner().invoke(
            cli, arguments, input=stdin, env={**NO_CONTEXTS, **known, **environment}, prog_name="forge-consensus"
        )

    def json(self, *arguments: str) -> Any:
        """Run a command and return its output, parsed as JSON."""
        return json.loads(self.run(*arguments, "-o", "json").stdout)


@contextlib.contextmanager
def running_node(folder: Path, **settings: Any) -> Iterator[Node]:
    """A node on a thread of its own, stopped at the end."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    node = Node(NodeSettings("n1", "tests", address, {"n1": address}, folder, **settings), EventBus())
    node.open()
    thread = threading.Thread(target=node.run, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        node.stop()
        thread.join(10)
        node.close()
        assert not thread.is_alive()


def dead_address() -> str:
    """An address at which no process listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"
