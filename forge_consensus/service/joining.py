"""Joining: what a new node learns from the cluster that it joins, and how it asks to become a member."""

from __future__ import annotations

from typing import Final

from forge_consensus.actors.messages import Members
from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.storage.ledger.configuration import Configuration

LINES = LogLines(__name__)

FIND_SECONDS: Final = 30.0
"""How long a new node looks for its cluster before it gives up."""
AGAIN_SECONDS: Final = 1.0
"""How long after a failure a node asks again to be added."""
LEARNER: Final = "learner"


def founded_with(settings: NodeSettings) -> Members:
    """What a member of the cluster behind `settings.join` tells of it.

    All its nodes have to agree on its id, on the configuration with which it began, and on the entries that it skips.

    Raises `InvalidConfigError` if the cluster has a member of this id, and the errors of `Client.members`, such as
    `ConnectionFailedError`.
    """
    with Client(settings.join or "", timeout=FIND_SECONDS, cluster_id=settings.cluster_id) as client:
        pending = client.members_query(None, None)
        client.driver.hand_over(pending)
        told = pending.result()
    members = Configuration.decode(told.configuration)
    if settings.node_id in members.nodes:
        raise InvalidConfigError(
            f"cluster {told.cluster!r} has a member {settings.node_id}, at {members.addresses[settings.node_id]}, and "
            "this node has an empty folder, so it does not know what that member promised: start it with the member's "
            f"folder. If that is lost, run forge-consensus members remove {settings.node_id} first"
        )
    return told


class Joining:
    """Asks the cluster to add this node, on a thread of its own, until it is a member or `stop` is called."""

    def __init__(self, settings: NodeSettings, address: str) -> None:
        self.settings = settings
        self.address = address
        self.ending = Latch()
        self.thread = ForgeThread(target=self.run, name="forge-join")

    def start(self) -> None:
        """Begin to ask, on the thread."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread after the request that is under way; does not wait for it."""
        self.ending.set()

    def run(self) -> None:
        """Ask until it is done. The cluster does the rest, so nothing waits for this."""
        settings = self.settings
        while not self.ending.is_set():
            try:
                with Client(settings.join or "", cluster_id=settings.cluster_id) as client:
                    if client.members().part_of(settings.node_id):
                        return
                    client.add_node(settings.node_id, self.address, learner=settings.join_as == LEARNER, wait=False)
                LINES.info("the cluster was asked to add this node as a {}, and does", settings.join_as)
            except ConsensusError as error:
                LINES.warning("this node is no member yet, and asks again to be added: {}", error)
            self.ending.wait(AGAIN_SECONDS)
