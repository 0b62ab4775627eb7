"""Opening: a folder becomes a ledger, new or as a crash left it, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError
from forge_consensus.storage.applying import Applier, point_of
from forge_consensus.storage.configuration import CONFIGURATIONS, Configuration
from forge_consensus.storage.identity import Identity
from forge_consensus.storage.ledger import EVENTS_MARK, HARD, Ledger
from forge_consensus.storage.limits import Limits
from forge_consensus.storage.machine import StateMachine
from forge_consensus.storage.record import Kind, encode, key_of
from forge_consensus.storage.snapshot_file import newest, read_chunks, read_header
from forge_consensus.storage.snapshots import Export, Snapshots, drop_half_installed
from forge_consensus.storage.tables import Batch, Tables
from forge_consensus.storage.transaction import META

INITIAL = b"initial"


@dataclass(frozen=True, slots=True)
class Founding:
    """Who this node is, and the members of the cluster if this is its first start."""

    node_id: str
    cluster_id: str
    configuration: Configuration | None
    new_incarnation: Callable[[], str]


@dataclass(slots=True)
class Opened:
    """A ledger that is ready, the snapshots beside it, and the configuration that the node was born with."""

    ledger: Ledger
    snapshots: Snapshots
    initial: Configuration
    is_new: bool


def open_ledger(
    tables: Tables,
    snapshots_folder: Path,
    founding: Founding,
    machine: StateMachine,
    limits: Limits,
    export: Export,
) -> Opened:
    """Open the ledger in these tables; the next boot is durable when this returns (one flush).

    The list of members is read once, at the first start, and becomes the first log entry. Raises `IdentityError`
    for another node's folder, `InvalidConfigError` for a first start without a fitting list of members,
    `CorruptionError` for damage, `StorageError`.
    """
    batch = Batch()
    identity = Identity(tables, founding.node_id, founding.cluster_id)
    is_new = identity.open(founding.new_incarnation, batch)
    if is_new:
        found(batch, founding)
    else:
        applied = tables.get(META, b"applied")
        drop_half_installed(batch, msgpack.unpackb(applied)[0] if applied else 0)
    tables.commit(batch)
    initial = tables.get(META, INITIAL)
    if initial is None:
        raise CorruptionError("the store does not hold the configuration that the cluster began with")
    applier = Applier(tables, machine)
    ledger = Ledger(tables, identity, applier, limits)
    applier.load()
    ledger.reload()
    ledger.sequence = ledger.sequence_mark = int.from_bytes(tables.get(META, EVENTS_MARK) or b"")
    snapshots = Snapshots(ledger, snapshots_folder, export)
    if applier.kept is None:
        restore_user_machine(ledger, snapshots)
    if ledger.applied < ledger.log.base_index:
        raise CorruptionError(
            f"the log begins behind entry {ledger.log.base_index} and the newest usable state is that of entry "
            f"{ledger.applied}: move the folder away and bring the node back as a new member of the cluster"
        )
    newest_first = ledger.log.last - limits.verify_entries + 1
    ledger.log.verify(max(ledger.log.base_index + 1, min(newest_first, ledger.applied + 1)))
    return Opened(ledger, snapshots, Configuration.decode(initial), is_new)


def found(batch: Batch, founding: Founding) -> None:
    """Stage the first log entry: the initial configuration, the same bytes on every node, committed by birth."""
    configuration = founding.configuration
    if configuration is None:
        raise InvalidConfigError(
            "the folder is new and no peers were named: name all members of the cluster, this node among them"
        )
    if founding.node_id not in configuration.voters:
        raise InvalidConfigError(
            f"node {founding.node_id!r} is not among the peers {configuration.text}: the list names every member, "
            "this node too"
        )
    data = configuration.encode()
    batch.put(META, INITIAL, data)
    batch.append("log", [(key_of(1), encode(1, 0, Kind.CONFIGURATION, 0, data=data))])
    batch.put(META, CONFIGURATIONS, cast(bytes, msgpack.packb([1])))
    batch.put(META, HARD, cast(bytes, msgpack.packb((0, "", 1))))


def restore_user_machine(ledger: Ledger, snapshots: Snapshots) -> None:
    """Bring a machine that does not live in the ledger to its newest snapshot.

    If the crash came between a received snapshot's file and the switch to it, the switch is made now.
    """
    info = newest(snapshots.folder)
    if info is None:
        return
    point, sessions = point_of(read_header(info.path))
    cast(StateMachine, ledger.applier.machine).restore(read_chunks(info.path))
    ledger.applier.restored(point, sessions)
    if ledger.log.term_at(point.index) != point.term and point.index > ledger.log.base_index:
        ledger.begin(0.0)
        installation = snapshots.begin_install(info)
        snapshots.finish_install(installation)
        ledger.commit()
    ledger.commit_index = max(ledger.commit_index, point.index)


