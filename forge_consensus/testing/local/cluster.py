"""A local cluster: real nodes on this machine, as processes or threads, that a test kills, pauses and partitions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import ConsensusTimeoutError, InvalidConfigError, NotStartedError
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.machines import MachineChoice
from forge_consensus.testing.local.access import LocalAccess
from forge_consensus.testing.local.arguments import check_flag, check_launching, check_seconds, check_sides
from forge_consensus.testing.local.cluster_status import ClusterStatus, ask_all
from forge_consensus.testing.local.lifecycle import ClusterLifecycle, change
from forge_consensus.testing.local.network_paths import CUT, PathFaults
from forge_consensus.testing.local.node_process import NodeProcess
from forge_consensus.testing.local.node_thread import NodeThread
from forge_consensus.testing.local.proxy import Proxy

WAIT_SECONDS: Final = 15.0
"""The default timeout of a wait, in seconds."""
STATUS_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.02
LEADER: Final = "leader"
PAGE_ROWS: Final = 5_000

Found = TypeVar("Found")
Names = str | Iterable[str]


class LocalCluster(ClusterLifecycle):
    """Real nodes n1, n2 ... with real sockets and disks; at the end all of them are removed.

    Use it in a ``with`` statement::

        with LocalCluster(nodes=3, proxy=True) as cluster:
            client = cluster.client()
            client.put("key", 1)
            old = cluster.isolate("leader")
            cluster.wait_for_leader(other_than=old)
            cluster.heal()
            cluster.wait_until_settled()

    Wherever a node is named, ``"leader"`` stands for the leader. A wrong argument raises `InvalidConfigError`, an
    unknown node `NodeNotFoundError`, and a call that needs a running cluster `NotStartedError` if it does not run.
    Every wait has a timeout in seconds and raises `ConsensusTimeoutError`, which says what was expected and what each
    node reported instead.

    Args:
        nodes: how many nodes, 1 to 15.
        mode: "process": each node is a process of its own (``python -m forge_consensus node``); "thread": each is a
            service on a thread of this process.
        transport: the transport between nodes and clients.
        state_machine: a class or ``"module:Class"``; with threads also a function that returns a machine. None for the
            built-in key-value machine.
        proxy: whether a `Proxy` stands before each node; `partition`, `isolate` and `heal` need it.
        seed: the random seed of the proxy's faults.
        folder: where the nodes keep data and logs; it is not removed at the end. None for a temporary folder.
        cluster_id: the id of the cluster.
        raft: times (seconds) and sizes (bytes) of all nodes; None for the defaults.
        storage: sizes of their logs, snapshots and stores; None for the defaults.
        lease_reads: whether the configuration of the cluster allows lease reads.
        extra_args: more arguments for ``forge-consensus node``; processes only.
        environment: more environment variables; processes only.
        before: a command, with its arguments, that starts each process; processes only.
        program: the program that runs instead of ``python -m forge_consensus node``, with the same arguments;
            processes only.
        secure: whether all connections are encrypted, and only those are let in whom `access` knows.

    """

    # --- nodes -------------------------------------------------------------------------------------------------------

    def name_of(self, name: str) -> str:
        """The node of that name, or the leader. Raises `NodeNotFoundError`, `NotStartedError`."""
        self.demand_started()
        return self.wait_for_leader() if name == LEADER else self.known(name)

    def names_of(self, names: Names) -> list[str]:
        """The node of that name or those of those names. Raises as `name_of`, and `InvalidConfigError`."""
        if not isinstance(names, Iterable):
            raise InvalidConfigError(f"{names!r} names no nodes: give a name, such as 'n1', or some, as ['n1', 'n2']")
        return [self.name_of(name) for name in ([names] if isinstance(names, str) else names)]

    def kill(self, name: str) -> str:
        """Kill a node and wait until it has ended; returns its name.

        A process gets SIGKILL. A thread cannot be killed: it leaves its loop between two turns, without a last
        checkpoint or event.
        """
        name = self.name_of(name)
        self.nodes[name].kill()
        return name

    def shut_down(self, name: str) -> str:
        """End a node in order (SIGTERM, `ConsensusService.stop`); returns its name."""
        name = self.name_of(name)
        self.nodes[name].stop()
        return name

    def restart(self, name: str, **launching: Any) -> None:
        """Start a node again, killing it first if it runs, and wait until it serves.

        For a process, `extra_args`, `environment`, `before` and `program` may be changed; they hold from now on.
        """
        name = self.name_of(name)
        node = self.nodes[name]
        check_launching(launching)
        if launching:
            change(self.process(name, "be started in another way"), launching)
        if node.running:
            node.kill()
        node.launch()
        self.wait_serving(name)

    def pause(self, name: str) -> str:
        """Send SIGSTOP to a process; returns its name. Raises `InvalidConfigError` for threads, `NotStartedError`."""
        name = self.name_of(name)
        self.live_process(name, "be paused").pause()
        return name

    def resume(self, name: str) -> None:
        """Send SIGCONT to a process. Raises `InvalidConfigError` for threads, `NotStartedError`."""
        self.live_process(self.name_of(name), "be resumed").resume()

    def live_process(self, name: str, to: str) -> NodeProcess:
        """The process of a node that runs. Raises `InvalidConfigError` for threads, `NotStartedError`."""
        process = self.process(name, to)
        if not process.running:
            raise NotStartedError(f"{name} does not run and cannot {to}: restart({name!r}) first")
        return process

    def process(self, name: str, to: str = "be had as a process") -> NodeProcess:
        """The process of a node. Raises `InvalidConfigError` for threads."""
        node = self.nodes[self.name_of(name)]
        if not isinstance(node, NodeProcess):
            raise InvalidConfigError(f"{name} is a thread and cannot {to}: use LocalCluster(mode='process')")
        return node

    def service(self, name: str) -> ConsensusService:
        """The service of a node, to subscribe to its events or to use it. Raises `InvalidConfigError` for processes."""
        node = self.nodes[self.name_of(name)]
        if not isinstance(node, NodeThread):
            raise InvalidConfigError(f"{name} is another process and no service: use LocalCluster(mode='thread')")
        return node.service

    def extra_node(
        self,
        node_id: str,
        *,
        address: str | None = None,
        peers: Mapping[str, str] | None = None,
        storage_path: str | Path | None = None,
        cluster_id: str | None = None,
    ) -> NodeProcess:
        """A further process beside the cluster, ended with it: to test a node that does not belong to the cluster.

        It is not started; `NodeProcess.start` does that, and `NodeProcess.refused` if the node must not serve. The
        cluster's own methods do not know it.

        Args:
            node_id: its id, which may be that of a node of the cluster.
            address: where it listens; None for a free address.
            peers: the members that it is started with, address by id; None for those of the cluster and itself.
            storage_path: its data folder; None for the folder named after `node_id` in the cluster's folder.
            cluster_id: its cluster; None for this one.

        Raises `NotStartedError`, and `InvalidConfigError` in a cluster of threads.

        """
        self.demand_started()
        if self.mode == "thread" or self.guard is None:
            raise InvalidConfigError("an extra node is a process: use LocalCluster(mode='process')")
        number = len(self.extra_nodes) + 1
        changed = {**self.settings, "cluster_id": self.settings["cluster_id"] if cluster_id is None else cluster_id}
        bind = self.free_addresses(1)[0] if address is None else address
        settings = NodeSettings(
            node_id=node_id,
            bind=bind,
            peers={node_id: bind, **self.addresses} if peers is None else peers,
            storage_path=self.folder / node_id if storage_path is None else storage_path,
            security=self.security_of(node_id),
            **changed,
        )
        node = NodeProcess(settings, MachineChoice(self.state_machine).path(), self.folder, self.guard)
        node.log = self.folder / f"extra-{number}-{node_id}.log"
        self.extra_nodes.append(node)
        return node

    def running(self) -> list[str]:
        """The nodes that run and are not paused."""
        return [name for name, node in self.nodes.items() if node.running and not node.paused]

    def log_text(self, name: str) -> str:
        """The log of a node, over all its runs."""
        return self.nodes[self.name_of(name)].log_text()

    @property
    def access(self) -> LocalAccess:
        """Who is known to the nodes, to change it. Raises `InvalidConfigError` for a cluster that is not secure."""
        self.demand_started()
        if self.local_access is None:
            raise InvalidConfigError("nobody asks here who somebody is: use LocalCluster(secure=True)")
        return self.local_access

    # --- the network -------------------------------------------------------------------------------------------------

    @property
    def proxy(self) -> Proxy:
        """The proxy, for faults of single paths. Raises `InvalidConfigError` without a proxy, `NotStartedError`."""
        self.demand_started()
        if self.running_proxy is None:
            raise InvalidConfigError("there is nothing between these nodes: use LocalCluster(proxy=True)")
        return self.running_proxy

    def partition(self, *groups: Names, one_way: bool = False, disconnect: bool = False) -> None:
        """Drop all messages between these groups, each a name or several; of one group, between it and all others.

        A node in no group keeps all its connections. With `one_way` only the messages from the first group to the
        second are dropped. Connections stay open, as with a broken cable; with `disconnect` they break too, and the
        nodes notice that at once. Partitions accumulate until `heal`. Clients reach all nodes.
        """
        proxy = self.proxy
        check_flag("disconnect", disconnect)
        sides = [self.names_of(group) for group in groups]
        if len(sides) == 1:
            sides.append([name for name in self.names if name not in sides[0]])
        check_sides(groups, sides, one_way=one_way)
        across = [pair for one, other in itertools.combinations(sides, 2) for pair in itertools.product(one, other)]
        back = [] if one_way else [(target, source) for source, target in across]
        proxy.impose_all([*across, *back], CUT)
        if disconnect:
            for one, other in across:
                proxy.disconnect(one, other)

    def isolate(self, name: str, *, disconnect: bool = False) -> str:
        """Partition a node from all others; returns its name."""
        name = self.name_of(name)
        self.partition(name, disconnect=disconnect)
        return name

    def disturb(self, faults: PathFaults) -> None:
        """Impose these faults on all messages between nodes, instead of all earlier faults."""
        self.proxy.impose_all(itertools.permutations(self.names, 2), faults)

    def heal(self) -> None:
        """End all faults of the network."""
        self.proxy.heal()

    # --- asking and waiting ------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """The addresses of the nodes for clients; with a proxy, its fronts. Raises `NotStartedError`."""
        self.demand_started()
        return list(self.addresses.values())

    def client(self, **options: Any) -> Client:
        """A client of all nodes, closed with the cluster; `options` are those of `Client`."""
        usual = {"cluster_id": self.cluster_id, "credentials": self.credentials()}
        client = Client(self.endpoints, **{**usual, **options})
        self.clients.append(client)
        return client

    def cluster_status(self, *names: str, seconds: float = STATUS_SECONDS) -> ClusterStatus:
        """The present status of these nodes (default: all that run), past any partition; waits at most `seconds`."""
        asker = self.demand_started()
        check_seconds("seconds", seconds)
        wanted = self.names_of(names) or self.running()
        return ask_all(asker, {name: self.real_addresses[name] for name in wanted}, seconds)

    def status(self, name: str, seconds: float = STATUS_SECONDS) -> dict[str, Any]:
        """The status of a node. Raises `ConsensusError` if it does not answer within `seconds`."""
        asker = self.demand_started()
        check_seconds("seconds", seconds)
        return asker.status(self.real_addresses[self.name_of(name)], seconds)

    def contents(self, name: str, prefix: str = "", timeout: float = WAIT_SECONDS) -> dict[str, Any]:
        """Every key of the key-value machine that begins with `prefix`, with its value, as this node holds it.

        Raises `ConsensusError` if it does not answer within `timeout` seconds.
        """
        address = self.real_addresses[self.name_of(name)]
        options: dict[str, Any] = {"cluster_id": self.settings["cluster_id"], "credentials": self.credentials()}
        with Client([address], timeout, follow=False, **options) as client:
            return stale_contents(client, prefix)

    def leader(self) -> str | None:
        """The present leader, as it and a majority of the voters report; None if there is none."""
        return self.cluster_status().leader()

    def followers(self) -> list[str]:
        """All nodes but the leader."""
        leader = self.wait_for_leader()
        return [name for name in self.names if name != leader]

    def wait_for_leader(self, timeout: float = WAIT_SECONDS, *, other_than: str | None = None) -> str:
        """Wait until a node leads, as it and a majority of the voters report; returns its name.

        `other_than` names a node that may still believe that it leads, for example because it was just partitioned. It
        must be a node's name, because ``"leader"`` is the node that this call waits for.
        """
        self.demand_started()
        if other_than == LEADER:
            raise InvalidConfigError(
                "other_than is 'leader', which is what is awaited: give the name that kill, pause or isolate returned"
            )
        old = self.known(other_than) if other_than else None

        def look(status: ClusterStatus) -> str | None:
            leader = status.leader()
            return None if leader == old else leader

        what = "a leader" + (f" other than {old}" if old else "")
        return self.wait_for(look, what, timeout)

    def wait_until_settled(self, *names: str, timeout: float = WAIT_SECONDS) -> int:
        """Wait until these nodes (default: all that run) follow one leader and applied one log; returns its last index.

        Under constant load that may never happen.
        """
        return self.wait_for(ClusterStatus.level, "the nodes to follow one leader and be level", timeout, names)

    def wait_for(
        self,
        find: Callable[[ClusterStatus], Found | None],
        what: str,
        timeout: float = WAIT_SECONDS,
        names: Names = (),
    ) -> Found:
        """Wait until `find` returns something for the status of these nodes (default: all that run); returns that.

        Raises `ConsensusTimeoutError`, whose text contains `what`, after `timeout` seconds.
        """
        check_seconds("timeout", timeout)
        wanted = self.names_of(names)
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), LOOK_SECONDS)
            status = self.cluster_status(*wanted, seconds=min(STATUS_SECONDS, left))
            found = find(status)
            if found is not None:
                return found
            if time.monotonic() > end:
                gone = [f"{name} does not run" for name in self.names if name not in self.running()]
                account = "; ".join([status.text, *gone])
                raise ConsensusTimeoutError(f"waited {timeout:g} s for {what}: {account}")
            time.sleep(LOOK_SECONDS)


def stale_contents(client: Client, prefix: str) -> dict[str, Any]:
    """Read all keys with that prefix, page by page, from the node that the client is connected to."""
    found: dict[str, Any] = {}
    query: dict[str, Any] = {"scan": prefix, "limit": PAGE_ROWS}
    while True:
        page = client.read(query, "stale")
        found.update((key, value) for key, value in page)
        if len(page) < PAGE_ROWS:
            return found
        query["after"] = page[-1][0]
