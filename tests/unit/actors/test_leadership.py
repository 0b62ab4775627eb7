"""The leadership alone, without actors: it returns its decisions as effects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest

from forge_consensus.actors.messages import DAMAGED, FULL, AppendEntries, AppendReply
from forge_consensus.actors.notices import PeerNeedsSnapshot, ReadIndex, ReadReady, Resign
from forge_consensus.actors.raft.catch_up import ROUNDS_MAX
from forge_consensus.actors.raft.leadership import HAND_OVER, MATCH_MOVED, SEND_SOON, Effect, Leadership, SendTo
from forge_consensus.actors.raft.progress import Phase
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.changes import Action, Change, changed
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import ConfigurationHistory
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode

TERM = 3
SETTINGS = RaftSettings()


@dataclass
class View:
    """What a leadership sees of a ledger."""

    log: Log
    configurations: ConfigurationHistory
    commit_index: int = 0
    elapsed_ms: int = 5000

    @property
    def configuration(self) -> Configuration:
        return self.configurations.current


def leader(size: int = 3, *, last: int = 5, base: int = 0, lease_reads: bool = False) -> Leadership:
    """Node n1 leads term 3 with a log of that term; its no-op is the last entry."""
    log = Log(MemoryTables(), 1 << 20)
    log.reload(base, TERM if base else 0, base)
    log.append([encode(index, TERM, Kind.NOOP, 0) for index in range(base + 1, last + 1)])
    members = {f"n{number}": f"127.0.0.1:{number}" for number in range(1, size + 1)}
    configurations = ConfigurationHistory()
    configurations.add(1, Configuration.of(members, lease_reads=lease_reads).encode())
    return Leadership(TERM, last, node_id="n1", ledger=View(log, configurations), settings=SETTINGS, now=0.0)


def reply(index: int, *, success: bool = True, entry_term: int = 0, in_round: int = 0) -> AppendReply:
    return AppendReply(TERM, success, index, entry_term, in_round)


def test_a_leader_sends_each_follower_its_missing_entries_once() -> None:
    leads = leader()
    (to_n2, to_n3) = leads.send_entries(0.0)
    assert isinstance(to_n2, SendTo)
    assert isinstance(to_n3, SendTo)
    assert (to_n2.node, to_n3.node) == ("n2", "n3")
    assert (to_n2.message.prev_index, len(to_n2.message.records)) == (4, 1)
    assert leads.send_entries(0.0) == [], "a probe waits for its answer"


def test_an_acknowledgement_moves_the_match_index_and_the_index_of_the_majority() -> None:
    leads = leader()
    assert leads.on_majority() == 0
    assert list(leads.answered("n2", reply(4), 0, 0.1)) == [SEND_SOON, MATCH_MOVED]
    assert list(leads.answered("n2", reply(4), 0, 0.1)) == [SEND_SOON], "no news"
    assert list(leads.answered("n9", reply(5), 0, 0.1)) == [], "no follower of this leadership"
    leads.persisted(5)
    assert leads.on_majority() == 4


def test_a_refusal_behind_the_start_of_the_log_asks_for_one_snapshot() -> None:
    leads = leader(last=9, base=6)
    assert list(leads.answered("n2", reply(1, success=False), 0, 0.1)) == [PeerNeedsSnapshot("n2")]
    assert list(leads.answered("n2", reply(1, success=False), 0, 0.1)) == []
    assert list(leads.answered("n3", reply(7, success=False, entry_term=TERM), 0, 0.1)) == [SEND_SOON]


def test_a_follower_that_got_a_snapshot_is_probed_behind_it() -> None:
    leads = leader(last=9)
    assert leads.probe_again("n2", 6) == [SEND_SOON]
    assert (leads.match["n2"], leads.progress["n2"].next) == (6, 7)
    assert leads.probe_again("n2", 0) == [SEND_SOON], "0 says only that it can be reached"
    assert (leads.match["n2"], leads.progress["n2"].phase) == (6, Phase.PROBE)
    assert leads.probe_again("n9", 6) == []


def test_a_leader_resigns_when_a_majority_is_silent() -> None:
    leads, timeout = leader(), SETTINGS.election_timeout_min
    leads.answered("n2", reply(4), 0, timeout / 2)
    assert not resigns(leads.heartbeat(timeout, timeout))
    (resign,) = resigns(leads.heartbeat(2 * timeout, timeout))
    assert resign.term == TERM


def resigns(effects: list[Effect]) -> list[Resign]:
    """The resignations among these effects."""
    return [effect for effect in effects if isinstance(effect, Resign)]


def test_a_leader_blames_nobody_for_its_own_slow_turn_before_its_question_could_be_answered() -> None:
    leads, timeout, beat = leader(), SETTINGS.election_timeout_min, SETTINGS.heartbeat_interval
    assert not resigns(leads.heartbeat(5 * timeout, 0.0)), "nobody was asked since"
    left = 6 * timeout
    assert not resigns(leads.heartbeat(left, left)), "the question left only now"
    assert not resigns(leads.heartbeat(left + 0.9 * beat, left)), "an answer may be under way"
    assert resigns(leads.heartbeat(left + 1.1 * beat, left))


@pytest.mark.parametrize(
    ("slowest", "answer"),
    [
        (0.0, SETTINGS.heartbeat_interval),
        (SETTINGS.election_timeout_min, SETTINGS.heartbeat_interval),
        (SETTINGS.election_timeout_min + 0.1, SETTINGS.election_timeout_min + 0.1),
        (60.0, SETTINGS.election_timeout_max),
    ],
)
def test_followers_have_as_long_to_answer_as_the_leaders_own_slow_commits_take(slowest: float, answer: float) -> None:
    leads = leader()
    leads.heartbeat(0.0, 0.0)
    leads.take_own_pace(slowest)
    asked = 5.0
    assert not resigns(leads.heartbeat(asked, asked))
    assert not resigns(leads.heartbeat(asked + 0.99 * answer, asked))
    assert resigns(leads.heartbeat(asked + 1.01 * answer, asked))


def test_followers_answer_as_quickly_as_before_once_the_leaders_commits_are_quick_again() -> None:
    leads, beat = leader(), SETTINGS.heartbeat_interval
    leads.take_own_pace(1.0)
    leads.take_own_pace(0.002)
    leads.heartbeat(0.0, 0.0)
    assert not resigns(leads.heartbeat(5.0, 5.0))
    assert resigns(leads.heartbeat(5.0 + 1.1 * beat, 5.0))


def test_a_follower_that_answers_what_a_slow_turn_sent_is_heard() -> None:
    leads, timeout = leader(), SETTINGS.election_timeout_min
    leads.heartbeat(0.0, 0.0)
    for slow in range(1, 9):
        sent = slow * 0.9 * timeout
        leads.answered("n2", reply(4), int((sent - 0.9 * timeout) * 1e9), sent - 0.9 * timeout)
        assert not resigns(leads.heartbeat(sent, sent))


def test_a_read_waits_for_the_answers_to_a_round_that_begins_after_it_and_for_the_no_op() -> None:
    leads = leader()
    leads.send_entries(0.0)
    assert list(leads.read(ReadIndex(7, lease=False), 0)) == [SEND_SOON]
    sent = [effect.message for effect in leads.send_entries(0.0) if isinstance(effect, SendTo)]
    assert [message.round for message in sent] == [1, 1]
    assert all(type(message) is AppendEntries and not message.records for message in sent)
    leads.answered("n2", reply(4, in_round=0), 0, 0.1)
    leads.ledger.commit_index = 5  # type: ignore[misc]
    assert leads.answer_reads() == []
    leads.answered("n2", reply(4, in_round=1), 0, 0.1)
    leads.ledger.commit_index = 4  # type: ignore[misc]
    assert leads.answer_reads() == [], "the no-op is not committed"
    leads.ledger.commit_index = 5  # type: ignore[misc]
    assert leads.answer_reads() == [ReadReady(7, 5)]


def test_a_cluster_of_one_confirms_its_reads_itself() -> None:
    leads = leader(1)
    leads.ledger.commit_index = 5  # type: ignore[misc]
    leads.read(ReadIndex(7, lease=False), 0)
    assert leads.send_entries(0.0) == [ReadReady(7, 5)]


def test_a_lease_counts_from_the_send_time_that_a_majority_answered() -> None:
    leads = leader(lease_reads=True)
    leads.ledger.commit_index = 5  # type: ignore[misc]
    second = 1_000_000_000
    leads.answered("n2", reply(4), 10 * second, 0.1)
    length = SETTINGS.election_timeout_min * (1 - SETTINGS.clock_drift)
    assert list(leads.read(ReadIndex(7, lease=True), 10 * second + int(length * 1e9) - 1)) == [ReadReady(7, 5)]
    assert list(leads.read(ReadIndex(8, lease=True), 10 * second + int(length * 1e9))) == [SEND_SOON]


# --- followers that take nothing, and a leader that can append nothing ------------------------------------------------


def refusal(why: str, index: int = 0, *, success: bool = False) -> AppendReply:
    return AppendReply(TERM, success, index, 0, 0, refusal=why)


def entries_to(leads: Leadership, node: str, now: float) -> list[int]:
    """How many entries each append to that follower carries, of those that a heartbeat sends."""
    sent = [effect for effect in leads.heartbeat(now, now) if isinstance(effect, SendTo) and effect.node == node]
    return [len(effect.message.records) for effect in sent]


def test_entries_that_a_follower_refused_are_sent_again_ever_more_seldom() -> None:
    leads = leader()
    leads.send_entries(0.0)
    list(leads.answered("n2", reply(4), 0, 0.0))
    tries, now = [], 0.0
    while now < 20.0:
        list(leads.answered("n2", refusal(DAMAGED), 0, now))
        list(leads.answered("n3", reply(5), 0, now))
        for _ in range(1000):
            now += SETTINGS.heartbeat_interval
            if entries_to(leads, "n2", now) != [0]:
                tries.append(now)
                break
            list(leads.answered("n2", reply(4), 0, now))
            list(leads.answered("n3", reply(5), 0, now))
    gaps = [later - before for before, later in pairwise(tries)]
    assert gaps[:4] == pytest.approx([0.4, 0.8, 1.6, 3.2], abs=0.11)
    assert max(gaps) < 3.4
    assert leads.refusals == {"n2": DAMAGED}, "that heartbeats are accepted proves nothing"
    assert leads.refused_appends["n2"] == len(tries)
    list(leads.answered("n2", reply(5), 0, now))
    assert leads.refusals == {}
    assert leads.progress["n2"].pause == 0.0


def test_a_full_follower_gets_entries_as_soon_as_it_says_that_it_has_room() -> None:
    leads = leader()
    leads.send_entries(0.0)
    list(leads.answered("n2", refusal(FULL), 0, 0.0))
    for number in range(5):
        list(leads.answered("n2", refusal(FULL, 4, success=True), 0, 0.01 * number))
        assert SEND_SOON not in leads.send_entries(0.01)
    assert leads.refused_appends["n2"] == 1, "a heartbeat that is accepted is no refused append"
    assert SEND_SOON in list(leads.answered("n2", reply(4), 0, 0.1))
    assert [effect.node for effect in leads.send_entries(0.1) if isinstance(effect, SendTo)] == ["n2"]


def full_leader(size: int = 3) -> Leadership:
    leads = leader(size)
    for node in leads.progress:
        list(leads.answered(node, reply(5), 0, 1.0))
    assert leads.cannot_append(1.0, "full") == []
    return leads


def test_a_full_leader_hands_over_and_then_resigns_if_a_majority_of_the_others_takes_entries() -> None:
    leads = full_leader()
    assert leads.cannot_append(1.0 + SETTINGS.election_timeout_min / 2 - 0.01, "full") == [], "it may be momentary"
    assert leads.cannot_append(1.0 + SETTINGS.election_timeout_min / 2 + 0.01, "full") == [HAND_OVER]
    for node in leads.progress:
        list(leads.answered(node, reply(5), 0, 1.0 + 2 * SETTINGS.election_timeout_min))
    assert leads.cannot_append(1.0 + 2 * SETTINGS.election_timeout_min, "full") == [Resign(TERM, "full")]


def test_a_leader_that_has_room_again_begins_to_count_anew() -> None:
    leads = full_leader()
    assert leads.cannot_append(1.3, "") == []
    assert leads.cannot_append(1.5, "full") == []


def test_a_full_leader_stays_if_nobody_else_could_append() -> None:
    leads = full_leader()
    list(leads.answered("n2", refusal(FULL, 5, success=True), 0, 1.3))
    assert leads.cannot_append(1.6, "full") == [], "n3 alone is no majority"
    leads = full_leader(1)
    assert leads.cannot_append(9.0, "full") == [], "it is alone"
    leads = full_leader()
    for now in (1.1, 1.2):
        leads.heartbeat(now, now)
    assert leads.cannot_append(9.0, "full") == [], "the others are silent"
    leads = full_leader()
    for progress in leads.progress.values():
        progress.match = 3
    leads.ledger.commit_index = 5  # type: ignore[misc]
    assert leads.cannot_append(1.5, "full") == [], "nobody holds all that is committed"


def test_entries_are_blocked_if_no_majority_has_room() -> None:
    leads = leader()
    assert leads.blocked == ""
    list(leads.answered("n2", refusal(FULL), 0, 0.0))
    assert leads.blocked == ""
    list(leads.answered("n3", refusal(FULL), 0, 0.0))
    assert leads.blocked == "n2 and n3 have no room and no majority is left: make room on their disks"
    list(leads.answered("n3", reply(4), 0, 0.1))
    assert leads.blocked == ""


def change(leads: Leadership, *changes: Change) -> int:
    """Append the first configuration of these changes to the leader's log, and follow it; returns its index."""
    view = leads.ledger
    assert isinstance(view, View)
    index = view.log.last + 1
    data = changed(view.configuration, changes, {"n4": f"f{index}", "n5": "f5"}).encode()
    view.log.append([encode(index, TERM, Kind.CONFIGURATION, 0, data=data)])
    view.configurations.add(index, data)
    leads.follow_members(1.0)
    return index


