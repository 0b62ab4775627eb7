"""Leases, revisions, transactions and appended keys of the key-value machine, command by command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.sealed import seal
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines import leases
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_commands import KEY_BYTES_MAX
from forge_consensus.storage.machines.kv_tables import prefix_of
from forge_consensus.storage.machines.leases import KEYS_MAX, OWN_BITS, TTL_MS_MAX
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Command, Entry, apply_one, outcome_of
from tests.worlds.backends import BACKENDS, new_tables


class Log:
    """A machine, and the entries that it is given."""

    def __init__(self, machine: KeyValueMachine | None = None) -> None:
        self.machine = machine or KeyValueMachine()
        self.index = self.now_ms = 0

    def do(self, kind: str, **payload: Any) -> Any:
        self.index += 1
        return self.machine.apply(Entry(self.index, 1, 0, Command(kind, payload), self.now_ms))

    def entry(self, key: str) -> Any:
        return self.machine.query({"entry": key})

    @property
    def keys(self) -> list[str]:
        return [row[0] for row in self.machine.query({"scan": "", "limit": 10_000})]

    def failed(self, kind: str, **payload: Any) -> str:
        """The error of a command that changes nothing."""
        before = list(self.machine.whole_state()), self.machine.due_ms
        with pytest.raises((TypeError, ValueError)) as raised:
            self.do(kind, **payload)
        assert (list(self.machine.whole_state()), self.machine.due_ms) == before
        return str(raised.value)


# --- revisions --------------------------------------------------------------------------------------------------------


def test_a_key_knows_since_when_it_exists_and_when_it_was_written() -> None:
    log = Log()
    log.do("set", key="k", value="a")
    log.do("set", key="k", value="b")
    log.do("increment", key="n")
    assert log.entry("k") == ["k", "b", 1, 2, 0]
    assert log.entry("n") == ["n", 1, 3, 3, 0]
    log.do("delete", key="k")
    assert log.entry("k") is None
    log.do("cas", key="k", expected=None, value="c")
    assert log.entry("k") == ["k", "c", 5, 5, 0]
    log.do("batch", ops=[{"type": "delete", "key": "k"}, {"type": "set", "key": "k", "value": "d"}])
    assert log.entry("k") == ["k", "d", 6, 6, 0]


def rows_of_today(tables: Any, machine: KeyValueMachine) -> None:
    """Rows as the version before wrote them: bare values."""
    batch = Batch()
    for number in range(50):
        place = prefix_of(3) + b"old%02d" % number
        batch.put("kv", place, seal(place, msgpack.packb(number)))
    place = prefix_of(3) + b"open"  # its second byte is like that of a row in memory that is open
    batch.put("kv", place, seal(place, msgpack.packb(list(range(128, 140)))))
    tables.commit(batch)
    machine.bind(tables, 3, 100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_an_earlier_version_count_as_written_by_entry_1(backend: str, tmp_path: Path) -> None:
    tables: Any = new_tables(backend, tmp_path)
    log = Log()
    log.index = 100
    rows_of_today(tables, log.machine)
    assert log.machine.query({"scan": "", "limit": 2}) == [["old00", 0], ["old01", 1]]
    assert log.machine.query({"count": ""}) == 51
    assert log.entry("open") == ["open", list(range(128, 140)), 1, 1, 0]
    assert log.machine.query({"entries": "o", "start": "old49"}) == [
        ["old49", 49, 1, 1, 0],
        ["open", *log.entry("open")[1:]],
    ]
    assert log.entry("old07") == ["old07", 7, 1, 1, 0]
    log.do("set", key="old07", value="new")
    log.do("increment", key="old08")
    assert log.do("cas", key="old09", expected=9, value="swapped") is True
    log.do("set", key="new", value=1)
    expected = [["new", 1, 104, 104, 0], ["old07", "new", 1, 101, 0], ["old08", 9, 1, 102, 0]]
    for _ in range(2):
        assert [log.entry(key) for key in ("new", "old07", "old08")] == expected
        assert log.machine.query({"entries": ""})[:1] == [["new", 1, 104, 104, 0]]
        batch = Batch()
        log.machine.checkpoint(batch)
        tables.commit(batch)
        log.machine.checkpointed()
    chunks = list(KeyValueMachine.export(tables, 3))
    alone = KeyValueMachine()
    alone.restore(chunks)
    assert list(alone.whole_state()) == list(log.machine.whole_state())
    old = KeyValueMachine()
    old.restore([msgpack.packb([(b"a", b"\x01"), (b"b", b"\x02")])])
    assert old.query({"entries": ""}) == [["a", 1, 1, 1, 0], ["b", 2, 1, 1, 0]]
    tables.close()


def test_a_plain_set_reads_no_table_and_the_checkpoint_finds_out_when_its_key_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables, log = MemoryTables(), Log()
    log.machine.bind(tables, 0)

    def save() -> None:
        batch = Batch()
        log.machine.checkpoint(batch)
        tables.commit(batch)
        log.machine.checkpointed()

    log.do("set", key="k", value=1)
    save()
    with monkeypatch.context() as patch:
        for name in ("get", "look", "scan"):
            patch.setattr(tables, name, lambda *_: pytest.fail("the table was read"))
        for _ in range(3):
            log.do("set", key="k", value=2)
            log.do("set", key="other", value=2)
    assert log.entry("k") == ["k", 2, 1, 6, 0]
    assert log.entry("other") == ["other", 2, 3, 7, 0]
    save()
    assert log.entry("k") == ["k", 2, 1, 6, 0]
    assert log.entry("other") == ["other", 2, 3, 7, 0]


# --- appended keys ----------------------------------------------------------------------------------------------------


def test_appended_keys_sort_in_the_order_in_which_they_were_made() -> None:
    log = Log()
    made = [log.do("append", prefix="q/", value=n) for n in range(12)]
    made += log.do("batch", ops=[{"type": "append", "prefix": "q/", "value": n} for n in range(11)])
    made.append(log.do("append", prefix="q/", value=1))
    assert made == sorted(made) == log.keys
    assert made[0] == "q/0000000000000001"
    assert made[12] == "q/0000000000000013-00000"
    assert made[-2] == "q/0000000000000013-00010"


def test_an_appended_key_takes_no_other_ones_place() -> None:
    log = Log()
    log.do("set", key=f"q/{2:016}", value="mine")
    assert "exists: somebody wrote it by this name" in log.failed("append", prefix="q/", value=1)
    assert log.machine.query(f"q/{2:016}") == "mine"
    assert "at most 400 bytes" in log.failed("append", prefix="q" * (KEY_BYTES_MAX - 15), value=1)
    assert "a prefix is a text" in log.failed("append", prefix=1, value=1)


# --- leases -----------------------------------------------------------------------------------------------------------


def test_keys_go_with_their_lease_and_only_those_that_still_hang_on_it() -> None:
    log = Log()
    lease = log.do("lease_grant", ttl_ms=1000)
    assert lease == 1
    for key in "abcd":
        log.do("set", key=key, value=1, lease=lease)
    log.do("set", key="a", value=2)
    log.do("increment", key="b")
    assert log.do("cas", key="c", expected=1, value=2) is True
    log.do("delete", key="d")
    assert log.machine.query({"lease": lease}) == [lease, 1000, 1000, ["b"]]
    log.now_ms = 999
    log.do("expire")
    assert log.keys == ["a", "b", "c"]
    assert log.machine.query({"leases": 0}) == [[lease, 1000, 1, 1]]
    log.now_ms = 1000
    assert log.do("get", key="b") is None, "what is due ends before the command"
    assert log.keys == ["a", "c"]
    assert log.machine.query({"lease": lease}) is None


def test_leases_end_before_a_command_that_fails() -> None:
    log = Log()
    log.do("set", key="k", value="text", ttl_ms=100)
    log.now_ms = 100
    with pytest.raises(ValueError, match="lease 7 does not exist: it expired or was revoked"):
        log.do("set", key="k", value=1, lease=7)
    assert log.keys == []


def test_a_lease_is_kept_alive_revoked_and_then_gone() -> None:
    log = Log()
    lease = log.do("lease_grant", ttl_ms=500)
    log.do("set", key="a", value=1, lease=lease)
    log.now_ms = 400
    assert log.do("lease_keep_alive", lease=lease) == 500
    log.now_ms = 899
    log.do("set", key="b", value=1, lease=lease)
    assert log.do("lease_revoke", lease=lease) == 2
    assert log.keys == []
    assert log.do("lease_revoke", lease=lease) == 0
    text = f"lease {lease} does not exist: it expired or was revoked"
    assert log.failed("lease_keep_alive", lease=lease) == text
    assert log.failed("cas", key="a", expected=9, value=1, lease=lease) == text


def test_a_time_to_live_is_that_of_one_key_until_it_is_written_again() -> None:
    log = Log()
    log.do("set", key="a", value=1, ttl_ms=1000)
    log.do("set", key="b", value=1, ttl_ms=1000)
    log.do("set", key="c", value=1, ttl_ms=1000)
    assert log.entry("a")[4] == 1
    assert log.failed("set", key="x", value=1, lease=1) == "lease 1 is the time to live of the key 'a' alone"
    log.do("set", key="a", value=2)
    log.do("set", key="b", value=2, lease=2)
    log.do("increment", key="c")
    log.do("set", key="d", value=1, ttl_ms=1000)
    log.do("delete", key="d")
    assert log.machine.query({"leases": 0}) == [[2, 1000, 1000, 1], [3, 1000, 1000, 1]]
    assert log.do("lease_keep_alive", lease=3) == 1000
    log.now_ms = 1000
    log.do("expire")
    assert log.keys == ["a"]


def test_each_op_of_a_batch_has_a_time_to_live_of_its_own() -> None:
    log = Log()
    ops = [{"type": "set", "key": f"k{n}", "value": n, "ttl_ms": 1000 * (n + 1)} for n in range(3)]
    log.do("batch", ops=[*ops, {"type": "append", "prefix": "q", "value": 1, "ttl_ms": 500}])
    ids = [lease for lease, *_ in log.machine.query({"leases": 0})]
    assert ids == [1, 1 + (1 << OWN_BITS), 1 + (2 << OWN_BITS), 1 + (3 << OWN_BITS)]
    for now, left in ((500, ["k0", "k1", "k2"]), (1000, ["k1", "k2"]), (2000, ["k2"]), (3000, [])):
        log.now_ms = now
        log.do("expire")
        assert log.keys == left


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("lease_grant", {"ttl_ms": 99}, "ttl_ms is a number of milliseconds from 100 to 31536000000, not 99"),
        ("lease_grant", {"ttl_ms": TTL_MS_MAX + 1}, "ttl_ms is a number"),
        ("lease_grant", {"ttl_ms": True}, "ttl_ms is a whole number, not bool"),
        ("lease_grant", {}, "lease_grant needs ttl_ms"),
        ("set", {"key": "k", "value": 1, "lease": 1, "ttl_ms": 100}, "not both"),
        ("set", {"key": "k", "value": 1, "lease": "1"}, "the id of a lease is a whole number, not str"),
        ("set", {"key": "k", "value": 1, "lease": None}, "the id of a lease is a whole number, not NoneType"),
        ("set", {"key": "k", "value": 1, "ttl_ms": None}, "ttl_ms is a whole number, not NoneType"),
        ("lease_revoke", {"lease": True}, "the id of a lease is a whole number"),
        ("lease_keep_alive", {"lease": 0}, "lease 0 does not exist"),
        ("expire", {"now": 1}, "expire knows no 'now'"),
        ("batch", {"ops": [{"type": "lease_grant", "ttl_ms": 100}]}, "lease_grant cannot be a part"),
        ("batch", {"ops": [{"type": "expire"}]}, "expire cannot be a part"),
        ("batch", {"ops": [{"type": "transaction"}]}, "transaction cannot be a part"),
    ],
)
def test_what_cannot_be_a_lease_changes_nothing(kind: str, payload: dict[str, Any], text: str) -> None:
    log = Log()
    log.do("set", key="k", value=0, ttl_ms=1000)
    assert text in log.failed(kind, **payload)


def test_a_batch_that_fails_leaves_every_lease_as_it_was() -> None:
    log = Log()
    one, other = log.do("lease_grant", ttl_ms=1000), log.do("lease_grant", ttl_ms=2000)
    log.do("set", key="a", value=1, lease=one)
    log.do("set", key="own", value=1, ttl_ms=3000)
    log.now_ms = 500
    ops = [
        {"type": "set", "key": "a", "value": 2, "lease": other},
        {"type": "set", "key": "own", "value": 2, "lease": one},
        {"type": "set", "key": "new", "value": 2, "ttl_ms": 100},
        {"type": "lease_keep_alive", "lease": one},
        {"type": "lease_revoke", "lease": other},
        {"type": "delete", "key": "new"},
        {"type": "lease_revoke", "lease": one},
        {"type": "set", "key": "z", "value": 1, "lease": one},
    ]
    assert log.failed("batch", ops=ops) == f"op 7 of the batch: lease {one} does not exist: it expired or was revoked"
    told = [[one, 1000, 500, 1], [other, 2000, 1500, 0], [4, 3000, 2500, 1]]
    assert log.machine.query({"leases": 0}) == told
    assert log.do("batch", ops=ops[:-1]) == [None, None, None, 1000, 1, True, 1]
    assert log.keys == []
    assert log.machine.query({"leases": 0}) == []
    log.now_ms = 10_000
    log.do("expire")
    assert log.machine.due_ms is None


def test_a_lease_holds_so_many_keys_and_one_command_revokes_no_more() -> None:
    log = Log()
    first, second = log.do("lease_grant", ttl_ms=1000), log.do("lease_grant", ttl_ms=1000)

    def fill(lease: int, name: str, count: int) -> None:
        for start in range(0, count, 5000):
            numbers = range(start, min(count, start + 5000))
            log.do("batch", ops=[{"type": "set", "key": f"{name}{n:05}", "value": n, "lease": lease} for n in numbers])

    fill(first, "k", KEYS_MAX)
    log.do("set", key="k00000", value="again", lease=first)
    assert "10000 keys already" in log.failed("set", key="one more", value=1, lease=first)
    fill(second, "l", 1)
    text = log.failed("batch", ops=[{"type": "lease_revoke", "lease": lease} for lease in (first, second)])
    assert text == "op 1 of the batch: it deletes more than 10000 keys with their leases: split the batch"
    outcome = outcome_of(log.machine.query({"lease": first}), 1)
    assert outcome.code == ""
    assert len(outcome.payload) < RESULT_BYTES_MAX - KEYS_MAX * (KEY_BYTES_MAX - 6), "with the longest keys too"
    log.now_ms = 1000
    log.do("expire")
    assert log.keys == ["l00000"], "one entry stops behind so many deletions"
    assert log.machine.due_ms == 1000
    log.do("expire")
    assert log.keys == []


def test_there_are_so_many_leases_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASED_MAX", 4)
    log = Log()
    lease = log.do("lease_grant", ttl_ms=100)
    log.do("set", key="a", value=1, lease=lease)
    log.do("set", key="b", value=1, ttl_ms=100)
    for kind, payload in (
        ("lease_grant", {"ttl_ms": 100}),
        ("set", {"key": "c", "value": 1, "lease": lease}),
        ("set", {"key": "c", "value": 1, "ttl_ms": 100}),
    ):
        assert "no more are held" in log.failed(kind, **payload)
    log.do("set", key="a", value=2, lease=lease)
    log.now_ms = 100
    log.do("lease_grant", ttl_ms=100)


def test_leases_that_come_and_go_take_no_memory() -> None:
    log = Log()
    for _ in range(1000):
        log.do("set", key="k", value=1, ttl_ms=TTL_MS_MAX)
    assert len(log.machine.leases.heap) < 200
    assert log.machine.due_ms == TTL_MS_MAX


def test_what_ends_does_not_depend_on_how_deep_the_stack_is() -> None:
    """A call that fails for want of frames is made again; what it had ended before must not count twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "EXPIRED_MAX", 2)
        outcomes, states = [], []
        for frames in range(16, 70):  # with less no call of a machine can be made again
            log = Log()
            for _ in range(5):
                log.do("lease_grant", ttl_ms=100)
            entry = Entry(9, 1, 0, Command("set", {"key": "k", "value": [[[1]]]}), 100)

            def deep(left: int, log: Log = log, entry: Entry = entry) -> Any:
                return deep(left - 1) if left else apply_one(log.machine, entry)

            depth = 0
            frame: Any = sys._getframe()
            while frame is not None:
                depth, frame = depth + 1, frame.f_back
            try:
                outcomes.append(deep(sys.getrecursionlimit() - depth - frames))
            except RecursionError:
                continue
            states.append(list(log.machine.whole_state()))
        assert len(states) > 30
        assert set(outcomes) == {outcomes[0]}
        assert all(one == states[0] for one in states)
        assert len(states[0]) == 1 + 3


