"""The handshake: the greetings of two nodes that connect, and whom a node accepts as a peer. Pure logic.

Nodes that were started with different lists of members, or with different state machines, refuse each other and report
both. A member whose folder was wiped or restored from a copy is refused as well, because it has lost votes and
acknowledgements that it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.actors.runtime.gate import KEY
from forge_consensus.config.agreement import Told, conflict, differences
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import DRAW_CHARS, DRAWS_TOLD, Identity, folder_of
from forge_consensus.storage.ledger.levels import FIRST_LEVEL, LEVEL
from forge_consensus.storage.ledger.tips import UNMET, Tip
from forge_consensus.storage.machines.naming import MachineName
from forge_consensus.version import __version__

CONFIGURATION = "configuration"
"""The reason of a refusal: the two nodes were started with different lists of members."""
IDENTITY = "identity"
"""The reason of a refusal: the sender is not the member that was known under its id."""
MACHINE = "machine"
"""The reason of a refusal: the two nodes run different state machines."""
SETTINGS = "settings"
"""The reason of a refusal: the two nodes cannot work together with their settings."""
ANCESTOR = "ancestor"
"""The reason in the answer to a node that has to greet again with the draw of an older boot of its own."""
LEVEL_LOW = "level"
"""The reason of a refusal: the sender's program has not the feature level that the cluster has reached."""

