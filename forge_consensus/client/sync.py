"""The blocking client: reads and changes the state of a cluster from any thread, one call at a time or pipelined."""

from __future__ import annotations

import itertools
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self, cast

import msgpack

from forge_consensus.actors.messages import (
    CONSISTENCIES,
    ChangeMembers,
    GetMembers,
    GetStatus,
    Locate,
    Located,
    Members,
    MembersPlanned,
    TransferLeadership,
    TransferStarted,
)
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.driver import Deliver, Driver, finish_all
from forge_consensus.client.endpoints import LOCAL, LOCATE_WAIT_MS, parse_endpoints
from forge_consensus.client.member_calls import STILL_LEADS, UNFINISHED, MemberCalls
from forge_consensus.client.members import POLL_SECONDS, ClusterMembers, MembersPlan
from forge_consensus.client.pending import Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.surface import PublicSurface
from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import CommandTooLargeError, ConsensusTimeoutError, InvalidConfigError
from forge_consensus.process.fork import tell_of_forks
from forge_consensus.storage.ledger.changes import Change, changes_of
from forge_consensus.storage.machines.machine import COMMAND_BYTES_MAX, Command

TIMEOUT_SECONDS = 5.0
"""How long a call tries where neither it nor its client says otherwise."""
TIMEOUT_SECONDS_MAX = 1e9
"""The longest time that a call can be given, some 30 years, because the clocks of Python and ZeroMQ end beyond it."""
SCAN_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class ReadDetail:
    """The answer to a query, and as of when it is true."""

    value: Any
    """What the state machine answered."""
    applied: int
    """The index of the last log entry that the answering node had applied."""
    stale_ms: int
    """What was committed so many milliseconds before the node made the answer, or earlier, is in it.

    0 unless the consistency is ``stale``; 2**53 while the node knows nothing, as after its start. What the quickest
    request of the leader takes to that node comes on top, and so do the answer's way to the client and the error of the
    node's clock, which counts them.
    """


def check_timeout(timeout: object, *, late: bool = False) -> float:
    """The time in seconds that a call can take.

    With `late` it may be 0 or less, for a time that is over already. Raises `InvalidConfigError` for anything else.
    """
    if isinstance(timeout, int | float) and timeout <= TIMEOUT_SECONDS_MAX and (late or timeout > 0):
        return max(timeout, 0.0)
    raise InvalidConfigError(
        f"timeout is {timeout!r}: expected seconds above 0 and up to {TIMEOUT_SECONDS_MAX:g}, such as 5.0"
    )


def correlation_ids() -> Iterator[str]:
    """Ids that no client gives twice, because each is a random part of its client's and a number (0.2 us each)."""
    prefix = CorrelationPrefix()
    return (f"{prefix.text}-{number}" for number in itertools.count(1))


class CorrelationPrefix:
    """The random part of the ids of one client in one process; a forked child has another one."""

    def __init__(self) -> None:
        self.text = secrets.token_hex(8)
        tell_of_forks(self)

    def forked(self) -> None:
        """Take a part of this process' own."""
        self.text = secrets.token_hex(8)


