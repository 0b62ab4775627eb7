"""Greetings: what they prove, what they tell, and whom they part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.actors.codec import TEXT_MAX, Frame, decode, encode
from forge_consensus.actors.messages import AppendEntries, AppendReply, CheckPeerReply, Hello, HelloReply, VoteReply
from forge_consensus.actors.notices import PeerWentBack
from forge_consensus.actors.raft.handshake import (
    ANCESTOR,
    CONFIGURATION,
    IDENTITY,
    MACHINE,
    SETTINGS,
    Handshake,
)
from forge_consensus.actors.runtime.refusals import STRANGER
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.config.agreement import told_settings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import IdentityError
from forge_consensus.events.types import AddressDiffers, NodeRefused, SettingsDiffer
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import DRAW_CHARS, DRAWS_KEPT, DRAWS_TOLD, Identity
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.ledger.record import encode as encode_record
from forge_consensus.storage.ledger.tips import Tip
from forge_consensus.storage.machines.naming import MachineName, name_of
from forge_consensus.version import __version__
from tests.unit.actors.test_election import lead
from tests.worlds.effort import effort
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode

TIP = Tip(1, 1, 1)
PROGRAM = (__version__, LEVEL)


def hello(node: OneNode, **fields: Any) -> Hello:
    """The greeting of n2, in the boot that the world uses."""
    incarnation, boot = node.boot_of("n2")
    usual = Hello(incarnation, boot, node.peers["n2"], node.configuration.digest, "n1=..", program=PROGRAM)
    return replace(usual, **fields)


def member(node: OneNode, name: str = "n2") -> Any:
    return next(row for row in NodeStatus.of(node.engine).nodes if row.id == name)


# --- boots ------------------------------------------------------------------------------------------------------------


class Folder:
    """The identity of a folder that is started again and again."""

    def __init__(self, node: str, tables: MemoryTables | None = None) -> None:
        self.node = node
        self.tables = tables or MemoryTables()
        self.drawn = 0

    def draw(self) -> str:
        self.drawn += 1
        return f"{self.drawn:08}"

    def start(self, times: int = 1) -> Identity:
        for _ in range(times):
            batch = Batch()
            made = Identity(self.tables, self.node, "demo")
            made.open(self.draw, batch)
            self.tables.commit(batch)
        return made


MEMBERS = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"})


def shaken(identity: Identity) -> Handshake:
    return Handshake(identity, MEMBERS, MachineName("kv"), "a:1")


def carried(message: Any) -> Any:
    """The message as it arrives: it must pass the codec."""
    return decode(encode(Frame("membership", "demo", "n2", "x", 1, 0, 1, 1, message)), 1 << 20).message


def exchange(asker: Identity, other: Identity) -> str:
    """The greetings of n2 at n1 until they are accepted or refused; returns the reason."""
    asks, answers = shaken(asker), shaken(other)
    for _ in range(3):
        said = carried(asks.hello("n1", TIP))

        def admit(message: Any) -> str:
            shown = answers.shown_draw("n2", message) or ""
            known = other.boots["n2"]
            return "" if known[0].partition(".")[2] == shown and known[1] < message.boot else "stranger"

        refusal = answers.judge("n2", said, MEMBERS, admit)
        reply = carried(answers.reply(refusal, "n2", said, TIP))
        if reply.reason != ANCESTOR:
            return str(reply.reason)
        asks.asked["n1"] = reply.known
    return "without an end"


@pytest.mark.parametrize("starts", [1, 2, DRAWS_TOLD, DRAWS_TOLD + 1, 8_193, effort(10_000, 30_000)])
def test_a_node_is_known_again_after_any_number_of_starts(starts: int) -> None:
    folder, other = Folder("n2"), Folder("n1").start()
    met = folder.start(3)
    other.boots["n2"] = (met.boot_token, met.boot)
    now = folder.start(starts)
    assert now.boot == 3 + starts
    assert exchange(now, other) == ""
    said = shaken(now).hello("n1", TIP)
    assert len(said.earlier) <= DRAWS_TOLD * DRAW_CHARS < TEXT_MAX


@pytest.mark.parametrize("starts", [1, DRAWS_TOLD + 1, 5_000])
def test_a_copy_is_refused_however_often_it_is_started(starts: int) -> None:
    folder, other = Folder("n2"), Folder("n1").start()
    folder.start(3)
    copy = Folder("n2", folder.tables.clone_durable())
    copy.drawn = 1_000_000  # it draws other numbers than its original
    met = folder.start()
    other.boots["n2"] = (met.boot_token, met.boot)
    assert exchange(copy.start(starts + 1), other) == IDENTITY


def test_the_answer_to_a_greeting_proves_the_boot_that_the_greeting_names() -> None:
    folder = Folder("n1")
    met = folder.start(2)
    draw = met.boot_token.partition(".")[2]
    now = folder.start(10_000)
    asker = Folder("n2").start()
    asker.boots["n1"] = (met.boot_token, met.boot)
    asks, answers = shaken(asker), shaken(now)
    said = asks.hello("n1", TIP)
    reply = carried(answers.reply(answers.judge("n2", said, MEMBERS, lambda _: ""), "n2", said, TIP))
    assert asks.shown_draw("n1", reply) == draw


def test_what_is_told_of_boots_is_below_the_limit_of_the_codec_and_much_is_kept() -> None:
    assert DRAWS_TOLD * DRAW_CHARS * 8 <= TEXT_MAX
    assert DRAWS_KEPT >= 1_000_000


def test_a_node_that_is_asked_for_an_old_boot_greets_again_at_once_and_then_waits() -> None:
    node = OneNode(greet=False)
    node.turn(notices=[node.engine.peers.link("n2", True)])
    incarnation, boot = node.boot_of("n2")
    node.sent.clear()
    asked = HelloReply(incarnation, boot, ANCESTOR, "", known=1)
    node.answer("n2", "membership", asked)
    assert node.last(Hello).proof[0] == 1
    node.sent.clear()
    node.answer("n2", "membership", asked)
    assert not node.messages(Hello)


# --- a copy of a running folder ---------------------------------------------------------------------------------------


def next_boot(node: OneNode, tip: Tip) -> Hello:
    """The greeting of n2's next process, which names its earlier boot."""
    return hello(node, boot=2, incarnation="folder-n2.another", tip=tip)


