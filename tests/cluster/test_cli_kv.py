"""``forge-consensus kv`` against a real node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.cli_world import Shell, dead_address, running_node


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A command line with a node behind it."""
    with running_node(Path(tmp_path_factory.mktemp("kv"))) as node:
        yield Shell(node.address)


def test_get_returns_the_value_of_put(shell: Shell) -> None:
    assert shell.run("kv", "put", "name", "Jürgen").stdout == "ok\n"
    assert shell.run("kv", "get", "name").stdout == "Jürgen\n"
    assert shell.run("kv", "get", "name", "--raw", "--consistency", "stale").stdout == "Jürgen"
    row = shell.json("kv", "get", "name")
    assert (row["key"], row["found"], row["value"], row["kind"], row["stale_ms"]) == ("name", True, "Jürgen", "text", 0)


def test_a_missing_key_is_exit_code_1_with_nothing_on_stdout(shell: Shell) -> None:
    found = shell.run("kv", "get", "nowhere")
    assert (found.exit_code, found.stdout) == (1, "")
    assert "has no value" in found.stderr
    assert shell.json("kv", "get", "nowhere")["value"] is None
    assert shell.run("kv", "delete", "nowhere").exit_code == 1


def test_put_reads_stdin_byte_for_byte(shell: Shell) -> None:
    data = bytes(range(256))
    assert shell.run("kv", "put", "bytes", "-", "--as", "bytes", stdin=data).exit_code == 0
    assert shell.run("kv", "get", "bytes", "--raw").stdout_bytes == data
    refused = shell.run("kv", "put", "bytes", "-", stdin=data)
    assert refused.exit_code == 2
    assert "--as bytes" in refused.stderr


def test_delete_removes(shell: Shell) -> None:
    shell.run("kv", "put", "gone", "1")
    assert shell.run("kv", "delete", "gone").stdout == "deleted\n"
    assert shell.json("kv", "delete", "gone") == {"key": "gone", "deleted": False}


def test_cas_swaps_once(shell: Shell) -> None:
    assert shell.run("kv", "cas", "c", "--absent", "--value", "1").exit_code == 0
    assert shell.run("kv", "cas", "c", "--expected", "1", "--value", "2").stdout == "swapped\n"
    again = shell.run("kv", "cas", "c", "--expected", "1", "--value", "3")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "because 'c' holds the text 2, not the text 1" in again.stderr
    row = shell.json("kv", "cas", "c", "--expected", "1", "--value", "3")
    assert row == {"key": "c", "swapped": False, "value": "2", "kind": "text"}
    assert shell.run("kv", "get", "c").stdout == "2\n"


def test_cas_that_fails_tells_the_kinds_apart(shell: Shell) -> None:
    shell.run("kv", "put", "number", "5", "--as", "json")
    assert (
        "holds the number 5, not the text 5"
        in shell.run("kv", "cas", "number", "--expected", "5", "--value", "6").stderr
    )
    assert "holds the number 5, not nothing" in shell.run("kv", "cas", "number", "--absent", "--value", "6").stderr
    assert "holds nothing, not the text 1" in shell.run("kv", "cas", "none", "--expected", "1", "--value", "6").stderr


def test_a_batch_is_carried_out_as_a_whole_or_not_at_all(shell: Shell) -> None:
    lines = [
        '{"type": "set", "key": "batch:a", "value": 1}',
        "",
        '{"type": "cas", "key": "batch:a", "expected": 2, "value": 3}',
        '{"type": "get", "key": "batch:a"}',
    ]
    assert shell.run("kv", "batch", stdin="\n".join(lines).encode()).stdout == "null\nfalse\n1\n"
    failing = [*lines, '{"type": "increment", "key": "text"}']
    shell.run("kv", "put", "text", "abc")
    shell.run("kv", "delete", "batch:a")
    assert shell.run("kv", "batch", "-", stdin="\n".join(failing).encode()).exit_code == 65
    assert shell.run("kv", "get", "batch:a").exit_code == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no command"),
        ("{}", "line 1 is no command"),
        ('{"type": "get", "key": "a"}\nnonsense', "line 2 is no command"),
        ('{"type": "set", "key": "a", "value": NaN}', "NaN is not JSON"),
        ('{"type": "set", "key": "a", "value": 1e400}', "beyond the largest number"),
        ('{"type": "set", "key": "a", "value": ' + str(1 << 64) + "}", "line 1 is no command"),
        ('{"type": "set", "key": "\\ud800", "value": 1}', "line 1 is no command"),
        ("\udcff", "line 1 is no command: 'utf-8'"),
        ("[" * 100_000, "line 1 is no command"),
    ],
)
def test_a_batch_that_is_none_is_refused_with_its_line(shell: Shell, text: str, reason: str) -> None:
    refused = shell.run("kv", "batch", stdin=text.encode(errors="surrogateescape"))
    assert refused.exit_code == 2
    assert reason in refused.stderr


