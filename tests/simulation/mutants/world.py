"""Mutants of the world as it is: clocks, user code, full disks, damaged frames and settings that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forge_consensus.actors import codec
from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.messages import Hello
from forge_consensus.actors.raft.handshake import Admit, Handshake, Refusal
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.ledger import applying, checks
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.log_time import LogTime
from forge_consensus.storage.ledger.quorum import Quorum
from forge_consensus.storage.ledger.time_slice import TimeSlice
from forge_consensus.storage.machines import kv_batches, machine
from forge_consensus.testing.simulator.conditions import CALM_SECONDS, Conditions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant


@mutant(
    nodes=3,
    pace=1.0,
    clients=8,
    lease_reads=True,
    own_machine=True,
    kinds=("isolate_leader", "mend", "stun_leader"),
    conditions=Conditions(unequal=frozenset({"times"})),
)
def a_lease_goes_by_the_settings_of_its_leader(patch: Patch) -> None:
    """A leader takes its own election timeout for that of the others, who vote after theirs."""

    def holds(self: Leadership, boottime_ns: int) -> bool:
        if not self.ledger.configuration.lease_reads:
            return False
        sent = {node: progress.acked_sent for node, progress in self.progress.items()}
        began = self.quorum.reached({**sent, self.node_id: boottime_ns})
        return boottime_ns < began + int(self.settings.election_timeout_min * (1 - self.settings.clock_drift) * 1e9)

    patch.setattr(Leadership, "lease_holds", holds)


@mutant(own_machine=True, conditions=Conditions(hostile=0.1))
def an_os_error_of_the_machine_ends_the_node(patch: Patch) -> None:
    """Whatever is an OSError counts as one of this node alone, also what the machine raised by itself."""
    patch.setattr(machine, "differs_between_nodes", lambda error: isinstance(error, MemoryError | OSError))


@mutant(own_machine=False, conditions=Conditions(hostile=0.1))
def a_batch_collects_whatever_it_reads(patch: Patch) -> None:
    """The results of a batch are bounded only when all are there."""
    patch.setattr(kv_batches, "RESULT_BYTES_MAX", 1 << 40)
    patch.setattr(kv_batches, "READ_BYTES_MAX", 1 << 40)


@mutant(pace=1.0, conditions=Conditions(wild=frozenset({"jump_clock_by_years"})))
def sessions_live_on_wall_time(patch: Patch) -> None:
    """The time by which sessions expire begins anew with the wall clock of each leader."""
    lead = Ledger.lead

    def restart_time(self: Ledger, term: int, wall_ms: int) -> None:
        lead(self, term, wall_ms)
        self.log_time.elapsed_from_ms = wall_ms

    patch.setattr(Ledger, "lead", restart_time)


@mutant(nodes=3, pace=1.0, clients=8, kinds=("slow_disk_for_long", "isolate_leader", "mend"))
def a_leader_measures_by_the_time_in_which_it_ran(patch: Patch) -> None:
    """Check-quorum goes by a clock that a slow turn holds back, so a slow leader leads on when it is cut off."""
    patch.setattr(Clock, "now", lambda self: self.turn_running)
    patch.setattr(Clock, "acted", lambda self: self.turn_running)
    patch.setattr(Clock, "before", lambda self: self.turn_running)


@mutant(nodes=3, pace=1.0, conditions=Conditions(wild=frozenset({"full_disk_for_long"})))
def a_leader_without_room_goes_on_leading(patch: Patch) -> None:
    """A leader whose disk is full refuses every command, and leads on."""
    patch.setattr(Leadership, "cannot_append", lambda self, now, reason: [])


@mutant()
def a_stale_read_is_as_old_as_the_leaders_last_sign(patch: Patch) -> None:
    """A node that hears its leader calls its state new, whatever it has applied."""
    patch.setattr(GatewayActor, "staleness_ms", lambda self: 0)


@mutant(
    nodes=3,
    pace=1.0,
    clients=1,
    storage=StorageSettings(),
    raft=RaftSettings(),
    conditions=Conditions(calm=True, machine_seconds=CALM_SECONDS),
)
def a_turn_applies_without_looking_at_the_clock(patch: Patch) -> None:
    """A turn applies all that is committed, however long the machine takes."""
    begin = TimeSlice.__init__

    def begin_without_end(self: TimeSlice, *given: Any) -> None:
        begin(self, *given)
        self.until_ns = 1 << 62

    patch.setattr(TimeSlice, "__init__", begin_without_end)


@mutant(kinds=("change_weather", "kill", "break_link"))
def a_damaged_frame_is_taken(patch: Patch) -> None:
    """The checksum of a frame is not looked at."""
    patch.setattr(codec, "crc32", lambda data: 0)


# --- mistakes of people -----------------------------------------------------------------------------------------------


class AnyKind(dict[int, int]):
    """A table of the kinds of entries that has every kind."""

    def __contains__(self, kind: object) -> bool:
        return True


@mutant(nodes=3, kinds=("later_entry", "kill"))
def an_entry_of_an_unknown_kind_is_passed_over(patch: Patch) -> None:
    """A node stores what a later version wrote, and takes it for an entry that does nothing."""
    for module in (checks, applying):
        patch.setattr(module, "LEVEL_OF_KIND", AnyKind())


@mutant(nodes=3, pace=1.0, clients=4, kinds=("skip_on_one_node", "isolate_leader", "mend"))
def nodes_that_skip_other_entries_work_together(patch: Patch) -> None:
    """No greeting compares which entries a node skips, so one of them skips an entry that the others apply."""
    judge = Handshake.judge

    def careless(self: Handshake, node: str, hello: Hello, members: Configuration, admit: Admit) -> Refusal:
        return judge(self, node, replace(hello, skipped=self.identity.skipped), members, admit)

    patch.setattr(Handshake, "judge", careless)


# --- a cluster that does nothing wrong, and too little ----------------------------------------------------------------


@mutant(pace=1.0)
def the_time_of_the_state_stands_still(patch: Patch) -> None:
    """A leader stamps all its entries with the time at which it began to lead, so nothing ever expires."""
    patch.setattr(LogTime, "elapsed_ms", lambda self, now: self.elapsed_from_ms)


@mutant(nodes=3, pace=1.0, kinds=("cut_for_long",), conditions=Conditions(core=True))
def every_node_is_needed(patch: Patch) -> None:
    """Whatever a majority may decide waits until all nodes agree, so one that is away stops the others."""
    begin = Quorum.__init__

    def strict(self: Quorum, incoming: frozenset[str], outgoing: frozenset[str] | None = None) -> None:
        begin(self, incoming, outgoing)
        self.sets = [(voters, len(voters)) for voters, _ in self.sets]

    patch.setattr(Quorum, "__init__", strict)
