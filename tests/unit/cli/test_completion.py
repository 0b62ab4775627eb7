"""``forge-consensus completion``, and what the shell is then told to offer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.worlds.cli_world import Shell
from tests.worlds.source_tree import ROOT

SHELL = Shell("")
VARIABLE = "_FORGE_CONSENSUS_COMPLETE"


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("bash", "complete -o nosort -F _forge_consensus_completion forge-consensus"),
        ("zsh", "#compdef forge-consensus"),
        ("fish", "complete --no-files --command forge-consensus"),
    ],
)
def test_the_script_is_that_of_click_and_asks_the_program(shell: str, said: str) -> None:
    done = SHELL.run("completion", shell)
    assert done.exit_code == 0
    assert said in done.stdout
    assert f"{VARIABLE}={shell}_complete" in done.stdout
    assert done.stdout.rstrip() == SHELL.run(_FORGE_CONSENSUS_COMPLETE=f"{shell}_source").stdout.rstrip()


def test_bash_can_read_its_script() -> None:
    script = SHELL.run("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_help_says_how_to_install_it_in_each_shell() -> None:
    text = SHELL.run("completion", "--help").stdout
    assert '    eval "$(forge-consensus completion bash)"\n' in text
    assert '    eval "$(forge-consensus completion zsh)"\n' in text
    assert "completions/forge-consensus.fish\n" in text


def test_another_shell_is_wrong_usage() -> None:
    assert SHELL.run("completion", "tcsh").exit_code == 2
    assert SHELL.run("completion").exit_code == 2


def offered(words: str, last: int) -> list[str]:
    """What bash is told to offer for the word number `last`."""
    done = SHELL.run(_FORGE_CONSENSUS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(last))
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options_are_offered() -> None:
    assert offered("forge-consensus co", 1) == ["context", "config", "completion"]
    assert offered("forge-consensus kv p", 2) == ["put"]
    assert offered("forge-consensus kv w", 2) == ["watch"]
    assert offered("forge-consensus lease k", 2) == ["keep-alive"]
    assert "--prefix" in offered("forge-consensus kv watch --p", 3)
    assert offered("forge-consensus leader s", 2) == ["show", "stepdown"]
    assert "--limit" in offered("forge-consensus kv scan --l", 3)
    assert offered("forge-consensus completion z", 2) == ["zsh"]
    assert offered("forge-consensus nonsense p", 2) == []


def test_neither_the_script_nor_the_names_of_the_commands_load_what_is_heavy() -> None:
    program = (
        "import sys\n"
        "from forge_consensus.cli.main import cli\n"
        "cli.main(sys.argv[1:], prog_name='forge-consensus', standalone_mode=False)\n"
        "print([n for n in ('lmdb', 'rich', 'zmq', 'thespian', 'forge_consensus.client') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "completion", "fish"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    asking = {**os.environ, VARIABLE: "bash_complete", "COMP_WORDS": "forge-consensus s", "COMP_CWORD": "1"}
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "forge_consensus"],
        cwd=ROOT, env=asking, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "plain,status" in loaded.stdout
    assert not [line for line in loaded.stderr.splitlines() if line.rpartition(" ")[2] in ("lmdb", "zmq", "thespian")]
