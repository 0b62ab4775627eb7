"""A simulation that is moved by hand: every step is a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from loguru import logger

from forge_consensus.errors import (
    NodeNotFoundError,
    NoLeaderError,
    NotStartedError,
    OperationFailedError,
    UnavailableError,
)
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.faults.drawn import Faults
from forge_consensus.testing.simulator.arguments import (
    check_command,
    check_function,
    check_groups,
    check_selection,
    seconds_of,
)
from forge_consensus.testing.simulator.hand_client import HandClient
from forge_consensus.testing.simulator.twin import refuse_in_twin
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster

LEADER = "leader"
TIMEOUT_SECONDS = 10.0


class HandMoves:
    """The steps that a caller can make in a simulation; the base class of `Simulation`."""

    def __init__(self, cluster: SimulatedCluster, faults: Faults, *, quiet: bool, pace: float) -> None:
        self.cluster = cluster
        self.faults = faults
        self.quiet = quiet
        self.started = False
        self.closed = False
        self.handling = ""
        """The kind of the event that a handler handles at this moment; empty outside handlers."""
        self.hand = HandClient(cluster, self.advance, pace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder from the real disk, and enable the log of the nodes again."""
        self.closed = True
        self.cluster.close()
        if self.started and self.quiet:
            logger.enable("forge_consensus")

    def check_open(self) -> None:
        """Raise `NotStartedError` if the simulation is closed."""
        if self.closed:
            raise NotStartedError(
                "this simulation is closed, by close() or the end of its `with`: call this earlier, or make another one"
            )

    def check_started(self) -> None:
        """Raise `NotStartedError` if no node was started yet or the simulation is closed."""
        self.check_open()
        if not self.started:
            raise NotStartedError("no node of this simulation was started yet: call start(), advance() or run() first")

    def check_outside(self, what: str) -> None:
        """Raise `OperationFailedError` inside an event handler, where no virtual time may pass."""
        self.check_open()
        if self.handling:
            raise OperationFailedError(
                f"{what}() was called by a handler of {self.handling}, within a step of a node: a handler may look, "
                "crash, pause and partition nodes; have it note everything else and do that outside, for example after "
                "advance(seconds, until=...)"
            )

    # --- time --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all nodes; further calls do nothing."""
        self.check_open()
        if not self.started:
            self.check_outside("start")
            refuse_in_twin()
            self.started = True
            if self.quiet:
                logger.disable("forge_consensus")
            self.cluster.start()

    def advance(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let virtual time pass.

        Args:
            seconds: how many virtual seconds.
            until: is called after each step; time stops when it returns true.

        Returns what `until` returns, False without one. Raises the errors found meanwhile, and `InvalidConfigError`
        for wrong arguments.

        """
        self.check_outside("advance")
        seconds = seconds_of("seconds", seconds)
        if until is not None:
            check_function("until", until, "returns whether to stop")
        self.start()
        return self.cluster.run(seconds, until)

    def leader(self) -> str | None:
        """Return the running node that leads the highest term, None if no node leads."""
        self.check_open()
        base = self.cluster.leader()
        return None if base is None else base.name

    def wait_for_leader(self, seconds: float = 30.0) -> str:
        """Let virtual time pass until a node leads; return its name.

        Raises `NoLeaderError` after `seconds` virtual seconds.
        """
        self.check_outside("wait_for_leader")
        self.advance(seconds, lambda: self.cluster.leader() is not None)
        leader = self.leader()
        if leader is None:
            raise NoLeaderError(f"no node leads after {seconds:g} virtual seconds: {self.status_text()}")
        return leader

    def status_text(self) -> str:
        """Return the state of each node and the cuts of the network, in words."""
        return "; ".join([*self.standings(), *self.cuts()])

    def standings(self) -> Iterator[str]:
        """Yield the state of each node."""
        for name, node in self.cluster.nodes.items():
            base = node.running
            if base is None:
                yield f"{name} is down" + (
                    f" for good ({self.cluster.gone[name]})" if name in self.cluster.gone else ""
                )
                continue
            ledger = base.engine.ledger
            paused = "is paused" if base.resume_at > self.cluster.timeline.now else "runs"
            role = "leads" if ledger.leading_term is not None else paused
            yield (
                f"{name} {role} in term {ledger.term} with entries {ledger.log.base_index + 1} to {ledger.log.last}, "
                f"{ledger.commit_index} committed, {ledger.applied} applied"
            )

    def cuts(self) -> Iterator[str]:
        """Yield the cuts of the network, if there are any."""
        cut = self.cluster.network.cut
        if cut:
            yield "nothing passes " + ", ".join(f"from {sender} to {receiver}" for sender, receiver in sorted(cut))

    # --- nodes and network -------------------------------------------------------------------------------------------

    def name_of(self, node: str) -> str:
        """Return a node's name; "leader" stands for the leader. Raises `NodeNotFoundError`, `NoLeaderError`."""
        self.check_open()
        if node == LEADER:
            leader = self.leader()
            if leader is None:
                raise NoLeaderError(f"no node leads at this moment, use wait_for_leader() first: {self.status_text()}")
            return leader
        if not isinstance(node, str) or node not in self.cluster.nodes:
            raise NodeNotFoundError(f"there is no node {node!r}; there are {', '.join(self.cluster.names)}")
        return node

    def process_of(self, node: str) -> SimulatedBase:
        """Return the process of a node. Raises `UnavailableError` if the node is down."""
        self.check_started()
        name = self.name_of(node)
        base = self.cluster.nodes[name].running
        if base is None:
            raise UnavailableError(f"{name} is down: restart() starts it again")
        return base

    def crash(self, node: str) -> str:
        """End a node's process at once; unflushed data is lost. Returns the name of the node."""
        self.check_started()
        name = self.name_of(node)
        self.cluster.crash(name)
        return name

    def restart(self, node: str) -> None:
        """Start a node on its disk as the last process left it; does nothing if it runs."""
        self.check_outside("restart")
        self.cluster.restart(self.name_of(node))

    def pause(self, node: str, seconds: float) -> str:
        """Stop a node's process for some virtual seconds, as SIGSTOP does. Returns the name of the node."""
        self.check_started()
        name, seconds = self.name_of(node), seconds_of("seconds", seconds)
        base = self.cluster.nodes[name].running
        if base is not None:
            base.pause(seconds)
        return name

    def partition(self, *groups: str | Sequence[str]) -> None:
        """Let frames pass only within each group.

        A group is a node or a list of nodes; all nodes that are in no group form one more. Raises `InvalidConfigError`
        for a node that is in two groups.
        """
        named = [[self.name_of(node) for node in ([group] if isinstance(group, str) else group)] for group in groups]
        check_groups(named)
        rest = [name for name in self.cluster.names if not any(name in group for group in named)]
        sides = [*named, rest]
        self.cluster.network.cut.clear()
        for number, side in enumerate(sides):
            for other in sides[number + 1 :]:
                self.cluster.network.part(side, other)

    def heal(self) -> None:
        """End all faults: every node runs, every frame arrives, every disk works."""
        self.check_outside("heal")
        self.faults.heal()

    # --- events and commands -----------------------------------------------------------------------------------------

    def subscribe(self, kind: type[ConsensusEvent] | str, handler: Callable[[ConsensusEvent], object]) -> None:
        """Call a handler with the events of all nodes, each at its moment of virtual time.

        The handler is called within a step of a node, so it cannot let time pass. What it raises comes out of `run` or
        `advance`. Subscribe before `start` to see every event.

        Args:
            kind: an event class, or a pattern such as `"consensus.leader.*"`.
            handler: is called with each event.

        Raises `InvalidConfigError` for a kind that matches no event.

        """
        self.check_open()
        check_selection(kind)
        check_function("handler", handler, "takes an event")

        def observe(event: ConsensusEvent) -> None:
            try:
                with self.within(event.kind):
                    handler(event)
            except BaseException as error:  # a bus ignores errors of handlers, but here they must fail the run
                self.cluster.failure = self.cluster.failure or error

        for node in self.cluster.nodes.values():
            node.bus.subscribe(kind, observe, inline=True)

    @contextmanager
    def within(self, event: str) -> Iterator[None]:
        """Note that a handler runs; handlers nest if one handler causes another event."""
        outer, self.handling = self.handling, event
        try:
            yield
        finally:
            self.handling = outer

    def submit(self, command: Command, node: str = LEADER, timeout: float = TIMEOUT_SECONDS) -> Any:
        """Commit and apply a command with the shipped client, in virtual time; return its result.

        Time passes until the client knows the outcome. With `node="leader"` the client is given all nodes, finds the
        leader and follows it if it changes; a node that is named is asked alone, and refuses if it does not lead.
        The history that `run` checks does not contain it, so use keys that the workload does not use.

        Args:
            command: the command for the machine.
            node: the id of the node to ask, or "leader".
            timeout: how long the client tries, in virtual seconds.

        Raises the client's error: `CommandError` for an error of the machine, `OutcomeUnknownError` if the command was
        sent and may be carried out, `NotLeaderError`, `NoLeaderError`, `ConnectionFailedError` or
        `ConsensusTimeoutError` if it certainly was not; `UnavailableError` for a named node that is down.

        """
        self.check_outside("submit")
        check_command(command)
        timeout = seconds_of("timeout", timeout)
        self.start()
        if node == LEADER:
            return self.hand.submit(command, "", timeout)
        return self.hand.submit(command, self.process_of(node).name, timeout)

    def query(self, node: str, query: Any) -> Any:
        """Query a node's machine directly, without leader or read round. Raises `UnavailableError` if it is down."""
        return self.process_of(node).engine.ledger.applier.query(query)
