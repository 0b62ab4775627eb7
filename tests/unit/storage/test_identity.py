"""The identity of a folder: boots increase durably, and wiped and restored members are noticed."""

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from forge_consensus.errors import IdentityError
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger import identity
from forge_consensus.storage.ledger.identity import DRAW_CHARS, DRAWN, DRAWS_TOLD, FORMAT, IDENTITY
from forge_consensus.storage.ledger.transaction import put_meta
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import CONFIGURATION, World


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    yield made
    made.close()


def test_each_start_is_a_boot_of_the_same_incarnation(world: World) -> None:
    for boot in range(1, 6):
        assert (world.ledger.identity.incarnation, world.ledger.identity.boot) == ("folder-n1", boot)
        world.crash()


def test_the_boot_is_durable_when_the_ledger_is_open_and_costs_one_flush(world: World) -> None:
    world.restart_tables()
    world.open()
    assert world.tables.commits == 1


def test_the_folder_of_another_node_or_cluster_is_refused_and_not_changed(world: World) -> None:
    world.restart_tables()
    world.node = "n2"
    with pytest.raises(IdentityError, match="belongs to node 'n1' of cluster 'c', not to node 'n2' of cluster 'c'"):
        world.open()
    world.node = "n1"
    with pytest.raises(IdentityError, match="not to node 'n1' of cluster 'other'"):
        world.open(cluster="other")
    assert world.tables.commits == 0
    world.open()
    assert world.ledger.identity.boot == 2


def test_a_folder_of_another_format_is_refused(world: World) -> None:
    def write(batch: Batch) -> None:
        put_meta(batch, IDENTITY, msgpack.packb((FORMAT + 1, "whatever")))

    world.write(write)
    with pytest.raises(IdentityError, match=f"format {FORMAT + 1} and this program reads 2 to {FORMAT}"):
        world.crash()


def admit(world: World, node: str, folder: str, boot: int, *, letters: str = "abcdefghij") -> str:
    """Admit a folder whose boots drew these letters, the first boot the first."""
    draws = [letter * DRAW_CHARS for letter in letters]
    known = world.ledger.identity.boots.get(node, ("", 0))[1]
    with world.turn():
        shown = draws[known - 1] if 0 < known < boot else ""
        return world.ledger.identity.admit(world.ledger.turn, node, f"{folder}.{draws[boot - 1]}", boot, shown)


def test_a_folder_names_the_draws_of_its_earlier_boots_newest_first(world: World) -> None:
    draws: list[str] = []
    for _ in range(5):
        assert world.ledger.identity.earlier == "".join(reversed(draws))
        draws.append(world.ledger.identity.boot_token.partition(DRAWN)[2])
        world.crash()


def test_a_greeting_names_the_newest_draws_and_every_other_is_found_by_its_boot(world: World) -> None:
    draws: list[str] = []
    for _ in range(DRAWS_TOLD + 5):
        draws.append(world.ledger.identity.boot_token.partition(DRAWN)[2])
        world.crash()
    identity = world.ledger.identity
    assert identity.earlier == "".join(reversed(draws[-DRAWS_TOLD:]))
    assert [identity.draw_of(boot) for boot in range(1, identity.boot)] == draws
    assert [identity.draw_of(boot) for boot in (0, identity.boot, identity.boot + 1)] == ["", "", ""]


def test_the_draws_of_format_2_are_taken_over_also_if_a_start_ended_within_the_taking_over(world: World) -> None:
    draws = "".join(f"{number:08}" for number in range(8193, 0, -1))
    for version in (2, FORMAT):  # the second as a start leaves it that ended before its boot was on disk

        def write(batch: Batch, version: int = version) -> None:
            put_meta(batch, IDENTITY, msgpack.packb((version, "n1", "c", "folder-n1", 8193, draws)))

        world.write(write)
        world.crash()
        identity = world.ledger.identity
        assert (identity.boot, identity.earlier) == (8194, draws[: DRAWS_TOLD * DRAW_CHARS])
        assert [identity.draw_of(boot) for boot in (1, 4000, 8193)] == ["00000001", "00004000", "00008193"]


