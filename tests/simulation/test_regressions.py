"""The bugs found so far, each with its origin and with the mutant, test or story that prevents its return."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from loguru import logger

from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import ConsensusEvent, SnapshotFailed
from forge_consensus.storage.ledger.tips import Tips
from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import Bounds
from tests.simulation.mutants import election, ledger, replication, snapshots
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import Change
from tests.worlds import bystander

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug.

    A seed means another run whenever simulations draw otherwise. So what a seed showed is told again as a `story`, a
    run by hand that is good now and bad with the mutant; the seed is run all the same.
    """

    what: str
    found_by: str
    mutant: Change | None = None
    """Puts it back in. Where there is no story, the campaign against the mutants finds it again."""
    test: str = ""
    """Shows it directly: file and name."""
    story: Callable[[int], bool] | None = None
    stories: range = range(1, 2)
    """The seeds of the story: with the mutant at least one ends badly."""
    seed: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    """What of the seed's own plan was different."""


def undisturbed(seed: int, limits: StorageSettings | None = None) -> Simulation:
    """Three nodes of which one leads, and no faults."""
    world = Simulation(Plan(seed, nodes=3, faults=False, storage=limits or StorageSettings()))
    world.wait_for_leader()
    return world


def led_by(world: Simulation) -> SimulatedBase:
    """The leader's process."""
    return cast("SimulatedBase", world.cluster.leader())


def open_sessions(world: Simulation, leader: SimulatedBase, count: int) -> None:
    """Give a leader so many entries for its log."""
    bystander.open_sessions(world, leader.name, count)
    world.advance(0.05)


def restart_unnoticed(seed: int) -> bool:
    """A follower's process is replaced and nobody hears of it; returns whether it is found again."""
    with undisturbed(seed) as world:
        world.cluster.network.weather.unreported = 1.0
        follower = next(base for base in world.cluster.running() if base is not led_by(world))
        world.crash(follower.name)
        world.restart(follower.name)
        open_sessions(world, led_by(world), 3)
        return world.advance(10.0, world.cluster.settled)


def rejoin_with_older_terms(seed: int) -> bool:
    """A cut-off leader's log goes on beyond where its successor's begins; returns whether both become one."""
    limits = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=0)
    with undisturbed(seed, limits) as world:
        old = led_by(world)
        world.partition([old.name])
        open_sessions(world, old, 100)
        world.advance(4.0)
        leader = led_by(world)
        open_sessions(world, leader, 30)
        world.advance(2.0)
        world.crash(leader.name)  # a leader that begins behind its log's start probes, and does not know whom
        world.restart(leader.name)
        world.advance(4.0)
        assert 20 < led_by(world).engine.ledger.log.base_index < old.engine.ledger.log.last
        world.cluster.network.cut.clear()
        return world.advance(10.0, world.cluster.settled)


def copy_is_started_more_often(seed: int) -> bool:
    """An old copy of a folder takes its place and boots beyond it, alone; returns whether it is refused then.

    The tips in greetings, which would give the copy away first, are not looked at: this is about the boots.
    """
    with Patch() as patch, undisturbed(seed) as world:
        patch.setattr(Tips, "went_back", lambda *_: "")
        name = next(base for base in world.cluster.running() if base is not led_by(world)).name
        world.crash(name)
        copy = world.cluster.copy_of(name)
        world.restart(name)
        world.advance(2.0)
        world.partition([name])
        for _ in range(3):
            world.crash(name)
            if not world.cluster.suspect:
                world.cluster.put_back(name, copy, "an older copy")
            world.restart(name)
            world.advance(0.1)
        world.cluster.network.cut.clear()
        world.advance(10.0)
        return "restored from an older copy" in world.cluster.gone.get(name, "")


