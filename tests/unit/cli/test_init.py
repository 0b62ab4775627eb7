"""``forge-consensus init``: the questions, the file, and the commands that it names."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import Result

from forge_consensus.cli import init as command
from forge_consensus.config.loading import LoadedConfig, load_config
from tests.worlds.cli_world import Shell

SHELL = Shell("")
THREE = "n1=10.0.0.1:7001,n2=10.0.0.2:7001,n3=10.0.0.3:7001"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "config.yaml"


def init(file: Path, *arguments: str, answers: str = "") -> Result:
    """Run the command; without answers it takes the defaults."""
    return SHELL.run("init", str(file), *arguments, *(() if answers else ("--yes",)), stdin=answers.encode())


def loaded(file: Path) -> LoadedConfig:
    """What the project's loader makes of the file."""
    return load_config(file, environment={})


def test_the_defaults_are_a_cluster_of_one_that_the_loader_takes(file: Path) -> None:
    done = init(file)
    assert done.exit_code == 0
    assert SHELL.run("config", "validate", str(file)).stdout == "ok: node n1 of cluster default at 127.0.0.1:7001\n"
    node = loaded(file).node
    assert (dict(node.peers), str(node.storage_path)) == ({"n1": "127.0.0.1:7001"}, "data/n1")
    assert done.stdout.splitlines() == [
        f"wrote {file}",
        "start n1:",
        f"  forge-consensus node -c {file}",
        "see whether they serve:",
        "  forge-consensus status --endpoints 127.0.0.1:7001",
    ]
    text = file.read_text()
    assert text.startswith("# The configuration of one node")
    assert "# heartbeat_interval: 0.1" in text


def test_options_are_taken_and_every_node_gets_its_command(file: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "n2")
    given = ("--id", "n2", "--cluster", "demo", "--listen", "0.0.0.0:7001", "--peers", THREE, "--data", data)
    done = init(file, *given)
    node = loaded(file).node
    assert (node.node_id, node.cluster_id, node.bind, str(node.storage_path)) == ("n2", "demo", "0.0.0.0:7001", data)
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert commands[0] == ["forge-consensus", "node", "-c", str(file)]
    for name, place in (("n1", 1), ("n3", 3)):
        _, verb, written, *rest = commands[place]
        other = tmp_path / written
        assert SHELL.run(verb, str(other), *rest).exit_code == 0
        one = loaded(other).node
        assert (one.node_id, one.cluster_id, one.bind, one.peers) == (name, "demo", "0.0.0.0:7001", node.peers)
        assert one.storage_path == str(tmp_path / name)
        assert commands[place + 1] == ["forge-consensus", "node", "-c", f"{name}.yaml"]


def test_questions_have_defaults_and_are_asked_again(file: Path) -> None:
    done = init(file, answers="a node\nn2\n\nno address\n127.0.0.1:7002\nn1=h:1\nn1=h:1,n2=h:2\n\n")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("Error: ") == 3
    assert "Id of this node, unique in the cluster [n1]:" in done.stderr
    assert "Error: node 'n2' is not among the peers n1" in done.stderr
    node = loaded(file).node
    assert (node.node_id, node.cluster_id, node.bind) == ("n2", "default", "127.0.0.1:7002")
    assert (dict(node.peers), node.storage_path) == ({"n1": "h:1", "n2": "h:2"}, "data/n2")


