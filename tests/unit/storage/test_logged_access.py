"""The list of access in the log: changed by entries only, at disk, in snapshots and over crashes as a model has it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.security.access_changes import RESERVED
from forge_consensus.security.access_file import data_of_access
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.access import ACCESS, access_of_row, row_of
from forge_consensus.storage.ledger.applying import Applier, point_of
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.ledger.skips import skip_of
from forge_consensus.storage.ledger.transaction import get_meta, put_meta
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import COMMAND_FAILED, Command, Entry
from forge_consensus.storage.recovery import recover_folder
from forge_consensus.storage.restoring import restore_snapshot
from forge_consensus.storage.snapshots.file import read_header
from tests.worlds import access_model
from tests.worlds.access_model import IDS, KEYS, SHA, AccessModel, RefusedError
from tests.worlds.backends import BACKENDS
from tests.worlds.effort import effort
from tests.worlds.ledger_world import LIMITS, TallyMachine, World, increment, put, received

ANN = {"do": "put", "name": "ann", "roles": ["admin"], "keys": [KEYS[0]]}
BOB = {"do": "put", "name": "bob", "roles": ["read"], "keys": [KEYS[1]]}
MACHINES = pytest.mark.parametrize("machine", [KeyValueMachine, TallyMachine])


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path / "n1")
    yield made
    made.close()


def change(payload: dict[str, Any]) -> bytes:
    return Command(RESERVED, payload).encode()


def listed(world: World) -> dict[str, Any]:
    return data_of_access(world.ledger.applier.access.current)


def lead_and_settle(world: World) -> None:
    world.lead()
    world.settle()


def session_of(world: World) -> int:
    lead_and_settle(world)
    term = world.ledger.leading_term
    assert term is not None
    with world.turn():
        session = world.ledger.propose(term, [Proposal(Kind.SESSION, 0, 0, 0, (1 << 40).to_bytes(8))])[0]
    world.settle()
    return session


STEP = st.one_of(
    st.tuples(st.just("change"), access_model.CHANGES),
    st.tuples(st.sampled_from(["other", "again", "checkpoint", "crash", "snapshot", "compact"]), st.just({})),
)


class History:
    """A node under random steps, beside a model of the list."""

    def __init__(self, machine: Callable[[], Any], path: Path) -> None:
        self.world = World("memory", path, machine=machine, limits=replace(LIMITS, checkpoint_entries=1000))
        self.model = AccessModel()
        self.session, self.seq = session_of(self.world), 0
        self.last, self.code = b"", ""

    def take(self, step: str, payload: dict[str, Any]) -> None:
        world = self.world
        world.now += 0.003
        if step == "change":
            self.seq += 1
            late: dict[str, Any] = {
                name: payload[name] + 1000 for name in ("ends_ms", "replaced_ends_ms") if name in payload
            }
            payload = payload | late
            self.last = change(payload)
            self.code = self.submit()
            try:
                self.model.apply(payload, world.ledger.applier.time_ms)
                assert not self.code, payload
            except RefusedError:
                assert self.code == COMMAND_FAILED, payload
        elif step == "again" and self.last:
            assert self.submit() == self.code, "a command that is sent again gets its first outcome"
        elif step == "other":
            world.do(increment("n"))
        elif step == "crash":
            world.crash()
            lead_and_settle(world)
        elif step == "snapshot":
            world.snapshot()
        elif step == "compact":
            world.compact()
        elif step == "checkpoint":
            world.checkpoint()
        assert listed(world) == self.model.data
        assert access_of_row(world.ledger.applier.access.row)[0] == world.ledger.applier.access.index

    def submit(self) -> str:
        self.world.propose(self.last, session=self.session, seq=self.seq)
        code: str = self.world.settle()[-1].outcome.code
        return code


@MACHINES
@settings(max_examples=effort(40, 400), deadline=None)
@given(history=st.lists(STEP, max_size=40))
def test_a_random_history_over_checkpoints_snapshots_and_crashes_equals_a_model(
    machine: Callable[[], Any], history: list[tuple[str, dict[str, Any]]]
) -> None:
    with TemporaryDirectory() as path:
        run = History(machine, Path(path))
        for step, payload in history:
            run.take(step, payload)
        run.take("crash", {})
        if run.world.snapshots.newest is not None:  # another node takes the state over
            joined = World("memory", Path(path) / "n2", machine=machine, node="n2")
            run.world.snapshot()
            info = received(run.world, joined)
            install(joined, info, term=info.term)
            assert listed(joined) == run.model.data
            joined.crash()
            assert listed(joined) == run.model.data


def install(world: World, info: Any, term: int) -> None:
    world.follow(term)
    with world.turn():
        installation = world.snapshots.begin_install(info)
    more = True
    while more:
        with world.turn():
            more = world.snapshots.install_step(installation)
            if not more:
                if world.ledger.applier.ledger_machine is None:
                    assert world.snapshots.hand_over(installation)
                    world.snapshots.install_whole(installation)
                assert world.snapshots.finish_install(installation)


# --- applying ---------------------------------------------------------------------------------------------------------


class Seen(TallyMachine):
    """Notes what it is handed, also in runs."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[str] = []

    def apply(self, entry: Entry) -> Any:
        self.types.append(entry.command.type)
        return super().apply(entry)


