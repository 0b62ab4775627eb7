"""The stages of one command: they follow one another without a gap, from the notes of a client and three nodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.benchmarks.staged_node import Turn, read_turns, write_turns
from tests.benchmarks.stages import (
    ACTIVITIES,
    STAGES,
    Calls,
    activities,
    per_command,
    stage_figures,
    stages_of,
    text_of,
)

CALLS = Calls(began=[1_000], ended=[25_000], sent=[2_000], woke=[3_000, 24_000])
LEADER = [
    Turn(taken=3_500, frame_bytes=194, sent=[(4_500, "n2", 294), (4_600, "n3", 294)], flush_began=5_000,
         flush_ended=15_000, ended=15_500),
    Turn(taken=15_600, frame_bytes=0, ended=15_700),
    Turn(taken=18_000, frame_bytes=76, apply_began=19_000, apply_ended=20_000, answered=[21_000], ended=21_500),
]  # fmt: skip
QUICK = [Turn(5_500, 294, flush_began=7_000, flush_ended=12_000, answered=[14_000], ended=14_200)]
SLOW = [Turn(6_000, 294, flush_began=8_000, flush_ended=19_000, answered=[22_000], ended=22_500)]
NODES = {"n1": LEADER, "n2": SLOW, "n3": QUICK}


def test_stages_go_over_the_follower_that_acknowledged_first_and_make_up_the_whole() -> None:
    found = stages_of(0, CALLS, "n1", NODES)
    assert found is not None
    stages = dict(zip(STAGES, found, strict=False))
    assert stages == {
        "client": 1_000,
        "to the leader": 1_500,
        "leader's turn": 1_100,
        "to the follower": 900,
        "follower's turn": 1_500,
        "follower's flush": 5_000,
        "acknowledgement": 2_000,
        "to the leader again": 4_000,
        "leader counts": 1_000,
        "apply": 1_000,
        "answer": 1_000,
        "to the client": 3_000,
        "client again": 1_000,
    }
    assert sum(stages.values()) == CALLS.ended[0] - CALLS.began[0]
    assert found[len(STAGES) :] == [10_000, 1_500], "the leader's flush, and how long the acknowledgement waited for it"


def test_a_call_whose_follower_flushed_nothing_is_not_followed() -> None:
    idle = [dataclasses.replace(each[0], flush_began=0, flush_ended=0) for each in (QUICK, SLOW)]
    assert stages_of(0, CALLS, "n1", {"n1": LEADER, "n2": idle[:1], "n3": idle[1:]}) is None
    assert stages_of(0, CALLS, "n1", {**NODES, "n1": LEADER[:2]}) is None, "nothing was applied"


def test_figures_are_microseconds_and_the_whole_is_the_sum() -> None:
    found = stages_of(0, CALLS, "n1", NODES)
    assert found is not None
    figures = {each["stage"]: each["mean_us"] for each in stage_figures([found, found])}
    assert sum(figures[name] for name in STAGES) == figures["whole"] == 24.0
    assert (figures["leader's flush"], figures["waited for it"]) == (10.0, 1.5)
    assert stage_figures([]) == []


def test_activities_of_a_thread_make_up_its_time() -> None:
    spent = activities(LEADER, 0, 30_000)
    assert sum(spent[name] for name in ACTIVITIES) == LEADER[-1].ended - LEADER[0].ended
    assert (spent["turns"], spent["commits"]) == (3, 1)
    assert spent["applying"] == 1_000
    assert activities(LEADER, 15_000, 16_000)["turns"] == 1, "only turns between the two moments count"
    assert per_command(spent, 2)["applying, us"] == 0.5
    assert per_command(spent, 6)["commands a turn"] == 2.0


def test_the_tables_name_all_stages_and_nodes() -> None:
    found = stages_of(0, CALLS, "n1", NODES)
    assert found is not None
    node = per_command(activities(LEADER, 0, 30_000), 1)
    told = {
        **{"outstanding": 1, "per_second": 40.0, "calls": {"all": 1, "followed": 1}},
        **{"leader": node, "followers": [node, node], "stages": stage_figures([found])},
    }
    text = "\n".join(text_of(told))
    assert all(name in text for name in STAGES)
    assert text.count("\nfollower ") == 2
    assert "1 of 1 calls could be followed" in text


def test_turns_are_written_and_read(tmp_path: Path) -> None:
    write_turns(tmp_path / "n1.json", LEADER)
    found = read_turns(tmp_path / "n1.json")
    assert [each.taken for each in found] == [each.taken for each in LEADER]
    assert [tuple(each) for each in found[0].sent] == LEADER[0].sent
