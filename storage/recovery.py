"""Recovery: makes the folder of one survivor a cluster of its own, after the majority of its members was lost for good.

The command `forge-consensus recover` is this module; a program can call `recover_folder` itself. The node is stopped.

What makes it safe against the rest of the old cluster is the new cluster's id: no node of the old one, and no session
of a client, is let in under the old id, so none of them can vote, acknowledge or repeat a command here. All that is
written is one transaction, so a crash leaves the folder as it was or recovered.

What it gives up: every entry in this log counts as committed from now on, as with every tool of this kind, because
nobody can tell which were; and what the lost nodes acknowledged beyond its end is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import msgpack

from forge_consensus.config.cluster_id import made_anew
from forge_consensus.config.node import checked_peers
from forge_consensus.errors import RecoveryRefusedError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.ledger.applying import APPLIED, decode_point, point_of
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import CONFIGURATIONS, ConfigurationHistory
from forge_consensus.storage.ledger.identity import BOOTS, EXPELLED, FORMAT, IDENTITY, INITIAL, JOINS, TIPS
from forge_consensus.storage.ledger.ledger import BASE, HARD, NO_BASE
from forge_consensus.storage.ledger.log import TABLE as LOG
from forge_consensus.storage.ledger.record import UNTIMED, Kind, data_of, encode, encode_untimed, key_of, parse
from forge_consensus.storage.ledger.tips import Tips
from forge_consensus.storage.ledger.transaction import META, get_meta, put_meta
from forge_consensus.storage.snapshots.file import SnapshotInfo, newest_valid, read_header
from forge_consensus.storage.stopped import StoppedFolder
from forge_consensus.storage.verify import VerifyReport, verify_snapshots, verify_tables

FORGOTTEN: Final = (BOOTS, EXPELLED, TIPS, JOINS)
"""What the folder knows of the members of the old cluster; the new one has none of them."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A member of the old cluster whose disk is known to have held entries that this folder lacks."""

    node: str
    last_index: int
    lacking: int
    """How many committed or acknowledged entries this folder lacks, at least."""


@dataclass(slots=True)
class RecoveryPlan:
    """What a recovery makes of a folder, and what it gives up."""

    data: str
    node_id: str
    address: str
    """The address of the node as the only member of the new cluster."""
    cluster_before: str
    cluster: str
    """The id of the new cluster."""
    members_before: str
    """The members of the old cluster, as text."""
    last_index: int
    last_term: int
    """The last entry on this disk. What was acknowledged beyond it is lost."""
    commit_index: int
    """Up to which entry this folder knows that a majority had them."""
    uncommitted: int
    """How many entries at the end of the log it does not know to be committed; from now on they count as committed."""
    ahead: list[Ahead] = field(default_factory=list)
    """The members that are known to have had more."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds that a recovery starts from."""

    identity: list[Any]
    term: int
    commit_index: int
    last_index: int
    last_term: int
    configuration: Configuration
    configurations: list[int]
    """The indexes of the configurations in the log."""
    time_ms: int
    elapsed_ms: int
    tips: Tips


def recover_folder(
    data: Path,
    confirm: Callable[[RecoveryPlan], bool],
    *,
    new_text: Callable[[], str],
    address: str = "",
    key: EncryptionKey | None = None,
) -> RecoveryPlan | None:
    """Make the node of a folder the only member of a new cluster that goes on with its data.

    Args:
        data: the folder; its node is stopped.
        confirm: is given the plan, and returns whether to carry it out; until then nothing is changed.
        new_text: returns a new random text of at least 12 hexadecimal digits each time, for the new cluster's id and
            for the new incarnation of the folder.
        address: where the node is reached from now on, HOST:PORT; empty for the address that it had.
        key: the node's key, if its folder is encrypted.

    Returns the plan that was carried out, None if it was not confirmed. Raises `RecoveryRefusedError` if there is
    nothing to recover, `InvalidConfigError` for an address that cannot be, `CorruptionError` for a damaged folder,
    `FolderNotFoundError` and `FolderLockedError` as every command for a stopped node does, and `StorageError`.

    """
    with StoppedFolder(data, key) as folder:
        report = VerifyReport(str(data))
        verify_tables(folder, report)
        verify_snapshots(folder, report)
        report.raise_for_faults()
        with folder.reading() as tables:
            found = find(tables, folder.snapshots_path)
            overtaken = newer_file(tables, folder.snapshots_path, found)
        check(found, data)
        if overtaken is not None:
            raise RecoveryRefusedError(
                f"the node {found.identity[1]} received a snapshot of entry {overtaken.index} and ended before it took "
                f"it over, while its log ends with entry {found.last_index}: start the node once, as it was, and stop "
                "it when it serves; then recover the folder"
            )
        token, incarnation = new_text()[:12], new_text()
        plan = plan_of(data, found, token, address)
        if not confirm(plan):
            return None
        folder.begin_changes()
        batch = Batch()
        stage(batch, found, plan, token, incarnation)
        with folder.writing() as tables:
            tables.commit(batch)
        return plan


