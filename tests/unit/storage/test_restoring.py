"""A snapshot file is inspected, and becomes the folders of a new cluster that begins with its state."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.errors import (
    AlreadyExistsError,
    CorruptionError,
    FolderLockedError,
    FolderNotFoundError,
    IdentityError,
    InvalidConfigError,
)
from forge_consensus.storage import restoring
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.restoring import Restored, begun_with, inspect_snapshot, restore_snapshot
from forge_consensus.storage.snapshots.file import read_chunks, read_header, write_snapshot
from forge_consensus.storage.verify import verify_folder
from tests.worlds.ledger_world import CONFIGURATION, TallyMachine, World, increment, put

PEERS = {"n1": "new1:1", "n2": "new2:1", "n3": "new3:1"}


def saved(path: Path, machine: type = KeyValueMachine) -> Path:
    """A snapshot file of a cluster of three with some state and a session, under a name of its own."""
    made = World("lmdb", path / "old", machine=machine)
    term = made.lead()
    with made.turn():
        made.ledger.propose(term, [Proposal(Kind.SESSION, 0, 0, 0, (60_000).to_bytes(8))])
    made.settle()
    session = made.ledger.log.last
    made.propose(increment("n"), increment("n"), session=session)
    made.do(*[put(f"k{n}", "x" * 5_000) if machine is KeyValueMachine else increment("n") for n in range(40)])
    info = made.snapshot()
    made.close()
    file = path / "backup.snap"
    shutil.copy(info.path, file)
    return file


def restored(file: Path, data: Path, node: str = "n1", **changed: object) -> Restored:
    given: dict[str, object] = {"new_text": iter(f"{n:016x}" for n in range(1, 9)).__next__, **changed}
    return restore_snapshot(file, data, node, given.pop("members", PEERS), **given)  # type: ignore[arg-type]


def test_a_whole_file_says_what_it_is(tmp_path: Path) -> None:
    file = saved(tmp_path)
    report = inspect_snapshot(file)
    assert (report.cluster, report.machine, report.machine_version, report.in_ledger) == ("c", "kv", 0, True)
    assert (report.term, report.sessions, report.members) == (1, 1, dict(CONFIGURATION.members))
    assert report.size_bytes == file.stat().st_size
    assert report.index == 45
    assert len(report.sha256) == 64


@pytest.mark.parametrize("where", [0, 20, 200, -1])
def test_a_damaged_file_is_refused_by_both_and_nothing_is_made(tmp_path: Path, where: int) -> None:
    file = saved(tmp_path)
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"backup\.snap is no whole snapshot"):
        inspect_snapshot(file)
    with pytest.raises(CorruptionError):
        restored(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FolderNotFoundError, match="there is no file"):
        inspect_snapshot(tmp_path / "missing")


def test_all_members_come_out_as_one_cluster_with_the_state_and_without_sessions(tmp_path: Path) -> None:
    file = saved(tmp_path)
    done = [restored(file, tmp_path / node, node) for node in PEERS]
    assert {each.cluster for each in done} == {done[0].cluster}
    assert done[0].cluster.startswith("c~")
    opened = [World("lmdb", tmp_path / node, node=node) for node in PEERS]
    identities = [world.ledger.identity for world in opened]
    assert {each.cluster_id for each in identities} == {done[0].cluster}
    assert {world.opened.initial for world in opened} == {opened[0].ledger.configuration}
    assert opened[0].ledger.configuration.addresses == PEERS
    assert opened[0].opened.initial.digest != CONFIGURATION.digest
    for world in opened:
        assert (world.ledger.applied, world.ledger.log.base_index, world.ledger.term) == (45, 45, 1)
        assert world.state == {"n": 2, **{f"k{n}": "x" * 5_000 for n in range(40)}}
        assert not world.ledger.applier.sessions.live
        assert world.snapshots.newest is not None  # for a member that joins
    leader = opened[0]
    assert leader.lead() == 2
    leader.do(increment("n"))
    assert leader.state["n"] == 3
    for world in opened:
        world.close()
    assert all(verify_folder(tmp_path / node).whole for node in PEERS)


def test_wishes_about_members_of_the_old_cluster_alone_are_left_behind() -> None:
    before = replace(CONFIGURATION, priorities=(("n1", 5), ("n9", 7)), no_leader=("n2", "n9"), folders=())
    before = replace(before, members=(*before.members, ("n9", "host9:1")))
    begun = begun_with(before.encode(), PEERS, "c~0123456789ab")
    assert (begun.priorities, begun.no_leader) == ((("n1", 5),), ("n2",))
    assert Configuration.decode(begun.encode()) == begun
    alone = begun_with(before.encode(), {"n2": "new2:1"}, "c~0123456789ab")
    assert alone.may_lead("n2"), "somebody must"
    assert Configuration.decode(alone.encode()) == alone
    assert Configuration.decode(alone.without_members.encode()).members == ()


def test_a_machine_of_ones_own_finds_its_state_at_its_start(tmp_path: Path) -> None:
    file = saved(tmp_path, TallyMachine)
    report = inspect_snapshot(file)
    assert not report.in_ledger
    assert report.machine.endswith("TallyMachine")
    restored(file, tmp_path / "new")
    world = World("lmdb", tmp_path / "new", machine=TallyMachine)
    assert world.ledger.applier.machine.query("total") == 42
    world.lead()
    assert world.do(increment("n"))[-1].outcome.code == ""
    assert world.ledger.applier.machine.query("total") == 43
    world.close()
    with pytest.raises(IdentityError, match="was given 'kv'"):
        World("lmdb", tmp_path / "new")


def test_a_new_member_takes_the_restored_snapshot(tmp_path: Path) -> None:
    file = saved(tmp_path)
    restored(file, tmp_path / "new", members={"n1": "new1:1"})
    world = World("lmdb", tmp_path / "new")
    newest = world.snapshots.newest
    assert newest is not None
    follower = World("memory", tmp_path / "follower", node="n2")
    copy = follower.folder / newest.path.name
    shutil.copy(newest.path, copy)
    with follower.turn():
        follower.ledger.advance(1)
    installation = follower.snapshots.begin_install(type(newest)(copy, newest.index, newest.term, newest.size_bytes))
    with follower.turn():
        while follower.snapshots.install_step(installation):
            pass
        follower.snapshots.finish_install(installation)
    assert follower.state == world.state
    assert follower.ledger.configuration == world.ledger.configuration
    world.close()


def test_what_tells_two_new_clusters_apart(tmp_path: Path) -> None:
    file = saved(tmp_path)
    first = restored(file, tmp_path / "a").cluster
    assert restored(file, tmp_path / "b").cluster == first
    assert restored(file, tmp_path / "c", token="again").cluster != first
    assert restored(file, tmp_path / "d", members={**PEERS, "n4": "new4:1"}).cluster != first
    assert restored(file, tmp_path / "e", cluster="other").cluster.startswith("other~")
    alone = {"n1": "new1:1"}
    texts = (iter(f"{n:016x}" for n in range(start, start + 4)).__next__ for start in (1, 5))
    one, two = (restored(file, tmp_path / f"f{n}", members=alone, new_text=text) for n, text in enumerate(texts))
    assert one.cluster != two.cluster  # a cluster of one agrees with nobody, so it can always be another one


def test_a_cluster_that_was_restored_is_backed_up_and_restored_again(tmp_path: Path) -> None:
    file = saved(tmp_path)
    first = restored(file, tmp_path / "first", members={"n1": "new1:1"})
    (again,) = (tmp_path / "first" / "snapshots").glob("*.fcs")
    assert inspect_snapshot(again).cluster == first.cluster
    second = restored(again, tmp_path / "second", members={"n1": "new1:1"})
    assert second.cluster.split("~")[0] == "c"
    assert second.cluster != first.cluster


def test_a_folder_that_is_not_empty_or_in_use_keeps_all_that_is_in_it(tmp_path: Path) -> None:
    file = saved(tmp_path)
    data = tmp_path / "new"
    data.mkdir()
    (data / "letter.txt").write_text("dear reader")
    with pytest.raises(AlreadyExistsError, match="is not empty"):
        restored(file, data)
    assert [each.name for each in data.iterdir()] == ["letter.txt"]
    (data / "letter.txt").unlink()
    restored(file, data)  # an empty one is taken
    before = sorted(str(each) for each in data.rglob("*"))
    with pytest.raises(AlreadyExistsError):
        restored(file, data)
    other = tmp_path / "other"
    with Folder(other), pytest.raises((AlreadyExistsError, FolderLockedError)):
        restored(file, other)
    assert sorted(str(each) for each in data.rglob("*")) == before


def test_a_restore_that_fails_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(restoring, "import_state", full)
    with pytest.raises(OSError, match="No space"):
        restored(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_restore_that_was_killed_leaves_a_folder_on_which_no_node_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path)
    monkeypatch.setattr(restoring, "clear", lambda data, *, keep: None)
    monkeypatch.setattr(restoring, "begin", lambda batch, point, *, in_ledger: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        restored(file, tmp_path / "new")
    with pytest.raises(IdentityError, match="holds snapshots of an earlier node"):
        World("lmdb", tmp_path / "new")


def test_a_file_of_before_headers_named_their_origin_is_restored_too(tmp_path: Path) -> None:
    file = saved(tmp_path)
    header = {key: value for key, value in read_header(file).items() if key not in ("cluster", "machine", "in_ledger")}
    (tmp_path / "early").mkdir()
    early = write_snapshot(tmp_path / "early", header, read_chunks(file)).path
    report = inspect_snapshot(early)
    assert (report.cluster, report.machine, report.in_ledger) == ("", "kv", True)
    assert restored(early, tmp_path / "new", cluster="demo").cluster.startswith("demo~")


def test_a_node_that_is_no_member_and_a_machine_that_is_another_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path)
    with pytest.raises(InvalidConfigError, match="'n9' is not among the members"):
        restored(file, tmp_path / "new", "n9")

    class Other:
        machine_name = "other"

    with pytest.raises(InvalidConfigError, match="holds the state of the machine 'kv'"):
        restored(file, tmp_path / "new", machine=Other)
    assert not (tmp_path / "new").exists()
