"""Raft consensus as an event-driven actor system: its public names, each imported at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from forge_consensus.version import __version__

if TYPE_CHECKING:
    from forge_consensus.client.aio import AsyncClient
    from forge_consensus.client.compare import Compare
    from forge_consensus.client.key_records import KeyChange, KeyEntry
    from forge_consensus.client.leases import Lease
    from forge_consensus.client.members import ClusterMembers, MembersPlan
    from forge_consensus.client.sync import Client
    from forge_consensus.config.changes import ReloadReport
    from forge_consensus.config.client import ClientSettings
    from forge_consensus.config.loading import LoadedConfig, load_config
    from forge_consensus.config.raft import RaftSettings
    from forge_consensus.config.storage import StorageSettings
    from forge_consensus.errors import (
        AlreadyStartedError,
        AuthenticationFailedError,
        BusyError,
        ClusterNotFoundError,
        CommandError,
        CommandTooLargeError,
        CompactedError,
        CompactionFailedError,
        ConnectionFailedError,
        ConnectionTimeoutError,
        ConsensusError,
        ConsensusTimeoutError,
        CorruptionError,
        DiscoveryUnavailableError,
        ElectionTimeoutError,
        FailoverFailedError,
        FolderLockedError,
        IdentityError,
        InsufficientPeersError,
        InvalidConfigError,
        InvalidPeerError,
        InvalidTermError,
        LogInconsistentError,
        NoAvailablePeersError,
        NodeNotFoundError,
        NoLeaderError,
        NoQuorumError,
        NotLeaderError,
        NotStartedError,
        OperationFailedError,
        OutcomeUnknownError,
        PeerExistsError,
        PeerNotFoundError,
        PoolExhaustedError,
        ProtocolError,
        RateLimitExceededError,
        ReplicationFailedError,
        SessionExpiredError,
        SnapshotFailedError,
        StaleReadError,
        StaleTermError,
        StorageError,
        StorageFullError,
        StorageUnavailableError,
        TransportUnavailableError,
        UnavailableError,
        WrongEventLoopError,
        error_from_code,
        is_fatal,
        is_retryable,
    )
    from forge_consensus.events.bus import EventBus
    from forge_consensus.events.types import ConsensusEvent
    from forge_consensus.extension import ConsensusExtension
    from forge_consensus.feed.event_feed import EventFeed, Gap
    from forge_consensus.process.log import disable_logging, enable_logging
    from forge_consensus.service.blocking import BlockingCallError
    from forge_consensus.service.consensus import ConsensusService
    from forge_consensus.service.leadership import LeadershipChecker, Standing
    from forge_consensus.storage.ledger.changes import Action, Change
    from forge_consensus.storage.machines.kv import KeyValueMachine
    from forge_consensus.storage.machines.machine import Command, Entry, StateMachine

__all__ = [
    "Action",
    "AlreadyStartedError",
    "AsyncClient",
    "AuthenticationFailedError",
    "BlockingCallError",
    "BusyError",
    "Change",
    "Client",
    "ClientSettings",
    "ClusterMembers",
    "ClusterNotFoundError",
    "Command",
    "CommandError",
    "CommandTooLargeError",
    "CompactedError",
    "CompactionFailedError",
    "Compare",
    "ConnectionFailedError",
    "ConnectionTimeoutError",
    "ConsensusError",
    "ConsensusEvent",
    "ConsensusExtension",
    "ConsensusService",
    "ConsensusTimeoutError",
    "CorruptionError",
    "DiscoveryUnavailableError",
    "ElectionTimeoutError",
    "Entry",
    "EventBus",
    "EventFeed",
    "FailoverFailedError",
    "FolderLockedError",
    "Gap",
    "IdentityError",
    "InsufficientPeersError",
    "InvalidConfigError",
    "InvalidPeerError",
    "InvalidTermError",
    "KeyChange",
    "KeyEntry",
    "KeyValueMachine",
    "LeadershipChecker",
    "Lease",
    "LoadedConfig",
    "LogInconsistentError",
    "MembersPlan",
    "NoAvailablePeersError",
    "NoLeaderError",
    "NoQuorumError",
    "NodeNotFoundError",
    "NotLeaderError",
    "NotStartedError",
    "OperationFailedError",
    "OutcomeUnknownError",
    "PeerExistsError",
    "PeerNotFoundError",
    "PoolExhaustedError",
    "ProtocolError",
    "RaftSettings",
    "RateLimitExceededError",
    "ReloadReport",
    "ReplicationFailedError",
    "SessionExpiredError",
    "SnapshotFailedError",
    "StaleReadError",
    "StaleTermError",
    "Standing",
    "StateMachine",
    "StorageError",
    "StorageFullError",
    "StorageSettings",
    "StorageUnavailableError",
    "TransportUnavailableError",
    "UnavailableError",
    "WrongEventLoopError",
    "__version__",
    "disable_logging",
    "enable_logging",
    "error_from_code",
    "is_fatal",
    "is_retryable",
    "load_config",
]

HOMES = {
    "Action": "forge_consensus.storage.ledger.changes",
    "AsyncClient": "forge_consensus.client.aio",
    "BlockingCallError": "forge_consensus.service.blocking",
    "Change": "forge_consensus.storage.ledger.changes",
    "Client": "forge_consensus.client.sync",
    "ClientSettings": "forge_consensus.config.client",
    "ClusterMembers": "forge_consensus.client.members",
    "Command": "forge_consensus.storage.machines.machine",
    "Compare": "forge_consensus.client.compare",
    "ConsensusEvent": "forge_consensus.events.types",
    "ConsensusExtension": "forge_consensus.extension",
    "ConsensusService": "forge_consensus.service.consensus",
    "Entry": "forge_consensus.storage.machines.machine",
    "EventBus": "forge_consensus.events.bus",
    "EventFeed": "forge_consensus.feed.event_feed",
    "Gap": "forge_consensus.feed.event_feed",
    "KeyChange": "forge_consensus.client.key_records",
    "KeyEntry": "forge_consensus.client.key_records",
    "KeyValueMachine": "forge_consensus.storage.machines.kv",
    "LeadershipChecker": "forge_consensus.service.leadership",
    "Lease": "forge_consensus.client.leases",
    "LoadedConfig": "forge_consensus.config.loading",
    "MembersPlan": "forge_consensus.client.members",
    "RaftSettings": "forge_consensus.config.raft",
    "ReloadReport": "forge_consensus.config.changes",
    "Standing": "forge_consensus.service.leadership",
    "StateMachine": "forge_consensus.storage.machines.machine",
    "StorageSettings": "forge_consensus.config.storage",
    "disable_logging": "forge_consensus.process.log",
    "enable_logging": "forge_consensus.process.log",
    "load_config": "forge_consensus.config.loading",
}
"""The home of each public name that does not live in `forge_consensus.errors`."""


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562), so that a program imports only the parts that it uses."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = HOMES.get(name, "forge_consensus.errors")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
