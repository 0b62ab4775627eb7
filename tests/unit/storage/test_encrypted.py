"""Encrypted tables: nothing readable on the disk, and whatever was exchanged, moved or brought back is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_consensus.errors import CorruptionError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.security.encryption import EncryptionKey, epoch_of
from forge_consensus.storage.backends import encrypted, keyring
from forge_consensus.storage.backends.encrypted import DAMAGED, EncryptedTables, EncryptedView, ask_for_ring, ring_of
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.folder_tables import open_tables, thread_view
from forge_consensus.storage.backends.guard import NAME as GUARD
from forge_consensus.storage.backends.keyring import KEYS, OWNER
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import TABLES, Batch
from tests.worlds.backends import KEY
from tests.worlds.ledger_world import World, put

OTHER = EncryptionKey(bytes(range(1, 33)))
VALUE = b"planted in the tables"


def filled(inner: MemoryTables, rows: int = 3, folder: Path | None = None) -> EncryptedTables:
    tables = EncryptedTables(inner, KEY, folder)
    batch = Batch()
    batch.put("meta", OWNER, b"whose")
    for table in TABLES:
        batch.append(table, [(b"k%03d" % number, VALUE + b"%d" % number) for number in range(rows)])
    tables.commit(batch)
    return tables


def swap(inner: MemoryTables, one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    batch = Batch()
    batch.put(*one, inner.get(*other) or b"")
    batch.put(*other, inner.get(*one) or b"")
    inner.commit(batch)


def test_no_value_is_readable_but_that_of_the_owner(tmp_path: Path) -> None:
    inner = MemoryTables()
    tables = filled(inner)
    for table in TABLES:
        for key, row in inner.scan(table):
            assert (key == OWNER) == (row == b"whose")
            assert VALUE not in row
        assert tables.get(table, b"k001") == VALUE + b"1"
    assert tables.get("meta", OWNER) == b"whose"


def test_a_row_that_was_moved_or_changed_comes_out_as_damaged() -> None:
    inner = MemoryTables()
    tables = filled(inner)
    swap(inner, ("kv", b"k000"), ("kv", b"k001"))
    swap(inner, ("log", b"k000"), ("events", b"k000"))
    flipped = bytearray(inner.get("sessions", b"k000") or b"")
    flipped[-1] ^= 1
    batch = Batch()
    batch.put("sessions", b"k000", bytes(flipped))
    batch.put("sessions", b"k001", b"")
    inner.commit(batch)
    for table, key in (("kv", b"k000"), ("kv", b"k001"), ("log", b"k000"), ("events", b"k000")):
        assert tables.get(table, key) == DAMAGED
    assert tables.scan("sessions", limit=3) == [(b"k000", DAMAGED), (b"k001", DAMAGED), (b"k002", VALUE + b"2")]
    assert tables.look("kv", [b"k000", b"k002", b"k9"], lambda key, value: bytes(value)) == [
        DAMAGED,
        VALUE + b"2",
        None,
    ]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("log", "log entry .* fails its checksum"),
        ("meta", "the ledger's .* fails its checksum"),
        ("kv", None),
        ("events", None),
    ],
)
def test_a_node_meets_a_changed_row_as_one_that_its_disk_spoilt(tmp_path: Path, table: str, why: str | None) -> None:
    world = World("encrypted", tmp_path)
    world.lead()
    world.do(*[put(f"k{n}", n) for n in range(5)])
    with world.turn():
        world.ledger.journal.append(world.ledger.numbers.next(), world.now, b"event")
    world.checkpoint()
    assert isinstance(world.tables, EncryptedTables)
    inner, batch = world.tables.tables, Batch()
    for key, row in inner.scan(table):
        if key not in (KEYS, OWNER):
            batch.put(table, key, row[:-1] + bytes((row[-1] ^ 1,)))
    assert batch
    inner.commit(batch)
    if why is not None:
        with pytest.raises(CorruptionError, match=why):
            world.crash()
    else:
        world.crash()  # such rows are read when somebody asks for them
        if table == "kv":
            with pytest.raises(CorruptionError, match="fails its checksum"):
                world.ledger.applier.machine.query("k1")
        else:
            assert not world.ledger.journal.read(1, 10).rows
    world.close()


def test_a_row_of_another_folder_under_the_same_key_is_noticed() -> None:
    inner, others = MemoryTables(), MemoryTables()
    tables = filled(inner)
    filled(others)
    batch = Batch()
    batch.put("kv", b"k000", others.get("kv", b"k000") or b"")
    inner.commit(batch)
    assert tables.get("kv", b"k000") == DAMAGED


def test_the_records_of_identity_and_keys_belong_together() -> None:
    inner, others = MemoryTables(), MemoryTables()
    filled(inner)
    theirs = filled(others)
    batch = Batch()
    batch.put("meta", OWNER, b"another's")
    theirs.commit(batch)
    EncryptedTables(others, KEY)  # the row of the keys went along with the identity
    for exchanged in (KEYS, OWNER):
        clone = inner.clone_durable()
        batch = Batch()
        batch.put("meta", exchanged, others.get("meta", exchanged) or b"")
        clone.commit(batch)
        with pytest.raises(CorruptionError, match="do not belong together"):
            EncryptedTables(clone, KEY)


def test_another_key_no_key_and_a_plain_folder_are_refused(tmp_path: Path) -> None:
    inner = MemoryTables()
    filled(inner)
    with pytest.raises(InvalidConfigError, match=f"under the key {KEY.id}, and the key given is {OTHER.id}"):
        EncryptedTables(inner, OTHER)
    with pytest.raises(InvalidConfigError, match=f"is encrypted under the key {KEY.id}, and no key was given"):
        encrypted.check_plain(inner, "data/n1")
    plain, batch = MemoryTables(), Batch()
    batch.put("meta", OWNER, b"whose")
    plain.commit(batch)
    with pytest.raises(InvalidConfigError, match="is not encrypted, and an encryption key was given"):
        EncryptedTables(plain, KEY)
    assert plain.scan("meta") == [(OWNER, b"whose")]


def test_a_keyring_of_a_later_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = MemoryTables()
    with monkeypatch.context() as patched:
        patched.setattr(keyring, "VERSION", 2)
        filled(inner)
    with pytest.raises(UnsupportedVersionError, match="are of version 2"):
        EncryptedTables(inner, KEY)


def drained(tables: EncryptedTables) -> int:
    """Commit until no row has an earlier key; returns how many commits that took."""
    for count in range(1000):
        if not tables.ring.rewriting:
            return count
        batch = Batch()
        ask_for_ring(batch)
        tables.commit(batch)
    raise AssertionError("rows are written anew for ever")


def epochs(inner: MemoryTables) -> set[int]:
    return {epoch_of(row) for table in TABLES for key, row in inner.scan(table) if key not in (KEYS, OWNER)}


def test_another_key_takes_over_and_old_rows_are_written_anew_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted, "REWRITTEN_ROWS", 40)
    inner = MemoryTables()
    tables = filled(inner, 100)
    before = {table: tables.scan(table) for table in TABLES}
    view = tables.view()
    assert not tables.take_key(KEY)
    assert tables.take_key(OTHER)
    with pytest.raises(InvalidConfigError, match="give the folder's key"):
        EncryptedTables(inner.clone_durable(), KEY)
    assert epochs(inner) == {1, 2}
    assert drained(tables) > 10
    assert epochs(inner) == {2}
    assert view.scan("kv") == before["kv"]  # it reads what was there before
    for again in (tables, EncryptedTables(inner.clone_durable(), OTHER)):
        found = {table: [row for row in again.scan(table) if row[0] != KEYS] for table in TABLES}
        assert found == {table: [row for row in before[table] if row[0] != KEYS] for table in TABLES}
        assert sorted(again.ring.keys) == [2]


def test_a_helper_finds_the_keyring_under_the_key_that_it_is_given(tmp_path: Path) -> None:
    """The exporter is started with the newest key; the tables' own file held the keyring under the one before."""
    with Folder(tmp_path) as folder, open_tables(folder, KEY, wal_bytes=1 << 20) as tables:
        assert isinstance(tables, EncryptedTables)
        batch = Batch()
        batch.put("meta", OWNER, b"whose")
        tables.commit(batch)
        tables.sync()
        tables.take_key(OTHER)
        assert tables.files is not None
        with thread_view(tables) as view:
            raw = view.inner if isinstance(view, EncryptedView) else view
            assert ring_of(raw, tables.files.key, "here").key == OTHER


