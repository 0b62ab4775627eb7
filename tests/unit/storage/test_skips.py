"""An entry that ends the node is found, also by a node that is killed, and skipped on all nodes or on none."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.actors.messages import Hello
from forge_consensus.actors.raft.handshake import SKIPS as REASON
from forge_consensus.cli.main import cli
from forge_consensus.errors import FolderLockedError, LogInconsistentError, SkipRefusedError, SnapshotFailedError
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.applying import Applier
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.ledger.skips import (
    PARTS,
    RANGE_ENTRIES,
    SKIPPED,
    Skip,
    put_skips,
    skip_of,
    stored_skips,
    stored_suspect,
    suspect_of,
)
from forge_consensus.storage.machines.machine import ApplyFaultError, Command, Entry, RunInterruptError
from forge_consensus.storage.skipping import skip_entry
from tests.worlds.ledger_world import TallyMachine, World
from tests.worlds.one_node import OneNode


class KilledError(RunInterruptError):
    """The process is killed while it applies: nothing can be noted."""


class Fragile(TallyMachine):
    """A user's machine: it is killed by one command, and finds the disk broken with another."""

    machine_name = "fragile"

    def apply(self, entry: Entry) -> Any:
        if entry.command.type == "kill":
            raise KilledError
        if entry.command.type == "disk":
            raise OSError(errno.EIO, "bad sector")
        return super().apply(entry)


class FragileRuns(Fragile):
    """The same, in runs."""

    def apply_run(self, run: Sequence[Entry]) -> list[Any]:
        return [self.apply(entry) for entry in run]


def commands(*names: str) -> list[bytes]:
    return [Command(name).encode() for name in names]


def live_until_the_end(world: World) -> bool:
    """Run a process until it ends or has applied everything, as the engine does; returns whether it ended."""
    try:
        world.lead()
        world.settle()
    except KilledError:
        return True
    except ApplyFaultError as fault:
        world.ledger.rollback()
        world.ledger.note_fault(fault)
        return True
    return False


def poisoned(path: Path, node: str, name: str, before: int = 3, machine: Any = Fragile) -> tuple[World, int]:
    """A node of which a command is committed that ends it, and the index of that command's entry."""
    world = World("lmdb", path / "tables" / "..", machine=machine, node=node)
    world.lead()
    world.do(*commands(*["add"] * before))
    index = world.propose(*commands(name))
    world.propose(*commands("add", "add"))
    assert live_until_the_end(world)
    return world, index


def test_a_node_that_fails_notes_the_entry_and_says_what_to_do(tmp_path: Path) -> None:
    world, index = poisoned(tmp_path, "n1", "disk")
    suspect = suspect_of(world.tables)
    assert suspect is not None
    assert (suspect.first, suspect.last, suspect.proven) == (index, index, True)
    assert "bad sector" in suspect.why
    world.crash()
    world.lead()
    with pytest.raises(ApplyFaultError) as caught:
        world.settle()
    skip = skip_of(index, world.ledger.log.get(index))
    assert f"of term {skip.term}, its checksum {skip.checksum:08x}" in str(caught.value)
    assert f"log skip {index} --on-all" in str(caught.value)
    world.close()


@pytest.mark.parametrize(("before", "starts_max"), [(1, 4), (3, 4), (40, 4), (700, 5), (RANGE_ENTRIES + 50, 5)])
def test_a_node_that_is_killed_again_and_again_finds_the_entry(tmp_path: Path, before: int, starts_max: int) -> None:
    world, index = poisoned(tmp_path, "n1", "kill", before)
    starts = 0
    while not ((suspect := suspect_of(world.tables)) and suspect.proven):
        world.crash()
        assert live_until_the_end(world)
        starts += 1
        assert starts <= starts_max
    assert (suspect.first, suspect.last) == (index, index)
    for _ in range(3):  # starts that come to nothing, because there is no majority, do not forget it
        world.crash()
        known = suspect_of(world.tables)
        assert known is not None
        assert (known.first, known.proven) == (index, True)
    world.machine = Healthy  # the cause is repaired
    world.crash()
    assert not live_until_the_end(world)
    assert suspect_of(world.tables) is None
    world.close()


def test_a_mark_ends_with_what_is_applied_again(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*commands(*["add"] * 20))
    world.crash()
    assert stored_suspect(world.tables) is not None
    world.lead()
    world.settle()
    assert stored_suspect(world.tables) is None
    assert not world.ledger.careful.until
    commits = world.ledger.commits
    with world.turn():
        world.ledger.apply(10)
    assert world.ledger.commits == commits


