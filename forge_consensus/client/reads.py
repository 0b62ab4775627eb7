"""Reads: queries by consistency, a lane for each; they change nothing and may be asked again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from forge_consensus.actors.messages import CONSISTENCIES, STALE, Read, ReadResults
from forge_consensus.client.endpoints import Directory, Endpoint
from forge_consensus.client.outcome import result_error
from forge_consensus.client.pending import PendingRead
from forge_consensus.client.request_window import RequestWindow


class Reads:
    """The queries that are not answered yet.

    Stale ones go to the nearest endpoint, all others to the leader.
    """

    def __init__(self, directory: Directory, prefer: str, lane: Callable[[Iterator[int]], RequestWindow[Any]]) -> None:
        self.directory = directory
        self.prefer = prefer
        """The endpoint that answers stale reads, if it is connected."""
        numbers = itertools.count(1)
        self.lanes: dict[str, RequestWindow[PendingRead[Any]]] = {name: lane(numbers) for name in CONSISTENCIES}
        self.stale = self.lanes[STALE]
        self.strict = [lane for name, lane in self.lanes.items() if name != STALE]
        self.asked = ""
        self.avoid = ""
        """The endpoint that left a stale read without an answer."""

    def __bool__(self) -> bool:
        """Whether any query is unanswered."""
        return any(self.lanes.values())

    def results(self, message: ReadResults) -> list[PendingRead[Any]]:
        """The queries that this answers."""
        answered = []
        for number, code, payload in message.items:
            for lane in self.lanes.values():
                pending = lane.drop(number)
                if pending is None:
                    continue
                lane.answered_sent_at = pending.sent_at
                pending.applied, pending.stale_ms = message.applied, message.stale_ms
                if code:
                    pending.error = result_error(code, payload)
                else:
                    pending.answer = payload
                answered.append(pending)
                break
        return answered

    def start_over(self) -> None:
        """There is a new leader, or a new connection to it."""
        for lane in self.strict:
            lane.resend_all()

    def resend_overdue(self, now: float, silence_s: float, plain_s: float, passed_s: float) -> None:
        """Mark what was lost; an endpoint that leaves stale reads unanswered is avoided."""
        for lane in self.strict:
            lane.resend_overdue(now, plain_s, passed_s)
        if self.stale.resend_overdue(now, silence_s, passed_s):
            self.avoid = self.asked

    def expired(self, now: float) -> list[PendingRead[Any]]:
        """Take out what is late."""
        return [pending for lane in self.lanes.values() for pending in lane.expired(now)]

    def clear(self) -> list[PendingRead[Any]]:
        """Take out everything."""
        return [pending for lane in self.lanes.values() for pending in lane.clear()]

    def earliest(self) -> float:
        """No deadline is earlier."""
        return min(lane.earliest for lane in self.lanes.values())

    def first_sent_at(self) -> float:
        """Since when the leader owes an answer; infinity if it owes none."""
        return min((lane.first_sent_at() for lane in self.strict), default=inf)

    def nearest(self) -> Endpoint | None:
        """Who answers what anyone may: the preferred endpoint, the leader, or any connected."""
        connected = [one for one in self.directory.connected() if one.name != self.avoid]
        if not connected:
            connected = self.directory.connected()
        leader = self.directory.leader
        for wanted in (self.prefer, leader.name if leader is not None else ""):
            for endpoint in connected:
                if endpoint.name == wanted:
                    return endpoint
        return connected[0] if connected else None

    def outgoing(self, now: float, leader: Endpoint | None, requests: Iterator[int]) -> Iterator[tuple[str, Read, int]]:
        """The frames to send now; those for the leader only if there is one that may be asked."""
        for consistency, lane in self.lanes.items():
            if not lane.sendable():
                continue
            target = self.nearest() if lane is self.stale else leader
            if target is None:
                continue
            if lane is self.stale:
                self.asked = target.name
            while lane.sendable():
                request = next(requests)
                yield target.name, Read(consistency, lane.pack(target.name, request, now)), request