def greeted_again(tip: Tip) -> OneNode:
    """A leader that n2 acknowledged everything to; then n2's next process greets with this tip."""
    node = OneNode()
    lead(node)
    said = next_boot(node, tip)
    node.request("n2", "membership", said, incarnation=said.incarnation, boot=2)
    return node


def test_a_member_whose_next_process_lacks_what_it_acknowledged_is_refused_and_reported() -> None:
    node = greeted_again(Tip(1, 0, 1))
    assert node.last(HelloReply).reason == IDENTITY
    assert "is an older copy of its own: it had acknowledged the log up to entry 2" in node.last(HelloReply).detail
    assert [(event.peer, event.reason) for event in node.told(NodeRefused)] == [("n2", IDENTITY)]
    assert "older copy" in member(node).greeting_refused
    said = next_boot(node, Tip(1, 0, 1))
    node.request("n2", "membership", said, incarnation=said.incarnation, boot=2)
    assert len(node.told(NodeRefused)) == 1, "once for each process"
    assert member(node).greeting_refused_ago == 0.0
    node.wait(60.0)
    assert member(node).greeting_refused_ago == pytest.approx(60.0), "it is gone"
    node.request("n2", "membership", said, incarnation=said.incarnation, boot=2)
    assert member(node).greeting_refused_ago == 0.0
    assert len(node.told(NodeRefused)) == 1, "once for each process"


