"""The clock watch: the log's wall time follows a majority of clocks, and who differs from it is told once."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import AppendReply, CheckPeer, CheckPeerReply
from forge_consensus.actors.raft.clock_watch import ClockWatch, Skew
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.events.types import TimeSkewed, TimeStepped
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.log_time import ClockSample, LogTime
from forge_consensus.storage.ledger.record import parse
from forge_consensus.storage.ledger.tips import Tip
from tests.unit.actors.test_election import lead
from tests.worlds.one_node import OneNode

TRUTH = 1_800_000_000_000
QUORUM = Configuration.of({f"n{number}": f"host:{number}" for number in (1, 2, 3)}).quorum


def samples(**errors: int) -> dict[str, ClockSample]:
    return {node: ClockSample(TRUTH + error, TRUTH + error + 10, 100.0) for node, error in errors.items()}


def led() -> LogTime:
    time = LogTime()
    time.begin(100.0, 0, TRUTH)
    return time


def test_without_a_majority_of_readings_nothing_is_followed() -> None:
    time, watch = led(), ClockWatch()
    assert watch.look(time, QUORUM, samples(n1=90_000), 100.0, 1000) == (0, [])
    assert watch.look(time, QUORUM, samples(n1=90_000, n9=90_000), 100.0, 1000) == (0, []), "n9 is no voter"
    assert watch.look(time, QUORUM, samples(n1=90_000, n2=90_000), 200.0, 1000) == (0, []), "both are old"
    assert time.wall_ms(100.0) == TRUTH


def test_a_wrong_clock_is_told_once_and_again_after_it_was_right() -> None:
    time, watch = led(), ClockWatch()
    wrong, right = samples(n1=0, n2=5000, n3=0), samples(n1=0, n2=500, n3=0)
    assert watch.look(time, QUORUM, wrong, 100.0, 1000) == (0, [Skew("n2", 4990.0)])
    assert watch.look(time, QUORUM, wrong, 100.0, 1000) == (0, [])
    assert watch.look(time, QUORUM, right, 100.0, 1000) == (0, [])
    assert watch.look(time, QUORUM, samples(n1=0, n2=-5000, n3=0), 100.0, 1000) == (0, [Skew("n2", -4990.0)])
    assert time.wall_ms(100.0) == TRUTH


def test_a_long_round_trip_is_no_skew() -> None:
    slow = {**samples(n1=0, n3=0), "n2": ClockSample(TRUTH - 3000, TRUTH + 10, 100.0)}
    assert ClockWatch().look(led(), QUORUM, slow, 100.0, 1000) == (0, [])


# --- on a node -------------------------------------------------------------------------------------------------------


def answer_checks(node: OneNode, error_ms: int) -> None:
    """Let both peers answer a health check, with clocks that differ from the node's by this much."""
    for peer in ("n2", "n3"):
        reply = CheckPeerReply(1, node.clock.wall_ms() + error_ms)
        node.answer(peer, "health", reply)


def settle(node: OneNode, seconds: float, error_ms: int) -> None:
    """Let the leader check its peers' clocks, while they answer all that it asks."""
    until = node.clock.seconds + seconds
    while node.clock.seconds < until:
        node.wait(0.1)
        answer_checks(node, error_ms)
        for peer in ("n2", "n3"):
            node.answer(peer, "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))


def test_a_check_is_answered_with_the_wall_clock() -> None:
    node = OneNode()
    node.request("n2", "health", CheckPeer(1))
    assert node.last(CheckPeerReply) == CheckPeerReply(
        1, node.clock.wall_ms(), Tip(0, 0, 1), clock_ns=node.clock.boottime_ns()
    )


@pytest.mark.parametrize("error_ms", [-10 * 365 * 86_400_000, 90_000])
def test_a_leader_whose_own_clock_is_wrong_follows_the_others_and_says_so(error_ms: int) -> None:
    node = OneNode()
    lead(node)
    settle(node, 2.0, error_ms)
    (told,) = node.told(TimeSkewed)
    assert (told.member, round(told.ahead)) == ("n1", round(-error_ms / 1000))
    assert abs(node.ledger.log_time.wall_ms(node.clock.reading()) - node.clock.wall_ms() - error_ms) < 200
    assert bool(node.told(TimeStepped)) == (error_ms < 0)
    seen = {member.id: member.clock_ahead_ms for member in NodeStatus.of(node.engine).nodes}
    assert seen["n1"] is None
    assert seen["n2"] == pytest.approx(error_ms, abs=200)


def test_the_elapsed_time_does_not_look_at_any_wall_clock() -> None:
    node = OneNode()
    lead(node)
    first = parse(2, node.ledger.log.get(2)).elapsed_ms
    began = node.clock.seconds
    settle(node, 2.0, 90_000)
    assert node.ledger.elapsed_ms - first == pytest.approx((node.clock.seconds - began) * 1000, abs=5)