class SeenInRuns(Seen):
    def apply_run(self, entries: Any) -> list[Any]:
        return [self.apply(entry) for entry in entries]


@pytest.mark.parametrize("machine", [Seen, SeenInRuns])
def test_no_machine_sees_a_change_of_the_list_or_the_query_for_it(machine: type[Seen], tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=machine)
    session = session_of(world)
    add, bad = Command("add").encode(), change({"do": "no such"})
    world.propose(add, change(ANN), add, change(ANN), bad, add, session=session)
    done = world.settle()
    assert [each.outcome.code for each in done] == ["", "", "", "", COMMAND_FAILED, ""]
    results = [msgpack.unpackb(each.outcome.payload) for each in done]
    assert results[:4] == [1, True, 2, False]
    assert results[4] == ["AccessChangeRefused", results[4][1]]
    assert results[5] == 3
    made: Any = world.ledger.applier.machine
    assert made.types == ["add"] * 3
    assert [each.index for each in done] == list(range(done[0].index, done[0].index + 6)), "in the order of the log"
    told = world.ledger.applier.query({RESERVED: True})
    assert told["clients"] == {"ann": {"roles": ["admin"], "keys": [KEYS[0]]}}
    assert told["index"] == done[1].index
    for other in ({RESERVED: 1}, {RESERVED: True, "more": 1}):
        assert world.ledger.applier.query(other) == 3, "any other query is the machine's"


def test_a_change_in_one_run_with_commands_leaves_what_it_leaves_alone(tmp_path: Path) -> None:
    """How entries are cut into runs differs between nodes, so it must change neither list nor sessions."""
    worlds = [World("memory", tmp_path / name, machine=each) for name, each in (("a", Seen), ("b", SeenInRuns))]
    told = []
    for world in worlds:
        session = session_of(world)
        for seq, data in enumerate([change(ANN), Command("add").encode(), change(ANN), Command("add").encode()], 1):
            world.propose(data, session=session, seq=min(seq, 3))  # the last one is another command with a number again
        world.settle()
        applier = world.ledger.applier
        told.append((applier.access.row, applier.sessions.export(), applier.index))
    assert told[0] == told[1]


def test_a_skipped_change_is_not_made(world: World) -> None:
    world.lead()
    index = world.propose(change(ANN))
    world.ledger.applier.skips = {index: skip_of(index, world.ledger.log.get(index))}
    (_, _, outcome) = [each.outcome for each in world.settle()][-3:]
    assert msgpack.unpackb(outcome.payload)[0] == "CommandSkipped"
    assert not world.ledger.applier.access.current