@pytest.mark.parametrize("tip", [Tip(1, 1, 2), Tip(1, 1, 9), Tip(2, 1, 2), Tip(7, 7, 30)])
def test_a_member_that_kept_what_it_acknowledged_is_accepted(tip: Tip) -> None:
    node = greeted_again(tip)
    assert node.last(HelloReply).reason == ""
    assert member(node).greeting_refused is None


def test_a_greeting_that_was_under_way_while_its_process_went_on_proves_nothing() -> None:
    node = OneNode()
    lead(node)
    node.request("n2", "membership", hello(node, tip=Tip(0, 0, 1)))
    assert node.last(HelloReply).reason == ""


def test_a_member_that_forgot_a_term_is_refused_by_whom_it_voted_for() -> None:
    node = OneNode()
    node.wait(2.0)
    term = node.ledger.term
    node.answer("n2", "election", VoteReply(term, True))
    if not term:
        lead(node)
    said = next_boot(node, Tip(0, 0, 1))
    node.request("n2", "membership", said, incarnation=said.incarnation, boot=2)
    assert node.last(HelloReply).reason == IDENTITY


def contradict(node: OneNode, held: int, sent: int) -> None:
    refusal = AppendReply(node.ledger.term, False, held, 0, 0)
    node.turn((node.frame("n2", "replication", refusal, sent=sent), None))


def test_a_member_that_lacks_what_it_acknowledged_is_expelled_when_a_later_request_shows_it() -> None:
    node = OneNode()
    lead(node)
    began = node.clock.boottime_ns()
    contradict(node, 1, began)
    contradict(node, 1, began)
    assert not node.told(NodeRefused), "old answers may arrive late"
    node.wait(0.2)
    contradict(node, 1, node.clock.boottime_ns())
    assert "none behind entry 1" in node.told(NodeRefused)[0].detail
    node.request("n2", "replication", AppendEntries(9, 1, 0, 1, 0, ()))
    assert node.last(HelloReply).reason == STRANGER, "nothing of that process counts any more"
    assert node.ledger.term == 1
    node.request("n2", "membership", hello(node))
    assert node.last(HelloReply).reason == IDENTITY
    assert member(node).greeting_refused is not None


def test_late_answers_of_before_a_later_acknowledgement_prove_nothing() -> None:
    node = OneNode()
    lead(node)
    contradict(node, 1, node.clock.boottime_ns())
    node.wait(0.2)
    middle = node.clock.boottime_ns()
    node.wait(0.2)
    leadership = node.engine.cells.actor("replication").leadership
    leadership.progress["n2"].match = 50
    contradict(node, 40, middle)
    contradict(node, 40, middle)
    assert not node.told(NodeRefused)


def killed(node: OneNode) -> OneNode:
    """The next process of this node; the last one was killed. Nobody has greeted it yet."""
    return OneNode(tables=node.tables, folder=node.folder, greet=False)


def greet_again(node: OneNode, tip: Tip, boot: int = 2, **fields: Any) -> HelloReply:
    """The answer to the greeting of n2's next process."""
    node.sent.clear()
    said = hello(node, **{"boot": boot, "incarnation": f"folder-n2.another{boot}", "tip": tip, **fields})
    node.request("n2", "membership", said, incarnation=said.incarnation, boot=boot)
    reply = node.last(HelloReply)
    assert isinstance(reply, HelloReply)
    return reply


def test_a_proof_against_a_copy_does_not_expel_the_true_folder_that_came_in_the_same_turn() -> None:
    node = OneNode()
    lead(node)
    copy = node.ledger.identity.boots["n2"]
    assert greet_again(node, WHOLE, 2).reason == ""
    node.engine.next_turn(node.engine.actor("membership"), PeerWentBack("n2", copy, "it had acknowledged more"))
    node.engine.turn([], [])
    assert node.ledger.identity.boots["n2"][1] == 2
    assert not node.told(NodeRefused)


