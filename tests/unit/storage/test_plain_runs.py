"""Plain runs: the built-in machine takes many sets at once, and nobody can tell it from one set after the other."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import msgpack
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.applying import READ_ENTRIES, RUN_ENTRIES_MIN, Applied, Applier
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, Record, count_alike, encode, encode_untimed
from forge_consensus.storage.ledger.time_slice import TimeSlice
from forge_consensus.storage.ledger.transaction import META
from forge_consensus.storage.machines import kv_tables, session_rows
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_commands import KEY_BYTES_MAX, VALUE_BYTES_MAX
from forge_consensus.storage.machines.machine import ApplyFaultError, Command, Entry, PlainRun
from tests.worlds.effort import effort

SESSION_TTL_MS = 3000


def put(key: Any, value: Any = 1, **more: Any) -> bytes:
    return Command("set", {"key": key, "value": value, **more}).encode()


def packed(*parts: Any) -> bytes:
    """Bytes that a client of another kind may send."""
    data: bytes = msgpack.packb(parts)
    return data


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


PLAIN = {
    "text": put("a", "text"),
    "bytes": put("b", b"x" * 300),
    "number": put("c", 2**64 - 1),
    "nothing": put("d", None),
    "nested": put("e", {"list": [1, {"of": "things"}]}),
    "again": put("a", "other"),
    "correlated": Command("set", {"key": "f", "value": 1}, "id-7").encode(),
    "longest key": put("k" * KEY_BYTES_MAX),
    "odd bytes for the same value": b"\x92\xa3set\x82\xa3key\xd9\x01a\xa5value\xdb\x00\x00\x00\x01x",
    "other order of the fields": packed("set", {"value": 5, "key": "g"}),
    "a time": packed("set", {"key": "i", "value": msgpack.Timestamp(5, 0)}),
    "no correlation id": packed("set", {"key": "h", "value": 1}, None),
}
"""Commands that are taken at once."""
OTHERS = {
    "a key of two bytes a character": put("\u00e9"),
    "too long a key": put("k" * (KEY_BYTES_MAX + 1)),
    "no key": put(""),
    "a number as key": put(5),
    "bytes as key": put(b"a"),
    "a lease": put("a", lease=1),
    "a time to live": put("a", ttl_ms=700),
    "another field": put("a", other=1),
    "no value": packed("set", {"key": "a"}),
    "too deep": packed("set", {"key": "a", "value": nested(70)}),
    "a long correlation id": packed("set", {"key": "a", "value": 1}, "x" * 300),
    "four parts": packed("set", {"key": "a", "value": 1}, "id", 4),
    "a list for a map": packed("set", ["key", "value"]),
    "a number for a map": packed("set", 5),
    "bytes for a name": packed(b"set", {"key": "a", "value": 1}),
    "junk": b"\xc1",
    "nothing at all": b"",
    "increment": Command("increment", {"key": "n", "by": 1}).encode(),
    "delete": Command("delete", {"key": "a"}).encode(),
    "get": Command("get", {"key": "a"}).encode(),
    "cas": Command("cas", {"key": "a", "expected": 1, "value": 2}).encode(),
    "append": Command("append", {"prefix": "q/", "value": 1}).encode(),
    "batch": Command("batch", {"ops": [{"type": "set", "key": "a", "value": 9}]}).encode(),
    "grant": Command("lease_grant", {"ttl_ms": 900}).encode(),
    "unknown": Command("no such", {}).encode(),
}
MOSTLY = [*sorted(PLAIN)] * 12 + [*sorted(OTHERS)]
FRAME = st.tuples(
    st.sampled_from([1, 1, 1, 2, 2, 2, 0, 9]),
    st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1, -4]),
    st.sampled_from([1, 2, 5, 13, 0, -2]),
    st.sampled_from([0, 1, 40, 300, 2000]),
    st.sampled_from(["command"] * 7 + ["again", "gap", "noop", "open", "untimed"]),
    st.lists(st.sampled_from(MOSTLY), min_size=1, max_size=11),
)
"""Session, how far its first number is from the next one of the session, how far below that the client's mark is,
elapsed milliseconds, kind, and the commands."""


def history(frames: list[Any]) -> Log:
    """The log of frames that clients sent: each has one head, and numbers that go on from the first."""
    ttl = SESSION_TTL_MS.to_bytes(8)
    records = [encode(index, 1, Kind.SESSION, 0, data=ttl) for index in (1, 2)]
    elapsed_ms, next_seq = 0, Counter[int]()
    for session, off, below, later_ms, kind, commands in frames:
        elapsed_ms += later_ms
        index = len(records) + 1
        first = max(0, next_seq[session] + off)
        mark = max(0, first - below)
        if kind == "noop":
            records.append(encode(index, 2, Kind.NOOP, 5, elapsed_ms=elapsed_ms))
        elif kind == "open":
            records.append(encode(index, 2, Kind.SESSION, 5, data=ttl, elapsed_ms=elapsed_ms))
        else:
            step = {"again": 0, "gap": 2}.get(kind, 1)
            for place, name in enumerate(commands):
                data = PLAIN.get(name) or OTHERS[name]
                seq = first + step * place
                next_seq[session] = max(next_seq[session], seq + 1)
                records.append(
                    encode_untimed(index + place, 2, Kind.COMMAND, elapsed_ms, data)
                    if kind == "untimed"
                    else encode(index + place, 2, Kind.COMMAND, 7, session, seq, mark, data, elapsed_ms)
                )
    log = Log(MemoryTables(), 1 << 24)
    log.append(records)
    return log


class Counting(KeyValueMachine):
    """Counts what it took at once."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def apply_plain(self, run: PlainRun) -> int:
        count = super().apply_plain(run)
        self.taken += count
        return count


