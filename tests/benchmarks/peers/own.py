"""This system: three node processes with their defaults, and one client process in Python."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from forge_consensus.errors import ConsensusError
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.version import __version__
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.load import LoadFailedError, LoadProgram
from tests.benchmarks.peers.system import System


class Own(System):
    """A `LocalCluster` of processes.

    Args:
        folder: an empty folder for all that they write; whoever made it removes it.
        options: further arguments of the cluster, for other benchmarks that measure as this one does.

    """

    name: ClassVar = "own"
    title: ClassVar = "forge-consensus"
    durability: ClassVar = "on the disks of a majority"
    client: ClassVar = "Client, in Python"
    reads: ClassVar = True
    install: ClassVar = "make setup"

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder)
        self.cluster = LocalCluster(folder=folder, **options)

    @classmethod
    def missing(cls) -> str:
        """Return nothing: it is here."""
        return ""

    @classmethod
    def version(cls) -> str:
        """Return this version."""
        return __version__

    def start(self) -> None:
        """Start the cluster and wait for a leader. Raises `LoadFailedError`."""
        try:
            self.cluster.start()
            self.cluster.wait_until_settled()
        except ConsensusError as error:
            raise LoadFailedError(str(error)) from error

    def demand_running(self) -> None:
        """Raise `LoadFailedError` if a node has ended."""
        if ended := set(self.cluster.names) - set(self.cluster.running()):
            raise LoadFailedError(f"{', '.join(sorted(ended))} ended: {self.cluster.log_text(min(ended))[-400:]}")

    def stop(self) -> None:
        """Stop the cluster."""
        self.cluster.stop()

    def pids(self) -> Mapping[str, int]:
        """Return the process of each node."""
        return {name: self.cluster.process(name).pid for name in self.cluster.names}

    def leader(self) -> str:
        """Return the node that leads; empty while none is known."""
        return self.cluster.leader() or ""

    def flushes(self) -> int | None:
        """Return how often the leader has flushed its disk, as its status tells."""
        try:
            return int(self.cluster.status("leader")["flushes_total"])
        except ConsensusError:
            return None

    def load(self, work: Work) -> LoadProgram:
        """Begin a load by the client that programs use."""
        options = {
            "endpoints": ",".join(self.cluster.endpoints),
            "outstanding": work.outstanding,
            "seconds": work.seconds,
            "warm-seconds": work.warm_seconds,
            "value-bytes": work.value_bytes,
            "kind": work.kind,
        }
        command = [sys.executable, "-m", "tests.benchmarks.peers.own_load"]
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return LoadProgram([*command, *arguments], self.folder / "load.log", work.seconds)