UNKNOWN = "unknown"
"""The reason of a refusal: the sender is not the member of its id, as far as the receiver knows now."""
ITSELF = "this address leads back to the node itself: give it another one, with forge-consensus members update"
STRANGERS_MAX: Final = 32
"""How many nodes that are no members a node admits, so that nobody fills its memory with names."""
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

    `initial` is the configuration that the node was founded with, `machine` the state machine that it runs, `address`
    where it says that it is reached (empty if it does not know), `settings` what it tells of its settings, `level` the
    feature level of its program.
    """

    def __init__(
        self,
        identity: Identity,
        initial: Configuration,
        machine: MachineName,
        address: str,
        settings: Told = (),
        level: int = LEVEL,
    ) -> None:
        self.identity = identity
        self.initial = initial
        self.machine = machine
        self.address = address
        self.settings = settings
        self.program = (__version__, level)
        self.asked: dict[str, int] = {}
        """By peer: the boot of this node whose draw the peer asked for."""

    def hello(self, node: str, tip: Tip) -> Hello:
        """The greeting of a peer, the first request on a new connection."""
        identity, initial = self.identity, self.initial
        return Hello(
            incarnation=identity.boot_token,
            boot=identity.boot,
            address=self.address,
            configuration_hash=initial.digest,
            configuration=initial.text,
            earlier=identity.earlier,
            program=self.program,
            machine=self.machine,
            tip=tip,
            known=self.known_boot(node),
            proof=self.proof_of(self.asked.get(node, 0)),
            settings=self.settings,
            skipped=identity.skipped,
            joins=identity.joins,
        )

    def reply(
        self, refusal: Refusal, node: str, hello: Hello, tip: Tip, removed_at: int = 0, clock_ns: int = 0
    ) -> HelloReply:
        """The answer to a greeting; `ACCEPTED` accepts it."""
        identity = self.identity
        return HelloReply(
            incarnation=identity.boot_token,
            boot=identity.boot,
            reason=refusal.reason,
            detail=refusal.detail,
            program=self.program,
            tip=tip,
            known=self.known_boot(node) if refusal.reason == ANCESTOR else 0,
            proof=self.proof_of(hello.known),
            joins=identity.joins,
            removed_at=removed_at,
            clock_ns=clock_ns,
        )

    def known_boot(self, node: str) -> int:
        """The boot of a peer that this node met last, 0 if it met none."""
        return (self.identity.known(node) or UNMET)[1]

    def proof_of(self, boot: int) -> tuple[int, str]:
        """An earlier boot of this node and its draw."""
        return boot, self.identity.draw_of(boot)

    def shown_draw(self, node: str, message: Hello | HelloReply) -> str | None:
        """The draw that a peer names for its boot that this node met last; None if it has to be asked for it."""
        return self.shown_of(self.known_boot(node), message)

    def shown_of_expelled(self, node: str, message: Hello | HelloReply) -> str | None:
        """The draw that a peer names for its boot that was expelled; None if it names none."""
        expelled = self.identity.expelled.get(node)
        return None if expelled is None else self.shown_of(expelled.boot[1], message)

    def shown_of(self, known: int, message: Hello | HelloReply) -> str | None:
        """The draw that a peer names for an earlier boot of its own; None if the greeting does not reach so far."""
        back = message.boot - known
        if message.proof[0] == known:
            return message.proof[1]
        if isinstance(message, Hello) and back <= DRAWS_TOLD:
            return message.earlier[(back - 1) * DRAW_CHARS : back * DRAW_CHARS] if back > 0 else ""
        return None

    def differences(self, hello: Hello) -> tuple[str, ...]:
        """What differs between this node and a peer and yet lets them work together, as sentences."""
        theirs = MachineName(*hello.machine)
        found = differences(self.settings, hello.settings)
        if theirs.name and theirs.version != self.machine.version:
            found += (f"the state machine has version {self.machine.version} here and {theirs.version} there",)
        return found

    def too_old(self, node: str, program: tuple[str, int], members: Configuration) -> Refusal:
        """The refusal of a member whose program has not the feature level of the configuration, else `ACCEPTED`.

        It goes by the configuration in force, committed or not, because the member's next entries hold it. The first
        level is asked of nobody: programs that are older than the levels tell none.
        """
        version, level = program
        if members.level <= max(level, FIRST_LEVEL):
            return ACCEPTED
        return Refusal(
            LEVEL_LOW,
            f"the cluster has reached feature level {members.level}, and the program of node {node} (version "
            f"{version or 'unknown'}) has level {max(level, FIRST_LEVEL)}: start node {node} with the newer program, "
            f"such as that of node {self.identity.node_id}, which is version {self.program[0]}",
        )

    def another_folder(self, node: str, message: Hello | HelloReply, members: Configuration) -> Refusal:
        """The refusal of a node with the id of a member and not with its folder, else `ACCEPTED`.

        It ends nobody, because the one that refuses may lag behind, and not know yet that the member was removed and
        added again.
        """
        expected, folder = members.folder_of(node), folder_of(message.incarnation)
        if node not in members.nodes or not (message.joins or expected) or folder == expected:
            return ACCEPTED
        return Refusal(
            UNKNOWN,
            f"the folder of node {node} is not the one that its member was added with, so the node does not know what "
            f"that member promised. If the member's folder is lost: forge-consensus members remove {node}, then "
            f"members add {node}=HOST:PORT",
        )

    def too_many(self, node: str, members: Configuration, wanted: Collection[str]) -> list[str]:
        """The nodes to forget before one more that is no member is admitted, the oldest first.

        Some have to be admitted: a member whose log lags behind does not know its newest fellows yet, and must hear
        them (dissertation 4.2.2). They count for nothing until an entry names them.
        """
        if node in members.nodes:
            return []
        strangers = [name for name in self.identity.boots if name not in members.nodes and name not in wanted]
        return strangers[: max(0, len(strangers) + 1 - STRANGERS_MAX)] if node not in strangers else []

    def judge(self, node: str, hello: Hello, members: Configuration, admit: Admit, *, newer: bool = False) -> Refusal:
        """Judge the greeting of `node`; `members` is the configuration in force. `admit` is called last.

        `newer` says that a node on another folder than its member's is heard all the same.
        """
        identity, initial = self.identity, self.initial
        theirs = MachineName(*hello.machine)
        if theirs.name not in ("", self.machine.name):
            return Refusal(
                MACHINE,
                f"node {identity.node_id} runs the state machine {self.machine.text}, node {node} {theirs.text}: the "
                "members of a cluster all run the same one. If it is the same one under two names, give its class the "
                "attribute machine_name",
            )
        if hello.configuration_hash != initial.digest:
            return Refusal(
                CONFIGURATION,
                f"node {identity.node_id} began with the members {initial.text}, "
                f"node {node} with {hello.configuration}: start all with the same list and machine",
            )
        if hello.skipped != identity.skipped:
            return Refusal(
                SKIPS,
                f"node {identity.node_id} skips the log entries {identity.skipped or 'none'} (index:term:checksum), "
                f"node {node} {hello.skipped or 'none'}: run forge-consensus log skip on the folders of all members",
            )
        if node == identity.node_id:
            own = hello.incarnation == identity.boot_token
            return Refusal(UNKNOWN, ITSELF) if own else Refusal(IDENTITY, f"{node!r} is this node's own id")
        if (other := self.another_folder(node, hello, members)) != ACCEPTED and not newer:
            return other
        if why := conflict(identity.node_id, self.settings, node, hello.settings):
            return Refusal(SETTINGS, why)
        if (old := self.too_old(node, hello.program, members)) != ACCEPTED:
            return old
        if hello.boot > self.known_boot(node) > 0 and self.shown_draw(node, hello) is None:
            return Refusal(ANCESTOR, f"node {identity.node_id} met boot {self.known_boot(node)} of node {node} last")
        detail = admit(hello)
        if detail and hello.joins and node not in members.nodes:
            return Refusal(UNKNOWN, detail)
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
    if reason in (UNKNOWN, KEY):  # a key is put right in the list of access, also while both run
        return False
    if reason == IDENTITY:
        return not stranger
    return not joined
