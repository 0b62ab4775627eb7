"""Verification: reads a stopped node's folder and reports everything that is damaged, changing nothing.

The command `forge-consensus log verify` prints the report of this module; a program can call `verify_folder` itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgpack

from forge_consensus.errors import CorruptionError, UnsupportedVersionError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.sealed import REJOIN, is_sealed
from forge_consensus.storage.backends.tables import TablesView
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import IDENTITY
from forge_consensus.storage.ledger.ledger import BASE, HARD, NO_BASE
from forge_consensus.storage.ledger.levels import LEVEL_OF_KIND, unknown_kind
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import Kind, data_of, index_of, intact, key_of, kind_of, term_of
from forge_consensus.storage.ledger.transaction import META, get_meta
from forge_consensus.storage.machines.session_rows import TABLE as SESSIONS
from forge_consensus.storage.machines.session_rows import read_row, read_row_of_format_2
from forge_consensus.storage.snapshots.file import list_snapshots
from forge_consensus.storage.snapshots.file import verify as verify_snapshot
from forge_consensus.storage.snapshots.store import GENERATION_BYTES
from forge_consensus.storage.stopped import StoppedFolder
from forge_consensus.storage.takeover import PLACE, SEALED_TABLES, UNSEALED_FORMAT

PAGE_RECORDS: Final = 2_000
FAULTS_MAX: Final = 100
"""How many faults a report lists; more are only counted."""


@dataclass(slots=True)
class VerifyReport:
    """The result of a verification: the data that it read, and the damage."""

    data: str
    """The folder that was verified."""
    node_id: str = ""
    cluster_id: str = ""
    first_index: int = 0
    last_index: int = 0
    """The log holds the entries first_index..last_index."""
    entries: int = 0
    bytes: int = 0
    """How many entries were read, and how many bytes they have."""
    term: int = 0
    commit_index: int = 0
    """The node's term, and the commit index that it last wrote down."""
    format: int = 0
    """The format of the folder."""
    rows: int = 0
    """How many rows of state, sessions and events were read."""
    snapshots: int = 0
    """How many snapshot files were read."""
    faults_total: int = 0
    faults: list[str] = field(default_factory=list)
    """The first `FAULTS_MAX` faults, as text; empty if everything is whole."""

    @property
    def whole(self) -> bool:
        """Whether no damage was found in the log or in a snapshot."""
        return not self.faults_total

    def fault(self, text: str) -> None:
        """Count a piece of damage, and keep its text unless there are too many."""
        self.faults_total += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)

    def raise_for_faults(self) -> None:
        """Raise `CorruptionError`, with the first fault and how many there are, unless everything is whole."""
        if self.faults_total:
            raise CorruptionError(
                f"{self.faults_total} faults in {self.data}: what this node acknowledged may be damaged. "
                f"{REJOIN}. The first: {self.faults[0]}"
            )


def verify_folder(data: Path, key: EncryptionKey | None = None) -> VerifyReport:
    """Verify every entry of the log and every snapshot in a node's folder, locking it meanwhile.

    `key` is the node's, if the folder is encrypted. Damage is in the report and raises nothing. Raises
    `FolderLockedError` if a node runs on the folder, `FolderNotFoundError` if there is no node's folder,
    `InvalidConfigError` for a key that is missing or another one, `StorageError` if its tables cannot be read,
    `SnapshotFailedError` if a snapshot cannot be read.
    """
    report = VerifyReport(str(data))
    with StoppedFolder(data, key) as folder:
        verify_tables(folder, report)
        verify_snapshots(folder, report)
    return report


def verify_tables(folder: StoppedFolder, report: VerifyReport) -> None:
    """Verify the log and every row in a folder that is locked; raises as `StoppedFolder.reading`, but for damage."""
    try:
        with folder.reading() as tables:
            verify_log(tables, report)
            verify_rows(tables, report)
    except CorruptionError as error:
        report.fault(str(error))


def check_tables(folder: StoppedFolder) -> VerifyReport:
    """Return what is in a folder's tables. Raises `CorruptionError` if anything in them is damaged."""
    report = VerifyReport(str(folder.path))
    verify_tables(folder, report)
    report.raise_for_faults()
    return report