@pytest.mark.parametrize("kills", [0, 1, 2, 3])
def test_a_healthy_node_that_is_killed_while_it_applies_again_flushes_seldom(tmp_path: Path, kills: int) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*commands(*["add"] * (2 * RANGE_ENTRIES)))
    for _ in range(kills):
        world.crash()
        world.lead()
        world.settle(1)
        assert stored_suspect(world.tables) is not None
    world.crash()
    world.lead()
    before = world.ledger.commits
    world.settle()
    assert stored_suspect(world.tables) is None
    assert world.ledger.commits - before <= 2 * PARTS + 4


def test_no_mark_is_on_disk_while_the_node_waits_for_a_commit(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*commands("add", "add"))
    last = world.propose(*commands("add", "add"))
    world.crash()
    with world.turn():
        world.ledger.commit_following(world.ledger.term, last - 1)
    for _ in range(3):
        with world.turn():
            world.ledger.apply(100)
    assert world.ledger.applied == last - 1
    assert stored_suspect(world.tables) is None


def skipping(tables: Any, index: int, record: bytes) -> None:
    batch = Batch()
    put_skips(batch, {index: skip_of(index, record)})
    tables.commit(batch)


@pytest.mark.parametrize("machine", [Fragile, FragileRuns])
def test_a_skipped_command_fails_with_one_outcome_and_its_session_takes_it(machine: Any) -> None:
    log, tables = Log(MemoryTables(), 1 << 20), MemoryTables()
    log.append([encode(1, 1, Kind.SESSION, 0, data=(60_000).to_bytes(8))])
    for index, name in enumerate(["add", "kill", "add", "kill"], 2):
        log.append([encode(index, 1, Kind.COMMAND, index, 1, min(index, 3), 0, Command(name).encode())])
    log.append([encode(6, 1, Kind.COMMAND, 6, 1, 4, 0, Command("add").encode())])
    skipping(tables, 3, log.get(3))
    applier = Applier(tables, machine())
    applier.load()
    done = applier.run(log, 6, 100)
    assert [each.outcome == SKIPPED for each in done] == [False, False, True, True, True, False]  # 4 and 5 are retries
    assert applier.sessions.live[1].outcomes[3] == SKIPPED
    assert applier.machine.query("") == 2
    skipping(tables, 3, log.get(2)[:-1] + b"?")
    other = Applier(tables, machine())
    other.load()
    with pytest.raises(LogInconsistentError, match="entry 3 of the log is"):
        other.run(log, 6, 100)


def nodes(tmp_path: Path, names: Sequence[str] = ("n1", "n2", "n3"), name: str = "disk") -> tuple[list[Path], int]:
    """The folders of stopped nodes that one entry ended."""
    folders, index = [], 0
    for node in names:
        world, index = poisoned(tmp_path / node, node, name)
        world.close()
        folders.append(tmp_path / node)
    return folders, index


def test_a_skip_on_all_folders_lets_every_node_go_on_with_one_state(tmp_path: Path) -> None:
    folders, index = nodes(tmp_path)
    assert skip_entry(index, folders, dry_run=True).recorded == ["n1", "n2", "n3"]
    report = skip_entry(index, folders)
    assert (report.recorded, report.already) == (["n1", "n2", "n3"], [])
    assert "bad sector" in report.why
    assert skip_entry(index, folders).already == ["n1", "n2", "n3"]
    states = set()
    for node in ("n1", "n2", "n3"):
        world = World("lmdb", tmp_path / node, machine=Fragile, node=node)
        assert not live_until_the_end(world)
        states.add(world.ledger.applier.machine.query(""))
        assert world.ledger.identity.skipped.startswith(f"{index}:1:")
        world.close()
    assert states == {5}


def refused(match: str, index: int, folders: list[Path], *given: Any) -> None:
    with pytest.raises(SkipRefusedError, match=match):
        skip_entry(index, folders, *given)


def test_a_skip_is_refused_unless_it_is_the_entry_that_ended_the_nodes_of_all_members(tmp_path: Path) -> None:
    folders, index = nodes(tmp_path)
    refused(r"folders of n3 are not named", index, folders[:2])
    refused("name the folder of every member once", index, [folders[0], folders[0]])
    refused("n9 is no member", index, folders, {"n9"})
    refused(rf"entry {index + 1} is not known to end a node: n1 ended at entry {index}", index + 1, folders)
    refused("do not agree which entry", index, folders, (), (7, 7))
    with Folder(folders[2]), pytest.raises(FolderLockedError):
        skip_entry(index, folders)
    for node in ("n1", "n2", "n3"):
        world = World("lmdb", tmp_path / node, machine=Fragile, node=node)
        assert not stored_skips(world.tables)
        world.close()


def test_a_node_that_has_applied_the_entry_never_skips_it(tmp_path: Path) -> None:
    folders, index = nodes(tmp_path, ("n1", "n2"))
    world = World("lmdb", tmp_path / "n3", machine=Fragile, node="n3")
    world.lead()
    world.do(*commands(*["add"] * 3))
    world.propose(*commands("disk"))
    world.machine = Healthy
    world.crash()
    world.lead()
    world.settle()
    world.snapshot()
    world.close()
    refused("n3 has applied entry", index, [*folders, tmp_path / "n3"])