def find(tables: TablesView, snapshots: Path) -> Found:
    """Read what a recovery starts from; the folder was verified."""
    identity = msgpack.unpackb(get_meta(tables, IDENTITY) or b"\x90")
    base_index, base_term, base = msgpack.unpackb(get_meta(tables, BASE) or NO_BASE)
    term, _, commit_index, last_index = msgpack.unpackb(get_meta(tables, HARD) or b"\x94\x00\xa0\x00\x00")
    last_index = max(last_index, base_index)  # right after the switch to a snapshot it is not written yet
    indexes = get_meta(tables, CONFIGURATIONS)
    history = ConfigurationHistory()
    history.load(base_index, base, indexes, lambda at: data_of(tables.get(LOG, key_of(at)) or b""))
    tips = Tips()
    tips.load(msgpack.unpackb(get_meta(tables, TIPS) or b"\x80"))
    last_term, time_ms, elapsed_ms = base_term, 0, UNTIMED
    if last_index > base_index:
        last = parse(last_index, tables.get(LOG, key_of(last_index)) or b"")
        last_term, time_ms, elapsed_ms = last.term, last.time_ms, last.elapsed_ms
    else:
        time_ms, elapsed_ms = times_of_state(tables, snapshots)
    return Found(
        identity=identity,
        term=term,
        commit_index=max(commit_index, base_index),
        last_index=last_index,
        last_term=last_term,
        configuration=history.current,
        configurations=[index for index, _ in history.rows],
        time_ms=time_ms,
        elapsed_ms=elapsed_ms,
        tips=tips,
    )


def newer_file(tables: TablesView, snapshots: Path, found: Found) -> SnapshotInfo | None:
    """The file that a machine of the user's takes over at the next start, because it is newer than the log.

    It would take the place of what a recovery writes behind the log.
    """
    if get_meta(tables, APPLIED) is not None:
        return None  # the machine is kept in the ledger, and such a file is never used
    newest = newest_valid(snapshots, lambda index, term: term <= found.term, keys=tables.files).info
    return newest if newest is not None and newest.index > found.last_index else None


def times_of_state(tables: TablesView, snapshots: Path) -> tuple[int, int]:
    """The wall time and the elapsed time of the state on disk, for a log of which no entry is left."""
    stored = get_meta(tables, APPLIED)
    if stored is not None:
        _, point = decode_point(stored)
        return point.time_ms, point.elapsed_ms
    newest = newest_valid(snapshots, keys=tables.files).info
    if newest is None:
        return 0, UNTIMED
    point, _ = point_of(read_header(newest.path, tables.files))
    return point.time_ms, point.elapsed_ms


def check(found: Found, data: Path) -> None:
    """Raise `RecoveryRefusedError` unless the folder can be recovered, and needs it."""
    if found.identity[0] != FORMAT:
        raise RecoveryRefusedError(
            f"the folder {data} is of format {found.identity[0]}, and this program recovers format {FORMAT}: start its "
            "node once with this program, which brings it up to date"
        )
    node, configuration = found.identity[1], found.configuration
    if not configuration.members:
        raise RecoveryRefusedError(
            f"node {node} was started to join a cluster and has received nothing of it: there is nothing to recover"
        )
    if configuration.voters == {node}:
        raise RecoveryRefusedError(
            f"node {node} is the only voter of its cluster, and needs no other node: start it as it is"
        )


def plan_of(data: Path, found: Found, token: str, address: str) -> RecoveryPlan:
    """What a recovery makes of what was found. Raises `InvalidConfigError`, `RecoveryRefusedError`."""
    _, node, cluster = found.identity[:3]
    address = checked_peers({node: address})[node] if address else found.configuration.addresses.get(node, "")
    if not address:
        raise RecoveryRefusedError(f"node {node} is no member of its cluster any more: say with --address where it is")
    ahead = []
    for member, known in sorted(found.tips.members.items()):
        least = known.verified if known.verified_term >= found.last_term else known.committed
        if member != node and max(least, known.committed) > found.last_index:
            most = max(least, known.committed)
            ahead.append(Ahead(member, most, most - found.last_index))
    return RecoveryPlan(
        data=str(data),
        node_id=node,
        address=address,
        cluster_before=cluster,
        cluster=made_anew(cluster, token),
        members_before=found.configuration.text,
        last_index=found.last_index,
        last_term=found.last_term,
        commit_index=found.commit_index,
        uncommitted=found.last_index - found.commit_index,
        ahead=ahead,
    )


def stage(batch: Batch, found: Found, plan: RecoveryPlan, token: str, incarnation: str) -> None:
    """Stage the recovery: a configuration of one voter as the last entry, all entries committed, and a new identity.

    The entry is of a term of its own, so that it is another one than whatever the old cluster wrote at its index.
    """
    configuration = found.configuration.begun_anew({plan.node_id: plan.address}, token)
    data, index, term = configuration.encode(), found.last_index + 1, found.term + 1
    if found.elapsed_ms == UNTIMED:  # as the entries before it, whose one time stands for both
        record = encode_untimed(index, term, Kind.CONFIGURATION, found.time_ms, data)
    else:
        record = encode(index, term, Kind.CONFIGURATION, found.time_ms, data=data, elapsed_ms=found.elapsed_ms)
    batch.put(LOG, key_of(index), record)
    put_meta(batch, CONFIGURATIONS, cast("bytes", msgpack.packb([*found.configurations, index])))
    put_meta(batch, HARD, cast("bytes", msgpack.packb((term, "", index, index))))
    put_meta(batch, INITIAL, data)
    _, node, _, _, boot, *rest = found.identity
    put_meta(batch, IDENTITY, cast("bytes", msgpack.packb((FORMAT, node, plan.cluster, incarnation, boot, *rest))))
    for key in FORGOTTEN:
        batch.delete(META, key)
