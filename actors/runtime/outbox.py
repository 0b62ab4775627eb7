"""The outbox: the frames and jobs of a turn, held until the state that they depend on is on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from forge_consensus.actors.codec import Frame, encode
from forge_consensus.actors.messages import AppendEntries, Hello
from forge_consensus.actors.runtime.address import PeerAddress, SenderAddress
from forge_consensus.actors.runtime.audit import Audit
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.member_certificates import CARRIERS, MemberCertificates
from forge_consensus.actors.runtime.refusals import (
    CLIENT_TAKES_NO_ANSWER,
    PEER_TAKES_NO_ANSWER,
    PEER_TAKES_NO_FRAME,
    Refusals,
)
from forge_consensus.storage.ledger.ledger import Ledger


class Transport(Protocol):
    """How frames leave the node, and where jobs run. No method waits for a socket."""

    def send_peer(self, node: str, data: bytes) -> bool:
        """Send a frame to a peer; False when the peer's queue is full or there is no connection."""

    def send_answer(self, connection: Any, frame: Frame) -> bool:
        """Send an answer on a connection; False when the connection is gone or its queue is full."""

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """Run a job elsewhere; call `done(result, error text)` on the node's thread before a later turn."""


class Outbox:
    """Requests to peers, answers to senders, and jobs for helpers, in the order in which actors sent them.

    A job waits like a frame, because its effects last too: it may write a file, and after a crash before the commit the
    node would not remember the term in the file's name.

    `boots` holds the boot of each peer that was greeted: every other peer is sent only a greeting.
    """

    def __init__(self, ledger: Ledger, clock: Clock, transport: Transport, refusals: Refusals) -> None:
        self.ledger = ledger
        self.clock = clock
        self.transport = transport
        self.refusals = refusals
        self.requests: list[tuple[PeerAddress, Any]] = []
        self.answers: list[tuple[SenderAddress, Any]] = []
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, str], None], Callable[[], None]]] = []
        self.boots: dict[str, int] = {}
        self.number = 0
        self.certificates: MemberCertificates | None = None
        """Makes the statements that some messages carry; None where none do."""
        self.audit: Audit | None = None
        """Is told of the answers to acts."""

    def request(self, to: PeerAddress, message: Any) -> None:
        """Hold a request to a peer until the turn is committed."""
        self.requests.append((to, message))

    def answer(self, to: SenderAddress, message: Any) -> None:
        """Hold an answer until the turn is committed."""
        self.answers.append((to, message))
        if self.audit is not None and (to.act is not None or self.audit.commands):
            self.audit.answered(to, message)

    def job(self, job: Callable[[], Any], report: Callable[[Any, str], None], drop: Callable[[], None]) -> None:
        """Hold a job for a helper; `drop` is called if the job is never started."""
        self.jobs.append((job, report, drop))

    def drop(self) -> None:
        """Drop all frames and jobs, because the turn was rolled back."""
        self.requests.clear()
        self.answers.clear()
        jobs, self.jobs = self.jobs, []
        for _, _, drop in jobs:
            drop()

    def send_early(self) -> None:
        """Send at most one batch of entries to each follower before the commit (dissertation 10.2.1).

        This is the only exception to "on disk first". Only a leader may do it whose term and vote were durable when the
        turn began. It is safe because a leader counts itself only when its own entries are on disk.
        """
        if not self.requests:
            return
        early: set[str] = set()
        kept = []
        ledger = self.ledger
        for to, message in self.requests:
            if type(message) is AppendEntries and to.node not in early and ledger.may_send_early(message.term):
                early.add(to.node)
                self.send_request(to, message)
            else:
                kept.append((to, message))
        self.requests = kept

    def send(self) -> None:
        """Send all frames and start all jobs, because the turn is on disk."""
        answers, requests, jobs = self.answers, self.requests, self.jobs
        self.answers, self.requests, self.jobs = [], [], []
        for sender, message in answers:
            self.send_answer(sender, message)
        for to, message in requests:
            self.send_request(to, message)
        for job, report, _ in jobs:
            self.transport.offload(job, report)

    def frame(self, to: str, to_boot: int, request: int, sent: int, message: Any) -> Frame:
        """Make a frame of this node."""
        identity = self.ledger.identity
        return Frame(
            to,
            identity.cluster_id,
            identity.node_id,
            identity.boot_token,
            identity.boot,
            to_boot,
            request,
            sent,
            message,
        )

    def send_request(self, to: PeerAddress, message: Any) -> None:
        """Send a request to a peer, if the peer was greeted in its present boot."""
        boot = self.boots.get(to.node)
        if boot is None and type(message) is not Hello:
            return
        self.number += 1
        sent = self.clock.boottime_ns()
        frame = self.frame(to.actor, boot or 0, self.number, sent, self.certified(message, to.node))
        if not self.transport.send_peer(to.node, encode(frame)):
            self.refusals.count(PEER_TAKES_NO_FRAME)

    def certified(self, message: Any, node: str) -> Any:
        """The message to a node, with the statement of this node's certificate if it is one that carries it."""
        if self.certificates is None or not isinstance(message, CARRIERS):
            return message
        return replace(message, statement=self.certificates.statement(node))

    def send_answer(self, to: SenderAddress, message: Any) -> None:
        """Send an answer on the connection of its request."""
        known = self.ledger.identity.boots.get(to.node) if to.node else None
        boot, whole = known[1] if known else 0, self.certified(message, to.node)
        frame = self.frame(to.actor, boot, to.request, to.sent, whole)
        if not self.transport.send_answer(to.connection, frame):
            self.refusals.count(PEER_TAKES_NO_ANSWER if to.node else CLIENT_TAKES_NO_ANSWER)
