"""``forge-consensus dev``: three nodes with the dashboard in one terminal, a node that is killed, and Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from forge_consensus.cli.dev import PLAN, Wanted, places_in
from forge_consensus.errors import InvalidConfigError
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.waiting import wait_for


def started(*options: str) -> subprocess.Popen[str]:
    """The command, running."""
    port, http_port = (min(free_ports(1)[0], 65_000) for _ in range(2))
    places = () if "--data" in options else ("--port", str(port), "--http-port", str(http_port))
    command = [sys.executable, "-u", "-m", "forge_consensus", "dev", *places, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(command: subprocess.Popen[str]) -> None:
    """End the command, whatever state it is in."""
    command.kill()
    command.wait()
    assert command.stdout is not None
    command.stdout.close()


def told(command: subprocess.Popen[str]) -> list[str]:
    """What it prints until it says how it ends."""
    assert command.stdout is not None
    lines = []
    for line in command.stdout:
        lines.append(line.rstrip())
        if line.startswith("Ctrl-C"):
            return lines
    raise AssertionError("\n".join(lines))


def test_a_cluster_in_one_terminal(tmp_path: Path) -> None:
    began = time.monotonic()
    command = started("--data", str(tmp_path / "dev"), "--nodes", "3")
    try:
        lines = told(command)
        assert time.monotonic() - began < 30, "10 seconds on an idle machine"
        urls = re.findall(r"http://127.0.0.1:\d+/", "\n".join(lines))[:3]
        pids = [int(pid) for pid in re.findall(r"process (\d+)", "\n".join(lines))]
        assert httpx.get(f"{urls[0]}v1/cluster").json()["members"] == 3
        assert "text/html" in httpx.get(urls[0]).headers["content-type"]
        httpx.put(f"{urls[1]}v1/kv/kept", content="x", headers={"Content-Type": "text/plain"}).raise_for_status()
        subprocess.run(["kill", "-9", str(pids[0])], check=True)
        wait_for(lambda: httpx.get(f"{urls[1]}v1/cluster").json()["reachable"] == 2, 15, "one is gone")
        wait_for(lambda: httpx.get(f"{urls[1]}v1/cluster").json()["reachable"] == 3, 30, "it was started again")
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 0
    finally:
        end(command)
    for url in urls:
        try:
            httpx.get(url, timeout=2)
        except httpx.ConnectError:
            continue
        raise AssertionError(f"something still serves {url}")

    again = started("--data", str(tmp_path / "dev"))
    try:
        told(again)
        assert httpx.get(f"{urls[2]}v1/kv/kept").json()["value"] == "x"
        again.send_signal(signal.SIGTERM)
        assert again.wait(30) == 0
    finally:
        end(again)


def test_a_secure_cluster_in_one_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    command = started("--data", str(folder), "--secure")
    try:
        lines = told(command)
        text = "\n".join(lines)
        assert f"export FORGE_CONSENSUS_CONFIG={folder}/admin.yaml" in text
        urls = re.findall(r"https://127.0.0.1:\d+/", text)[:3]
        pids = [int(pid) for pid in re.findall(r"process (\d+)", text)]
        header = {"Authorization": f"Bearer {(folder / 'admin.token').read_text().strip()}"}
        context = ssl.create_default_context(cafile=folder / "ca.crt")
        with httpx.Client(verify=context, timeout=10) as http:
            assert "text/html" in http.get(urls[0]).headers["content-type"]
            assert http.get(f"{urls[0]}v1/cluster").status_code == 401
            assert http.get(f"{urls[0]}v1/cluster", headers=header).json()["members"] == 3
            assert run("kv", "put", "greeting", "hello", "--config", str(folder / "admin.yaml")).returncode == 0
            subprocess.run(["kill", "-9", str(pids[0])], check=True)
            assert run("kv", "get", "greeting", "--config", str(folder / "reader.yaml")).stdout == "hello\n"
            wait_for(lambda: reachable(http, urls[1], header) == 2, 15, "one is gone")
            wait_for(lambda: reachable(http, urls[1], header) == 3, 30, "it was started again")
        plain = run(
            "kv", "get", "greeting", "--endpoints", json.loads((folder / PLAN).read_text())["nodes"]["n2"], seconds=1.0
        )
        assert plain.returncode == 69, plain.stderr
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 0
    finally:
        end(command)
    assert places_in(folder, Wanted()).secure, "the next start has the keys by itself"


def reachable(http: httpx.Client, url: str, header: dict[str, str]) -> int:
    """How many nodes answer, as one of them says."""
    found: int = http.get(f"{url}v1/cluster", headers=header).json()["reachable"]
    return found


def run(*words: str, seconds: float = 10.0) -> subprocess.CompletedProcess[str]:
    """A command that has ended."""
    command = [sys.executable, "-m", "forge_consensus", *words, "--timeout", f"{seconds}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_folder_without_keys_does_not_become_a_secure_one(tmp_path: Path) -> None:
    plan = {"nodes": {"n1": "127.0.0.1:7001"}, "http": {"n1": "127.0.0.1:8001"}}
    (tmp_path / PLAN).write_text(json.dumps(plan))
    assert not places_in(tmp_path, Wanted()).secure
    with pytest.raises(InvalidConfigError, match="leave out --secure"):
        places_in(tmp_path, Wanted(secure=True))
