"""The client of a simulation that is moved by hand: one command at a time, in a session, through real frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import OpenSession, Refused, Request, Results, SessionOpened, Submit
from forge_consensus.client.outcome import refused_error, result_error, retried
from forge_consensus.errors import (
    ConsensusError,
    ConsensusTimeoutError,
    NoLeaderError,
    OutcomeUnknownError,
    SessionExpiredError,
)
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.machines.sessions import TTL_MS_MAX
from forge_consensus.testing.simulator.client import FRAME_BYTES_MAX
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection

PATIENCE_S: Final = 0.5
"""What has no answer for so long is sent again, at pace 1; in its session that is safe."""
PAUSE_S: Final = 0.05

Advance = Callable[[float, Callable[[], bool]], bool]
"""Lets virtual time pass, until something is so."""


class HandClient:
    """A party of the network that asks, lets time pass until there is an answer, and gives it back or raises it."""

    def __init__(self, cluster: SimulatedCluster, advance: Advance, pace: float) -> None:
        self.cluster = cluster
        self.advance = advance
        self.pace = pace
        self.name = "by hand"
        self.alive = True
        self.session = 0
        self.number = 0
        """Of the last command."""
        self.request = 0
        self.answer: SessionOpened | Results | Refused | None = None
        """To the last request."""
        self.unknown = False
        """Whether the present command was sent and may have been carried out."""

    def submit(self, command: Command, target: Callable[[], str | None], timeout: float, *, follows: bool) -> Any:
        """Have a command applied; `target` names whom to ask now, if there is anybody.

        With `follows` a refusal that may pass is no end: whoever is named next is asked. Returns the result. Raises
        the error of the answer, and after so many virtual seconds one that says what is known.
        """
        end = self.cluster.timeline.now + timeout
        data = command.encode()
        self.number += 1
        self.unknown = False
        refusal: ConsensusError | None = None
        while (left := end - self.cluster.timeline.now) > 0:
            name = target()
            if name is None:
                self.advance(min(left, PAUSE_S * self.pace), lambda: target() is not None)
                continue
            answer = self.ask(name, data, min(left, PATIENCE_S * self.pace))
            if isinstance(answer, Results):
                return self.result(answer)
            if isinstance(answer, SessionOpened):
                self.session = answer.session
            elif isinstance(answer, Refused):
                refusal = refused_error(answer, outcome_unknown=self.unknown)
                if not (follows and retried(answer.code)):
                    raise refusal
                self.advance(min(left, PAUSE_S * self.pace), lambda: False)
        raise self.late(timeout, refusal)

    def ask(self, target: str, data: bytes, seconds: float) -> SessionOpened | Results | Refused | None:
        """Send the command, or first ask for a session for it; returns the answer, None if none comes in time."""
        message: Request = OpenSession(TTL_MS_MAX)
        if self.session:
            message = Submit(self.session, self.number, ((self.number, data),))
        self.request += 1
        self.answer = None
        frame = Frame("gateway", "", "", "", 0, 0, self.request, 0, message)
        self.cluster.network.ask(Connection(self, target), encode(frame))
        self.advance(seconds, lambda: self.answer is not None)
        if isinstance(message, Submit) and (self.answer is None or is_unknown(self.answer)):
            self.unknown = True
        return self.answer

    def result(self, answer: Results) -> Any:
        """What came of the command. Raises its error."""
        code, payload = next((code, payload) for number, code, payload in answer.items if number == self.number)
        if code == SessionExpiredError.code:
            self.session = 0  # the next command begins another
        if code:
            raise result_error(code, payload)
        return msgpack.unpackb(payload)

    def late(self, timeout: float, refusal: ConsensusError | None) -> ConsensusError:
        """The error of a command that was not done in time."""
        said = f"; the last answer was {type(refusal).__name__}: {refusal}" if refusal is not None else ""
        if self.unknown:
            return OutcomeUnknownError(
                f"no answer in {timeout:g} virtual seconds: the command may have been or may still be carried out{said}"
            )
        if self.cluster.leader() is None:
            return NoLeaderError(f"nobody leads after {timeout:g} virtual seconds, nothing was done{said}")
        return ConsensusTimeoutError(f"no answer in {timeout:g} virtual seconds, nothing was done{said}")

    # --- the network's party -----------------------------------------------------------------------------------------

    def linked(self, node: str, stands: bool) -> None:
        """It is not told of connections."""

    def take(self, data: bytes, connection: Any) -> None:
        """An answer: that to the last request, or the result of the present command, whenever that was asked for."""
        frame = decode(data, FRAME_BYTES_MAX)
        message = frame.message
        if isinstance(message, Results):
            ours = message.session == self.session and any(number == self.number for number, _, _ in message.items)
            self.answer = message if ours else self.answer
        elif isinstance(message, SessionOpened | Refused) and frame.request == self.request:
            self.answer = self.answer or message


def is_unknown(answer: SessionOpened | Results | Refused) -> bool:
    """Whether a node says that it does not know what became of the command."""
    return isinstance(answer, Refused) and answer.code == OutcomeUnknownError.code
