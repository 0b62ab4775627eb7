"""What is said of a cluster, judged by answers of nodes that are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.checks.cluster import between, clocks, cluster_findings, members, named_peers, quorum, versions
from forge_consensus.checks.finding import is_fit
from forge_consensus.config.node import NodeSettings
from forge_consensus.service.cluster_report import ClusterReport
from tests.unit.service.test_cluster_report import ADDRESSES, NAMES, answer, report
from tests.worlds.cli_world import dead_address


def cluster(**rows: dict[str, Any]) -> ClusterReport:
    """A cluster that n1 leads; what the leader says of a member is changed as `rows` say."""
    leader = answer("n1")
    for row in leader["nodes"]:
        row.update(rows.get(row["id"], {}))
    return report(leader, answer("n2"), answer("n3"))


def test_a_healthy_cluster_is_ok_everywhere() -> None:
    found = cluster(n2={"clock_ahead_ms": -4.0}, n3={"clock_ahead_ms": 3.0})
    told = [quorum(found), *members(found), clocks(found), versions(found)]
    told += between({name: answer(name) for name in NAMES})
    assert {each.level for each in told} == {"ok"}
    assert told[0].text == "n1 leads cluster c: 3 of 3 voters, 2 are needed, 1 may be lost"
    assert told[2].text == "at most 4.0ms away from the leader's"


def test_a_member_that_does_not_answer_is_a_problem() -> None:
    leader = answer("n1")
    leader["nodes"][2].update(status="failed")
    found = report(leader, answer("n2"), n3="no connection")
    assert quorum(found).level == "warning"
    assert quorum(found).advice.startswith("start n3")
    (silent,) = members(found)
    assert (silent.level, "n3 at 127.0.0.1:7003 does not answer" in silent.text) == ("problem", True)


@pytest.mark.parametrize(
    ("row", "level", "said"),
    [
        ({"last_contact": 9.0}, "warning", "last heard 9.0s ago"),
        ({"refusal": "full", "match_index": 40}, "problem", "takes no entries, because it has no room"),
        ({"status": "failed"}, "problem", "the leader does not hear it"),
    ],
)
def test_how_a_member_fares_decides_how_bad_it_is(row: dict[str, Any], level: str, said: str) -> None:
    (found,) = members(cluster(n2=row))
    assert (found.level, said in found.text) == (level, True)


def test_what_a_node_says_of_itself_is_a_warning() -> None:
    found = report(answer("n1"), answer("n2", details=["its disk is slow"]), answer("n3"))
    assert [(each.level, each.text) for each in members(found)] == [("warning", "n2: its disk is slow")]


def test_a_change_of_members_is_told() -> None:
    (found,) = members(cluster(n3={"part": "learner", "joining": True, "match_index": 50}))
    assert (found.level, found.text.startswith("a change is under way: n3 catches up")) == ("warning", True)


def test_a_cluster_that_does_not_serve_is_a_problem() -> None:
    found = quorum(report(answer("n2", leader_id=None), n1="no connection", n3="no connection"))
    assert (found.level, found.advice.startswith("start n1, n3")) == ("problem", True)
    alone = answer("n1", nodes=[{"id": "n1", "address": "h:1", "status": "active", "match_index": 100}])
    assert quorum(report(alone)).level == "ok"


def test_nodes_that_refuse_each_other_are_a_problem_while_they_do() -> None:
    one, other = answer("n1"), answer("n2")
    one["nodes"][2].update(greeting_refused="founded with other peers", greeting_refused_ago=3.0)
    one["nodes"][1].update(differs=["raft.heartbeat_interval is 0.1 here and 0.2 there"])
    other["nodes"][0].update(differs=["raft.heartbeat_interval is 0.2 here and 0.1 there"])
    one["nodes"][1].update(problem="n2.example does not resolve")
    one["nodes"][2].update(problem="nobody answers there")  # n3 does not answer here either, which is told elsewhere
    other["nodes"][0].update(greeting_refused="an older copy", greeting_refused_ago=60.0)
    found = between({"n1": one, "n2": other})
    assert [(each.level, each.text) for each in found] == [
        ("problem", "n1 has no connection to n2: n2.example does not resolve"),
        ("problem", "n1 refuses n3: founded with other peers"),
        ("warning", "n2 refused n1 1m0s ago: an older copy"),
        ("warning", "n1 and n2: raft.heartbeat_interval is 0.1 here and 0.2 there"),
    ]


def test_clocks_and_versions_that_differ_are_warnings() -> None:
    found = cluster(n2={"clock_ahead_ms": 61_000.0, "program": "0.2.0"}, n3={"program": "0.1.0"})
    assert (clocks(found).level, "n2 is 1m1s ahead" in clocks(found).text) == ("warning", True)
    assert (versions(found).level, "n2 0.2.0" in versions(found).text) == ("warning", True)
    assert clocks(cluster()).text == "nobody has compared them"
    same = cluster(n2={"program": "9.9"})
    assert versions(same).text == f"the nodes run 9.9, and this command is of {same.version}"
    assert versions(replace(same, version="9.9")).text == "all run 9.9"


def test_the_members_of_a_file_are_compared_with_those_of_the_cluster() -> None:
    (same,) = named_peers(NodeSettings("n1", peers=ADDRESSES), cluster())
    assert same.level == "ok"
    other = {**ADDRESSES, "n3": "127.0.0.1:9"}
    (found,) = named_peers(NodeSettings("n1", peers=other), cluster())
    assert (found.level, "n3=127.0.0.1:9" in found.text, "n3=127.0.0.1:7003" in found.text) == ("warning", True, True)
    (stranger,) = named_peers(NodeSettings("n9"), cluster())
    assert stranger.text.startswith("n9 of the file is no member")
    assert named_peers(NodeSettings("n9", join="127.0.0.1:7001"), cluster()) == []


def test_a_cluster_where_nobody_answers_is_one_problem() -> None:
    (found,) = cluster_findings([dead_address()], 0.3, None)
    assert not is_fit([found])
    assert "no node answers" in found.text
