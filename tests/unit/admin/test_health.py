"""Health answers: what each is judged by, as text for supervisors and as a status for load balancers."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.admin import health
from forge_consensus.admin.operation import Call, query_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.errors import NotStartedError
from forge_consensus.storage.ledger.configuration import quorum_of


def status(**more: Any) -> Any:
    """The status of a healthy follower, with what is different."""
    rows = [SimpleNamespace(id=name, status="active", part="voter") for name in ("n1", "n2", "n3")]
    usual = {
        "node_id": "n1", "role": "follower", "leader_id": "n2", "term": 3, "health": "healthy", "details": [],
        "backlog_entries": 0, "backlog_seconds": 0.0, "full": "", "has_quorum": True, "commit_index": 10,
        "last_applied": 10, "nodes": rows, "leader_address": "h:1", "turns_total": 7,
        "last_log_index": 12, "leader_commit": 12,
        "pending_restart": [],
    }  # fmt: skip
    found = {**usual, **more}
    quorum = quorum_of((row.id, row.part, False) for row in found["nodes"])
    return SimpleNamespace(**found, quorum=quorum)


class FakeSubject:
    """A node that tells a status, or fails."""

    def __init__(self, told: Any) -> None:
        self.told = told
        self.seat = SimpleNamespace(node_id="n1")
        self.stuck = 0.0

    def stuck_seconds(self, turns: int) -> float:
        """For how long it has taken no turn."""
        return self.stuck

    async def status(self) -> Any:
        """The status."""
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def asked(handler: Any, told: Any, **arguments: Any) -> tuple[int, str]:
    """The status and the text of an answer."""
    subject = None if told is None else FakeSubject(told)
    api = SimpleNamespace(subject=subject)
    given = {"verbose": False, "exclude": None, "lag": None, **arguments}
    response = asyncio.run(handler(Call(cast("Any", api), given, {})))
    return response.status_code, response.body.decode()


def test_liveness_does_not_depend_on_others() -> None:
    alone = status(leader_id=None, has_quorum=False, health="unhealthy")
    assert asked(health.live, alone) == (200, "ok\n")
    assert asked(health.live, NotStartedError("it ended")) == (503, "[-] node: it ended\nfailed\n")
    assert asked(health.live, None)[0] == 200, "it is starting"


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({}, ""),
        ({"leader_id": None}, "[-] leader: no leader is known"),
        ({"backlog_seconds": 7.0, "backlog_entries": 500}, "[-] applied: the state machine is 500 entries behind"),
        ({"full": "the disk is full"}, "[-] room: the disk is full"),
        ({"leader_commit": 20_000}, "[-] log: its log lacks 19988 committed entries"),
        ({"leader_commit": 10_000}, ""),
        ({"leader_commit": 0}, "[-] log: no leader has said yet what is committed"),
    ],
)
def test_readiness_says_what_is_missing(more: dict[str, Any], wrong: str) -> None:
    code, text = asked(health.ready, status(**more))
    assert code == (503 if wrong else 200)
    assert wrong in text


def test_checks_can_be_listed_and_left_out() -> None:
    assert asked(health.ready, status(), verbose=True)[1].splitlines()[-1] == "ok"
    assert "[+] leader: n2 leads term 3" in asked(health.ready, status(), verbose=True)[1]
    code, text = asked(health.ready, status(leader_id=None), exclude="leader, room", verbose=True)
    assert code == 200
    assert "[ ] leader: left out" in text


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        (b"exclude=leader", "leader"),
        (b"exclude=leader,room", "leader,room"),
        (b"exclude=leader&exclude=room", "leader,room"),
        (b"exclude=leader,+room", "leader, room"),
        (b"exclude=", ""),
        (b"exclude=leader,", "leader,"),
        (b"exclude=quorum", None),
        (b"exclude=leader,quorum", None),
        (b"exclude=leader&exclude=quorum", None),
        (b"exclude=%C2%AEq", None),
        (b"exclude=leaderroom", None),
        (b"exclude=leader%0A", None),
    ],
)
def test_only_checks_that_there_are_can_be_left_out_and_the_document_says_which(
    query: bytes, taken: str | None
) -> None:
    operation = next(each for each in health.OPERATIONS if each.path == "/readyz")
    if taken is None:
        with pytest.raises(ProblemError, match=r"names of checks .*: there are applied, .*, room"):
            query_of(operation, query)
    else:
        assert query_of(operation, query)["exclude"] == taken
        exclude = next(each for each in operation.arguments if each.name == "exclude")
        assert re.search(exclude.schema["pattern"], taken)


def test_each_check_can_be_left_out() -> None:
    found = {check.name for check in health.ready_checks(status(), "")}
    assert found == set(health.CHECKS)


def test_a_node_that_takes_no_turns_is_not_alive() -> None:
    subject = FakeSubject(status())
    subject.stuck = 60.0
    api = SimpleNamespace(subject=subject)
    response = asyncio.run(health.live(Call(cast("Any", api), {"verbose": False, "exclude": None}, {})))
    assert (response.status_code, b"done nothing for 60 s" in bytes(response.body)) == (503, True)


def test_health_is_bad_only_where_the_cluster_does_not_serve() -> None:
    assert asked(health.health, status()) == (200, '{"healthy":true,"status":"ok","details":[]}')
    code, text = asked(health.health, status(health="degraded", details=["n3 is failed"]))
    assert (code, '"status":"degraded"' in text) == (200, True)
    assert asked(health.health, status(has_quorum=False, health="unhealthy"))[0] == 503
    assert asked(health.health, NotStartedError())[0] == 503
    assert asked(health.health_in_detail, None)[0] == 503


@pytest.mark.parametrize(
    ("handler", "more", "lag", "code"),
    [
        (health.is_leader, {"role": "leader"}, None, 200),
        (health.is_leader, {}, None, 503),
        (health.is_follower, {}, None, 200),
        (health.is_follower, {"role": "candidate"}, None, 503),
        (health.is_follower, {"leader_id": None}, None, 503),
        (health.is_follower, {"last_applied": 6}, 5, 503),
        (health.is_follower, {"last_applied": 7}, 5, 200),
        (health.is_follower, {}, 1, 503),
        (health.is_follower, {"leader_commit": 0}, 1, 503),
        (health.is_follower, {"leader_commit": 0}, None, 200),
        (health.is_voter, {}, None, 200),
        (health.is_voter, {"nodes": [SimpleNamespace(id="n1", status="active", part="learner")]}, None, 503),
        (health.is_voter, {"nodes": []}, None, 503),
    ],
)
def test_roles_for_load_balancers(handler: Any, more: dict[str, Any], lag: int | None, code: int) -> None:
    assert asked(handler, status(**more), lag=lag)[0] == code


def test_the_quorum_is_told_as_the_original_does() -> None:
    assert '"status":"healthy"' in asked(health.quorum, status())[1]
    rows = status().nodes
    rows[2] = SimpleNamespace(id="n3", status="failed", part="voter")
    text = asked(health.quorum, status(nodes=rows))[1]
    assert '"status":"at_risk"' in text
    assert '"nodes_until_loss":1' in text
