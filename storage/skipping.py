"""Skipping: has one log entry, which ends every node that applies it, taken as a failed command on all nodes.

The command `forge-consensus log skip` is this module; a program can call `skip_entry` itself. All nodes are stopped.
Every check is made on all folders before anything is written. What it writes is idempotent, so a call that was
interrupted is made again; until then the nodes that skip and those that do not refuse each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from forge_consensus.errors import CorruptionError, FolderNotFoundError, SkipRefusedError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.folder_tables import open_tables
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.applying import APPLIED
from forge_consensus.storage.ledger.history import CONFIGURATIONS, ConfigurationHistory
from forge_consensus.storage.ledger.identity import FORMAT, IDENTITY
from forge_consensus.storage.ledger.ledger import BASE, NO_BASE
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import Kind, data_of, intact, key_of, kind_of
from forge_consensus.storage.ledger.skips import (
    ENDED_AT,
    SKIPS_MAX,
    SUSPECT,
    Skip,
    Skips,
    Suspect,
    put_skips,
    skip_of,
    stored_skips,
    suspect_of,
)
from forge_consensus.storage.ledger.transaction import META, get_meta
from forge_consensus.storage.snapshots.file import check_shape, list_snapshots
from forge_consensus.storage.stopped import NO_FOLDER, is_folder


@dataclass(slots=True)
class FolderOfNode:
    """What a stopped node's folder says of an entry."""

    path: Path
    tables: Tables
    node_id: str
    cluster_id: str
    members: frozenset[str]
    applied: int
    """Up to which entry the state on its disk goes."""
    entry: Skip | None
    """The entry as it is in its log, None if it is not there."""
    is_command: bool
    suspect: Suspect | None
    skips: Skips


@dataclass(slots=True)
class SkipReport:
    """What was recorded, or with `dry_run` would be."""

    index: int
    term: int = 0
    checksum: str = ""
    recorded: list[str] = field(default_factory=list)
    """The nodes whose folders record the skip with this call."""
    already: list[str] = field(default_factory=list)
    """The nodes whose folders had it."""
    elsewhere: list[str] = field(default_factory=list)
    """The members whose folders were not named: their folders must record it too before they can join the others."""
    why: str = ""
    """The error with which the entry ended a node, if that is known."""
    dry_run: bool = False


def skip_entry(
    index: int,
    folders: Sequence[Path],
    elsewhere: Collection[str] = (),
    entry: tuple[int, int] | None = None,
    *,
    dry_run: bool = False,
    key: EncryptionKey | None = None,
) -> SkipReport:
    """Record in every folder that the entry at `index` is taken as a failed command.

    Args:
        index: the index of the entry.
        folders: the folders of all members; their nodes are stopped.
        elsewhere: the ids of members whose folders are on other machines, where the same call is made, or are lost.
        entry: term and checksum of the entry as another call printed them. Without it, one of the folders must be of a
            node that the entry ended.
        dry_run: check everything and write nothing.
        key: the key of the nodes, if their folders are encrypted.

    Raises `SkipRefusedError`, with nothing written, unless it is safe; `FolderLockedError` if a node runs,
    `StorageError` if a path is no node's folder or cannot be read.

    """
    report = SkipReport(index, dry_run=dry_run, elsewhere=sorted(elsewhere))
    if len({path.resolve() for path in folders}) < len(folders):
        raise SkipRefusedError("name the folder of every member once")
    with ExitStack() as stack:
        nodes = [opened(path, index, stack, key) for path in folders]
        check_members(nodes, frozenset(elsewhere))
        skip = the_entry(index, nodes, entry)
        report.term, report.checksum = skip.term, f"{skip.checksum:08x}"
        report.why = next((node.suspect.why for node in nodes if node.suspect and node.suspect.why), "")
        fresh = [node for node in nodes if node.skips.get(index) != skip]
        for node in fresh:
            check_folder(node, skip)
        report.recorded = [node.node_id for node in fresh]
        report.already = [node.node_id for node in nodes if node not in fresh]
        for node in [] if dry_run else fresh:
            batch = Batch()
            put_skips(batch, {**node.skips, index: skip})
            batch.delete(META, SUSPECT)
            batch.delete(META, ENDED_AT)
            node.tables.commit(batch)
    return report


def opened(path: Path, index: int, stack: ExitStack, key: EncryptionKey | None) -> FolderOfNode:
    """Lock and read a folder until the stack is closed."""
    if not is_folder(path):
        raise FolderNotFoundError(NO_FOLDER.format(path))
    folder = stack.enter_context(Folder(path))
    tables = stack.enter_context(open_tables(folder, key))
    identity = msgpack.unpackb(get_meta(tables, IDENTITY) or b"\x90")
    if not identity or identity[0] != FORMAT:
        raise SkipRefusedError(f"the folder {path} is not of format {FORMAT}: start its node once with this program")
    base_index, _, base = msgpack.unpackb(get_meta(tables, BASE) or NO_BASE)
    history = ConfigurationHistory()
    history.load(base_index, base, get_meta(tables, CONFIGURATIONS), lambda at: data_of(record_of(tables, at) or b""))
    record = record_of(tables, index)
    return FolderOfNode(
        path=path,
        tables=tables,
        node_id=identity[1],
        cluster_id=identity[2],
        members=history.current.nodes,
        applied=max(base_index, applied_on_disk(tables, folder.snapshots_path)),
        entry=skip_of(index, record) if record is not None else None,
        is_command=record is not None and kind_of(record) == Kind.COMMAND,
        suspect=suspect_of(tables),
        skips=stored_skips(tables),
    )


