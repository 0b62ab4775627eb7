"""The tables on LMDB: crashes, full disks and wrong files, and readers in other processes."""

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_consensus.errors import CorruptionError, StorageError
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.tables import Batch, KeyValue, Tables

MIB = 1 << 20


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def numbered(first: int, last: int) -> list[KeyValue]:
    return [(key(n), b"value %d" % n) for n in range(first, last + 1)]


def commit(tables: Tables, build: Callable[[Batch], None]) -> None:
    batch = Batch()
    build(batch)
    tables.commit(batch)


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_poisoned(tables: Tables) -> None:
    for call in (lambda: tables.get("kv", b"a"), lambda: tables.commit(Batch()), tables.space):
        with pytest.raises(StorageError):
            call()


def test_lmdb_finds_everything_again_after_closing(tmp_path: Path) -> None:
    with LmdbTables(tmp_path / "tables") as tables:
        commit(tables, lambda batch: batch.append("log", numbered(1, 100)))
    with LmdbTables(tmp_path / "tables") as tables:
        assert tables.scan("log") == numbered(1, 100)
        assert tables.commits == 0


def test_lmdb_with_a_full_map_fails_for_good_and_loses_nothing(tmp_path: Path) -> None:
    tables = LmdbTables(tmp_path / "tables", map_bytes=MIB)
    assert tables.quota_bytes == MIB // 2
    written = 0
    with pytest.raises(StorageError, match="MAP_FULL"):
        while True:
            batch = Batch()
            batch.put("kv", key(written), b"x" * 50_000)
            tables.commit(batch)
            written += 1
    assert_poisoned(tables)
    tables.close()
    with LmdbTables(tmp_path / "tables", map_bytes=4 * MIB) as reopened:
        assert reopened.count("kv") == written > 5
        commit(reopened, lambda batch: batch.put("kv", b"more", b"x" * 50_000))


