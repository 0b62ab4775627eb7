"""The certificates of the members: who has proven by one that its key of CURVE speaks for it, and until when.

There is one only where the node has keys and `security.enable_mtls` is on. The list of access says which keys a member
may have; here a connection by such a key counts only while a certificate vouches for it too. Each connection is bound
by itself: a thief who has the key alone must not pass for a member that happens to be connected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from forge_consensus.actors.messages import CheckPeer, CheckPeerReply, Hello, HelloReply
from forge_consensus.errors import AuthenticationFailedError
from forge_consensus.security.claims import LASTS_MS, Claim

if TYPE_CHECKING:  # it needs the extra crypto, which most nodes do without
    from forge_consensus.security.statements import Signer, Verifier

CARRIERS: Final = (Hello, HelloReply, CheckPeer, CheckPeerReply)
"""The messages that carry a statement: the greetings, and the checks that go on for as long as two members speak."""
MADE_MAX: Final = 64
"""For so many receivers at most a statement is kept; more of them than members can only be made up by somebody."""
BOUND_MAX: Final = 4096
"""So many connections at most are bound; the one that was bound first gives way until it states again."""
NODE_CHARS_MAX: Final = 128
"""To a node with a longer id, which no member has, nothing is stated."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A statement that was accepted, for the connections on which it came."""

    node: str
    key: str
    statement: bytes
    until_ms: int
    """Milliseconds since 1970 by this node's clock: the last at which it counts."""


@dataclass(frozen=True, slots=True)
class Made:
    """A statement of this node for one receiver."""

    statement: bytes
    begins_ms: int
    again_ms: int
    """From when on another one is made, while this one still counts for long."""


class MemberCertificates:
    """What this node states of its key, and whose statements it has accepted. It belongs to the node's thread.

    Args:
        signer: the certificate of this node.
        verifier: checks those of the others; None if nobody is asked for one (`security.skip_verify`).
        key: the node's own public key of CURVE.
        skew_ms: the margin for clocks that differ, in milliseconds.

    """

    cluster = ""
    node = ""

    def __init__(self, signer: Signer, verifier: Verifier | None, key: str, skew_ms: int) -> None:
        self.signer = signer
        self.verifier = verifier
        self.key = key
        self.skew_ms = skew_ms
        self.wall_ms: Callable[[], int] = lambda: 0
        self.bound: dict[Any, Bound] = {}
        """By connection that others opened, and by node for the link to it. Only keys of the list get here."""
        self.newest: dict[str, Bound] = {}
        """By public key: what was accepted last, so that it is not checked again on another connection."""
        self.made: dict[str, Made] = {}
        """By receiver."""
        self.lost: set[str] = set()
        """The keys for which nothing counts any more, as `ended` has yet to tell."""
        self.next_end_ms: float = inf

    def serve(self, cluster: str, node: str, wall_ms: Callable[[], int]) -> None:
        """Say whose certificates these are.

        Args:
            cluster: the id of the cluster.
            node: the id of this node.
            wall_ms: returns milliseconds since 1970, by the node's clock.

        """
        self.cluster, self.node, self.wall_ms = cluster, node, wall_ms

    # --- what this node states ---------------------------------------------------------------------------------------

    def statement(self, to: str) -> bytes:
        """Return this node's statement for another node; the same one for some minutes."""
        now_ms, made = self.wall_ms(), self.made.get(to)
        if made is None or not made.begins_ms <= now_ms < made.again_ms:
            if len(to) > NODE_CHARS_MAX:
                return b""
            if len(self.made) >= MADE_MAX:
                self.made.clear()
            statement = self.signer.state(Claim(self.cluster, self.node, to, self.key), now_ms)
            made = self.made[to] = Made(statement, now_ms, now_ms + LASTS_MS // 2)
        return made.statement

    # --- what others state -------------------------------------------------------------------------------------------

    def judge(self, node: str, key: str, connection: Any, statement: bytes) -> str:
        """Return why a frame of a member is not let in, "" if it is.

        A statement that does not count refuses its frame, and takes nothing from an earlier one that still does.

        Args:
            node: the sender.
            key: the key that its connection proved, which the list of access knows as one of that node.
            connection: where the frame came from; None for the link to that node.
            statement: what the frame carries; empty for most frames.

        """
        if self.verifier is None:
            return ""
        place = node if connection is None else connection
        bound, now_ms = self.bound.get(place), self.wall_ms()
        if bound is not None and (bound.node, bound.key) != (node, key):
            bound = None  # whoever connects may choose the id of a connection that is gone
        if statement and (bound is None or statement != bound.statement):
            try:
                bound = self.accept(self.verifier, node, key, statement, now_ms)
            except AuthenticationFailedError as error:
                return str(error)
            self.bind(place, bound)
        if bound is None:
            return (
                f"node {node[:80]!r} has not shown on this connection what its certificate says of its key: give it "
                "security.enable_mtls, cert_file, key_file and ca_file, as this node has them"
            )
        if now_ms > bound.until_ms:
            return f"what the certificate of node {node[:80]!r} said of its key is over, see the log of that node"
        return ""

    def accept(self, verifier: Verifier, node: str, key: str, statement: bytes, now_ms: int) -> Bound:
        """Check the statement of a node. Raises `AuthenticationFailedError` for one that does not count."""
        newest = self.newest.get(key)
        if newest is not None and (newest.node, newest.statement) == (node, statement) and now_ms <= newest.until_ms:
            return newest
        claim = Claim(self.cluster, node, self.node, key)
        found = Bound(node, key, statement, verifier.check(statement, claim, now_ms, self.skew_ms))
        self.newest[key] = found
        return found

    def bind(self, place: Any, bound: Bound) -> None:
        """Let frames from there count until the end of a statement."""
        if place not in self.bound and len(self.bound) >= BOUND_MAX:
            del self.bound[next(iter(self.bound))]
        self.bound[place] = bound
        self.next_end_ms = min(self.next_end_ms, bound.until_ms)

    def forget(self, node: str) -> None:
        """Ask for a statement again on the link to a node, because another process may be behind it."""
        self.bound.pop(node, None)

    def ended(self) -> set[str]:
        """Return the keys for which nothing counts any more since the last call: their connections are to be ended."""
        now_ms = self.wall_ms()
        if now_ms > self.next_end_ms:
            for place, bound in list(self.bound.items()):
                if now_ms > bound.until_ms:
                    del self.bound[place]
                    self.lost.add(bound.key)
            self.next_end_ms = min((bound.until_ms for bound in self.bound.values()), default=inf)
        if not self.lost:
            return self.lost
        found, self.lost = self.lost.difference(bound.key for bound in self.bound.values()), set()
        for key in found:
            self.newest.pop(key, None)
        return found

    def take(self, signer: Signer, verifier: Verifier | None) -> None:
        """Take other files: what this node states is made anew, and what others stated is judged anew.

        So nobody who is still vouched for misses a frame, and nobody else is heard again.
        """
        self.signer, self.verifier = signer, verifier
        self.made.clear()
        before, self.bound, self.newest = self.bound, {}, {}
        now_ms = self.wall_ms()
        for place, bound in before.items():
            try:
                if verifier is not None:
                    self.bind(place, self.accept(verifier, bound.node, bound.key, bound.statement, now_ms))
            except AuthenticationFailedError:
                self.lost.add(bound.key)