def test_a_whole_prefix_is_deleted(shell: Shell) -> None:
    for name in ("p:1", "p:2", "q"):
        shell.run("kv", "put", name, "x")
    assert shell.run("kv", "delete", "p:", "--prefix").stdout == "deleted 2 keys\n"
    assert shell.json("kv", "delete", "p:", "--prefix") == {"prefix": "p:", "deleted": 0}
    assert shell.run("kv", "get", "q").stdout == "x\n"


def test_scan_tells_kinds_apart(shell: Shell) -> None:
    shell.run("kv", "put", "kind:a", "7")
    shell.run("kv", "put", "kind:b", "7", "--as", "json")
    assert shell.run("kv", "scan", "kind:").stdout.splitlines()[1:] == ["kind:a  text    7", "kind:b  number  7"]


@pytest.mark.parametrize("given", [(), ("--expected", "1", "--absent")])
def test_cas_requires_an_expectation(shell: Shell, given: tuple[str, ...]) -> None:
    assert shell.run("kv", "cas", "c", "--value", "2", *given).exit_code == 2


def test_incr_counts_in_both_directions(shell: Shell) -> None:
    assert shell.run("kv", "incr", "n").stdout == "1\n"
    assert shell.run("kv", "incr", "n", "--by", "-3").stdout == "-2\n"
    assert shell.json("kv", "incr", "n") == {"key": "n", "value": -1}
    shell.run("kv", "put", "n", str(1 << 60), "--as", "json")
    assert shell.json("kv", "incr", "n") == {"key": "n", "value": str((1 << 60) + 1)}


def test_a_refusal_of_the_machine_is_65(shell: Shell) -> None:
    shell.run("kv", "put", "text", "abc")
    found = shell.run("kv", "incr", "text")
    assert found.exit_code == 65
    assert found.stderr.startswith("error[CONSENSUS_COMMAND_FAILED]: ")
    assert shell.run("kv", "put", "k" * 401, "v").exit_code == 65
    assert shell.run("kv", "put", "", "v").exit_code == 65


def test_scan_lists_in_order_and_says_that_there_may_be_more(shell: Shell) -> None:
    for key, value in (("s/b", "2"), ("s/a", "line\nbreak"), ("s/c", "3")):
        shell.run("kv", "put", key, value)
    assert (
        shell.run("kv", "scan", "s/").stdout
        == "KEY  KIND  VALUE\ns/a  text  line\\nbreak\ns/b  text  2\ns/c  text  3\n"
    )
    few = shell.run("kv", "scan", "s/", "--limit", "2")
    assert "may be more than 2" in few.stderr
    assert "s/c" not in few.stdout
    assert shell.json("kv", "scan", "s/")["pairs"][0] == {"key": "s/a", "value": "line\nbreak", "kind": "text"}
    nothing = shell.run("kv", "scan", "none/")
    assert (nothing.exit_code, nothing.stdout) == (0, "")


def test_a_value_that_is_too_large_is_65_and_the_next_one_is_taken(shell: Shell) -> None:
    found = shell.run("kv", "put", "large", "-", stdin=b"x" * 1_100_000)
    assert found.exit_code == 65
    assert "larger" in found.stderr or "bytes" in found.stderr
    assert shell.run("kv", "put", "large", "-", stdin=b"x" * 500_000).exit_code == 0


@pytest.mark.parametrize("value", ["{", "null", "NaN", "1e400", str(1 << 64)])
def test_malformed_json_or_values_are_wrong_usage(shell: Shell, value: str) -> None:
    assert shell.run("kv", "put", "json", value, "--as", "json").exit_code == 2


def test_unreachable_endpoints_are_69_within_the_timeout() -> None:
    began = time.monotonic()
    found = Shell(dead_address()).run("kv", "put", "a", "1", "--timeout", "0.5")
    assert found.exit_code == 69
    assert time.monotonic() - began < 2
    assert found.stderr.startswith("error[CONSENSUS_CONNECTION_FAILED]: ")


@pytest.mark.parametrize("endpoints", ["", "nonsense", "127.0.0.1:0", "127.0.0.1:99999", "a:1,b"])
def test_bad_endpoints_are_78_and_name_the_expected_form(endpoints: str) -> None:
    found = Shell("").run("kv", "get", "a", "--endpoints", endpoints)
    assert found.exit_code == 78
    assert "127.0.0.1:7001" in found.stderr


def test_the_error_for_missing_endpoints_says_how_to_give_them() -> None:
    found = Shell("").run("kv", "get", "a")
    assert found.exit_code == 78
    assert "FORGE_CONSENSUS_ENDPOINTS" in found.stderr


@pytest.mark.parametrize(
    "arguments", [("put", "a"), ("get",), ("get", "a", "--timeout", "0"), ("get", "a", "-o", "xml")]
)
def test_wrong_usage_is_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run("kv", *arguments).exit_code == 2
