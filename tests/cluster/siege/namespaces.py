"""Network namespaces: nodes with a network of their own each, joined by virtual cables and a switch of the kernel."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import OperationFailedError
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from forge_consensus.testing.local.node_thread import NodeThread

PORT: Final = 7400
COMMAND_SECONDS_MAX: Final = 10.0
REACH: Final = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 3)
except ConnectionRefusedError:
    sys.exit(0)
sys.exit(1)
"""
"""Tests whether an address is reachable: no process listens there, and the refusal must arrive."""


def command(*words: str) -> None:
    """Run a command. Raises `OperationFailedError` with its output."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperationFailedError(f"{' '.join(words)}: {error}") from error
    if done.returncode:
        raise OperationFailedError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")


class Switch:
    """A switch with a cable to each node, created by entering the context and removed by leaving it.

    This process reaches all nodes too. Names and addresses are derived from its process id, so that two switches may
    exist at once.
    """

    def __init__(self, names: list[str]) -> None:
        self.tag = f"fs{os.getpid()}"
        self.bridge = f"{self.tag}b"
        self.net = f"198.18.{os.getpid() % 256}"  # a network that is reserved for benchmarks (RFC 2544)
        self.places = {name: f"{self.net}.{number}" for number, name in enumerate(names, 1)}

    def space(self, name: str) -> str:
        """The namespace of a node."""
        return f"{self.tag}-{name}"

    def cable(self, name: str) -> str:
        """The switch's end of a node's cable; the other is eth0 of the namespace."""
        return f"{self.tag}{name}"

    def inside(self, name: str, *words: str) -> list[str]:
        """The command line that runs a command in a node's namespace."""
        return ["ip", "netns", "exec", self.space(name), *words]

    def __enter__(self) -> Self:
        try:
            command("ip", "link", "add", self.bridge, "type", "bridge")
            command("ip", "addr", "add", f"{self.net}.254/24", "dev", self.bridge)
            command("ip", "link", "set", self.bridge, "up")
            for name in self.places:
                self.lay(name)
        except BaseException:
            self.remove()
            raise
        return self

    def add(self, name: str) -> None:
        """Add a node, with an address, a namespace and a cable of its own."""
        self.places[name] = f"{self.net}.{len(self.places) + 1}"
        self.lay(name)

    def lay(self, name: str) -> None:
        """Lay the cable from a node's namespace to the switch."""
        command("ip", "netns", "add", self.space(name))
        command(*("ip", "link", "add", self.cable(name), "type", "veth"),
                *("peer", "name", "eth0", "netns", self.space(name)))  # fmt: skip
        command("ip", "link", "set", self.cable(name), "master", self.bridge, "up")
        command(*self.inside(name, "ip", "link", "set", "lo", "up"))
        command(*self.inside(name, "ip", "addr", "add", f"{self.places[name]}/24", "dev", "eth0"))
        command(*self.inside(name, "ip", "link", "set", "eth0", "up"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove cables, namespaces and switch, as far as they exist."""
        for name in self.places:
            with contextlib.suppress(OperationFailedError):
                command("ip", "link", "del", self.cable(name))
            with contextlib.suppress(OperationFailedError):
                command("ip", "netns", "del", self.space(name))
        with contextlib.suppress(OperationFailedError):
            command("ip", "link", "del", self.bridge)

    def plug(self, name: str, state: str) -> None:
        """Set a node's cable to "up" or "down"."""
        command("ip", "link", "set", self.cable(name), state)

    def allow(self, name: str, isolated: str) -> None:
        """Set whether a node's port is isolated ("on" or "off"); isolated ports cannot reach each other."""
        command("bridge", "link", "set", "dev", self.cable(name), "isolated", isolated)

    def whole(self) -> None:
        """End all faults of cables and ports."""
        for name in self.places:
            self.plug(name, "up")
            self.allow(name, "off")


class SpacedCluster(LocalCluster):
    """A local cluster whose nodes are in namespaces; `heal` repairs the switch and its cables."""

    def __init__(self, switch: Switch, **options: Any) -> None:
        super().__init__(len(switch.places), **options)
        self.switch = switch

    def security_of(self, node: str) -> SecuritySettings:
        """The settings of security of a node: its own network has nobody else."""
        return super().security_of(node) if self.secure else SecuritySettings(insecure=True)

    def place(self) -> None:
        """Choose the address of each node in its own namespace."""
        self.addresses = {name: f"{address}:{PORT}" for name, address in self.switch.places.items()}
        self.real_addresses = dict(self.addresses)

    def place_at(self, name: str) -> None:
        """Choose the address of a node that is new, in a namespace of its own, or the next port of one that moves."""
        if name in self.addresses:
            host, _, port = self.addresses[name].rpartition(":")
            self.addresses[name] = f"{host}:{int(port) + 2}"  # the one between is that of its events
        else:
            self.switch.add(name)
            self.addresses[name] = f"{self.switch.places[name]}:{PORT}"
        self.real_addresses[name] = self.addresses[name]

    def make(self, name: str) -> NodeProcess | NodeThread:
        """Make a node that starts in its namespace."""
        node = super().make(name)
        assert isinstance(node, NodeProcess), "threads share the namespace of their process"
        node.before = self.switch.inside(name)
        return node

    def heal(self) -> None:
        """End all faults of cables and ports."""
        self.switch.whole()


def hold(switch: Switch, dice: random.Random) -> None:
    """Let a fault last a while, and end it."""
    time.sleep(dice.uniform(0.5, 5.0))
    switch.whole()


def link_down(switch: Switch, names: list[str], dice: random.Random) -> None:
    """Set the cables of a minority down; not even clients reach these nodes."""
    for name in names:
        switch.plug(name, "down")
    hold(switch, dice)


def link_parted(switch: Switch, names: list[str], dice: random.Random) -> None:
    """Separate some nodes, mostly all, from each other; all other nodes, and clients, reach every node."""
    for name in names if dice.random() < 0.5 else switch.places:
        switch.allow(name, "on")
    hold(switch, dice)


Link = Callable[[Switch, list[str], random.Random], None]
LINKS: Final[dict[str, Link]] = {"link-down": link_down, "link-parted": link_parted}


@cache
def no_namespaces() -> str:
    """Why this machine has no namespaces; empty if it has."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [name for name in ("ip", "bridge") if shutil.which(name) is None]:
        return f"{', '.join(lacking)} is not installed (Debian: apt-get install iproute2)"
    if not Path("/proc/self/ns/net").exists():
        return "this kernel has no network namespaces"
    try:
        with Switch(["n1", "n2"]) as switch:
            switch.allow("n1", "on")
            switch.whole()
            command(*switch.inside("n1", sys.executable, "-c", REACH, switch.places["n2"]))
            command(sys.executable, "-c", REACH, switch.places["n1"])
    except OperationFailedError as error:
        return str(error)
    return ""
