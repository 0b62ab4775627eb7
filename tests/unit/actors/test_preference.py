"""Whether another voter should lead: who is chosen, after which calm time, and why not to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forge_consensus.actors.raft.handover import choose
from forge_consensus.actors.raft.preference import Disk, Fellow, Preference
from forge_consensus.actors.runtime.slowest import Slowest
from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.ledger.configuration import Configuration

THREE = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"})
QUICK = Disk(0.001, 0.01)
READY = {"n2": Fellow(9, 0.01), "n3": Fellow(9, 0.01)}
CALM = 5 * 2.0


def preference() -> Preference:
    return Preference("n1", election_timeout_max=2.0, slow_seconds=0.25)


def wished(*, no_leader: tuple[str, ...] = (), **priorities: int) -> Configuration:
    return replace(THREE, priorities=tuple(sorted(priorities.items())), no_leader=no_leader)


def chosen(
    found: Preference, configuration: Configuration, now: float, own: Disk = QUICK, **fellows: Fellow
) -> str | None:
    """The target, if the leader hands over at `now`."""
    told = found.look(configuration, 9, {**READY, **fellows}, own, now)
    return told and told[0]


def test_a_higher_priority_leads_after_a_calm_time_and_an_equal_one_never() -> None:
    found = preference()
    assert all(chosen(found, wished(n1=3, n2=3), now) is None for now in (0.0, 100.0))
    assert chosen(found, wished(n2=1, n3=2), 200.0) is None
    assert chosen(found, wished(n2=1, n3=2), 200.0 + CALM - 0.1) is None
    assert chosen(found, wished(n2=1, n3=2), 200.0 + CALM) == "n3"


@pytest.mark.parametrize("break_", [Fellow(8, 0.01), Fellow(9, 0.3), None])
def test_the_calm_time_begins_anew_when_the_target_lags_is_slow_or_silent(break_: Fellow | None) -> None:
    found, configuration = preference(), wished(n3=1)
    assert chosen(found, configuration, 0.0) is None
    fellows = READY if break_ else {"n2": READY["n2"]}
    assert found.look(configuration, 9, {**fellows, **({"n3": break_} if break_ else {})}, QUICK, 9.0) is None
    assert chosen(found, configuration, CALM) is None
    assert chosen(found, configuration, 2 * CALM) == "n3"


def test_a_handover_in_vain_doubles_the_next_calm_time() -> None:
    found, configuration, now = preference(), wished(n3=1), 0.0
    waited = []
    for _ in range(9):
        began = now
        while chosen(found, configuration, now) is None:
            now += 1.0
        waited.append(now - began)
    assert waited == [CALM, CALM, *(CALM * 2**n for n in (1, 2, 3, 4, 5, 6)), CALM * 64]
    now += 10 * CALM * 64 + 1
    assert chosen(found, configuration, now) is None
    assert chosen(found, configuration, now + CALM * 64) == "n3"
    assert found.handed["n3"].vain == 0, "it led for long"


def test_a_leader_that_is_marked_hands_over_to_the_best_that_may() -> None:
    found = preference()
    configuration = wished(n2=-1, n3=-2, no_leader=("n1",))
    assert chosen(found, configuration, 0.0) is None
    assert chosen(found, configuration, 2.0) == "n2"
    assert chosen(found, wished(n2=9, no_leader=("n2",)), 100.0) is None
    assert chosen(found, wished(n2=9, no_leader=("n2",)), 200.0) is None


def test_a_slow_disk_gives_way_to_one_that_is_faster_and_not_the_other_way_round() -> None:
    found, slow = preference(), Disk(0.3, 0.4)
    assert chosen(found, wished(n1=9), 0.0, slow) is None
    assert chosen(found, wished(n1=9), CALM, slow) == "n2"
    for now in (100.0, 200.0):
        assert chosen(found, wished(n2=9), now, slow, n2=Fellow(9, 0.3), n3=Fellow(9, 0.35)) is None


def test_the_target_of_a_request_may_lead_has_what_is_committed_and_the_highest_priority() -> None:
    match = {"n2": 10, "n3": 9, "n1": 10}
    able = ["n2", "n3"]
    assert choose("", "n1", THREE, match, able, 9) == "n2"
    assert choose("", "n1", wished(n3=1), match, able, 9) == "n3"
    assert choose("", "n1", wished(n3=1), match, able, 10) == "n2"
    assert choose("", "n1", wished(no_leader=("n2",)), match, able, 9) == "n3"
    with pytest.raises(InvalidConfigError, match="n2' is marked never to lead"):
        choose("n2", "n1", wished(no_leader=("n2",)), match, able, 9)
    with pytest.raises(InvalidConfigError, match="no other voter that may lead"):
        choose("", "n1", wished(no_leader=("n2", "n3")), match, able, 9)


def test_the_fastest_of_a_window_is_known_once_there_were_enough() -> None:
    times = Slowest()
    for second in range(9):
        times.note(0.3, float(second))
    assert times.fastest(9.0) == 0
    assert times.fastest(11.0) == 0, "nine say nothing"
    for second in range(12, 22):
        times.note(0.2 + second / 100, float(second))
    assert times.fastest(23.0) == pytest.approx(0.32)
    times.note(0.05, 24.0)
    assert times.fastest(24.0) == 0.05
    assert times.fastest(60.0) == 0
