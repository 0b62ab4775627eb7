"""Named clusters: their file, which place of five wins, two writers at once, and what the shell is told to offer."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.checks.doctor import Patient
from forge_consensus.checks.finding import Finding
from forge_consensus.cli import contexts, kv
from forge_consensus.cli import doctor as doctor_command
from forge_consensus.cli.contexts import Contexts, change, check_name, contexts_file, found_contexts, read
from forge_consensus.cli.main import cli
from forge_consensus.cli.options import endpoints_if_any, endpoints_or_error
from forge_consensus.errors import BusyError, InvalidConfigError, StorageError
from tests.worlds.cli_world import Shell
from tests.worlds.source_tree import ROOT

SHELL = Shell("")
SHAPE = "{current: prod, contexts: {prod: {endpoints: ['10.0.0.1:7001', 10.0.0.2:7001]}, dev: {endpoints: [a:1]}}}\n"
PROD = ("10.0.0.1:7001", "10.0.0.2:7001")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file of contexts is; it is not there yet."""
    return tmp_path / "contexts.yaml"


@pytest.fixture
def shaped(file: Path) -> Path:
    """A file with the contexts prod, which is the current one, and dev."""
    file.write_text(SHAPE)
    return file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `kv get` tell which endpoints it would ask, and ask nobody."""

    def client(endpoints: list[str], timeout: float) -> None:
        raise InvalidConfigError(f"asked {','.join(endpoints)}")

    monkeypatch.setattr(kv, "client_of", client)


def run(file: Path, *arguments: str, **environment: str) -> Result:
    """Run a command with this file of contexts."""
    return SHELL.run(*arguments, stdin=None, FORGE_CONSENSUS_CONTEXTS=str(file), **environment)


def faults(path: Path) -> list[str]:
    """The faults of a file, without its folder."""
    with pytest.raises(InvalidConfigError) as raised:
        read(path)
    assert raised.value.exit_code == 78
    problems = getattr(raised.value, "problems", (str(raised.value),))
    return [path.name + problem.partition(path.name)[2] for problem in problems]


# --- who wins --------------------------------------------------------------------------------------------------------

SIX = ("of-option:1", "of-context:1", "of-file:1", "of-variable:1", "of-context-variable:1", "of-current:1")


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("absent", range(7))
@pytest.mark.usefixtures("asked")
def test_of_six_places_the_first_that_is_given_wins(file: Path, absent: int, by_variable: bool) -> None:
    for name, endpoint in (("one", SIX[1]), ("two", SIX[4]), ("three", SIX[5])):
        assert run(file, "context", "set", name, "--endpoints", endpoint).exit_code == 0
    if absent < 6:
        run(file, "context", "use", "three")
    config = file.with_name("client.json")
    config.write_text(f'{{"endpoints": ["{SIX[2]}"]}}')
    option = ["--endpoints", SIX[0]] if absent < 1 else []
    context = ["--context", "one"] if absent < 2 else []
    variables = {"FORGE_CONSENSUS_ENDPOINTS": SIX[3]} if absent < 4 else {}
    variables |= {"FORGE_CONSENSUS_CONTEXT": "two"} if absent < 5 else {}
    if absent < 3 and by_variable:
        variables["FORGE_CONSENSUS_CONFIG"] = str(config)
    elif absent < 3:
        option += ["--config", str(config)]
    done = run(file, *context, "kv", "get", "a", *option, **variables)
    assert done.exit_code == 78
    assert (f"asked {SIX[absent]}\n" if absent < 6 else "no endpoints: ") in done.stderr


@pytest.mark.usefixtures("asked")
def test_a_place_that_does_not_win_is_not_looked_at(shaped: Path) -> None:
    done = run(shaped, "--context", "dev", "kv", "get", "a", FORGE_CONSENSUS_ENDPOINTS="nonsense")
    assert "asked a:1\n" in done.stderr
    shaped.write_text("[")
    assert "asked b:1\n" in run(shaped, "--context", "no", "kv", "get", "a", "--endpoints", "b:1").stderr
    named = {"FORGE_CONSENSUS_ENDPOINTS": "c:1", "FORGE_CONSENSUS_CONTEXT": "no"}
    assert "asked c:1\n" in run(shaped, "kv", "get", "a", **named).stderr
    assert "is no YAML" in run(shaped, "kv", "get", "a").stderr


@pytest.mark.usefixtures("asked")
def test_an_option_that_is_given_empty_is_refused_and_an_empty_variable_is_not_set(shaped: Path) -> None:
    done = run(shaped, "kv", "get", "a", "--endpoints", "")
    assert (done.exit_code, "--endpoints is empty" in done.stderr) == (78, True)
    done = run(shaped, "--context", "", "kv", "get", "a")
    assert (done.exit_code, "there is no context '' (--context)" in done.stderr) == (78, True)
    empty = {"FORGE_CONSENSUS_ENDPOINTS": "", "FORGE_CONSENSUS_CONTEXT": ""}
    assert f"asked {','.join(PROD)}\n" in run(shaped, "kv", "get", "a", **empty).stderr


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by its whole name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_with_endpoints_takes_contexts_and_says_who_wins() -> None:
    found = {
        name: option
        for name, command in commands(cli)
        for option in command.params
        if isinstance(option, click.Option) and "--endpoints" in option.opts and name != "context set"
    }
    assert {"doctor", "top", "kv get", "members add", "snapshot save", "check perf"} <= set(found)
    assert [name for name, option in found.items() if option.callback is endpoints_if_any] == ["doctor"]
    assert {option.callback for option in found.values()} == {endpoints_if_any, endpoints_or_error}
    for option in found.values():
        assert "wins: --endpoints, --context, --config or FORGE_CONSENSUS_CONFIG, FORGE_CONSENSUS_ENDPOINTS, FO" in str(
            option.help
        )
    text = " ".join(SHELL.run("context", "--help").stdout.split())
    assert "FORGE_CONSENSUS_ENDPOINTS, FORGE_CONSENSUS_CONTEXT, the current context" in text


def test_the_doctor_asks_the_cluster_of_a_context(shaped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def examine(patient: Patient) -> list[Finding]:
        asked.append(patient.endpoints)
        return []

    monkeypatch.setattr(doctor_command, "examine", examine)
    monkeypatch.setattr(doctor_command, "show", lambda found: None)
    for arguments in ([], ["--context", "dev"]):
        assert run(shaped, *arguments, "doctor").exit_code == 0
    assert SHELL.run("doctor").exit_code == 0
    assert asked == [PROD, ("a:1",), ()]


def test_the_error_for_no_endpoints_names_the_contexts_and_who_wins(shaped: Path) -> None:
    shaped.write_text(SHAPE.replace("current: prod, ", ""))
    done = run(shaped, "kv", "get", "a")
    assert done.exit_code == 78
    for part in ("--context", "FORGE_CONSENSUS_CONTEXT", "the current context", "Contexts: prod, dev\n"):
        assert part in done.stderr
    assert "There are no contexts; add one: forge-consensus context set" in SHELL.run("kv", "get", "a").stderr


# --- users without contexts, or without PyYAML -----------------------------------------------------------------------


def test_without_a_file_and_a_context_nobody_imports_yaml(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from forge_consensus.cli.main import cli\n"
        "code = cli.main(sys.argv[1:], prog_name='forge-consensus', standalone_mode=False)\n"
        "print(code, [name for name in sys.modules if name.partition('.')[0] == 'yaml'])"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FORGE_CONSENSUS_")}
    for arguments, code in ((("kv", "get", "a"), 78), (("doctor",), None)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True,
            env={**environment, "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == f"{code} []"
    assert list(tmp_path.iterdir()) == []


def test_without_its_package_a_context_is_refused_with_the_extra(
    shaped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    told = "a context needs the package yaml: pip install 'forge-consensus[config]'"
    other = tmp_path / "none" / "contexts.yaml"
    for path, arguments in (
        (shaped, ("kv", "get", "a")),
        (shaped, ("--context", "prod", "kv", "get", "a")),
        (shaped, ("context", "list")),
        (other, ("context", "set", "prod", "--endpoints", "a:1")),
    ):
        done = run(path, *arguments)
        assert (done.exit_code, told in done.stderr) == (78, True), done.stderr
    assert not other.parent.exists()
    for words in (("kv", "get", "a"), ("doctor",), ("context", "list")):
        assert "pip install" not in SHELL.run(*words).stderr
    assert run(Path(os.devnull), "doctor").exit_code == 0


def test_the_place_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home-of-somebody")
    home = Path("/home-of-somebody/.config/forge-consensus/contexts.yaml")
    assert contexts_file({}) == contexts_file({"XDG_CONFIG_HOME": "", "FORGE_CONSENSUS_CONTEXTS": ""}) == home
    assert contexts_file({"XDG_CONFIG_HOME": "relative"}) == home
    assert contexts_file({"XDG_CONFIG_HOME": "/etc/x"}) == Path("/etc/x/forge-consensus/contexts.yaml")
    assert contexts_file({"XDG_CONFIG_HOME": "/etc/x", "FORGE_CONSENSUS_CONTEXTS": "mine.yaml"}) == Path("mine.yaml")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no variable, and no such user
    with pytest.raises(InvalidConfigError, match="name the file by FORGE_CONSENSUS_CONTEXTS"):
        contexts_file({})
    assert found_contexts({}) == Contexts()
    (tmp_path / "text").write_text("")
    assert read(tmp_path / "text" / "contexts.yaml") == Contexts()
    assert faults(tmp_path) == [f"{tmp_path.name}' cannot be read: Is a directory"]


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--context", "prdo", "kv", "get", "a"), ("context", "use", "prdo"),
                                       ("context", "remove", "prdo"), ("context", "show", "prdo")])  # fmt: skip
def test_an_unknown_context_is_78_with_the_one_that_was_meant(shaped: Path, arguments: tuple[str, ...]) -> None:
    done = run(shaped, *arguments)
    assert done.exit_code == 78
    assert f"in {shaped}: did you mean prod? there are prod, dev\n" in done.stderr
    assert shaped.read_text() == SHAPE
    done = SHELL.run(*arguments)
    assert (done.exit_code, "there is none yet, add one: " in done.stderr) == (78, True)


def test_an_unknown_context_says_who_named_it(shaped: Path) -> None:
    done = run(shaped, "kv", "get", "a", FORGE_CONSENSUS_CONTEXT="x" * 1000)
    assert (done.exit_code, "xxx" in done.stderr, len(done.stderr) < 500) == (78, True, True)
    assert "' (FORGE_CONSENSUS_CONTEXT)" in run(shaped, "kv", "get", "a", FORGE_CONSENSUS_CONTEXT="x").stderr
    assert contexts.listed([f"n{number}" for number in range(22)]).endswith(", n19 and 2 more")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1\n", "contexts.yaml:2:1 is no YAML: expected ',' or ']', but got '<stream end>'"),
        ("--- a\n--- b\n", "contexts.yaml:2:1 is no YAML: but found another document"),
        ("\0", "contexts.yaml is no YAML: unacceptable character #x0000: special characters are not allowed"),
        ("- a\n", "contexts.yaml:1:1 there must be names with values, such as contexts: {prod: {endpoints: "),
        ("contexts: a\n", "contexts.yaml:1:11 contexts: there must be names with values, such as"),
        ("contexts: {a: b}\n", "contexts.yaml:1:15 contexts.a: there must be names with values, such as"),
        ("contexts:\n  a:\n", "contexts.yaml:2:3 contexts.a.endpoints: it is missing: give a list of HOST:PORT"),
        ("contexts: {a: {endpoints: }}\n", "contexts.yaml:1:16 contexts.a.endpoints: it has no value"),
        ("contexts: {a: {endpoints: []}}\n", "contexts.yaml:1:16 contexts.a.endpoints: give a list of HOST:PORT"),
        ("contexts: {a: {endpoints: 'b:1'}}\n", "contexts.yaml:1:16 contexts.a.endpoints: give a list of HOST:PORT"),
        ("contexts: {a: {endpoints: [b:1, c]}}\n", "contexts.yaml:1:33 contexts.a.endpoints[1]: endpoint 'c' is not"),
        ("contexts: {a: {endpoints: [[b]]}}\n", "contexts.yaml:1:28 contexts.a.endpoints[0]: give one address, in"),
        ("contexts: {a: {endpoints: [b:1], tls: on}}\n", "contexts.yaml:1:34 contexts.a.tls: unknown key, there is e"),
        ("context: {}\n", "contexts.yaml:1:1 context: unknown key, there are current and contexts"),
        ("contexts: {a b: {endpoints: [b:1]}}\n", "contexts.yaml:1:12 contexts: 'a b' is no name of a context: give"),
        ("contexts: {a: {endpoints: [b:1]}, a: {endpoints: [b:2]}}\n", "contexts.yaml:1:35 contexts.a: duplicate key"),
        ("{current: [a]}\n", "contexts.yaml:1:11 current: give the name of one context"),
        ("current: b\ncontexts: {a: {endpoints: [b:1]}}\n", "contexts.yaml:1:10 current: there is no context 'b': th"),
        ("x: !!python/object:os.system {}\n", "contexts.yaml:1:1 x: the tag that begins with ! has no meaning here"),
        ("&a [*a]\n", "contexts.yaml:1:1 there must be names"),
        ("[" * 1000, "contexts.yaml is nested too deeply"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_the_place(file: Path, text: str, fault: str) -> None:
    file.write_text(text)
    found = faults(file)
    assert len(found) == 1
    assert found[0].startswith(fault), found
    done = run(file, "context", "set", "new", "--endpoints", "a:1")
    assert (done.exit_code, file.read_text()) == (78, text)


def test_all_faults_are_told_at_once(file: Path) -> None:
    file.write_text("current: x\nother: 1\ncontexts:\n  a: {endpoints: [b, c]}\n  d: {urls: [b:1]}\n")
    done = run(file, "--context", "a", "kv", "get", "a")
    assert done.exit_code == 78
    lines = [line.partition("contexts.yaml:")[2].partition(" ")[0] for line in done.stderr.splitlines()[1:]]
    assert lines == ["2:1", "4:19", "4:22", "5:7", "1:10"]


def test_a_file_that_stands_for_too_much_is_refused_soon(file: Path) -> None:
    lines = [f"  a{number}: {{endpoints: *a}}" for number in range(2000)]
    anchor = f"  a: {{endpoints: &a [{', '.join(['b:1'] * 2000)}]}}"
    file.write_text("\n".join(["contexts:", anchor, *lines]))
    assert "there is too much in it" in faults(file)[0]
    file.write_bytes(b"#" * (2 << 20))
    assert "more than" in faults(file)[0]
    file.write_bytes(b"\xff")
    assert "is not UTF-8" in faults(file)[0]


def test_what_could_not_be_read_again_is_not_written(shaped: Path) -> None:
    with pytest.raises(InvalidConfigError, match="there is too much in it"):
        change(shaped, lambda held: held.with_context("huge", [f"a:{port}" for port in range(1, 20_000)]))
    with pytest.raises(InvalidConfigError, match="more than 1048576 bytes"):
        change(shaped, lambda held: held.with_context("huge", ["a" * (1 << 20) + ":1"]))
    assert shaped.read_text() == SHAPE


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\tb", "a\x1b[2J", "\u00a0", "\udc80", "x" * 129])
def test_some_names_are_refused(file: Path, name: str) -> None:
    done = run(file, "context", "set", name, "--endpoints", "a:1")
    assert (done.exit_code, "is no name of a context" in done.stderr) == (78, True)
    assert not file.exists()


# --- writing ---------------------------------------------------------------------------------------------------------


def is_name(text: str) -> bool:
    """Whether the text can name a context."""
    try:
        check_name(text)
    except InvalidConfigError:
        return False
    return True


NAMES = st.text(min_size=1, max_size=128).filter(is_name) | st.sampled_from(["~", "<<", "=", "on", "1:30", "x" * 128])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, st.sampled_from([("[::1]:7001",), ("ipc:///run/a b", "1:30")]), min_size=1, max_size=4))
def test_whatever_is_written_is_read_again(held: dict[str, tuple[str, ...]]) -> None:
    wanted = Contexts(next(iter(held)), held)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "contexts.yaml")
        assert change(file, lambda _: wanted) == read(file) == wanted
        assert list(read(file).endpoints) == list(held), "in the same order"


def test_contexts_are_set_used_shown_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "not" / "there" / "contexts.yaml"
    done = run(file, "context", "set", "prod", "--endpoints", "10.0.0.1:7001,tcp://10.0.0.2:7001,10.0.0.1:7001")
    assert (done.exit_code, done.stdout) == (0, "prod: 10.0.0.1:7001,10.0.0.2:7001\n")
    assert "context use NAME" in done.stderr
    run(file, "context", "set", "dev", "--endpoints", "a:1")
    assert run(file, "context", "use", "prod").stdout == "prod is the current context\n"
    assert read(file) == Contexts("prod", {"prod": PROD, "dev": ("a:1",)})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == ["contexts.yaml", "contexts.yaml.lock"]
    assert run(file, "context", "list").stdout.splitlines() == [
        "CURRENT  NAME  ENDPOINTS",
        "*        prod  10.0.0.1:7001,10.0.0.2:7001",
        "         dev   a:1",
    ]
    assert json.loads(run(file, "context", "list", "-o", "json").stdout) == {
        "file": str(file),
        "current": "prod",
        "contexts": [
            {"name": "prod", "is_current": True, "endpoints": list(PROD)},
            {"name": "dev", "is_current": False, "endpoints": ["a:1"]},
        ],
    }
    run(file, "context", "set", "dev", "--endpoints", "b:1,c:1")
    assert run(file, "context", "remove", "prod").stdout == "removed prod; there is no current context\n"
    assert read(file) == Contexts(None, {"dev": ("b:1", "c:1")})
    assert run(file, "context", "remove", "dev").exit_code == 0
    done = run(file, "context", "list")
    assert (done.exit_code, done.stdout, "no contexts in" in done.stderr) == (0, "", True)
    assert run(file, "context", "set", "dev").exit_code == 2


def test_show_takes_the_context_that_commands_would_take(shaped: Path) -> None:
    assert run(shaped, "context", "show").stdout == f"prod (current): {','.join(PROD)}\n"
    assert run(shaped, "context", "show", "dev").stdout == "dev: a:1\n"
    assert run(shaped, "--context", "dev", "context", "show").stdout == "dev: a:1\n"
    done = run(shaped, "context", "show", "-o", "json", FORGE_CONSENSUS_CONTEXT="dev")
    assert json.loads(done.stdout) == {
        "name": "dev", "is_current": False, "endpoints": ["a:1"], "file": str(shaped),
    }  # fmt: skip
    shaped.write_text(SHAPE.replace("current: prod, ", ""))
    done = run(shaped, "context", "show")
    assert (done.exit_code, "there is no current context in" in done.stderr) == (78, True)


def test_variables_that_win_over_the_current_context_are_told(shaped: Path) -> None:
    both = {"FORGE_CONSENSUS_ENDPOINTS": "x:1", "FORGE_CONSENSUS_CONTEXT": "dev"}
    told = [f"note: {variable} is set and wins over the current context" for variable in both]
    assert run(shaped, "context", "use", "prod", **both).stderr.splitlines() == told
    assert run(shaped, "context", "list", **both).stderr.splitlines() == told
    assert run(shaped, "context", "show", **both).stderr.splitlines() == [
        "note: FORGE_CONSENSUS_ENDPOINTS is set and wins over FORGE_CONSENSUS_CONTEXT"
    ]
    assert run(shaped, "context", "show", "dev", **both).stderr == ""
    assert run(shaped, "--context", "dev", "context", "show", **both).stderr == ""


def test_a_write_that_fails_leaves_the_file_as_it_was(shaped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shaped.with_name("contexts.yaml.tmp").write_text("of a writer that was killed")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        done = run(shaped, "context", "use", "dev")
    assert (done.exit_code, "the disk is full" in done.stderr) == (70, True)
    assert shaped.read_text() == SHAPE
    assert sorted(path.name for path in shaped.parent.iterdir()) == ["contexts.yaml", "contexts.yaml.lock"]
    assert run(shaped, "context", "use", "dev").exit_code == 0


def test_a_link_stays_a_link_and_a_device_a_device(shaped: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(shaped.name)
    assert run(link, "context", "use", "dev").exit_code == 0
    assert (link.is_symlink(), read(shaped).current) == (True, "dev")
    done = run(Path(os.devnull), "context", "set", "dev", "--endpoints", "a:1")
    assert (done.exit_code, "is no file" in done.stderr) == (78, True)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_two_writers_at_once_lose_nothing(shaped: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from forge_consensus.cli.contexts import change\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "sys.stdin.readline()\n"
        "for number in range(10):\n"
        "    change(path, lambda held: held.with_context(f'{sys.argv[2]}{number}', ['a:1']))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(shaped), name], stdin=subprocess.PIPE, text=True, cwd=ROOT)
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=110)
    assert [writer.returncode for writer in writers] == [0, 0]
    found = read(shaped)
    wanted = {"prod", "dev", *(f"{name}{number}" for name in ("one", "two") for number in range(10))}
    assert (set(found.endpoints), found.current) == (wanted, "prod")


def test_a_writer_waits_for_another_one_and_not_for_ever(shaped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "LOCK_SECONDS_MAX", 0.1)
    lock = shaped.with_name("contexts.yaml.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match=r"another process has held .*contexts.yaml.lock for 0.1 s"):
            change(shaped, lambda found: found.without("dev"))
        assert run(shaped, "context", "list").exit_code == 0, "readers need no lock"
        monkeypatch.setattr(contexts, "LOCK_SECONDS_MAX", 10.0)
        monkeypatch.setattr(time, "sleep", lambda seconds: lock.unlink())  # by somebody who tidies up
        assert "dev" not in change(shaped, lambda found: found.without("dev")).endpoints


def test_a_writer_has_its_turn_in_the_end_where_others_write_all_the_time(
    shaped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, waited = [0.0], []

    def wait(seconds: float) -> None:
        clock[0] += 9.0
        waited.append(clock[0])
        os.utime(shaped, ns=(0, len(waited)))  # another writer
        if len(waited) == 5:
            fcntl.flock(held, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", wait)
    with shaped.with_name("contexts.yaml.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "dev" not in change(shaped, lambda found: found.without("dev")).endpoints
    assert waited[-1] == 45.0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        change(tmp_path / "text" / "contexts.yaml", lambda held: held)


# --- the shell -------------------------------------------------------------------------------------------------------


def offered(file: Path, words: str) -> list[str]:
    """What bash is told to offer for the last of the words."""
    given: dict[str, Any] = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = run(file, _FORGE_CONSENSUS_COMPLETE="bash_complete", **given)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_names_are_offered_to_the_option_and_to_the_commands(shaped: Path) -> None:
    assert offered(shaped, "forge-consensus --context ") == ["prod", "dev"]
    assert offered(shaped, "forge-consensus --context p") == ["prod"]
    for command in ("show", "use", "remove", "set"):
        assert offered(shaped, f"forge-consensus context {command} d") == ["dev"]
    assert offered(shaped, "forge-consensus --context dev kv g") == ["get"]
    assert "--endpoints" in offered(shaped, "forge-consensus --context none kv get --e")


def test_completion_never_fails_and_never_waits(file: Path, shaped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "forge-consensus --context ",
        "forge-consensus context use ",
        "forge-consensus kv get a --endpoints x --any ",
    )
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "yaml", None)
        assert [offered(shaped, each) for each in words] == [[], [], []]
    shaped.write_text("contexts: [\n")
    assert [offered(shaped, each) for each in words] == [[], [], []]
    file.unlink()
    os.mkfifo(file)
    assert [offered(file, each) for each in words] == [[], [], []]
    assert [offered(file.parent / "none", each) for each in words] == [[], [], []]
