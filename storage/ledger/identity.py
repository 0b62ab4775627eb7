"""The identity: which node owns the folder, which boot of it this is, and the boots of the other members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

import msgpack

from forge_consensus.errors import IdentityError
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.skips import stored_skips, told
from forge_consensus.storage.ledger.transaction import META, Transaction, get_meta, put_meta

IDENTITY = b"identity"
BOOTS = b"boots"
FORMAT = 3
"""The layout of the ledger's tables that this program writes."""
FORMATS = (2, FORMAT)
"""The layouts that it reads. A folder of an earlier one is taken over at its first start; any other is refused."""

DRAWN = "."
"""Stands in a boot token between the incarnation and the draw."""
DRAW_CHARS = 8
DRAWS_TOLD: Final = 64
"""How many of its newest draws a node names in each greeting. A peer that met an older boot last asks for its draw."""
DRAWS_KEPT: Final = 1 << 20
"""How many past boots a folder can prove that it descends from; a peer that met none of so many refuses the node. At
one start a second that is twelve days."""
NEW_ID: Final = (
    "Bring the newest folder of this node back. If it is lost, leave the node switched off: the others go on while "
    "they are a majority of the members, and this version of the program cannot exchange a member yet"
)
"""What to do about a member whose folder is not the one that the others know."""


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
        self.earlier = ""
        """The draws of the `DRAWS_TOLD` boots before this one, newest first, `DRAW_CHARS` each."""
        self.boots: dict[str, tuple[str, int]] = {}
        self.skipped = ""
        """The log entries that this node skips, as text: members of one cluster skip the same ones."""
        self.expelled: dict[str, tuple[tuple[str, int], str]] = {}
        """By member: a boot of it that turned out to have lost what it had acknowledged, and the reason for people."""

    def open(self, new_incarnation: Callable[[], str], batch: Batch) -> bool:
        """Read the identity of the folder and stage the next boot, which counts once `batch` is committed.

        `new_incarnation` returns a new random text each time. Returns whether the folder is new. Raises `IdentityError`
        if it belongs to another node or cluster or has another format, `CorruptionError` if it is damaged.
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
            if (node_id, cluster_id) != (self.node_id, self.cluster_id):
                raise IdentityError(
                    f"the folder belongs to node {node_id!r} of cluster {cluster_id!r}, not to node "
                    f"{self.node_id!r} of cluster {self.cluster_id!r}: name the folder of this node"
                )
            self.earlier = self.take_over_draws(row[5], batch) if len(row) > 5 else self.newest_draws()
        draw = new_incarnation()[:DRAW_CHARS]
        self.boot_token = f"{self.incarnation}{DRAWN}{draw}"
        put_meta(batch, draw_key(self.boot), draw.encode())
        if self.boot > DRAWS_KEPT:
            batch.delete(META, draw_key(self.boot - DRAWS_KEPT))
        begun = (FORMAT, self.node_id, self.cluster_id, self.incarnation, self.boot)
        put_meta(batch, IDENTITY, cast("bytes", msgpack.packb(begun)))
        self.reload()
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
        rows = msgpack.unpackb(stored) if stored else {}
        self.boots = {node: (token, boot) for node, (token, boot) in rows.items()}
        for node, (expelled, _) in self.expelled.items():
            if self.boots.get(node) == expelled:
                del self.boots[node]

    def is_later_boot(self, node: str, token: str) -> bool:
        """Whether the token is of another boot of a member's folder than the one that was met last."""
        known = self.boots.get(node)
        return known is not None and known[0] != token and known[0].partition(DRAWN)[0] == token.partition(DRAWN)[0]

    def admit(self, turn: Transaction, node: str, token: str, boot: int, shown: str) -> str:
        """Note a member's boot in this turn; returns "", or why this cannot be the member that was known before.

        `token` and `boot` are the member's own statements: its boot token and its boot. `shown` is the draw that it
        names for the boot that this node met last.
        """
        known = self.boots.get(node)
        if known == (token, boot):
            return ""
        if node in self.expelled:
            (was_token, was_boot), why = self.expelled[node]
            if (was_token, was_boot) == (token, boot):
                return why
            known = known or (was_token, was_boot)
        if known is not None:
            (was, _, draw), (folder, _, _) = known[0].partition(DRAWN), token.partition(DRAWN)
            if was != folder:
                return (
                    f"node {node} was known with folder {was} and now has folder {folder}: its folder was "
                    f"wiped or exchanged, and with it the votes that it gave. {NEW_ID}"
                )
            if boot <= known[1] or shown != draw:
                return (
                    f"node {node} was known in boot {known[1]} and now comes in boot {boot}, which does not descend "
                    "from that one: its folder was restored from an older copy, which has forgotten what it "
                    f"acknowledged since. {NEW_ID}"
                )
        self.boots[node] = (token, boot)
        self.expelled.pop(node, None)
        rows = {name: expelled for name, (expelled, _) in self.expelled.items()} | self.boots
        turn.put_meta(BOOTS, cast("bytes", msgpack.packb(rows)))
        return ""

    def expel(self, node: str, why: str) -> None:
        """Accept no further frame of a member's present boot, because it lost what it had acknowledged.

        Its next greeting is refused with the reason, which ends that process.
        """
        known = self.boots.pop(node, None)
        if known is not None:
            self.expelled[node] = (known, why)


def draw_key(boot: int) -> bytes:
    """The key of the row that holds the draw of a boot of this folder."""
    return b"draw-%012d" % boot