OLD, WHOLE = Tip(1, 0, 1), Tip(1, 1, 2)
"""The tips of a copy and of the true folder of n2, which acknowledged entry 2 in term 1."""


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_after_a_copy_was_expelled_the_true_folder_is_admitted_and_the_copy_is_not(restarts: int) -> None:
    node = OneNode()
    lead(node)
    contradict(node, 1, node.clock.boottime_ns())
    node.wait(0.2)
    contradict(node, 1, node.clock.boottime_ns())
    assert node.told(NodeRefused)
    for _ in range(restarts):
        node = killed(node)
    for boot in (2, 3, 4):
        reply = greet_again(node, OLD, boot)
        assert reply.reason == IDENTITY
        assert "put the folder that ran last in the place of this one" in reply.detail
    assert greet_again(node, OLD, 1, incarnation="folder-n2").reason == IDENTITY, "the process that was expelled"
    assert greet_again(node, WHOLE, 2).reason == ""
    assert member(node).greeting_refused is None
    assert greet_again(killed(node), WHOLE, 3, earlier="another2").reason == ""


@pytest.mark.parametrize("in_order", [False, True])
def test_a_node_that_was_restarted_still_knows_what_the_others_had_on_their_disks(*, in_order: bool) -> None:
    node = OneNode()
    lead(node)
    if in_order:
        node.wait(0.2)  # until the next heartbeat
        node.engine.finish()
    else:
        node.wait(1.2)
        node.engine.ledger.begin(node.clock.now())
        node.ledger.turn.put_meta(b"whatever", b"")  # some turn that writes something anyway
        node.ledger.commit()
    node = killed(node)
    assert greet_again(node, OLD).reason == IDENTITY
    assert greet_again(node, WHOLE).reason == ""


def test_a_follower_knows_the_disks_of_the_others_by_their_answers_to_its_checks() -> None:
    node = OneNode()
    node.answer("n2", "health", CheckPeerReply(1, tip=(5, 5, 30)))
    assert greet_again(node, Tip(5, 5, 29)).reason == IDENTITY
    assert greet_again(node, Tip(5, 5, 30)).reason == ""


# --- greetings of earlier processes -----------------------------------------------------------------------------------


def test_a_greeting_that_arrives_after_one_of_a_later_process_is_told_to_nobody() -> None:
    node = OneNode()
    assert greet_again(node, TIP, 3, earlier="another2").reason == ""
    node.events.clear()
    for boot, token in ((1, "folder-n2"), (2, "folder-n2.another2"), (2, "folder-n2.another2")):
        assert greet_again(node, TIP, boot, incarnation=token).reason == IDENTITY
        node.answer("n2", "membership", HelloReply(token, boot, "", ""), incarnation=token, boot=boot)
    assert not node.told(NodeRefused)
    assert member(node).greeting_refused is None
    assert node.ledger.identity.boots["n2"] == ("folder-n2.another3", 3)
    assert greet_again(node, TIP, 2, incarnation="folder-n2.copycopy").reason == IDENTITY
    assert len(node.told(NodeRefused)) == 1, "a copy is no late greeting"


# --- machines, settings, addresses ------------------------------------------------------------------------------------


def test_nodes_with_different_machines_refuse_each_other_by_name() -> None:
    node = OneNode(machine=TallyMachine)
    node.request("n2", "membership", hello(node, machine=("kv", 0)))
    reply = node.last(HelloReply)
    assert reply.reason == MACHINE
    assert "runs the state machine 'tests.worlds.ledger_world:TallyMachine', node n2 'kv'" in reply.detail
    assert node.told(NodeRefused)[0].reason == MACHINE


def test_another_version_of_the_machine_is_told_and_accepted() -> None:
    node = OneNode()
    node.request("n2", "membership", hello(node, machine=("kv", 4)))
    assert node.last(HelloReply).reason == ""
    assert node.told(SettingsDiffer)[0].differences == ("the state machine has version 0 here and 4 there",)