def test_the_oldest_draws_are_forgotten_one_by_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "DRAWS_KEPT", 3)
    for _ in range(6):
        world.crash()
    assert [bool(world.ledger.identity.draw_of(boot)) for boot in range(1, 7)] == [False] * 4 + [True] * 2


def test_a_member_is_known_durably_by_its_highest_boot(world: World) -> None:
    assert admit(world, "n2", "folder", 3) == ""
    assert admit(world, "n2", "folder", 5) == ""
    world.crash()
    assert world.ledger.identity.boots == {"n2": ("folder.eeeeeeee", 5)}
    commits = world.tables.commits
    assert admit(world, "n2", "folder", 5) == ""
    assert world.tables.commits <= commits + 1  # the first turn of a boot raises the mark of event numbers
    assert admit(world, "n2", "folder", 5) == ""
    assert world.tables.commits <= commits + 1


def test_a_wiped_and_a_restored_member_are_refused(world: World) -> None:
    admit(world, "n2", "folder", 3)
    assert "its folder was wiped or exchanged" in admit(world, "n2", "another", 4)
    assert "restored from an older copy" in admit(world, "n2", "folder", 2)
    assert world.ledger.identity.boots == {"n2": ("folder.cccccccc", 3)}
    world.crash()
    assert world.ledger.identity.boots == {"n2": ("folder.cccccccc", 3)}


def test_a_copy_that_was_started_more_often_than_its_original_is_refused(world: World) -> None:
    admit(world, "n2", "folder", 3)
    refused = admit(world, "n2", "folder", 5, letters="abxyz")
    assert "comes in boot 5, which does not descend from that one" in refused
    assert "restored from an older copy" in admit(world, "n2", "folder", 3, letters="abx")
    assert admit(world, "n2", "folder", 5) == ""
    assert world.ledger.identity.boots == {"n2": ("folder.eeeeeeee", 5)}


def test_repeated_starts_do_not_admit_a_copy(world: World) -> None:
    admit(world, "n2", "folder", 2, letters="ab")
    for boot in range(3, 300):
        assert admit(world, "n2", "folder", boot, letters="a" + "x" * boot) != ""
    assert admit(world, "n2", "folder", 300, letters="ab" + "y" * 298) == ""


def test_a_rolled_back_turn_has_admitted_no_node(world: World) -> None:
    world.ledger.begin(0)
    world.ledger.identity.admit(world.ledger.turn, "n2", "folder", 3, "")
    world.ledger.rollback()
    assert world.ledger.identity.boots == {}
    assert admit(world, "n2", "other-folder", 1) == ""


def test_the_list_of_members_is_read_once(world: World) -> None:
    world.restart_tables()
    world.open(configuration=None)
    assert world.opened.initial == CONFIGURATION
    assert not world.opened.is_new


# --- boots that are expelled -----------------------------------------------------------------------------------------


def expel(world: World, node: str = "n2") -> None:
    """Expel the boot of a member that was met last."""
    with world.turn():
        world.ledger.identity.expel(world.ledger.turn, node, "it lost entries")


def known(world: World) -> tuple[object, object]:
    """The boot of n2 whose frames are accepted, and the one from which its next boot must descend."""
    return world.ledger.identity.boots.get("n2"), world.ledger.identity.known("n2")