# --- to disk ----------------------------------------------------------------------------------------------------------


def test_leases_do_not_count_as_keys_and_are_found_again(tmp_path: Path) -> None:
    tables = LmdbTables(tmp_path / "tables")
    log = Log()
    log.machine.bind(tables, 1)
    lease = log.do("lease_grant", ttl_ms=1000)
    for key in ("a", "é", "\U0010ffff"):
        log.do("set", key=key, value=1, lease=lease)
    log.do("set", key="own", value=1, ttl_ms=500)

    def save() -> None:
        batch = Batch()
        log.machine.checkpoint(batch)
        tables.commit(batch)
        log.machine.checkpointed()

    save()
    assert tables.count("kv") == 4 + 2 + 3
    assert log.machine.query({"count": ""}) == 4
    assert [row[0] for row in log.machine.query({"entries": "", "reverse": True})] == ["\U0010ffff", "é", "own", "a"]
    again = KeyValueMachine()
    again.bind(tables, 1, log.index, 0)
    assert list(again.whole_state()) == list(log.machine.whole_state())
    assert again.due_ms == 500
    log.do("lease_revoke", lease=lease)
    log.do("delete", key="own")
    save()
    assert tables.count("kv") == 0
    tables.close()


@pytest.mark.parametrize(
    ("key", "row"),
    [
        (b"\xff", b"\x91\x01"),
        (b"\xff\x00", b""),
        (b"\xff" + bytes(8), b"\x93\x01\x02\x03"),
        (b"\xff" + bytes(8), b"\xc0"),
        (b"\xff" + bytes(8) + b"k", b"\x01"),
        (b"\xff" + bytes(8) + b"\xff", b""),
        (b"k", b""),
        (b"k", b"\xc1" + bytes(24)),
        (b"k", b"\xc1\x80" + bytes(23) + b"\x01"),
    ],
)
def test_a_row_that_cannot_be_is_corruption(key: bytes, row: bytes) -> None:
    chunk = msgpack.packb([(key, row)])
    batch = Batch()
    with pytest.raises(CorruptionError):
        KeyValueMachine.import_chunk(batch, 1, chunk)
    assert not batch
    machine = KeyValueMachine()
    with pytest.raises(CorruptionError):
        machine.restore([chunk])


def test_a_key_on_a_lease_that_is_missing_is_corruption() -> None:
    tables, batch = MemoryTables(), Batch()
    KeyValueMachine.import_chunk(batch, 1, msgpack.packb([(b"\xff" + bytes(8) + b"k", b"")]))
    tables.commit(batch)
    with pytest.raises(CorruptionError, match="the lease is missing"):
        KeyValueMachine().bind(tables, 1)
