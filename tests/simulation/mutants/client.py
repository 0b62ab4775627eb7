"""Mutants of the shipped client's core: its retries, the outcomes it reports, and the answers it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forge_consensus.actors.messages import Read
from forge_consensus.client.pending import Pending
from forge_consensus.client.reads import Reads
from forge_consensus.client.request_window import RequestWindow
from forge_consensus.client.session import SessionCore
from forge_consensus.errors import ConsensusTimeoutError, NotStartedError
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant


@mutant()
def a_client_repeats_the_commands_of_an_expired_session_in_the_next(patch: Patch) -> None:
    """Commands that were sent in a session that expired are sent in the next one, and applied twice (I14)."""

    def requeue(self: SessionCore) -> None:
        self.session = self.opening = 0
        self.commands.requeue(list(self.commands.open.values()))

    patch.setattr(SessionCore, "expire_session", requeue)


@mutant()
def a_client_takes_an_unknown_outcome_for_a_refusal(patch: Patch) -> None:
    """A node that says "outcome unknown" counts as proof that nothing was done."""
    refused = RequestWindow.refused

    def proven(self: RequestWindow[Any], request: int, numbers: tuple[int, ...], *, certain: bool) -> list[Any]:
        return refused(self, request, numbers, certain=True)

    patch.setattr(RequestWindow, "refused", proven)


@mutant()
def a_client_counts_only_the_last_sending_of_a_command(patch: Patch) -> None:
    """The refusal of the last frame counts as proof, whatever became of the frames before."""
    pack = RequestWindow.pack

    def forget(self: RequestWindow[Any], endpoint: str, request: int, now: float) -> tuple[tuple[int, bytes], ...]:
        items = pack(self, endpoint, request, now)
        for number, _ in items:
            self.open[number].sends = 1
        return items

    patch.setattr(RequestWindow, "pack", forget)


@mutant()
def a_client_says_of_a_late_command_that_nothing_was_done(patch: Patch) -> None:
    """At its deadline a command that was sent ends as not carried out."""

    def expire(self: SessionCore, late: list[Pending[Any]]) -> None:
        for pending in late:
            pending.error = ConsensusTimeoutError("no answer before the deadline")
        self.resolved += late

    patch.setattr(SessionCore, "expire", expire)


@mutant()
def a_client_that_is_closed_says_that_nothing_was_done(patch: Patch) -> None:
    """Commands that were sent end as not carried out when the client is closed."""

    def close(self: SessionCore, reason: str) -> None:
        for pending in [*self.commands.clear(), *self.reads.clear(), *self.node_queries.clear()]:
            pending.error = NotStartedError(reason)
            self.resolved.append(pending)

    patch.setattr(SessionCore, "close", close)


@mutant()
def a_client_gives_up_results_that_it_waits_for(patch: Patch) -> None:
    """The client says that it is done with numbers that are outstanding, and nodes forget their results."""
    tick = SessionCore.tick

    def skip(self: SessionCore, now: float) -> None:
        tick(self, now)
        self.floor = max(self.floor, self.commands.last)

    patch.setattr(SessionCore, "tick", skip)


@mutant()
def a_client_asks_any_node_for_what_only_the_leader_knows(patch: Patch) -> None:
    """Linearizable queries go to the nearest node, which answers from its own state (I13)."""
    outgoing = Reads.outgoing

    def stale(self: Reads, now: float, leader: Any, requests: Iterator[int]) -> Iterator[tuple[str, Read, int]]:
        for name, message, request in outgoing(self, now, self.nearest(), requests):
            yield name, Read("stale", message.queries), request

    patch.setattr(Reads, "outgoing", stale)


@mutant()
def a_client_forgets_what_was_refused(patch: Patch) -> None:
    """Commands that were refused are never sent again, so they end at their deadline though the cluster serves."""

    def forget(self: SessionCore, endpoint: Any, message: Any, request: int) -> None:
        for window in self.windows():
            window.refused(request, message.numbers, certain=True)

    patch.setattr(SessionCore, "refuse", forget)
    patch.setattr(RequestWindow, "resend_overdue", lambda self, now, plain_s, passed_s: False)