class Calls(PublicSurface):
    """What both clients share: they check arguments and make commands, queries and node queries of calls.

    Nothing here waits.
    """

    begins_at_once: ClassVar[bool] = True
    """Whether the driver's thread begins with the client, and not with its first call."""
    internal = frozenset(
        {
            "internal",
            "begins_at_once",
            "driver",
            "correlation_ids",
            "deadline",
            "command",
            "query",
            "status_query",
            "locate_query",
            "members_query",
            "change_query",
            "transfer_query",
        }
    )

    def __init__(
        self,
        endpoints: Sequence[str] | str = (),
        timeout: float = TIMEOUT_SECONDS,
        cluster_id: str = "",
        *,
        settings: ClientSettings | None = None,
        port: LocalPort | None = None,
        deliver: Deliver = finish_all,
        follow: bool = True,
        prefer: str = "",
        correlate: bool = False,
    ) -> None:
        check_timeout(timeout)
        if settings is not None and not isinstance(settings, ClientSettings):  # callers without a type checker
            raise InvalidConfigError(f"settings is {settings!r:.99}: give forge_consensus.ClientSettings(...), or None")
        if port is None or endpoints:
            endpoints = parse_endpoints(endpoints)
        self.timeout = timeout
        self.correlation_ids = correlation_ids() if correlate else None
        """Yields ids for commands without one; None if such commands stay without."""
        self.driver = Driver(
            endpoints, cluster=cluster_id, settings=settings, port=port, deliver=deliver, follow=follow, prefer=prefer
        )
        # The driver does not know this object, so that one that is dropped without `close` takes its thread with it.
        weakref.finalize(self, self.driver.let_go).atexit = False
        if self.begins_at_once:
            self.driver.begin()

    def __repr__(self) -> str:
        """The endpoints, the leader as far as it is known, and whether the client is open."""
        directory = self.driver.core.directory
        leader = directory.leader
        named = "unknown" if leader is None else f"{leader.node or leader.name} in term {directory.term}"
        state = "closed" if self.driver.closing or self.driver.closed_by is not None else "open"
        return f"<{type(self).__name__} endpoints={','.join(list(directory.endpoints))} leader={named} {state}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or sent to another process."""
        raise TypeError(
            f"a client cannot be pickled or copied, because it is a thread and connections: make another "
            f"{type(self).__name__} with the same endpoints where it is needed"
        )

    def deadline(self, timeout: float | None) -> float:
        """The monotonic time at which a call that begins now ends. Raises `InvalidConfigError` for what is no time."""
        if timeout is None:
            timeout = self.timeout
        elif timeout != self.timeout:
            timeout = check_timeout(timeout, late=True)
        return time.monotonic() + timeout

    def command(self, command: Command, timeout: float | None) -> Pending[Any]:
        """The call that carries out a command, not yet handed over.

        Raises `CommandTooLargeError`, and ValueError for what is no command.
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
        """The call that answers a query, not yet handed over.

        Raises `InvalidConfigError` for an unknown consistency, and ValueError for what cannot be encoded.
        """
        if consistency not in CONSISTENCIES:
            raise InvalidConfigError(f"consistency is {consistency!r}: expected one of {', '.join(CONSISTENCIES)}")
        try:
            payload = cast("bytes", msgpack.packb(query))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"query {type(query).__name__} cannot be encoded: {error}") from error
        return PendingRead(payload, self.deadline(timeout), consistency)

    def status_query(self, endpoint: str | None, timeout: float | None) -> PendingNodeQuery[dict[str, Any]]:
        """The call that asks a node for its status, not yet handed over. Raises `InvalidConfigError` for no address."""
        name = "" if endpoint is None else endpoint
        if name not in {"", LOCAL}:
            name = parse_endpoint(name)
        return PendingNodeQuery(GetStatus(), name, self.deadline(timeout))

    def locate_query(self, timeout: float | None) -> PendingNodeQuery[Located]:
        """The call that asks who leads, not yet handed over."""
        return PendingNodeQuery(Locate(0, LOCATE_WAIT_MS), "", self.deadline(timeout))

    def members_query(self, endpoint: str | None, timeout: float | None) -> PendingNodeQuery[Members]:
        """The call that asks for the members, not yet handed over. Raises `InvalidConfigError` for no address."""
        name = "" if endpoint is None else endpoint
        if name not in {"", LOCAL}:
            name = parse_endpoint(name)
        return PendingNodeQuery(GetMembers(), name, self.deadline(timeout))

    def change_query(
        self, changes: Sequence[Change], timeout: float | None, *, force: bool, dry_run: bool
    ) -> PendingNodeQuery[MembersPlanned]:
        """The call that changes the members, not yet handed over. Raises `InvalidConfigError`."""
        rows = tuple((str(action), node, address) for action, node, address in changes)
        changes_of(rows)
        return PendingNodeQuery(ChangeMembers(rows, force, dry_run), "", self.deadline(timeout))

    def transfer_query(self, target: str, timeout: float | None) -> PendingNodeQuery[TransferStarted]:
        """The call that hands the leadership over, not yet handed over itself."""
        return PendingNodeQuery(TransferLeadership(target), "", self.deadline(timeout))


def batch_command(commands: Iterable[Command], correlation_id: str | None) -> Command:
    """The one command that carries out these commands of the key-value machine, all or none.

    Raises ValueError for what is no command.
    """
    ops = []
    for command in commands:
        if not isinstance(command, Command):
            raise ValueError(f'{command!r} is no command: make one, such as Command("set", {{"key": "k", "value": 1}})')
        ops.append({**command.payload, "type": command.type})
    return Command("batch", {"ops": ops}, correlation_id)


class KeyCalls:
    """The commands and queries of the built-in key-value machine as methods, for a class that has `apply` and `read`.

    In all of them `key` is a text, `value` anything that msgpack encodes, `timeout` the seconds that the call tries
    (None for the client's), and `correlation_id` a text that travels with the command and its events (see `Command`).
    They raise what `apply` and `read` raise.
    """

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the machine's result."""
        raise NotImplementedError

    def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Return the machine's answer to a query, of that consistency."""
        raise NotImplementedError

    def put(self, key: str, value: Any, timeout: float | None = None, correlation_id: str | None = None) -> Any:
        """Set a key to a value.

        None is a value like any other: `scan` lists the key and `delete` finds it. But `get` returns None for it as for
        a key without value, and `cas` with ``expected=None`` succeeds only where there is none.
        """
        return self.apply(Command("set", {"key": key, "value": value}, correlation_id), timeout)

    def get(self, key: str, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Return the value of a key; None if it has none, and if its value is None (see `put`)."""
        return self.read(key, consistency, timeout)

    def delete(self, key: str, timeout: float | None = None, correlation_id: str | None = None) -> bool:
        """Remove a key; return whether it was there."""
        return bool(self.apply(Command("delete", {"key": key}, correlation_id), timeout))

    def cas(
        self, key: str, *, expected: Any, value: Any, timeout: float | None = None, correlation_id: str | None = None
    ) -> bool:
        """Set a key if it holds the `expected` value (None: if it has none); return whether it was set."""
        payload = {"key": key, "expected": expected, "value": value}
        return bool(self.apply(Command("cas", payload, correlation_id), timeout))

    def incr(self, key: str, by: int = 1, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Add `by` to the number at a key and return the sum; a missing key counts as 0.

        Raises `CommandError` if the key holds no number.
        """
        return cast("int", self.apply(Command("increment", {"key": key, "by": by}, correlation_id), timeout))

    def delete_prefix(self, prefix: str, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Remove all keys that begin with `prefix` ("" for all keys) and return how many there were.

        At most 10,000 keys or 8 MiB of values go at once; it takes commands until none is left, between which others
        may write. `timeout` is that of each command.
        """
        total = 0
        while True:
            gone = cast("int", self.apply(Command("delete_prefix", {"prefix": prefix}, correlation_id), timeout))
            total += gone
            if not gone:
                return total

    def batch(
        self, commands: Iterable[Command], timeout: float | None = None, correlation_id: str | None = None
    ) -> list[Any]:
        """Carry out several commands of the machine as one, all or none, and return the list of their results.

        Nothing is changed if one of them fails (`CommandError`). A cas that does not match has not failed: its result
        is False, and the others are carried out.
        """
        return cast("list[Any]", self.apply(batch_command(commands, correlation_id), timeout))

    def scan(
        self,
        prefix: str = "",
        limit: int = SCAN_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
    ) -> list[tuple[str, Any]]:
        """Return at most `limit` pairs (key, value) of the keys that begin with `prefix`, in the order of the keys."""
        pairs = self.read({"scan": prefix, "limit": limit}, consistency, timeout)
        return [(key, value) for key, value in pairs]


class Client(Calls, KeyCalls, MemberCalls):
    """A client of a cluster; safe to use from any number of threads. Close it, or use it in a ``with`` statement.

    It finds the leader, follows it, and sends again whatever is safe to send again until the call's timeout is over.
    A command is carried out at most once. The client runs one thread.

    A client that is dropped without `close` ends when its calls have. In a forked process it is a new client with a
    session of its own: its first call there makes new connections, and calls that the parent made end there with an
    error, because the parent goes on with them. Under gevent only the greenlet that called waits.

    Args:
        endpoints: where nodes answer: addresses ``host:port`` or ``ipc:///path``, as a list or a text with commas
            between them. One node that can be reached is enough, because the client learns the others.
        timeout: how many seconds a call tries where it is not told otherwise; above 0.
        cluster_id: the cluster that the nodes must belong to; "" for the cluster of the first node that answers.
        settings: the client's bounds and times; None for the defaults of `ClientSettings`.
        port: a node of this process, which is then an endpoint itself; None for none.
        deliver: takes the calls that ended, on the client's thread.
        follow: whether to go to nodes that are not in `endpoints`. If not, only those are asked, and a call that needs
            the leader raises `NotLeaderError` where none of them leads.
        prefer: the endpoint that answers ``stale`` reads while it can be reached; "" for any.
        correlate: whether a command without a correlation id gets one, which the future of `submit` tells.

    Raises `InvalidConfigError` for endpoints or a timeout that are none. Every call raises a `ConsensusError`:

    - `CommandError` if the state machine refused the command or query;
    - `OutcomeUnknownError` (and its subclass `SessionExpiredError`) if a command was sent and no answer came, so that
      it may have been or may still be carried out: read before you repeat it;
    - `NoLeaderError`, `ConnectionFailedError`, `BusyError` or `ConsensusTimeoutError` if it was certainly not
      carried out: it can be repeated;
    - `CommandTooLargeError` for a command larger than the cluster takes;
    - `NotStartedError` after `close`;
    - `TransportUnavailableError` if the process may open no more files or threads.

    """

    def submit(self, command: Command, timeout: float | None = None) -> Pending[Any]:
        """Hand over a command and return the future of its result at once, so that many can be under way.

        Blocks while `settings.outstanding_max` commands are outstanding.

        Args:
            command: what the state machine is to do.
            timeout: how many seconds the command tries; None for the client's timeout.

        Raises `BusyError` if no command ends within `timeout`, `CommandTooLargeError`, `NotStartedError` after
        `close`, and ValueError for what is no command. The future raises the errors of the call itself.

        """
        pending = self.command(command, timeout)
        if self.driver.full():
            self.driver.wait_for_capacity(self.timeout if timeout is None else timeout)
        self.driver.hand_over(pending)
        return pending

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the state machine's result; arguments and errors are those of `submit`."""
        return self.submit(command, timeout).result()

    def ask_query(
        self, query: Any, consistency: str = "linearizable", timeout: float | None = None
    ) -> PendingRead[Any]:
        """Hand over a query and return the future of its answer at once; arguments are those of `read`."""
        pending = self.query(query, consistency, timeout)
        self.driver.hand_over(pending)
        return pending

    def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Return the state machine's answer to a query.

        Args:
            query: a key, or whatever else the state machine understands; anything that msgpack encodes.
            consistency: ``linearizable`` sees everything that was acknowledged before the call. ``lease`` does so
                without a round trip among the nodes, where the cluster has leases on. ``stale`` asks any node, which
                answers from its own state without a leader.
            timeout: how many seconds the query tries; None for the client's timeout.

        Raises `InvalidConfigError` for an unknown consistency, ValueError for what cannot be encoded.

        """
        return self.ask_query(query, consistency, timeout).result()

    def read_detail(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> ReadDetail:
        """Return the answer to a query and as of when it is true; arguments are those of `read`."""
        pending = self.ask_query(query, consistency, timeout)
        return ReadDetail(pending.result(), pending.applied, pending.stale_ms)

    def status(self, endpoint: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Return the status that a node reports of itself.

        Args:
            endpoint: the address of the node to ask; None for the leader, or any node where none is known.
            timeout: how many seconds to try; None for the client's timeout.

        """
        pending = self.status_query(endpoint, timeout)
        self.driver.hand_over(pending)
        return pending.result()

    def locate(self, timeout: float | None = None) -> Located:
        """Return who leads, in which term, and who the members are, as one node sees it.

        Waits until a node leads. Raises `NoLeaderError` if none does within `timeout` seconds (None for the client's).
        """
        pending = self.locate_query(timeout)
        self.driver.hand_over(pending)
        return pending.result()

    def members(self, endpoint: str | None = None, timeout: float | None = None) -> ClusterMembers:
        """Return the members of the cluster (the original's `GetClusterInfo`).

        Args:
            endpoint: the address of the node to ask; None for the leader, or any node where none is known.
            timeout: how many seconds to try; None for the client's timeout.

        """
        pending = self.members_query(endpoint, timeout)
        self.driver.hand_over(pending)
        return ClusterMembers.of(pending.result())

    def change_members(
        self,
        *changes: Change,
        force: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Change the members of the cluster, and return the steps that the change takes.

        Changes that are named together are made together, by way of a joint configuration if more than one voter
        differs (dissertation 4.3). They go on under the next leader if this one fails.

        Args:
            changes: what is to be done to which member, such as ``Change(Action.ADD, "n4", "10.0.0.4:7000")``.
            force: whether to make a change although those that answer now would be no quorum.
            dry_run: whether only to return the steps, and to change nothing.
            wait: whether to wait until the change is complete: with learners that are to vote, until they do.
            timeout: how many seconds to try and to wait; None for the client's timeout.

        Raises `InvalidConfigError` for a change that is impossible or would lose the quorum, `BusyError` while another
        one is under way, `OutcomeUnknownError` if the change may have been begun, and `ConsensusTimeoutError` if it was
        begun and is not complete in time.

        """
        deadline = self.deadline(timeout)
        pending = self.change_query(changes, timeout, force=force, dry_run=dry_run)
        self.driver.hand_over(pending)
        plan = MembersPlan.of(pending.result())
        while wait and plan.index and not plan.is_done(self.members(timeout=max(deadline - time.monotonic(), 0.001))):
            time.sleep(POLL_SECONDS)
            if time.monotonic() > deadline:
                raise ConsensusTimeoutError(UNFINISHED)
        return plan

    def transfer_leadership(self, target: str = "", *, wait: bool = True, timeout: float | None = None) -> str | None:
        """Hand the leadership over to another voter (dissertation 3.10; the original's `TransferLeadership`).

        The target catches up first. What is submitted meanwhile waits, and is neither lost nor refused.

        Args:
            target: the node that is to lead; "" for the voter that has most of the log.
            wait: whether to wait until another node leads.
            timeout: how many seconds to try and to wait; None for the client's timeout.

        Returns the node that leads then, None without `wait`. Raises `InvalidConfigError` for a node that cannot lead,
        and `ConsensusTimeoutError` if the same node still leads: a handover that takes an election timeout is given up.

        """
        deadline = self.deadline(timeout)
        pending = self.transfer_query(target, timeout)
        self.driver.hand_over(pending)
        started = pending.result()
        while wait:
            located = self.locate(timeout=max(deadline - time.monotonic(), 0.001))
            if located.term > started.term:
                return located.leader
            if time.monotonic() > deadline:
                raise ConsensusTimeoutError(STILL_LEADS)
            time.sleep(POLL_SECONDS)
        return None

    def close(self) -> None:
        """Close all connections and end the thread; every outstanding call ends with an error. May be called twice."""
        self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
