"""The folding of the audit: what is told at once, what later, and that the counts add up whatever strangers do."""

from __future__ import annotations

import random
from math import inf

from forge_consensus.actors.runtime.audit import Act, Outcome, Who, record_of
from forge_consensus.actors.runtime.audit_folding import (
    A_MINUTE,
    KINDS_MAX,
    KINDS_OF_ONE_MAX,
    OTHERS,
    PAUSE_SECONDS,
    Folding,
)
from forge_consensus.events.types import AuditRecorded


def denial(
    who: str = "", origin: str = "10.0.0.1", action: str = "handshake", outcome: Outcome = "denied", subject: str = ""
) -> AuditRecorded:
    identity = "client" if who else "unknown"
    return record_of(Act(Who(who, identity, origin=origin), action, subject), outcome, "CODE")


def run(folding: Folding, seconds: float, now: float) -> list[AuditRecorded]:
    """What is told from `now` on, looking whenever it says that something is due."""
    told, end = list[AuditRecorded](), now + seconds
    while folding.wake_at <= end:
        now = max(now, folding.wake_at)
        found = folding.due(now)
        assert found or folding.wake_at > now, "it wakes for nothing"
        told += found
    return told


def test_the_first_of_a_kind_is_told_at_once_and_the_others_together() -> None:
    folding = Folding()
    for n in range(5):
        folding.add(denial(subject=f"{n}"), 100.0)
    (first,) = folding.due(100.0)
    assert (first.count, first.subject) == (5, "4")
    for _ in range(7):
        folding.add(denial(), 101.0)
    assert folding.due(101.0) == []
    assert folding.wake_at == 100.0 + PAUSE_SECONDS
    (later,) = folding.due(folding.wake_at)
    assert later.count == 7
    assert folding.wake_at == inf


def test_kinds_are_told_apart() -> None:
    folding = Folding()
    for each in (denial(), denial("ann"), denial(origin="10.0.0.2"), denial(action="Submit"), denial(outcome="failed")):
        folding.add(each, 1.0)
    assert len(folding.due(1.0)) == 5


def test_the_hosts_of_one_network_and_the_keys_of_strangers_are_one_kind() -> None:
    folding = Folding()
    for n in range(50):
        record = record_of(Act(Who(f"key{n}", "unknown", origin=f"2001:db8::{n + 1}"), "handshake", ""), "denied", "C")
        folding.add(record, 1.0)
    (told,) = folding.due(1.0)
    assert (told.count, told.who) == (50, "key49")


def test_no_flood_makes_many_events_or_holds_back_those_who_are_known() -> None:
    """Ten minutes of strangers with other addresses each time, and one who is known and may not."""
    folding, dice, told, now = Folding(), random.Random(1), list[AuditRecorded](), 1000.0
    added = 0
    for _ in range(60_000):
        now += 0.01
        folding.add(denial(origin=f"10.{dice.randrange(250)}.{dice.randrange(250)}.1"), now)
        added += 1
        assert len(folding.of_strangers.kinds) <= KINDS_MAX + 1
        if folding.wake_at <= now:
            told += folding.due(now)
    minutes = 10
    assert len(told) <= A_MINUTE * (minutes + 1)
    folding.add(denial("ann"), now)
    assert [each.who for each in folding.due(now)] == ["ann"]
    told += folding.rest()
    assert sum(each.count for each in told) == added
    assert any(each.action == OTHERS for each in told)


def test_every_kind_is_told_at_last() -> None:
    folding = Folding()
    for n in range(60):
        folding.add(denial(origin=f"10.0.0.{n}"), 5.0)
    told = run(folding, 1200.0, 5.0)
    assert {each.origin for each in told} == {f"10.0.0.{n}" for n in range(60)}
    assert folding.rest() == []


def test_idle_kinds_make_room() -> None:
    folding = Folding()
    for n in range(KINDS_MAX):
        folding.add(denial("ann", origin=f"10.0.{n}.1"), 5.0)
    run(folding, 3600.0, 5.0)
    folding.add(denial("bob"), 4000.0)
    assert [each.who for each in folding.due(4000.0)] == ["bob"]


def test_one_who_is_known_pushes_out_nobody_elses_name() -> None:
    folding = Folding()
    for n in range(3 * KINDS_MAX):
        folding.add(denial("reader", origin=f"10.0.{n}.1", action=f"route{n % 7}"), 1.0)
    folding.add(denial("ann"), 1.0)
    told = [*folding.due(1.0), *folding.rest()]
    assert {record.who for record in told} == {"reader", "ann"}
    assert len(told) == KINDS_OF_ONE_MAX + 2
    assert sum(record.count for record in told) == 3 * KINDS_MAX + 1