def test_a_member_that_is_added_is_sent_entries_and_counts_for_nothing_as_a_learner() -> None:
    leads = leader(3, last=5)
    index = change(leads, Change(Action.ADD_LEARNER, "n4", "h4:1"))
    sent = [effect for effect in leads.send_entries(1.0) if isinstance(effect, SendTo) and effect.node == "n4"]
    assert [(effect.message.prev_index, len(effect.message.records)) for effect in sent] == [(5, 1)]
    leads.answered("n4", reply(index), 1, 1.0)
    leads.persisted(index)
    assert leads.on_majority() == 0, "a learner and the leader are no majority of three voters"
    leads.answered("n2", reply(index), 1, 1.0)
    assert leads.on_majority() == index


def test_a_learner_that_never_comes_near_is_told_as_late() -> None:
    leads = leader(3, last=5)
    view: Any = leads.ledger
    change(leads, Change(Action.ADD, "n4", "h4:1"), Change(Action.ADD_LEARNER, "n5", "h5:1"))
    for number in range(ROUNDS_MAX):
        assert leads.late_learners() == ()
        leads.match["n4"] = view.log.last
        view.log.append([encode(view.log.last + 1, TERM, Kind.COMMAND, 0)])
        assert leads.near(2.0 * number + 3.0) == []
    assert leads.late_learners() == ("n4",)


