"""Where the applications of the members answer HTTP: the leader notes it in the log, for whoever has not met them."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import AppendReply, Hello
from forge_consensus.actors.raft.next_configuration import URLS_SECONDS
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.service.thread_node import report_of
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.record import Kind, parse
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_greetings import PROGRAM
from tests.worlds.one_node import OneNode


def tell(node: OneNode, peer: str, url: str | None) -> None:
    """A peer greets the node, and tells where its application answers; None for one that answers nowhere."""
    incarnation, boot = node.boot_of(peer)
    settings = () if url is None else (("http_url", url),)
    usual = Hello(
        incarnation, boot, node.peers[peer], node.configuration.digest, "n1=..", settings=settings, program=PROGRAM
    )
    node.request(peer, "membership", usual)


def acknowledge(node: OneNode) -> None:
    """All peers have the whole log."""
    for peer in sorted(set(node.peers) - {"n1"}):
        node.answer(peer, "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))


def written(node: OneNode) -> list[dict[str, str]]:
    """The places in each configuration of the log, the first one left out."""
    log = node.ledger.log
    records = [parse(index, log.get(index)) for index in range(2, log.last + 1)]
    return [dict(Configuration.decode(each.data).urls) for each in records if each.kind == Kind.CONFIGURATION]


def leading(url: str = "http://one") -> OneNode:
    """A leader of three whose no-op is committed."""
    node = OneNode(http_url=url)
    lead(node)
    return node


def heartbeat(node: OneNode, seconds: float = 0.0) -> None:
    """Let the leader beat for a while, which its followers answer."""
    left = max(seconds, node.settings.heartbeat_interval)
    while left > 0:
        node.wait(node.settings.heartbeat_interval)
        left -= node.settings.heartbeat_interval
        acknowledge(node)


def test_what_the_members_told_is_written_once() -> None:
    node = leading()
    tell(node, "n2", "http://two")
    heartbeat(node)
    assert written(node) == [{"n1": "http://one", "n2": "http://two"}]
    tell(node, "n2", "http://two")
    heartbeat(node, 2 * URLS_SECONDS)
    assert len(written(node)) == 1, "nothing is new"
    tell(node, "n3", "http://three")
    heartbeat(node)
    assert written(node)[1:] == [{"n1": "http://one", "n2": "http://two", "n3": "http://three"}]


def test_without_one_nothing_is_written() -> None:
    node = leading("")
    for peer in ("n2", "n3"):
        tell(node, peer, None)
    last = node.ledger.log.last
    heartbeat(node, 3 * URLS_SECONDS)
    assert node.ledger.log.last == last


def test_a_member_that_moves_is_noted_and_one_that_moves_all_the_time_seldom() -> None:
    node = leading()
    heartbeat(node)
    last = node.ledger.log.last
    for number in range(20):
        tell(node, "n2", f"http://two:{number + 1}")
        heartbeat(node)
    assert node.ledger.log.last - last <= 20 * node.settings.heartbeat_interval / URLS_SECONDS + 1
    tell(node, "n2", None)
    heartbeat(node, 2 * URLS_SECONDS)
    assert written(node)[-1] == {"n1": "http://one"}, "it answers nowhere any more"


def test_nothing_is_proposed_while_another_configuration_is_not_committed() -> None:
    node = leading()
    node.wait(node.settings.heartbeat_interval)  # proposed, and nobody answers
    assert len(written(node)) == 1
    tell(node, "n2", "http://two")
    for _ in range(3):
        node.wait(node.settings.heartbeat_interval)
    assert len(written(node)) == 1


def test_a_full_disk_is_not_filled_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    node = leading()
    monkeypatch.setattr(node.ledger, "look_for_room", lambda: True)
    node.ledger.room.full = "no room"
    node.wait(node.settings.heartbeat_interval)
    assert written(node) == []


def test_a_node_that_met_nobody_knows_them_by_its_log() -> None:
    node = leading()
    tell(node, "n2", "http://two")
    heartbeat(node)
    again = OneNode(tables=node.tables.clone_durable(), http_url="http://one:9")
    again.engine.shared.greeted.clear()

    def told(name: str) -> str:
        return next(row.http_url for row in NodeStatus.of(again.engine).nodes if row.id == name)

    assert (told("n1"), told("n2"), told("n3")) == ("http://one:9", "http://two", "")
    shared: Any = again.engine.shared
    shared.leader = "n2"
    assert report_of(again.engine).leader_url == "http://two"
    tell(again, "n2", "http://two:2")
    assert report_of(again.engine).leader_url == "http://two:2", "what it tells itself is newer"
