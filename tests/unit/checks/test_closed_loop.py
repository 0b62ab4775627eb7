"""The closed loop: never more calls under way than it was told, and each is counted once, whatever becomes of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.client.pending import Pending
from forge_consensus.errors import BusyError, ConsensusError, ConsensusTimeoutError, NoLeaderError

SOON = 30.0


class Server:
    """Answers calls when a later one begins, so that as many as possible are under way."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.open: list[Pending[Any]] = []
        self.most = 0
        self.refuse = False

    def begin(self, number: int) -> Pending[Any]:
        if self.refuse:
            raise BusyError("full")
        pending = Pending[Any](b"", time.monotonic() + SOON)
        self.open.append(pending)
        self.most = max(self.most, len(self.open))
        while len(self.open) > self.behind:
            self.answer()
        return pending

    def answer(self, error: ConsensusError | None = None) -> None:
        pending = self.open.pop(0)
        pending.error = error
        pending.finish()


@pytest.mark.parametrize("outstanding", [1, 7])
def test_as_many_calls_are_under_way_as_were_asked_for(outstanding: int) -> None:
    server = Server(outstanding - 1)
    loop = ClosedLoop(server.begin, outstanding)
    server.behind = outstanding
    for _ in range(outstanding):
        loop.begin_one()
    assert (server.most, len(loop.open), loop.took) == (outstanding, outstanding, [])
    server.behind = 0
    while server.open:
        server.answer()
    took = loop.run(0.02)
    assert took >= 0.02
    assert len(loop.took) == loop.begun > outstanding
    assert (loop.failures, len(loop.open)) == ({}, 0)


def test_a_call_takes_until_its_answer_and_not_until_others_began() -> None:
    server = Server(1)
    loop = ClosedLoop(server.begin, 2)
    loop.begin_one()
    time.sleep(0.02)
    server.answer()
    loop.end_one()
    assert 0.02 <= loop.took[0] < SOON


def test_calls_that_fail_or_cannot_begin_are_counted_by_their_codes_and_not_as_work_done() -> None:
    server = Server(1)
    loop = ClosedLoop(server.begin, 3)
    loop.begin_one()
    server.answer(NoLeaderError())
    server.refuse = True
    loop.begin_one()
    silent = Pending[Any](b"", time.monotonic() - SOON)  # its client never says what became of it
    loop.open.append((time.perf_counter(), silent))
    while loop.open:
        loop.end_one()
    assert loop.failures == {NoLeaderError.code: 1, BusyError.code: 1, ConsensusTimeoutError.code: 1}
    assert loop.took == []


def test_an_interruption_waits_for_the_answers_of_what_is_under_way() -> None:
    server = Server(0)

    def begin(number: int) -> Pending[Any]:
        if number == 3:
            raise KeyboardInterrupt
        return server.begin(number)

    loop = ClosedLoop(begin, 10)
    with pytest.raises(KeyboardInterrupt):
        loop.run(SOON)
    assert (len(loop.took), len(loop.open)) == (3, 0)
