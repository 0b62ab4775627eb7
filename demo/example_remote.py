"""Example: follow a node's events from another process, over ZeroMQ, including those from before."""

import subprocess
import sys
import tempfile

from forge_consensus import Client, ConsensusService
from forge_consensus.events import LogCommitted
from forge_consensus.feed.event_feed import EventFeed, Gap


def watch(address: str) -> None:
    """Print the events of the node, until the tenth entry is committed."""
    with EventFeed(address, kinds=["node.*", "leader.*", "log.committed"], since=0, timeout=10) as feed:
        for event in feed:
            if isinstance(event, Gap):
                print(f"{event.node_id}: numbers {event.first} to {event.last} are missing: {event.reason}")
            else:
                print(f"{event.node_id} {event.sequence:3} {event.kind} in term {event.term}", flush=True)
            if isinstance(event, LogCommitted) and event.last_index >= 10:
                return
    raise SystemExit("the tenth entry was not committed in time")


def main() -> None:
    """Run a node here, and the watcher as a process of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ConsensusService(node_id="n1", bind="127.0.0.1:0", storage_path=folder) as service,
        Client(service.address) as client,
    ):
        service.wait_for_leader(timeout=5)
        watcher = subprocess.Popen([sys.executable, __file__, service.address])
        try:
            for number in range(10):
                client.put("number", number)
            raise SystemExit(watcher.wait(20))
        finally:
            watcher.kill()
            watcher.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        watch(sys.argv[1])
    else:
        main()