def test_what_an_option_gives_is_not_asked(file: Path) -> None:
    given = ("--id", "n1", "--cluster", "c", "--listen", "[::1]:7001", "--peers", "n1=[::1]:7001")
    done = init(file, *given, answers="\n")
    assert (done.exit_code, done.stderr.count("[")) == (0, 1)
    assert loaded(file).node.bind == "[::1]:7001"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--id", "a b"), "node_id is 'a b'"),
        (("--id", ""), "node_id is empty"),
        (("--cluster", ""), "cluster_id is empty"),
        (("--listen", "nonsense"), "'nonsense' is not an address"),
        (("--listen", "127.0.0.1:0"), "give it a port"),
        (("--peers", "n2=a:1"), "node 'n1' is not among the peers n2"),
        (("--peers", "n1"), "'n1' in peers is not ID=HOST:PORT"),
        (("--peers", "n1=a:1,n2=a:1"), "share the address a:1"),
        (("--peers", "n1=0.0.0.0:1"), "stands for all addresses"),
        (("--data", "\udcff"), "is no valid text"),
        (("--data", " "), "storage_path is empty"),
    ],
)
def test_wrong_values_end_with_78_and_nothing_written(file: Path, arguments: tuple[str, ...], said: str) -> None:
    done = init(file, *arguments)
    assert (done.exit_code, said in done.stderr) == (78, True), done.stderr
    assert not file.exists()
    if "peers" not in arguments[0]:
        assert init(file, *arguments, answers="\n" * 9).exit_code == 78, "a wrong option is not asked about"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("null", "/srv/two words/#1"),
        ("~", "relative/${HOME}/x"),
        ("<<", 'it\'s: "quoted" \\ '),
        ("a:", "- dash"),
        ("ключ", "/srv/данные"),
        ("{x}", "/srv/\ttab"),
        ("#n1", "${file:/etc/hostname}"),
        ("${HOME}", "1e3"),
        ("yes", "0x10"),
    ],
)
def test_every_text_is_read_back_as_it_was_given(file: Path, name: str, folder: str) -> None:
    assert init(file, "--id", name, "--cluster", name, "--data", folder).exit_code == 0
    node = loaded(file).node
    assert (node.node_id, node.cluster_id, str(node.storage_path)) == (name, name, folder.strip())
    assert dict(node.peers) == {name: "127.0.0.1:7001"}


def test_a_file_that_is_there_is_kept_unless_it_is_forced(file: Path) -> None:
    file.write_text("mine")
    done = init(file)
    assert (done.exit_code, "error[CONSENSUS_ALREADY_EXISTS]" in done.stderr) == (78, True)
    assert "--force" in done.stderr
    assert file.read_text() == "mine"
    assert init(file, "--force").exit_code == 0
    assert loaded(file).node.node_id == "n1"


def test_a_file_that_appears_meanwhile_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = command.checked
    monkeypatch.setattr(command, "checked", lambda texts: (file.write_text("mine"), checked(texts))[1])
    assert init(file).exit_code == 78
    assert file.read_text() == "mine"


def test_a_dash_writes_to_stdout_and_everything_else_to_stderr(tmp_path: Path) -> None:
    done = SHELL.run("init", "-", "--yes")
    (tmp_path / "o.yaml").write_text(done.stdout)
    assert loaded(tmp_path / "o.yaml").node.node_id == "n1"
    assert "forge-consensus node -c FILE" in done.stderr


def test_questions_leave_no_trace_in_a_file_on_stdout(tmp_path: Path) -> None:
    done = SHELL.run("init", "-", stdin=b"n7\n\n\n\n\n")
    assert done.stdout.startswith("# The configuration of one node")
    assert "Id of this node" in done.stderr
    (tmp_path / "o.yaml").write_text(done.stdout)
    assert dict(loaded(tmp_path / "o.yaml").node.peers) == {"n7": "127.0.0.1:7001"}


def test_a_folder_that_is_missing_and_one_in_the_way_are_told(tmp_path: Path) -> None:
    done = init(tmp_path / "missing" / "config.yaml")
    assert (done.exit_code, "make it first" in done.stderr) == (66, True)
    assert init(tmp_path, "--force").exit_code == 2


def test_where_nobody_answers_the_option_for_that_is_named(file: Path) -> None:
    done = SHELL.run("init", str(file), stdin=b"n1\n")
    assert (done.exit_code, "add --yes" in done.stderr) == (2, True)
    assert not file.exists()


def test_an_interrupted_question_ends_with_130(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.prompt", aborted)
    done = SHELL.run("init", str(file))
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def aborted(*arguments: object, **options: object) -> None:
    """What click makes of an interruption at its question."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise click.Abort from None


def test_a_node_at_all_addresses_is_reached_by_its_host_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "host-1")
    assert init(file, "--listen", "0.0.0.0:7001").exit_code == 0
    assert dict(loaded(file).node.peers) == {"n1": "host-1:7001"}
    monkeypatch.setattr("socket.gethostname", lambda: "odd name")
    assert init(file, "--listen", "[::]:7001", "--force").exit_code == 0
    assert dict(loaded(file).node.peers) == {"n1": "127.0.0.1:7001"}


def test_a_node_may_listen_at_a_path(file: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/n1"
    assert init(file, "--listen", address).exit_code == 0
    assert dict(loaded(file).node.peers) == {"n1": address}