def test_a_slice_ends_by_bytes_too_so_that_large_rows_do_not_hold_up_a_turn() -> None:
    inner = MemoryTables()
    tables = filled(inner, 0)
    batch = Batch()
    batch.append("log", [(b"%03d" % number, bytes(encrypted.REWRITTEN_BYTES // 2)) for number in range(20)])
    tables.commit(batch)
    written: list[int] = []
    inner.before_commit = lambda batch: written.append(batch.size_bytes)
    tables.take_key(OTHER)
    assert drained(tables) > 5
    assert max(written) < 3 * encrypted.REWRITTEN_BYTES


def test_a_crash_between_two_slices_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted, "REWRITTEN_ROWS", 20)
    inner = MemoryTables()
    tables = filled(inner, 100)
    tables.take_key(OTHER)
    for _ in range(60):
        inner = inner.clone_durable()
        tables = EncryptedTables(inner, OTHER)
        if not tables.ring.rewriting:
            break
        batch = Batch()
        ask_for_ring(batch)
        tables.commit(batch)
    assert epochs(inner) == {2}
    assert [value for _, value in tables.scan("log")] == [VALUE + b"%d" % number for number in range(100)]


def test_what_a_batch_does_comes_after_what_is_written_anew() -> None:
    inner = MemoryTables()
    tables = filled(inner)
    tables.take_key(OTHER)
    batch = Batch()
    batch.put("kv", b"k000", b"new")
    batch.delete("kv", b"k001")
    batch.delete_range("log", b"", None)
    batch.append("log", [(b"k000", b"first")])
    ask_for_ring(batch)
    tables.commit(batch)
    assert not tables.ring.rewriting
    assert tables.scan("kv") == [(b"k000", b"new"), (b"k002", VALUE + b"2")]
    assert tables.scan("log") == [(b"k000", b"first")]


def test_a_damaged_row_stays_damaged_and_does_not_hold_up_the_others() -> None:
    inner = MemoryTables()
    tables = filled(inner)
    swap(inner, ("kv", b"k000"), ("kv", b"k001"))
    tables.take_key(OTHER)
    drained(tables)
    assert [value for _, value in tables.scan("kv")] == [DAMAGED, DAMAGED, VALUE + b"2"]


def test_after_so_many_rows_another_data_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "ROWS_RESERVED", 8)
    monkeypatch.setattr(keyring, "ROWS_MAX", 32)
    inner = MemoryTables()
    used: dict[int, int] = {}
    for _ in range(10):  # crashes lose what was reserved, and never let a key encrypt more
        tables = EncryptedTables(inner, KEY)
        for number in range(9):
            batch = Batch()
            batch.put("kv", b"%d" % number, b"value")
            tables.commit(batch)
            epoch = epoch_of(inner.get("kv", b"%d" % number) or b"")
            used[epoch] = used.get(epoch, 0) + 1
        inner = inner.clone_durable()
    assert len(used) > 2
    assert max(used.values()) <= 32


# --- the guard --------------------------------------------------------------------------------------------------------


def run(path: Path, value: bytes | None, *, orderly: bool = True) -> None:
    """Open the tables of a folder, write a value, and end."""
    with Folder(path) as folder:
        tables = open_tables(folder, KEY)
        if value is not None:
            batch = Batch()
            batch.put("meta", OWNER, b"whose")
            batch.put("kv", b"key", value)
            tables.commit(batch)
        if orderly:
            tables.close()
        else:
            assert isinstance(tables, EncryptedTables)
            tables.tables.close()


def tables_file(path: Path) -> Path:
    return path / "tables" / "data.mdb"


@pytest.mark.parametrize(
    ("copied_after", "runs_later", "noticed"),
    [
        pytest.param(True, [True], True, id="a copy of before an orderly run"),
        pytest.param(True, [False], True, id="a copy of before a run that crashed"),
        pytest.param(False, [True], True, id="a copy of a run that crashed, before another"),
        pytest.param(True, [], False, id="the file itself"),
        pytest.param(False, [], False, id="the file that a crash left"),
    ],
)
def test_a_file_that_was_brought_back_is_noticed(
    tmp_path: Path, copied_after: bool, runs_later: list[bool], noticed: bool
) -> None:
    path = tmp_path / "n1"
    run(path, b"first", orderly=copied_after)
    copy = shutil.copy(tables_file(path), tmp_path / "copy")
    for orderly in runs_later:
        run(path, b"later", orderly=orderly)
    shutil.copy(copy, tables_file(path))
    if not noticed:
        run(path, b"goes on")
        return
    with pytest.raises(CorruptionError, match="are older than the folder"):
        run(path, None)


def test_older_tables_of_the_same_run_are_noticed_after_an_orderly_end(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    with Folder(path) as folder:
        tables = open_tables(folder, KEY)
        for value in (b"1", b"2"):
            batch = Batch()
            batch.put("meta", OWNER, b"whose")
            batch.put("kv", b"key", value)
            tables.commit(batch)
            if value == b"1":
                shutil.copy(tables_file(path), tmp_path / "copy")
        tables.close()
    shutil.copy(tmp_path / "copy", tables_file(path))
    with pytest.raises(CorruptionError, match="are older than the folder"):
        run(path, None)


def test_starts_that_write_nothing_and_crashes_at_every_step_are_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    run(path, b"1")
    for value, orderly in [(None, True), (None, False), (b"2", False), (None, False), (b"3", True)] * 3:
        run(path, value, orderly=orderly)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda guard: guard.unlink(), "is missing, so nobody knows"),
        (lambda guard: guard.write_bytes(b"nothing"), "is damaged, or of another folder"),
        (lambda guard: guard.write_bytes(guard.read_bytes()[:-1]), "is damaged, or of another folder"),
    ],
)
def test_a_guard_that_is_gone_or_spoilt_is_noticed(tmp_path: Path, spoil: Callable[[Path], object], why: str) -> None:
    path = tmp_path / "n1"
    run(path, b"1")
    spoil(path / GUARD)
    with pytest.raises(CorruptionError, match=why):
        run(path, None)


def test_the_guard_of_another_folder_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "n1", tmp_path / "n2"
    run(one, b"1")
    run(other, b"1")
    shutil.copy(other / GUARD, one / GUARD)
    with pytest.raises(CorruptionError, match="of another folder"):
        run(one, None)