def test_lmdb_on_a_full_disk_fails_for_good_and_loses_nothing(
    tmp_path: Path,
) -> None:
    tables = LmdbTables(tmp_path / "tables")
    commit(tables, lambda batch: batch.append("log", numbered(1, 100)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    length = (tmp_path / "tables" / "data.mdb").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        with pytest.raises(StorageError, match="cannot commit"):
            commit(tables, lambda batch: batch.put("kv", b"a", b"x" * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_poisoned(tables)
    tables.close()
    with LmdbTables(tmp_path / "tables") as reopened:
        assert reopened.scan("log") == numbered(1, 100)
        assert reopened.count("kv") == 0


def test_a_full_disk_shows_in_the_free_space_before_anything_fails(tmp_path: Path) -> None:
    with LmdbTables(tmp_path / "tables", quota_bytes=MIB) as tables:
        while tables.space().room_bytes > MIB // 4:
            commit(tables, lambda batch: batch.put("kv", os.urandom(8), b"x" * 10_000))
        assert tables.space().quota_bytes == MIB
        assert tables.count("kv") > 30
        commit(tables, lambda batch: batch.delete_range("kv", b"", None))
        assert tables.space().room_bytes > MIB // 2


def test_lmdb_takes_a_smaller_map_where_address_space_is_short(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
    try:
        with LmdbTables(tmp_path / "tables") as tables:
            assert 64 * MIB <= tables.map_bytes <= 2 << 30
            assert tables.quota_bytes == tables.map_bytes // 2
            commit(tables, lambda batch: batch.put("kv", b"a", b"1"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    with LmdbTables(tmp_path / "tables") as tables:
        assert tables.map_bytes == 1 << 40
        assert tables.get("kv", b"a") == b"1"


def test_lmdb_in_place_of_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    with pytest.raises(StorageError, match="cannot open"):
        LmdbTables(tmp_path / "tables")
    with pytest.raises(StorageError, match="cannot read"):
        LmdbTables.open_readonly(tmp_path / "nothing")


def test_lmdb_refuses_a_file_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "data.mdb").write_bytes(b"this is no database" * 1000)
    with pytest.raises(CorruptionError, match="does not begin like a store"):
        LmdbTables(tmp_path / "tables")


READER = """
    import sys
    from forge_consensus.storage.backends.lmdb import LmdbTables
    with LmdbTables.open_readonly(sys.argv[1]) as view:
        print(view.count("log"), flush=True)
        sys.stdin.readline()
        print(view.count("log"), len(view.scan("log")), view.last("log")[1].decode(), flush=True)
"""


def test_a_helper_process_reads_one_unchanging_view(tmp_path: Path) -> None:
    with LmdbTables(tmp_path / "tables") as tables:
        commit(tables, lambda batch: batch.append("log", numbered(1, 100)))
        with run_python(READER, tmp_path / "tables") as helper:
            assert helper.stdin is not None
            assert helper.stdout is not None
            assert helper.stdout.readline() == "100\n"
            commit(tables, lambda batch: batch.append("log", numbered(101, 200)))
            helper.stdin.write("go on\n")
            helper.stdin.flush()
            assert helper.stdout.readline() == "100 100 value 100\n"
        assert tables.count("log") == 200


def test_a_killed_helper_does_not_pin_pages_for_good(tmp_path: Path) -> None:
    now = [0.0]
    with LmdbTables(tmp_path / "tables", clock=lambda: now[0]) as tables:
        commit(tables, lambda batch: batch.append("log", numbered(1, 100)))
        with run_python(READER, tmp_path / "tables") as helper:
            assert helper.stdout is not None
            helper.stdout.readline()
            helper.kill()
        assert str(helper.pid) in tables.environment.readers()
        now[0] += 1.5
        commit(tables, lambda batch: batch.put("kv", b"a", b"1"))
        assert str(helper.pid) not in tables.environment.readers()


def test_what_a_helper_held_is_room_again_soon_after_it_ended_although_nothing_is_written(tmp_path: Path) -> None:
    """A node that refuses all entries commits nothing, so it would stay full of pages that nobody holds."""
    now = [0.0]
    with LmdbTables(tmp_path / "tables", clock=lambda: now[0]) as tables:
        commit(tables, lambda batch: batch.put("kv", b"large", bytes(1 << 20)))
        with run_python(READER, tmp_path / "tables") as helper:
            assert helper.stdout is not None
            helper.stdout.readline()
            now[0] += 1.5
            for _ in range(3):
                commit(tables, lambda batch: batch.put("kv", b"large", bytes(1 << 20)))
            assert tables.space().reusable_bytes == 0
            helper.kill()
        now[0] += 1.5
        assert tables.space().reusable_bytes > 1 << 20


WRITER = """
    import sys
    from forge_consensus.storage.backends.lmdb import LmdbTables
    from forge_consensus.storage.backends.tables import Batch
    tables = LmdbTables(sys.argv[1])
    number = tables.count("log")
    while True:
        batch = Batch()
        batch.append("log", [((number + n).to_bytes(8, "big"), b"x" * 180) for n in range(50)])
        number += 50
        batch.put("meta", b"tip", str(number).encode())
        tables.commit(batch)
        print(number, flush=True)
"""


def test_lmdb_killed_while_committing_keeps_whole_batches(tmp_path: Path) -> None:
    chance = random.Random(9)
    for _ in range(4):
        with run_python(WRITER, tmp_path / "tables") as writer:
            assert writer.stdout is not None
            acknowledged = 0
            for _ in range(chance.randrange(1, 60)):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                acknowledged = int(line)
        with LmdbTables(tmp_path / "tables") as tables:
            tip = int(tables.get("meta", b"tip") or b"0")
            assert tip in (acknowledged, acknowledged + 50)
            assert tables.count("log") == tip
            assert tables.last("log") == (key(tip - 1), b"x" * 180)
