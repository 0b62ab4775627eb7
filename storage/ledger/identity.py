"""The identity: which node owns the folder, which boot of it this is, and the boots of the other members."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, cast

import msgpack

from forge_consensus.config.cluster_id import is_meant
from forge_consensus.errors import IdentityError
from forge_consensus.storage.backends.sealed import BEGIN_ANEW
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.skips import stored_skips, told
from forge_consensus.storage.ledger.tips import STORED_SECONDS, Boot, Tips
from forge_consensus.storage.ledger.transaction import META, Transaction, get_meta, put_meta

IDENTITY = b"identity"
INITIAL = b"initial"
"""The key of the configuration that the cluster began with."""
MACHINE = b"machine"
"""The key of (name, version) of the state machine that ran on this folder last."""
BOOTS = b"boots"
JOINS = b"joins"
"""The key of a mark in the folder of a node that joined a cluster."""
EXPELLED = b"expelled"
TIPS = b"tips"
FORMAT = 4
"""The layout of the ledger's tables that this program writes. A program of format 3 does not know the write-ahead log,
so it would lose what a crash left there."""
FORMATS = (2, 3, FORMAT)
"""The layouts that it reads. A folder of an earlier one is taken over at its first start; any other is refused."""

DRAWN = "."
"""Stands in a boot token between the incarnation and the draw."""
DRAW_CHARS = 8
DRAWS_TOLD: Final = 64
"""How many of its newest draws a node names in each greeting. A peer that met an older boot last asks for its draw."""
DRAWS_KEPT: Final = 1 << 20
"""How many past boots a folder can prove that it descends from; a peer that met none of so many refuses the node. At
one start a second that is twelve days."""
BRING_BACK: Final = (
    "Stop the node, put the folder that ran last in the place of this one and start the node: it is admitted again. If "
    "that folder is lost, " + BEGIN_ANEW
)
"""What to do about a member whose folder is not the one that the others know."""


class Expelled(NamedTuple):
    """A boot of a member that turned out to have lost what the member had acknowledged."""

    boot: Boot
    why: str
    """The reason, for people."""
    before: Boot
    """The boot that had told what was lost: the true folder is this boot's or descends from it."""


