"""Running something only while this node leads, built on the events that say when it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError, ConsensusTimeoutError, InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    ConsensusEvent,
    LeaderStepDown,
    NodeStopped,
)
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch, Waiters

LINES = LogLines(__name__)

LOOK_SECONDS = 0.25
"""How often the holder of a lead asks the node as well, because a node that died publishes no event."""
ENDS = (LeaderStepDown, BecameFollower, BecameCandidate, NodeStopped)


class Leads(Protocol):
    """What is needed of a service; `ConsensusService` has it."""

    bus: EventBus

    def is_leader(self) -> bool:
        """Whether its node leads now."""

    def get_term(self) -> int:
        """The term that it is in."""


class Lead:
    """The leadership of this node in one term, as far as this process knows.

    Another node may lead before this one learns of it. What two leaders must not both do therefore goes through the
    cluster, or carries `term`, which grows with every leader, to a receiver that refuses lower terms than it has seen.
    """

    def __init__(self, service: Leads, term: int) -> None:
        self.service = service
        self.term = term
        self.lost = Latch()
        """Set when the leadership has ended."""

    def __bool__(self) -> bool:
        """Whether the leadership lasts, as far as is known."""
        return not self.lost.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep so many seconds, or until the lead is lost; return whether it lasts."""
        end = time.monotonic() + seconds
        while not self.lost.wait(max(0.0, min(LOOK_SECONDS, end - time.monotonic()))):
            if not leads(self.service):
                self.lost.set()
            elif time.monotonic() >= end:
                return True
        return False


def leads(service: Leads) -> bool:
    """Whether the service's node leads; False if it has ended."""
    try:
        return service.is_leader()
    except ConsensusError:
        return False


class Leadership:
    """Keeps track of whether a service's node leads; a context manager.

    Events come on the node's thread, which must not wait: a signal handler may have interrupted whoever waits here, and
    may be stopping the node. So there is no lock. The node's thread alone writes `lead` and `news`, and `first`, what
    was asked at the beginning, counts only while there are no news.
    """

    def __init__(self, service: Leads) -> None:
        self.service = service
        self.waiters = Waiters()
        self.lead: Lead | None = None
        self.first: Lead | None = None
        self.news = 0
        self.over = False
        self.subscriptions = ExitStack()

    def __enter__(self) -> Self:
        """Listen from now on to when this node leads and when that ends."""
        bus = self.service.bus
        # Inline, so that a lead ends with the turn that ends it, and not when a queue of events is read.
        self.subscriptions.enter_context(bus.subscribe(BecameLeader, self.began, inline=True))
        for kind in ENDS:
            self.subscriptions.enter_context(bus.subscribe(kind, self.ended, inline=True))
        term = self.service.get_term() if leads(self.service) else 0
        if term:
            self.first = Lead(self.service, term)
            self.waiters.wake()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the lead, and keep track no more."""
        self.over = True
        self.subscriptions.close()
        self.end()
        self.waiters.wake()

    def began(self, event: BecameLeader) -> None:
        """Note that the node leads."""
        self.news += 1
        self.end()
        self.lead = Lead(self.service, event.term)
        if self.over:
            self.lead.lost.set()
        self.waiters.wake()

    def ended(self, event: ConsensusEvent) -> None:
        """Note that the node does not lead."""
        self.news += 1
        self.end()
        self.lead = None

    def end(self) -> None:
        """Tell those who hold the lead that it is lost."""
        for lead in (self.lead, self.first):
            if lead is not None:
                lead.lost.set()

    def current(self) -> Lead | None:
        """The lead, if there is one."""
        if self.over:
            return None
        first = self.first  # before the news: what comes later ends it
        return self.lead if self.news else first

    def wait(self, timeout: float | None = None) -> Lead | None:
        """Return the lead as soon as there is one; None after `timeout` seconds."""
        return self.waiters.wait_for(self.current, timeout)


def check_patience(timeout: object) -> None:
    """Raise `InvalidConfigError` for what is no time to wait for the lead."""
    if callable(timeout):
        raise InvalidConfigError(
            "while_leader(service) takes no function to call: write `with while_leader(service) as lead:` around the "
            "work, or have it called by LeaderTask(service, work), on a thread of its own"
        )
    if timeout is not None and not isinstance(timeout, int | float):
        raise InvalidConfigError(f"timeout is {timeout!r}: expected seconds, or None to wait without limit")


def while_leader(service: Leads, timeout: float | None = None) -> AbstractContextManager[Lead]:
    """Wait until the service's node leads, then run the body with its `Lead`.

    Nothing can stop the body from outside: between its steps it must ask, ``while lead.wait(1.0): ...``. Raises
    `ConsensusTimeoutError` after `timeout` seconds without leading, `InvalidConfigError` for a timeout that is none,
    such as a function: `LeaderTask` calls one.
    """
    check_patience(timeout)  # here, so that a call without `with` is refused too
    return leading(service, timeout)


@contextmanager
def leading(service: Leads, timeout: float | None) -> Iterator[Lead]:
    """Yield the lead, as `while_leader` says."""
    with Leadership(service) as leadership:
        lead = leadership.wait(timeout)
        if lead is None:
            raise ConsensusTimeoutError(f"this node did not come to lead within {timeout:g} s")
        yield lead


class LeaderTask(PublicSurface):
    """Calls `work(lead)` on a thread of its own each time the service's node comes to lead; a context manager.

    The work must return soon after its lead is lost. Work that raises is logged; after that, and after it returned
    early, it is called again with the next lead.
    """

    internal = frozenset({"internal", "leadership", "work", "closing", "thread", "run"})

    def __repr__(self) -> str:
        """What is called, for which service, and whether it leads now."""
        lead = self.leadership.current()
        state = "closed" if self.closing else "not leading" if lead is None else f"leading in term {lead.term}"
        return f"<LeaderTask {getattr(self.work, '__qualname__', self.work)!r} of {self.leadership.service!r} {state}>"

    def __init__(self, service: Leads, work: Callable[[Lead], object]) -> None:
        self.leadership = Leadership(service)
        self.work = work
        self.closing = False
        self.thread = ForgeThread(target=self.run, name="forge-leader-task")

    def __enter__(self) -> Self:
        """Start the thread; the work begins as soon as this node leads."""
        self.leadership.__enter__()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the lead and wait for the work to return."""
        self.closing = True
        self.leadership.__exit__(kind, error, traceback)
        self.thread.join(5.0)

    def run(self) -> None:
        """Call the work with each lead; the body of the thread."""
        while not self.closing:
            lead = self.leadership.wait(LOOK_SECONDS)
            if lead is None:
                continue
            try:
                self.work(lead)
            except Exception as error:
                LINES.error("the work of a leader of term {} failed", lead.term, error=error)
            while lead.wait(LOOK_SECONDS):
                pass
