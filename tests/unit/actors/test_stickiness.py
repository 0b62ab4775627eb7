"""Stickiness: how long a node refuses votes because it follows a leader."""

from __future__ import annotations

from forge_consensus.actors.runtime.stickiness import Stickiness


def test_a_leader_is_sticky_and_so_is_a_new_node_with_leases() -> None:
    assert Stickiness(leads=True).holds(9.0, timeout=1.0, lease_reads=False)
    started = Stickiness(no_vote_before=10.0)
    assert started.holds(9.9, timeout=1.0, lease_reads=True)
    assert not started.holds(10.0, timeout=1.0, lease_reads=True)


def test_a_leader_protects_a_follower_from_votes_for_one_election_timeout() -> None:
    following = Stickiness(follows=True, heard_at=5.0)
    assert following.holds(5.9, timeout=1.0, lease_reads=False)
    assert not following.holds(6.0, timeout=1.0, lease_reads=False)
    assert not Stickiness().holds(0.0, timeout=1.0, lease_reads=True), "nobody was heard"


def test_a_broken_connection_ends_stickiness_but_with_leases_only_time_ends_it() -> None:
    cut_off = Stickiness(follows=False, heard_at=5.0)
    assert not cut_off.holds(5.5, timeout=1.0, lease_reads=False)
    assert cut_off.holds(5.5, timeout=1.0, lease_reads=True)
    assert not cut_off.holds(6.0, timeout=1.0, lease_reads=True)
