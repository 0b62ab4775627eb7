"""The progress of one follower: probing, the window, late answers."""

from __future__ import annotations

from forge_consensus.actors.raft.progress import Phase, Progress
from forge_consensus.config.raft import RaftSettings


def progress(**options: int) -> Progress:
    return Progress(RaftSettings(**options), next=10, heard=0.0)


def test_a_probe_is_one_frame_until_it_is_answered() -> None:
    one = progress()
    assert one.may_send
    one.sent(12, 100, 0.0)
    assert not one.may_send
    assert one.next == 10
    assert one.acknowledged(12)
    assert (one.phase, one.match, one.next) == (Phase.REPLICATE, 12, 13)


def test_a_full_window_stops_sending_and_one_answer_opens_one_place() -> None:
    one = progress(inflight_frames_max=2)
    one.acknowledged(9)
    one.sent(10, 1, 0.0)
    one.sent(11, 1, 0.0)
    assert not one.may_send
    one.acknowledged(10)
    assert one.may_send
    one.sent(12, 1, 0.0)
    assert not one.may_send


def test_the_window_is_bounded_in_bytes_too() -> None:
    one = progress(inflight_bytes_max=100)
    one.acknowledged(9)
    one.sent(10, 100, 0.0)
    assert not one.may_send


def test_late_and_repeated_answers_move_nothing_back() -> None:
    one = progress()
    one.acknowledged(20)
    assert not one.acknowledged(15)
    assert not one.acknowledged(20)
    assert (one.match, one.next) == (20, 21)
    one.refused(3)
    assert (one.match, one.next) == (20, 21)


def test_a_refusal_probes_from_where_both_logs_may_agree() -> None:
    one = progress()
    one.sent(12, 1, 0.0)
    assert one.refused(4)
    assert (one.phase, one.next) == (Phase.PROBE, 5)
    one.sent(12, 1, 0.0)
    assert not one.refused(7)


def test_a_leader_sends_no_entries_while_a_snapshot_is_on_its_way() -> None:
    one = progress()
    one.become(Phase.SNAPSHOT)
    assert not one.may_send
    assert not one.refused(4)


def test_silence_is_measured_from_the_oldest_frame_under_way() -> None:
    one = progress()
    one.acknowledged(9)
    one.sent(10, 1, 1.0)
    one.sent(11, 1, 2.0)
    assert one.silent_since(5.0) == 4.0
    one.acknowledged(10)
    assert one.silent_since(5.0) == 3.0
    one.acknowledged(11)
    assert one.silent_since(5.0) == 0.0


def test_a_follower_is_silent_only_if_it_was_asked_and_had_time_to_answer() -> None:
    one = progress()
    timeout, beat = one.settings.election_timeout_min, one.settings.heartbeat_interval
    assert not one.is_silent(10 * timeout, beat), "a slow turn of the leader is no silence of the follower"
    one.ask(0.0)
    assert not one.is_silent(11 * timeout, beat), "the question has not left"
    one.ask(10 * timeout)
    assert not one.is_silent(10 * timeout + 0.9 * beat, beat)
    assert one.is_silent(10 * timeout + 1.1 * beat, beat)
    assert not one.is_silent(10 * timeout + 1.1 * beat, timeout), "it has longer to answer"
    assert one.is_silent(11 * timeout, timeout)


def test_an_answer_is_dated_to_the_earliest_moment_at_which_it_can_have_arrived() -> None:
    one = progress()
    one.ask(1.0)
    one.answered(int(1.5e9), 0, 1.0)
    assert one.heard == 1.5, "not before its request had left"
    assert one.asked is None
    one.answered(int(1.5e9), 0, 2.0)
    assert one.heard == 2.0, "not before the frames of the last turn"
