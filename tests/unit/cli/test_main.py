"""The command line as a whole: help, suggestions, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from forge_consensus import __version__
from forge_consensus.cli.main import cli, end_with
from forge_consensus.errors import BY_CODE, ConsensusError
from tests.worlds.cli_world import Shell
from tests.worlds.source_tree import ROOT

SHELL = Shell("")


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    text = SHELL.run("--help").stdout
    assert all(name in text for name in ("node", "kv", "status", "log", "demo"))
    assert "75   timed out; the outcome may be unknown" in text
    for group in ("kv", "log", "events", "members", "leader"):
        assert "Exit codes" in SHELL.run(group, "--help").stdout


def test_every_listed_command_exists_and_explains_itself() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        assert SHELL.run(name, "--help").exit_code == 0


def test_an_unknown_command_is_answered_with_the_one_that_was_meant() -> None:
    found = SHELL.run("statsu")
    assert found.exit_code == 2
    assert "did you mean status?" in found.stderr
    assert "did you mean put?" in SHELL.run("kv", "set", "a", "1").stderr
    assert "there are put, append, get, delete" in SHELL.run("kv", "xyzzy").stderr


@pytest.mark.parametrize(
    ("words", "here"),
    [
        ("member list", "members list"),
        ("member add", "members add"),
        ("operator raft list-peers", "members list"),
        ("operator raft transfer-leader", "leader stepdown"),
        ("quorum status", "status"),
        ("endpoint health", "status"),
        ("endpoint status", "status"),
        ("kv del", "kv delete"),
        ("kv txn", "kv transaction"),
    ],
)
def test_the_words_of_other_tools_are_understood(words: str, here: str) -> None:
    found, wanted = (SHELL.run(*each.split(), "--help") for each in (words, here))
    assert (found.exit_code, wanted.exit_code) == (0, 0)
    assert found.stdout == wanted.stdout


def test_words_that_only_begin_like_those_of_other_tools_are_refused() -> None:
    for words in ("operator", "operator raft", "quorum", "endpoint"):
        found = SHELL.run(*words.split())
        assert found.exit_code == 2
        assert "no such command" in found.stderr


def test_every_typed_error_gives_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    for code, kind in BY_CODE.items():
        error = kind.__new__(kind)
        ConsensusError.__init__(error, "what, why, what to do")
        assert end_with(error) == kind.exit_code
        assert capsys.readouterr().err == f"error[{code}]: what, why, what to do\n"


def test_an_unexpected_error_is_70_and_an_interruption_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_with(ZeroDivisionError("odd")) == 70
    assert "error[INTERNAL]: ZeroDivisionError: odd" in capsys.readouterr().err
    assert end_with(KeyboardInterrupt()) == 130


def test_a_command_loads_only_the_modules_that_it_needs() -> None:
    program = (
        "import sys, forge_consensus.cli.kv, forge_consensus.cli.status; "
        "print([n for n in ('lmdb', 'rich', 'forge_consensus.service.node', 'forge_consensus.demo')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forge_consensus", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert __version__ in done.stdout