class Healthy(TallyMachine):
    """The same machine on a node whose disk is whole."""

    machine_name = "fragile"

    def apply(self, entry: Entry) -> Any:
        return 0


def test_a_member_elsewhere_is_skipped_there_with_the_entry_as_it_was_printed(tmp_path: Path) -> None:
    folders, index = nodes(tmp_path, ("n1", "n2"))
    report = skip_entry(index, folders, {"n3"})
    assert report.elsewhere == ["n3"]
    world = World("lmdb", tmp_path / "n3", machine=Fragile, node="n3")  # it was down, and knows nothing of the entry
    world.close()
    refused("not known to end a node: n3 did not end while", index, [tmp_path / "n3"], {"n1", "n2"})
    skip_entry(index, [tmp_path / "n3"], {"n1", "n2"}, (report.term, int(report.checksum, 16)))
    skipped = set()
    for node in ("n1", "n2", "n3"):
        world = World("lmdb", tmp_path / node, machine=Fragile, node=node)
        skipped.add(world.ledger.identity.skipped)
        world.close()
    assert len(skipped) == 1


def test_a_snapshot_of_nodes_that_skipped_otherwise_is_not_installed(tmp_path: Path) -> None:
    for skips in (True, False):
        source = World("memory", tmp_path / f"source-{skips}", machine=TallyMachine)
        source.lead()
        source.do(*commands("add", "add", "add"))
        if skips:
            source.ledger.applier.skips = {3: skip_of(3, source.ledger.log.get(3))}
        info = source.snapshot()
        other = World("memory", tmp_path / f"other-{skips}", machine=TallyMachine, node="n2")
        if not skips:
            other.ledger.applier.skips = {2: Skip(2, 1, 5)}
        with pytest.raises(SnapshotFailedError, match="run forge-consensus log skip for the folders of all members"):
            other.snapshots.begin_install(info)
        other.ledger.applier.skips = {**source.ledger.applier.skips, 90: Skip(90, 1, 5)}
        other.snapshots.begin_install(info)


def test_nodes_that_do_not_skip_the_same_refuse_each_other() -> None:
    node = OneNode()
    handshake = node.engine.cells
    assert handshake is not None
    identity = node.ledger.identity
    identity.skipped = "7:1:0000abcd"
    hello = Hello("folder-n2.x", 1, "", node.configuration.digest, "", skipped="")
    before = len(node.sent)
    node.request("n2", "membership", hello)
    replies = [message for _, message in node.sent[before:] if type(message).__name__ == "HelloReply"]
    assert replies[-1].reason == REASON
    assert "7:1:0000abcd" in replies[-1].detail


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_wherever_the_entry_is_and_however_slices_are_cut_it_is_found(at: int, cuts: list[int]) -> None:
    tables = MemoryTables()
    path = Path(OneNode().folder)
    world = World("memory", path, machine=Fragile, tables=tables)
    world.lead()
    names = ["add"] * 30
    names[at - 1] = "kill"
    world.propose(*commands(*names))
    index = 2 + at
    suspect = None
    for _ in range(8):
        try:
            world.lead()
            for cut in cuts * 40:
                world.settle(cut)
        except KilledError:
            suspect = suspect_of(world.tables)
            if suspect is not None and suspect.proven:
                break
            world.crash()
    assert suspect is not None
    assert (suspect.first, suspect.last, suspect.proven) == (index, index, True)
    for info in path.glob("snapshots/*"):
        info.unlink()


def test_the_command_says_what_it_did_and_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders, index = nodes(tmp_path)
    given = ["log", "skip", str(index), "--on-all", ",".join(map(str, folders))]
    for arguments, code, said in (
        ([*given, "--dry-run"], 0, "would be skipped on: n1, n2, n3"),
        (["log", "skip", str(index), "--on-all", str(folders[0])], 1, "say --elsewhere n2,n3"),
        ([*given, "--entry", "x"], 2, "is not TERM:CHECKSUM"),
        (given, 0, "is skipped now on: n1, n2, n3"),
        (given, 0, "was skipped already on: n1, n2, n3"),
    ):
        assert (cli.main(arguments, standalone_mode=False, prog_name="x") or 0) == code if code != 2 else True
        if code != 2:
            out, err = capsys.readouterr()
            assert said in out + err


def test_an_uncommitted_entry_is_never_marked(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*commands("add"))
    with world.turn():
        world.ledger.propose(world.ledger.term, [Proposal(Kind.COMMAND, 0, 0, 0, Command("add").encode())])
    for _ in range(4):
        world.crash()
        suspect = stored_suspect(world.tables)
        assert suspect is None or suspect.last < world.ledger.log.last
    assert msgpack.unpackb(SKIPPED.payload)[0] == "CommandSkipped"
