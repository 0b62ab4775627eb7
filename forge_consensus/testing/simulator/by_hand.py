"""A simulation moved by hand: every step is a call, from outside, while it is open."""

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
TIMEOUT_S = 10.0


class HandMoves:
    """What can be done to a simulation from outside, step by step; `Simulation` is one."""

    def __init__(self, cluster: SimulatedCluster, faults: Faults, *, quiet: bool, pace: float) -> None:
        self.cluster = cluster
        self.faults = faults
        self.quiet = quiet
        self.started = False
        self.closed = False
        self.handling = ""
        """The event that a handler hears at this moment."""
        self.hand = HandClient(cluster, self.advance, pace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what lies on the real disk, and let nodes be heard again."""
        self.closed = True
        self.cluster.close()
        if self.started and self.quiet:
            logger.enable("forge_consensus")

    def check_open(self) -> None:
        """Raise `NotStartedError` when the simulation is over."""
        if self.closed:
            raise NotStartedError(
                "this simulation is closed, by close() or the end of its `with`: do it before, or make another one"
            )

    def check_started(self) -> None:
        """Raise `NotStartedError` while no node ever ran, or when the simulation is over."""
        self.check_open()
        if not self.started:
            raise NotStartedError("no node of this simulation was started yet: call start(), advance() or run() before")

    def check_outside(self, what: str) -> None:
        """Raise `OperationFailedError` within a handler: no node moves while one is in the midst of a step."""
        self.check_open()
        if self.handling:
            raise OperationFailedError(
                f"{what}() was called by a handler, while it heard {self.handling} in the midst of a step: a handler "
                "may look, crash, pause and part nodes; have it note the rest and do that outside, for example behind "
                "advance(seconds, until=...)"
            )

    # --- time --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all nodes, once."""
        self.check_open()
        if not self.started:
            self.check_outside("start")
            refuse_in_twin()
            self.started = True
            if self.quiet:
                logger.disable("forge_consensus")
            self.cluster.start()

    def advance(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let so much virtual time pass, less if `until` says so after a step; returns what it says.

        Raises what was found wrong meanwhile, `InvalidConfigError` for what is no time.
        """
        self.check_outside("advance")
        seconds = seconds_of("seconds", seconds)
        if until is not None:
            check_function("until", until, "says whether it is enough")
        self.start()
        return self.cluster.run(seconds, until)

    def leader(self) -> str | None:
        """Who leads the highest term, of those that run."""
        self.check_open()
        base = self.cluster.leader()
        return None if base is None else base.name

    def wait_for_leader(self, seconds: float = 30.0) -> str:
        """Let time pass until somebody leads; raises `NoLeaderError` after so many virtual seconds."""
        self.check_outside("wait_for_leader")
        self.advance(seconds, lambda: self.cluster.leader() is not None)
        leader = self.leader()
        if leader is None:
            raise NoLeaderError(f"nobody leads after {seconds:g} virtual seconds: {self.standing()}")
        return leader

    def standing(self) -> str:
        """Where each node stands, in words."""
        return "; ".join([*self.standings(), *self.cuts()])

    def standings(self) -> Iterator[str]:
        """Where each node stands."""
        for name, node in self.cluster.nodes.items():
            base = node.running
            if base is None:
                yield f"{name} is down" + (
                    f" for good ({self.cluster.gone[name]})" if name in self.cluster.gone else ""
                )
                continue
            ledger = base.engine.ledger
            paused = "is paused" if base.resume_at > self.cluster.timeline.now else "runs"
            role = "leads" if ledger.leading is not None else paused
            yield (
                f"{name} {role} in term {ledger.term} with entries {ledger.log.base_index + 1} to {ledger.log.last}, "
                f"{ledger.commit_index} committed, {ledger.applied} applied"
            )

    def cuts(self) -> Iterator[str]:
        """What of the network is cut."""
        cut = self.cluster.network.cut
        if cut:
            yield "nothing passes " + ", ".join(f"from {sender} to {receiver}" for sender, receiver in sorted(cut))

    # --- nodes and network -------------------------------------------------------------------------------------------

    def name_of(self, node: str) -> str:
        """A node's name; "leader" is whoever leads. Raises `NodeNotFoundError`, `NoLeaderError`."""
        self.check_open()
        if node == LEADER:
            leader = self.leader()
            if leader is None:
                raise NoLeaderError(f"nobody leads at this moment, use wait_for_leader() before: {self.standing()}")
            return leader
        if not isinstance(node, str) or node not in self.cluster.nodes:
            raise NodeNotFoundError(f"there is no node {node!r}; there are {', '.join(self.cluster.names)}")
        return node

    def process_of(self, node: str) -> SimulatedBase:
        """The process of a node. Raises `UnavailableError` where it is down."""
        self.check_started()
        name = self.name_of(node)
        base = self.cluster.nodes[name].running
        if base is None:
            raise UnavailableError(f"{name} is down: restart() starts it again")
        return base

    def crash(self, node: str) -> str:
        """End a node's process at once; what was not flushed is lost. Returns its name."""
        self.check_started()
        name = self.name_of(node)
        self.cluster.crash(name)
        return name

    def restart(self, node: str) -> None:
        """Start a node on its disk as the last process left it; does nothing if it runs."""
        self.check_outside("restart")
        self.cluster.restart(self.name_of(node))

    def pause(self, node: str, seconds: float) -> str:
        """Stop a node's process for a while, as SIGSTOP does. Returns its name."""
        self.check_started()
        name, seconds = self.name_of(node), seconds_of("seconds", seconds)
        base = self.cluster.nodes[name].running
        if base is not None:
            base.pause(seconds)
        return name

    def partition(self, *groups: str | Sequence[str]) -> None:
        """Let frames through only within each group, a node or some; all who are in none form one more.

        Raises `InvalidConfigError` for a node that is in two.
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
        """End all faults: every node runs, every frame arrives, every disk is well."""
        self.check_outside("heal")
        self.faults.heal()

    # --- asking and hearing ------------------------------------------------------------------------------------------

    def subscribe(self, kind: type[ConsensusEvent] | str, handler: Callable[[ConsensusEvent], object]) -> None:
        """Have a handler hear the events of all nodes, at the moment of each, in virtual time.

        What it raises comes out of `run` or `advance`. It is called in the midst of a node's step, so it cannot let
        time pass. Call this before `start`, to hear everything. Raises `InvalidConfigError` for a kind that no event
        is of.
        """
        self.check_open()
        check_selection(kind)
        check_function("handler", handler, "takes an event")

        def heard(event: ConsensusEvent) -> None:
            try:
                with self.within(event.kind):
                    handler(event)
            except BaseException as error:  # a bus lets no handler harm a node; here it is to fail the run
                self.cluster.failure = self.cluster.failure or error

        for node in self.cluster.nodes.values():
            node.bus.subscribe(kind, heard, inline=True)

    @contextmanager
    def within(self, event: str) -> Iterator[None]:
        """A handler hears an event, perhaps one of what another handler did."""
        outer, self.handling = self.handling, event
        try:
            yield
        finally:
            self.handling = outer

    def submit(self, command: Command, node: str = LEADER, timeout: float = TIMEOUT_S) -> Any:
        """Have a command committed and applied by the shipped client, in virtual time; returns its result.

        Time passes until the client knows the outcome. With `node="leader"` the client is given all nodes, finds the
        leader and follows it if it changes; a node that is named is asked alone, and refuses if it does not lead.
        What is written here is no part of the history by which `run` judges: use keys that the workload does not use.

        Args:
            command: what the machine is to do.
            node: the id of the node to ask, or "leader".
            timeout: how long the client tries, in virtual seconds.

        Raises the client's error: `CommandError` for what the machine raised, `OutcomeUnknownError` if the command was
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
        """Ask a node's machine directly, past reads and leaders. Raises `UnavailableError` where it is down."""
        return self.process_of(node).engine.ledger.applier.query(query)
