"""What a caller waits for: one command, query or node query, as a future of its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar, cast

from forge_consensus.actors.messages import (
    ChangeMembers,
    ConfigReport,
    EventPage,
    GetMembers,
    GetStatus,
    ListSnapshots,
    Locate,
    Located,
    LogPage,
    MakeSnapshot,
    Members,
    MembersPlanned,
    ReadEvents,
    ReadLog,
    ReadSnapshot,
    Refused,
    ReloadConfig,
    SnapshotList,
    SnapshotMade,
    SnapshotPart,
    Status,
    TransferLeadership,
    TransferStarted,
)
from forge_consensus.client.asked_by import ASKED_BY, AskedBy
from forge_consensus.client.routes import Route
from forge_consensus.errors import (
    CommandError,
    ConsensusError,
    ConsensusTimeoutError,
    NotStartedError,
    OutcomeUnknownError,
    fresh,
)
from forge_consensus.process.green import FOREVER_SECONDS, taken_lock
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.correlation import correlation_of
from forge_consensus.storage.unpacking import unpack

LINES = LogLines(__name__)

DRIVER_GRACE_SECONDS = 1.0
"""How much later than its deadline a blocked caller stops waiting for the driver."""

READABLE: Final = "let the state machine return maps whose keys are texts, bytes, numbers, booleans or None"

DEFAULT_ROUTE: Final = Route()
BARRIER: Final = b""
"""The query that asks the state machine nothing, so that only the index of its state is answered."""
T = TypeVar("T")
NodeRequest = (
    GetStatus
    | Locate
    | GetMembers
    | ChangeMembers
    | TransferLeadership
    | MakeSnapshot
    | ReadSnapshot
    | ListSnapshots
    | ReadEvents
    | ReadLog
    | ReloadConfig
)
NodeAnswer = (
    Status
    | Located
    | Members
    | MembersPlanned
    | TransferStarted
    | SnapshotMade
    | SnapshotPart
    | SnapshotList
    | EventPage
    | LogPage
    | ConfigReport
)
CHANGES: Final = (ChangeMembers, TransferLeadership)
"""The requests that change something; only the leader can carry them out."""
ACTS: Final = (*CHANGES, MakeSnapshot, ReadSnapshot, ReadLog, ReloadConfig)
"""The requests that nodes record in their audit, with whom they are made for."""


class Pending(Generic[T]):
    """The future of one call's outcome.

    Only the driver's thread writes to it until it is `done`; any thread can wait for it. There is no lock per call: a
    waiter puts a callback into a list and then looks once more whether the call is done; whoever takes a callback out
    of the list runs it.
    """

    __slots__ = (
        "answer",
        "applied",
        "asked_by",
        "callbacks",
        "deadline",
        "error",
        "finished",
        "number",
        "payload",
        "refusal",
        "sends",
        "sent_at",
    )

    def __init__(self, payload: bytes, deadline: float) -> None:
        self.payload = payload
        self.deadline = deadline
        """Seconds of the monotonic clock."""
        self.number = 0
        """The sequence number of a command, or the number of a query; 0 until it is sent for the first time."""
        self.sends = 0
        """How many frames with it were sent that are not proven to have had no effect."""
        self.sent_at = 0.0
        self.refusal: Refused | None = None
        """The last refusal."""
        self.applied = 0
        """The index of the newest log entry that was applied when the outcome was made, at or behind that of a command:
        a read with it as `after_index` sees what the command did. 0 if the outcome does not say."""
        self.asked_by: AskedBy | None = None
        """For whom an administrator's command is sent; None for the client itself."""
        self.answer: Any = None
        self.error: ConsensusError | None = None
        self.finished = False
        self.callbacks: list[Callable[[], object]] = []

    def value(self) -> T:
        """The result, decoded.

        Raises `CommandError` for one that the machine's node could encode and nobody can decode.
        """
        try:
            value: T = unpack(self.answer)
        except Exception as error:  # msgpack raises a family of its own, ValueError, and more for deep nesting
            text = f"what was asked is done, but its result cannot be decoded ({error}): {READABLE}"
            raise CommandError(type(error).__name__, text) from error
        return value

    @property
    def correlation_id(self) -> str | None:
        """The correlation id that the command carries, None without one."""
        return correlation_of(self.payload) if type(self) is Pending else None

    def finish(self) -> None:
        """Note that the outcome is known (`answer` or `error` is set), and run the callbacks."""
        self.finished = True
        while self.callbacks:
            self.run_one()

    def run_one(self) -> None:
        """Run one callback, if no other thread took it."""
        try:
            callback = self.callbacks.pop(0)
        except IndexError:
            return
        try:
            callback()
        except Exception as error:
            LINES.error("a callback of a command failed", error=error)

    def disown(self, reason: str) -> None:
        """End the call in a forked child of the process that made it; callbacks belong to that process."""
        self.error = (OutcomeUnknownError if type(self) is Pending else NotStartedError)(reason)
        self.callbacks = []
        self.finished = True

    def done(self) -> bool:
        """Whether the outcome is known, be it a result or an error."""
        return self.finished

    def add_done_callback(self, callback: Callable[[Pending[T]], object]) -> None:
        """Call `callback(self)` once when done: on the driver's thread, or here if it is already.

        It must be short and must not wait for the client. What it raises is logged.
        """
        self.callbacks.append(lambda: callback(self))
        if self.finished:
            self.run_one()

    def wait(self, timeout: float | None = None) -> bool:
        """Block up to `timeout` seconds, None for ever; returns whether the outcome is known."""
        if self.finished:
            return True
        lock = taken_lock()
        self.callbacks.append(lock.release)
        if self.finished:
            return True
        return lock.acquire(timeout=FOREVER_SECONDS if timeout is None else max(timeout, 0.0))

    def exception(self, timeout: float | None = None) -> ConsensusError | None:
        """The error it ended with, None for a result.

        Raises `ConsensusTimeoutError` if it is not done within `timeout` seconds; by default as
        long as its own deadline allows.
        """
        if not self.finished:
            self.wait_for_outcome(timeout)
        return self.error

    def result(self, timeout: float | None = None) -> T:
        """The machine's value; raises the error it ended with, or as `exception` does."""
        if not self.finished:
            self.wait_for_outcome(timeout)
        if self.error is not None:
            raise fresh(self.error)
        return self.value()

    def wait_for_outcome(self, timeout: float | None) -> None:
        """Wait as `exception` does. Raises `ConsensusTimeoutError`."""
        if timeout is None:
            timeout = self.deadline - time.monotonic() + DRIVER_GRACE_SECONDS
        if not self.wait(timeout):
            late = ConsensusTimeoutError(
                "the answer is still outstanding: the wait was shorter than its own deadline; wait for it again"
            )
            late.retryable = False  # it may be carried out yet
            raise late


