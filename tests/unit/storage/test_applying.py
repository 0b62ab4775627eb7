"""Applying: machine, sessions and applied index move as one, in memory and to disk, once for every command."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError, StorageError, UnavailableError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.applying import Applier, Point, header_of, point_of, stored_point
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode, encode_untimed
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import ApplyFaultError, Command, Entry
from tests.worlds.backends import BACKENDS
from tests.worlds.effort import effort
from tests.worlds.ledger_world import LIMITS, TallyMachine, World, increment, put


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    yield made
    made.close()


def open_session(world: World, term: int) -> int:
    with world.turn():
        return world.ledger.propose(term, [Proposal(Kind.SESSION, 0, 0, 0, (60_000).to_bytes(8))])[0]


def test_each_entry_gets_one_outcome_in_order(world: World) -> None:
    world.lead()
    done = world.do(put("a", 1), b"no command", increment("n"), Command("no such", {}).encode())
    assert [each.index for each in done] == [1, 2, 3, 4, 5, 6]
    failed = "CONSENSUS_COMMAND_FAILED"
    assert [each.outcome.code for each in done] == ["", "", "", failed, "", failed]
    assert world.state == {"a": 1, "n": 1}


def test_a_slice_is_no_longer_than_asked(world: World) -> None:
    world.lead()
    world.propose(*[increment("n")] * 20)
    lengths = []
    while done := world.settle(count_max=6):
        lengths.append(len(done))
    assert lengths == [6, 6, 6, 4]
    assert world.state == {"n": 20}


def test_a_retry_gets_the_first_result_also_after_a_checkpoint_and_a_crash(world: World) -> None:
    session = open_session(world, world.lead())
    world.settle()
    world.propose(increment("n"), increment("n"), session=session)
    assert [msgpack.unpackb(done.outcome.payload) for done in world.settle()] == [1, 2]
    world.checkpoint()
    world.crash()
    assert world.state == {"n": 2}
    world.lead()
    world.propose(increment("n"), session=session, seq=2)
    assert msgpack.unpackb(world.settle()[-1].outcome.payload) == 2
    assert world.state == {"n": 2}
    world.propose(increment("n"), session=999)
    assert world.settle()[-1].outcome.code == "CONSENSUS_SESSION_EXPIRED"


def test_after_every_transaction_a_crash_and_replay_give_the_same_state(tmp_path: Path) -> None:
    class Recording(MemoryTables):
        def __init__(self) -> None:
            super().__init__()
            self.clones: list[MemoryTables] = []

        def commit(self, batch: Any) -> None:
            super().commit(batch)
            if batch:
                self.clones.append(self.clone_durable())

    tables = Recording()
    limits = replace(LIMITS, checkpoint_entries=7, tail_bytes_max=500)
    world = World("memory", tmp_path, tables=tables, limits=limits)
    session = open_session(world, world.lead())
    world.settle()
    for turn in range(30):
        world.propose(increment("n"), increment(f"k{turn % 5}"), session=session, seq=2 * turn + 1)
        if turn % 3:
            world.settle(count_max=turn % 4 + 1)
    world.settle()
    assert world.state["n"] == 30
    assert len({clone.get("meta", b"applied") for clone in tables.clones}) > 5
    for clone in tables.clones:
        again = World("memory", tmp_path, tables=clone, limits=limits)
        on_disk = again.ledger.applied
        assert on_disk <= again.ledger.commit_index <= again.ledger.log.last
        with again.turn():
            replayed = again.ledger.apply(1000)
        assert [done.index for done in replayed] == list(range(on_disk + 1, again.ledger.commit_index + 1))
        commands = max(0, again.ledger.commit_index - session)
        assert again.state.get("n", 0) == (commands + 1) // 2
        assert sum(again.state.values()) == commands
        if session <= again.ledger.commit_index:
            assert len(again.ledger.applier.sessions.live[session].outcomes) == commands


def test_applying_goes_on_between_a_failed_and_a_good_checkpoint(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    world.lead()
    world.do(put("a", 1))
    world.ledger.applier.checkpoint(Batch(), b"")  # staged, and then the turn did not happen
    world.do(put("b", 2))
    world.checkpoint()
    world.crash()
    assert world.state == {"a": 1, "b": 2}


def times_seen(records: list[bytes], *, batched: bool) -> list[tuple[int, int]]:
    """The (wall time, elapsed time) of each entry as a machine sees them."""
    seen: list[tuple[int, int]] = []

    class Clocked(TallyMachine):
        def apply(self, entry: Entry) -> Any:
            seen.append((entry.time_ms, entry.elapsed_ms))

    class ClockedInRuns(Clocked):
        def apply_run(self, entries: Sequence[Entry]) -> list[Any]:
            return [self.apply(entry) for entry in entries]

    log = Log(MemoryTables(), 10_000)
    log.append(records)
    Applier(MemoryTables(), ClockedInRuns() if batched else Clocked()).run(log, len(records), 100)
    return seen


@pytest.mark.parametrize("batched", [False, True])
def test_the_elapsed_time_never_goes_back_and_the_wall_time_is_the_leaders(batched: bool) -> None:
    times = [(1000, 10), (5000, 20), (3000, 20), (5001, 15), (1, 30)]
    records = [
        encode(n, 1, Kind.COMMAND, wall, data=put("k", 1), elapsed_ms=elapsed)
        for n, (wall, elapsed) in enumerate(times, 1)
    ]
    assert times_seen(records, batched=batched) == [(1000, 10), (5000, 20), (3000, 20), (5001, 20), (1, 30)]


@pytest.mark.parametrize("batched", [False, True])
def test_the_one_time_of_entries_of_format_2_stands_for_both_and_never_goes_back(batched: bool) -> None:
    times = [1000, 5000, 3000, 5001, 1]
    records = [encode_untimed(n, 1, Kind.COMMAND, time, put("k", 1)) for n, time in enumerate(times, 1)]
    records.append(encode(6, 1, Kind.COMMAND, 4000, data=put("k", 1), elapsed_ms=5002))
    old = [1000, 5000, 5000, 5001, 5001]
    assert times_seen(records, batched=batched) == [*zip(old, old, strict=True), (4000, 5002)]


@pytest.mark.parametrize("kind", ["apply", "sessions"])
def test_a_fault_of_the_package_in_applying_names_the_entry_and_is_fatal(tmp_path: Path, kind: str) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.propose(Command("add").encode(), Command("disk").encode(), Command("add").encode())
    if kind == "sessions":
        world.ledger.applier.apply_command = None  # type: ignore[method-assign,assignment]
    with pytest.raises(ApplyFaultError, match=r"log entry [34] could not be applied") as caught:
        world.settle()
    assert caught.value.fatal


def test_a_damaged_entry_met_while_applying_stops_the_node_and_is_not_applied(world: World) -> None:
    world.lead()
    world.propose(increment("n"), increment("n"), increment("n"))
    log = world.ledger.log
    log.forget_oldest(len(log.tail))
    damaged = log.get(4)[:-1] + b"?"
    world.write(lambda batch: batch.put("log", (4).to_bytes(8), damaged))
    with pytest.raises(CorruptionError, match="log entry 4 fails"):
        world.settle()
    assert world.ledger.applied <= 3


class Runner(TallyMachine):
    """Takes several commands at once."""

    def apply_run(self, run: Sequence[Entry]) -> list[Any]:
        outcomes: list[Any] = []
        for entry in run:
            try:
                outcomes.append(self.apply(entry))
            except ValueError as error:
                outcomes.append(error)
        return outcomes


LINE = st.tuples(
    st.sampled_from(["add", "fail", "noop", "junk", "open"]), st.integers(0, 6), st.integers(0, 5), st.integers(0, 4)
)


@settings(max_examples=effort(50, 150), deadline=None)
@given(st.lists(LINE, max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_the_size_of_batches_changes_no_applied_state(lines: list[Any], cuts: list[int]) -> None:
    log = Log(MemoryTables(), 1 << 20)
    for index, (what, session, seq, mark) in enumerate([("open", 0, 0, 0), *lines], 1):
        kind = {"noop": Kind.NOOP, "open": Kind.SESSION}.get(what, Kind.COMMAND)
        data = b"\xc1" if what == "junk" else (3000).to_bytes(8) if what == "open" else Command(what).encode()
        log.append([encode(index, 1, kind, 700 * index, session, seq, mark, data)])
    one, many = Applier(MemoryTables(), TallyMachine()), Applier(MemoryTables(), Runner())
    singly = one.run(log, log.last, 1000)
    in_runs: list[Any] = []
    while many.index < log.last:
        in_runs += many.run(log, log.last, cuts[len(in_runs) % len(cuts)])
    assert in_runs == singly
    assert many.sessions.export() == one.sessions.export()
    assert (many.index, many.term, many.time_ms) == (one.index, one.term, one.time_ms)
    assert list(many.machine.snapshot()) == list(one.machine.snapshot())  # type: ignore[attr-defined]


def test_a_users_machine_is_not_queried_while_it_restores_a_snapshot(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    assert world.ledger.applier.query("k") == 0
    world.ledger.begin_replacing()
    with pytest.raises(UnavailableError, match="taking over a snapshot"):
        world.ledger.applier.query("k")


def test_a_machine_in_the_ledger_answers_from_the_old_state_until_the_new_one_is_on_disk(world: World) -> None:
    applier = world.ledger.applier
    world.ledger.begin_replacing()
    assert not applier.replacing
    applier.replacing = True  # as in the turn that switches
    assert applier.query("k") is None


def test_a_header_without_a_part_is_damaged() -> None:
    header = header_of(Point(5, 2, 1000, b"c", 700), [b"s"], {})
    assert point_of(header) == (Point(5, 2, 1000, b"c", 700), [b"s"])
    for name in header.keys() - {"elapsed_ms"}:
        with pytest.raises(CorruptionError, match=f"lacks '{name}'"):
            point_of({key: value for key, value in header.items() if key != name})


def test_a_store_without_a_checkpoint_has_nothing_to_export() -> None:
    with pytest.raises(CorruptionError, match="no checkpoint"):
        stored_point(MemoryTables())
    assert issubclass(CorruptionError, StorageError)
    assert Applier(MemoryTables(), KeyValueMachine()).ledger_machine is not None


def test_what_is_left_of_a_lease_is_the_same_wherever_a_node_began_to_apply(world: World) -> None:
    world.lead()
    lease = world.do(Command("lease_grant", {"ttl_ms": 60_000}).encode())[-1].index
    world.now += 0.250
    world.lead()  # an entry that is no command lets the time of the state go on, too
    world.settle()
    before = world.ledger.applier.query({"lease": lease})
    world.checkpoint()
    world.crash()
    assert world.ledger.applier.query({"lease": lease}) == before == [lease, 60_000, 59_750, []]
