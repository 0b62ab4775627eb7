"""Leadership: run something only while this node leads, built on the events that tell when it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

from loguru import logger

from forge_consensus.errors import ConsensusError, ConsensusTimeoutError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    ConsensusEvent,
    LeaderStepDown,
    NodeStopped,
)

LOOK_S = 0.25
"""How often who holds a lead asks besides: a node that died tells no events."""
ENDS = (LeaderStepDown, BecameFollower, BecameCandidate, NodeStopped)


class Leads(Protocol):
    """What is asked of a service (`ConsensusService` has it)."""

    bus: EventBus

    def is_leader(self) -> bool:
        """Whether its node leads now."""

    def get_term(self) -> int:
        """The term that it is in."""


class Lead:
    """One term's leadership of this node; worth as much as the news of its end.

    Another node may lead before this one hears of it. So what must not be done by two is done through the cluster, or
    carries `term`, a number that grows with every leader, and is refused where a higher one was seen.
    """

    def __init__(self, service: Leads, term: int) -> None:
        self.service = service
        self.term = term
        self.lost = threading.Event()
        """Set when it has ended."""

    def __bool__(self) -> bool:
        """Whether it lasts, as far as is known."""
        return not self.lost.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep so long, or until the lead is lost; returns whether it lasts."""
        end = time.monotonic() + seconds
        while not self.lost.wait(max(0.0, min(LOOK_S, end - time.monotonic()))):
            if not leads(self.service):
                self.lost.set()
            elif time.monotonic() >= end:
                return True
        return False


def leads(service: Leads) -> bool:
    """Whether the service's node leads; no if it has ended."""
    try:
        return service.is_leader()
    except ConsensusError:
        return False


class Leadership:
    """Follows whether a service's node leads; a context manager."""

    def __init__(self, service: Leads) -> None:
        self.service = service
        self.change = threading.Condition()
        self.lead: Lead | None = None
        self.news = 0
        self.subscriptions = ExitStack()

    def __enter__(self) -> Self:
        """Begin to follow."""
        bus = self.service.bus
        # Inline: a lead shall end with the turn that ends it, not when some queue comes to it.
        self.subscriptions.enter_context(bus.subscribe(BecameLeader, self.began, inline=True))
        for kind in ENDS:
            self.subscriptions.enter_context(bus.subscribe(kind, self.ended, inline=True))
        news = self.news
        term = self.service.get_term() if leads(self.service) else 0
        with self.change:
            if term and news == self.news:
                self.begin(term)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, and the lead with it."""
        self.subscriptions.close()
        with self.change:
            self.end()

    def began(self, event: BecameLeader) -> None:
        """The node leads."""
        with self.change:
            self.news += 1
            self.begin(event.term)

    def ended(self, event: ConsensusEvent) -> None:
        """The node does not lead."""
        with self.change:
            self.news += 1
            self.end()

    def begin(self, term: int) -> None:
        """There is a lead, under the lock."""
        self.end()
        self.lead = Lead(self.service, term)
        self.change.notify_all()

    def end(self) -> None:
        """There is none, under the lock."""
        if self.lead is not None:
            self.lead.lost.set()
            self.lead = None

    def wait(self, timeout: float | None = None) -> Lead | None:
        """The lead, as soon as there is one; None after `timeout` seconds."""
        with self.change:
            self.change.wait_for(lambda: self.lead, timeout)
            return self.lead


@contextmanager
def while_leader(service: Leads, timeout: float | None = None) -> Iterator[Lead]:
    """Wait until the service's node leads, then run the body, which looks at its `Lead`.

    Nothing can stop a body from outside: it is to ask ``while lead.wait(1.0): ...`` between its steps. Raises
    `ConsensusTimeoutError` after `timeout` seconds without leading.
    """
    with Leadership(service) as leadership:
        lead = leadership.wait(timeout)
        if lead is None:
            raise ConsensusTimeoutError(f"this node did not come to lead within {timeout:g} s")
        yield lead


class LeaderTask:
    """Calls `work(lead)` on a thread of its own each time the service's node comes to lead; a context manager.

    The work is to return soon after its lead is lost. One that raises is logged and called again with the next lead;
    so is one that returns early.
    """

    def __init__(self, service: Leads, work: Callable[[Lead], object]) -> None:
        self.leadership = Leadership(service)
        self.work = work
        self.closing = False
        self.thread = threading.Thread(target=self.run, name="forge-leader-task", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self.leadership.__enter__()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the lead and wait for the work."""
        self.closing = True
        self.leadership.__exit__(kind, error, traceback)
        self.thread.join(5.0)

    def run(self) -> None:
        """The thread."""
        while not self.closing:
            lead = self.leadership.wait(LOOK_S)
            if lead is None:
                continue
            try:
                self.work(lead)
            except Exception:
                logger.exception("the work of a leader of term {} failed", lead.term)
            while lead.wait(LOOK_S):
                pass
