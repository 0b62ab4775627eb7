"""Hostile frames: whatever arrives from whoever, the codec gives a message or a refusal, and the node goes on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.actors.codec import decode
from forge_consensus.actors.messages import GetStatus, Status
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.permits import Permits
from forge_consensus.errors import ProtocolError
from forge_consensus.security.access import AccessList, Principal, Rule
from forge_consensus.security.curve import KeyPair
from tests.unit.actors.test_election import lead
from tests.worlds.effort import effort
from tests.worlds.hostile_bytes import HOSTILE_FRAMES
from tests.worlds.one_node import OneNode

BYTES_MAX = 8 << 20
KEYS = {name: KeyPair.made().public for name in ("n2", "writer", "ruled", "unknown")}
ACCESS = AccessList(
    [
        Principal("n2", frozenset({"peer"}), keys=(KEYS["n2"],)),
        Principal("writer", frozenset({"write"}), keys=(KEYS["writer"],)),
        Principal("ruled", rules=(Rule.of("write a/*"), Rule.of("read *")), keys=(KEYS["ruled"],)),
    ]
)


@given(HOSTILE_FRAMES)
@settings(max_examples=effort(300, 30_000), deadline=None)
def test_the_codec_returns_a_frame_or_refuses_the_bytes(data: bytes) -> None:
    try:
        frame = decode(data, BYTES_MAX)
    except ProtocolError:
        return
    assert frame.to or not frame.to


ARRIVALS = st.lists(
    st.tuples(HOSTILE_FRAMES, st.sampled_from(("->client", "->n2", None)), st.sampled_from(sorted(KEYS))), max_size=8
)


@given(ARRIVALS, st.booleans(), st.booleans())
@settings(max_examples=effort(60, 10_000), deadline=None)
def test_no_frame_makes_an_actor_fail_or_ends_the_node(
    arrivals: list[tuple[bytes, str | None, str]], leads: bool, secure: bool
) -> None:
    """An actor that fails often enough ends its node, so one frame that makes one fail is a way to end a cluster."""
    node = OneNode()
    if leads:
        lead(node)
    if secure:
        node.engine.gate.permits = Permits(AccessControl(KeyPair.made(), ACCESS), keyed=True)
    for data, connection, key in arrivals:
        node.turn((data, connection, KEYS[key]))
        node.wait(0.05)
        assert not node.engine.faults.times, node.engine.faults.times
    node.engine.gate.permits = None
    node.request("", "gateway", GetStatus())
    assert node.last(Status).fields["node_id"] == "n1"