def verify_log(tables: TablesView, report: VerifyReport) -> None:
    """Verify the ledger's own records, and every entry: its checksum, its place, and that terms never fall.

    Raises `StorageError` if the tables cannot be read.
    """
    rows = {key: verified_meta(tables, key, report) for key, _ in tables.scan(META)}
    if report.faults_total:
        return
    missing = [key.decode() for key in (IDENTITY, HARD) if key not in rows]
    if missing:
        report.fault(f"the store does not hold its records {' and '.join(missing)}")
        return
    report.format, report.node_id, report.cluster_id, *_ = msgpack.unpackb(rows[IDENTITY])
    base_index, base_term, _ = msgpack.unpackb(rows.get(BASE, NO_BASE))
    report.term, _, report.commit_index, newest = msgpack.unpackb(rows[HARD])
    newest = max(newest, base_index)  # the turn that switches to a snapshot writes the base, and the next one this
    report.first_index, report.last_index = base_index + 1, base_index
    previous = base_term
    while page := tables.scan(TABLE, key_of(report.last_index + 1), limit=PAGE_RECORDS):
        for key, record in page:
            index = index_of(key)
            if index != report.last_index + 1:
                report.fault(f"entries {report.last_index + 1} to {index - 1} are missing")
            report.last_index = index
            report.entries += 1
            report.bytes += len(record)
            previous = verify_record(index, record, previous, report)
    if previous > report.term:
        report.fault(f"the log ends in term {previous} and the node is in term {report.term}")
    if report.last_index != newest:
        report.fault(f"the log ends at entry {report.last_index} and should end at {newest}")
    if report.commit_index > report.last_index:
        report.fault(f"entry {report.commit_index} was committed and the log ends at {report.last_index}")


def verify_rows(tables: TablesView, report: VerifyReport) -> None:
    """Verify the checksum of every row of state, sessions and events; a folder of format 2 has none yet."""
    if report.format == UNSEALED_FORMAT or tables.get(META, PLACE) is not None:
        return
    for table in SEALED_TABLES:
        start = b""
        while page := tables.scan(table, start, limit=PAGE_RECORDS):
            start = page[-1][0] + b"\0"
            report.rows += len(page)
            for key, row in page:
                if not is_sealed(key, row):
                    report.fault(f"the row {key!r} of {table} fails its checksum")
    verify_sessions(tables, report)


def verify_sessions(tables: TablesView, report: VerifyReport) -> None:
    """Verify the rows of client sessions of every generation, in the layout of today or of format 2."""
    start = b""
    while page := tables.scan(SESSIONS, start, limit=PAGE_RECORDS):
        start = page[-1][0] + b"\0"
        report.rows += len(page)
        for key, row in page:
            stored = key[GENERATION_BYTES:]
            try:
                if read_row_of_format_2(stored, row) is None:
                    read_row(stored, row)
            except CorruptionError as error:
                report.fault(f"the row {key!r} of {SESSIONS}: {error}")


def verified_meta(tables: TablesView, key: bytes, report: VerifyReport) -> bytes:
    """One of the ledger's own records; empty, with the fault noted, if it is damaged."""
    try:
        return get_meta(tables, key) or b""
    except CorruptionError as error:
        report.fault(str(error))
        return b""


def verify_record(index: int, record: bytes, previous: int, report: VerifyReport) -> int:
    """Verify the record of an entry whose predecessor has the term `previous`.

    Returns its term, or `previous` if the record is damaged.
    """
    if not intact(index, record):
        report.fault(f"entry {index} fails its checksum")
        return previous
    term = term_of(record)
    if term < previous:
        report.fault(f"entry {index} is of term {term} behind one of term {previous}")
    kind = kind_of(record)
    if kind not in LEVEL_OF_KIND:
        report.fault(str(unknown_kind(index, kind)))
    elif kind == Kind.CONFIGURATION:
        try:
            Configuration.decode(data_of(record))
        except (CorruptionError, UnsupportedVersionError) as error:
            report.fault(f"entry {index}: {error}")
    return term


def verify_snapshots(folder: StoppedFolder, report: VerifyReport) -> None:
    """Read every snapshot file in `folder` to its end. Raises `SnapshotFailedError` if the disk does not give one."""
    keys = folder.files
    for path in list_snapshots(folder.snapshots_path):
        report.snapshots += 1
        try:
            verify_snapshot(path, keys)
        except CorruptionError as error:
            report.fault(f"snapshot {path.name}: {error}")
