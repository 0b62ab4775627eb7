"""Tips: a disk that went back is noticed, and no change that a correct node makes is taken for one."""

from __future__ import annotations

import msgpack

from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.ledger.tips import Tip, Tips


def log_of(*terms: int) -> Log:
    log = Log(MemoryTables(), 1 << 20)
    log.reload(0, 0, 0)
    log.append([encode(index, term, Kind.NOOP, 0) for index, term in enumerate(terms, 1)])
    return log


EMPTY = log_of()


def test_whoever_was_never_met_is_not_refused() -> None:
    assert Tips().went_back("n2", Tip(0, 0, 0)) == ""


def test_a_term_that_falls_is_a_forgotten_vote() -> None:
    tips = Tips()
    tips.note_term("n2", 7)
    assert "was in term 7 and now is in term 6" in tips.went_back("n2", Tip(6, 6, 900))
    assert tips.went_back("n2", Tip(7, 6, 1)) == ""


def test_what_was_acknowledged_in_a_term_is_there_while_the_member_is_in_that_term() -> None:
    tips = Tips()
    tips.note_match("n2", 3, 40, 0)
    assert "acknowledged the log up to entry 40, and now its log ends at entry 39" in tips.went_back(
        "n2", Tip(3, 3, 39)
    )
    assert tips.went_back("n2", Tip(3, 3, 40)) == ""
    assert tips.went_back("n2", Tip(4, 3, 12)) == "", "a later leader may have removed what was not committed"
    tips.note_match("n2", 3, 0, 40)
    assert tips.of("n2").verified == 40


def test_what_was_acknowledged_and_is_committed_is_there_for_ever() -> None:
    tips = Tips()
    tips.note_match("n2", 3, 40, 35)
    assert tips.went_back("n2", Tip(9, 9, 34)) != ""
    assert tips.went_back("n2", Tip(9, 9, 35)) == ""
    tips.note_match("n2", 2, 90, 10)
    assert tips.of("n2").committed == 35


def test_a_tip_counts_only_as_far_as_its_own_term_or_the_commit_index_proves_it() -> None:
    tips = Tips()
    tips.note_tip("n2", Tip(5, 4, 8), EMPTY, 0)  # the leader of term 5 may remove entries of term 4
    assert tips.went_back("n2", Tip(5, 3, 6)) == ""
    tips.note_tip("n2", Tip(5, 5, 9), EMPTY, 0)
    assert tips.went_back("n2", Tip(5, 5, 8)) != ""
    assert tips.went_back("n2", Tip(6, 4, 3)) == ""


def test_a_tip_that_is_the_committed_entry_of_the_own_log_is_there_for_ever() -> None:
    tips = Tips()
    log = log_of(1, 1, 2, 2)
    tips.note_tip("n2", Tip(2, 1, 3), log, 4)  # another entry 3
    assert tips.went_back("n2", Tip(8, 8, 1)) == ""
    tips.note_tip("n2", Tip(2, 2, 3), log, 2)  # the same entry, not known to be committed
    assert tips.went_back("n2", Tip(8, 8, 1)) == ""
    tips.note_tip("n2", Tip(2, 2, 3), log, 3)
    assert tips.went_back("n2", Tip(8, 8, 2)) != ""


def test_what_is_known_is_stored_and_read_again() -> None:
    boots = {"n2": ("folder.draw", 4)}
    tips = Tips(boots)
    assert not tips.unsaved
    tips.note_match("n2", 3, 40, 35)
    tips.note_term("n3", 7)
    assert tips.unsaved
    again = Tips(boots)
    again.load(msgpack.unpackb(msgpack.packb(tips.rows())))
    assert again.members == tips.members
    assert again.of("n2").told_by == ("folder.draw", 4)
    assert again.went_back("n2", Tip(3, 3, 39)) != ""
    assert not again.unsaved


def test_what_is_known_already_is_neither_stored_again_nor_attributed_to_a_later_boot() -> None:
    boots = {"n2": ("folder.draw", 4)}
    tips = Tips(boots)
    tips.note_match("n2", 3, 40, 35)
    tips.unsaved = False
    boots["n2"] = ("folder.next", 5)
    tips.note_match("n2", 3, 40, 35)
    tips.note_match("n2", 2, 90, 10)
    tips.note_term("n2", 1)
    tips.note_tip("n2", Tip(3, 3, 12), EMPTY, 99)
    assert not tips.unsaved
    assert tips.of("n2").told_by == ("folder.draw", 4)
    tips.note_term("n2", 4)
    assert (tips.unsaved, tips.of("n2").told_by) == (True, ("folder.next", 5))
