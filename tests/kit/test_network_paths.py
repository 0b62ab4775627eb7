"""A path decides the same for the same seed, and counts its decisions."""

from __future__ import annotations

import random

from forge_consensus.testing.local.network_paths import CUT, Path, PathFaults


def test_a_seed_decides_the_fate_of_every_message() -> None:
    faults = PathFaults(delay_s_min=0.01, delay_s_max=0.02, drop=0.2, duplicate=0.2, reorder=0.2)
    one, other = (Path(random.Random("7 n1 n2"), faults) for _ in range(2))
    assert [one.fate(5) for _ in range(200)] == [other.fate(5) for _ in range(200)]
    counts = one.counts
    assert (counts.messages, counts.bytes) == (200, 1000)
    assert 20 <= counts.dropped <= 60
    assert counts.delayed == 200 - counts.dropped


def test_messages_in_order_are_delayed_within_their_bounds() -> None:
    path = Path(random.Random(1), PathFaults(delay_s_min=0.01, delay_s_max=0.02, reorder=0.5, duplicate=0.5))
    copies = [copy for _ in range(300) for copy in path.fate(1)]
    assert all(0.01 <= copy.seconds <= 0.02 for copy in copies if copy.in_order)
    assert len(copies) == 300 + path.counts.duplicated
    assert sum(not copy.in_order for copy in copies) == path.counts.reordered + path.counts.duplicated


def test_a_cut_lets_no_message_pass() -> None:
    path = Path(random.Random(1), CUT)
    assert [path.fate(1) for _ in range(20)] == [[]] * 20
    assert path.counts.dropped == 20
