"""Mutants of bounds: sessions, answers, backlogs and what is sent to those who cannot take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from forge_consensus.actors import gateway
from forge_consensus.actors.messages import SnapshotReply
from forge_consensus.actors.raft import answering
from forge_consensus.actors.raft.capacity import Capacity
from forge_consensus.actors.snapshot import SnapshotActor
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.machines.sessions import Sessions
from forge_consensus.testing.simulator.conditions import COMMANDS_MAX, Conditions
from forge_consensus.testing.world.cluster import Bounds
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant
from tests.simulation.mutants.snapshots import OFTEN

NO_LIMIT = 1 << 40


@mutant(pace=1.0, clients=4, conditions=Conditions(bounds=Bounds(sessions_max=7)), kinds=("isolate_leader", "mend"))
def the_oldest_session_makes_room_for_a_new_one(patch: Patch) -> None:
    """When there are too many sessions, the one that was opened first ends, however busy it is."""
    patch.setattr(Sessions, "most_silent", lambda self: min(self.live))


@mutant(nodes=3, pace=1.0, storage=OFTEN, kinds=("full_disk_for_long", "isolate", "mend"))
def a_refused_snapshot_is_sent_again_at_once(patch: Patch) -> None:
    """A leader does not look at why a follower took no chunk, and sends it again."""

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def heedless(self: SnapshotActor, message: SnapshotReply, sender: Any) -> None:
            end = message.chunk_end or message.offset + 1  # a refusal names none, and then nothing seems to be missing
            receive(self, replace(message, refusal="", chunk_end=end), sender)

        return heedless

    patch.handler(SnapshotActor, SnapshotReply, make)


@mutant(own_machine=True, clients=8, pace=1.0, conditions=Conditions(hostile=0.8))
def answers_are_not_cut_by_bytes(patch: Patch) -> None:
    """All results of a turn leave in one frame, however large it becomes."""
    patch.setattr(gateway, "ANSWER_BYTES_MAX", NO_LIMIT)
    patch.setattr(answering, "ANSWER_BYTES_MAX", NO_LIMIT)


@mutant(clients=8, pace=1.0, raft=RaftSettings(backlog_entries_max=COMMANDS_MAX, apply_entries_max=1))
def commands_are_taken_whatever_waits(patch: Patch) -> None:
    """A leader takes commands without a look at what its state machine has yet to apply."""
    patch.setattr(Capacity, "commands", lambda self, asker, count: (count, ""))