class PendingRead(Pending[T]):
    """The future of a query's answer; `applied` and `stale_ms` tell as of when it is true (see `ReadDetail`)."""

    __slots__ = ("route", "stale_ms", "turned_away")

    def __init__(self, payload: bytes, deadline: float, route: Route = DEFAULT_ROUTE) -> None:
        super().__init__(payload, deadline)
        self.route = route
        self.stale_ms = 0
        self.turned_away = 0
        """How many nodes refused it because they could not answer it then."""


class PendingNodeQuery(Pending[T]):
    """The future of the answer to a `NodeRequest`: what a node tells of itself, its cluster, snapshots or events."""

    __slots__ = ("again_at", "asked", "endpoint", "message")

    def __init__(self, message: NodeRequest, endpoint: str, deadline: float) -> None:
        super().__init__(b"", deadline)
        asker = ASKED_BY.get()
        if asker is not None and isinstance(message, ACTS):
            message = replace(message, asked_by=tuple(asker))
        self.message = message
        self.endpoint = endpoint
        """The endpoint to ask, "" for any, or for the leader if only it can answer."""
        self.asked = ""
        self.again_at = 0.0

    @property
    def once(self) -> bool:
        """Whether it changes something, so that it is not asked again unless it certainly did nothing."""
        return isinstance(self.message, CHANGES)

    def value(self) -> T:
        """The fields of a `Status` or a `ConfigReport`, or the answer itself."""
        answer: NodeAnswer = self.answer
        return cast("T", answer.fields if isinstance(answer, Status | ConfigReport) else answer)