class Identity:
    """Who this node is, durably, and which boots of the other members it has seen.

    The *incarnation* is a random text made with the folder, the *boot* a counter that is raised durably before the
    first frame of a process. A folder that is copied while it is one boot old would count to the same boot again, so
    each boot also makes a random *draw*; incarnation and draw together are the *boot token*. The folder keeps the draws
    of its earlier boots, one row each, and names the one that a peer asks for, so a restored copy gives itself away
    even if it has been started more often than the folder whose place it took.

    `boots` holds the boot token and the highest boot of every member that greeted this node, durably. A wiped or
    restored folder has forgotten votes that it gave, so it must not be taken for the member that gave them.
    """

    def __init__(self, tables: Tables, node_id: str, cluster_id: str) -> None:
        self.tables = tables
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.incarnation = ""
        self.boot_token = ""
        """The incarnation and this boot's draw, as one text."""
        self.boot = 0
        self.joins = False
        """Whether the folder was made to join a cluster, and not for one of those that founded it."""
        self.earlier = ""
        """The draws of the `DRAWS_TOLD` boots before this one, newest first, `DRAW_CHARS` each."""
        self.boots: dict[str, Boot] = {}
        """By member: the boot whose frames are accepted."""
        self.tips = Tips(self.boots)
        """What each member is known to have on its disk."""
        self.tips_due, self.tips_saved_at = False, 0.0
        """Whether the next commit must carry the tips along, and when one last did."""
        self.ancestors: dict[str, frozenset[str]] = {}
        """By member: the boot tokens of earlier processes of the one that greeted last, as far as they are known."""
        self.skipped = ""
        """The log entries that this node skips, as text: members of one cluster skip the same ones."""
        self.expelled: dict[str, Expelled] = {}
        """By member: the boot that was expelled last, until a later one of the true folder is admitted."""

    def open(self, new_incarnation: Callable[[], str], batch: Batch) -> bool:
        """Read the identity of the folder and stage the next boot, which counts once `batch` is committed.

        `new_incarnation` returns a new random text each time. A folder of a cluster that was made anew is opened by the
        cluster's name too, and `cluster_id` is the whole id then. Returns whether the folder is new. Raises
        `IdentityError` if it belongs to another node or cluster or has another format, `CorruptionError` if it is
        damaged.
        """
        stored = get_meta(self.tables, IDENTITY)
        if stored is None:
            self.incarnation, self.boot = new_incarnation(), 1
        else:
            row = msgpack.unpackb(stored)
            if row[0] not in FORMATS:
                raise IdentityError(
                    f"the folder has format {row[0]} and this program reads {FORMATS[0]} to {FORMAT}: start it with "
                    "the program that wrote it"
                )
            _, node_id, cluster_id, self.incarnation, boot = row[:5]
            self.boot = boot + 1
            if node_id != self.node_id or not is_meant(self.cluster_id, cluster_id):
                raise IdentityError(
                    f"the folder belongs to node {node_id!r} of cluster {cluster_id!r}, not to node "
                    f"{self.node_id!r} of cluster {self.cluster_id!r}: name the folder of this node"
                )
            self.cluster_id = cluster_id
            self.earlier = self.take_over_draws(row[5], batch) if len(row) > 5 else self.newest_draws()
        draw = new_incarnation()[:DRAW_CHARS]
        self.boot_token = f"{self.incarnation}{DRAWN}{draw}"
        put_meta(batch, draw_key(self.boot), draw.encode())
        if self.boot > DRAWS_KEPT:
            batch.delete(META, draw_key(self.boot - DRAWS_KEPT))
        begun = (FORMAT, self.node_id, self.cluster_id, self.incarnation, self.boot)
        put_meta(batch, IDENTITY, cast("bytes", msgpack.packb(begun)))
        self.reload()
        tips = get_meta(self.tables, TIPS)
        self.tips.load(msgpack.unpackb(tips) if tips else {})
        return stored is None

    def take_over_draws(self, draws: str, batch: Batch) -> str:
        """Stage the draws that format 2 held in one text, newest first; returns the newest of them.

        The text stays in the row of the identity until the next boot is on disk, whatever ends a start before that.
        """
        for back, start in enumerate(range(0, len(draws), DRAW_CHARS), 1):
            put_meta(batch, draw_key(self.boot - back), draws[start : start + DRAW_CHARS].encode())
        return draws[: DRAWS_TOLD * DRAW_CHARS]

    def newest_draws(self) -> str:
        """The draws of the last boots before this one, newest first."""
        found = (self.draw_of(boot) for boot in range(self.boot - 1, max(0, self.boot - 1 - DRAWS_TOLD), -1))
        return "".join(found)

    def draw_of(self, boot: int) -> str:
        """The draw of an earlier boot of this folder, empty if the folder holds none. Raises `CorruptionError`."""
        return (get_meta(self.tables, draw_key(boot)) or b"").decode() if 0 < boot < self.boot else ""

    def reload(self) -> None:
        """Read the members' boots from disk again, as after a turn that was rolled back."""
        self.skipped = told(stored_skips(self.tables))
        stored = get_meta(self.tables, BOOTS)
        self.joins = get_meta(self.tables, JOINS) is not None
        expelled = get_meta(self.tables, EXPELLED)
        self.expelled = {
            node: Expelled((token, boot), why, (before, before_boot))
            for node, (token, boot, why, before, before_boot) in (msgpack.unpackb(expelled) if expelled else {}).items()
        }
        self.boots.clear()
        for node, (token, boot) in (msgpack.unpackb(stored) if stored else {}).items():
            if node not in self.expelled:  # a member of which a boot was expelled has to greet again
                self.boots[node] = token, boot

    def known(self, node: str) -> Boot | None:
        """The boot of a member from which each later one must descend; None if it was never met."""
        known = self.boots.get(node)
        if known is None and (expelled := self.expelled.get(node)) is not None:
            return expelled.before
        return known

    def is_member_of(self, configuration: Configuration) -> bool:
        """Whether this node is the member of its id in a configuration, and not on another folder than the member's.

        A folder that was made to join is the member's only if the configuration says so. Otherwise the node has an id
        of which it knows no promise: in an old configuration that a leader still sends it, or of a member whose folder
        was lost and that was not removed.
        """
        folder = configuration.folder_of(self.node_id)
        return folder == self.incarnation if self.joins or folder else True

    def is_later_boot(self, node: str, token: str) -> bool:
        """Whether the token is of another boot of a member's folder than the one that was met last."""
        known = self.known(node)
        return known is not None and known[0] != token and folder_of(known[0]) == folder_of(token)

    def note_ancestors(self, node: str, token: str, draws: str) -> None:
        """Note the earlier boots that a greeting names, as `earlier`, so that what they sent is known to be late."""
        folder = folder_of(token)
        named = (draws[at : at + DRAW_CHARS] for at in range(0, len(draws), DRAW_CHARS))
        known = self.ancestors.get(node, frozenset())
        self.ancestors[node] = known.union(f"{folder}{DRAWN}{draw}" for draw in named)

    def is_late(self, node: str, token: str) -> bool:
        """Whether a greeting is of a process that ended before the one that this node accepted last began."""
        return token in self.ancestors.get(node, ())

    def admit(self, turn: Transaction, node: str, token: str, boot: int, shown: str) -> str:
        """Note a member's boot in this turn; returns "", or why this cannot be the member that was known before.

        `token` and `boot` are the member's own statements: its boot token and its boot. `shown` is the draw that it
        names for the boot that this node met last.
        """
        known, expelled = self.known(node), self.expelled.get(node)
        if self.boots.get(node) == (token, boot):
            return ""
        if expelled is not None and expelled.boot == (token, boot):
            return expelled.why
        if known is not None and known != (token, boot):
            (was, _, draw), folder = known[0].partition(DRAWN), folder_of(token)
            if was != folder:
                return (
                    f"node {node} was known with folder {was} and now has folder {folder}: its folder was "
                    f"wiped or exchanged, and with it the votes that it gave. {BRING_BACK}"
                )
            if boot <= known[1] or shown != draw:
                return (
                    f"node {node} was known in boot {known[1]} and now comes in boot {boot}, which does not descend "
                    "from that one: its folder was restored from an older copy, which has forgotten what it "
                    f"acknowledged since. {BRING_BACK}"
                )
        if node in self.boots:
            self.ancestors[node] = frozenset({self.boots[node][0]})
        self.boots[node] = (token, boot)
        if expelled is not None:
            passed = boot >= expelled.boot[1]  # from now on no boot that descends from the expelled one is admitted
            self.note_expelled(turn, node, None if passed else expelled._replace(before=(token, boot)))
        self.put_boots(turn)
        return ""

    def expel(self, turn: Transaction, node: str, why: str) -> None:
        """Accept no further frame of a member's present boot, because it lost what it had acknowledged.

        Its greetings are refused with the reason, which ends that process. A later boot is admitted again if it
        descends from the boot that had told what was lost and if its disk holds that (`Tips.went_back`).
        """
        boot = self.boots.pop(node, None)
        if boot is not None:
            told_by = self.tips.of(node).told_by
            before = told_by if told_by[1] and told_by != boot and told_by[1] < boot[1] else boot
            self.ancestors.pop(node, None)  # the true folder's processes may be among them
            self.note_expelled(turn, node, Expelled(boot, why, before))
            self.put_boots(turn)

    def descends_from_expelled(self, node: str, shown: str | None) -> bool:
        """Whether a later boot of a member descends from the one that was expelled.

        `shown` is the draw that it names for that boot, None if it names none. If the expelled boot itself had told
        what it lost, then the true folder descends from it too, and only the tips tell the two apart.
        """
        expelled = self.expelled.get(node)
        if expelled is None or expelled.before == expelled.boot:
            return False
        return shown == expelled.boot[0].partition(DRAWN)[2]

    def follow(self, turn: Transaction, configuration: Configuration) -> list[str]:
        """Forget what is known of each member that was met with another folder than it was added with; returns those.

        That was an earlier member of the id. What it promised it promised to a cluster that has removed it, with a
        majority that did not need it. The present one greets again.
        """
        former = []
        for node, folder in configuration.folders:
            known = self.boots.get(node) or (self.expelled[node].boot if node in self.expelled else None)
            if known is not None and folder_of(known[0]) != folder:
                former.append(node)
        self.forget(turn, former)
        return former

    def forget(self, turn: Transaction, nodes: Collection[str]) -> None:
        """Forget everything that is known of these nodes."""
        for node in nodes:
            for known in (self.boots, self.ancestors, self.tips.members, self.expelled):
                known.pop(node, None)
        if nodes:
            self.put_expelled(turn)
            self.put_boots(turn)

    def note_expelled(self, turn: Transaction, node: str, expelled: Expelled | None) -> None:
        """Note which boot of a member is expelled, in this turn; None for none."""
        self.expelled.pop(node, None)
        if expelled is not None:
            self.expelled[node] = expelled
        self.put_expelled(turn)

    def put_expelled(self, turn: Transaction) -> None:
        """Write the expelled boots in this turn."""
        rows = {name: (*each.boot, each.why, *each.before) for name, each in self.expelled.items()}
        turn.put_meta(EXPELLED, cast("bytes", msgpack.packb(rows)))

    def put_boots(self, turn: Transaction) -> None:
        """Write the members' boots in this turn, and with them what is known of their disks."""
        rows: dict[str, Any] = {name: each.before for name, each in self.expelled.items()} | self.boots
        turn.put_meta(BOOTS, cast("bytes", msgpack.packb(rows)))
        self.tips_due = True

    def stage_tips(self, batch: Batch, now: float) -> None:
        """Add the tips to a commit that is made anyway, if they are due or have waited for long enough."""
        waited = not 0.0 <= now - self.tips_saved_at < STORED_SECONDS
        if self.tips_due or (waited and self.tips.unsaved):
            put_meta(batch, TIPS, cast("bytes", msgpack.packb(self.tips.rows())))
            self.tips_due, self.tips.unsaved, self.tips_saved_at = False, False, now

    def last_tips(self) -> Batch:
        """What is known of the members' disks, for the last commit of a process that ends in order."""
        batch, self.tips_due = Batch(), True
        self.stage_tips(batch, self.tips_saved_at)
        return batch


def folder_of(token: str) -> str:
    """The part of a boot token that stays with the folder: the incarnation."""
    return token.partition(DRAWN)[0]


def draw_key(boot: int) -> bytes:
    """The key of the row that holds the draw of a boot of this folder."""
    return b"draw-%012d" % boot