@pytest.mark.parametrize("restarts", [False, True])
def test_an_expelled_boot_is_refused_at_every_greeting_and_a_later_boot_of_the_folder_is_not(
    world: World, *, restarts: bool
) -> None:
    admit(world, "n2", "folder", 3)
    expel(world)
    for _ in range(3):
        if restarts:
            world.crash()
        assert known(world) == (None, ("folder.cccccccc", 3))
        with world.turn():
            why = world.ledger.identity.admit(world.ledger.turn, "n2", "folder.cccccccc", 3, "")
        assert why == "it lost entries"
    assert world.ledger.identity.is_later_boot("n2", "folder.dddddddd")
    with world.turn():
        assert world.ledger.identity.admit(world.ledger.turn, "n2", "folder.dddddddd", 4, "cccccccc") == ""
    assert world.ledger.identity.expelled == {}
    world.crash()
    assert known(world) == (("folder.dddddddd", 4), ("folder.dddddddd", 4))
    assert world.ledger.identity.expelled == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_after_a_copy_is_expelled_the_boot_before_it_counts_again(world: World, *, restarts: bool) -> None:
    """Boot 5 acknowledged, then a copy of it came as boot 6 and told nothing new; the true folder's boot 6 follows."""
    admit(world, "n2", "folder", 5)
    world.ledger.identity.tips.note_match("n2", 1, 40, 40)
    admit(world, "n2", "folder", 6, letters="abcdex")
    if restarts:
        world.crash()
        admit(world, "n2", "folder", 6, letters="abcdex")
    expel(world)
    if restarts:
        world.crash()
    assert known(world) == (None, ("folder.eeeeeeee", 5))
    identity = world.ledger.identity
    assert identity.descends_from_expelled("n2", "x" * DRAW_CHARS)
    assert not identity.descends_from_expelled("n2", "f" * DRAW_CHARS)
    assert not identity.descends_from_expelled("n2", None)
    assert admit_shown(world, "folder.xxxxxxxx", 6) == "it lost entries"
    assert admit_shown(world, "folder.ffffffff", 6) == ""
    world.crash()
    assert known(world)[1] == ("folder.ffffffff", 6)
    assert admit_shown(world, "folder.xxxxxxxx", 6) != ""


def admit_shown(world: World, token: str, boot: int) -> str:
    """Admit a boot that names the right draw for boot 5."""
    with world.turn():
        return world.ledger.identity.admit(world.ledger.turn, "n2", token, boot, "e" * DRAW_CHARS)


def test_who_expelled_a_later_boot_remembers_it_until_the_true_folder_has_passed_it(world: World) -> None:
    admit(world, "n2", "folder", 5)
    world.ledger.identity.tips.note_match("n2", 1, 40, 40)
    admit(world, "n2", "folder", 9, letters="abcdewxyz")
    expel(world)
    assert admit_shown(world, "folder.ffffffff", 6) == ""
    assert world.ledger.identity.descends_from_expelled("n2", "z" * DRAW_CHARS)
    assert known(world) == (("folder.ffffffff", 6), ("folder.ffffffff", 6))
    world.crash()
    assert known(world) == (None, ("folder.ffffffff", 6)), "it has to greet again"
    assert admit_shown(world, "folder.zzzzzzzz", 9) == "it lost entries"
    assert admit_shown(world, "folder.ffffffff", 6) == ""


def test_a_rolled_back_turn_has_expelled_nobody(world: World) -> None:
    admit(world, "n2", "folder", 3)
    world.ledger.begin(0)
    world.ledger.identity.expel(world.ledger.turn, "n2", "it lost entries")
    world.ledger.rollback()
    assert known(world)[0] == ("folder.cccccccc", 3)
    assert world.ledger.identity.expelled == {}


# --- what is known of the members' disks ------------------------------------------------------------------------------


def test_what_is_known_of_a_disk_is_stored_with_the_record_of_a_boot(world: World) -> None:
    world.ledger.identity.tips.note_match("n2", 3, 40, 35)
    admit(world, "n2", "folder", 1)
    world.crash()
    assert world.ledger.identity.tips.of("n2").facts == (3, 3, 40, 35)


def test_what_is_known_of_a_disk_makes_no_commit_and_rides_on_one_a_second_at_most(world: World) -> None:
    identity, put = world.ledger.identity, 0
    world.now = 10.0
    with world.turn():
        world.ledger.advance(1)
    for match in range(1, 6):
        identity.tips.note_match("n2", 3, match, match)
        commits = world.tables.commits
        world.ledger.begin(world.now)
        assert not world.ledger.commit()
        assert world.tables.commits == commits
    for step in range(20):
        identity.tips.note_match("n2", 3, 10 + step, 10)
        world.ledger.begin(20.0 + step / 8)
        world.ledger.advance(world.ledger.term + 1)
        world.ledger.commit()
        put += not identity.tips.unsaved
    assert put == 3
    stored = identity.tips.of("n2").verified
    world.crash()
    assert world.ledger.identity.tips.of("n2").verified == 26 < stored