class Node:
    """A machine in the ledger with its sessions; `at_once` says whether it takes plain runs."""

    def __init__(self, log: Log, *, at_once: bool) -> None:
        self.log, self.tables, self.machine = log, MemoryTables(), Counting()
        self.applier = Applier(self.tables, self.machine)
        sessions = self.applier.sessions
        sessions.outcomes_max, sessions.outcome_bytes_max, sessions.kept_bytes_max = 30, 5000, 7000
        self.applier.load()
        if not at_once:
            self.applier.apply_plain = None

    def run(self, count_max: int) -> list[Applied]:
        return self.applier.run(self.log, self.log.last, count_max)

    def checkpoint(self) -> None:
        batch = Batch()
        self.applier.checkpoint(batch, b"")
        self.tables.commit(batch)
        self.applier.checkpointed()

    def state(self) -> list[Any]:
        """All that can be seen of it."""
        applier, machine = self.applier, self.machine
        oldest = machine.history.oldest
        changes = machine.query({"changes": "", "since": oldest, "limit": 10_000}) if oldest < 1 << 62 else None
        times = (applier.index, applier.term, applier.time_ms, applier.elapsed_ms)
        kept = [
            (key, one.head, one.kept_bytes, list(one.outcomes.items())) for key, one in applier.sessions.live.items()
        ]
        memory = (machine.dirty, applier.dirty_keys, applier.sessions.kept_bytes, sorted(applier.sessions.dirty))
        leased = (machine.due_ms, machine.query({"leases": 0}), machine.leases.now_ms)
        return [times, kept, applier.sessions.export(), memory, list(machine.whole_state()), changes, leased]

    def rows(self) -> list[Any]:
        """All that is on its disk."""
        return [
            row
            for table in (kv_tables.TABLE, session_rows.TABLE, META)
            for row in self.tables.scan(table, b"", b"\xff" * 40)
        ]


