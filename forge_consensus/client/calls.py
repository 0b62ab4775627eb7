"""What the blocking and the asynchronous client share: their arguments, and how calls are made of these."""

from __future__ import annotations

import itertools
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, cast

import msgpack

from forge_consensus.actors.messages import (
    ChangeMembers,
    GetMembers,
    GetStatus,
    Locate,
    Located,
    Members,
    MembersPlanned,
    ReloadConfig,
    TransferLeadership,
    TransferStarted,
)
from forge_consensus.client.asked_by import ASKED_BY
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.driver import Deliver, Driver, finish_all
from forge_consensus.client.endpoints import LOCAL, LOCATE_WAIT_MS, parse_endpoints
from forge_consensus.client.member_calls import until_done, until_transferred
from forge_consensus.client.members import ClusterMembers, MembersPlan
from forge_consensus.client.pending import BARRIER, Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.routes import Route
from forge_consensus.client.steps import Steps
from forge_consensus.client.surface import PublicSurface
from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.client import ClientSettings
from forge_consensus.config.client_file import read_client_file
from forge_consensus.errors import CommandTooLargeError, InvalidConfigError
from forge_consensus.process.fork import tell_of_forks
from forge_consensus.security.credentials import Credentials, credentials_of
from forge_consensus.security.permissions import RESERVED
from forge_consensus.storage.ledger.changes import Change, changes_of
from forge_consensus.storage.machines.machine import COMMAND_BYTES_MAX, Command

if TYPE_CHECKING:
    from forge_consensus.client.backup import Backup
    from forge_consensus.client.cluster_info import ClusterInfo

TIMEOUT_SECONDS = 5.0
"""How long a call tries where neither it nor its client says otherwise."""
TIMEOUT_SECONDS_MAX = 1e9
"""The longest time that a call can be given, some 30 years, because the clocks of Python and ZeroMQ end beyond it."""


def listed(commands: Iterable[Command]) -> list[Command]:
    """The commands as a list. Raises ValueError for what can be none, such as a single command."""
    if isinstance(commands, Iterable):
        return list(commands)
    raise ValueError(f"{commands!r:.99} is no list of commands: give several, such as [Command(...), Command(...)]")


