"""A further node for the examples: a program of its own that joins a running cluster."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

END_SECONDS = 10.0


@contextmanager
def joining_node(
    node_id: str, address: str, cluster: str, members: Iterable[str], folder: str, machine: str = ""
) -> Iterator[None]:
    """Run a node until the end of the block, which begins when it serves and waits to be added to the cluster.

    A node that joins is a program (``forge-consensus node --join``), because a `ConsensusService` founds its cluster or
    goes on in it.

    Args:
        node_id: its id.
        address: where it listens, HOST:PORT.
        cluster: the id of the cluster.
        members: the addresses of members of it.
        folder: where it keeps its data; its log lines go to a file of that name and ``.log``.
        machine: its state machine as MODULE:CLASS; "" for the built-in one.

    """
    command = [sys.executable, "-m", "forge_consensus", "node", "--id", node_id, "--listen", address]
    command += ["--cluster", cluster, "--data", folder, "--join", ",".join(members)]
    command += ["--machine", machine] if machine else []
    log = Path(f"{folder}.log")
    with (
        log.open("w") as lines,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=lines, text=True) as node,
    ):
        try:
            assert node.stdout is not None, "it is a pipe"
            if not node.stdout.readline().startswith("serving "):
                raise SystemExit(f"{node_id} does not serve:\n{log.read_text()}")
            yield
        finally:
            node.terminate()
            try:
                node.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                node.kill()
