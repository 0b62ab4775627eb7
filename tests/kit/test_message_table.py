"""Tests of the message table: its rows, their order, and that recording them does not change the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loguru import logger

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import AppendEntries, AppendReply, CheckPeer, RequestVote
from forge_consensus.storage.ledger import record
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.story import message_table
from forge_consensus.testing.story.message_table import MessageTable, aligned
from forge_consensus.testing.story.message_words import says


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    with Simulation(Plan(3, nodes=3, faults=False)) as simulation:
        yield simulation


def rows(simulation: Simulation) -> list[str]:
    return simulation.messages.text().splitlines()[1:]


def test_an_election_can_be_read_line_by_line(simulation: Simulation) -> None:
    leader = simulation.wait_for_leader()
    simulation.advance(0.02)
    text = simulation.messages.text()
    order = (
        "starts, boot 1",
        "RequestPreVote",
        "PreVoteReply",
        "votes for itself",
        "RequestVote",
        " VoteReply",
        "LEADS",
    )
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert f"votes for {leader}" in text
    assert "entry 2 of term 1" in text


def test_lines_are_in_the_order_of_time_and_at_most_so_many(simulation: Simulation) -> None:
    simulation.wait_for_leader()
    for client in simulation.clients:
        client.start()
    simulation.advance(5.0)
    times = [float(row.split()[0]) for row in rows(simulation)]
    assert times == sorted(times)
    assert 40 <= len(times) <= 40 + message_table.KEPT_OF_CLIENTS
    assert simulation.cluster.timeline.now - times[0] < 5.0


def test_health_checks_are_left_out_and_heartbeats_taken_together(simulation: Simulation) -> None:
    simulation.wait_for_leader()
    simulation.advance(3.0)
    text = simulation.messages.text()
    assert "CheckPeer" not in text
    beats = [row for row in rows(simulation) if "AppendEntries" in row and "more like it until" in row]
    assert len(beats) == 2  # one to each follower


def test_the_table_shows_the_faults_of_a_node(simulation: Simulation) -> None:
    leader = simulation.crash("leader" if simulation.wait_for_leader() else "")
    other = simulation.wait_for_leader()
    simulation.restart(leader)
    simulation.advance(1.0)
    told = [f"{node} {text}" for _, node, _, text in simulation.messages.happenings]
    assert f"{leader} ends: between two turns" in told
    assert any(line.startswith(f"{leader} starts, boot 2: term 1, vote {leader}") for line in told)
    assert f"{other} LEADS term 2" in [line.replace("enters term 2, votes for itself, ", "") for line in told]
    assert f"{leader} enters term 2" in told


def test_a_lost_frame_is_marked(simulation: Simulation) -> None:
    leader = simulation.wait_for_leader()
    simulation.advance(0.5)
    simulation.partition([leader])
    simulation.advance(0.5)
    lost = [row for row in rows(simulation) if "not yet, or lost" in row]
    assert lost
    assert all(row.split()[1] == leader or row.split()[2] == leader for row in lost)


def test_a_duplicated_frame_shows_both_delays(simulation: Simulation) -> None:
    simulation.cluster.network.weather.duplicate = 1.0
    simulation.wait_for_leader()
    simulation.advance(0.1)
    twice = [row for row in rows(simulation) if "RequestVote" in row]
    assert twice
    assert all(row.count(" ms") == 2 for row in twice)


def test_messages_are_decoded_only_when_they_are_read(monkeypatch: pytest.MonkeyPatch, simulation: Simulation) -> None:
    read: list[bytes] = []

    def note(data: bytes, limit: int) -> Frame:
        read.append(data)
        return decode(data, limit)

    monkeypatch.setattr("forge_consensus.testing.story.message_table.decode", note)
    simulation.wait_for_leader()
    simulation.advance(1.0)
    assert not read
    assert simulation.messages.text()
    assert read


def test_the_message_table_changes_nothing_in_a_run() -> None:
    plan = Plan(5, seconds=2.0)
    with Simulation(plan) as simulation:
        with_table = simulation.run()
    with Simulation(plan) as simulation:
        watchers = simulation.cluster.watchers
        watchers[:] = [one for one in watchers if not isinstance(one, MessageTable)]
        assert simulation.run() == with_table


def test_an_undecodable_frame_is_a_line_like_any_other(simulation: Simulation) -> None:
    simulation.wait_for_leader()
    simulation.messages.frames.append((99.0, "n1", "n2", b"\xc1garbage"))
    assert "8 bytes" in rows(simulation)[-1]


def test_messages_show_their_important_fields() -> None:
    entries = tuple(record.encode(index, 3, Kind.NOOP, 0) for index in (8, 9))
    append = AppendEntries(3, 7, 2, 6, 4, entries)
    assert says(append) == "term 3, after 7 of term 2: entries 8..9 of term 3; commit 6, round 4"
    assert says(AppendReply(3, True, 9, 0, 0)) == "term 3: has all up to 9"
    assert says(AppendReply(3, False, 5, 1, 0)) == "term 3: refused, hint 5 of term 1"
    assert says(RequestVote(4, 9, 3)) == "term 4, log ends at 9 of term 3"


def test_a_health_check_is_known_by_its_bytes() -> None:
    def frame(to: str) -> Frame:
        return Frame(to, "", "n1", "", 1, 1, 1, 1, CheckPeer(1))

    assert message_table.of_health(encode(frame("health")))
    assert not message_table.of_health(encode(frame("election")))


def test_columns_are_aligned_and_a_short_row_may_be_long() -> None:
    text = aligned(("a", "bb", "c"), [("1", "22", "3"), ("1", "a long sentence"), ("111", "2", "3")])
    assert text.splitlines() == ["a    bb  c", "1    22  3", "1    a long sentence", "111  2   3"]
