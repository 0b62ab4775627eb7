"""Mutants common to all nodes: comparing nodes does not show them, only the answers to clients do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.messages import Read
from forge_consensus.actors.notices import LeadershipEnded
from forge_consensus.errors import NotLeaderError
from forge_consensus.storage.backends.sealed import seal
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.applying import COMMAND, Applied, Applier
from forge_consensus.storage.ledger.record import Record
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_batches import COMMANDS
from forge_consensus.storage.machines.kv_commands import Operation
from forge_consensus.storage.machines.kv_draft import Draft
from forge_consensus.storage.machines.kv_tables import TABLE
from forge_consensus.storage.machines.machine import NO, YES, Command, Entry, Outcome
from forge_consensus.storage.machines.sessions import EXPIRED, Sessions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

CUT_OFF = ("isolate_leader", "mend")


def sent_again(self: Applier, record: Record, done: Applied) -> dict[str, Any] | None:
    """The payload of a compare-and-set that did not match and is not applied for the first time."""
    if record.kind != COMMAND or done.outcome is not NO or record.session not in self.sessions.live:
        return None
    seen: set[tuple[int, int]] = vars(self).setdefault("seen", set())
    command = Command.decode(record.data)
    again = (record.session, record.seq) in seen
    seen.add((record.session, record.seq))
    return command.payload if again and command.type == "cas" else None


@mutant(own_machine=False, clients=8, kinds=CUT_OFF)
def a_cas_that_is_sent_again_compares_nothing(patch: Patch) -> None:
    """A compare-and-set that did not match is carried out when it comes a second time."""
    apply_record = Applier.apply_record

    def careless(self: Applier, record: Record) -> Applied:
        done = apply_record(self, record)
        payload = sent_again(self, record, done)
        if payload is None:
            return done
        command = Command("set", {"key": payload["key"], "value": payload["value"]})
        self.machine.apply(Entry(record.index, record.term, self.time_ms, command, self.elapsed_ms))
        return done._replace(outcome=YES)

    patch.setattr(Applier, "apply_record", careless)


@mutant(own_machine=False, clients=8, kinds=CUT_OFF)
def a_cas_that_is_sent_again_is_told_to_have_matched(patch: Patch) -> None:
    """A compare-and-set that did not match is answered with yes when it comes a second time."""
    apply_record = Applier.apply_record

    def boast(self: Applier, record: Record) -> Applied:
        done = apply_record(self, record)
        return done if sent_again(self, record, done) is None else done._replace(outcome=YES)

    patch.setattr(Applier, "apply_record", boast)


@mutant(own_machine=False, nodes=1, kinds=("kill",))
def a_deleted_key_comes_back_with_the_checkpoint(patch: Patch) -> None:
    """A checkpoint writes what was set and forgets what was deleted, so a snapshot brings it back."""
    checkpoint = KeyValueMachine.checkpoint

    def forget(self: KeyValueMachine, batch: Batch) -> None:
        whole = Batch()
        checkpoint(self, whole)
        for key, value in self.frozen.cells.items():
            if value is not None:
                place = self.prefix + key.encode()
                batch.put(TABLE, place, seal(place, value))

    patch.setattr(KeyValueMachine, "checkpoint", forget)


@mutant(own_machine=False, kinds=CUT_OFF)
def a_delete_does_not_tell_whether_there_was_anything(patch: Patch) -> None:
    """Deleting what is not there is answered like deleting what is."""
    operation = COMMANDS["delete"]

    def boast(draft: Draft, payload: dict[str, Any]) -> bool:
        operation.run(draft, payload)
        return True

    changed = Operation(boast, operation.fields, operation.optional)
    patch.setitem(COMMANDS, "delete", changed)


@mutant(nodes=3, clients=8, kinds=CUT_OFF)
def a_leader_that_resigns_says_that_nothing_was_done(patch: Patch) -> None:
    """What was proposed and may yet commit is refused as if it had never been taken (outcome unknown, not refused)."""

    def make(ended: Callable[..., None]) -> Callable[..., None]:
        def sure(self: GatewayActor, message: LeadershipEnded, sender: Any) -> None:
            for asker in self.waiting.drop_batches():
                self.refuse(asker, NotLeaderError.code, "this node no longer leads")
            ended(self, message, sender)

        return sure

    patch.handler(GatewayActor, LeadershipEnded, make)


@mutant()
def a_command_of_an_expired_session_is_applied(patch: Patch) -> None:
    """The session with its results is gone, and what it sends again is taken for new."""
    begin = Sessions.begin

    def welcome(self: Sessions, session: int, seq: int, done_below: int, time_ms: int, used: int = 0) -> Outcome | None:
        outcome = begin(self, session, seq, done_below, time_ms, used)
        return None if outcome is EXPIRED else outcome

    patch.setattr(Sessions, "begin", welcome)


@mutant()
def any_node_answers_reads_at_once(patch: Patch) -> None:
    """Whoever is asked answers a linearizable read from the state as it is there."""

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def eager(self: GatewayActor, message: Read, sender: Any) -> None:
            receive(self, Read("stale", message.queries), sender)

        return eager

    patch.handler(GatewayActor, Read, make)