def overtake_a_damaged_snapshot(seed: int) -> bool:
    """A snapshot that a follower needs is damaged where it lies, and while it is sent in vain a newer one is taken."""
    limits = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=0)
    with undisturbed(seed, limits) as world:
        refused: list[ConsensusEvent] = []
        world.subscribe(SnapshotFailed, refused.append)
        leader = led_by(world)
        behind = next(base for base in world.cluster.running() if base is not leader)
        world.partition([behind.name])
        open_sessions(world, leader, 30)
        assert world.advance(4.0, lambda: leader.engine.ledger.log.base_index > behind.engine.ledger.log.last)
        damaged = leader.engine.opened.snapshots.newest
        assert damaged is not None
        world.cluster.flip_file(leader.name, damaged.path.name, damaged.size_bytes // 2, 0)
        world.cluster.network.cut.clear()
        assert world.advance(4.0, lambda: bool(refused))
        open_sessions(world, leader, 30)
        return world.advance(10.0, world.cluster.settled)


def few_frames(seed: int, turn_frames_max: int) -> dict[str, Any]:
    """What a seed's plan has instead where a turn takes next to no frames and reads go to any node."""
    plan = Plan.of(seed)
    conditions = replace(plan.conditions, reads=0.9)
    return {"raft": replace(plan.raft, turn_frames_max=turn_frames_max), "conditions": conditions}


BUGS = (
    Bug(
        "A node whose process was replaced unnoticed is a stranger to its peers, and was never greeted again.",
        "seed 51 of the first campaign",
        mutant=replication.a_node_that_is_a_stranger_does_not_greet_again,
        story=restart_unnoticed,
        stories=range(1, 7),
        seed=51,
    ),
    Bug(
        "A follower with older terms where the leader's log begins was probed there for ever: no hint leads lower.",
        "seed 2029 of the first campaign",
        mutant=replication.terms_before_the_start_of_the_log_are_not_compared,
        story=rejoin_with_older_terms,
        seed=2029,
    ),
    Bug(
        "A lost Hello, or one whose turn was taken back, left two nodes silent for good.",
        "the first campaign",
        mutant=replication.a_lost_greeting_is_not_repeated,
    ),
    Bug(
        "Votes and pre-votes were counted in one set.",
        "review and simulation",
        mutant=election.a_pre_vote_counts_as_a_vote,
        test="unit/actors/test_election.py::test_votes_and_pre_votes_are_never_counted_together",
    ),
    Bug(
        "A checkpoint in the turn that switched to a snapshot wrote the old applied index over the installed one.",
        "reading",
        mutant=ledger.a_checkpoint_is_due_in_the_turn_that_switches_to_a_snapshot,
        test="unit/storage/test_snapshots.py::test_the_turn_of_the_switch_applies_compacts_and_checkpoints_nothing",
    ),
    Bug(
        "A turn that truncated, appended and committed applied entries that were not durable yet.",
        "review and simulation",
        mutant=ledger.state_moves_before_its_entries_are_durable,
        test="unit/storage/test_ledger.py::test_entries_that_replace_durable_ones_are_not_applied_in_their_own_turn",
    ),
    Bug(
        "The log was cut beyond the state that is on disk.",
        "review and simulation",
        mutant=snapshots.the_log_is_cut_beyond_the_state_on_disk,
        test="unit/storage/test_snapshots.py::test_the_log_is_never_cut_beyond_the_state_on_disk",
    ),
    Bug(
        "Frames of a dead leader that arrived late called off the quick election.",
        "review and simulation",
        test=("unit/actors/test_election.py::test_messages_of_a_dead_leader_do_not_cancel_the_quick_election"),
    ),
    Bug(
        "A leader whose snapshot file was damaged sent it for ever; the follower never caught up.",
        "seed 49 of the campaign with flipped bytes",
        test="unit/actors/test_snapshot.py::test_a_leader_whose_snapshot_file_is_damaged_takes_another",
        seed=49,
    ),
    Bug(
        "A leader went on sending a damaged snapshot, for ever, if it had taken a newer one by the time it knew.",
        "seed 631 of the campaign with five nodes",
        mutant=snapshots.a_damaged_snapshot_is_sent_on_when_there_is_a_newer_one,
        story=overtake_a_damaged_snapshot,
        seed=631,
        changes={"nodes": 5},
    ),
    Bug(
        "The same, with two followers that wait for the file and a machine of the user's.",
        "seed 20056 of the campaign with five nodes",
        test="unit/actors/test_snapshot.py::test_a_damaged_file_is_not_sent_again_if_a_newer_snapshot_exists",
        seed=20056,
        changes={"nodes": 5},
    ),
    Bug(
        "A crash between a snapshot's name and the folder's flush: the log could begin behind a file that was gone.",
        "reasoning about files that power failures take",
        test=("kit/test_faults.py::test_the_next_start_makes_an_installed_snapshot_durable"),
    ),
    Bug(
        "A follower on a slow link was overtaken by the next snapshot whenever it had one, and never became level.",
        "scenario 65",
        test="scenarios/test_slow_link.py::test_scenario_65_a_follower_on_a_slow_link_catches_up_under_load",
    ),
    Bug(
        "Commands outside a session were applied, without being applied at most once.",
        "writing the stories",
        test="unit/actors/test_gateway.py::test_commands_outside_a_session_are_refused",
    ),
    Bug(
        "A copy of a folder that had been started more often than its original was taken for it, its votes forgotten.",
        "seed 867 of five nodes",
        mutant=election.a_boot_is_not_asked_which_it_descends_from,
        story=copy_is_started_more_often,
        seed=867,
        changes={"nodes": 5},
    ),
    Bug(
        "A candidate that asked for pre-votes again and then won stood out of its own leadership, and told nobody: "
        "clients were given what other clients' entries had done, and two had one session.",
        "seed 774 of five nodes",
        mutant=election.who_won_goes_on_asking,
        test="unit/actors/test_election.py::test_late_pre_votes_do_not_end_the_leadership",
        seed=774,
        changes={"nodes": 5},
    ),
    Bug(
        "A stale read did not count the time in which its node did not run; after a slow turn it was of less than no "
        "age, which no client could decode.",
        "seed 2340 of five nodes",
        test="unit/actors/test_gateway.py::test_a_stale_read_says_how_old_the_state_is_at_most",
        seed=2340,
        changes={"nodes": 5},
    ),
    Bug(
        "Who was answered by a turn that then failed was told nothing: neither the result nor that it is unknown.",
        "review",
        test=(
            "unit/actors/test_gateway.py::test_a_client_answered_by_a_failed_turn_learns_that_the_outcome_is_unknown"
        ),
    ),
    Bug(
        "A leader that ended an installation, begun as a follower, forgot who waited for what it applied in that turn.",
        "review",
        test="unit/actors/test_gateway.py::test_waiting_commands_are_answered_although_a_snapshot_is_installed",
    ),
    Bug(
        "A connection that broke in the turn in which its node's successor began to lead started one election more.",
        "review",
        test=(
            "unit/actors/test_election.py::test_new_leader_is_followed_even_if_the_old_connection_breaks_in_that_turn"
        ),
    ),
    Bug(
        "A copy that its peers refused was started again and again, until it counted beyond what they could compare.",
        "review",
        test="unit/storage/test_identity.py::test_repeated_starts_do_not_admit_a_copy",
    ),
    Bug(
        "One node with a folder of an earlier life of the cluster ended the healthy ones by refusing them.",
        "review",
        test="unit/actors/test_gate.py::test_a_node_is_not_ended_by_a_peer_that_lost_its_identity",
    ),
    Bug(
        "A folder that lost its tables was refused once only; then its old snapshot was sent as the state of all.",
        "review",
        test=(
            "unit/storage/test_opening.py::test_a_folder_with_old_snapshots_and_new_tables_is_refused_at_every_start"
        ),
    ),
    Bug(
        "A helper's job began before its turn's commit: a crash between them left a file of a term that nobody knew.",
        "review",
        test="unit/actors/test_engine.py::test_no_job_begins_if_the_node_ends_at_the_commit",
    ),
    Bug(
        "A snapshot file that had grown, or was cut short, was sent for ever and never read again.",
        "review",
        test="unit/actors/test_snapshot.py::test_a_grown_snapshot_file_is_sent_only_up_to_its_announced_size",
    ),
    Bug(
        "Two saves of the same snapshot at once, one of an actor that had failed, wrote into one file.",
        "review",
        test="unit/storage/test_snapshot_file.py::test_two_saves_of_one_snapshot_at_once_do_not_write_into_one_file",
    ),
    Bug(
        "The log was cut between a follower's word that it has a snapshot and its first acknowledgement.",
        "review",
        test="unit/actors/test_snapshot.py::test_a_leader_keeps_the_entries_behind_a_snapshot_once_a_follower_has_it",
    ),
    Bug(
        "A busy node whose peer was killed was aborted by libzmq over a ping of ZeroMQ's own.",
        "the siege",
        test=("unit/actors/test_sockets.py::test_a_process_that_is_killed_while_its_frames_wait_does_not_end_the_node"),
    ),
    Bug(
        "A call that no frame to a node can hold cost the connection again and again, and all calls beside it.",
        "seed 1000428 of the campaign",
        test=("unit/client/test_session.py::test_what_no_frame_can_hold_is_refused_and_harms_nothing_beside_it"),
    ),
    Bug(
        "After one slow command among thousands of quick ones, a leader took next to nothing from anybody.",
        "simulation",
        test="unit/storage/test_pace.py::test_one_slow_piece_among_quick_ones_is_no_pace",
        seed=470,
    ),
    Bug(
        "Where every disk took longer for a commit than an election timeout, each leader resigned after its first "
        "commit: 24 terms in a minute, and not one write.",
        "review",
        test="scenarios/test_slow_turns.py::test_where_all_disks_are_slow_one_leader_serves",
    ),
    Bug(
        "A command that a full session refused ended as not carried out, though a second copy of it was carried out.",
        "simulation",
        test="unit/client/test_session.py::"
        "test_a_command_of_which_one_copy_found_its_session_full_may_be_carried_out_by_another",
        seed=1002,
        changes={"pace": 1.0, "conditions": Conditions(bounds=Bounds(outcomes_max=2, outcome_bytes_max=522))},
    ),
    Bug(
        "A leader that was suspended read too late that the target of its handover had the whole log, and in one turn "
        "told it to stand and took new entries.",
        "seed 20000144 with at most 3 frames a turn and reads on any node",
        test="unit/actors/test_handing_over.py::"
        "test_a_target_that_is_told_late_has_its_time_to_stand_before_the_leader_takes_entries_again",
        seed=20_000_144,
        changes=few_frames(20_000_144, 3),
    ),
    Bug(
        "A client whose last known node left the cluster and came back with an empty folder asked only that node, for "
        "ever: it took up again what it was given only if nothing was connected.",
        "seed 20000127 with one frame a turn and reads on any node",
        test="unit/client/test_endpoints.py::test_what_was_given_is_tried_again_when_what_is_left_knows_no_leader",
        seed=20_000_127,
        changes=few_frames(20_000_127, 1),
    ),
)
"""Add what you find: the plan's seed as it was printed, and what keeps the bug away from then on."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def named(bug: Bug) -> str:
    """How a bug is called in the list of tests."""
    return bug.mutant.__name__ if bug.mutant is not None else bug.test.rpartition("::")[2] or bug.what


def functions_in(path: Path) -> set[str]:
    """The names of a file's functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("bug", BUGS, ids=named)
def test_every_bug_has_a_test(bug: Bug) -> None:
    assert bug.mutant or bug.test or bug.seed is not None
    assert bug.mutant is None or bug.story is not None or bug.mutant.__name__ in MUTANTS
    file, _, name = bug.test.partition("::")
    assert not bug.test or name in functions_in(TESTS / file)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.story is not None], ids=named)
def test_the_story_passes_now_and_fails_with_the_bug(bug: Bug) -> None:
    story, mutant = bug.story, bug.mutant
    assert story is not None
    assert mutant is not None
    assert all(story(seed) for seed in bug.stories)
    with Patch() as patch:
        mutant(patch)
        assert not all(story(seed) for seed in bug.stories)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.seed is not None], ids=named)
def test_the_seed_of_a_bug_passes_now(bug: Bug) -> None:
    with Simulation(replace(Plan.of(bug.seed or 0), **bug.changes)) as simulation:
        simulation.run()
