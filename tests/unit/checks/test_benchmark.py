"""``forge-consensus bench``: against a real node of one, on keys of its own, and with consent where keys are."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from forge_consensus.checks.benchmark import PREFIX, failed_text, is_used, keys_for, leader_flushes
from forge_consensus.checks.load import Load
from forge_consensus.cli.bench import HEAD
from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import Client
from forge_consensus.errors import AuthenticationFailedError, CommandError, NoLeaderError
from tests.worlds.cli_world import Shell, dead_address, running_node

SHORT = ("--seconds", "0.1", "--timeout", "20")


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node of a cluster of one, which holds nothing."""
    with running_node(tmp_path_factory.mktemp("bench")) as node:
        yield node.address


def test_an_empty_cluster_is_measured_without_a_question_and_is_empty_again(address: str) -> None:
    done = Shell(address).run("bench", "--outstanding", "1,8", "--reads", *SHORT, "-o", "json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(each["work"], each["outstanding"]) for each in found["measured"]] == [
        ("write", 1), ("write", 8), ("read", 1), ("read", 8),
    ]  # fmt: skip
    for each in found["measured"]:
        assert each["failed"] == 0
        assert each["latency"]["count"] > 0
        assert each["per_second"] == pytest.approx(each["latency"]["count"] / each["seconds"], rel=0.05)
    writes = found["measured"][0]
    assert writes["leader_flushes"] >= writes["latency"]["count"], "one at a time, each write is flushed"
    assert (found["is_ok"], found["left"], found["value_bytes"], found["keys"]) == (True, "", 128, 10_000)
    assert found["removed_keys"] > 8
    assert "writes, 8 at once" in done.stderr
    with Client([address]) as client:
        assert client.scan() == []


def test_writes_in_lists_are_counted_by_commands_and_shown_as_such(address: str) -> None:
    arguments = ("bench", "--outstanding", "2", "--many", "25", "--reads", "--seconds", "0.3", "--timeout", "20")
    done = Shell(address).run(*arguments, "-o", "json")
    assert done.exit_code == 0, done.stderr
    writes, reads = json.loads(done.stdout)["measured"]
    assert (writes["many"], reads["many"], writes["failed"]) == (25, 1, 0)
    assert writes["per_second"] == pytest.approx(25 * writes["latency"]["count"] / writes["seconds"], rel=0.05)
    assert reads["per_second"] == pytest.approx(reads["latency"]["count"] / reads["seconds"], rel=0.05)
    assert "write x 25" in Shell(address).run(*arguments).stdout
    with Client([address]) as client:
        assert client.scan() == []


def test_a_cluster_that_is_in_use_is_loaded_only_with_consent(address: str) -> None:
    with Client([address]) as client:
        client.put("mine", 1)
        refused = Shell(address).run("bench", *SHORT)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "say --yes if it may be loaded" in refused.stderr
        done = Shell(address).run("bench", "--outstanding", "4", "--value-size", "1000", "--yes", *SHORT)
        assert done.exit_code == 0
        head, row, said = done.stdout.splitlines()
        assert re.split(r"\s{2,}", head) == list(HEAD)
        assert row.split()[:2] == ["write", "4"]
        assert said == "every call succeeded"
        assert client.scan() == [("mine", 1)]


def test_an_interruption_removes_the_keys(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Load.write

    def interrupted(self: Load, number: int) -> Pending[Any]:
        if number == 20:
            raise KeyboardInterrupt
        return write(self, number)

    monkeypatch.setattr(Load, "write", interrupted)
    assert Shell(address).run("bench", "--seconds", "5", "--timeout", "20").exit_code == 130
    with Client([address]) as client:
        assert client.scan(PREFIX) == []


def test_without_a_node_it_ends_with_69() -> None:
    assert Shell(dead_address()).run("bench", "--timeout", "0.3").exit_code == 69


@pytest.mark.parametrize(
    "arguments",
    [("--outstanding", "0"), ("--outstanding", "5000"), ("--outstanding", "1,x"), ("--value-size", "0"),
     ("--seconds", "0")],
)  # fmt: skip
def test_wrong_usage_is_refused(arguments: tuple[str, ...]) -> None:
    assert Shell(dead_address()).run("bench", *arguments).exit_code == 2


class Refusing(Client):
    """A client whose every question ends with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(["127.0.0.1:1"])
        self.error = error

    def scan(self, *arguments: Any, **more: Any) -> Any:
        raise self.error

    def status(self, *arguments: Any, **more: Any) -> Any:
        raise self.error


def test_a_client_that_may_not_look_asks_and_knows_no_flushes() -> None:
    with Refusing(AuthenticationFailedError("no")) as client:
        assert is_used(client)
        assert leader_flushes(client) is None
    with Refusing(NoLeaderError()) as client, pytest.raises(NoLeaderError):
        is_used(client)


def test_another_machine_is_told_before_anything_is_written() -> None:
    said = "no such query; this needs the built-in machine of keys and values"
    with Refusing(CommandError("KeyError", "no such query")) as client, pytest.raises(CommandError, match=said):
        is_used(client)


def test_large_values_have_fewer_keys_so_that_nodes_keep_their_memory() -> None:
    assert keys_for(128) == 10_000
    assert keys_for(256 << 10) == 64
    assert keys_for(1 << 30) == 1


def test_failed_calls_are_named() -> None:
    assert failed_text(Counter({"A": 1, "B": 1200})).startswith("calls failed: 1,200 with B, 1 with A; see ")
