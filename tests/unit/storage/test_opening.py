"""Opening: a folder is opened as the crash left it, or is refused with a clear error and not changed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from forge_consensus.errors import CorruptionError, IdentityError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.storage.backends.tables import TABLES, Batch
from forge_consensus.storage.ledger.applying import APPLIED
from forge_consensus.storage.ledger.configuration import VERSION, Configuration
from forge_consensus.storage.ledger.history import CONFIGURATIONS
from forge_consensus.storage.ledger.identity import BOOTS, IDENTITY, INITIAL
from forge_consensus.storage.ledger.ledger import BASE, HARD
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.numbers import EVENTS_MARK
from forge_consensus.storage.ledger.record import UNTIMED, Kind, encode_untimed, key_of, parse
from forge_consensus.storage.ledger.transaction import META, put_meta
from forge_consensus.storage.machines.machine import ApplyFaultError, Command
from forge_consensus.storage.machines.naming import name_of
from forge_consensus.storage.snapshots.file import read_header, write_snapshot
from tests.worlds.backends import BACKENDS, new_tables
from tests.worlds.ledger_world import CONFIGURATION, LIMITS, PEERS, TallyMachine, World, entry, increment, put


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path, limits=replace(LIMITS, verify_entries=20))
    yield made
    made.close()


def content(world: World) -> dict[str, Any]:
    return {table: world.tables.scan(table) for table in TABLES}


def refuses(world: World, error: type[Exception], match: str) -> None:
    """It does not start, says why, and leaves everything as it was."""
    world.restart_tables()
    before = content(world)
    with pytest.raises(error, match=match):
        world.open()
    assert content(world) == before


def damage(world: World, table: str, key: bytes) -> None:
    value = world.tables.get(table, key) or b""
    world.write(lambda batch: batch.put(table, key, value[:-1] + bytes([value[-1] ^ 1])))


def delete(world: World, table: str, key: bytes) -> None:
    world.write(lambda batch: batch.delete(table, key))


# --- what an earlier version of the program wrote ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["lmdb", "memory"])  # no version of then encrypted anything
def test_a_folder_as_format_2_was_first_written_still_opens(backend: str, tmp_path: Path) -> None:
    """`folder_format_2.json` holds the tables and the snapshot as the program wrote them at commit 6e2b6e0."""
    written = json.loads((Path(__file__).parent / "folder_format_2.json").read_text())
    tables = new_tables(backend, tmp_path)
    batch = Batch()
    for table, rows in written["tables"].items():
        for key, value in rows:
            batch.put(table, bytes.fromhex(key), bytes.fromhex(value))
    tables.commit(batch)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / written["snapshot"]["name"]).write_bytes(bytes.fromhex(written["snapshot"]["bytes"]))
    world = World(backend, tmp_path, tables=tables)
    ledger, sessions = world.ledger, world.ledger.applier.sessions
    assert not world.opened.is_new
    assert world.opened.initial == CONFIGURATION
    assert (ledger.term, ledger.vote, ledger.commit_index, ledger.applied) == (1, "n1", 8, 8)
    assert (ledger.log.base_index, ledger.log.last, ledger.identity.boot) == (7, 9, 2)
    assert (ledger.identity.earlier, ledger.identity.draw_of(1)) == ("00000002", "00000002")
    assert ledger.configurations.base == Configuration.of(PEERS, lease_reads=True)
    assert ledger.configuration == Configuration.of({**PEERS, "n4": "host4:1"})
    assert set(sessions.live[3].outcomes) == {1, 2}
    assert world.snapshots.newest is not None
    assert (world.snapshots.newest.index, world.snapshots.damaged) == (7, ())
    assert (ledger.applier.time_ms, ledger.applier.elapsed_ms) == (1000, 1000), "one time stood for both"
    assert sessions.live[3].last_use == (0, 1000)
    world.now += 3.0
    world.lead()
    assert [parse(n, ledger.log.get(n)).elapsed_ms for n in (8, 9, 10)] == [UNTIMED, UNTIMED, 1000], "no jump"
    world.now += 2.0
    world.propose(put("e", 5), session=3, seq=7)
    world.settle()
    assert ledger.applier.elapsed_ms == 3000
    assert sessions.live[3].last_use == (11, 3000)
    assert [ledger.applier.query(key) for key in ("a", "b", "c", "d", "e")] == [1, [2], 3, 4, 5]
    world.checkpoint()
    world.crash()
    assert (world.ledger.applier.time_ms, world.ledger.applier.elapsed_ms) == (3000, 3000)
    assert world.ledger.applier.sessions.live[3].last_use == (11, 3000)
    world.close()


def test_a_configuration_of_a_later_version_stops_the_start(world: World) -> None:
    later = msgpack.packb([VERSION + 1, [["n1", "a:1"]], False])
    world.write(lambda batch: put_meta(batch, INITIAL, later))
    refuses(world, UnsupportedVersionError, f"version {VERSION + 1}, and this program reads versions up to {VERSION}")
    world.write(lambda batch: put_meta(batch, INITIAL, CONFIGURATION.encode()))
    world.write(lambda batch: put_meta(batch, BASE, msgpack.packb((0, 0, later))))
    refuses(world, UnsupportedVersionError, f"version {VERSION + 1}, and this program reads versions up to {VERSION}")


def test_a_folder_of_a_higher_feature_level_is_not_opened_and_keeps_its_contents(world: World) -> None:
    higher = replace(CONFIGURATION, level=LEVEL + 1).encode()
    world.write(lambda batch: put_meta(batch, BASE, msgpack.packb((0, 0, higher))))
    world.write(lambda batch: put_meta(batch, CONFIGURATIONS, msgpack.packb([])))
    refuses(world, UnsupportedVersionError, f"feature level {LEVEL + 1}, .* has level {LEVEL}: .* the newer program")
    world.write(lambda batch: put_meta(batch, BASE, msgpack.packb((0, 0, b""))))
    world.write(lambda batch: put_meta(batch, CONFIGURATIONS, msgpack.packb([1])))
    world.crash()
    assert world.ledger.configuration == CONFIGURATION


# --- the first start -------------------------------------------------------------------------------------------------


def test_the_first_entry_is_the_same_bytes_on_every_node(tmp_path: Path) -> None:
    one, other = World("memory", tmp_path, node="n1"), World("lmdb", tmp_path, node="n2")
    assert one.log_bytes == other.log_bytes == [encode_untimed(1, 0, Kind.CONFIGURATION, 0, CONFIGURATION.encode())]
    assert one.ledger.commit_index == 1
    assert one.opened.is_new
    assert one.ledger.identity.incarnation != other.ledger.identity.incarnation
    other.close()


def test_a_first_start_without_a_fitting_list_of_members_makes_no_folder(world: World) -> None:
    world.close()
    world = World("memory", world.path, node="n3")
    world.tables = world.new_tables()
    with pytest.raises(InvalidConfigError, match="no peers were named"):
        world.open(configuration=None)
    with pytest.raises(InvalidConfigError, match="node 'n3' is not among the peers n1=a:1"):
        world.open(configuration=Configuration.of({"n1": "a:1"}))
    assert not any(content(world).values())


RIGHT = Configuration.of({"n1": "host1:1", "n2": "elsewhere:2", "n3": "host3:1"})


def test_a_wrong_first_list_is_corrected_while_nothing_else_is_in_the_folder(world: World) -> None:
    incarnation = world.ledger.identity.incarnation
    world.restart_tables()
    opened = world.open(configuration=RIGHT, amends=True)
    assert (opened.initial, opened.amended, opened.ledger.configuration) == (RIGHT, CONFIGURATION, RIGHT)
    assert RIGHT.encode() in world.log_bytes[0]
    assert len(world.log_bytes) == 1
    assert (opened.ledger.identity.incarnation, opened.ledger.identity.boot) == (incarnation, 2)
    world.restart_tables()
    again = world.open(configuration=RIGHT, amends=True)
    assert (again.initial, again.amended) == (RIGHT, None)
    world.lead()
    world.settle()


@pytest.mark.parametrize("what", ["a term", "a vote", "an entry"])
def test_a_list_is_not_exchanged_once_others_may_rest_on_the_folder(world: World, what: str) -> None:
    with world.turn():
        world.ledger.advance(1)
        if what == "a vote":
            world.ledger.grant_vote(1, "n2", 1, 0)
        if what == "an entry":
            world.accept(1, 0, entry(2, 1))
    world.restart_tables()
    opened = world.open(configuration=RIGHT, amends=True)
    assert (opened.initial, opened.amended) == (CONFIGURATION, None)


def test_a_list_that_does_not_name_the_node_takes_the_place_of_none(world: World) -> None:
    def start() -> None:
        world.open(configuration=Configuration.of({"n9": "z:9"}), amends=True)

    world.restart_tables()
    before = content(world)
    with pytest.raises(InvalidConfigError, match="node 'n1' is not among the peers n9=z:9"):
        start()
    assert content(world) == before


def test_a_later_start_ignores_the_list_of_members(world: World) -> None:
    world.restart_tables()
    world.open(configuration=Configuration.of({"n9": "z:9"}))
    assert world.ledger.configuration == world.opened.initial == CONFIGURATION


def test_a_folder_with_old_snapshots_and_new_tables_is_refused_at_every_start(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    world.lead()
    world.do(increment("n"))
    info = world.snapshot()
    world.tables = world.new_tables()
    for _ in range(3):
        refuses(world, IdentityError, "snapshots of an earlier node")
    assert not any(content(world).values())
    info.path.unlink()
    world.crash()
    assert world.opened.is_new


def test_a_snapshot_file_ahead_of_the_tables_is_ignored(world: World) -> None:
    """It was received and never switched to, or somebody put it there: it is neither cut behind nor sent."""
    world.lead()
    world.do(*[increment("n")] * 10)
    own = world.snapshot()
    world.do(*[increment("n")] * 10)
    world.checkpoint()
    state = world.ledger.applied
    for index, term in ((state + 1, 1), (300, 1), (400, 1), (state, 2)):
        write_snapshot(world.folder, {"index": index, "term": term}, [b"of another life"])
    world.crash()
    assert world.snapshots.newest == own
    assert world.snapshots.lag == state - own.index
    # Nor does it push what this node takes out of the folder.
    world.lead()
    world.do(increment("n"))
    newer = world.snapshot()
    assert newer.path.exists()
    world.crash()
    assert world.snapshots.newest == newer


# --- where a restart begins ------------------------------------------------------------------------------------------


def test_a_restart_replays_from_the_state_on_disk_to_the_known_commit_and_never_beyond(world: World) -> None:
    world.lead()
    world.do(*[increment("n")] * 10)
    world.checkpoint()
    on_disk = world.ledger.applied
    world.do(*[increment("n")] * 10)
    world.propose(*[increment("n")] * 3)  # this transaction takes the commit index along
    hint = world.ledger.commit_index
    world.settle()
    world.crash()
    assert (world.ledger.applied, world.ledger.commit_index) == (on_disk, hint)
    assert world.ledger.log.last == hint + 3
    with world.turn():
        assert [done.index for done in world.ledger.apply(1000)] == list(range(on_disk + 1, hint + 1))
    with world.turn():
        assert world.ledger.apply(1000) == []
    assert world.state == {"n": 20}


def test_a_cleanly_stopped_node_and_a_crashed_one_are_the_same(world: World) -> None:
    term = world.lead()
    world.do(put("a", 1))
    before = world.log_bytes
    for _ in range(3):
        world.crash()
        assert (world.ledger.term, world.ledger.vote, world.ledger.leading_term) == (term, "n1", None)
        assert world.log_bytes == before


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [62, 50, 30])
@pytest.mark.parametrize("how", [damage, delete])
def test_damage_in_replayed_or_new_entries_is_found_at_the_start(
    world: World, index: int, how: Callable[[World, str, bytes], None]
) -> None:
    """Entries 22 to 62 are to be replayed."""
    world.lead()
    world.do(*[increment("n")] * 19)
    world.checkpoint()
    world.do(*[increment("n")] * 41)
    how(world, TABLE, key_of(index))
    text = "must end with entry 62 and ends with 61" if (how, index) == (delete, 62) else f"log entry {index} "
    refuses(world, CorruptionError, f"{text}.*majority of the members")


@pytest.mark.parametrize("how", [damage, delete])
def test_damage_further_back_is_found_when_it_is_met(world: World, how: Callable[[World, str, bytes], None]) -> None:
    world.lead()
    world.do(*[increment("n")] * 60)
    world.checkpoint()
    how(world, TABLE, key_of(10))
    world.crash()
    with pytest.raises(CorruptionError, match="log entry 10 "):
        world.ledger.log.read(5, 20, 1 << 20)
    assert world.state == {"n": 60}


@pytest.mark.parametrize("key", [IDENTITY, INITIAL, HARD, CONFIGURATIONS, APPLIED, BASE, EVENTS_MARK, BOOTS])
def test_damage_of_any_of_the_ledgers_own_records_is_found_at_the_start(world: World, key: bytes) -> None:
    world.lead()
    world.do(increment("n"))
    world.snapshot()
    world.compact()
    with world.turn():
        world.ledger.identity.admit(world.ledger.turn, "n2", "folder", 1, "")
    damage(world, META, key)
    refuses(world, CorruptionError, "fails its checksum")


@pytest.mark.parametrize(
    ("key", "match"), [(INITIAL, "began with"), (HARD, "term and vote"), (CONFIGURATIONS, "no configuration")]
)
def test_a_missing_record_of_the_ledgers_own_is_found_at_the_start(world: World, key: bytes, match: str) -> None:
    world.lead()
    delete(world, META, key)
    refuses(world, CorruptionError, match)


def test_a_lost_base_or_state_is_found_at_the_start(world: World) -> None:
    world.lead()
    world.do(*[increment("n")] * 30)
    world.snapshot()
    world.compact()
    while True:
        with world.turn():
            if not world.snapshots.sweep():
                break
    stored = world.tables.get(META, APPLIED) or b""
    delete(world, META, APPLIED)
    refuses(world, CorruptionError, "the log begins behind entry 32, and the newest usable state is of 0")
    world.write(lambda batch: batch.put(META, APPLIED, stored))
    delete(world, META, BASE)
    refuses(world, CorruptionError, "must end with entry 32 and ends with 0")


def test_a_state_or_a_log_that_is_ahead_of_the_rest_is_found_at_the_start(world: World) -> None:
    world.lead()
    world.do(*[increment("n")] * 30)
    world.checkpoint()
    good = world.tables.get(META, APPLIED) or b""

    def state_of(index: int, term: int) -> Callable[[Batch], None]:
        row = msgpack.packb((0, index, term, 0, CONFIGURATION.encode()))
        return lambda batch: put_meta(batch, APPLIED, row)

    for index, term in ((33, 1), (32, 9)):
        world.write(state_of(index, term))
        refuses(world, CorruptionError, f"state is of entry {index} of term {term}, not in the log")
    world.write(lambda batch: batch.put(META, APPLIED, good))
    world.write(lambda batch: batch.put(TABLE, key_of(32), entry(32, 7)))
    delete(world, META, APPLIED)
    refuses(world, CorruptionError, "the log has term 7, and the node knows 1 only")


# --- machines --------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_ledger_machine_is_not_given_to_another_machine(world: World) -> None:
    world.lead()
    world.do(increment("n"))
    world.checkpoint()
    world.machine = TallyMachine
    refuses(world, IdentityError, "start it with the machine that it had")


def test_a_machine_stops_the_start_if_it_cannot_load_its_own_state(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(increment("n"))
    world.snapshot()

    class Forgetful(TallyMachine):
        machine_name = name_of(TallyMachine).name

        def restore(self, chunks: Any) -> None:
            raise RuntimeError("what is this")

    world.machine = Forgetful
    with pytest.raises(ApplyFaultError, match=r"restore\(\) failed: RuntimeError: what is this"):
        world.crash()


def test_a_users_machine_does_not_load_a_state_of_an_unknown_term(tmp_path: Path) -> None:
    """Nobody could have sent it: it was there before, or the turn that it came in did not happen."""
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*[Command("add").encode()] * 10)
    own = world.snapshot()
    header = {**read_header(own.path), "index": 400, "term": world.ledger.term + 1}
    write_snapshot(world.folder, header, [b"7", b"1,2"])
    for _ in range(2):
        world.crash()
        assert world.snapshots.newest == own
        assert (world.ledger.applied, world.ledger.applier.query("")) == (own.index, 10)