def test_settings_that_differ_are_told_once_for_each_process() -> None:
    node = OneNode()
    other = told_settings(replace(RaftSettings(), fast_retries=7), replace(StorageSettings(), trailing_entries=5))
    for _ in range(3):
        node.request("n2", "membership", hello(node, settings=other))
        incarnation, boot = node.boot_of("n2")
        node.answer("n2", "membership", HelloReply(incarnation, boot, "", "", program=PROGRAM))
    told = node.told(SettingsDiffer)
    assert [event.peer for event in told] == ["n2"]
    assert member(node).differs == list(told[0].differences)
    assert "raft.fast_retries is 3 here and 7 there" in told[0].differences
    later = hello(node, settings=other, incarnation="folder-n2.laterxxx", boot=2)
    node.request("n2", "membership", later, incarnation=later.incarnation, boot=2)
    assert len(node.told(SettingsDiffer)) == 2
    same = hello(node, incarnation="folder-n2.againxxx", boot=3, earlier="laterxxx", settings=node_settings(node))
    node.request("n2", "membership", same, incarnation=same.incarnation, boot=3)
    assert member(node).differs == []


def node_settings(node: OneNode) -> Any:
    return told_settings(node.settings, node.ledger.settings)


def test_settings_that_cannot_work_together_are_refused() -> None:
    node = OneNode()
    slow = RaftSettings(heartbeat_interval=0.6, election_timeout_min=2.0, election_timeout_max=3.0)
    node.request("n2", "membership", hello(node, settings=told_settings(slow, StorageSettings())))
    assert node.last(HelloReply).reason == SETTINGS
    assert "raft.heartbeat_interval of n2 is 0.6 s" in (member(node).greeting_refused or "")


def test_a_member_at_another_address_than_the_members_look_at_is_told() -> None:
    node = OneNode()
    node.request("n2", "membership", hello(node, address="127.0.0.1:9"))
    told = node.told(AddressDiffers)
    assert [(event.peer, event.expected, event.listens) for event in told] == [("n2", "127.0.0.1:2", "127.0.0.1:9")]
    assert member(node).differs == [
        "it was started with the address 127.0.0.1:9 and the members look for it at 127.0.0.1:2"
    ]
    node.request("n2", "membership", hello(node, address=""))
    assert member(node).differs == []


def test_who_joined_on_a_new_folder_and_has_more_is_heard_by_a_member_that_has_only_the_removal_of_the_old_one() -> (
    None
):
    """Seed 6004141: the lagging member refused the leader for ever, and nobody else could send it what it lacks.

    The removal was not committed there, so the old folder still counted.
    """
    node = OneNode()
    without = replace(node.configuration, members=node.configuration.members[:1] + node.configuration.members[2:])
    data = encode_record(2, 3, Kind.CONFIGURATION, 0, data=without.encode(), elapsed_ms=0)
    node.request("n3", "membership", hello(node, incarnation=node.boot_of("n3")[0]))
    node.request("n3", "replication", AppendEntries(3, 1, 0, 1, 0, (data,)))
    assert "n2" not in node.ledger.configuration.nodes
    assert node.ledger.commit_index == 1, "and by the committed one it is a member"
    anew = hello(node, incarnation="folder-anew.00000001", boot=1, joins=True, tip=(3, 3, 1))
    node.request("n2", "membership", anew)
    assert node.last(HelloReply).reason == "unknown", "its log is older"
    node.request("n2", "membership", replace(anew, tip=(4, 4, 9)))
    assert node.last(HelloReply).reason == ""
    assert node.ledger.identity.known("n2") == ("folder-anew.00000001", 1)


