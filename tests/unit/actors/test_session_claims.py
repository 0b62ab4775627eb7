"""Sessions have owners where the nodes have keys: nobody's command takes a place in the session of somebody else."""

from __future__ import annotations

from typing import Any

import msgpack

from forge_consensus.actors.messages import AppendReply, OpenSession, Refused, Results, SessionOpened, Submit
from forge_consensus.actors.raft.session_claims import ANOTHERS
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.permits import Permits
from forge_consensus.errors import SessionExpiredError
from forge_consensus.security.access import AccessList, Principal
from forge_consensus.security.curve import KeyPair
from forge_consensus.storage.ledger.record import encode
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_handing_over import handing_over_to_n2, leading
from tests.worlds.one_node import OneNode

EXPIRED = SessionExpiredError.code
KEYS = {name: KeyPair.made().public for name in ("n2", "n3", "owner", "owner's next", "other")}


class Keyed:
    """A leader with keys, and two clients that may write."""

    def __init__(self, node: OneNode | None = None) -> None:
        self.node = node or OneNode(1)
        members = [Principal(name, frozenset({"peer"}), keys=(KEYS[name],)) for name in ("n2", "n3")]
        clients = [
            Principal("owner", frozenset({"write"}), keys=(KEYS["owner"], KEYS["owner's next"])),
            Principal("other", frozenset({"write"}), keys=(KEYS["other"],)),
        ]
        control = AccessControl(KeyPair.made(), AccessList([*members, *clients]))
        self.node.engine.gate.permits = Permits(control, keyed=True)

    def ask(self, key: str, *messages: Any) -> list[Any]:
        """What a client with that key is answered in the turn that takes these messages."""
        node = self.node
        node.sent.clear()
        node.turn(*((node.frame("", "gateway", message), f"->{key}", KEYS[key]) for message in messages))
        return self.answers()

    def answers(self) -> list[Any]:
        return [message for _, message in self.node.sent if type(message) in (Refused, Results, SessionOpened)]

    def acknowledge(self) -> None:
        """Let a follower have the whole log."""
        ledger = self.node.ledger
        reply = AppendReply(ledger.term, True, ledger.log.last, 0, 0)
        self.node.turn((self.node.frame("n2", "replication", reply), None, KEYS["n2"]))

    def value(self) -> Any:
        return msgpack.unpackb(msgpack.packb(self.node.ledger.applier.machine.query("k")))


def write(session: int, value: int, number: int = 1) -> Submit:
    return Submit(session, 1, ((number, Command("set", {"key": "k", "value": value}).encode()),))


def test_a_command_in_the_session_of_another_is_refused_and_takes_no_place() -> None:
    keyed = Keyed()
    (opened,) = keyed.ask("owner", OpenSession(60_000))
    last = keyed.node.ledger.log.last
    (refused,) = keyed.ask("other", write(opened.session, 1))
    assert (refused.code, keyed.node.ledger.log.last) == (EXPIRED, last)
    assert keyed.node.engine.refusals.counts[ANOTHERS] == 1
    (results,) = keyed.ask("owner", write(opened.session, 2))
    assert (results.items[0][:2], keyed.value()) == ((1, ""), 2)


def test_a_session_stays_with_its_name_while_the_key_is_exchanged() -> None:
    keyed = Keyed()
    (opened,) = keyed.ask("owner", OpenSession(60_000))
    (results,) = keyed.ask("owner's next", write(opened.session, 2))
    assert results.items[0][:2] == (1, "")


def test_a_leader_that_has_not_applied_a_session_looks_at_the_entry_that_opens_it() -> None:
    keyed = Keyed(leading())
    assert keyed.ask("owner", OpenSession(60_000)) == []
    session = keyed.node.ledger.log.last
    (refused,) = keyed.ask("other", write(session, 1))
    assert refused.code == EXPIRED
    assert keyed.ask("owner", write(session, 2)) == []
    keyed.acknowledge()
    opened, results = keyed.answers()
    assert (opened.session, results.items[0][:2], keyed.value()) == (session, (1, ""), 2)


def test_a_command_in_a_session_that_is_opened_later_is_none_of_it() -> None:
    """Whoever is first takes the lower place in the log, where there is no such session."""
    keyed = Keyed(leading())
    session = keyed.node.ledger.log.last + 2
    assert keyed.ask("other", write(session, 1)) == []
    keyed.ask("owner", OpenSession(60_000))
    assert keyed.node.ledger.log.last == session
    keyed.acknowledge()
    opened, results = keyed.answers()
    assert (results.items[0][1], opened.session, keyed.value()) == (EXPIRED, session, None)


def test_commands_that_waited_for_the_end_of_a_handover_are_judged_when_they_enter_the_log() -> None:
    """What they name may have come into the log meanwhile."""
    node, last = handing_over_to_n2()
    keyed = Keyed(node)
    assert keyed.ask("owner", OpenSession(60_000)) == []
    assert keyed.ask("other", write(last + 1, 1)) == []
    assert node.ledger.log.last == last, "both wait"
    node.wait(node.settings.election_timeout_min + 0.5)
    to, refused = node.messages(Refused)[0]
    assert (to, refused.code) == ("->other", EXPIRED)
    assert node.ledger.log.last == last + 1, "the session is there, and no command in it"


def test_a_session_of_before_the_keys_has_no_owner_and_goes_on() -> None:
    keyed = Keyed()
    permits, keyed.node.engine.gate.permits = keyed.node.engine.gate.permits, None
    (opened,) = keyed.ask("owner", OpenSession(60_000))
    keyed.node.engine.gate.permits = permits
    (results,) = keyed.ask("other", write(opened.session, 1))
    assert results.items[0][:2] == (1, "")


def test_without_keys_the_entry_that_opens_a_session_has_the_bytes_that_it_always_had() -> None:
    keyed = Keyed()
    keyed.node.engine.gate.permits = None
    (opened,) = keyed.ask("owner", OpenSession(60_000))
    record = keyed.node.ledger.log.get(opened.session)
    ledger = keyed.node.ledger
    wanted = encode(
        opened.session,
        ledger.term,
        4,
        ledger.applier.time_ms,
        data=(60_000).to_bytes(8),
        elapsed_ms=ledger.applier.elapsed_ms,
    )
    assert record == wanted
