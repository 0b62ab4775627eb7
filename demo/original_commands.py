"""Example: "Leader Election", "Applying Commands" and "Reading Data" of the Go original's README."""

import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import msgpack

from forge_consensus import Command, ConsensusError, ConsensusService, Entry, NotLeaderError, RaftSettings
from forge_consensus.testing.local.ports import free_ports

SECONDS = 60.0
PATIENT = RaftSettings(election_timeout_min=2.0, election_timeout_max=4.0)
"""As under "Performance Tuning" of the README; the defaults here are shorter."""


class Users:
    """The state machine that the README takes for granted: it knows the command ``create_user``."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {}

    def apply(self, entry: Entry) -> str:
        """Create a user and return the key of its data."""
        if entry.command.type != "create_user":
            raise ValueError(f"{entry.command.type} is no command of this machine")
        user = entry.command.payload
        key = f"user:{user['id']}"
        self.users[key] = user
        return key

    def query(self, query: str) -> Any:
        """Return the data of a user."""
        return self.users.get(query)

    def snapshot(self) -> list[bytes]:
        """Return the whole state as chunks of bytes."""
        return [msgpack.packb(self.users)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state with that of a snapshot."""
        self.users = msgpack.unpackb(b"".join(chunks))


def show_leader(services: Mapping[str, ConsensusService]) -> None:
    """Ask every node who leads."""
    print("== Leader Election ==")
    for name, service in services.items():
        if service.is_leader():
            print(f"{name}: I am the leader")
        print(
            f"{name}: current leader: {service.get_leader()}, my role: {service.get_role()}, term {service.get_term()}"
        )


def show_commands(services: Mapping[str, ConsensusService], leader: str) -> None:
    """Apply a command on the leader, on a node that passes it on, and on one that does not."""
    print("== Applying Commands ==")
    command = Command("create_user", {"id": "123", "name": "Alice", "email": "alice@example.com"})
    print(f"{leader} has applied:", services[leader].apply(command, timeout=5))
    # There only the leader applies commands. Here any node passes them on to it, unless it is made with forward=False.
    follower = "node-2" if leader == "node-1" else "node-1"
    print(f"{follower} has had it applied:", services[follower].apply(command, timeout=5))
    try:
        services["node-3"].apply(command, timeout=5)
    except NotLeaderError as error:
        print(f"node-3 is not leader. Redirect to: {error.leader}")
    except ConsensusError as error:
        print(f"node-3 failed to apply command: {error}")


def show_reads(services: Mapping[str, ConsensusService], leader: str) -> None:
    """Read from any node, and with strong consistency."""
    print("== Reading Data ==")
    # There a read is answered by the node that is asked, however old its data are. Here that must be asked for.
    for name, service in services.items():
        detail = service.read_detail("user:123", "stale")
        print(f"{name}, eventual:", detail.value["name"] if detail.value else None, f"as of entry {detail.applied}")
    # There one asks the node whether it leads, and then reads. That is no strong consistency, because a leader that was
    # cut off does not know yet that it leads no more. Here a read is linearizable unless less is asked for.
    print(f"{leader}, strong:", services[leader].read("user:123")["email"])


def all_know_one(services: Mapping[str, ConsensusService]) -> str:
    """Wait until all nodes name the same leader, and return it."""
    end = time.monotonic() + SECONDS
    while len(named := {service.wait_for_leader(SECONDS) for service in services.values()}) > 1:
        if time.monotonic() > end:
            raise SystemExit(f"the nodes do not agree who leads: {named}")
        time.sleep(0.01)
    return named.pop()


def main() -> None:
    """Run three nodes, of which the third passes nothing on to the leader, as all nodes of the Go original."""
    peers = {f"node-{number}": f"127.0.0.1:{port}" for number, port in enumerate(free_ports(3), 1)}
    services = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for name in peers:
            service = ConsensusService(
                name, "my-cluster", None, peers, f"{folder}/{name}", Users, raft=PATIENT, forward=name != "node-3"
            )
            services[name] = running.enter_context(service)
        if all_know_one(services) == "node-3":
            services["node-3"].transfer_leadership("node-1", timeout=SECONDS)
        leader = all_know_one(services)
        show_leader(services)
        show_commands(services, leader)
        show_reads(services, leader)


if __name__ == "__main__":
    main()
