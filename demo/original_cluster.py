"""Example: "Cluster Management", "Leadership Transfer", "Snapshots" and "Health Checks" of the Go original's README.

It needs the extra ``cli`` for the node that joins.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from forge_consensus import Command, ConsensusError, ConsensusService, RaftSettings, StorageSettings
from forge_consensus.demo.joining import joining_node
from forge_consensus.testing.local.ports import free_ports

SECONDS = 60.0
PATIENT = RaftSettings(election_timeout_min=2.0, election_timeout_max=4.0)
"""As under "Performance Tuning" of the README; the defaults here are shorter."""


def wait_until(text: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"it did not happen in time: {text}")
        time.sleep(0.02)


def show_members(service: ConsensusService, address: str, folder: str) -> None:
    """Add a node, remove it again, and look at the cluster in between."""
    print("== Cluster Management ==")
    # There only the leader adds a node. Here any node has the leader add it. It has to run and to wait for that, else
    # it is refused, because a member that never answers only makes quorums larger.
    host, port = address.split(":")
    with joining_node("node-4", address, service.settings.cluster_id, service.settings.peers.values(), folder):
        plan = service.add_node("node-4", host, int(port))
        print(f"node-4 is added: {plan.before.voters} voters before, {plan.after.voters} after it has caught up")
    print("the members:", ", ".join(f"{member.id} ({member.part})" for member in service.members().members))
    plan = service.remove_node("node-4")
    print(f"node-4 is removed: {plan.after.voters} voters, of whom {plan.after.required} must agree")

    # What follows is the cluster as this node sees it, so a change that is made reaches it a moment later.
    wait_until("node-1 sees the change", lambda: service.get_cluster_info().total_nodes == 3)
    info = service.get_cluster_info()
    print("Cluster ID:", info.id)
    print("Leader:", info.leader)
    print("Total Nodes:", info.total_nodes)
    print("Active Nodes:", info.active_nodes)
    print("Has Quorum:", info.has_quorum)
    stats = service.get_stats()  # GetStats of the extension
    print(f"Stats: {stats.status}, term {stats.term}, commit index {stats.commit_index}, {stats.log_entries} entries")


def show_transfer(service: ConsensusService) -> None:
    """Hand the leadership over to a node of choice, then to any other."""
    print("== Leadership Transfer ==")
    if service.get_leader() == "node-2":
        service.step_down()
    # There the leader must be asked, and a step down leaves the cluster to an election. Here whoever is asked tells the
    # leader, which hands over to a node that has the whole log.
    print("after the transfer", service.transfer_leadership("node-2"), "leads")
    print("after the step down another node leads:", service.step_down() != "node-2")


def show_snapshots(service: ConsensusService) -> None:
    """Take a snapshot by hand, and see one that the node takes by itself."""
    print("== Snapshots ==")
    service.put("key", "value")
    taken = service.snapshot()
    print(f"{taken.node} has a snapshot of entry {taken.index}, {taken.size_bytes} bytes")
    # snapshot_interval and snapshot_threshold of the Go original's files are these two settings.
    print(f"by itself it takes one every {service.settings.storage.snapshot_interval} s, "
          f"or after {service.settings.storage.snapshot_entries} entries")  # fmt: skip
    for number in range(2 * service.settings.storage.snapshot_entries):
        service.submit(Command("set", {"key": "number", "value": number}))
    wait_until("a snapshot is taken by itself", lambda: service.snapshots()[0].index > taken.index)
    print("it has taken one by itself, of a later entry")


def show_health(services: Mapping[str, ConsensusService]) -> None:
    """Check a healthy node, and the same node when the others are gone."""
    print("== Health Checks ==")
    service = services["node-1"]
    wait_until("node-1 is healthy", lambda: service.get_health_status().healthy)
    service.health_check()  # raises nothing
    show_status(service)
    for name in ("node-2", "node-3"):
        services[name].stop()
    wait_until("node-1 misses the others", lambda: service.get_health_status().status == "unhealthy")
    try:
        service.health_check()
    except ConsensusError as error:
        print("Unhealthy:", error)
    show_status(service)


def show_status(service: ConsensusService) -> None:
    """Print the detailed health of a node."""
    status = service.get_health_status()
    print("Status:", status.status)
    print("Leader:", status.leader)
    print("Has Quorum:", status.has_quorum)
    print(f"Active Nodes: {status.active_nodes}/{status.total_nodes}")
    for check in status.details:
        print(f"  {check.name}: {check.healthy} - {check.message or check.error}")


def main() -> None:
    """Run three nodes, and go through the sections."""
    *ports, spare = free_ports(4)
    peers = {f"node-{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}
    often = StorageSettings(snapshot_interval=1800.0, snapshot_entries=50, snapshot_seconds_min=0.1)
    services = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for name in peers:
            service = ConsensusService(
                name, "my-cluster", None, peers, f"{folder}/{name}", raft=PATIENT, storage=often, timeout=SECONDS
            )
            services[name] = running.enter_context(service)
        services["node-1"].wait_for_leader(SECONDS)
        show_members(services["node-1"], f"127.0.0.1:{spare}", f"{folder}/node-4")
        show_transfer(services["node-1"])
        show_snapshots(services["node-1"])
        show_health(services)


if __name__ == "__main__":
    main()
