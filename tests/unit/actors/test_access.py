"""The list of access on one node: in force before anything of the turn leaves, and asked for like any state."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import OpenSession, Read, ReadResults, Results, SessionOpened, Submit
from forge_consensus.actors.raft.admission import Admission
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.engine import Engine
from forge_consensus.security.access import AccessList, Principal, Token
from forge_consensus.security.access_changes import RESERVED
from forge_consensus.security.curve import KeyPair
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command
from tests.worlds.access_model import KEYS
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode

ANN = {"do": "put", "name": "ann", "roles": ["admin"], "keys": [KEYS[0]]}
BOTH = pytest.mark.parametrize("machine", [KeyValueMachine, TallyMachine])


def change(payload: dict[str, Any]) -> bytes:
    return Command(RESERVED, payload).encode()


def with_session(machine: type) -> tuple[OneNode, int]:
    node = OneNode(1, machine=machine)
    node.request("", "gateway", OpenSession(60_000))
    return node, node.last(SessionOpened).session


@BOTH
def test_whoever_is_told_of_a_change_finds_it_in_force(machine: type) -> None:
    node, session = with_session(machine)
    lists: list[AccessList] = []

    def take(access: AccessList) -> None:
        lists.append(access)
        node.sent.append(("access", len(lists)))

    node.engine.on_access = take
    node.engine.tell_access()
    assert [bool(access) for access in lists] == [False]
    node.request("", "gateway", Submit(session, 1, ((1, change(ANN)),)))
    node.request("", "gateway", Submit(session, 1, ((2, change(ANN)), (3, change({"do": "remove", "name": "x"})))))
    assert [access.of_key(KEYS[0]) is not None for access in lists] == [False, True], "only what differs is told"
    order = [to if to == "access" else type(message) for to, message in node.sent]
    assert order.index("access", 1) < order.index(Results)


def test_a_node_goes_by_the_list_of_its_log_before_the_first_frame() -> None:
    node, session = with_session(KeyValueMachine)
    node.request("", "gateway", Submit(session, 1, ((1, change(ANN)),)))
    control = AccessControl(KeyPair.made())
    engine = node.engine
    Engine(engine.opened, node.settings, node.clock, node, node.bus, random.Random(1), "127.0.0.1:1", access=control)
    assert control.of_key(KEYS[0]) is not None


def test_the_list_of_the_access_file_is_told_beside_and_is_no_part_of_the_state() -> None:
    node, session = with_session(KeyValueMachine)
    node.request("", "gateway", Submit(session, 1, ((1, change(ANN)),)))
    row = node.ledger.applier.access.row
    token, _ = Token.made()
    control = AccessControl(KeyPair.made(), AccessList([Principal("bob", tokens=(token,))], [KEYS[1]]))
    engine = node.engine
    Engine(engine.opened, node.settings, node.clock, node, node.bus, random.Random(1), "127.0.0.1:1", access=control)
    told = node.ledger.applier.ask({RESERVED: True})
    assert told["clients"].keys() == {"ann"}
    tokens = [{"id": token.id, "ends_ms": 0}]
    assert told["file"] == {"members": {}, "clients": {"bob": {"tokens": tokens}}, "revoked": [KEYS[1]]}
    control.take_file(AccessList())
    assert node.ledger.applier.ask({RESERVED: True})["file"]["clients"] == {}
    assert node.ledger.applier.access.row is row


@BOTH
def test_the_list_is_read_like_any_state(machine: type) -> None:
    node, session = with_session(machine)
    node.request("", "gateway", Submit(session, 1, ((1, change(ANN)),)))
    for number, consistency in enumerate(("linearizable", "stale"), 1):
        node.request("", "gateway", Read(consistency, ((number, msgpack.packb({RESERVED: True})),), 0))
        node.run_jobs()
        ((_, code, payload),) = node.last(ReadResults).items
        told = msgpack.unpackb(payload)
        assert (code, told["clients"]) == ("", {"ann": {"roles": ["admin"], "keys": [KEYS[0]]}})
        assert told["index"] == node.ledger.applier.access.index


def test_no_machine_is_asked_whether_a_change_may_enter_the_log() -> None:
    class Refusing(TallyMachine):
        def admit(self, command: Command) -> None:
            raise ValueError(f"no {command.type}")

    refused = Admission(Refusing()).refused([(1, change(ANN)), (2, Command("add").encode())])
    assert list(refused) == [2]
