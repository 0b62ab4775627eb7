"""Joining: what a new node learns from the cluster that it joins, and how it asks to become a member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from forge_consensus.actors.messages import Members
from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import ClusterNotFoundError, ConsensusError, InvalidConfigError
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.security.credentials import Credentials
from forge_consensus.storage.ledger.configuration import LEARNER, Configuration

LINES = LogLines(__name__)

FIND_SECONDS: Final = 30.0
"""How long a new node looks for its cluster before it gives up."""
AGAIN_SECONDS: Final = 1.0
"""How long after a failure a node asks again to be added."""
MISSES: Final = 3
"""After so many looks in which a former member was none, it was removed."""
ACTIVE: Final = "active"
"""The status of a member that answers, see `forge_consensus.actors.runtime.status`."""


def founded_with(settings: NodeSettings, credentials: Credentials | None = None) -> Members:
    """What a member of the cluster behind `settings.join` tells of it.

    All its nodes have to agree on its id, on the configuration with which it began, and on the entries that it skips.

    Raises `InvalidConfigError` if it is another cluster than the node is of, or has a member of this id that is not to
    be removed, and the errors of `Client.members`, such as `ConnectionFailedError`.
    """
    with Client(
        settings.join or "", timeout=FIND_SECONDS, cluster_id=settings.cluster_id, credentials=credentials
    ) as client:
        try:
            told = members_told(client)
        except ClusterNotFoundError as error:
            raise InvalidConfigError(
                f"{error}: this node is to join the cluster {settings.cluster_id!r} at {settings.join}. Give it the id "
                "of the cluster that is there, or addresses of members of its own"
            ) from error
        if settings.node_id in Configuration.decode(told.configuration).nodes:
            if not settings.rejoin:
                raise InvalidConfigError(why_known(told, settings.node_id))
            remove_lost(client, settings.node_id)
            told = members_told(client)
    return told


def cluster_at(join: str) -> str:
    """The id of the cluster whose members listen at these addresses, as any of them tells it.

    Raises `InvalidConfigError` for what are no addresses, and the errors of `Client.members`.
    """
    with Client(join, timeout=FIND_SECONDS) as client:
        return str(members_told(client).cluster)


def members_told(client: Client) -> Members:
    """What a member tells of the cluster. Raises the errors of `Client.members`."""
    pending = client.members_query(None, None)
    client.driver.hand_over(pending)
    return pending.result()


def why_known(told: Members, node_id: str) -> str:
    """Why a node on an empty folder does not join under the id of a member, and what to do."""
    address = Configuration.decode(told.configuration).addresses[node_id]
    return (
        f"cluster {told.cluster!r} has a member {node_id}, at {address}, and this node has an empty folder, so it does "
        "not know what that member promised: start it with the member's folder. If that is lost, start it with "
        f"--join-as voter --rejoin, or run forge-consensus members remove {node_id} first"
    )


def remove_lost(client: Client, node_id: str) -> None:
    """Have the cluster remove the member of this id, whose folder is lost.

    Raises `InvalidConfigError` if that member still answers, and the errors of `Client.remove_node`.
    """
    rows: list[dict[str, Any]] = client.status()["nodes"]
    if any(row["id"] == node_id and row["status"] == ACTIVE for row in rows):
        raise InvalidConfigError(
            f"the member {node_id} answers its cluster, so its folder is not lost: stop that process first, or give "
            "this node another id"
        )
    client.remove_node(node_id)
    LINES.warning("the member {} was removed, because its folder is lost: this node joins in its place", node_id)


class Joining:
    """Asks the cluster to add this node if it is told to, and logs how far that is, on a thread of its own.

    It ends once the node votes, or is a learner that has the log, or is removed, or `stop` is called.
    """

    def __init__(self, settings: NodeSettings, address: str, credentials: Credentials | None = None) -> None:
        self.settings = settings
        self.credentials = credentials
        self.address = address
        self.ending = Latch()
        self.said = ""
        self.was_member = False
        self.missed = 0
        """In how many looks one after the other it was no member any more; a node that lags may miss it once."""
        self.thread = ForgeThread(target=self.run, name="forge-join")

    def start(self) -> None:
        """Begin to ask, on the thread."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread after the request that is under way; does not wait for it."""
        self.ending.set()

    def run(self) -> None:
        """Ask until it is done, and log how far it is. The cluster does the rest, so nothing waits for this."""
        settings = self.settings
        while not self.ending.is_set():
            try:
                with Client(
                    settings.join or "", cluster_id=settings.cluster_id, credentials=self.credentials
                ) as client:
                    while not self.ending.is_set() and not self.look(client):
                        self.ending.wait(AGAIN_SECONDS)
                return
            except ConsensusError as error:
                self.say(
                    f"this node cannot reach its cluster, or is not added, and tries again: {error}", LINES.warning
                )
            self.ending.wait(AGAIN_SECONDS)

    def look(self, client: Client) -> bool:
        """Look how far it is, and ask for what lacks; returns whether it is done. Raises `ConsensusError`."""
        settings, node_id = self.settings, self.settings.node_id
        found = next((each for each in client.members().members if each.id == node_id), None)
        if found is None and self.was_member:
            self.missed += 1
            if self.missed == MISSES:
                self.say("this node was removed, and does not ask to be added again: start it anew to ask")
            return self.missed == MISSES
        self.was_member, self.missed = found is not None, 0
        if found is None and settings.join_as is None:
            where = self.address or "HOST:PORT"
            self.say(f"this node waits to be added: forge-consensus members add {node_id}={where}")
        elif found is None:
            self.say(f"the cluster is asked to add this node as a {settings.join_as}")
            client.add_node(node_id, self.address, learner=settings.join_as == LEARNER, wait=False)
        elif found.part == LEARNER:
            status = client.status()
            held = next((row["match_index"] or 0 for row in status["nodes"] if row["id"] == node_id), 0)
            self.say(f"this node is a learner and holds {held:,} of {status['last_log_index']:,} entries")
            return not found.joining and held >= status["commit_index"]
        else:
            self.say("this node votes")
            return True
        return False

    def say(self, text: str, log: Callable[..., None] = LINES.info) -> None:
        """Log it, unless it was the last that was logged."""
        if text != self.said:
            self.said = text
            log("{}", text)
