"""Mutants of the client sessions: at most once, over retries, restarts and snapshots."""

from __future__ import annotations

from typing import Any

from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.machines.machine import Outcome
from forge_consensus.storage.machines.session_import import SessionImport
from forge_consensus.storage.machines.sessions import STALE, Sessions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant


@mutant()
def a_session_forgets_what_it_did(patch: Patch) -> None:
    """A command that is sent again is applied again."""
    begin = Sessions.begin

    def forget(self: Sessions, session: int, seq: int, done_below: int, time_ms: int, used: int = 0) -> Any:
        state = self.live.get(session)
        if state is not None:
            state.outcomes.pop(seq, None)
        return begin(self, session, seq, done_below, time_ms, used)

    patch.setattr(Sessions, "begin", forget)


@mutant(own_machine=False)
def a_run_is_new_whatever_its_session_did(patch: Patch) -> None:
    """Commands that are applied at once are applied again when they are sent again."""
    patch.setattr(Sessions, "are_new", lambda self, session, seqs, done_below, elapsed_ms, size: session in self.live)


@mutant()
def a_command_that_its_client_is_done_with_is_applied_again(patch: Patch) -> None:
    """What lies below the client's mark was forgotten with its result, and counts as new."""
    begin = Sessions.begin

    def again(self: Sessions, session: int, seq: int, done_below: int, time_ms: int, used: int = 0) -> Outcome | None:
        outcome = begin(self, session, seq, done_below, time_ms, used)
        return None if outcome is STALE else outcome

    patch.setattr(Sessions, "begin", again)


@mutant()
def sessions_are_lost_in_a_snapshot(patch: Patch) -> None:
    """A node that gets its state from a snapshot knows no session, and applies what was applied (I14)."""
    patch.setattr(SessionImport, "take", lambda self, batch, key, row: None)


@mutant()
def a_snapshot_forgets_the_results_in_its_sessions(patch: Patch) -> None:
    """The cached results are no part of a snapshot, so a retry is applied twice after it is installed (I14)."""
    capture = Sessions.capture
    patch.setattr(Sessions, "capture", lambda self: [(session, head, {}) for session, head, _ in capture(self)])


@mutant()
def sessions_expire_by_each_nodes_own_clock(patch: Patch) -> None:
    """A session's age is measured by the clock of the node that applies, not by the time in the entries (I5)."""
    begin_turn, begin, open_session = Ledger.begin, Sessions.begin, Sessions.open

    def note(self: Ledger, now: float) -> None:
        begin_turn(self, now)
        vars(self.applier.sessions)["own_ms"] = int(now * 1000)

    def own(self: Sessions, time_ms: int) -> int:
        return int(vars(self).get("own_ms", time_ms))

    def begin_own(
        self: Sessions, session: int, seq: int, done_below: int, time_ms: int, used: int = 0
    ) -> Outcome | None:
        return begin(self, session, seq, done_below, own(self, time_ms), used)

    def open_own(self: Sessions, index: int, time_ms: int, ttl_ms: int, used: int = 0, owner: int = 0) -> int:
        return open_session(self, index, own(self, time_ms), ttl_ms, used, owner)

    patch.setattr(Ledger, "begin", note)
    patch.setattr(Sessions, "begin", begin_own)
    patch.setattr(Sessions, "open", open_own)


@mutant()
def a_retry_gets_the_result_of_the_newest_command(patch: Patch) -> None:
    """A session keeps one result only, and gives it for whatever is sent again."""
    begin = Sessions.begin

    def newest(self: Sessions, session: int, seq: int, done_below: int, time_ms: int, used: int = 0) -> Outcome | None:
        outcome = begin(self, session, seq, done_below, time_ms, used)
        state = self.live.get(session)
        if outcome is not None and state is not None and seq in state.outcomes:
            return next(reversed(state.outcomes.values()))
        return outcome

    patch.setattr(Sessions, "begin", newest)
