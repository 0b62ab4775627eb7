"""Reloading of real nodes: by SIGHUP, by their files, by the API and by clients; under load, and with bad input."""

from __future__ import annotations

import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConfigUpdated, ConsensusEvent
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.cli_world import Shell
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.service_world import eventually

SECONDS = 90.0


def soon(condition: Callable[[], Any]) -> Any:
    """Wait until something is true, on a machine that may be busy, and return it."""
    return eventually(condition, SECONDS)


class Node:
    """A node that runs with a file."""

    def __init__(self, nodes: CommandNodes, folder: Path, name: str, peers: dict[str, str], *options: str) -> None:
        self.name, self.address = name, peers[name]
        self.http = f"127.0.0.1:{free_ports(1)[0]}"
        self.file = folder / f"{name}.yaml"
        listed = ", ".join(f'{node}: "{address}"' for node, address in peers.items())
        self.text = (
            f"node_id: {name}\ncluster_id: demo\npeers: {{{listed}}}\nstorage_path: {folder / name}\n"
            f'admin_api: {{bind: "{self.http}"}}\nreload: {{interval: 200ms}}\n'
        )
        self.write("")
        self.process = nodes.start("-c", str(self.file), *options)

    def write(self, lines: str) -> None:
        """Write the file anew, with more lines."""
        beside = self.file.with_suffix(".new")
        beside.write_text(self.text + lines)
        beside.replace(self.file)

    def serves(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"http://{self.http}/readyz").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, self.process.communicate()
            return False

    def config(self) -> dict[str, Any]:
        """What it says of its configuration."""
        found: dict[str, Any] = httpx.get(f"http://{self.http}/v1/config").json()
        return found

    def value(self, name: str) -> Any:
        """The value in force of a setting."""
        return next(row["value"] for row in self.config()["settings"] if row["name"] == name)

    def unwatched(self) -> bool:
        """Whether its files are not looked at."""
        return self.value("reload.watch") is False

    def logs_from(self, level: str) -> bool:
        """Whether this is its log level."""
        return bool(self.value("log_level") == level)

    def reload(self, **body: Any) -> httpx.Response:
        """Ask its API to read the file again."""
        return httpx.post(f"http://{self.http}/v1/config/reload", json=body, timeout=SECONDS)

    def told(self, *kinds: type[ConsensusEvent]) -> list[Any]:
        """The events of these kinds in its journal."""
        names = [kind.kind for kind in kinds]
        with EventFeed([self.address], kinds=names, since=0, follow=False) as feed:
            return [event for event in feed if isinstance(event, kinds) and event.node_id == self.name]


@pytest.fixture
def nodes() -> Iterator[CommandNodes]:
    """The processes of a test."""
    with CommandNodes() as made:
        yield made


@pytest.fixture
def node(nodes: CommandNodes, tmp_path: Path) -> Node:
    """One node that serves."""
    made = Node(nodes, tmp_path, "n1", {"n1": f"127.0.0.1:{free_ports(1)[0]}"})
    soon(made.serves)
    return made


@pytest.fixture
def three(nodes: CommandNodes, tmp_path: Path) -> list[Node]:
    """Three nodes that serve."""
    peers = {f"n{number + 1}": f"127.0.0.1:{port}" for number, port in enumerate(free_ports(3))}
    # A busy machine must not have them elect again while a test looks at their term.
    patient = ("--election-timeout-min", "4s", "--election-timeout-max", "6s")
    made = [Node(nodes, tmp_path, name, peers, *patient) for name in peers]
    for each in made:
        soon(each.serves)
    return made


# --- what has a node read its file again -----------------------------------------------------------------------------


