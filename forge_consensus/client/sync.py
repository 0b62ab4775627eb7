"""The client: reads and changes the cluster, from any thread, blocking or pipelined."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import msgpack

from forge_consensus.actors.messages import CONSISTENCIES, GetStatus, Locate, Located
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.driver import Deliver, Driver, finish_all
from forge_consensus.client.endpoints import LOCAL, LOCATE_WAIT_MS, parse_endpoint, parse_endpoints
from forge_consensus.client.pending import Pending, PendingAsk, PendingRead
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import CommandTooLargeError, InvalidConfigError
from forge_consensus.storage.machines.machine import COMMAND_BYTES_MAX, Command

TIMEOUT_S = 5.0
TIMEOUT_S_MAX = 1e9
"""No call waits longer, some 30 years: the clocks of Python and ZeroMQ end somewhere beyond."""
SCAN_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class ReadDetail:
    """An answer as of the log index `applied`, at most `stale_ms` milliseconds old."""

    value: Any
    applied: int
    stale_ms: int


def check_timeout(timeout: object, *, late: bool = False) -> float:
    """The time a call may take; `late`: it may be over already. Raises `InvalidConfigError` for what is none."""
    if isinstance(timeout, int | float) and timeout <= TIMEOUT_S_MAX and (late or timeout > 0):
        return max(timeout, 0.0)
    raise InvalidConfigError(
        f"timeout is {timeout!r}: expected seconds above 0 and up to {TIMEOUT_S_MAX:g}, such as 5.0"
    )


def correlation_ids() -> Iterator[str]:
    """Ids that are not given twice, on any client: a random part, and a number (0.2 us each)."""
    prefix = secrets.token_hex(8)
    return (f"{prefix}-{number}" for number in itertools.count(1))


class Calls:
    """How the calls of both clients become commands, queries and questions; nothing waits."""

    def __init__(
        self,
        endpoints: Sequence[str] | str = (),
        timeout: float = TIMEOUT_S,
        cluster_id: str = "",
        *,
        limits: ClientSettings | None = None,
        port: LocalPort | None = None,
        deliver: Deliver = finish_all,
        follow: bool = True,
        prefer: str = "",
        correlate: bool = False,
    ) -> None:
        check_timeout(timeout)
        if port is None or endpoints:
            endpoints = parse_endpoints(endpoints)
        self.timeout = timeout
        self.correlation_ids = correlation_ids() if correlate else None
        """Where ids for commands without one come from, if every command shall have one."""
        self.link = Driver(
            endpoints, cluster=cluster_id, limits=limits, port=port, deliver=deliver, follow=follow, prefer=prefer
        )

    def deadline(self, timeout: float | None) -> float:
        """When a call that begins now must have ended. Raises `InvalidConfigError` for what is no time."""
        if timeout is None:
            timeout = self.timeout
        elif timeout != self.timeout:
            timeout = check_timeout(timeout, late=True)
        return time.monotonic() + timeout

    def command(self, command: Command, timeout: float | None) -> Pending[Any]:
        """The command, not yet handed over.

        Raises `CommandTooLargeError`, or ValueError for one that is none.
        """
        if not isinstance(command, Command):
            raise ValueError(f'{command!r} is no command: make one, such as Command("set", {{"key": "k", "value": 1}})')
        if self.correlation_ids is not None and command.correlation_id is None:
            command = Command(command.type, command.payload, next(self.correlation_ids))
        payload = command.encode()
        if len(payload) > COMMAND_BYTES_MAX:
            raise CommandTooLargeError(
                f"the command has {len(payload)} bytes and at most {COMMAND_BYTES_MAX} "
                "are possible: send less in one command"
            )
        return Pending(payload, self.deadline(timeout))

    def query(self, query: Any, consistency: str, timeout: float | None) -> PendingRead[Any]:
        """The query, not yet handed over. Raises ValueError for one that is none."""
        if consistency not in CONSISTENCIES:
            raise InvalidConfigError(f"consistency is {consistency!r}: expected one of {', '.join(CONSISTENCIES)}")
        try:
            payload = cast("bytes", msgpack.packb(query))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"query {type(query).__name__} cannot be encoded: {error}") from error
        return PendingRead(payload, self.deadline(timeout), consistency)

    def status_question(self, endpoint: str | None, timeout: float | None) -> PendingAsk[dict[str, Any]]:
        """The question for a node's status, not yet handed over."""
        name = "" if endpoint is None else endpoint
        if name not in {"", LOCAL}:
            name = parse_endpoint(name)
        return PendingAsk(GetStatus(), name, self.deadline(timeout))

    def locate_question(self, timeout: float | None) -> PendingAsk[Located]:
        """The question who leads, not yet handed over."""
        return PendingAsk(Locate(0, LOCATE_WAIT_MS), "", self.deadline(timeout))


