"""The handshake: the greetings of two nodes that connect, and whom a node accepts as a peer. Pure logic.

Nodes that were started with different lists of members refuse each other and report both lists. A member whose folder
was wiped or restored from a copy is refused as well, because it has lost votes and acknowledgements that it gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import Identity
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.version import __version__

CONFIGURATION = "configuration"
"""The reason of a refusal: the two nodes were started with different lists of members."""
IDENTITY = "identity"
"""The reason of a refusal: the sender is no member, or not the member that was known under its id."""
PROGRAM: Final = (__version__, LEVEL)
"""What a greeting says of the program of this node."""

SKIPS = "skips"
"""The reason of a refusal: the two nodes do not skip the same log entries, so their states differ."""

Admit = Callable[[Hello | HelloReply], str]
"""Records the sender's boot; returns why the sender is not the member that was known, or ""."""


class Refusal(NamedTuple):
    """Why a greeting is not accepted: a reason for the program, a sentence for people."""

    reason: str
    detail: str


ACCEPTED = Refusal("", "")


class Handshake:
    """Makes a node's greetings, and judges those of others.

    `initial` is the list of members that the node was founded with, `address` its listening address.
    """

    def __init__(self, identity: Identity, initial: Configuration, address: str) -> None:
        self.identity = identity
        self.initial = initial
        self.address = address

    def hello(self) -> Hello:
        """The greeting, the first request on a new connection."""
        identity, initial = self.identity, self.initial
        return Hello(
            incarnation=identity.boot_token,
            boot=identity.boot,
            address=self.address,
            configuration_hash=initial.digest,
            configuration=initial.text,
            earlier=identity.earlier,
            program=PROGRAM,
            skipped=identity.skipped,
        )

    def reply(self, refusal: Refusal) -> HelloReply:
        """The answer to a greeting; `ACCEPTED` accepts it."""
        identity = self.identity
        return HelloReply(
            incarnation=identity.boot_token,
            boot=identity.boot,
            reason=refusal.reason,
            detail=refusal.detail,
            earlier=identity.earlier,
            program=PROGRAM,
        )

    def judge(self, node: str, hello: Hello, members: Configuration, admit: Admit) -> Refusal:
        """Judge the greeting of `node`; `members` is the configuration in force. `admit` is called last."""
        identity, initial = self.identity, self.initial
        if hello.configuration_hash != initial.digest:
            return Refusal(
                CONFIGURATION,
                f"node {identity.node_id} began with the members {initial.text}, "
                f"node {node} with {hello.configuration}: start all with the same list",
            )
        if hello.skipped != identity.skipped:
            return Refusal(
                SKIPS,
                f"node {identity.node_id} skips the log entries {identity.skipped or 'none'} (index:term:checksum), "
                f"node {node} {hello.skipped or 'none'}: run forge-consensus log skip on the folders of all members",
            )
        if node == identity.node_id or node not in members.voters:
            return Refusal(IDENTITY, f"node {node!r} is not another member of {members.text}")
        detail = admit(hello)
        return Refusal(IDENTITY, detail) if detail else ACCEPTED


def is_fatal(reason: str, stranger: str, *, joined: bool) -> bool:
    """Whether a node that a peer refused must stop.

    `reason` is the peer's reason, `stranger` says why the peer itself is not the member that this node knew, or is
    empty, and `joined` is whether this node was ever part of a cluster.

    A node that is not the member that others knew must not run at all, because it may contradict its promises. If the
    peer is the stranger, this node continues: otherwise one node with the folder of an earlier cluster would end all
    others. A node of another list of members or another cluster stops only if it never was part of a cluster, because
    the newcomer has to give way to a cluster that works.
    """
    if reason == IDENTITY:
        return not stranger
    return not joined
