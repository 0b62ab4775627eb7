"""Settings that a running node takes: in one step between two turns, told with the next, and to the peers too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.actors.messages import ConfigReport, Hello, Refused, ReloadConfig, Submit
from forge_consensus.actors.runtime.audit import OPERATOR, Act, record_of
from forge_consensus.actors.runtime.engine import SUPERVISOR, SettingsChange
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.actors.supervisor import ACTORS
from forge_consensus.config.agreement import told_settings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import AuditRecorded, ConfigReloaded, ConfigUpdated, SettingsDiffer
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted import EncryptedTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.testing.world.base import OrderedFault
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import follow, put
from tests.worlds.one_node import OneNode

OTHER = RaftSettings(outstanding_max=7)
EVENTS = (
    ConfigUpdated(trigger="call", settings=("raft.outstanding_max",), old=("20000",), new=("7",)),
    ConfigReloaded(trigger="call", changed=("raft.outstanding_max",), pending_restart=("bind",)),
)
CHANGE = SettingsChange(OTHER, StorageSettings(), ("bind",), EVENTS)


def settings_of_actors(node: OneNode) -> set[RaftSettings]:
    """The settings that the actors go by."""
    cells = node.engine.cells.by_name
    assert cells.keys() >= {*ACTORS, SUPERVISOR}
    return {cell.actor.settings for cell in cells.values()}


def test_all_actors_have_the_settings_before_the_first_frame_of_the_next_turn() -> None:
    node = OneNode()
    lead(node)
    before = node.ledger.log.last
    node.engine.take_settings(CHANGE)
    commands = tuple((seq, b"x") for seq in range(1, 11))
    node.turn((node.frame("", "gateway", Submit(5, 1, commands)), "->client"))
    assert node.ledger.log.last - before == 7
    assert settings_of_actors(node) == {OTHER}
    assert node.engine.settings is node.engine.events.settings is node.engine.faults.settings is OTHER


def test_the_audit_tells_who_changed_them_and_another_key_of_the_disk() -> None:
    made, other = EncryptionKey.made(), EncryptionKey.made()
    node = OneNode(1)
    tables = EncryptedTables(MemoryTables(), made)
    record = record_of(Act(OPERATOR, "ReloadConfig", "file"), "done", "")
    for key in (made, other):
        node.ledger.tables, plain = tables, node.ledger.tables
        node.engine.take_settings(SettingsChange(OTHER, StorageSettings(), key=key, records=(record,)))
        node.ledger.tables = plain
    node.turn()
    told = [(each.action, each.subject, each.identity) for each in node.told(AuditRecorded)]
    reload, disk = ("ReloadConfig", "file", "operator"), ("disk key", other.id, "operator")
    assert told == [reload, disk, reload]


def test_events_come_in_order_with_the_turn_and_are_in_the_journal() -> None:
    node = OneNode()
    node.engine.take_settings(CHANGE)
    assert not node.told(ConfigUpdated), "not before the turn is on disk"
    node.turn()
    (updated,), (reloaded,) = node.told(ConfigUpdated), node.told(ConfigReloaded)
    assert (updated.settings, updated.old, updated.new) == (("raft.outstanding_max",), ("20000",), ("7",))
    assert reloaded.sequence == updated.sequence + 1
    kinds = [data for _, data in node.ledger.journal.read(updated.sequence, 10).rows]
    assert [b"config.updated" in kinds[0], b"config.reloaded" in kinds[1]] == [True, True]
    node.turn()
    assert len(node.told(ConfigReloaded)) == 1


@pytest.mark.parametrize("actor_name", [SUPERVISOR, "gateway"])
def test_a_turn_that_is_taken_back_takes_neither_the_settings_nor_their_events_back(actor_name: str) -> None:
    node = OneNode()
    node.engine.take_settings(CHANGE)
    node.engine.next_turn(node.engine.actor(actor_name), OrderedFault())
    node.turn()
    assert node.engine.totals.turns > 2
    assert settings_of_actors(node) == {OTHER}
    assert [len(node.told(kind)) for kind in (ConfigUpdated, ConfigReloaded)] == [1, 1]
    assert node.ledger.settings is CHANGE.storage


def test_the_status_says_what_waits_for_a_restart() -> None:
    node = OneNode()
    assert NodeStatus.of(node.engine).pending_restart == []
    node.engine.take_settings(CHANGE)
    assert NodeStatus.of(node.engine).pending_restart == ["bind"]


def test_what_is_applied_and_committed_stays_as_it_is() -> None:
    node = OneNode()
    follow(node, 1, *[put(index, 1, f"k{index}", "v") for index in range(2, 30)], commit=20)
    before = (node.ledger.term, node.ledger.vote, node.ledger.commit_index, node.ledger.applied, node.ledger.log.last)
    disk = node.tables.commits
    node.engine.take_settings(SettingsChange(OTHER, StorageSettings(uncommitted_entries_max=1)))
    node.turn()
    ledger = node.ledger
    assert before == (ledger.term, ledger.vote, ledger.commit_index, ledger.applied, ledger.log.last)
    assert node.tables.commits == disk, "and nothing is written for it"


# --- among members ---------------------------------------------------------------------------------------------------


def hello(node: OneNode, raft: RaftSettings) -> Hello:
    """The greeting of n2 with these settings."""
    incarnation, boot = node.boot_of("n2")
    told = told_settings(raft, StorageSettings())
    configuration = node.configuration
    return Hello(incarnation, boot, node.peers["n2"], configuration.digest, configuration.text, settings=told)


def test_peers_are_told_by_another_greeting() -> None:
    node = OneNode()
    node.engine.take_settings(CHANGE)
    node.turn()
    greeted = node.messages(Hello)
    assert [to for to, _ in greeted] == ["n2", "n3"]
    assert all(dict(message.settings)["raft.outstanding_max"] == "7" for _, message in greeted)
    node.sent.clear()
    node.engine.take_settings(replace(CHANGE, storage=StorageSettings(quota_bytes=1 << 30)))
    node.turn()
    assert not node.messages(Hello), "the quota is this node's own affair"


def test_what_differs_is_found_again_when_this_node_has_other_settings() -> None:
    node = OneNode()
    node.request("n2", "membership", hello(node, OTHER))
    (told,) = node.told(SettingsDiffer)
    assert told.differences == ("raft.outstanding_max is 20000 here and 7 there",)
    node.engine.take_settings(CHANGE)
    node.turn()
    assert node.engine.shared.greeted["n2"].differs == ()
    node.engine.take_settings(SettingsChange(RaftSettings(), StorageSettings()))
    node.turn()
    assert [event.differences for event in node.told(SettingsDiffer)] == [told.differences] * 2
    node.request("n2", "membership", hello(node, RaftSettings()))
    assert node.engine.shared.greeted["n2"].differs == ()


# --- asked by a client -----------------------------------------------------------------------------------------------


def test_a_client_gets_the_report_of_a_helper() -> None:
    node = OneNode()
    asked: list[bool] = []

    def reload(dry_run: bool) -> dict[str, Any]:
        asked.append(dry_run)
        return {"changed": []}

    node.engine.reload_configuration = reload
    node.request("", "gateway", ReloadConfig(dry_run=True))
    assert asked == [], "no disk is read on the node's thread"
    node.run_jobs()
    assert asked == [True]
    assert node.last(ConfigReport).fields == {"changed": []}


@pytest.mark.parametrize(("error", "code"), [(InvalidConfigError("3 faults"), "INVALID_CONFIG"), (OSError("x"), "")])
def test_a_client_hears_what_is_wrong_and_the_node_goes_on(error: Exception, code: str) -> None:
    node = OneNode()

    def reload(dry_run: bool) -> dict[str, Any]:
        raise error

    node.engine.reload_configuration = reload
    node.request("", "gateway", ReloadConfig())
    node.run_jobs()
    refused = node.last(Refused)
    assert refused.code == (code or "CONSENSUS_OPERATION_FAILED")
    assert str(error) in refused.text
    assert not node.engine.stopping


def test_a_very_long_list_of_faults_fits_into_an_answer() -> None:
    node = OneNode()

    def reload(dry_run: bool) -> dict[str, Any]:
        raise InvalidConfigError("a fault\n" * 100_000)

    node.engine.reload_configuration = reload
    node.request("", "gateway", ReloadConfig())
    node.run_jobs()
    assert "config validate tell all" in node.last(Refused).text


def test_without_a_configuration_and_with_too_many_askers_a_client_is_refused() -> None:
    node = OneNode()
    node.request("", "gateway", ReloadConfig())
    assert "nothing that it could read again" in node.last(Refused).text
    node.engine.reload_configuration = lambda dry_run: {}
    for _ in range(17):
        node.request("", "gateway", ReloadConfig())
    assert node.last(Refused).code == "CONSENSUS_BUSY"
    node.run_jobs()
    assert len(node.messages(ConfigReport)) == 16
    node.request("", "gateway", ReloadConfig())
    node.run_jobs()
    assert len(node.messages(ConfigReport)) == 17
