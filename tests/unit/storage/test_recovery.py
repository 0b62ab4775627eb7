"""A survivor's folder becomes a cluster of its own, says what it gives up, and the old cluster does not fit to it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.cluster_id import name_of
from forge_consensus.errors import IdentityError, LogInconsistentError, RecoveryRefusedError
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.inspecting import inspect_log
from forge_consensus.storage.ledger.changes import check_follows
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import BOOTS, TIPS
from forge_consensus.storage.ledger.record import Kind, data_of, kind_of
from forge_consensus.storage.ledger.transaction import META
from forge_consensus.storage.opening import Founding, Opened, open_ledger
from forge_consensus.storage.recovery import RecoveryPlan, recover_folder
from forge_consensus.storage.verify import verify_folder
from tests.worlds.ledger_world import CONFIGURATION, LIMITS, TallyMachine, World, increment

TEXTS = ("0123456789abcdef", "fedcba9876543210")


def lost(path: Path, machine: type = TallyMachine, *, uncommitted: int = 2) -> None:
    """Leave the folder of a member of three whose log ends with entries of which nobody knows whether they count."""
    world = World("lmdb", path, machine=machine)
    world.lead()
    world.do(*[increment("n")] * 5)
    if uncommitted:
        world.propose(*[increment("n")] * uncommitted)
    world.close()


def recovered(path: Path, *, address: str = "") -> RecoveryPlan:
    texts = iter(TEXTS)
    plan = recover_folder(path, lambda plan: True, new_text=lambda: next(texts), address=address)
    assert plan is not None
    return plan


def begun_with(before: Configuration) -> type[World]:
    """Worlds of a cluster that began with this configuration."""

    class Begun(World):
        def open(
            self, configuration: Configuration | None = before, cluster: str = "c", *, amends: bool = False
        ) -> Opened:
            return super().open(configuration, cluster, amends=amends)

    return Begun


def content(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_the_survivor_leads_alone_with_all_of_its_log_and_under_a_new_identity(tmp_path: Path) -> None:
    lost(tmp_path)
    plan = recovered(tmp_path)
    assert (plan.last_index, plan.last_term, plan.commit_index, plan.uncommitted) == (9, 1, 7, 2)
    assert (plan.cluster_before, plan.cluster, plan.address) == ("c", "c~0123456789ab", "host1:1")
    assert verify_folder(tmp_path).whole
    world = World("lmdb", tmp_path, machine=TallyMachine)
    identity, ledger = world.ledger.identity, world.ledger
    assert (identity.cluster_id, identity.incarnation) == ("c~0123456789ab", TEXTS[1])
    assert name_of(identity.cluster_id) == "c"
    assert ledger.configuration.members == (("n1", "host1:1"),)
    assert ledger.configuration.quorum.required == 1
    assert world.opened.initial == ledger.configuration
    assert world.opened.initial.digest != CONFIGURATION.digest
    assert (ledger.commit_index, ledger.term) == (10, 2)
    assert world.lead() == 3
    world.do(increment("n"))
    assert ledger.applier.machine.query("total") == 8
    world.close()


@pytest.mark.parametrize(
    "wishes",
    [
        {"priorities": (("n2", 10),)},
        {"priorities": (("n1", 5), ("n2", 10))},
        {"no_leader": ("n2", "n3")},
        {"no_leader": ("n1",)},
        {"no_leader": ("n1", "n2"), "priorities": (("n1", -3),)},
    ],
)
def test_wishes_about_members_that_are_lost_neither_break_the_folder_nor_keep_others_out(
    tmp_path: Path, wishes: dict[str, Any]
) -> None:
    """What is written is a configuration that can be read, by the node and by those who join it, and that can lead."""
    before = replace(CONFIGURATION, **wishes)
    world = begun_with(before)("lmdb", tmp_path / "n1", machine=TallyMachine)
    world.lead()
    world.do(increment("n"))
    assert world.ledger.configuration == before
    world.close()
    recovered(tmp_path / "n1")
    assert verify_folder(tmp_path / "n1").whole
    alone = World("lmdb", tmp_path / "n1", machine=TallyMachine)
    assert alone.ledger.configuration.may_lead("n1")
    assert dict(alone.ledger.configuration.priorities) == {
        node: priority for node, priority in wishes.get("priorities", ()) if node == "n1"
    }
    alone.lead()
    joiner = Founding("n2", "c~0123456789ab", alone.opened.initial, lambda: "folder-n2", joins=True)
    (tmp_path / "n2" / "snapshots").mkdir(parents=True)
    with LmdbTables(tmp_path / "n2" / "tables") as tables:
        opened = open_ledger(
            tables, tmp_path / "n2" / "snapshots", joiner, TallyMachine(), LIMITS, lambda: pytest.fail("no snapshot")
        )
        assert opened.ledger.configuration.members == ()
    alone.close()


def test_a_snapshot_that_was_received_and_not_taken_over_is_taken_over_first(tmp_path: Path) -> None:
    """At the next start it would take the place of what the recovery has written, and bring the lost members back.

    The switch itself leaves the log's end to the next turn; a folder that was left between the two is whole.
    """
    ahead = World("lmdb", tmp_path / "ahead", machine=TallyMachine)
    ahead.lead()
    ahead.do(*[increment("n")] * 20)
    taken = ahead.snapshot()
    ahead.close()
    lost(tmp_path / "n1")
    shutil.copy(taken.path, tmp_path / "n1" / "snapshots" / taken.path.name)
    with pytest.raises(RecoveryRefusedError, match=r"received a snapshot of entry 22 .* ends with entry 9: start"):
        recovered(tmp_path / "n1")
    World("lmdb", tmp_path / "n1", machine=TallyMachine).close()
    assert verify_folder(tmp_path / "n1").whole
    assert (inspect_log(tmp_path / "n1").last_index, inspect_log(tmp_path / "n1").commit_index) == (22, 22)
    plan = recovered(tmp_path / "n1")
    assert plan.last_index == 22
    alone = World("lmdb", tmp_path / "n1", machine=TallyMachine)
    assert alone.ledger.configuration.members == (("n1", "host1:1"),)
    alone.lead()
    assert alone.ledger.applier.machine.query("total") == 20
    alone.close()


def test_nothing_is_written_before_it_is_confirmed(tmp_path: Path) -> None:
    lost(tmp_path)
    before = content(tmp_path)
    texts = iter(TEXTS)
    assert recover_folder(tmp_path, lambda plan: False, new_text=lambda: next(texts)) is None
    assert content(tmp_path) == before


def test_a_built_in_machine_keeps_what_was_on_disk_and_its_sessions(tmp_path: Path) -> None:
    world = World("lmdb", tmp_path)
    world.lead()
    world.do(*[increment("n")] * 5)
    world.checkpoint()
    world.close()
    recovered(tmp_path, address="there:7000")
    again = World("lmdb", tmp_path)
    again.lead()
    again.settle()
    assert again.state == {"n": 5}
    assert again.ledger.configuration.members == (("n1", "there:7000"),)
    again.close()


def test_a_folder_is_recovered_once(tmp_path: Path) -> None:
    lost(tmp_path)
    recovered(tmp_path)
    with pytest.raises(RecoveryRefusedError, match="n1 is the only voter of its cluster"):
        recovered(tmp_path)


def test_another_cluster_and_the_whole_id_of_the_old_one_are_refused(tmp_path: Path) -> None:
    lost(tmp_path)
    recovered(tmp_path)
    with pytest.raises(IdentityError, match="of cluster 'c~0123456789ab'"):
        World("lmdb", tmp_path, machine=TallyMachine).open(cluster="other")


def test_a_member_that_is_known_to_have_had_more_is_named(tmp_path: Path) -> None:
    world = World("lmdb", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*[increment("n")] * 3)
    with world.turn():
        world.ledger.identity.tips.note_match("n2", 1, 9, 9)
        world.ledger.identity.tips.note_match("n3", 1, 2, 2)
        world.ledger.identity.tips_due = True
        world.ledger.turn.put_meta(b"other", b"")
    world.close()
    (ahead,) = recovered(tmp_path).ahead
    assert (ahead.node, ahead.last_index, ahead.lacking) == ("n2", 9, 4)


def test_what_the_folder_knew_of_the_old_members_is_forgotten(tmp_path: Path) -> None:
    world = World("lmdb", tmp_path, machine=TallyMachine)
    with world.turn():
        assert world.ledger.identity.admit(world.ledger.turn, "n2", "folder.draw", 1, "") == ""
    world.close()
    recovered(tmp_path)
    again = World("lmdb", tmp_path, machine=TallyMachine)
    assert again.ledger.identity.boots == {}
    assert again.tables.get(META, BOOTS) is again.tables.get(META, TIPS) is None
    again.close()


def test_a_new_member_takes_the_whole_log_with_the_recovery_in_it(tmp_path: Path) -> None:
    lost(tmp_path)
    recovered(tmp_path)
    survivor = World("lmdb", tmp_path, machine=TallyMachine)
    records = survivor.log_bytes
    assert [kind_of(record) for record in records].count(Kind.CONFIGURATION) == 2
    follower = World("memory", tmp_path / "follower", machine=TallyMachine, node="n2")
    follower.follow(2)
    with follower.turn():
        follower.accept(1, 0, *records[1:])
    assert follower.ledger.configuration == Configuration.decode(data_of(records[-1]))
    survivor.close()


def test_only_another_token_of_a_recovery_lets_a_configuration_follow_any() -> None:
    alone = Configuration((("n1", "host1:1"),))
    with pytest.raises(LogInconsistentError):
        check_follows(CONFIGURATION, alone)
    marked = Configuration((("n1", "host1:1"),), recovery="0123456789ab")
    check_follows(CONFIGURATION, marked)
    with pytest.raises(LogInconsistentError):
        check_follows(marked, Configuration((("n4", "h:4"), ("n5", "h:5")), recovery="0123456789ab"))
    for known in (marked, replace(marked, members=())):  # the second is that of a node that joins
        assert Configuration.decode(known.encode()) == known


def test_a_log_that_is_all_compacted_goes_on_in_its_time(tmp_path: Path) -> None:
    world = World("lmdb", tmp_path, machine=TallyMachine)
    world.lead()
    world.now += 50.0
    world.do(*[increment("n")] * 5)
    world.snapshot()
    world.compact()
    elapsed = world.ledger.applier.elapsed_ms
    world.close()
    recovered(tmp_path)
    again = World("lmdb", tmp_path, machine=TallyMachine)
    again.lead()
    again.settle()
    assert elapsed <= again.ledger.applier.elapsed_ms < elapsed + 1000
    again.close()


def test_a_node_that_received_nothing_yet_has_nothing_to_recover(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    with LmdbTables(tmp_path / "tables") as tables:
        founding = Founding("n4", "c", CONFIGURATION, lambda: "folder-n4", joins=True)
        open_ledger(
            tables, tmp_path / "snapshots", founding, TallyMachine(), LIMITS, lambda: pytest.fail("no snapshot")
        )
    with pytest.raises(RecoveryRefusedError, match="n4 was started to join a cluster and has received nothing"):
        recovered(tmp_path)
