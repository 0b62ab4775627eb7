"""The checks: a running node verifies its own state, so that it stops before anything wrong can leave it.

The invariants I1 to I16 are listed in docs/invariants.md. The simulation checks all of them after every step
(`forge_consensus.testing.rules.invariants`). Those below are cheap enough for production: one comparison a turn, or one
on a path that is rarely taken.

====  =========================================================  ======================================================
I2    a leader never rewrites its own log                        `Ledger.accept` refuses entries while it leads
I3    same index and term, same entry                            `same_entry`, for each entry sent again; terms never
                                                                 fall: `check_records`, and `Log.verify` at the start
I5    all nodes apply the same                                   `Applier.run`: in the log's order, terms never fall;
                                                                 only what is committed (`Ledger.apply`)
I7    what is committed stays                                    `Ledger.truncate`
I8    base <= applied on disk <= applied <= committed <= last    `check_turn`; `check_whole` at the start
I9    term and commit index never go back                        `check_vote`, `check_turn`
I10   one vote a term, on disk before it is sent                 `Ledger.grant_vote`, `check_vote`, `check_turn`
I11   an acknowledged entry is on disk                           `check_turn`: nothing leaves before it is on disk;
                                                                 `Log.reload`: the log ends where the last commit ended
I16   nothing leaves after a storage error                       the error ends the turn before its frames leave, and
                                                                 `Tables` refuse every call after it
====  =========================================================  ======================================================

A failed check of the node's own state raises `LogInconsistentError`, which is fatal: the process ends with a code that
is not 0. A failed check of another node's data raises `ProtocolError`: the frame is refused and the node continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from forge_consensus.errors import CorruptionError, LogInconsistentError, ProtocolError
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.levels import LEVEL, LEVEL_OF_KIND, unknown_kind
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, data_of, intact, kind_of, term_of

CONFIGURATION: Final = int(Kind.CONFIGURATION)

HardState = tuple[int, str, int, int]
"""(term, vote, commit index, last index) as the ledger stores them."""

# --- the node's own state --------------------------------------------------------------------------------------------


def check_turn(
    hard: HardState, hard_on_disk: HardState, commit_before: int, applied: int, applied_on_disk: int, log: Log
) -> None:
    """Check I8, I9, I10 and I11 when a turn's transaction is done and its frames are about to leave.

    `hard` is the state in memory; `commit_before` the commit index when the turn began. Raises `LogInconsistentError`.
    """
    _, _, commit, last = hard
    if not (
        log.base_index <= applied_on_disk <= applied <= commit <= last == log.durable
        and commit >= commit_before
        and hard[:2] == hard_on_disk[:2]
    ):
        raise LogInconsistentError(what_is_wrong(hard, hard_on_disk, commit_before, applied, applied_on_disk, log))


def what_is_wrong(
    hard: HardState, hard_on_disk: HardState, commit_before: int, applied: int, applied_on_disk: int, log: Log
) -> str:
    """Name the first invariant that `check_turn` found broken, with the values."""
    term, vote, commit, last = hard
    if hard[:2] != hard_on_disk[:2]:
        was_term, was_vote, *_ = hard_on_disk
        return broken("I10", f"term {term} with vote {vote!r} is not on disk, {was_term} with {was_vote!r} is")
    if last != log.durable:
        return broken("I11", f"the log ends at {last}, on disk at {log.durable}, in term {term}")
    if commit < commit_before:
        return broken("I9", f"the commit index goes back from {commit_before} to {commit} in term {term}")
    order = f"base {log.base_index}, applied on disk {applied_on_disk}, applied {applied}, commit {commit}"
    return broken("I8", f"out of order in term {term}: {order}, last {last}")


def check_vote(before: HardState, after: HardState) -> None:
    """Check that the state to be written goes back neither in term nor in vote (I9, I10).

    Raises `LogInconsistentError`.
    """
    was_term, was_vote, term, vote = *before[:2], *after[:2]
    if term < was_term or (term == was_term and was_vote not in {"", vote}):
        text = f"term {was_term} with vote {was_vote!r} would become term {term} with vote {vote!r}"
        raise LogInconsistentError(broken("I10" if term == was_term else "I9", text))


def broken(number: str, what: str) -> str:
    """The message of a broken invariant: its number, as "I8", and the finding."""
    return f"invariant {number} does not hold: {what}. The node stops; keep its folder and report this"


# --- what a leader sent ----------------------------------------------------------------------------------------------


def same_entry(index: int, ours: bytes, theirs: bytes) -> bool:
    """Whether the record that a leader sent for this index has the term of ours, and so is the same entry (I3).

    Raises `LogInconsistentError` if the term is the same and the entry is not, `ProtocolError` if theirs is damaged.
    """
    if term_of(ours) != term_of(theirs):
        return False
    if ours != theirs:
        if not intact(index, theirs):
            raise ProtocolError(f"entry {index} of an append is damaged or out of order")
        raise LogInconsistentError(broken("I3", f"two entries {index} of term {term_of(ours)} differ"))
    return True


def check_records(term: int, previous: int, first: int, records: Sequence[bytes], level: int = LEVEL) -> list[int]:
    """Check the records that a leader of `term` sent for the indexes first, first + 1, ...

    `previous` is the term of the entry before them, `level` the feature level of this node's program. Returns the
    indexes of those that hold a configuration. Raises `ProtocolError` unless each record is whole, belongs to its index
    and has a term from `previous` to `term` that never falls, and each configuration decodes. Raises
    `UnsupportedVersionError`, which is fatal, for a kind of entry, a version of a configuration or a feature level that
    this program does not know: it could not follow this leader any further.
    """
    found = []
    for index, record in enumerate(records, first):
        record_term = term_of(record)
        if not (previous <= record_term <= term and intact(index, record)):
            raise ProtocolError(f"entry {index} of an append is damaged or out of order")
        previous = record_term
        kind = kind_of(record)
        if kind == CONFIGURATION:
            found.append(index)
        elif kind not in LEVEL_OF_KIND:
            raise unknown_kind(index, kind)
    for index in found:
        try:
            Configuration.decode(data_of(records[index - first]), level)
        except CorruptionError as error:
            raise ProtocolError(f"entry {index} of an append holds no configuration that decodes") from error
    return found
