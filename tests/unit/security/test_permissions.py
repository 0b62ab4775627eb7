"""The table of permissions: a row for everything that can be sent."""

from __future__ import annotations

from forge_consensus.actors.messages import CLIENT_REQUESTS, WIRE_TAGS
from forge_consensus.actors.runtime.gate import ANSWERS
from forge_consensus.security.permissions import ACTS, GRANTED, MESSAGES, ORDINARY


def test_each_message_has_a_row_and_each_row_a_message() -> None:
    """Otherwise a new message would be let in, or an old row would hide that it is meant for nothing."""
    assert {kind.__name__ for kind in WIRE_TAGS.values()} == MESSAGES.keys()


def test_each_message_of_clients_is_marked_as_an_act_or_as_ordinary() -> None:
    """Otherwise a new one could administer without being audited."""
    assert {kind.__name__ for kind in CLIENT_REQUESTS} == ACTS | ORDINARY, "add it to ACTS or to ORDINARY"
    assert set() == ACTS & ORDINARY
    assert {MESSAGES[name] for name in ACTS} == {"admin"}


def test_only_members_may_send_what_no_client_sends() -> None:
    """A client that could would vote."""
    of_clients = {kind.__name__ for kind in CLIENT_REQUESTS}
    for name, permission in MESSAGES.items():
        assert (permission == "peer") == (name not in of_clients), name
    assert {kind.__name__ for kind in ANSWERS} & of_clients == set()


def test_the_role_of_a_member_opens_nothing_that_changes_or_reads_data() -> None:
    """It may ask where the cluster is, because a node that joins does."""
    allowed = {name for name, permission in MESSAGES.items() if permission in GRANTED["peer"]}
    assert allowed & {kind.__name__ for kind in CLIENT_REQUESTS} == {"Locate", "GetMembers"}
