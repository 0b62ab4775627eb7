"""A node's metrics, from its engine to a port for Prometheus; who opens a node with an address for them gets it."""

from __future__ import annotations

from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, Final

from prometheus_client import ProcessCollector

from forge_consensus.actors.messages import GetStatus
from forge_consensus.actors.transport.zeromq import LocalConnection, ZeroMqBase
from forge_consensus.events.metrics.metrics import GoOriginalMetrics, NodeMetrics
from forge_consensus.events.metrics.server import MetricsServer, serve
from forge_consensus.process.log import LogLines
from forge_consensus.version import __version__

LINES = LogLines(__name__)

SAMPLE_SECONDS_MAX: Final = 1.0
"""A node that does not answer a scrape by then is told to be not responding; Prometheus itself waits 10 s."""


class CountedMetrics:
    """The metrics of one node, counted until they are closed. Begin before the node runs.

    Args:
        base: the node's system base.
        address: where they are served as `http://ADDRESS/metrics`; None for nowhere.

    Raises `InvalidConfigError` and `TransportUnavailableError` as `serve` does.

    """

    def __init__(self, base: ZeroMqBase, address: str | None) -> None:
        identity = base.engine.ledger.identity
        self.base = base
        self.server: MetricsServer | None = None
        self.metrics = NodeMetrics(
            base.bus, self.sample, node=identity.node_id, cluster=identity.cluster_id, version=__version__
        )
        ProcessCollector(registry=self.metrics.registry)
        if address is not None:
            try:
                self.server = serve(self.metrics.registry, address, go=GoOriginalMetrics(self.metrics).registry)
            except BaseException:
                self.metrics.close()
                raise
            LINES.info("{}: metrics at http://{}/metrics", identity.node_id, self.server.address)
        base.engine.observation.observe(self.metrics.observe_turn)

    @property
    def address(self) -> str:
        """HOST:PORT where they are served, "" for nowhere."""
        return "" if self.server is None else self.server.address

    def sample(self) -> Mapping[str, Any]:
        """Ask the node for its status, by a message like any client's, so nothing of it is read while it changes.

        Raises `NotStartedError` from a node that has stopped, `queue.Empty` when it does not answer in time.
        """
        answers: SimpleQueue[Any] = SimpleQueue()
        connection = LocalConnection(self.base)
        connection.connect(lambda message, request: answers.put(message))
        engine = self.base.engine
        waiting = len(self.base.inbox) + len(engine.mailbox.later)
        connection.send(GetStatus(), 1)
        fields: Mapping[str, Any] = answers.get(timeout=SAMPLE_SECONDS_MAX).fields
        return {**fields, "mailbox_depth": waiting}

    def close(self) -> None:
        """Serve and count no more."""
        self.base.engine.observation.observe(None)
        self.metrics.close()
        if self.server is not None:
            self.server.close()
