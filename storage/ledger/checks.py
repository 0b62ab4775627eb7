"""The assertions: what a running node checks of itself, and stops for before anything wrong can leave it.

The simulation checks all invariants, I1 to I16, after every step (`forge_consensus.testing.rules.invariants`). These
are cheap enough for production: a comparison a turn, or one on a path that is rarely taken.

====  =========================================================  ======================================================
I2    a leader never rewrites its own log                        `Ledger.accept` refuses entries while it leads
I3    same index and term, same entry                            `same_entry`, for each entry sent again; terms never
                                                                 fall: `check_records`, and `Log.verify` at the start
I5    all apply the same                                         `Applier.run`: in the log's order, terms never fall;
                                                                 only what is committed (`Ledger.apply`)
I7    what is committed stays                                    `Ledger.truncate`
I8    base <= applied on disk <= applied <= committed <= last    `check_turn`; `check_whole` at the start
I9    term and commit index never go back                        `check_vote`, `check_turn`
I10   one vote a term, on disk before it is told                 `Ledger.grant_vote`, `check_vote`, `check_turn`
I11   an acknowledgement speaks for the disk                     `check_turn`: nothing leaves before it is on disk;
                                                                 `Log.reload`: the log ends where the last commit said
I16   nothing leaves after a storage error                       the error ends the turn before its frames leave, and
                                                                 `Tables` refuse every call after it
====  =========================================================  ======================================================

Whatever fails raises a fatal error, `LogInconsistentError` here: the process ends with a code that is not 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forge_consensus.errors import LogInconsistentError, ProtocolError
from forge_consensus.storage.ledger.record import intact, term_of

if TYPE_CHECKING:
    from forge_consensus.storage.ledger.ledger import Ledger

Hard = tuple[int, str, int, int]
"""(term, vote, commit index, last index) as the ledger keeps them on disk."""


def check_turn(ledger: Ledger) -> None:
    """What must hold when a turn's transaction is done and its frames are about to leave: I8, I9, I10, I11.

    Raises `LogInconsistentError`.
    """
    log, applier, commit = ledger.log, ledger.applier, ledger.commit_index
    if not (
        log.base_index <= applier.on_disk <= applier.index <= commit <= log.last == log.durable
        and commit >= ledger.commit_before
        and (ledger.term, ledger.vote) == ledger.hard_on_disk[:2]
    ):
        raise LogInconsistentError(what_is_wrong(ledger))


def what_is_wrong(ledger: Ledger) -> str:
    """Name the first broken invariant, with the values."""
    log, applier, commit, term = ledger.log, ledger.applier, ledger.commit_index, ledger.term
    if (term, ledger.vote) != ledger.hard_on_disk[:2]:
        was_term, was_vote, *_ = ledger.hard_on_disk
        return broken("I10", f"term {term} with vote {ledger.vote!r} is not on disk, {was_term} with {was_vote!r} is")
    if log.last != log.durable:
        return broken("I11", f"the log ends at {log.last}, on disk at {log.durable}, in term {term}")
    if commit < ledger.commit_before:
        return broken("I9", f"the commit index goes back from {ledger.commit_before} to {commit} in term {term}")
    order = f"base {log.base_index}, applied on disk {applier.on_disk}, applied {applier.index}, commit {commit}"
    return broken("I8", f"out of order in term {term}: {order}, last {log.last}")


def check_vote(before: Hard, after: Hard) -> None:
    """What is about to be written over term and vote: neither goes back (I9, I10). Raises `LogInconsistentError`."""
    was_term, was_vote, term, vote = *before[:2], *after[:2]
    if term < was_term or (term == was_term and was_vote not in {"", vote}):
        text = f"term {was_term} with vote {was_vote!r} would become term {term} with vote {vote!r}"
        raise LogInconsistentError(broken("I10" if term == was_term else "I9", text))


def same_entry(index: int, ours: bytes, theirs: bytes) -> bool:
    """Whether an entry that a leader sends is the one that is here already, by its term (I3).

    Raises `LogInconsistentError` when the term is the same and the entry is not, `ProtocolError` when theirs is
    damaged.
    """
    if term_of(ours) != term_of(theirs):
        return False
    if ours != theirs:
        if not intact(index, theirs):
            raise ProtocolError(f"entry {index} of an append is damaged or out of order")
        raise LogInconsistentError(broken("I3", f"two entries {index} of term {term_of(ours)} differ"))
    return True


def broken(number: str, what: str) -> str:
    """The message of a broken invariant."""
    return f"invariant {number} does not hold: {what}. The node stops; keep its folder and report this"