def test_digests_of_tokens_are_told_to_nobody(world: World) -> None:
    world.lead()
    world.do(change({"do": "add_token", "name": "bob", "id": IDS[0], "sha256": SHA[IDS[0]], "roles": ["read"]}))
    told = world.ledger.applier.query({RESERVED: True})
    assert told["clients"]["bob"]["tokens"] == [{"id": IDS[0], "ends_ms": 0}]
    assert SHA[IDS[0]] not in repr(told)
    assert world.ledger.applier.access.current.by_name["bob"].tokens[0].digest == SHA[IDS[0]]


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_a_change_is_on_disk_with_the_turn_that_applies_it(world: World) -> None:
    """So a start of the node knows a key as revoked before it has applied anything again."""
    world.lead()
    world.do(put("a", 1), change(ANN), change(BOB))
    world.do(change({"do": "revoke_key", "key": KEYS[1]}))
    commits = world.ledger.commits
    world.do(put("a", 2))
    assert world.ledger.commits - commits == 1, "a turn without a change writes no checkpoint"
    world.crash()
    assert world.ledger.applier.access.current.revoked == {KEYS[1]}
    assert world.ledger.applier.access.current.of_key(KEYS[0]) is not None


def test_a_folder_without_a_list_has_an_empty_one(world: World) -> None:
    world.lead()
    world.do(put("a", 1))
    world.checkpoint()
    assert get_meta(world.tables, ACCESS) is None
    world.crash()
    assert listed(world) == {"members": {}, "clients": {}, "revoked": []}
    lead_and_settle(world)
    assert "access" not in read_header(world.snapshot().path, world.tables.files)


@pytest.mark.parametrize(
    "row",
    [
        b"\xc1",
        msgpack.packb([2, 1, {}]),
        msgpack.packb([1, "x", {}]),
        msgpack.packb([1, 1, {"members": {"a": 1}}]),
        b"x",
    ],
)
def test_a_row_that_is_no_list_is_damage(row: bytes, world: World) -> None:
    world.lead()
    world.do(change(ANN))
    with pytest.raises(CorruptionError, match="the list of access does not decode"):
        point_of({"index": 1, "term": 1, "time_ms": 1, "configuration": b"", "sessions": [], "access": row})
    world.write(lambda batch: put_meta(batch, ACCESS, row))
    with pytest.raises(CorruptionError, match="the list of access does not decode"):
        Applier(world.tables, KeyValueMachine()).load()
    assert access_of_row(row_of(access_of_row(b"")[1], 5))[0] == 5


# --- a new cluster of an old one --------------------------------------------------------------------------------------


@MACHINES
def test_a_cluster_made_of_a_backup_has_its_list(machine: Callable[[], Any], tmp_path: Path) -> None:
    world = World("lmdb", tmp_path / "n1", machine=machine)
    lead_and_settle(world)
    world.do(change(ANN), change(BOB), change({"do": "revoke_key", "key": KEYS[1]}))
    info, before = world.snapshot(), listed(world)
    restore_snapshot(info.path, tmp_path / "m1", "m1", {"m1": "h:1"}, new_text=lambda: "ab" * 16)
    world.close()
    restored = World("lmdb", tmp_path / "m1", machine=machine, node="m1", tables=LmdbTables(tmp_path / "m1" / "tables"))
    restored.close()
    assert listed(restored) == before
    assert before["revoked"] == [KEYS[1]]


@MACHINES
def test_a_survivor_keeps_the_list(machine: Callable[[], Any], tmp_path: Path) -> None:
    world = World("lmdb", tmp_path / "n1", machine=machine)
    lead_and_settle(world)
    world.do(change(ANN), change(BOB))
    before = listed(world)
    world.close()
    (tmp_path / "n1" / "snapshots").mkdir(exist_ok=True)
    assert recover_folder(tmp_path / "n1", lambda plan: True, new_text=lambda: "ab" * 16) is not None
    world.tables = LmdbTables(tmp_path / "n1" / "tables")
    world.open(None, "c~abababababab")
    with world.turn():
        world.ledger.apply(100)
    with world.turn():
        world.ledger.apply(100)
    assert listed(world) == before
    world.close()


def test_memory_and_disk_tell_the_same(tmp_path: Path) -> None:
    rows = []
    for backend in BACKENDS:
        world = World(backend, tmp_path / backend)
        world.lead()
        world.do(change(ANN))
        rows.append(get_meta(world.tables, ACCESS))
        world.close()
    assert rows[0] == rows[1]
    assert rows[0]
    assert MemoryTables().get("meta", ACCESS) is None