def test_members_tell_each_other_where_their_applications_answer_and_compare_it_with_nobody() -> None:
    node = OneNode(http_url="http://one:8000")
    usual = told_settings(node.settings, node.ledger.settings)
    told = told_settings(node.settings, node.ledger.settings, node.engine.http_url)
    assert set(told) - set(usual) == {("http_url", "http://one:8000")}
    node.request("n2", "membership", hello(node, settings=(("http_url", "http://two:8000"), *usual)))
    assert (member(node).http_url, member(node, "n1").http_url) == ("http://two:8000", "http://one:8000")
    assert (member(node).differs, node.told(SettingsDiffer)) == ([], [])
    incarnation, boot = node.boot_of("n2")
    node.answer("n2", "membership", HelloReply(incarnation, boot, "", "", program=PROGRAM))
    assert member(node).http_url == "http://two:8000", "answers to greetings do not tell it, and take nothing back"
    for forged in ("", "http://two\r\nX: y", "http://zwei-ä", f"http://{'a' * 9999}"):
        node.request("n2", "membership", hello(node, settings=(("http_url", forged), *usual)))
        assert member(node).http_url == ""
    node.request("n2", "membership", hello(node, settings=usual))
    assert member(node).http_url == ""


def test_a_node_tells_itself_that_it_is_looked_for_elsewhere() -> None:
    for address, count in (("127.0.0.1:1", 0), ("127.0.0.1:9", 1), ("", 0)):
        node = OneNode(advertised=address)
        assert len(node.told(AddressDiffers)) == count
        assert len(member(node, "n1").differs) == count
    assert not OneNode(1, advertised="127.0.0.1:9").told(AddressDiffers), "nobody looks for it"


def test_a_node_that_was_refused_for_its_list_says_that_the_right_one_will_be_taken() -> None:
    incarnation, boot = OneNode().boot_of("n2")
    with pytest.raises(IdentityError, match="start it with the right one, and it is taken"):
        OneNode().answer("n2", "membership", HelloReply(incarnation, boot, CONFIGURATION, "no"))


def test_a_node_that_was_refused_for_its_machine_is_not_told_to_use_its_folder_again() -> None:
    incarnation, boot = OneNode().boot_of("n2")
    with pytest.raises(IdentityError, match="move the folder away and start the node with the right one") as caught:
        OneNode().answer("n2", "membership", HelloReply(incarnation, boot, MACHINE, "no"))
    assert "Nothing but its list" not in str(caught.value)


def test_another_machine_is_told_as_such_also_where_the_cluster_was_founded_with_its_name() -> None:
    tally = TallyMachine()
    node = OneNode()
    founded = replace(node.configuration, machine=name_of(tally).name)
    said = hello(node, machine=name_of(tally), configuration_hash=founded.digest, configuration=founded.text)
    node.request("n2", "membership", said)
    assert node.last(HelloReply).reason == MACHINE


def test_a_refused_node_of_another_machine_or_settings_ends_only_before_it_was_part_of_the_cluster() -> None:
    for reason in (MACHINE, SETTINGS):
        incarnation, boot = OneNode().boot_of("n2")
        with pytest.raises(IdentityError):
            OneNode().answer("n2", "membership", HelloReply(incarnation, boot, reason, "no"))
        node = OneNode()
        lead(node)
        node.answer("n2", "membership", HelloReply(incarnation, boot, reason, "no"))


@pytest.mark.parametrize("answers", [False, True])
def test_a_member_that_was_added_again_is_admitted_in_the_turn_that_reads_so(*, answers: bool) -> None:
    """Seed 30000139: it was refused as an exchanged folder, which ended it, because its former folder was known yet."""
    node = OneNode()
    token = "another.drawdraw"
    added = replace(node.configuration, folders=(("n3", "another"),))
    record = encode_record(2, 1, Kind.CONFIGURATION, 0, data=added.encode())
    append = node.frame("n2", "replication", AppendEntries(1, 1, 0, 2, 0, (record,)))
    said = hello(node, incarnation=token, boot=1, address=node.peers["n3"], joins=True)
    reply = HelloReply(token, 1, "", "", program=PROGRAM, joins=True)
    greeting = node.frame("n3", "membership", reply if answers else said, incarnation=token, boot=1)
    node.turn((append, "->n2"), (greeting, None if answers else "->n3"))
    assert node.ledger.configuration.folder_of("n3") == "another"
    assert node.ledger.identity.boots["n3"] == (token, 1)
    if not answers:
        assert node.last(HelloReply).reason == ""
