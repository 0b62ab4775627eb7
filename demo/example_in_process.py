"""Example: subscribe to leader, quorum and snapshot events of a node in this process."""

import tempfile

from forge_consensus import Command, ConsensusService
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events import BecameLeader, LeaderElected, QuorumAchieved, SnapshotCompleted


def main() -> None:
    """Start a node, subscribe in four ways, write until the node takes a snapshot."""
    limits = StorageSettings(snapshot_entries=200, snapshot_seconds_min=0.1)
    with tempfile.TemporaryDirectory() as folder:
        service = ConsensusService(node_id="n1", bind="127.0.0.1:0", storage_path=folder, storage=limits)

        # A handler runs on a thread of its own; the event class gives the type of its argument.
        service.bus.subscribe(LeaderElected, lambda event: print(event.leader, "leads term", event.term))

        @service.bus.on(QuorumAchieved)
        def quorum(event: QuorumAchieved) -> None:
            print(f"quorum: {event.healthy} of {event.total} voters, {event.required} needed")

        # A pattern selects kinds by name. Inline means on the node's own thread, so the handler delays the node.
        service.bus.subscribe("consensus.snapshot.*", lambda event: print(event.kind, event.sequence), inline=True)

        # A stream is iterated over, or waited on.
        with service.bus.stream(BecameLeader, SnapshotCompleted) as events, service:
            service.wait_for_leader(timeout=5)
            for number in range(250):
                service.submit(Command("set", {"key": f"key-{number}", "value": number}))
            for event in events:
                print("stream:", type(event).__name__)
                if isinstance(event, SnapshotCompleted):
                    print(f"snapshot of entry {event.index}: {event.size} bytes in {event.duration:.3f} s")
                    break


if __name__ == "__main__":
    main()
