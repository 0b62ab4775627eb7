"""Bounds that bind: sessions, what they keep, and stores are small now and then, and the rules know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from loguru import logger

from forge_consensus.actors.messages import Results
from forge_consensus.storage.backends.memory import QUOTA_BYTES
from forge_consensus.storage.ledger.record import Kind, encode, parse
from forge_consensus.storage.machines.session_owner import TTL_BYTES
from forge_consensus.storage.machines.sessions import EXPIRED, OUTCOMES_MAX, SESSIONS_MAX, Sessions
from forge_consensus.testing.rules.bound_rules import is_of_client
from forge_consensus.testing.rules.session_rules import SessionRules
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.conditions import QUOTA_RESERVE_BYTES, Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.cluster import Bounds


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def test_each_bound_is_drawn_and_most_seeds_have_none() -> None:
    plans = [Plan.of(seed) for seed in range(600)]
    bounds = [plan.conditions.bounds for plan in plans]
    assert 15 < sum(one.sessions_max < SESSIONS_MAX for one in bounds) < 90
    assert 15 < sum(one.outcomes_max < OUTCOMES_MAX for one in bounds) < 90
    small = [plan for plan in plans if plan.conditions.bounds.quota_bytes < QUOTA_BYTES]
    assert 10 < len(small) < 90
    assert all(plan.storage.reserve_bytes == QUOTA_RESERVE_BYTES and not plan.conditions.core for plan in small)
    assert sum(one == Bounds() for one in bounds) > 400


def world(**bounds: int) -> Simulation:
    """Make a simulation of three nodes with these bounds."""
    plan = Plan.of(2009)
    storage = replace(plan.storage, reserve_bytes=QUOTA_RESERVE_BYTES)
    return Simulation(replace(plan, nodes=3, storage=storage, conditions=Conditions(bounds=Bounds(**bounds))))


def test_sessions_are_evicted_and_no_rule_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    evicted: list[int] = []
    most_silent = Sessions.most_silent

    def noted(self: Sessions) -> int:
        evicted.append(most_silent(self))
        return evicted[-1]

    monkeypatch.setattr(Sessions, "most_silent", noted)
    with world(sessions_max=2) as simulation:
        simulation.run()
        applied = [base.engine.ledger.applier.sessions for base in simulation.cluster.running()]
        assert {sessions.sessions_max for sessions in applied} == {2}  # whatever was rolled back and installed
    assert evicted


def test_a_session_that_is_evicted_while_it_is_used_breaks_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sessions, "most_silent", lambda self: max(self.live, key=lambda key: self.live[key].last_use))
    with world(sessions_max=4) as simulation, pytest.raises(ViolationError, match="session"):
        simulation.run()


def test_the_rule_of_sessions_counts_those_that_were_used_since() -> None:
    rules = SessionRules()
    rules.sessions_max = 2
    life = (60_000).to_bytes(TTL_BYTES)
    entries = {(index, 1): (encode(index, 1, Kind.SESSION, 0, data=life), 1) for index in (2, 3, 4)}
    entries[5, 1] = encode(5, 1, Kind.COMMAND, 0, 3, 1), 1
    for key, (record, _) in entries.items():
        rules.written[key] = 0.0
        if key[0] < 5:
            rules.opens(key, record[-TTL_BYTES - 4 : -4])
    refused = ((1, EXPIRED.code, b""),)
    committed: dict[int, int] = dict.fromkeys(range(1, 6), 1)
    entries[1, 1] = encode(1, 1, Kind.NOOP, 0), 0
    rules.answers(Results(2, refused), committed, 1.0, entries)  # 3 and 4 were used since
    with pytest.raises(ViolationError, match="only 1 others were used since, and 2 may live"):
        rules.answers(Results(4, refused), committed, 1.0, entries)
    rules.answers(Results(4, refused), committed, 70.0, entries)


def test_a_store_that_reached_its_quota_grows_again_when_the_faults_end() -> None:
    quota_bytes = 30_000 + QUOTA_RESERVE_BYTES
    with world(quota_bytes=quota_bytes) as simulation:
        simulation.start()
        assert {base.disk.quota_bytes for base in simulation.cluster.running()} == {quota_bytes}
        simulation.crash("n1")
        simulation.faults.heal()
        assert {base.disk.quota_bytes for base in simulation.cluster.running()} == {QUOTA_BYTES}
        assert len(simulation.cluster.running()) == 3
    with world(quota_bytes=quota_bytes) as simulation:
        simulation.run()


def test_the_bound_of_what_waits_is_for_what_clients_ask() -> None:
    """The command by which leases expire is the leader's own, and comes however much waits."""
    entries = [(Kind.COMMAND, 7), (Kind.SESSION, 0), (Kind.COMMAND, 0), (Kind.NOOP, 0), (Kind.CONFIGURATION, 0)]
    of_clients = [is_of_client(parse(2, encode(2, 1, kind, 0, session))) for kind, session in entries]
    assert of_clients == [True, True, False, False, False]
