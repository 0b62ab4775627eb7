"""The rules at the end of a turn: a node's ledger must agree with its disk (I3, I8, I9, I10)."""

from __future__ import annotations

from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.testing.rules.disk_model import Disk
from forge_consensus.testing.rules.violations import ViolationError, demand


def check_turn_end(name: str, ledger: Ledger, disk: Disk) -> None:
    """Compare ledger and disk. Raises `ViolationError`; its text is composed only if a rule is broken."""
    log, applier, base, last, saved = ledger.log, ledger.applier, disk.base, disk.last, disk.applied_on_disk
    if not (
        ledger.term == disk.term
        and ledger.vote == disk.vote
        and log.last == log.durable == last
        and (last == base or disk.terms[base + 1] >= disk.base_term)
        and log.base_index == base
        and disk.applied <= applier.index
        and saved == applier.on_disk
        and base <= saved <= applier.index <= ledger.commit_index <= last
    ):
        say_what_is_wrong(name, ledger, disk)
        raise ViolationError(f"I8: {name}'s turn ends in a state that breaks a rule without a text")


def say_what_is_wrong(name: str, ledger: Ledger, disk: Disk) -> None:
    """Raise `ViolationError` for the first rule that does not hold."""
    commit, applied, log, applier = ledger.commit_index, ledger.applied, ledger.log, ledger.applier
    demand((ledger.term, ledger.vote) == (disk.term, disk.vote), "I10", f"{name} knows more than its disk")
    demand(log.last == log.durable == disk.last, "I8", f"{name} has {log.last} entries, {disk.last} on disk")
    follows = disk.last == disk.base or disk.terms[disk.base + 1] >= disk.base_term
    demand(follows, "I3", f"{name} has entries behind {disk.base} that the snapshot of it does not lead to")
    demand(log.base_index == disk.base, "I8", f"{name}'s log begins at {log.base_index}, not {disk.base}")
    demand(applied >= disk.applied, "I9", f"{name} goes back from applied {disk.applied} to {applied}")
    saved = disk.applied_on_disk
    demand(saved == applier.on_disk, "I8", f"{name} takes {applier.on_disk} for applied on disk, it is {saved}")
    line = f"{name}: base {disk.base} <= applied on disk {saved} <= applied {applied} <= commit {commit}"
    demand(disk.base <= saved <= applied <= commit <= log.last, "I8", f"{line} <= last {log.last}")
