"""The identity: which node owns the folder, which boot of it this is, and the boots of the other members."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgpack

from forge_consensus.errors import IdentityError
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.skips import stored_skips, told
from forge_consensus.storage.ledger.transaction import Transaction, get_meta, put_meta

IDENTITY = b"identity"
BOOTS = b"boots"
FORMAT = 3
"""The layout of the ledger's tables that this program writes."""
FORMATS = (2, FORMAT)
"""The layouts that it reads. A folder of an earlier one is taken over at its first start; any other is refused."""

DRAWN = "."
"""Stands in a boot token between the incarnation and the draw."""
DRAW_CHARS = 8
EARLIER_KEPT = 16_384
"""How many past boots a folder can prove that it descends from; a peer that missed
more of them refuses the node. At one restart a minute that is eleven days."""


class Identity:
    """Who this node is, durably, and which boots of the other members it has seen.

    The *incarnation* is a random text made with the folder, the *boot* a counter that is raised durably before the
    first frame of a process. A folder that is copied while it is one boot old would count to the same boot again, so
    each boot also makes a random *draw*; incarnation and draw together are the *boot token*. The folder keeps the draws
    of its earlier boots and names them when it greets a peer, so a restored copy gives itself away even if it has been
    started more often than the folder whose place it took.

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
        """The draws of the boots before this one, newest first, `DRAW_CHARS` each."""
        self.boots: dict[str, tuple[str, int]] = {}
        self.skipped = ""
        """The log entries that this node skips, as text: members of one cluster skip the same ones."""

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
            _, node_id, cluster_id, self.incarnation, boot, self.earlier = row
            self.boot = boot + 1
            if (node_id, cluster_id) != (self.node_id, self.cluster_id):
                raise IdentityError(
                    f"the folder belongs to node {node_id!r} of cluster {cluster_id!r}, not to node "
                    f"{self.node_id!r} of cluster {self.cluster_id!r}: name the folder of this node"
                )
        draw = new_incarnation()[:DRAW_CHARS]
        self.boot_token = f"{self.incarnation}{DRAWN}{draw}"
        draws = (draw + self.earlier)[: EARLIER_KEPT * DRAW_CHARS]
        begun = (FORMAT, self.node_id, self.cluster_id, self.incarnation, self.boot, draws)
        put_meta(batch, IDENTITY, cast("bytes", msgpack.packb(begun)))
        self.reload()
        return stored is None

    def reload(self) -> None:
        """Read the members' boots from disk again, as after a turn that was rolled back."""
        self.skipped = told(stored_skips(self.tables))
        stored = get_meta(self.tables, BOOTS)
        rows = msgpack.unpackb(stored) if stored else {}
        self.boots = {node: (token, boot) for node, (token, boot) in rows.items()}

    def admit(self, turn: Transaction, node: str, token: str, boot: int, earlier: str) -> str:
        """Note a member's boot in this turn; returns "", or why this cannot be the member that was known before.

        `token`, `boot` and `earlier` are the member's own statements: its boot token, its boot, and the draws of the
        boots before it, newest first.
        """
        known = self.boots.get(node)
        if known == (token, boot):
            return ""
        if known is not None:
            (was, _, draw), (folder, _, _) = known[0].partition(DRAWN), token.partition(DRAWN)
            if was != folder:
                return (
                    f"node {node} was known with folder {was} and now has folder {folder}: its folder was "
                    "wiped or exchanged, and with it the votes that it gave. Bring the old folder back, or let the "
                    "node join under a new id"
                )
            back = boot - known[1]
            if back <= 0 or earlier[(back - 1) * DRAW_CHARS : back * DRAW_CHARS] != draw:
                return (
                    f"node {node} was known in boot {known[1]} and now comes in boot {boot}, which does not descend "
                    "from that one: its folder was restored from an older copy, which has forgotten what it "
                    "acknowledged since. Let the node join under a new id"
                )
        self.boots[node] = (token, boot)
        turn.put_meta(BOOTS, cast("bytes", msgpack.packb(self.boots)))
        return ""
