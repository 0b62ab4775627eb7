"""Example: a job that must run on one node only, the leader, and moves when the leader changes."""

import tempfile
import threading
from contextlib import ExitStack
from functools import partial

from forge_consensus import ConsensusService
from forge_consensus.service.leader_task import Lead, LeaderTask, while_leader
from forge_consensus.testing.local.ports import free_ports


class Job:
    """The job of the leader; here it counts its steps by node."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.stepped = threading.Condition()

    def run(self, node: str, lead: Lead) -> None:
        """Work in steps, and check between them that the node still leads."""
        print(f"{node} leads term {lead.term} and begins the job")
        while lead.wait(0.05):
            with self.stepped:
                # An effect that must not happen twice carries lead.term, so that its receiver can refuse a lower term.
                self.steps[node] = self.steps.get(node, 0) + 1
                self.stepped.notify_all()
        print(f"{node} leads term {lead.term} no more and ends it")

    def wait_for_steps(self, *nodes: str) -> None:
        """Wait until the job has made progress on one of these nodes."""
        with self.stepped:
            if not self.stepped.wait_for(lambda: any(self.steps.get(node, 0) > 2 for node in nodes), 10):
                raise SystemExit("the job does not run")


def main() -> None:
    """Start three nodes with the job; stop the leader and watch the job continue elsewhere."""
    peers = {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(free_ports(3), 1)}
    job = Job()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        services = {}
        for node in peers:
            service = ConsensusService(node_id=node, peers=peers, storage_path=f"{folder}/{node}")
            services[node] = running.enter_context(service)
            running.enter_context(LeaderTask(service, partial(job.run, node)))
        leader = services["n1"].wait_for_leader(timeout=10)
        job.wait_for_steps(leader)
        services[leader].stop()
        others = sorted(set(peers) - {leader})
        job.wait_for_steps(*others)
        print("steps of the job by node:", job.steps)

        # The same as a block: it waits until the node leads, and its body checks that it still does.
        leader = services[others[0]].wait_for_leader(timeout=10)
        with while_leader(services[leader], timeout=10) as lead:
            print(f"{leader} runs a block in term {lead.term}: {bool(lead)}")


if __name__ == "__main__":
    main()