def test_sighup_reads_the_file_again_and_the_events_are_in_the_journal(node: Node) -> None:
    node.text = node.text.replace("200ms", "1h")
    node.write("raft: {outstanding_max: 7, heartbeat_interval: 50ms}\n")
    soon(lambda: node.value("raft.outstanding_max") == 7)
    node.write("raft: {outstanding_max: 8, heartbeat_interval: 50ms}\n")
    time.sleep(0.5)
    assert node.value("raft.outstanding_max") == 7, "nobody looks within this hour"
    node.process.send_signal(signal.SIGHUP)
    soon(lambda: node.value("raft.outstanding_max") == 8)
    updated = soon(lambda: [each for each in node.told(ConfigUpdated) if each.trigger == "signal"])
    assert (updated[0].settings, updated[0].old, updated[0].new) == (("raft.outstanding_max",), ("7",), ("8",))
    assert node.told(ConfigReloaded)[-1].pending_restart == ("raft.heartbeat_interval",)
    assert node.config()["pending_restart"] == ["raft.heartbeat_interval"]


def test_sighup_ends_no_node_whether_it_has_a_file_or_opens_its_folder(nodes: CommandNodes, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    bare = nodes.start("--id", "n1", "--listen", address, "--data", str(tmp_path / "bare"))
    assert bare.stdout is not None
    assert bare.stdout.readline().startswith("serving n1")
    for _ in range(3):
        bare.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    with Client([address]) as client:
        client.put("k", 1)
        with pytest.raises(InvalidConfigError, match="no file was given"):
            client.reload_config(address)
    bare.send_signal(signal.SIGTERM)
    _, err = bare.communicate(timeout=SECONDS)
    assert bare.returncode == 0
    assert "SIGHUP is ignored: no file was given at the start" in err
    early = Node(nodes, tmp_path, "n2", {"n2": f"127.0.0.1:{free_ports(1)[0]}"})
    soon(lambda: handles_sighup(early.process.pid))
    early.process.send_signal(signal.SIGHUP)
    soon(early.serves)
    soon(lambda: [each for each in early.told(ConfigReloaded) if each.trigger == "signal"])


def test_a_node_outlives_the_terminal_in_which_it_was_started(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    file = tmp_path / "node.yaml"
    file.write_text(f'node_id: n1\nbind: "{address}"\nstorage_path: {tmp_path / "n1"}\n')
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "forge_consensus", "node", "-c", str(file), "--events"])
    try:
        with Client([address], SECONDS) as client:
            client.put("k", 1)
            os.close(terminal)
            soon(lambda: len(told_by(address, ConfigReloaded)) == 1)
            client.put("k", 2)
            before = cpu_seconds(child)
            time.sleep(1.0)
            assert cpu_seconds(child) - before < 0.5, "it does not try in vain to write"
            assert client.get("k") == 2
    finally:
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def told_by(address: str, kind: type[ConsensusEvent]) -> list[ConsensusEvent]:
    """The events of a kind in the journal of the node at this address."""
    with EventFeed([address], kinds=[kind.kind], since=0, follow=False) as feed:
        return [event for event in feed if isinstance(event, kind)]


def cpu_seconds(pid: int) -> float:
    """How long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def handles_sighup(pid: int) -> bool:
    """Whether a process has a handler for the signal by now."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1)


def test_a_client_has_several_nodes_read_their_files(three: list[Node]) -> None:
    for each in three:
        each.text = each.text.replace("interval: 200ms", "interval: 200ms, watch: false")
        each.write("")
        soon(partial(Node.unwatched, each))
        each.write("storage: {snapshot_interval: 1h}\n")
    addresses = ",".join(each.address for each in three)
    shell = Shell("")
    dry = shell.run("config", "reload", "--endpoints", addresses, "--dry-run")
    assert dry.stdout.splitlines() == [
        f"{each.name}: storage.snapshot_interval 0.0 -> 3600.0: would take effect at once" for each in three
    ]
    three[1].write("storage: {snapshot_interval: never}\n")
    found = shell.run("config", "reload", "--endpoints", addresses)
    assert found.exit_code == 78
    assert found.stdout.count("in force") == 2
    assert f"{three[1].address}: error[INVALID_CONFIG]" in found.stderr
    assert "storage.snapshot_interval is 'never'" in found.stderr
    assert [each.value("storage.snapshot_interval") for each in three] == [3600.0, 0.0, 3600.0]
    status = shell.run("status", "--endpoints", three[0].address)
    assert "storage.snapshot_interval is 3600.0" in status.stderr, "members tell each other that they differ"
    three[1].write("storage: {snapshot_interval: 1h}\n")
    assert shell.json("config", "reload", "--endpoints", addresses)[1]["changed"][0]["new"] == "3600.0"
    soon(lambda: "differ" not in shell.run("status", "--endpoints", three[0].address).stderr)
    soon(lambda: "is 3600.0" not in shell.run("status", "--endpoints", three[0].address).stderr)


