"""``forge-consensus node`` as a process: the line it prints, its exit codes, and the arguments it refuses."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from forge_consensus.client.sync import Client
from forge_consensus.events.encoding import from_json_line
from forge_consensus.events.types import LeaderElected, NodeStopped
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.source_tree import ROOT

SECONDS_MAX = 15.0
LINE = re.compile(r"serving n1 of cluster demo at (127\.0\.0\.1:\d+)\n")


class Nodes(CommandNodes):
    """Nodes of the cluster that these tests use."""

    def serve(self, data: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """Start a node that serves; returns the address that it said."""
        process = self.start("--id", "n1", "--cluster", "demo", "--data", str(data), *arguments)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SECONDS_MAX)[0], "it said nothing"
        line = process.stdout.readline()
        match = LINE.fullmatch(line)
        assert match, f"{line!r}, {process.communicate(timeout=SECONDS_MAX)}"
        return process, match[1]

    def refused(self, *arguments: str) -> tuple[int, str]:
        """Start a node that must end by itself; returns exit code and stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=SECONDS_MAX)
        assert out == ""
        return process.returncode, err


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """The processes of a test."""
    with Nodes() as made:
        yield made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_prints_one_line_serves_and_exits_with_0(nodes: Nodes, tmp_path: Path, number: int) -> None:
    process, address = nodes.serve(tmp_path, "--listen", "127.0.0.1:0")
    with Client([address]) as client:
        client.put("a", "1")
        assert client.get("a") == "1"
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS_MAX)
    assert (process.returncode, out) == (0, "")
    assert time.monotonic() - began < 5
    assert "leader" in err


def test_a_signal_while_it_starts_leaves_with_0_too(nodes: Nodes, tmp_path: Path) -> None:
    process = nodes.start("--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path))
    deadline = time.monotonic() + SECONDS_MAX
    while not (tmp_path / "LOCK").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.terminate()
    process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0


def test_writes_survive_kill_9_at_the_same_address(nodes: Nodes, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    process, said = nodes.serve(tmp_path, "--peers", f"n1={address}")
    assert said == address
    with Client([address]) as client:
        client.put("a", "1")
        process.kill()
        process.wait(SECONDS_MAX)
        nodes.serve(tmp_path, "--peers", f"n1={address}")
        assert client.get("a", timeout=SECONDS_MAX) == "1"


def test_events_are_lines_of_json_behind_the_serving_line(nodes: Nodes, tmp_path: Path) -> None:
    process, address = nodes.serve(tmp_path, "--listen", "127.0.0.1:0", "--events")
    with Client([address]) as client:
        client.put("a", "1")
    process.terminate()
    out, _ = process.communicate(timeout=SECONDS_MAX)
    events = [from_json_line(line) for line in out.splitlines()]
    assert any(isinstance(event, LeaderElected) and event.leader == "n1" for event in events)
    assert isinstance(events[-1], NodeStopped)
    assert all(json.loads(line)["cluster_id"] == "demo" for line in out.splitlines())


def test_an_address_in_use_is_69_and_a_folder_in_use_or_of_another_78(nodes: Nodes, tmp_path: Path) -> None:
    process, _ = nodes.serve(tmp_path / "n1", "--listen", "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = nodes.refused("--id", "n1", "--listen", address, "--data", str(tmp_path / "n2"))
        assert (code, text.startswith("error[CONSENSUS_TRANSPORT_UNAVAILABLE]: ")) == (69, True)
        assert address in text
    data = ("--listen", "127.0.0.1:0", "--data", str(tmp_path / "n1"))
    code, text = nodes.refused("--id", "n1", "--cluster", "demo", *data)
    assert (code, text.startswith("error[CONSENSUS_FOLDER_LOCKED]: ")) == (78, True)
    process.terminate()
    process.communicate(timeout=SECONDS_MAX)
    for other in (("--id", "n2", "--cluster", "demo"), ("--id", "n1", "--cluster", "other")):
        code, text = nodes.refused(*other, *data)
        assert (code, text.startswith("error[CONSENSUS_IDENTITY]: ")) == (78, True)


def test_events_are_published_at_the_port_that_a_firewall_lets_pass(nodes: Nodes, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    given = ("--listen", "127.0.0.1:0", "--events-listen", f"0.0.0.0:{port}", "--insecure")
    _, address = nodes.serve(tmp_path / "n1", *given)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    watch = [sys.executable, "-m", "forge_consensus", "events", "watch", "--follow", "--kind", "log.committed"]
    told = subprocess.Popen([*watch, "--endpoints", address], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        reader = context.socket(zmq.SUB)
        reader.setsockopt(zmq.SUBSCRIBE, b"consensus.log.committed")
        reader.connect(f"tcp://127.0.0.1:{port}")
        assert told.stdout is not None
        with Client([address]) as client:
            assert client.status(address)["events_address"] == f"0.0.0.0:{port}"
            end = time.monotonic() + SECONDS_MAX
            while not (reader.poll(0) and select.select([told.stdout], [], [], 0.1)[0]) and time.monotonic() < end:
                client.put("a", 1)
        assert reader.poll(0), "a plain subscriber at that port"
        assert b"log.committed" in told.stdout.readline(), "and who asks the node for the port"
    finally:
        told.kill()
        told.communicate(timeout=SECONDS_MAX)
        context.destroy(linger=0)
    taken = ("--id", "n2", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "n2"))
    code, text = nodes.refused(*taken, "--events-listen", f"127.0.0.1:{port}")
    assert (code, f"events: 127.0.0.1:{port} is in use by another program" in text) == (69, True), text


def test_three_nodes_run_from_one_file_of_the_original_and_say_what_means_something_else(
    nodes: Nodes, tmp_path: Path
) -> None:
    ports = dict(zip(("n1", "n2", "n3"), free_ports(3), strict=True))
    peers = "".join(f"      - {{id: {name}, address: 127.0.0.1, port: {port}}}\n" for name, port in ports.items())
    file = tmp_path / "config.yaml"
    file.write_text(
        f"extensions:\n  consensus:\n    cluster_id: demo\n    peers:\n{peers}"
        "    raft: {heartbeat_interval: 50ms, snapshot_threshold: 5000}\n    transport: {type: grpc}\n"
        "    observability: {logging: {enable_structured: true}}\n"
    )
    started = [nodes.start("-c", str(file), "--id", name, "--data", str(tmp_path / name)) for name in ports]
    with Client([f"127.0.0.1:{port}" for port in ports.values()], timeout=SECONDS_MAX) as client:
        client.put("a", "1")
        assert client.get("a") == "1"
    for process in started:
        process.terminate()
    for process, (name, port) in zip(started, ports.items(), strict=True):
        out, err = process.communicate(timeout=SECONDS_MAX)
        assert process.returncode == 0
        assert out == f"serving {name} of cluster demo at 127.0.0.1:{port}\n"
        lines = [json.loads(line) for line in err.splitlines()]
        notes = [line["message"] for line in lines if "transport.type" in line["message"]]
        assert notes == [f"{file}:9:17 transport.type: grpc is taken as zmq: nodes speak ZeroMQ with one another"]