class KeyCalls:
    """The built-in machine's commands and queries as methods, for whoever can apply and read."""

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Carry out a command and return what the machine returned."""
        raise NotImplementedError

    def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Answer a query."""
        raise NotImplementedError

    def put(self, key: str, value: Any, timeout: float | None = None, correlation_id: str | None = None) -> Any:
        """Set a key to a value. Here and below, `correlation_id` is the command's: see `Command`."""
        return self.apply(Command("set", {"key": key, "value": value}, correlation_id), timeout)

    def get(self, key: str, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """The value of a key, None if it has none."""
        return self.read(key, consistency, timeout)

    def delete(self, key: str, timeout: float | None = None, correlation_id: str | None = None) -> bool:
        """Remove a key; whether it was there."""
        return bool(self.apply(Command("delete", {"key": key}, correlation_id), timeout))

    def cas(
        self, key: str, *, expected: Any, value: Any, timeout: float | None = None, correlation_id: str | None = None
    ) -> bool:
        """Set a key if it holds the expected value (None: if it has none); whether it was set."""
        payload = {"key": key, "expected": expected, "value": value}
        return bool(self.apply(Command("cas", payload, correlation_id), timeout))

    def incr(self, key: str, by: int = 1, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Add to a number and return the sum; a missing key counts as 0."""
        return cast("int", self.apply(Command("increment", {"key": key, "by": by}, correlation_id), timeout))

    def scan(
        self,
        prefix: str = "",
        limit: int = SCAN_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
    ) -> list[tuple[str, Any]]:
        """Keys that begin with a prefix and their values, in order, at most `limit`."""
        pairs = self.read({"scan": prefix, "limit": limit}, consistency, timeout)
        return [(key, value) for key, value in pairs]


class Client(Calls, KeyCalls):
    """A client of a cluster.

    Finds the leader by itself, follows it, and repeats what is safe to repeat until `timeout`
    seconds are over; a command is carried out at most once. Safe to use from any number of threads.
    Close it, or use it in a `with`. With `correlate`, commands without a correlation id get one, which the future of
    `submit` tells.

    Every call raises `ConsensusError`: `OutcomeUnknownError` if a command was sent and no answer
    came, `NoLeaderError`, `ConnectionFailedError`, `BusyError` or `ConsensusTimeoutError` if it was
    certainly not carried out, `CommandError` if the machine refused it, `NotStartedError` after
    `close`.
    """

    def submit(self, command: Command, timeout: float | None = None) -> Pending[Any]:
        """Hand over a command and return at once with the future of its result.

        Blocks while `limits.outstanding_max` commands are outstanding, and raises `BusyError` if
        that lasts.
        """
        pending = self.command(command, timeout)
        if self.link.full():
            self.link.wait_for_room(self.timeout if timeout is None else timeout)
        self.link.hand_over(pending)
        return pending

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Carry out a command and return what the machine returned."""
        return self.submit(command, timeout).result()

    def ask_query(
        self, query: Any, consistency: str = "linearizable", timeout: float | None = None
    ) -> PendingRead[Any]:
        """Hand over a query and return at once with the future of its answer."""
        pending = self.query(query, consistency, timeout)
        self.link.hand_over(pending)
        return pending

    def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Answer a query: a key, or what else the machine understands.

        ``linearizable`` sees everything that was acknowledged before the call; ``lease`` does so
        without a round trip among the nodes, where leases are on; ``stale`` asks any node.
        """
        return self.ask_query(query, consistency, timeout).result()

    def read_detail(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> ReadDetail:
        """Answer a query and say as of when."""
        pending = self.ask_query(query, consistency, timeout)
        return ReadDetail(pending.result(), pending.applied, pending.stale_ms)

    def status(self, endpoint: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """What a node says of itself: the one at that endpoint, or the leader, or any."""
        pending = self.status_question(endpoint, timeout)
        self.link.hand_over(pending)
        return pending.result()

    def locate(self, timeout: float | None = None) -> Located:
        """Who leads, in which term, and who the members are, as one node sees it.

        Waits until somebody leads.
        """
        pending = self.locate_question(timeout)
        self.link.hand_over(pending)
        return pending.result()

    def close(self) -> None:
        """Let go of the network; what is outstanding ends with an error. May be called twice."""
        self.link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
