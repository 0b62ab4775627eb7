"""The exporter: writes the snapshot of a ledger machine from a process of its own, on a read-only view.

A helper thread tripled the 99th percentile of turns, and growing the map under its reader crashed the process.
Run as ``python -m forge_consensus.storage.export TABLES SNAPSHOTS MODULE:CLASS``; prints one JSON line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from forge_consensus.errors import SnapshotFailedError
from forge_consensus.storage.applying import header_of, stored_point
from forge_consensus.storage.lmdb_tables import LmdbTables
from forge_consensus.storage.machine import LedgerMachine
from forge_consensus.storage.sessions import export_rows
from forge_consensus.storage.snapshot_file import SnapshotInfo, write_snapshot
from forge_consensus.storage.tables import TablesView


def export_state(tables: TablesView, folder: Path, machine: type[LedgerMachine]) -> SnapshotInfo:
    """Write the snapshot of the checkpoint in these tables, header and state from one and the same view."""
    generation, point = stored_point(tables)
    header = header_of(point, export_rows(tables, generation))
    return write_snapshot(folder, header, machine.export(tables, generation))


def export_in_process(
    tables: Path, folder: Path, machine: type[LedgerMachine], seconds_max: float
) -> Callable[[], SnapshotInfo]:
    """A job that runs the exporter as a child process and ends it after `seconds_max`.

    The job raises `SnapshotFailedError`.
    """
    name = f"{machine.__module__}:{machine.__qualname__}"
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
    command += [str(tables), str(folder), name]

    def job() -> SnapshotInfo:
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds_max, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SnapshotFailedError(
                f"the exporter did not finish within {seconds_max:.0f} s and was ended"
            ) from error
        if ended.returncode != 0:
            raise SnapshotFailedError(f"the exporter failed: {ended.stderr.strip()[-500:]}")
        row = json.loads(ended.stdout)
        return SnapshotInfo(Path(row["path"]), row["index"], row["term"], row["size_bytes"])

    return job


def main(arguments: list[str]) -> int:
    """Write one snapshot and print where it is."""
    tables_path, folder, name = arguments
    module, _, qualname = name.partition(":")
    machine = cast(type[LedgerMachine], getattr(import_module(module), qualname))
    with LmdbTables.open_readonly(tables_path) as view:
        info = export_state(view, Path(folder), machine)
    row = {"path": str(info.path), "index": info.index, "term": info.term, "size_bytes": info.size_bytes}
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
