"""Example: "Quick Start" of the Go original's README, the extension made by its options."""

import tempfile
from contextlib import ExitStack

from forge_consensus import Command, ConsensusError, ConsensusExtension, __version__
from forge_consensus.testing.local.ports import free_ports


def main() -> None:
    """Start three nodes, look who leads, apply a command and read what it did."""
    print("== Installation ==")
    # `go get ...` there; here `pip install '.[admin,cli,config]'`, of which an application needs what it uses.
    print(f"forge-consensus {__version__} is installed")

    print("== Basic Usage ==")
    # There these are three programs, at ports 7000 to 7002. Here they share one, and take ports that are free.
    # There peers are a list of ids, addresses and ports, as in files here too; options take a map.
    peers = {f"node-{number}": f"localhost:{port}" for number, port in enumerate(free_ports(3), 1)}
    extensions = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for name, address in peers.items():
            extension = ConsensusExtension(
                node_id=name,
                cluster_id="my-cluster",
                # Not 0.0.0.0: nodes do not encrypt and ask nobody who he is, so they should listen among friends only.
                bind_address=address.replace("localhost", "127.0.0.1"),
                peers=peers,
                storage_path=f"{folder}/{name}",
                wait_for_leader=0,  # because the first of them would wait for the second
            )
            # With a web framework this is `FastAPI(lifespan=extension.lifespan)`, see original_web.py.
            extensions[name] = running.enter_context(extension)

        service = extensions["node-1"].service  # there the application's container is asked for it
        print("the leader is", service.wait_for_leader(timeout=20))
        for name, extension in extensions.items():
            if extension.service.is_leader():
                print(f"{name}: this node is the leader!")

        # There only the leader can apply commands. Here every node can, because it passes them on to the leader.
        try:
            service.apply(Command("set", {"key": "user:123", "value": "John Doe"}), timeout=20)
        except ConsensusError as error:
            print(f"failed to apply command: {error}")
        print("user:123 is", service.read("user:123", timeout=20))
        # There the program blocks for ever; a program that does nothing else waits for a signal here.


if __name__ == "__main__":
    main()
