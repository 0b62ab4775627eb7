"""The lifecycle of a local cluster: its folders, addresses, nodes and proxy, from start to stop, always cleaned up."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import AlreadyStartedError, InvalidConfigError, NodeNotFoundError, NotStartedError
from forge_consensus.security.access import AccessList
from forge_consensus.security.credentials import Credentials
from forge_consensus.service.machines import MachineChoice
from forge_consensus.testing.local.access import ADMIN, LocalAccess
from forge_consensus.testing.local.arguments import check_choices, check_launching, check_secure, check_settings
from forge_consensus.testing.local.guard import Guard
from forge_consensus.testing.local.node_process import LOG_TAIL, NodeProcess
from forge_consensus.testing.local.node_thread import NodeThread
from forge_consensus.testing.local.ports import HeldPorts
from forge_consensus.testing.local.proxy import Proxy


class ClusterLifecycle:
    """The part of `LocalCluster` that starts and stops it."""

    asked_with: AccessList | None = None
    """The list of access when `asker` was made."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        mode: Literal["process", "thread"] = "process",
        transport: Literal["tcp", "ipc"] = "tcp",
        state_machine: object = None,
        proxy: bool = False,
        seed: int = 0,
        folder: str | Path | None = None,
        cluster_id: str = "local",
        raft: RaftSettings | None = None,
        storage: StorageSettings | None = None,
        lease_reads: bool = False,
        extra_args: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        program: Sequence[str] = (),
        secure: bool = False,
    ) -> None:
        """Make the cluster; `start`, or entering the ``with``, starts it. `LocalCluster` explains the arguments."""
        check_choices(nodes, mode, transport, state_machine)
        given = {"raft": raft, "storage": storage, "lease_reads": lease_reads}
        check_settings(proxy, seed, folder, given)
        self.mode, self.transport = mode, transport
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        check_secure(secure, proxy)
        self.with_proxy, self.seed, self.secure = proxy, seed, secure
        self.given_folder = None if folder is None else Path(folder)
        self.state_machine = state_machine
        self.cluster_id = cluster_id
        self.settings: dict[str, Any] = {
            "cluster_id": cluster_id,
            "raft": raft or RaftSettings(),
            "storage": storage or StorageSettings(),
            "lease_reads": lease_reads,
        }
        self.launching: dict[str, Any] = {"extra_args": extra_args, "before": before, "program": program}
        self.launching["environment"] = {} if environment is None else environment
        check_launching(self.launching, mode)
        self.nodes: dict[str, NodeProcess | NodeThread] = {}
        self.extra_nodes: list[NodeProcess] = []
        self.addresses: dict[str, str] = {}
        """The address of each node for other nodes and clients: with a proxy, its front."""
        self.real_addresses: dict[str, str] = {}
        """The address at which each node listens."""
        self.first_addresses: dict[str, str] = {}
        """The addresses with which the cluster was founded."""
        self.joining: dict[str, dict[str, Any]] = {}
        """The nodes that joined later: their settings for that."""
        self.wiped: Counter[str] = Counter()
        """How often each node got an empty folder in place of its own."""
        self.clients: list[Client] = []
        self.asker: Client | None = None
        self.local_access: LocalAccess | None = None
        self.guard: Guard | None = None
        self.ports: list[HeldPorts] = []
        self.running_proxy: Proxy | None = None
        self.temporary: Path | None = None

    # --- from start to stop ------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all nodes and wait until they serve, with or without a leader. Raises `AlreadyStartedError`."""
        if self.guard is not None:
            raise AlreadyStartedError(
                "the cluster runs already, and a second start would lose its nodes: call start() once, or use the with "
                "statement alone; before another start call stop()"
            )
        try:
            self.guard = Guard()
            self.temporary = Path(tempfile.mkdtemp(prefix="forge-cluster-"))
            self.guard.folder(self.temporary)
            if self.secure:
                self.local_access = LocalAccess(self.temporary, self.names)
            self.place()
            self.first_addresses = dict(self.addresses)
            for name in self.names:
                self.nodes[name] = self.make(name)
            if self.with_proxy:
                fronts = {name: (self.addresses[name], self.real_addresses[name]) for name in self.names}
                self.running_proxy = Proxy(fronts, seed=self.seed).start()
            for node in self.nodes.values():
                node.launch()
            self.wait_serving(*self.names)
            self.asker = self.made_asker()
        except BaseException:
            self.stop()
            raise
        return self

    def join(self, name: str, join_as: str | None = "voter") -> str:
        """Start a node on an empty folder, which joins the cluster, and wait until it serves; returns its address.

        It is a further node, or one that does not run and whose folder is then removed. It asks to be added as a
        ``voter`` or ``learner``; None for a node that waits until somebody adds it. Raises `InvalidConfigError` for the
        name of a node that runs.
        """
        known = self.nodes.get(name)
        if known is not None and known.running:
            raise InvalidConfigError(f"node {name!r} runs, so it cannot join: give another name, or kill it first")
        self.demand_started()
        members = ",".join(address for node, address in self.addresses.items() if node != name)
        self.joining[name] = {"join": members, "join_as": join_as}
        if self.local_access is not None:
            self.local_access.add_member(name)
        if known is None:
            self.place_at(name)
            self.names.append(name)
        else:
            known.close()
            self.wiped[name] += 1
        shutil.rmtree(self.folder / name, ignore_errors=True)
        self.begin(name)
        return self.addresses[name]

    def leave(self, name: str) -> None:
        """End a node in order, and forget it; its data and its log stay in the cluster's folder.

        For a node that was removed from the members. Raises `NodeNotFoundError`.
        """
        node = self.nodes[self.known(name)]
        node.stop()
        node.close()
        del self.nodes[name], self.addresses[name], self.real_addresses[name]
        self.names.remove(name)
        if self.running_proxy is not None:
            self.running_proxy.remove(name)

    def move(self, name: str) -> str:
        """End a node in order, and start it at another port or path on its folder; returns its new address.

        The members look for it there once they were told, as with ``forge-consensus members update``. Raises
        `NodeNotFoundError`.
        """
        self.nodes[self.known(name)].stop()
        self.place_at(name)
        self.begin(name)
        return self.addresses[name]

    def begin(self, name: str) -> None:
        """Make a node, start it, and wait until it serves."""
        self.nodes[name] = self.make(name)
        self.nodes[name].launch()
        self.wait_serving(name)

    def place_at(self, name: str) -> None:
        """Choose addresses for a node that is new, or that moves."""
        count = 2 if self.with_proxy else 1
        if self.transport == "ipc":
            other = secrets.token_hex(3)
            places = [f"ipc://{self.temporary}/{kind}{name}-{other}.sock" for kind in ("", "real-")]
        else:
            places = self.free_addresses(count)
        self.addresses[name], self.real_addresses[name] = places[0], places[count - 1]
        if self.running_proxy is not None:
            self.running_proxy.add(name, self.addresses[name], self.real_addresses[name])

    def made_asker(self) -> Client:
        """Make the client that asks for the nodes' status."""
        if self.local_access is not None:
            self.asked_with = self.local_access.listed
        addresses, shows = list(self.real_addresses.values()), self.credentials()
        return Client(addresses, cluster_id=self.cluster_id, follow=False, credentials=shows)

    def credentials(self, client: str = ADMIN) -> Credentials | None:
        """What a client of that name shows the nodes; None if the cluster is not secure."""
        return None if self.local_access is None else self.local_access.credentials(client)

    def security_of(self, node: str) -> SecuritySettings:
        """The settings of security of a node."""
        return SecuritySettings() if self.local_access is None else self.local_access.settings(node)

    def wait_serving(self, *names: str) -> None:
        """Wait until these nodes serve and can be reached. Raises the error of a node that does not."""
        for name in names:
            self.nodes[self.known(name)].wait_serving()
        if self.running_proxy is not None:
            self.running_proxy.wait_listening(*names)

    def known(self, name: str) -> str:
        """Return that name if it is a node's. Raises `NodeNotFoundError`."""
        if not isinstance(name, str) or name not in self.nodes:
            raise NodeNotFoundError(
                f"there is no node {name!r} in this cluster: there are {', '.join(self.nodes)}; give one such name, or "
                "'leader'"
            )
        return name

    def demand_started(self) -> Client:
        """The client that requests the nodes' status. Raises `NotStartedError` before `start` and after `stop`."""
        if self.asker is None:
            raise NotStartedError(
                "the cluster was not started, or has ended: use it in a with statement, or call start() first"
            )
        if self.local_access is not None and self.local_access.listed is not self.asked_with:
            self.asker.close()  # it does not know the nodes' new keys
            self.asker = self.made_asker()
        return self.asker

    def place(self) -> None:
        """Choose the addresses of the nodes and of the proxy's fronts."""
        assert self.temporary is not None, "it is being started"
        names = self.names
        if self.transport == "ipc":
            places = [f"ipc://{self.temporary}/{kind}{name}.sock" for kind in ("", "real-") for name in names]
        else:
            places = self.free_addresses(len(names) * (2 if self.with_proxy else 1))
        self.addresses = dict(zip(names, places, strict=False))
        self.real_addresses = dict(zip(names, places[len(names) :] if self.with_proxy else places, strict=False))

    def free_addresses(self, count: int) -> list[str]:
        """Addresses of this machine that no other program gets until `stop`. Raises `TransportUnavailableError`."""
        self.ports.append(HeldPorts(count))
        return self.ports[-1].addresses

    @property
    def folder(self) -> Path:
        """The folder of the nodes' data (in ``n1`` ...) and logs (``n1.log`` ...). Raises `NotStartedError`."""
        folder = self.given_folder or self.temporary
        if folder is None:
            raise NotStartedError(
                "the cluster was not started, or has ended, and its folder was a temporary one: give folder= to keep it"
            )
        return folder

    def make(self, name: str) -> NodeProcess | NodeThread:
        """Make a node that is not started yet. Raises `InvalidConfigError` if its folder cannot be created."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidConfigError(
                f"the folder {self.folder} cannot be made ({error.strerror}): name one where this user may write"
            ) from error
        joins, address = self.joining.get(name), self.addresses[name]
        known_as = self.real_addresses[name] if joins is not None else self.first_addresses[name]
        settings = NodeSettings(
            node_id=name,
            bind=self.real_addresses[name],
            advertise=None if address == known_as else address,
            peers=self.first_addresses if joins is None else {},
            storage_path=self.folder / name,
            security=self.security_of(name),
            **self.settings,
            **(joins or {}),
        )
        if self.mode == "thread":
            return NodeThread(settings, self.state_machine, self.folder)
        assert self.guard is not None, "it is being started"
        node = NodeProcess(settings, MachineChoice(self.state_machine).path(), self.folder, self.guard)
        change(node, self.launching)
        return node

    def stop(self) -> None:
        """End everything and remove what is temporary, in any state; a second call does nothing."""
        ends: list[Callable[[], object]] = [client.close for client in (*self.clients, self.asker) if client]
        ends += [node.close for node in (*self.nodes.values(), *self.extra_nodes)]
        ends += [held.stop for held in (self.running_proxy, self.guard) if held]
        ends += [ports.release for ports in self.ports]
        temporary = self.temporary
        if temporary is not None:
            ends.append(lambda: shutil.rmtree(temporary, ignore_errors=True))
        errors: list[BaseException] = []
        for end in ends:
            try:
                end()
            except BaseException as error:  # the rest must be ended too
                errors.append(error)
        self.clients, self.asker, self.nodes, self.extra_nodes, self.ports = [], None, {}, [], []
        self.running_proxy, self.guard, self.temporary, self.local_access = None, None, None, None
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self if self.guard is not None else self.start()  # ``with LocalCluster().start()`` has started it

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            for node in (*self.nodes.values(), *self.extra_nodes):
                error.add_note(f"--- the log of {node.name} ends with\n{node.log_text()[-LOG_TAIL:]}")
        self.stop()


def change(node: NodeProcess, launching: Mapping[str, Any]) -> None:
    """Change how a process is started from now on."""
    for name, value in launching.items():
        setattr(node, name, value)
