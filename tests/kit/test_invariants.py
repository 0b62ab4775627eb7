"""The invariants: each of them is broken on a small cluster, and the watcher says which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import msgpack
import pytest
from loguru import logger

from forge_consensus.actors.codec import Frame, encode
from forge_consensus.actors.messages import AppendReply, RequestVote, SnapshotReply, VoteReply
from forge_consensus.actors.raft.reads import WaitingRead
from forge_consensus.actors.runtime.shared import Role
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import BASE, HARD
from forge_consensus.storage.ledger.record import Kind, key_of
from forge_consensus.storage.ledger.record import encode as record_of
from forge_consensus.storage.ledger.transaction import put_meta
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.rules.agreement import Agreement, CountingMachine
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.read_rounds import leading_of
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Connection


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


class Stage:
    """Three nodes of which one leads, after some work, and the watcher that is to be shown something wrong."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.invariants: Invariants = world.invariants
        self.leader = cast("SimulatedBase", world.cluster.leader())
        self.follower = next(base for base in world.cluster.running() if base is not self.leader)
        self.term = self.leader.engine.ledger.term
        self.last = self.leader.engine.ledger.log.last

    def durable(self, node: SimulatedBase, write: Callable[[Batch], None]) -> None:
        """Show a transaction."""
        batch = Batch()
        write(batch)
        self.invariants.durable(node, batch)

    def entry(self, node: SimulatedBase, index: int, term: int, **changed: object) -> None:
        """Show an entry that is written."""
        record = record_of(index, term, **{"kind": Kind.NOOP, "time_ms": 0, **changed})  # type: ignore[arg-type]
        self.durable(node, lambda batch: batch.append("log", [(key_of(index), record)]))

    def hard(self, node: SimulatedBase, term: int, vote: str, commit: int = 0) -> None:
        """Show term and vote that are written."""
        row = cast("bytes", msgpack.packb((term, vote, commit, self.last)))
        self.durable(node, lambda batch: put_meta(batch, HARD, row))

    def elect(self, node: SimulatedBase) -> None:
        """All vote for a node in the next term, and it leads it."""
        for disk in self.invariants.disks.values():
            disk.term, disk.vote = self.term + 1, node.name
        node.engine.ledger.leading_term = self.term + 1

    def answer(self, node: SimulatedBase, message: AppendReply | VoteReply | SnapshotReply) -> None:
        """Show an answer to the leader that leaves."""
        frame = Frame("replication", "simulation", node.name, "", 1, 1, 1, 0, message)
        self.invariants.answers(node, Connection(self.leader, node.name), frame)


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage."""
    with Simulation(Plan(1, nodes=3, faults=False)) as world:
        world.start()
        world.wait_for_leader()
        for client in world.clients:
            client.start()
        world.advance(1.0)
        for client in world.clients:
            client.stop()
        world.advance(2.0)
        assert world.cluster.settled()
        yield Stage(world)


def broken(number: str, text: str = "") -> pytest.RaisesExc[ViolationError]:
    """What the watcher must say."""
    return pytest.raises(ViolationError, match=rf"^{number}: .*{text}")


def test_the_staged_cluster_keeps_every_invariant() -> None:
    with staged() as stage:
        for base in stage.world.cluster.running():
            stage.invariants.turned(base)
        stage.answer(stage.follower, AppendReply(stage.term, True, stage.last, 0, 0))
        assert stage.invariants.committed_last == stage.last > 20


def test_i1_two_leaders_of_a_term() -> None:
    with staged() as stage:
        stage.follower.engine.ledger.leading_term = stage.term
        with broken("I1", "lead term"):
            stage.invariants.turned(stage.follower)


def test_i1_a_node_leads_one_term_twice() -> None:
    with staged() as stage:
        election = stage.leader.engine.cells.actor("election")
        for role, leading in ((Role.FOLLOWER, None), (Role.LEADER, stage.term)):
            election.role, stage.leader.engine.ledger.leading_term = role, leading
            if leading is None:
                stage.invariants.turned(stage.leader)
        with broken("I1"):
            stage.invariants.turned(stage.leader)


def test_i1_a_leader_lacks_the_votes_of_a_majority() -> None:
    with staged() as stage:
        stage.follower.engine.ledger.leading_term = stage.term + 1
        with broken("I1", "by the votes of"):
            stage.invariants.turned(stage.follower)


def test_i2_a_leader_rewrites_its_log() -> None:
    with staged() as stage:
        stage.invariants.committed.pop(stage.last)
        with broken("I2", "rewrites its log"):
            stage.durable(stage.leader, lambda batch: batch.delete_range("log", key_of(stage.last), None))
        with broken("I2", "deleted alone"):
            stage.durable(stage.leader, lambda batch: batch.delete("log", key_of(stage.last)))
        with broken("I2", "behind"):
            stage.entry(stage.leader, stage.last, stage.term)


def test_i3_two_entries_of_one_index_and_term() -> None:
    with staged() as stage:
        stage.entry(stage.leader, stage.last + 1, stage.term, time_ms=1)
        with broken("I3", "another entry"):
            stage.entry(stage.follower, stage.last + 1, stage.term, time_ms=2)


def test_i3_an_entry_with_a_hole_or_a_higher_term_before_it() -> None:
    with staged() as stage:
        with broken("I3", "without"):
            stage.entry(stage.leader, stage.last + 2, stage.term)
        with broken("I3", "behind one of"):
            stage.entry(stage.leader, stage.last + 1, 0)


def test_i4_a_leader_lacks_committed_entries() -> None:
    with staged() as stage:
        disk = stage.invariants.disks[stage.follower.name]
        disk.terms[stage.last] = 0
        stage.elect(stage.follower)
        with broken("I4", f"without committed entry {stage.last}"):
            stage.invariants.turned(stage.follower)


def test_i4_a_later_leader_lacks_a_committed_entry() -> None:
    with staged() as stage:
        ahead, leader = stage.last + 1, stage.leader.engine.ledger
        third = next(b for b in stage.world.cluster.running() if b not in (stage.leader, stage.follower))
        for node in (stage.leader, stage.follower):
            stage.entry(node, ahead, stage.term)
        third.engine.ledger.leading_term = stage.term + 1
        leader.commit_index = ahead
        with broken("I4", f"{third.name} leads {stage.term + 1} without {ahead}"):
            stage.invariants.follow_commit(stage.leader)


def test_i5_two_results_of_one_entry() -> None:
    agreement, machine = Agreement(), CountingMachine()
    entry = Entry(7, 1, 0, Command("increment", {"key": "a"}))
    agreement.applied("n1", machine, entry, "1")
    with broken("I5", "entry 7"):
        agreement.applied("n2", machine, entry, "2")


def test_i5_a_node_applies_an_entry_that_no_disk_holds() -> None:
    with staged() as stage, broken("I5", "on no disk"):
        stage.invariants.applies(Entry(stage.last + 9, stage.term, 0, Command("increment", {"key": "a"})))


def test_i6_a_commit_of_entries_on_one_disk_only() -> None:
    with staged() as stage:
        stage.entry(stage.leader, stage.last + 1, stage.term)
        stage.leader.engine.ledger.commit_index = stage.last + 1
        with broken("I6", "committed but only on"):
            stage.invariants.leaves(stage.leader)


def test_i6_a_follower_commits_before_the_leader_of_that_term() -> None:
    with staged() as stage:
        for base in stage.world.cluster.running():
            stage.entry(base, stage.last + 1, stage.term)
        stage.follower.engine.ledger.commit_index = stage.last + 1
        with broken("I6", "is first to commit"):
            stage.invariants.follow_commit(stage.follower)


def test_i7_a_committed_entry_disappears_or_changes() -> None:
    with staged() as stage:
        with broken("I7", "truncates committed entry"):
            stage.durable(stage.follower, lambda batch: batch.delete_range("log", key_of(stage.last), None))
        with broken("I7", "cuts its log"):
            row = cast("bytes", msgpack.packb((stage.last, stage.term + 1, b"")))
            stage.durable(stage.follower, lambda batch: put_meta(batch, BASE, row))
        disk = stage.invariants.disks[stage.follower.name]
        disk.terms[stage.last], disk.commit, disk.compared = 0, stage.last - 1, stage.last - 1
        with broken("I7", "it was of"):
            stage.invariants.follow_commit(stage.follower)
        del disk.terms[stage.last]
        with broken("I7", "without having it"):
            stage.invariants.follow_commit(stage.follower)


def test_i7_a_restart_with_other_entries() -> None:
    with staged() as stage:
        disk = stage.invariants.disks[stage.follower.name]
        disk.terms[stage.last] += 1
        disk.boots -= 1
        with broken("I7", "its disk held others"):
            stage.invariants.began(stage.follower)


@pytest.mark.parametrize("what", ["on_disk", "index", "base", "last", "sweep"])
def test_i8_indexes_are_out_of_order(what: str) -> None:
    with staged() as stage:
        ledger = stage.follower.engine.ledger
        if what == "base":
            ledger.log.base_index += 1
        elif what == "last":
            ledger.log.last += 1
        elif what == "sweep":
            with broken("I8", "deletes up to"):
                start, stop = key_of(1), key_of(9)
                stage.durable(stage.follower, lambda batch: batch.delete_range("log", start, stop, 9))
            return
        else:
            setattr(ledger.applier, what, stage.last + 1)
        with broken("I8"):
            stage.invariants.turned(stage.follower)


def test_i9_a_value_goes_back_while_its_process_runs() -> None:
    with staged() as stage:
        ledger = stage.follower.engine.ledger
        ledger.commit_index -= 1
        with broken("I9", "goes back from commit"):
            stage.invariants.follow_commit(stage.follower)
        ledger.applier.index -= 1
        with broken("I9", "goes back from applied"):
            stage.invariants.turned(stage.follower)
        with broken("I9", "goes back from term"):
            stage.hard(stage.follower, stage.term - 1, "")


@pytest.mark.parametrize(
    ("field", "text"),
    [("term", "it was in"), ("vote", "forgot its vote"), ("boots", "repeats boot"), ("applied_on_disk", "restarts at")],
)
def test_i9_a_restart_forgets_a_value(field: str, text: str) -> None:
    with staged() as stage:
        disk = stage.invariants.disks[stage.follower.name]
        disk.boots -= 1
        value: object = {"vote": "nobody", "boots": 99}.get(field, getattr(disk, field))
        setattr(disk, field, value + 1000 if isinstance(value, int) else value)
        with broken("I9", text):
            stage.invariants.began(stage.follower)


def test_i10_a_node_votes_twice_or_before_its_vote_is_on_disk() -> None:
    with staged() as stage:
        vote = stage.invariants.disks[stage.follower.name].vote
        with broken("I10", f"voted for {vote}, now for n9"):
            stage.hard(stage.follower, stage.term, "n9")
        with broken("I10", "a vote that is not on its disk"):
            stage.answer(stage.follower, VoteReply(stage.term + 1, True))
        manners = stage.invariants.elections.processes[stage.follower.name]
        manners.asked[1], manners.granted[1] = (stage.term + 1, (stage.term, stage.last)), {stage.leader.name}
        request = RequestVote(stage.term + 1, stage.last, stage.term)
        data = encode(Frame("election", "simulation", stage.follower.name, "", 1, 1, 1, 0, request))
        with broken("I10", "before its own is durable"):
            stage.invariants.asks(stage.follower, "n1", data)
        stage.follower.engine.ledger.term += 1
        with broken("I10", "more than its disk"):
            stage.invariants.turned(stage.follower)


def test_i11_an_acknowledgement_of_missing_entries() -> None:
    with staged() as stage:
        reply = AppendReply(stage.term, True, stage.last, 0, 0)
        with broken("I11", "its disk ends at"):
            stage.answer(stage.follower, replace(reply, index=stage.last + 1))
        with broken("I11", "which nobody leads"):
            stage.answer(stage.follower, replace(reply, term=stage.term + 1))
        with broken("I11", "lacks the snapshot"):
            stage.answer(stage.follower, SnapshotReply(stage.term, stage.last + 1, 10, True))
        stage.invariants.disks[stage.follower.name].terms[stage.last] += 1
        with broken("I11", "another entry there"):
            stage.answer(stage.follower, reply)


def test_i11_a_follower_acknowledges_entries_to_a_former_leader() -> None:
    with staged() as stage:
        stage.world.crash(stage.leader.name)
        reply = AppendReply(stage.term, True, stage.last, 0, 0)
        stage.answer(stage.follower, reply)
        stage.entry(stage.follower, stage.last + 1, stage.term)
        with broken("I11", f"had {stage.last} only"):
            stage.answer(stage.follower, replace(reply, index=stage.last + 1))


def learner_added(before: Configuration) -> Configuration:
    """The configuration with a learner besides."""
    members = (*before.members, ("n9", "n9:1"))
    return replace(before, members=members, incoming=tuple(sorted(before.voters)), folders=(("n9", "folder"),))


def test_i12_a_configuration_does_not_fit_the_previous_one() -> None:
    with staged() as stage:
        more = learner_added(stage.leader.engine.ledger.configuration).encode()
        others = Configuration.of({"n7": "n7:1", "n8": "n8:1"}).encode()
        kind = Kind.CONFIGURATION
        with broken("I12", "more than one voter changes"):
            stage.entry(stage.leader, stage.last + 1, stage.term, kind=kind, data=others)
        with broken("I12", "of which nothing is committed"):
            stage.entry(stage.leader, stage.last + 1, stage.term + 1, kind=kind, data=more)
        del stage.invariants.entries[stage.last + 1, stage.term]
        stage.entry(stage.follower, stage.last + 1, stage.term, kind=kind, data=more)
        with broken("I12", "both uncommitted"):
            stage.entry(stage.follower, stage.last + 2, stage.term, kind=kind, data=more)


def test_i12_the_feature_level_falls() -> None:
    with staged() as stage:
        first = stage.leader.engine.ledger.configuration
        disk = stage.invariants.disks[stage.follower.name]
        disk.configurations.append((stage.last, replace(first, level=9).encode()))
        stage.invariants.committed_last = stage.last
        with broken("I12", "the feature level falls"):
            stage.entry(stage.follower, stage.last + 1, stage.term, kind=Kind.CONFIGURATION, data=first.encode())


def test_i12_the_configuration_in_force_is_not_the_last_in_the_log() -> None:
    with staged() as stage:
        disk = stage.invariants.disks[stage.follower.name]
        disk.configurations.append((stage.last, b"another"))
        disk.compared_with = None
        with broken("I12", "in force"):
            stage.invariants.turned(stage.follower)


def test_i13_a_read_waits_for_too_early_a_round_or_too_low_an_index() -> None:
    with staged() as stage:
        leading = leading_of(stage.leader)
        assert leading is not None
        leading.reads.queue.append(WaitingRead(1, leading.reads.round, stage.last))
        with broken("I13", "began before"):
            stage.invariants.turned(stage.leader)
        leading.reads.queue[0] = WaitingRead(2, leading.reads.round + 1, stage.last - 1)
        with broken("I13", "was committed before"):
            stage.invariants.turned(stage.leader)


def test_i13_an_unconfirmed_read() -> None:
    with staged() as stage:
        leading = leading_of(stage.leader)
        assert leading is not None
        leading.reads.queue.append(WaitingRead(1, leading.reads.round + 1, stage.last))
        stage.invariants.turned(stage.leader)
        leading.reads.queue.clear()
        with broken("I13", "was confirmed only by"):
            stage.invariants.turned(stage.leader)
        stage.answer(stage.follower, AppendReply(stage.term, True, stage.last, 0, leading.reads.round + 1))
        stage.invariants.turned(stage.leader)


def test_i14_a_command_is_executed_at_two_indexes() -> None:
    with staged() as stage:
        for index in (stage.last + 1, stage.last + 2):
            stage.entry(stage.leader, index, stage.term, kind=Kind.COMMAND, session=999, seq=1)
        command = Command("increment", {"key": "a"})
        for _ in range(2):  # a replay is not a second execution
            stage.invariants.applies(Entry(stage.last + 1, stage.term, 0, command))
        with broken("I14", f"at {stage.last + 1} and at {stage.last + 2}"):
            stage.invariants.applies(Entry(stage.last + 2, stage.term, 0, command))


def test_i15_a_restart_loses_entries() -> None:
    with staged() as stage:
        disk = stage.invariants.disks[stage.follower.name]
        disk.last += 1
        disk.boots -= 1
        with broken("I15", "lost entries"):
            stage.invariants.began(stage.follower)


def test_i16_a_frame_leaves_after_a_storage_error() -> None:
    with staged() as stage:
        stage.follower.disk_failed = True
        with broken("I16", "after its disk failed"):
            stage.answer(stage.follower, AppendReply(stage.term, True, stage.last, 0, 0))
