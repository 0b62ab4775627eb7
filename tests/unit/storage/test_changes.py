"""Changes of members: their steps, compared with a plain model and with the definition of majorities that meet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.errors import BusyError, ConnectionFailedError, InvalidConfigError, LogInconsistentError
from forge_consensus.storage.ledger.changes import (
    Action,
    Change,
    changed,
    check_follows,
    differences,
    left,
    may_follow,
    steps,
    why_stuck,
)
from forge_consensus.storage.ledger.configuration import MEMBERS_MAX, Configuration
from forge_consensus.storage.ledger.quorum import Quorum

NODES = ["n1", "n2", "n3", "n4", "n5"]
THREE = Configuration.of({"n1": "h1:1", "n2": "h2:1", "n3": "h3:1"}, lease_reads=True, machine="kv")
ADD, LEARNER, PROMOTE, DEMOTE, REMOVE, UPDATE, PRIORITY, NO_LEADER, MAY_LEAD = Action
ADDRESSES = [f"h{number}:{port}" for number in range(1, 6) for port in (1, 2)]
MET = {"n4": "f4", "n5": "f5"}
CHANGES = st.builds(Change, st.sampled_from(Action), st.sampled_from(NODES), st.sampled_from(ADDRESSES)) | st.builds(
    Change, st.just(PRIORITY), st.sampled_from(NODES), st.sampled_from(["-1", "0", "7"])
)
CALLS = st.lists(st.lists(CHANGES, min_size=1, max_size=3), max_size=8)


@dataclass
class Model:
    """What the members should be, as plain sets."""

    addresses: dict[str, str] = field(default_factory=lambda: dict(THREE.members))
    voters: set[str] = field(default_factory=lambda: set(THREE.voters))
    joining: set[str] = field(default_factory=set)
    priorities: dict[str, int] = field(default_factory=dict)
    no_leader: set[str] = field(default_factory=set)

    def change(self, change: Change) -> None:
        action, node, address = change
        if action in (ADD, LEARNER, UPDATE):
            self.addresses[node] = address
        if action is REMOVE:
            del self.addresses[node]
        self.wish(action, node, address)
        if action is ADD:
            self.joining.add(node)
        if action is PROMOTE:
            self.voters.add(node)
        if action in (PROMOTE, REMOVE):
            self.joining.discard(node)
        if action in (DEMOTE, REMOVE):
            self.voters.discard(node)

    def wish(self, action: Action, node: str, priority: str) -> None:
        if action is PRIORITY:
            self.priorities[node] = int(priority)
        if action is NO_LEADER:
            self.no_leader.add(node)
        if action in (MAY_LEAD, REMOVE):
            self.no_leader.discard(node)
        if action is REMOVE:
            self.priorities.pop(node, None)


def majorities(configuration: Configuration) -> list[set[str]]:
    """Every set of nodes that decides, by definition."""
    sets = [configuration.incoming_voters, *([set(configuration.outgoing)] if configuration.outgoing else [])]
    nodes = sorted(configuration.nodes)
    every = [set(some) for size in range(len(nodes) + 1) for some in combinations(nodes, size)]
    return [some for some in every if all(2 * len(voters & some) > len(voters) for voters in sets)]


@given(CALLS)
def test_every_change_leads_to_the_members_that_it_names_by_steps_whose_majorities_meet(
    calls: list[list[Change]],
) -> None:
    present, model = THREE, Model()
    for index, changes in enumerate(calls, 2):
        try:
            path = steps(present, changes, met := {node: f"folder {index} of {node}" for node in NODES})
        except (InvalidConfigError, BusyError):
            continue
        for change in sorted(changes, key=lambda change: change.action is not REMOVE):
            model.change(change)
        for before, after in zip([present, *path], path, strict=False):
            check_follows(before, after)
            assert all(one & other for one in majorities(before) for other in majorities(after))
            assert Configuration.decode(after.encode()) == after
            assert len(set(after.addresses.values())) == len(after.members)
        differs = len(present.voters ^ model.voters)
        assert [step.is_joint for step in path] == ([True, False] if differs > 1 else [False])
        before, present = present, path[-1]
        assert present.addresses == model.addresses
        assert present.voters == frozenset(model.voters)
        assert present.joining == tuple(sorted(model.joining))
        assert dict(present.priorities) == {node: wish for node, wish in model.priorities.items() if wish}
        assert set(present.no_leader) == model.no_leader
        assert all(configuration.willing for configuration in path)
        added = {change.node for change in changes if change.action in (ADD, LEARNER)}
        bound = {node: folder for node, folder in before.folders if node not in added}
        assert dict(present.folders) == {node: bound.get(node, met[node]) for node in present.nodes}
        kept = (present.lease_reads, present.lease_ms, present.drift_ppm, present.machine, present.level)
        assert kept == (True, 800, 100_000, "kv", 1)


@given(st.lists(st.frozensets(st.sampled_from(NODES)), min_size=4, max_size=4), st.booleans(), st.booleans())
def test_what_may_follow_has_majorities_that_meet(
    sets: list[frozenset[str]], joint_before: bool, joint_after: bool
) -> None:
    before = Quorum(sets[0], sets[1] if joint_before else None)
    after = Quorum(sets[2], sets[3] if joint_after else None)
    every = [set(some) for size in range(len(NODES) + 1) for some in combinations(NODES, size)]
    if may_follow(before, after):
        assert not any(before.has(some) and after.has(set(NODES) - some) for some in every)
        assert all(voters for voters, _ in after.sets)


def test_what_a_member_is_to_be_asked_for_may_change_together() -> None:
    changes = [Change(UPDATE, "n2", "h2:2"), Change(PRIORITY, "n2", "7"), Change(NO_LEADER, "n3")]
    (after,) = steps(THREE, changes)
    assert after.text.startswith("n1=h1:1,n2=h2:2 (priority 7),n3=h3:1 (no leader)")
    assert after.willing == {"n1", "n2"}
    assert differences(THREE, after) == [("updated", "n2"), ("updated", "n3")]
    assert steps(after, [Change(PRIORITY, "n2", "0"), Change(MAY_LEAD, "n3")])[0].willing == THREE.voters
    for both in ([PRIORITY, PRIORITY], [PRIORITY, REMOVE], [NO_LEADER, DEMOTE]):
        with pytest.raises(InvalidConfigError, match="is named twice"):
            steps(after, [Change(action, "n2", "1") for action in both])


def test_one_voter_more_or_less_is_a_single_step() -> None:
    learner = changed(THREE, [Change(ADD, "n4", "h4:1")], MET)
    assert learner.joining == ("n4",)
    assert learner.learners == {"n4"}
    assert learner.voters == THREE.voters
    assert learner.folders == (("n4", "f4"),)
    four = changed(learner, [Change(PROMOTE, "n4")])
    assert not four.is_joint
    assert four.incoming == four.joining == ()
    assert four.voters == set(NODES[:4])
    assert not changed(four, [Change(REMOVE, "n1")]).is_joint


def test_a_voter_is_replaced_by_way_of_a_joint_configuration() -> None:
    learner = changed(THREE, [Change(LEARNER, "n4", "h4:1")], MET)
    joint, after = steps(learner, [Change(PROMOTE, "n4"), Change(REMOVE, "n1")])
    assert (joint.outgoing, joint.incoming) == (("n1", "n2", "n3"), ("n2", "n3", "n4"))
    assert joint.addresses["n1"] == "h1:1", "the leaving voter is still asked"
    assert joint.part_of("n1") == "leaving"
    assert after.members == (("n2", "h2:1"), ("n3", "h3:1"), ("n4", "h4:1"))
    assert after.folders == (("n4", "f4"),)
    assert left(joint) == after


def test_a_voter_that_leaves_is_wished_for_as_before_until_it_has_left() -> None:
    """While it votes it could win, also one that must never lead."""
    learner = changed(replace(THREE, no_leader=("n1",), priorities=(("n1", -7),)), [Change(LEARNER, "n4", "h4:1")], MET)
    joint, after = steps(learner, [Change(PROMOTE, "n4"), Change(REMOVE, "n1")])
    assert not joint.may_lead("n1")
    assert joint.priority_of("n1") == -7
    assert (after.no_leader, after.priorities) == ((), ())
    assert Configuration.decode(joint.encode()) == joint


def test_a_voter_that_is_demoted_in_a_joint_change_stays_as_a_learner() -> None:
    learner = changed(THREE, [Change(LEARNER, "n4", "h4:1")], MET)
    joint, after = steps(learner, [Change(PROMOTE, "n4"), Change(DEMOTE, "n1")])
    assert joint.learners_next == ("n1",)
    assert joint.part_of("n1") == "leaving"
    assert after.learners == {"n1"}


def test_a_new_member_may_take_the_address_of_a_learner_that_goes() -> None:
    learner = changed(THREE, [Change(LEARNER, "n4", "h4:1")], MET)
    after = changed(learner, [Change(LEARNER, "n5", "h4:1"), Change(REMOVE, "n4")], MET)
    assert after.addresses == {**THREE.addresses, "n5": "h4:1"}


def test_a_node_that_is_removed_and_added_again_is_another_member() -> None:
    first = changed(THREE, [Change(LEARNER, "n4", "h4:1")], MET)
    gone = changed(first, [Change(REMOVE, "n4")])
    assert gone.folders == ()
    assert changed(gone, [Change(LEARNER, "n4", "h4:1")], {"n4": "other"}).folders == (("n4", "other"),)


def test_what_became_of_members_is_told_once_and_binding_one_to_its_folder_is_nothing() -> None:
    bound = changed(THREE, [Change(ADD, "n4", "h4:1")], {**MET, "n1": "f1", "n2": "f2", "n3": "f3"})
    assert dict(bound.folders).keys() == {"n1", "n2", "n3", "n4"}
    assert differences(THREE, bound) == [("added", "n4")]
    gone = changed(bound, [Change(REMOVE, "n1")])
    again = changed(gone, [Change(ADD, "n1", "h1:1")], {"n1": "other"})
    assert differences(bound, again) == [("removed", "n1"), ("added", "n1")]
    moved = changed(bound, [Change(UPDATE, "n2", "h2:2")])
    assert differences(bound, moved) == [("updated", "n2")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], "no change is named"),
        ([Change(ADD, "n2", "h9:1")], "'n2' is a member already, with the address h2:1"),
        ([Change(ADD, "n4", "h2:1")], "member 'n2' has the address h2:1: give 'n4' one of its own"),
        ([Change(ADD, "n4")], "no address is given for node 'n4'"),
        ([Change(REMOVE, "n9")], "there is no member 'n9' to remove: the members are n1, n2, n3"),
        ([Change(PROMOTE, "n1")], "'n1' votes already"),
        ([Change(UPDATE, "n1", "h1:1")], "has the address h1:1 already"),
        ([Change(UPDATE, "n1", "h2:1")], "member 'n2' has the address"),
        ([Change(REMOVE, "n1"), Change(ADD, "n1", "h1:1")], "'n1' is named twice"),
        (
            [Change(REMOVE, "n1"), Change(REMOVE, "n2"), Change(ADD, "n4", "h2:1")],
            "'n2' votes with the address h2:1 until",
        ),
        ([Change(REMOVE, node) for node in NODES[:3]], "no voter would be left"),
        ([Change(DEMOTE, node) for node in NODES[:3]], "no voter would be left"),
    ],
)
def test_an_impossible_change_is_refused_with_the_reason(changes: list[Change], words: str) -> None:
    with pytest.raises(InvalidConfigError, match=words):
        changed(THREE, changes, MET)


def test_a_node_that_was_not_met_is_not_added() -> None:
    """Its folder belongs to the entry that adds it, and a wrong address is noticed before it does harm."""
    with pytest.raises(ConnectionFailedError, match="node 'n4' was not met at h4:1: start it there with --join"):
        changed(THREE, [Change(ADD, "n4", "h4:1")], {"n5": "f5"})


def test_only_so_many_members_are_added() -> None:
    full = Configuration.of({f"m{number}": f"m{number}:1" for number in range(MEMBERS_MAX)})
    one_more = Change(LEARNER, "n4", "h4:1")
    with pytest.raises(InvalidConfigError, match=f"at most {MEMBERS_MAX} members: remove one before 'n4' is added"):
        changed(full, [one_more], MET)
    assert len(changed(full, [Change(REMOVE, "m0"), one_more], MET).nodes - {"m0"}) == MEMBERS_MAX


def test_no_change_begins_while_the_cluster_is_in_a_joint_configuration() -> None:
    joint = changed(THREE, [Change(REMOVE, "n1"), Change(REMOVE, "n2")])
    assert joint.is_joint
    with pytest.raises(BusyError, match="still in a joint configuration"):
        changed(joint, [Change(REMOVE, "n3")])
    with pytest.raises(InvalidConfigError, match="'n1' is a learner already"):
        changed(changed(THREE, [Change(DEMOTE, "n1")]), [Change(DEMOTE, "n1")])


def test_a_log_never_holds_a_pair_whose_majorities_need_not_meet() -> None:
    two_more = Configuration.of({node: f"h{node}:1" for node in NODES})
    with pytest.raises(LogInconsistentError, match="must not follow"):
        check_follows(THREE, two_more)
    check_follows(Configuration(()), two_more)


def test_a_change_that_would_lose_the_quorum_of_those_alive_names_the_arithmetic() -> None:
    learner = changed(THREE, [Change(LEARNER, "n4", "h4:1")], MET)
    path = steps(learner, [Change(PROMOTE, "n4")])
    assert why_stuck(path, {"n1", "n2", "n4"}) == ""
    assert why_stuck(path, {"n1", "n2"}) == (
        "with the voters n1, n2, n3, n4 a quorum is 3 of 4, and only 2 would answer: n3, n4 would not"
    )
    assert "quorum is 2 of 2, and only 1 would answer: n3 would not" in why_stuck(
        steps(THREE, [Change(REMOVE, "n1")]), {"n1", "n2"}
    )


def test_where_a_member_answers_http_goes_with_it_and_no_other_change_touches_it() -> None:
    urls = tuple((node, f"http://{node}") for node in ("n1", "n2", "n3"))
    told = replace(THREE, urls=urls)
    assert differences(THREE, told) == [("updated", node) for node in ("n1", "n2", "n3")]
    joint, after = steps(told, [Change(REMOVE, "n1"), Change(REMOVE, "n2")])
    assert (joint.urls, after.urls) == (urls, urls[2:]), "the leaving ones may lead until they are gone"
    alone = changed(told, [Change(REMOVE, "n1")])
    assert alone.urls == urls[1:]
    again = changed(alone, [Change(ADD, "n1", "h1:1")], {"n1": "f1"})
    assert again.urls == urls[1:], "it tells anew"
    for change in (Change(UPDATE, "n1", "h9:1"), Change(PRIORITY, "n2", "7"), Change(NO_LEADER, "n3")):
        assert changed(told, [change]).urls == urls
    assert may_follow(THREE.quorum, told.quorum)
