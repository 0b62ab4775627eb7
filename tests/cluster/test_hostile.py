"""A sample of the hostile campaign: nodes that are attacked go on, serve others, and stay small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.hostile.campaign import run

SEED = int.from_bytes(os.urandom(4))
FRAMES = 10_000
CONNECTIONS = 150
GAP_SECONDS_MAX = 5.0
GROWN_MIB_MAX = 160.0
"""Most of it is that of messages without end, until the node shuts their connections."""
REASONS_MAX = 40
"""Refusals are counted by reasons that are in the program, not by what strangers send."""


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_hostile_peers_neither_end_a_node_nor_mislead_a_client(tmp_path: Path, secure: bool) -> None:
    """Twenty thousand frames and 300 half-open connections in both; the real campaign is `make hostile`."""
    print(f"seed {SEED}")
    found = run(tmp_path, SEED, FRAMES, CONNECTIONS, secure=secure, after_seconds=0.5)
    assert found["whole"], found
    assert (found["crashes"], found["stuck"], found["honest_wrong_reads"], found["honest_errors"]) == (0, "", 0, {})
    assert found["frames"] == FRAMES
    assert found["connections"] == CONNECTIONS
    assert found["honest_calls"] > 20, "others are served"
    assert found["honest_longest_gap_seconds"] < GAP_SECONDS_MAX
    for before, most, _ in found["memory_mib_before_max_after"].values():
        assert most - before < GROWN_MIB_MAX, found
    assert sum(found["refused"].values()) > FRAMES // 2
    assert len(found["refused"]) < REASONS_MAX
    assert found["log_bytes_max"] < 1 << 20, "strangers do not fill the disk with log lines"
    if secure:
        assert found["refused"]["session of another"] > 0
