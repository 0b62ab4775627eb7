"""Members leave a real cluster in order: a leader that is stopped hands over, a node that was removed learns it."""

from __future__ import annotations

import time

from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.test_members import writing


def test_a_leader_that_gets_sigterm_hands_over_first_and_nothing_is_refused() -> None:
    gaps = []
    with LocalCluster(3) as cluster, writing(cluster) as writer:
        for _ in range(3):
            leader = cluster.wait_for_leader()
            time.sleep(0.5)
            writer.longest_seconds = 0.0
            cluster.shut_down(leader)
            count = writer.count
            while writer.count < count + 3 and writer.thread.is_alive():
                time.sleep(0.01)
            gaps.append(writer.longest_seconds)
            assert "leader.transfer" in cluster.log_text(leader)
            cluster.restart(leader)
            cluster.wait_serving(leader)
            time.sleep(1.0)
    assert min(gaps) < 0.5, "an election takes an election timeout and more"