def record_of(tables: Tables, index: int) -> bytes | None:
    """The bytes of an entry, None if it is not in the log. Raises `CorruptionError` if it is damaged."""
    record = tables.get(TABLE, key_of(index)) if index > 0 else None
    if record is not None and not intact(index, record):
        raise CorruptionError(f"log entry {index} fails its checksum: run forge-consensus log verify")
    return record


def applied_on_disk(tables: Tables, snapshots: Path) -> int:
    """Up to which entry the state goes that a start finds: that of the tables, or of a user's machine's newest file."""
    stored = get_meta(tables, APPLIED)
    if stored is not None:
        return int(msgpack.unpackb(stored)[1])
    return max((check_shape(path, tables.files).index for path in list_snapshots(snapshots)), default=0)


def check_members(nodes: Sequence[FolderOfNode], elsewhere: frozenset[str]) -> None:
    """Raise `SkipRefusedError` unless these are the folders of all members of one cluster, but for those elsewhere."""
    named = [node.node_id for node in nodes]
    if not nodes or len(set(named)) < len(named):
        raise SkipRefusedError("name the folder of every member once")
    if len({node.cluster_id for node in nodes}) > 1:
        clusters = ", ".join(sorted({node.cluster_id for node in nodes}))
        raise SkipRefusedError(f"the folders are of several clusters ({clusters}): name those of one")
    members = frozenset[str]().union(*(node.members for node in nodes))
    missing = sorted(members - set(named) - elsewhere)
    if missing:
        listed = ",".join(missing)
        raise SkipRefusedError(
            f"the folders of {listed} are not named, and an entry is skipped on all members or on none: name them, or "
            f"say --elsewhere {listed} and run the same command where they are"
        )
    strangers = sorted(elsewhere - members)
    if strangers:
        raise SkipRefusedError(f"{', '.join(strangers)} is no member: there are {', '.join(sorted(members))}")


def the_entry(index: int, nodes: Sequence[FolderOfNode], given: tuple[int, int] | None) -> Skip:
    """The entry that is to be skipped. Raises `SkipRefusedError` unless it is what ended a node."""
    proofs = {node.skips[index] for node in nodes if index in node.skips}
    proofs |= {
        node.entry
        for node in nodes
        if node.entry is not None and node.suspect is not None and node.suspect.proven and node.suspect.first == index
    }
    if given is not None:
        proofs.add(Skip(index, *given))
    if len(proofs) > 1:
        listed = ", ".join(sorted(proof.text for proof in proofs))
        raise SkipRefusedError(f"the folders do not agree which entry {index} is ({listed}): nothing is skipped")
    if not proofs:
        raise SkipRefusedError(f"entry {index} is not known to end a node: {'; '.join(map(suspicion, nodes))}")
    return proofs.pop()


def suspicion(node: FolderOfNode) -> str:
    """What a folder says of the end of its node."""
    suspect = node.suspect
    if suspect is None:
        return f"{node.node_id} did not end while it applied an entry"
    if suspect.first == suspect.last:
        known = "ended at" if suspect.proven else "may have ended at"
        return f"{node.node_id} {known} entry {suspect.first}" + ("" if suspect.proven else ": start it once more")
    return (
        f"{node.node_id} ended within {suspect.first} to {suspect.last}: start it again, and it finds out which it is"
    )


def check_folder(node: FolderOfNode, skip: Skip) -> None:
    """Raise `SkipRefusedError` unless the node can skip the entry: it has neither applied it nor another one there."""
    index, already = skip.index, node.skips.get(skip.index)
    if already is not None:
        raise SkipRefusedError(f"{node.node_id} skips another entry {index} ({already.text})")
    if node.applied >= index:
        raise SkipRefusedError(
            f"{node.node_id} has applied entry {index}: the state on its disk goes up to {node.applied}. So the entry "
            "does not end every node, and skipping it on the others would make them differ: repair the cause there"
        )
    if node.entry is not None and node.entry != skip:
        raise SkipRefusedError(f"{node.node_id} has another entry {index} ({node.entry.text}, not {skip.text})")
    if node.entry is not None and not node.is_command:
        raise SkipRefusedError(f"entry {index} is no command, and only commands can be skipped")
    if len(node.skips) >= SKIPS_MAX:
        raise SkipRefusedError(f"{node.node_id} skips {len(node.skips)} entries already: repair the machine")
