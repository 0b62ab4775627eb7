"""The blocking client: reads and changes the state of a cluster from any thread, one call at a time or pipelined."""

from __future__ import annotations

import itertools
import secrets
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar, cast

import msgpack

from forge_consensus.actors.messages import (
    ChangeMembers,
    GetMembers,
    GetStatus,
    ListSnapshots,
    Locate,
    Located,
    Members,
    MembersPlanned,
    SnapshotList,
    TransferLeadership,
    TransferStarted,
)
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.driver import Deliver, Driver, finish_all
from forge_consensus.client.endpoints import LOCAL, LOCATE_WAIT_MS, parse_endpoints
from forge_consensus.client.key_calls import KeyCalls
from forge_consensus.client.member_calls import STILL_LEADS, MemberCalls, wait_for_change
from forge_consensus.client.members import POLL_SECONDS, ClusterMembers, MembersPlan
from forge_consensus.client.pending import Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.routes import Route
from forge_consensus.client.surface import PublicSurface
from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import CommandTooLargeError, ConsensusTimeoutError, InvalidConfigError
from forge_consensus.process.fork import tell_of_forks
from forge_consensus.storage.ledger.changes import Change, changes_of
from forge_consensus.storage.machines.machine import COMMAND_BYTES_MAX, Command

if TYPE_CHECKING:
    from forge_consensus.client.backup import SnapshotTaken, Step
    from forge_consensus.client.cluster_info import ClusterInfo
    from forge_consensus.storage.restoring import SnapshotReport

