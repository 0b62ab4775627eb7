"""A local cluster: real nodes on this machine, as processes or threads, ended, stopped and cut off at will."""

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
from forge_consensus.testing.local.arguments import check_flag, check_launching, check_seconds, check_sides
from forge_consensus.testing.local.lifecycle import ClusterLifecycle, change
from forge_consensus.testing.local.network_paths import CUT, PathFaults
from forge_consensus.testing.local.node_process import NodeProcess
from forge_consensus.testing.local.node_thread import NodeThread
from forge_consensus.testing.local.proxy import Proxy
from forge_consensus.testing.local.standing import Standing, ask_all

WAIT_SECONDS: Final = 15.0
"""How long a wait may take that does not say its own time."""
STATUS_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.02
LEADER: Final = "leader"
PAGE_ROWS: Final = 5_000

Found = TypeVar("Found")
Names = str | Iterable[str]


class LocalCluster(ClusterLifecycle):
    """Real nodes n1, n2 ... with real sockets and disks; nothing of them is left at the end.

    Use it in a ``with`` statement::

        with LocalCluster(nodes=3, proxy=True) as cluster:
            client = cluster.client()
            client.put("key", 1)
            old = cluster.isolate("leader")
            cluster.wait_for_leader(other_than=old)
            cluster.heal()
            cluster.wait_until_settled()

    Wherever a node is named, ``"leader"`` stands for the leader. An argument that makes no sense raises
    `InvalidConfigError`, an unknown node `NodeNotFoundError`, and a call that needs a running cluster `NotStartedError`
    if it does not run. Every wait has a limit in seconds and raises `ConsensusTimeoutError`, which says what was
    expected and what each node reported instead.

    Args:
        nodes: how many nodes, 1 to 15.
        mode: "process": each node is a process of its own (``python -m forge_consensus node``); "thread": each is a
            service on a thread of this process.
        transport: the transport between nodes and clients.
        state_machine: a class or ``"module:Class"``; with threads also a function that returns a machine. None for the
            built-in key-value machine.
        proxy: whether a `Proxy` stands before each node; `partition`, `isolate` and `heal` need it.
        seed: what the proxy draws its random faults from.
        folder: where the nodes keep data and logs; it is left as it is at the end. None for a temporary folder.
        cluster_id: the id of the cluster.
        raft: times (seconds) and sizes (bytes) of all nodes; None for the defaults.
        storage: sizes of their logs, snapshots and stores; None for the defaults.
        lease_reads: whether the configuration of the cluster allows lease reads.
        extra_args: more arguments for ``forge-consensus node``; processes only.
        environment: more environment variables; processes only.
        before: a command, with its arguments, that starts each process; processes only.
        program: the program that runs instead of ``python -m forge_consensus node``, with the same arguments;
            processes only.

    """

    # --- nodes -------------------------------------------------------------------------------------------------------

    def name_of(self, name: str) -> str:
        """The node of that name, or the one that leads. Raises `NodeNotFoundError`, `NotStartedError`."""
        self.demand_started()
        return self.wait_for_leader() if name == LEADER else self.known(name)

    def names_of(self, names: Names) -> list[str]:
        """The nodes of that name or of those names. Raises as `name_of`, and `InvalidConfigError`."""
        if not isinstance(names, Iterable):
            raise InvalidConfigError(f"{names!r} names no nodes: give a name, such as 'n1', or some, as ['n1', 'n2']")
        return [self.name_of(name) for name in ([names] if isinstance(names, str) else names)]

    def kill(self, name: str) -> str:
        """End a node at once and wait until it is gone; returns its name.

        A process gets SIGKILL. A thread cannot be killed: it leaves its loop between two turns, without a last
        checkpoint, an event or a farewell.
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
        """Start a node again, ending it first if it runs, and wait until it serves.

        For a process, `extra_args`, `environment`, `before` and `program` may be given anew; they hold from now on.
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
        """SIGSTOP a process; returns its name. Raises `InvalidConfigError` for threads, `NotStartedError` for none."""
        name = self.name_of(name)
        self.live_process(name, "be paused").pause()
        return name

    def resume(self, name: str) -> None:
        """SIGCONT a process. Raises `InvalidConfigError` for threads, `NotStartedError` for none."""
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
        """A further process beside the cluster, ended with it: to see what becomes of a node that does not belong.

        It is not started; `NodeProcess.start` does that, and `NodeProcess.refused` where the node must not serve. The
        cluster's own methods do not know it.

        Args:
            node_id: its id, which may be that of a node of the cluster.
            address: where it listens; None for a free address.
            peers: the members that it is told of, address by id; None for those of the cluster and itself.
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
        """Everything that a node has written, over all its runs."""
        return self.nodes[self.name_of(name)].log_text()

    # --- the network -------------------------------------------------------------------------------------------------

    @property
    def proxy(self) -> Proxy:
        """The proxy, for faults of single paths. Raises `InvalidConfigError` where there is none, `NotStartedError`."""
        self.demand_started()
        if self.running_proxy is None:
            raise InvalidConfigError("there is nothing between these nodes: use LocalCluster(proxy=True)")
        return self.running_proxy

    def partition(self, *groups: Names, one_way: bool = False, disconnect: bool = False) -> None:
        """Let no message pass between these groups, each a name or some; of one group, between it and all others.

        A node in no group keeps all its connections. With `one_way` only what the first group says to the second is
        lost. Connections go on to stand, as with a broken cable; with `disconnect` they break too, and the nodes
        learn of it at once. Partitions add up until `heal`. Clients reach all nodes.
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
        """Cut a node off from all others; returns its name."""
        name = self.name_of(name)
        self.partition(name, disconnect=disconnect)
        return name

    def disturb(self, faults: PathFaults) -> None:
        """Do this to all messages between nodes; it ends what was done to them before."""
        self.proxy.impose_all(itertools.permutations(self.names, 2), faults)

    def heal(self) -> None:
        """End all faults of the network."""
        self.proxy.heal()

    # --- asking and waiting ------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """Where clients reach the nodes; with a proxy, through it. Raises `NotStartedError`."""
        self.demand_started()
        return list(self.addresses.values())

    def client(self, **options: Any) -> Client:
        """A client of all nodes, closed with the cluster; `options` are those of `Client`."""
        client = Client(self.endpoints, **{"cluster_id": self.cluster_id, **options})
        self.clients.append(client)
        return client

    def standing(self, *names: str, seconds: float = STATUS_SECONDS) -> Standing:
        """What these nodes (all that run, if none is named) say of themselves now, past any partition."""
        asker = self.demand_started()
        check_seconds("seconds", seconds)
        wanted = self.names_of(names) or self.running()
        return ask_all(asker, {name: self.real_addresses[name] for name in wanted}, seconds)

    def status(self, name: str, seconds: float = STATUS_SECONDS) -> dict[str, Any]:
        """What a node says of itself. Raises `ConsensusError` when it does not answer."""
        asker = self.demand_started()
        check_seconds("seconds", seconds)
        return asker.status(self.real_addresses[self.name_of(name)], seconds)

    def contents(self, name: str, prefix: str = "", timeout: float = WAIT_SECONDS) -> dict[str, Any]:
        """Every key of the key-value machine that begins with `prefix`, with its value, as this node itself holds it.

        Raises `ConsensusError` when it does not answer in `timeout` seconds.
        """
        address = self.real_addresses[self.name_of(name)]
        with Client([address], timeout, cluster_id=self.settings["cluster_id"], follow=False) as client:
            return stale_contents(client, prefix)

    def leader(self) -> str | None:
        """The node that leads now, as it and a majority say; None if there is none."""
        return self.standing().leader(len(self.names))

    def followers(self) -> list[str]:
        """All nodes but the leader."""
        leader = self.wait_for_leader()
        return [name for name in self.names if name != leader]

    def wait_for_leader(self, timeout: float = WAIT_SECONDS, *, other_than: str | None = None) -> str:
        """Wait until a node leads, as it and a majority of all members say; returns its name.

        `other_than`: a node that may still believe that it leads, for example because it was just cut off; by its
        name, for who leads is what is awaited.
        """
        self.demand_started()
        if other_than == LEADER:
            raise InvalidConfigError(
                "other_than is 'leader', which is what is awaited: give the name that kill, pause or isolate returned"
            )
        old = self.known(other_than) if other_than else None

        def look(standing: Standing) -> str | None:
            leader = standing.leader(len(self.names))
            return None if leader == old else leader

        what = "a leader" + (f" other than {old}" if old else "")
        return self.wait_for(look, what, timeout)

    def wait_until_settled(self, *names: str, timeout: float = WAIT_SECONDS) -> int:
        """Wait until these nodes (all that run) follow one leader and applied the same whole log; returns its index.

        Under load that may never be.
        """
        return self.wait_for(Standing.level, "the nodes to follow one leader and be level", timeout, names)

    def wait_for(
        self,
        find: Callable[[Standing], Found | None],
        what: str,
        timeout: float = WAIT_SECONDS,
        names: Names = (),
    ) -> Found:
        """The first thing that `find` finds in the standing of these nodes (all that run). Raises with `what`."""
        check_seconds("timeout", timeout)
        wanted = self.names_of(names)
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), LOOK_SECONDS)
            standing = self.standing(*wanted, seconds=min(STATUS_SECONDS, left))
            found = find(standing)
            if found is not None:
                return found
            if time.monotonic() > end:
                gone = [f"{name} does not run" for name in self.names if name not in self.running()]
                account = "; ".join([standing.text, *gone])
                raise ConsensusTimeoutError(f"waited {timeout:g} s for {what}: {account}")
            time.sleep(LOOK_SECONDS)


def stale_contents(client: Client, prefix: str) -> dict[str, Any]:
    """Read all keys with that prefix, page by page, from the node to which the client talks."""
    found: dict[str, Any] = {}
    query: dict[str, Any] = {"scan": prefix, "limit": PAGE_ROWS}
    while True:
        page = client.read(query, "stale")
        found.update((key, value) for key, value in page)
        if len(page) < PAGE_ROWS:
            return found
        query["after"] = page[-1][0]
