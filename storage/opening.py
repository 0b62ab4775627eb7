"""Opening: makes a ledger from a folder that is new or as a crash left it, or raises the reason why that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import CorruptionError, IdentityError, InvalidConfigError, StorageError
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.applying import APPLIED, Applier
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import CONFIGURATIONS
from forge_consensus.storage.ledger.identity import INITIAL, JOINS, MACHINE, Identity
from forge_consensus.storage.ledger.ledger import BASE, HARD, Ledger
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.storage.ledger.log import TABLE as LOG
from forge_consensus.storage.ledger.record import Kind, encode_untimed, key_of
from forge_consensus.storage.ledger.skips import ENDED_AT, Careful, put_skips, stored_suspect, told_by
from forge_consensus.storage.ledger.transaction import get_meta, put_meta
from forge_consensus.storage.machines.machine import ApplyFaultError, Machine
from forge_consensus.storage.machines.naming import MachineName, name_of
from forge_consensus.storage.snapshots.file import list_snapshots
from forge_consensus.storage.snapshots.store import Export, Snapshots
from forge_consensus.storage.takeover import take_over

VERIFY_BYTES_MAX = 128 << 20
"""About how many bytes of the newest entries are verified at a start, however large they are."""


@dataclass(frozen=True, slots=True)
class Founding:
    """Who this node is, and with which members its cluster begins."""

    node_id: str
    cluster_id: str
    configuration: Configuration | None
    """The members of a new cluster; needed at the first start only, and ignored later."""
    new_incarnation: Callable[[], str]
    """Returns a new random text each time: the incarnation of a new folder, and the draw of each boot."""
    amends: bool = False
    """Whether `configuration` was named on purpose, so that it takes the place of another one that the folder was
    founded with, if nothing but that is in the folder."""
    level: int = LEVEL
    """The feature level of the program; a value of its own lets a test run nodes of several."""
    joins: bool = False
    """Whether this node joins a cluster that exists: `configuration` is the one with which that cluster began. The log
    is empty until a leader sends it, which it does when this node was added to the members."""
    skipped: str = ""
    """For a node that joins: the entries that the cluster skips, see `forge_consensus.storage.ledger.skips.told`."""


@dataclass(slots=True)
class Opened:
    """A ledger that is ready, the snapshots beside it, the cluster's first configuration, and whether it is new."""

    ledger: Ledger
    snapshots: Snapshots
    initial: Configuration
    is_new: bool
    amended: Configuration | None = None
    """The configuration that the folder was founded with before, if another one took its place at this start."""


def open_ledger(
    tables: Tables,
    snapshots_folder: Path,
    founding: Founding,
    machine: Machine,
    settings: StorageSettings,
    export: Export,
) -> Opened:
    """Open the ledger in these tables. The next boot is durable when this returns, which takes one flush.

    `founding` names the members of a new cluster; they become the first log entry. `export` writes the snapshot of a
    machine that is kept in the ledger.

    Raises `IdentityError` for another node's folder, for one that lost its tables and for one on which another machine
    ran, `InvalidConfigError` for a first start without a fitting list of members, `CorruptionError` for damage,
    `UnsupportedVersionError` for a folder of a later version or a higher feature level; then nothing was changed.
    Raises `StorageError` if the store fails, `ApplyFaultError` if a user's machine does not take its own snapshot.
    """
    batch = Batch()
    identity = Identity(tables, founding.node_id, founding.cluster_id)
    is_new = identity.open(founding.new_incarnation, batch)
    if is_new:
        if list_snapshots(snapshots_folder):  # checked before the commit, after which the folder is no longer new
            raise IdentityError(
                f"the folder is new and {snapshots_folder} holds snapshots of an earlier node: move them away first"
            )
        stage_first_start(batch, founding)
        stage_machine(tables, batch, machine)
        tables.commit(batch)
    take_over(tables)
    stage_machine(tables, batch, machine)
    initial = stored_initial(tables)
    amended = None
    if founding.amends and founding.configuration not in (None, initial) and is_untouched(tables):
        stage_first_start(batch, founding)
        tables.commit(batch)
        batch, amended, initial = Batch(), initial, stored_initial(tables)
    applier = Applier(tables, machine)
    applier.load()
    ledger = Ledger(tables, identity, applier, settings, founding.level)
    ledger.reload()
    ledger.numbers.load()
    check_founded_machine(ledger.configuration, name_of(machine))
    snapshots = Snapshots(ledger, snapshots_folder, export)
    if applier.ledger_machine is None:
        restore_user_machine(ledger, snapshots)
    check_whole(ledger, snapshots)
    if not is_new:
        again = ledger.log.last if applier.index < ledger.log.last else 0
        ledger.careful = Careful(again, stored_suspect(tables), stored_suspect(tables, ENDED_AT))
        ledger.careful.open(batch, applier.index, ledger.commit_index)
    if batch and not is_new:
        tables.commit(batch)
    return Opened(ledger, snapshots, initial, is_new, amended)


def stored_initial(tables: Tables) -> Configuration:
    """The configuration that the folder was founded with.

    Raises `CorruptionError`, `UnsupportedVersionError`.
    """
    stored = get_meta(tables, INITIAL)
    if stored is None:
        raise CorruptionError(f"the store does not hold the configuration that the cluster began with. {REJOIN}")
    return Configuration.decode(stored)


def is_untouched(tables: Tables) -> bool:
    """Whether nothing but a founding list of members is in the folder, so that the list can still be another one.

    The node is in term 0, so it never voted, followed a leader or acknowledged an entry: nobody rests on its log.
    """
    stored = get_meta(tables, HARD)
    return stored is not None and msgpack.unpackb(stored) == [0, "", 1, 1] and get_meta(tables, BASE) is None


