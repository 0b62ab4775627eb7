"""Lines about failed commands: for those with a correlation id, and never too many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from forge_consensus.actors.raft.failed_commands import LINES_PER_SECOND_MAX, FailedCommands
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines.machine import Command, failure


@pytest.fixture
def rows() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    number = logger.add(lambda message: found.append(dict(message.record)), format="{message}")
    try:
        yield found
    finally:
        logger.remove(number)


def log_of(*ids: str | None) -> Log:
    log = Log(MemoryTables(), 1 << 20)
    datas = (Command("set", {}, correlation_id).encode() for correlation_id in ids)
    log.append([encode(index, 1, Kind.COMMAND, 0, data=data) for index, data in enumerate(datas, 1)])
    return log


def test_a_failed_command_is_logged_if_it_has_a_correlation_id(rows: list[dict[str, Any]]) -> None:
    outcome = failure(ValueError("no {such} thing"))
    FailedCommands().tell(log_of("order-1", None), [(1, outcome), (2, outcome)], 1.0)
    assert [row["message"] for row in rows] == ["command order-1 in log entry 1 failed: ValueError: no {such} thing"]
    assert rows[0]["extra"]["correlation_id"] == "order-1"


def test_log_lines_about_failed_commands_are_limited_per_second(rows: list[dict[str, Any]]) -> None:
    lines, outcome = FailedCommands(), failure(ValueError("no"))
    log = log_of("x")
    for _ in range(LINES_PER_SECOND_MAX + 5):
        lines.tell(log, [(1, outcome)], 1.5)
    assert len(rows) == LINES_PER_SECOND_MAX
    lines.tell(log, [(1, outcome)], 2.0)
    assert rows[-1]["message"].endswith("(and 5 more commands failed)")
