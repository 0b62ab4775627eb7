"""Which voters are critical, judged by reports of clusters that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.checks.quorum import critical_voters
from forge_consensus.errors import NodeNotFoundError
from forge_consensus.service.cluster_report import ClusterReport
from tests.unit.service.test_cluster_report import NAMES, answer, report


def cluster(**rows: dict[str, Any]) -> ClusterReport:
    """A cluster that n1 leads; what the leader says of a member is changed as `rows` say."""
    leader = answer("n1")
    for row in leader["nodes"]:
        row.update(rows.get(row["id"], {}))
    return report(leader, answer("n2"), answer("n3"))


def test_of_three_that_are_well_each_can_be_stopped() -> None:
    found = critical_voters(cluster())
    assert (found.is_ok, found.critical, found.voters, found.taking, found.required) == (True, (), 3, 3, 2)
    assert (
        found.text == "each of the voters can be stopped, one at a time: 3 of 3 voters take entries and 2 are a quorum"
    )


@pytest.mark.parametrize("row", [{"status": "failed"}, {"refusal": "full", "match_index": 40}])
def test_with_one_that_does_not_help_the_others_are_critical(row: dict[str, Any]) -> None:
    found = critical_voters(cluster(n3=row))
    assert (found.is_ok, found.critical, found.can_lose) == (False, ("n1", "n2"), 0)
    assert found.text == (
        "n1, n2 are critical: if one of them stops, the cluster serves no longer (2 of 3 voters take entries and 2 are "
        "a quorum). First bring back n3"
    )


def test_a_silent_voter_is_no_loss_and_can_be_stopped() -> None:
    leader = answer("n1")
    leader["nodes"][2].update(status="failed")
    found = report(leader, answer("n2"), n3="no connection")
    assert critical_voters(found, "n3").is_ok
    alone = critical_voters(found, "n2")
    assert (alone.is_ok, alone.text.startswith("n2 is critical: if it stops")) == (False, True)


def test_a_learner_is_never_critical_and_no_member_is_unknown() -> None:
    found = cluster(n3={"part": "learner"})
    assert critical_voters(found).critical == ("n1", "n2")
    assert "First add a voter" in critical_voters(found).text
    assert critical_voters(found, "n3").is_ok
    with pytest.raises(NodeNotFoundError, match="'n9' is no member of this cluster: it has n1, n2, n3"):
        critical_voters(found, "n9")


def test_the_only_voter_that_may_lead_is_critical() -> None:
    found = critical_voters(cluster(n2={"may_lead": False}, n3={"may_lead": False}))
    assert found.critical == ("n1",)
    assert "members update NODE --may-lead" in found.text


def test_during_a_change_those_that_stay_must_be_a_quorum_too() -> None:
    five = ("n1", "n2", "n3", "n4", "n5")
    leader = answer("n1", nodes=[{"id": name, "address": f"h:{name[1]}", "status": "active"} for name in five])
    for row in leader["nodes"]:
        row.update({"match_index": 100, "last_contact": 0.1})
    answers = [leader, *(answer(name) for name in five[1:])]
    assert critical_voters(report(*answers)).critical == ()
    for row in leader["nodes"]:
        row.update(outgoing=True, part="voter" if row["id"] < "n4" else "leaving")
    assert critical_voters(report(*answers)).critical == ()
    leader["nodes"][2].update(status="failed")  # two of the three that stay are left
    assert critical_voters(report(*answers)).critical == ("n1", "n2")


def test_the_only_voter_before_a_change_is_critical_until_the_change_is_complete() -> None:
    found = critical_voters(cluster(n1={"outgoing": True}))
    assert (found.critical, found.can_lose) == (("n1",), 0)
    assert not critical_voters(cluster()).critical


def test_without_a_quorum_there_is_none_to_lose() -> None:
    found = critical_voters(report(answer("n2", leader_id=None), n1="no connection", n3="no connection"))
    assert not found.is_ok
    assert found.text.startswith("the cluster has no quorum to lose: no node that answers leads")
    assert not critical_voters(report(*map(answer, NAMES[1:]), n1="no connection"), "n2").is_ok


def test_a_cluster_of_one_is_critical() -> None:
    alone = answer("n1", nodes=[{"id": "n1", "address": "h:1", "status": "active", "match_index": 100}])
    found = critical_voters(report(alone))
    assert (found.is_ok, found.critical) == (False, ("n1",))
    assert "n1 is critical: if it stops" in found.text
