"""``forge-consensus log``: a look at the log of a node that does not run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import msgpack

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import output_option
from forge_consensus.errors import CorruptionError
from forge_consensus.output import bytes_text, json_text
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.tables import Tables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import IDENTITY
from forge_consensus.storage.ledger.ledger import BASE, HARD, NO_BASE
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import Kind, data_of, index_of, intact, key_of, kind_of, term_of
from forge_consensus.storage.ledger.transaction import META, get_meta
from forge_consensus.storage.snapshots.file import list_snapshots
from forge_consensus.storage.snapshots.file import verify as verify_snapshot

PAGE_RECORDS = 2_000
FAULTS_MAX = 100
"""Further faults are counted but not listed."""
EXIT_DAMAGED = 65
EXIT_MISSING = 66


@dataclass(slots=True)
class Verdict:
    """What a check found; `faults` is empty where all is well."""

    data: str
    node_id: str = ""
    cluster_id: str = ""
    first_index: int = 0
    last_index: int = 0
    entries: int = 0
    bytes: int = 0
    term: int = 0
    commit_index: int = 0
    snapshots: int = 0
    faults_total: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        """Take note of damage."""
        self.faults_total += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)


def verify_log(tables: Tables, verdict: Verdict) -> None:
    """Check the ledger's own records and every entry: its checksum, its place, and that terms never fall."""
    rows = {key: meta_of(tables, key, verdict) for key, _ in tables.scan(META)}
    if verdict.faults_total:
        return
    missing = [key.decode() for key in (IDENTITY, HARD) if key not in rows]
    if missing:
        verdict.fault(f"the store does not hold its records {' and '.join(missing)}")
        return
    _, verdict.node_id, verdict.cluster_id, *_ = msgpack.unpackb(rows[IDENTITY])
    base_index, base_term, _ = msgpack.unpackb(rows.get(BASE, NO_BASE))
    verdict.term, _, verdict.commit_index, newest = msgpack.unpackb(rows[HARD])
    verdict.first_index, verdict.last_index = base_index + 1, base_index
    previous = base_term
    while page := tables.scan(TABLE, key_of(verdict.last_index + 1), limit=PAGE_RECORDS):
        for key, record in page:
            index = index_of(key)
            if index != verdict.last_index + 1:
                verdict.fault(f"entries {verdict.last_index + 1} to {index - 1} are missing")
            verdict.last_index = index
            verdict.entries += 1
            verdict.bytes += len(record)
            previous = verify_record(verdict, index, record, previous)
    if previous > verdict.term:
        verdict.fault(f"the log ends in term {previous} and the node is in term {verdict.term}")
    if verdict.last_index != newest:
        verdict.fault(f"the log ends at entry {verdict.last_index} and should end at {newest}")
    if verdict.commit_index > verdict.last_index:
        verdict.fault(f"entry {verdict.commit_index} was committed and the log ends at {verdict.last_index}")


def meta_of(tables: Tables, key: bytes, verdict: Verdict) -> bytes:
    """One of the ledger's own records; empty if it is damaged."""
    try:
        return get_meta(tables, key) or b""
    except CorruptionError as error:
        verdict.fault(str(error))
        return b""


def verify_record(verdict: Verdict, index: int, record: bytes, previous: int) -> int:
    """Check one record; returns its term, or that of the one before it if it is damaged."""
    if not intact(index, record):
        verdict.fault(f"entry {index} fails its checksum")
        return previous
    term = term_of(record)
    if term < previous:
        verdict.fault(f"entry {index} is of term {term} behind one of term {previous}")
    if kind_of(record) == Kind.CONFIGURATION:
        try:
            Configuration.decode(data_of(record))
        except CorruptionError as error:
            verdict.fault(f"entry {index}: {error}")
    return term


def verify_snapshots(folder: Path, verdict: Verdict) -> None:
    """Read every snapshot file to its end."""
    for path in list_snapshots(folder):
        verdict.snapshots += 1
        try:
            verify_snapshot(path)
        except CorruptionError as error:
            verdict.fault(f"snapshot {path.name}: {error}")


def verify_folder(data: Path) -> Verdict:
    """Check a node's folder while it is locked.

    Raises `FolderLockedError` if a node runs on it, `StorageError` if it cannot be opened.
    """
    verdict = Verdict(str(data))
    with Folder(data) as folder:
        tables = LmdbTables(folder.tables_path)
        try:
            verify_log(tables, verdict)
        finally:
            tables.close()
        verify_snapshots(folder.snapshots_path, verdict)
    return verdict


@click.group(cls=Commands)
def log() -> None:
    """Check a node's log while the node is stopped."""


@log.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, file_okay=False), help="The node's folder.")
@output_option
@click.pass_context
def verify(ctx: click.Context, data: Path, output: str) -> None:
    """Check every entry of a log and every snapshot beside it.

    Exit code 0 if all are whole, 65 if one is damaged, 66 if there is no such folder, 78 if a node runs on it.
    """
    if not (data / "tables").is_dir():
        text = f"{data} is no node's folder: name the one given to the node as --data"
        click.echo(f"error[NO_SUCH_FOLDER]: {text}", err=True)
        ctx.exit(EXIT_MISSING)
    verdict = verify_folder(data)
    if output == "json":
        click.echo(json_text(asdict(verdict)))
    else:
        span = f"{verdict.first_index:,} to {verdict.last_index:,}"
        entries = f"{verdict.entries:,} entries ({span}, {bytes_text(verdict.bytes)})"
        kept = f"{verdict.snapshots} snapshots" if verdict.snapshots != 1 else "1 snapshot"
        state = f"{verdict.faults_total} faults" if verdict.faults_total else "all whole"
        click.echo(f"{verdict.node_id} of cluster {verdict.cluster_id}: {entries}, {kept}: {state}")
    if verdict.faults_total:
        for text in verdict.faults[:10]:
            click.echo(f"! {text}", err=True)
        click.echo(
            f"error[{CorruptionError.code}]: {verdict.faults_total} faults in {data}: what this node acknowledged may "
            "be damaged. Move its folder away and bring the node back as a new member of the cluster",
            err=True,
        )
        ctx.exit(EXIT_DAMAGED)