@dataclass(frozen=True, slots=True)
class ReadDetail:
    """The answer to a query, and as of when it is true."""

    value: Any
    """What the state machine answered; None for a barrier."""
    applied: int
    """The index of the last log entry that the answering node had applied."""
    stale_ms: int
    """What was committed so many milliseconds before the node made the answer, or earlier, is in it.

    0 unless the consistency is ``stale``; 2**53 while the node knows nothing, as after its start. The answer's way to
    the client and the error of the node's clock, which counts them, come on top.
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
            "commands",
            "pending",
            "query",
            "barrier_query",
            "reload_query",
            "status_query",
            "locate_query",
            "members_query",
            "change_query",
            "transfer_query",
            "change_steps",
            "transfer_steps",
            "backup",
            "cluster_info",
            "endpoint_name",
            "carry_out",
            "step",
            "lease_driver",
            "watch_client",
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
        credentials: Credentials | None = None,
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
            endpoints,
            cluster=cluster_id,
            settings=settings,
            port=port,
            deliver=deliver,
            follow=follow,
            prefer=prefer,
            credentials=credentials,
        )
        # The driver does not know this object, so that one that is dropped without `close` takes its thread with it.
        weakref.finalize(self, self.driver.let_go).atexit = False
        if self.begins_at_once:
            self.driver.begin()

    @classmethod
    def from_config(cls, file: str | Path, **others: Any) -> Self:
        """Return a client as its configuration file has it.

        Args:
            file: the file, see `forge_consensus.config.client_file`; ``init --secure`` writes such files.
            others: arguments of the class, which win over what the file says.

        Raises `InvalidConfigError` for a file that cannot be used, with the field, and for key files that others may
        read.

        """
        found = read_client_file(file)
        given = {"timeout": found.timeout, "cluster_id": found.cluster_id, "credentials": credentials_of(found)}
        return cls(**{"endpoints": list(found.endpoints), **given, **others})

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
        return self.pending(command, time.monotonic() + self.timeout if timeout is None else self.deadline(timeout))

    def commands(self, commands: Sequence[Command], deadline: float, first: int = 0) -> list[Pending[Any]]:
        """The calls that carry out these commands until the monotonic time `deadline`, not yet handed over.

        Raises what `command` raises, with the number of the command: that of the first one is `first`.
        """
        pending, made = self.pending, list[Pending[Any]]()
        try:
            for command in commands:
                made.append(pending(command, deadline))
        except (ValueError, CommandTooLargeError) as error:
            kind = CommandTooLargeError if isinstance(error, CommandTooLargeError) else ValueError
            raise kind(f"command {first + len(made)} of the list, counted from 0: {error}; none was sent") from error
        return made

    def pending(self, command: Command, deadline: float) -> Pending[Any]:
        """The call that carries out a command until a monotonic time, not yet handed over. Raises as `command` does.

        The command gets a correlation id if it has none and is to have one.
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
        pending: Pending[Any] = Pending(payload, deadline)
        if command.type.startswith(RESERVED):
            pending.asked_by = ASKED_BY.get()
        return pending

    def barrier_query(self, route: Route, timeout: float | None) -> PendingRead[None]:
        """The call that asks nothing and is answered as a query of that route is, not yet handed over."""
        return PendingRead(BARRIER, self.deadline(timeout), route)

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

    def reload_query(self, endpoint: str, timeout: float | None, *, dry_run: bool) -> PendingNodeQuery[dict[str, Any]]:
        """The call that has a node read its configuration again. Raises `InvalidConfigError` for no address."""
        return PendingNodeQuery(ReloadConfig(dry_run), self.endpoint_name(endpoint), self.deadline(timeout))

    def endpoint_name(self, endpoint: str | None) -> str:
        """The name of an endpoint in its one spelling, "" for any. Raises `InvalidConfigError` for no address."""
        return "" if endpoint is None else endpoint if endpoint in {"", LOCAL} else parse_endpoint(endpoint)

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

    def change_steps(
        self,
        changes: Sequence[Change],
        timeout: float | None,
        *,
        force: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        patience: float | None = None,
        progress: Callable[[ClusterMembers], object] | None = None,
    ) -> Steps[MembersPlan]:
        """The steps of a change of members; `progress` gets the members at each look while it waits.

        `patience` is how many seconds to wait for a change that is begun, None for those that are left of `timeout`.
        """
        deadline = self.deadline(timeout)
        plan = MembersPlan.of((yield self.change_query(changes, timeout, force=force, dry_run=dry_run)))
        if wait:
            yield from until_done(plan, deadline if patience is None else self.deadline(patience), progress)
        return plan

    def transfer_steps(
        self,
        target: str,
        timeout: float | None,
        *,
        wait: bool,
        progress: Callable[[str], object] | None = None,
    ) -> Steps[str | None]:
        """The steps of handing the leadership over; `progress` gets the target at each look while it waits."""
        deadline = self.deadline(timeout)
        started = yield self.transfer_query(target, timeout)
        return (yield from until_transferred(started, target, deadline, progress)) if wait else None

    def backup(self, timeout: float | None) -> Backup:
        """The steps of backups, imported late, because few programs need them and all would wait for it."""
        from forge_consensus.client.backup import Backup

        return Backup(self.deadline, timeout)

    def cluster_info(self, status: dict[str, Any]) -> ClusterInfo:
        """The cluster as a node's status tells it, imported late for the same reason."""
        from forge_consensus.actors.runtime.status import NodeStatus
        from forge_consensus.client.cluster_info import cluster_of

        return cluster_of(NodeStatus.from_dict(status))