def test_log_level_and_form_change_while_the_node_runs(nodes: CommandNodes, tmp_path: Path) -> None:
    node = Node(nodes, tmp_path, "n1", {"n1": f"127.0.0.1:{free_ports(1)[0]}"})
    soon(node.serves)
    for level, form in (("warning", "text"), ("info", "json")) * 3:
        node.write(f"log_level: {level}\nlog_format: {form}\n")
        soon(partial(Node.logs_from, node, level))
        httpx.post(f"http://{node.http}/v1/config/reload")
    threads = len(list(Path(f"/proc/{node.process.pid}/task").iterdir()))
    for number in range(10):
        node.write(f"log_level: {'info' if number % 2 else 'debug'}\n")
        node.reload()
    assert len(list(Path(f"/proc/{node.process.pid}/task").iterdir())) <= threads + 8, "only those of the API's pool"
    node.process.send_signal(signal.SIGTERM)
    _, err = node.process.communicate(timeout=SECONDS)
    lines = err.splitlines()
    assert any(line.startswith("{") and '"consensus.config.reloaded"' in line for line in lines)
    assert any("INFO" in line and "config.reloaded" in line and not line.startswith("{") for line in lines)


def test_a_node_that_was_removed_ends_when_it_is_told_to(three: list[Node]) -> None:
    with Client([three[0].address]) as client:
        gone = next(each for each in three if each.name != client.locate().leader)
        client.remove_node(gone.name)
    gone.write("exit_when_removed: true\n")
    assert gone.process.wait(SECONDS) == 0


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_file_with_seven_faults_gives_seven_places_and_the_old_values_stay(node: Node) -> None:
    node.write(
        "raft:\n  hartbeat: 1\n  check_interval: soon\n  fail_checks: -1\n  outstanding_max: 7\n"
        "storage:\n  quota_bytes: much\n  snapshot_interval: never\nlog_level: loud\nunknown: 1\n"
    )
    answer = node.reload()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    places = [(row["line"], row["column"]) for row in answer.json()["problems"]]
    assert places == [(8, 3), (9, 3), (10, 3), (13, 3), (14, 3), (15, 1), (16, 1)]
    rejected = soon(lambda: node.told(ConfigRejected))
    assert len(rejected[0].problems) == 7
    assert node.value("raft.outstanding_max") == 20_000
    assert len(node.config()["problems"]) == 7
    with Client([node.address]) as client:
        client.put("k", 1)
        assert client.get("k") == 1


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """What puts something else in the place of a file."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


BREAK: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "a directory": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": instead(lambda path: path.symlink_to(path)),
    "another encoding": lambda path: path.write_bytes("node_id: n1".encode("utf-16")),
    "binary": lambda path: path.write_bytes(os.urandom(1000)),
    "empty": lambda path: path.write_text(""),
    "too large": lambda path: path.write_text("# x\n" * 400_000),
    "nested": lambda path: path.write_text("[" * 100_000),
    "aliases": lambda path: path.write_text("a: &a [1,1]\n" + "".join(f"b{n}: &b{n} [*a,*a]\n" for n in range(50))),
}


def test_whatever_becomes_of_the_file_the_node_goes_on_with_what_it_has(node: Node) -> None:
    node.write("raft: {outstanding_max: 9000}\n")
    soon(lambda: node.value("raft.outstanding_max") == 9000)
    with Client([node.address]) as client:
        for number, (name, damage) in enumerate(BREAK.items()):
            damage(node.file)
            assert node.reload().status_code == 422, name
            node.process.send_signal(signal.SIGHUP)
            client.put("k", number)
            assert node.value("raft.outstanding_max") == 9000, name
            assert node.config()["problems"], name
            if node.file.is_dir():
                node.file.rmdir()
            node.write(f"raft: {{outstanding_max: 9000}}\n# {number}\n")
            soon(lambda: node.config()["problems"] == [])
    assert node.process.poll() is None
    assert len(node.told(ConfigUpdated)) == 1


def test_what_only_a_restart_or_a_founding_changes_changes_nothing(node: Node, tmp_path: Path) -> None:
    before = node.text
    for old, new in (
        ("node_id: n1", "node_id: n2"),
        ("cluster_id: demo", "cluster_id: other"),
        (str(tmp_path / "n1"), str(tmp_path / "elsewhere")),
        ("n1: ", 'n9: "127.0.0.1:1", n1: '),
        (node.http, "127.0.0.1:1"),
    ):
        node.text = before.replace(old, new)
        node.write("")
        answer = node.reload()
        if "node_id" in old:
            assert answer.status_code == 422, "it is not among its own peers"
            continue
        assert answer.json()["changed"] == []
        assert len(answer.json()["waiting"]) >= 1, new
    assert not (tmp_path / "elsewhere").exists()
    with Client([node.address], cluster_id="demo") as client:
        client.put("k", 1)


# --- load ------------------------------------------------------------------------------------------------------------


class Load:
    """Clients that write, and clients that have nodes read their files, all the time."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.addresses = [each.address for each in nodes]
        self.stop = threading.Event()
        self.failures: list[str] = []
        self.written = [0, 0]
        self.workers = [threading.Thread(target=self.write, args=(place,)) for place in range(2)]
        self.workers += [threading.Thread(target=self.ask, args=(each,)) for each in nodes]

    def write(self, place: int) -> None:
        """Write one number after the other."""
        with Client(self.addresses, 10.0) as client:
            while not self.stop.is_set():
                try:
                    client.put(f"k{place}", self.written[place] + 1)
                    self.written[place] += 1
                except ConsensusError as error:
                    self.failures.append(f"{error.code}: {error}")

    def ask(self, node: Node) -> None:
        """Have a node read its file."""
        with Client([node.address]) as client:
            while not self.stop.is_set():
                with suppress(InvalidConfigError):
                    client.reload_config(node.address)

    def run(self, seconds: float) -> None:
        """Change the files all the time, meanwhile."""
        for worker in self.workers:
            worker.start()
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            number += 1
            text = (
                f"raft: {{inflight_frames_max: {1 + number % 64}, check_interval: {200 + number % 300}ms}}\n"
                f"storage: {{uncommitted_entries_max: {1000 + number}, tail_bytes_max: {number % 3}MiB}}\n"
            )
            for each in self.nodes:
                each.write("raft: {outstanding_max: none}\n" if number % 5 == 0 else text)
                each.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        self.stop.set()
        for worker in self.workers:
            worker.join(SECONDS)
            assert not worker.is_alive()


def test_reloads_all_the_time_change_nothing_for_clients(three: list[Node]) -> None:
    load = Load(three)
    with Client(load.addresses) as client:
        term = client.locate().term
        load.run(6.0)
        assert load.failures == []
        assert min(load.written) > 50
        assert client.locate().term == term, "nobody stood for election"
        assert [client.get(f"k{place}") for place in range(2)] == load.written
    for each in three:
        assert each.process.poll() is None
        assert 10 < len(each.told(ConfigReloaded, ConfigRejected)) < 200, "at most twenty readings a second"


def test_a_hundred_requests_a_second_share_few_readings(node: Node) -> None:
    outcomes = list[int]()

    def ask() -> None:
        with httpx.Client(timeout=SECONDS) as web:
            for _ in range(25):
                outcomes.append(web.post(f"http://{node.http}/v1/config/reload").status_code)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    began = time.monotonic()
    for asker in askers:
        asker.start()
    with Client([node.address]) as client:
        for number in range(100):
            node.process.send_signal(signal.SIGHUP)
            client.put("k", number)
    for asker in askers:
        asker.join(60)
    took = time.monotonic() - began
    assert outcomes == [200] * 200
    assert len(node.told(ConfigReloaded)) <= 20 * took + 5
