"""Members leave a real cluster in order: a leader that is stopped hands over, a node that was removed learns it."""

from __future__ import annotations

import time

from forge_consensus.client.sync import Client
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.test_members import SECONDS, writing


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
    assert sorted(gaps)[1] < 0.5, f"an election takes an election timeout and more: {gaps}"


def test_removed_nodes_exit_when_asked_to_and_a_later_member_of_their_id_does_not() -> None:
    with LocalCluster(5, extra_args=("--exit-when-removed",)) as cluster, writing(cluster) as writer:
        client, leader = writer.client, cluster.wait_for_leader()
        live, down = cluster.followers()[:2]
        cluster.kill(down)
        for name in (live, down, leader):
            client.remove_node(name, timeout=SECONDS)
        for name in (live, leader):
            assert cluster.process(name).exit_code() == 0
            assert "node.removed" in cluster.log_text(name)
        cluster.nodes[down].launch()
        assert cluster.process(down).exit_code() == 0, "whoever hears it tells it"
        client.add_node(live, cluster.join(live, None), timeout=SECONDS)
        time.sleep(2.0)
        assert cluster.nodes[live].running, "it has caught up past the removal of its id"
        with Client(cluster.addresses[live]) as reader:
            assert reader.get("count", consistency="stale") <= writer.count + 1
