"""Tests of the steps of a backup: what is asked of whom, before anything is fetched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.messages import GetStatus, Locate, MakeSnapshot
from forge_consensus.client.backup import Backup
from forge_consensus.client.pending import BARRIER, PendingNodeQuery, PendingRead
from forge_consensus.client.routes import LEADER, LINEARIZABLE
from forge_consensus.errors import ConsensusTimeoutError, NoLeaderError, SnapshotFailedError


def deadline(seconds: float | None) -> float:
    return time.monotonic() + (seconds or 0.0)


def begun(tmp_path: Path, *, stale: bool) -> Any:
    """A backup after its look at the file."""
    steps = Backup(deadline, 60).save(tmp_path / "file", "127.0.0.1:7002", stale=stale, force=False)
    next(steps)()  # type: ignore[operator]  # work on the disk
    return steps


def test_a_backup_has_what_a_leader_that_a_majority_confirmed_had_applied(tmp_path: Path) -> None:
    """A leader that is cut off believes for a while that it leads, and its commit index may be an old one."""
    steps = begun(tmp_path, stale=False)
    located: Any = steps.send(None)
    assert isinstance(located.message, Locate)
    confirming: Any = steps.send(None)
    assert isinstance(confirming, PendingRead)
    assert confirming.payload == BARRIER
    assert (confirming.route.consistency, confirming.route.read_from) == (LINEARIZABLE, LEADER)
    confirming.applied = 77
    made: Any = steps.send(None)
    assert isinstance(made, PendingNodeQuery)
    assert (made.message, made.endpoint) == (MakeSnapshot(77), "127.0.0.1:7002")


def test_without_a_confirmed_leader_nothing_is_asked_of_the_node(tmp_path: Path) -> None:
    steps = begun(tmp_path, stale=False)
    steps.send(None)
    steps.send(None)
    with pytest.raises(NoLeaderError):
        steps.throw(NoLeaderError())


def test_a_stale_backup_asks_only_the_node_itself(tmp_path: Path) -> None:
    asked: Any = begun(tmp_path, stale=True).send(None)
    assert isinstance(asked.message, GetStatus)
    assert asked.endpoint == "127.0.0.1:7002"


def test_a_snapshot_that_shall_only_begin_is_waited_for_briefly() -> None:
    steps = Backup(deadline, 60).begin("127.0.0.1:7002")
    next(steps)
    asked: Any = steps.send({"node_id": "n2", "last_applied": 9})
    assert (asked.message, asked.endpoint) == (MakeSnapshot(9), "127.0.0.1:7002")
    assert asked.deadline < time.monotonic() + 1.0
    with pytest.raises(StopIteration) as ended:
        steps.throw(ConsensusTimeoutError())
    assert ended.value.value == ("n2", 9)
    steps = Backup(deadline, 60).begin("127.0.0.1:7002")
    next(steps)
    steps.send({"node_id": "n2", "last_applied": 9})
    with pytest.raises(SnapshotFailedError):
        steps.throw(SnapshotFailedError())
