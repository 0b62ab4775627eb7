"""``forge-consensus dev``: three nodes with the dashboard in one terminal, a node that is killed, and Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

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
