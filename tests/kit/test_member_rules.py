"""The rules of members in the simulator, against configurations that a correct node never writes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.storage.ledger.changes import Action, Change, steps
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import DRAWN
from forge_consensus.testing.rules.disk_model import Disk
from forge_consensus.testing.rules.member_rules import check_may_lead, check_takes_over, flaw, is_of_member
from forge_consensus.testing.rules.violations import ViolationError

FOUNDED = Configuration.of({name: f"{name}:1" for name in ("n1", "n2", "n3")})
WITH_LEARNERS = replace(
    FOUNDED,
    members=(*FOUNDED.members, ("n4", "n4:1"), ("n5", "n5:1")),
    incoming=("n1", "n2", "n3"),
    folders=(("n4", "four"), ("n5", "five")),
)
JOINT = replace(
    WITH_LEARNERS,
    incoming=("n1", "n4", "n5"),
    outgoing=("n1", "n2", "n3"),
    learners_next=("n2",),
    members=WITH_LEARNERS.members,
)
LEFT = replace(
    JOINT,
    members=tuple(row for row in JOINT.members if row[0] != "n3"),
    outgoing=(),
    learners_next=(),
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FOUNDED, WITH_LEARNERS),
        (WITH_LEARNERS, replace(WITH_LEARNERS, incoming=("n1", "n2", "n3", "n4"))),
        (WITH_LEARNERS, replace(WITH_LEARNERS, incoming=("n1", "n2"))),
        (WITH_LEARNERS, JOINT),
        (JOINT, LEFT),
        (FOUNDED, replace(FOUNDED, folders=(("n1", "one"),))),
        (FOUNDED, replace(FOUNDED, members=(("n1", "elsewhere:1"), *FOUNDED.members[1:]))),
    ],
)
def test_steps_of_a_correct_leader_are_sound(before: Configuration, after: Configuration) -> None:
    assert flaw(before.encode(), after.encode()) == ""


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (WITH_LEARNERS, replace(WITH_LEARNERS, incoming=("n1", "n4", "n5")), "more than one voter changes"),
        (
            WITH_LEARNERS,
            replace(JOINT, outgoing=("n1", "n2"), learners_next=()),
            "outgoing voters are not those before",
        ),
        (JOINT, replace(JOINT, incoming=("n1", "n4")), "follows a joint one"),
        (JOINT, replace(LEFT, incoming=("n1", "n4")), "other voters than it announced"),
        (JOINT, replace(LEFT, members=JOINT.members), "members come or go"),
        (FOUNDED, Configuration.of({**FOUNDED.addresses, "n4": "n4:1"}), "n4 votes and was no learner before"),
        (FOUNDED, replace(WITH_LEARNERS, folders=(("n4", "four"),)), "n5 is added, and its folder is not named"),
        (WITH_LEARNERS, replace(WITH_LEARNERS, folders=(("n4", "four"), ("n5", "5"))), "takes the place of n5's"),
        (FOUNDED, replace(FOUNDED, lease_reads=True), "agree on changes"),
        (replace(FOUNDED, level=9), FOUNDED, "level falls"),
    ],
)
def test_a_step_that_no_correct_leader_makes_is_found(before: Configuration, after: Configuration, why: str) -> None:
    assert why in flaw(before.encode(), after.encode())


def test_every_change_that_the_product_plans_is_sound() -> None:
    met = {name: f"folder of {name}" for name in ("n1", "n2", "n3", "n6")}
    wishes = [
        [Change(Action.ADD, "n6", "n6:1")],
        [Change(Action.ADD_LEARNER, "n6", "n6:1"), Change(Action.REMOVE, "n1")],
        [Change(Action.PROMOTE, "n4"), Change(Action.PROMOTE, "n5"), Change(Action.REMOVE, "n1")],
        [Change(Action.DEMOTE, "n1"), Change(Action.DEMOTE, "n2")],
        [Change(Action.UPDATE, "n1", "elsewhere:1"), Change(Action.PROMOTE, "n4")],
    ]
    for wish in wishes:
        path = [WITH_LEARNERS, *steps(WITH_LEARNERS, wish, met)]
        for before, after in itertools.pairwise(path):
            assert flaw(before.encode(), after.encode()) == ""


def test_only_who_votes_in_the_newest_or_the_committed_configuration_may_lead() -> None:
    disk = Disk(base_configuration=WITH_LEARNERS.encode())
    check_may_lead("n1", disk)
    with pytest.raises(ViolationError, match="n4 leads, and does not vote"):
        check_may_lead("n4", disk)
    disk.configurations = [(5, LEFT.encode())]
    check_may_lead("n3", disk)
    check_may_lead("n4", disk)
    disk.commit = 5
    with pytest.raises(ViolationError, match="n3 leads"):
        check_may_lead("n3", disk)


def test_a_disk_counts_only_for_the_member_whose_folder_it_is() -> None:
    assert is_of_member(Disk(incarnation="four"), "n4", WITH_LEARNERS)
    assert not is_of_member(Disk(incarnation="another"), "n4", WITH_LEARNERS)
    assert is_of_member(Disk(incarnation="another"), "n1", WITH_LEARNERS)


def test_who_takes_over_has_the_whole_log_unless_its_folder_was_lost_since() -> None:
    identity = SimpleNamespace(boots={"n2": (f"folder{DRAWN}draw", 3)})
    log = SimpleNamespace(last=2, last_term=1)
    ledger = SimpleNamespace(identity=identity, log=log, term=1, configuration=FOUNDED)
    leader = cast("Any", SimpleNamespace(name="n1", engine=SimpleNamespace(ledger=ledger)))
    whole = Disk(term=1, last=2, terms={1: 1, 2: 1}, incarnation="folder")
    check_takes_over(leader, "n2", whole)
    short = Disk(term=1, last=1, terms={1: 1}, incarnation="folder")
    with pytest.raises(ViolationError, match="n1 tells n2 to take over, whose disk lacks entry 2"):
        check_takes_over(leader, "n2", short)
    check_takes_over(leader, "n2", Disk(incarnation="another"))
    with pytest.raises(ViolationError, match="lacks entry 2"):
        check_takes_over(leader, "n2", None)