def test_what_a_member_refused_is_forgotten_with_all_else_of_it_when_it_is_bound_to_its_folder() -> None:
    """The first change of members binds all of them; a member that has room when it is back says no more than that."""
    leads = leader()
    list(leads.answered("n3", refusal(FULL), 0, 0.0))
    assert leads.refusals == {"n3": FULL}
    bound = replace(leads.members, folders=(("n2", "folder-n2"), ("n3", "folder-n3")))
    view: Any = leads.ledger
    view.configurations.add(6, bound.encode())
    leads.follow_members(0.1)
    list(leads.answered("n3", reply(5), 0, 0.2))
    assert leads.refusals == {}


def test_a_joint_configuration_commits_with_a_majority_of_both_sets_only() -> None:
    leads = leader(3, last=5)
    for node in ("n4", "n5"):
        change(leads, Change(Action.ADD_LEARNER, node, f"{node}:1"))
    index = change(
        leads,
        *(Change(Action.PROMOTE, node) for node in ("n4", "n5")),
        *(Change(Action.REMOVE, node) for node in ("n2", "n3")),
    )
    leads.persisted(index)
    for node in ("n4", "n5"):
        leads.answered(node, reply(index), 1, 1.0)
    assert leads.on_majority() == 0, "n1, n4 and n5 are all new voters, and one of three old ones"
    leads.answered("n2", reply(index), 1, 1.0)
    assert leads.on_majority() == index