@settings(max_examples=effort(150, 3000), deadline=None)
@given(
    st.lists(FRAME, max_size=14),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_random_histories_leave_the_same_state_and_outcomes_both_ways(
    frames: list[Any], cuts: list[int], other_cuts: list[int]
) -> None:
    log = history(frames)
    one, many = Node(log, at_once=False), Node(log, at_once=True)
    outcomes: list[list[Applied]] = []
    for node, lengths in ((one, cuts), (many, other_cuts)):
        done: list[Applied] = []
        while node.applier.index < log.last:
            done += node.run(lengths[len(done) % len(lengths)])
        outcomes.append(done)
    event(f"taken at once: {min(many.machine.taken, 12)}")
    assert outcomes[0] == outcomes[1]
    assert all(type(each) is Applied for each in outcomes[1])
    assert many.state() == one.state()
    for node in (one, many):
        node.checkpoint()
    assert many.rows() == one.rows()
    assert many.state() == one.state()
    assert one.machine.taken == 0


def test_plain_sets_of_one_frame_are_taken_at_once_and_each_is_an_entry_of_its_own() -> None:
    frame = (1, 1, 1, 10, "command", [*sorted(PLAIN)])
    node = Node(history([frame]), at_once=True)
    done = node.run(1000)
    assert node.machine.taken == len(PLAIN)
    assert [each.index for each in done] == list(range(1, 3 + len(PLAIN)))
    assert [each.seq for each in done[2:]] == list(range(1, 1 + len(PLAIN)))
    assert node.machine.query({"entry": "b"})[2:4] == [done[2 + sorted(PLAIN).index("bytes")].index] * 2


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_is_not_plain_ends_a_run_and_is_looked_at_by_itself(name: str) -> None:
    plain = ["text", "bytes", "number", "nothing", "again"]
    log = history([(1, 1, 1, 10, "command", [*plain, name, *plain])])
    one, many = Node(log, at_once=False), Node(log, at_once=True)
    assert many.run(1000) == one.run(1000)
    assert many.machine.taken == len(plain)
    assert many.state() == one.state()


@pytest.mark.parametrize("bound", ["outcomes_max", "outcome_bytes_max", "kept_bytes_max"])
def test_a_session_near_a_bound_is_asked_for_each_command(bound: str) -> None:
    log = history([(1, 1, 20, 10, "command", ["text"] * 4), (1, 0, 20, 10, "command", ["text"] * 4)])
    nodes = Node(log, at_once=False), Node(log, at_once=True)
    for node in nodes:
        sessions = node.applier.sessions
        sessions.outcomes_max, sessions.outcome_bytes_max, sessions.kept_bytes_max = 100, 1 << 30, 1 << 30
        setattr(sessions, bound, 6 if bound == "outcomes_max" else 6 * 257)
    outcomes = [node.run(1000) for node in nodes]
    assert outcomes[0] == outcomes[1]
    assert nodes[1].machine.taken == 4
    assert nodes[1].state() == nodes[0].state()
    refused = [each.outcome.code for each in outcomes[1] if each.outcome.code]
    assert len(refused) == 2, "the bound was never reached"


def test_a_class_of_ones_own_sees_every_command() -> None:
    class Watching(KeyValueMachine):
        seen = 0

        def apply(self, entry: Entry) -> Any:
            self.seen += 1
            return super().apply(entry)

    machine, log = Watching(), history([(1, 1, 1, 10, "command", ["text"] * 6)])
    Applier(MemoryTables(), machine).run(log, log.last, 100)
    assert machine.seen == 6


def test_too_large_a_value_is_no_plain_one() -> None:
    machine = KeyValueMachine()
    fits, larger = put("a", bytes(VALUE_BYTES_MAX - 5)), put("a", bytes(VALUE_BYTES_MAX))
    assert machine.apply_plain(PlainRun(1, 1, 0, 0, [fits, larger, fits])) == 1


def test_leases_that_are_due_end_before_and_a_leased_key_is_looked_at_by_itself() -> None:
    frames = [
        (1, 1, 1, 10, "command", ["a time to live"]),
        (1, 0, 1, 10, "command", ["bytes", "number", "nothing", "nested", "text", "bytes"]),
        (1, 0, 1, 10, "command", ["a time to live"]),
        (1, 0, 1, 800, "command", ["bytes", "number", "nothing", "nested", "text", "bytes"]),
        (1, 0, 1, 10, "command", ["bytes", "number", "nothing", "nested", "text", "bytes"]),
    ]
    log = history(frames)
    one, many = Node(log, at_once=False), Node(log, at_once=True)
    for node in (one, many):
        node.applier.sessions.outcomes_max = 100
        node.applier.sessions.outcome_bytes_max = node.applier.sessions.kept_bytes_max = 1 << 20
    assert many.run(1000) == one.run(1000)
    assert many.machine.taken == 4 + 6
    assert many.state() == one.state()


def test_a_slice_ends_behind_a_run_when_its_time_is_over_and_names_it_if_it_was_slow() -> None:
    log = Log(MemoryTables(), 1 << 24)
    log.append([encode(1, 1, Kind.SESSION, 0, data=SESSION_TTL_MS.to_bytes(8))])
    log.append([encode(index, 1, Kind.COMMAND, 0, 1, index, 0, put(f"k{index}")) for index in range(2, 700)])
    clock = [0]

    class Slow(Counting):
        def apply_plain(self, run: PlainRun) -> int:
            clock[0] += 300_000_000
            return super().apply_plain(run)

    machine = Slow()
    applier = Applier(MemoryTables(), machine)
    done = applier.run(log, log.last, 4096, TimeSlice(lambda: clock[0], 0.025, 0.1))
    assert len(done) == machine.taken + 1 == READ_ENTRIES
    assert applier.slow == (READ_ENTRIES, READ_ENTRIES - 1, "set", 0.3)


def test_a_fault_of_a_run_names_its_first_entry() -> None:
    class Broken(KeyValueMachine):
        def put_plain(self, index: int, key: str, value: bytes) -> None:
            raise MemoryError

    log = history([(1, 1, 1, 10, "command", ["text"] * 6)])
    with pytest.raises(ApplyFaultError, match=r"log entry 3 could not be applied: MemoryError"):
        Applier(MemoryTables(), Broken()).run(log, log.last, 100)


def test_how_deep_the_stack_is_changes_nothing() -> None:
    log = history([(1, 1, 1, 10, "command", ["nested", "text", "bytes", "number", "correlated"])])
    expected = Node(log, at_once=False)
    outcomes = expected.run(100)

    def deep(node: Node, frames: int) -> list[Applied]:
        return deep(node, frames - 1) if frames else node.run(100)

    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    taken = set()
    for left in range(12, 60):
        node = Node(log, at_once=True)
        try:
            found = deep(node, sys.getrecursionlimit() - depth - left)
        except (RecursionError, ApplyFaultError):  # not even the calls around the machine fit
            continue
        assert found == outcomes
        assert node.state() == expected.state()
        taken.add(node.machine.taken)
    assert taken == {0, 5}


def test_records_are_alike_as_far_as_only_their_numbers_and_data_differ() -> None:
    head: dict[str, int] = {"term": 3, "kind": Kind.COMMAND, "time_ms": 5, "session": 9, "done_below": 2}
    one = [encode(1, **head, seq=7, data=b"a", elapsed_ms=4), encode(2, **head, seq=1 << 40, data=b"bb", elapsed_ms=4)]
    assert count_alike(one, 0) == 2
    assert count_alike(one, 1) == 1
    for field in ("term", "kind", "time_ms", "session", "done_below", "elapsed_ms"):
        other = {**head, "elapsed_ms": 4}
        other[field] += 1
        assert count_alike([one[0], encode(2, **other, seq=8, data=b"c")], 0) == 1, field
    assert set(head) | {"elapsed_ms", "seq", "data", "index"} == set(Record._fields)
    untimed = encode_untimed(1, 1, Kind.COMMAND, 5, b"a" * 60)
    assert count_alike([untimed, untimed], 0) == 1
    assert RUN_ENTRIES_MIN > 1
