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


class ServedMetrics:
    """The metrics of one node at `http://ADDRESS/metrics`, until they are closed.

    Raises `InvalidConfigError` and `TransportUnavailableError` as `serve` does. Begin before the node runs.
    """

    def __init__(self, base: ZeroMqBase, address: str) -> None:
        identity = base.engine.ledger.identity
        self.base = base
        self.metrics = NodeMetrics(
            base.bus, self.sample, node=identity.node_id, cluster=identity.cluster_id, version=__version__
        )
        ProcessCollector(registry=self.metrics.registry)
        try:
            self.server: MetricsServer = serve(
                self.metrics.registry, address, go=GoOriginalMetrics(self.metrics).registry
            )
        except BaseException:
            self.metrics.close()
            raise
        base.engine.observation.observe(self.metrics.observe_turn)
        LINES.info("{}: metrics at http://{}/metrics", identity.node_id, self.address)

    @property
    def address(self) -> str:
        """HOST:PORT where they are served."""
        return self.server.address

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
        self.server.close()
