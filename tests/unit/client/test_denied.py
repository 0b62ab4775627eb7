"""Clients that may not: what they learn, and when."""

from __future__ import annotations

from forge_consensus.actors.messages import GetStatus, OpenSession, Refused, Submit, WireMessage
from forge_consensus.client.endpoints import Directory
from forge_consensus.client.outcome import late_error
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.errors import AuthenticationFailedError
from tests.unit.client.test_session import led
from tests.worlds.client_world import World


def test_a_client_that_may_not_write_learns_it_at_once() -> None:
    """Its commands wait for a session, which it may not open: each ends with the refusal, and none is sent."""
    world = World()
    world.group.hook = lambda node, message: (
        [Refused(AuthenticationFailedError.code, "it needs the role write", "", "", 0)]
        if isinstance(message, OpenSession)
        else None
    )
    world.connect()
    pendings = [world.put("a"), world.put("b")]
    assert world.settle() < 0.1
    for pending in pendings:
        assert isinstance(pending.error, AuthenticationFailedError)
        assert "it needs the role write" in str(pending.error)
    assert world.messages(Submit) == []


def test_a_command_that_may_not_be_is_refused_alone_and_at_once() -> None:
    world = led()
    refused: list[WireMessage] = [Refused(AuthenticationFailedError.code, "not this key", "", "", 0, (2,))]
    world.group.hook = lambda node, message: refused if isinstance(message, Submit) else None
    pending = world.put("other")
    assert world.settle() < 0.1
    assert isinstance(pending.error, AuthenticationFailedError)


def test_a_client_that_no_node_lets_in_learns_why_at_its_deadline() -> None:
    """Until then another node may answer, or the key may be added."""
    directory = Directory(["h:1", "h:2"], "", lambda: 0.5)
    for endpoint in directory.endpoints.values():
        endpoint.said, endpoint.denied = "does not know the key", True
    late = late_error(PendingNodeQuery(GetStatus(), "", 1.0), directory, outcome_unknown=False)
    assert isinstance(late, AuthenticationFailedError)
    assert "does not know the key" in str(late)
    directory.endpoints["h:1"].connected = True
    late = late_error(PendingNodeQuery(GetStatus(), "", 1.0), directory, outcome_unknown=False)
    assert not isinstance(late, AuthenticationFailedError)
