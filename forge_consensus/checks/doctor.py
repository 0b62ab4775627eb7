"""All checks together: of a configuration, the host, a node's folder and its addresses, and of a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forge_consensus.actors.transport.endpoint import events_endpoint
from forge_consensus.checks.cluster import cluster_findings
from forge_consensus.checks.data_folder import Lock, disk_findings, folder_findings, lock_of
from forge_consensus.checks.finding import Finding, ok, problem
from forge_consensus.checks.host import PEERS_USUAL, host_findings
from forge_consensus.checks.listening import look_at
from forge_consensus.checks.protection import When, client_findings, node_findings
from forge_consensus.checks.secret_files import KEY_DAYS
from forge_consensus.config.address import takes_free_port
from forge_consensus.config.client_file import ClientFile
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings

DISK_SECONDS: Final = 0.5
"""How long commits are measured."""
PORTS: Final = "addresses"


@dataclass(frozen=True, slots=True)
class Patient:
    """What is to be looked at, besides the host."""

    config: LoadedConfig | None = None
    """What the configuration of a node says; None without one."""
    folder: Path | None = None
    """The node's folder; None if it is not known."""
    endpoints: tuple[str, ...] = ()
    """Where the nodes of a cluster answer; empty if none is to be asked."""
    timeout: float = 5.0
    """How many seconds the cluster may take to answer."""
    client: ClientFile | None = None
    """What a client's file says; None without one."""
    client_path: Path = Path()
    """Where that file is."""
    key_days: float = KEY_DAYS
    """From how many days on a key or a token is old."""

    @property
    def settings(self) -> NodeSettings | None:
        """The settings of the node; None without a configuration."""
        return None if self.config is None else self.config.node


def examine(patient: Patient) -> list[Finding]:
    """Carry out every check for which enough is known."""
    settings, folder = patient.settings, patient.folder
    raft = settings.raft if settings else RaftSettings()
    storage = settings.storage if settings else StorageSettings()
    peers = max(0, len(settings.peers) - 1) if settings and settings.peers else PEERS_USUAL
    found = host_findings(peers)
    if folder is not None:
        found += folder_findings(folder, storage.reserve_bytes)
        found += disk_findings(folder, DISK_SECONDS, raft.election_timeout_min)
    if settings is not None:
        found += address_findings(addresses_of(settings), held(folder))
    when = When(time.time(), patient.key_days)
    if patient.config is not None:
        found += node_findings(patient.config, when)
    if patient.client is not None:
        found += client_findings(patient.client, patient.client_path, when)
    if patient.endpoints:
        found += cluster_findings(patient.endpoints, patient.timeout, settings, patient.client)
    return found


def not_examined(patient: Patient) -> list[str]:
    """Return what could not be checked, and the option that lets it be."""
    left = []
    if patient.settings is None:
        left.append("a configuration and its addresses (-c FILE)")
    if patient.folder is None:
        left.append("a node's folder and its disk (--data DIR)")
    if not patient.endpoints:
        left.append("a cluster (--endpoints HOST:PORT,... or --config FILE of a client)")
    return left


def addresses_of(settings: NodeSettings) -> list[tuple[str, str]]:
    """Return the settings with the addresses at which a node will listen, but those that stand for any free port."""
    events = settings.events_bind or events_endpoint(settings.bind)
    named = [("bind", settings.bind), ("events_bind", events), ("metrics", settings.metrics)]
    return [(name, address) for name, address in named if address is not None and not takes_free_port(address)]


def held(folder: Path | None) -> Lock:
    """Return whether a node runs on the folder."""
    try:
        return lock_of(folder) if folder is not None else Lock(False)
    except OSError:  # the check of the folder tells
        return Lock(False)


def address_findings(addresses: Iterable[tuple[str, str]], lock: Lock) -> list[Finding]:
    """Check whether a node can listen at its addresses, or does so already."""
    found, free = [], []
    for name, address in addresses:
        seen = look_at(address)
        if seen.is_free:
            free.append(address)
        elif seen.is_free is None:
            found.append(ok(PORTS, f"{name} {address}: the host is a name, so only a start shows whether it is free"))
        elif seen.in_use and lock.is_held and (seen.holder is None or lock.holder in (None, seen.holder)):
            found.append(ok(PORTS, f"{name} {address}: the node of this folder listens there"))
        elif seen.in_use:
            who = seen.holder.text if seen.holder else "a process that this user may not see"
            found.append(problem(PORTS, f"{name} {address} is taken by {who}", "stop it, or give the node another one"))
        else:
            found.append(problem(PORTS, f"{name} {address}: {seen.why}", "choose an address that this host has"))
    return [*found, *([ok(PORTS, f"{', '.join(free)} can be taken")] if free else [])]