Result = TypeVar("Result")
TIMEOUT_SECONDS = 5.0
"""How long a call tries where neither it nor its client says otherwise."""
TIMEOUT_SECONDS_MAX = 1e9
"""The longest time that a call can be given, some 30 years, because the clocks of Python and ZeroMQ end beyond it."""


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
            "list_query",
            "endpoint_name",
            "carry_out",
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

    @property
    def last_index(self) -> int:
        """The newest log entry of which this client has seen the effect in any answer, 0 before the first one.

        A read with it as `after_index` sees everything that this client wrote and read before, on whichever node.
        """
        return self.driver.core.last_index

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

    def query(self, query: Any, route: Route, timeout: float | None) -> PendingRead[Any]:
        """The call that answers a query by that route, not yet handed over; ValueError for what cannot be encoded."""
        try:
            payload = cast("bytes", msgpack.packb(query))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"query {type(query).__name__} cannot be encoded: {error}") from error
        return PendingRead(payload, self.deadline(timeout), route)

    def status_query(self, endpoint: str | None, timeout: float | None) -> PendingNodeQuery[dict[str, Any]]:
        """The call that asks a node for its status, not yet handed over. Raises `InvalidConfigError` for no address."""
        return PendingNodeQuery(GetStatus(), self.endpoint_name(endpoint), self.deadline(timeout))

    def endpoint_name(self, endpoint: str | None) -> str:
        """The name of an endpoint in its one spelling, "" for any. Raises `InvalidConfigError` for no address."""
        return "" if endpoint is None else endpoint if endpoint in {"", LOCAL} else parse_endpoint(endpoint)

    def list_query(self, endpoint: str | None, timeout: float | None) -> PendingNodeQuery[SnapshotList]:
        """The call that asks for snapshot files, not yet handed over. Raises `InvalidConfigError` for no address."""
        return PendingNodeQuery(ListSnapshots(), self.endpoint_name(endpoint), self.deadline(timeout))

    def locate_query(self, timeout: float | None) -> PendingNodeQuery[Located]:
        """The call that asks who leads, not yet handed over."""
        return PendingNodeQuery(Locate(0, LOCATE_WAIT_MS), "", self.deadline(timeout))

    def members_query(self, endpoint: str | None, timeout: float | None) -> PendingNodeQuery[Members]:
        """The call that asks for the members, not yet handed over. Raises `InvalidConfigError` for no address."""
        return PendingNodeQuery(GetMembers(), self.endpoint_name(endpoint), self.deadline(timeout))

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
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> PendingRead[Any]:
        """Hand over a query and return the future of its answer at once; arguments are those of `read`."""
        pending = self.query(query, Route.of(consistency, read_from, max_staleness, after_index), timeout)
        self.driver.hand_over(pending)
        return pending

    def read(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Return the state machine's answer to a query.

        Args:
            query: a key, or whatever else the state machine understands; anything that msgpack encodes.
            consistency: ``linearizable`` sees everything that was acknowledged before the call. ``lease`` does so
                without a round trip among the nodes, where the cluster has leases on. ``stale`` asks any node, which
                answers from its own state without a leader.
            timeout: how many seconds the query tries; None for the client's timeout.
            read_from: which node answers. "leader"; "nearest", the endpoint that the client prefers while it can be
                reached, otherwise the leader or any; "any", all that can be reached in turn; or the address of one
                node. None is "nearest" for ``stale`` reads and "leader" for the others. A node that does not lead
                asks the leader for no data, only from which log entry on its own state will do. If two nodes cannot
                answer, the leader is asked, unless one node was named.
            max_staleness: how many seconds old a ``stale`` answer may be: it has everything that was committed earlier.
                Nodes with an older state are passed over. None for any age.
            after_index: the log entry that the answer must reflect, such as `last_index`, or the `applied` of an
                outcome; a node waits for it up to an election timeout. 0 for none.

        Raises `InvalidConfigError` for arguments that cannot be, ValueError for what cannot be encoded, and
        `StaleReadError` if nobody had a state as new as was asked for until the time was over.

        """
        return self.ask_query(
            query,
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        ).result()

    def read_detail(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return the answer to a query and as of when it is true; arguments are those of `read`."""
        pending = self.ask_query(
            query,
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
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
        if wait:
            wait_for_change(lambda seconds: self.members(timeout=seconds), plan, deadline)
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

    def get_cluster_info(self, timeout: float | None = None) -> ClusterInfo:
        """Return the cluster as its leader sees it, or any node where none is known (the original's `GetClusterInfo`).

        `members` tells the part that each member has, and of a change of them that is under way.
        """
        from forge_consensus.actors.runtime.status import (
            NodeStatus,  # imported late: few programs need it, and all would wait for it
        )
        from forge_consensus.client.cluster_info import cluster_of

        return cluster_of(NodeStatus.from_dict(self.status(timeout=timeout)))

    def carry_out(self, steps: Generator[Step, Any, Result]) -> Result:
        """Carry out the steps of a backup one after the other, on this thread, and return their result."""
        answer = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, PendingNodeQuery):
                    self.driver.hand_over(step)
                    answer = step.result()
                else:
                    answer = step()
        except StopIteration as done:
            return cast("Result", done.value)
        finally:
            steps.close()

    def snapshot(self, endpoint: str | None = None, timeout: float | None = None) -> SnapshotTaken:
        """Have a node take a snapshot of what it has applied now, and return when the file is durable.

        Args:
            endpoint: the address of the node; None for the leader, or any node where none is known.
            timeout: how many seconds that may take; None for ten minutes.

        Raises `OperationFailedError` if the node could not take it.

        """
        from forge_consensus.client.backup import (  # imported late: few programs need it, and all would wait for it
            Backup,
            SnapshotTaken,
        )

        made, _ = self.carry_out(Backup(self.deadline, timeout).take(self.endpoint_name(endpoint)))
        return SnapshotTaken(made.node, made.index, made.term, made.size)

    def snapshots(self, endpoint: str | None = None, timeout: float | None = None) -> list[SnapshotTaken]:
        """Return the snapshot files of a node, the newest first; arguments as `status`."""
        from forge_consensus.client.backup import (
            taken_of,  # imported late: few programs need it, and all would wait for it
        )

        pending = self.list_query(endpoint, timeout)
        self.driver.hand_over(pending)
        return taken_of(pending.result())

    def save_snapshot(
        self,
        file: str | Path,
        endpoint: str | None = None,
        *,
        stale: bool = False,
        force: bool = False,
        timeout: float | None = None,
    ) -> SnapshotReport:
        """Save a backup of the cluster's state to a file: a snapshot, checked to its last byte, durable and complete.

        A node takes a snapshot if its newest one is not new enough, and sends the file in parts, so that neither side
        holds it in memory. It is written beside `file` and gets that name at the end. What the leader had committed
        when the call began is in it. `forge_consensus.storage.restoring` makes a new cluster of it.

        Args:
            file: the file to be made; its folder exists.
            endpoint: the address of the node that takes and sends it, which need not lead; None for any.
            stale: whether what the node itself has applied is enough, so that no leader is needed.
            force: whether to replace a file that is there.
            timeout: how many seconds all of it may take; None for ten minutes.

        Raises `AlreadyExistsError` for a file that is there, `NoLeaderError` without a leader, `StorageError` if the
        file cannot be written, `CorruptionError` if it arrived damaged, and `OperationFailedError` if the node could
        not take a snapshot. Then no file is left.

        """
        from forge_consensus.client.backup import (
            Backup,  # imported late: few programs need it, and all would wait for it
        )

        backup = Backup(self.deadline, timeout)
        return self.carry_out(backup.save(Path(file), self.endpoint_name(endpoint), stale=stale, force=force))

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
