"""Example: listen to leader, quorum and snapshot events of a node inside this process."""

import tempfile

from forge_consensus import Command, ConsensusService
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events import BecameLeader, LeaderElected, QuorumAchieved, SnapshotCompleted


def main() -> None:
    """Start a node, listen in four ways, write until it takes a snapshot."""
    limits = StorageSettings(snapshot_entries=200, snapshot_seconds_min=0.1)
    with tempfile.TemporaryDirectory() as folder:
        service = ConsensusService(node_id="n1", bind="127.0.0.1:0", storage_path=folder, storage=limits)

        # A handler: on a thread of its own, typed by the class of the event.
        service.bus.subscribe(LeaderElected, lambda event: print(event.leader, "leads term", event.term))

        @service.bus.on(QuorumAchieved)
        def quorum(event: QuorumAchieved) -> None:
            print(f"quorum: {event.healthy} of {event.total} voters, {event.required} needed")

        # By pattern: every kind that begins so, on the node's own thread (inline), which a handler holds up.
        service.bus.subscribe("consensus.snapshot.*", lambda event: print(event.kind, event.sequence), inline=True)

        # A stream: to iterate over, or to wait on.
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
