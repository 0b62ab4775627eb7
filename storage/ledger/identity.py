"""The identity: whose folder this is, which life of it this is, and the same of every member met so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgpack

from forge_consensus.errors import IdentityError
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.transaction import Transaction, get_meta, put_meta

IDENTITY = b"identity"
BOOTS = b"boots"
FORMAT = 2
"""How the ledger's tables are laid out; a folder of another format is refused."""

DRAWN = "."
DRAW_CHARS = 8
EARLIER_KEPT = 16_384
"""So many boots back a folder can say which it descends from; whom its peer met last before that is refused.

A node that fails at once and is started again every minute, while a peer that knew it is away, has eleven days.
"""


class Identity:
    """(node id, cluster id) of the folder and its boot id: (life, boot).

    The incarnation is random and made with the folder, the boot a counter raised durably before the first frame of
    a process. A life is the incarnation with a number drawn at the boot: a copy of the folder that is one boot old
    counts to the same boot again, and the draw tells the two apart. The folder keeps the draws of its earlier boots,
    one behind the other, newest first, and names them in its greeting: so a copy gives itself away also if it has
    been started more often than the folder whose place it took. `boots` keeps the life and highest boot seen of every
    member, durably: a wiped or restored folder has forgotten votes that it gave, so it must not be taken for the
    member that gave them.
    """

    def __init__(self, tables: Tables, node_id: str, cluster_id: str) -> None:
        self.tables = tables
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.incarnation = ""
        self.life = ""
        self.boot = 0
        self.earlier = ""
        self.boots: dict[str, tuple[str, int]] = {}

    def open(self, new_incarnation: Callable[[], str], batch: Batch) -> bool:
        """Read whose folder it is and stage the next boot, which counts once `batch` is committed.

        Returns whether the folder is new. Raises `IdentityError` when it belongs to another node or cluster, or to
        a program that keeps its tables otherwise; `CorruptionError`.
        """
        stored = get_meta(self.tables, IDENTITY)
        if stored is None:
            self.incarnation, self.boot = new_incarnation(), 1
        else:
            row = msgpack.unpackb(stored)
            if row[0] != FORMAT:
                raise IdentityError(
                    f"the folder has format {row[0]} and this program reads {FORMAT}: start it with the program that "
                    "wrote it"
                )
            _, node_id, cluster_id, self.incarnation, boot, self.earlier = row
            self.boot = boot + 1
            if (node_id, cluster_id) != (self.node_id, self.cluster_id):
                raise IdentityError(
                    f"the folder belongs to node {node_id!r} of cluster {cluster_id!r}, not to node "
                    f"{self.node_id!r} of cluster {self.cluster_id!r}: name the folder of this node"
                )
        draw = new_incarnation()[:DRAW_CHARS]
        self.life = f"{self.incarnation}{DRAWN}{draw}"
        draws = (draw + self.earlier)[: EARLIER_KEPT * DRAW_CHARS]
        begun = (FORMAT, self.node_id, self.cluster_id, self.incarnation, self.boot, draws)
        put_meta(batch, IDENTITY, cast("bytes", msgpack.packb(begun)))
        self.reload()
        return stored is None

    def reload(self) -> None:
        """Read the members' boots from disk."""
        stored = get_meta(self.tables, BOOTS)
        rows = msgpack.unpackb(stored) if stored else {}
        self.boots = {node: (life, boot) for node, (life, boot) in rows.items()}

    def admit(self, turn: Transaction, node: str, life: str, boot: int, earlier: str) -> str:
        """Take note of a member's boot; returns "" or the reason why it cannot be the member that was known.

        `earlier` are the draws of the boots before it, newest first, as its folder has them.
        """
        known = self.boots.get(node)
        if known == (life, boot):
            return ""
        if known is not None:
            (was, _, draw), (folder, _, _) = known[0].partition(DRAWN), life.partition(DRAWN)
            if was != folder:
                return (
                    f"node {node} was known with folder {was} and now has folder {folder}: its folder was "
                    "wiped or exchanged, and with it the votes that it gave. Bring the old folder back, or let the "
                    "node join under a new id"
                )
            back = boot - known[1]
            if back <= 0 or earlier[(back - 1) * DRAW_CHARS : back * DRAW_CHARS] != draw:
                return (
                    f"node {node} was known in boot {known[1]} and now comes in boot {boot}, in a life that does not "
                    "go back to that one: its folder was restored from an older copy, which has forgotten what it "
                    "acknowledged since. Let the node join under a new id"
                )
        self.boots[node] = (life, boot)
        turn.put_meta(BOOTS, cast("bytes", msgpack.packb(self.boots)))
        return ""
