"""The load of ``forge-consensus check perf``: against a real node of one, and what is said of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from forge_consensus.checks import load
from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.checks.latencies import Latencies
from forge_consensus.checks.load import Load, judged, measure_load, report_of
from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusTimeoutError, OutcomeUnknownError
from tests.worlds.cli_world import Shell, dead_address, running_node


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node of a cluster of one."""
    with running_node(tmp_path_factory.mktemp("load")) as node:
        yield node.address


def test_writes_are_counted_and_their_keys_are_removed(address: str) -> None:
    with Client([address], 20.0) as client:
        client.put("forge-consensus/other", 1)
        found = measure_load(client, 0.2, 10)
        assert found.failed == 0
        assert found.writes > 0
        assert 0 < found.removed_keys <= found.writes + 1
        assert found.writes_per_second == pytest.approx(found.writes / found.seconds, rel=0.05)
        assert 0 < found.latency.p50_seconds <= found.latency.max_seconds
        assert client.scan(found.prefix) == []
        assert client.get("forge-consensus/other") == 1


def test_the_command_shows_figures_for_people_and_for_programs(address: str) -> None:
    given = ("check", "perf", "--seconds", "0.2", "--outstanding", "5", "--timeout", "20")
    done = Shell(address).run(*given)
    rate, head, row, said = done.stdout.splitlines()
    assert "writes/s: " in rate
    assert "0 failed, 5 at once" in rate
    assert head.split()[0] == "OPERATION"
    assert row.split()[0] == "write"
    assert (done.exit_code == 0) == said.startswith("good: ")
    found = json.loads(Shell(address).run(*given, "-o", "json").stdout)
    assert (found["failed"], found["left"], found["outstanding"]) == (0, "", 5)
    assert set(found["latency"]) == {"count", "p50_seconds", "p99_seconds", "max_seconds"}


def test_an_interruption_removes_the_keys(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Load.write

    def interrupted(self: Load, number: int) -> Pending[Any]:
        if number == 20:
            raise KeyboardInterrupt
        return write(self, number)

    monkeypatch.setattr(Load, "write", interrupted)
    done = Shell(address).run("check", "perf", "--seconds", "5", "--timeout", "20")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")
    with Client([address]) as client:
        assert client.scan(load.PREFIX) == []


def test_without_a_node_it_ends_with_69() -> None:
    done = Shell(dead_address()).run("check", "perf", "--timeout", "0.3")
    assert (done.exit_code, done.stdout) == (69, "")


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--outstanding", "0"), ("--outstanding", "5000")])
def test_wrong_usage_is_refused(arguments: tuple[str, ...]) -> None:
    assert Shell(dead_address()).run("check", "perf", *arguments).exit_code == 2


class NoNode(Client):
    """A client whose every write ends as it is told."""

    def __init__(self, error: Exception) -> None:
        super().__init__(["127.0.0.1:1"])
        self.error = error
        self.removed: list[str] = []

    def put(self, *arguments: Any, **more: Any) -> Any:
        raise self.error

    def submit(self, *arguments: Any, **more: Any) -> Any:
        raise self.error

    def delete_prefix(self, prefix: str, *arguments: Any, **more: Any) -> int:
        self.removed.append(prefix)
        return 3


def test_another_machine_is_told_by_the_first_write() -> None:
    with NoNode(CommandError("KeyError", "no such command")) as client:
        with pytest.raises(CommandError, match="needs the built-in machine of keys and values"):
            Load(client).begin()
        assert client.removed == []


def test_a_first_write_that_may_come_yet_is_removed() -> None:
    with NoNode(OutcomeUnknownError()) as client:
        load_of = Load(client)
        with pytest.raises(OutcomeUnknownError):
            load_of.begin()
        assert client.removed == [load_of.prefix]


def test_writes_that_fail_are_counted_by_their_codes() -> None:
    with NoNode(ConsensusTimeoutError()) as client:
        failing = Load(client)
        loop = ClosedLoop(failing.write, 10)
        loop.begin_one()
        loop.begin_one()
        loop.end_one()
        loop.end_one()
        loop.took.append(0.1)
        found = report_of(failing, loop, 2.0, *failing.remove(loop))
    assert (found.is_ok, found.writes, found.failed, found.writes_per_second) == (False, 1, 2, 0.5)
    assert found.failures == {"CONSENSUS_TIMEOUT": 2}
    assert found.text.startswith("writes failed: 2 with CONSENSUS_TIMEOUT")
    assert (found.removed_keys, found.left) == (3, "writes without an answer may be carried out yet")


def test_what_was_under_way_at_an_interruption_may_be_left() -> None:
    with NoNode(ConsensusTimeoutError()) as client:
        interrupted = Load(client)
        loop = ClosedLoop(interrupted.write, 10)
        assert interrupted.remove(loop) == (3, "")
        loop.begin_one()
        assert interrupted.remove(loop)[1] == "writes without an answer may be carried out yet"


@pytest.mark.parametrize(
    ("latency", "said"),
    [
        (Latencies(100, 0.1, 0.5, 2.0), "good: 99 of 100 writes took at most 500ms"),
        (Latencies(100, 0.1, 0.51, 2.0), "too slow: one of a hundred writes takes 510ms or longer"),
        (Latencies(0, 0.0, 0.0, 0.0), "no write was answered"),
    ],
)
def test_a_cluster_is_judged_by_its_slow_writes(latency: Latencies, said: str) -> None:
    assert judged(latency, Counter()).startswith(said)
