"""The outbox: what a turn wants to say or have done elsewhere, held until what it rests on is on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forge_consensus.actors.codec import Frame, encode
from forge_consensus.actors.messages import AppendEntries, Hello
from forge_consensus.actors.runtime.address import PeerAddress, SenderAddress

if TYPE_CHECKING:
    from forge_consensus.actors.runtime.engine import Engine


class Outbox:
    """Requests to peers, answers to whoever asked, and jobs for helpers, in the order in which actors sent them.

    A job waits like a frame, for it leaves traces too: a file that it gives a name must not be of a term that a crash
    before the commit forgets.

    `boots` holds the boot of each peer that was greeted: only to those, and to a greeting, frames may leave.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.requests: list[tuple[PeerAddress, Any]] = []
        self.answers: list[tuple[SenderAddress, Any]] = []
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, str], None], Callable[[], None]]] = []
        self.boots: dict[str, int] = {}
        self.number = 0

    def request(self, to: PeerAddress, message: Any) -> None:
        """Hold a request to a peer."""
        self.requests.append((to, message))

    def answer(self, to: SenderAddress, message: Any) -> None:
        """Hold an answer."""
        self.answers.append((to, message))

    def job(self, job: Callable[[], Any], report: Callable[[Any, str], None], drop: Callable[[], None]) -> None:
        """Hold a job for a helper; `drop` is called if it is never begun."""
        self.jobs.append((job, report, drop))

    def drop(self) -> None:
        """The turn did not happen: nothing of it is said, and nothing of it is begun."""
        self.requests.clear()
        self.answers.clear()
        jobs, self.jobs = self.jobs, []
        for _, _, drop in jobs:
            drop()

    def send_early(self) -> None:
        """Send at most one run of entries to each follower before the commit (dissertation 10.2.1).

        The one exception to "on disk first". It may be made only by a leader whose term and vote were durable when
        the turn began, and it is harmless because a leader counts itself only when its own entries are on disk.
        """
        if not self.requests:
            return
        early: set[str] = set()
        kept = []
        ledger = self.engine.ledger
        for to, message in self.requests:
            if type(message) is AppendEntries and to.node not in early and ledger.may_send_early(message.term):
                early.add(to.node)
                self.send_request(to, message)
            else:
                kept.append((to, message))
        self.requests = kept

    def send(self) -> None:
        """Send everything and have the jobs begun: the turn is on disk."""
        answers, requests, jobs = self.answers, self.requests, self.jobs
        self.answers, self.requests, self.jobs = [], [], []
        for sender, message in answers:
            self.send_answer(sender, message)
        for to, message in requests:
            self.send_request(to, message)
        for job, report, _ in jobs:
            self.engine.wire.offload(job, report)

    def frame(self, to: str, to_boot: int, request: int, sent: int, message: Any) -> Frame:
        """A frame of this node."""
        identity = self.engine.ledger.identity
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
        """Send a request to a peer, if it was greeted in its present boot."""
        boot = self.boots.get(to.node)
        if boot is None and type(message) is not Hello:
            return
        self.number += 1
        sent = self.engine.clock.boottime_ns()
        frame = self.frame(to.actor, boot or 0, self.number, sent, message)
        if not self.engine.wire.send_peer(to.node, encode(frame)):
            self.engine.board.refused["peer takes no frame"] += 1

    def send_answer(self, to: SenderAddress, message: Any) -> None:
        """Send an answer back by the connection that the request came by."""
        boot = self.boots.get(to.node, 0) if to.node else 0
        if to.node:
            known = self.engine.ledger.identity.boots.get(to.node)
            boot = known[1] if known else 0
        frame = self.frame(to.actor, boot, to.request, to.sent, message)
        if not self.engine.wire.send_answer(to.connection, frame):
            self.engine.board.refused["client takes no answer"] += 1
