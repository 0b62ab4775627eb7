"""The exporter: a process of its own that writes the snapshot of a machine in the ledger from a read-only view.

It is a process because a helper thread tripled the 99th percentile of turns, and growing the map under a reader in the
same process crashed it.
Run as ``python -m forge_consensus.storage.snapshots.export TABLES SNAPSHOTS MODULE:CLASS SECONDS``; it reads the node's
key from its standard input, where nobody else sees it, and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from forge_consensus.errors import SnapshotFailedError, StorageError
from forge_consensus.process.interpreter import find_python
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted_file import FileKeys
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX
from forge_consensus.storage.backends.folder_tables import lmdb_of, thread_view, view_with_key
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.tables import Tables, TablesView
from forge_consensus.storage.ledger.applying import header_of, stored_point
from forge_consensus.storage.ledger.skips import stored_skips
from forge_consensus.storage.machines.machine import LedgerMachine
from forge_consensus.storage.machines.sessions import export_rows
from forge_consensus.storage.snapshots.file import SnapshotInfo, write_snapshot
from forge_consensus.storage.snapshots.origin import origin
from forge_consensus.storage.snapshots.rests import Rests

Exporter = Callable[[], SnapshotInfo]

NICER: Final = 10
"""By how much nicer the process is than the node: the node's turns come first."""


class ExportProcess:
    """The job that writes a snapshot in a child process, and the way to end that child before it is done.

    `command` is the child's; it is ended after `seconds_max`. Whatever happens to the child, the job leaves no
    half-written file in `folder`. A child that outlives this process ends itself. `files` are the keys, if the folder
    is encrypted.
    """

    def __init__(self, command: list[str], folder: Path, seconds_max: float, files: FileKeys | None = None) -> None:
        self.files = files
        self.command = command
        self.folder = folder
        self.seconds_max = seconds_max
        self.child: subprocess.Popen[bytes] | None = None
        """The child that runs; one thread sets it, and another may end it."""
        self.why_ended = ""

    def __call__(self) -> SnapshotInfo:
        """Write the snapshot of the state on disk. Raises `SnapshotFailedError`."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.why_ended = ""
        try:
            child = subprocess.Popen(
                self.command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise SnapshotFailedError(f"the exporter could not be started: {error}") from error
        with suppress(OSError):  # it has ended; done here, because it would import everything before it could do it
            os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICER)
        with child:
            try:
                self.child = child
                secret = b"" if self.files is None else self.files.key.secret
                told, complaint = child.communicate(secret, timeout=self.seconds_max)
            except subprocess.TimeoutExpired as error:
                child.kill()
                child.communicate()
                text = f"the exporter did not finish in {self.seconds_max:g} s and was ended"
                raise SnapshotFailedError(text) from error
            finally:
                self.child = None
                remove_half_written(self.folder, child.pid)
        if self.why_ended and child.returncode:
            raise SnapshotFailedError(f"the exporter was ended: {self.why_ended}")
        try:
            row = json.loads(told.decode().splitlines()[-1])
            return SnapshotInfo(Path(row["path"]), row["index"], row["term"], row["size_bytes"])
        except (ValueError, LookupError, TypeError) as error:
            said = (complaint.decode(errors="replace").splitlines() or ["it said nothing"])[-1][:500]
            raise SnapshotFailedError(f"the exporter ended with {child.returncode}: {said}") from error

    def end(self, why: str) -> None:
        """End the child that runs, if one does: the job then raises `SnapshotFailedError` with this reason."""
        child = self.child
        if child is not None:
            self.why_ended = why
            child.kill()


def export_state(
    tables: TablesView, folder: Path, machine: type[LedgerMachine], rests: Rests | None = None
) -> SnapshotInfo:
    """Write the snapshot of the checkpoint in these tables; header and state come from one and the same view."""
    generation, point = stored_point(tables)
    header = header_of(point, export_rows(tables, generation), stored_skips(tables)) | origin(tables, in_ledger=True)
    return write_snapshot(folder, header, machine.export(tables, generation), tables.files, rests)


def exporter(tables: Tables, folder: Path, machine: type[LedgerMachine], seconds_max: float) -> Exporter:
    """Return the job that writes a snapshot: in a process of its own, or on the calling thread without an interpreter.

    A thread costs the node time, but without `sys.executable` there is no other way (see `find_python`).
    """
    python = find_python()
    if python is not None:
        return export_in_process(lmdb_of(tables).path, folder, machine, seconds_max, python, tables.files)
    return partial(export_here, tables, folder, machine, seconds_max)


def why_on_thread() -> str:
    """Return why the exporter has no process of its own, for people; empty if it has one."""
    if find_python() is not None:
        return ""
    return f"sys.executable is {sys.executable!r}, which is no Python interpreter, and none was found beside it"


def export_here(tables: Tables, folder: Path, machine: type[LedgerMachine], seconds_max: float) -> SnapshotInfo:
    """Write a snapshot on this thread, from a view of the node's own tables. Raises `SnapshotFailedError`."""
    try:
        with thread_view(tables) as view:
            return export_state(view, folder, machine, Rests(seconds_max))
    except StorageError as error:  # the node stops meanwhile
        raise SnapshotFailedError(f"the snapshot was not finished: {error}") from error


def export_in_process(
    tables: Path,
    folder: Path,
    machine: type[LedgerMachine],
    seconds_max: float,
    python: str = sys.executable,
    files: FileKeys | None = None,
) -> ExportProcess:
    """Return a job that runs the exporter as a child process and ends it after `seconds_max`.

    `files` are the keys, if the folder is encrypted; the child is given the newest when it starts.
    """
    module = __spec__.name if __spec__ else __name__
    name = f"{machine.__module__}:{machine.__qualname__}"
    command = [python, "-m", module, str(tables), str(folder), name, str(seconds_max)]
    return ExportProcess(command, folder, seconds_max, files)


def remove_half_written(folder: Path, process: int) -> None:
    """Remove the temporary files that a killed exporter left."""
    for path in folder.glob(f"*.writing-*-{process}{TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Write one snapshot and print where it is."""
    tables_path, folder, name, seconds_max = arguments
    signal.setitimer(signal.ITIMER_REAL, float(seconds_max) + 1.0)  # its default action ends an orphan
    module, _, qualname = name.partition(":")
    machine: object = import_module(module)
    for part in qualname.split("."):
        machine = getattr(machine, part)
    secret = sys.stdin.buffer.read()
    key = EncryptionKey(secret) if secret else None
    with LmdbTables.open_readonly(tables_path) as view:
        read = view_with_key(view, key, tables_path)
        info = export_state(read, Path(folder), cast("type[LedgerMachine]", machine), Rests(float(seconds_max)))
    row = {"path": str(info.path), "index": info.index, "term": info.term, "size_bytes": info.size_bytes}
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