def stage_machine(tables: Tables, batch: Batch, machine: Machine) -> None:
    """Stage the machine's name and version; a folder that is older than the names takes them.

    Raises `IdentityError` if another machine, or a later version of it, ran on the folder.
    """
    given = name_of(machine)
    stored = get_meta(tables, MACHINE)
    held = MachineName(*msgpack.unpackb(stored)) if stored else given
    if held.name != given.name:
        raise IdentityError(
            f"the folder holds the state of the machine {held.text} and the node was given {given.text}: start it with "
            f"the machine that it had. If it is the same one under another name, give its class the attribute "
            f"machine_name = {held.name!r}"
        )
    if held.version > given.version:
        raise IdentityError(
            f"version {held.version} of the machine {held.name!r} ran on this folder and the node was given version "
            f"{given.version}, which may not know the commands in its log: start it with version {held.version} or a "
            "later one"
        )
    if stored is None or held != given:
        put_meta(batch, MACHINE, cast("bytes", msgpack.packb(given)))


def check_founded_machine(configuration: Configuration, given: MachineName) -> None:
    """Raise `IdentityError` unless the machine is the one that the cluster was founded with.

    A configuration without a name allows any: it is older than the names, or the cluster runs the built-in machine.
    """
    if configuration.machine and configuration.machine != given.name:
        raise IdentityError(
            f"the cluster was founded with the state machine {configuration.machine!r} and the node was given "
            f"{given.text}: start it with the machine of the cluster"
        )


def check_whole(ledger: Ledger, snapshots: Snapshots) -> None:
    """Raise `CorruptionError` unless state and log fit together and the entries that will be needed are whole.

    Those are the entries to be replayed and the newest ones; the others are checked when they are read.
    """
    applier, log = ledger.applier, ledger.log
    if applier.index < log.base_index:
        found = f"the log begins behind entry {log.base_index}, and the newest usable state is of {applier.index}"
        raise CorruptionError(". ".join([f"{found}. {REJOIN}", *map(str, snapshots.damaged)]))
    if applier.index > log.last or log.term_at(applier.index) != applier.term:
        raise CorruptionError(f"the state is of entry {applier.index} of term {applier.term}, not in the log. {REJOIN}")
    if log.last_term > ledger.term:
        raise CorruptionError(f"the log has term {log.last_term}, and the node knows {ledger.term} only. {REJOIN}")
    verified = min(ledger.settings.verify_entries, VERIFY_BYTES_MAX // max(1, snapshots.compaction.entry_bytes()))
    newest_first = log.last - verified + 1
    log.verify(max(log.base_index + 1, min(newest_first, applier.index + 1)))


def stage_first_start(batch: Batch, founding: Founding) -> None:
    """Stage a new folder's records: the first entry is the list of members, with the same bytes on every node.

    So it is committed from the start. A node that joins begins with an empty log and without members, but with what all
    members must agree on, such as the lease. Raises `InvalidConfigError` unless the node is among the named members.
    """
    configuration = founding.configuration
    if configuration is None:
        raise InvalidConfigError(
            "the folder is new and no peers were named: name all members of the cluster, this node among them"
        )
    data = configuration.encode()
    if founding.joins:
        put_meta(batch, INITIAL, data)
        put_meta(batch, JOINS, b"")
        put_skips(batch, told_by(founding.skipped))
        put_meta(batch, BASE, cast("bytes", msgpack.packb((0, 0, configuration.without_members.encode()))))
        put_meta(batch, HARD, cast("bytes", msgpack.packb((0, "", 0, 0))))
        return
    if founding.node_id not in configuration.nodes:
        raise InvalidConfigError(
            f"node {founding.node_id!r} is not among the peers {configuration.text}: the list names every member, "
            "this node too"
        )
    put_meta(batch, INITIAL, data)
    batch.put(LOG, key_of(1), encode_untimed(1, 0, Kind.CONFIGURATION, 0, data))
    put_meta(batch, CONFIGURATIONS, cast("bytes", msgpack.packb([1])))
    put_meta(batch, HARD, cast("bytes", msgpack.packb((0, "", 1, 1))))


def restore_user_machine(ledger: Ledger, snapshots: Snapshots) -> None:
    """Hand a user's machine its newest usable snapshot.

    If the process ended between receiving a snapshot and switching to it, the switch is made now. Raises
    `IdentityError` if the folder holds the state of a machine that is kept in the ledger, `ApplyFaultError` if the
    machine does not take the snapshot.
    """
    if get_meta(ledger.tables, APPLIED) is not None:
        raise IdentityError(
            "the folder holds the state of a machine that is kept in the ledger, and the node was given one of the "
            "user's own: start it with the machine that it had"
        )
    info = snapshots.newest
    if info is None:
        return
    installation = snapshots.begin_install(info)
    while snapshots.install_step(installation):
        pass
    snapshots.hand_over(installation)
    try:
        snapshots.install_whole(installation)
    except (ApplyFaultError, StorageError):
        raise
    except Exception as error:
        raise ApplyFaultError(info.index, f"restore() failed: {type(error).__name__}: {error}") from error
    point, log = installation.point, ledger.log
    if point.index > log.base_index and log.term_at(point.index) != point.term:
        ledger.begin(0.0)
        snapshots.finish_install(installation)
        ledger.commit()
        return
    snapshots.installing = None
    ledger.adopt_state(point, installation.sessions.sessions())
