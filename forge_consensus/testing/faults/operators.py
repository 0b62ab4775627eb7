"""The mistakes of people: a node of an earlier version among later ones, an entry that is skipped on one node only.

The node concerned must notice, or the others must; the cluster serves without it until the mistake is corrected.
"""

from __future__ import annotations

from dataclasses import replace

from forge_consensus.actors.codec import decode, encode
from forge_consensus.actors.messages import AppendEntries
from forge_consensus.storage.ledger.record import Kind, kind_of
from forge_consensus.storage.ledger.record import encode as encode_entry
from forge_consensus.storage.ledger.skips import skip_of
from forge_consensus.testing.faults.strike import NOBODY, Strike
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Party

LATER_KIND = 1 + max(Kind)
"""A kind of entry that no node knows, as one of a later version."""


def later_entry(strike: Strike) -> str:
    """Let a leader of a later version send one entry of a new kind to a node that does not know it; it must stop."""
    base = strike.anyone()
    if base is None:
        return NOBODY
    name, network = base.name, strike.network

    def alter(party: Party, data: bytes) -> bytes:
        if party.name != name or not isinstance(party, SimulatedBase):
            return data
        frame = decode(data, len(data))
        message = frame.message
        if not isinstance(message, AppendEntries) or not message.records:
            return data
        network.alter, party.meets_later = None, True
        strike.back_later(name)
        later = encode_entry(message.prev_index + len(message.records) + 1, message.term, LATER_KIND, 0)
        return encode(replace(frame, message=replace(message, records=(*message.records, later))))

    network.alter = alter
    return name


def skip_on_one_node(strike: Strike) -> str:
    """Have an entry skipped on one node only, which was down when the others applied it; later it is corrected."""
    base, away, wrong = strike.anyone(), strike.seconds(0.3, 2.0), strike.seconds(0.5, 4.0)
    if base is None or base.name in strike.cluster.suspect or base.engine.ledger.hard_on_disk[2] <= 1:
        return NOBODY  # a node that was never part of the cluster gives way, and stops
    name, cluster = base.name, strike.cluster
    cluster.crash(name)

    def skip() -> None:
        cluster.crash(name)
        index = entry_to_skip(strike, name)
        if index:
            cluster.skip(name, skip_of(*index))
            strike.after(wrong, correct)
        cluster.restart(name)

    def correct() -> None:
        cluster.crash(name)
        cluster.skip(name, None)
        cluster.restart(name)

    strike.after(away, skip)
    return f"{name} after {away:.3f} s, for {wrong:.3f} s"


def entry_to_skip(strike: Strike, name: str) -> tuple[int, bytes] | None:
    """Return a committed command that is not in the log of a node that is down, None if there is none."""
    leader, rows = strike.cluster.leader(), strike.cluster.nodes[name].disk["log"]
    if leader is None or leader.name == name:
        return None
    ledger = leader.engine.ledger
    last = int.from_bytes(rows.keys[-1]) if rows.keys else ledger.commit_index
    for index in range(max(last, ledger.log.base_index) + 1, ledger.commit_index + 1):
        record = ledger.log.get(index)
        if kind_of(record) == Kind.COMMAND:
            return index, record
    return None


OPERATOR_FAULTS = (later_entry, skip_on_one_node)