def test_a_leader_of_a_cluster_in_which_it_does_not_vote_counts_others_only() -> None:
    leads = leader(3, last=5)
    change(leads, Change(Action.REMOVE, "n3"))
    index = change(leads, Change(Action.REMOVE, "n1"))
    leads.persisted(index)
    assert leads.on_majority() == 0
    leads.read(ReadIndex(1, lease=False), 1)
    assert not [effect for effect in leads.send_entries(1.0) if isinstance(effect, ReadReady)], "n2 has to confirm"
    leads.answered("n2", reply(index), 1, 1.0)
    assert leads.on_majority() == index


def test_a_removed_follower_is_sent_its_removal_and_that_it_is_committed_and_then_nothing() -> None:
    leads = leader(3, last=5)
    view = leads.ledger
    assert isinstance(view, View)
    index = change(leads, Change(Action.REMOVE, "n3"))
    leads.send_entries(1.0)
    leads.answered("n3", reply(index), 1, 1.0)
    assert "n3" in leads.progress
    leads.heartbeat(1.1, 1.1)
    assert "n3" in leads.progress, "the removal is not committed"
    view.commit_index = index
    leads.heartbeat(1.2, 1.2)
    leads.answered("n3", reply(index), int(1.15e9), 1.2)
    leads.heartbeat(1.3, 1.3)
    assert "n3" in leads.progress, "what it answered had left before the commit"
    leads.answered("n3", reply(index), int(1.25e9), 1.3)
    sent = [effect.node for effect in leads.heartbeat(1.4, 1.4) if isinstance(effect, SendTo)]
    assert sent == ["n2"]
    assert set(leads.match) == {"n1", "n2"}
    assert "n3" not in leads.refused_appends


def test_a_removed_follower_that_is_silent_is_forgotten_after_an_election_timeout() -> None:
    leads = leader(3, last=5)
    view = leads.ledger
    assert isinstance(view, View)
    view.commit_index = change(leads, Change(Action.REMOVE, "n3"))
    leads.heartbeat(1.1, 1.1)
    assert "n3" in leads.progress
    leads.heartbeat(1.2 + SETTINGS.election_timeout_max, 1.2)
    assert "n3" not in leads.progress


def test_a_member_that_is_added_again_begins_without_what_the_first_one_acknowledged() -> None:
    leads = leader(3, last=5)
    index = change(leads, Change(Action.ADD_LEARNER, "n4", "h4:1"))
    leads.answered("n4", reply(index), 1, 1.0)
    assert leads.match["n4"] == index
    change(leads, Change(Action.REMOVE, "n4"))
    assert leads.match["n4"] == index, "it is told first"
    change(leads, Change(Action.ADD_LEARNER, "n4", "h4:2"))
    assert leads.match["n4"] == 0
    assert not leads.parting
