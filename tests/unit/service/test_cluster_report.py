"""The cluster report is made from the answers of the nodes; no node runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.actors.greeting import REGREET_SECONDS
from forge_consensus.client.sync import Client
from forge_consensus.output import json_text
from forge_consensus.service.cluster_report import (
    REFUSES_SECONDS,
    ClusterReport,
    Inquiry,
    cluster_report,
    inquiry_of,
    report_of,
)
from tests.unit.actors.test_status import ESSENTIAL

NAMES = ("n1", "n2", "n3")
ADDRESSES = {name: f"127.0.0.1:700{name[1]}" for name in NAMES}


def answer(node: str, **changed: Any) -> dict[str, Any]:
    """The status of a node of a cluster that n1 leads."""
    members = [
        {
            "id": name,
            "address": ADDRESSES[name],
            "match_index": 100,
            "status": "active",
            "last_contact": None if name == "n1" else 0.1,
        }
        for name in NAMES
    ]
    return {
        "node_id": node, "cluster_id": "c", "role": "leader" if node == "n1" else "follower", "term": 3,
        "leader_id": "n1", "address": ADDRESSES.get(node), "has_quorum": True, "health": "healthy", "details": [],
        "refused": {},
        "commit_index": 100, "last_applied": 100, "last_log_index": 100, "snapshot_index": 0, "last_contact": 0.1,
        "storage_used_bytes": 1, "storage_quota_bytes": 2, "disk_free_bytes": 3, "uptime": 5.0, "boot": 1,
        "events_address": "", "nodes": members, "asked_at": ADDRESSES.get(node, "127.0.0.1:9999"), **changed,
    }  # fmt: skip


def report(*answers: dict[str, Any], given: tuple[str, ...] = (), **errors: str) -> ClusterReport:
    """The report of these answers; `errors` are reasons by node."""
    inquiry = SimpleNamespace(
        answers={row["node_id"]: row for row in answers},
        errors={ADDRESSES[name]: reason for name, reason in errors.items()},
        given=list(given),
    )
    return report_of(cast("Inquiry", inquiry))


def test_a_whole_cluster_is_healthy_and_can_lose_one() -> None:
    found = report(*map(answer, NAMES))
    assert (found.health, found.leader_id, found.can_lose, found.warnings) == ("healthy", "n1", 1, ())
    assert [(node.node_id, node.state, node.lag) for node in found.nodes] == [
        ("n1", "ok", None),
        ("n2", "ok", 0),
        ("n3", "ok", 0),
    ]
    assert '"nodes":[{"node_id":"n1"' in json_text(found.to_dict())


def test_a_silent_member_degrades_the_cluster_and_is_named_with_the_reason() -> None:
    leader = answer("n1")
    leader["nodes"][2].update(status="inactive")
    found = report(leader, answer("n2"), n3="no connection")
    assert (found.health, found.reachable, found.can_lose) == ("degraded", 2, 0)
    assert (found.nodes[2].state, found.nodes[2].term, found.nodes[2].error) == ("no answer", None, "no connection")
    assert "n3 at 127.0.0.1:7003 does not answer (no connection)" in found.warnings[0]


def test_what_to_do_first_is_one_line() -> None:
    leader = answer("n1")
    assert report(leader, answer("n2"), answer("n3")).advice == ""
    lost = report(leader, answer("n2"), n3="no connection").advice
    assert lost.startswith("start n3; if the machine of n3 is lost")
    assert lost.endswith("members replace n3 ID=HOST:PORT")
    stuck = report(answer("n2", leader_id=None, has_quorum=False), n1="no connection", n3="no connection").advice
    assert stuck == "start n1, n3, or see what is between the nodes: 2 voters are needed to serve"
    leader["nodes"][1].update(refusal="full", match_index=40)
    assert report(leader, answer("n2"), answer("n3")).advice == "make room on the disks of n2"


def test_a_running_change_and_who_is_to_lead_are_told() -> None:
    leader = answer("n1", last_log_index=200)
    leader["nodes"][1].update(part="leaving", priority=7)
    leader["nodes"][2].update(part="learner", joining=True, match_index=50, may_lead=False)
    found = report(leader, answer("n2"), answer("n3"))
    assert found.change == ("n2 votes until the change is complete; n3 catches up and then votes, 25% of 200 entries")
    told = [(node.part, node.role, node.priority, node.may_lead) for node in found.nodes]
    assert told == [("voter", "leader", 0, True), ("leaving", "leaving", 7, True), ("learner", "learner", 0, False)]
    leader["nodes"][0].update(part="leaving")
    assert (report(leader).nodes[0].role, report(leader).nodes[1].role) == ("leader", None), "it leads until the end"
    assert report(*map(answer, NAMES)).change == ""
    assert report(answer("n1"), answer("n9")).nodes[-1].part is None


@pytest.mark.parametrize(
    ("member", "state", "text"),
    [
        ({"match_index": 100, "last_contact": 9.0}, "slow", "last heard 9.0s ago"),
        ({"match_index": 5_000, "last_contact": 0.1}, "behind", "5,000 entries behind"),
    ],
)
def test_a_lagging_member_is_distinguished_from_a_silent_one(member: dict[str, Any], state: str, text: str) -> None:
    leader = answer("n1", commit_index=10_000 if state == "behind" else 100)
    leader["nodes"][1].update(member)
    found = report(leader, answer("n2"), answer("n3"))
    assert found.nodes[1].state == state
    assert any(text in warning for warning in found.warnings)


def test_members_are_counted_as_the_leader_hears_them_and_not_as_they_answer_here() -> None:
    leader = answer("n1", details=["n3 is failed", "n2 is suspected"])
    leader["nodes"][2].update(status="failed", match_index=0, last_contact=4.0)
    found = report(leader, answer("n2"), answer("n3", leader_id=None))
    assert (found.reachable, found.connected, found.can_lose, found.health) == (3, 2, 0, "degraded")
    lost = found.nodes[2]
    assert (lost.state, lost.match_index, lost.lag) == ("cut off", None, None)
    assert found.warnings == (
        "n3 at 127.0.0.1:7003 answers here, but the leader does not hear it: see what is between them",
    )


def test_a_member_that_takes_no_entries_is_connected_and_replaces_nobody() -> None:
    leader = answer("n1")
    leader["nodes"][1].update(refusal="full", match_index=40)
    found = report(leader, answer("n2"), answer("n3"))
    assert (found.connected, found.required, found.can_lose, found.health) == (3, 2, 0, "degraded")


FIVE = ("n1", "n2", "n3", "n4", "n5")


@pytest.mark.parametrize(
    ("full", "silent", "connected", "can_lose"),
    [
        ((), (), 5, 2),
        (("n2",), (), 5, 1),
        (("n2", "n3"), (), 5, 0),
        (("n1",), (), 5, 1),
        ((), ("n4",), 4, 1),
        ((), ("n4", "n5"), 3, 0),
        (("n2",), ("n4",), 4, 0),
        (("n2",), ("n2",), 4, 1),  # one member is missed once
        (("n2", "n3"), ("n2",), 4, 0),
        (("n2", "n3", "n4"), ("n5",), 4, 0),
    ],
)
@pytest.mark.parametrize("noticed", [True, False])
def test_how_many_members_a_cluster_can_lose(
    full: tuple[str, ...], silent: tuple[str, ...], connected: int, can_lose: int, *, noticed: bool
) -> None:
    answers = [answer(name) for name in FIVE if name not in silent]
    for each in answers:
        each["nodes"] = [{"id": name, "address": f"127.0.0.1:700{name[1]}", "status": "active"} for name in FIVE]
    for row in answers[0]["nodes"]:
        row["refusal"] = "full" if row["id"] in full else ""
        if noticed and row["id"] in silent:
            row["status"] = "failed"
    found = report(*answers)
    assert (found.members, found.required) == (5, 3)
    assert (found.connected, found.can_lose) == (connected if noticed else 5, can_lose)


def test_in_a_joint_configuration_both_sets_of_voters_are_counted() -> None:
    # n1, n2 and n3 are replaced by n1, n4 and n5. Without n4 and n5 three are left, enough of one set of five.
    answers = [answer(name) for name in FIVE]
    for each in answers:
        each["nodes"] = [
            {
                "id": name,
                "address": f"127.0.0.1:700{name[1]}",
                "status": "active",
                "outgoing": name < "n4",
                "part": "leaving" if name in {"n2", "n3"} else "voter",
            }
            for name in FIVE
        ]
    whole = report(*answers)
    assert (whole.members, whole.required, whole.can_lose, whole.has_majority) == (5, 3, 1, True)
    for row in answers[0]["nodes"][3:]:
        row["status"] = "failed"
    found = report(*answers)
    assert (found.connected, found.can_lose, found.has_majority) == (3, 0, False)


def test_a_member_that_says_itself_that_it_is_full_is_no_help_before_the_leader_knows() -> None:
    member = answer("n2")
    member["nodes"][1].update(refusal="full")
    for leader in (answer("n1"), answer("n1", role="follower", leader_id=None)):
        found = report(leader, member, answer("n3"))
        assert (found.nodes[1].state, found.connected, found.can_lose) == ("full", 3, 0)


def test_what_a_node_says_of_itself_is_told_and_degrades_the_cluster() -> None:
    full = "its disk is full"
    found = report(answer("n1"), answer("n2", details=[full, "n3 is failed"], refused={"full": 3}), answer("n3"))
    assert (found.health, found.warnings) == ("degraded", ("n2: its disk is full",))
    assert (found.nodes[1].details, found.nodes[1].refused) == ([full], {"full": 3})


def test_a_member_without_room_is_not_called_slow() -> None:
    leader = answer("n1")
    leader["nodes"][1].update(refusal="full", match_index=40)
    leader["nodes"][2].update(refusal="damaged")
    found = report(leader, answer("n2"), answer("n3"))
    assert [node.state for node in found.nodes] == ["ok", "full", "refusing"]
    assert (found.connected, found.can_lose) == (3, 0)
    assert (
        found.warnings[0]
        == "n2 at 127.0.0.1:7002 is 60 entries behind and takes no entries, because it has no room: make room there"
    )


def test_clocks_versions_and_connections_are_compared() -> None:
    leader = answer("n1")
    leader["nodes"][0].update(program="0.1.0")
    leader["nodes"][1].update(program="0.2.0", clock_ahead_ms=-90_000.0)
    leader["nodes"][2].update(status="failed", problem="the name n3.example does not resolve: no such host")
    found = report(leader, answer("n2"), n3="no connection")
    assert [node.version for node in found.nodes] == ["0.1.0", "0.2.0", None]
    assert found.warnings[1:] == (
        "n1 has no connection to n3: the name n3.example does not resolve: no such host",
        "the wall clock of n2 is 1m30s behind the leader's: set it right",
        "the nodes run different versions of the program: n1 0.1.0, n2 0.2.0",
    )


def test_what_greetings_found_is_told() -> None:
    leader, other = answer("n1"), answer("n2")
    leader["nodes"][1].update(differs=["raft.heartbeat_interval is 0.1 here and 0.2 there"])
    other["nodes"][0].update(differs=["raft.heartbeat_interval is 0.2 here and 0.1 there"])  # the same from its side
    other["nodes"][1].update(differs=["it listens at 127.0.0.1:9 and members look for it at 127.0.0.1:7002"])
    other["nodes"][2].update(greeting_refused="its folder is an older copy")
    assert report(leader, other, answer("n3")).warnings == (
        "n2 refuses n3: its folder is an older copy",
        "n1 and n2: raft.heartbeat_interval is 0.1 here and 0.2 there",
        "n2: it listens at 127.0.0.1:9 and members look for it at 127.0.0.1:7002",
    )


def test_a_refusal_of_long_ago_is_told_as_past() -> None:
    assert REFUSES_SECONDS == 3 * REGREET_SECONDS
    told = []
    for ago in (0.0, 14.0, 252.0):
        leader = answer("n1")
        leader["nodes"][2].update(greeting_refused="another list", greeting_refused_ago=ago)
        told += [text for text in report(leader, answer("n2")).warnings if "another list" in text]
    assert told == ["n1 refuses n3: another list"] * 2 + ["n1 refused n3 4m12s ago: another list"]


def test_without_a_leader_the_latest_answer_counts_and_the_cluster_is_unhealthy() -> None:
    old = answer("n2", term=2, leader_id=None)
    new = answer("n3", term=4, leader_id=None)
    found = report(old, new)
    assert (found.health, found.leader_id, found.term) == ("unhealthy", None, 4)
    assert "no node that answers leads" in found.warnings[0]
    assert [node.state for node in found.nodes] == ["no answer", "no leader", "no leader"]


def test_a_leader_without_a_quorum_serves_nothing() -> None:
    found = report(answer("n1", has_quorum=False))
    assert found.health == "unhealthy"
    assert "does not reach 2 of 3 members" in found.warnings[0]


def test_nonmembers_and_silent_addresses_have_rows_too() -> None:
    stranger = answer("n9")
    found = report(*map(answer, NAMES), stranger, given=("127.0.0.1:8888",))
    assert [(node.node_id, node.state) for node in found.nodes[3:]] == [("n9", "no member"), (None, "no answer")]


# --- mixed versions --------------------------------------------------------------------------------------------------


def essential(node: str) -> dict[str, Any]:
    """The status of a node whose program is older than every field that has a default."""
    whole = answer(node)
    members = [{"id": name, "address": ADDRESSES[name], "role": "follower", "status": "active"} for name in NAMES]
    told = {name: whole[name] for name in ESSENTIAL if name in whole}
    return {**told, "status": "active", "leader_address": ADDRESSES["n1"], "nodes": members}


def client_of(answers: dict[str, dict[str, Any]]) -> Client:
    """A client to which these answers have come already, by address."""

    def status_query(endpoint: str, _: float) -> Any:
        return SimpleNamespace(finished=True, error=None, value=lambda: answers[endpoint])

    directory = SimpleNamespace(endpoints={})
    driver = SimpleNamespace(hand_over=lambda query: None, core=SimpleNamespace(directory=directory))
    return cast("Client", SimpleNamespace(status_query=status_query, driver=driver))


@pytest.mark.parametrize("older", [("n1",), ("n2",), NAMES])
def test_nodes_whose_program_is_older_than_a_field_are_reported(older: tuple[str, ...]) -> None:
    newer = [name for name in NAMES if name not in older]
    answers = {ADDRESSES[name]: {**essential(name), **answer(name)} for name in newer}
    for name in newer:
        for row in answers[ADDRESSES[name]]["nodes"]:
            row["role"] = "follower"
    answers |= {ADDRESSES[name]: essential(name) for name in older}
    found = cluster_report(client_of(answers), [ADDRESSES["n2"]], 1.0)
    assert (found.health, found.leader_id, found.reachable, found.can_lose) == ("healthy", "n1", 3, 1)
    told = {node.node_id: node.boot for node in found.nodes}
    assert told == {name: None if name in older else 1 for name in NAMES}, "what was not told is not known"


def test_an_address_at_which_a_node_answers_again_is_no_row_of_its_own() -> None:
    answers = {ADDRESSES[name]: essential(name) for name in NAMES} | {"localhost:7002": essential("n2")}
    for given, also in ((list(answers), []), (["localhost:7002"], list(ADDRESSES.values()))):
        found = report_of(inquiry_of(client_of(answers), given, 1.0, also))
        assert [node.node_id for node in found.nodes] == list(NAMES)


def test_an_answer_without_what_every_version_tells_counts_as_none() -> None:
    answers = {ADDRESSES[name]: essential(name) for name in NAMES}
    del answers[ADDRESSES["n3"]]["term"]
    found = cluster_report(client_of(answers), list(answers), 1.0)
    assert [node.state for node in found.nodes] == ["ok", "ok", "no answer"]
    assert "the status lacks 'term'" in found.warnings[0]
